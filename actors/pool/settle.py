"""What a pool does at the end of every turn, once: steer its nodes, place, schedule, conclude. Pure."""

from actors.address import Address
from actors.decision import Decision, Published, View
from actors.effects import CloseCluster, Effect, OpenCluster
from actors.events import (
    Cluster,
    ClusterDestroyed,
    ClusterReady,
    ClusterRequested,
    Error,
    NodeInstance,
    PoolParked,
    PoolReady,
    PoolResized,
)
from actors.instance.facts import key_path, node_instance
from actors.messages import Assigned, DrainGivenUp, Fill, Message, NotPlaced, Placed, Retire, StopWanted
from actors.node.state import Filling, Replacing
from actors.policy.placement import Ranking, rank
from actors.pool.rules import wanted_ranks
from actors.pool.state import (
    Active,
    ClosingCluster,
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
from providers.model import ClusterHandle, Offer

STOPS_A_TURN = 500  # tasks told to stop in one turn of a shutdown, so that no turn is long
ASSIGNMENTS_A_TURN = 2000
MARKETS_TO_BLAME_STEPS = 2
CLUSTER_INSTANCES_MAX = 100  # above, ClusterReady carries no list
_BASE = ("name", "generation", "spec", "desired", "made_by", "clusters", "removed")

Tells = list[tuple[Address, Message]]


def steer(state: PoolState, view: View) -> Decision:
    """Tell nodes to be filled or to retire when what is desired changed; end everything when draining."""
    match state:
        case Active() if state.steered != (state.desired, state.removed):
            wanted = set(wanted_ranks(state))
            before = set(wanted_ranks(_as_steered(state)))
            tells: Tells = [(("node", str(node)), Fill()) for node in sorted(wanted - before)]
            retire = Retire("scale_in", state.spec.drain_timeout)
            for node in sorted(before - wanted, reverse=True):
                tells.append((("node", str(node)), retire))
                pinned = view.index.pinned_to(node)
                tells += [(("task", task), StopWanted(None, "scale_in", None)) for task in pinned]
            steered = (state.desired, state.removed)
            return Decision(state.model_copy(update={"steered": steered}), tells=tuple(tells))
        case Draining():
            return _end(state, view)
        case _:
            return Decision(state)


def _as_steered(state: Active) -> Active:
    desired, removed = state.steered
    return state.model_copy(update={"desired": desired, "removed": removed})


def _end(state: Draining, view: View) -> Decision:
    """Stop tasks in portions, retire nodes, then close clusters, then be done."""
    tells: Tells = []
    living = [task for task, it in view.index.tasks.items() if it.status != "stopping"]
    for task in living[:STOPS_A_TURN]:
        tells.append((("task", task), StopWanted(None, "shutdown", None)))
    if len(living) > STOPS_A_TURN:
        return Decision(state.model_copy(update={"next_at": view.now}), tells=tuple(tells))
    for node, it in view.index.nodes.items():
        if it.status != "retired":
            tells.append((("node", str(node)), Retire("user", state.spec.drain_timeout)))
    if tells or view.index.instances or view.index.tasks:
        return Decision(state, tells=tuple(tells))
    return _close(state, view)


def _close(state: Draining, view: View) -> Decision:
    clusters, effects = dict(state.clusters), list[Effect]()
    facts: list[Published] = []
    for cluster in state.clusters.values():
        if isinstance(cluster, OpenClusterState):
            fields = cluster.model_dump(exclude={"status", "handle"})
            clusters[cluster.cluster_id] = ClosingCluster(**fields, handle=cluster.handle)
            effects.append(CloseCluster(cluster.handle))
        elif isinstance(cluster, OpeningCluster) and cluster.surely_not_there:
            del clusters[cluster.cluster_id]  # else it is opened after all, and then closed
            text = "cancelled by shutdown"
            fact = Error(request_id=cluster.request_id, message=text, fatal=True)
            facts.append(Published(fact, cluster.request_id, (cluster.request_id,)))
    if clusters:
        if clusters == state.clusters:
            return Decision(state)
        update = {"clusters": clusters}
        return Decision(state.model_copy(update=update), effects=tuple(effects), facts=tuple(facts))
    fields = {name: getattr(state, name) for name in _BASE} | {"clusters": {}, "desired": 0}
    fact_ = ClusterDestroyed(cluster_id=state.name)
    facts.append(Published(fact_, next(iter(state.shutdowns), None), state.shutdowns))
    return Decision(Destroyed(**fields, since=view.now), facts=tuple(facts))


def place(state: PoolState, view: View) -> Decision:
    """Choose a market for every node that asks, and see that clusters are open there."""
    if not isinstance(state, Active) or not view.index.asking:
        return Decision(state)
    ranking = rank(
        state.spec,
        view.world.offers,
        view.world.capabilities,
        view.world.markets,
        state.failures,
        view.now,
        view.world.down,
        state.rejections,
    )
    if (ranking.hopeless and not ranking.offers) or _steps_are_broken(state):
        return _park(state, view)
    opened = _open_clusters(state, ranking)
    assert isinstance(opened.state, Active)
    tells = tuple(_placed(node, opened.state, ranking, view) for node in view.index.asking)
    return Decision(opened.state, tells, opened.effects, opened.facts)


def _steps_are_broken(state: Active) -> bool:
    """Two markets were stopped and no machine was ever set up: the steps are to blame, not the markets."""
    stopped = sum(1 for count in state.failures.values() if count >= state.spec.bootstrap_failures_max)
    return not state.proven and stopped >= MARKETS_TO_BLAME_STEPS


def cluster_name(state: PoolState, offer: Offer) -> str:
    """The id of the cluster that a machine of this offer belongs to."""
    return f"{state.name}-{state.generation}-{offer.provider}-{offer.region}"


def _open_clusters(state: Active, ranking: Ranking) -> Decision:
    clusters, effects, facts = dict(state.clusters), list[Effect](), list[Published]()
    for offer in ranking.offers:
        name = cluster_name(state, offer)
        if name in clusters:
            continue
        request = f"cluster:{name}"
        clusters[name] = OpeningCluster(
            cluster_id=name, provider=offer.provider, region=offer.region, request_id=request
        )
        effects.append(OpenCluster(name, offer.provider, offer.region))
        asked = ClusterRequested(
            request_id=request, provider=offer.provider, spec=state.spec, pool=state.name
        )
        facts.append(Published(asked, request_id=request))
    if not effects:
        return Decision(state)
    return Decision(
        state.model_copy(update={"clusters": clusters}), effects=tuple(effects), facts=tuple(facts)
    )


def _placed(node: int, state: Active, ranking: Ranking, view: View) -> tuple[Address, Message]:
    it = view.index.nodes[node]
    assert isinstance(it, Filling | Replacing)
    address: Address = ("node", str(node))
    opening = False
    for offer in ranking.offers:
        if str(offer.market) in it.refused:
            continue
        cluster = state.clusters.get(cluster_name(state, offer))
        if isinstance(cluster, OpenClusterState):
            return address, Placed(offer, cluster.handle)
        opening = True
    if opening:  # hurried as soon as the cluster is open
        return address, NotPlaced("waits for the provider's network and keys", view.now + 60)
    # What it was refused with just now says more than the ranking; what it waited for before does not.
    reason = (it.why_waiting if it.refused else "") or _why_none(ranking)
    jitter = 1 + 0.5 * view.draw
    return address, NotPlaced(reason, max(ranking.retry_at, view.now + jitter))


def _why_none(ranking: Ranking) -> str:
    if not ranking.passed:
        return "no provider has an offer"
    shown = "; ".join(f"{one.market}: {one.reason}" for one in ranking.passed[:3])
    more = len(ranking.passed) - 3
    return shown + (f"; and {more} more" if more > 0 else "")


def _park(state: Active, view: View) -> Decision:
    reason = "machines could not be set up: mend the image's steps, then update the pool"
    return _parked(state, reason, view)


def _parked(state: Active, reason: str, view: View) -> Decision:
    fields = {name: getattr(state, name) for name in (*_BASE, "steered")}
    facts = [Published(PoolParked(pool=state.name, reason=reason))]
    for one in state.waiting:
        fact = Error(request_id=one.request_id, message=reason, fatal=True)
        facts.append(Published(fact, one.request_id, (one.request_id,)))
    tells: Tells = [(("node", str(node)), NotPlaced("parked", view.now + 3600)) for node in view.index.asking]
    draining = [node for node, it in view.index.nodes.items() if it.drain_request is not None]
    tells += [(("node", str(node)), DrainGivenUp(reason)) for node in draining]
    return Decision(
        Parked(**fields, since=view.now, reason=reason),
        tells=tuple(tells),
        facts=tuple(facts),
    )


def condemn(state: PoolState, view: View) -> Decision:
    """What becomes of a pool whose rules failed too often: parked, loudly; its machines live on."""
    if not isinstance(state, Active):
        return Decision(state)
    return _parked(state, "too many bugs: see the log, and report them", view)


def schedule(state: PoolState, view: View) -> tuple[tuple[Address, Message], ...]:
    """Give waiting tasks to machines with a free slot: one task, to be delivered before the next is chosen.

    Called again until it answers nothing: every assignment changes which slots are free.
    """
    if isinstance(state, Draining):  # what starts now would be stopped at once
        return ()
    index = view.index
    for node, queue in index.pinned.items():
        it = index.nodes.get(node)
        instance = getattr(it, "instance_id", None) if it is not None and it.status == "filled" else None
        task = queue.first()
        if task is not None and instance is not None and index.has_slot(instance):
            return ((("task", task), Assigned(instance, node)),)
    task, slot = index.queue.first(), index.next_slot()
    if task is None or slot is None:
        return ()
    return ((("task", task), Assigned(slot, index.instances[slot].node)),)


def conclude(state: PoolState, view: View) -> Decision:
    """Say that the pool is whole when it has become so, and end the requests that wait for it."""
    if not isinstance(state, Active):
        return Decision(state)
    whole = view.index.nodes_ready >= state.desired and state.steered == (state.desired, state.removed)
    if not whole:
        return Decision(state.model_copy(update={"whole": False}) if state.whole else state)
    if state.whole and not state.waiting:
        return Decision(state)
    facts = [_ended(one, state, view) for one in state.waiting if one.ends_in != "pool_ready"]
    ready = tuple(one.request_id for one in state.waiting if one.ends_in == "pool_ready")
    fact = PoolReady(pool=state.name, nodes=view.index.nodes_ready)
    facts.append(Published(fact, next(iter(ready), None), ready))
    return Decision(state.model_copy(update={"whole": True, "waiting": ()}), facts=tuple(facts))


def _ended(one: Waiting, state: Active, view: View) -> Published:
    ends = (one.request_id,)
    if one.ends_in == "pool_resized":
        return Published(PoolResized(pool=state.name, nodes=one.nodes), one.request_id, ends)
    return Published(ClusterReady(cluster=_cluster_value(state, view)), one.request_id, ends)


def _cluster_value(state: Active, view: View) -> Cluster:
    handles = [one.handle for one in state.clusters.values() if isinstance(one, OpenClusterState)]
    handle: ClusterHandle | None = next(iter(handles), None)
    living = list(view.index.instances.values())
    shown: tuple[NodeInstance, ...] = ()
    if len(living) <= CLUSTER_INSTANCES_MAX:
        shown = tuple(node_instance(instance) for instance in living)
    return Cluster(
        id=handle.cluster_id if handle else state.name,
        status="ready",
        spec=state.spec,
        offer=living[0].offer if living else None,
        ssh_key_path=key_path(handle.cluster_id) if handle else "",
        ssh_user=handle.ssh_user if handle else "",
        specific=dict(handle.specific) if handle else {},
        instances=shown,
    )
