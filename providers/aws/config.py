"""What can be set about an aws provider."""

import re
from collections import Counter
from ipaddress import ip_network
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from providers.model import Architecture, Value
from providers.secret import SecretSource

AL2023 = "ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default"
FLEET_OVERRIDES_MAX = 300  # of one CreateFleet (its quota: launch templates x overrides)
LAUNCH_BATCH_MAX = 100
TAGS_MAX = 15  # of the user; a resource has 50 at most, and ours need the rest

_GLOBS = ("t3.medium", "t3.large", "t3.xlarge", "t4g.*large", "c7i.*", "m7i.*", "r7i.*", "c7g.*", "m7g.*",
          "g4dn.*", "g5.*", "g6.*", "p4d.*", "p5.*")  # fmt: skip


def _image(text: str) -> str:
    if not re.fullmatch(r"ami-[0-9a-f]{8,17}|ssm:/[A-Za-z0-9_./-]+", text):
        raise ValueError(f"{text!r} is no image: give ami-… or ssm:/path/of/a/parameter")
    return text


def _cidr(text: str) -> str:
    ip_network(text)
    return text


def _tag(text: str) -> str:
    if text.startswith(("aws:", "everpool")) or text == "Name":
        raise ValueError(f"{text!r}: names that begin with aws: or everpool, and Name, are not the user's")
    return text


Region = Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-\d$")]
Glob = Annotated[str, Field(pattern=r"^[a-z0-9*?.-]{1,40}$")]
Image = Annotated[str, AfterValidator(_image)]
Cidr = Annotated[str, AfterValidator(_cidr)]
Url = Annotated[str, Field(pattern=r"^https?://[^/\s]+(/\S*)?$")]
TagKey = Annotated[str, Field(min_length=1, max_length=128), AfterValidator(_tag)]
Dollars = Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)]
Service = Literal["ec2", "ssm", "sqs", "sts", "pricing", "service-quotas"]
Strategy = Literal["price-capacity-optimized", "capacity-optimized", "lowest-price", "diversified"]


class FleetConfig(Value):
    """A mix of instance types that is offered as one: aws chooses among them, and among the zones.

    Its offers have the instance type "fleet:<name>", the zone "any", the smallest shape of its types and
    the price of the dearest of them, so that no cap is broken whichever is chosen.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")]
    types: Annotated[tuple[Glob, ...], Field(min_length=1)]
    zones: tuple[str, ...] = ()  # of the provider's; empty: all
    architecture: Architecture = "x86_64"  # types of another are left out
    strategy: Strategy = "price-capacity-optimized"


class AwsConfig(Value):
    """One [providers.<name>] table of type aws. Keys are explained in config.example.toml."""

    kind: Literal["aws"] = "aws"
    regions: Annotated[tuple[Region, ...], Field(min_length=1)] = ("us-east-1",)
    zones: tuple[str, ...] = ()
    profile: str | None = None
    access_key_id: SecretSource | None = None
    secret_access_key: SecretSource | None = None
    session_token: SecretSource | None = None
    role_arn: Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/.+$")] | None = None
    role_external_id: SecretSource | None = None
    endpoint_url: Url | None = None
    endpoints: dict[Service, Url] = {}

    instance_types: Annotated[tuple[Glob, ...], Field(min_length=1)] = _GLOBS
    fleets: tuple[FleetConfig, ...] = ()
    prices: dict[str, Dollars] = {}
    spot_max_price_factor: Annotated[float, Field(ge=1, le=100)] | None = None

    ami: dict[Architecture, Image] = {"x86_64": f"{AL2023}-x86_64", "arm64": f"{AL2023}-arm64"}
    ssh_user: Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "ec2-user"
    ssh_port: Annotated[int, Field(ge=1, le=65535)] = 22
    ssh_cidr: Cidr = "0.0.0.0/0"
    private_address: bool = False
    disk_gb: Annotated[float, Field(ge=1, le=16384)] = 20
    disk_type: Literal["gp3", "gp2", "standard"] = "gp3"  # io1 and io2 need Iops, st1 and sc1 start nothing
    vpc: Annotated[str, Field(pattern=r"^vpc-[0-9a-f]+$")] | None = None
    subnets: tuple[Annotated[str, Field(pattern=r"^subnet-[0-9a-f]+$")], ...] = ()
    security_groups: tuple[Annotated[str, Field(pattern=r"^sg-[0-9a-f]+$")], ...] = ()
    iam_instance_profile: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    tags: Annotated[dict[TagKey, Annotated[str, Field(max_length=256)]], Field(max_length=TAGS_MAX)] = {}

    queues: dict[Region, Url] = {}
    rebalance: Literal["replace", "ignore"] = "replace"

    launch_batch: Annotated[int, Field(ge=1, le=LAUNCH_BATCH_MAX)] = 1
    machines_max: Annotated[int, Field(ge=1, le=100_000)] = 5000
    visible_within_s: Annotated[float, Field(ge=0, le=600)] = 30
    look_again_s: Annotated[float, Field(ge=0.02, le=60)] = 2
    read_attempts: Annotated[int, Field(ge=1, le=5)] = 3
    reads_per_s: Annotated[float, Field(gt=0, le=1000)] = 10
    writes_per_s: Annotated[float, Field(gt=0, le=1000)] = 5
    launches_per_s: Annotated[float, Field(gt=0, le=1000)] = 2
    launches_burst: Annotated[int, Field(ge=1, le=1000)] = 5

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("access_key_id and secret_access_key go together")
        if self.access_key_id is not None and self.profile is not None:
            raise ValueError("give profile or access_key_id, not both")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("session_token goes with access_key_id and secret_access_key")
        for what, names in (("region", self.regions), ("fleet", [one.name for one in self.fleets])):
            twice = [name for name, times in Counter(names).items() if times > 1]
            if twice:
                raise ValueError(f"{what} {twice[0]!r} is given twice")
        if (self.vpc or self.subnets or self.security_groups) and len(self.regions) > 1:
            raise ValueError(
                "vpc, subnets and security_groups are of one region: make a provider of each region"
            )
        if not self.ami:
            raise ValueError("ami needs an image for x86_64, arm64 or both")
        strange = set(self.queues) - set(self.regions)
        if strange:
            raise ValueError(f"queues names a region that is not in regions: {sorted(strange)[0]}")
        return self
