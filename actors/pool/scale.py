"""How a pool follows its tasks, at the end of every turn. Pure.

Every turn counts; nodes are looked at one by one only when some could be given up.
"""

from typing import assert_never

from actors.decision import Decision, Published, View
from actors.events import PoolResized, PoolScaled
from actors.node.state import Filled, Filling, NodeState, Replacing, Retired, Vacant
from actors.policy.scaling import Grow, Idle, Load, Shrink, Stay, There, Verdict, decide
from actors.pool.ranks import grown, numbers, without
from actors.pool.state import Active, PoolState, Scaled
from actors.pool.wanted import spares_of

AHEAD_S = 60.0  # what was noted by a clock farther ahead than this was long ago


def scale(state: PoolState, view: View) -> Decision:
    """Change how many nodes are desired, by the tasks there are."""
    if not isinstance(state, Active) or state.spec.scaling is None or state.paused is not None:
        return Decision(state)
    load = load_of(state, view)
    if state.scale_at is not None and state.scale_at > view.now + load.longest_s + AHEAD_S:
        state = state.model_copy(update={"scale_at": view.now})  # it was set by a clock that was ahead
    if load.nodes > load.kept and not load.pins.missing and not _may_shrink(state, view):
        return Decision(state)
    verdict = decide(load, lambda: there(state, view))
    match verdict:
        case Grow() as grow:
            return _grow(state, grow, view)
        case Shrink() as shrink:
            return _shrink(state, shrink, view)
        case Stay(look_at=at):
            return Decision(_looked_at(state, at, view))
        case _:
            assert_never(verdict)


def outlook(state: PoolState, view: View) -> Verdict | None:
    """What scaling would do now, and why it does not; None: the pool does not follow its tasks."""
    if not isinstance(state, Active) or state.spec.scaling is None:
        return None
    return decide(load_of(state, view), lambda: there(state, view))


def load_of(state: Active, view: View) -> Load:
    """What there is to do in this pool, and how many do it.

    Raises:
        ValueError: the pool does not follow its tasks.
    """
    spec, index = state.spec, view.index
    if spec.scaling is None:
        raise ValueError(f"pool {state.name} has no scaling")
    bounds = spec.nodes
    most = state.desired if bounds.max is None else bounds.max
    nodes = state.desired + spares_of(state)
    pins = index.pins.add_up(index.pinned, lambda number: _tasks_on(number, view), nodes, state.removed, most)
    waiting, first = len(index.queue), index.queue.first()
    return Load(
        now=view.now,
        scaling=spec.scaling,
        concurrency=spec.worker.concurrency,
        least=bounds.desired if bounds.min is None else bounds.min,
        most=most,
        nodes=state.desired,
        ready=index.nodes_ready,
        starting=index.node_counts["filling"] - len(index.lost),
        waiting=waiting,
        held_back=index.pending - waiting - pins.waiting,
        placed=len(index.tasks) - index.pending,
        pins=pins,
        waited_s=0.0 if first is None else max(0.0, view.now - index.tasks[first].since),
        habits=state.habits,
        grew_at=_past(state.scaled.grew_at, view.now),
        shrank_at=_past(state.scaled.shrank_at, view.now),
        sized_at=_past(state.since, view.now),
    )


def _past(at: float, now: float) -> float:
    """When it was; long ago, when a clock that was ahead says so."""
    return at if at <= now + AHEAD_S else 0.0


def _tasks_on(number: int, view: View) -> tuple[str | None, int]:
    name = _machine(view.index.nodes.get(number))
    return name, 0 if name is None else len(view.index.tasks_on(name))


def _may_shrink(state: Active, view: View) -> bool:
    """Whether it is worth to look at the nodes one by one."""
    if state.scale_at is not None and state.scale_at <= view.now:
        return True
    index = view.index
    if index.asking or any(node not in index.pinned for node in index.lost):
        return True  # what is not bought is saved
    return state.scale_at is None and bool(index.idle)


def there(state: Active, view: View) -> There:
    """What this pool could give up."""
    index = view.index
    bare: list[int] = []
    leaving: list[int] = []
    idle: list[Idle] = []
    on_demand = 0
    for number in numbers(state.desired + spares_of(state), state.removed):
        node = index.nodes.get(number)
        name = _machine(node)
        machine = None if name is None else index.instances.get(name)
        is_on_demand = machine is not None and machine.offer.lifecycle == "on_demand"
        on_demand += is_on_demand
        if (node is not None and node.drain_request is not None) or index.pinned_to(number):
            continue  # a user waits for its replacement, or some task for this node
        match node:
            case None | Vacant() | Retired() | Filling(instance_id=None):
                bare.append(number)
            case Replacing(instance_id=None, old_id=old) if not index.tasks_on(old):
                leaving.append(number)
            case Filled(instance_id=filling) if machine is not None and filling in index.idle:
                since = max(_past(index.idle[filling], view.now), _past(view.began, view.now))
                idle.append(Idle(number, since, machine.offer.micro_usd_per_hour, is_on_demand))
            case _:
                pass  # it works, is on its way, or has just been lost
    return There(tuple(bare), tuple(leaving), tuple(idle), on_demand, state.spec.on_demand)


def _machine(node: NodeState | None) -> str | None:
    match node:
        case Filled(instance_id=name) | Filling(instance_id=name):
            return name
        case Replacing(instance_id=name, old_id=old):
            return name or old
        case _:
            return None


def _looked_at(state: Active, at: float | None, view: View) -> Active:
    """The state that looks again then; an earlier look that is still to come serves as well."""
    before = state.scale_at if state.scale_at is not None and state.scale_at > view.now else None
    times = [one for one in (at, before) if one is not None]
    scale_at = min(times, default=None)
    return state if scale_at == state.scale_at else state.model_copy(update={"scale_at": scale_at})


def _grow(state: Active, grow: Grow, view: View) -> Decision:
    by = grow.nodes - state.desired
    update = {
        "desired": grow.nodes,
        "removed": grown(state.desired + spares_of(state), state.removed, by, grow.include),
        "scaled": Scaled(grew_at=view.now, shrank_at=state.scaled.shrank_at, why=grow.why),
        "scale_at": None,
        "whole": False,
    }
    return Decision(state.model_copy(update=update), facts=(_told(state, grow.nodes, grow.why),))


def _shrink(state: Active, shrink: Shrink, view: View) -> Decision:
    nodes = state.desired - len(shrink.nodes)
    over = [one for one in state.waiting if one.ends_in == "pool_resized" and one.nodes > nodes]
    resized = PoolResized(pool=state.name, nodes=nodes, superseded=True)
    update = {
        "desired": nodes,
        "removed": without(state.desired + spares_of(state), state.removed, shrink.nodes),
        "waiting": tuple(one for one in state.waiting if one not in over),
        "scaled": Scaled(grew_at=state.scaled.grew_at, shrank_at=view.now, why=shrink.why),
        "scale_at": shrink.look_at,
    }
    ended = tuple(Published(resized, one.request_id, (one.request_id,)) for one in over)
    return Decision(state.model_copy(update=update), facts=(_told(state, nodes, shrink.why), *ended))


def _told(state: Active, nodes: int, why: str) -> Published:
    return Published(PoolScaled(pool=state.name, before=state.desired, nodes=nodes, why=why))
