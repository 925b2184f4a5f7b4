"""Tests of the tests: rules with a fault in them, each of which must be found."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from actors.decision import Decision, View
from actors.events import Error, PoolResized
from actors.instance import rules as instance_rules
from actors.instance.state import Destroying, Requested
from actors.messages import (
    AbsenceObserved,
    AgentHolds,
    Assigned,
    InstanceLeaving,
    InstanceReady,
    InstanceStays,
    LaunchFailed,
    LeaveWanted,
    MachineGone,
    MachineUnreachable,
    NothingFound,
    Placed,
    Renumbered,
    TakeOver,
    TerminateSucceeded,
)
from actors.node import rules as node_rules
from actors.node.state import Filling, Retired
from actors.policy import placement
from actors.policy.situation import Plan, Situation
from actors.pool import rules as pool_rules
from actors.pool import settle
from actors.task import rules as task_rules
from actors.task.state import Pending
from providers.errors import Fault
from tests.actors.instance.machine import InstanceRules
from tests.actors.node.machine import NodeRules
from tests.actors.pool.machine import PoolRules
from tests.actors.pool.test_placing import Planner
from tests.actors.pool.test_placing import (
    test_a_spare_leaves_a_node_alone_that_has_ordered_a_machine as left_alone,
)
from tests.actors.pool.test_rules import (
    test_a_pool_that_grows_gives_the_lowest_numbers_back_and_keeps_the_nodes_it_has as grown,
)
from tests.actors.pool.test_rules import test_nothing_is_placed_above_the_price_cap as cheap
from tests.actors.task.machine import TaskRules

SETTINGS = settings(
    max_examples=3000,
    stateful_step_count=40,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)
Rule = Callable[[Any, Any, View], Decision]
Plant = Callable[[Rule], Rule]


def found(machine: type[RuleBasedStateMachine]) -> None:
    """The machine breaks a rule of the house."""
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=SETTINGS)


def heard_as(change: Callable[[Any, Any], tuple[Any, Any]]) -> Plant:
    """A rule that takes what it hears, or where it is, for something else."""

    def plant(rule: Rule) -> Rule:
        return lambda state, message, view: rule(*change(state, message), view)

    return plant


def decided_as(change: Callable[[Decision], Decision]) -> Plant:
    """A rule that decides something else."""

    def plant(rule: Rule) -> Rule:
        return lambda state, message, view: change(rule(state, message, view))

    return plant


def without_facts(left_out: Callable[[Any], bool]) -> Plant:
    """A rule that keeps some facts to itself."""
    return decided_as(lambda it: replace(it, facts=tuple(one for one in it.facts if not left_out(one))))


def without_tells(left_out: Callable[[Any], bool]) -> Plant:
    """A rule that does not tell."""
    return decided_as(lambda it: replace(it, tells=tuple(one for one in it.tells if not left_out(one[1]))))


def _unknown_is_repeated(state: Any, message: Any) -> tuple[Any, Any]:
    if isinstance(message, LaunchFailed) and message.fault is Fault.UNKNOWN:
        return state, LaunchFailed(Fault.NOT_SENT, "")
    return state, message


def _absence_is_believed_early(state: Any, message: Any) -> tuple[Any, Any]:
    if isinstance(state, Requested) and isinstance(message, NothingFound):
        return state.model_copy(update={"looking": True, "asked_at": 0}), message
    return state, message


def _accepted_is_gone(state: Any, message: Any) -> tuple[Any, Any]:
    return state, AbsenceObserved() if isinstance(message, TerminateSucceeded) else message


def _ended_twice(decision: Decision) -> Decision:
    ending = [one for one in decision.facts if one.ends and isinstance(one.event, Error)]
    return replace(decision, facts=(*decision.facts, *ending))


INSTANCE: dict[str, Plant] = {
    "a launch of unknown outcome is repeated": heard_as(_unknown_is_repeated),
    "absence is believed before a machine must be visible": heard_as(_absence_is_believed_early),
    "an accepted terminate counts as absence": heard_as(_accepted_is_gone),
    "a request is not ended": without_facts(lambda one: isinstance(one.event, Error)),
    "a request is ended twice": decided_as(_ended_twice),
    "a fact is left out": without_facts(lambda one: one.event.kind == "instance_launched"),
}


@pytest.mark.parametrize("fault", INSTANCE)
def test_faults_of_instances(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_rules, "decide", INSTANCE[fault](instance_rules.decide))
    found(InstanceRules)


@pytest.mark.parametrize("forgotten", [Requested, Destroying])
def test_a_restart_that_owes_nothing(forgotten: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    resume = instance_rules.resume
    monkeypatch.setattr(
        instance_rules,
        "resume",
        lambda state, view: () if isinstance(state, forgotten) else resume(state, view),
    )
    found(InstanceRules)


def _try_one_for_ever(state: Any, message: Any) -> tuple[Any, Any]:
    if isinstance(message, Placed) and hasattr(state, "tries"):
        return state.model_copy(update={"tries": 0}), message
    return state, message


def _deaf_to_withdrawals(state: Any, message: Any) -> tuple[Any, Any]:
    if isinstance(message, InstanceStays):
        return state, InstanceLeaving(message.instance_id, "gone", works=False)
    return state, message


def _rank_slips(decision: Decision) -> Decision:
    if isinstance(decision.state, Retired):
        return replace(decision, state=decision.state.model_copy(update={"node": 4}))
    return decision


def _moved_and_kept(rule: Rule) -> Rule:
    def decide(state: Any, message: Any, view: View) -> Decision:
        decision = rule(state, message, view)
        if isinstance(message, InstanceReady) and getattr(state, "moving", False):
            return replace(decision, tells=())
        return decision

    return decide


NODE: dict[str, Plant] = {
    "a machine is left behind when its node has moved": _moved_and_kept,
    "a machine that is taken over is not told": without_tells(lambda it: isinstance(it, Renumbered)),
    "a key is used again": heard_as(_try_one_for_ever),
    "a machine that is not needed is not sent away": without_tells(lambda it: isinstance(it, LeaveWanted)),
    "a notice that is withdrawn is taken for a loss": heard_as(_deaf_to_withdrawals),
    "a drain is forgotten": without_facts(lambda one: isinstance(one.event, Error)),
    "the rank slips": decided_as(_rank_slips),
}


@pytest.mark.parametrize("fault", NODE)
def test_faults_of_nodes(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_rules, "decide", NODE[fault](node_rules.decide))
    found(NodeRules)


def _silence_is_an_end(state: Any, message: Any) -> tuple[Any, Any]:
    if isinstance(message, MachineUnreachable):
        return state, MachineGone(message.instance_id, "unreachable")
    return state, message


def _a_new_stream_is_an_end(state: Any, message: Any) -> tuple[Any, Any]:
    if isinstance(message, AgentHolds) and message.state == "running":
        return state, MachineGone(message.instance_id, "gone")
    return state, message


def _budgets_start_anew(decision: Decision) -> Decision:
    if isinstance(decision.state, Pending):
        anew = {"failures": 0, "interruptions": 0}
        return replace(decision, state=decision.state.model_copy(update=anew))
    return decision


TASK: dict[str, Plant] = {
    "a machine that is silent counts as gone": heard_as(_silence_is_an_end),
    "a new stream counts as an end": heard_as(_a_new_stream_is_an_end),
    "budgets start anew": decided_as(_budgets_start_anew),
    "the end of a task is not told": without_facts(lambda one: one.event.kind == "task_completed"),
}


@pytest.mark.parametrize("fault", TASK)
def test_faults_of_tasks(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_rules, "decide", TASK[fault](task_rules.decide))
    found(TaskRules)


def test_resizes_that_are_overtaken_and_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    plant = without_facts(lambda one: isinstance(one.event, PoolResized) and one.event.superseded)
    monkeypatch.setattr(pool_rules, "decide", plant(pool_rules.decide))
    found(PoolRules)


def test_a_growth_that_takes_a_node_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        pool_rules, "_removed", lambda state, desired: () if desired > state.desired else state.removed
    )
    with pytest.raises(AssertionError):
        grown()


def test_a_spare_that_fills_two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    promote = settle.promote

    def doubled(state: Any, view: View) -> Decision:
        decision = promote(state, view)
        return replace(decision, tells=tuple(tell for tell in decision.tells if not _leaves_bare(tell[1])))

    monkeypatch.setattr(settle, "promote", doubled)
    found(PoolRules)


def _leaves_bare(message: Any) -> bool:
    return isinstance(message, TakeOver) and message.instance_id is None


def test_a_spare_for_a_node_that_has_ordered_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    promote = settle.promote

    def eager(state: Any, view: View) -> Decision:
        index = view.index
        kept, index.lost = index.lost, {n: None for n, it in index.nodes.items() if isinstance(it, Filling)}
        decision = promote(state, view)
        index.lost = kept
        return decision

    monkeypatch.setattr(settle, "promote", eager)
    monkeypatch.setattr(node_rules, "decide", heard_as(_whoever_asked)(node_rules.decide))
    planner = Planner()
    monkeypatch.setattr(placement, "place", planner)
    with pytest.raises(AssertionError):
        left_alone(planner)


def _whoever_asked(state: Any, message: Any) -> tuple[Any, Any]:
    if isinstance(message, TakeOver) and isinstance(state, Filling):
        return state.model_copy(update={"instance_id": None}), message
    return state, message


def test_tasks_beyond_the_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(state: Any, view: View) -> Any:
        task, index = view.index.queue.first(), view.index
        ready = [name for name, one in index.instances.items() if one.status == "ready"]
        return ((("task", task), Assigned(ready[0], 0)),) if task and ready else ()

    monkeypatch.setattr(settle, "schedule", greedy)
    found(PoolRules)


def test_offers_above_the_price_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    place = placement.place

    def at_any_price(situation: Situation) -> Plan:
        return place(replace(situation, spec=situation.spec.model_copy(update={"max_hourly_cost": None})))

    monkeypatch.setattr(placement, "place", at_any_price)
    with pytest.raises(AssertionError):
        cheap()
