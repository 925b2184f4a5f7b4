"""Histories about what is stuck, who writes, and what is left."""

from collections.abc import Callable

from actors.events import (
    BugCaught,
)
from actors.pool import state as pool_state
from actors.ports import StateRow
from actors.task.state import Assigned, Running, Stopping
from controller.simulation.house import OWNER
from providers.model import ClusterOrder
from tests.simulation.referee.machines import REPAIR_S
from tests.simulation.referee.progress import TOLD_S
from tests.simulation.referee.story import (
    POOL,
    PROVIDER,
    Story,
    pending,
    quarantined,
    requested,
    slots,
)
from tests.simulation.referee.told.histories import DONE, HOUR_S, KEY, PLANTED, broken, filling, holds, placed

STUCK = "nothing is stuck"


@broken(STUCK)
def a_launch_that_is_never_answered(story: Story) -> None:
    _listing(story, story.keep, requested(now=story.now), 2700)


@holds(STUCK)
def a_launch_that_is_answered(story: Story) -> None:
    _listing(story, story.keep, requested(now=story.now), 2300)


@holds(STUCK)
def a_launch_that_nobody_could_answer(story: Story) -> None:
    story.keep(requested(now=story.now))
    story.wait(100 * HOUR_S, fair=False)


def _listing(story: Story, do: Callable[..., None], what: object, seconds: float) -> None:
    do(what)
    story.wait(seconds)


@broken(STUCK)
def a_pool_that_never_ends(story: Story) -> None:
    active = story.pool()
    names = ("name", "generation", "spec", "desired")
    fields = {name: getattr(active, name) for name in names}
    story.keep(pool_state.Draining(**fields, reason="user"))
    story.wait(3 * HOUR_S)


@broken(STUCK)
def a_cluster_that_is_never_opened(story: Story) -> None:
    opening = pool_state.OpeningCluster(cluster_id="c", provider=PROVIDER, region="r", request_id="cluster:c")
    story.keep(story.pool(desired=0).model_copy(update={"clusters": {"c": opening}}))
    story.wait(HOUR_S)


@broken(STUCK)
def a_node_that_asks_and_is_not_heard(story: Story) -> None:
    story.pool()
    story.keep(filling("asks"))
    story.wait(300)


@broken(STUCK)
def a_task_that_never_stops(story: Story) -> None:
    story.pool()
    stopping = Stopping(
        **placed(), reason="user", grace_s=10, started_at=None, next_at=story.now + 100 * HOUR_S
    )
    story.keep(stopping)
    story.wait(2 * HOUR_S)


@broken("timers are heard")
def a_timer_that_nobody_hears(story: Story) -> None:
    story.keep(filling("waits").model_copy(update={"next_at": story.now + 60}))
    story.wait(600)


@holds("timers are heard")
def a_timer_that_is_not_due(story: Story) -> None:
    story.keep(filling("waits").model_copy(update={"next_at": story.now + 660}))
    story.wait(600)


@broken("slots are used")
def a_task_waits_beside_a_free_slot(story: Story) -> None:
    _waiting(story, 0)


@holds("slots are used")
def a_task_waits_for_a_slot(story: Story) -> None:
    _waiting(story, 1)


def _waiting(story: Story, on: int) -> None:
    story.pool(worker=slots(1))
    state, machine = story.ready()
    for i in range(on):
        story.referee.process_began(machine.ref, f"r{i}-0", 1)
        running = Running(**(placed() | {"id": f"r{i}-0", "instance_id": state.id}), pid=1, started_at=0)
        story.keep(running)
    story.keep(pending("t-0"))
    story.wait(480, lists=True)


@broken("the agents' word comes")
def running_without_a_process(story: Story) -> None:
    _running(story, runs=False)


@holds("the agents' word comes")
def running_with_a_process(story: Story) -> None:
    _running(story, runs=True)


@broken("the agents' word comes")
def assigned_to_a_free_slot_and_never_begun(story: Story) -> None:
    _running(story, runs=False, kind=Assigned)


def _running(story: Story, *, runs: bool, kind: type[Assigned | Running] = Running) -> None:
    story.pool()
    state, machine = story.ready()
    more = {"pid": 1, "started_at": 0} if kind is Running else {}
    story.keep(kind(**(placed() | {"instance_id": state.id}), **more))
    if runs:
        story.referee.process_began(machine.ref, "t-0", 1)
    story.wait(TOLD_S + 600, lists=True)


@broken("an old leader writes nothing")
def the_old_one_writes(story: Story) -> None:
    story.ledger.epoch = 2
    story.write(DONE)


@holds("an old leader writes nothing")
def the_new_one_writes(story: Story) -> None:
    story.ledger.epoch = story.ledger.writer = 2
    story.write(DONE)


@broken("late calls are repaired")
def a_late_machine_in_quarantine_for_ever(story: Story) -> None:
    _late(story, late=True)


@holds("late calls are repaired")
def a_late_machine_that_is_adopted(story: Story) -> None:
    story.pool()
    story.ready(late=True)
    story.wait(2 * REPAIR_S, lists=True)


@broken("late calls are repaired")
def a_machine_of_an_old_epoch_in_quarantine_for_ever(story: Story) -> None:
    story.ledger.epoch = story.ledger.writer = 2
    _late(story, late=False)


def _late(story: Story, *, late: bool) -> None:
    machine = story.make(KEY, late=late)
    story.wait(120, lists=True)
    story.keep(quarantined(machine, story.cloud, story.now))
    story.wait(REPAIR_S + 120, lists=True)


@broken("no bugs")
def a_rule_raised(story: Story) -> None:
    story.write(BugCaught(address="task/t-0", message="Due", error="ValueError"))


@holds("no bugs")
def a_rule_raised_as_planned(story: Story) -> None:
    story.referee.forgives_bugs = True
    story.write(BugCaught(address="task/t-0", message="Due", error="ValueError"))


@broken("nothing is left")
def a_machine_is_left(story: Story) -> None:
    story.make(PLANTED)
    story.referee.at_the_end()


@broken("nothing is left")
def a_cluster_is_left(story: Story) -> None:
    story.cloud.open_cluster(
        ClusterOrder(cluster_id="c", owner=OWNER, pool=POOL, region="sim", public_key="k")
    )
    story.referee.at_the_end()


@broken("nothing is left")
def a_state_is_left(story: Story) -> None:
    story.keep(pending("t-0"))
    story.referee.at_the_end()


@holds("nothing is left")
def all_is_gone(story: Story) -> None:
    story.referee.foreign.add("somebody/else")
    story.make("somebody/else", owner="somebody")
    story.keep(pending("t-0"))
    story.write(StateRow("task", "t-0", 1, None))
    story.referee.at_the_end()
