"""Searching: what is told as offers, and what becomes of it when the day's searches are used up."""

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import structlog.testing
from werkzeug.wrappers import Response

from providers.errors import Fault, ProviderError
from providers.model import Handle
from providers.vastai.adapter import VastaiProvider
from tests.contract.vastai import VastaiHarness, config_for
from tests.fakes.serving import served
from tests.fakes.vastai.contracts import Host
from tests.fakes.vastai.fake import FakeVastai
from tests.providers.vastai.test_launch import launched, offer_in, refused, with_config

pytestmark = pytest.mark.anyio


async def test_asks_of_a_kind_and_place_are_one_offer_at_the_cheapest_price(tmp_path: Path) -> None:
    dear, cheap = Host(price=0.5, places=3), Host(price=0.3, places=1)
    other = Host(cpu_cores_effective=20, price=0.2)
    fake = FakeVastai((dear, cheap, other))
    with served(fake) as url:
        config = config_for(url, tmp_path, lifecycles=["on_demand"])
        provider = VastaiProvider("vastai", config, tmp_path, b"")
        offers = await provider.offers()
        await provider.aclose()
    prices = {offer.instance_type.name: offer.micro_usd_per_hour for offer in offers}
    disk = round(0.2 * 32 / 720 * 1_000_000)
    assert prices == {"1x_RTX_4090_24GB-8c-32g": 300_000 + disk, "1x_RTX_4090_24GB-16c-64g": 200_000 + disk}
    assert fake.controls.violations == []


async def test_filters_hold(tmp_path: Path) -> None:
    hosts = (Host(), Host(geolocation="Bavaria, DE"), Host(verified=False, geolocation="Texas, US"))
    fake = FakeVastai((*hosts, Host(reliability=0.5, geolocation="Ohio, US")))
    with served(fake) as url:
        config = config_for(url, tmp_path, countries=["US"], gpu_names=["RTX_4090"])
        provider = VastaiProvider("vastai", config, tmp_path, b"")
        assert {offer.zone for offer in await provider.offers()} == {"Oregon"}
        await provider.aclose()
    assert fake.controls.violations == []


@with_config(search_every_s=3600)
async def test_offers_are_not_searched_each_time(rig: VastaiHarness) -> None:
    first = await rig.provider.offers()
    assert await rig.provider.offers() == first
    assert rig.fake.controls.calls["search"] == 2  # on demand and bids


async def test_offers_stand_when_the_searches_of_the_day_are_used_up(rig: VastaiHarness) -> None:
    offers = await rig.provider.offers()
    rig.fake.searches_left = 0
    with structlog.testing.capture_logs() as logs:
        assert await rig.provider.offers() == offers
        assert await rig.provider.offers() == offers
    assert rig.fake.controls.calls["search"] == 3  # it is asked once, and not again that day
    assert [line["event"] for line in logs] == ["the day's searches are used up: known offers stand"]
    await launched(rig, rig.order(0, await offer_in(rig)))
    small = await offer_in(rig, "small")
    for node in (1, 2):
        await launched(rig, rig.order(node, small))
    assert (await refused(rig, rig.order(3, small))).fault is Fault.CAPACITY
    assert rig.fake.controls.calls["search"] == 3
    [line] = [one for one in await rig.provider.check("owner-1") if one.what == "search"]
    assert not line.ok
    assert "used up until" in line.detail


async def test_without_any_search_the_quota_is_said_once_and_over_at_midnight(tmp_path: Path) -> None:
    fake, clock = FakeVastai(), [time.time()]
    fake.searches_left = 0
    with served(fake) as url:
        provider = VastaiProvider("vastai", config_for(url, tmp_path), tmp_path, b"", now=lambda: clock[0])
        for _ in range(3):
            with pytest.raises(ProviderError) as caught:
                await provider.offers()
            assert caught.value.fault is Fault.QUOTA
        assert fake.controls.calls["search"] == 1
        fake.searches_left = None
        day = datetime.fromtimestamp(clock[0], UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        clock[0] = day.timestamp() + 86_400
        assert await provider.offers()
        await provider.aclose()
    assert fake.controls.violations == []


async def test_a_search_that_fails_is_an_error_and_the_next_one_works(rig: VastaiHarness) -> None:
    for failure, fault in (("throttle", Fault.THROTTLED), ("fail_before", Fault.UNKNOWN)):
        getattr(rig.fake.controls, failure)("search")
        with pytest.raises(ProviderError) as caught:
            await rig.provider.offers()
        assert caught.value.fault is fault
    assert await rig.provider.offers()


async def test_a_search_that_lists_nothing_leaves_what_was_told(rig: VastaiHarness) -> None:
    offers = await rig.provider.offers()
    rig.fake.says_next["search"] = Response('{"success": true}', mimetype="application/json")
    with pytest.raises(ProviderError) as caught:
        await rig.provider.offers()
    assert caught.value.fault is Fault.UNKNOWN
    assert await rig.provider.offers() == offers


async def test_an_ask_that_was_throttled_can_be_had_still(rig: VastaiHarness) -> None:
    small = await offer_in(rig, "small")
    rig.fake.searches_left = 0
    rig.fake.controls.throttle("create", 2)
    for node in range(2):
        assert (await refused(rig, rig.order(node, small))).fault is Fault.THROTTLED
    for node in range(2):
        assert isinstance(await launched(rig, rig.order(node, small)), Handle)
