"""An instance, whatever it hears and whenever its daemon dies."""

from typing import Any

import pytest
from hypothesis import settings

from actors.effects import Find, Launch, Terminate
from actors.instance.launching import CALLS_MAX
from actors.instance.parts import STOP_GRACE_S
from actors.instance.state import Bootstrapping, Destroying, Draining, Provisioning, Ready, Requested
from actors.messages import (
    AbsenceObserved,
    BootstrapWanted,
    InstanceFailed,
    InstanceLeaving,
    InstanceNotLaunched,
    LeaveWanted,
    LinkDown,
    TerminateSucceeded,
    VendorNotice,
)
from providers.agent.wire import Drain
from providers.errors import Fault
from providers.model import Notice
from tests.actors.instance.machine import KEY, ME, NAME, REQUEST, SPEC, InstanceRules
from tests.actors.model import VISIBLE_S

TestInstance = InstanceRules.TestCase
TestInstance.settings = settings(
    max_examples=300, stateful_step_count=40, deadline=None, database=None, derandomize=True
)


def ordered(ahead: int = 0, replacing: str | None = None) -> InstanceRules:
    """An instance after so many steps that went well; a test ends by `teardown`."""
    machine = InstanceRules()
    machine.order(replacing, ahead, calm=0)
    return machine


def state(machine: InstanceRules, kind: type[Any]) -> Any:
    """Its state, which must be of this kind."""
    assert isinstance(machine.state, kind), machine.state
    return machine.state


def calls(machine: InstanceRules) -> list[type[Any]]:
    """Kinds of the calls in flight."""
    return [type(call) for _, call in machine.here.calls]


def told(machine: InstanceRules, kind: type[Any]) -> list[Any]:
    """What others were told, of one kind."""
    return [message for _, message in machine.turns.told if isinstance(message, kind)]


def drains(machine: InstanceRules) -> list[float]:
    """Seconds that the agent was told to end its tasks in, and has not heard yet."""
    said = [one for link in machine.here.links.values() for one in link.stream if isinstance(one, Drain)]
    return [one.within_s for one in said if one.within_s is not None]


def ready() -> InstanceRules:
    """An instance that is ready."""
    machine = ordered()
    while not isinstance(machine.state, Ready):
        machine.here.fair_step()
    return machine


# --- launching ------------------------------------------------------------------------------------


def test_a_launch_of_unknown_outcome_is_looked_up_not_repeated() -> None:
    machine = ordered()
    machine.here.answer(0, Fault.UNKNOWN, True, VISIBLE_S)
    assert calls(machine) == [Find]
    for _ in range(8):
        machine.here.answer(0, None, True, 0)
        if machine.here.machines and not isinstance(machine.state, Requested):
            break
        machine.turns.now = state(machine, Requested).due_at
        machine.turns.due()
    assert len(machine.here.keys) == 1
    machine.teardown()


def test_a_launch_that_came_to_nothing_is_made_again_under_its_key() -> None:
    machine = ordered()
    machine.here.answer(0, Fault.UNKNOWN, False, 0)
    asked_at = machine.turns.now
    while calls(machine) != [Launch]:
        if machine.here.calls:
            machine.here.answer(0, None, True, 0)
        else:
            machine.turns.now = state(machine, Requested).due_at
            machine.turns.due()
    assert machine.turns.now > asked_at + VISIBLE_S
    assert machine.here.calls[0][1].key == KEY  # type: ignore[union-attr]
    machine.teardown()


def test_a_launch_that_nobody_can_tell_of_frees_its_node_and_its_machine_is_ended_when_found() -> None:
    machine = ordered()
    machine.here.answer(0, Fault.UNKNOWN, True, 0)
    since = state(machine, Requested).since
    while isinstance(machine.state, Requested):
        if machine.here.calls:
            machine.here.answer(0, Fault.NOT_SENT, True, 0)
        else:
            machine.turns.now = machine.state.due_at or machine.turns.now
            machine.turns.due()
    assert machine.turns.now >= since + SPEC.provision_timeout
    assert state(machine, Destroying).handle is None
    assert [one.instance_id for one in told(machine, InstanceFailed)] == [NAME]
    assert len(machine.here.machines) == 1
    machine.teardown()  # which ends with no machine left


def test_after_a_restart_a_look_up_that_failed_proves_nothing() -> None:
    machine = ordered()
    machine.here.crash({0: True}, VISIBLE_S)  # the launch landed, and can't be seen yet
    assert calls(machine) == [Find]
    machine.here.answer(0, Fault.THROTTLED, False, 0)
    machine.hear(LeaveWanted("user", 0))
    machine.turns.now = state(machine, Requested).due_at
    machine.turns.due()
    assert calls(machine) == [Find], "it may be there: neither launched again nor forgotten"
    machine.teardown()
    assert len(machine.here.keys) == 1


@pytest.mark.parametrize(
    "fault", [Fault.CAPACITY, Fault.QUOTA, Fault.REJECTED, Fault.FUNDS, Fault.CREDENTIALS]
)
def test_a_refusal_is_told_to_the_node_and_nothing_is_left(fault: str) -> None:
    machine = ordered()
    machine.here.answer(0, Fault(fault), False, 0)
    assert machine.state is None
    assert [one.fault for one in told(machine, InstanceNotLaunched)] == [fault]
    assert REQUEST not in machine.turns.ended, "the node may be placed elsewhere"


def test_a_throttled_launch_is_tried_again_so_many_times() -> None:
    machine, launches = ordered(), 1
    while machine.state is not None:
        if machine.here.calls:
            machine.here.answer(0, Fault.THROTTLED, False, 0)
        else:
            machine.turns.now = state(machine, Requested).due_at
            machine.turns.due()
            launches += len(machine.here.calls)
    assert launches == CALLS_MAX


def test_one_that_is_not_wanted_any_more_is_ended_when_the_call_answers() -> None:
    machine = ordered()
    machine.hear(LeaveWanted("user", 0))
    machine.here.answer(0, None, True, 0)
    assert calls(machine) == [Terminate]
    assert REQUEST in machine.turns.ended
    machine.teardown()


# --- a listing that lacks it -----------------------------------------------------------------------


def test_one_that_talks_to_us_is_asked_before_a_listing_is_believed() -> None:
    machine = ready()
    machine.hear(AbsenceObserved(5.0))
    assert state(machine, Ready).doubted_at == machine.turns.now
    machine.turns.now += 3600  # the turn's commit took an hour: nothing could be asked yet
    machine.hear(AbsenceObserved(5.0))
    assert isinstance(machine.state, Ready)
    while state(machine, Ready).doubted_at is not None:  # its stream is opened again, and it answers
        machine.here.fair_step()
    machine.teardown()


def test_one_that_does_not_answer_is_gone() -> None:
    machine = ready()
    machine.hear(AbsenceObserved(5.0))
    machine.here.vanish(KEY)
    machine.hear(LinkDown("no answer"))
    machine.hear(AbsenceObserved(5.0))
    assert machine.state is None
    machine.teardown()


def test_the_vendors_word_and_a_broken_stream_are_believed_at_once() -> None:
    for certain in (True, False):
        machine = ready()
        shown = machine.here.sighting(machine.here.machines[KEY])
        word = AbsenceObserved(5.0, shown if certain else None)
        machine.here.vanish(KEY)
        if not certain:
            machine.hear(LinkDown("cut"))
        machine.hear(word)
        assert machine.state is None
        machine.teardown()


# --- its way out ----------------------------------------------------------------------------------


def test_an_accepted_terminate_proves_nothing() -> None:
    machine = ready()
    machine.hear(LeaveWanted("user", 0))
    machine.hear(TerminateSucceeded())  # and the provider did nothing
    for _ in range(5):
        machine.here.listing()
    accepted = state(machine, Destroying)
    machine.here.calls.clear()
    machine.turns.now = accepted.due_at
    machine.turns.due()
    assert calls(machine) == [Terminate], "seen too long after: asked again"
    machine.teardown()


def test_a_notice_asks_for_the_replacement_in_the_same_turn() -> None:
    machine = ready()
    machine.hear(VendorNotice(Notice(reason="spot", deadline_at=machine.turns.now + 30)))
    assert told(machine, InstanceLeaving) == [InstanceLeaving(NAME, "preempted", works=True)]
    assert state(machine, Draining).deadline == machine.turns.now + 30
    machine.hear(VendorNotice(None))
    state(machine, Ready)
    assert [one.kind for one in (event.event for event in machine.turns.events)][-2:] == [
        "instance_preempted",
        "notice_withdrawn",
    ]
    machine.teardown()


def test_a_recommendation_replaces_a_working_machine_and_lets_its_tasks_go_on() -> None:
    machine = ready()
    machine.gets_a_task()
    machine.hear(VendorNotice(Notice(reason="rebalance recommendation", early=True)))
    assert told(machine, InstanceLeaving) == [InstanceLeaving(NAME, "preempted", works=True)]
    draining = state(machine, Draining)
    assert not draining.final
    assert draining.deadline - machine.turns.now >= 3600  # for hours, when nothing worse is heard
    assert not drains(machine)
    machine.hear(VendorNotice(Notice(reason="spot", deadline_at=machine.turns.now + 20)))
    assert state(machine, Draining).deadline == machine.turns.now + 20
    assert drains(machine) == [20]
    machine.teardown()


@pytest.mark.parametrize("kind", [Provisioning, Bootstrapping])
def test_a_recommendation_is_nothing_to_a_machine_that_is_not_set_up(kind: type[Any]) -> None:
    machine = ordered()
    while not isinstance(machine.state, kind):
        machine.here.fair_step()
    machine.hear(VendorNotice(Notice(reason="rebalance recommendation", early=True)))
    state(machine, kind)
    machine.teardown()


def test_an_old_machine_is_replaced_ahead_of_its_greatest_age_and_its_tasks_go_on() -> None:
    machine = ready()
    machine.gets_a_task()
    launched_at = state(machine, Ready).launched_at
    machine.turns.now = launched_at + 7200 - 2 * 540 - 1
    machine.turns.due()
    state(machine, Ready)
    machine.turns.now = launched_at + 7200 - 540
    machine.turns.due()
    assert told(machine, InstanceLeaving) == [InstanceLeaving(NAME, "expired", works=True)]
    draining = state(machine, Draining)
    assert not draining.noticed
    assert draining.deadline + STOP_GRACE_S == launched_at + 7200
    machine.loses_its_task()
    assert state(machine, Destroying).reason == "expired"
    machine.teardown()


def test_an_old_machine_without_a_task_is_ended_at_once() -> None:
    machine = ready()
    machine.turns.now = state(machine, Ready).launched_at + 7200 - 540
    machine.turns.due()
    assert state(machine, Destroying).reason == "expired"
    assert told(machine, InstanceLeaving) == [InstanceLeaving(NAME, "expired", works=False)]
    machine.teardown()


@pytest.mark.parametrize("how", ["noticed", "too late", "fails"])
def test_a_machine_that_is_lost_while_it_is_set_up_again_is_told_to_its_node(how: str) -> None:
    machine = ready()
    machine.turns.referee._asked["again"] = "bootstrap_requested"
    machine.hear(BootstrapWanted("again"))
    state(machine, Bootstrapping)
    match how:
        case "noticed":
            machine.hear(VendorNotice(Notice(reason="spot")))
        case "too late":
            machine.turns.now = state(machine, Bootstrapping).deadline
            machine.turns.due()
        case _:
            machine.here.agent_hears(machine.here.links[NAME])
            machine.here.machines[KEY].agent.work(True)
            machine.here.agent_speaks(machine.here.links[NAME])
            machine.here.deliver(machine.here.links[NAME], 9)
    state(machine, Destroying)
    assert [one.works for one in told(machine, InstanceLeaving)] == [False]
    assert "again" in machine.turns.ended
    machine.teardown()


def test_one_that_is_condemned_while_its_launch_is_in_flight_ends_its_request_and_its_machine() -> None:
    machine = ordered()
    machine.turns.condemn(ME)
    assert REQUEST in machine.turns.ended
    assert told(machine, InstanceFailed)
    for _ in range(3):  # looked for while the call is still in flight
        machine.turns.now += VISIBLE_S / 2
        machine.turns.due()
        if calls(machine)[-1] is Find:
            machine.here.answer(len(machine.here.calls) - 1, None, True, 0)
    machine.here.answer(0, None, True, 0)
    assert machine.here.machines
    machine.teardown()


def test_one_that_was_never_there_has_no_destroyed_fact() -> None:
    machine = ordered()
    machine.turns.condemn(ME)
    machine.here.crash({}, 0)
    machine.teardown()
    assert not machine.turns.facts("instance_destroyed")


def test_the_facts_of_a_life_in_order() -> None:
    machine = ordered(replacing="pool-0-1.0.1")
    while not isinstance(machine.state, Ready):
        machine.here.fair_step()
    machine.teardown()
    kinds = [event.event.kind for event in machine.turns.events]
    phase = ["bootstrap_phase", "bootstrap_command", "bootstrap_phase"]
    assert kinds == [
        "instance_requested",
        "instance_launched",
        "instance_running",
        "instance_provisioned",
        "bootstrap_requested",
        *phase,
        *phase,
        "instance_bootstrapped",
        "instance_replaced",
        "instance_destroyed",
    ]
    assert [event.event.kind for event in machine.turns.events if REQUEST in event.ends] == [
        "instance_replaced"
    ]
