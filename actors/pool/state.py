"""What a pool can be. Whether it is ready, degraded or short is derived from its nodes, never stored."""

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from actors.events import RequestId
from actors.policy.budget import Spend
from actors.policy.built import Unmarked
from actors.policy.scaling import Habits
from actors.policy.situation import Rejection
from actors.policy.waste import Waste
from actors.spec import PoolSpec
from providers.model import ClusterHandle, Value

VERSION = 1


class OpeningCluster(Value):
    """The provider is making it, or it is tried again at `next_at`."""

    status: Literal["opening"] = "opening"
    cluster_id: str
    provider: str
    region: str
    request_id: RequestId
    tries: int = 0
    next_at: float | None = None  # None: a call is in flight
    surely_not_there: bool = False  # no call is in flight, and none can have made anything
    detail: str = ""  # what the last try failed with


class OpenCluster(Value):
    """Machines can be launched into it."""

    status: Literal["open"] = "open"
    cluster_id: str
    provider: str
    region: str
    handle: ClusterHandle


class ClosingCluster(Value):
    """Its machines are gone and it is being removed."""

    status: Literal["closing"] = "closing"
    cluster_id: str
    provider: str
    region: str
    handle: ClusterHandle
    tries: int = 0
    next_at: float | None = None


ClusterState = OpeningCluster | OpenCluster | ClosingCluster  # closed: it is not listed any more


class Waiting(Value):
    """A Request that ends when all desired nodes are ready, or at its deadline."""

    request_id: RequestId
    ends_in: Literal["pool_ready", "cluster_ready", "pool_resized"]
    nodes: int
    deadline: float


class _Pool(Value):
    name: str
    generation: int  # seq of the Request that made it: tells pools of one name apart for ever
    spec: PoolSpec
    desired: int
    made_by: str = ""  # principal; "config" for pools named there
    clusters: dict[str, Annotated[ClusterState, Field(discriminator="status")]] = {}
    removed: tuple[int, ...] = ()  # ranks a user took out; they come back when the pool grows
    waiting: tuple[Waiting, ...] = ()
    spend: Spend = Spend()
    waste: Waste = Waste()
    habits: Habits = Habits()
    account_at: float | None = None  # when the account is looked at again
    unmarked: Unmarked | None = None  # of machines of an older everpool; None: its image never changed since
    since: float = 0

    @property
    def next_cluster_at(self) -> float | None:
        """When the first cluster call is to be tried again."""
        times = [c.next_at for c in self.clusters.values() if c.status != "open" and c.next_at is not None]
        return min(times, default=None)

    @property
    def due_at(self) -> float | None:
        """When this state wants to hear Due."""
        times = [waiting.deadline for waiting in self.waiting]
        times += [at for at in (self.next_cluster_at, self.account_at) if at is not None]
        return min(times, default=None)


class Paused(Value):
    """Who paused a pool, and when."""

    by: str
    since: float


class Roll(Value):
    """Machines are replaced that are not what the spec asks for; which ones is derived. See rolling.py.

    Attributes:
        since: when it began, or was last given another aim.
        renewed: machines that were replaced so far.
        fails: tries in a row that came to nothing.
        next_at: before that nothing is tried; None: now.
        why: what is waited for, for users.
        lacking_since: since the first try that came to nothing, after the last machine that was set up; None:
            there was none. From then on it counts how patiently spot is waited for.
        refused: markets that refused since, until no other is left.
    """

    since: float
    renewed: int = 0
    fails: int = 0
    next_at: float | None = None
    why: str = ""
    lacking_since: float | None = None
    refused: tuple[str, ...] = ()


class _Kept(_Pool):
    """What a pool wants of its nodes, and what they were told of that.

    Attributes:
        spares: machines that are kept beyond the desired nodes; they fill nodes of the next numbers.
        steered: (nodes, removed) as the nodes were told last, spares among them.
        paused: a user wants nothing launched or started until it is resumed; see pausing.py.
        resumed_at: when the last pause ended; 0: there was none.
        roll: machines of an older spec are being replaced.
    """

    spares: int = 0
    steered: tuple[int, tuple[int, ...]] = (0, ())
    paused: Paused | None = None
    resumed_at: float = 0
    roll: Roll | None = None


class Scaled(Value):
    """What scaling by tasks did last."""

    grew_at: float = 0
    shrank_at: float = 0
    why: str = ""


class Active(_Kept):
    """Kept at `desired` nodes.

    Attributes:
        look_at: when placement is looked at again though nothing happened; None: not by itself.
        spares_at: when the number of spares changed last.
        scale_at: when scaling is looked at again though nothing happened.
        short_since: since when fewer than the desired nodes are ready; None: they are.
        failures: machines that could not be set up, in a row, by market.
        rejections: what providers refused of this pool's own wishes, by market.
        proven: some machine was set up under this spec, so its steps can work.
        whole: all desired nodes have been ready since the last change of what is desired.
    """

    status: Literal["active"] = "active"
    failures: dict[str, int] = {}
    rejections: dict[str, Rejection] = {}
    proven: bool = False
    whole: bool = False
    look_at: float | None = None
    spares_at: float | None = None
    scale_at: float | None = None
    scaled: Scaled = Scaled()
    short_since: float | None = None

    @property
    def due_at(self) -> float | None:
        """When this state wants to hear Due. Paused, it looks at neither placement nor scaling."""
        if self.paused is not None:
            return super().due_at
        times = (super().due_at, self.look_at, self.scale_at)
        return min((at for at in times if at is not None), default=None)


class Parked(_Kept):
    """Launches nothing until a user updates or resizes it; its machines live on."""

    status: Literal["parked"] = "parked"
    reason: str


class Draining(_Pool):
    """Everything in it is being ended."""

    status: Literal["draining"] = "draining"
    reason: str
    shutdowns: tuple[RequestId, ...] = ()
    next_at: float | None = None  # tasks are stopped in portions: when the next is due

    @property
    def due_at(self) -> float | None:
        """When the next portion, or the next cluster call, is due."""
        return min((at for at in (self.next_at, self.next_cluster_at) if at is not None), default=None)


class Destroyed(_Pool):
    """Nothing of it is left."""

    status: Literal["destroyed"] = "destroyed"


PoolState = Active | Parked | Draining | Destroyed
PoolJson: TypeAdapter[PoolState] = TypeAdapter(Annotated[PoolState, Field(discriminator="status")])


def base(state: PoolState) -> dict[str, Any]:
    """The fields that every state of a pool has, for the next state."""
    return {name: getattr(state, name) for name in _Pool.model_fields}


def kept(state: Active | Parked) -> dict[str, Any]:
    """The fields that a pool has while it lives, parked or not."""
    return {name: getattr(state, name) for name in _Kept.model_fields}
