"""What the actors do together, with the real loop, links and gateway and a small cloud."""

import anyio
import pytest

from actors.decision import Decision, View
from actors.events import (
    DrainRequested,
    Error,
    PoolReady,
    PoolResized,
    PoolResizeRequested,
    ShutdownRequested,
    TaskCompleted,
    TaskRequested,
)
from actors.messages import Submitted, TaskMessage
from actors.spec import Image, Nodes, PoolSpec, Step, TaskSpec
from actors.task import rules as task_rules
from actors.task.state import TaskState
from providers.simulated.config import SimulatedOffer
from providers.simulated.faults import Trouble
from tests.actors.house import CONFIG, POOL, House, house

pytestmark = pytest.mark.anyio


def spec(nodes: int, **changes: object) -> PoolSpec:
    fields: dict[str, object] = {
        "provider": ("sim",),
        "nodes": Nodes(desired=nodes),
        "metrics_every_s": 86_400,
    }
    return PoolSpec.model_validate(fields | changes)


def task(name: str, seconds: float = 0.01, **changes: object) -> TaskRequested:
    argv = ("sim-sleep", str(seconds), "0", name.rsplit("-", 1)[1])
    return TaskRequested(request_id=name, pool=POOL, task=TaskSpec.model_validate({"argv": argv} | changes))


async def test_a_pool_comes_up_grows_shrinks_and_goes() -> None:
    async with house() as here:
        await here.pool(spec(2))
        assert isinstance(here.ending("make"), PoolReady)
        assert len(here.ready) == 2
        await here.ask(PoolResizeRequested(request_id="grow", pool=POOL, nodes=4))
        await here.until(lambda: here.ended("grow"))
        grown = here.ending("grow")
        assert isinstance(grown, PoolResized)
        assert grown.nodes == len(here.ready) == 4
        await here.ask(PoolResizeRequested(request_id="shrink", pool=POOL, nodes=1))
        await here.until(lambda: len(here.facts("instance_destroyed")) == 3)
        assert here.ready == ["pool-0-1.1.1"]  # the highest ranks go first
        await here.ask(ShutdownRequested(request_id="end", cluster_id=POOL))
        await here.until(lambda: here.ended("end"))
        assert not here.cloud.living


async def test_a_noticed_machine_is_replaced_in_the_same_turn() -> None:
    async with house() as here:
        await here.pool(spec(1))
        [old] = here.ready
        [machine] = here.cloud.living.values()
        here.cloud.preempt(machine, 3600)
        await here.until(lambda: bool(here.facts("instance_replaced")))
        turn = next(
            commit
            for commit in here.commits
            if any(one.event.kind == "instance_preempted" for one in commit.envelopes)
        )
        assert [one.event.kind for one in turn.envelopes] == ["instance_preempted", "instance_requested"]
        assert {row.kind for row in turn.states} >= {"node", "instance"}
        [new] = here.ready
        assert new != old
        assert new.split(".")[0] == old.split(".")[0]  # the rank stays


async def test_a_launch_of_unknown_outcome_is_looked_up_not_repeated() -> None:
    async with house() as here:
        here.cloud.luck.next_launches.append(Trouble.UNKNOWN_DONE)
        await here.pool(spec(1))
        assert len(here.launched) == 1
        assert set(here.looked_for) == set(here.launched)
        assert len(here.cloud.machines) == 1


async def test_a_launch_that_came_to_nothing_is_made_again_under_its_key() -> None:
    async with house() as here:
        here.cloud.luck.next_launches.append(Trouble.UNKNOWN_NOT_DONE)
        await here.pool(spec(1))
        assert len(here.launched) == 2
        assert len(set(here.launched)) == len(here.cloud.machines) == 1


async def test_a_refused_launch_is_made_in_another_market() -> None:
    async with house() as here:
        here.cloud.luck.next_launches.append(Trouble.CAPACITY)
        await here.pool(spec(1))
        [machine] = here.cloud.living.values()
        assert machine.offer.zone == "sim-b"
        assert len(here.facts("launch_refused")) == 1


async def test_a_bug_in_a_rule_costs_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    decide = task_rules.decide

    def buggy(state: TaskState | None, message: TaskMessage, view: View) -> Decision:
        if isinstance(message, Submitted) and message.envelope.request_id == "boom-0":
            raise KeyError("planted")
        return decide(state, message, view)

    monkeypatch.setattr(task_rules, "decide", buggy)
    async with house() as here:
        here.referee.forgives_bugs = True
        await here.pool(spec(1))
        for name in ("before-1", "boom-0", "after-2"):
            await here.ask(task(name))
        await here.until(lambda: here.ended("before-1") and here.ended("after-2"))
        for name in ("before-1", "after-2"):
            done = here.ending(name)
            assert isinstance(done, TaskCompleted)
            assert done.result == "success"
        assert len(here.facts("bug_caught")) == 1
        assert isinstance(here.ending("boom-0"), Error)


async def test_a_script_that_fails_parks_the_pool() -> None:
    config = CONFIG.model_copy(update={"offers": (SimulatedOffer(zone="sim-a", spot=0.1),)})
    image = Image(steps=(Step(phase="broken", run="sim-sleep 0.001 3"),))
    async with house(config) as here:
        await here.pool(spec(1, image=image, bootstrap_failures_max=1))
        ending = here.ending("make")
        assert isinstance(ending, Error)
        assert ending.fatal
        assert len(here.facts("pool_parked")) == 1
        assert len(here.facts("bootstrap_failed")) == len(here.launched) == 1


async def test_a_failed_commit_publishes_and_performs_nothing() -> None:
    async with house() as here:
        await here.pool(spec(1))
        before = (len(here.envelopes), list(here.launched))
        here.ledger.fail()
        [machine] = here.cloud.living.values()
        here.cloud.preempt(machine, 3600)
        with anyio.fail_after(20):
            while not here.ledger.refused:
                await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        assert (len(here.envelopes), list(here.launched)) == before
        here.ledger.heal()
        await here.until(lambda: bool(here.facts("instance_replaced")))
        assert len(here.launched) == 2


async def test_a_task_goes_on_while_the_daemon_is_dead() -> None:
    async with house() as here:
        await here.pool(spec(1))
        await here.ask(task("long-2", seconds=0.5))
        await here.until(lambda: bool(here.facts("task_started")))
        here.crash()
        await here.start()
        await here.until(lambda: here.ended("long-2"))
        done = here.ending("long-2")
        assert isinstance(done, TaskCompleted)
        assert (done.result, done.attempts) == ("success", 1)
        assert len(here.cloud.machines) == 1


async def test_a_drained_node_is_replaced_under_its_rank() -> None:
    async with house() as here:
        await here.pool(spec(2))
        await here.ask(DrainRequested(request_id="drain", pool=POOL, node=1))
        await here.until(lambda: here.ended("drain"))
        assert here.ending("drain").kind == "instance_replaced"
        await _until_only(here, 2)


async def _until_only(here: House, machines: int) -> None:
    await here.until(lambda: len(here.daemon.loops[POOL].index.instances) == machines == len(here.ready))
