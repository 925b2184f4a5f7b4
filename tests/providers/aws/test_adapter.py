"""What is seen, offered and ended, at the level of the adapter."""

import json
import time
from pathlib import Path

import anyio
import pytest

from providers.aws.config import AwsConfig
from providers.errors import Fault, ProviderError
from providers.model import Handle
from tests.providers.aws.account import OWNER, REGION, Account, offer_of, problem, refs

pytestmark = pytest.mark.anyio
WEST = "us-west-2"


# --- offers -----------------------------------------------------------------------------------------------


async def test_a_type_without_a_price_is_offered_as_spot_only(account: Account) -> None:
    account.fake.prices = None
    account.fake.denied.add("GetProducts")
    offers = await account.provider(
        instance_types=["t3.small", "t3.medium"], prices={"t3.medium": 0.05}
    ).offers()
    demand = {one.instance_type.name: one.on_demand_price for one in offers if one.lifecycle == "on_demand"}
    assert demand == {"t3.medium": 0.05}
    assert {one.instance_type.name for one in offers if one.lifecycle == "spot"} == {"t3.small", "t3.medium"}


async def test_the_newest_spot_price_of_each_zone_counts(account: Account) -> None:
    offers = await account.provider().offers()
    prices = [offer_of(offers, zone=zone).spot_price for zone in ("us-east-1a", "us-east-1b", "us-east-1c")]
    assert prices == [0.00624, 0.006864, 0.007488]


async def test_a_gpu_is_told_and_types_that_can_not_be_had_are_left_out(account: Account) -> None:
    offers = await account.provider(
        instance_types=["g5.xlarge", "m5.*", "mac1.*"], zones=["us-east-1a"]
    ).offers()
    gpu = offer_of(offers, kind="g5.xlarge").instance_type
    assert gpu.accelerator is not None
    assert (gpu.accelerator.name, gpu.accelerator.count) == ("A10G", 1)
    names = {one.instance_type.name for one in offers}
    assert "m5.large" in names
    assert not any(name.endswith(".metal") or name.startswith("mac") for name in names)
    assert {one.zone for one in offers} == {"us-east-1a"}


async def test_the_default_offers_are_a_modest_number(account: Account) -> None:
    provider = account.provider(instance_types=AwsConfig().instance_types)
    offers = await provider.offers()
    assert 200 < len(offers) < 2000
    account.fake.controls.calls.clear()
    assert await provider.offers() == offers
    assert set(account.fake.controls.calls) == {"DescribeSpotPriceHistory"}  # the rest is kept for a while


async def test_offers_of_a_region_that_is_out_of_reach_are_left_out(account: Account) -> None:
    account.fake.controls.unreachable.add(WEST)
    assert {one.region for one in await account.provider(regions=[REGION, WEST]).offers()} == {REGION}
    with pytest.raises(ProviderError) as caught:
        await account.provider(regions=[WEST]).offers()
    assert caught.value.fault is Fault.UNKNOWN


async def test_an_odd_product_does_not_throw_the_price_list_away(account: Account) -> None:
    named = {"product": {"attributes": {"instanceType": "t3.odd"}}, "terms": {}}
    account.fake.odd_products = ["no JSON", json.dumps(named), json.dumps({**named, "terms": []})]
    offers = await account.provider().offers()
    assert offer_of(offers, lifecycle="on_demand").on_demand_price == 0.0208
    account.fake.prices = {}
    lines = {one.what: one for one in await account.provider().check(OWNER)}
    assert not lines["price list in us-east-1"].ok  # none is understood


# --- seeing -----------------------------------------------------------------------------------------------


async def test_machines_of_all_regions_are_listed_and_a_listing_without_one_is_not_whole(
    account: Account,
) -> None:
    provider = account.provider(regions=[REGION, WEST])
    offers = await provider.offers()
    east, west = await account.cluster(provider), await account.cluster(provider, region=WEST)
    orders = [
        account.order(0, offer_of(offers), east),
        account.order(1, offer_of(offers, zone="us-west-2a"), west),
    ]
    made = refs(await provider.launch(orders))
    listing = await provider.observe(OWNER)
    assert [one.handle.ref for one in listing.sightings] == made
    assert [one.handle.region for one in listing.sightings] == [REGION, WEST]
    assert (listing.complete, listing.scopes) == (True, (REGION, WEST))
    account.fake.controls.unreachable.add(WEST)
    listing = await provider.observe(OWNER)
    assert (listing.complete, listing.unreachable, listing.scopes) == (False, (WEST,), (REGION,))
    assert listing.covers(REGION, "")
    assert [one.handle.ref for one in listing.sightings] == made[:1]
    assert (await provider.find(orders[0].key)) is not None
    with pytest.raises(ProviderError):  # it may be where we can't look
        await provider.find(orders[1].key)
    account.fake.controls.unreachable.add(REGION)
    with pytest.raises(ProviderError):
        await provider.observe(OWNER)


async def test_a_listing_comes_in_pages(account: Account) -> None:
    provider = account.provider()
    made = {account.fake.orphan(f"{OWNER}/pool/{node}/1/1") for node in range(250)}
    assert {one.handle.ref for one in (await provider.observe(OWNER)).sightings} == made
    assert account.fake.controls.calls["DescribeInstances"] == 3


async def test_only_our_owners_mark_makes_a_machine_ours(account: Account) -> None:
    ours = account.fake.orphan(f"{OWNER}/pool/0/1/1", epoch=7)
    account.fake.foreign(name="everpool pool-0-1")
    account.fake.foreign(owner=f"{OWNER}0")
    account.fake.foreign(owner=OWNER[:-1])
    [one] = (await account.provider().observe(OWNER)).sightings
    assert (one.handle.ref, one.key, one.epoch) == (ours, f"{OWNER}/pool/0/1/1", 7)


async def test_how_a_machine_ended_is_shown_for_a_while(account: Account) -> None:
    provider = account.provider()
    taken, died, stopped = (account.fake.orphan(f"{OWNER}/pool/{node}/1/1") for node in range(3))
    before = int(time.time())
    account.fake.end(taken)
    account.fake.kill(died)
    account.fake.stop(stopped)
    shown = {one.handle.ref: one for one in (await provider.observe(OWNER)).sightings}
    assert shown[taken].detail == "terminated: Server.SpotInstanceTermination"
    assert shown[died].detail == "terminated: Client.InstanceInitiatedShutdown"
    for ref in (taken, died):
        ended_at = shown[ref].ended_at
        assert ended_at is not None
        assert before <= ended_at <= time.time()
        assert shown[ref].launched_at <= ended_at
    assert (shown[stopped].state, shown[stopped].ended_at) == ("stopped", None)
    assert await provider.find(f"{OWNER}/pool/0/1/1") is None


async def test_states_come_late_and_a_new_machine_is_not_listed_at_once(account: Account) -> None:
    controls = account.fake.controls
    controls.starts_after_s, controls.ends_after_s, controls.listing_lag_s = 1.0, 1.0, 0.5
    provider = account.provider()
    order = account.order(0, offer_of(await provider.offers()), await account.cluster(provider))
    [handle] = await provider.launch([order])
    assert isinstance(handle, Handle)
    assert await provider.find(order.key) is None
    seen: list[tuple[str, bool]] = []

    async def watch(word: str) -> None:
        with anyio.fail_after(10):
            while not seen or seen[-1][0] != word:
                for one in (await provider.observe(OWNER)).sightings:
                    state = ("ended" if one.ended_at is not None else one.state, one.address is not None)
                    if not seen or seen[-1] != state:
                        seen.append(state)
                await anyio.sleep(0.05)

    await watch("running")
    assert await provider.terminate([handle]) == [None]
    await watch("ended")
    assert seen == [("pending", False), ("running", True), ("stopping", False), ("ended", False)]


async def test_a_private_address_is_used_when_that_is_wanted(account: Account) -> None:
    account.fake.orphan(f"{OWNER}/pool/0/1/1")
    [public] = (await account.provider().observe(OWNER)).sightings
    [private] = (await account.provider(private_address=True).observe(OWNER)).sightings
    assert public.address is not None
    assert private.address is not None
    assert public.address.host.startswith("127.")
    assert private.address.host == private.address.private_host == public.address.private_host


# --- ending -----------------------------------------------------------------------------------------------


async def test_unknown_machines_do_not_keep_others_from_ending(account: Account) -> None:
    provider = account.provider()
    made = [account.fake.orphan(f"{OWNER}/pool/{node}/1/1") for node in range(150)]
    strangers = [f"i-{number:017x}" for number in range(30)]
    refs = [ref for pair in zip(made, strangers, strict=False) for ref in pair] + made[30:]
    handles = [Handle(provider="aws", ref=ref, region=REGION) for ref in refs]
    assert set(await provider.terminate(handles)) == {None}
    assert account.fake.alive() == []
    assert account.fake.controls.calls["TerminateInstances"] < 10
    odd = Handle(provider="aws", ref="i-1", region=REGION)
    assert await provider.terminate([odd]) == [None]


async def test_a_machine_that_is_too_new_to_be_known_is_not_thought_gone(account: Account) -> None:
    provider = account.provider(visible_within_s=60)
    order = account.order(0, offer_of(await provider.offers()), await account.cluster(provider))
    [handle] = await provider.launch([order])
    assert isinstance(handle, Handle)
    life = account.fake.ec2._lives.pop(handle.ref)  # not known everywhere yet
    [outcome] = await provider.terminate([handle])
    assert problem(outcome).fault is Fault.UNKNOWN
    account.fake.ec2._lives[handle.ref] = life
    assert await provider.terminate([handle]) == [None]


async def test_a_terminate_that_fails_says_so_for_each(account: Account) -> None:
    provider = account.provider()
    ref = account.fake.orphan(f"{OWNER}/pool/0/1/1")
    account.fake.controls.throttle("TerminateInstances")
    handle = Handle(provider="aws", ref=ref, region=REGION)
    elsewhere = handle.model_copy(update={"ref": "i-00000000000000001", "region": "nowhere at all"})
    first, second = await provider.terminate([handle, elsewhere])
    assert (problem(first).fault, problem(second).fault) == (Fault.THROTTLED, Fault.REJECTED)
    assert account.fake.alive() == [ref]


async def test_machines_of_a_region_that_left_the_config_are_not_missing_and_can_be_ended(
    account: Account,
) -> None:
    ref = account.fake.orphan(f"{OWNER}/pool/0/1/1", region=WEST)
    provider = account.provider(regions=[REGION])
    listing = await provider.observe(OWNER)
    assert listing.sightings == ()
    assert listing.complete
    assert not listing.covers(WEST, "us-west-2a")
    assert await provider.terminate([Handle(provider="aws", ref=ref, region=WEST)]) == [None]
    assert account.fake.alive() == []


@pytest.mark.parametrize(("kind", "fault"), [("protected", Fault.REJECTED), ("guarded", Fault.CREDENTIALS)])
async def test_a_machine_that_can_not_be_ended_keeps_no_other_alive(
    account: Account, kind: str, fault: Fault
) -> None:
    provider = account.provider()
    made = [account.fake.orphan(f"{OWNER}/pool/{node}/1/1") for node in range(20)]
    kept = {made[3], made[4], made[17]}
    getattr(account.fake.ec2, kind).update(kept)
    outcomes = await provider.terminate([Handle(provider="aws", ref=ref, region=REGION) for ref in made])
    assert {ref for ref, one in zip(made, outcomes, strict=True) if one is not None} == kept
    assert {problem(one).fault for one in outcomes if one is not None} == {fault}
    assert set(account.fake.alive()) == kept


async def test_what_is_wrong_with_all_is_not_asked_for_each(account: Account) -> None:
    provider = account.provider()
    made = [account.fake.orphan(f"{OWNER}/pool/{node}/1/1") for node in range(5)]
    handles = [Handle(provider="aws", ref=ref, region=REGION) for ref in made]
    account.fake.controls.throttle("TerminateInstances")
    account.fake.controls.fail_before("TerminateInstances")
    for fault in (Fault.THROTTLED, Fault.UNKNOWN):
        assert {problem(one).fault for one in await provider.terminate(handles)} == {fault}
    assert account.fake.controls.calls["TerminateInstances"] == 2


# --- credentials ------------------------------------------------------------------------------------------


async def test_refused_credentials_are_told_without_them(
    account: Account, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    account.fake.access_keys.clear()
    provider = account.provider()
    with pytest.raises(ProviderError) as caught:
        await provider.observe(OWNER)
    assert caught.value.fault is Fault.CREDENTIALS
    said = f"{caught.value} {caught.value.detail} {provider._config!r} {capsys.readouterr()}"
    for name in ("access_key_id", "secret_access_key"):
        assert (account.directory / name).read_text() not in said


async def test_a_secret_that_was_changed_is_read_again(account: Account) -> None:
    provider = account.provider()
    await provider.observe(OWNER)
    account.fake.access_keys = {"AKIANEWNEWNEWNEWNEW1"}
    (account.directory / "access_key_id").write_text("AKIANEWNEWNEWNEWNEW1")
    with pytest.raises(ProviderError):
        await provider.observe(OWNER)
    assert (await provider.observe(OWNER)).complete


async def test_an_unknown_code_is_an_unknown_outcome_and_is_logged_without_secrets(
    account: Account, capsys: pytest.CaptureFixture[str]
) -> None:
    provider = account.provider()
    account.fake.answer_with["TerminateInstances"] = ("BrandNewCode", "no: password=hunter2secret")
    ref = account.fake.orphan(f"{OWNER}/pool/0/1/1")
    [outcome] = await provider.terminate([Handle(provider="aws", ref=ref, region=REGION)])
    said = capsys.readouterr().out
    assert problem(outcome).fault is Fault.UNKNOWN
    assert "BrandNewCode" in said
    assert "hunter2secret" not in said + problem(outcome).detail


async def test_a_role_is_assumed(account: Account) -> None:
    provider = account.provider(role_arn="arn:aws:iam::123456789012:role/everpool")
    account.fake.any_key = True  # temporary keys are not known beforehand
    assert (await provider.observe(OWNER)).complete
    assert account.fake.controls.calls["AssumeRole"] == 1


# --- its loops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_all_of_it_runs_on_trio(account: Account) -> None:
    provider = account.provider()
    cluster = await account.cluster(provider)
    order = account.order(0, offer_of(await provider.offers()), cluster)
    [handle] = await provider.launch([order])
    assert isinstance(handle, Handle)
    with anyio.move_on_after(0):
        await provider.observe(OWNER)
    assert [one.handle for one in (await provider.observe(OWNER)).sightings] == [handle]
    assert await provider.terminate([handle]) == [None]
    await provider.close_cluster(cluster)
    assert account.fake.resources() == []
