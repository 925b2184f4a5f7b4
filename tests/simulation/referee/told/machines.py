"""Histories about machines and what they cost."""

from actors.events import (
    ClusterDestroyed,
    ClusterRequested,
    Error,
    InstanceDestroyed,
    InstanceQuarantined,
    InstanceReaped,
    LeftoverFound,
)
from actors.policy.adoption import Quarantined
from controller.simulation.house import GUARD_S, OBSERVE_EVERY_S
from tests.simulation.referee.machines import LISTING_EVERY_S, REPAIR_S
from tests.simulation.referee.story import (
    POOL,
    PROVIDER,
    Story,
    pool,
    quarantined,
    requested,
    row,
)
from tests.simulation.referee.told.histories import (
    HOUR_S,
    KEY,
    NO_TOKENS,
    PLANTED,
    TELLS_ENDS,
    broken,
    holds,
    over,
)


@broken("one machine for a key")
def a_second_machine_where_keys_are_tokens(story: Story) -> None:
    story.keep(requested(now=story.now))
    story.make(KEY)
    story.make(KEY)


@holds("one machine for a key")
def another_try_is_another_key(story: Story) -> None:
    story.make(PLANTED)
    story.make(PLANTED[:-1] + "2")


@broken("one machine for a key", NO_TOKENS)
def launched_again_without_need(story: Story) -> None:
    story.keep(requested(now=story.now, tries=2))
    story.make(KEY)
    story.make(KEY)


@holds("one machine for a key", NO_TOKENS)
def launched_again_because_nobody_knew(story: Story) -> None:
    story.keep(requested(now=story.now, looking=True))
    story.make(KEY)
    twin = story.make(KEY)
    story.wait(REPAIR_S - 120, lists=True)
    story.cloud.end(twin, "terminated")
    story.wait(300, lists=True)


@broken("one machine for a key", NO_TOKENS)
def twins_that_stay(story: Story) -> None:
    story.keep(requested(now=story.now, looking=True))
    story.make(KEY)
    story.make(KEY)
    story.wait(1800, lists=True)


@broken("no machine is forgotten")
def shown_and_never_known(story: Story) -> None:
    story.make(PLANTED)
    story.wait(4 * OBSERVE_EVERY_S, lists=True)


@holds("no machine is forgotten")
def shown_and_in_quarantine(story: Story) -> None:
    machine = story.make(PLANTED)
    story.wait(60)
    story.list()
    story.keep(quarantined(machine, story.cloud, story.now))
    story.wait(4 * OBSERVE_EVERY_S, lists=True)


@broken("no machine is forgotten")
def another_ref_than_the_instance_has(story: Story) -> None:
    story.pool()
    asked = story.launch()
    story.launched(asked, story.make(PLANTED))
    story.make(KEY)
    story.wait(4 * OBSERVE_EVERY_S, lists=True)


@broken("no machine is forgotten")
def in_quarantine_and_never_reaped(story: Story) -> None:
    machine = story.make(PLANTED)
    story.keep(quarantined(machine, story.cloud, story.now))
    story.wait(1800, lists=True)


@holds("no machine is forgotten")
def reaped_late_because_the_daemon_was_down(story: Story) -> None:
    machine = story.make(PLANTED)
    story.wait(2 * REPAIR_S, fair=False)
    story.keep(quarantined(machine, story.cloud, story.now))
    story.wait(180, lists=True)


@broken("no machine is forgotten")
def nobody_lists(story: Story) -> None:
    story.pool()
    story.ready()
    story.wait(LISTING_EVERY_S + 180)


@broken("absence is observed")
def destroyed_and_alive(story: Story) -> None:
    state, _ = story.ready()
    story.list()
    story.write(InstanceDestroyed(instance_id=state.id))


@broken("absence is observed")
def destroyed_after_one_listing_without_it(story: Story) -> None:
    state, machine = story.ready()
    story.wait(60)
    story.list(without=[machine])
    story.write(InstanceDestroyed(instance_id=state.id))


@broken("absence is observed")
def destroyed_while_too_young_to_be_listed(story: Story) -> None:
    state, machine = story.ready()
    for _ in range(3):
        story.now += 1
        story.list(without=[machine])
    story.write(InstanceDestroyed(instance_id=state.id))


@holds("absence is observed")
def two_listings_lied(story: Story) -> None:
    state, machine = story.ready()
    for _ in range(2):
        story.wait(60)
        story.list(without=[machine])
    cost = machine.billed_micro_usd(story.now)
    story.write(InstanceDestroyed(instance_id=state.id, cost_micro_usd=cost), row(over(state), over=True))


@holds("absence is observed")
def it_was_back_when_the_disk_had_room_again(story: Story) -> None:
    state, machine = story.ready()
    for _ in range(2):
        story.wait(60)
        story.list(without=[machine])
    cost = machine.billed_micro_usd(story.now)
    story.wait(600, fair=False)
    story.list()
    story.write(InstanceDestroyed(instance_id=state.id, cost_micro_usd=cost), row(over(state), over=True))


@broken("absence is observed")
def it_was_back_long_ago(story: Story) -> None:
    story.pool()
    state, machine = story.ready()
    for _ in range(2):
        story.wait(60)
        story.list(without=[machine])
    story.wait(600, lists=True)
    story.write(InstanceDestroyed(instance_id=state.id), row(over(state), over=True))


@broken("launches are journaled first")
def launched_and_in_no_state(story: Story) -> None:
    story.make(KEY)


@holds("launches are journaled first")
def launched_after_its_order(story: Story) -> None:
    story.keep(requested(now=story.now))
    story.make(KEY)


@broken("the age guard is kept")
def reaped_at_once(story: Story) -> None:
    held = quarantined(story.make(PLANTED), story.cloud, story.now)
    _taken_in(story, held)
    story.wait(10)
    story.keep(held.model_copy(update={"tries": 1}))


@holds("the age guard is kept")
def reaped_after_the_guard(story: Story) -> None:
    held = quarantined(story.make(PLANTED), story.cloud, story.now)
    _taken_in(story, held)
    story.wait(GUARD_S)
    story.keep(held.model_copy(update={"tries": 1}))


@broken("the age guard is kept")
def a_guard_that_is_too_short(story: Story) -> None:
    held = quarantined(story.make(PLANTED), story.cloud, story.now)
    _taken_in(story, held.model_copy(update={"reap_at": story.now + GUARD_S - 1}))


@broken("the age guard is kept")
def taken_in_twice(story: Story) -> None:
    held = quarantined(story.make(PLANTED), story.cloud, story.now)
    for _ in range(2):
        _taken_in(story, held)


def _taken_in(story: Story, held: Quarantined) -> None:
    fact = InstanceQuarantined(
        key=held.key, ref=held.handle.ref, provider=PROVIDER, micro_usd_per_hour=1, reap_at=held.reap_at
    )
    story.write(fact, row(held))


@broken("foreign machines are untouched")
def a_stranger_is_terminated(story: Story) -> None:
    story.referee.foreign.add("somebody/else")
    machine = story.make("somebody/else", owner="somebody")
    story.cloud.end(machine, "terminated")


@holds("foreign machines are untouched")
def a_stranger_is_taken_by_its_cloud(story: Story) -> None:
    story.referee.foreign.add("somebody/else")
    machine = story.make("somebody/else", owner="somebody")
    story.cloud.end(machine, "preempted")


@broken("foreign machines are untouched")
def a_stranger_in_quarantine(story: Story) -> None:
    story.referee.foreign.add("somebody/else")
    machine = story.make("somebody/else", owner="somebody")
    story.write(
        InstanceQuarantined(
            key=machine.key, ref=machine.ref, provider=PROVIDER, micro_usd_per_hour=1, reap_at=0
        )
    )


def _ended(story: Story, error_micro_usd: int, late_s: float = 0.0) -> None:
    """A machine works an hour, ends, is listed as ended where the cloud does that, and is reported."""
    state, machine = story.ready()
    story.wait(3600, lists=True)
    story.cloud.end(machine, "preempted")
    billed = machine.billed_micro_usd(story.now)
    story.wait(10)
    story.list()
    story.wait(late_s)
    fact = InstanceDestroyed(instance_id=state.id, cost_micro_usd=billed + error_micro_usd)
    story.write(fact, row(over(state), over=True))


@broken("dollars reported are dollars billed", TELLS_ENDS)
def one_second_too_much_where_the_end_is_told(story: Story) -> None:
    _ended(story, 278)


@holds("dollars reported are dollars billed", TELLS_ENDS)
def what_was_told(story: Story) -> None:
    _ended(story, 0)


@broken("dollars reported are dollars billed")
def two_intervals_too_much(story: Story) -> None:
    _ended(story, round(2 * OBSERVE_EVERY_S * 278))


@broken("dollars reported are dollars billed")
def two_intervals_too_little(story: Story) -> None:
    _ended(story, -round(2 * OBSERVE_EVERY_S * 278))


@holds("dollars reported are dollars billed")
def one_interval_too_much(story: Story) -> None:
    _ended(story, round(OBSERVE_EVERY_S * 277))


@broken("dollars reported are dollars billed")
def nothing_reported_when_it_came_back(story: Story) -> None:
    _resumed(story, 0)


@holds("dollars reported are dollars billed")
def the_rest_reported_when_it_came_back(story: Story) -> None:
    _resumed(story, HOUR_S)


def _resumed(story: Story, seconds: float) -> None:
    """A machine is counted as destroyed, comes back for an hour, and is reaped."""
    state, machine = story.ready()
    machine.state = "running"
    story.wait(60)
    story.list()
    story.cloud.stop(machine, HOUR_S)
    cost = machine.billed_micro_usd(story.now)
    for _ in range(2):
        story.wait(60)
        story.list(without=[machine])
    story.write(InstanceDestroyed(instance_id=state.id, cost_micro_usd=cost), row(over(state), over=True))
    story.cloud._resume(machine)
    story.keep(held := quarantined(machine, story.cloud, story.now))
    for _ in range(60):
        story.now += 60
        story.list()
    story.cloud.end(machine, "terminated")
    rest = round(seconds * machine.offer.micro_usd_per_hour / 3600)
    reaped = InstanceReaped(key=machine.key, ref=machine.ref, provider=PROVIDER, cost_micro_usd=rest)
    story.write(reaped, row(held, over=True))


def _left_behind(story: Story) -> None:
    story.write(LeftoverFound(leftover="group", provider=PROVIDER, ref="c-1", cluster_id="c-1"))


@broken("pools close their clusters")
def a_cluster_that_was_forgotten(story: Story) -> None:
    story.write(ClusterDestroyed(cluster_id="c-2"))
    _left_behind(story)


@holds("pools close their clusters")
def a_cluster_that_was_made_again_after_its_end(story: Story) -> None:
    story.write(ClusterDestroyed(cluster_id="c-1"))
    _left_behind(story)


@holds("pools close their clusters")
def a_cluster_that_was_made_after_it_was_given_up(story: Story) -> None:
    request = "cluster:c-1"
    story.ask(ClusterRequested(request_id=request, provider=PROVIDER, spec=pool().spec, pool=POOL))
    story.end(Error(request_id=request, message="cancelled by shutdown", fatal=True), request)
    _left_behind(story)
