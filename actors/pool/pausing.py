"""What a paused pool does not do, and how it is paused and resumed. Pure.

Paused, a pool orders no machine, changes no node, starts no attempt and does not scale. What runs goes on,
notices are told to tasks, a budget that ends machines still does, and so does a user who drains or ends it.
What was asked for meanwhile holds as soon as it is resumed.
"""

from actors.address import Address
from actors.decision import Decision, Published, View
from actors.events import Envelope, PoolPaused, PoolPauseRequested, PoolResumed
from actors.messages import Message, NotPlaced
from actors.pool.experience import hurry
from actors.pool.state import Active, Parked, Paused, PoolState

ASK_AGAIN_S = 3600.0  # nodes of a paused pool ask so seldom; to be resumed hurries them


def is_paused(state: PoolState | None) -> bool:
    """Whether a user keeps the pool from launching and starting anything."""
    return isinstance(state, Active | Parked) and state.paused is not None


def asked(state: Active | Parked, request: PoolPauseRequested, envelope: Envelope, view: View) -> Decision:
    """Pause it, or resume it; either ends at once, also when it is so already."""
    is_so = request.paused == (state.paused is not None)
    fact: PoolPaused | PoolResumed
    if request.paused:
        fact = PoolPaused(pool=state.name, by=_by(state, envelope), already=is_so)
    else:
        fact = PoolResumed(pool=state.name, already=is_so)
    told = (Published(fact, request.request_id, (request.request_id,)),)
    if is_so:
        return Decision(state, facts=told)
    if request.paused:
        paused = Paused(by=envelope.principal, since=view.now)
        return Decision(state.model_copy(update={"paused": paused}), facts=told)
    update = {"paused": None, "resumed_at": view.now}
    if isinstance(state, Active):
        update |= {"look_at": view.now, "scale_at": None}
    return Decision(state.model_copy(update=update), tells=hurry(view), facts=told)


def _by(state: Active | Parked, envelope: Envelope) -> str:
    return envelope.principal if state.paused is None else state.paused.by


def held(state: Active, view: View) -> Decision:
    """Let every node that asks wait."""
    retry_at = view.now + ASK_AGAIN_S
    why = reason(state)
    tells: list[tuple[Address, Message]] = [
        (("node", str(node)), NotPlaced(why, retry_at)) for node in sorted(view.index.asking)
    ]
    return Decision(state, tells=tuple(tells))


def reason(state: PoolState) -> str:
    """Why nothing is done in a paused pool, for users."""
    by = state.paused.by if isinstance(state, Active | Parked) and state.paused is not None else ""
    return f"the pool is paused{f' by {by}' if by else ''}"
