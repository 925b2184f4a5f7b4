"""Pieces that all states of an instance share: its fields, and who hears of it. Pure."""

from typing import Any, TypeVar, cast

from actors.address import Address
from actors.decision import View
from actors.effects import Connect, TellMarket, Watch
from actors.instance.state import (
    Alive,
    Destroying,
    InstanceState,
    Linked,
)
from actors.messages import AbsenceObserved, Found, LossTold, Message, SetUpEnded
from actors.policy.billing import cost_micro_usd, seen, total
from providers.model import Handle

_COMMON = (
    *("id", "key", "pool", "node", "request_id", "replacing", "offer", "cluster", "created_at", "bill"),
    *("why", "worked", "image", "disk_gb"),
)
T = TypeVar("T", bound=Alive | Destroying)


def common(state: InstanceState) -> dict[str, Any]:
    """The fields that every state of an instance has, for the next state."""
    return {name: getattr(state, name) for name in _COMMON}


def billed(state: T, message: Found | AbsenceObserved) -> T:
    """The state with what the vendor shows of the bill."""
    offer = state.offer
    match message:
        case Found(sighting=sighting, at=at, lacked_at=lacked_at):
            bill = seen(state.bill, sighting, offer.billing_unit, at, lacked_at, offer.micro_usd_per_hour)
        case AbsenceObserved(told=told) if told is not None:
            bill = seen(state.bill, told, offer.billing_unit, offered=offer.micro_usd_per_hour)
        case _:
            return state
    return state if bill is state.bill else cast(T, state.model_copy(update={"bill": bill}))


def cost(state: Alive | Destroying, until: float) -> int:
    """Micro-dollars from its launch until then; without a bill as it was offered, by our own clock."""
    if state.bill is not None:
        return total(state.bill, until)
    offer = state.offer
    return cost_micro_usd(offer.micro_usd_per_hour, until - state.launched_at, offer.billing_unit)


def loss(state: Alive, view: View) -> TellMarket:
    """The news that the market takes the machine, or took it."""
    market = state.offer.market
    return TellMarket(LossTold(market, max(1, view.index.held[str(market)]), state.pool))


def set_up_ended(state: Alive, error: str | None, view: View) -> tuple[Address, Message]:
    """Tell the pool how the set-up ended, how long it took and what it cost until now."""
    took_s = max(0.0, view.now - state.launched_at)
    is_current = state.id not in view.index.outdated
    return to_pool(state, SetUpEnded(state.offer, error, took_s, cost(state, view.now), is_current))


def to_tasks(state: InstanceState, message: Message, view: View) -> tuple[tuple[Address, Message], ...]:
    """One message to each task that is on this machine."""
    return tuple(to_task(task, message) for task in view.index.tasks_on(state.id))


def to_node(state: InstanceState, message: Message) -> tuple[Address, Message]:
    """A message to the node this machine fills."""
    return ("node", str(state.node)), message


def to_pool(state: InstanceState, message: Message) -> tuple[Address, Message]:
    """A message to the pool this machine belongs to."""
    return ("pool", state.pool), message


def to_task(task_id: str, message: Message) -> tuple[Address, Message]:
    """A message to one task."""
    return ("task", task_id), message


def destroying_state(state: InstanceState, reason: str, now: float, next_at: float | None) -> Destroying:
    """The state of a machine that is to end."""
    handle: Handle | None = getattr(state, "handle", None)
    launched_at: float = getattr(state, "launched_at", now)
    return Destroying(
        **common(state),
        since=now,
        handle=handle,
        launched_at=launched_at,
        reason=reason,
        next_at=next_at,
        tasks_over_at=getattr(state, "tasks_over_at", None),
    )


def tasks_over_at(state: InstanceState, lease_until: float | None, view: View) -> float | None:
    """When the tasks of a machine that is not heard of have surely ended: its lease, skew and their grace."""
    if lease_until is None:
        return None
    tasks = [view.index.tasks[task] for task in view.index.tasks_on(state.id)]
    return lease_until + LEASE_SKEW_S + max((task.spec.grace_s for task in tasks), default=0.0)


def linked_fields(state: Linked) -> dict[str, Any]:
    """The fields that a connected machine keeps from state to state."""
    return common(state) | {
        "handle": state.handle,
        "launched_at": state.launched_at,
        "address": state.address,
        "retire_at": state.retire_at,
        "expires_at": state.expires_at,
        "boot": state.boot,
        "acked": state.acked,
        "link_up": state.link_up,
        "silent_since": state.silent_since,
        "doubted_at": state.doubted_at,
        "tasks_over_at": state.tasks_over_at,
        "bootstrap_requests": state.bootstrap_requests,
    }


def watch(state: InstanceState, handle: Handle, launched_at: float) -> Watch:
    """Pass on what listings say of a machine."""
    return Watch(handle.provider, state.key, handle.ref, state.id, launched_at, handle.region, handle.zone)


def connect(state: Alive, view: View) -> Connect:
    """Keep a stream to the agent open."""
    assert state.address is not None
    return Connect(
        instance_id=state.id,
        handle=state.handle,
        address=state.address,
        cluster=state.cluster,
        spec=view.index.pool_spec,
        boot=getattr(state, "boot", None),
        acked=getattr(state, "acked", 0),
    )


STOP_GRACE_S = 10.0  # what tasks get between notice and the end, when a drain runs out of time
LEASE_SKEW_S = 60.0  # how much two clocks, and the agent's last steps, may differ
VISIBLE_DEFAULT_S = 60.0  # when a provider's capabilities are not known (it left the config)


def instance_id(key: str) -> str:
    """The id of the instance that a launch key names: unique for ever, like the key."""
    _, pool, node, incarnation, tried = key.split("/")
    return f"{pool}-{node}-{incarnation}.{tried}"


def visible_within_s(provider: str, view: View) -> float:
    """How long after a launch a machine may be missing from what the provider shows."""
    known = view.world.capabilities.get(provider)
    return known.visible_within_s if known else VISIBLE_DEFAULT_S
