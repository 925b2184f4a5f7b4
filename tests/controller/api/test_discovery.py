"""Service discovery for Prometheus: which machines it is told of, and whom."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2 as httpx
import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from actors.instance import state as instances
from actors.pool import state as pools
from actors.ports import Commit, StateRow
from actors.spec import PoolSpec
from controller.api import discovery
from controller.api.streaming import PRINCIPAL
from controller.principal import Principal
from controller.principal import Scope as Rights
from controller.status import Status
from providers.model import MICRO, Address, ClusterHandle, Handle, InstanceType, Offer

pytestmark = pytest.mark.anyio
OFFER = Offer(
    id="o",
    instance_type=InstanceType(name="small", vcpus=1, memory_gb=1),
    provider="acme",
    region="north",
    zone="north-a",
    micro_usd_per_hour=MICRO,
)


class Desk:
    """As much of a desk as is looked at."""

    def __init__(self) -> None:
        self.status = Status()
        self.principal = Principal("unix", Rights.ADMIN)


def instance(pool: str, node: int, host: str) -> instances.Ready:
    return instances.Ready(
        id=f"{pool}-{node}",
        key="k",
        pool=pool,
        node=node,
        request_id="r",
        offer=OFFER,
        cluster=ClusterHandle(cluster_id="c", provider="acme", region="north", ssh_user="u"),
        created_at=1,
        since=1,
        handle=Handle(provider="acme", ref="1"),
        launched_at=1,
        address=Address(host=host, port=22),
    )


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    for name in ("train", "serve"):
        pool = pools.Active(name=name, generation=1, spec=PoolSpec(provider=("acme",)), desired=2)
        made.status.committed(Commit(name, [StateRow("pool", name, 1, pool)], []))
    going = instance("train", 1, "10.0.0.2").model_dump(exclude={"status", "gone_at"})
    for state in (
        instance("train", 0, "10.0.0.1"),
        instances.Draining(**going, reason="preempted", deadline=9.0),
        instance("serve", 0, "fd00::1"),
    ):
        made.status.committed(Commit(state.pool, [StateRow("instance", state.id, 1, state)], []))
    return made


@pytest.fixture
async def http(desk: Desk) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    app.include_router(discovery.routes(desk))  # type: ignore[arg-type]

    async def edge(scope: Scope, receive: Receive, send: Send) -> None:
        scope[PRINCIPAL] = desk.principal
        await app(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://x") as client:
        yield client


async def told(http: httpx.AsyncClient, query: str = "") -> list[Any]:
    response = await http.get(f"/v1/sd{query}")
    assert response.status_code == 200 and response.headers["content-type"] == "application/json"
    found = response.json()
    assert isinstance(found, list)
    return found


def hosts(groups: list[Any]) -> list[str]:
    return sorted(target for group in groups for target in group["targets"])


async def test_ready_machines_are_targets_with_labels(http: httpx.AsyncClient) -> None:
    groups = await told(http)
    assert hosts(groups) == ["10.0.0.1:9100", "[fd00::1]:9100"]
    [train] = [one for one in groups if one["targets"] == ["10.0.0.1:9100"]]
    assert train["labels"] == {
        "__meta_everpool_pool": "train",
        "__meta_everpool_node": "0",
        "__meta_everpool_instance": "train-0",
        "__meta_everpool_provider": "acme",
        "__meta_everpool_region": "north",
        "__meta_everpool_zone": "north-a",
        "__meta_everpool_type": "small",
        "__meta_everpool_lifecycle": OFFER.lifecycle,
        "__meta_everpool_state": "ready",
    }


async def test_pool_port_and_state_can_be_chosen(http: httpx.AsyncClient) -> None:
    assert hosts(await told(http, "?pool=serve&port=8080")) == ["[fd00::1]:8080"]
    assert hosts(await told(http, "?pool=train&state=ready&state=draining")) == [
        "10.0.0.1:9100",
        "10.0.0.2:9100",
    ]
    assert await told(http, "?pool=nobodys") == []
    for wrong in ("?port=0", "?port=x", "?state=gone"):
        assert (await http.get(f"/v1/sd{wrong}")).status_code == 422


async def test_who_is_limited_to_pools_sees_those_only(http: httpx.AsyncClient, desk: Desk) -> None:
    desk.principal = Principal("token:ci", Rights.READ, ("serve*",))
    assert hosts(await told(http)) == ["[fd00::1]:9100"]
    assert await told(http, "?pool=train") == []
