"""What a node can be. The number of a node is its rank; machines come and go under it."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from actors.events import InstanceId, RequestId
from providers.model import Value

VERSION = 1


class _Node(Value):
    pool: str
    generation: int
    node: int
    incarnation: int = 0  # machines asked for so far
    last_id: InstanceId | None = None  # the last machine that filled it
    drain_request: RequestId | None = None
    draining_id: InstanceId | None = None  # the machine whose end or replacement that request awaits
    losses: int = 0  # machines in a row that did not get or stay ready
    since: float = 0

    @property
    def due_at(self) -> float | None:
        """When this state wants to hear Due."""
        return None


class Vacant(_Node):
    """Has no machine and asks for none until `next_at` (None: until the pool says Fill)."""

    status: Literal["vacant"] = "vacant"
    next_at: float | None = None

    @property
    def due_at(self) -> float | None:
        """When it asks again."""
        return self.next_at


class _Asking(_Node):
    request_id: RequestId
    tries: int = 0  # launches ordered under this incarnation
    instance_id: InstanceId | None = None  # None: waits to be placed
    next_at: float | None = None  # when to ask for a place again; None: now
    why_waiting: str = ""
    backing_off: bool = False  # next_at is a pause after a failure, not a wait for a market
    refused: tuple[str, ...] = ()  # markets that refused since the last pause
    lost_in: str | None = None  # the market that took its machine just now
    replacing: InstanceId | None = None

    @property
    def due_at(self) -> float | None:
        """When it asks for a place again."""
        return self.next_at if self.instance_id is None else None

    @property
    def wants_place(self) -> bool:
        """Whether the pool should place it in this turn."""
        return self.instance_id is None and self.next_at is None


class Filling(_Asking):
    """Wants a machine and has none that works.

    Attributes:
        missing_since: since when it has none; None: an older everpool did not write that down.
    """

    status: Literal["filling"] = "filling"
    missing_since: float | None = None


class Filled(_Node):
    """Has a ready machine."""

    status: Literal["filled"] = "filled"
    instance_id: InstanceId


class Replacing(_Asking):
    """Has a machine that still works but will go, and wants another.

    Attributes:
        old_id: the one that works.
        moving: it goes only when the other is ready, and stays if that fails.
        filled_at: when it filled the node.
    """

    status: Literal["replacing"] = "replacing"
    old_id: InstanceId
    moving: bool = False
    filled_at: float = 0


class Retired(_Node):
    """Wants none; some machine may still be ending."""

    status: Literal["retired"] = "retired"
    reason: str
    leaving: tuple[InstanceId, ...] = ()


NodeState = Vacant | Filling | Filled | Replacing | Retired
NodeJson: TypeAdapter[NodeState] = TypeAdapter(Annotated[NodeState, Field(discriminator="status")])
