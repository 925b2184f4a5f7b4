"""What a pool does about what it hears. Pure. What it does at the end of every turn is in `settle.py`."""

from typing import Any, assert_never

from actors.address import Address
from actors.decision import Decision, Published, View
from actors.effects import CloseCluster, Connect, Effect, OpenCluster
from actors.events import (
    BootstrapRequested,
    ClusterDestroyed,
    ClusterProvisioned,
    ClusterRequested,
    DrainRequested,
    Envelope,
    Error,
    InstanceRequested,
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
    Fill,
    LaunchEnded,
    MarketsChanged,
    Message,
    NodeReady,
    NodeRetired,
    PoolMessage,
    RequestHeard,
    SetUpEnded,
    StopWanted,
    Submitted,
    TaskOver,
)
from actors.policy.backoff import retry_delay_s
from actors.policy.placement import Rejection
from actors.pool.state import (
    Active,
    ClosingCluster,
    ClusterState,
    Destroyed,
    Draining,
    OpeningCluster,
    Parked,
    PoolState,
    Waiting,
)
from actors.pool.state import (
    OpenCluster as OpenClusterState,
)
from actors.spec import PoolSpec
from providers.errors import Fault

SURELY_NOTHING = (Fault.NOT_SENT, Fault.REJECTED, Fault.CREDENTIALS, Fault.QUOTA, Fault.FUNDS)
REJECTED_FIRST_S, REJECTED_MOST_S = 15.0, 300.0
CLUSTER_FIRST_S, CLUSTER_MOST_S = 2.0, 120.0
# What can't be changed under machines that were chosen and set up for it.
BUILT_IN = (
    "image",
    "vcpus",
    "memory_gb",
    "disk_gb",
    "architecture",
    "accelerator",
    "region",
    "zone",
    "instance_type",
)


def decide(state: PoolState | None, message: PoolMessage, view: View) -> Decision:
    """Next step of a pool."""
    if state is None:
        return _first(message, view)
    match message:
        case RequestHeard(envelope=envelope):
            return _request(state, envelope, view)
        case ClusterOpened() | ClusterOpenFailed() | ClusterClosed() | ClusterCloseFailed():
            return _cluster(state, message, view)
        case Due():
            return _due(state, view)
        case MarketsChanged():
            paused = [node for node in view.index.paused if not _backing_off(node, view)]
            return Decision(state, tells=tuple((("node", str(node)), Fill()) for node in paused))
        case SetUpEnded(offer=offer, error=error):
            return _set_up(state, str(offer.market), error)
        case LaunchEnded(offer=offer, fault=Fault.REJECTED, detail=detail):
            return _rejected(state, str(offer.market), detail, view)
        case LaunchEnded() | NodeReady() | NodeRetired() | TaskOver():
            return Decision(state)  # settle looks at the nodes themselves
        case _:
            assert_never(message)


def _backing_off(node: int, view: View) -> bool:
    return bool(getattr(view.index.nodes[node], "backing_off", False))


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
        case DrainRequested():
            return _drain(state, request, view)
        case TaskRequested():
            return _task(state, request, envelope, view)
        case TaskStopRequested(request_id=request_id, task_id=task, grace_s=grace_s):
            if task not in view.index.tasks:
                text = f"no task {task!r} lives in pool {state.name!r}: it is over, or never was"
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
    """The state as an active one: a parked pool that is updated or resized works again."""
    names = ("name", "generation", "spec", "desired", "made_by", "clusters", "removed", "waiting", "steered")
    fields = {name: getattr(state, name) for name in names}
    failures = state.failures if isinstance(state, Active) else {}
    return Active(
        **(fields | {"since": view.now, "failures": failures} | changes)
    )  # rejections are forgotten


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
    kept, facts = _superseded(state, request.nodes)
    waiting = Waiting(
        request_id=request.request_id,
        ends_in="pool_resized",
        nodes=request.nodes,
        deadline=view.now + request.ready_within_s,
    )
    removed = () if request.nodes > state.desired else state.removed
    active = _living(
        state,
        view,
        desired=request.nodes,
        removed=removed,
        waiting=(*kept, waiting),
        whole=False,
        failures={},
    )
    return Decision(active, tells=_hurry(view), facts=facts, taken=(request.request_id,))


def _hurry(view: View) -> tuple[tuple[Address, Message], ...]:
    """Nodes that wait ask again now: what they waited for may have changed."""
    return tuple((("node", str(node)), Fill()) for node in view.index.paused)


def changed_keys(old: PoolSpec, new: PoolSpec) -> tuple[str, ...]:
    """Names of the spec's keys that differ."""
    return tuple(name for name in PoolSpec.model_fields if getattr(old, name) != getattr(new, name))


def _update(state: Active | Parked, request: PoolUpdateRequested, view: View) -> Decision:
    changed = changed_keys(state.spec, request.spec)
    fixed = [name for name in changed if name in BUILT_IN]
    if fixed and view.index.instances:
        text = f"{', '.join(fixed)} can't change under living machines: resize to 0 first"
        return Decision(state, facts=(error(request.request_id, text),))
    desired = request.spec.nodes.desired if "nodes" in changed else state.desired
    kept: tuple[Waiting, ...] = state.waiting
    facts: tuple[Published, ...] = ()
    if desired != state.desired:
        kept, facts = _superseded(state, desired)
    removed = () if desired > state.desired else state.removed
    active = _living(
        state,
        view,
        spec=request.spec,
        desired=desired,
        removed=removed,
        waiting=kept,
        failures={},
        whole=False,
    )
    fact = PoolUpdated(pool=state.name, changed=changed)
    return Decision(
        active,
        tells=_hurry(view) if changed or isinstance(state, Parked) else (),
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
    if request.node not in view.index.nodes or request.node not in wanted_ranks(state):
        text = f"pool {state.name!r} has no node {request.node}"
        return Decision(state, facts=(error(request.request_id, text),))
    remove = request.then == "remove"
    if isinstance(state, Parked) and not remove:
        text = f"pool {state.name!r} is parked and would not replace it: update or resize it first"
        return Decision(state, facts=(error(request.request_id, text),))
    if remove and state.spec.nodes.min is not None and state.desired - 1 < state.spec.nodes.min:
        text = f"the pool would fall below its min of {state.spec.nodes.min}"
        return Decision(state, facts=(error(request.request_id, text),))
    within_s = request.within_s if request.within_s is not None else state.spec.drain_timeout
    asked = DrainAsked(request.request_id, remove, within_s)
    tell: tuple[Address, Message] = (("node", str(request.node)), asked)
    filled = view.index.nodes[request.node].status == "filled"
    if not (remove and filled):
        return Decision(state, tells=(tell,))
    told, told_removed = state.steered
    removed = tuple(sorted({*state.removed, request.node}))
    kept, facts = _superseded(state, state.desired - 1)
    update = {
        "desired": state.desired - 1,
        "removed": removed,
        "steered": (told - 1, tuple(sorted({*told_removed, request.node}))),
        "waiting": kept,
    }
    return Decision(state.model_copy(update=update), tells=(tell,), facts=facts)


def wanted_ranks(state: PoolState) -> range | list[int]:
    """The numbers of the nodes that should be filled: the lowest that were not taken out."""
    if not state.removed:
        return range(state.desired)
    ranks: list[int] = []
    rank = 0
    while len(ranks) < state.desired:
        if rank not in state.removed:
            ranks.append(rank)
        rank += 1
    return ranks


def _task(state: Active | Parked, request: TaskRequested, envelope: Envelope, view: View) -> Decision:
    if view.index.pending >= state.spec.queue_max:
        text = f"the queue of pool {state.name!r} is full ({state.spec.queue_max}): try again later"
        return Decision(state, facts=(error(request.request_id, text),))
    if request.task.node is not None and request.task.node not in wanted_ranks(state):
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
            names = ("name", "generation", "spec", "desired", "made_by", "clusters", "removed")
            draining = Draining(
                **{name: getattr(state, name) for name in names},
                since=view.now,
                reason="user",
                shutdowns=(request.request_id,),
                next_at=view.now,
            )
            return Decision(draining, facts=cancelled, taken=(request.request_id,))
        case _:
            assert_never(state)


# --- clusters -------------------------------------------------------------------------------------


def _with_cluster(state: PoolState, cluster: ClusterState) -> PoolState:
    return state.model_copy(update={"clusters": state.clusters | {cluster.cluster_id: cluster}})


def _cluster(
    state: PoolState,
    message: ClusterOpened | ClusterOpenFailed | ClusterClosed | ClusterCloseFailed,
    view: View,
) -> Decision:
    cluster_id = message.cluster.cluster_id if isinstance(message, ClusterOpened) else message.cluster_id
    known = state.clusters.get(cluster_id)
    match message, known:
        case ClusterOpened(cluster=handle), OpeningCluster():
            opened = OpenClusterState(
                cluster_id=cluster_id, provider=known.provider, region=known.region, handle=handle
            )
            fact = ClusterProvisioned(
                request_id=known.request_id, cluster_id=cluster_id, provider=known.provider
            )
            ends = (known.request_id,)
            return Decision(
                _with_cluster(state, opened),
                tells=_hurry(view),
                facts=(Published(fact, known.request_id, ends),),
            )
        case ClusterOpenFailed(retry_after_s=after), OpeningCluster():
            tries = known.tries + 1
            wait = retry_delay_s(tries, view.draw, first_s=CLUSTER_FIRST_S, most_s=CLUSTER_MOST_S)
            nothing_made = message.fault in SURELY_NOTHING and (known.tries == 0 or known.surely_not_there)
            update = {
                "tries": tries,
                "next_at": view.now + max(wait, after or 0.0),
                "surely_not_there": nothing_made,
            }
            fact_ = Error(
                request_id=known.request_id, message=f"{message.fault}: {message.detail}", fatal=False
            )
            return Decision(
                _with_cluster(state, known.model_copy(update=update)),
                facts=(Published(fact_, known.request_id),),
            )
        case ClusterCloseFailed(), ClosingCluster():
            tries = known.tries + 1
            wait = retry_delay_s(tries, view.draw, first_s=CLUSTER_FIRST_S, most_s=CLUSTER_MOST_S)
            update = {"tries": tries, "next_at": view.now + wait}
            return Decision(_with_cluster(state, known.model_copy(update=update)))
        case ClusterClosed(), ClosingCluster():
            left = {name: one for name, one in state.clusters.items() if name != cluster_id}
            fact__ = ClusterDestroyed(cluster_id=cluster_id)
            return Decision(state.model_copy(update={"clusters": left}), facts=(Published(fact__),))
        case _:
            return Decision(state)


def _due(state: PoolState, view: View) -> Decision:
    effects: list[Effect] = []
    facts: list[Published] = []
    clusters = dict(state.clusters)
    for cluster in state.clusters.values():
        if cluster.status == "open" or cluster.next_at is None or cluster.next_at > view.now:
            continue
        clusters[cluster.cluster_id] = cluster.model_copy(update={"next_at": None})
        effects.append(call_for(cluster))
    over = [one for one in state.waiting if one.deadline <= view.now]
    for one in over:
        facts.append(error(one.request_id, "not all nodes were ready in time; the pool goes on trying"))
    waiting = tuple(one for one in state.waiting if one.deadline > view.now)
    update: dict[str, Any] = {"clusters": clusters, "waiting": waiting}
    if isinstance(state, Draining):
        update["next_at"] = None
    return Decision(state.model_copy(update=update), effects=tuple(effects), facts=tuple(facts))


def call_for(cluster: OpeningCluster | ClosingCluster) -> Effect:
    """The call that a cluster in this state is about."""
    if isinstance(cluster, OpeningCluster):
        return OpenCluster(cluster.cluster_id, cluster.provider, cluster.region)
    return CloseCluster(cluster.handle)


def _rejected(state: PoolState, market: str, detail: str, view: View) -> Decision:
    """What this pool wants is refused there: left alone for a while, by this pool and no other."""
    if not isinstance(state, Active):
        return Decision(state)
    before = state.rejections.get(market)
    if before is not None and before.until > view.now:  # of launches that were out together one counts
        return Decision(state)
    times = 1 if before is None else before.times + 1
    wait_s = min(REJECTED_MOST_S, REJECTED_FIRST_S * 2.0 ** min(times - 1, 16))
    rejection = Rejection(times=times, until=view.now + wait_s, detail=detail[:500])
    return Decision(state.model_copy(update={"rejections": {**state.rejections, market: rejection}}))


def _set_up(state: PoolState, market: str, failed: str | None) -> Decision:
    """The breaker: machines of a market that can't be set up, in a row, stop it for this pool."""
    if not isinstance(state, Active):
        return Decision(state)
    failures = dict(state.failures)
    rejections = {name: one for name, one in state.rejections.items() if name != market}
    if failed is None:
        failures.pop(market, None)
    else:
        failures[market] = failures.get(market, 0) + 1
    proven = state.proven or failed is None
    if failures == state.failures and proven == state.proven and len(rejections) == len(state.rejections):
        return Decision(state)
    update = {"failures": failures, "rejections": rejections, "proven": proven}
    return Decision(state.model_copy(update=update))


def resume(state: PoolState, view: View) -> tuple[Effect, ...]:
    """Cluster calls that were in flight are made again: they are idempotent."""
    del view
    return tuple(
        call_for(cluster)
        for cluster in state.clusters.values()
        if cluster.status != "open" and cluster.next_at is None
    )


def check(state: PoolState) -> None:
    """What always holds."""
    assert state.desired >= 0, state
    assert len({one.request_id for one in state.waiting}) == len(state.waiting), state
    if isinstance(state, Destroyed):
        assert not state.clusters, state
        assert not state.waiting, state
