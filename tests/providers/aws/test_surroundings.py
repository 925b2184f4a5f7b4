"""Clusters, what is left behind, and what the doctor says."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from providers.aws import doctor
from providers.aws.clients import Clients, Reply
from providers.aws.config import AwsConfig, Service
from providers.aws.images import Images
from providers.aws.places import Networks
from providers.errors import Fault, ProviderError
from providers.gateway import CHECK_TIMEOUT_S
from providers.model import ClusterHandle, Handle, Leftover
from tests.fakes.aws.base import backend
from tests.providers.aws.account import OWNER, REGION, Account, offer_of, refs

pytestmark = pytest.mark.anyio
CLUSTER_CALLS = ("CreateSecurityGroup", "ImportKeyPair", "CreateLaunchTemplate")


async def test_a_cluster_is_opened_once_by_many(account: Account) -> None:
    opened: list[ClusterHandle] = []
    providers = [account.provider() for _ in range(4)]

    async def open_one(number: int) -> None:
        opened.append(await account.cluster(providers[number]))

    async with anyio.create_task_group() as opening:
        for number in range(4):
            opening.start_soon(open_one, number)
    assert len(opened) == 4
    assert all(one == opened[0] for one in opened)
    assert len(account.fake.resources()) == 3
    await providers[0].close_cluster(opened[0])
    await providers[1].close_cluster(opened[0])
    assert account.fake.resources() == []


@pytest.mark.parametrize("call", CLUSTER_CALLS)
async def test_a_part_that_was_made_without_an_answer_is_found_again(account: Account, call: str) -> None:
    account.fake.controls.fail_after(call)
    with pytest.raises(ProviderError) as caught:
        await account.cluster(account.provider())
    assert caught.value.fault is Fault.UNKNOWN
    await account.cluster(account.provider())
    assert len(account.fake.resources()) == 3


async def test_what_has_our_name_and_not_our_mark_is_not_used(account: Account) -> None:
    provider = account.provider()
    cluster = await account.cluster(provider)
    group = backend("ec2", REGION).get_security_group_from_id(cluster.specific["group"])
    for mark in ("somebody-else", None):
        backend("ec2", REGION).delete_tags([group.id], {"everpool-owner": None})
        if mark is not None:
            backend("ec2", REGION).create_tags([group.id], {"everpool-owner": mark})
        with pytest.raises(ProviderError) as caught:
            await account.cluster(account.provider())
        assert caught.value.fault is Fault.CONFLICT


async def test_a_group_in_use_is_told_and_the_rest_goes_later(account: Account) -> None:
    provider = account.provider()
    cluster = await account.cluster(provider)
    order = account.order(0, offer_of(await provider.offers()), cluster)
    account.fake.controls.ends_after_s = 0.0
    refs(outcomes := await provider.launch([order]))
    with pytest.raises(ProviderError) as caught:
        await provider.close_cluster(cluster)
    assert caught.value.fault is Fault.CONFLICT
    await provider.terminate([one for one in outcomes if isinstance(one, Handle)])
    await provider.close_cluster(cluster)
    assert account.fake.resources() == []


async def test_a_region_that_is_not_ours_is_rejected(account: Account) -> None:
    with pytest.raises(ProviderError) as caught:
        await account.cluster(account.provider(), region="eu-west-1")
    assert caught.value.fault is Fault.REJECTED


async def test_given_groups_and_subnets_are_used(account: Account) -> None:
    there = backend("ec2", REGION)
    vpc = there.create_vpc("10.9.0.0/16")
    subnet = there.create_subnet(vpc.id, "10.9.1.0/24", availability_zone="us-east-1c")
    group = there.create_security_group("theirs", "theirs", vpc_id=vpc.id)
    provider = account.provider(subnets=[subnet.id], security_groups=[group.id])
    offers = await provider.offers()
    assert {one.zone for one in offers} == {"us-east-1c"}
    cluster = await account.cluster(provider)
    [ref] = refs(await provider.launch([account.order(0, offer_of(offers, zone="us-east-1c"), cluster)]))
    options = account.fake.ec2.life(ref).options
    assert (options["SubnetId"], options["SecurityGroupIds"]) == (subnet.id, [group.id])
    await provider.terminate([one.handle for one in (await provider.observe(OWNER)).sightings])
    await provider.close_cluster(cluster)
    assert group.id in there.groups[vpc.id]


# --- leftovers --------------------------------------------------------------------------------------------


async def test_all_that_is_marked_as_ours_is_found_and_can_be_removed(account: Account) -> None:
    provider, there = account.provider(), backend("ec2", REGION)
    await account.cluster(provider)
    marks = {"everpool-owner": OWNER, "everpool-key": f"{OWNER}/pool/0/1/1", "everpool-cluster": "c1"}
    volume, theirs = there.create_volume(100, "us-east-1a"), there.create_volume(8, "us-east-1a")
    volume.add_tags(marks)
    theirs.add_tags({"everpool-owner": f"{OWNER}x", "Name": "everpool"})
    left = await provider.leftovers(OWNER)
    assert left.complete
    found = {one.kind: one for one in left.found}
    assert set(found) == {"group", "key", "template", "volume"}
    assert all(one.cluster_id == "c1" for one in left.found)
    assert found["volume"].key == f"{OWNER}/pool/0/1/1"
    assert found["volume"].micro_usd_per_hour == round(100 * 0.08 / 730 * 1_000_000)
    assert found["volume"].handle.zone == "us-east-1a"
    assert not found["volume"].in_use
    for one in left.found:
        await provider.remove(one)
        await provider.remove(one)  # gone is a success
    assert account.fake.resources() == [f"{REGION}/{theirs.id}"]


async def test_a_volume_of_a_living_machine_is_in_use_and_not_removed(account: Account) -> None:
    provider = account.provider()
    order = account.order(0, offer_of(await provider.offers()), await account.cluster(provider))
    refs(await provider.launch([order]))
    found = [one for one in (await provider.leftovers(OWNER)).found if one.kind in ("volume", "network")]
    assert {one.kind for one in found} == {"volume", "network"}
    assert [(one.in_use, one.key) for one in found] == [(True, order.key)] * 2
    volume = next(one for one in found if one.kind == "volume")
    with pytest.raises(ProviderError) as caught:
        await provider.remove(volume)
    assert caught.value.fault is Fault.CONFLICT


async def test_what_is_not_marked_is_never_removed(account: Account) -> None:
    provider, there = account.provider(), backend("ec2", REGION)
    await provider.leftovers(OWNER)
    theirs = there.create_volume(8, "us-east-1a")
    group = there.create_security_group("everpool-theirs", "theirs")
    for kind, ref in (("volume", theirs.id), ("group", group.id)):
        one = Leftover(kind=kind, handle=Handle(provider="aws", ref=ref, region=REGION))
        with pytest.raises(ProviderError) as caught:
            await provider.remove(one)
        assert caught.value.fault is Fault.REJECTED
    assert len(account.fake.resources()) == 2


async def test_a_region_that_can_not_be_read_makes_it_incomplete(account: Account) -> None:
    provider = account.provider(regions=[REGION, "us-west-2"])
    account.fake.controls.unreachable.add("us-west-2")
    left = await provider.leftovers(OWNER)
    assert (left.complete, left.unreachable) == (False, ("us-west-2",))
    assert {one.partition("/")[0] for one in left.scopes} == {REGION}


async def test_what_can_not_be_read_of_one_kind_is_all_that_is_missing(account: Account) -> None:
    provider = account.provider()
    cluster = await account.cluster(provider)
    assert set((await provider.leftovers(OWNER)).scopes) == {
        f"{REGION}/{kind}" for kind in ("volume", "network", "template", "key", "group")
    }
    account.fake.denied.add("DescribeKeyPairs")
    left = await provider.leftovers(OWNER)
    assert (left.complete, left.unreachable) == (False, (REGION,))
    assert set(left.scopes) == {f"{REGION}/{kind}" for kind in ("volume", "network", "template", "group")}
    assert {one.handle.ref for one in left.found} == {cluster.specific["group"], cluster.specific["template"]}


# --- doctor -----------------------------------------------------------------------------------------------


async def test_a_good_account_is_well(account: Account) -> None:
    provider = account.provider(queues={REGION: account.fake.make_queue()})
    lines = await provider.check(OWNER)
    assert [one for one in lines if not one.ok] == []
    assert {one.what for one in lines} >= {
        "credentials",
        "clock",
        "ec2:RunInstances in us-east-1",
        "price list in us-east-1",
        "queue of notices in us-east-1",
        "quota spot in us-east-1",
    }
    assert account.fake.resources() == []


async def test_broken_credentials_are_one_line(account: Account) -> None:
    account.fake.access_keys.clear()
    [line] = await account.provider().check(OWNER)
    assert (line.what, line.ok) == ("credentials", False)
    assert "access_key_id" in line.mend


@pytest.mark.parametrize(
    ("denied", "what", "mend"),
    [
        ("RunInstances", "ec2:RunInstances", "allow ec2:RunInstances"),
        ("TerminateInstances", "ec2:TerminateInstances", "allow ec2:TerminateInstances"),
        ("CreateTags", "ec2:CreateTags", "allow ec2:CreateTags"),
        ("DescribeInstances", "listing", "allow ec2:DescribeInstances"),
        ("GetParameter", "image x86_64", "allow ssm:GetParameter and ec2:DescribeImages"),
        ("GetProducts", "price list", "allow pricing:GetProducts; or set prices"),
        ("DescribeVolumes", "ec2:DescribeVolumes", "allow ec2:DescribeVolumes"),
        ("DescribeNetworkInterfaces", "ec2:DescribeNetworkInterfaces", "allow ec2:DescribeNetworkInterfaces"),
        ("DescribeKeyPairs", "ec2:DescribeKeyPairs", "allow ec2:DescribeKeyPairs"),
        ("DescribeSecurityGroups", "ec2:DescribeSecurityGroups", "allow ec2:DescribeSecurityGroups"),
        ("DescribeLaunchTemplates", "ec2:DescribeLaunchTemplates", "allow ec2:DescribeLaunchTemplates"),
        ("DescribeSpotPriceHistory", "ec2:DescribeSpotPriceHistory", "allow ec2:DescribeSpotPriceHistory"),
        ("DescribeFleets", "ec2:DescribeFleets", "allow ec2:DescribeFleets"),
        ("CreateFleet", "ec2:CreateFleet", "allow ec2:CreateFleet"),
        ("CreateSecurityGroup", "ec2:CreateSecurityGroup", "allow ec2:CreateSecurityGroup"),
        (
            "AuthorizeSecurityGroupIngress",
            "ec2:AuthorizeSecurityGroupIngress",
            "allow ec2:AuthorizeSecurityGroupIngress",
        ),
        ("DeleteSecurityGroup", "ec2:DeleteSecurityGroup", "allow ec2:DeleteSecurityGroup"),
        ("CreateLaunchTemplate", "ec2:CreateLaunchTemplate", "allow ec2:CreateLaunchTemplate"),
        ("DeleteLaunchTemplate", "ec2:DeleteLaunchTemplate", "allow ec2:DeleteLaunchTemplate"),
        ("ImportKeyPair", "ec2:ImportKeyPair", "allow ec2:ImportKeyPair"),
        ("DeleteKeyPair", "ec2:DeleteKeyPair", "allow ec2:DeleteKeyPair"),
        ("DeleteVolume", "ec2:DeleteVolume", "allow ec2:DeleteVolume"),
        ("DeleteNetworkInterface", "ec2:DeleteNetworkInterface", "allow ec2:DeleteNetworkInterface"),
        ("PassRole", "iam:PassRole", "allow iam:PassRole"),
        ("GetQueueAttributes", "queue of notices", "allow sqs:GetQueueAttributes"),
        ("DescribeSubnets", "instance types", "allow ec2:DescribeInstanceTypes"),
    ],
)
async def test_a_missing_permission_is_named(account: Account, denied: str, what: str, mend: str) -> None:
    account.fake.denied.add(denied)
    provider = account.provider(
        queues={REGION: account.fake.make_queue()},
        fleets=[{"name": "mixed", "types": ["t3.small"]}],
        iam_instance_profile="everpool",
    )
    lines = {one.what: one for one in await provider.check(OWNER)}
    line = lines[f"{what} in us-east-1"]
    assert not line.ok
    assert line.mend.startswith(mend)
    assert lines["credentials"].ok


async def test_what_else_is_wrong_is_told_with_what_mends_it(account: Account) -> None:
    account.fake.quota = 0
    queue = "https://sqs.us-east-1.amazonaws.com/123456789012/none"
    provider = account.provider(queues={REGION: queue}, ami={"x86_64": "ami-00000000"})
    wrong = {one.what: one.mend for one in await provider.check(OWNER) if not one.ok}
    assert wrong["quota spot in us-east-1"].startswith("ask aws to raise quota L-34B43A08")
    assert wrong["queue of notices in us-east-1"] == "set queues.us-east-1 to a queue that is there"
    assert wrong["image x86_64 in us-east-1"] == "set ami.x86_64 to an image of us-east-1"


async def test_what_never_answers_is_a_line_and_keeps_no_other_from_being_told(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> None:
        await anyio.sleep_forever()

    assert doctor.CREDENTIALS_S + doctor.LINE_S < 25 < CHECK_TIMEOUT_S
    monkeypatch.setattr(doctor, "LINE_S", 6.0)  # the others answer in less, also on a busy machine
    provider = account.provider()
    monkeypatch.setattr(provider._doctor._networks, "network", never)
    with anyio.fail_after(60):
        lines = {one.what: one for one in await provider.check(OWNER)}
    assert lines["instance types in us-east-1"].detail == "no answer in time"
    assert not lines["ec2:RunInstances in us-east-1"].ok
    assert lines["ec2:DescribeKeyPairs in us-east-1"].ok


# --- places and images --------------------------------------------------------------------------------------


class HalfDead(Clients):
    """A region never answers, and the other does."""

    async def pages(self, service: Service, region: str, operation: str, **_: Any) -> AsyncIterator[Reply]:
        await self._answer(region)
        subnet = {"SubnetId": "subnet-1", "AvailabilityZone": f"{region}a", "VpcId": "vpc-1"}
        yield Reply({"Subnets": [subnet]}, None)

    async def call(self, service: Service, region: str, operation: str, **_: Any) -> Reply:
        await self._answer(region)
        return Reply({"Images": [{}]}, None)

    async def _answer(self, region: str) -> None:
        if region != REGION:
            await anyio.sleep_forever()


async def test_a_region_that_does_not_answer_keeps_no_other_waiting() -> None:
    config = AwsConfig(regions=(REGION, "us-west-2"))
    clients = HalfDead("aws", config)
    networks, images = Networks(clients, config), Images(clients, config)
    async with anyio.create_task_group() as waiting:
        waiting.start_soon(networks.network, "us-west-2")
        waiting.start_soon(images.image, "us-west-2", "ami-12345678", "x86_64")
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(5):
            for _ in range(2):
                assert (await networks.network(REGION)).subnets == {"us-east-1a": "subnet-1"}
                assert (await images.image(REGION, "ami-12345678", "x86_64")).id == "ami-12345678"
        waiting.cancel_scope.cancel()
