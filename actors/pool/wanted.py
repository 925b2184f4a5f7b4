"""Which nodes a pool wants filled: the desired ones, then as many spares; none while its budget is spent."""

from actors.index import Index
from actors.node.state import Filled, Replacing
from actors.pool import money
from actors.pool.ranks import following, is_number, numbers
from actors.pool.state import Active, Draining, Parked, PoolState

Told = tuple[int, tuple[int, ...]]


def spares_of(state: PoolState) -> int:
    """How many spares there should be."""
    return state.spares if isinstance(state, Active | Parked) and state.desired else 0


def wanted_count(state: PoolState) -> int:
    """How many nodes should be filled, spares among them."""
    if isinstance(state, Draining) or not money.may_keep_machines(state):
        return 0
    return state.desired + spares_of(state)


def may_launch(state: PoolState) -> bool:
    """Whether the budget lets machines be launched."""
    return state.spend.reached is None or state.spec.budget.then == "warn"


def told(state: PoolState) -> Told:
    """What the nodes should have been told: how many are wanted, and which numbers are taken out."""
    return wanted_count(state), state.removed


def wanted_ranks(state: PoolState) -> list[int]:
    """The numbers of the nodes that should be filled. A look at each."""
    return numbers(*told(state))


def is_desired(state: PoolState, node: int) -> bool:
    """Whether it is the number of a node that the user asked for, and not of a spare."""
    return is_number(node, state.desired, state.removed)


def may_be_node(state: PoolState, number: int) -> bool:
    """Whether the pool has a node of this number, or would have it as soon as a task asked for it."""
    most = state.spec.nodes.max
    if state.spec.scaling is not None and most is not None and number < most:
        return True
    return is_desired(state, number)


def spare_ranks(state: PoolState) -> list[int]:
    """The numbers of the spares that should be filled."""
    return following(state.desired, state.removed, wanted_count(state) - state.desired)


def desired_ready(state: Active, index: Index) -> int:
    """How many of the nodes that the user asked for have a machine that works. A look at each spare."""
    if index.nodes_ready >= wanted_count(state):
        return min(index.nodes_ready, state.desired)
    spares = (index.nodes.get(node) for node in spare_ranks(state))
    return index.nodes_ready - sum(isinstance(node, Filled | Replacing) for node in spares)
