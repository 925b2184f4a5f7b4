"""The way out: draining, destroying, and the observed absence that ends it."""

from typing import assert_never

from actors.decision import Decision, Published, View
from actors.effects import (
    Effect,
    Find,
    Look,
    Say,
    Terminate,
    Unwatch,
)
from actors.events import (
    InstanceLaunched,
)
from actors.instance import alive, endings, parts
from actors.instance.state import (
    Destroyed,
    Destroying,
    Draining,
)
from actors.messages import (
    AbsenceObserved,
    AgentSaid,
    BootstrapWanted,
    Due,
    FindFailed,
    Found,
    InstanceEnded,
    InstanceMessage,
    LaunchFailed,
    LaunchSucceeded,
    LaunchWanted,
    LeaveWanted,
    LinkDown,
    LinkUp,
    MachineGone,
    NothingFound,
    Renumbered,
    TaskLeft,
    TerminateFailed,
    TerminateSucceeded,
    VendorNotice,
)
from actors.policy.backoff import retry_delay_s
from providers.agent.wire import Drain
from providers.errors import Fault
from providers.model import Handle, Notice

SEEN_AFTER_TERMINATE_S = 30.0  # still listed so long after an accepted terminate: asked again


def while_draining(state: Draining, message: InstanceMessage, view: View) -> Decision:
    """Next step of a machine that will end soon."""
    match message:
        case AgentSaid():
            return alive.agent_said(state, message, view)
        case Due() if view.now >= state.deadline and not state.final and view.index.tasks_on(state.id):
            grace_s = parts.STOP_GRACE_S
            final = state.model_copy(update={"final": True, "deadline": view.now + grace_s})
            return Decision(final, effects=(Say(state.id, Drain(epoch=view.epoch, within_s=grace_s)),))
        case Due() if view.now >= state.deadline:
            return endings.destroy(state, state.reason, view)
        case TaskLeft() if not state.noticed and not view.index.tasks_on(state.id):
            return endings.destroy(state, state.reason, view)
        case LeaveWanted(reason=reason, within_s=within_s):
            return _hurried(state, reason, within_s, view)
        case VendorNotice(notice=None):
            return alive.stays(state, view)
        case VendorNotice(notice=notice) if notice is not None:
            return _noticed(state, notice, view)
        case Found(sighting=sighting) if sighting.state in ("stopping", "stopped"):
            taken = alive.lost(state, view).effects
            return endings.destroy(state, state.reason, view).also(effects=taken)
        case Found(sighting=sighting) if sighting.notice is not None and not sighting.notice.early:
            return _noticed(state, sighting.notice, view)
        case AbsenceObserved() if (doubted := alive.doubting(state, message, view)) is not None:
            return doubted
        case AbsenceObserved(at=at):
            return endings.gone(state, state.reason, view, at)
        case LinkUp():
            decision = alive.link_up(state, message, view)
            left = max(0.0, state.deadline - view.now)
            if state.noticed or state.final:
                decision = decision.also(effects=(Say(state.id, Drain(epoch=view.epoch, within_s=left)),))
            return decision
        case LinkDown():
            down = state.model_copy(
                update={
                    "link_up": False,
                    "silent_since": view.now,
                    "tasks_over_at": parts.tasks_over_at(state, message.lease_until, view),
                }
            )
            return Decision(down, effects=(Look(state.handle.provider),))
        case Due() | TaskLeft() | VendorNotice() | Found() | BootstrapWanted() | LaunchWanted():
            return Decision(state)
        case Renumbered() | LaunchSucceeded() | LaunchFailed() | NothingFound() | FindFailed():
            return Decision(state)
        case TerminateSucceeded() | TerminateFailed():
            return Decision(state)
        case _:
            assert_never(message)


def _noticed(state: Draining, notice: Notice, view: View) -> Decision:
    decision = alive.taken_while_leaving(state, notice, view)
    sooner = decision.state
    assert isinstance(sooner, Draining)
    if (sooner.deadline, sooner.final) == (state.deadline, state.final):
        return decision
    left = max(0.0, sooner.deadline - view.now)
    return decision.also(effects=(Say(state.id, Drain(epoch=view.epoch, within_s=left)),))


def _hurried(state: Draining, reason: str, within_s: float, view: View) -> Decision:
    deadline = min(state.deadline, view.now + within_s)
    if deadline <= view.now or not view.index.tasks_on(state.id):
        return endings.destroy(state, state.reason, view)
    # What leaves by our own wish does not stay when a vendor withdraws its notice.
    update = {"deadline": deadline, "noticed": False, "reason": reason if state.noticed else state.reason}
    return Decision(state.model_copy(update=update))


def while_destroying(state: Destroying, message: InstanceMessage, view: View) -> Decision:
    """Next step of a machine that must end; never given up."""
    match message:
        case AbsenceObserved(at=at):
            return endings.gone(state, state.reason, view, at)
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
            return _found_at_last(parts.billed(state, message), sighting.handle, view)
        case LaunchSucceeded(handle=handle) if state.handle is None:
            return _found_at_last(state, handle, view)
        case NothingFound() if state.handle is None:
            return _never_there(state, view)
        case Due() if state.tasks_over_at is not None and view.now >= state.tasks_over_at:
            lost = parts.to_tasks(state, MachineGone(state.id, "lease"), view)
            return Decision(state.model_copy(update={"tasks_over_at": None}), tells=lost)
        case LinkDown(lease_until=until) if state.tasks_over_at is None and until is not None:
            over_at = parts.tasks_over_at(state, until, view)
            known = over_at is not None and over_at > view.now and view.index.tasks_on(state.id)
            return Decision(state.model_copy(update={"tasks_over_at": over_at}) if known else state)
        case LinkUp(accepted=True):
            return Decision(state.model_copy(update={"tasks_over_at": None}))
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
            | Renumbered()
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
        why=state.why,
    )
    return Decision(
        state.model_copy(update={"handle": handle, "next_at": None}),
        effects=(
            parts.watch(state, handle, state.launched_at),
            Terminate(handle),
        ),
        facts=(Published(fact, request_id=state.request_id),),
    )


def _never_there(state: Destroying, view: View) -> Decision:
    visible_at = state.launched_at + parts.visible_within_s(state.offer.provider, view)
    looks = state.empty_looks + (1 if view.now > visible_at else 0)
    if looks < 2:
        wait = max(1.0, visible_at - view.now)
        return Decision(state.model_copy(update={"empty_looks": looks, "next_at": view.now + wait}))
    return Decision(
        Destroyed(**parts.common(state), since=view.now, reason=state.reason, launched=False),
        tells=(parts.to_node(state, InstanceEnded(state.id, state.reason)),),
        effects=(Unwatch(state.offer.provider, state.key),),
    )


def resume(state: Destroying) -> tuple[Effect, ...]:
    """Terminate again unless a next try is timed; watch for the absence."""
    calls = () if state.next_at is not None else (_call(state),)
    if state.handle is None:  # it may never have been there: looked up by key, not watched
        return calls
    watch = parts.watch(state, state.handle, state.launched_at)
    return (watch, *calls)
