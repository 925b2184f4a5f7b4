"""What an instance can be. Any living state can go straight to destroying."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from actors.events import InstanceId, RequestId
from actors.policy.billing import Bill
from providers.model import Address, ClusterHandle, Handle, Offer, Value

VERSION = 1


class _Instance(Value):
    id: InstanceId
    key: str
    pool: str
    node: int
    request_id: RequestId  # of the InstanceRequested it serves
    replacing: InstanceId | None = None
    offer: Offer
    cluster: ClusterHandle
    created_at: float
    since: float  # when this state was entered
    bill: Bill | None = None  # as the vendor tells; None: it was not shown yet
    why: str = ""  # why it was bought here
    worked: bool = False  # it was ready once
    image: str = ""  # mark of what it was made from, see policy/built.py; "": by an older everpool
    disk_gb: float | None = None  # what was ordered

    @property
    def due_at(self) -> float | None:
        """When this state wants to hear Due."""
        return None


class Requested(_Instance):
    """The order is journaled; the launch call is in flight, or its outcome is looked for.

    Attributes:
        looking: the outcome is unknown: find by key before anything else.
        asked_at: when the last launch call was made, or was found to have an unknown outcome.
        tries: launch calls.
        paced: the last was never made, it only waited for our own rate limit: it is made as the same try.
        next_at: when to look or launch again; None: a call is in flight.
        leave: why the machine is not wanted any more; a call in flight can't be recalled.
    """

    status: Literal["requested"] = "requested"
    asked_at: float
    tries: int = 1
    paced: bool = False
    looking: bool = False
    empty_looks: int = 0
    next_at: float | None = None
    leave: str | None = None

    @property
    def due_at(self) -> float | None:
        """When to look or launch again."""
        return self.next_at


class _Alive(_Instance):
    handle: Handle
    launched_at: float
    address: Address | None = None
    retire_at: float | None = None  # it is replaced then, to be ahead of its greatest age
    expires_at: float | None = None  # its tasks are ended by then


class Provisioning(_Alive):
    """Accepted by the provider; we wait for an address, then for the agent's stream."""

    status: Literal["provisioning"] = "provisioning"
    deadline: float

    @property
    def due_at(self) -> float | None:
        """When patience ends."""
        return self.deadline


class _Linked(_Alive):
    boot: str | None = None
    acked: int = 0  # agent's reports up to here are in our journal
    link_up: bool = True
    silent_since: float | None = None  # when the stream broke
    doubted_at: float | None = None  # when listings began to lack it though its stream was open
    tasks_over_at: float | None = None  # by then its dead-man lease has surely ended its tasks
    bootstrap_requests: tuple[RequestId, ...] = ()  # users' BootstrapRequested that wait


class Bootstrapping(_Linked):
    """Connected; the set-up steps run."""

    status: Literal["bootstrapping"] = "bootstrapping"
    run_id: str
    bootstrap_request: RequestId
    deadline: float
    again: bool = False  # it was ready before; a user asked

    @property
    def due_at(self) -> float | None:
        """When patience ends."""
        return self.deadline


class Ready(_Linked):
    """Set up, taking tasks while the stream is up."""

    status: Literal["ready"] = "ready"
    gone_at: float | None = None  # when an unreachable machine counts as lost

    @property
    def due_at(self) -> float | None:
        """When an unreachable machine is given up, or an old one replaced."""
        return min((at for at in (self.gone_at, self.retire_at) if at is not None), default=None)


class Draining(_Linked):
    """Will end at `deadline`, or as soon as its tasks have ended.

    Attributes:
        noticed: a provider said so and may take it back.
        final: time ran out, and the tasks were told to end.
        lost: the market takes it, and its memory was told; an older everpool told it of every notice.
    """

    status: Literal["draining"] = "draining"
    reason: str
    deadline: float
    noticed: bool = False
    final: bool = False
    lost: bool = Field(default_factory=lambda fields: bool(fields.get("noticed", False)))
    was_ready: bool = True

    @property
    def due_at(self) -> float | None:
        """When it is ended."""
        return self.deadline


class Destroying(_Instance):
    """Terminate is called until the machine is observed absent, however long that takes.

    Attributes:
        handle: None when we never heard one: it is looked up by key.
        accepted: the provider said yes to a terminate; asked again when it is seen too long after.
        next_at: when to call again; None: a call is in flight.
    """

    status: Literal["destroying"] = "destroying"
    handle: Handle | None
    launched_at: float
    reason: str
    tries: int = 0
    accepted: bool = False
    next_at: float | None = None
    empty_looks: int = 0
    last_fault: str = ""
    tasks_over_at: float | None = None  # then tasks go elsewhere, though nobody saw the machine end

    @property
    def due_at(self) -> float | None:
        """When to call again, or to believe that its tasks have ended."""
        return min((at for at in (self.next_at, self.tasks_over_at) if at is not None), default=None)


class Destroyed(_Instance):
    """Observed absent, or never there."""

    status: Literal["destroyed"] = "destroyed"
    reason: str
    launched: bool
    ref: str | None = None  # of its machine
    ended_at: float | None = None  # the vendor's time up to which `cost_micro_usd` counts
    cost_micro_usd: int = 0


InstanceState = Requested | Provisioning | Bootstrapping | Ready | Draining | Destroying | Destroyed
Alive = Provisioning | Bootstrapping | Ready | Draining
Linked = Bootstrapping | Ready | Draining
InstanceJson: TypeAdapter[InstanceState] = TypeAdapter(
    Annotated[InstanceState, Field(discriminator="status")]
)
