"""What pools cost: over HTTP, and through both clients."""

from pathlib import Path

import anyio
import httpx2 as httpx
import pytest

from controller.client import AsyncClient, Client
from tests.controller.api.desk import SmallDesk

pytestmark = pytest.mark.anyio


async def test_costs_of_all_and_of_one(desk: SmallDesk, everpool: AsyncClient, path: Path) -> None:
    told = await everpool.cost()
    assert [one["pool"] for one in told["pools"]] == ["main"]
    assert (told["usd_per_hour"], told["unknown_usd"]) == (0, 0)
    one = await everpool.pool_cost("main")
    assert (one["total_usd"], one["budget"], one["by_market"]) == (0, None, [])
    assert one["tasks"] == {"ended": 0, "since": None, "usd": 0, "mean_usd": None, "last": []}

    def synchronous() -> None:
        with Client(path) as client:
            assert client.pool_cost("main")["pool"] == "main"
            assert client.cost().keys() == told.keys()

    await anyio.to_thread.run_sync(synchronous)


async def test_the_cost_of_no_pool(desk: SmallDesk, http: httpx.AsyncClient) -> None:
    response = await http.get("/v1/cost/mian")
    assert response.status_code == 404
    assert "did you mean main?" in response.json()["error"]
