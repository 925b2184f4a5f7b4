"""Seeing machines: pages, foreign ones, outbid ones, lost hosts; and ending them."""

import json
import time
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog.testing
from werkzeug.wrappers import Response

from providers.errors import Fault, ProviderError
from providers.model import Handle
from providers.vastai.adapter import VastaiProvider
from providers.vastai.wire import label_of
from tests.contract.harness import OWNER
from tests.contract.vastai import VastaiHarness, config_for
from tests.fakes.serving import served
from tests.fakes.vastai.contracts import Host
from tests.fakes.vastai.fake import FakeVastai
from tests.providers.vastai.test_launch import launched, offer_in, with_config

pytestmark = pytest.mark.anyio


async def test_all_pages_are_read_and_only_ours_is_seen(tmp_path: Path) -> None:
    fake = FakeVastai((Host(places=100),))
    with served(fake) as url:
        provider = VastaiProvider("vastai", config_for(url, tmp_path), tmp_path, b"")
        keys = [f"{OWNER}/pool/{node}/1/1" for node in range(60)]
        for key in keys:
            fake.orphan(key)
        fake.orphan(f"{OWNER}0/pool/0/1/1")
        for label in ("", "everpool", f"{label_of(keys[0], 'vastai')} copy", f"key={OWNER}/pool/0/1/1"):
            fake.foreign(label)
        listing = await provider.observe(OWNER)
        assert listing.complete
        assert sorted(one.key for one in listing.sightings) == sorted(keys)
        assert fake.controls.calls["list"] == 3
        assert await provider.terminate([one.handle for one in listing.sightings]) == [None] * 60
        assert len(fake.alive()) == 5  # of others, and they live
        await provider.aclose()
    assert fake.controls.violations == []


async def test_a_page_that_can_not_be_read_makes_the_listing_incomplete(tmp_path: Path) -> None:
    fake = FakeVastai((Host(places=60),))
    with served(fake) as url:
        provider = VastaiProvider("vastai", config_for(url, tmp_path), tmp_path, b"")
        for node in range(30):
            fake.orphan(f"{OWNER}/pool/{node}/1/1")
        fake.pages_max = 1
        listing = await provider.observe(OWNER)
        assert not listing.complete
        assert listing.unreachable[0].startswith("page 2")
        assert len(listing.sightings) == 25
        fake.pages_max = 0
        with pytest.raises(ProviderError) as caught:
            await provider.observe(OWNER)
        assert caught.value.fault is Fault.UNKNOWN
        await provider.aclose()
    assert fake.controls.violations == []


@pytest.mark.parametrize(
    "said",
    [
        {"success": True},
        {"success": True, "instances": None},
        {"success": True, "instances": {"id": 5}},
        {"success": True, "instances": [{"id": "123", "label": label_of("o/p/0/1/1", "vastai")}]},
        {"success": True, "instances": [{"id": True}]},
        {"success": True, "instances": ["123"]},
        [],
        [{"id": 5}],
    ],
)
async def test_a_success_that_lists_no_contracts_is_no_empty_listing(rig: VastaiHarness, said: Any) -> None:
    order = rig.order(0, await offer_in(rig))
    await launched(rig, order)
    rig.fake.says_next["list"] = Response(json.dumps(said), mimetype="application/json")
    with structlog.testing.capture_logs() as logs, pytest.raises(ProviderError) as caught:
        await rig.provider.observe(OWNER)
    assert caught.value.fault is Fault.UNKNOWN
    assert len(logs) == 1
    rig.fake.controls.violations.clear()  # the answer broke the vendor's document, as it was to
    assert [one.key for one in (await rig.provider.observe(OWNER)).sightings] == [order.key]


async def test_an_account_without_machines_is_an_empty_listing(rig: VastaiHarness) -> None:
    listing = await rig.provider.observe(OWNER)
    assert (listing.complete, listing.sightings) == (True, ())


async def test_a_listing_of_fewer_than_the_vendor_counts_is_incomplete(rig: VastaiHarness) -> None:
    keys = [f"{OWNER}/pool/{node}/1/1" for node in range(28)]
    for key in keys:
        rig.fake.orphan(key)
    rig.fake.hidden = 2
    listing = await rig.provider.observe(OWNER)
    assert not listing.complete
    assert "26 were listed, and there are 28" in listing.unreachable[0]
    assert [one.key for one in listing.sightings] == keys[2:]
    with pytest.raises(ProviderError) as caught:
        await rig.provider.find(keys[0])
    assert caught.value.fault is Fault.UNKNOWN
    rig.fake.hidden = 0
    assert (await rig.provider.observe(OWNER)).complete


async def test_a_page_that_comes_again_ends_the_listing_incomplete(rig: VastaiHarness) -> None:
    for node in range(28):
        rig.fake.orphan(f"{OWNER}/pool/{node}/1/1")
    rig.fake.stuck = True
    with anyio.fail_after(20):
        assert not (await rig.provider.observe(OWNER)).complete


async def test_two_providers_of_one_account_see_each_their_own(tmp_path: Path) -> None:
    fake = FakeVastai()
    with served(fake) as url:
        names = ("vast-a", "vast-b")
        config = config_for(url, tmp_path)
        providers = [VastaiProvider(name, config, tmp_path / name, b"") for name in names]
        refs = [fake.orphan(f"{OWNER}/pool/{node}/1/1", name) for node, name in enumerate(names)]
        for node, (provider, ref) in enumerate(zip(providers, refs, strict=True)):
            [seen] = (await provider.observe(OWNER)).sightings
            assert (seen.handle.ref, seen.handle.provider) == (ref, provider.name)
            assert await provider.find(f"{OWNER}/pool/{1 - node}/1/1") is None
            [line] = [one for one in await provider.check(OWNER) if one.what == "list machines"]
            assert line.detail.startswith("1 of ours")
            await provider.aclose()
    assert fake.controls.violations == []


@pytest.mark.parametrize("failure", ["throttle", "fail_before", "cut_before", "cut_after"])
async def test_a_listing_that_fails_once_is_read_again(rig: VastaiHarness, failure: str) -> None:
    order = rig.order(0, await offer_in(rig))
    await launched(rig, order)
    getattr(rig.fake.controls, failure)("list")
    listing = await rig.provider.observe(OWNER)
    assert listing.complete
    assert [one.key for one in listing.sightings] == [order.key]


async def test_an_orphan_is_seen_with_its_key_and_can_be_ended(rig: VastaiHarness) -> None:
    ref = rig.fake.orphan(f"{OWNER}/pool/7/1/1")
    [seen] = (await rig.provider.observe(OWNER)).sightings
    assert (seen.key, seen.handle.ref, seen.epoch) == (f"{OWNER}/pool/7/1/1", ref, 0)
    assert seen.micro_usd_per_hour > 0  # as nothing of ours tells its price, the vendor's word counts
    assert await rig.provider.terminate([seen.handle]) == [None]
    assert rig.fake.resources() == []


@pytest.mark.parametrize("quietly", [False, True])
async def test_an_outbid_machine_is_stopped_may_resume_and_must_be_ended(
    rig: VastaiHarness, quietly: bool
) -> None:
    order = rig.order(0, await offer_in(rig, lifecycle="spot"))
    handle = await launched(rig, order)
    rig.fake.preempt(handle.ref, quietly=quietly)
    seen = await rig.provider.find(order.key)
    assert seen is not None
    assert (seen.state, seen.address, seen.ended_at, seen.notice) == ("stopped", None, None, None)
    assert seen.detail.startswith("outbid")
    assert seen.micro_usd_per_hour == order.offer.micro_usd_per_hour
    contract = rig.fake.contract(handle.ref)
    now = time.time()
    assert contract.dollars(now + 3600) > contract.dollars(now)  # its disk bills on
    rig.fake.resume(handle.ref)
    again = await rig.provider.find(order.key)
    assert again is not None
    assert again.state == "running"
    rig.fake.preempt(handle.ref, quietly=quietly)
    assert await rig.provider.terminate([handle]) == [None]
    now = time.time()
    assert contract.dollars(now + 3600) == contract.dollars(now)
    assert (await rig.provider.observe(OWNER)).sightings == ()


async def test_a_machine_is_pending_until_it_runs(rig: VastaiHarness) -> None:
    rig.fake.controls.starts_after_s = 0.4
    order = rig.order(0, await offer_in(rig))
    await launched(rig, order)
    states = []
    with anyio.fail_after(20):
        while "running" not in states:
            seen = await rig.provider.find(order.key)
            assert seen is not None
            assert (seen.address is None) == (seen.state == "pending")
            states.append(seen.state)
    assert states[0] == "pending"


async def test_a_container_that_ended_by_itself_is_stopped(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    handle = await launched(rig, order)
    rig.fake.exit(handle.ref)
    seen = await rig.provider.find(order.key)
    assert seen is not None
    assert (seen.state, seen.detail) == ("stopped", "exited unasked: error")


async def test_a_host_that_is_offline_is_lost_after_a_while(tmp_path: Path) -> None:
    fake, clock = FakeVastai(), [time.time()]
    with served(fake) as url:
        config = config_for(url, tmp_path, offline_after_s=100)
        provider = VastaiProvider("vastai", config, tmp_path, b"", now=lambda: clock[0])
        ref = fake.orphan(f"{OWNER}/pool/0/1/1")

        async def state(after_s: float) -> str:
            clock[0] += after_s
            [seen] = (await provider.observe(OWNER)).sightings
            return f"{seen.state}: {seen.detail}"

        fake.offline(ref)
        assert await state(0) == "running: host offline"
        assert await state(60) == "running: host offline"
        fake.offline(ref, False)
        assert await state(60) == "running: "
        fake.offline(ref)
        assert await state(60) == "running: host offline"  # counted anew
        assert await state(101) == "stopped: host offline: taken for lost"
        await provider.aclose()
    assert fake.controls.violations == []


@with_config(direct_ssh=False)
async def test_by_proxy_when_the_config_says_so(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    await launched(rig, order)
    seen = await rig.provider.find(order.key)
    assert seen is not None
    assert seen.address is not None
    assert seen.address.host == "localhost"


async def test_a_lost_answer_to_a_terminate_is_asked_again(rig: VastaiHarness) -> None:
    offer = await offer_in(rig)
    for node, failure in enumerate(("throttle", "fail_before", "fail_after", "cut_before", "cut_after")):
        handle = await launched(rig, rig.order(node, offer))
        getattr(rig.fake.controls, failure)("destroy")
        assert await rig.provider.terminate([handle]) == [None]
    assert rig.fake.alive() == []


async def test_a_terminate_that_is_refused_says_why(rig: VastaiHarness) -> None:
    handle = await launched(rig, rig.order(0, await offer_in(rig)))
    rig.fake.forbidden = {"destroy"}
    [error] = await rig.provider.terminate([handle])
    assert error is not None
    assert error.fault is Fault.CREDENTIALS
    rig.fake.forbidden = set()
    assert await rig.provider.terminate([handle]) == [None]


async def test_what_is_no_contract_id_is_gone(rig: VastaiHarness) -> None:
    handles = [Handle(provider="vastai", ref=ref) for ref in ("abc", "", "41/../42", "999")]
    assert await rig.provider.terminate(handles) == [None] * 4


async def test_nothing_but_machines_is_made(rig: VastaiHarness) -> None:
    await launched(rig, rig.order(0, await offer_in(rig)))
    left = await rig.provider.leftovers(OWNER)
    assert (left.found, left.complete) == ((), True)
