"""A node, whatever happens to its machines."""

from hypothesis import settings

from actors.messages import LaunchWanted, LeaveWanted, Placed, Retire
from actors.node.state import Filled, Retired, Vacant
from providers.errors import Fault
from tests.actors.model import cluster_handle, offer
from tests.actors.node.machine import ME, NodeRules

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
    placed = Placed(offer(), cluster_handle())
    machine.turns.hear((ME, placed), (ME, placed))
    assert [type(one) for _, one in machine.turns.told] == [LaunchWanted]
    assert LeaveWanted not in [type(one) for _, one in machine.turns.told]
