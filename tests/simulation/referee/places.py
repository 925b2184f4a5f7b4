"""Rules about places and limits: who holds a rank, what is at work, and what is never exceeded."""

from collections import Counter
from typing import Any

from actors.instance.state import Bootstrapping, Provisioning, Ready, Requested
from actors.loop import MAILBOX_MAX
from actors.node.state import Filled, Replacing
from actors.pool.state import Active, Parked
from actors.pool.wanted import told, wanted_count
from actors.ports import Commit
from tests.simulation.referee.base import Checker
from tests.simulation.referee.book import Made

Place = tuple[str, int]  # pool, rank
SLOTS_LAG_S = 7200.0  # how long a machine that hears nothing may work by the slots it was told last


class OneReadyARank(Checker):
    """A node's rank is never held by two ready machines."""

    name = "a rank is held once"
    kinds = ("instance",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._ready: dict[Place, dict[str, None]] = {}
        self._crowded: dict[Place, None] = {}

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """Only the ranks of what changed are looked at."""
        if isinstance(old, Ready):
            self._ready[(pool, old.node)].pop(name, None)
        if isinstance(new, Ready):
            holders = self._ready.setdefault((pool, new.node), {})
            holders[name] = None
            if len(holders) > 1:
                self._crowded[(pool, new.node)] = None

    def committed(self, commit: Commit) -> None:
        """Within a commit states come in any order."""
        for place in self._crowded:
            holders = list(self._ready[place])
            if len(holders) > 1:
                self.fail(f"{place[0]}/{place[1]} is held by {holders}", *holders)
        self._crowded.clear()


class OnlyWantedAtWork(Checker):
    """A machine that is coming or at work is one that its node names: as the one that fills it, or as the old
    one that works on until it is replaced. So there are at most as many as are wanted, spares among them, and
    one more for each node that is replacing or moving. A node that is filled has a machine that works.

    That is the product's rule: nodes order one machine at a time, those that are not wanted any more are told
    to leave in the same turn, and what leaves drains, is destroyed, or is a launch in flight with `leave`."""

    name = "only what is wanted is at work"
    kinds = ("pool", "node", "instance")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._at_work: dict[Place, dict[str, None]] = {}
        self._count: Counter[str] = Counter()
        self._replacing: Counter[str] = Counter()
        self._touched: dict[Place, None] = {}

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """Keep the counts."""
        if kind == "node":
            self._replacing[pool] += isinstance(new, Replacing) - isinstance(old, Replacing)
            self._touched[(pool, int(name))] = None
        elif kind == "instance":
            if _is_at_work(old):  # a machine may change nodes while it works
                self._count[pool] -= 1
                self._at_work[(pool, old.node)].pop(name, None)
            if _is_at_work(new):
                self._count[pool] += 1
                self._at_work.setdefault((pool, new.node), {})[name] = None
            for state in (old, new):
                if state is not None:
                    self._touched[(pool, state.node)] = None

    def committed(self, commit: Commit) -> None:
        """Compare."""
        pool = self.book.pools.get(commit.pool)
        if self._touched and isinstance(pool, Active | Parked):
            for place in self._touched:
                self._look(place)
            most = wanted_count(pool) + self._replacing[commit.pool]
            is_steered = pool.steered == told(pool)
            if is_steered and self._count[commit.pool] > most:
                self._too_many(commit.pool, most)
        self._touched.clear()

    def _too_many(self, pool: str, most: int) -> None:
        names = [name for place, there in self._at_work.items() if place[0] == pool for name in there]
        self.fail(f"{pool} has {len(names)} machines at work, {most} are wanted: {sorted(names)}", pool)

    def _look(self, place: Place) -> None:
        pool, number = place
        node = self.book.states.get((pool, "node", str(number)))
        if node is None:
            return
        named = (getattr(node, "instance_id", None), getattr(node, "old_id", None))
        for name in self._at_work.get(place, ()):
            if name not in named:
                self.fail(
                    f"{name} is at work, and node {pool}/{number} ({node.status}) does not name it", name
                )
        if isinstance(node, Filled) and node.instance_id in self.book.key_of:
            state = self.book.states.get((pool, "instance", node.instance_id))
            if not isinstance(state, Ready | Bootstrapping):
                status = "over" if state is None else state.status
                self.fail(
                    f"node {pool}/{number} is filled by {node.instance_id}, which is {status}",
                    node.instance_id,
                )


def _is_at_work(state: Any) -> bool:
    if isinstance(state, Requested):
        return state.leave is None
    return isinstance(state, Provisioning | Bootstrapping | Ready)


class LimitsHold(Checker):
    """What has a stated maximum keeps to it: machines of an account, tasks in a queue, processes on a
    machine, letters in a mailbox, events of a run."""

    name = "limits hold"
    events = (object,)
    kinds = ("pool", "task")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.events_max = 0  # none
        self._seqs: set[int] = set()
        self._waiting: Counter[str] = Counter()  # pending tasks by pool
        self._again: Counter[str] = Counter()  # those of them that had been placed before
        self._asked: dict[str, int] = {}  # the longest queue a pool's spec allowed since its last commit
        self._slots: dict[str, list[tuple[float, int]]] = {}  # pool -> (fair time, concurrency), newest last

    def event(self, envelope: Any, event: Any) -> None:
        """Each seq is given once, and not too many."""
        if envelope.seq in self._seqs:
            self.fail(f"seq {envelope.seq} was given twice")
        self._seqs.add(envelope.seq)
        if self.events_max and len(self._seqs) > self.events_max:
            self.fail(f"more than {self.events_max} events: something runs hot")

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """Keep the counts."""
        if kind == "pool":
            if new is not None:
                self._pool(pool, new)
            return
        was, now = (one is not None and one.status == "pending" for one in (old, new))
        if was:
            self._waiting[pool] -= 1
            self._again[pool] -= old.attempt > 1
        if now:
            self._waiting[pool] += 1
            self._again[pool] += new.attempt > 1
            if not was and new.attempt == 1:
                self._asked.setdefault(pool, 0)

    def _pool(self, pool: str, state: Any) -> None:
        slots = self._slots.setdefault(pool, [])
        concurrency = state.spec.worker.concurrency
        if not slots or slots[-1][1] != concurrency:
            slots.append((self.book.fair.total, concurrency))
            while len(slots) > 1 and slots[1][0] < self.book.fair.total - SLOTS_LAG_S:
                del slots[0]

    def committed(self, commit: Commit) -> None:
        """A queue that was full took no task in. (Tasks that come back to it are not counted.)"""
        for pool in self._asked:
            state = self.book.pools.get(pool)
            new = self._waiting[pool] - self._again[pool]
            if state is not None and new > state.spec.queue_max:
                self.fail(f"{new} tasks wait in {pool}, {state.spec.queue_max} may", pool)
        self._asked.clear()

    def process_began(self, ref: str, task: str, attempt: int) -> None:
        """There was a free slot."""
        made = self.book.machines.get(ref)
        if made is None or made.machine is None:
            return
        parts = made.key.split("/")
        slots = self._slots.get(parts[1]) if len(parts) == 5 else None
        if not slots:
            return
        since = self.book.fair.total - SLOTS_LAG_S
        most = max(slots[-1][1], *(n for i, (_, n) in enumerate(slots[:-1]) if slots[i + 1][0] >= since), 0)
        if self.book.on.get(ref, 0) >= most:
            self.fail(f"{task} begins on {ref} as process {self.book.on[ref] + 1}, {most} slots", task, ref)

    def machine_made(self, made: Made) -> None:
        """The account's maximum."""
        cloud = self.book.clouds.get(made.provider)
        if cloud is not None:
            count = sum(1 for one in self.book.living.values() if one.provider == made.provider)
            if count > cloud.config.machines_max:
                self.fail(
                    f"{count} machines at {made.provider}, {cloud.config.machines_max} may be", made.ref
                )

    def mailbox(self, pool: str, waiting: int) -> None:
        """So many letters wait for a pool."""
        if waiting > MAILBOX_MAX:
            self.fail(f"{waiting} letters wait for {pool}, {MAILBOX_MAX} may", pool)
