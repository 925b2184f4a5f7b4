"""A node, whatever happens to its machines."""

import pytest
from hypothesis import settings

from actors.messages import Fill, LaunchWanted, LeaveWanted, Placed, Retire
from actors.node.state import Filled, Filling, Replacing, Retired, Vacant
from providers.errors import Fault
from tests.actors.model import cluster_handle, offer
from tests.actors.node.machine import ME, RANK, NodeRules

TestNode = NodeRules.TestCase
TestNode.settings = settings(
    max_examples=250, stateful_step_count=40, deadline=None, database=None, derandomize=True
)


def begun() -> NodeRules:
    """A node that asks."""
    machine = NodeRules()
    machine.begin()
    return machine


def filled() -> NodeRules:
    """A node with a ready machine."""
    machine = begun()
    machine.placed("a")
    machine.launched(0, ready=True)
    assert isinstance(machine.state, Filled)
    return machine


def test_another_offer_is_another_try_and_another_loss_another_incarnation() -> None:
    machine = begun()
    machine.placed("a")
    machine.refused(0, Fault.CAPACITY)
    machine.placed("b")
    machine.launched(0, ready=False)
    machine.never_ready(0, "gone")
    machine.placed("a")
    assert sorted(machine.keys) == ["owner/pool/3/1.1/1", "owner/pool/3/1.1/2", "owner/pool/3/1.2/1"]
    assert len(machine.turns.facts("instance_requested")) == 2
    machine.teardown()


def test_what_failed_by_itself_waits_longer_every_time() -> None:
    machine, waits = begun(), []
    for _ in range(4):
        machine.placed("a")
        machine.launched(0, ready=False)
        machine.never_ready(0, "timeout")
        due = machine.state.due_at
        assert due is not None
        waits.append(due - machine.turns.now)
        machine.turns.now = due
        machine.advance(0)
    assert all(waits[i + 1] > waits[i] for i in range(3))
    machine.teardown()


def test_a_replacement_that_is_ready_sends_the_old_one_away() -> None:
    machine = filled()
    machine.leaving(0, works=True)
    machine.placed("b")
    machine.launched(0, ready=True)
    assert [one.leave for one in machine.machines.values()] == ["preempted", None]
    machine.teardown()


def test_a_withdrawn_notice_sends_the_new_one_away() -> None:
    machine = filled()
    [old] = machine.machines
    machine.leaving(0, works=True)
    machine.placed("b")
    machine.stays(0)
    assert isinstance(machine.state, Filled)
    assert machine.state.instance_id == old
    assert [one.leave for one in machine.machines.values()] == [None, "scale_in"]
    machine.teardown()


def test_a_condemned_node_ends_what_it_asked_for() -> None:
    machine = begun()
    machine.placed("a")
    machine.refused(0, Fault.CAPACITY)
    [request] = [one.request_id for one in machine.turns.facts("instance_requested")]
    machine.condemn()
    assert isinstance(machine.state, Vacant)
    assert request in machine.turns.ended
    machine.teardown()


def test_a_condemned_node_that_is_retired_stays_so() -> None:
    machine = filled()
    machine.hear(Retire("scale_in", 60))
    machine.condemn()
    assert isinstance(machine.state, Retired)
    machine.turns.now += 10_000
    assert machine.state.due_at is None
    machine.teardown()


def test_a_rank_orders_one_machine_per_place() -> None:
    machine = begun()
    placed = Placed(offer(), cluster_handle(), "cheapest")
    machine.turns.hear((ME, placed), (ME, placed))
    assert [type(one) for _, one in machine.turns.told] == [LaunchWanted]
    assert LeaveWanted not in [type(one) for _, one in machine.turns.told]


def test_a_moved_node_keeps_its_machine_until_the_better_one_is_ready() -> None:
    machine = filled()
    [old] = machine.machines
    machine.moved("b")
    [asked] = [one for one in machine.turns.facts("instance_requested") if one.replacing == old]
    assert machine.turns.index.nodes_ready == 1
    machine.turns.told.clear()
    machine.launched(0, ready=True)
    assert isinstance(machine.state, Filled)
    assert machine.state.instance_id != old
    assert [one.leave for one in machine.machines.values()] == ["moved", None]
    assert asked.request_id in machine.turns.ended
    machine.teardown()


@pytest.mark.parametrize("how", ["refused", "failed", "ended"])
def test_a_move_that_comes_to_nothing_costs_the_node_nothing(how: str) -> None:
    machine = filled()
    before = machine.state
    machine.turns.now += 5
    machine.moved("b")
    match how:
        case "refused":
            machine.refused(0, Fault.CAPACITY)
        case _:
            machine.launched(0, ready=False)
            machine.never_ready(0, "gone" if how == "ended" else "timeout")
    assert isinstance(machine.state, Filled)
    assert machine.state == before.model_copy(update={"incarnation": before.incarnation + 1})
    assert len(machine.turns.facts("instance_requested")) == len(machine.turns.ended) == 2
    machine.leaving(0, works=False)
    assert machine.state.due_at is None, "its next loss is its first"
    machine.teardown()


def test_a_notice_in_the_middle_of_a_move_makes_it_a_replacement() -> None:
    machine = filled()
    [old] = machine.machines
    machine.moved("b")
    machine.leaving(0, works=True)
    machine.refused(0, Fault.CAPACITY)
    state = machine.state
    assert isinstance(state, Replacing)
    assert state.wants_place, "it asks again at once, and does not go back to what is being taken"
    machine.stays(0)
    assert isinstance(machine.state, Filled)
    assert machine.state.instance_id == old
    machine.teardown()


def test_a_loss_in_the_middle_of_a_move_leaves_the_new_machine_to_come() -> None:
    machine = filled()
    machine.moved("b")
    machine.leaving(0, works=False)
    assert isinstance(machine.state, Filling)
    machine.launched(0, ready=True)
    assert isinstance(machine.state, Filled)
    machine.teardown()


@pytest.mark.parametrize("remove", [False, True])
def test_a_drain_in_the_middle_of_a_move_is_done(remove: bool) -> None:
    machine = filled()
    machine.moved("b")
    machine.drain(remove)
    assert [one.leave for one in machine.machines.values()] == ["user", "user" if remove else None]
    machine.launched(0, ready=not remove)
    machine.ended(0)
    assert "drain-1" in machine.turns.ended
    machine.teardown()


def test_a_node_that_lost_its_machine_is_filled_by_anothers_at_once() -> None:
    machine = filled()
    [old] = machine.machines
    machine.leaving(0, works=False)
    machine.takes_over()
    assert isinstance(machine.state, Filled)
    [replaced] = machine.turns.facts("instance_replaced")
    assert (replaced.old_id, replaced.new.node) == (old, RANK)
    assert replaced.new.instance.id == machine.state.instance_id
    assert replaced.request_id in machine.turns.ended
    machine.ended(0)
    machine.teardown()


def test_a_refused_order_is_ended_by_the_machine_that_is_taken_over() -> None:
    machine = begun()
    machine.placed("a")
    machine.refused(0, Fault.CAPACITY)
    machine.takes_over()
    [asked] = machine.turns.facts("instance_requested")
    assert type(machine.turns.ending(asked.request_id)).__name__ == "InstanceBootstrapped"
    machine.teardown()


def test_a_node_whose_machine_was_taken_over_asks_at_once() -> None:
    machine = filled()
    machine.gives_away()
    assert isinstance(machine.state, Filling)
    assert machine.state.wants_place
    assert (machine.state.replacing, machine.state.losses) == (None, 0)
    machine.teardown()


def test_how_long_a_node_has_been_missing_its_machine_outlasts_failures() -> None:
    machine = filled()
    machine.leaving(0, works=False)
    lost_at = machine.turns.now
    for _ in range(3):
        machine.turns.now += 100
        machine.hear(Fill())
        machine.placed("a")
        machine.launched(0, ready=False)
        machine.never_ready(0, "timeout")
    assert isinstance(machine.state, Filling)
    assert machine.state.missing_since == lost_at
    machine.teardown()
