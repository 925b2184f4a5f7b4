"""Clusters, what is left behind, and what the doctor says."""

import anyio
import pytest

from providers.errors import Fault, ProviderError
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
    there.allocate_address("vpc", tags=marks)
    left = await provider.leftovers(OWNER)
    assert left.complete
    found = {one.kind: one for one in left.found}
    assert set(found) == {"group", "key", "template", "volume", "address"}
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
        ("DescribeSubnets", "instance types", "allow ec2:DescribeInstanceTypes"),
    ],
)
async def test_a_missing_permission_is_named(account: Account, denied: str, what: str, mend: str) -> None:
    account.fake.denied.add(denied)
    lines = {one.what: one for one in await account.provider().check(OWNER)}
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
