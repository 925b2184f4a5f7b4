"""Spares: machines beyond the desired nodes, which stand in at once for those that are lost. Pure.

Nodes take over each other's machines, so that the lowest numbers are filled and the highest can go.
"""

from heapq import nsmallest

from actors.address import Address
from actors.decision import Decision, View
from actors.index import Index
from actors.instance.state import Ready
from actors.messages import Message, TakeOver
from actors.node.state import Filled, Replacing
from actors.pool import steering
from actors.pool.state import Active, PoolState
from actors.pool.wanted import is_desired, spare_ranks, wanted_count

SPARES_EVERY_S = 5.0  # their number changes no more often

Tells = list[tuple[Address, Message]]


def promote(state: PoolState, view: View) -> Decision:
    """Let spares fill nodes that lost their machine and have ordered none yet."""
    index = view.index
    if not isinstance(state, Active) or not state.spares or not index.lost or not wanted_count(state):
        return Decision(state)
    if state.paused is not None:
        return Decision(state)
    ranks = list(reversed(spare_ranks(state)))
    there = [(node, name) for node in ranks if (name := _at_work(node, index))]
    there += [(node, name) for node in ranks if (name := _works_yet(node, index))]
    if not there:
        return Decision(state)
    lost = nsmallest(len(there), (node for node in index.lost if is_desired(state, node)))
    tells: Tells = []
    for node, (spare, name) in zip(lost, there, strict=False):
        lost_in = getattr(index.nodes[node], "lost_in", None)  # where the spare is not to be bought anew
        tells += [(("node", str(node)), TakeOver(name)), (("node", str(spare)), TakeOver(None, lost_in))]
    return Decision(state, tells=tuple(tells))


def _at_work(node: int, index: Index) -> str | None:
    """The machine of a node that works undisturbed, None when there is none."""
    state = index.nodes.get(node)
    if not isinstance(state, Filled) or state.drain_request is not None:
        return None
    return _ready(state.instance_id, index)


def _works_yet(node: int, index: Index) -> str | None:
    """The machine of a node that works until the better one comes, None when there is none."""
    state = index.nodes.get(node)
    return _ready(state.old_id, index) if isinstance(state, Replacing) and state.moving else None


def _ready(name: str, index: Index) -> str | None:
    machine = index.instances.get(name)
    return machine.id if isinstance(machine, Ready) and machine.link_up else None


def resized(state: Active, spares: int, surplus: tuple[int, ...], view: View) -> Decision:
    """Have so many spares from now on: nodes are told at once, and are placed in the next turn.

    When there are to be fewer, the machines that go are those of `surplus` without tasks, the first of them
    first. A spare that works goes only when all nodes that stay, spares among them, have a machine that
    works; one with tasks, when no machine without them can go instead, takes no more and ends them first.
    """
    if spares == state.spares or not state.desired:
        return Decision(state)
    if state.spares_at is not None and view.now < state.spares_at + SPARES_EVERY_S:
        look_at = state.spares_at + SPARES_EVERY_S
        return Decision(state.model_copy(update={"look_at": min(state.look_at or look_at, look_at)}))
    if spares > state.spares:
        return _followed(state, spares, (), view)
    going = _going(state, spares, view)
    if not going:
        return _closed_up(state, spares, view)
    staying = spare_ranks(state)[: state.spares - len(going)]
    swaps = _swaps(going, surplus, staying, view.index)
    return _followed(state, state.spares - len(going), swaps, view)


def _followed(state: Active, spares: int, swaps: tuple[tuple[Address, Message], ...], view: View) -> Decision:
    update = {"spares": spares, "spares_at": view.now, "look_at": view.now}
    followed = steering.follow(state.model_copy(update=update), view, spares_only=True)
    return Decision(followed.state, swaps + followed.tells)


def _going(state: Active, spares: int, view: View) -> list[int]:
    """The highest numbers that may go now, as far as there are too many."""
    left, needed = view.index.nodes_ready, state.desired + spares
    going: list[int] = []
    for node in reversed(spare_ranks(state)[spares:]):
        works = isinstance(view.index.nodes.get(node), Filled | Replacing)
        if works and left <= needed:
            break
        left -= works
        going.append(node)
    return going


def _closed_up(state: Active, spares: int, view: View) -> Decision:
    """Spares that stay and have ordered nothing take the machines of those beyond, which can go then."""
    ranks = spare_ranks(state)
    bare = [node for node in ranks[:spares] if node in view.index.lost]
    beyond = [(node, name) for node in reversed(ranks[spares:]) if (name := _at_work(node, view.index))]
    tells: Tells = []
    for stays, (goes, name) in zip(bare, beyond, strict=False):
        tells += [(("node", str(stays)), TakeOver(name)), (("node", str(goes)), TakeOver(None))]
    if not tells:
        return Decision(state)
    soon = view.now + SPARES_EVERY_S
    return Decision(state.model_copy(update={"spares_at": view.now, "look_at": soon}), tuple(tells))


def _swaps(
    going: list[int], surplus: tuple[int, ...], staying: list[int], index: Index
) -> tuple[tuple[Address, Message], ...]:
    """Bring machines that are not wanted, and have no tasks, to the numbers that go.

    Those of `surplus` come first; in the place of a machine with tasks another spare may go as well. Every
    node is in one swap at most.
    """
    others = [node for node in dict.fromkeys(surplus) if node not in going and _is_idle(node, index)]
    spare = [node for node in reversed(staying) if node not in others and _is_idle(node, index)]
    tells: Tells = []
    for goes in going:
        if (good := _at_work(goes, index)) is None or (_is_idle(goes, index) and goes in surplus):
            continue
        from_where = others or ([] if _is_idle(goes, index) else spare)
        if not from_where:
            continue
        stays = from_where.pop(0)
        bad = _at_work(stays, index)
        tells += [(("node", str(stays)), TakeOver(good)), (("node", str(goes)), TakeOver(bad))]
    return tuple(tells)


def _is_idle(node: int, index: Index) -> bool:
    """Whether the node's machine works and nothing is lost when it goes: no task is on it or waits for it."""
    name = _at_work(node, index)
    return name is not None and not index.tasks_on(name) and not index.pinned_to(node)
