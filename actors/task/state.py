"""What a task can be. A retry is a new attempt of the same task."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from actors.events import InstanceId, RequestId, Result
from actors.spec import TaskSpec
from providers.model import Value

VERSION = 1


class _Task(Value):
    id: str
    pool: str
    spec: TaskSpec
    seq: int  # of its Request: the order of equals in the queue
    attempt: int = 1  # the one that waits, runs or ran last
    failures: int = 0  # ended attempts, by the task's own fault
    interruptions: int = 0  # ended attempts, by lost infrastructure
    stop_requests: tuple[RequestId, ...] = ()
    since: float = 0
    queued_at: float = 0
    cost_micro_usd: int = 0  # of the attempts that ended: their share of what their machines cost

    @property
    def due_at(self) -> float | None:
        """When this state wants to hear Due."""
        return None


class Pending(_Task):
    """In the pool's queue. `not_before` holds back a task that failed just now."""

    status: Literal["pending"] = "pending"
    not_before: float | None = None

    @property
    def due_at(self) -> float | None:
        """When it may be placed."""
        return self.not_before


class _Placed(_Task):
    instance_id: InstanceId
    node: int


class Assigned(_Placed):
    """A machine was chosen and its agent told; it has not answered yet."""

    status: Literal["assigned"] = "assigned"


class Created(_Placed):
    """The agent holds it, waiting for a free slot there."""

    status: Literal["created"] = "created"


class Running(_Placed):
    """Its process runs, by the agent's word."""

    status: Literal["running"] = "running"
    pid: int
    started_at: float


class Stopping(_Placed):
    """The agent was told to stop it; TERM, grace, KILL. Said again whenever the stream is new."""

    status: Literal["stopping"] = "stopping"
    reason: str
    grace_s: float
    started_at: float | None
    next_at: float

    @property
    def due_at(self) -> float | None:
        """When the stop is said again."""
        return self.next_at


class Invalid(_Placed):
    """What the agent says does not fit; the attempt is stopped, and that confirmed, before another."""

    status: Literal["invalid"] = "invalid"
    reason: str
    started_at: float | None = None
    next_at: float

    @property
    def due_at(self) -> float | None:
        """When the stop is said again."""
        return self.next_at


class Stopped(_Task):
    """Over."""

    status: Literal["stopped"] = "stopped"
    result: Result
    reason: str
    exit_code: int | None = None
    signal: int | None = None
    instance_id: InstanceId | None = None
    node: int | None = None
    duration: float = 0
    error: str | None = None
    ended_at: float = 0
    lines_dropped: int = 0


TaskState = Pending | Assigned | Created | Running | Stopping | Invalid | Stopped
Placed = Assigned | Created | Running | Stopping | Invalid
TaskJson: TypeAdapter[TaskState] = TypeAdapter(Annotated[TaskState, Field(discriminator="status")])
