"""Spares that go, and spares that stand in: which machines that costs, and which tasks."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.address import Address
from actors.effects import Effect, Launch
from actors.events import PoolReady, TaskRequested
from actors.instance.state import Draining
from actors.node.state import Filling
from actors.policy import placement
from actors.policy.situation import Moved
from actors.spec import TaskSpec
from actors.task.state import Running
from tests.actors.pool.test_placing import (
    CHEAP,
    OFFERS,
    OTHER,
    STEADY,
    Planner,
    look,
    machines,
    planner,
    whole,
)
from tests.actors.pool.test_rules import Pool
from tests.actors.turns import POOL

__all__ = ["planner"]


def busy(pool: Pool, *nodes: int) -> None:
    """Long tasks on these nodes only."""
    pool.exit_code = None
    names = machines(pool)
    for node in nodes:
        name = f"on{node}-0"
        pool.turns.ask(TaskRequested(request_id=name, pool=POOL, task=TaskSpec(argv=("x",), node=node)))
    pool.until(lambda: all(isinstance(one, Running) for one in pool.turns.index.tasks.values()))
    assert all(pool.turns.index.tasks_on(names[node]) for node in nodes)


def fewer(pool: Pool, planner: Planner, spares: int, *surplus: int) -> None:
    """There should be so many spares, and these machines are not wanted."""
    planner.rest = {"spares": spares, "surplus": surplus}
    pool.turns.now += 10
    look(pool)
    assert pool.state.spares == spares


def test_a_working_rank_keeps_its_machine_when_an_idle_spare_can_go(planner: Planner) -> None:
    pool = whole(2, planner, spares=1)
    before = machines(pool)
    busy(pool, 0)
    fewer(pool, planner, 0, 0)
    assert machines(pool) == {0: before[0], 1: before[1]}
    pool.until(lambda: before[2] not in pool.turns.index.instances)
    assert pool.turns.index.tasks_on(before[0]) == ("on0-0",)


def test_a_rank_that_a_task_waits_for_keeps_its_machine(planner: Planner) -> None:
    pool = whole(2, planner, spares=1)
    before = machines(pool)
    pool.exit_code = 1
    task = TaskSpec(argv=("x",), node=0, retries=9)
    pool.turns.ask(TaskRequested(request_id="again-0", pool=POOL, task=task))
    pool.until(lambda: "again-0" in pool.turns.index.pinned_to(0))
    assert not pool.turns.index.tasks_on(before[0])
    fewer(pool, planner, 0, 0)
    assert machines(pool)[0] == before[0]


def test_an_idle_spare_goes_in_the_place_of_a_busy_one(planner: Planner) -> None:
    pool = whole(1, planner, spares=2)
    before = machines(pool)
    give(pool, before[2])
    fewer(pool, planner, 1)
    assert machines(pool) == {0: before[0], 1: before[2]}
    pool.until(lambda: before[1] not in pool.turns.index.instances)
    assert pool.turns.index.tasks_on(before[2])


def give(pool: Pool, *names: str) -> None:
    """Let the queue's tasks run on these machines only, until they end."""
    pool.exit_code = None
    for name in dict.fromkeys(list(machines(pool).values())):
        pool.turns.ask(TaskRequested(request_id=f"{name}-0", pool=POOL, task=TaskSpec(argv=("x",))))
    tasks = pool.turns.index.tasks
    pool.until(
        lambda: (
            len({one.instance_id for one in tasks.values() if isinstance(one, Running)})
            == len(machines(pool))
        )
    )
    for name in machines(pool).values():
        if name not in names:
            machine = pool.machines[pool.turns.index.instances[name].key]
            for one, word in list(machine.agent.tasks.items()):
                if word == "running":
                    machine.agent.end(one, code=0)
    idle = [name for name in machines(pool).values() if name not in names]
    pool.until(lambda: not any(pool.turns.index.tasks_on(name) for name in idle))


def test_a_busy_spare_ends_its_tasks_before_it_goes(planner: Planner) -> None:
    pool = whole(1, planner, spares=1)
    before = machines(pool)
    give(pool, *before.values())
    fewer(pool, planner, 0)
    pool.turns.now += 3 * 3600
    pool.turns.due()
    for _ in range(20):
        pool.fair_step()
    assert isinstance(pool.turns.index.instances[before[1]], Draining)
    assert pool.turns.index.tasks_on(before[1])
    pool.exit_code = 0
    pool.until(lambda: before[1] not in pool.turns.index.instances)
    assert {one.result for one in pool.turns.facts("task_attempt_ended")} == {"success"}


def test_a_busy_spare_that_goes_is_hurried_when_nothing_is_wanted_any_more(planner: Planner) -> None:
    pool = whole(1, planner, spares=1)
    before = machines(pool)
    give(pool, *before.values())
    fewer(pool, planner, 0)
    pool.resize("none", 0)
    began = pool.turns.now
    pool.until(lambda: not pool.turns.index.instances)
    assert pool.turns.now - began < pool.spec.drain_timeout + 60


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(
    surplus=st.lists(st.integers(0, 6), max_size=12),
    spares=st.integers(0, 2),
)
def test_whatever_is_not_wanted_a_machine_fills_one_node(surplus: list[int], spares: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        made = Planner()
        patch.setattr(placement, "place", made)
        pool = whole(2, made, spares=3)
        before = machines(pool)
        fewer(pool, made, spares, *surplus)
        after = machines(pool)
        assert len(set(after.values())) == len(after) == 2 + spares
        assert set(after.values()) <= set(before.values())
        assert {name: pool.turns.index.instances[name].node for name in after.values()} == {
            name: node for node, name in after.items()
        }


def test_a_node_does_not_move_in_the_turn_in_which_its_machine_changes_nodes(planner: Planner) -> None:
    pool = whole(2, planner, spares=2)
    before = machines(pool)
    planner.moves = lambda situation: (Moved(0, STEADY, "better"),) if situation.spares == 2 else ()
    fewer(pool, planner, 1, 0)
    assert machines(pool) == {0: before[3], 1: before[1], 2: before[2]}
    pool.until(lambda: before[0] not in pool.turns.index.instances)
    assert len(pool.machines) == 3, "each machine that is there fills a node"
    assert set(pool.turns.index.instances) == set(machines(pool).values())


def test_a_spare_that_was_lost_is_filled_by_one_that_is_not_wanted_any_more(planner: Planner) -> None:
    pool = whole(2, planner, spares=2)
    before = machines(pool)
    planner.rest = {"spares": 1, "choices": {}}  # nothing is bought: as many are there as are wanted
    pool.turns.world = replace(pool.turns.world, offers={})
    pool.vanish(pool.turns.index.instances[before[2]].key)
    pool.turns.now += 100
    pool.until(lambda: pool.state.spares == 1 and pool.statuses == ["filled"] * 3 + ["retired"])
    assert machines(pool) == {0: before[0], 1: before[1], 2: before[3]}


class Stuck(Pool):
    """The launch of node 0 is never answered."""

    def _perform(self, address: Address, effect: Effect) -> None:
        if not (isinstance(effect, Launch) and effect.node == 0):
            super()._perform(address, effect)


def test_a_pool_is_whole_when_its_ranks_are_not_when_as_many_machines_are(planner: Planner) -> None:
    planner.rest = {"spares": 1}
    pool = Stuck(2, offers=OFFERS)
    pool.until(lambda: sorted(machines(pool)) == [1, 2])
    assert not pool.whole()
    assert pool.state.short_since is not None
    assert pool.turns.ending("make") is None


def test_a_pool_that_is_whole_says_how_many_ranks_are_ready(planner: Planner) -> None:
    pool = whole(2, planner, spares=2)
    pool.resize("more", 3)
    pool.until(lambda: pool.turns.ending("more") is not None)
    ready = [one for one in pool.turns.facts("pool_ready") if isinstance(one, PoolReady)]
    assert [one.nodes for one in ready] == [2, 3]


def test_neither_a_node_nor_the_spare_for_it_asks_where_the_machine_was_taken(planner: Planner) -> None:
    planner.offers = (CHEAP, OTHER)
    pool = whole(1, planner, spares=1)
    gone = pool.turns.index.instances[machines(pool)[0]]
    pool.vanish(gone.key)
    pool.turns.now += 100
    seen = len(planner.seen)
    pool.until(lambda: any(one.asking for one in planner.seen[seen:]))
    [asking] = next(one.asking for one in planner.seen[seen:] if one.asking)
    assert (asking.node, asking.lost_in) == (1, str(gone.offer.market))
    assert isinstance(pool.turns.index.nodes[1], Filling)
