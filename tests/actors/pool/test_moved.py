"""Machines that better ones replaced: what becomes of them, and of their tasks."""

import pytest

from actors.events import TaskAttemptEnded, TaskRequested
from actors.instance.state import Draining
from actors.messages import VendorNotice
from actors.policy.situation import Moved
from actors.pool.state import Parked
from actors.spec import TaskSpec, Worker
from providers.model import Notice
from tests.actors.model import offer
from tests.actors.pool.test_placing import STEADY, Planner, look, machines, planner
from tests.actors.pool.test_rules import Pool
from tests.actors.turns import POOL

__all__ = ["planner"]
OFFERS = (offer("a"), STEADY)
TIMEOUT_S = 60.0


def moved(planner: Planner, nodes: int = 2, **changes: object) -> tuple[Pool, str]:
    """A pool whose node 1 was moved while a long task ran there, and the machine that it left."""
    pool = Pool(nodes, offers=OFFERS, worker=Worker(concurrency=1), drain_timeout=TIMEOUT_S, **changes)
    planner.offers = OFFERS
    pool.exit_code = None
    pool.until(pool.whole)
    task = TaskRequested(request_id="long-0", pool=POOL, task=TaskSpec(argv=("x",), node=1))
    pool.turns.ask(task)
    pool.until(lambda: pool.turns.index.tasks["long-0"].status == "running")
    left = machines(pool)[1]
    planner.moves = lambda situation: (Moved(1, STEADY, "better"),)
    look(pool)
    planner.moves = lambda situation: ()
    pool.until(lambda: machines(pool).get(1, left) != left)
    gone = pool.turns.index.instances[left]
    assert isinstance(gone, Draining)
    assert gone.reason == "moved"
    return pool, left


def test_placement_is_told_how_many_are_left_with_their_tasks(planner: Planner) -> None:
    pool, left = moved(planner)
    look(pool)
    assert planner.seen[-1].moved_away == 1
    pool.exit_code = 0
    pool.until(lambda: left not in pool.turns.index.instances)
    look(pool)
    assert planner.seen[-1].moved_away == 0


@pytest.mark.parametrize("how", ["resize", "removed", "budget", "park"])
def test_what_was_moved_goes_with_its_node(planner: Planner, how: str) -> None:
    pool, left = moved(planner)
    before = pool.turns.now
    match how:
        case "resize":
            pool.resize("small", 1)
        case "removed":
            pool.resize("none", 0)
        case "budget":
            spent = pool.state.spend.model_copy(update={"reached": "total"})
            budget = pool.state.spec.budget.model_copy(update={"total": 1e-6})
            pool.update("broke", budget=budget)
            pool.turns.put(("pool", POOL), pool.state.model_copy(update={"spend": spent}))
            pool.turns.hear()
        case _:
            pool.turns.condemn(("pool", POOL))
            assert isinstance(pool.state, Parked)
    pool.until(lambda: left not in pool.turns.index.instances)
    assert pool.turns.now - before < TIMEOUT_S + 60
    if how == "park":
        assert machines(pool).keys() == {0, 1}, "what works lives on"


def test_what_was_moved_stays_for_its_tasks_when_others_go(planner: Planner) -> None:
    pool, left = moved(planner, nodes=3)
    pool.resize("small", 2)
    pool.until(lambda: len(pool.turns.index.instances) == 3)
    pool.turns.now += 3600
    pool.turns.due()
    for _ in range(20):
        pool.fair_step()
    assert pool.turns.index.tasks_on(left) == ("long-0",)


@pytest.mark.parametrize("is_told", [True, False])
def test_a_task_that_a_move_ended_is_not_held_to_be_interrupted(planner: Planner, is_told: bool) -> None:
    pool, left = moved(planner, retry_on_interruption=0)
    agent = pool.machines[pool.turns.index.instances[left].key].agent
    pool.turns.now += 6 * 3600
    pool.turns.due()
    if is_told:
        agent.end(("long-0", 1), why="notice", signal=15)
    pool.until(lambda: left not in pool.turns.index.instances)
    pool.until(lambda: pool.turns.index.tasks["long-0"].status == "running")
    task = pool.turns.index.tasks["long-0"]
    assert (task.attempt, task.interruptions) == (2, 0)
    [ended] = pool.turns.facts("task_attempt_ended")
    assert isinstance(ended, TaskAttemptEnded)
    assert (ended.result, ended.reason) == ("resource_failure", "moved")


def test_a_task_whose_moved_machine_is_taken_by_the_market_is_interrupted(planner: Planner) -> None:
    pool, left = moved(planner, retry_on_interruption=1)
    machine = pool.turns.index.instances[left]
    notice = VendorNotice(Notice(reason="spot", deadline_at=pool.turns.now + 30))
    pool.turns.hear((("instance", left), notice))
    pool.machines[machine.key].agent.end(("long-0", 1), why="notice", signal=15)
    pool.until(lambda: pool.turns.index.tasks["long-0"].attempt == 2)
    assert pool.turns.index.tasks["long-0"].interruptions == 1


def test_a_task_whose_moved_machine_vanishes_is_tried_again(planner: Planner) -> None:
    pool, left = moved(planner, retry_on_interruption=0)
    pool.vanish(pool.turns.index.instances[left].key)
    pool.turns.now += 100
    pool.until(lambda: left not in pool.turns.index.instances)
    assert pool.turns.index.tasks["long-0"].interruptions == 0
