"""How the project's operations are asked for preemptions."""

import re
from contextlib import aclosing
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from structlog.testing import capture_logs

from providers.gcp import names, preemptions
from providers.model import Notice
from tests.contract.gcp import GcpHarness
from tests.contract.harness import OWNER
from tests.providers.gcp.test_adapter import launched, offer_of

pytestmark = pytest.mark.anyio
CALL = "globalOperations.aggregatedList"


async def told(gcp: GcpHarness, notices: Any, node: int) -> Notice:
    """The notice of a machine that is launched and taken."""
    order = gcp.order(node, await offer_of(gcp))
    await launched(gcp, order)
    gcp.fake.preempt(names.machine_name(order.key), None)
    with anyio.fail_after(20):
        key, notice = await anext(notices)
    assert key == order.key
    assert notice is not None
    return notice  # type: ignore[no-any-return]


def filters(gcp: GcpHarness) -> list[str]:
    return [query["filter"] for name, _, query in gcp.fake.asked if name == CALL]


async def test_only_the_latest_operations_are_asked_for(gcp: GcpHarness) -> None:
    async with aclosing(gcp.provider.notices()) as notices:  # type: ignore[type-var]
        await told(gcp, notices, 0)
        await told(gcp, notices, 1)
    asked = filters(gcp)
    assert "insertTime" not in asked[0]
    bound = re.search(r'insertTime > "(.*)"', asked[-1])
    assert bound is not None
    age_s = gcp.fake.world.now() - datetime.fromisoformat(bound[1]).timestamp()
    assert preemptions.OLD_NEWS_S - 10 < age_s < preemptions.OLD_NEWS_S + 30


@pytest.mark.parametrize("at", ["2026-11-22T04:05:00.000-08:00", "2026-11-22T12:05:00.000Z"])
def test_the_bound_is_before_what_is_newer_also_as_a_text(at: str) -> None:
    since = datetime.fromisoformat("2026-11-22T12:04:59Z").timestamp()
    bound = re.search(r'insertTime > "(.*)"', preemptions.query_of(since)["filter"])
    assert bound is not None
    assert bound[1] < at
    assert datetime.fromisoformat(bound[1]) < datetime.fromisoformat(at)


async def test_a_vendor_that_takes_no_filter_on_times_is_asked_without(gcp: GcpHarness) -> None:
    gcp.fake.filters_times = False
    async with aclosing(gcp.provider.notices()) as notices:  # type: ignore[type-var]
        await told(gcp, notices, 0)
        await told(gcp, notices, 1)
        await told(gcp, notices, 2)
    assert sum("insertTime" in one for one in filters(gcp)) == 1


async def test_a_look_is_a_few_pages_of_the_newest(gcp: GcpHarness) -> None:
    offer = await offer_of(gcp)
    orders = [gcp.order(node, offer) for node in range(preemptions.PAGES_MAX + 2)]
    await launched(gcp, *orders)
    gcp.fake.page_max = 1
    for order in orders:
        gcp.fake.preempt(names.machine_name(order.key), None)
    with capture_logs() as logs:
        async with aclosing(gcp.provider.notices()) as notices:  # type: ignore[type-var]
            with anyio.fail_after(20):
                seen = {(await anext(notices))[0] for _ in range(preemptions.PAGES_MAX)}
    assert gcp.fake.controls.calls[CALL] == preemptions.PAGES_MAX
    assert seen == {order.key for order in orders[-preemptions.PAGES_MAX :]}
    assert "can't be seen" in logs[0]["event"]


async def test_a_channel_that_is_dead_is_logged_once_and_asked_less_and_less(
    gcp: GcpHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        gcp.fake.denied = {"compute.globalOperations.list"} if len(pauses) < 20 else set()
        if len(pauses) == 30:
            gcp.fake.preempt(handle.ref, None)
        await anyio.lowlevel.checkpoint()

    [handle] = await launched(gcp, gcp.order(0, await offer_of(gcp)))
    gcp.fake.denied = {"compute.globalOperations.list"}
    monkeypatch.setattr(preemptions, "anyio", SimpleNamespace(sleep=sleep))
    with capture_logs() as logs:
        async with aclosing(gcp.provider.notices()) as notices:  # type: ignore[type-var]
            with anyio.fail_after(20):
                await anext(notices)
    assert [one["log_level"] for one in logs] == ["warning", "info"]
    assert logs[0]["fault"] == "credentials"
    assert pauses[:19] == sorted(pauses[:19])
    assert (pauses[18], pauses[-1]) == (preemptions.PAUSE_MAX_S, 0.05)


async def test_a_machine_that_was_preempted_is_shown_as_ended(gcp: GcpHarness) -> None:
    offer = await offer_of(gcp)
    order, deleted = gcp.order(0, offer), gcp.order(1, offer)
    [handle, other] = await launched(gcp, order, deleted)
    await gcp.provider.observe(OWNER)
    async with aclosing(gcp.provider.notices()) as notices:  # type: ignore[type-var]
        gcp.fake.preempt(handle.ref, 0)
        gcp.fake.kill(other.ref)
        with anyio.fail_after(20):
            await anext(notices)
    listing = await gcp.provider.observe(OWNER)
    [seen] = listing.sightings
    assert (seen.key, seen.state, seen.address) == (order.key, "stopped", None)
    assert seen.ended_at is not None
    assert seen.launched_at <= seen.ended_at <= listing.at
    assert seen.notice is not None and seen.detail == seen.notice.reason
    assert (await gcp.provider.observe("somebody-else")).sightings == ()
    gcp.fake.controls.unreachable.add(handle.zone)  # then it may be there
    assert (await gcp.provider.observe(OWNER)).sightings == ()
