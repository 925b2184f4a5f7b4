"""Machines are made once per key, whatever goes wrong."""

import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from providers.aws.adapter import AwsProvider
from providers.aws.clients import LAUNCH_WAITS_S, LAUNCH_WITHIN_S, Clients, Reply
from providers.aws.config import AwsConfig, Service
from providers.aws.machines import Machines
from providers.aws.wire import as_tags
from providers.errors import Fault, ProviderError
from providers.gateway import LAUNCH_TIMEOUT_S
from providers.model import Handle, Order, Sighting
from tests.fakes.aws.base import backend
from tests.providers.aws.account import OWNER, Account, offer_of, problem, refs

pytestmark = pytest.mark.anyio


async def ordered(account: Account, provider: AwsProvider, number: int = 1, **more: Any) -> list[Order]:
    offer = offer_of(await provider.offers(), lifecycle=more.pop("lifecycle", "spot"))
    cluster = await account.cluster(provider)
    alone = provider.capabilities.host_keys
    return [account.order(node, offer, cluster, host_key=alone, **more) for node in range(number)]


@pytest.mark.parametrize("failure", ["fail_after", "cut_after", "cut_before", "fail_before"])
async def test_a_launch_whose_answer_is_lost_is_unknown_and_never_doubled(
    account: Account, failure: str
) -> None:
    provider = account.provider()
    [order] = await ordered(account, provider)
    getattr(account.fake.controls, failure)("RunInstances")
    [outcome] = await provider.launch([order])
    assert problem(outcome).fault is Fault.UNKNOWN
    assert account.fake.controls.calls["RunInstances"] == 1  # the library repeats nothing that makes
    made = failure.endswith("after")
    found = await account.provider().find(order.key)
    assert (found is not None) == made
    assert len(account.fake.alive()) == made
    [ref] = refs(await account.provider().launch([order]))
    assert account.fake.alive() == [ref]
    assert found is None or found.handle.ref == ref


async def test_nothing_is_sent_where_nobody_listens(account: Account) -> None:
    provider = account.provider()
    [order] = await ordered(account, provider)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    elsewhere = account.provider(endpoints={"ec2": f"http://127.0.0.1:{port}"})
    [outcome] = await elsewhere.launch([order])
    assert problem(outcome).fault is Fault.NOT_SENT
    with pytest.raises(ProviderError) as caught:
        await elsewhere.observe(OWNER)
    assert caught.value.fault is Fault.NOT_SENT


async def test_no_capacity_is_told_by_a_server_error_and_asked_for_once(account: Account) -> None:
    provider = account.provider()
    [order] = await ordered(account, provider)
    account.fake.controls.capacity["us-east-1a/t3.small/spot"] = 0
    [outcome] = await provider.launch([order])
    assert problem(outcome).fault is Fault.CAPACITY
    assert account.fake.controls.calls["RunInstances"] == 1


async def test_a_throttled_launch_is_not_repeated_by_the_library(account: Account) -> None:
    provider = account.provider(read_attempts=3)
    [order] = await ordered(account, provider)
    account.fake.controls.throttle("RunInstances")
    [outcome] = await provider.launch([order])
    assert (problem(outcome).fault, problem(outcome).paced) == (Fault.THROTTLED, False)
    assert account.fake.controls.calls["RunInstances"] == 1
    refs(await provider.launch([order]))


async def test_a_throttled_read_is_repeated(account: Account) -> None:
    provider = account.provider(read_attempts=3)
    account.fake.controls.throttle("DescribeInstances")
    assert (await provider.observe(OWNER)).complete
    assert account.fake.controls.calls["DescribeInstances"] == 2


async def test_a_machine_is_what_was_ordered(account: Account) -> None:
    provider = account.provider(spot_max_price_factor=2, tags={"team": "blue"}, disk_gb=30)
    orders = await ordered(account, provider, 2)
    orders[1] = orders[1].model_copy(update={"disk_gb": 55.5})
    first, second = (account.fake.ec2.life(ref) for ref in refs(await provider.launch(orders)))
    assert first.options["InstanceMarketOptions"] == {
        "MarketType": "spot",
        "SpotOptions": {
            "SpotInstanceType": "one-time",
            "InstanceInterruptionBehavior": "terminate",
            "MaxPrice": f"{orders[0].offer.micro_usd_per_hour * 2 / 1_000_000:.6f}",
        },
    }
    assert first.options["MetadataOptions"]["HttpTokens"] == "required"
    assert first.options["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert first.options["InstanceInitiatedShutdownBehavior"] == "terminate"
    for life, size in ((first, 30), (second, 56)):
        disks = life.options["BlockDeviceMappings"]
        assert all(disk["Ebs"]["DeleteOnTermination"] for disk in disks)
        assert disks[0]["Ebs"]["VolumeSize"] == size
    marked = {one["ResourceType"] for one in first.options["TagSpecifications"]}
    assert marked == {"instance", "volume", "network-interface", "spot-instances-request"}
    for one in first.options["TagSpecifications"]:
        tags = {tag["Key"]: tag["Value"] for tag in one["Tags"]}
        assert (tags["everpool-owner"], tags["everpool-key"], tags["team"]) == (OWNER, orders[0].key, "blue")


@pytest.mark.parametrize(
    ("factor", "most", "cap"), [(None, None, None), (None, 0.9, 0.9), (2, 0.9, 0.9), (2, 5, 2), (2, None, 2)]
)
async def test_a_spot_machine_costs_no_more_than_its_pool_would_pay(
    account: Account, factor: float | None, most: float | None, cap: float | None
) -> None:
    provider = account.provider(spot_max_price_factor=factor)
    [order] = await ordered(account, provider)
    price = order.offer.micro_usd_per_hour
    paid = None if most is None else round(price * most)
    [ref] = refs(await provider.launch([order.model_copy(update={"micro_usd_per_hour_max": paid})]))
    spot = account.fake.ec2.life(ref).options["InstanceMarketOptions"]["SpotOptions"]
    assert ("MaxPrice" in spot) == (cap is not None)
    if cap is not None:
        assert float(spot["MaxPrice"]) == pytest.approx(price * cap / 1_000_000, abs=1e-6)


async def test_each_machine_gets_its_own_host_key_and_no_other(account: Account) -> None:
    provider = account.provider()
    orders = await ordered(account, provider, 3)
    for order, ref in zip(orders, refs(await provider.launch(orders)), strict=True):
        data = account.fake.ec2.life(ref).user_data
        assert data.startswith("#cloud-config\n")
        keys = json.loads(data.partition("\n")[2])["ssh_keys"]
        assert keys["ed25519_private"] == order.host_key
        for other in orders:
            assert (other.host_key in keys["ed25519_private"]) == (other is order)
    assert account.fake.controls.calls["RunInstances"] == 3
    assert provider.capabilities.host_keys
    assert provider.capabilities.tokens


async def test_the_next_daemon_with_a_newer_epoch_finds_the_same_machine(account: Account) -> None:
    provider = account.provider()
    [order] = await ordered(account, provider)
    first = refs(await provider.launch([order]))
    later = order.model_copy(update={"epoch": 4})  # another request under the token of the first
    assert refs(await account.provider().launch([later])) == first
    assert account.fake.alive() == first


@pytest.mark.parametrize(
    "code", ["RequestLimitExceeded", "UnauthorizedOperation", "VcpuLimitExceeded", "InvalidParameterValue"]
)
async def test_a_machine_that_can_not_be_looked_at_is_not_thought_unmade(account: Account, code: str) -> None:
    provider = account.provider()
    [order] = await ordered(account, provider)
    refs(await provider.launch([order]))
    later = order.model_copy(update={"epoch": 4})
    account.fake.answer_with["DescribeInstances"] = (code, "no")
    [outcome] = await account.provider().launch([later])
    assert problem(outcome).fault is Fault.UNKNOWN


async def test_a_zone_that_came_after_the_cluster_has_its_subnet(account: Account) -> None:
    provider = account.provider(**FLEET)
    cluster, offers = await account.cluster(provider), await provider.offers()
    for frozen in (
        {name: ref for name, ref in cluster.specific.items() if name != "subnet:us-east-1a"},
        {name: ref for name, ref in cluster.specific.items() if name not in ("subnet:us-east-1a", "vpc")},
    ):
        old = cluster.model_copy(update={"specific": frozen})
        [outcome] = await provider.launch([account.order(len(frozen), offer_of(offers), old)])
        assert isinstance(outcome, Handle)
        assert outcome.zone == "us-east-1a"
    mixed = offer_of(offers, kind="fleet:mixed", zone="any")
    [outcome] = await provider.launch([account.order(99, mixed, old)])
    assert isinstance(outcome, Handle)
    assert outcome.zone == "us-east-1a"
    elsewhere = {name: ref for name, ref in cluster.specific.items() if not name.startswith("subnet:")}
    old = cluster.model_copy(update={"specific": {**elsewhere, "vpc": "vpc-2"}})
    [outcome] = await provider.launch([account.order(100, offer_of(offers), old)])
    assert problem(outcome).fault is Fault.REJECTED  # its group is in another vpc


async def test_an_image_and_a_market_that_are_not_there_are_rejected(account: Account) -> None:
    provider = account.provider()
    [order] = await ordered(account, provider)
    shape = order.offer.instance_type
    for wrong in (
        {"image": "debian"},
        {"image": "ami-00000000"},
        {"image": "ssm:/no/such/parameter"},
        {"offer": order.offer.model_copy(update={"region": "eu-west-1"})},
        {
            "offer": order.offer.model_copy(
                update={"instance_type": shape.model_copy(update={"name": "t9.x"})}
            )
        },
        {"key": f"{OWNER}/{'x' * 300}/0/1/1"},
    ):
        [outcome] = await provider.launch([order.model_copy(update=wrong)])
        assert problem(outcome).fault is Fault.REJECTED, wrong
    assert account.fake.alive() == []


async def test_a_cluster_that_is_gone_is_rejected_and_no_machine_is_thought_gone(account: Account) -> None:
    provider = account.provider()
    [order] = await ordered(account, provider)
    await provider.close_cluster(order.cluster)
    [outcome] = await provider.launch([order])
    assert problem(outcome).fault is Fault.REJECTED


# --- several machines by one call -------------------------------------------------------------------------


async def test_many_orders_share_a_call_and_each_has_its_machine(account: Account) -> None:
    provider = account.provider(launch_batch=50)
    orders = await ordered(account, provider, 120)
    account.fake.controls.calls.clear()
    made = refs(await provider.launch(orders))
    assert len(set(made)) == 120
    assert account.fake.controls.calls["RunInstances"] == 3
    shown = {one.key: one.handle.ref for one in (await account.provider().observe(OWNER)).sightings}
    assert shown == {order.key: ref for order, ref in zip(orders, made, strict=True)}
    assert not provider.capabilities.host_keys
    assert not provider.capabilities.tokens
    for life in account.fake.ec2.lives():
        assert "PRIVATE KEY" not in life.user_data


async def test_when_there_is_less_than_was_asked_the_rest_is_capacity(account: Account) -> None:
    provider = account.provider(launch_batch=50)
    orders = await ordered(account, provider, 5)
    account.fake.controls.capacity["us-east-1a/t3.small/spot"] = 3
    outcomes = await provider.launch(orders)
    made = refs(outcomes[:3])
    assert [problem(one).fault for one in outcomes[3:]] == [Fault.CAPACITY] * 2
    assert account.fake.alive() == made
    del account.fake.controls.capacity["us-east-1a/t3.small/spot"]
    again = refs(await account.provider(launch_batch=50).launch(orders))
    assert again[:3] == made
    assert len(set(again)) == 5


async def test_a_machine_that_is_not_listed_yet_is_not_made_again(account: Account) -> None:
    provider = account.provider(launch_batch=50, visible_within_s=60)
    orders = await ordered(account, provider, 3)
    account.fake.controls.listing_lag_s = 60
    made = refs(await provider.launch(orders))
    assert refs(await provider.launch(orders[1:])) == made[1:]
    assert account.fake.alive() == made


async def test_keys_that_come_in_other_company_have_the_same_machines(account: Account) -> None:
    provider = account.provider(launch_batch=3)
    orders = await ordered(account, provider, 7)
    made = refs(await provider.launch(orders))
    following = account.provider(launch_batch=5)
    assert refs(await following.launch(orders[::-1])) == made[::-1]
    assert sorted(account.fake.alive()) == sorted(made)
    # One machine a call, as the config may say later: its token is another one.
    for order, ref in zip(orders, made, strict=True):
        assert refs(await following.launch([order])) == [ref]


async def test_a_batch_whose_answer_is_lost_is_found_by_its_keys(account: Account) -> None:
    provider = account.provider(launch_batch=50)
    orders = await ordered(account, provider, 4)
    account.fake.controls.fail_after("RunInstances")
    assert {problem(one).fault for one in await provider.launch(orders)} == {Fault.UNKNOWN}
    following = account.provider(launch_batch=50)
    found = [await following.find(order.key) for order in orders]
    assert len({one.handle.ref for one in found if one is not None}) == 4
    assert refs(await following.launch(orders[1:])) == [
        one.handle.ref for one in found[1:] if one is not None
    ]
    assert len(account.fake.alive()) == 4


async def test_many_that_look_for_keys_share_a_listing(account: Account) -> None:
    provider = account.provider(launch_batch=50)
    orders = await ordered(account, provider, 60)
    made = refs(await provider.launch(orders[:30]))
    account.fake.controls.calls.clear()
    found: dict[str, Sighting | None] = {}

    async def look(key: str) -> None:
        found[key] = await provider.find(key)

    async with anyio.create_task_group() as looking:
        for order in orders:
            looking.start_soon(look, order.key)
    shown = [found[order.key] for order in orders]
    assert [one.handle.ref for one in shown if one is not None] == made
    assert shown[30:] == [None] * 30
    assert account.fake.controls.calls["DescribeInstances"] < 60 + 10  # by key; and all of them, a few times


class Slow(Clients):
    """A listing shows what was there when it was begun, and comes when it may."""

    def __init__(self) -> None:
        super().__init__("aws", AwsConfig())
        self.there: list[dict[str, Any]] = []
        self.may_come = anyio.Event()

    async def pages(
        self, service: Service, region: str, operation: str, *, timeout_s: float = 0.0, **parameters: Any
    ) -> AsyncIterator[Reply]:
        by_key = parameters["Filters"][0]["Name"] == "tag:everpool-key"
        there = [] if by_key else list(self.there)
        if not by_key:
            await self.may_come.wait()
        yield Reply({"Reservations": [{"Instances": there}]}, None)


async def test_who_looks_is_not_told_by_a_listing_that_began_before() -> None:
    clients = Slow()
    machines = Machines("aws", clients, AwsConfig())
    found: list[int] = []

    async def look() -> None:
        found.append(len(await machines.with_keys("us-east-1", "o", ["o/p/0/1/1"])))

    async with anyio.create_task_group() as looking:
        looking.start_soon(look)
        await anyio.wait_all_tasks_blocked()
        tags = {"everpool-owner": "o", "everpool-batch": "run", "everpool-keys-00": "s:/p/0/1/1"}
        clients.there = [{"InstanceId": "i-1", "Tags": as_tags(tags)}]
        looking.start_soon(look)
        looking.start_soon(look)
        await anyio.wait_all_tasks_blocked()
        clients.may_come.set()
    assert found == [0, 1, 1]


# --- fleets -------------------------------------------------------------------------------------------------

FLEET: dict[str, Any] = {
    "fleets": [{"name": "mixed", "types": ["t3.small", "t3.medium"], "zones": ["us-east-1a", "us-east-1c"]}],
    "instance_types": ("t3.small", "t3.medium"),
}


async def fleet_orders(account: Account, provider: AwsProvider, spot: int, on_demand: int) -> list[Order]:
    offers = await provider.offers()
    cluster = await account.cluster(provider)
    alone = provider.capabilities.host_keys
    kinds = ["spot"] * spot + ["on_demand"] * on_demand
    return [
        account.order(
            node,
            offer_of(
                offers, kind="fleet:mixed", zone="any", lifecycle="spot" if kind == "spot" else "on_demand"
            ),
            cluster,
            host_key=alone,
        )
        for node, kind in enumerate(kinds)
    ]


async def test_a_fleet_is_offered_by_its_smallest_shape_and_its_highest_price(account: Account) -> None:
    offers = await account.provider(**FLEET).offers()
    spot = offer_of(offers, kind="fleet:mixed", zone="any")
    demand = offer_of(offers, kind="fleet:mixed", zone="any", lifecycle="on_demand")
    assert (spot.instance_type.vcpus, spot.instance_type.memory_gb) == (2, 2)
    assert demand.on_demand_price == 0.0416
    places = [one for one in offers if one.zone in ("us-east-1a", "us-east-1c") and one.lifecycle == "spot"]
    assert spot.micro_usd_per_hour == max(one.micro_usd_per_hour for one in places)


async def test_one_call_makes_machines_of_both_lifecycles(account: Account) -> None:
    provider = account.provider(launch_batch=50, **FLEET)
    orders = await fleet_orders(account, provider, 4, 3)
    account.fake.controls.capacity |= {
        "us-east-1a/t3.medium/spot": 1,
        "us-east-1c/t3.medium/spot": 1,
        "us-east-1a/t3.small/spot": 2,
    }
    account.fake.controls.calls.clear()
    made = refs(await provider.launch(orders))
    assert len(set(made)) == 7
    calls = account.fake.controls.calls
    assert (calls["CreateFleet"], calls["CreateTags"], calls["RunInstances"]) == (1, 1, 0)
    listing = await account.provider(**FLEET).observe(OWNER)
    shown = {one.key: one for one in listing.sightings}
    for order, ref in zip(orders, made, strict=True):
        one = shown[order.key]
        assert (one.handle.ref, one.lifecycle, one.instance_type) == (
            ref,
            order.offer.lifecycle,
            "fleet:mixed",
        )
        assert one.micro_usd_per_hour == order.offer.micro_usd_per_hour
        found = await provider.find(order.key)
        assert found == one
    assert {one.handle.zone for one in listing.sightings} == {"us-east-1a", "us-east-1c"}


async def test_a_fleet_that_is_partly_filled_gives_each_order_its_own_outcome(account: Account) -> None:
    provider = account.provider(launch_batch=50, **FLEET)
    orders = await fleet_orders(account, provider, 3, 2)
    for zone in ("us-east-1a", "us-east-1c"):
        account.fake.controls.capacity[f"{zone}/t3.small/spot"] = 1
        account.fake.controls.capacity[f"{zone}/t3.medium/spot"] = 0
    outcomes = await provider.launch(orders)
    made = refs([*outcomes[:2], *outcomes[3:]])
    assert problem(outcomes[2]).fault is Fault.CAPACITY
    assert "InsufficientInstanceCapacity" in problem(outcomes[2]).detail
    assert sorted(account.fake.alive()) == sorted(made)
    listing = await provider.observe(OWNER)
    assert {one.key for one in listing.sightings} == {order.key for order in [*orders[:2], *orders[3:]]}


@pytest.mark.parametrize("failure", ["fail_before", "fail_after"])
async def test_machines_that_got_no_keys_are_named_by_whoever_sees_them(
    account: Account, failure: str
) -> None:
    provider = account.provider(launch_batch=50, **FLEET)
    orders = await fleet_orders(account, provider, 3, 2)
    getattr(account.fake.controls, failure)("CreateTags")  # the daemon dies between the two calls
    assert {problem(one).fault for one in await provider.launch(orders)} == {Fault.UNKNOWN}
    following = account.provider(launch_batch=50, **FLEET)
    shown = {one.key: one.handle.ref for one in (await following.observe(OWNER)).sightings}
    assert set(shown) == {order.key for order in orders}
    assert len(set(shown.values())) == 5
    assert refs(await following.launch(orders)) == [shown[order.key] for order in orders]
    assert sorted(account.fake.alive()) == sorted(shown.values())


@pytest.mark.parametrize("purged", [False, True])
async def test_a_fleet_whose_machine_was_forgotten_still_names_the_others(
    account: Account, purged: bool
) -> None:
    provider = account.provider(launch_batch=50, **FLEET)
    orders = await fleet_orders(account, provider, 3, 0)
    account.fake.controls.fail_before("CreateTags")
    await provider.launch(orders)
    gone, *left = sorted(account.fake.alive())
    account.fake.kill(gone)
    if purged:
        account.fake.ec2.purge(gone)
    following = account.provider(launch_batch=50, **FLEET)
    listing = await following.observe(OWNER)
    assert listing.complete
    shown = {one.handle.ref: one.key for one in listing.sightings if one.ended_at is None}
    assert sorted(shown) == left
    assert set(shown.values()) < {order.key for order in orders}
    account.fake.ec2.forget_fleets()  # it was written down
    following = account.provider(launch_batch=50, **FLEET)
    listing = await following.observe(OWNER)
    assert {one.handle.ref: one.key for one in listing.sightings if one.ended_at is None} == shown


@pytest.mark.parametrize("why", ["forgotten", "denied", "no fleet"])
async def test_machines_of_a_fleet_that_can_not_be_told_are_nobodys(account: Account, why: str) -> None:
    provider = account.provider(launch_batch=50, **FLEET)
    other = account.fake.orphan(f"{OWNER}/pool/77/1/1")
    orders = await fleet_orders(account, provider, 2, 0)
    account.fake.controls.fail_before("CreateTags")
    await provider.launch(orders)
    made = sorted(set(account.fake.alive()) - {other})
    if why == "forgotten":
        account.fake.ec2.forget_fleets()
    elif why == "denied":
        account.fake.denied.add("DescribeFleets")
    else:
        for ref in made:
            backend("ec2", "us-east-1").delete_tags([ref], {"aws:ec2:fleet-id": None})
    young = account.provider(launch_batch=50, visible_within_s=60, **FLEET)
    listing = await young.observe(OWNER)  # it may be too new to be known
    assert ([one.handle.ref for one in listing.sightings], listing.complete) == ([other], False)
    with pytest.raises(ProviderError) as caught:
        await young.find(orders[0].key)
    assert caught.value.fault is Fault.UNKNOWN
    assert await young.find(f"{OWNER}/pool/55/1/1") is None  # none of those
    listing = await provider.observe(OWNER)
    assert listing.complete
    shown = {one.handle.ref: one.key for one in listing.sightings}
    assert sorted(shown) == sorted([*made, other])
    assert all(shown[ref] == f"{OWNER}/pool/unclaimed/1/{ref}" for ref in made)
    assert await provider.terminate([one.handle for one in listing.sightings]) == [None] * 3


async def test_while_a_fleet_does_not_tell_its_machines_the_listing_is_not_whole(account: Account) -> None:
    provider = account.provider(launch_batch=50, regions=["us-east-1", "us-west-2"], **FLEET)
    orders = await fleet_orders(account, provider, 2, 0)
    account.fake.controls.fail_before("CreateTags")
    await provider.launch(orders)
    account.fake.controls.fail_before("DescribeFleets")
    listing = await provider.observe(OWNER)
    assert (listing.complete, listing.unreachable, listing.sightings) == (False, ("us-east-1",), ())
    assert listing.scopes == ("us-west-2",)
    assert len((await provider.observe(OWNER)).sightings) == 2


async def test_a_fleet_of_one_has_a_host_key_and_is_made_once(account: Account) -> None:
    provider = account.provider(**FLEET)
    orders = await fleet_orders(account, provider, 1, 1)
    made = refs(await provider.launch(orders))
    for order, ref in zip(orders, made, strict=True):
        assert json.loads(account.fake.ec2.life(ref).user_data.partition("\n")[2])["ssh_keys"] == {
            "ed25519_private": order.host_key,
            "ed25519_public": json.loads(account.fake.ec2.life(ref).user_data.partition("\n")[2])["ssh_keys"][
                "ed25519_public"
            ],
        }
    assert refs(await account.provider(**FLEET).launch(orders)) == made
    await provider.terminate([one.handle for one in (await provider.observe(OWNER)).sightings])
    assert {problem(one).fault for one in await account.provider(**FLEET).launch(orders)} == {Fault.GONE}
    assert account.fake.alive() == []


async def test_a_machine_that_no_key_claims_has_a_key_that_nobody_wants(account: Account) -> None:
    provider = account.provider()
    ref = account.fake.foreign(owner=OWNER)
    [one] = (await provider.observe(OWNER)).sightings
    assert one.handle.ref == ref
    assert one.key.startswith(f"{OWNER}/")
    assert len(one.key.split("/")) == 5
    assert "unclaimed" in one.key


async def test_what_would_wait_too_long_for_its_turn_is_told_unsent(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LAUNCH_WAITS_S + 10 < LAUNCH_WITHIN_S < LAUNCH_TIMEOUT_S
    monkeypatch.setattr("providers.aws.clients.LAUNCH_WAITS_S", 0.2)
    provider = account.provider(launches_per_s=0.01, launches_burst=2)
    orders = await ordered(account, provider, 4)
    outcomes = await provider.launch(orders)
    waited = [one for one in outcomes if isinstance(one, ProviderError)]
    assert [(one.fault, one.paced) for one in waited] == [(Fault.THROTTLED, True)] * 2
    assert {one.retry_after_s for one in waited} == {100.0, 200.0}  # so long is the queue
    assert account.fake.controls.calls["RunInstances"] == len(account.fake.alive()) == 2
