"""What can be set about a container provider: its engine, what it has to offer, what is in each container."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from providers.model import Value
from providers.secret import SecretSource

MACHINES_MAX = 1000
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Dollars = Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)]
Gigabytes = Annotated[float, Field(gt=0, le=100_000, allow_inf_nan=False)]
Target = Annotated[str, Field(pattern=r"^/[^:]*[^:/]$")]  # absolute, inside, and not all of it
Reference = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}$")]


class ContainerOffer(Value):
    """One kind of container in one zone; every lifecycle with a price is a market of its own.

    The engine holds each container to `vcpus` and `memory_gb` (2**30 bytes, no swap besides).
    """

    instance_type: Name = "container"
    region: Name = "local"
    zone: Name = "engine"
    vcpus: Annotated[float, Field(ge=0.01, le=4096)] = 1
    memory_gb: Annotated[float, Field(ge=0.0625, le=100_000)] = 1
    shm_gb: Gigabytes | None = None  # of /dev/shm; None: as much as the engine gives, which is little
    spot: Dollars | None = None  # dollars an hour; None: not sold so
    on_demand: Dollars | None = None
    capacity: Annotated[int, Field(ge=0)] | None = None  # containers at once in each of its markets

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if self.spot is None and self.on_demand is None:
            raise ValueError("give a price: spot, on_demand or both (0 is one)")
        return self


class Volume(Value):
    """Something of the engine's host that every container sees.

    `source`: an absolute path of the host; the name of a volume; or empty for one of the container's own that
    is removed with it. A volume of scope "engine" has to be there already and is never made or removed by us;
    one of scope "cluster" is made for each cluster, shared by its containers and removed with it.
    """

    target: Target
    source: Annotated[str, Field(pattern=r"^(|/[^:]*|[A-Za-z0-9][A-Za-z0-9._-]{0,63})$")] = ""
    scope: Literal["engine", "cluster"] = "engine"
    read_only: bool = False

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.scope == "cluster" and (not self.source or self.source.startswith("/")):
            raise ValueError('a volume of scope "cluster" needs a name as its source')
        return self


class Ulimit(Value):
    """One resource limit of what runs in a container."""

    soft: Annotated[int, Field(ge=-1)]
    hard: Annotated[int, Field(ge=-1)]

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.hard != -1 and (self.soft == -1 or self.soft > self.hard):
            raise ValueError("soft exceeds hard")
        return self


class Registry(Value):
    """Who we are to one registry. `server` as it stands at the start of an image's name, "docker.io" else."""

    server: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+(:[0-9]{1,5})?$")]
    username: Annotated[str, Field(min_length=1, max_length=256)]
    password: SecretSource = Field(repr=False)


class ContainerConfig(Value):
    """One [providers.<name>] table of type container."""

    engine: Literal["auto", "docker", "podman"] = "auto"
    socket: Path | None = None  # None: the first that is there, see `engine.candidates`
    image: Reference = "docker.io/library/python:3-slim"
    pull: Literal["missing", "always", "never"] = "missing"
    pull_timeout_s: Annotated[float, Field(ge=1, le=86_400)] = 1800
    python: Annotated[str, Field(min_length=1, max_length=256)] = "python3"  # in the image, 3.8 or newer
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{0,64}$")] = ""  # "": the image's own
    network: Name = "default"  # default, none, host, cluster, or the name of one that is there
    runtime: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/-]{0,128}$")] = ""  # "": the engine's own
    env: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], str] = {}  # `inspect` shows it
    volumes: tuple[Volume, ...] = ()
    ulimits: dict[Annotated[str, Field(pattern=r"^[a-z]{1,16}$")], Ulimit] = {}
    registries: tuple[Registry, ...] = ()
    offers: Annotated[tuple[ContainerOffer, ...], Field(min_length=1)] = (ContainerOffer(on_demand=0),)
    machines_max: Annotated[int, Field(ge=1, le=MACHINES_MAX)] = 100  # of all owners

    @field_validator("socket")
    @classmethod
    def _absolute(cls, socket: Path | None) -> Path | None:
        if socket is not None and not socket.expanduser().is_absolute():
            raise ValueError("give an absolute path, such as /var/run/docker.sock")
        return None if socket is None else socket.expanduser()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for what, values in (
            ("offers have the same zone and instance_type", [(o.zone, o.instance_type) for o in self.offers]),
            ("volumes have the same target", [volume.target for volume in self.volumes]),
            ("registries have the same server", [registry.server for registry in self.registries]),
        ):
            if len(set(values)) != len(values):
                raise ValueError(f"two {what}")
        return self
