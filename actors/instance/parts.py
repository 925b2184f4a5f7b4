"""Pieces that all states of an instance share: its fields, and who hears of it. Pure."""

from typing import Any, TypeVar, cast

from actors.address import Address
from actors.decision import View
from actors.effects import Connect
from actors.instance.state import (
    Alive,
    Destroying,
    InstanceState,
    Linked,
)
from actors.messages import Message
from actors.policy.billing import cost_micro_usd
from providers.model import Handle, Sighting

_COMMON = ("id", "key", "pool", "node", "request_id", "replacing", "offer", "cluster", "created_at")
_BILL = ("billed_from", "spent_micro_usd", "micro_usd_per_hour")
T = TypeVar("T", bound=Alive | Destroying)


def common(state: InstanceState) -> dict[str, Any]:
    """The fields that every state of an instance has, for the next state."""
    return {name: getattr(state, name) for name in (*_COMMON, *_BILL)}


def billed(state: T, sighting: Sighting, lacked_at: float | None = None) -> T:
    """The state with what the vendor shows of the bill.

    A later launch than before means that it was stopped and resumed: what ran first is put down, until
    `lacked_at` when listings had shown its absence.
    """
    if state.billed_from == sighting.launched_at and state.micro_usd_per_hour == sighting.micro_usd_per_hour:
        return state
    update = {"billed_from": sighting.launched_at, "micro_usd_per_hour": sighting.micro_usd_per_hour}
    if state.billed_from is not None and sighting.launched_at > state.billed_from:
        update["spent_micro_usd"] = cost(state, sighting.launched_at if lacked_at is None else lacked_at)
    return cast(T, state.model_copy(update=update))


def cost(state: Alive | Destroying, until: float) -> int:
    """Micro-dollars from its launch until then; both are the vendor's times where it told its own."""
    began = state.launched_at if state.billed_from is None else state.billed_from
    per_hour = state.micro_usd_per_hour
    per_hour = state.offer.micro_usd_per_hour if per_hour is None else per_hour
    return state.spent_micro_usd + cost_micro_usd(per_hour, until - began, state.offer.billing_unit)


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
        "boot": state.boot,
        "acked": state.acked,
        "link_up": state.link_up,
        "silent_since": state.silent_since,
        "doubted_at": state.doubted_at,
        "tasks_over_at": state.tasks_over_at,
        "bootstrap_requests": state.bootstrap_requests,
    }


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
