"""How many nodes a pool should have: examples a user would recognise, and what holds whatever happens."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.buying import OnDemand, Scaling
from actors.policy.scaling import Grow, Habits, Idle, Load, Pins, Shrink, Stay, There, Verdict, decide

NOW = 1_000_000.0
RULES = Scaling(idle_timeout_s=300, up_cooldown_s=30, down_cooldown_s=60)
FOUR_EACH = RULES.model_copy(update={"tasks_per_node": 4.0})
HABITS = Habits(boot_s=60, task_s=10)


def load(**keys: Any) -> Load:
    """A pool of 0 to 10 nodes with one slot each, that neither grew nor shrank for long."""
    usual: dict[str, Any] = {"now": NOW, "scaling": RULES, "concurrency": 1, "least": 0, "most": 10}
    what = {name: keys.pop(name) for name in ("pinned", "beside", "missing") if name in keys}
    return Load(**(usual | {"nodes": 0, "pins": pins(**what)} | keys))


def pins(
    pinned: Mapping[int, int] = {}, beside: Mapping[int, int] = {}, missing: tuple[int, ...] = ()
) -> Pins:
    """So many tasks wait for each of these nodes; so many are on their machines."""
    shapes = Counter((count, beside.get(node, 0)) for node, count in pinned.items())
    return Pins(pinned, shapes, missing, sum(pinned.values()))


def idle(node: int, for_s: float = 1000.0, *, dollars: float = 0.1, on_demand: bool = False) -> Idle:
    return Idle(node, NOW - for_s, round(dollars * 1e6), on_demand)


def said(it: Load, there: There | None = None) -> Verdict:
    """The decision; without `there`, nobody may look at the nodes."""

    def look() -> There:
        assert there is not None, "nodes are looked at though none can be given up"
        return there

    return decide(it, look)


def grown_to(**keys: Any) -> int:
    verdict = said(load(**keys))
    assert isinstance(verdict, Grow), verdict
    return verdict.nodes


def gone(it: Load, there: There) -> tuple[int, ...]:
    verdict = said(it, there)
    assert isinstance(verdict, Shrink), verdict
    return verdict.nodes


def stays(it: Load, there: There | None = None) -> Stay:
    verdict = said(it, there)
    assert isinstance(verdict, Stay), verdict
    return verdict


# --- growing --------------------------------------------------------------------------------------


def test_a_pool_grows_for_what_waits_and_runs() -> None:
    assert grown_to(waiting=1) == 1
    assert grown_to(waiting=7) == 7
    assert grown_to(nodes=3, placed=3, waiting=2) == 5
    assert grown_to(waiting=7, concurrency=4) == 2
    assert grown_to(waiting=9, scaling=FOUR_EACH) == 3
    assert grown_to(waiting=1, least=4) == 4  # a user had made it smaller than its least


def test_a_pool_never_grows_above_its_max_and_says_so() -> None:
    assert grown_to(waiting=200) == 10
    full = stays(load(nodes=10, placed=10, waiting=190))
    assert "nodes.max=10" in full.why and full.look_at is None


def test_a_pool_without_work_is_left_alone() -> None:
    assert stays(load()) == Stay()
    assert stays(load(nodes=2, placed=2)) == Stay()
    assert stays(load(nodes=2, least=2)) == Stay()


def test_after_it_grew_a_pool_waits_before_it_grows_again() -> None:
    rests = stays(load(nodes=1, waiting=5, grew_at=NOW - 10))
    assert rests.look_at == NOW + 20 and "up_cooldown_s=30" in rests.why
    assert grown_to(nodes=1, waiting=5, grew_at=NOW - 30) == 5
    assert grown_to(waiting=5, grew_at=NOW - 10) == 5  # from none at all: at once


def test_nodes_that_are_starting_count_as_there() -> None:
    assert stays(load(nodes=5, starting=5, waiting=5)) == Stay()
    assert grown_to(nodes=5, starting=5, waiting=6) == 6


def test_work_that_will_be_done_before_a_machine_comes_asks_for_none() -> None:
    soon = load(nodes=2, ready=2, placed=2, waiting=10, habits=HABITS)  # six tasks a slot within a boot
    why = stays(soon)
    assert why.look_at == NOW + 60 and "done before" in why.why
    # 28 tasks more than those two slots end in a minute; a machine ends six in as long as it takes to come.
    assert grown_to(nodes=2, ready=2, placed=2, waiting=38, habits=HABITS) == 5
    # Machines that start soon end half of that.
    assert grown_to(nodes=2, starting=2, waiting=40, habits=HABITS) == 6


@pytest.mark.parametrize(
    "habits", [Habits(), Habits(boot_s=60), Habits(task_s=10), Habits(boot_s=60, task_s=61)]
)
def test_long_tasks_and_unknown_ones_count_one_to_a_slot(habits: Habits) -> None:
    assert grown_to(nodes=2, ready=2, placed=2, waiting=3, habits=habits) == 5


def test_tasks_that_hang_are_no_habit() -> None:
    hung = load(nodes=1, ready=1, placed=1, waiting=4, habits=HABITS)
    assert isinstance(said(hung), Stay)
    assert isinstance(said(replace(hung, waited_s=130.0)), Stay)  # two boots, and a task: as planned
    late = said(replace(hung, waited_s=3600.0))
    assert isinstance(late, Grow) and late.nodes == 5


def test_a_task_for_one_node_brings_that_node_up() -> None:
    verdict = said(load(pinned={7: 1}, missing=(7,)))
    assert verdict == Grow(1, (7,), "1 task waits and 0 are on machines, some only for node 7")
    more = said(load(nodes=2, waiting=3, placed=2, pinned={7: 100}, missing=(7,)))
    assert isinstance(more, Grow) and (more.nodes, more.include) == (6, (7,))


def test_tasks_for_one_node_have_to_wait_when_there_are_enough() -> None:
    """A user made `max` smaller: numbers above it are still there."""
    assert said(load(nodes=2, most=3, pinned={0: 1, 1: 1}, missing=(0, 1))) == Grow(
        3, (0,), "2 tasks wait and 0 are on machines, some only for node 0"
    )
    full = load(nodes=3, most=3, ready=3, placed=1, pinned={0: 1}, missing=(0,))
    assert "nodes.max=3" in stays(full, There()).why
    assert gone(full, There(idle=(idle(7),))) == (7,)  # so that there will be room


def test_tasks_for_one_node_are_no_work_for_others() -> None:
    assert stays(load(nodes=1, ready=1, placed=1, pinned={0: 3}, beside={0: 1})) == Stay()
    assert grown_to(nodes=1, ready=1, placed=1, waiting=2, pinned={0: 3}, beside={0: 1}) == 3
    assert stays(load(nodes=1, ready=1, placed=0, pinned={0: 50})) == Stay()
    assert grown_to(nodes=1, pinned={0: 50, 3: 1}, missing=(3,)) == 2


def test_tasks_that_are_held_back_keep_nodes_and_ask_for_none() -> None:
    assert stays(load(held_back=3)) == Stay()
    assert stays(load(nodes=3, held_back=3)) == Stay()


# --- shrinking ------------------------------------------------------------------------------------


def test_idle_nodes_go_and_busy_ones_stay() -> None:
    three = load(nodes=4, ready=4, placed=1)
    assert gone(three, There(idle=(idle(0), idle(1), idle(3)))) == (0, 1, 3)
    assert gone(replace(three, waiting=1), There(idle=(idle(0), idle(1), idle(3)))) == (1, 3)
    assert gone(replace(three, least=3), There(idle=(idle(0), idle(1), idle(3)))) == (3,)


def test_a_node_goes_when_it_was_idle_for_long_enough() -> None:
    two = load(nodes=2, ready=2)
    young = stays(two, There(idle=(idle(0, 299), idle(1, 10))))
    assert young.look_at == NOW + 1
    assert gone(two, There(idle=(idle(0, 300), idle(1, 10)))) == (0,)
    verdict = said(two, There(idle=(idle(0, 300), idle(1, 10))))
    assert isinstance(verdict, Shrink) and verdict.look_at == NOW + 60  # the other one is not needed either


def test_the_dearest_go_first_then_the_highest_numbers() -> None:
    two_go = load(nodes=5, least=3, ready=5)
    dear = (idle(0), idle(1, dollars=0.3), idle(2), idle(3), idle(4))
    assert gone(two_go, There(idle=dear)) == (1, 4)


def test_nodes_without_a_machine_go_before_all_others() -> None:
    two_go = load(nodes=5, least=3, ready=3)
    there = There(bare=(1, 4), leaving=(2,), idle=(idle(0, dollars=9), idle(3)))
    assert gone(replace(two_go, least=4), there) == (4,)
    assert gone(two_go, there) == (1, 4)
    assert gone(replace(two_go, least=2), there) == (1, 2, 4)
    assert gone(replace(two_go, least=1), there) == (0, 1, 2, 4)
    why = said(replace(two_go, least=1), there)
    assert isinstance(why, Shrink) and "3 nodes without a machine" in why.why and "1 node idle" in why.why


def test_machines_on_demand_stay_as_long_as_the_pool_needs_some() -> None:
    dear = tuple(idle(n, dollars=1.0, on_demand=True) for n in (0, 1))
    spot = tuple(idle(n) for n in (2, 3))
    floor = There(idle=dear + spot, on_demand=2, wanted_on_demand=OnDemand(floor=1))
    assert gone(load(nodes=4, least=2, ready=4), floor) == (1, 3)
    assert gone(load(nodes=4, least=0, ready=4), floor) == (0, 1, 2, 3)
    half = There(idle=dear + spot, on_demand=2, wanted_on_demand=OnDemand(share=0.5))
    assert gone(load(nodes=4, least=2, ready=4), half) == (1, 3)
    bargain = tuple(replace(one, micro_usd_per_hour=1) for one in dear)
    assert gone(load(nodes=4, least=3, ready=4), There(idle=bargain + spot, on_demand=2)) == (3,)
    only = There(idle=dear, on_demand=2, wanted_on_demand=OnDemand(floor=2))
    assert isinstance(said(load(nodes=4, least=2, ready=4), only), Stay)


def test_nodes_that_tasks_wait_for_stay() -> None:
    there = There(bare=(5,), idle=(idle(0), idle(1)))
    assert gone(load(nodes=3, ready=2, pinned={5: 1, 1: 1}), there) == (0,)


def test_nothing_goes_while_the_pool_has_just_changed() -> None:
    there = There(idle=(idle(0), idle(1)))
    two = load(nodes=2, ready=2)
    for what in ("grew_at", "shrank_at"):
        rests = load(nodes=2, ready=2, **{what: NOW - 50})
        assert stays(rests, there).look_at == NOW + 10
        assert gone(rests, There(bare=(1,), idle=(idle(0),))) == (1,)  # it costs nothing, and saves a launch
        assert gone(load(nodes=2, ready=2, **{what: NOW - 60}), there) == (0, 1)
    # What a user asked for lasts as long as a node may be idle.
    assert stays(replace(two, sized_at=NOW - 290)).look_at == NOW + 10
    assert gone(replace(two, sized_at=NOW - 300), there) == (0, 1)


def test_nothing_goes_while_machines_are_still_coming() -> None:
    two = load(nodes=3, ready=2, starting=1, grew_at=NOW - 90, habits=HABITS)
    there = There(idle=(idle(0), idle(1)))
    assert stays(two, there).look_at == NOW + 30  # two boots after it grew
    assert gone(replace(two, grew_at=NOW - 120), there) == (0, 1)  # one that never comes holds nothing up


def test_a_pool_above_its_max_shrinks_to_it() -> None:
    there = There(idle=tuple(idle(n) for n in range(12)))
    assert len(gone(load(nodes=12, ready=12, waiting=50), there)) == 2


# --- what always holds ----------------------------------------------------------------------------

SECONDS = st.sampled_from([0.0, 1.0, 29.0, 30.0, 61.0, 299.0, 301.0, 1e5])


@st.composite
def pools(draw: st.DrawFn) -> tuple[Load, There]:
    """Any pool, and what could be given up in it."""
    least = draw(st.integers(0, 6))
    most = draw(st.integers(max(least, 1), 12))
    nodes = draw(st.integers(0, most))
    kinds = [draw(st.sampled_from(["bare", "leaving", "idle", "busy", "starting"])) for _ in range(nodes)]
    dollars = st.sampled_from([0.1, 0.2, 1.0])
    ones = tuple(
        idle(n, draw(SECONDS), dollars=draw(dollars), on_demand=draw(st.booleans()))
        for n, kind in enumerate(kinds)
        if kind == "idle"
    )
    concurrency = draw(st.integers(1, 3))
    some = st.dictionaries(st.integers(0, most - 1), st.integers(1, 9), max_size=3)
    pinned: dict[int, int] = draw(some) if draw(st.booleans()) else {}
    placed = {n: draw(st.integers(1, concurrency)) for n, kind in enumerate(kinds) if kind == "busy"}
    it = Load(
        now=NOW,
        scaling=draw(st.sampled_from([RULES, FOUR_EACH, Scaling(idle_timeout_s=0, down_cooldown_s=0)])),
        concurrency=concurrency,
        least=least,
        most=most,
        nodes=nodes,
        ready=sum(kind in ("idle", "busy", "leaving") for kind in kinds),
        starting=kinds.count("starting"),
        waiting=draw(st.sampled_from([0, 0, 0, 1, 5, 60])),
        held_back=draw(st.sampled_from([0, 0, 0, 2])),
        placed=sum(placed.values()),
        pins=pins(pinned, placed, tuple(sorted(n for n in pinned if n >= nodes))),
        waited_s=draw(SECONDS),
        habits=Habits(
            boot_s=draw(st.sampled_from([None, 0.0, 0.5, 60.0])),
            task_s=draw(st.sampled_from([None, 0.0, 2.0, 600.0])),
        ),
        grew_at=NOW - draw(SECONDS),
        shrank_at=NOW - draw(SECONDS),
        sized_at=NOW - draw(SECONDS),
    )
    there = There(
        bare=tuple(n for n, kind in enumerate(kinds) if kind == "bare"),
        leaving=tuple(n for n, kind in enumerate(kinds) if kind == "leaving"),
        idle=ones,
        on_demand=sum(one.on_demand for one in ones),
        wanted_on_demand=draw(st.sampled_from([OnDemand(), OnDemand(floor=2), OnDemand(share=0.5)])),
    )
    return it, there


@settings(max_examples=2000, deadline=None, derandomize=True, database=None)
@given(pools())
def test_whatever_happens_a_decision_keeps_the_bounds_and_the_busy(pool: tuple[Load, There]) -> None:
    it, there = pool
    verdict = decide(it, lambda: there)
    assert verdict == decide(it, lambda: there)
    work = it.waiting + it.placed + it.held_back + it.pins.waiting
    match verdict:
        case Grow(nodes=nodes, include=include):
            assert max(it.nodes, it.least) <= nodes <= it.most and nodes > it.nodes
            assert set(include) <= set(it.pins.missing) and len(include) <= nodes - it.nodes
            assert it.pins.missing == include or nodes == it.most
            assert it.nodes == 0 or it.grew_at + it.scaling.up_cooldown_s <= NOW
            assert nodes <= max(it.kept, it.nodes + len(include))  # or it would shrink again
        case Shrink(nodes=nodes_):
            assert nodes_ and len(set(nodes_)) == len(nodes_)
            free = {one.node: one for one in there.idle}
            assert set(nodes_) <= set(there.bare) | set(there.leaving) | set(free)
            assert not any(n in it.pins.nodes for n in nodes_)
            assert all(NOW - free[n].since >= it.scaling.idle_timeout_s for n in nodes_ if n in free)
            left = it.nodes - len(nodes_)
            assert left >= it.least and left >= it.pins.count - len(it.pins.missing)
            assert left * it.per_node >= min(work, it.most * it.per_node) - _beyond(it)
            assert NOW - it.sized_at >= it.scaling.idle_timeout_s
            if set(nodes_) & set(free):
                assert min(NOW - it.grew_at, NOW - it.shrank_at) >= it.scaling.down_cooldown_s
                assert all(n in nodes_ or n in it.pins.nodes for n in there.bare)
        case Stay(look_at=at):
            assert at is None or at > NOW or it.scaling.idle_timeout_s == 0


def _beyond(it: Load) -> float:
    """Tasks for one node only that it will have one after the other."""
    shapes = it.pins.shapes.items()
    return sum(nodes * max(0.0, count + beside - it.per_node) for (count, beside), nodes in shapes)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(
    work=st.integers(0, 40),
    nodes=st.integers(0, 10),
    least=st.integers(0, 4),
    concurrency=st.integers(1, 3),
    scaling=st.sampled_from(
        [RULES, FOUR_EACH, Scaling(idle_timeout_s=0, down_cooldown_s=0, up_cooldown_s=0)]
    ),
    habits=st.sampled_from([Habits(), HABITS, Habits(boot_s=60, task_s=1), Habits(boot_s=60, task_s=600)]),
)
def test_under_a_load_that_lasts_a_pool_comes_to_rest(
    work: int, nodes: int, least: int, concurrency: int, scaling: Scaling, habits: Habits
) -> None:
    """Tasks that end are followed by as many others; machines take a minute to come."""
    ready_at = dict.fromkeys(range(max(nodes, least)), -inf)
    idle_since: dict[int, float] = {}
    grew, shrank, ways = 0.0, 0.0, list[int]()
    for step in range(200):
        now = NOW + 10.0 * step
        ready = sorted(n for n, at in ready_at.items() if at <= now)
        placed = min(work, len(ready) * concurrency)
        busy = set(ready[: -(-placed // concurrency)])
        idle_since = {n: idle_since.get(n, now) for n in ready if n not in busy}
        it = load(
            now=now,
            scaling=scaling,
            concurrency=concurrency,
            least=least,
            nodes=len(ready_at),
            ready=len(ready),
            starting=len(ready_at) - len(ready),
            waiting=work - placed,
            placed=placed,
            habits=habits,
            grew_at=grew,
            shrank_at=shrank,
        )
        there = There(idle=tuple(Idle(n, since, 100_000, False) for n, since in idle_since.items()))
        match decide(it, lambda there=there: there):  # type: ignore[misc]
            case Grow(nodes=target):
                free = [n for n in range(20) if n not in ready_at]
                ready_at |= dict.fromkeys(free[: target - len(ready_at)], now + 60.0)
                grew = now
                ways.append(1)
            case Shrink(nodes=out):
                for n in out:
                    del ready_at[n]
                    idle_since.pop(n, None)
                shrank = now
                ways.append(-1)
            case Stay():
                pass
        assert least <= len(ready_at) <= 10
        if step == 150:
            at_rest = len(ways)
    assert len(ways) == at_rest <= 20
    turns = [way for i, way in enumerate(ways) if i == 0 or ways[i - 1] != way]
    assert len(turns) <= 2, ways  # to and fro at most once: a first guess, then what it came to
    if work:
        assert ready_at
