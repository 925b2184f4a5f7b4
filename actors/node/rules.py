"""What a node does about what it hears. Pure.

A node asks (Filling, Replacing), the pool places it once per turn, the node orders one instance. The
rank stays; every machine under it has its own incarnation, every offer tried its own try.

A filled node may be moved: it orders a better machine beside its own, which stays unless that one gets
ready. And nodes may take over each other's machines, so that a spare fills a lower rank at once.
"""

from typing import Any, assert_never

from actors.address import Address
from actors.decision import Decision, Published, View
from actors.effects import Effect
from actors.events import Error, Event, InstanceBootstrapped, InstanceReplaced, InstanceRequested
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
    Move,
    MoveFailed,
    MoveGivenUp,
    NodeMessage,
    NodeReady,
    NodeRetired,
    NotPlaced,
    Placed,
    Renumbered,
    Retire,
    TakeOver,
)
from actors.node.state import Filled, Filling, NodeState, Replacing, Retired, Vacant
from actors.policy.backoff import retry_delay_s
from actors.policy.situation import market_name

RETRY_FIRST_S = 2.0  # after a machine that did not get ready; doubles with each further one in a row
RETRY_MOST_S = 300.0
LOST_MOST_S = 15.0  # between machines that got ready and then vanished: the market's doing, not ours
STABLE_S = 600.0  # a machine that worked for so long ends a row of losses
SPEND_THE_NOTICE_S = 86_400.0  # a replaced machine's tasks keep what time the notice left them
MOVED_S = 6 * 3600.0  # what the tasks of a machine get for which there is a better one
TAKEN = ("preempted", "gone")  # why a machine leaves that the market took

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


def _ask(
    state: NodeState,
    view: View,
    *,
    replacing: str | None,
    next_at: float | None = None,
    lost_in: str | None = None,
) -> Filling:
    """Want a machine: a new incarnation with a request of its own."""
    incarnation = state.incarnation + 1
    missing_since = state.missing_since if isinstance(state, Filling) else None
    return Filling(
        **(_common(state) | {"incarnation": incarnation}),
        since=view.now,
        request_id=f"instance:{state.pool}-{state.node}-{state.generation}.{incarnation}",
        replacing=replacing,
        next_at=next_at,
        why_waiting="" if next_at is None else "waits after a failure",
        backing_off=next_at is not None,
        missing_since=view.now if missing_since is None else missing_since,
        lost_in=lost_in,
    )


def _taken_in(instance: str, reason: str, view: View) -> str | None:
    """The market that took a machine, None when it was not the market's doing.

    A machine that is over is shown until the end of the turn.
    """
    shown = view.index.node_instance(instance) if reason in TAKEN else None
    return None if shown is None else market_name(shown.instance.offer)


def _ask_beside(
    state: Filled | Replacing, view: View, next_at: float | None = None, lost_in: str | None = None
) -> Replacing:
    """Want another machine while the old one still works."""
    old_id = state.instance_id if isinstance(state, Filled) else state.old_id
    fields = dict(_ask(state, view, replacing=old_id, next_at=next_at, lost_in=lost_in))
    del fields["missing_since"]
    filled_at = state.since if isinstance(state, Filled) else state.filled_at
    return Replacing(**(fields | {"status": "replacing", "old_id": old_id, "filled_at": filled_at}))


def _retire(
    state: NodeState, named: tuple[str, ...], retire: Retire, view: View, *, removal: bool = False
) -> Decision:
    """Want no machine: those it names leave, and those hurry that left before, for a better one say."""
    fields = _common(state)
    leaving = (*named, *(other for other in view.index.leaving_from(state.node) if other not in named))
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
            | Move()
            | MoveGivenUp()
            | TakeOver()
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
    if isinstance(state, Replacing) and (decided := _about_the_old(state, message, view)) is not None:
        return decided
    match message:
        case Placed() if state.instance_id is None:
            return _order(state, message, view)
        case NotPlaced(reason=reason, retry_at=at) if state.instance_id is None:
            waits = {"next_at": at, "why_waiting": reason, "refused": (), "backing_off": False}
            return Decision(state.model_copy(update=waits | {"lost_in": None}))
        case Due() if state.due_at is not None and view.now >= state.due_at:
            return Decision(state.model_copy(update={"next_at": None, "lost_in": None}))
        case Fill() if state.instance_id is None:
            return Decision(state.model_copy(update={"next_at": None, "refused": (), "lost_in": None}))
        case TakeOver(instance_id=None) if isinstance(state, Replacing) and state.moving:
            bare = state.model_copy(update={"last_id": None, "losses": 0})
            return Decision(_old_is_gone(bare, view))  # the other one is on its way already, and fills it
        case TakeOver(instance_id=other) if other is not None and other in view.index.instances:
            is_bare = isinstance(state, Filling) and state.instance_id is None
            return _taken_over(state, other, view) if is_bare else Decision(state)
        case InstanceNotLaunched(instance_id=instance) if instance == state.instance_id:
            return _place_elsewhere(state, message)
        case InstanceReady(instance_id=instance) if instance == state.instance_id:
            return _filled(state, instance, view)
        case InstanceFailed(instance_id=instance, reason=reason) if instance == state.instance_id:
            return _again(state, instance, reason, view)
        case InstanceEnded(instance_id=instance, reason=reason) if instance == state.instance_id:
            return _again(state, instance, reason, view)
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
            | Move()
            | MoveGivenUp()
            | TakeOver()
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


def _about_the_old(state: Replacing, message: NodeMessage, view: View) -> Decision | None:
    """Next step when it is about the machine that fills the node still; None: it is not."""
    match message:
        case InstanceEnded(instance_id=instance, reason=reason) if instance == state.old_id:
            return Decision(_old_is_gone(_moves_no_more(state, reason, view), view))
        case InstanceLeaving(instance_id=instance, reason=reason) if instance == state.old_id:
            leaving = _moves_no_more(state, reason, view)
            return Decision(leaving if message.works else _old_is_gone(leaving, view))
        case InstanceStays(instance_id=instance) if instance == state.old_id and not state.moving:
            return _old_stays(state, view)
        case MoveGivenUp() if state.moving and state.instance_id is not None:
            return Decision(_not_moved(state), tells=(_leave(state.instance_id, "scale_in", 0),))
        case DrainAsked() if state.moving:
            return _drain_while_moving(state, message, view)
        case _:
            return None


def _order(state: Asking, placed: Placed | Move, view: View) -> Decision:
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
        why=placed.why,
    )
    facts: tuple[Published, ...] = ()
    if state.tries == 0:
        facts = (_requested(state, placed.offer.provider, placed.cluster.cluster_id),)
    update = {"tries": tries, "instance_id": instance, "next_at": None, "why_waiting": "", "lost_in": None}
    return Decision(state.model_copy(update=update), tells=((("instance", instance), wanted),), facts=facts)


def _requested(state: Asking, provider: str, cluster_id: str) -> Published:
    asked = InstanceRequested(
        request_id=state.request_id,
        provider=provider,
        cluster_id=cluster_id,
        node_id=state.node,
        replacing=state.replacing,
    )
    return Published(asked, request_id=state.request_id)


def _place_elsewhere(state: Asking, message: InstanceNotLaunched) -> Decision:
    """The market refused: another in this very turn, without waiting for its memory to hear of it."""
    if isinstance(state, Replacing) and state.moving:
        text = f"not moved: {message.fault.value}: {message.detail}"
        return Decision(_not_moved(state), facts=(_error(state.request_id, text),))
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
    moved = state.old_id if isinstance(state, Replacing) and state.moving else None
    tells: list[tuple[Address, Message]] = [_to_pool(state, NodeReady(state.node, moved))]
    if isinstance(state, Replacing):
        reason, within_s = ("moved", MOVED_S) if state.moving else ("preempted", SPEND_THE_NOTICE_S)
        tells.append(_leave(state.old_id, reason, within_s))
    return Decision(Filled(**fields, since=view.now, instance_id=instance), tells=tuple(tells))


def _again(state: Asking, instance: str, reason: str, view: View) -> Decision:
    """The machine will never be ready. Taken by the market once: at once; else after a pause."""
    if isinstance(state, Replacing) and state.moving:
        return Decision(_not_moved(state), tells=(_to_pool(state, MoveFailed(state.old_id, reason)),))
    lost = state.model_copy(update={"losses": state.losses + 1})
    next_at, lost_in = _pause(lost.losses, reason, view), _taken_in(instance, reason, view)
    if isinstance(lost, Replacing):
        return Decision(_ask_beside(lost, view, next_at, lost_in))
    return Decision(_ask(lost, view, replacing=state.replacing, next_at=next_at, lost_in=lost_in))


def _pause(losses: int, reason: str, view: View) -> float | None:
    """When to ask after `losses` in a row. The market's first taking is answered at once."""
    if reason in TAKEN and losses <= 1:
        return None
    return view.now + retry_delay_s(losses, view.draw, first_s=RETRY_FIRST_S, most_s=RETRY_MOST_S)


def _losses(state: Filled | Replacing, reason: str, view: View) -> int:
    """How many machines in a row did not stay, now that the one which fills the node goes."""
    filled_at = state.since if isinstance(state, Filled) else state.filled_at
    was_stable = reason in ("preempted", "user") or view.now - filled_at >= STABLE_S
    return 0 if was_stable else state.losses + 1


def _lost(state: Filled, reason: str, view: View) -> tuple[Filled, float | None]:
    """The state with the loss counted, and when to ask: a machine that broke soon after another waits."""
    losses = _losses(state, reason, view)
    counted = state.model_copy(update={"losses": losses})
    if losses <= 1:
        return counted, None
    most_s = RETRY_MOST_S if reason == "failed" else LOST_MOST_S
    wait = retry_delay_s(losses - 1, view.draw, first_s=RETRY_FIRST_S, most_s=most_s)
    return counted, view.now + wait


def _old_is_gone(state: Replacing, view: View) -> Filling:
    gone = ("status", "old_id", "moving", "filled_at", "since")
    fields = {name: value for name, value in state if name not in gone}
    return Filling(**fields, since=view.now, missing_since=view.now)


def _moves_no_more(state: Replacing, reason: str, view: View) -> Replacing:
    """The old machine goes by itself: the new one, ordered already, replaces it like any other."""
    if not state.moving:
        return state
    return state.model_copy(update={"moving": False, "losses": _losses(state, reason, view)})


def _not_moved(state: Replacing) -> Filled:
    """There is no better machine after all; nothing was lost."""
    return Filled(**_common(state), since=state.filled_at, instance_id=state.old_id)


def _drain_while_moving(state: Replacing, asked: DrainAsked, view: View) -> Decision:
    """A user wants the old machine gone: the new one is on its way, and comes in any case."""
    update = {"drain_request": asked.request_id, "draining_id": state.old_id, "moving": False}
    marked = state.model_copy(update=update)
    taken = (asked.request_id,)
    if asked.remove:
        ids = tuple(one for one in (state.old_id, state.instance_id) if one is not None)
        decision = _retire(marked, ids, Retire("user", asked.within_s), view, removal=True)
        return Decision(decision.state, decision.tells, facts=decision.facts, taken=taken)
    return Decision(marked, tells=(_leave(state.old_id, "user", asked.within_s),), taken=taken)


def _old_stays(state: Replacing, view: View) -> Decision:
    """The notice was withdrawn: the new machine, ordered or not, is one too many."""
    filled = Filled(**_common(state), since=view.now, instance_id=state.old_id)
    if state.instance_id is not None:
        return Decision(filled, tells=(_leave(state.instance_id, "scale_in", 0),))
    if state.tries:
        return Decision(filled, facts=(_error(state.request_id, "notice withdrawn"),))
    return Decision(filled)


# --- taken over -----------------------------------------------------------------------------------


def _taken_over(state: Asking, instance: str, view: View) -> Decision:
    """Filled at once by a ready machine that was another node's: all that is told of one is told here."""
    there = view.index.instances[instance]
    shown = view.index.node_instance(instance)
    assert shown is not None
    value = shown.model_copy(update={"node": state.node})
    facts: list[Published] = []
    if state.tries == 0:
        facts.append(_requested(state, there.offer.provider, there.cluster.cluster_id))
    ends: tuple[str, ...] = (state.request_id,)
    told: Event = InstanceBootstrapped(instance=value)
    left = state.drain_request
    if state.replacing is not None:
        told = InstanceReplaced(request_id=state.request_id, old_id=state.replacing, new=value)
        ends = (*ends, *view.index.replacement_requests(state.node, state.replacing))
        left = None if left in ends else left
    facts.append(Published(told, state.request_id, ends))
    if left is not None:
        facts.append(_error(left, f"node {state.node} is filled by another machine"))
    fields = _common(state) | {
        "last_id": instance,
        "drain_request": None,
        "draining_id": None,
        "losses": 0,
    }
    renumbered: tuple[Address, Message] = (("instance", instance), Renumbered(state.node))
    return Decision(
        Filled(**fields, since=view.now, instance_id=instance),
        tells=(renumbered, _to_pool(state, NodeReady(state.node))),
        facts=tuple(facts),
    )


# --- filled ---------------------------------------------------------------------------------------


def _while_filled(state: Filled, message: NodeMessage, view: View) -> Decision:
    match message:
        case InstanceLeaving(instance_id=instance, reason=reason) if instance == state.instance_id:
            lost, next_at = _lost(state, reason, view)
            lost_in = _taken_in(instance, reason, view)
            if message.works:
                return Decision(_ask_beside(lost, view, next_at, lost_in))
            return Decision(_ask(lost, view, replacing=instance, next_at=next_at, lost_in=lost_in))
        case InstanceEnded(instance_id=instance, reason=reason) if instance == state.instance_id:
            lost, next_at = _lost(state, reason, view)
            lost_in = _taken_in(instance, reason, view)
            return Decision(_ask(lost, view, replacing=instance, next_at=next_at, lost_in=lost_in))
        case Move():
            moving = _ask_beside(state, view).model_copy(update={"moving": True})
            return _order(moving, message, view)
        case TakeOver(instance_id=None, lost_in=lost_in):
            bare = state.model_copy(update={"last_id": None, "losses": 0})
            return Decision(_ask(bare, view, replacing=None, lost_in=lost_in))
        case TakeOver(instance_id=other) if other is not None and other in view.index.instances:
            return _taken_over(_ask(state, view, replacing=state.instance_id), other, view)
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
            | Move()
            | MoveGivenUp()
            | TakeOver()
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
        _ask_beside(marked, view),
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
            | Move()
            | MoveGivenUp()
            | TakeOver()
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
                assert state.instance_id is not None or not state.moving, state
        case Vacant() | Filled() | Retired():
            pass
        case _:
            assert_never(state)
