"""A pool that a user pauses: what goes on, what does not, and that all of it is made up for."""

from typing import Any

from actors.buying import Budget, Scaling
from actors.effects import Launch
from actors.events import (
    DrainRequested,
    Error,
    InstanceDestroyed,
    InstanceReplaced,
    LaunchRefused,
    PoolPaused,
    PoolPauseRequested,
    PoolResized,
    PoolResumed,
    ShutdownRequested,
    TaskRequested,
)
from actors.messages import MarketsChanged, VendorNotice
from actors.node.state import Filling
from actors.pool.pausing import ASK_AGAIN_S
from actors.pool.state import Active, Destroyed, Parked, Paused
from actors.spec import Nodes, TaskSpec
from providers.errors import Fault
from providers.model import Notice
from tests.actors.pool.test_rules import Pool, ready
from tests.actors.turns import POOL


def asked(pool: Pool, *, paused: bool) -> Any:
    """Pause it or resume it; answers what the request ended in."""
    pool.requests += 1
    name = f"pause-{pool.requests}"
    pool.turns.ask(PoolPauseRequested(request_id=name, pool=POOL, paused=paused))
    return pool.turns.ending(name)


def steps(pool: Pool, count: int = 20) -> None:
    """Everything that can go on goes on."""
    for _ in range(count):
        pool.fair_step()


def task(pool: Pool, name: str, **more: Any) -> None:
    pool.submit(TaskRequested(request_id=name, pool=POOL, task=TaskSpec(argv=("x",), **more)))


def test_it_ends_at_once_also_when_it_is_so_already() -> None:
    pool = ready(1)
    assert asked(pool, paused=False) == PoolResumed(pool=POOL, already=True)
    first = asked(pool, paused=True)
    assert isinstance(first, PoolPaused)
    assert not first.already
    before = pool.state.paused
    again = asked(pool, paused=True)
    assert again == first.model_copy(update={"already": True})
    assert pool.state.paused is before  # who did it first, and when
    assert asked(pool, paused=False) == PoolResumed(pool=POOL)


def test_a_machine_that_is_lost_stays_lost_until_it_is_resumed() -> None:
    pool = ready(2)
    asked(pool, paused=True)
    pool.vanish(next(iter(pool.machines)))
    steps(pool)
    pool.turns.hear((("pool", POOL), MarketsChanged()))
    steps(pool)
    assert len(pool.machines) == 1
    assert pool.statuses == ["filling", "filled"]
    lacking = pool.turns.index.nodes[0]
    assert isinstance(lacking, Filling)
    assert lacking.why_waiting.startswith("the pool is paused")
    assert lacking.next_at is not None
    assert lacking.next_at > pool.turns.now
    asked(pool, paused=False)
    pool.until(pool.whole)
    assert len(pool.machines) == 2


def test_it_costs_no_turns_to_wait() -> None:
    pool = ready(1)
    asked(pool, paused=True)
    pool.vanish(next(iter(pool.machines)))
    steps(pool, 5)
    timers = [at for address, at in pool.turns.timers() if address[0] in ("pool", "node")]
    assert min(timers) >= pool.turns.now + ASK_AGAIN_S / 2


def test_tasks_wait_and_those_that_run_go_on() -> None:
    pool = ready(1)
    pool.exit_code = None
    task(pool, "runs-0")
    pool.until(lambda: pool.turns.index.tasks["runs-0"].status == "running")
    asked(pool, paused=True)
    task(pool, "waits-0")
    steps(pool)
    assert [one.status for one in pool.turns.index.tasks.values()] == ["running", "pending"]
    pool.exit_code = 0
    steps(pool)
    assert list(pool.turns.index.tasks) == ["waits-0"]
    assert pool.turns.index.tasks["waits-0"].status == "pending"
    asked(pool, paused=False)
    pool.until(lambda: not pool.turns.index.tasks)


def test_a_task_is_told_of_a_notice_and_its_next_attempt_waits() -> None:
    pool = ready(1)
    pool.exit_code = None
    task(pool, "runs-0")
    pool.until(lambda: pool.turns.index.tasks["runs-0"].status == "running")
    asked(pool, paused=True)
    name = next(iter(pool.turns.index.instances))
    notice = Notice(reason="spot", deadline_at=pool.turns.now + 30)
    pool.turns.hear((("instance", name), VendorNotice(notice)))
    assert pool.turns.index.instances[name].status == "draining"
    pool.until(lambda: not pool.turns.index.instances)
    assert (pool.turns.index.tasks["runs-0"].status, pool.turns.index.tasks["runs-0"].attempt) == (
        "pending",
        2,
    )
    pool.exit_code = 0
    asked(pool, paused=False)
    pool.until(lambda: not pool.turns.index.tasks)


def test_a_launch_that_was_refused_is_not_made_again() -> None:
    pool = Pool(1)
    while not pool.calls_of(Launch):
        pool.answer(0, None, True, 0)
    place = next(i for i, (_, call) in enumerate(pool.calls) if isinstance(call, Launch))
    pool.answer(place, Fault.NOT_SENT, False, 0)
    asked(pool, paused=True)
    steps(pool)
    assert not pool.machines
    assert not pool.calls_of(Launch)
    refused = [one.event for one in pool.turns.events if isinstance(one.event, LaunchRefused)]
    assert [one.detail for one in refused] == ["the pool is paused"]
    asked(pool, paused=False)
    pool.until(pool.whole)


def test_another_size_holds_when_it_is_resumed() -> None:
    for nodes in (1, 3):
        pool = ready(2)
        asked(pool, paused=True)
        assert pool.resize("other", nodes) is None
        steps(pool)
        assert len(pool.machines) == 2
        asked(pool, paused=False)
        pool.until(lambda: len(pool.machines) == nodes)  # noqa: B023
        pool.until(pool.whole)
        assert pool.turns.ending("other") == PoolResized(pool=POOL, nodes=nodes)


def test_a_size_that_nobody_may_reach_ends_at_its_deadline_and_says_why() -> None:
    pool = ready(1)
    asked(pool, paused=True)
    pool.resize("other", 3)
    pool.until(lambda: pool.turns.ending("other") is not None)
    ended = pool.turns.ending("other")
    assert isinstance(ended, Error)
    assert "the pool is paused" in ended.message


def test_nodes_are_drained_and_replaced_later() -> None:
    pool = ready(2)
    asked(pool, paused=True)
    pool.turns.ask(DrainRequested(request_id="away", pool=POOL, node=1, then="remove"))
    pool.turns.ask(DrainRequested(request_id="other", pool=POOL, node=0))
    pool.until(lambda: not pool.turns.index.instances)
    assert isinstance(pool.turns.ending("away"), InstanceDestroyed)
    assert pool.turns.ending("other") is None
    asked(pool, paused=False)
    pool.until(pool.whole)
    assert isinstance(pool.turns.ending("other"), InstanceReplaced)
    assert pool.statuses == ["filled", "retired"]


def test_it_is_shut_down_like_any_other() -> None:
    pool = ready(2)
    asked(pool, paused=True)
    pool.turns.ask(ShutdownRequested(request_id="end", cluster_id=POOL))
    pool.until(lambda: isinstance(pool.state, Destroyed))


def test_it_does_not_follow_its_tasks() -> None:
    pool = ready(1)
    pool.update("follow", nodes=Nodes(desired=1, min=0, max=3), scaling=Scaling())
    asked(pool, paused=True)
    for number in range(5):
        task(pool, f"t-{number}-0")
    steps(pool, 60)
    assert pool.state.desired == 1
    asked(pool, paused=False)
    pool.until(lambda: pool.state.desired > 1)
    pool.exit_code = 0


def test_a_budget_that_ends_machines_still_does() -> None:
    pool = ready(1)
    asked(pool, paused=True)
    pool.update("poor", budget=Budget(total=0.0001, then="drain"))
    pool.until(lambda: not pool.machines)
    assert isinstance(pool.state, Active)
    assert pool.state.paused is not None
    pool.update("rich", budget=Budget())
    steps(pool)
    assert not pool.machines
    asked(pool, paused=False)
    pool.until(pool.whole)


def test_one_that_is_parked_stays_paused_when_it_is_mended() -> None:
    state = ready(1).state
    parked = Parked(
        name=POOL, generation=1, spec=state.spec, desired=1, reason="x", paused=Paused(by="a", since=1)
    )
    pool = ready(1)
    pool.turns.states["pool", POOL] = parked
    pool.turns.index.apply(("pool", POOL), state, parked)
    pool.resize("mended", 2)
    steps(pool)
    assert isinstance(pool.state, Active)
    assert pool.state.paused == parked.paused
    assert len(pool.machines) == 1


def test_a_restart_finds_it_paused() -> None:
    pool = ready(2)
    asked(pool, paused=True)
    before = pool.state.paused
    pool.vanish(next(iter(pool.machines)))
    pool.crash({}, 0)
    steps(pool)
    assert pool.state.paused == before
    assert len(pool.machines) == 1
    asked(pool, paused=False)
    pool.until(pool.whole)
