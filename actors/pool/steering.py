"""Who of a pool's nodes is to have a machine: told to them when that changes. Pure."""

from actors.address import Address
from actors.decision import Decision, View
from actors.messages import Fill, Message, Retire, StopWanted
from actors.node.state import Retired
from actors.pool import money
from actors.pool.ranks import numbers
from actors.pool.state import Active
from actors.pool.wanted import may_be_node, told

SPARES_S = 86_400.0  # what the tasks of a spare get that is not wanted any more

Tells = list[tuple[Address, Message]]


def follow(state: Active, view: View, *, spares_only: bool = False) -> Decision:
    """Tell nodes to be filled or to retire when what is wanted changed.

    Tasks that may run on a node only that is not wanted any more are stopped, unless they bring it back
    (scaling); those of nodes that are retired because the budget is spent wait until it may be spent again.

    Args:
        state: of the pool.
        view: of this turn.
        spares_only: there are fewer spares and nothing else: those that still have tasks end them first,
            until no node at all is wanted.
    """
    wish = told(state)
    if state.steered == wish:
        return Decision(state)
    wanted, before = set(numbers(*wish)), set(numbers(*state.steered))
    tells: Tells = [(("node", str(node)), Fill()) for node in sorted(wanted - before)]
    is_spent = not money.may_keep_machines(state)
    timeout = state.spec.drain_timeout
    retire = Retire("budget" if is_spent else "scale_in", max(timeout, SPARES_S) if spares_only else timeout)
    going = before - wanted
    if not wanted:
        going.update(node for node in view.index.left_nodes if _was_spare(node, view))
    tells += [(("node", str(node)), retire) for node in sorted(going, reverse=True)]
    if not is_spent:
        tells += _stopped_with(state, wanted, view)
    return Decision(state.model_copy(update={"steered": wish}), tells=tuple(tells))


def _was_spare(node: int, view: View) -> bool:
    state = view.index.nodes.get(node)
    return isinstance(state, Retired) and state.reason == "scale_in"


def _stopped_with(state: Active, wanted: set[int], view: View) -> Tells:
    """Stop the tasks of nodes that are no more."""
    gone = [node for node in view.index.pinned_nodes if node not in wanted and not may_be_node(state, node)]
    stop = StopWanted(None, "scale_in", None)
    return [(("task", task), stop) for node in gone for task in view.index.pinned_to(node)]
