"""The rules about requests: each ends, once, in a fact that may end it, and in time."""

from dataclasses import dataclass
from typing import Any, get_args

from actors.events import (
    ClusterRequested,
    DrainRequested,
    Envelope,
    PoolRequested,
    PoolResizeRequested,
    Request,
)
from actors.spec import PoolSpec
from tests.simulation.referee.base import Checker
from tests.simulation.referee.times import Ages, Fair, FairTime

ENDINGS: dict[str, tuple[str, ...]] = {
    "pool_requested": ("pool_ready", "error"),
    "cluster_requested": ("cluster_provisioned", "cluster_ready", "error"),
    "instance_requested": ("instance_bootstrapped", "instance_replaced", "bootstrap_failed", "error"),
    "bootstrap_requested": ("instance_bootstrapped", "bootstrap_failed", "error"),
    "shutdown_requested": ("cluster_destroyed", "error"),
    "pool_resize_requested": ("pool_resized", "error"),
    "pool_update_requested": ("pool_updated", "error"),
    "pool_pause_requested": ("pool_paused", "pool_resumed", "error"),
    "drain_requested": ("instance_replaced", "instance_destroyed", "error"),
    "task_requested": ("task_completed", "error"),
    "task_stop_requested": ("task_completed", "error"),
}
REQUESTS: tuple[type, ...] = get_args(Request)


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a request must have ended: seconds of fair time, besides what it says itself.

    Attributes:
        seconds: of fair time.
        clock: "house" where the daemon alone can keep it, "whole" where all clouds must work for it,
            "unpaused" where its pool must besides not be paused, "served" where it must besides have a
            machine that takes tasks.
        why: the reason for the number.
    """

    seconds: float
    clock: str
    why: str


# To turn a machine that was asked for into one that is there no more, or is at work.
ENDED_S = 2400.0  # terminated, refused or ignored some times, seen to be absent twice; see progress.py
FILLED_S = 7200.0  # five tries at markets that refuse, machines that never come up or are taken, with pauses
DEADLINES: dict[str, Deadline] = {
    "pool_requested": Deadline(60, "house", "ready_within_s, kept by a timer of the pool"),
    "pool_resize_requested": Deadline(60, "house", "ready_within_s, kept by a timer of the pool"),
    "pool_update_requested": Deadline(120, "house", "decided in the turn that hears it"),
    "pool_pause_requested": Deadline(120, "house", "decided in the turn that hears it"),
    "cluster_requested": Deadline(
        1800, "whole", "calls of 60 s, tried again after at most 120 s; a user's: 3600 s"
    ),
    "instance_requested": Deadline(
        FILLED_S,
        "whole",
        "markets may refuse, a machine has provision, ssh and bootstrap timeouts; waits excepted",
    ),
    "bootstrap_requested": Deadline(120, "whole", "bootstrap_timeout, kept by a timer of the instance"),
    "drain_requested": Deadline(
        FILLED_S + ENDED_S,
        "unpaused",
        "within_s for the tasks, then a replacement, or the end of the machine",
    ),
    "shutdown_requested": Deadline(3 * ENDED_S, "whole", "drain_timeout, launches in flight, ends, clusters"),
    "task_requested": Deadline(86_400, "served", "it waits for a slot, and may be tried many times"),
    "task_stop_requested": Deadline(
        ENDED_S, "whole", "grace; on a machine that is not reached: unreachable_timeout and its end"
    ),
}


class RequestsEnd(Checker):
    """Each request has exactly one terminal fact, of a right kind, before its deadline."""

    name = "every request ends once and in time"
    events = (object,)
    kinds = ("node",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.asked: dict[str, str] = {}
        self.ended: dict[str, int] = {}
        self._ages = Ages(self.book.fair)
        self._pools: dict[str, str] = {}  # of open requests
        self._waiting: set[tuple[str, int]] = set()  # nodes that no market takes now
        self._machines: dict[str, tuple[tuple[str, int], float]] = {}  # open InstanceRequested: node, seconds

    def event(self, envelope: Envelope, event: Any) -> None:
        """It asks, or ends what was asked."""
        if isinstance(event, REQUESTS):
            self._ask(envelope, event)
        for request_id in envelope.ends:
            self._end(request_id, envelope)

    def _ask(self, envelope: Envelope, event: Any) -> None:
        request_id = envelope.request_id if envelope.principal else event.request_id
        if not request_id:
            self.fail(f"a request without an id: {event.kind}", envelope.pool)
            return
        if request_id in self.asked:
            self.fail(f"{request_id} was made twice", request_id)
        self.asked[request_id] = event.kind
        self._pools[request_id] = envelope.pool
        if event.kind == "instance_requested":
            self._machines[request_id] = ((envelope.pool, event.node_id), 0.0)
            return
        deadline = DEADLINES[event.kind]
        clock = deadline.clock
        if clock == "unpaused" and envelope.pool not in self.book.pools:
            clock = FairTime.WHOLE
        elif clock in ("served", "unpaused"):
            clock = f"{clock}:{envelope.pool}"
        self._ages.start(request_id, clock, deadline.seconds + self._own_s(envelope, event))

    def _own_s(self, envelope: Envelope, event: Any) -> float:
        """The seconds that a request says itself, or its pool's spec does."""
        pool = self.book.pools.get(envelope.pool)
        spec: PoolSpec | None = None if pool is None else pool.spec
        match event:
            case PoolRequested() | PoolResizeRequested():
                return event.ready_within_s
            case ClusterRequested() if envelope.principal:
                return 3600.0
            case DrainRequested(within_s=within_s):
                return within_s if within_s is not None else (spec.drain_timeout if spec else 0.0)
            case _:
                pass
        if spec is None:
            return 0.0
        return {
            "bootstrap_requested": spec.bootstrap_timeout,
            "shutdown_requested": spec.drain_timeout,
            "task_stop_requested": spec.unreachable_timeout + (getattr(event, "grace_s", None) or 60.0),
        }.get(event.kind, 0.0)

    def _end(self, request_id: str, envelope: Envelope) -> None:
        asked, kind = self.asked.get(request_id), envelope.event.kind
        before = self.ended.get(request_id)
        if asked is None:
            self.fail(f"{kind} ends a request that nobody made: {request_id!r}", request_id)
        elif before is not None:
            self.fail(f"{request_id} ended by seq {before} and again by {kind}", request_id)
        elif kind not in ENDINGS[asked]:
            self.fail(f"{asked} {request_id} ended by {kind}", request_id)
        self.ended[request_id] = envelope.seq
        self._ages.stop(request_id)
        self._machines.pop(request_id, None)
        self._pools.pop(request_id, None)

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """Which nodes wait because nobody sells them a machine."""
        waits = (
            new is not None
            and new.status in ("filling", "replacing")
            and new.instance_id is None
            and not new.backing_off
        )
        (self._waiting.add if waits else self._waiting.discard)((pool, int(name)))

    def tick(self, seconds: float, fair: Fair) -> None:
        """Nothing is open for too long."""
        worked = fair.up and fair.writable and fair.providers.issuperset(self.book.clouds)
        if worked:
            allowed = DEADLINES["instance_requested"].seconds
            for request_id, (node, age) in list(self._machines.items()):
                if node in self._waiting:
                    continue
                self._machines[request_id] = (node, age + seconds)
                if age > allowed:
                    self.fail(f"{request_id} did not end in {allowed:g} s of fair time", request_id)
        for name in self._ages.over():
            request_id = str(name)
            deadline = DEADLINES[self.asked[request_id]]
            about = (request_id, self._pools.get(request_id, ""))
            self.fail(
                f"{self.asked[request_id]} {request_id} did not end in time: {deadline.why}", *about[:1]
            )

    def unended(self) -> list[str]:
        """Requests without a terminal fact."""
        return [f"{kind} {name}" for name, kind in self.asked.items() if name not in self.ended]

    def at_the_end(self) -> None:
        """None is open."""
        left = [name for name in self.asked if name not in self.ended]
        if left:
            self.fail(f"without an end: {self.unended()[:5]}", *left[:5])
