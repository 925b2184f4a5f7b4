"""The gcp adapter under what goes wrong at a vendor."""

import re
import time
from collections.abc import Sequence
from contextlib import aclosing
from email.utils import formatdate
from pathlib import Path
from typing import Any

import anyio
import pytest
from structlog.testing import capture_logs

from providers.errors import Fault, ProviderError
from providers.gcp import names
from providers.model import ClusterOrder, Handle, Leftover, Offer, Order
from tests.contract.gcp import KIND, GcpHarness
from tests.contract.harness import OTHER_OWNER, OWNER, until_absent, until_running
from tests.fakes.controls import market

pytestmark = pytest.mark.anyio


async def offer_of(gcp: GcpHarness, lifecycle: str = "spot", zone: str = "us-central1-a") -> Offer:
    offers = await gcp.provider.offers()
    return next(one for one in offers if (one.lifecycle, one.zone) == (lifecycle, zone))


async def launched(gcp: GcpHarness, *orders: Order) -> list[Handle]:
    outcomes = await gcp.provider.launch(orders)
    for outcome in outcomes:
        assert isinstance(outcome, Handle), outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Handle)]


def fault_of(outcomes: Sequence[Handle | ProviderError | None]) -> Fault:
    [outcome] = outcomes
    assert isinstance(outcome, ProviderError), outcome
    return outcome.fault


@pytest.mark.parametrize("how", ["fail_after", "cut_after"])
async def test_a_launch_that_worked_and_was_not_answered_is_found(gcp: GcpHarness, how: str) -> None:
    order = gcp.order(0, await offer_of(gcp))
    getattr(gcp.fake.controls, how)("instances.insert")
    assert fault_of(await gcp.provider.launch([order])) is Fault.UNKNOWN
    found = await gcp.provider.find(order.key)
    assert found is not None
    following = gcp.again()  # the next daemon, after a crash, with an epoch of its own
    [handle] = await following.launch([order.model_copy(update={"epoch": 4})])
    assert handle == found.handle
    assert await launched(gcp, order) == [handle]
    assert gcp.fake.alive() == [found.handle.ref]


@pytest.mark.parametrize("how", ["fail_before", "cut_before"])
async def test_a_launch_that_was_not_made_is_not_found(gcp: GcpHarness, how: str) -> None:
    order = gcp.order(0, await offer_of(gcp))
    getattr(gcp.fake.controls, how)("instances.insert")
    assert fault_of(await gcp.provider.launch([order])) is Fault.UNKNOWN
    assert gcp.fake.controls.calls["instances.insert"] == 1  # what makes something is not repeated
    assert await gcp.provider.find(order.key) is None
    await launched(gcp, order)
    assert len(gcp.fake.alive()) == 1


async def test_a_throttled_launch_waits_for_the_next_minute(gcp: GcpHarness) -> None:
    order = gcp.order(0, await offer_of(gcp))
    gcp.fake.controls.throttle("instances.insert")
    [outcome] = await gcp.provider.launch([order])
    assert isinstance(outcome, ProviderError)
    assert outcome.fault is Fault.THROTTLED
    assert outcome.retry_after_s is not None
    assert 0 < outcome.retry_after_s <= 61
    await launched(gcp, order)


async def test_a_stockout_comes_in_the_operation(gcp: GcpHarness) -> None:
    gcp.fake.controls.capacity[market("us-central1-a", KIND, "spot")] = 1
    offer = await offer_of(gcp)
    outcomes = await gcp.provider.launch([gcp.order(node, offer) for node in range(3)])
    faults = [one.fault for one in outcomes if isinstance(one, ProviderError)]
    assert faults == [Fault.CAPACITY, Fault.CAPACITY]
    assert len(gcp.fake.alive()) == 1


async def test_a_quota_is_told_apart(gcp: GcpHarness) -> None:
    gcp.fake.world.quotas["us-central1"]["CPUS"] = 1
    assert fault_of(await gcp.provider.launch([gcp.order(0, await offer_of(gcp))])) is Fault.QUOTA


async def test_a_name_that_somebody_else_has_is_a_conflict(gcp: GcpHarness) -> None:
    order = gcp.order(0, await offer_of(gcp))
    name = names.machine_name(order.key)
    gcp.fake.orphan(OWNER, order.key)
    with gcp.fake.world.lock:
        machine = next(iter(gcp.fake.world.machines.values()))
        machine.body["description"] = names.Marks(owner=OTHER_OWNER, key=order.key).text()
    assert fault_of(await gcp.provider.launch([order])) is Fault.CONFLICT
    assert gcp.fake.alive() == [name]


@pytest.mark.parametrize("more", [{"image": "projects/x/global/images/y"}, {"disk_gb": 10.0}])
async def test_what_is_wrong_with_a_launch_is_rejected_at_once(gcp: GcpHarness, more: dict[str, Any]) -> None:
    order = gcp.order(0, await offer_of(gcp), **more)
    [outcome] = await gcp.provider.launch([order])
    if "image" in more:
        assert isinstance(outcome, ProviderError)
        assert outcome.fault is Fault.REJECTED
    else:
        assert isinstance(outcome, Handle)


async def test_what_is_launched_is_what_the_order_says(gcp: GcpHarness) -> None:
    offer = await offer_of(gcp, "on_demand")
    await launched(gcp, gcp.order(0, offer, image="projects/ml-images/global/images/cuda", age_max_s=600.0))
    _, body = gcp.fake.bodies[-1]
    assert body["disks"][0]["initializeParams"]["sourceImage"].endswith("cuda")
    assert body["scheduling"]["maxRunDuration"] == {"seconds": "600"}


async def test_what_was_accepted_is_not_said_to_have_failed(gcp: GcpHarness) -> None:
    gcp.fake.controls.starts_after_s = 0.1
    order, other = gcp.order(0, await offer_of(gcp)), gcp.order(1, await offer_of(gcp))
    gcp.fake.denied = {"compute.instances.get", "compute.zoneOperations.wait"}
    assert fault_of(await gcp.provider.launch([order])) is Fault.UNKNOWN
    gcp.fake.denied = {"compute.instances.create"}
    assert fault_of(await gcp.provider.launch([other])) is Fault.CREDENTIALS
    gcp.fake.denied = set()
    assert await gcp.provider.find(order.key) is not None
    assert await gcp.provider.find(other.key) is None


async def test_a_key_is_gone_for_the_next_daemon_too(gcp: GcpHarness) -> None:
    order = gcp.order(0, await offer_of(gcp))
    await gcp.provider.terminate(await launched(gcp, order))
    following = order.model_copy(update={"epoch": 4})
    assert fault_of(await gcp.again().launch([following])) is Fault.GONE


@pytest.mark.parametrize("by", ["name", "token"])
@pytest.mark.parametrize("how", ["throttle", "fail_before", "denied"])
async def test_what_is_there_and_can_t_be_looked_at_is_an_unknown_outcome(
    gcp: GcpHarness, how: str, by: str
) -> None:
    order = gcp.order(0, await offer_of(gcp))
    [handle] = await launched(gcp, order)
    if by == "name":
        gcp.fake.world.requests.clear()
    else:
        order = order.model_copy(update={"epoch": 4})  # the token with another body
    if how == "denied":
        gcp.fake.denied = {"compute.instances.get"}
    else:
        getattr(gcp.fake.controls, how)("instances.get", 3)
    assert fault_of(await gcp.provider.launch([order])) is Fault.UNKNOWN
    gcp.fake.denied = set()
    assert gcp.fake.alive() == [handle.ref]


async def test_what_has_ended_and_can_t_be_looked_up_is_an_unknown_outcome(gcp: GcpHarness) -> None:
    order = gcp.order(0, await offer_of(gcp))
    await gcp.provider.terminate(await launched(gcp, order))
    gcp.fake.denied = {"compute.zoneOperations.list"}
    following = order.model_copy(update={"epoch": 4})
    assert fault_of(await gcp.again().launch([following])) is Fault.UNKNOWN


async def test_an_image_that_the_account_may_not_use_is_the_launch_s_fault(gcp: GcpHarness) -> None:
    gcp.fake.denied = {"compute.images.useReadOnly"}
    assert fault_of(await gcp.provider.launch([gcp.order(0, await offer_of(gcp))])) is Fault.REJECTED


async def test_a_slow_start_is_waited_for(gcp: GcpHarness) -> None:
    gcp.fake.controls.starts_after_s = 0.3
    order = gcp.order(0, await offer_of(gcp))
    with anyio.fail_after(20):
        await launched(gcp, order)
        await until_running(gcp, order)


async def test_an_operation_that_can_t_be_read_for_a_moment_is_asked_for_again(gcp: GcpHarness) -> None:
    gcp.fake.controls.starts_after_s = 0.1
    gcp.fake.controls.fail_before("zoneOperations.wait")
    await launched(gcp, gcp.order(0, await offer_of(gcp)))


async def test_a_region_that_can_t_be_read_makes_the_listing_incomplete(gcp: GcpHarness) -> None:
    order = gcp.order(0, await offer_of(gcp))
    await launched(gcp, order)
    gcp.fake.controls.unreachable.add("us-central1-a")
    listing = await gcp.provider.observe(OWNER)
    assert (listing.complete, listing.unreachable, listing.sightings) == (False, ("us-central1-a",), ())
    assert listing.scopes == ("europe-west4-a", "small", "us-central1-b")
    assert not listing.covers("us-central1", "us-central1-a")
    with pytest.raises(ProviderError) as caught:  # not seen is not absent
        await gcp.provider.find(order.key)
    assert caught.value.fault is Fault.UNKNOWN
    gcp.fake.controls.unreachable.clear()
    listing = await gcp.provider.observe(OWNER)
    assert (listing.complete, listing.scopes) == (True, ())


async def test_what_is_missing_elsewhere_is_believed_when_a_zone_can_t_be_read(gcp: GcpHarness) -> None:
    gcp.fake.controls.unreachable.add("europe-west4")  # where nothing was ever rented
    gcp.fake.world.unnamed.add("us-central1-b")
    listing = await gcp.provider.observe(OWNER)
    assert listing.unreachable == ("europe-west4-a",)
    assert listing.covers("us-central1", "us-central1-a")
    assert not listing.covers("europe-west4", "europe-west4-a")
    assert not listing.covers("us-central1", "us-central1-b")  # nobody said that it was read
    assert not listing.covers("", "")


async def test_leftovers_are_covered_where_all_zones_were_read(gcp: GcpHarness) -> None:
    lost = gcp.fake.disk(OWNER, f"{OWNER}/pool/7/1/1")
    found = await gcp.provider.leftovers(OWNER)
    [disk] = [one for one in found.found if one.handle.ref == lost]
    [rule] = [one for one in found.found if one.kind == "group"]
    assert found.complete and found.covers(disk) and found.covers(rule)
    gcp.fake.controls.unreachable.add("europe-west4")
    found = await gcp.provider.leftovers(OWNER)
    assert not found.complete and found.covers(disk) and found.covers(rule)
    gcp.fake.controls.unreachable = {"us-central1-b"}
    found = await gcp.provider.leftovers(OWNER)
    assert not found.covers(disk) and found.covers(rule)
    gcp.fake.controls.unreachable.clear()
    gcp.fake.denied = {"compute.firewalls.list"}
    found = await gcp.provider.leftovers(OWNER)
    assert found.covers(disk) and not found.covers(rule)
    gcp.fake.denied = {"compute.disks.list"}
    found = await gcp.provider.leftovers(OWNER)
    assert not found.covers(disk) and found.covers(rule)


async def test_whose_leftovers_are_is_remembered_as_long_as_they_are_listed(gcp: GcpHarness) -> None:
    lost = gcp.fake.disk(OWNER, f"{OWNER}/pool/7/1/1")
    surroundings = gcp.provider._surroundings
    await gcp.provider.leftovers(OWNER)
    assert ("disk", lost, "us-central1-a") in surroundings._owners
    with gcp.fake.world.lock:
        gcp.fake.world.disks.clear()
    await gcp.provider.leftovers(OTHER_OWNER)
    await gcp.provider.leftovers(OWNER)
    assert [kind for kind, _, _ in surroundings._owners] == ["group"]


async def test_no_machine_is_read_with_its_metadata(gcp: GcpHarness) -> None:
    order = gcp.order(0, await offer_of(gcp))
    await launched(gcp, order)
    assert (await gcp.provider.observe(OWNER)).sightings == (await gcp.provider.find(order.key),)
    asked = [query for name, _, query in gcp.fake.asked if re.match(r"instances\.(get|.*[lL]ist)", name)]
    assert len(asked) == 3
    assert all("description" in one["fields"] and "metadata" not in one["fields"] for one in asked)
    assert gcp.provider.capabilities.look_again_s == 2
    assert gcp.provider.capabilities.host_keys


async def test_listings_are_read_to_the_last_page(gcp: GcpHarness) -> None:
    gcp.fake.page_max = 2
    offer = await offer_of(gcp)
    await launched(gcp, *[gcp.order(node, offer) for node in range(5)])
    listing = await gcp.provider.observe(OWNER)
    assert (len(listing.sightings), listing.complete) == (5, True)


async def test_a_page_that_can_t_be_read_makes_the_listing_incomplete(gcp: GcpHarness) -> None:
    offer = await offer_of(gcp)
    await launched(gcp, *[gcp.order(node, offer) for node in range(3)])
    gcp.fake.page_max = 2
    fails = gcp.fake.controls
    answered = gcp.provider._api.read

    async def second_page_fails(call: str, path: str, **more: object) -> object:
        if "pageToken" in dict(more.get("query") or {}):  # type: ignore[call-overload]
            fails.fail_before(call, 3)
        return await answered(call, path, **more)  # type: ignore[arg-type]

    gcp.provider._api.read = second_page_fails  # type: ignore[method-assign,assignment]
    listing = await gcp.provider.observe(OWNER)
    assert (len(listing.sightings), listing.complete, listing.scopes) == (2, False, ())
    fails.fail_before("instances.aggregatedList", 3)
    with pytest.raises(ProviderError):
        await gcp.provider.observe(OWNER)


async def test_a_read_is_tried_again_a_little(gcp: GcpHarness) -> None:
    gcp.fake.controls.fail_before("instances.aggregatedList", 2)
    assert (await gcp.provider.observe(OWNER)).complete


async def test_a_machine_that_is_not_listed_yet_is_listed_later(gcp: GcpHarness) -> None:
    gcp.fake.controls.listing_lag_s = 0.3
    order = gcp.order(0, await offer_of(gcp))
    await launched(gcp, order)
    assert (await gcp.provider.observe(OWNER)).sightings == ()
    with anyio.fail_after(20):
        while True:
            if (await gcp.provider.observe(OWNER)).sightings:
                break
            await anyio.sleep(0.02)


async def test_others_machines_are_not_seen_whatever_they_are_called(gcp: GcpHarness) -> None:
    order = gcp.order(0, await offer_of(gcp))
    [handle] = await launched(gcp, order)
    foreign = gcp.fake.foreign(OWNER, like=handle.ref)  # with our owner's label, too
    orphan = gcp.fake.orphan(OWNER)
    listing = await gcp.provider.observe(OWNER)
    assert {one.handle.ref for one in listing.sightings} == {handle.ref, orphan}
    await gcp.provider.terminate([one.handle for one in listing.sightings])
    assert gcp.fake.alive() == [foreign]


async def test_times_are_the_vendor_s(gcp: GcpHarness) -> None:
    ahead = 1000.0
    gcp.fake.world.now = lambda: time.time() + ahead
    gcp.fake.token_lives_s = 10_000
    gcp.fake.revoke()
    order = gcp.order(0, await offer_of(gcp))
    await launched(gcp, order)
    listing = await gcp.provider.observe(OWNER)
    assert listing.at - time.time() > ahead - 100
    assert listing.at >= listing.sightings[0].launched_at
    gcp.fake.preempt(names.machine_name(order.key), 3600)
    async with aclosing(gcp.provider.notices()) as notices:  # type: ignore[type-var]
        _, notice = await anext(notices)
    assert notice is not None and notice.deadline_at is not None
    assert abs(notice.deadline_at - time.time() - 30) < 20  # in our own time


async def test_a_preemption_is_told_once_and_shown_and_then_the_machine_is_gone(gcp: GcpHarness) -> None:
    order, other = gcp.order(0, await offer_of(gcp)), gcp.order(1, await offer_of(gcp))
    await launched(gcp, order, other)
    gcp.fake.preempt(names.machine_name(order.key), None)
    following = gcp.again()  # knows no machine yet
    async with aclosing(following.notices()) as notices:  # type: ignore[type-var]
        with anyio.fail_after(20):
            key, notice = await anext(notices)
        assert key == order.key
        seen = await following.find(order.key)
        assert seen is not None
        assert (seen.notice, seen.state) == (notice, "stopping")
        assert "preempted" in seen.detail
        gcp.fake.preempt(names.machine_name(other.key), None)
        with anyio.fail_after(20):
            assert (await anext(notices))[0] == other.key
    for one in (order, other):
        gcp.fake.end(names.machine_name(one.key))
        await until_absent(gcp, one)
    assert fault_of(await gcp.provider.launch([order])) is Fault.GONE


async def test_a_machine_whose_host_failed_is_stopped_and_can_be_ended(gcp: GcpHarness) -> None:
    order = gcp.order(0, await offer_of(gcp, "on_demand"))
    [handle] = await launched(gcp, order)
    gcp.fake.crash(handle.ref)
    seen = await gcp.provider.find(order.key)
    assert seen is not None
    assert (seen.state, seen.detail) == ("stopped", "TERMINATED")
    assert await gcp.provider.terminate([handle]) == [None]
    assert [one for one in gcp.fake.resources() if not one.startswith("firewall")] == []


async def test_a_terminate_that_can_t_be_made_says_so_for_its_machine_alone(gcp: GcpHarness) -> None:
    offer = await offer_of(gcp)
    handles = await launched(gcp, *[gcp.order(node, offer) for node in range(3)])
    gcp.fake.controls.throttle("instances.delete")
    outcomes = await gcp.provider.terminate(handles)
    assert [one.fault for one in outcomes if one is not None] == [Fault.THROTTLED]
    assert await gcp.provider.terminate(handles) == [None, None, None]
    assert gcp.fake.alive() == []


async def test_a_cluster_lets_ssh_in_and_leaves_nothing(gcp: GcpHarness) -> None:
    [rule] = gcp.fake.world.firewalls.values()
    assert rule["allowed"] == [{"IPProtocol": "tcp", "ports": ["2222"]}]
    await launched(gcp, gcp.order(0, await offer_of(gcp)))
    assert gcp.fake.bodies[-1][1]["tags"]["items"] == rule["targetTags"]
    await gcp.provider.close_cluster(gcp.cluster)
    assert gcp.fake.world.firewalls == {}
    order = ClusterOrder(cluster_id="c1", owner=OWNER, pool="p", region="us-central1", public_key="k")
    assert await gcp.provider.open_cluster(order) == gcp.cluster  # again, under the same id
    assert len(gcp.fake.world.firewalls) == 1


async def test_a_cluster_that_was_made_and_not_answered_is_opened_again(gcp: GcpHarness) -> None:
    order = ClusterOrder(cluster_id="c2", owner=OWNER, pool="p", region="us-central1", public_key="k")
    gcp.fake.controls.fail_after("firewalls.insert")
    with pytest.raises(ProviderError) as caught:
        await gcp.provider.open_cluster(order)
    assert caught.value.fault is Fault.UNKNOWN
    handle = await gcp.provider.open_cluster(order)
    async with anyio.create_task_group() as opening:
        for _ in range(3):
            opening.start_soon(gcp.provider.open_cluster, order)
    await gcp.provider.close_cluster(handle)


async def test_a_rule_of_somebody_else_s_is_never_touched(gcp: GcpHarness) -> None:
    rule = gcp.cluster.specific["firewall"]
    gcp.fake.world.firewalls[rule]["description"] = "mine"
    with pytest.raises(ProviderError) as caught:
        await gcp.provider.close_cluster(gcp.cluster)
    assert caught.value.fault is Fault.CONFLICT
    assert rule in gcp.fake.world.firewalls


async def test_leftovers_are_found_and_removed_and_nothing_else(gcp: GcpHarness) -> None:
    order = gcp.order(0, await offer_of(gcp))
    [handle] = await launched(gcp, order)
    lost = gcp.fake.disk(OWNER, f"{OWNER}/pool/7/1/1")
    theirs = gcp.fake.disk(OTHER_OWNER, f"{OTHER_OWNER}/pool/7/1/1")
    labels = gcp.fake.world.disks["us-central1-a", theirs]["labels"]
    labels[names.OWNER] = names.label(OWNER)  # a label is no proof
    found = await gcp.provider.leftovers(OWNER)
    assert found.complete
    by_ref = {one.handle.ref: one for one in found.found}
    assert set(by_ref) == {lost, handle.ref, gcp.cluster.specific["firewall"]}
    assert (by_ref[lost].kind, by_ref[lost].key, by_ref[lost].in_use) == (
        "disk",
        f"{OWNER}/pool/7/1/1",
        False,
    )
    assert (by_ref[handle.ref].key, by_ref[handle.ref].in_use) == (order.key, True)
    assert by_ref[gcp.cluster.specific["firewall"]].cluster_id == "c1"
    created_at = by_ref[lost].created_at
    assert created_at is not None and abs(created_at - time.time()) < 60
    with pytest.raises(ProviderError) as caught:
        await gcp.provider.remove(by_ref[handle.ref])
    assert caught.value.fault is Fault.CONFLICT
    for _ in range(2):
        await gcp.provider.remove(by_ref[lost])
    await gcp.provider.remove(by_ref[gcp.cluster.specific["firewall"]])
    assert len(gcp.fake.world.disks) == 2
    assert gcp.fake.world.firewalls == {}


async def test_what_is_not_marked_as_it_was_is_not_removed(gcp: GcpHarness) -> None:
    lost = gcp.fake.disk(OWNER, f"{OWNER}/pool/7/1/1")
    [found] = [one for one in (await gcp.provider.leftovers(OWNER)).found if one.kind == "disk"]
    marks = names.Marks(owner=OTHER_OWNER, cluster="c1", key=f"{OWNER}/pool/7/1/1")
    for description in (marks.text(), "mine", ""):
        gcp.fake.world.disks["us-central1-a", lost]["description"] = description
        with pytest.raises(ProviderError) as caught:
            await gcp.provider.remove(found)
        assert caught.value.fault is Fault.REJECTED
    foreign = Leftover(kind="volume", handle=found.handle)
    with pytest.raises(ProviderError):
        await gcp.provider.remove(foreign)
    assert ("us-central1-a", lost) in gcp.fake.world.disks


async def test_offers_go_by_the_config(gcp: GcpHarness, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    settings: dict[str, Any] = {
        "zones": (),
        "regions": ("europe-west4",),
        "machine_types": ("*",),
        "prices": {"c9-standard-4": {"on_demand": 0.5}},
    }
    async with GcpHarness.open(tmp_path / "x", with_guests=False, **settings) as other:
        offers = await other.provider.offers()
    by_id = {one.id: one for one in offers}
    assert {one.zone for one in offers} == {"europe-west4-a"}
    assert by_id["europe-west4-a/c9-standard-4/on_demand"].micro_usd_per_hour == 500_000
    assert "europe-west4-a/c9-standard-4/spot" not in by_id
    assert by_id["europe-west4-a/t2a-standard-1/on_demand"].instance_type.architecture == "arm64"
    accelerator = by_id["europe-west4-a/g2-standard-4/spot"].instance_type.accelerator
    assert accelerator is not None
    assert (accelerator.name, accelerator.count) == ("L4", 1)


async def test_offers_need_prices_and_zones_that_answer(gcp: GcpHarness) -> None:
    gcp.fake.controls.fail_before("services.skus.list", 3)
    with pytest.raises(ProviderError):
        await gcp.provider.offers()
    offers = await gcp.provider.offers()  # goes on where it broke off
    assert {one.zone for one in offers} == {"us-central1-a", "small"}
    asked = gcp.fake.controls.calls["services.skus.list"]
    gcp.fake.controls.unreachable.add("small")
    assert {one.zone for one in await gcp.provider.offers()} == {"us-central1-a"}
    assert gcp.fake.controls.calls["services.skus.list"] == asked  # once a day


async def test_no_secret_is_logged_or_told(gcp: GcpHarness) -> None:
    order = gcp.order(0, await offer_of(gcp))
    private = order.host_key.splitlines()[1]
    tokens = list(gcp.fake._tokens)
    told: list[Handle | ProviderError] = []
    with capture_logs() as logs:
        for how in ("fail_after", "throttle", "cut_before"):
            getattr(gcp.fake.controls, how)("instances.insert")
            told += await gcp.provider.launch([order])
    text = f"{logs} {told} {gcp.provider!r} {order!r} {vars(gcp.provider)}"
    assert private not in text
    assert all(token not in text for token in tokens)


async def test_date_headers_are_those_of_http(gcp: GcpHarness) -> None:
    listing = await gcp.provider.observe(OWNER)
    assert formatdate(listing.at, usegmt=True)
    assert abs(listing.at - time.time()) < 60
