"""How many nodes a pool should have, by the tasks there are. Pure.

A pool grows at once for work that waits, and shrinks only by nodes that had nothing to do for a while. What
it would grow to is never more than what it would keep, so the same load never makes it do both.
"""

from collections import deque
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from math import ceil, fsum

from actors.buying import OnDemand, Scaling
from providers.model import Value

BOOT_MOST_S = 600.0  # a machine whose set-up time is not known yet is taken to come within that
LOOK_LEAST_S = 10.0  # work that needs no new machine is looked at again no sooner
LOOK_AGAIN_S = 60.0  # nodes that are not needed and can't be given up, likewise
ROUNDING = 1e-9  # of a division that ought to come out even


class Habits(Value):
    """What this pool's machines and tasks usually take, in seconds; None: not seen yet."""

    boot_s: float | None = None  # from a launch until the machine is set up
    task_s: float | None = None  # one attempt, from its start to its end


@dataclass(frozen=True, slots=True)
class Pins:
    """Tasks that wait for one node only.

    Attributes:
        nodes: those numbers that tasks wait for.
        shapes: of those that are nodes of the pool or may be: how many have (so many such tasks, so many
            tasks on their machine).
        missing: of these, the ones that are no node of the pool now; ascending.
        waiting: all these tasks, also for numbers that may be no node.
    """

    nodes: Container[int] = ()
    shapes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    missing: tuple[int, ...] = ()
    waiting: int = 0

    @property
    def count(self) -> int:
        """Nodes that are there or may be."""
        return sum(self.shapes.values())

    @property
    def tasks(self) -> int:
        """Tasks that wait for these."""
        return sum(waiting * nodes for (waiting, _), nodes in self.shapes.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What there is to do, and how many do it.

    Attributes:
        now: UTC seconds.
        scaling: the pool's rules for it.
        concurrency: tasks that run at once on a node.
        least, most: bounds of the nodes.
        nodes: that are wanted now.
        ready: nodes with a machine that works.
        starting: nodes whose machine is ordered and not ready yet.
        waiting: tasks that any node could start now, had it a free slot.
        held_back: tasks that may start later only, after a failure.
        placed: tasks on machines.
        pins: tasks that wait for one node only.
        waited_s: for how long the first of `waiting` has waited.
        habits: of the pool.
        grew_at, shrank_at: when scaling did so last.
        sized_at: when a user set the size last; it is kept for as long as a node may be idle.
    """

    now: float
    scaling: Scaling
    concurrency: int
    least: int
    most: int
    nodes: int
    ready: int = 0
    starting: int = 0
    waiting: int = 0
    held_back: int = 0
    placed: int = 0
    pins: Pins = Pins()
    waited_s: float = 0.0
    habits: Habits = Habits()
    grew_at: float = 0.0
    shrank_at: float = 0.0
    sized_at: float = 0.0

    @property
    def per_node(self) -> float:
        """Tasks that one node should have."""
        return self.scaling.tasks_per_node or self.concurrency

    @property
    def work(self) -> float:
        """Tasks that are placed or could be now; of those for one node, as many as it should have yet."""
        return (
            self.waiting
            + self.placed
            + fsum(
                nodes * min(waiting, max(0.0, self.per_node - beside))
                for (waiting, beside), nodes in self.pins.shapes.items()
            )
        )

    @property
    def wanted(self) -> int:
        """Nodes that all tasks which could run now ask for, if none of them ended; may be above `most`."""
        return max(self._nodes_for(self.work), self.pins.count)

    @property
    def kept(self) -> int:
        """Nodes that are there to stay: the least, and what all tasks need."""
        needed = max(self._nodes_for(self.work + self.held_back), self.pins.count)
        return max(self.least, min(self.most, needed))

    @property
    def settled_at(self) -> float:
        """No machine that works is given up before."""
        boot_s = self.habits.boot_s
        slowest_s = BOOT_MOST_S if boot_s is None else min(2 * boot_s, BOOT_MOST_S)
        rest_s = self.scaling.down_cooldown_s
        grown_at = self.grew_at + (max(slowest_s, rest_s) if self.starting else rest_s)
        return max(grown_at, self.shrank_at + rest_s)

    @property
    def kept_until(self) -> float:
        """The size that a user set is kept so long."""
        return self.sized_at + self.scaling.idle_timeout_s

    @property
    def longest_s(self) -> float:
        """How far ahead the next look may lie."""
        rules, boot_s = self.scaling, self.habits.boot_s or 0.0
        return max(
            rules.idle_timeout_s,
            rules.up_cooldown_s,
            rules.down_cooldown_s,
            boot_s,
            BOOT_MOST_S,
        )

    def _nodes_for(self, work: float, per_node: float | None = None) -> int:
        return ceil(work / (per_node or self.per_node) - ROUNDING)

    @property
    def worth_buying(self) -> int:
        """Nodes for the work that would still be there when a new machine is set up; never above `most`.

        Every slot ends `boot_s / task_s` tasks in the time that a machine takes to come; the slots of one
        that is on its way half of that, on average. A machine that is bought should have work for as long as
        it took to come. While it is not known how long either takes, all work counts, a task to a slot.
        """
        rounds = self._rounds()
        done = self.concurrency * (self.ready * rounds + self.starting * (rounds // 2))
        left = max(0.0, self.work - done)
        nodes = self._nodes_for(left, max(self.per_node, self.concurrency * rounds))
        return min(nodes, self.most)

    def _rounds(self) -> int:
        """Tasks that a slot ends while a machine is set up.

        All work is meant to be done within two set-ups. The longer a task has waited beyond that, the longer
        tasks are believed to take: what hangs is no habit.
        """
        boot_s, task_s = self.habits.boot_s, self.habits.task_s
        if boot_s is None or task_s is None or boot_s <= 0:
            return 0
        slower = max(1.0, self.waited_s / (2 * boot_s + task_s))
        return int(min(boot_s / max(task_s * slower, 1e-3), 1e6))


@dataclass(frozen=True, slots=True)
class Idle:
    """A node whose machine works and has no task.

    Attributes:
        since: when its last task ended, or it became ready, or this daemon began to look, UTC seconds.
    """

    node: int
    since: float
    micro_usd_per_hour: int
    on_demand: bool


@dataclass(frozen=True, slots=True)
class There:
    """What could be given up.

    Attributes:
        bare: nodes that have no machine and ordered none.
        leaving: nodes whose machine has no task and is going anyway; the next is not ordered.
        idle: nodes that could work.
        on_demand: machines of the pool that are on demand, and how many have to be.
        wanted_on_demand: the pool's rule for it.
    """

    bare: tuple[int, ...] = ()
    leaving: tuple[int, ...] = ()
    idle: tuple[Idle, ...] = ()
    on_demand: int = 0
    wanted_on_demand: OnDemand = OnDemand()


@dataclass(frozen=True, slots=True)
class Grow:
    """There should be `nodes`, those with the numbers `include` among them."""

    nodes: int
    include: tuple[int, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Shrink:
    """Exactly these nodes should go, ascending; look again at `look_at`, None: not by itself."""

    nodes: tuple[int, ...]
    why: str
    look_at: float | None


@dataclass(frozen=True, slots=True)
class Stay:
    """Nothing is to be done, and why not when there might have been; look again at `look_at`."""

    why: str = ""
    look_at: float | None = None


Verdict = Grow | Shrink | Stay


def decide(load: Load, there: Callable[[], There]) -> Verdict:
    """How many nodes there should be.

    Args:
        load: what there is to do.
        there: asked for only when the pool could shrink now.
    """
    grow: Grow | Stay = Stay()
    if load.wanted > load.nodes or load.pins.missing:
        grow = growth(load)
    if isinstance(grow, Grow) or load.nodes <= load.kept:
        return grow
    shrink = _shrinking(load, there)
    if isinstance(shrink, Shrink):
        return shrink
    times = [at for at in (grow.look_at, shrink.look_at) if at is not None]
    return Stay(grow.why or shrink.why, min(times, default=None))


def growth(load: Load) -> Grow | Stay:
    """Grow for the work that waits, or say why not, or not yet."""
    include = load.pins.missing[: max(0, load.most - load.nodes)]
    target = max(load.worth_buying, load.nodes + len(include))
    if load.nodes >= load.most:
        return Stay(f"{_counted(load)}: there are as many nodes as nodes.max={load.most} allows")
    if target <= load.nodes:
        soon_s = max(load.habits.boot_s or 0.0, LOOK_LEAST_S)
        text = f"{_counted(load)}: that will be done before a new machine could be set up ({soon_s:.0f} s)"
        return Stay(text, load.now + soon_s)
    may_at = load.grew_at + load.scaling.up_cooldown_s
    if load.nodes and load.now < may_at:
        return Stay(f"{_counted(load)}: grew within up_cooldown_s={load.scaling.up_cooldown_s:g}", may_at)
    return Grow(max(target, load.least), include, _why_growing(load, include))


def _counted(load: Load) -> str:
    waiting = load.waiting + load.pins.tasks
    return f"{waiting} {'task waits' if waiting == 1 else 'tasks wait'} and {load.placed} are on machines"


def _why_growing(load: Load, include: tuple[int, ...]) -> str:
    why = _counted(load)
    if include:
        shown = ", ".join(str(node) for node in include[:5]) + (" and others" if len(include) > 5 else "")
        why += f", some only for node {shown}"
    return why


def _shrinking(load: Load, there: Callable[[], There]) -> Shrink | Stay:
    """Give up what is cheapest to lose, as far as it is not needed.

    First nodes without a machine, also when the pool has just changed; then those whose machine goes anyway,
    then those that were idle for long enough: the dearest first; of equals the highest number.
    """
    if load.now < load.kept_until:
        return Stay("more nodes than the tasks need, as a user wanted just now", load.kept_until)
    it, surplus = there(), load.nodes - load.kept
    ripe_at = load.now - load.scaling.idle_timeout_s
    idle = [one for one in it.idle if one.node not in load.pins.nodes]
    ripe = sorted((one for one in idle if one.since <= ripe_at), key=_cost_of_losing)
    bare = [node for nodes in (it.bare, it.leaving) for node in sorted(nodes, reverse=True)]
    gone = [node for node in bare if node not in load.pins.nodes][:surplus]
    count = len(gone)
    if load.now >= load.settled_at:
        gone += _idle_ones(ripe, surplus - count, load.nodes - count, it)
    if gone:
        again = load.now + load.scaling.down_cooldown_s if len(gone) < surplus else None
        return Shrink(tuple(sorted(gone)), _why_shrinking(load, len(gone) - count, count), again)
    if load.now < load.settled_at:
        return Stay("more nodes than the tasks need, but it grew or shrank just now", load.settled_at)
    if len(idle) > len(ripe):
        at = min(one.since for one in idle if one.since > ripe_at) + load.scaling.idle_timeout_s
        return Stay("more nodes than the tasks need; they go when they were idle for long enough", at)
    at = load.now + max(load.scaling.idle_timeout_s, LOOK_AGAIN_S)
    return Stay("more nodes than the tasks need; none of them can be given up now", at)


def _idle_ones(ripe: list[Idle], count: int, nodes: int, there: There) -> list[int]:
    """The first `count` of `ripe`; one on demand only when enough on demand remain for those that stay."""
    gone: list[int] = []
    on_demand, rule = there.on_demand, there.wanted_on_demand
    spot, dear = deque(one for one in ripe if not one.on_demand), deque(one for one in ripe if one.on_demand)
    while len(gone) < count and (spot or dear):
        rest = nodes - len(gone) - 1
        needed = min(rest, max(rule.floor, ceil(rule.share * rest - ROUNDING)))
        first = dear if dear and on_demand > needed else spot
        if first is dear and spot and _cost_of_losing(spot[0]) < _cost_of_losing(dear[0]):
            first = spot
        if not first:
            break
        on_demand -= first is dear
        gone.append(first.popleft().node)
    return gone


def _cost_of_losing(one: Idle) -> tuple[int, int]:
    return -one.micro_usd_per_hour, -one.node


def _why_shrinking(load: Load, idle: int, without_machine: int) -> str:
    parts: list[str] = []
    if without_machine:
        parts.append(f"{_nodes(without_machine)} without a machine that stays")
    if idle:
        parts.append(f"{_nodes(idle)} idle for idle_timeout_s={load.scaling.idle_timeout_s:g}")
    return f"{' and '.join(parts)}, more than {load.kept} are not needed"


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"
