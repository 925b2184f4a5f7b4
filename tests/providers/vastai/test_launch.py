"""Renting: one machine per key, whatever goes wrong on the way."""

from pathlib import Path
from typing import Any

import anyio
import pytest
from werkzeug.wrappers import Response

from providers.errors import Fault, ProviderError
from providers.model import Handle, Offer, Order
from providers.vastai import api
from providers.vastai.wire import MARKS, key_of
from tests.contract.harness import until
from tests.contract.vastai import VastaiHarness
from tests.fakes.controls import market
from tests.fakes.vastai.contracts import Host
from tests.fakes.vastai.fake import FakeVastai

pytestmark = pytest.mark.anyio


def with_config(**keys: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rig", [keys], indirect=True)


async def offer_in(rig: VastaiHarness, zone: str = "Oregon", lifecycle: str = "on_demand") -> Offer:
    offers = await rig.provider.offers()
    return next(one for one in offers if one.zone == zone and one.lifecycle == lifecycle)


async def refused(rig: VastaiHarness, order: Order) -> ProviderError:
    [outcome] = await rig.provider.launch([order])
    assert isinstance(outcome, ProviderError)
    return outcome


async def launched(rig: VastaiHarness, order: Order) -> Handle:
    [outcome] = await rig.provider.launch([order])
    assert isinstance(outcome, Handle), outcome
    return outcome


@pytest.mark.parametrize("failure", ["fail_after", "cut_after"])
async def test_a_create_that_worked_unheard_is_one_machine(rig: VastaiHarness, failure: str) -> None:
    order = rig.order(0, await offer_in(rig))
    getattr(rig.fake.controls, failure)("create")
    assert (await refused(rig, order)).fault is Fault.UNKNOWN
    found = await rig.provider.find(order.key)
    assert found is not None
    assert await launched(rig, order) == found.handle
    following = rig.again()  # as after a crash of the daemon
    assert await following.launch([order]) == [found.handle]
    await following.aclose()
    assert rig.fake.alive() == [found.handle.ref]
    assert rig.fake.controls.calls["create"] == 1


@pytest.mark.parametrize("failure", ["fail_after", "cut_after"])
async def test_the_next_daemon_finds_what_an_unanswered_create_made(rig: VastaiHarness, failure: str) -> None:
    order = rig.order(0, await offer_in(rig))
    getattr(rig.fake.controls, failure)("create")
    await refused(rig, order)
    following = rig.again()
    [handle] = await following.launch([order])
    await following.aclose()
    assert isinstance(handle, Handle)
    assert rig.fake.alive() == [handle.ref]


@pytest.mark.parametrize("failure", ["fail_before", "cut_before"])
async def test_a_create_that_did_nothing_is_unknown_and_may_be_made_again(
    rig: VastaiHarness, failure: str
) -> None:
    order = rig.order(0, await offer_in(rig))
    getattr(rig.fake.controls, failure)("create")
    assert (await refused(rig, order)).fault is Fault.UNKNOWN
    assert await rig.provider.find(order.key) is None
    handle = await launched(rig, order)
    assert rig.fake.alive() == [handle.ref]


@with_config(visible_within_s=1.5)
async def test_a_machine_that_listings_lack_yet_is_waited_for(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    rig.fake.controls.listing_lag_s = 0.5
    rig.fake.controls.cut_after("create")
    assert (await refused(rig, order)).fault is Fault.UNKNOWN
    assert await rig.provider.find(order.key) is None  # it lags
    handle = await launched(rig, order)
    assert rig.fake.alive() == [handle.ref]
    assert await launched(rig, order) == handle


@pytest.mark.parametrize("how", ["cut", "cancelled"])
async def test_a_create_may_work_until_nobody_waits_for_it_any_more(tmp_path: Path, how: str) -> None:
    clock = [1000.0]
    async with VastaiHarness.open(tmp_path, guests=False, visible_within_s=100) as rig:
        rig.provider._now = rig.provider._keys._now = lambda: clock[0]
        order, controls = rig.order(0, await offer_in(rig)), rig.fake.controls
        controls.hold("create", 0.3)
        controls.cut_after("create")
        controls.listing_lag_s = 3600  # nothing is listed yet
        async with anyio.create_task_group() as launching:
            launching.start_soon(rig.provider.launch, [order])
            await until(lambda: controls.calls["create"] == 1)
            clock[0] += 50_000  # it was long on its way
            if how == "cancelled":
                launching.cancel_scope.cancel()
        await until(lambda: bool(rig.fake._estate.contracts))
        outcomes: list[Any] = []

        async def again() -> None:
            outcomes.extend(await rig.provider.launch([order]))

        async with anyio.create_task_group() as launching:
            launching.start_soon(again)
            looks = controls.calls["list"]
            await until(lambda: controls.calls["list"] >= looks + 4)
            assert controls.calls["create"] == 1  # it is too soon to say that nothing was made
            controls.listing_lag_s = 0
        assert [one.ref for one in outcomes] == rig.fake.alive()
        assert len(rig.fake.alive()) == 1


async def test_one_empty_look_is_not_enough_to_rent_for_a_sent_key_again(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    rig.fake.controls.fail_before("create")
    assert (await refused(rig, order)).fault is Fault.UNKNOWN
    before = rig.fake.controls.calls["list"]
    await launched(rig, order)
    assert rig.fake.controls.calls["list"] == before + 2


async def test_what_is_throttled_was_not_made_and_says_when_to_come_again(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    rig.fake.controls.throttle("create")
    error = await refused(rig, order)
    assert (error.fault, error.retry_after_s, error.paced) == (Fault.THROTTLED, 0.1, False)
    assert rig.fake.alive() == []
    assert rig.fake.controls.calls["create"] == 1
    await launched(rig, order)


async def test_a_refused_create_that_left_a_contract_leaves_nothing(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig, lifecycle="spot"))
    rig.fake.leave_contracts = 1
    assert (await refused(rig, order)).fault is Fault.CAPACITY
    assert rig.fake.controls.calls["create"] == rig.fake.controls.calls["destroy"] == 1
    assert rig.fake.resources() == []
    handle = await launched(rig, order)
    assert rig.fake.alive() == [handle.ref]


async def test_a_left_contract_that_stays_is_the_machine_of_its_key(
    rig: VastaiHarness,
) -> None:
    order = rig.order(0, await offer_in(rig, lifecycle="spot"))
    rig.fake.leave_contracts = 1
    rig.fake.controls.fail_before("destroy", 3)
    assert (await refused(rig, order)).fault is Fault.CAPACITY
    [seen] = (await rig.provider.observe(order.owner)).sightings
    assert (seen.key, seen.state) == (order.key, "stopped")
    assert await launched(rig, order) == seen.handle  # no second one
    assert await rig.provider.terminate([seen.handle]) == [None]
    assert rig.fake.resources() == []


async def test_when_an_ask_has_gone_the_next_best_is_tried_in_the_same_launch(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    rig.fake.rent_out("Oregon", 2)
    handle = await launched(rig, order)
    assert rig.fake.alive() == [handle.ref]
    assert rig.fake.controls.calls["create"] == 3


async def test_no_more_asks_are_tried_than_the_config_says(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    rig.fake.rent_out("Oregon", 10)
    assert (await refused(rig, order)).fault is Fault.CAPACITY
    assert rig.fake.controls.calls["create"] == 3


async def test_a_market_that_is_sold_out_is_searched_again(rig: VastaiHarness) -> None:
    small = await offer_in(rig, "small")
    handles = [await launched(rig, rig.order(node, small)) for node in range(2)]
    assert (await refused(rig, rig.order(2, small))).fault is Fault.CAPACITY
    await rig.provider.terminate(handles[:1])  # its place is free again, under an ask that nobody knows
    await launched(rig, rig.order(3, small))


@with_config(search_again_s=3600)
async def test_a_sold_out_market_is_not_searched_for_each_launch(rig: VastaiHarness) -> None:
    small = await offer_in(rig, "small")
    for node in range(2):
        await launched(rig, rig.order(node, small))
    before = rig.fake.controls.calls["search"]
    for node in range(2, 6):
        assert (await refused(rig, rig.order(node, small))).fault is Fault.CAPACITY
    assert rig.fake.controls.calls["search"] == before + 1


async def test_an_offer_of_the_last_daemon_can_be_launched(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    following = rig.again()
    [handle] = await following.launch([order])
    await following.aclose()
    assert isinstance(handle, Handle)


@with_config(price_slack=0)
async def test_only_asks_near_the_price_that_was_told_are_taken(rig: VastaiHarness) -> None:
    offer = await offer_in(rig)
    cheaper = offer.model_copy(update={"micro_usd_per_hour": offer.micro_usd_per_hour - 1000})
    error = await refused(rig, rig.order(0, cheaper))
    assert error.fault is Fault.CAPACITY
    assert "dearer" in error.detail
    await launched(rig, rig.order(1, offer))


async def test_the_slack_goes_no_further_than_what_the_pool_would_pay(tmp_path: Path) -> None:
    fake = FakeVastai((Host(price=0.4, places=1), Host(price=0.45, places=2)))
    async with VastaiHarness.open(tmp_path, guests=False, fake=fake) as rig:
        offer = await offer_in(rig)
        rig.fake.rent_out("Oregon", 1)
        most = offer.micro_usd_per_hour
        order = rig.order(0, offer).model_copy(update={"micro_usd_per_hour_max": most + 49_999})
        error = await refused(rig, order)
        assert error.fault is Fault.CAPACITY
        assert "dearer" in error.detail
        await launched(rig, order.model_copy(update={"micro_usd_per_hour_max": most + 50_000}))
        await launched(rig, rig.order(1, offer))  # whose pool has no limit


async def test_a_bid_is_sent_for_spot_and_none_on_demand(rig: VastaiHarness) -> None:
    spot, fixed = await offer_in(rig, lifecycle="spot"), await offer_in(rig)
    order = rig.order(0, spot)
    await launched(rig, order)
    await launched(rig, rig.order(1, fixed))
    bid, plain = rig.fake.bodies
    assert bid["price"] == 0.165  # 1.1 times the lowest
    assert "price" not in plain
    seen = await rig.provider.find(order.key)
    assert seen is not None
    assert (seen.lifecycle, seen.micro_usd_per_hour) == ("spot", spot.micro_usd_per_hour)


async def test_marks_are_there_from_the_create_on(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    await launched(rig, order)
    [body] = rig.fake.bodies
    assert key_of(body["label"], rig.provider.name) == order.key
    assert f"epoch={order.epoch}" in body["env"][MARKS]
    assert order.public_key.split()[1] in body["onstart"]


@with_config(env={"HF_HOME": "/data"}, direct_ssh=False)
async def test_the_wishes_of_order_and_config_are_sent(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    wish = order.model_copy(update={"image": "pytorch/pytorch:2.9", "disk_gb": 100})
    await launched(rig, wish)
    [body] = rig.fake.bodies
    assert (body["image"], body["disk"], body["runtype"]) == ("pytorch/pytorch:2.9", 100, "ssh_proxy")
    assert body["env"]["HF_HOME"] == "/data"
    seen = await rig.provider.find(order.key)
    assert seen is not None
    assert seen.micro_usd_per_hour > order.offer.micro_usd_per_hour  # a larger disk costs more


async def test_a_smaller_disk_than_the_usual_costs_less(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig)).model_copy(update={"disk_gb": 10})
    await launched(rig, order)
    assert rig.fake.bodies[0]["disk"] == 10
    seen = await rig.provider.find(order.key)
    assert seen is not None
    assert seen.micro_usd_per_hour < order.offer.micro_usd_per_hour


async def test_a_market_without_capacity_is_said_and_the_other_lifecycle_is_not_touched(
    rig: VastaiHarness,
) -> None:
    fixed, spot = await offer_in(rig), await offer_in(rig, lifecycle="spot")
    rig.fake.controls.capacity[market("Oregon", "1x_RTX_4090", "on_demand")] = 1
    await launched(rig, rig.order(0, fixed))
    assert (await refused(rig, rig.order(1, fixed))).fault is Fault.CAPACITY
    await launched(rig, rig.order(2, spot))
    assert len(rig.fake.alive()) == 2


async def test_more_disk_than_any_host_has_is_no_capacity(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig)).model_copy(update={"disk_gb": 9000})
    assert (await refused(rig, order)).fault is Fault.CAPACITY
    assert rig.fake.controls.calls["create"] == 0


@pytest.mark.parametrize(
    "change", [{"owner": "somebody"}, {"key": "owner-1/" + "x" * 1100}, {"owner": "", "key": "/pool/0"}]
)
async def test_an_order_that_can_not_be_marked_is_rejected(
    rig: VastaiHarness, change: dict[str, str]
) -> None:
    order = rig.order(0, await offer_in(rig)).model_copy(update=change)
    assert (await refused(rig, order)).fault is Fault.REJECTED
    assert rig.fake.alive() == []


async def test_without_credit_nothing_is_launched(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    rig.fake.credit = 0
    assert (await refused(rig, order)).fault is Fault.FUNDS
    rig.fake.credit = 1
    await launched(rig, order)


async def test_a_lookup_that_fails_before_a_launch_sends_nothing(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    rig.fake.controls.fail_before("list", 3)
    assert (await refused(rig, order)).fault is Fault.NOT_SENT
    assert rig.fake.controls.calls["create"] == 0
    await launched(rig, order)


async def test_a_batch_is_looked_up_in_one_call(rig: VastaiHarness) -> None:
    offer = await offer_in(rig)
    outcomes = await rig.provider.launch([rig.order(node, offer) for node in range(8)])
    assert all(isinstance(one, Handle) for one in outcomes)
    assert len(set(outcomes)) == 8
    assert (rig.fake.controls.calls["list"], rig.fake.controls.calls["create"]) == (1, 8)


async def test_a_create_that_is_cancelled_is_found_by_its_label(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    rig.fake.controls.hold("create", 0.4)
    with anyio.move_on_after(0.1):
        await rig.provider.launch([order])
    rig.fake.controls.hold("create", 0)
    await until(lambda: bool(rig.fake.alive()))
    [seen] = (await rig.provider.observe(order.owner)).sightings
    assert await launched(rig, order) == seen.handle
    assert len(rig.fake.alive()) == 1


async def test_a_key_whose_machine_has_ended_is_gone_for_the_next_daemon_too(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    await rig.provider.terminate([await launched(rig, order)])
    following = rig.again()
    [outcome] = await following.launch([order])
    await following.aclose()
    assert isinstance(outcome, ProviderError)
    assert outcome.fault is Fault.GONE
    assert rig.fake.alive() == []


async def test_labels_that_can_not_be_searched_for_are_looked_for_here(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    rig.fake.label_filter = False
    handle = await launched(rig, order)
    found = await rig.provider.find(order.key)
    assert found is not None
    assert found.handle == handle
    assert await launched(rig, order) == handle


@with_config(create_every_s=0.3, list_every_s=0.3, destroy_every_s=0.3)
async def test_calls_keep_the_pace_that_the_vendor_wants(rig: VastaiHarness) -> None:
    rig.fake.every_s = {"create": 0.1, "list": 0.1, "destroy": 0.1}
    offer = await offer_in(rig)
    outcomes = await rig.provider.launch([rig.order(node, offer) for node in range(3)])
    handles = [one for one in outcomes if isinstance(one, Handle)]
    assert len(handles) == 3  # none was refused for coming too soon
    assert await rig.provider.terminate(handles) == [None] * 3
    assert rig.fake.controls.calls["destroy"] == 3


@with_config(create_every_s=3600)
async def test_who_would_wait_too_long_for_a_turn_is_told_to_come_again(
    rig: VastaiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(api.PACE_WITHIN_S, "create", 0.05)
    small = await offer_in(rig, "small")
    await launched(rig, rig.order(0, small))
    for _ in range(3):  # the ask is free for the next try each time
        error = await refused(rig, rig.order(1, small))
        assert (error.fault, error.paced) == (Fault.THROTTLED, True)
    assert len(rig.fake.alive()) == 1


async def test_an_ask_that_is_not_found_is_not_a_machine_that_ended(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    said = '{"success": false, "error": "not_found", "msg": "Not found"}'
    rig.fake.says_next["create"] = Response(said, 404, mimetype="application/json")
    handle = await launched(rig, order)  # of the next ask
    assert rig.fake.controls.calls["create"] == 2
    assert rig.fake.alive() == [handle.ref]


async def test_a_success_that_names_no_contract_is_unknown(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    rig.fake.says_next["create"] = Response('{"success": true}', mimetype="application/json")
    assert (await refused(rig, order)).fault is Fault.UNKNOWN


@pytest.mark.parametrize("said", ['{"success": true}', '{"success": true, "instances": null}', "[]"])
async def test_a_look_up_that_lists_nothing_proves_nothing(rig: VastaiHarness, said: str) -> None:
    order, odd = rig.order(0, await offer_in(rig)), Response(said, mimetype="application/json")
    rig.fake.controls.cut_after("create")
    assert (await refused(rig, order)).fault is Fault.UNKNOWN
    rig.fake.says_next["list"] = odd
    with pytest.raises(ProviderError) as caught:
        await rig.provider.find(order.key)
    assert caught.value.fault is Fault.UNKNOWN
    rig.fake.controls.violations.clear()  # the answer broke the vendor's document, as it was to
    await launched(rig, order)
    assert rig.fake.controls.calls["create"] == len(rig.fake.alive()) == 1


async def test_labels_that_find_fewer_than_there_are_are_looked_for_here(rig: VastaiHarness) -> None:
    order = rig.order(0, await offer_in(rig))
    handle = await launched(rig, order)
    said = '{"success": true, "instances": [], "total_instances": 1, "next_token": null}'
    rig.fake.says_next["list"] = Response(said, mimetype="application/json")
    found = await rig.provider.find(order.key)
    assert found is not None
    assert found.handle == handle


@with_config(destroy_every_s=3600)
async def test_who_would_wait_too_long_to_destroy_is_told_how_long(
    rig: VastaiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = await offer_in(rig)
    handles = [await launched(rig, rig.order(node, offer)) for node in range(3)]
    assert await rig.provider.terminate(handles[:1]) == [None]
    monkeypatch.setitem(api.PACE_WITHIN_S, "destroy", 0.05)
    outcomes = await rig.provider.terminate(handles[1:])
    assert [one.fault for one in outcomes if one is not None] == [Fault.THROTTLED] * 2
    assert all(one is not None and (one.retry_after_s or 0) >= 3600 for one in outcomes)
    assert rig.fake.controls.calls["destroy"] == 1
    for handle in handles[1:]:
        rig.fake.kill(handle.ref)
