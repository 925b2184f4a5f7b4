"""What can be set about a vast.ai account: its key, what is searched for, what is bid, how fast we ask."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from providers.model import Value
from providers.secret import SecretSource

Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Country = Annotated[str, Field(pattern=r"^[A-Z]{2}$")]
Name = Annotated[str, Field(min_length=1, max_length=64)]

ONSTART_CHARS_MAX = 4048  # the vendor's limit for all of it [OpenAPI, "Key Quirks"]
ONSTART_OWN_CHARS = 1048  # left for what we put there ourselves
PRICE_MAX = 128.0  # dollars an hour, the highest bid [OpenAPI, createInstance.price]
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_RESERVED = "EVERPOOL_"


class RegistryLogin(Value):
    """Where the image comes from, when not everybody may pull it. The host that runs it gets the password."""

    server: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")] = "docker.io"
    username: Annotated[str, Field(pattern=r"^[^\s'\"\\]+$")]
    password: SecretSource


class VastaiConfig(Value):
    """One [providers.<name>] table of type vastai.

    Filters say what is searched for: what an empty list or None does not restrict, and minimums otherwise.

    Attributes:
        api_key: of the account, or one restricted to what is needed (see `everpool doctor`).
        base_url: of the API; another one only for tests and proxies.
        image: docker image of machines whose pool wants none; needs python3.
        python: the agent's interpreter in that image.
        disk_gb: of each machine whose pool does not say; can't be changed later, bills in every state.
        registry: login for the image's registry.
        env: in the environment of all that runs on a machine.
        onstart: shell commands that each machine runs at its start, before anything of ours.
        direct_ssh: reach machines at a port of their host where they have one; False: always by the vendor's
            ssh proxy.
        lifecycles: what to search for: on_demand, spot (bids), or both.
        gpu_names: such as "RTX_4090"; a space does as well.
        num_gpus: how many of them, such as [1, 2].
        min_vram_gb: of each GPU.
        min_vcpus, min_memory_gb: of the part of the host that one gets.
        min_inet_mbps: down and up.
        min_reliability: the vendor's score of the host, 0 to 1.
        min_days: the host's owner lets it for so long at least; after that it ends, whatever runs.
        cuda_min: highest CUDA version that the host's driver can.
        verified: only hosts that the vendor has verified.
        datacenter: only hosts in data centers.
        countries, not_countries: two capital letters each.
        max_price: dollars an hour, disk included; also the most a bid may come to.
        bid_factor: bids are so many times the lowest that would win now.
        price_slack: when the cheapest ask has gone since the offer was told, the next one is taken at up to
            so much more (0.25: a quarter).
        tries_max: asks tried for one launch, each a call.
        offers_max: asks that one search gives.
        search_every_s: offers are searched no more often; searches have a quota for the day.
        search_again_s: a market that is sold out is searched again no more often, when a launch wants it.
        create_every_s, list_every_s, destroy_every_s, other_every_s: between two calls of a kind. The vendor
            refuses what comes sooner than 4.5, 1 and 3 s apart [OpenAPI, examples]; ours leave room for what
            the network adds.
        visible_within_s: how long a new machine may be missing from listings.
        offline_after_s: a host that the vendor can't reach is taken for lost after so long.
        machines_max: at once, of this account.
    """

    api_key: SecretSource
    base_url: Annotated[str, Field(pattern=r"^https?://[^\s/?#]+(/[^\s?#]*)?$")] = "https://console.vast.ai"
    image: Annotated[str, Field(pattern=r"^[^\s]{1,512}$")] = "vastai/base-image:@vastai-automatic-tag"
    python: Annotated[str, Field(pattern=r"^[A-Za-z0-9_./-]+$")] = "python3"
    disk_gb: Annotated[float, Field(ge=1, le=65_536)] = 32
    registry: RegistryLogin | None = None
    env: dict[str, str] = {}
    onstart: Annotated[str, Field(max_length=ONSTART_CHARS_MAX - ONSTART_OWN_CHARS)] = ""
    direct_ssh: bool = True

    lifecycles: Annotated[tuple[Literal["on_demand", "spot"], ...], Field(min_length=1)] = (
        "on_demand",
        "spot",
    )
    gpu_names: tuple[Name, ...] = ()
    num_gpus: tuple[Annotated[int, Field(ge=1, le=64)], ...] = ()
    min_vram_gb: Annotated[float, Field(gt=0, le=10_000)] | None = None
    min_vcpus: Annotated[float, Field(gt=0, le=10_000)] | None = None
    min_memory_gb: Annotated[float, Field(gt=0, le=100_000)] | None = None
    min_inet_mbps: Annotated[float, Field(gt=0, le=1_000_000)] | None = None
    min_reliability: Share | None = 0.95
    min_days: Annotated[float, Field(ge=0, le=3650)] = 1
    cuda_min: Annotated[float, Field(gt=0, le=100)] | None = None
    verified: bool = True
    datacenter: bool = False
    countries: tuple[Country, ...] = ()
    not_countries: tuple[Country, ...] = ()
    max_price: Annotated[float, Field(gt=0, le=PRICE_MAX)] | None = None
    bid_factor: Annotated[float, Field(ge=1, le=100)] = 1.1
    price_slack: Annotated[float, Field(ge=0, le=10)] = 0.25
    tries_max: Annotated[int, Field(ge=1, le=20)] = 3

    offers_max: Annotated[int, Field(ge=1, le=5000)] = 500
    search_every_s: Seconds = 300
    search_again_s: Seconds = 30
    create_every_s: Seconds = 5
    list_every_s: Seconds = 1.5
    destroy_every_s: Seconds = 3.5
    other_every_s: Seconds = 2
    visible_within_s: Annotated[float, Field(ge=0, le=600)] = 10
    offline_after_s: Seconds = 180
    machines_max: Annotated[int, Field(ge=1, le=10_000)] = 100

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        for name, value in self.env.items():
            if not _VARIABLE.match(name):
                raise ValueError(f"env: {name!r} is no name of a variable")
            if name.startswith(_RESERVED):
                raise ValueError(f"env: {name!r}: names that begin with {_RESERVED} are ours")
            if "\0" in value:
                raise ValueError(f"env: {name!r} holds a zero byte")
        for name in ("lifecycles", "gpu_names", "num_gpus", "countries", "not_countries"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name}: one is given twice")
        if both := sorted(set(self.countries) & set(self.not_countries)):
            raise ValueError(f"countries and not_countries both name {', '.join(both)}")
        return self
