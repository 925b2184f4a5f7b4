"""Real processes behind the fake's machines: the agent is put there, hears its notice, ends the machine."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from providers.agent.wire import Hello
from providers.contract import AgentChannel, Wire
from providers.errors import Fault, HostError
from tests.contract.gcp import GcpHarness
from tests.contract.harness import OWNER, until_running
from tests.providers.gcp.test_adapter import launched, offer_of

pytestmark = [pytest.mark.anyio, pytest.mark.real]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def gcp(tmp_path: Path, anyio_backend: object) -> AsyncIterator[GcpHarness]:
    async with GcpHarness.open(tmp_path) as opened:
        yield opened


async def greet(channel: AgentChannel, lease_s: float = 600) -> None:
    hello = Hello(owner=OWNER, instance="pool-0-1", epoch=3, lease_s=lease_s, slots=1, metrics_every_s=3600)
    await channel.send([hello.model_dump()])
    await heard(channel, "hello")


async def heard(channel: AgentChannel, kind: str) -> Wire:
    with anyio.fail_after(30):
        while True:
            for message in await channel.receive():
                if message["t"] == kind:
                    return message


async def test_the_agent_hears_of_the_preemption_from_the_metadata(gcp: GcpHarness) -> None:
    order = gcp.order(0, await offer_of(gcp))
    [handle] = await launched(gcp, order)
    async with gcp.provider.attach(gcp.machine(order, await until_running(gcp, order))) as channel:
        await greet(channel)
        gcp.fake.preempt(handle.ref, 30)
        told = await heard(channel, "notice")
        gcp.fake.end(handle.ref)
        with pytest.raises(HostError), anyio.fail_after(30):
            await heard(channel, "nothing of the kind")
    assert "preempt" in str(told["reason"])
    assert await gcp.provider.find(order.key) is None


async def test_a_machine_of_a_bulk_is_pinned_by_the_key_that_it_shows_first(tmp_path: Path) -> None:
    async with GcpHarness.open(tmp_path, bulk=2) as gcp:
        offer = await offer_of(gcp)
        orders = [gcp.order(node, offer) for node in range(3)]
        await launched(gcp, *orders)
        assert gcp.fake.controls.calls["instances.bulkInsert"] == 1
        for order in orders:
            async with gcp.provider.attach(gcp.machine(order, await until_running(gcp, order))) as channel:
                await greet(channel)


async def test_a_machine_with_another_host_key_is_not_trusted(gcp: GcpHarness) -> None:
    order = gcp.order(0, await offer_of(gcp))
    other = gcp.order(1, await offer_of(gcp))
    await launched(gcp, order.model_copy(update={"host_key": other.host_key}))
    seen = await until_running(gcp, order)
    with pytest.raises(HostError) as caught:
        async with gcp.provider.attach(gcp.machine(order, seen)):
            pass
    assert caught.value.fault is Fault.REJECTED


async def test_a_machine_that_hears_of_no_daemon_ends_itself(gcp: GcpHarness) -> None:
    order = gcp.order(0, await offer_of(gcp))
    await launched(gcp, order)
    async with gcp.provider.attach(gcp.machine(order, await until_running(gcp, order))) as channel:
        await greet(channel, lease_s=1)
    with anyio.fail_after(30):
        while True:
            seen = await gcp.provider.find(order.key)
            if seen is not None and seen.state == "stopped":
                break
            await anyio.sleep(0.1)
