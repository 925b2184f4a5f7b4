"""What a node does about what it hears. Pure.

A node asks (Filling, Replacing), the pool places it once per turn, the node orders one instance. The
rank stays; every machine under it has its own incarnation, every offer tried its own try.
"""

from typing import Any, assert_never

from actors.address import Address
from actors.decision import Decision, Published, View
from actors.effects import Effect
from actors.events import Error, InstanceRequested
from actors.instance.parts import instance_id
from actors.messages import (
    DrainAsked,
    DrainGivenUp,
    Due,
    Fill,
    InstanceEnded,
    InstanceFailed,
    InstanceLeaving,
    InstanceNotLaunched,
    InstanceReady,
    InstanceStays,
    LaunchWanted,
    LeaveWanted,
    Message,
    NodeMessage,
    NodeReady,
    NodeRetired,
    NotPlaced,
    Placed,
    Retire,
)
from actors.node.state import Filled, Filling, NodeState, Replacing, Retired, Vacant
from actors.policy.backoff import retry_delay_s

RETRY_FIRST_S = 2.0  # after a machine that did not get ready; doubles with each further one in a row
RETRY_MOST_S = 300.0
LOST_MOST_S = 15.0  # between machines that got ready and then vanished: the market's doing, not ours
STABLE_S = 600.0  # a machine that worked for so long ends a row of losses
SPEND_THE_NOTICE_S = 86_400.0  # a replaced machine's tasks keep what time the notice left them

Asking = Filling | Replacing


def decide(state: NodeState | None, message: NodeMessage, view: View) -> Decision:
    """Next step of one node."""
    if state is not None and isinstance(message, DrainGivenUp):
        return _drain_given_up(state, message)
    match state:
        case None:
            return Decision(None)  # nodes are made by the pool, by `vacant`
        case Vacant():
            return _while_vacant(state, message, view)
        case Filling() | Replacing():
            return _while_asking(state, message, view)
        case Filled():
            return _while_filled(state, message, view)
        case Retired():
            return _while_retired(state, message, view)
        case _:
            assert_never(state)


def _drain_given_up(state: NodeState, message: DrainGivenUp) -> Decision:
    if state.drain_request is None or isinstance(state, Retired):
        return Decision(state)
    left = state.model_copy(update={"drain_request": None, "draining_id": None})
    return Decision(left, facts=(_error(state.drain_request, message.reason),))


def vacant(pool: str, generation: int, node: int, now: float) -> Vacant:
    """A node that was never filled."""
    return Vacant(pool=pool, generation=generation, node=node, since=now)


def _common(state: NodeState) -> dict[str, Any]:
    names = ("pool", "generation", "node", "incarnation", "last_id", "drain_request", "draining_id", "losses")
    return {name: getattr(state, name) for name in names}


def _to_pool(state: NodeState, message: Message) -> tuple[Address, Message]:
    return ("pool", state.pool), message


def _leave(instance: str, reason: str, within_s: float) -> tuple[Address, Message]:
    return ("instance", instance), LeaveWanted(reason, within_s)


def _error(request: str, text: str) -> Published:
    return Published(Error(request_id=request, message=text, fatal=True), request, (request,))


def _ask(state: NodeState, view: View, *, replacing: str | None, next_at: float | None = None) -> Filling:
    """Want a machine: a new incarnation with a request of its own."""
    incarnation = state.incarnation + 1
    return Filling(
        **(_common(state) | {"incarnation": incarnation}),
        since=view.now,
        request_id=f"instance:{state.pool}-{state.node}-{state.generation}.{incarnation}",
        replacing=replacing,
        next_at=next_at,
        why_waiting="" if next_at is None else "waits after a failure",
        backing_off=next_at is not None,
    )


def _ask_beside(state: NodeState, view: View, old_id: str, next_at: float | None = None) -> Replacing:
    """Want another machine while the old one still works."""
    asking = _ask(state, view, replacing=old_id, next_at=next_at)
    return Replacing(**(dict(asking) | {"status": "replacing", "old_id": old_id}))


def _retire(
    state: NodeState, leaving: tuple[str, ...], retire: Retire, view: View, *, removal: bool = False
) -> Decision:
    fields = _common(state)
    facts: tuple[Published, ...] = ()
    if state.drain_request is not None and not removal:
        facts = (_error(state.drain_request, f"node {state.node} is retired: {retire.reason}"),)
        fields |= {"drain_request": None, "draining_id": None}
    retired = Retired(**fields, since=view.now, reason=retire.reason, leaving=leaving)
    tells = tuple(_leave(instance, retire.reason, retire.within_s) for instance in leaving)
    if not leaving:
        tells = (*tells, _to_pool(state, NodeRetired(state.node)))
    return Decision(retired, tells=tells, facts=facts)


def _not_wanted(state: NodeState, message: InstanceNotLaunched) -> Decision:
    """A machine that the node had given up was never there: only its request is left to end."""
    request = f"instance:{message.instance_id.rsplit('.', 1)[0]}"
    return Decision(state, facts=(_error(request, "not wanted any more, and not launched"),))


# --- vacant ---------------------------------------------------------------------------------------


def _while_vacant(state: Vacant, message: NodeMessage, view: View) -> Decision:
    match message:
        case Fill():
            return Decision(_ask(state, view, replacing=state.last_id))
        case Due() if state.next_at is not None and view.now >= state.next_at:
            return Decision(_ask(state, view, replacing=state.last_id))
        case Retire():
            return _retire(state, (), message, view)
        case DrainAsked(request_id=request):
            return Decision(state, facts=(_error(request, f"node {state.node} has no machine"),))
        case InstanceNotLaunched():
            return _not_wanted(state, message)
        case (
            Due()
            | DrainGivenUp()
            | Placed()
            | NotPlaced()
            | InstanceReady()
            | InstanceLeaving()
            | InstanceStays()
            | InstanceFailed()
            | InstanceEnded()
        ):
            return Decision(state)
        case _:
            assert_never(message)


# --- filling, replacing ---------------------------------------------------------------------------


def _while_asking(state: Asking, message: NodeMessage, view: View) -> Decision:
    match message:
        case Placed() if state.instance_id is None:
            return _order(state, message, view)
        case NotPlaced(reason=reason, retry_at=at) if state.instance_id is None:
            update = {"next_at": at, "why_waiting": reason, "refused": (), "backing_off": False}
            return Decision(state.model_copy(update=update))
        case Due() if state.due_at is not None and view.now >= state.due_at:
            return Decision(state.model_copy(update={"next_at": None}))
        case Fill() if state.instance_id is None:
            return Decision(state.model_copy(update={"next_at": None, "refused": ()}))
        case InstanceNotLaunched(instance_id=instance) if instance == state.instance_id:
            return _place_elsewhere(state, message)
        case InstanceReady(instance_id=instance) if instance == state.instance_id:
            return _filled(state, instance, view)
        case InstanceFailed(instance_id=instance, reason=reason) if instance == state.instance_id:
            return _again(state, reason, view)
        case InstanceEnded(instance_id=instance, reason=reason) if instance == state.instance_id:
            return _again(state, reason, view)
        case InstanceEnded(instance_id=instance) if isinstance(state, Replacing) and instance == state.old_id:
            return Decision(_old_is_gone(state, view))
        case InstanceLeaving(instance_id=instance, works=False) if (
            isinstance(state, Replacing) and instance == state.old_id
        ):
            return Decision(_old_is_gone(state, view))
        case InstanceStays(instance_id=instance) if isinstance(state, Replacing) and instance == state.old_id:
            return _old_stays(state, view)
        case Retire():
            old = (state.old_id,) if isinstance(state, Replacing) else ()
            new = (state.instance_id,) if state.instance_id else ()
            decision = _retire(state, old + new, message, view)
            if state.tries and not new:
                return decision.also(facts=(_error(state.request_id, f"ended: {message.reason}"),))
            return decision
        case DrainAsked(request_id=request):
            return Decision(state, facts=(_error(request, f"node {state.node} is being filled already"),))
        case InstanceNotLaunched():
            return _not_wanted(state, message)
        case (
            Due()
            | DrainGivenUp()
            | Placed()
            | NotPlaced()
            | Fill()
            | InstanceReady()
            | InstanceLeaving()
            | InstanceStays()
            | InstanceFailed()
            | InstanceEnded()
        ):
            return Decision(state)
        case _:
            assert_never(message)


def _order(state: Asking, placed: Placed, view: View) -> Decision:
    tries = state.tries + 1
    key = f"{view.owner}/{state.pool}/{state.node}/{state.generation}.{state.incarnation}/{tries}"
    instance = instance_id(key)
    wanted = LaunchWanted(
        key=key,
        node=state.node,
        request_id=state.request_id,
        replacing=state.replacing,
        offer=placed.offer,
        cluster=placed.cluster,
    )
    facts: tuple[Published, ...] = ()
    if state.tries == 0:
        asked = InstanceRequested(
            request_id=state.request_id,
            provider=placed.offer.provider,
            cluster_id=placed.cluster.cluster_id,
            node_id=state.node,
            replacing=state.replacing,
        )
        facts = (Published(asked, request_id=state.request_id),)
    update = {"tries": tries, "instance_id": instance, "next_at": None, "why_waiting": ""}
    return Decision(state.model_copy(update=update), tells=((("instance", instance), wanted),), facts=facts)


def _place_elsewhere(state: Asking, message: InstanceNotLaunched) -> Decision:
    """The market refused: another in this very turn, without waiting for its memory to hear of it."""
    update = {
        "instance_id": None,
        "next_at": None,
        "why_waiting": f"{message.fault.value}: {message.detail}",
        "refused": (*state.refused, message.market)[-64:],
    }
    return Decision(state.model_copy(update=update))


def _filled(state: Asking, instance: str, view: View) -> Decision:
    fields = _common(state) | {
        "last_id": instance,
        "drain_request": None,
        "draining_id": None,
    }
    tells: list[tuple[Address, Message]] = [_to_pool(state, NodeReady(state.node))]
    if isinstance(state, Replacing):
        tells.append(_leave(state.old_id, "preempted", SPEND_THE_NOTICE_S))
    return Decision(Filled(**fields, since=view.now, instance_id=instance), tells=tuple(tells))


def _again(state: Asking, reason: str, view: View) -> Decision:
    """The machine will never be ready. Taken by the market once: at once; else after a pause."""
    lost = state.model_copy(update={"losses": state.losses + 1})
    next_at = _pause(lost.losses, reason, view)
    if isinstance(state, Replacing):
        return Decision(_ask_beside(lost, view, state.old_id, next_at))
    return Decision(_ask(lost, view, replacing=state.replacing, next_at=next_at))


def _pause(losses: int, reason: str, view: View) -> float | None:
    """When to ask after `losses` in a row. The market's first taking is answered at once."""
    if reason in ("preempted", "gone") and losses <= 1:
        return None
    return view.now + retry_delay_s(losses, view.draw, first_s=RETRY_FIRST_S, most_s=RETRY_MOST_S)


def _lost(state: Filled, reason: str, view: View) -> tuple[Filled, float | None]:
    """The state with the loss counted, and when to ask: a machine that broke soon after another waits."""
    if reason in ("preempted", "user") or view.now - state.since >= STABLE_S:
        return state.model_copy(update={"losses": 0}), None
    losses = state.losses + 1
    counted = state.model_copy(update={"losses": losses})
    if losses <= 1:
        return counted, None
    most_s = RETRY_MOST_S if reason == "failed" else LOST_MOST_S
    wait = retry_delay_s(losses - 1, view.draw, first_s=RETRY_FIRST_S, most_s=most_s)
    return counted, view.now + wait


def _old_is_gone(state: Replacing, view: View) -> Filling:
    fields = {name: value for name, value in state if name not in ("status", "old_id", "since")}
    return Filling(**fields, since=view.now)


def _old_stays(state: Replacing, view: View) -> Decision:
    """The notice was withdrawn: the new machine, ordered or not, is one too many."""
    filled = Filled(**_common(state), since=view.now, instance_id=state.old_id)
    if state.instance_id is not None:
        return Decision(filled, tells=(_leave(state.instance_id, "scale_in", 0),))
    if state.tries:
        return Decision(filled, facts=(_error(state.request_id, "notice withdrawn"),))
    return Decision(filled)


# --- filled ---------------------------------------------------------------------------------------


def _while_filled(state: Filled, message: NodeMessage, view: View) -> Decision:
    match message:
        case InstanceLeaving(instance_id=instance, reason=reason) if instance == state.instance_id:
            lost, next_at = _lost(state, reason, view)
            if message.works:
                return Decision(_ask_beside(lost, view, instance, next_at))
            return Decision(_ask(lost, view, replacing=instance, next_at=next_at))
        case InstanceEnded(instance_id=instance, reason=reason) if instance == state.instance_id:
            lost, next_at = _lost(state, reason, view)
            return Decision(_ask(lost, view, replacing=instance, next_at=next_at))
        case Retire():
            return _retire(state, (state.instance_id,), message, view)
        case DrainAsked():
            return _drain(state, message, view)
        case InstanceNotLaunched():
            return _not_wanted(state, message)
        case (
            Due()
            | DrainGivenUp()
            | Fill()
            | Placed()
            | NotPlaced()
            | InstanceReady()
            | InstanceLeaving()
            | InstanceStays()
            | InstanceFailed()
            | InstanceEnded()
        ):
            return Decision(state)
        case _:
            assert_never(message)


def _drain(state: Filled, asked: DrainAsked, view: View) -> Decision:
    """Its tasks leave while the replacement comes; removed, it is not replaced (the pool shrinks)."""
    marked = state.model_copy(update={"drain_request": asked.request_id, "draining_id": state.instance_id})
    if asked.remove:
        retire = Retire("user", asked.within_s)
        decision = _retire(marked, (state.instance_id,), retire, view, removal=True)
        return Decision(decision.state, decision.tells, taken=(asked.request_id,))
    return Decision(
        _ask_beside(marked, view, state.instance_id),
        tells=(_leave(state.instance_id, "user", asked.within_s),),
        taken=(asked.request_id,),
    )


# --- retired --------------------------------------------------------------------------------------


def _while_retired(state: Retired, message: NodeMessage, view: View) -> Decision:
    match message:
        case InstanceEnded(instance_id=instance) if instance in state.leaving:
            return _one_left(state, instance)
        case InstanceNotLaunched(instance_id=instance) if instance in state.leaving:
            return _one_left(state, instance).also(facts=_not_wanted(state, message).facts)
        case InstanceNotLaunched():
            return _not_wanted(state, message)
        case Fill():
            asked = _ask(state, view, replacing=None).model_copy(
                update={"drain_request": None, "draining_id": None}
            )
            if state.drain_request is None:
                return Decision(asked)
            return Decision(
                asked, facts=(_error(state.drain_request, "superseded: the node is filled again"),)
            )
        case Retire(reason=reason, within_s=within_s):  # hurry
            tells = tuple(_leave(instance, reason, within_s) for instance in state.leaving)
            if not state.leaving:
                tells = (_to_pool(state, NodeRetired(state.node)),)
            return Decision(state.model_copy(update={"reason": reason}), tells=tells)
        case DrainAsked(request_id=request):
            return Decision(state, facts=(_error(request, f"node {state.node} is retired already"),))
        case (
            Due()
            | DrainGivenUp()
            | Placed()
            | NotPlaced()
            | InstanceReady()
            | InstanceLeaving()
            | InstanceStays()
            | InstanceFailed()
            | InstanceEnded()
        ):
            return Decision(state)
        case _:
            assert_never(message)


def _one_left(state: Retired, instance: str) -> Decision:
    left = tuple(other for other in state.leaving if other != instance)
    tells = () if left else (_to_pool(state, NodeRetired(state.node)),)
    update: dict[str, Any] = {"leaving": left}
    if instance == state.draining_id:  # its InstanceDestroyed has just ended the request
        update |= {"drain_request": None, "draining_id": None}
    return Decision(state.model_copy(update=update), tells=tells)


def resume(state: NodeState, view: View) -> tuple[Effect, ...]:
    """A node acts through its instances and owes nothing of its own."""
    del state, view
    return ()


def condemn(state: NodeState, view: View) -> Decision:
    """What becomes of a node whose rules failed too often: its machines end, and it asks anew later."""
    if isinstance(state, Retired):  # its machines are on their way out, and it wants none
        return Decision(state)
    ids = (getattr(state, "instance_id", None), getattr(state, "old_id", None))
    tells = tuple(_leave(instance, "failed", 0) for instance in ids if instance is not None)
    facts: tuple[Published, ...] = ()
    if isinstance(state, Filling | Replacing) and state.tries and state.instance_id is None:
        facts = (_error(state.request_id, "ended: too many bugs"),)  # no machine will end it
    vacant_state = Vacant(**_common(state), since=view.now, next_at=view.now + RETRY_MOST_S)
    return Decision(vacant_state, tells=tells, facts=facts)


def check(state: NodeState) -> None:
    """What always holds."""
    assert state.node >= 0, state
    match state:
        case Filling() | Replacing():
            assert state.tries > 0 or state.instance_id is None, state
            if isinstance(state, Replacing):
                assert state.old_id != state.instance_id, state
        case Vacant() | Filled() | Retired():
            pass
        case _:
            assert_never(state)
