"""How a pool is parked: loudly, and until a user changes it. Pure."""

from actors.address import Address
from actors.decision import Decision, Published, View
from actors.events import Error, PoolParked
from actors.messages import DrainGivenUp, LeaveWanted, Message, NotPlaced
from actors.node.state import Filling, Replacing
from actors.pool import money
from actors.pool.state import Active, Parked, kept

PARKED_S = 3600.0  # nodes of a parked pool ask so seldom


def park(state: Active, reason: str, view: View, *, end_unready: bool) -> Decision:
    """Launch nothing more; what works lives on.

    Args:
        state: of the pool.
        reason: for the user.
        view: of this turn.
        end_unready: machines that are not set up yet are ended as well: they would only cost.
    """
    wasted = money.wasted_micro_usd(state, view.now)
    facts = [Published(PoolParked(pool=state.name, reason=reason, wasted_micro_usd=wasted))]
    for one in state.waiting:
        fact = Error(request_id=one.request_id, message=reason, fatal=True)
        facts.append(Published(fact, one.request_id, (one.request_id,)))
    retry_at = view.now + PARKED_S
    tells: list[tuple[Address, Message]] = [
        (("node", str(node)), NotPlaced("parked", retry_at)) for node in sorted(view.index.asking)
    ]
    for number, node in sorted(view.index.nodes.items()):
        if node.drain_request is not None:
            tells.append((("node", str(number)), DrainGivenUp(reason)))
        if end_unready and isinstance(node, Filling | Replacing) and node.instance_id is not None:
            tells.append((("instance", node.instance_id), LeaveWanted("failed", 0)))
    for number in view.index.left_nodes:  # what was replaced lives on for its last tasks only
        for name in view.index.leaving_from(number):
            if view.index.was_moved(name):
                tells.append((("instance", name), LeaveWanted("scale_in", state.spec.drain_timeout)))
    fields = kept(state) | {"since": view.now, "waiting": ()}
    return Decision(Parked(**fields, reason=reason), tells=tuple(tells), facts=tuple(facts))
