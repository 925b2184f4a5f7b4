"""What a user asks for: the spec of a pool and of a task. Names follow the main seed where it has one."""

import re
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, FailFast, Field, ValidationInfo, field_validator, model_validator

from actors.buying import Alternative, Budget, Buying, OnDemand, Scaling
from providers.model import Accelerator, Architecture, Value

Seconds = Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)]
NODES_MAX = 20_000  # of one pool
FILES_BYTES_MAX = 16 * 2**20  # of all files put before one task, decoded
FETCH_BYTES_MAX = 256 * 2**20  # of each file fetched after a task
TITLE_CHARS_MAX = 128
LOG_BYTES_MAX = 2**40  # where a Request or config is taken in: states may have more, of older journals

_NAME = re.compile(r"[a-z][a-z0-9-]{0,47}")
_ENV_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


@lru_cache(1_000)
def checked_name(name: str) -> str:
    """Return `name` when it may name a pool or provider, else raise ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a name: use 1 to 48 of a-z, 0-9 and '-', starting with a letter")
    return name


PoolName = Annotated[str, AfterValidator(checked_name)]


def _checked_env(env: dict[str, str]) -> dict[str, str]:
    for key, value in env.items():
        if not _ENV_KEY.fullmatch(key):
            raise ValueError(f"environment variable {key!r} is not a name")
        if "\0" in value or len(value) > 32_768:
            raise ValueError(f"value of {key} has a NUL byte or more than 32768 characters")
    if len(env) > 1000:
        raise ValueError("more than 1000 environment variables")
    return env


Env = Annotated[dict[str, str], AfterValidator(_checked_env)]


class Nodes(Value):
    """How many nodes: `desired` are kept; the pool counts as whole from `min` on; never above `max`.

    With `scaling`, `desired` is how many there are at first; after that tasks say how many between `min`
    and `max`. Without `min` there are never fewer than `desired`: who wants none when there is nothing to do
    writes `min = 0`, or `desired = 0`.
    """

    desired: Annotated[int, Field(ge=0, le=NODES_MAX)]
    min: Annotated[int, Field(ge=0, le=NODES_MAX)] | None = None  # None: desired
    max: Annotated[int, Field(ge=0, le=NODES_MAX)] | None = None  # None: NODES_MAX

    @field_validator("desired", "min", "max", mode="before")
    @classmethod
    def _are_numbers(cls, value: object) -> object:
        if isinstance(value, bool):
            raise ValueError("has to be a number of nodes, not true or false")
        return value

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        wrong = []
        if self.min is not None and self.min > self.desired:
            wrong.append(f"min={self.min} exceeds desired={self.desired}")
        if self.max is not None and self.desired > self.max:
            wrong.append(f"desired={self.desired} exceeds max={self.max}")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


class Worker(Value):
    """How tasks share a node: `concurrency` run at once, `buffer` more wait there for a free slot."""

    concurrency: Annotated[int, Field(ge=1, le=1024)] = 1
    buffer: Annotated[int, Field(ge=0, le=4096)] = 0


class Step(Value):
    """One phase of setting a machine up: a shell command that must exit 0."""

    phase: Annotated[str, Field(min_length=1, max_length=64)]
    run: Annotated[str, Field(min_length=1, max_length=65_536)]
    timeout_s: Seconds = 300


class Image(Value):
    """What a machine starts from, and what must be on it before it is ready.

    `base` is in the provider's own words: a container image, an AMI, an image family. None: the provider's.
    """

    base: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^\S+$")] | None = None
    env: Env = {}
    # of secrets, later over earlier and over `env`; for the steps, not for tasks
    env_groups: Annotated[tuple[PoolName, ...], Field(max_length=16)] = ()
    steps: Annotated[tuple[Step, ...], Field(max_length=64)] = ()

    @model_validator(mode="after")
    def _phases_differ(self) -> Self:
        phases = [step.phase for step in self.steps]
        if len(set(phases)) != len(phases):
            raise ValueError("two steps have the same phase name")
        return self


class HealthCheck(Value):
    """A command run on ready machines; `failures` in a row and the machine is replaced."""

    run: Annotated[str, Field(min_length=1, max_length=65_536)]
    every_s: Seconds = 30
    timeout_s: Seconds = 15
    failures: Annotated[int, Field(ge=1, le=100)] = 3


class PoolSpec(Value):
    """What a pool is. Every key but `provider` and `nodes` has a default."""

    provider: Annotated[tuple[str, ...], Field(min_length=1)]
    nodes: Nodes = Nodes(desired=1)
    worker: Worker = Worker()
    image: Image = Image()
    health: HealthCheck | None = None

    # what a machine must have at least
    vcpus: Annotated[float, Field(gt=0)] | None = None
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    disk_gb: Annotated[float, Field(gt=0)] | None = None
    architecture: Architecture | None = None
    accelerator: Accelerator | None = None
    region: str | None = None
    zone: str | None = None
    instance_type: str | None = None
    allocation: Literal["spot", "on-demand", "spot-if-available", "cheapest"] = "spot-if-available"
    # one of them must hold
    alternatives: Annotated[tuple[Alternative, ...], Field(max_length=64)] = ()
    on_demand: OnDemand = OnDemand()
    spread: Literal["zones", "together"] | None = None  # evenly over zones; or all in one, for gangs
    max_hourly_cost: Annotated[float, Field(gt=0)] | None = None  # dollars, of one node
    buying: Buying = Buying()
    scaling: Scaling | None = None  # None: as many as desired, whatever there is to do
    budget: Budget = Budget()
    # replaced before a machine is so old; a vendor that can may end it then by itself
    instance_age_max: Annotated[float, Field(ge=60, le=31_536_000, allow_inf_nan=False)] | None = None

    # deadlines and patience
    provision_timeout: Seconds = 300  # launch accepted -> has an address
    ssh_timeout: Seconds = 120  # has an address -> we are connected
    bootstrap_timeout: Seconds = 900  # all steps together
    drain_timeout: Seconds = 120  # tasks get this long when nobody gives a deadline
    unreachable_timeout: Seconds = 120  # silent for so long: replaced
    lease_s: Seconds = 1800  # a machine ends itself after so long without word from a daemon
    bootstrap_failures_max: Annotated[int, Field(ge=1, le=100)] = 3  # in a row, then that market stops
    retry_on_interruption: Annotated[int, Field(ge=0, le=1000)] = 10  # per task, when it does not say
    queue_max: Annotated[int, Field(ge=1, le=5_000_000)] = 1_000_000  # pending tasks
    metrics_every_s: Seconds = 10
    log_bytes_max: Annotated[int, Field(ge=1024)] = 64 * 2**20  # per task attempt, both streams

    @field_validator("scaling")
    @classmethod
    def _scaling_has_an_end(cls, value: Scaling | None, info: ValidationInfo) -> Scaling | None:
        nodes = info.data.get("nodes")  # not there: it is wrong, and said to be
        if value is not None and nodes is not None and nodes.max is None:
            raise ValueError("scaling needs nodes.max: how many nodes the pool may grow to")
        return value

    @field_validator("provider", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("nodes", mode="before")
    @classmethod
    def _number_or_bounds(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"desired": value}
        if isinstance(value, list | tuple):
            if len(value) != 2:
                raise ValueError("nodes takes a number, [desired, max] or a table")
            return {"desired": value[0], "max": value[1]}
        return value


class FilePut(Value):
    """A file that must be there before the task starts: `data` as base64, or a stored blob's sha256.

    The border stores data and keeps its sha256, so that states stay small.
    """

    path: Annotated[str, Field(min_length=1, max_length=4096)]  # relative to the task's directory
    data: str = ""
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0o644

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, value: str) -> str:
        return checked_relative(value)


def checked_relative(path: str) -> str:
    """Return `path` when it is relative and stays below where it starts, else raise ValueError."""
    if path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise ValueError(f"{path!r}: give a path inside the task's directory, without '..'")
    return path


class TaskSpec(Value):
    """One thing to run: `argv` without a shell, or `shell` as one string for /bin/sh."""

    name: Annotated[str, Field(max_length=128)] = ""
    argv: Annotated[tuple[str, ...], FailFast(), Field(max_length=4096)] = ()
    shell: Annotated[str, Field(max_length=65_536)] | None = None
    env: Env = Field(default_factory=dict)  # `= {}` would be copied deeply for each task
    # of secrets, later over earlier
    env_groups: Annotated[tuple[PoolName, ...], FailFast(), Field(max_length=16)] = ()
    cwd: str | None = None  # None: a directory of the task's own
    files: Annotated[tuple[FilePut, ...], FailFast(), Field(max_length=256)] = ()
    fetch: Annotated[tuple[str, ...], FailFast(), Field(max_length=256)] = ()  # paths kept after the end
    timeout_s: Seconds | None = None
    grace_s: Annotated[float, Field(ge=0, le=86_400)] = 10  # between TERM and KILL
    on_notice: Annotated[str, Field(max_length=65_536)] | None = None  # shell; instead of TERM
    retries: Annotated[int, Field(ge=0, le=1000)] = 0  # for the task's own failure
    retries_infrastructure: Annotated[int, Field(ge=0, le=1000)] | None = None  # None: as the pool
    at_least_once: bool = False  # a new attempt need not wait until the old one surely ended
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0  # higher goes first
    node: Annotated[int, Field(ge=0)] | None = None  # only on this node
    log_bytes_max: Annotated[int, Field(ge=0)] | None = None  # None: as the pool

    @model_validator(mode="after")
    def _one_command(self) -> Self:
        if bool(self.argv) == (self.shell is not None):
            raise ValueError("give either argv (a list) or shell (one string)")
        if "\0" in "".join(self.argv) or (self.shell is not None and not self.shell.strip()):
            raise ValueError("the command is empty or has a NUL byte")
        if self.argv and not self.argv[0]:
            raise ValueError("argv[0], the program, is empty")
        if self.files and sum(len(file.data) for file in self.files) * 3 // 4 > FILES_BYTES_MAX:
            raise ValueError(f"files hold more than {FILES_BYTES_MAX} bytes")
        for path in self.fetch:
            checked_relative(path)
        return self

    @property
    def title(self) -> str:
        """What facts call this task, in up to 128 characters: its name, else the program it runs."""
        if self.name:
            return self.name
        return (self.argv[0] if self.argv else (self.shell or "").split(maxsplit=1)[0])[:TITLE_CHARS_MAX]
