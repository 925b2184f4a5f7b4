"""How states are shown: plain dictionaries for JSON, and the one table of status codes."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

from actors.instance import state as instances
from actors.instance.state import Alive, Destroying, InstanceState
from actors.node.state import Filled, Filling, NodeState, Replacing, Retired, Vacant
from actors.pool import state as pools
from actors.pool.state import PoolState
from actors.task import state as tasks
from actors.task.state import TaskState
from controller.telling import count
from providers.model import MICRO

Json = dict[str, Any]
PoolStatus = str  # requesting provisioning ready degraded short unhealthy paused parked draining destroyed

POOL_CODES: Mapping[PoolStatus, int] = {
    "requesting": 0,
    "provisioning": 2,
    "ready": 4,
    "degraded": 4,
    "short": 4,
    "unhealthy": 4,
    "draining": 6,
    "paused": 7,
    "parked": 7,
    "destroyed": 9,
}


def instance_code(state: InstanceState) -> int:
    """The status code of an instance."""
    match state:
        case instances.Requested():
            return 0
        case instances.Provisioning():
            return 2
        case instances.Bootstrapping():
            return 3
        case instances.Ready():
            return 4
        case instances.Draining():
            return 6
        case instances.Destroying():
            return 8
        case instances.Destroyed():
            return 9
        case _:
            assert_never(state)


def node_code(state: NodeState) -> int:
    """The status code of a node."""
    match state:
        case Vacant():
            return 0
        case Filling():
            return 2
        case Filled() | Replacing():
            return 4
        case Retired():
            return 9
        case _:
            assert_never(state)


def task_code(state: TaskState) -> int:
    """The status code of a task."""
    match state:
        case tasks.Pending():
            return 0
        case tasks.Assigned():
            return 2
        case tasks.Created():
            return 3
        case tasks.Running():
            return 4
        case tasks.Stopping() | tasks.Invalid():
            return 6
        case tasks.Stopped():
            return 7
        case _:
            assert_never(state)


def cluster_code(state: pools.ClusterState) -> int:
    """The status code of a cluster."""
    match state:
        case pools.OpeningCluster():
            return 2
        case pools.OpenCluster():
            return 4
        case pools.ClosingCluster():
            return 8
        case _:
            assert_never(state)


def pool_status(state: PoolState, *, ready: int, ordered: int, unplaced: int) -> PoolStatus:
    """The word for how a pool is.

    Args:
        state: the pool's.
        ready: nodes with a machine that works.
        ordered: machines ordered and not yet destroyed.
        unplaced: nodes that want a machine and for which none is ordered.
    """
    match state:
        case pools.Destroyed():
            return "destroyed"
        case pools.Draining():
            return "draining"
        case pools.Parked():
            return "parked"
        case pools.Active() if state.paused is not None:
            return "paused"
        case pools.Active():
            pass
        case _:
            assert_never(state)
    minimum = state.desired if state.spec.nodes.min is None else min(state.spec.nodes.min, state.desired)
    if ready >= state.desired:
        return "ready"
    if ready >= minimum:
        return "degraded"
    if state.waiting:  # on the way to a size that somebody asked for
        return "provisioning" if ready or ordered else "requesting"
    return "short" if unplaced else "unhealthy"


def pool_reason(state: PoolState, outdated: int = 0) -> str:
    """Why a pool is not simply at work, for people; empty when it is. `outdated`: machines it replaces."""
    reason: str = getattr(state, "reason", "")
    why = [reason] if reason else []
    if isinstance(state, pools.Active) and state.failures and state.short_since is not None:
        failed = count(sum(state.failures.values()), "machine")
        why.append(f"{failed} could not be set up: everpool explain {state.name}")
    paused = getattr(state, "paused", None)
    if paused is not None:
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(paused.since))
        why.append(f"paused{f' by {paused.by}' if paused.by else ''} since {since}")
    if outdated:
        why.append(outdated_text(outdated, _roll_held_up(state)))
    return "; ".join(why)


def _roll_held_up(state: PoolState) -> str:
    """What keeps machines from being replaced, as far as the pool's state tells."""
    if not isinstance(state, pools.Active) or state.paused is not None:
        return f"they stay while the pool is {'paused' if isinstance(state, pools.Active) else state.status}"
    roll = state.roll
    if roll is None or not roll.why:
        return ""
    return f"tried again soon: {roll.why}" if roll.fails else roll.why


def outdated_text(outdated: int, held_up: str) -> str:
    """What is said of machines that are being replaced because the spec asks for others."""
    told = f"{count(outdated, 'machine')} of an older spec"
    return f"{told}, not replaced yet: {held_up}" if held_up else f"{told}, being replaced a few at a time"


def micro_usd_per_hour(state: InstanceState) -> int:
    """What an instance costs now, as far as its state tells: nothing before its launch was accepted."""
    match state:
        case instances.Requested() | instances.Destroyed():
            return 0
        case instances.Destroying():
            return 0 if state.handle is None else _price(state)
        case instances.Provisioning() | instances.Bootstrapping() | instances.Ready() | instances.Draining():
            return _price(state)
        case _:
            assert_never(state)


def _price(state: Alive | Destroying) -> int:
    if state.bill is None:
        return state.offer.micro_usd_per_hour
    bill = state.bill
    return bill.micro_usd_per_hour if bill.stopped_at is None else bill.stopped_micro_usd_per_hour


def dollars(micro: int) -> float:
    """Micro-dollars as dollars, for showing."""
    return micro / MICRO


def node_view(state: NodeState, machine: InstanceState | None, old: InstanceState | None = None) -> Json:
    """A node as JSON; `machine` is the instance that fills it, or will in the place of `old`."""
    return {
        "node": state.node,
        "pool": state.pool,
        "status": state.status,
        "status_code": node_code(state),
        "instance_id": getattr(state, "instance_id", None),
        "old_instance_id": getattr(state, "old_id", None),
        "last_instance_id": state.last_id,
        "instance_status": machine.status if machine is not None else None,
        "old_instance_status": old.status if old is not None else None,
        "incarnation": state.incarnation,
        "why_waiting": getattr(state, "why_waiting", ""),
        "next_at": getattr(state, "next_at", None),
        "losses_in_a_row": state.losses,
        "reason": getattr(state, "reason", ""),
        "since": state.since,
    }


def instance_view(
    state: InstanceState, tasks_on: Sequence[str], now: float, *, outdated: bool = False
) -> Json:
    """An instance as JSON; `outdated`: it is not what the pool's spec asks for."""
    address = getattr(state, "address", None)
    handle = getattr(state, "handle", None)
    deadline = getattr(state, "deadline", None)
    return {
        "id": state.id,
        "key": state.key,
        "pool": state.pool,
        "node": state.node,
        "provider": state.offer.provider,
        "market": str(state.offer.market),
        "lifecycle": state.offer.lifecycle,
        "region": state.offer.region,
        "instance_type": state.offer.instance_type.name,
        "ref": handle.ref if handle is not None else None,
        "cluster_id": state.cluster.cluster_id,
        "status": state.status,
        "status_code": instance_code(state),
        "reason": getattr(state, "reason", getattr(state, "leave", None)) or "",
        "address": address.host if address is not None else None,
        "port": address.port if address is not None else None,
        "ssh_user": state.cluster.ssh_user,
        "created_at": state.created_at,
        "launched_at": getattr(state, "launched_at", None),
        "since": state.since,
        "age_s": max(0.0, now - state.created_at),
        "deadline": deadline if deadline is not None else getattr(state, "gone_at", None),
        "next_at": getattr(state, "next_at", None),
        "tries": getattr(state, "tries", 0),
        "last_fault": getattr(state, "last_fault", ""),
        "usd_per_hour": dollars(micro_usd_per_hour(state)),
        "link_up": getattr(state, "link_up", False),
        "silent_since": getattr(state, "silent_since", None),
        "replacing": state.replacing,
        "outdated": outdated,
        "tasks": list(tasks_on),
    }


def task_view(state: TaskState) -> Json:
    """A task as JSON. Times that have not come are None."""
    ended = state if isinstance(state, tasks.Stopped) else None
    started_at: float | None = getattr(state, "started_at", None)
    if ended is not None and ended.duration > 0:
        started_at = ended.ended_at - ended.duration
    return {
        "id": state.id,
        "name": state.spec.title,
        "pool": state.pool,
        "seq": state.seq,
        "status": state.status,
        "status_code": task_code(state),
        "attempt": state.attempt,
        "node": getattr(state, "node", None),
        "instance_id": getattr(state, "instance_id", None),
        "result": ended.result if ended is not None else None,
        "reason": getattr(state, "reason", ""),
        "exit_code": ended.exit_code if ended is not None else None,
        "signal": ended.signal if ended is not None else None,
        "duration": ended.duration if ended is not None else None,
        "error": ended.error if ended is not None else None,
        "priority": state.spec.priority,
        "failures": state.failures,
        "interruptions": state.interruptions,
        "lines_dropped": ended.lines_dropped if ended is not None else 0,
        "cost_usd": dollars(state.cost_micro_usd),  # of the attempts that ended
        "queued_at": state.queued_at or None,
        "not_before": getattr(state, "not_before", None),
        "started_at": started_at,
        "ended_at": ended.ended_at if ended is not None else None,
        "since": state.since,
    }


def cluster_view(state: pools.ClusterState) -> Json:
    """A cluster as JSON."""
    return {
        "cluster_id": state.cluster_id,
        "provider": state.provider,
        "region": state.region,
        "status": state.status,
        "status_code": cluster_code(state),
        "next_at": getattr(state, "next_at", None),
    }


def doing(machine: InstanceState) -> str:
    """What a machine that is not ready waits for, in words."""
    match machine:
        case instances.Requested(looking=True):
            return "the outcome of its launch call is looked for"
        case instances.Requested():
            return f"is being ordered at {machine.offer.market}"
        case instances.Provisioning(address=None):
            return "waits for the machine's address"
        case instances.Provisioning():
            return "waits for the connection to the machine"
        case instances.Bootstrapping():
            return "the machine is being set up"
        case _:
            return f"the machine is {machine.status}"
