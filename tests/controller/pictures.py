"""Pools as they might stand at one moment, for tests of what is said of them."""

from collections.abc import Iterable, Mapping
from typing import Any

from actors.decision import World
from actors.instance.state import InstanceState
from actors.market.state import MarketState
from actors.node.state import NodeState
from actors.pool import state as pools
from actors.pool.state import PoolState
from actors.ports import Commit, StateRow
from actors.spec import Nodes, PoolSpec
from actors.task.state import TaskState
from controller.explain_parts import Picture
from controller.status import Status
from providers.model import MICRO, InstanceType, Lifecycle, Offer
from tests.controller.test_status import instance, node

NOW = 1_795_359_600.0  # 2026-11-22 15:00:00 UTC
SPEC = PoolSpec(provider=("acme", "zeta"), nodes=Nodes(desired=5, min=4))


def offer(
    zone: str = "a",
    lifecycle: Lifecycle = "spot",
    *,
    provider: str = "acme",
    usd: float = 0.25,
    vcpus: float = 2,
    kind: str = "small",
) -> Offer:
    return Offer(
        id=f"{zone}/{kind}/{lifecycle}",
        instance_type=InstanceType(name=kind, vcpus=vcpus, memory_gb=4),
        provider=provider,
        region="east",
        zone=zone,
        lifecycle=lifecycle,
        micro_usd_per_hour=round(usd * MICRO),
    )


SPOT_A, SPOT_B = offer("a"), offer("b", usd=0.3)
DEAR = offer("a", "on_demand", usd=1.0)
ZETA = offer("z", provider="zeta", usd=0.2)


def machine(node_number: int, status: str = "ready", sold: Offer = SPOT_A, **more: Any) -> InstanceState:
    times: dict[str, Any] = {"created_at": NOW - 3600, "since": NOW - 3000}
    if status not in ("requested", "destroyed"):
        times["launched_at"] = NOW - 3590
    if status == "requested":
        times["asked_at"] = NOW - 3600
    given = times | {"node": node_number, "offer": sold, "why": "cheapest of 2 markets"} | more
    name = str(given.pop("name", f"i-{node_number}"))
    return instance(status, name, **given)


def filled(number: int) -> NodeState:
    return node("filled", number, instance_id=f"i-{number}", since=NOW - 3000)


def missing(number: int, why: str = "", **more: Any) -> NodeState:
    given: dict[str, Any] = {"since": NOW - 720, "why_waiting": why, "next_at": NOW + 14} | more
    return node("filling", number, **given)


def market(sold: Offer, **more: Any) -> MarketState:
    known: dict[str, Any] = {"launches": 3, "refusals": 1, "last_launch_at": NOW - 3600}
    return MarketState.model_validate({"market": sold.market} | known | more)


def active(spec: PoolSpec = SPEC, **more: Any) -> pools.Active:
    given: dict[str, Any] = {"desired": spec.nodes.desired, "since": NOW - 7200} | more
    return pools.Active(name="p", generation=1, spec=spec, **given)


def world(*sold: Offer, markets: Iterable[MarketState] = (), down: Mapping[str, str] | None = None) -> World:
    offers: dict[str, tuple[Offer, ...]] = {}
    for one in sold or (SPOT_A, SPOT_B, DEAR, ZETA):
        offers[one.provider] = (*offers.get(one.provider, ()), one)
    return World(
        offers=offers,
        offers_at=dict.fromkeys(offers, NOW - 60),
        markets={str(one.market): one for one in markets},
        down=down or {},
    )


def status_of(
    state: PoolState,
    nodes: Iterable[NodeState] = (),
    machines: Iterable[InstanceState] = (),
    tasks: Iterable[TaskState] = (),
) -> Status:
    """A read model that has heard of all this."""
    rows = [StateRow("pool", state.name, 1, state)]
    rows += [StateRow("node", str(one.node), 1, one) for one in nodes]
    rows += [StateRow("instance", one.id, 1, one) for one in machines]
    rows += [StateRow("task", one.id, 1, one) for one in tasks]
    status = Status()
    status.committed(Commit(pool=state.name, states=tuple(rows), envelopes=()))
    return status


def picture(
    state: PoolState,
    nodes: Iterable[NodeState] = (),
    machines: Iterable[InstanceState] = (),
    tasks: Iterable[TaskState] = (),
    around: World | None = None,
) -> Picture:
    """What explain is given of it."""
    snapshot = status_of(state, nodes, machines, tasks).snapshot(state.name)
    assert snapshot is not None
    return Picture(snapshot, around if around is not None else world(), NOW)
