"""What a pool does at the end of every turn, once: steer its nodes, place, schedule, conclude. Pure."""

from actors.address import Address
from actors.decision import Decision, Published, View
from actors.effects import CloseCluster, Effect
from actors.events import (
    Cluster,
    ClusterDestroyed,
    ClusterReady,
    Error,
    NodeInstance,
    PoolReady,
    PoolResized,
)
from actors.instance.facts import key_path, node_instance
from actors.messages import Assigned, Message, Retire, StopWanted
from actors.pool import money, rolling
from actors.pool.parking import park
from actors.pool.pausing import is_paused
from actors.pool.placing import place as place
from actors.pool.placing import situation as situation
from actors.pool.spares import promote as promote
from actors.pool.state import (
    Active,
    ClosingCluster,
    Destroyed,
    Draining,
    OpeningCluster,
    PoolState,
    Waiting,
    base,
)
from actors.pool.state import (
    OpenCluster as OpenClusterState,
)
from actors.pool.steering import follow
from actors.pool.wanted import desired_ready, told
from providers.model import ClusterHandle

STOPS_A_TURN = 500  # tasks told to stop in one turn of a shutdown, so that no turn is long
ASSIGNMENTS_A_TURN = 2000
CLUSTER_INSTANCES_MAX = 100  # above, ClusterReady carries no list

Tells = list[tuple[Address, Message]]


def steer(state: PoolState, view: View) -> Decision:
    """Tell nodes to be filled or to retire when what is wanted changed; end everything when draining."""
    match state:
        case Active() if state.paused is None or not money.may_keep_machines(state):
            return follow(state, view)
        case Draining():
            return _end(state, view)
        case _:
            return Decision(state)


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
    fields = base(state) | {"clusters": {}, "desired": 0, "since": view.now}
    fact_ = ClusterDestroyed(cluster_id=state.name)
    facts.append(Published(fact_, next(iter(state.shutdowns), None), state.shutdowns))
    return Decision(Destroyed(**fields), facts=tuple(facts))


def condemn(state: PoolState, view: View) -> Decision:
    """What becomes of a pool whose rules failed too often: parked, loudly; its machines live on."""
    if not isinstance(state, Active):
        return Decision(state)
    return park(state, "too many bugs: see the log, and report them", view, end_unready=False)


def schedule(state: PoolState, view: View) -> tuple[tuple[Address, Message], ...]:
    """Give waiting tasks to machines with a free slot: one task, to be delivered before the next is chosen.

    Called again until it answers nothing: every assignment changes which slots are free.
    """
    if isinstance(state, Draining) or is_paused(state):  # draining, what starts would be stopped at once
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
    rolled = rolling.concluded(state, view)
    assert isinstance(rolled.state, Active)
    whole = _concluded(rolled.state, view)
    return Decision(whole.state, facts=(*rolled.facts, *whole.facts))


def _concluded(state: Active, view: View) -> Decision:
    nodes_ready = desired_ready(state, view.index)
    is_short = nodes_ready < state.desired
    if is_short != (state.short_since is not None):
        state = state.model_copy(update={"short_since": view.now if is_short else None})
    if is_short or state.steered != told(state):
        return Decision(state.model_copy(update={"whole": False}) if state.whole else state)
    if state.whole and not state.waiting:
        return Decision(state)
    facts = [_ended(one, state, view) for one in state.waiting if one.ends_in != "pool_ready"]
    ready = tuple(one.request_id for one in state.waiting if one.ends_in == "pool_ready")
    fact = PoolReady(pool=state.name, nodes=nodes_ready)
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
