"""The read model: what lives now, kept by commits. A read never enters a mailbox.

State objects are immutable and kept by reference, so upkeep costs what changed and reads cost what is
shown. What is over is remembered up to a maximum; the journal has the rest.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from actors.address import Address
from actors.instance import state as instances
from actors.instance.state import InstanceState
from actors.market.state import MarketState
from actors.node.state import Filled, Filling, NodeState, Replacing, Vacant
from actors.policy.adoption import Quarantined
from actors.pool import state as pools
from actors.pool.state import PoolState
from actors.pool.wanted import spare_ranks, spares_of
from actors.ports import Commit
from actors.task import state as tasks
from actors.task.state import TaskState
from controller.outdated import Outdated
from controller.views import (
    POOL_CODES,
    Json,
    PoolStatus,
    cluster_view,
    doing,
    dollars,
    instance_view,
    micro_usd_per_hour,
    node_view,
    pool_reason,
    pool_status,
    task_view,
)
from providers.model import Value

_POOL = (pools.Active, pools.Parked, pools.Draining, pools.Destroyed)
_NODE = NodeState.__args__
_INSTANCE = InstanceState.__args__
_TASK = TaskState.__args__
_SCAN_MAX = 50_000  # tasks looked at for one page, so that no read holds up the daemon


class TaskPage(NamedTuple):
    """Some tasks, newest first. `cursor` goes on after them; None: there are no more."""

    tasks: list[TaskState]
    cursor: int | None


class Snapshot(NamedTuple):
    """One pool at one moment. The states are immutable, so that another thread may look at them.

    `placed` are tasks on machines, `tasks_on` their ids by instance.
    """

    state: PoolState
    status: PoolStatus
    nodes: Mapping[int, NodeState]
    instances: Mapping[str, InstanceState]  # living
    placed: Sequence[TaskState]
    tasks_on: Mapping[str, Sequence[str]]
    task_counts: Mapping[str, int]  # living


class _Pool:
    """What is known of one pool."""

    def __init__(self, state: PoolState) -> None:
        self.state = state
        self.nodes: dict[int, NodeState] = {}
        self.instances: dict[str, InstanceState] = {}  # living
        self.node_counts: Counter[str] = Counter()
        self.instance_counts: Counter[str] = Counter()
        self.task_counts: Counter[str] = Counter()  # living
        self.results: Counter[str] = Counter()  # of remembered ended tasks
        self.unplaced: dict[int, None] = {}
        self.micro_usd_per_hour = 0
        self.outdated = Outdated()
        self.outdated.pool(state, ())

    @property
    def ready(self) -> int:
        """Desired nodes with a machine that works; spares are beyond them."""
        working = self.node_counts["filled"] + self.node_counts["replacing"]
        if not working or not spares_of(self.state):
            return working
        spares = (self.nodes.get(node) for node in spare_ranks(self.state))
        return working - sum(1 for node in spares if isinstance(node, Filled | Replacing))

    @property
    def status(self) -> PoolStatus:
        return pool_status(
            self.state, ready=self.ready, ordered=len(self.instances), unplaced=len(self.unplaced)
        )


class Status:
    """Implements `actors.ports.Observer`. All methods belong to the event loop's thread.

    Attributes:
        tasks_ended_max, instances_ended_max, pools_ended_max: how much that is over is remembered.
        tasks_forgotten: ended tasks that were dropped for room since start.
        markets: memory of markets, by name.
        quarantine: what is in quarantine, by its id.
    """

    def __init__(
        self, *, tasks_ended_max: int = 10_000, instances_ended_max: int = 1_000, pools_ended_max: int = 100
    ) -> None:
        self.tasks_ended_max = tasks_ended_max
        self.instances_ended_max = instances_ended_max
        self.pools_ended_max = pools_ended_max
        self.tasks_forgotten = 0
        self.markets: dict[str, MarketState] = {}
        self.quarantine: dict[str, Quarantined] = {}
        self._pools: dict[str, _Pool] = {}
        self._pools_ended: dict[str, _Pool] = {}
        self._instances: dict[str, InstanceState] = {}  # living and remembered
        self._instances_ended: dict[str, None] = {}
        self._tasks: dict[str, TaskState] = {}  # living and remembered
        self._tasks_ended: dict[str, None] = {}
        self._order: list[tuple[int, str]] = []  # (seq, task), some of them forgotten
        self._on: dict[str, dict[str, None]] = {}  # instance -> tasks on it

    # --- Observer -----------------------------------------------------------------------------

    def committed(self, commit: Commit) -> None:
        """Take in the changed states."""
        for row in commit.states:
            self._take(commit.pool, row.kind, row.id, row.state)

    def turn_ended(self, pool: str, *, messages: int, seconds: float, waiting: int) -> None:
        """Nothing here is about turns."""

    def bug(self, address: str, message: str, error: BaseException) -> None:
        """Bugs are journaled and logged elsewhere."""

    def load(self, pool: str, states: Mapping[Address, Value]) -> None:
        """Take in, at recovery, what the journal holds of a pool; `pool` is empty for markets and such."""

        def age(entry: tuple[Address, Value]) -> tuple[bool, float]:
            state = entry[1]
            if isinstance(state, tasks.Stopped):
                return True, state.ended_at
            return not isinstance(state, _POOL), getattr(state, "since", 0.0)

        for (kind, name), state in sorted(states.items(), key=age):
            self._take(pool, kind, name, state)

    # --- upkeep -------------------------------------------------------------------------------

    def _take(self, pool: str, kind: str, name: str, state: Value | None) -> None:
        match kind:
            case "task" if state is None or isinstance(state, _TASK):
                self._task(pool, name, state)
            case "instance" if state is None or isinstance(state, _INSTANCE):
                self._instance(pool, name, state)
            case "node" if state is None or isinstance(state, _NODE):
                self._node(pool, int(name), state)
            case "pool" if state is None or isinstance(state, _POOL):
                self._pool(name, state)
            case "market" if isinstance(state, MarketState):
                self.markets[name] = state
            case "market":
                self.markets.pop(name, None)
            case "quarantine" if isinstance(state, Quarantined):
                self.quarantine[name] = state
            case "quarantine":
                self.quarantine.pop(name, None)
            case _:
                pass  # a kind that is not shown

    def _pool(self, name: str, state: PoolState | None) -> None:
        known = self._pools.get(name)
        if state is None:
            self._pools.pop(name, None)
        elif isinstance(state, pools.Destroyed):
            ended = self._pools.pop(name, None) or _Pool(state)
            ended.state = state
            ended.nodes, ended.node_counts, ended.unplaced = {}, Counter(), {}
            ended.outdated = Outdated()
            self._pools_ended.pop(name, None)
            self._pools_ended[name] = ended
            while len(self._pools_ended) > self.pools_ended_max:
                self._pools_ended.pop(next(iter(self._pools_ended)))
        elif known is None:
            self._pools_ended.pop(name, None)
            self._pools[name] = _Pool(state)
        else:
            known.state = state
            known.outdated.pool(state, known.instances.values())

    def _record(self, pool: str) -> _Pool | None:
        return self._pools.get(pool) or self._pools_ended.get(pool)

    def _node(self, pool: str, node: int, state: NodeState | None) -> None:
        record = self._pools.get(pool)
        if record is None:
            return  # the pool was destroyed in the same commit
        old = record.nodes.pop(node, None) if state is None else record.nodes.get(node)
        if old is not None:
            record.node_counts[old.status] -= 1
        record.unplaced.pop(node, None)
        if state is None:
            return
        record.nodes[node] = state
        record.node_counts[state.status] += 1
        if isinstance(state, Filling | Replacing) and state.instance_id is None:
            record.unplaced[node] = None

    def _instance(self, pool: str, name: str, state: InstanceState | None) -> None:
        record = self._record(pool)
        if record is not None and name in record.instances:
            before = record.instances.pop(name)
            record.instance_counts[before.status] -= 1
            record.micro_usd_per_hour -= micro_usd_per_hour(before)
            record.outdated.machine(name, None)
        if state is None:
            self._instances.pop(name, None)
            self._instances_ended.pop(name, None)
            return
        self._instances[name] = state
        if isinstance(state, instances.Destroyed):
            self._instances_ended[name] = None
            while len(self._instances_ended) > self.instances_ended_max:
                oldest = next(iter(self._instances_ended))
                del self._instances_ended[oldest]
                self._instances.pop(oldest, None)
        elif record is not None:
            record.instances[name] = state
            record.instance_counts[state.status] += 1
            record.micro_usd_per_hour += micro_usd_per_hour(state)
            record.outdated.machine(name, state)

    def _task(self, pool: str, name: str, state: TaskState | None) -> None:
        record, old = self._record(pool), self._tasks.get(name)
        if old is not None:
            self._uncount(record, old)
        if state is None:
            self._tasks.pop(name, None)
            self._tasks_ended.pop(name, None)
            return
        if old is None:
            entry = (state.seq, name)
            if not self._order or self._order[-1] < entry:
                self._order.append(entry)
            else:
                insort(self._order, entry)
        self._tasks[name] = state
        if isinstance(state, tasks.Stopped):
            if record is not None:
                record.results[state.result] += 1
            self._tasks_ended[name] = None
            self._forget_tasks()
        else:
            if record is not None:
                record.task_counts[state.status] += 1
            if not isinstance(state, tasks.Pending):
                self._on.setdefault(state.instance_id, {})[name] = None

    def _uncount(self, record: _Pool | None, old: TaskState) -> None:
        if isinstance(old, tasks.Stopped):
            if record is not None:
                record.results[old.result] -= 1
            return
        if record is not None:
            record.task_counts[old.status] -= 1
        if not isinstance(old, tasks.Pending):
            there = self._on.get(old.instance_id, {})
            there.pop(old.id, None)
            if not there:
                self._on.pop(old.instance_id, None)

    def _forget_tasks(self) -> None:
        while len(self._tasks_ended) > self.tasks_ended_max:
            oldest = next(iter(self._tasks_ended))
            del self._tasks_ended[oldest]
            gone = self._tasks.pop(oldest)
            self._uncount(self._record(gone.pool), gone)
            self.tasks_forgotten += 1
        if len(self._order) > 1000 and len(self._order) > 2 * len(self._tasks):
            self._order = [entry for entry in self._order if entry[1] in self._tasks]

    # --- reading: states ----------------------------------------------------------------------

    def pool_names(self) -> list[str]:
        """Names of living pools."""
        return sorted(self._pools)

    def pool_state(self, name: str) -> PoolState | None:
        """A pool that lives, or one remembered as destroyed."""
        record = self._record(name)
        return record.state if record is not None else None

    def pool_status(self, name: str) -> PoolStatus | None:
        """The word for how a pool is; None when it is not known."""
        record = self._record(name)
        return record.status if record is not None else None

    def pool_ready(self, name: str) -> int | None:
        """How many of a living pool's desired nodes have a machine that works; None when it is not known."""
        record = self._pools.get(name)
        return record.ready if record is not None else None

    def task_state(self, task_id: str) -> TaskState | None:
        """A task that lives, or is remembered."""
        return self._tasks.get(task_id)

    def instance_state(self, instance_id: str) -> InstanceState | None:
        """An instance that lives, or is remembered."""
        return self._instances.get(instance_id)

    def living_tasks(self) -> list[tuple[str, str]]:
        """(pool, task id) of every task that is not over."""
        return [(it.pool, name) for name, it in self._tasks.items() if not isinstance(it, tasks.Stopped)]

    def machines(self, pool: str) -> list[InstanceState]:
        """The pool's living instances."""
        record = self._record(pool)
        return [] if record is None else list(record.instances.values())

    def snapshot(self, name: str) -> Snapshot | None:
        """A pool as it is now, or as it was when it was destroyed; None when it is not known."""
        record = self._record(name)
        if record is None:
            return None
        tasks_on = {one: tuple(self._on[one]) for one in record.instances if one in self._on}
        return Snapshot(
            state=record.state,
            status=record.status,
            nodes=dict(record.nodes),
            instances=dict(record.instances),
            placed=[self._tasks[task] for on in tasks_on.values() for task in on],
            tasks_on=tasks_on,
            task_counts=+record.task_counts,
        )

    def all_tasks(self) -> list[TaskState]:
        """Tasks of all pools that live or are remembered."""
        return list(self._tasks.values())

    def task_ids(self, limit: int) -> list[str]:
        """The newest tasks' ids, for suggestions."""
        return [name for _, name in self._order[-limit:] if name in self._tasks]

    def instance_ids(self) -> list[str]:
        """Ids of all instances that live or are remembered."""
        return list(self._instances)

    def task_page(
        self,
        pool: str | None = None,
        statuses: Collection[str] | None = None,
        limit: int = 100,
        before: int | None = None,
        shows: Callable[[TaskState], bool] | None = None,
    ) -> TaskPage:
        """Tasks that live or are remembered, newest first, older than seq `before`; `shows` filters besides.

        A page may be short, even empty, and yet have a cursor: then the search goes on there.
        """
        end = len(self._order) if before is None else bisect_left(self._order, (before, ""))
        found: list[TaskState] = []
        start = max(0, end - _SCAN_MAX)
        for place in range(end - 1, start - 1, -1):
            seq, name = self._order[place]
            state = self._tasks.get(name)
            if state is None or (pool is not None and state.pool != pool):
                continue
            if statuses is not None and state.status not in statuses:
                continue
            if shows is not None and not shows(state):
                continue
            found.append(state)
            if len(found) >= limit:
                return TaskPage(found, seq if place > 0 else None)
        return TaskPage(found, self._order[start][0] if start > 0 else None)

    # --- reading: views -----------------------------------------------------------------------

    def pool_view(self, name: str) -> Json | None:
        """One pool as lists show it, without its spec."""
        record = self._record(name)
        return None if record is None else self._pool_view(record)

    def node_states(self, pool: str | None = None) -> Iterable[NodeState]:
        """All nodes, or those of one pool."""
        return [state for record in self._chosen(pool) for state in record.nodes.values()]

    def node_view(self, state: NodeState) -> Json:
        """A node as JSON."""
        machine = self._instances.get(getattr(state, "instance_id", None) or "")
        return node_view(state, machine, self._instances.get(getattr(state, "old_id", None) or ""))

    def instance_states(self, pool: str | None = None, *, ended: bool = False) -> Iterable[InstanceState]:
        """Living instances, or with `ended` those remembered as destroyed, of all pools or of one."""
        if not ended:
            return [state for record in self._chosen(pool) for state in record.instances.values()]
        states = (self._instances[name] for name in self._instances_ended)
        return [state for state in states if pool is None or state.pool == pool]

    def pools(self) -> list[Json]:
        """All living pools."""
        return [self._pool_view(self._pools[name]) for name in self.pool_names()]

    def pool(self, name: str) -> Json | None:
        """One pool, spec and waiting requests included; None when it never was, or is forgotten."""
        record = self._record(name)
        if record is None:
            return None
        view = self._pool_view(record)
        view["spec"] = record.state.spec.model_dump(mode="json")
        return view

    def _pool_view(self, record: _Pool) -> Json:
        state = record.state
        status = record.status
        outdated = record.outdated
        return {
            "name": state.name,
            "status": status,
            "status_code": POOL_CODES[status],
            "desired": state.desired,
            "min": state.spec.nodes.min if state.spec.nodes.min is not None else state.desired,
            "max": state.spec.nodes.max,
            "ready": record.ready,
            "nodes": +record.node_counts,
            "instances": +record.instance_counts,
            "tasks": +record.task_counts,
            "results": +record.results,
            "queue": record.task_counts["pending"],
            "usd_per_hour": dollars(record.micro_usd_per_hour),
            "provider": list(state.spec.provider),
            "clusters": [cluster_view(cluster) for cluster in state.clusters.values()],
            "waiting": [one.model_dump(mode="json") for one in state.waiting],
            "reason": pool_reason(state, outdated.count),
            "outdated": outdated.count,
            "paused": paused.model_dump() if (paused := getattr(state, "paused", None)) else None,
            "generation": state.generation,
            "made_by": state.made_by,
            "since": state.since,
        }

    def nodes(self, pool: str | None = None) -> list[Json]:
        """All nodes, or those of one pool."""
        return [self.node_view(state) for state in sorted(self.node_states(pool), key=_place)]

    def instances(self, now: float, pool: str | None = None, *, ended: bool = False) -> list[Json]:
        """Living instances, or with `ended` those remembered as destroyed."""
        return [self.instance_view(state, now) for state in self.instance_states(pool, ended=ended)]

    def instance(self, instance_id: str, now: float) -> Json | None:
        """One instance, living or remembered."""
        state = self._instances.get(instance_id)
        return None if state is None else self.instance_view(state, now)

    def instance_view(self, state: InstanceState, now: float) -> Json:
        """An instance as JSON."""
        on = tuple(self._on.get(state.id, ()))
        return instance_view(state, on, now, outdated=self.is_outdated(state))

    def is_outdated(self, state: InstanceState) -> bool:
        """Whether an instance is not what its pool's spec asks for."""
        record = self._pools.get(state.pool)
        return record is not None and record.outdated.has(state.id)

    def task(self, task_id: str) -> Json | None:
        """One task, living or remembered."""
        state = self._tasks.get(task_id)
        return None if state is None else task_view(state)

    def _chosen(self, pool: str | None) -> Sequence[_Pool]:
        if pool is None:
            return list(self._pools.values())
        record = self._record(pool)
        return [record] if record is not None else []

    def why(self, pool: str) -> list[Json]:
        """One entry for each node that lacks a machine: what it waits for, and until when."""
        record = self._record(pool)
        if record is None:
            return []
        missing = (state for _, state in sorted(record.nodes.items()))
        return [self._missing(state) for state in missing if isinstance(state, Vacant | Filling | Replacing)]

    def _missing(self, state: Vacant | Filling | Replacing) -> Json:
        machine = self._instances.get(getattr(state, "instance_id", None) or "")
        text = getattr(state, "why_waiting", "")
        if machine is not None:
            text = doing(machine)
        elif not text:
            text = "asks for no machine yet" if isinstance(state, Vacant) else "is to be placed"
        return {
            "node": state.node,
            "status": state.status,
            "instance_id": machine.id if machine is not None else None,
            "why": text,
            "next_at": machine.due_at if machine is not None else getattr(state, "next_at", None),
            "since": state.since,
        }


def _place(state: NodeState) -> tuple[str, int]:
    return state.pool, state.node
