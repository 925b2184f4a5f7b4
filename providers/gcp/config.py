"""What can be set about a provider of type gcp."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from providers.model import Architecture, Value
from providers.secret import SecretSource

# The API's version by date: that of the discovery document that this adapter was tested against.
API_VERSION = "2026-11-01"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
BULK_MAX = 50  # machines in one bulkInsert: each one's description carries the keys of all of them

_LABEL = r"^[a-z][a-z0-9_-]{0,62}$"
_LABEL_VALUE = r"^[a-z0-9_-]{0,63}$"
_NAME = r"^[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?$"

Dollars = Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)]
Place = Annotated[str, Field(pattern=_NAME)]


def _endpoint(url: str) -> str:
    if not re.fullmatch(r"https?://[^\s?#]+", url):
        raise ValueError("is no URL such as https://compute.googleapis.com/compute/v1")
    return url.rstrip("/")


Url = Annotated[str, AfterValidator(_endpoint)]


class GcpImages(Value):
    """What a machine starts from, by its architecture: an image or an image family."""

    x86_64: str = "projects/debian-cloud/global/images/family/debian-12"
    arm64: str = "projects/debian-cloud/global/images/family/debian-12-arm64"

    def of(self, architecture: Architecture) -> str:
        """The image for an architecture."""
        return self.x86_64 if architecture == "x86_64" else self.arm64


class GcpPrice(Value):
    """Dollars an hour of one machine type, in every region; a lifecycle without one is not offered."""

    spot: Dollars | None = None
    on_demand: Dollars | None = None


class GcpConfig(Value):
    """One [providers.<name>] table of type gcp."""

    project: Annotated[
        str,
        Field(pattern=r"^(?:[-a-z0-9]{1,63}\.)*(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?:)?[a-z][-a-z0-9]{2,61}$"),
    ]
    regions: tuple[Place, ...] = ()  # all their zones
    zones: tuple[Place, ...] = ()
    key: SecretSource | None = (
        None  # a service account's key file (JSON); None: application default credentials
    )
    machine_types: tuple[Annotated[str, Field(min_length=1)], ...] = (
        "e2-standard-*",
        "e2-highcpu-*",
        "e2-highmem-*",
        "n2-standard-*",
        "n2d-standard-*",
        "c3-standard-*",
        "t2a-standard-*",
        "g2-standard-*",
    )
    source_image: GcpImages = GcpImages()
    disk_gb: Annotated[float, Field(ge=1, le=65_536)] = 20
    disk_type: Annotated[str, Field(pattern=_NAME)] | None = None  # None: what the machine type takes
    network: str = "global/networks/default"
    subnetwork: str | None = None  # a name, or regions/<region>/subnetworks/<name>
    external_ip: bool = True
    firewall: bool = True  # a rule per cluster that lets ssh in
    firewall_sources: tuple[str, ...] = ("0.0.0.0/0",)
    network_tags: tuple[Annotated[str, Field(pattern=_NAME)], ...] = ()
    service_account: str | None = None  # that machines run as; None: as nobody
    scopes: tuple[str, ...] = (SCOPE,)  # of that account
    labels: dict[Annotated[str, Field(pattern=_LABEL)], Annotated[str, Field(pattern=_LABEL_VALUE)]] = {}
    prices: dict[str, GcpPrice] = {}  # by machine type; these win over the price list
    price_list: bool = True  # ask the Cloud Billing Catalog
    ssh_user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "everpool"
    ssh_port: Annotated[int, Field(ge=1, le=65_535)] = 22
    preemption_notice_s: Annotated[int, Field(ge=1, le=600)] | None = None  # told before the soft-off
    notices_every_s: Annotated[float, Field(gt=0, le=3600)] = 15  # how often preempted operations are listed
    # Launches of a kind that share a bulkInsert. Then no machine gets a host key of ours, since each could
    # read those of all: the key that a machine shows first is pinned.
    bulk: Annotated[int, Field(ge=2, le=BULK_MAX)] | None = None
    visible_within_s: Annotated[float, Field(ge=0, le=3600)] = 30
    machines_max: Annotated[int, Field(ge=1, le=100_000)] = 1000
    requests_per_minute: Annotated[int, Field(ge=1, le=100_000)] = 900  # of reads, and as many of changes
    agent_python: str = "python3"
    api_version: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")] = API_VERSION
    base_url: Url = "https://compute.googleapis.com/compute/v1"
    resource_manager_url: Url = "https://cloudresourcemanager.googleapis.com/v1"
    billing_url: Url = "https://cloudbilling.googleapis.com/v1"
    token_url: Url | None = None  # where a key is changed for a token; None: as Google has it
    metadata_url: Url | None = None  # where machines ask for their notices; None: as Google has it

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if not self.regions and not self.zones:
            raise ValueError('say where: regions = ["us-central1"], or zones, or both')
        reserved = [name for name in self.labels if name.startswith("everpool")]
        if reserved:
            raise ValueError(f"label {reserved[0]!r}: names that begin with everpool are ours")
        if self.token_url is not None and self.key is None:
            raise ValueError("token_url goes with key")
        return self
