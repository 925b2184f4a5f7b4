"""What actors say to each other, and what the outside answers, besides the public contract.

Messages carry ids and values, never references. They are grouped by who hears them; each actor's
`rules.decide` handles every member of its union, and mypy proves it (`assert_never`).
"""

from actors.events import Envelope, InstanceId
from actors.quick import dataclass
from providers.agent.wire import Report
from providers.errors import Fault
from providers.model import ClusterHandle, Handle, Market, Notice, Offer, Sighting


@dataclass(frozen=True, slots=True)
class Due:
    """The time a state waited for has come."""


# --- heard by a pool ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestHeard:
    """A journaled Request for this pool, perhaps heard before."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class ClusterOpened:
    """A provider has what the machines of a cluster need around them."""

    cluster: ClusterHandle


@dataclass(frozen=True, slots=True)
class ClusterOpenFailed:
    """It could not be made."""

    cluster_id: str
    fault: Fault
    detail: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class ClusterClosed:
    """A cluster's surroundings are gone."""

    cluster_id: str


@dataclass(frozen=True, slots=True)
class ClusterCloseFailed:
    """They could not be removed; it is tried again."""

    cluster_id: str
    fault: Fault
    detail: str


@dataclass(frozen=True, slots=True)
class MarketsChanged:
    """Offers or market memory changed: a placement that failed may succeed now."""


@dataclass(frozen=True, slots=True)
class LaunchEnded:
    """A node's launch was refused; the pool keeps count for its breakers."""

    offer: Offer
    fault: Fault
    detail: str


@dataclass(frozen=True, slots=True)
class SetUpEnded:
    """A machine was set up (error None), or could not be, or was never reached.

    `took_s` is the time from its launch until now; `cost_micro_usd` what it has cost in that time. What is
    not `is_current` was made by a spec that the pool has no more.
    """

    offer: Offer
    error: str | None
    took_s: float
    cost_micro_usd: int
    is_current: bool = True


@dataclass(frozen=True, slots=True)
class MachineBilled:
    """A machine of the pool is gone: what it has cost in all, and whether it was ever ready."""

    cost_micro_usd: int
    worked: bool
    why: str


@dataclass(frozen=True, slots=True)
class NodeReady:
    """A node has a ready machine, in the place of `moved` if that worked until now."""

    node: int
    moved: InstanceId | None = None


@dataclass(frozen=True, slots=True)
class MoveFailed:
    """A machine that was to take the place of `kept`, which works on, will never be ready."""

    kept: InstanceId
    reason: str


@dataclass(frozen=True, slots=True)
class NodeRetired:
    """A node has no machine left and wants none."""

    node: int


@dataclass(frozen=True, slots=True)
class TaskOver:
    """A task of this pool came to its end; its last attempt ran for `ran_s`, 0 when it never started."""

    task_id: str
    ran_s: float


PoolMessage = (
    Due
    | RequestHeard
    | ClusterOpened
    | ClusterOpenFailed
    | ClusterClosed
    | ClusterCloseFailed
    | MarketsChanged
    | LaunchEnded
    | SetUpEnded
    | MachineBilled
    | NodeReady
    | MoveFailed
    | NodeRetired
    | TaskOver
)

# --- heard by a node ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fill:
    """The pool wants this node to have a machine."""


@dataclass(frozen=True, slots=True)
class Retire:
    """The pool wants this node empty for good. `within_s` is what its tasks get."""

    reason: str
    within_s: float


@dataclass(frozen=True, slots=True)
class DrainAsked:
    """A user wants this node's machine replaced, or gone."""

    request_id: str
    remove: bool
    within_s: float


@dataclass(frozen=True, slots=True)
class DrainGivenUp:
    """The pool will not replace the machine of a waiting DrainRequested."""

    reason: str


@dataclass(frozen=True, slots=True)
class Placed:
    """The pool chose where this node's next machine is bought, and why there."""

    offer: Offer
    cluster: ClusterHandle
    why: str


@dataclass(frozen=True, slots=True)
class Move:
    """A better machine for a filled node: it is ordered beside the old one, which stays if that fails."""

    offer: Offer
    cluster: ClusterHandle
    why: str


@dataclass(frozen=True, slots=True)
class MoveGivenUp:
    """The machine that works stays after all: the one that was to take its place is not better any more."""


@dataclass(frozen=True, slots=True)
class TakeOver:
    """This node is filled by another node's machine from now on, that one's by this node's, if it has one.

    Two nodes hear it in one turn, each with the machine of the other; None: the other had none, and
    `lost_in` is the market that took that one's machine in this turn.
    """

    instance_id: InstanceId | None
    lost_in: str | None = None


@dataclass(frozen=True, slots=True)
class NotPlaced:
    """Nothing can be bought for this node now; `retry_at` is when to look again."""

    reason: str
    retry_at: float


@dataclass(frozen=True, slots=True)
class InstanceReady:
    """The node's machine is set up."""

    instance_id: InstanceId


@dataclass(frozen=True, slots=True)
class InstanceLeaving:
    """The node's machine will go, or went; another is wanted now. `works`: it still runs its tasks."""

    instance_id: InstanceId
    reason: str
    works: bool


@dataclass(frozen=True, slots=True)
class InstanceStays:
    """The notice was withdrawn before it was too late."""

    instance_id: InstanceId


@dataclass(frozen=True, slots=True)
class InstanceNotLaunched:
    """An order ended without a machine; the node may be placed elsewhere."""

    instance_id: InstanceId
    market: str
    fault: Fault
    detail: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class InstanceFailed:
    """The machine will never become ready; it is being destroyed. Its request has ended."""

    instance_id: InstanceId
    reason: str


@dataclass(frozen=True, slots=True)
class InstanceEnded:
    """The machine is observed absent."""

    instance_id: InstanceId
    reason: str


NodeMessage = (
    Due
    | Fill
    | Retire
    | DrainAsked
    | DrainGivenUp
    | Placed
    | Move
    | MoveGivenUp
    | TakeOver
    | NotPlaced
    | InstanceReady
    | InstanceLeaving
    | InstanceStays
    | InstanceNotLaunched
    | InstanceFailed
    | InstanceEnded
)

# --- heard by an instance -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LaunchWanted:
    """First word to a new instance: what to order, and for whom."""

    key: str
    node: int
    request_id: str
    replacing: InstanceId | None
    offer: Offer
    cluster: ClusterHandle
    why: str


@dataclass(frozen=True, slots=True)
class Renumbered:
    """The machine fills another node from now on."""

    node: int


@dataclass(frozen=True, slots=True)
class LaunchSucceeded:
    """The provider accepted the order."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class LaunchFailed:
    """The launch call failed. `paced`: it only waited for our own rate limit, for longer than calls may."""

    fault: Fault
    detail: str
    retry_after_s: float | None = None
    paced: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """The machine exists, as the provider shows it: found by key, or changed in a listing.

    `at` is when it was listed so, in the vendor's time; `lacked_at` is when listings began to lack it, had
    they done so just before.
    """

    sighting: Sighting
    at: float | None = None
    lacked_at: float | None = None


@dataclass(frozen=True, slots=True)
class NothingFound:
    """No machine is to be seen under the key. Alone this proves nothing."""


@dataclass(frozen=True, slots=True)
class FindFailed:
    """The look-up itself failed."""

    fault: Fault


@dataclass(frozen=True, slots=True)
class AbsenceObserved:
    """A machine is gone: missing from two complete listings, late enough after launch, or its vendor says so.

    Attributes:
        at: when it ended, or was missing for the first time; the vendor's time. None: nobody knows.
        told: what the vendor says of its end. None: it is only missing, and may be hidden.
    """

    at: float | None = None
    told: Sighting | None = None


@dataclass(frozen=True, slots=True)
class VendorNotice:
    """The vendor pushed a notice, or (None) took it back."""

    notice: Notice | None


@dataclass(frozen=True, slots=True)
class LinkUp:
    """The agent's stream is open.

    Attributes:
        boot: which life of the agent's spool it is.
        accepted: False when the agent has obeyed a newer daemon than us.
        tasks: (task, attempt, state) it holds.
    """

    boot: str
    accepted: bool
    tasks: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The agent's stream ended or could not be opened; it is tried again.

    `lease_until` is when the machine's dead-man lease is over unless the stream comes back.
    """

    detail: str
    lease_until: float | None = None


@dataclass(frozen=True, slots=True)
class AgentSaid:
    """Reports of the agent, in order; `last_id` may be acknowledged once this is committed."""

    boot: str
    last_id: int
    reports: tuple[Report, ...]


@dataclass(frozen=True, slots=True)
class LeaveWanted:
    """The machine is not wanted any more. `within_s` is what its tasks get; 0: at once."""

    reason: str
    within_s: float


@dataclass(frozen=True, slots=True)
class TaskLeft:
    """A task on this leaving machine has ended or was taken off it."""


@dataclass(frozen=True, slots=True)
class BootstrapWanted:
    """A user wants the machine set up again."""

    request_id: str


@dataclass(frozen=True, slots=True)
class TerminateSucceeded:
    """The provider accepted the end of the machine. Not yet proof of absence."""


@dataclass(frozen=True, slots=True)
class TerminateFailed:
    """It did not; it is tried again."""

    fault: Fault
    detail: str
    retry_after_s: float | None = None


InstanceMessage = (
    Due
    | LaunchWanted
    | Renumbered
    | LaunchSucceeded
    | LaunchFailed
    | Found
    | NothingFound
    | FindFailed
    | AbsenceObserved
    | VendorNotice
    | LinkUp
    | LinkDown
    | AgentSaid
    | LeaveWanted
    | TaskLeft
    | BootstrapWanted
    | TerminateSucceeded
    | TerminateFailed
)

# --- heard by a task ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Submitted:
    """First word to a new task."""

    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Assigned:
    """The pool chose a machine for the next attempt."""

    instance_id: InstanceId
    node: int


@dataclass(frozen=True, slots=True)
class AgentReported:
    """The agent told something about an attempt of this task."""

    instance_id: InstanceId
    report: Report


@dataclass(frozen=True, slots=True)
class AgentHolds:
    """The agent's stream is open again; `state` is what it holds of the attempt, None: nothing.

    `same_boot` False: what it had not told before is lost.
    """

    instance_id: InstanceId
    attempt: int | None
    state: str | None
    same_boot: bool


@dataclass(frozen=True, slots=True)
class MachineGone:
    """The machine of the attempt is observed absent."""

    instance_id: InstanceId
    reason: str


@dataclass(frozen=True, slots=True)
class MachineLeaving:
    """The machine of the attempt takes no new work; what it has not started goes elsewhere."""

    instance_id: InstanceId
    reason: str


@dataclass(frozen=True, slots=True)
class MachineUnreachable:
    """The machine of the attempt can't be talked to. Matters to at_least_once tasks only."""

    instance_id: InstanceId


@dataclass(frozen=True, slots=True)
class StopWanted:
    """Someone wants the task stopped; request ids wait for its end."""

    request_id: str | None
    reason: str
    grace_s: float | None


TaskMessage = (
    Due
    | Submitted
    | Assigned
    | AgentReported
    | AgentHolds
    | MachineGone
    | MachineLeaving
    | MachineUnreachable
    | StopWanted
)

# --- heard by a market --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LaunchTold:
    """A pool launched here."""

    market: Market
    micro_usd_per_hour: int


@dataclass(frozen=True, slots=True)
class RefusalTold:
    """A launch was refused here."""

    market: Market
    fault: Fault
    retry_after_s: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LossTold:
    """A machine was taken here by the market, or will be; its pool had `held` machines here just before."""

    market: Market
    held: int
    pool: str = ""


@dataclass(frozen=True, slots=True)
class LossWithdrawn:
    """A machine whose loss was told stays after all: its notice was taken back."""

    market: Market


@dataclass(frozen=True, slots=True)
class HoldingTold:
    """How many machines a pool has here now. Told when the first came and when the last went."""

    market: Market
    pool: str
    held: int


MarketMessage = Due | LaunchTold | RefusalTold | LossTold | LossWithdrawn | HoldingTold

Message = PoolMessage | NodeMessage | InstanceMessage | TaskMessage | MarketMessage
