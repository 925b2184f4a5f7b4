"""What every adapter must do, by `providers/contract.py`."""

from collections.abc import Sequence
from functools import partial

import anyio
import pytest

from providers.agent.wire import Hello
from providers.contract import AgentChannel, Wire
from providers.errors import Fault, HostError, ProviderError
from providers.model import ClusterOrder, Handle, Notice, Offer
from tests.contract.harness import OTHER_OWNER, OWNER, Harness, until_absent, until_running

pytestmark = pytest.mark.anyio


async def offer_of(harness: Harness, zone: str | None = None) -> Offer:
    offers = await harness.provider.offers()
    return next(one for one in offers if (one.zone == zone if zone else one.zone != "small"))


def handles(outcomes: Sequence[Handle | ProviderError]) -> list[Handle]:
    for outcome in outcomes:
        assert isinstance(outcome, Handle), outcome
    return [outcome for outcome in outcomes if isinstance(outcome, Handle)]


async def greeting(channel: AgentChannel, *, boot: str | None = None) -> Wire:
    hello = Hello(
        owner=OWNER, instance="pool-0-1", epoch=3, boot=boot, lease_s=600, slots=1, metrics_every_s=3600
    )
    await channel.send([hello.model_dump()])
    with anyio.fail_after(20):
        while True:
            for message in await channel.receive():
                if message["t"] == "hello":
                    return message


async def listen(channel: AgentChannel) -> None:
    while True:
        await channel.receive()


async def talk_on(channel: AgentChannel) -> None:
    with anyio.fail_after(20):
        while True:  # what is said last may still be on its way
            await channel.send([{"t": "nothing"}])
            await anyio.sleep(0.01)


async def test_every_offer_is_a_market_of_its_own_with_a_price(harness: Harness) -> None:
    offers = await harness.provider.offers()
    assert offers
    assert len({offer.market for offer in offers}) == len(offers)
    for offer in offers:
        assert offer.market.provider == harness.provider.name
        price = offer.spot_price if offer.lifecycle == "spot" else offer.on_demand_price
        assert price is not None
        assert offer.micro_usd_per_hour == round(price * 1_000_000)


async def test_one_key_makes_one_machine(harness: Harness) -> None:
    order = harness.order(0, await offer_of(harness))
    first = handles(await harness.provider.launch([order]))
    second = handles(await harness.provider.launch([order]))
    assert first == second
    listing = await harness.provider.observe(OWNER)
    assert [one.key for one in listing.sightings] == [order.key]


async def test_concurrent_launches_of_one_key_make_one_machine(harness: Harness) -> None:
    order = harness.order(0, await offer_of(harness))
    seen: list[Handle] = []

    async def launch() -> None:
        seen.extend(handles(await harness.provider.launch([order, order])))

    async with anyio.create_task_group() as launching:
        for _ in range(4):
            launching.start_soon(launch)
    assert len(seen) == 8
    assert len(set(seen)) == 1
    listing = await harness.provider.observe(OWNER)
    assert [one.handle for one in listing.sightings] == [seen[0]]


async def test_a_key_is_known_to_the_next_daemon_too(harness: Harness) -> None:
    order = harness.order(0, await offer_of(harness))
    [handle] = handles(await harness.provider.launch([order]))
    await harness.provider.aclose()
    await harness.provider.aclose()
    following = harness.again()
    try:
        assert handles(await following.launch([order])) == [handle]
        assert [one.handle for one in (await following.observe(OWNER)).sightings] == [handle]
        assert await following.terminate([handle]) == [None]
    finally:
        await following.aclose()


async def test_nothing_asked_is_nothing_done(harness: Harness) -> None:
    assert list(await harness.provider.launch([])) == []
    assert list(await harness.provider.terminate([])) == []
    assert (await harness.provider.observe(OWNER)).sightings == ()


async def test_what_can_be_done_is_told_beforehand(harness: Harness) -> None:
    can, offers = harness.provider.capabilities, await harness.provider.offers()
    assert can.launch_batch_max >= 1
    assert can.machines_max >= 1
    assert can.visible_within_s >= 0
    assert can.spot == any(offer.lifecycle == "spot" for offer in offers)
    assert {offer.billing_unit for offer in offers} == {can.billing_unit}


async def test_a_machine_is_seen_as_soon_as_is_promised(harness: Harness) -> None:
    order = harness.order(0, await offer_of(harness))
    [handle] = handles(await harness.provider.launch([order]))
    await anyio.sleep(harness.provider.capabilities.visible_within_s)
    found = await harness.provider.find(order.key)
    assert found is not None
    assert found.handle == handle
    assert [one.handle for one in (await harness.provider.observe(OWNER)).sightings] == [handle]


async def test_a_machine_is_shown_the_same_everywhere_and_its_launch_does_not_move(harness: Harness) -> None:
    before = (await harness.provider.observe(OWNER)).at
    order = harness.order(0, await offer_of(harness))
    handles(await harness.provider.launch([order]))
    found = await until_running(harness, order)
    listing = await harness.provider.observe(OWNER)
    assert listing.sightings == (found,)
    assert before <= found.launched_at <= listing.at
    assert found.ended_at is None
    assert await harness.again().find(order.key) == found


async def test_outcomes_are_in_the_order_of_the_orders(harness: Harness) -> None:
    offer = await offer_of(harness)
    orders = [harness.order(node, offer) for node in (2, 0, 1)]
    made = handles(await harness.provider.launch(orders))
    for order, handle in zip(orders, made, strict=True):
        found = await harness.provider.find(order.key)
        assert found is not None
        assert found.handle == handle
    gone = made[0].model_copy(update={"ref": made[0].ref[:-4] + "0000"})
    assert await harness.provider.terminate([made[1], gone, made[0]]) == [None, None, None]
    await until_absent(harness, orders[0])
    await until_absent(harness, orders[1])
    listing = await harness.provider.observe(OWNER)
    assert [one.key for one in listing.sightings if one.ended_at is None] == [orders[2].key]


async def test_a_call_that_is_cancelled_leaves_the_adapter_usable(harness: Harness) -> None:
    provider, offer = harness.provider, await offer_of(harness)
    order, bystander = harness.order(0, offer), harness.order(1, offer)
    [handle] = handles(await provider.launch([bystander]))
    for seconds in (0, 0.001, 0.03):
        for call in (
            partial(provider.launch, [order]),
            partial(provider.observe, OWNER),
            partial(provider.find, order.key),
            partial(provider.offers),
            partial(provider.terminate, [handle]),
        ):
            with anyio.move_on_after(seconds):
                await call()
    outcome = (await provider.launch([order]))[0]
    listing = await provider.observe(OWNER)
    assert [one.handle for one in listing.sightings if one.key == order.key] == [outcome]
    assert await provider.terminate([handle]) == [None]
    await until_absent(harness, bystander)


async def test_a_stream_that_is_cancelled_does_no_harm(harness: Harness) -> None:
    order = harness.order(0, await offer_of(harness))
    handles(await harness.provider.launch([order]))
    machine = harness.machine(order, await until_running(harness, order))
    for seconds in (0, 0.01):
        with anyio.move_on_after(seconds):
            async with harness.provider.attach(machine) as channel:
                await listen(channel)
    async with harness.provider.attach(machine) as channel:
        assert (await greeting(channel))["accepted"] is True


async def test_messages_come_whole_and_in_order(harness: Harness) -> None:
    order = harness.order(0, await offer_of(harness))
    handles(await harness.provider.launch([order]))
    machine = harness.machine(order, await until_running(harness, order))
    names = [f"nonsense-{number}-{'x' * 20}" for number in range(50)]
    heard: list[Wire] = []
    async with harness.provider.attach(machine) as channel:
        await greeting(channel)
        await channel.send([{"t": name, "epoch": 3} for name in names[:20]])
        for name in names[20:]:
            await channel.send([{"t": name, "epoch": 3}])
        with anyio.fail_after(20):
            while len(heard) < len(names):
                heard += [one for one in await channel.receive() if one["t"] == "refused"]
    assert [one["command"] for one in heard] == names
    numbers = [int(str(one["id"])) for one in heard]
    assert numbers == sorted(numbers)
    assert len(set(numbers)) == len(names)


async def test_find_sees_a_key_only_after_its_launch(harness: Harness) -> None:
    offer = await offer_of(harness)
    order = harness.order(0, offer)
    assert await harness.provider.find(order.key) is None
    [handle] = handles(await harness.provider.launch([order]))
    seen = await until_running(harness, order)
    assert seen.handle == handle
    assert seen.address is not None
    assert (seen.lifecycle, seen.instance_type) == (offer.lifecycle, offer.instance_type.name)
    assert seen.micro_usd_per_hour == offer.micro_usd_per_hour
    assert seen.epoch == order.epoch


async def test_observe_lists_all_of_an_owner_and_nothing_else(harness: Harness) -> None:
    offer = await offer_of(harness)
    ours = [harness.order(node, offer) for node in range(3)]
    theirs = harness.order(0, offer, owner=OTHER_OWNER)
    handles(await harness.provider.launch([*ours, theirs]))
    listing = await harness.provider.observe(OWNER)
    assert listing.complete
    assert {one.key for one in listing.sightings} == {order.key for order in ours}
    await harness.provider.terminate([one.handle for one in listing.sightings])
    for order in ours:
        await until_absent(harness, order)
    assert [one.key for one in (await harness.provider.observe(OTHER_OWNER)).sightings] == [theirs.key]


async def test_terminate_is_idempotent_and_what_is_gone_is_a_success(harness: Harness) -> None:
    order = harness.order(0, await offer_of(harness))
    [handle] = handles(await harness.provider.launch([order]))
    assert await harness.provider.terminate([handle, handle]) == [None, None]
    await until_absent(harness, order)
    assert await harness.provider.terminate([handle]) == [None]
    assert await harness.provider.find(order.key) is None


async def test_terminate_of_an_unknown_machine_is_a_success(harness: Harness) -> None:
    order = harness.order(0, await offer_of(harness))
    [handle] = handles(await harness.provider.launch([order]))
    unknown = handle.model_copy(update={"ref": handle.ref[:-4] + "0000"})
    assert await harness.provider.terminate([unknown]) == [None]
    assert await harness.provider.find(order.key) is not None


async def test_a_key_is_never_used_again(harness: Harness) -> None:
    offer = await offer_of(harness)
    ended, died = harness.order(0, offer), harness.order(1, offer)
    [handle, _] = handles(await harness.provider.launch([ended, died]))
    await harness.provider.terminate([handle])
    await harness.kill(died)
    await until_absent(harness, ended)
    await until_absent(harness, died)
    for outcome in await harness.provider.launch([ended, died]):
        assert isinstance(outcome, ProviderError)
        assert outcome.fault is Fault.GONE
    assert all(one.ended_at is not None for one in (await harness.provider.observe(OWNER)).sightings)


async def test_each_order_of_a_batch_has_its_own_outcome(harness: Harness) -> None:
    offer, small = await offer_of(harness), await offer_of(harness, "small")
    orders = [harness.order(node, small) for node in range(2)]
    handles(await harness.provider.launch(orders))
    first, refused, last = await harness.provider.launch(
        [harness.order(2, offer), harness.order(3, small), harness.order(4, offer)]
    )
    assert isinstance(refused, ProviderError)
    assert refused.fault is Fault.CAPACITY
    assert await harness.provider.find(harness.order(3, small).key) is None
    assert (await harness.provider.find(harness.order(2, offer).key)) is not None
    for node, outcome in ((2, first), (4, last)):
        seen = await harness.provider.find(harness.order(node, offer).key)
        assert seen is not None
        assert seen.handle == outcome


async def test_capacity_is_there_again_after_a_machine_has_ended(harness: Harness) -> None:
    small = await offer_of(harness, "small")
    orders = [harness.order(node, small) for node in range(2)]
    [handle, _] = handles(await harness.provider.launch(orders))
    await harness.provider.terminate([handle])
    await until_absent(harness, orders[0])
    handles(await harness.provider.launch([harness.order(2, small)]))


async def test_an_offer_that_nobody_made_is_rejected(harness: Harness) -> None:
    offer = (await offer_of(harness)).model_copy(update={"zone": "nowhere"})
    [outcome] = await harness.provider.launch([harness.order(0, offer)])
    assert isinstance(outcome, ProviderError)
    assert outcome.fault is Fault.REJECTED


async def test_a_cluster_is_opened_and_closed_as_often_as_one_likes(harness: Harness) -> None:
    order = ClusterOrder(
        cluster_id="c2",
        owner=OWNER,
        pool="pool",
        region=harness.cluster.region,
        public_key=harness.order(0, await offer_of(harness)).public_key,
    )
    first = await harness.provider.open_cluster(order)
    assert await harness.provider.open_cluster(order) == first
    await harness.provider.close_cluster(first)
    await harness.provider.close_cluster(first)


async def test_a_machine_that_died_is_in_no_listing(harness: Harness) -> None:
    order = harness.order(0, await offer_of(harness))
    handles(await harness.provider.launch([order]))
    await until_running(harness, order)
    await harness.kill(order)
    await until_absent(harness, order)
    assert await harness.provider.find(order.key) is None


async def test_a_notice_is_seen_and_pushed(harness: Harness) -> None:
    order = harness.order(0, await offer_of(harness))
    handles(await harness.provider.launch([order]))
    await until_running(harness, order)
    await harness.preempt(order, 3600)
    with anyio.fail_after(20):
        key, notice = await anext(harness.provider.notices())
    assert key == order.key
    assert isinstance(notice, Notice)
    assert notice.deadline_at is not None
    seen = await harness.provider.find(order.key)
    assert seen is not None
    assert seen.notice == notice


async def test_the_agent_is_the_same_on_the_next_stream(harness: Harness) -> None:
    order = harness.order(0, await offer_of(harness))
    handles(await harness.provider.launch([order]))
    machine = harness.machine(order, await until_running(harness, order))
    async with harness.provider.attach(machine) as channel:
        first = await greeting(channel)
        assert first["protocol"] == 1
        assert first["epoch"] == 3
    async with harness.provider.attach(machine) as channel:
        second = await greeting(channel, boot=str(first["boot"]))
        assert second["boot"] == first["boot"]


async def test_the_stream_to_a_machine_that_dies_ends_with_an_error(harness: Harness) -> None:
    order = harness.order(0, await offer_of(harness))
    handles(await harness.provider.launch([order]))
    machine = harness.machine(order, await until_running(harness, order))
    async with harness.provider.attach(machine) as channel:
        await greeting(channel)
        await harness.kill(order)
        with anyio.fail_after(20), pytest.raises(HostError):
            await listen(channel)
        for _ in range(2):  # it stays so
            with pytest.raises(HostError):
                await listen(channel)
        with pytest.raises(HostError):
            await talk_on(channel)
    await until_absent(harness, order)
    with pytest.raises(HostError) as caught:
        async with harness.provider.attach(machine):
            pass
    assert caught.value.fault in (Fault.GONE, Fault.NOT_SENT)
