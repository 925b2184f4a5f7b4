"""Values that providers and actors share: ids, markets, offers, orders, sightings.

Money is integer micro-dollars, times are seconds since the epoch (UTC), memory is GB.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field

Lifecycle = Literal["spot", "on_demand"]
BillingUnit = Literal["second", "minute", "hour"]
Architecture = Literal["x86_64", "arm64"]

MICRO = 1_000_000  # micro-dollars in a dollar


class Value(BaseModel):
    """Base of everything that crosses a border: immutable, and a misspelt field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


V = TypeVar("V", bound=Value)
P = ParamSpec("P")
_NAMES: dict[type[Value], set[str]] = {}
_PARTS: dict[type[Value], tuple[str, ...]] = {}
_DEFAULTS: dict[type[Value], dict[str, Any]] = {}


def at_rest(value: V) -> V:
    """The same value in a fraction of the memory, to be kept for long.

    Each has a set of the names of those fields that were given, larger than the fields themselves; nobody
    here asks for it, so that all values of a class can share one.
    """
    kind = type(value)
    names = _NAMES.get(kind) or _names(kind)
    if value.__pydantic_fields_set__ is not names:
        object.__setattr__(value, "__pydantic_fields_set__", names)
        fields = value.__dict__
        for name in _PARTS[kind]:
            if isinstance(part := fields[name], Value):
                at_rest(part)
    return value


def _names(kind: type[Value]) -> set[str]:
    """The names of a class's fields; notes which of them may hold a value."""
    _PARTS[kind] = tuple(name for name, one in kind.model_fields.items() if _may_be_value(one.annotation))
    return _NAMES.setdefault(kind, set(kind.model_fields))


def _may_be_value(annotation: Any) -> bool:
    if isinstance(annotation, type) and not get_args(annotation):
        return issubclass(annotation, Value) or annotation is object
    return annotation is Any or any(_may_be_value(one) for one in get_args(annotation))


def made(kind: Callable[P, V], *_: P.args, **fields: P.kwargs) -> V:
    """The same as `kind(**fields)` in a third of the time, for fields that are surely right: none is checked.

    For what is made many thousand times a second of values that were checked already. The class may have no
    default that has to be made anew each time.
    """
    defaults = _DEFAULTS.get(kind)  # type: ignore[call-overload]
    if defaults is None:
        defaults = _defaults(kind)  # type: ignore[arg-type]
    value: V = _new(kind)
    _set(value, "__dict__", {**defaults, **fields})
    _set(value, "__pydantic_fields_set__", _GIVEN)
    _set(value, "__pydantic_extra__", None)
    _set(value, "__pydantic_private__", None)
    return value


_new: Any = object.__new__
_set = object.__setattr__
_GIVEN: set[str] = set()  # of values that were not given field by field


def _defaults(kind: type[Value]) -> dict[str, Any]:
    """A class's fields in their order, each with its default, if it has one."""
    for name, one in kind.model_fields.items():
        if one.default_factory is not None or isinstance(one.default, dict | list | set):
            raise TypeError(f"{kind.__name__}.{name} has a default that values can't share")
    return _DEFAULTS.setdefault(kind, {name: one.default for name, one in kind.model_fields.items()})


class Market(Value):
    """One place where one kind of machine is sold in one way."""

    provider: str
    region: str
    zone: str
    instance_type: str
    lifecycle: Lifecycle

    def __str__(self) -> str:
        return f"{self.provider}/{self.region}/{self.zone}/{self.instance_type}/{self.lifecycle}"


class Accelerator(Value):
    """An accelerator of an instance type; `count` may be a fraction of one."""

    name: str
    memory: str = ""
    count: float = 1
    metadata: dict[str, Any] | None = None


class InstanceType(Value):
    """The shape of a machine."""

    name: str
    accelerator: Accelerator | None = None
    vcpus: float
    memory_gb: float
    architecture: Architecture = "x86_64"
    specific: dict[str, Any] | None = None


class Offer(Value):
    """Something a provider would rent now, in exactly one market.

    The first six fields are the seed's; prices there are dollars an hour for showing. What is
    reckoned with is `micro_usd_per_hour`, the price of this market's lifecycle.
    """

    id: str
    instance_type: InstanceType
    spot_price: float | None = None
    on_demand_price: float | None = None
    billing_unit: BillingUnit = "second"
    specific: dict[str, Any] | None = None
    provider: str = ""
    region: str = ""
    zone: str = ""
    lifecycle: Lifecycle = "on_demand"
    micro_usd_per_hour: Annotated[int, Field(ge=0)] = 0
    disk_gb: float | None = None  # None: as much as the machine that runs the provider has

    @property
    def market(self) -> Market:
        """The market this offer is in."""
        return Market(
            provider=self.provider,
            region=self.region,
            zone=self.zone,
            instance_type=self.instance_type.name,
            lifecycle=self.lifecycle,
        )


class Address(Value):
    """Where a machine's ssh server answers; port 0: it has none, the way in is its provider's own."""

    host: str
    port: int = 22
    private_host: str | None = None


class ClusterOrder(Value):
    """What a provider needs around the machines of one (pool, account, region)."""

    cluster_id: str
    owner: str
    pool: str
    region: str
    public_key: str  # of the cluster's key pair, one line in OpenSSH form


class ClusterHandle(Value):
    """An opened cluster, as its provider knows it. Carries no secret."""

    cluster_id: str
    provider: str
    region: str
    ssh_user: str
    specific: dict[str, str] = {}


class Order(Value):
    """One machine to launch. `key` names this launch for ever: owner/pool/node/incarnation/try."""

    key: str
    owner: str
    epoch: int
    pool: str
    node: int
    instance_id: str
    offer: Offer
    cluster: ClusterHandle
    public_key: str  # may log in as cluster.ssh_user
    host_key: str = Field(default="", repr=False)  # private host key we generated, OpenSSH PEM
    image: str = ""  # what the pool wants the machine to start from, in the vendor's words; "": the adapter's
    disk_gb: float | None = None  # at least; None: the adapter's
    age_max_s: float | None = None  # it is replaced before it is so old; the vendor may end it then
    micro_usd_per_hour_max: int | None = None  # what its pool would pay at most


class Handle(Value):
    """How a provider names one machine it made."""

    provider: str
    ref: str
    region: str = ""
    zone: str = ""


class Notice(Value):
    """Word that a machine will be taken; `deadline_at` None when nobody says when.

    The deadline is in the daemon's time: an adapter corrects what its vendor's clock says. `early`: only a
    recommendation to leave. The machine is replaced, its tasks go on for as long as a drain lasts; one that
    is not set up yet stays.
    """

    reason: str
    deadline_at: float | None = None
    early: bool = False


SightingState = Literal["pending", "running", "stopping", "stopped"]


class Sighting(Value):
    """One machine of ours as a listing shows it. One that is gone is not listed, or has `ended_at`.

    `launched_at` and `ended_at` are the vendor's own times: what is billed lies between them.
    """

    key: str
    handle: Handle
    state: SightingState
    address: Address | None = None
    host_public_key: str | None = None  # when the provider vouches for it
    launched_at: float
    ended_at: float | None = None  # it is gone for good since then, says the vendor
    micro_usd_per_hour: int = 0
    stopped_micro_usd_per_hour: int = 0  # what it bills yet when it is stopped, such as its disk
    lifecycle: Lifecycle = "on_demand"
    instance_type: str = ""
    notice: Notice | None = None
    epoch: int = 0  # newest leadership epoch seen written on the machine
    detail: str = ""  # the provider's own word for the state


class Listing(Value):
    """All machines of one owner at one moment, `at` in the vendor's time (as its answer's Date says).

    `complete` is False when some region or page could not be read: then what is missing from it
    proves nothing. `scopes` are the regions or zones that were read whole, where an adapter can tell: what is
    missing from one of them is missing, whatever could not be read elsewhere, and of what lies in no scope
    nothing is proven. Empty: everything was read, when `complete`.
    """

    at: float
    sightings: tuple[Sighting, ...]
    complete: bool
    unreachable: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()

    def covers(self, region: str, zone: str) -> bool:
        """Whether a machine that should be there, and is not listed, is missing; "" for what is not known."""
        if not self.scopes or not (region or zone):
            return self.complete
        return region in self.scopes or zone in self.scopes


LeftoverKind = Literal["disk", "volume", "network", "group", "key", "template", "container"]


class Leftover(Value):
    """Something of ours that is no machine, and bills or piles up when nobody removes it.

    `ref` is the vendor's name for it, unique within (provider, kind, region). `key` is the launch key of the
    machine it belongs to, `cluster_id` the cluster; "" when its marks do not say. `in_use`: the vendor says
    that something holds it just now, so that it can't be removed yet.
    """

    kind: LeftoverKind
    handle: Handle
    key: str = ""
    cluster_id: str = ""
    created_at: float | None = None  # the vendor's time
    micro_usd_per_hour: int = 0
    in_use: bool = False


class Leftovers(Value):
    """All that `Provider.leftovers` found; when not `complete`, some scope could not be read.

    `scopes` are what was read whole, as "region/kind" ("/kind" for what has no region); empty: everything,
    when `complete`.
    """

    found: tuple[Leftover, ...] = ()
    complete: bool = True
    unreachable: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()

    def covers(self, leftover: Leftover) -> bool:
        """Whether one that was there, and is not listed, is gone."""
        if not self.scopes:
            return self.complete
        return f"{leftover.handle.region}/{leftover.kind}" in self.scopes


class Check(Value):
    """One line of `everpool doctor`: what was looked at, whether it is well, what to do when it is not."""

    what: str
    ok: bool
    detail: str
    mend: str = ""


class ContainerDoor(Value):
    """How to get into a container: by its engine's exec API.

    Attributes:
        engine: which engine.
        socket: its socket on the daemon's host; "": the first that is there.
        id: the container's.
        python: the interpreter inside.
    """

    engine: Literal["auto", "docker", "podman"]
    socket: str
    id: str
    python: str


class Machine(Value):
    """Everything needed to get into a machine."""

    instance_id: str
    handle: Handle
    address: Address
    ssh_user: str
    private_key_path: str  # absolute
    known_hosts_path: str  # absolute; pins the host key, written at first use when unknown
    container: ContainerDoor | None = None  # it is one, and has no ssh server


class Capabilities(Value):
    """What a provider can and cannot do; asked at planning time, before anything is bought."""

    spot: bool
    notice_s: float | None  # usual lead time of a preemption notice; None: there is none
    launch_batch_max: int
    terminate_batch_max: int = 1
    dead_man_switch: bool
    tags: bool
    billing_unit: BillingUnit
    visible_within_s: float  # how long after launch a machine may be missing from a listing
    machines_max: int
    observe_every_s: float = 0.0  # listings follow no faster than so, while nothing is expected to change
    look_again_s: float = 1.0  # how soon a listing may follow another while something is expected to change
    heartbeat: bool = True  # agents report metrics every so often, and silence means something
    host_keys: bool = True  # machines show the host key that we generated for them
    tokens: bool = True  # a key launched again is the same machine; False: find it before launching again
    agent_python: str = "python3"
    spot_price_floats: bool = False  # running spot machines are billed at the market's price of the moment
