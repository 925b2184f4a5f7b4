"""Adding up what a simulated run comes to: shares of time, money, launches and losses of each pool.

Times are kept in whole microseconds and money in whole micro-dollars, so that nothing is lost in adding up.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from actors.events import (
    BudgetFreed,
    BudgetReached,
    Envelope,
    Error,
    InstancePreempted,
    LaunchRefused,
    NoticeWithdrawn,
    PoolParked,
    TaskAttemptEnded,
    TaskCompleted,
)
from actors.instance.state import Alive, Destroyed, Destroying
from actors.node.state import Filled, Filling, Replacing
from actors.policy.billing import usd
from actors.pool.state import Active
from actors.ports import Commit, StateRow
from controller.simulation.results import Course, PoolFigures, TaskFigures, TimesToWhole
from providers.model import MICRO, Offer
from providers.simulated.cloud import Cloud
from providers.simulated.machine import Machine

MICRO_S = 1_000_000  # microseconds in a second
HOUR_S = 3600


@dataclass(slots=True)
class _Pool:
    """What is seen of one pool."""

    name: str
    asked: int  # nodes, by the spec
    least: int
    tasks_asked: int
    counted_from_us: int  # shares of time are of what comes after
    desired: int  # nodes, now
    filled_by: dict[int, str] = field(default_factory=dict)  # node -> the instance that works there
    refs: dict[str, str] = field(default_factory=dict)  # instance -> machine
    waits: dict[int, str] = field(default_factory=dict)  # node -> what it waits for
    ready: set[int] = field(default_factory=set)
    parked: str = ""
    budget: str = ""  # the limit that is reached, and what is done about it
    last_error: str = ""
    last_refusal: str = ""
    since_us: int = 0  # up to here time is added up
    counted_us: int = 0  # of that, what shares are of
    desired_us: int = 0  # nodes times microseconds, counted or not
    due_us: int = 0  # the same of what is counted
    whole_us: int = 0
    below_us: int = 0
    ready_us: int = 0  # nodes times microseconds
    first_whole_us: int | None = None
    short_from_us: int | None = None  # None: whole, or never was
    spells_us: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    last_task_us: int = 0
    machines: list[Machine] = field(default_factory=list)
    running: Counter[str] = field(default_factory=Counter)  # machines that cost now, by lifecycle
    running_us: Counter[str] = field(default_factory=Counter)  # machines times microseconds
    ready_steps: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])
    rate_steps: list[tuple[int, int]] = field(default_factory=lambda: [(0, 0)])  # micro-dollars an hour
    preempted_us: dict[str, int] = field(default_factory=dict)  # instance -> when it was taken

    def add_up(self, now_us: int) -> None:
        """Count the time that has passed as it was."""
        passed, ready = now_us - self.since_us, len(self.ready)
        counted = max(0, now_us - max(self.since_us, self.counted_from_us))
        self.since_us = now_us
        self.desired_us += passed * self.desired
        for lifecycle, count in self.running.items():
            self.running_us[lifecycle] += passed * count
        self.counted_us += counted
        self.due_us += counted * self.desired
        self.ready_us += counted * min(ready, self.desired)
        if ready >= self.desired:
            self.whole_us += counted
        if ready < self.least:
            self.below_us += counted

    def settle(self, now_us: int) -> None:
        """Take in that other nodes may be ready than before."""
        is_whole = len(self.ready) >= self.desired
        if is_whole and self.first_whole_us is None:
            self.first_whole_us = now_us
        elif is_whole and self.short_from_us is not None:
            self.spells_us.append(now_us - self.short_from_us)
            self.short_from_us = None
        elif not is_whole and self.first_whole_us is not None and self.short_from_us is None:
            self.short_from_us = now_us
        _step(self.ready_steps, now_us, len(self.ready))

    def cost(self, now_us: int, offer: Offer, change: int) -> None:
        """A machine begins (1) or ceases (-1) to cost money."""
        self.add_up(now_us)
        self.running[offer.lifecycle] += change
        _step(self.rate_steps, now_us, self.rate_steps[-1][1] + change * offer.micro_usd_per_hour)


class Onlooker:
    """Watches the daemon's commits and the clouds at once: a node is ready when both say that its machine is.

    It is the `Witness` of the ledger and the `Spectator` of the clouds.

    Args:
        pools: desired nodes, the least that are enough, and tasks asked for, by pool.
        now: virtual seconds since the start.
        progress: called with that time whenever something was committed.
        counted_from_s: shares of time are of what comes after.
    """

    def __init__(
        self,
        pools: Mapping[str, tuple[int, int, int]],
        now: Callable[[], float],
        progress: Callable[[float], None] = lambda seconds: None,
        counted_from_s: float = 0.0,
    ) -> None:
        self.clouds: dict[str, Cloud] = {}
        self._now = now
        self._progress = progress
        from_us = round(counted_from_s * MICRO_S)
        self._pools = {
            name: _Pool(name, asked, least, tasks, from_us, asked)
            for name, (asked, least, tasks) in pools.items()
        }
        self._living: dict[str, str] = {}  # machine -> its pool
        self._machines: dict[str, Machine] = {}

    def _now_us(self) -> int:
        return round(self._now() * MICRO_S)

    # --- Witness ----------------------------------------------------------------------------------

    def journaled(self, envelope: Envelope) -> None:
        """Count what happened."""
        pool = self._pools.get(envelope.pool)
        if pool is None:
            return
        match envelope.event:
            case InstancePreempted(instance=one):
                pool.preempted_us[one.instance.id] = self._now_us()
            case NoticeWithdrawn(instance_id=one_id):
                pool.preempted_us.pop(one_id, None)
            case LaunchRefused(market=market, fault=fault):
                pool.counts["refused"] += 1
                pool.last_refusal = f"{market}: {fault}"
            case PoolParked(reason=reason):
                pool.parked = reason
            case BudgetReached(period=period, spent_micro_usd=spent, limit_micro_usd=limit, then=then):
                whose = "the day's budget" if period == "day" else "the whole budget"
                pool.budget = f"{whose} of {usd(limit)} is reached ({usd(spent)} spent): {then}"
            case BudgetFreed():
                pool.budget = ""
            case TaskAttemptEnded(result=result) if result != "success":
                pool.counts["attempts lost"] += 1
            case TaskCompleted(success=success):
                pool.counts["tasks done" if success else "tasks failed"] += 1
                pool.last_task_us = self._now_us()
            case Error(message=message):
                pool.last_error = message
            case _:
                return

    def stored(self, commit: Commit) -> None:
        """See which nodes have a machine that works."""
        self._progress(self._now())
        pool = self._pools.get(commit.pool)
        if pool is None:
            return
        now_us = self._now_us()
        pool.add_up(now_us)
        for row in commit.states:
            _take(pool, row)
        pool.ready = {node for node, one in pool.filled_by.items() if pool.refs.get(one) in self._living}
        pool.settle(now_us)

    # --- Spectator --------------------------------------------------------------------------------

    def machine_made(self, provider: str, key: str, ref: str, late: bool) -> None:
        """A machine begins to cost money."""
        pool = self._owner_of(key)
        if pool is None:
            return
        machine = self._machines[ref] = self.clouds[provider].living[ref]
        pool.machines.append(machine)
        pool.counts["launches"] += 1
        self._begins(pool, ref)

    def machine_ended(self, provider: str, key: str, ref: str, reason: str) -> None:
        """A machine is gone: its node is not ready from now on, whatever the daemon thinks."""
        pool = self._owner_of(key)
        if pool is None or self._living.pop(ref, None) is None:
            return
        now_us = self._now_us()
        pool.cost(now_us, self._machines[ref].offer, -1)
        pool.ready -= {node for node in pool.ready if pool.refs.get(pool.filled_by[node]) == ref}
        pool.settle(now_us)

    def machine_resumed(self, provider: str, key: str, ref: str) -> None:
        """A machine is there again, and costs again; nothing of ours runs on it."""
        pool = self._owner_of(key)
        if pool is not None and ref not in self._living:
            self._begins(pool, ref)

    def happened(self, text: str) -> None:
        """Something went wrong on purpose."""

    def process_began(self, ref: str, task: str, attempt: int) -> None:
        """An attempt runs."""

    def process_ended(self, ref: str, task: str, attempt: int) -> None:
        """An attempt is over."""

    def _owner_of(self, key: str) -> _Pool | None:
        parts = key.split("/")  # owner/pool/node/incarnation/try
        return self._pools.get(parts[1]) if len(parts) == 5 else None

    def _begins(self, pool: _Pool, ref: str) -> None:
        self._living[ref] = pool.name
        pool.cost(self._now_us(), self._machines[ref].offer, 1)

    # --- the end ----------------------------------------------------------------------------------

    def figures(self, pool_name: str, on_demand: int | None, clock: Callable[[], float]) -> PoolFigures:
        """What a pool has come to by now.

        Args:
            pool_name: which.
            on_demand: price of the cheapest fitting on-demand offer, micro-dollars an hour.
            clock: the clouds' UTC seconds.
        """
        pool, now_us, now = self._pools[pool_name], self._now_us(), clock()
        pool.add_up(now_us)
        cost = sum(machine.billed_micro_usd(now) for machine in pool.machines)
        baseline = None
        if on_demand is not None:
            baseline = on_demand * pool.desired_us // (HOUR_S * MICRO_S)
        counts = pool.counts
        losses = len(pool.preempted_us)
        is_whole = len(pool.ready) >= pool.desired
        some = pool.due_us > 0
        return PoolFigures(
            pool=pool.name,
            nodes_desired=pool.asked,
            nodes_min=pool.least,
            availability=pool.whole_us / pool.counted_us if some else None,
            ready_share=pool.ready_us / pool.due_us if some else None,
            below_min_share=pool.below_us / pool.counted_us if some else None,
            cost_micro_usd=cost,
            cost_usd=cost / MICRO,
            on_demand_micro_usd=baseline,
            on_demand_usd=None if baseline is None else baseline / MICRO,
            cost_percent_of_on_demand=round(100 * cost / baseline, 3) if baseline else None,
            machine_hours_spot=_hours(pool.running_us["spot"]),
            machine_hours_on_demand=_hours(pool.running_us["on_demand"]),
            preemptions=losses,
            launches=counts["launches"],
            launches_refused=counts["refused"],
            launches_per_loss=(
                round(max(0, counts["launches"] - pool.asked) / losses, 3) if losses > 0 else None
            ),
            whole_first_after_s=None if pool.first_whole_us is None else pool.first_whole_us / MICRO_S,
            whole_again=times_to_whole(pool.spells_us),
            is_whole_at_end=is_whole,
            why_short=None if is_whole else _why_short(pool),
            tasks=_tasks(pool) if pool.tasks_asked else None,
        )

    def course(self, pool_name: str, on_demand: int | None) -> Course:
        """How a pool has gone until now."""
        pool = self._pools[pool_name]
        return Course(
            seconds=self._now_us() / MICRO_S,
            desired=pool.asked,
            ready=[(at / MICRO_S, ready) for at, ready in pool.ready_steps],
            usd_per_hour=[(at / MICRO_S, rate / MICRO) for at, rate in pool.rate_steps],
            preempted=[at / MICRO_S for at in pool.preempted_us.values()],
            on_demand_usd_per_hour=None if on_demand is None else pool.asked * on_demand / MICRO,
        )


def _step(steps: list[tuple[int, int]], at: int, value: int) -> None:
    """Note a new value; of several at one moment only the last counts."""
    if steps[-1][0] == at:
        steps.pop()
    if not steps or steps[-1][1] != value:
        steps.append((at, value))


def _take(pool: _Pool, row: StateRow) -> None:
    """Take in one changed state."""
    state = row.state
    match row.kind:
        case "node":
            node = int(row.id)
            pool.filled_by.pop(node, None)
            pool.waits.pop(node, None)
            match state:
                case Filled(instance_id=at_work) | Replacing(old_id=at_work):
                    pool.filled_by[node] = at_work
                case Filling(why_waiting=why) if why:
                    pool.waits[node] = why
        case "instance" if isinstance(state, Alive):
            pool.refs[row.id] = state.handle.ref
        case "instance" if state is None or isinstance(state, Destroying | Destroyed):
            pool.refs.pop(row.id, None)
        case "pool" if isinstance(state, Active):
            pool.parked, pool.desired = "", state.desired


def times_to_whole(spells_us: Sequence[int]) -> TimesToWhole:
    """Sum up the times during which a pool was short, given in microseconds."""
    if not spells_us:
        return TimesToWhole()
    ordered = sorted(spells_us)

    def at(share: float) -> float:
        return ordered[math.ceil(share * len(ordered)) - 1] / MICRO_S

    return TimesToWhole(count=len(ordered), median_s=at(0.5), p95_s=at(0.95), max_s=at(1))


def _hours(micros: int) -> float:
    return round(micros / (MICRO_S * HOUR_S), 3)


def _why_short(pool: _Pool) -> str | None:
    """The pool's own words, the most telling first."""
    if pool.parked:
        return f"parked: {pool.parked}"
    if pool.budget:
        return pool.budget
    if pool.waits:
        common = Counter(why for _, why in sorted(pool.waits.items())).most_common(1)[0][0]
        return f"{common} ({pool.last_refusal})" if pool.last_refusal else common
    return pool.last_refusal or pool.last_error or None


def _tasks(pool: _Pool) -> TaskFigures:
    done, failed = pool.counts["tasks done"], pool.counts["tasks failed"]
    is_over = done + failed >= pool.tasks_asked
    return TaskFigures(
        asked=pool.tasks_asked,
        done=done,
        failed=failed,
        attempts_lost=pool.counts["attempts lost"],
        all_done_after_s=pool.last_task_us / MICRO_S if is_over else None,
    )
