"""What is derived from the states of one pool, kept up to date change by change.

Nothing here is truth: `apply` takes the contribution of the old state out and puts that of the new one in, so
undoing a change is applying it the other way round, and a restart builds the same from the journal.
"""

import heapq
from collections import Counter
from collections.abc import Iterable

from actors.address import Address
from actors.events import InstanceId, NodeInstance
from actors.instance.facts import node_instance
from actors.instance.state import (
    Bootstrapping,
    Destroyed,
    Destroying,
    Draining,
    InstanceState,
    Provisioning,
    Ready,
    Requested,
)
from actors.node.state import Filled, Filling, NodeState, Replacing, Retired, Vacant
from actors.pins import PinSums
from actors.policy.built import Build
from actors.policy.situation import Held
from actors.pool.state import Active, Parked, PoolState
from actors.pool.state import Destroyed as DestroyedPool
from actors.pool.state import Draining as DrainingPool
from actors.purse import Purse
from actors.spec import PoolSpec
from actors.task.state import Assigned, Created, Invalid, Pending, Running, Stopped, Stopping, TaskState
from providers.model import Value

_POOL = (Active, Parked, DrainingPool, DestroyedPool)
_NODE = (Vacant, Filling, Filled, Replacing, Retired)
_INSTANCE = (Requested, Provisioning, Bootstrapping, Ready, Draining, Destroying, Destroyed)
_HELD = (Provisioning, Bootstrapping, Ready, Draining)
_KEPT = (Requested, Provisioning, Bootstrapping, Ready)
_PLACED = (Assigned, Created, Running, Stopping, Invalid)


class Queue:
    """Tasks that may be placed now: highest priority first, then in the order they were asked for."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, str]] = []
        self._members: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def add(self, task: Pending) -> None:
        """Put a task in. One that is in already stays once."""
        entry = (-task.spec.priority, task.seq)
        if self._members.get(task.id) != entry:
            self._members[task.id] = entry
            heapq.heappush(self._heap, (*entry, task.id))

    def remove(self, task_id: str) -> None:
        """Take a task out. Its entry in the heap is passed over later."""
        self._members.pop(task_id, None)
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._members):
            self._heap = [(*entry, task) for task, entry in self._members.items()]
            heapq.heapify(self._heap)

    def first(self) -> str | None:
        """The next task, or None."""
        while self._heap:
            priority, seq, task_id = self._heap[0]
            if self._members.get(task_id) == (priority, seq):
                return task_id
            heapq.heappop(self._heap)
        return None


class Index:
    """Derived views of one pool's states."""

    def __init__(self) -> None:
        self.pool: PoolState | None = None
        self.nodes: dict[int, NodeState] = {}
        self.instances: dict[InstanceId, InstanceState] = {}  # not destroyed
        self.tasks: dict[str, TaskState] = {}  # not stopped
        self.asking: dict[int, None] = {}  # nodes that want a place now
        self.paused: dict[int, None] = {}  # nodes that wait before they ask again
        self.lost: dict[int, None] = {}  # of both, those that have no machine at all
        self.node_counts: Counter[str] = Counter()
        self.instance_counts: Counter[str] = Counter()
        self.held: Counter[str] = Counter()  # machines that are there, by market; only markets with some
        self.task_counts: Counter[str] = Counter()
        self.queue = Queue()
        self.pinned: dict[int, Queue] = {}
        self.free: dict[InstanceId, None] = {}  # takes a task at once; first come, first served
        self.buffers: dict[InstanceId, None] = {}  # takes one to wait there
        self.node_of_instance: dict[InstanceId, int] = {}
        self.purse = Purse()
        self.pins = PinSums()
        self._pinned: dict[int, dict[str, None]] = {}  # pending tasks by node, held back or not
        self._idle: dict[InstanceId, float] = {}
        self._idle_in_order = True
        self._machines: dict[int, Held | None] = {}  # by node, as placement saw them last
        self._seen_by: dict[InstanceId, set[int]] = {}  # nodes of which that says something by this machine
        self._on: dict[InstanceId, dict[str, None]] = {}
        self._leaving: dict[int, dict[InstanceId, None]] = {}  # by the nodes that they fill, or did
        self.moved_away = 0  # of those, the ones that better machines replaced
        self.outdated: dict[InstanceId, None] = {}  # at work or coming, and not what the spec asks for
        self._build: Build | None = None
        self._shown: dict[InstanceId, NodeInstance] = {}

    # --- what rules ask ---------------------------------------------------------------------------

    @property
    def pool_spec(self) -> PoolSpec:
        """The pool's spec as it is now."""
        assert self.pool is not None
        return self.pool.spec

    @property
    def build(self) -> Build:
        """What the pool's spec asks of machines."""
        assert self._build is not None
        return self._build

    def tasks_on(self, instance: InstanceId) -> tuple[str, ...]:
        """Tasks whose attempt is on this machine, not surely ended."""
        return tuple(self._on.get(instance, ()))

    def is_leaving(self, instance: InstanceId) -> bool:
        """Whether the machine drains and wants to know when its tasks have left."""
        return isinstance(self.instances.get(instance), Draining)

    def leaving_from(self, node: int) -> tuple[InstanceId, ...]:
        """Machines of a node that drain; a node that has another names them no more."""
        return tuple(self._leaving.get(node, ()))

    @property
    def left_nodes(self) -> list[int]:
        """Nodes with machines that drain, ascending."""
        return sorted(self._leaving)

    def was_moved(self, instance: InstanceId) -> bool:
        """Whether the machine ends because a better one took its place, and not because it is taken."""
        state = self.instances.get(instance)
        if isinstance(state, Draining) and state.lost:
            return False
        return isinstance(state, Draining | Destroying) and state.reason == "moved"

    def is_ready(self, instance: InstanceId) -> bool:
        """Whether the machine is thought to take tasks."""
        return isinstance(self.instances.get(instance), Ready)

    def node_instance(self, instance: InstanceId) -> NodeInstance | None:
        """The machine as events show it; None when it is not known any more."""
        shown = self._shown.get(instance)
        if shown is None and (state := self.instances.get(instance)) is not None:
            shown = self._shown[instance] = node_instance(state)
        return shown

    def replacement_requests(self, node: int, old: InstanceId) -> tuple[str, ...]:
        """The DrainRequested that the replacement of `old` ends."""
        state = self.nodes.get(node)
        if state is None or isinstance(state, Retired) or state.draining_id != old:
            return ()
        return () if state.drain_request is None else (state.drain_request,)

    def removal_requests(self, node: int, instance: InstanceId) -> tuple[str, ...]:
        """The DrainRequested that the end of this machine ends."""
        state = self.nodes.get(node)
        if not isinstance(state, Retired) or state.draining_id != instance:
            return ()
        return () if state.drain_request is None else (state.drain_request,)

    def pinned_to(self, node: int) -> tuple[str, ...]:
        """Pending tasks that may run on this node only, held back or not."""
        return tuple(self._pinned.get(node, ()))

    @property
    def pinned_nodes(self) -> list[int]:
        """Nodes that some pending task may run on only, ascending."""
        return sorted(self._pinned)

    @property
    def idle(self) -> dict[InstanceId, float]:
        """Ready machines without a task and since when, longest first.

        A restart does not know of tasks that were over by then: see `View.began`.
        """
        if not self._idle_in_order:
            self._idle = dict(sorted(self._idle.items(), key=lambda entry: (entry[1], entry[0])))
            self._idle_in_order = True
        return self._idle

    def machines(self) -> tuple[Held, ...]:
        """The machine of every node that is there to stay, by the nodes' numbers. A look at each node."""
        known, found = self._machines, list[Held]()
        for node in sorted(self.nodes):
            if node not in known:
                known[node] = self._machine_of(self.nodes[node])
            if (held := known[node]) is not None:
                found.append(held)
        return tuple(found)

    def _machine_of(self, node: NodeState) -> Held | None:
        if not isinstance(node, Filled | Filling | Replacing) or node.instance_id is None:
            return None
        self._seen_by.setdefault(node.instance_id, set()).add(node.node)
        state = self.instances.get(node.instance_id)
        if state is None:
            return None
        is_filled = isinstance(node, Filled)
        return Held(
            node=node.node,
            instance_id=state.id,
            offer=state.offer,
            launched_at=state.created_at,
            ready=is_filled,
            movable=is_filled and isinstance(state, Ready) and state.link_up,
            busy=len(self._on.get(state.id, ())),
        )

    @property
    def nodes_ready(self) -> int:
        """Nodes with a machine that works."""
        return self.node_counts["filled"] + self.node_counts["replacing"]

    @property
    def pending(self) -> int:
        """Tasks that wait for a place, held back or not."""
        return self.task_counts["pending"]

    def next_slot(self) -> InstanceId | None:
        """The machine that should take the next task."""
        for slots in (self.free, self.buffers):
            for instance in slots:
                return instance
        return None

    def has_slot(self, instance: InstanceId) -> bool:
        """Whether the machine takes one more task."""
        return instance in self.free or instance in self.buffers

    # --- upkeep -----------------------------------------------------------------------------------

    def apply(self, address: Address, old: Value | None, new: Value | None) -> None:
        """Replace the contribution of one state by another's."""
        kind, name = address
        if kind == "task":
            self._task(name, old, new)  # type: ignore[arg-type]
        elif isinstance(old, _INSTANCE) or isinstance(new, _INSTANCE):
            self._instance(name, old, new)  # type: ignore[arg-type]
        elif isinstance(old, _NODE) or isinstance(new, _NODE):
            self._node(int(name), old, new)  # type: ignore[arg-type]
        elif isinstance(new, _POOL):
            respec = self.pool is None or self.pool.spec is not new.spec  # a restart may hear of it last
            self.pool = new
            if respec:
                self._respecced(Build.of(new.spec, new.unmarked))
        elif isinstance(old, _POOL):
            self.pool = None
            self._respecced(None)

    def _respecced(self, build: Build | None) -> None:
        self._reslot_all(self.instances)
        self._build = build
        self.outdated.clear()
        for name, state in self.instances.items():
            self._compare(name, state)

    def _compare(self, name: str, state: InstanceState | None) -> None:
        """Note whether a machine is what the spec asks for."""
        self.outdated.pop(name, None)
        if self._build is None or not isinstance(state, _KEPT) or getattr(state, "leave", None) is not None:
            return
        if self._build.lacks(state.image, state.disk_gb, state.offer) is not None:
            self.outdated[name] = None

    def _task(self, task: str, old: TaskState | None, new: TaskState | None) -> None:
        if old is not None and not isinstance(old, Stopped):
            self.task_counts[old.status] -= 1
            if isinstance(old, Pending):
                self._leave_queue(old)
            else:
                self._on[old.instance_id].pop(task, None)
                if not self._on[old.instance_id]:
                    del self._on[old.instance_id]
        if new is None or isinstance(new, Stopped):
            self.tasks.pop(task, None)
        else:
            self.tasks[task] = new
            self.task_counts[new.status] += 1
            if isinstance(new, Pending):
                self._join_queue(new)
                if old is None:
                    return
            else:
                self._on.setdefault(new.instance_id, {})[task] = None
        was = old.instance_id if isinstance(old, _PLACED) else None
        now = new.instance_id if isinstance(new, _PLACED) else None
        if was != now:
            for instance in (was, now):
                if instance is not None:
                    self._reslot(instance)
                    self._reidle(instance, 0.0 if new is None else new.since)

    def _join_queue(self, task: Pending) -> None:
        node = task.spec.node
        if node is not None:
            self._pinned.setdefault(node, {})[task.id] = None
            self.pins.node_changed(node)
        if task.not_before is None:  # one that is held back waits in no queue
            (self.queue if node is None else self.pinned.setdefault(node, Queue())).add(task)

    def _leave_queue(self, task: Pending) -> None:
        node = task.spec.node
        if node is None:
            self.queue.remove(task.id)
            return
        self.pins.node_changed(node)
        self._pinned[node].pop(task.id)
        if not self._pinned[node]:
            del self._pinned[node]
        if (queue := self.pinned.get(node)) is not None:
            queue.remove(task.id)
            if not len(queue):
                del self.pinned[node]

    def _instance(self, name: str, old: InstanceState | None, new: InstanceState | None) -> None:
        if old is not None and not isinstance(old, Destroyed):
            self.instance_counts[old.status] -= 1
        if isinstance(old, Draining):
            self._leave(old, -1)
        if isinstance(new, Draining):
            self._leave(new, 1)
        if isinstance(old, _HELD) != isinstance(new, _HELD):
            self._hold(old if isinstance(old, _HELD) else new, -1 if isinstance(old, _HELD) else 1)
        if new is None or isinstance(new, Destroyed):
            self.instances.pop(name, None)
            if new is None:
                self._shown.pop(name, None)
            else:  # the facts of this turn still show it; commit forgets it
                self._shown[name] = node_instance(new)
        else:
            self.instances[name] = new
            self.instance_counts[new.status] += 1
            self._shown.pop(name, None)
        self.purse.change(name, new)
        if old is None or new is None or old.status != new.status or old.image != new.image:
            self._compare(name, new)
        self._reslot(name)
        self._reidle(name, 0.0)

    def _leave(self, state: Draining, by: int) -> None:
        self.moved_away += by if state.reason == "moved" else 0
        if by > 0:
            self._leaving.setdefault(state.node, {})[state.id] = None
            return
        self._leaving[state.node].pop(state.id)
        if not self._leaving[state.node]:
            del self._leaving[state.node]

    def _hold(self, state: InstanceState | None, by: int) -> None:
        assert state is not None
        market = str(state.offer.market)
        self.held[market] += by
        if not self.held[market]:
            del self.held[market]

    def forget(self, instance: InstanceId) -> None:
        """Drop what was kept of a destroyed machine for the facts of its last turn."""
        if instance not in self.instances:
            self._shown.pop(instance, None)

    def _node(self, node: int, old: NodeState | None, new: NodeState | None) -> None:
        if old is not None:
            self.node_counts[old.status] -= 1
        for some in (self.asking, self.paused, self.lost):
            some.pop(node, None)
        self._machines.pop(node, None)
        self.pins.node_changed(node)
        if new is None:
            self.nodes.pop(node, None)
            return
        self.nodes[node] = new
        self.node_counts[new.status] += 1
        if isinstance(new, Filling | Replacing) and new.instance_id is None:
            (self.asking if new.wants_place else self.paused)[node] = None
            if isinstance(new, Filling):
                self.lost[node] = None

    def _reslot_all(self, instances: Iterable[InstanceId]) -> None:
        for instance in list(instances):
            self._reslot(instance)

    def _reslot(self, instance: InstanceId) -> None:
        """Put the machine where its next task would find it."""
        self.free.pop(instance, None)
        self.buffers.pop(instance, None)
        state = self.instances.get(instance)
        if not isinstance(state, Ready) or not state.link_up or self.pool is None:
            return
        worker = self.pool.spec.worker
        used = len(self._on.get(instance, ()))
        if used < worker.concurrency:
            self.free[instance] = None
        elif used < worker.concurrency + worker.buffer:
            self.buffers[instance] = None

    def _reidle(self, instance: InstanceId, left_at: float) -> None:
        """Note since when a machine has no task; the last one left it at `left_at`."""
        for node in self._seen_by.pop(instance, ()):
            self._machines.pop(node, None)
        self.pins.machine_changed(instance)
        state = self.instances.get(instance)
        if not isinstance(state, Ready) or instance in self._on:
            self._idle.pop(instance, None)
            return
        since = max(state.since, left_at)
        if self._idle.get(instance, -1.0) >= since:
            return
        self._idle.pop(instance, None)
        if self._idle and self._idle[next(reversed(self._idle))] > since:
            self._idle_in_order = False
        self._idle[instance] = since
