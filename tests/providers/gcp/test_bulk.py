"""Many machines by one call."""

from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from providers.errors import Fault, ProviderError
from providers.model import Handle
from tests.contract.gcp import KIND, GcpHarness
from tests.contract.harness import OWNER
from tests.fakes.controls import market
from tests.providers.gcp.test_adapter import launched, offer_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def gcp(tmp_path: Path, anyio_backend: object) -> AsyncIterator[GcpHarness]:
    async with GcpHarness.open(tmp_path, with_guests=False, bulk=3) as opened:
        yield opened


async def test_machines_of_a_kind_are_made_by_one_call(gcp: GcpHarness) -> None:
    offer, calls = await offer_of(gcp), gcp.fake.controls.calls
    orders = [gcp.order(node, offer) for node in range(60)]
    handles = await launched(gcp, *orders)
    assert (calls["instances.bulkInsert"], calls["instances.insert"]) == (2, 0)
    assert len(set(handles)) == 60
    listing = await gcp.provider.observe(OWNER)
    assert {one.key: one.handle for one in listing.sightings} == {
        order.key: handle for order, handle in zip(orders, handles, strict=True)
    }


async def test_few_are_made_one_by_one(gcp: GcpHarness) -> None:
    spot, on_demand = await offer_of(gcp), await offer_of(gcp, "on_demand")
    await launched(gcp, gcp.order(0, spot), gcp.order(1, spot), gcp.order(2, on_demand))
    assert gcp.fake.controls.calls["instances.bulkInsert"] == 0


async def test_some_may_be_made_and_some_not(gcp: GcpHarness) -> None:
    gcp.fake.controls.capacity[market("us-central1-a", KIND, "spot")] = 2
    offer = await offer_of(gcp)
    outcomes = await gcp.provider.launch([gcp.order(node, offer) for node in range(4)])
    assert sum(isinstance(one, Handle) for one in outcomes) == 2
    assert [one.fault for one in outcomes if isinstance(one, ProviderError)] == [Fault.CAPACITY] * 2
    assert len(gcp.fake.alive()) == 2
    [operation] = [
        one.body
        for one in gcp.fake.world.operations.values()
        if one.body["operationType"] == "bulkInsert" and "error" not in one.body
    ]
    assert operation["status"] == "DONE"  # the reasons are those of the machines


async def test_when_the_reasons_can_t_be_read_what_was_made_is_told(gcp: GcpHarness) -> None:
    gcp.fake.controls.capacity[market("us-central1-a", KIND, "spot")] = 2
    offer = await offer_of(gcp)
    asked = gcp.provider._launcher._insertions

    async def first_only(zone: str, machines: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        gcp.provider._launcher._insertions = broken  # type: ignore[method-assign]
        return await asked(zone, machines)

    async def broken(zone: str, machines: Sequence[str]) -> dict[str, Mapping[str, Any]]:
        raise ProviderError(Fault.THROTTLED, "later")

    gcp.provider._launcher._insertions = first_only  # type: ignore[method-assign]
    outcomes = await gcp.provider.launch([gcp.order(node, offer) for node in range(4)])
    assert sum(isinstance(one, Handle) for one in outcomes) == 2
    assert [one.fault for one in outcomes if isinstance(one, ProviderError)] == [Fault.UNKNOWN] * 2


async def test_when_nothing_can_be_made_the_call_says_why(gcp: GcpHarness) -> None:
    gcp.fake.controls.capacity[market("us-central1-a", KIND, "spot")] = 0
    offer = await offer_of(gcp)
    outcomes = await gcp.provider.launch([gcp.order(node, offer) for node in range(4)])
    assert [one.fault for one in outcomes if isinstance(one, ProviderError)] == [Fault.CAPACITY] * 4


async def test_machines_show_no_host_key_of_ours(gcp: GcpHarness) -> None:
    assert gcp.provider.capabilities.host_keys is False


@pytest.mark.parametrize("how", ["fail_after", "cut_after"])
@pytest.mark.parametrize("again", [1, 5])
async def test_a_bulk_that_worked_and_was_not_answered_is_found(
    gcp: GcpHarness, how: str, again: int
) -> None:
    offer = await offer_of(gcp)
    orders = [gcp.order(node, offer) for node in range(5)]
    getattr(gcp.fake.controls, how)("instances.bulkInsert")
    for outcome in await gcp.provider.launch(orders):
        assert isinstance(outcome, ProviderError)
        assert outcome.fault is Fault.UNKNOWN
    for order in orders:
        assert await gcp.provider.find(order.key) is not None
    following = gcp.again()
    handles = await following.launch([one.model_copy(update={"epoch": 4}) for one in orders[:again]])
    assert [one.ref for one in handles if isinstance(one, Handle)] == [
        found.handle.ref for order in orders[:again] if (found := await following.find(order.key))
    ]
    assert len(gcp.fake.alive()) == 5


async def test_a_key_of_a_bulk_is_never_used_again(gcp: GcpHarness) -> None:
    offer = await offer_of(gcp)
    orders = [gcp.order(node, offer) for node in range(4)]
    await gcp.provider.terminate(await launched(gcp, *orders))
    for again in (orders, orders[:1]):
        for outcome in await gcp.provider.launch(again):
            assert isinstance(outcome, ProviderError)
            assert outcome.fault is Fault.GONE
    assert gcp.fake.alive() == []


async def test_what_was_launched_is_looked_up_before_and_when_that_fails_nothing_is_made(
    gcp: GcpHarness,
) -> None:
    offer = await offer_of(gcp)
    gcp.fake.controls.fail_before("zoneOperations.list", 3)
    [outcome] = await gcp.provider.launch([gcp.order(0, offer)])
    assert isinstance(outcome, ProviderError)
    assert outcome.fault is Fault.NOT_SENT
    assert gcp.fake.alive() == []
