"""Whole runs of pools that follow their tasks: the daemon's own actors in virtual time."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from actors.events import PoolResizeRequested, PoolUpdateRequested, TaskRequested
from actors.spec import PoolSpec, TaskSpec
from controller.simulation.house import Life
from controller.simulation.results import Course, PoolFigures
from controller.simulation.trial import Load, Scenario, Scripted, Trial, unhurried
from providers.simulated.config import Delay, SimulatedConfig, SimulatedOffer

HOUR_S = 3600.0
BOOT_S = 60.0
IDLE_S = 300.0
SEEN_WITHIN_S = 6.0  # listings come every five seconds
CLOUD = SimulatedConfig(
    offers=(SimulatedOffer(spot=0.36, on_demand=1.08),),
    call_delay=Delay(most_s=0),
    boot_delay=Delay(least_s=BOOT_S, most_s=BOOT_S),
    end_delay=Delay(most_s=0),
    visible_within_s=0,
    notice_s=None,
)


def spec(least: int = 0, most: int = 10, **keys: Any) -> PoolSpec:
    scaling = {"idle_timeout_s": IDLE_S, "up_cooldown_s": 30, "down_cooldown_s": 60} | keys.pop("scaling", {})
    nodes = {"desired": least, "min": least, "max": most}
    return PoolSpec.model_validate({"provider": "sim", "nodes": nodes, "scaling": scaling} | keys)


def run(
    pool: PoolSpec,
    seconds: float,
    moments: dict[float, Callable[[Life], Awaitable[None]]] | None = None,
    **keys: Any,
) -> tuple[PoolFigures, Course]:
    scenario = Scenario(pools={"p": pool}, providers={"sim": CLOUD}, seconds=seconds, **keys)
    trial = Trial(scenario, moments=moments or {})
    report = trial.run()
    assert report.bugs == ()
    return report.pools[0], trial.courses["p"]


class Work:
    """Tasks given at some time, and what became of them."""

    def __init__(self) -> None:
        self.nodes: dict[float, list[int]] = {}

    def tasks(self, name: str, count: int, seconds: float, **keys: Any) -> Callable[[Life], Awaitable[None]]:
        async def give(life: Life) -> None:
            for number in range(count):
                task = TaskSpec(argv=("sim-sleep", f"{seconds:g}"), **keys)
                request = TaskRequested(request_id=f"{name}-{number}", pool="p", task=task)
                await life.submit("p", request)

        return give

    def look(self, at: float, *, busy: bool = False) -> Callable[[Life], Awaitable[None]]:
        """Note which nodes have a machine, and that no task is there unless it may be."""

        async def note(life: Life) -> None:
            index = life.loops["p"].index
            self.nodes[at] = sorted(state.node for state in index.instances.values())
            assert busy or not index.tasks, index.tasks

        return note


def most_at_once(course: Course) -> int:
    return max(nodes for _, nodes in course.ready)


def test_a_pool_grows_for_a_queue_works_it_off_and_goes_back_to_nothing() -> None:
    pool, course = run(spec(), 3 * HOUR_S, load=Load(tasks=200, seconds=60))
    assert pool.tasks is not None
    assert (pool.tasks.done, pool.tasks.failed, pool.tasks.attempts_lost) == (200, 0, 0)
    assert pool.launches == 10 and most_at_once(course) == 10
    # The first node comes at once, the others when the pool may grow again; then twenty tasks each.
    assert pool.tasks.all_done_after_s is not None
    assert pool.tasks.all_done_after_s <= 30 + BOOT_S + SEEN_WITHIN_S + 20 * 60 + 60
    assert course.ready[-1][1] == 0 and pool.is_whole_at_end
    alone = 200 * 60 / HOUR_S
    each = (BOOT_S + SEEN_WITHIN_S + IDLE_S + 2 * 60 + 5) / HOUR_S
    assert alone < pool.machine_hours_spot + pool.machine_hours_on_demand < alone + 10 * each


def test_machines_that_are_taken_are_replaced_while_there_is_work() -> None:
    scripts = {"sim": [Scripted(after_s=600, machines=(1, 2, 3))]}
    pool, course = run(spec(), 3 * HOUR_S, load=Load(tasks=200, seconds=60), scripts=scripts)
    assert pool.tasks is not None and (pool.tasks.done, pool.tasks.failed) == (200, 0)
    assert 0 < pool.tasks.attempts_lost <= 3 and pool.launches == 13
    assert course.ready[-1][1] == 0


@pytest.mark.parametrize("within_s", [None, 120])
def test_what_is_idle_and_taken_is_not_bought_again(within_s: float | None) -> None:
    # They are idle for less than the timeout then, and what the user set at first lasts no more.
    scripts = {"sim": [Scripted(after_s=BOOT_S + 400, machines=(1, 2), within_s=within_s)]}
    pool, course = run(spec(), HOUR_S, load=Load(tasks=2, seconds=250), scripts=scripts)
    assert (pool.launches, pool.preemptions) == (2, 2) and course.ready[-1][1] == 0


def test_tasks_that_are_soon_done_ask_for_no_machine() -> None:
    work = Work()
    moments = {100.0: work.tasks("first", 1, 1), 200.0: work.tasks("more", 100, 1), 400.0: work.look(400)}
    pool, course = run(spec(least=1), 1000, moments)
    assert pool.launches == 1 and most_at_once(course) == 1
    assert work.nodes[400] == [0]


def test_long_tasks_ask_for_machines_at_once() -> None:
    work = Work()
    moments = {100.0: work.tasks("first", 1, 300), 500.0: work.tasks("more", 4, 300), 900.0: work.look(900)}
    pool, course = run(spec(least=1), 2 * HOUR_S, moments)
    assert pool.launches == 4 and most_at_once(course) == 4
    assert work.nodes[900] == [0, 1, 2, 3]
    assert course.ready[-1][1] == 1


def test_a_task_for_one_node_brings_that_node_up_and_it_goes_when_idle() -> None:
    work = Work()
    moments = {10.0: work.tasks("pinned", 2, 30, node=4), 200.0: work.look(200), 600.0: work.look(600)}
    pool, _ = run(spec(), 1000, moments)
    assert pool.launches == 1
    assert work.nodes == {200: [4], 600: []}


def test_a_task_for_a_node_that_has_to_wait_is_not_lost_when_the_pool_changes() -> None:
    work = Work()

    async def resize(life: Life) -> None:
        await life.submit("p", PoolResizeRequested(request_id="two", pool="p", nodes=2))

    moments = {
        10.0: work.tasks("any", 1, 500),
        15.0: work.tasks("pinned", 1, 500, node=4),  # the pool grew just now
        20.0: resize,
        200.0: work.look(200, busy=True),
    }
    run(spec(), 300, moments)
    assert work.nodes[200] == [0, 1, 4]


def test_another_idle_timeout_holds_from_then_on() -> None:
    work = Work()

    async def update(life: Life) -> None:
        await life.submit("p", PoolUpdateRequested(request_id="quick", pool="p", spec=unhurried(spec())))

    moments = {
        10.0: work.tasks("any", 1, 10),
        500.0: update,
        790.0: work.look(790),
        900.0: work.look(900),
    }
    run(spec(scaling={"idle_timeout_s": 3000}), 1000, moments)
    assert work.nodes == {790: [0], 900: []}


def test_a_trickle_of_tasks_keeps_one_node() -> None:
    work = Work()
    moments = {float(at): work.tasks(f"at{at}", 1, 20) for at in range(10, 10 + 280 * 20, 280)}
    pool, course = run(spec(), 2 * HOUR_S, moments)
    assert pool.launches == 1 and most_at_once(course) == 1
    assert course.ready[-1][1] == 0


def test_waves_of_work_make_a_bounded_number_of_launches() -> None:
    """Each wave launches at most what it needs; within a pause shorter than the idle timeout, nothing."""
    work = Work()
    waves = [float(10 + 400 * n) for n in range(6)]
    moments = {at: work.tasks(f"at{at:g}", 12, 60) for at in waves}
    pool, course = run(spec(most=6), 2 * HOUR_S, moments)
    assert pool.launches == 6 and course.ready[-1][1] == 0
