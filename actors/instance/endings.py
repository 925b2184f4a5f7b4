"""How a machine ends, whatever it was doing: destroyed by us, or observed gone. Pure."""

from actors.address import Address
from actors.decision import Decision, Published, View
from actors.effects import Disconnect, Effect, Terminate, Unwatch
from actors.events import Error, InstanceDestroyed, InstancePreempted
from actors.instance import parts
from actors.instance.facts import node_instance
from actors.instance.state import (
    Alive,
    Bootstrapping,
    Destroyed,
    Destroying,
    Draining,
    InstanceState,
    Provisioning,
    Ready,
    Requested,
)
from actors.messages import (
    InstanceEnded,
    InstanceFailed,
    InstanceLeaving,
    MachineBilled,
    MachineGone,
    MachineLeaving,
    Message,
)
from providers.model import Sighting


def destroy(state: Alive, reason: str, view: View, facts: tuple[Published, ...] = ()) -> Decision:
    """End the machine now. Ends the request it serves when that is still open."""
    tells = parts.to_tasks(state, MachineLeaving(state.id, reason), view)
    if isinstance(state, Ready | Draining):  # from now on its node has no machine that works
        tells = (parts.to_node(state, InstanceLeaving(state.id, reason, works=False)), *tells)
    return Decision(
        parts.destroying_state(state, reason, view.now, None),
        tells=tells,
        effects=(Terminate(state.handle),),
        facts=facts + unfinished(state, reason),
    )


def unfinished(state: InstanceState, reason: str) -> tuple[Published, ...]:
    """The Error that ends the requests of a machine that will not become ready."""
    requests: tuple[str, ...] = ()
    if isinstance(state, Requested | Provisioning):
        requests = (state.request_id,)
    elif isinstance(state, Bootstrapping):
        requests = state.bootstrap_requests if state.again else (state.request_id, *state.bootstrap_requests)
        requests = (*requests, state.bootstrap_request)
    elif isinstance(state, Ready | Draining):
        requests = state.bootstrap_requests
    return tuple(
        Published(
            Error(request_id=request, message=f"instance {state.id} ended: {reason}", fatal=True),
            request_id=request,
            ends=(request,),
        )
        for request in dict.fromkeys(requests)
    )


def gone(
    state: Alive | Destroying, reason: str, view: View, at: float | None, told: Sighting | None = None
) -> Decision:
    """The machine is observed absent; `at` is when it ended, or was missing first, in the vendor's time.

    `told` is the vendor's own word of its end.
    """
    # One that was never seen has no time of the vendor's to begin with, and two clocks don't mix.
    ended_at = view.now if at is None or state.bill is None else at
    cost = parts.cost(state, ended_at)
    facts = unfinished(state, reason)
    effects: tuple[Effect, ...] = (Unwatch(state.offer.provider, state.key), Disconnect(state.id))
    if not isinstance(state, Destroying | Draining):  # nobody had said that it would go
        why = f"{reason}: {told.detail}" if told is not None and told.detail else reason
        facts = (preempted(state, why), *facts)
    if not isinstance(state, Destroying) and not (isinstance(state, Draining) and state.lost):
        effects = (*effects, parts.loss(state, view))
    ends = view.index.removal_requests(state.node, state.id)
    destroyed = Published(
        InstanceDestroyed(instance_id=state.id, reason=reason, cost_micro_usd=cost), state.request_id, ends
    )
    over = Destroyed(
        **parts.common(state),
        since=view.now,
        reason=reason,
        launched=True,
        ref=state.handle.ref if state.handle is not None else None,
        ended_at=ended_at,
        cost_micro_usd=cost,
    )
    return Decision(
        over,
        tells=(
            *parts.to_tasks(state, MachineGone(state.id, reason), view),
            parts.to_node(state, InstanceEnded(state.id, reason)),
            parts.to_pool(state, MachineBilled(cost, has_worked(state), reason)),
        ),
        effects=effects,
        facts=(*facts, destroyed),
    )


def has_worked(state: Alive | Destroying) -> bool:
    """Whether it was ever ready. An older everpool did not write that down."""
    return state.worked or isinstance(state, Ready | Draining)


def preempted(state: Alive, reason: str) -> Published:
    """The fact that the machine is being taken, or was."""
    return Published(
        InstancePreempted(instance=node_instance(state), reason=reason), request_id=state.request_id
    )


def failed(state: Requested | Alive, reason: str) -> tuple[Address, Message]:
    """Tell the node that this machine will not become ready, or not again."""
    if isinstance(state, Bootstrapping) and state.again:  # its node counts on it
        return parts.to_node(state, InstanceLeaving(state.id, reason, works=False))
    return parts.to_node(state, InstanceFailed(state.id, reason))
