"""What an instance does about what it hears. Pure.

The order of facts per instance is Launched, Running, Provisioned, BootstrapPhase*, Bootstrapped or Failed,
then Preempted, Replaced, Destroyed. The InstanceRequested it serves is ended here once the launch was
accepted; before that it stays with the node, which may be placed elsewhere.
"""

from typing import assert_never

from actors.decision import Decision, View
from actors.effects import Effect, TellMarket
from actors.instance import alive, endings, going, launching, parts
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
    Found,
    HoldingTold,
    InstanceLeaving,
    InstanceMessage,
    LaunchWanted,
    Renumbered,
)
from providers.gateway import LAUNCH_TIMEOUT_S
from providers.model import Value


def decide(state: InstanceState | None, message: InstanceMessage, view: View) -> Decision:
    """Next step of one instance."""
    return _holding(state, _decide(state, message, view), view)


def _decide(state: InstanceState | None, message: InstanceMessage, view: View) -> Decision:
    if isinstance(message, Renumbered) and state is not None:
        return Decision(state.model_copy(update={"node": message.node}))
    if isinstance(message, Found | AbsenceObserved) and isinstance(state, Alive | Destroying):
        shown = message.sighting if isinstance(message, Found) else message.told
        if shown is not None and state.handle is not None:
            if shown.handle.ref != state.handle.ref:
                return Decision(state)  # a twin under our key, which the sweep ends
            state = parts.billed(state, message)
    match state:
        case None:
            if isinstance(message, LaunchWanted):
                return launching.first(message, view)
            return Decision(None)  # late word to one that is over
        case Requested():
            return launching.while_requested(state, message, view)
        case Provisioning():
            return alive.while_provisioning(state, message, view)
        case Bootstrapping():
            return alive.while_bootstrapping(state, message, view)
        case Ready():
            return alive.while_ready(state, message, view)
        case Draining():
            return going.while_draining(state, message, view)
        case Destroying():
            return going.while_destroying(state, message, view)
        case Destroyed():
            return Decision(state)
        case _:
            assert_never(state)


def _holding(before: Value | None, decision: Decision, view: View) -> Decision:
    """Tell the market when the pool's first machine there came, or its last went."""
    came, went = isinstance(decision.state, Alive), isinstance(before, Alive)
    state = decision.state if came else before
    if came == went or not isinstance(state, Alive):
        return decision
    market = state.offer.market
    held = view.index.held[str(market)]  # with this one, when it was there before
    if held != int(went):
        return decision
    return decision.also(effects=(TellMarket(HoldingTold(market, state.pool, int(came))),))


def resume(state: InstanceState, view: View) -> tuple[Effect, ...]:
    """Effects still owed after a restart."""
    match state:
        case Requested():
            return launching.resume(state)
        case Provisioning() | Bootstrapping() | Ready() | Draining():
            return alive.resume(state, view)
        case Destroying():
            return going.resume(state)
        case Destroyed():
            return ()
        case _:
            assert_never(state)


def condemn(state: InstanceState, view: View) -> Decision:
    """What becomes of an instance whose rules failed too often: it is ended and replaced."""
    if isinstance(state, Destroying | Destroyed):
        return Decision(state)
    ended = parts.destroying_state(state, "failed", view.now, next_at=view.now)
    if isinstance(state, Requested):  # a call may be in flight, and make the machine until it times out
        ended = ended.model_copy(update={"launched_at": view.now + LAUNCH_TIMEOUT_S})
    leaving = parts.to_node(state, InstanceLeaving(state.id, "failed", works=False))
    condemned = Decision(
        ended, tells=(leaving, endings.failed(state, "failed")), facts=endings.unfinished(state, "failed")
    )
    return _holding(state, condemned, view)


def check(state: InstanceState) -> None:
    """What always holds."""
    assert state.id and state.key, state
    match state:
        case Requested():
            assert state.tries >= 1, state
        case Provisioning() | Bootstrapping() | Ready() | Draining():
            assert state.handle.provider == state.offer.provider, state
            if isinstance(state, Ready):
                assert state.address is not None, state
                assert state.link_up == (state.gone_at is None), state
        case Destroying() | Destroyed():
            assert state.reason, state
        case _:
            assert_never(state)
