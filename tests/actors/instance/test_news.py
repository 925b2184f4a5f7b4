"""What an instance tells of itself: to the market's memory, its pool, and its node."""

from typing import Any

import pytest

from actors.effects import Launch
from actors.instance.launching import CALLS_MAX
from actors.instance.state import Destroying, Draining, InstanceJson, Ready, Requested
from actors.messages import (
    AbsenceObserved,
    HoldingTold,
    InstanceEnded,
    InstanceNotLaunched,
    LaunchFailed,
    LaunchTold,
    LeaveWanted,
    LinkDown,
    LossTold,
    LossWithdrawn,
    MachineBilled,
    RefusalTold,
    Renumbered,
    SetUpEnded,
    VendorNotice,
)
from providers.errors import Fault
from providers.model import Notice
from tests.actors.instance.machine import KEY, ME, NAME, SPEC, InstanceRules
from tests.actors.instance.test_rules import calls, ordered, ready, state, told
from tests.actors.model import offer
from tests.actors.turns import POOL

MARKET = offer().market
EARLY = VendorNotice(Notice(reason="rebalance recommendation", early=True))


def news(machine: InstanceRules) -> list[Any]:
    """What the market was told after the launch."""
    assert [type(one) for one in machine.news[:2]] == [LaunchTold, HoldingTold]
    return machine.news[2:]


def noticed(machine: InstanceRules) -> VendorNotice:
    """The vendor takes the machine in half a minute."""
    return VendorNotice(Notice(reason="spot", deadline_at=machine.turns.now + 30))


def vanishes(machine: InstanceRules) -> None:
    """The machine is gone, and everybody sees it."""
    machine.here.vanish(KEY)
    machine.hear(LinkDown("gone"))
    machine.hear(AbsenceObserved(machine.turns.now))
    assert machine.state is None


def others(machine: InstanceRules, count: int) -> None:
    """More machines of the pool in this market."""
    mine = state(machine, Ready)
    for number in range(count):
        name = f"other-{number}"
        machine.turns.put(("instance", name), mine.model_copy(update={"id": name, "node": 5 + number}))


# --- the market -----------------------------------------------------------------------------------


def test_the_first_machine_that_comes_and_the_last_that_goes_are_told() -> None:
    machine = ordered()
    machine.here.answer(0, None, True, 0)
    assert machine.news == [
        LaunchTold(MARKET, offer().micro_usd_per_hour),
        HoldingTold(MARKET, POOL, 1),
    ]
    machine.teardown()
    assert news(machine) == [HoldingTold(MARKET, POOL, 0)]


def test_one_of_many_that_goes_leaves_the_others_there() -> None:
    machine = ready()
    others(machine, 2)
    machine.hear(noticed(machine))
    assert news(machine) == [LossTold(MARKET, 3, POOL)]
    vanishes(machine)
    assert len(news(machine)) == 1


def test_a_machine_that_vanishes_was_lost_before_none_was_held() -> None:
    machine = ready()
    vanishes(machine)
    assert news(machine) == [LossTold(MARKET, 1, POOL), HoldingTold(MARKET, POOL, 0)]


def test_a_notice_is_a_loss_and_the_end_it_speaks_of_is_the_same() -> None:
    machine = ready()
    machine.hear(noticed(machine))
    machine.hear(noticed(machine))
    vanishes(machine)
    assert [type(one) for one in news(machine)] == [LossTold, HoldingTold]


def test_a_notice_that_is_withdrawn_is_a_loss_that_was_none() -> None:
    machine = ready()
    for _ in range(2):
        machine.hear(noticed(machine))
        machine.hear(VendorNotice(None))
    assert [type(one) for one in news(machine)] == [LossTold, LossWithdrawn] * 2
    memory = machine.here.markets[str(MARKET)]
    assert (memory.losses, memory.events, memory.closed_since) == (0, 0, None)
    machine.teardown()


@pytest.mark.parametrize("how", ["passes", "noticed", "vanishes", "stops"])
def test_a_recommendation_is_no_loss_until_the_market_takes_the_machine(how: str) -> None:
    machine = ready()
    machine.gets_a_task()
    machine.hear(EARLY)
    assert news(machine) == []
    match how:
        case "passes":
            machine.turns.put(("task", "t"), None)
            machine.turns.now = state(machine, Draining).deadline
            machine.turns.due()
        case "noticed":
            machine.hear(noticed(machine))
        case "vanishes":
            vanishes(machine)
        case _:
            machine.here.machines[KEY].state = "stopped"
            machine.here.listing()
    assert (LossTold(MARKET, 1, POOL) in news(machine)) == (how != "passes")
    machine.teardown()
    assert sum(isinstance(one, LossTold) for one in news(machine)) == (how != "passes")


@pytest.mark.parametrize("reason", ["scale_in", "moved", "budget"])
def test_one_that_leaves_by_our_wish_and_is_then_taken_was_lost(reason: str) -> None:
    machine = ready()
    machine.gets_a_task()
    machine.hear(LeaveWanted(reason, 6 * 3600))
    machine.hear(noticed(machine))
    assert state(machine, Draining).deadline == machine.turns.now + 30
    vanishes(machine)
    assert [type(one) for one in news(machine)] == [LossTold, HoldingTold]


def test_a_loss_that_an_older_everpool_told_is_not_told_again() -> None:
    machine = ready()
    machine.hear(noticed(machine))
    written = state(machine, Draining).model_dump(mode="json")
    assert written.pop("lost")
    machine.turns.put(ME, InstanceJson.validate_python(written))
    vanishes(machine)
    assert [type(one) for one in news(machine)] == [LossTold, HoldingTold]


def test_one_that_an_older_everpool_sent_away_was_not_told_as_lost() -> None:
    machine = ready()
    machine.gets_a_task()
    machine.hear(LeaveWanted("user", 600))
    written = state(machine, Draining).model_dump(mode="json")
    assert not written.pop("lost")
    machine.turns.put(ME, InstanceJson.validate_python(written))
    machine.hear(noticed(machine))
    assert [type(one) for one in news(machine)] == [LossTold]
    machine.teardown()


def test_one_that_we_end_was_not_lost() -> None:
    machine = ready()
    machine.hear(LeaveWanted("moved", 0))
    assert news(machine) == [HoldingTold(MARKET, POOL, 0)]
    vanishes(machine)
    assert len(news(machine)) == 1


# --- its pool -------------------------------------------------------------------------------------


def test_what_the_set_up_took_and_cost() -> None:
    machine = ready()
    [ended] = told(machine, SetUpEnded)
    mine = state(machine, Ready)
    assert ended.error is None
    assert ended.took_s == mine.since - mine.launched_at > 0
    machine.teardown()


def test_what_a_machine_that_never_worked_has_cost() -> None:
    machine = ordered()
    machine.here.answer(0, None, True, 0)
    machine.turns.now += SPEC.provision_timeout
    machine.turns.due()
    [ended] = told(machine, SetUpEnded)
    assert (ended.took_s, ended.error) == (SPEC.provision_timeout, "no address in time")
    machine.teardown()
    [bill] = told(machine, MachineBilled)
    [fact] = machine.turns.facts("instance_destroyed")
    assert (bill.cost_micro_usd, bill.worked, bill.why) == (fact.cost_micro_usd, False, "timeout")
    assert ended.cost_micro_usd == offer().micro_usd_per_hour * SPEC.provision_timeout // 3600
    assert bill.cost_micro_usd >= ended.cost_micro_usd


def test_a_machine_that_worked_has_worked_whatever_becomes_of_it() -> None:
    machine = ready()
    machine.hear(LeaveWanted("user", 0))
    assert not told(machine, MachineBilled), "it may still be there, and cost money"
    machine.here.crash({}, 0)
    machine.teardown()
    assert [(bill.worked, bill.why) for bill in told(machine, MachineBilled)] == [(True, "user")]


def test_an_order_that_was_refused_costs_nothing() -> None:
    machine = ordered()
    machine.here.answer(0, Fault.CAPACITY, False, 0)
    assert not told(machine, MachineBilled)
    assert machine.news == [RefusalTold(MARKET, Fault.CAPACITY, None, "planned")]


def test_why_it_is_here_is_told_when_it_is_launched() -> None:
    machine = ordered()
    machine.here.answer(0, None, True, 0)
    assert [fact.why for fact in machine.turns.facts("instance_launched")] == ["cheapest"]
    machine.teardown()


# --- its node -------------------------------------------------------------------------------------


def test_one_that_fills_another_node_is_heard_of_there() -> None:
    machine = ready()
    machine.hear(Renumbered(7))
    machine.hear(LeaveWanted("user", 0))
    machine.hear(Renumbered(8))
    assert state(machine, Destroying).node == 8
    vanishes(machine)
    ends = [address for address, message in machine.turns.told if isinstance(message, InstanceEnded)]
    assert ends == [("node", "8")]


def test_the_same_order_is_made_again_whatever_node_it_is_for() -> None:
    machine = ordered()
    [(_, first)] = machine.here.calls
    machine.here.answer(0, Fault.NOT_SENT, False, 0)
    machine.hear(Renumbered(7))
    machine.turns.now = state(machine, Requested).due_at
    machine.turns.due()
    assert [call for _, call in machine.here.calls] == [first]
    machine.teardown()


@pytest.mark.parametrize("reason", ["moved", "budget"])
def test_one_that_is_moved_or_too_dear_lets_its_tasks_end(reason: str) -> None:
    machine = ready()
    machine.gets_a_task()
    machine.hear(LeaveWanted(reason, 6 * 3600))
    draining = state(machine, Draining)
    assert (draining.reason, draining.deadline) == (reason, machine.turns.now + 6 * 3600)
    machine.turns.now += 5 * 3600
    machine.turns.due()
    state(machine, Draining)
    machine.loses_its_task()
    assert state(machine, Destroying).reason == reason
    assert not machine.turns.facts("instance_preempted")
    machine.teardown()


# --- our own pace ---------------------------------------------------------------------------------


def waits(machine: InstanceRules) -> None:
    """The call waits for our own rate limit for too long, and is made again later."""
    machine.here.calls.clear()
    machine.hear(LaunchFailed(Fault.THROTTLED, "many calls wait", 20.0, paced=True))
    assert state(machine, Requested).due_at >= machine.turns.now + 20
    machine.turns.now = state(machine, Requested).due_at
    machine.turns.due()
    assert calls(machine) == [Launch]


def test_a_launch_that_waits_for_our_own_pace_was_not_tried() -> None:
    machine, launches = ordered(), 0
    for _ in range(CALLS_MAX + 3):
        waits(machine)
    while machine.state is not None:
        if machine.here.calls:
            machine.here.answer(0, Fault.THROTTLED, False, 0)
            launches += 1
        else:
            machine.turns.now = state(machine, Requested).due_at
            machine.turns.due()
    assert launches == CALLS_MAX


def test_a_launch_that_waits_for_too_long_may_go_elsewhere_and_the_market_is_not_to_blame() -> None:
    machine = ordered()
    machine.turns.now += SPEC.provision_timeout
    machine.here.calls.clear()
    machine.hear(LaunchFailed(Fault.THROTTLED, "many calls wait", 20.0, paced=True))
    assert machine.state is None
    assert [one.instance_id for one in told(machine, InstanceNotLaunched)] == [NAME]
    assert machine.news == []
