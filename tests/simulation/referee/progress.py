"""The rules that nothing is stuck: no state outlasts what its timeouts allow, and timers are heard."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from actors.instance.state import Ready
from actors.pool.state import Active, Parked
from actors.spec import PoolSpec
from tests.simulation.referee.base import Checker
from tests.simulation.referee.machines import REPAIR_S
from tests.simulation.referee.times import Ages, Fair, FairTime


@dataclass(frozen=True, slots=True)
class Bound:
    """How long a state may last.

    Attributes:
        seconds: of fair time; None: for ever, or as long as its own `due_at` says (`OverdueIsHeard`).
        why: the reason for the number, or for there being none.
        spec: keys of the pool's spec that come on top.
    """

    seconds: float | None
    why: str
    spec: tuple[str, ...] = ()


DESTROYING_S = 2400.0
BOUNDS: dict[tuple[str, str], Bound] = {
    ("instance", "requested"): Bound(
        2400, "CALLS_MAX launches of 120 s, each looked for by key after visible_within_s, calls 60 s apart"
    ),
    ("instance", "provisioning"): Bound(60, "its deadline", ("provision_timeout", "ssh_timeout")),
    ("instance", "bootstrapping"): Bound(60, "its deadline", ("bootstrap_timeout",)),
    ("instance", "ready"): Bound(None, "it works"),
    ("instance", "ready, not reached"): Bound(60, "then it counts as lost", ("unreachable_timeout",)),
    ("instance", "draining"): Bound(None, "until its deadline, which is its due_at"),
    ("instance", "destroying"): Bound(
        DESTROYING_S, "terminate is refused, lost or ignored some times, 90 s apart; then two listings"
    ),
    ("quarantine", "quarantined"): Bound(REPAIR_S, "the age guard, then terminate until it is seen no more"),
    ("node", "vacant"): Bound(None, "until its due_at, when it has one"),
    ("node", "vacant for no reason"): Bound(120, "a wanted rank asks when it is made"),
    ("node", "asks"): Bound(120, "it is placed, or told when to ask again, in the turn in which it asks"),
    ("node", "waits"): Bound(
        None, "until its due_at: nobody sells it a machine, or it pauses after a failure"
    ),
    ("node", "ordered"): Bound(
        2400 + 240,
        "its machine is launched and set up, or fails",
        ("provision_timeout", "ssh_timeout", "bootstrap_timeout"),
    ),
    ("node", "filled"): Bound(None, "its machine works"),
    ("node", "retired"): Bound(None, "nobody wants a machine there; those that leave have their own bounds"),
    ("pool", "active"): Bound(None, "it is kept"),
    ("pool", "parked"): Bound(None, "it waits for a user"),
    ("pool", "draining"): Bound(
        3 * DESTROYING_S,
        "tasks stop, launches in flight and machines end, clusters are closed",
        ("drain_timeout",),
    ),
    ("cluster", "opening"): Bound(1800, "calls of 60 s, tried again after at most 120 s"),
    ("cluster", "open"): Bound(None, "it is kept as long as its pool"),
    ("cluster", "closing"): Bound(
        1800 + REPAIR_S, "refused while it has machines, of which some may have to be reaped first"
    ),
    ("task", "pending"): Bound(None, "until there is a slot for it (`SlotsAreUsed`)"),
    ("task", "assigned"): Bound(None, "until a slot of its machine is free (`AgentsWordComes`)"),
    ("task", "created"): Bound(None, "until a slot of its machine is free (`AgentsWordComes`)"),
    ("task", "running"): Bound(None, "as long as its process runs (`AgentsWordComes`)"),
    ("task", "stopping"): Bound(
        600 + DESTROYING_S,
        "grace and TERM again; or its machine is not reached, and is ended",
        ("unreachable_timeout",),
    ),
    ("task", "invalid"): Bound(
        600 + DESTROYING_S,
        "grace and TERM again; or its machine is not reached, and is ended",
        ("unreachable_timeout",),
    ),
    ("market", "known"): Bound(None, "a memory"),
}
TOLD_S = 600 + DESTROYING_S  # until the daemon knows what an agent has seen; plus unreachable_timeout
OVERDUE_S = 180.0  # until a timer that is due was heard
FREE_TICKS = 5  # so many in a row with a task and a slot for it: nobody looks


def label(kind: str, state: Any) -> str:
    """The name under which BOUNDS has a state."""
    status: str = state.status
    if kind == "instance" and status == "ready" and not state.link_up:
        return "ready, not reached"
    if kind == "node" and status in ("filling", "replacing"):
        if state.instance_id is not None:
            return "ordered"
        return "asks" if state.next_at is None else "waits"
    if kind == "node" and status == "vacant" and state.next_at is None:
        return "vacant for no reason"
    return status


def _spell(kind: str, state: Any) -> tuple[str, Hashable]:
    """What makes this stay in a state another one than the last: a retry is a new one."""
    name = label(kind, state)
    if name == "ordered":
        return name, state.instance_id
    if kind == "task":
        return name, (state.attempt, state.stop_requests)
    return name, getattr(state, "run_id", None)


class NothingIsStuck(Checker):
    """Every state that is not listed as one that may last ends in the time that BOUNDS gives it."""

    name = "nothing is stuck"
    kinds = ("pool", "node", "instance", "task", "quarantine")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._ages = Ages(self.book.fair)
        self._spells: dict[Hashable, tuple[str, Hashable]] = {}

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """A state was entered or left."""
        if kind == "task" and (new is None or new.status not in ("stopping", "invalid")):
            if old is not None and old.status in ("stopping", "invalid"):
                self._leave((pool, kind, name))
            return
        if kind == "pool":
            self._clusters(pool, old, new)
        self._enter((pool, kind, name), kind, new)

    def _clusters(self, pool: str, old: Any, new: Any) -> None:
        before = {} if old is None else old.clusters
        after = {} if new is None else new.clusters
        if before is not after:
            for cluster in {**before, **after}:
                self._enter((pool, "cluster", cluster), "cluster", after.get(cluster))

    def _enter(self, row: tuple[str, str, str], kind: str, state: Any) -> None:
        if state is None:
            self._leave(row)
            return
        spell = _spell(kind, state)
        if self._spells.get(row) == spell:
            return
        self._spells[row] = spell
        bound = BOUNDS[(kind, spell[0])]
        if bound.seconds is None:
            self._ages.stop(row)
            return
        pool = self.book.pools.get(row[0])
        spec: PoolSpec | None = None if pool is None else pool.spec
        more = sum(float(getattr(spec, key)) for key in bound.spec) if spec is not None else 0.0
        if kind == "task":
            more += state.spec.grace_s
        self._ages.start(row, _clock(kind, state), bound.seconds + more)

    def _leave(self, row: Hashable) -> None:
        self._spells.pop(row, None)
        self._ages.stop(row)

    def tick(self, seconds: float, fair: Fair) -> None:
        """Nothing has been where it is for too long."""
        for row in self._ages.over():
            assert isinstance(row, tuple)
            pool, kind, name = row
            where = self._spells[row][0]
            if where == "asks" and isinstance(self.book.pools.get(pool), Parked):
                continue
            bound = BOUNDS[(kind, where)]
            about = (name,) if kind not in ("pool", "node") else (pool,)
            self.fail(f"{kind} {name} of {pool} is {where} for too long ({bound.why})", *about)


def _clock(kind: str, state: Any) -> str:
    if kind == "instance":
        return str(state.offer.provider)
    if kind == "quarantine":
        return str(state.handle.provider)
    return str(state.provider) if kind == "cluster" else FairTime.WHOLE


class OverdueIsHeard(Checker):
    """A state that wants to hear of a time hears of it soon after."""

    name = "timers are heard"
    kinds = ("pool", "node", "instance", "task")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._due: dict[tuple[str, str, str], float] = {}
        self._late: dict[tuple[str, str, str], float] = {}  # fair time when it was seen to be due

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """It wants to hear of another time, or it just has."""
        row = (pool, kind, name)
        self._late.pop(row, None)
        due = None if new is None else new.due_at
        if due is None:
            self._due.pop(row, None)
        else:
            self._due[row] = due

    def tick(self, seconds: float, fair: Fair) -> None:
        """What is due was heard."""
        now = self.book.now() + self.book.offset
        house = self.book.fair.of(FairTime.HOUSE)
        for row, due in self._due.items():
            if due <= now and house - self._late.setdefault(row, house) > OVERDUE_S:
                pool, kind, name = row
                self.fail(f"{kind} {name} of {pool} was due {now - due:.0f} s ago", name)


class SlotsAreUsed(Checker):
    """No task waits while a machine of its pool has a free slot."""

    name = "slots are used"
    kinds = ("task", "instance")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._waiting: dict[str, dict[str, None]] = {}  # tasks by pool
        self._ready: dict[str, dict[str, None]] = {}  # machines by pool
        self._on: dict[str, int] = {}  # tasks by instance
        self._ticks: dict[str, int] = {}

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """Who waits, and where there is room."""
        if kind == "instance":
            ready = isinstance(new, Ready) and new.link_up
            there = self._ready.setdefault(pool, {})
            if ready:
                there[name] = None
            else:
                there.pop(name, None)
            return
        was, now = getattr(old, "instance_id", None), getattr(new, "instance_id", None)
        if was != now:
            if was is not None:
                self._on[was] -= 1
            if now is not None:
                self._on[now] = self._on.get(now, 0) + 1
        waiting = self._waiting.setdefault(pool, {})
        if new is not None and new.status == "pending" and new.not_before is None and new.spec.node is None:
            waiting[name] = None
        else:
            waiting.pop(name, None)

    def served(self) -> list[str]:
        """Pools with a machine that takes tasks."""
        return [pool for pool, ready in self._ready.items() if ready]

    def tick(self, seconds: float, fair: Fair) -> None:
        """Both at once does not last."""
        for pool, waiting in self._waiting.items():
            state = self.book.pools.get(pool)
            free = None
            may_work = waiting and fair.up and fair.writable
            if may_work and isinstance(state, Active | Parked) and state.paused is None:
                slots = state.spec.worker.concurrency
                free = next((one for one in self._ready.get(pool, ()) if self._on.get(one, 0) < slots), None)
            self._ticks[pool] = self._ticks.get(pool, 0) + 1 if free is not None else 0
            if free is not None and self._ticks[pool] >= FREE_TICKS:
                task = next(iter(waiting))
                self.fail(f"{len(waiting)} tasks of {pool} wait, and {free} has a free slot", task, free)


class AgentsWordComes(Checker):
    """What happens on machines gets known: a task that counts as running runs, and one that was given to a
    machine with a free slot begins."""

    name = "the agents' word comes"
    kinds = ("task",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._placed: dict[tuple[str, str], Any] = {}  # (pool, task) -> state
        self._since: dict[tuple[str, str], tuple[Hashable, float]] = {}

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """Who is on a machine."""
        if new is not None and new.status in ("assigned", "created", "running"):
            self._placed[(pool, name)] = new
        elif old is not None:
            self._placed.pop((pool, name), None)
            self._since.pop((pool, name), None)

    def tick(self, seconds: float, fair: Fair) -> None:
        """The journal and the machines agree, but for a while."""
        now = self.book.fair.of(FairTime.WHOLE)
        for (pool, task), state in self._placed.items():
            if self._agrees(pool, state):
                self._since.pop((pool, task), None)
                continue
            spell = (state.status, state.attempt)
            known, since = self._since.get((pool, task), (None, now))
            if known != spell:
                known, since = spell, now
                self._since[(pool, task)] = (spell, now)
            spec = self.book.pools[pool].spec if pool in self.book.pools else None
            if now - since > TOLD_S + (spec.unreachable_timeout if spec else 0.0):
                where = f"on {state.instance_id}, and no process of it is there"
                self.fail(f"{task} attempt {state.attempt} is {state.status} {where}", task)

    def _agrees(self, pool: str, state: Any) -> bool:
        ref = self.book.ref_of.get(state.instance_id, "")
        if (ref, state.attempt) in self.book.running.get(state.id, ()):
            return True
        if state.status == "running":
            return False
        owner = self.book.pools.get(pool)
        return owner is None or self.book.on.get(ref, 0) >= owner.spec.worker.concurrency
