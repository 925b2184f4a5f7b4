"""The way out: draining, destroying, and the observed absence that ends it."""

from typing import Any, assert_never

from actors.decision import Address, Decision, Published, View
from actors.effects import (
    Disconnect,
    Effect,
    Find,
    Look,
    Say,
    TellMarket,
    Terminate,
    Unwatch,
    Watch,
)
from actors.events import (
    Error,
    InstanceDestroyed,
    InstanceLaunched,
    InstancePreempted,
    NoticeWithdrawn,
)
from actors.instance import alive, launching
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
    AbsenceObserved,
    AgentSaid,
    BootstrapWanted,
    Due,
    FindFailed,
    Found,
    InstanceEnded,
    InstanceFailed,
    InstanceLeaving,
    InstanceMessage,
    InstanceStays,
    LaunchFailed,
    LaunchSucceeded,
    LaunchWanted,
    LeaveWanted,
    LinkDown,
    LinkUp,
    LossTold,
    MachineGone,
    MachineLeaving,
    Message,
    NothingFound,
    TaskLeft,
    TerminateFailed,
    TerminateSucceeded,
    VendorNotice,
)
from actors.policy.backoff import retry_delay_s
from providers.agent.wire import Drain
from providers.errors import Fault
from providers.model import Handle

SEEN_AFTER_TERMINATE_S = 30.0  # still listed so long after an accepted terminate: asked again
STOP_GRACE_S = 10.0  # what tasks get between notice and the end, when a drain runs out of time
_COMMON = ("id", "key", "pool", "node", "request_id", "replacing", "offer", "cluster", "created_at")


def common(state: InstanceState) -> dict[str, Any]:
    """The fields that every state of an instance has, for the next state."""
    return {name: getattr(state, name) for name in _COMMON}


def to_tasks(state: InstanceState, message: Message, view: View) -> tuple[tuple[Address, Message], ...]:
    """One message to each task that is on this machine."""
    return tuple(to_task(task, message) for task in view.index.tasks_on(state.id))


def to_node(state: InstanceState, message: Message) -> tuple[Address, Message]:
    """A message to the node this machine fills."""
    return ("node", str(state.node)), message


def to_pool(state: InstanceState, message: Message) -> tuple[Address, Message]:
    """A message to the pool this machine belongs to."""
    return ("pool", state.pool), message


def to_task(task_id: str, message: Message) -> tuple[Address, Message]:
    """A message to one task."""
    return ("task", task_id), message


def destroying_state(state: InstanceState, reason: str, now: float, next_at: float | None) -> Destroying:
    """The state of a machine that is to end."""
    handle: Handle | None = getattr(state, "handle", None)
    launched_at: float = getattr(state, "launched_at", now)
    return Destroying(
        **common(state),
        since=now,
        handle=handle,
        launched_at=launched_at,
        reason=reason,
        next_at=next_at,
    )


def destroy(state: Alive, reason: str, view: View, facts: tuple[Published, ...] = ()) -> Decision:
    """End the machine now. Ends the request it serves when that is still open."""
    tells = to_tasks(state, MachineLeaving(state.id, reason), view)
    if isinstance(state, Ready | Draining):  # from now on its node has no machine that works
        tells = (to_node(state, InstanceLeaving(state.id, reason, works=False)), *tells)
    return Decision(
        destroying_state(state, reason, view.now, None),
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


def gone(state: Alive | Destroying, reason: str, view: View) -> Decision:
    """The machine is observed absent."""
    facts = unfinished(state, reason)
    effects: tuple[Effect, ...] = (Unwatch(state.offer.provider, state.key), Disconnect(state.id))
    if not isinstance(state, Destroying | Draining):  # nobody had said that it would go
        facts = (preempted(state, reason), *facts)
        effects = (*effects, TellMarket(LossTold(state.offer.market)))
    ends = view.index.removal_requests(state.node, state.id)
    destroyed = Published(InstanceDestroyed(instance_id=state.id, reason=reason), state.request_id, ends)
    return Decision(
        Destroyed(**common(state), since=view.now, reason=reason, launched=True),
        tells=(
            *to_tasks(state, MachineGone(state.id, reason), view),
            to_node(state, InstanceEnded(state.id, reason)),
        ),
        effects=effects,
        facts=(*facts, destroyed),
    )


def preempted(state: Alive, reason: str) -> Published:
    """The fact that the machine is being taken, or was."""
    return Published(
        InstancePreempted(instance=node_instance(state), reason=reason), request_id=state.request_id
    )


def while_draining(state: Draining, message: InstanceMessage, view: View) -> Decision:
    """Next step of a machine that will end soon."""
    match message:
        case AgentSaid():
            return alive.agent_said(state, message, view)
        case Due() if view.now >= state.deadline and not state.final and view.index.tasks_on(state.id):
            final = state.model_copy(update={"final": True, "deadline": view.now + STOP_GRACE_S})
            return Decision(final, effects=(Say(state.id, Drain(epoch=view.epoch, within_s=STOP_GRACE_S)),))
        case Due() if view.now >= state.deadline:
            return destroy(state, state.reason, view)
        case TaskLeft() if not state.noticed and not view.index.tasks_on(state.id):
            return destroy(state, state.reason, view)
        case LeaveWanted(reason=reason, within_s=within_s):
            return _hurried(state, reason, within_s, view)
        case VendorNotice(notice=None):
            return stays(state, view)
        case VendorNotice(notice=notice) if notice is not None and notice.deadline_at is not None:
            sooner = min(state.deadline, notice.deadline_at)
            return Decision(state.model_copy(update={"deadline": sooner}))
        case Found(sighting=sighting) if sighting.state in ("stopping", "stopped"):
            return destroy(state, state.reason, view)
        case AbsenceObserved():
            return gone(state, state.reason, view)
        case LinkUp():
            decision = alive.link_up(state, message, view)
            left = max(0.0, state.deadline - view.now)
            if state.noticed or state.final:
                decision = decision.also(effects=(Say(state.id, Drain(epoch=view.epoch, within_s=left)),))
            return decision
        case LinkDown():
            down = state.model_copy(update={"link_up": False, "silent_since": view.now})
            return Decision(down, effects=(Look(state.handle.provider),))
        case Due() | TaskLeft() | VendorNotice() | Found() | BootstrapWanted() | LaunchWanted():
            return Decision(state)
        case LaunchSucceeded() | LaunchFailed() | NothingFound() | FindFailed():
            return Decision(state)
        case TerminateSucceeded() | TerminateFailed():
            return Decision(state)
        case _:
            assert_never(message)


def _hurried(state: Draining, reason: str, within_s: float, view: View) -> Decision:
    deadline = min(state.deadline, view.now + within_s)
    if deadline <= view.now or not view.index.tasks_on(state.id):
        return destroy(state, state.reason, view)
    # What leaves by our own wish does not stay when a vendor withdraws its notice.
    update = {"deadline": deadline, "noticed": False, "reason": reason if state.noticed else state.reason}
    return Decision(state.model_copy(update=update))


def stays(state: Draining, view: View) -> Decision:
    """The notice was withdrawn: back to work, unless we wanted the machine gone ourselves."""
    if not (state.noticed and state.was_ready):
        return Decision(state)
    up = state.link_up
    ready = Ready(
        **alive.linked_fields(state),
        since=view.now,
        gone_at=None if up else view.now + view.index.pool_spec.unreachable_timeout,
    )
    return Decision(
        ready,
        tells=(to_node(state, InstanceStays(state.id)),),
        effects=(Say(state.id, Drain(epoch=view.epoch, within_s=None)),),
        facts=(Published(NoticeWithdrawn(instance_id=state.id), state.request_id),),
    )


def while_destroying(state: Destroying, message: InstanceMessage, view: View) -> Decision:
    """Next step of a machine that must end; never given up."""
    match message:
        case AbsenceObserved():
            return gone(state, state.reason, view)
        case TerminateSucceeded():
            later = view.now + SEEN_AFTER_TERMINATE_S
            accepted = state.model_copy(update={"accepted": True, "next_at": later, "last_fault": ""})
            return Decision(accepted, effects=(Look(state.offer.provider),))
        case TerminateFailed(fault=fault, retry_after_s=after):
            wait = retry_delay_s(state.tries + 1, view.draw, first_s=2, most_s=60)
            update = {
                "tries": state.tries + 1,
                "next_at": view.now + max(wait, after or 0.0),
                "last_fault": fault.value,
                "accepted": fault is Fault.GONE,
            }
            look = (Look(state.offer.provider),) if fault is Fault.GONE else ()
            return Decision(state.model_copy(update=update), effects=look)
        case FindFailed(fault=fault):
            wait = retry_delay_s(state.tries + 1, view.draw, first_s=2, most_s=60)
            update = {"tries": state.tries + 1, "next_at": view.now + wait, "last_fault": fault.value}
            return Decision(state.model_copy(update=update))
        case Found(sighting=sighting) if state.handle is None:
            return _found_at_last(state, sighting.handle, view)
        case Found(sighting=sighting) if state.handle is not None and (
            state.handle.ref != sighting.handle.ref
        ):
            return Decision(state, effects=(Terminate(sighting.handle),))  # a twin under our key
        case LaunchSucceeded(handle=handle) if state.handle is None:
            return _found_at_last(state, handle, view)
        case NothingFound() if state.handle is None:
            return _never_there(state, view)
        case Due() if state.next_at is not None and view.now >= state.next_at:
            again = state.model_copy(update={"next_at": None})
            return Decision(again, effects=(_call(state),))
        case AgentSaid():
            return alive.last_words(state, message, view)
        case (
            Due()
            | Found()
            | LaunchSucceeded()
            | NothingFound()
            | LaunchFailed()
            | VendorNotice()
            | LinkUp()
            | LinkDown()
            | LeaveWanted()
            | TaskLeft()
            | BootstrapWanted()
            | LaunchWanted()
        ):
            return Decision(state)
        case _:
            assert_never(message)


def _call(state: Destroying) -> Effect:
    if state.handle is None:
        return Find(state.offer.provider, state.key)
    return Terminate(state.handle)


def _found_at_last(state: Destroying, handle: Handle, view: View) -> Decision:
    fact = InstanceLaunched(
        request_id=state.request_id,
        cluster_id=state.cluster.cluster_id,
        node_id=state.node,
        provider=handle.provider,
        instance_id=state.id,
    )
    return Decision(
        state.model_copy(update={"handle": handle, "next_at": None}),
        effects=(Watch(handle.provider, state.key, state.id, state.launched_at), Terminate(handle)),
        facts=(Published(fact, request_id=state.request_id),),
    )


def _never_there(state: Destroying, view: View) -> Decision:
    visible_at = state.launched_at + launching.visible_within_s(state.offer.provider, view)
    looks = state.empty_looks + (1 if view.now > visible_at else 0)
    if looks < 2:
        wait = max(1.0, visible_at - view.now)
        return Decision(state.model_copy(update={"empty_looks": looks, "next_at": view.now + wait}))
    return Decision(
        Destroyed(**common(state), since=view.now, reason=state.reason, launched=False),
        tells=(to_node(state, InstanceEnded(state.id, state.reason)),),
        effects=(Unwatch(state.offer.provider, state.key),),
    )


def resume(state: Destroying) -> tuple[Effect, ...]:
    """Terminate again unless a next try is timed; watch for the absence."""
    calls = () if state.next_at is not None else (_call(state),)
    if state.handle is None:  # it may never have been there: looked up by key, not watched
        return calls
    return (Watch(state.offer.provider, state.key, state.id, state.launched_at), *calls)


def failed(state: Requested | Alive, reason: str) -> tuple[Address, Message]:
    """Tell the node that this machine will not become ready, or not again."""
    if isinstance(state, Bootstrapping) and state.again:  # its node counts on it
        return to_node(state, InstanceLeaving(state.id, reason, works=False))
    return to_node(state, InstanceFailed(state.id, reason))
