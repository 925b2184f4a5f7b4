"""What is derived from states is the same, however they came about."""

from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.address import Address
from actors.index import Index, Queue
from actors.instance.state import Destroyed as DestroyedInstance
from actors.instance.state import Ready
from actors.pool.state import Active
from actors.spec import Nodes, PoolSpec, TaskSpec, Worker
from actors.task.state import Pending, Running, Stopped
from providers.model import Value
from tests.actors import kinds
from tests.actors.index import built, difference
from tests.actors.turns import POOL

States = dict[Address, Value]


def of_tasks() -> st.SearchStrategy[tuple[Address, Value | None]]:
    """Some task in some state, on one of two machines."""
    names, places = (
        st.sampled_from(["t1", "t2", "t3"]),
        st.sampled_from([f"{POOL}-{n}-1.1.1" for n in (0, 1)]),
    )

    def made(name: str, place: str, state: Value | None) -> tuple[Address, Value | None]:
        if isinstance(state, Stopped) or state is None:
            return ("task", name), None  # the loop forgets what is over
        update: dict[str, Any] = {"id": name, "seq": int(name[1])}
        if hasattr(state, "instance_id"):
            update["instance_id"] = place
        return ("task", name), state.model_copy(update=update)

    return st.builds(made, names, places, st.none() | st.sampled_from(kinds.TASKS))


def of_machines() -> st.SearchStrategy[tuple[Address, Value | None]]:
    """One of two machines in some state."""

    def made(node: int, state: Value | None) -> tuple[Address, Value | None]:
        name = f"{POOL}-{node}-1.1.1"
        if isinstance(state, DestroyedInstance) or state is None:
            return ("instance", name), None
        return ("instance", name), state.model_copy(update={"id": name, "node": node})

    ready = [one for one in kinds.INSTANCES if isinstance(one, Ready)]
    return st.builds(made, st.integers(0, 1), st.none() | st.sampled_from([*kinds.INSTANCES, *ready * 50]))


def of_nodes() -> st.SearchStrategy[tuple[Address, Value | None]]:
    """One of two nodes in some state."""
    return st.builds(
        lambda node, state: (("node", str(node)), state and state.model_copy(update={"node": node})),
        st.integers(0, 1),
        st.none() | st.sampled_from(kinds.NODES),
    )


def of_pools() -> st.SearchStrategy[tuple[Address, Value | None]]:
    """The pool, with another number of slots."""
    spec = PoolSpec(provider=("sim",), nodes=Nodes(desired=2))
    return st.builds(
        lambda slots, buffer: (
            ("pool", POOL),
            Active(
                name=POOL,
                generation=1,
                spec=spec.model_copy(update={"worker": Worker(concurrency=slots, buffer=buffer)}),
                desired=2,
            ),
        ),
        st.integers(1, 2),
        st.integers(0, 1),
    )


changes = st.lists(st.one_of(of_tasks(), of_tasks(), of_machines(), of_nodes(), of_pools()), max_size=25)


def apply(index: Index, states: States, change: tuple[Address, Value | None]) -> Value | None:
    """Make one change, and answer what was there before."""
    address, new = change
    old = states.get(address)
    index.apply(address, old, new)
    if new is None:
        states.pop(address, None)
    else:
        states[address] = new
    return old


@settings(max_examples=400, deadline=None, database=None)
@given(some=changes)
def test_applied_change_by_change_it_is_what_a_restart_builds(
    some: list[tuple[Address, Value | None]],
) -> None:
    index, states = Index(), States()
    for change in some:
        apply(index, states, change)
        assert not difference(index, states)


@settings(max_examples=200, deadline=None, database=None)
@given(before=changes, turn=changes)
def test_an_undone_turn_leaves_nothing(
    before: list[tuple[Address, Value | None]], turn: list[tuple[Address, Value | None]]
) -> None:
    index, states = Index(), States()
    for change in before:
        apply(index, states, change)
    kept, undo = dict(states), list[tuple[Address, Value | None]]()
    for change in turn:
        undo.append((change[0], apply(index, states, change)))
    for address, old in reversed(undo):
        apply(index, states, (address, old))
    assert states == kept
    assert not difference(index, kept)


@settings(max_examples=100, deadline=None, database=None)
@given(some=changes, seed=st.integers(0, 100))
def test_the_order_in_which_a_restart_reads_does_not_matter(
    some: list[tuple[Address, Value | None]], seed: int
) -> None:
    states: States = {address: state for address, state in some if state is not None}
    shuffled = list(states.items())
    Random(seed).shuffle(shuffled)
    assert not difference(dict(shuffled), states)


def pending(name: str, seq: int, priority: int = 0, **more: Any) -> Pending:
    """A task that waits."""
    spec = TaskSpec(argv=("x",), priority=priority, node=more.pop("node", None))
    return Pending(id=name, pool=POOL, spec=spec, seq=seq, **more)


@settings(max_examples=200, deadline=None, database=None)
@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.integers(0, 120), st.integers(-2, 2)), min_size=1, max_size=400
    )
)
def test_the_queue_goes_by_priority_then_by_age(steps: list[tuple[bool, int, int]]) -> None:
    queue, members = Queue(), dict[str, tuple[int, int]]()
    for add, seq, priority in steps:
        name = f"t{seq}"
        if add:
            queue.add(pending(name, seq, priority))
            members[name] = (-priority, seq)
        else:
            queue.remove(name)
            members.pop(name, None)
        assert len(queue) == len(members)
        assert queue.first() == min(members, key=lambda one: members[one], default=None)


def test_a_long_queue_forgets_what_was_taken_out() -> None:
    queue = Queue()
    for i in range(5000):
        queue.add(pending(f"t{i}", i))
        if i >= 10:
            queue.remove(f"t{i - 10}")
    assert len(queue) == 10
    assert len(queue._heap) <= 64 + 1


def test_a_pinned_task_that_is_held_back_can_go_while_another_waits() -> None:
    held, waits = pending("t1", 1, node=0, not_before=5.0), pending("t2", 2, node=0)
    index = built({("task", "t1"): held, ("task", "t2"): waits})
    assert index.pinned[0].first() == "t2"
    index.apply(("task", "t2"), waits, None)
    index.apply(("task", "t1"), held, None)
    assert not index.pinned
    assert not index.pending


def test_a_machine_is_free_buffered_or_full() -> None:
    spec = kinds.SPEC.model_copy(update={"worker": Worker(concurrency=1, buffer=1)})
    pool = Active(name=POOL, generation=1, spec=spec, desired=1)
    ready = next(one for one in kinds.INSTANCES if isinstance(one, Ready) and one.link_up)
    states: States = {("instance", ready.id): ready, ("pool", POOL): pool}
    index = built(states)
    slots = [index.next_slot()]
    for i in range(2):
        placed = {"id": f"t{i}", "pool": POOL, "seq": i, "instance_id": ready.id, "node": 0}
        task = Running(**placed, spec=TaskSpec(argv=("x",)), pid=1, started_at=0)
        index.apply(("task", task.id), None, task)
        slots.append(index.next_slot())
    assert slots == [ready.id, ready.id, None]
    assert not index.has_slot(ready.id)
    assert index.tasks_on(ready.id) == ("t0", "t1")
