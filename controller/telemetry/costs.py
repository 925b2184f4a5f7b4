"""What each pool's machines have cost since the daemon began, by what they did meanwhile.

Each machine's meter is read whenever what it does changes, and at a scrape; the time since the last reading
goes to the kind of that time. What is left of a begun hour when a machine ends goes to what it did last. So
the kinds add up to what was billed, but for machines that are being started: theirs is known only when they
work, or end.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from actors.instance import state as instances
from actors.policy.adoption import Quarantined, Reaped
from actors.policy.billing import UNIT_S, Meter, due, meter
from actors.policy.budget import closed, day_of
from actors.pool import state as pools
from actors.ports import Commit, StateRow
from actors.purse import metered
from actors.task import state as tasks
from providers.model import MICRO

Kind = Literal["working", "idle", "starting", "leaving", "unreachable", "preempted", "leaked"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LEAK_AFTER_S = 900.0  # a machine that is told to end, and is seen for longer, is leaked from then on
_TAKEN = ("preempted", "gone")
_PLACED = (tasks.Assigned, tasks.Created, tasks.Running, tasks.Stopping, tasks.Invalid)
_NOBODYS = ""  # the pool of leftovers, and of machines whose key names none


@dataclass(slots=True)
class _Machine:
    """A machine that costs.

    Attributes:
        kind: what it does now.
        counted: how far its meter was read, micro-dollars.
        held: of that, what it cost while being started; not counted yet.
        worked: it was ready once.
        leaks_at: from when on it is leaked.
        tasks: how many are on it.
    """

    pool: str
    market: str
    meter: Meter
    kind: Kind
    counted: int
    held: int = 0
    worked: bool = False
    leaks_at: float | None = None
    state: instances.InstanceState | None = None
    tasks: int = 0


class Costs(Collector):
    """Counts micro-dollars; belongs to the event loop's thread.

    Args:
        now: UTC seconds.
        leftovers: what is left behind: (provider, kind, how many, micro-dollars an hour).
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        leftovers: Callable[[], Iterable[tuple[str, str, int, int]]] | None = None,
    ) -> None:
        self._now = now
        self._leftovers = leftovers
        self._left_at: float | None = None
        self._loading = False
        self._machines: dict[tuple[str, str], _Machine] = {}
        self._tasks: dict[tuple[str, str], str] = {}  # (pool, task) -> instance
        self._on: Counter[tuple[str, str]] = Counter()  # (pool, instance) -> tasks
        self._pools: dict[str, pools.PoolState] = {}
        self._cost: Counter[tuple[str, str]] = Counter()  # (pool, kind)
        self._debt: Counter[tuple[str, str]] = Counter()  # counted, and not billed after all
        self._markets: Counter[tuple[str, str]] = Counter()  # (pool, market)
        self._wasted: Counter[str] = Counter()
        self._unknown: Counter[str] = Counter()  # of `_cost`, what no pool knows of, by the pool it was of
        self.since = now()

    # --- what changes -------------------------------------------------------------------------------

    def committed(self, commit: Commit) -> None:
        """Take in changed states."""
        now = self._now()
        for row in commit.states:
            self._take(commit.pool, row, now)

    def load(self, pool: str, rows: Iterable[StateRow]) -> None:
        """Take in what recovery read: what it cost before is not counted."""
        now = self._now()
        self._loading = True
        for row in sorted(rows, key=lambda row: row.kind != "task"):  # before the machines they are on
            self._take(pool, row, now)
        self._loading = False

    def forget(self, pool: str) -> None:
        """Drop the counters of a pool long gone."""
        for counter in (self._cost, self._debt, self._markets):
            for key in [key for key in counter if key[0] == pool]:
                del counter[key]
        self._wasted.pop(pool, None)
        if pool in self._unknown:
            self._unknown[_NOBODYS] += self._unknown.pop(pool)

    def _take(self, pool: str, row: StateRow, now: float) -> None:
        match row.kind:
            case "task":
                self._task(pool, row, now)
            case "instance":
                self._instance(pool, row, now)
            case "quarantine":
                self._quarantined(row, now)
            case "pool":
                if isinstance(row.state, pools.Active | pools.Parked | pools.Draining):
                    self._pools[pool] = row.state
                    for kind in KINDS:
                        self._cost[pool, kind] += 0  # a zero is a sample
                    self._wasted[pool] += 0
                else:
                    self._pools.pop(pool, None)
            case _:
                pass

    def _task(self, pool: str, row: StateRow, now: float) -> None:
        key = (pool, row.id)
        before = self._tasks.get(key)
        after = row.state.instance_id if isinstance(row.state, _PLACED) else None
        if before == after:
            return
        if before is not None:
            del self._tasks[key]
            self._occupied(pool, before, -1, now)
        if after is not None:
            self._tasks[key] = after
            self._occupied(pool, after, 1, now)

    def _occupied(self, pool: str, instance: str, change: int, now: float) -> None:
        self._on[pool, instance] += change
        if not self._on[pool, instance]:
            del self._on[pool, instance]
        machine = self._machines.get((pool, instance))
        if machine is not None and machine.state is not None:
            self._turn(machine, machine.state, self._on[pool, instance], now)

    def _instance(self, pool: str, row: StateRow, now: float) -> None:
        key, state = (pool, row.id), row.state
        machine = self._machines.get(key)
        if isinstance(state, instances.Destroyed) or state is None or row.terminal:
            if machine is not None:
                self._end(key, machine, state if isinstance(state, instances.Destroyed) else None, now)
            return
        assert isinstance(
            state,
            instances.Requested
            | instances.Provisioning
            | instances.Bootstrapping
            | instances.Ready
            | instances.Draining
            | instances.Destroying,
        )
        there, its_meter = metered(state)
        if not there or its_meter is None:
            return
        if machine is None:
            market = str(state.offer.market)
            machine = _Machine(pool, market, its_meter, "starting", self._before(its_meter, now))
            self._machines[key] = machine
        self._turn(machine, state, self._on.get(key, 0), now)
        machine.meter = its_meter

    def _before(self, its_meter: Meter, now: float) -> int:
        """What a new machine has cost that is not counted."""
        return _passed(its_meter, now) if self._loading else 0

    def _turn(self, machine: _Machine, state: instances.InstanceState, tasks_on: int, now: float) -> None:
        """The machine does something else from now on."""
        self._read(machine, now)
        machine.state = state
        if state.worked or isinstance(state, instances.Ready | instances.Draining):
            machine.worked = True
        kind = _kind(state, tasks_on)
        if isinstance(state, instances.Destroying):
            leaks_at = state.since + LEAK_AFTER_S
            machine.leaks_at = leaks_at if leaks_at > now else None
            kind = kind if leaks_at > now else "leaked"
        if machine.held and (machine.worked or kind != "starting"):
            self._release(machine, taken=kind == "preempted")
        machine.kind = kind

    def _release(self, machine: _Machine, *, taken: bool) -> None:
        taken = taken and not machine.worked
        held, machine.held = machine.held, 0
        self._add(machine.pool, machine.market, "preempted" if taken else "starting", held)
        if not machine.worked:
            self._wasted[machine.pool] += held

    def _read(self, machine: _Machine, until: float) -> None:
        """Count what the meter came to since it was read last."""
        if machine.leaks_at is not None and until > machine.leaks_at:
            leaks_at, machine.leaks_at = machine.leaks_at, None
            self._read(machine, leaks_at)
            machine.kind = "leaked"
        self._count(machine, _passed(machine.meter, until))

    def _read_all(self, now: float) -> None:
        """As `_read` of each, but what is alike is added up first: a scrape reads thousands."""
        sums: dict[tuple[str, str, Kind, bool], int] = {}
        for machine in self._machines.values():
            if machine.leaks_at is not None or (machine.kind == "starting" and not machine.worked):
                self._read(machine, now)
                continue
            total = _passed(machine.meter, now)
            more = total - machine.counted
            if more > 0:
                machine.counted = total
                alike = (machine.pool, machine.market, machine.kind, machine.worked)
                sums[alike] = sums.get(alike, 0) + more
        for (pool, market, kind, worked), micro in sums.items():
            self._add(pool, market, kind, micro)
            if not worked:
                self._wasted[pool] += micro

    def _count(self, machine: _Machine, total: int) -> None:
        more = total - machine.counted
        if more <= 0:
            return
        machine.counted = total
        if machine.kind == "starting" and not machine.worked:
            machine.held += more
            return
        self._add(machine.pool, machine.market, machine.kind, more)
        if not machine.worked:
            self._wasted[machine.pool] += more

    def _add(self, pool: str, market: str, kind: Kind, micro: int) -> None:
        back = min(micro, self._debt[pool, kind])
        if back:
            self._debt[pool, kind] -= back
        self._cost[pool, kind] += micro - back
        if market == _NOBODYS:
            self._unknown[pool] += micro - back
        else:
            self._markets[pool, market] += micro - back

    def _end(
        self, key: tuple[str, str], machine: _Machine, over: instances.Destroyed | None, now: float
    ) -> None:
        if over is None:
            self._read(machine, now)
        else:
            self._read(machine, now if over.ended_at is None else over.ended_at)
            if over.reason in _TAKEN and machine.worked:  # the rest of an hour that was paid
                machine.kind = "preempted"
            self._count(machine, over.cost_micro_usd)
            if machine.counted > over.cost_micro_usd:
                self._repay(machine, machine.counted - over.cost_micro_usd)
        if machine.held:
            self._release(machine, taken=over is not None and over.reason in _TAKEN)
        del self._machines[key]

    def _repay(self, machine: _Machine, micro: int) -> None:
        """It ended earlier than was thought: what was counted too much is left out of what comes next."""
        held = min(machine.held, micro)
        machine.held -= held
        if micro > held:
            self._debt[machine.pool, machine.kind] += micro - held

    def _quarantined(self, row: StateRow, now: float) -> None:
        key = (_NOBODYS, f"quarantine:{row.id}")  # its pool may have one of the same name
        machine, state = self._machines.get(key), row.state
        if not isinstance(state, Quarantined):
            if machine is not None:
                self._read(machine, state.ended_at if isinstance(state, Reaped) else now)
                del self._machines[key]
            return
        its_meter = (
            Meter(state.micro_usd_per_hour, UNIT_S["second"], state.seen_at)
            if state.bill is None
            else meter(state.bill)
        )
        if machine is None:
            before = self._before(its_meter, now)
            pool = _pool_of(state.key)
            self._machines[key] = _Machine(pool, _NOBODYS, its_meter, "leaked", before, worked=True)
        else:
            self._read(machine, now)
            machine.meter = its_meter

    # --- what is told -------------------------------------------------------------------------------

    def read(self) -> None:
        """Bring everything up to now."""
        now = self._now()
        self._read_all(now)
        if self._leftovers is not None:
            since, self._left_at = self._left_at, now
            if since is not None:
                rate = sum(micro for _, _, _, micro in self._leftovers())
                self._add(_NOBODYS, _NOBODYS, "leaked", round(rate * max(0.0, now - since) / 3600))

    def by_kind(self, pool: str) -> Mapping[Kind, int]:
        """Micro-dollars since `since`, as of the last `read`."""
        return {kind: self._cost.get((pool, kind), 0) for kind in KINDS}

    def by_market(self, pool: str) -> Mapping[str, int]:
        """Micro-dollars since `since`, as of the last `read`, of markets where the pool had machines."""
        return {market: cost for (owner, market), cost in sorted(self._markets.items()) if owner == pool}

    def unknown(self) -> Mapping[str, int]:
        """What no pool's account has: micro-dollars since `since`, as of the last `read`, of machines in
        quarantine by the pool that their keys name, and of leftovers ("")."""
        return {pool: cost for pool, cost in sorted(self._unknown.items()) if cost}

    def wasted(self, pool: str) -> int:
        """Micro-dollars since `since` of machines that never worked."""
        return self._wasted.get(pool, 0)

    def describe(self) -> Iterable[Metric]:
        """The families without samples, for the registry."""
        return list(Costs(now=lambda: 0.0).collect())

    def collect(self) -> Iterator[Metric]:
        """All series as they are now."""
        self.read()
        cost = CounterMetricFamily(
            "everpool_pool_cost_usd",
            "What machines have cost, by what they did; pool is empty for leftovers.",
            labels=["pool", "kind"],
        )
        for (pool, kind), micro in sorted(self._cost.items()):
            cost.add_metric([pool, kind], micro / MICRO)
        wasted = CounterMetricFamily(
            "everpool_pool_wasted_usd", "What machines that never worked have cost.", labels=["pool"]
        )
        for pool, micro in sorted(self._wasted.items()):
            wasted.add_metric([pool], micro / MICRO)
        yield from (cost, wasted)
        yield from self._pool_gauges()

    def _pool_gauges(self) -> Iterator[Metric]:
        now = self._now()
        rate = GaugeMetricFamily(
            "everpool_pool_usd_per_hour", "What the pool's machines cost now.", labels=["pool"]
        )
        limit = GaugeMetricFamily(
            "everpool_pool_budget_usd", "What the pool may spend.", labels=["pool", "period"]
        )
        spent = GaugeMetricFamily(
            "everpool_pool_spent_usd",
            "What the pool has spent, today (UTC) and in all.",
            labels=["pool", "period"],
        )
        meters: dict[str, list[Meter]] = {name: [] for name in self._pools}
        leaks: Counter[str] = Counter()
        leaking: Counter[str] = Counter()  # micro-dollars an hour
        for machine in self._machines.values():
            if machine.kind == "leaked":
                leaks[machine.pool] += 1
                leaking[machine.pool] += machine.meter.rate
            if machine.pool in meters and machine.market != _NOBODYS:
                meters[machine.pool].append(machine.meter)
        for name, state in sorted(self._pools.items()):
            its = meters[name]
            rate.add_metric([name], sum(one.rate for one in its) / MICRO)
            budget = state.spec.budget
            for period, dollars in (("day", budget.per_day), ("total", budget.total)):
                if dollars is not None:
                    limit.add_metric([name, period], dollars)
            today, total = spent_micro_usd(state, its, now)
            spent.add_metric([name, "day"], today / MICRO)
            spent.add_metric([name, "total"], total / MICRO)
        yield from (rate, limit, spent)
        yield from _suspected(leaks, leaking, {_NOBODYS, *self._pools})


def _suspected(leaks: Counter[str], leaking: Counter[str], names: set[str]) -> Iterator[Metric]:
    machines = GaugeMetricFamily(
        "everpool_leak_suspected_machines",
        f"Machines in quarantine, or told to end more than {LEAK_AFTER_S:g} s ago and still there.",
        labels=["pool"],
    )
    rate = GaugeMetricFamily("everpool_leak_suspected_usd_per_hour", "What they cost now.", labels=["pool"])
    for name in sorted(names | set(leaks)):
        machines.add_metric([name], leaks[name])
        rate.add_metric([name], leaking[name] / MICRO)
    yield from (machines, rate)


def _pool_of(key: str) -> str:
    """The pool that a launch key names: owner/pool/node/incarnation/try."""
    parts = key.split("/")
    return parts[1] if len(parts) == 5 else _NOBODYS


def _passed(its: Meter, until: float) -> int:
    """What the time comes to that has passed until then, whatever is billed ahead."""
    if its.stopped_at is None:
        return its.spent_micro_usd + int(max(0.0, until - its.since) * its.micro_usd_per_hour / 3600)
    end = min(until, its.stopped_at)
    ran = int(max(0.0, end - its.since) * its.micro_usd_per_hour / 3600)
    stood = int(max(0.0, until - end) * its.stopped_micro_usd_per_hour / 3600)
    return its.spent_micro_usd + ran + stood


def spent_micro_usd(state: pools.PoolState, meters: list[Meter], now: float) -> tuple[int, int]:
    """What the pool has cost today, and in all, with machines of these meters."""
    spend = closed(state.spend, now, lambda until: due(meters, until))
    assert spend.day == day_of(now)
    total = spend.gone + due(meters, now)
    return total - spend.before_day, total


def _kind(state: instances.InstanceState, tasks_on: int) -> Kind:
    """What a machine's dollars are spent on now."""
    match state:
        case instances.Requested() | instances.Provisioning() | instances.Bootstrapping():
            return "starting"
        case instances.Ready():
            if not state.link_up:
                return "unreachable"
            return "working" if tasks_on else "idle"
        case instances.Draining():
            if tasks_on and state.link_up:
                return "working"
            return "preempted" if state.reason in _TAKEN else "leaving"
        case instances.Destroying() | instances.Destroyed():
            if state.reason == "unreachable":
                return "unreachable"
            return "preempted" if state.reason in _TAKEN else "leaving"
