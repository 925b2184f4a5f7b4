"""What a pool does about what it hears. Pure. What it does at the end of every turn is in `settle.py`."""

from dataclasses import replace
from typing import Any, assert_never

from actors.address import Address
from actors.decision import Decision, Published, View
from actors.effects import Connect, Effect, TellMarket
from actors.events import (
    BootstrapRequested,
    ClusterDestroyed,
    ClusterRequested,
    DrainRequested,
    Envelope,
    Error,
    InstanceRequested,
    PoolPauseRequested,
    PoolRequested,
    PoolResized,
    PoolResizeRequested,
    PoolUpdated,
    PoolUpdateRequested,
    ShutdownRequested,
    TaskRequested,
    TaskStopRequested,
)
from actors.instance import parts
from actors.instance.state import Bootstrapping, Provisioning, Ready
from actors.instance.state import Draining as DrainingInstance
from actors.messages import (
    BootstrapWanted,
    ClusterClosed,
    ClusterCloseFailed,
    ClusterOpened,
    ClusterOpenFailed,
    DrainAsked,
    Due,
    HoldingTold,
    LaunchEnded,
    MachineBilled,
    MarketsChanged,
    Message,
    MoveFailed,
    NodeReady,
    NodeRetired,
    PoolMessage,
    RequestHeard,
    SetUpEnded,
    StopWanted,
    Submitted,
    TaskOver,
)
from actors.node.state import Filled, Replacing
from actors.policy.situation import market_name
from actors.pool import clusters, experience, pausing, rolling
from actors.pool.experience import hurry
from actors.pool.ranks import grown, is_number, without
from actors.pool.state import (
    Active,
    Destroyed,
    Draining,
    OpeningCluster,
    Parked,
    PoolState,
    Waiting,
    base,
    kept,
)
from actors.pool.wanted import is_desired, may_be_node, may_launch, wanted_count
from actors.pool.wanted import wanted_ranks as wanted_ranks
from actors.spec import PoolSpec
from providers.errors import Fault
from providers.model import Market

LOOK_SOON_S = 5.0  # until placement makes use of news, so that many of them cost one look
_LIVING = (Active, Parked)


def decide(state: PoolState | None, message: PoolMessage, view: View) -> Decision:
    """Next step of a pool."""
    if state is None:
        return _first(message, view)
    match message:
        case RequestHeard(envelope=envelope):
            return _request(state, envelope, view)
        case ClusterOpened():
            opened = clusters.heard(state, message, view)
            return _looking(opened, view.now).also(tells=hurry(view))
        case ClusterOpenFailed(cluster_id=name):
            known = state.clusters.get(name)
            is_first = isinstance(known, OpeningCluster) and not known.tries  # was waited for until now
            return clusters.heard(state, message, view).also(tells=hurry(view) if is_first else ())
        case ClusterClosed() | ClusterCloseFailed():
            return clusters.heard(state, message, view)
        case Due():
            return _due(state, view)
        case MarketsChanged() if pausing.is_paused(state):
            return Decision(state)
        case MarketsChanged():
            paused = [node for node in view.index.paused if not _backing_off(node, view)]
            return _looking(Decision(state, tells=experience.fills(paused)), view.now + LOOK_SOON_S)
        case SetUpEnded():
            later = rolling.heard(state, message, view)
            return _looking(experience.set_up(later, message, view), view.now + LOOK_SOON_S)
        case LaunchEnded(offer=offer, fault=fault, detail=detail):
            later = rolling.failed(state, f"{fault.value}: {detail}", view, refused=str(offer.market))
            if fault is not Fault.REJECTED:
                return Decision(later)
            return experience.rejected(later, str(offer.market), detail, view)
        case MachineBilled():
            return Decision(experience.billed_for(state, message, view))
        case NodeReady(moved=moved):
            return _looking(Decision(rolling.renewed(state, moved, view)), view.now + LOOK_SOON_S)
        case MoveFailed(kept=kept_id, reason=why):
            return Decision(rolling.not_renewed(state, kept_id, why, view))
        case NodeRetired():  # settle looks at the nodes themselves
            return _looking(Decision(state), view.now + LOOK_SOON_S)
        case TaskOver(ran_s=ran_s):
            return Decision(experience.task_took(state, ran_s))
        case _:
            assert_never(message)


def _backing_off(node: int, view: View) -> bool:
    return bool(getattr(view.index.nodes[node], "backing_off", False))


def _looking(decision: Decision, at: float) -> Decision:
    """Placement is looked at again by then: something happened that it may make use of."""
    state = decision.state
    if not isinstance(state, Active) or (state.look_at is not None and state.look_at <= at):
        return decision
    return replace(decision, state=state.model_copy(update={"look_at": at}))


def error(request: str, text: str) -> Published:
    """The Error that ends a request."""
    return Published(Error(request_id=request, message=text, fatal=True), request, (request,))


def _first(message: PoolMessage, view: View) -> Decision:
    if not isinstance(message, RequestHeard):
        return Decision(None)
    envelope = message.envelope
    match envelope.event:
        case PoolRequested() | ClusterRequested() as request:
            return Decision(_made(request, envelope, view), taken=(request.request_id,))
        case _:
            request_id = envelope.request_id or ""
            return Decision(None, facts=(error(request_id, f"there is no pool {envelope.pool!r}"),))


def _made(request: PoolRequested | ClusterRequested, envelope: Envelope, view: View) -> Active:
    if isinstance(request, PoolRequested):
        spec, within_s = request.spec, request.ready_within_s
    else:
        spec, within_s = request.spec.model_copy(update={"provider": (request.provider,)}), 3600.0
    waiting = Waiting(
        request_id=request.request_id,
        ends_in="pool_ready" if isinstance(request, PoolRequested) else "cluster_ready",
        nodes=spec.nodes.desired,
        deadline=view.now + within_s,
    )
    return Active(
        name=envelope.pool,
        generation=envelope.seq,
        spec=spec,
        desired=spec.nodes.desired,
        made_by=envelope.principal,
        waiting=(waiting,),
        since=view.now,
    )


# --- requests -------------------------------------------------------------------------------------


def _request(state: PoolState, envelope: Envelope, view: View) -> Decision:
    request = envelope.event
    match request:
        case TaskRequested() if isinstance(state, _LIVING):  # there are most of them
            return _task(state, request, envelope, view)
        case PoolRequested() | ClusterRequested() as asked:
            if isinstance(state, Destroyed):
                return Decision(_made(asked, envelope, view), taken=(asked.request_id,))
            text = f"pool {state.name!r} exists already: update or resize it"
            return Decision(state, facts=(error(asked.request_id, text),))
        case ShutdownRequested():
            return _shutdown(state, request, view)
        case _ if isinstance(state, Draining | Destroyed):
            why = f"pool {state.name!r} is being ended"
            return Decision(state, facts=(error(envelope.request_id or "", why),))
        case PoolResizeRequested():
            return _resize(state, request, view)
        case PoolUpdateRequested():
            return _update(state, request, view)
        case PoolPauseRequested():
            return pausing.asked(state, request, envelope, view)
        case DrainRequested():
            return _drain(state, request, view)
        case TaskStopRequested(request_id=request_id, task_id=task, grace_s=grace_s):
            if task not in view.index.tasks:
                text = f"already done: task {task!r} is over, or never was in pool {state.name!r}"
                return Decision(state, facts=(error(request_id, text),))
            stop = StopWanted(request_id, "user", grace_s)
            return Decision(state, tells=((("task", task), stop),))
        case BootstrapRequested(request_id=request_id, instance=instance):
            name = instance.instance.id
            if not isinstance(view.index.instances.get(name), Ready | Bootstrapping):
                text = f"instance {name!r} is not one that is set up"
                return Decision(state, facts=(error(request_id, text),))
            return Decision(state, tells=((("instance", name), BootstrapWanted(request_id)),))
        case InstanceRequested(request_id=request_id):
            text = "only nodes ask for instances: resize the pool"
            return Decision(state, facts=(error(request_id, text),))
        case _:
            return Decision(state)  # facts are not heard as requests


def _living(state: Active | Parked, view: View, **changes: Any) -> Active:
    """The state as an active one: a parked pool that is updated or resized works again.

    What providers refused of its wishes is forgotten, and it is placed anew.
    """
    fields = dict(state) if isinstance(state, Active) else kept(state)
    fields |= {"status": "active", "since": view.now, "look_at": view.now, "scale_at": None, "whole": False}
    return Active(**(fields | {"failures": {}, "rejections": {}} | changes))


def _removed(state: Active | Parked, desired: int) -> tuple[int, ...]:
    """What stays taken out when a user wants so many nodes: a growth gives the lowest numbers back first."""
    if desired <= state.desired:
        return state.removed
    return grown(state.desired + state.spares, state.removed, desired - state.desired)


def _superseded(state: Active | Parked, nodes: int) -> tuple[tuple[Waiting, ...], tuple[Published, ...]]:
    """Resizes that a newer size overtakes end at once."""
    kept = tuple(one for one in state.waiting if one.ends_in != "pool_resized")
    fact = PoolResized(pool=state.name, nodes=nodes, superseded=True)
    facts = tuple(
        Published(fact, one.request_id, (one.request_id,))
        for one in state.waiting
        if one.ends_in == "pool_resized"
    )
    return kept, facts


def _resize(state: Active | Parked, request: PoolResizeRequested, view: View) -> Decision:
    bounds = state.spec.nodes
    if bounds.max is not None and request.nodes > bounds.max:
        text = f"{request.nodes} nodes exceed the pool's max of {bounds.max}: update its spec first"
        return Decision(state, facts=(error(request.request_id, text),))
    if bounds.min is not None and request.nodes < bounds.min:
        text = f"{request.nodes} nodes are below the pool's min of {bounds.min}: update its spec first"
        return Decision(state, facts=(error(request.request_id, text),))
    others, facts = _superseded(state, request.nodes)
    waiting = Waiting(
        request_id=request.request_id,
        ends_in="pool_resized",
        nodes=request.nodes,
        deadline=view.now + request.ready_within_s,
    )
    active = _living(
        state,
        view,
        desired=request.nodes,
        removed=_removed(state, request.nodes),
        waiting=(*others, waiting),
    )
    return Decision(active, tells=hurry(view), facts=facts, taken=(request.request_id,))


def _update(state: Active | Parked, request: PoolUpdateRequested, view: View) -> Decision:
    changed = rolling.changed_keys(state.spec, request.spec)
    living = tuple(view.index.instances.values())
    ahead = rolling.foreseen(state, request.spec, living)
    if ahead.refused:
        return Decision(state, facts=(error(request.request_id, ahead.refused),))
    desired = request.spec.nodes.desired if "nodes" in changed else state.desired
    others: tuple[Waiting, ...] = state.waiting
    facts: tuple[Published, ...] = ()
    if desired != state.desired:
        others, facts = _superseded(state, desired)
    active = _living(
        state,
        view,
        spec=request.spec,
        desired=desired,
        removed=_removed(state, desired),
        waiting=others,
        proven=isinstance(state, Active) and state.proven and not rolling.unproven(changed, ahead),
        unmarked=rolling.unmarked_by(state, request.spec, living),
        roll=rolling.begun(state, ahead.outdated, view),
        # no second PoolReady of a pool that has been whole all the time: its old machines work on
        whole=isinstance(state, Active) and state.whole and desired == state.desired,
    )
    fact = PoolUpdated(pool=state.name, changed=changed, outdated=ahead.outdated)
    told = hurry(view) if changed or isinstance(state, Parked) else ()
    return Decision(
        active,
        tells=(*rolling.overtaken(active, view), *told),
        effects=_reconnect(request.spec, view) if changed else (),
        facts=(*facts, Published(fact, request.request_id, (request.request_id,))),
    )


def _reconnect(spec: PoolSpec, view: View) -> tuple[Effect, ...]:
    """Agents learn slots, lease, metrics and health from the hello of a new stream."""
    effects: list[Effect] = []
    for instance in view.index.instances.values():
        if not isinstance(instance, Provisioning | Bootstrapping | Ready | DrainingInstance):
            continue
        if instance.address is not None:
            connect = parts.connect(instance, view)
            effects.append(
                Connect(
                    connect.instance_id,
                    connect.handle,
                    connect.address,
                    connect.cluster,
                    spec,
                    connect.boot,
                    connect.acked,
                )
            )
    return tuple(effects)


def _drain(state: Active | Parked, request: DrainRequested, view: View) -> Decision:
    remove = request.then == "remove"
    if (why := _not_drained(state, request.node, view, remove=remove)) is not None:
        return Decision(state, facts=(error(request.request_id, why),))
    within_s = request.within_s if request.within_s is not None else state.spec.drain_timeout
    asked = DrainAsked(request.request_id, remove, within_s)
    tell: tuple[Address, Message] = (("node", str(request.node)), asked)
    node = view.index.nodes[request.node]
    is_at_work = isinstance(node, Filled) or (isinstance(node, Replacing) and node.moving)
    if not (remove and is_at_work):
        return Decision(state, tells=(tell,))
    count, taken_out = state.steered
    others, facts = _superseded(state, state.desired - 1)
    update = {
        "desired": state.desired - 1,
        "removed": without(state.desired + state.spares, state.removed, (request.node,)),
        "steered": (count - 1, without(count, taken_out, (request.node,))),
        "waiting": others,
    }
    return Decision(state.model_copy(update=update), tells=(tell,), facts=facts)


def _not_drained(state: Active | Parked, number: int, view: View, *, remove: bool) -> str | None:
    """Why a user can't have a node drained; None: it can be."""
    wanted = is_number(number, wanted_count(state), state.removed)
    if number not in view.index.nodes or not wanted:
        return f"pool {state.name!r} has no node {number}"
    if remove and not is_desired(state, number):
        return f"node {number} is a spare: change how many there are by an update (buying.spares)"
    if isinstance(state, Parked) and not remove:
        return f"pool {state.name!r} is parked and would not replace it: update or resize it first"
    if not remove and not may_launch(state):
        return f"the budget of pool {state.name!r} is spent, and it would not be replaced"
    if remove and state.spec.nodes.min is not None and state.desired - 1 < state.spec.nodes.min:
        return f"the pool would fall below its min of {state.spec.nodes.min}"
    return None


def _task(state: Active | Parked, request: TaskRequested, envelope: Envelope, view: View) -> Decision:
    if view.index.pending >= state.spec.queue_max:
        text = f"the queue of pool {state.name!r} is full ({state.spec.queue_max}): try again later"
        return Decision(state, facts=(error(request.request_id, text),))
    if request.task.node is not None and not may_be_node(state, request.task.node):
        text = f"pool {state.name!r} has no node {request.task.node}"
        return Decision(state, facts=(error(request.request_id, text),))
    return Decision(state, tells=((("task", request.request_id), Submitted(envelope)),))


def _shutdown(state: PoolState, request: ShutdownRequested, view: View) -> Decision:
    match state:
        case Draining():
            shutdowns = (*state.shutdowns, request.request_id)
            draining = state.model_copy(update={"shutdowns": shutdowns})
            return Decision(draining, taken=(request.request_id,))
        case Destroyed():
            fact = ClusterDestroyed(cluster_id=state.name)
            return Decision(state, facts=(Published(fact, request.request_id, (request.request_id,)),))
        case Active() | Parked():
            cancelled = tuple(error(one.request_id, "cancelled by shutdown") for one in state.waiting)
            draining = Draining(
                **(base(state) | {"since": view.now, "waiting": ()}),
                reason="user",
                shutdowns=(request.request_id,),
                next_at=view.now,
            )
            return Decision(draining, facts=cancelled, taken=(request.request_id,))
        case _:
            assert_never(state)


# --- time, machines and tasks --------------------------------------------------------------------


def _due(state: PoolState, view: View) -> Decision:
    effects: list[Effect] = []
    facts: list[Published] = []
    found = dict(state.clusters)
    for cluster in state.clusters.values():
        if cluster.status == "open" or cluster.next_at is None or cluster.next_at > view.now:
            continue
        found[cluster.cluster_id] = cluster.model_copy(update={"next_at": None})
        effects.append(clusters.call_for(cluster))
    over = [one for one in state.waiting if one.deadline <= view.now]
    for one in over:
        goes_on = pausing.reason(state) if pausing.is_paused(state) else "the pool goes on trying"
        facts.append(error(one.request_id, f"not all nodes were ready in time; {goes_on}"))
    waiting = tuple(one for one in state.waiting if one.deadline > view.now)
    update: dict[str, Any] = {"clusters": found, "waiting": waiting}
    if isinstance(state, Draining):
        update["next_at"] = None
    return Decision(state.model_copy(update=update), effects=tuple(effects), facts=tuple(facts))


def resume(state: PoolState, view: View) -> tuple[Effect, ...]:
    """Cluster calls that were in flight are made again; they are idempotent. Markets hear what is held."""
    calls = tuple(
        clusters.call_for(cluster)
        for cluster in state.clusters.values()
        if cluster.status != "open" and cluster.next_at is None
    )
    return calls + _holdings(state.name, view)


def _holdings(pool: str, view: View) -> tuple[Effect, ...]:
    held = view.index.held
    markets: dict[str, Market] = {}
    for instance in view.index.instances.values():
        if (name := market_name(instance.offer)) in held and name not in markets:
            markets[name] = instance.offer.market
    told = [HoldingTold(market, pool, held[name]) for name, market in markets.items()]
    for name, memory in view.world.markets.items():
        if pool in memory.holders and name not in markets:
            told.append(HoldingTold(memory.market, pool, 0))
    return tuple(TellMarket(one) for one in told)


def check(state: PoolState) -> None:
    """What always holds."""
    assert state.desired >= 0, state
    assert len({one.request_id for one in state.waiting}) == len(state.waiting), state
    if isinstance(state, Destroyed):
        assert not state.clusters, state
        assert not state.waiting, state
