"""Into machines of the fake's, which are real process trees with a real ssh server."""

from pathlib import Path
from typing import Any

import anyio
import pytest

from providers.agent.wire import Hello
from providers.errors import Fault, HostError
from tests.contract.fake_agent import AGENT
from tests.contract.harness import OWNER, until_running
from tests.contract.vastai import VastaiHarness
from tests.providers.vastai.test_launch import launched, offer_in

pytestmark = [pytest.mark.anyio, pytest.mark.real]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("direct", [True, False])
async def test_the_agent_is_reached_directly_and_by_proxy(tmp_path: Path, direct: bool) -> None:
    async with VastaiHarness.open(tmp_path, agent=AGENT, direct_ssh=direct) as rig:
        order = rig.order(0, await offer_in(rig))
        await launched(rig, order)
        seen = await until_running(rig, order)
        assert seen.address is not None
        assert seen.address.host == ("127.0.0.1" if direct else "localhost")
        async with rig.provider.attach(rig.machine(order, seen)) as channel:
            await channel.send([{"t": "hello", "epoch": 1}])
            [hello] = await channel.receive()
        options: Any = hello["options"]
        assert options[options.index("--dir") + 1] == "/root/.everpool/agent"
        end = options[options.index("--end-command") + 1]
        assert rig.provider.capabilities.agent_python in end
        assert "shutdown" not in end


async def test_an_image_without_python_is_said_clearly(tmp_path: Path) -> None:
    async with VastaiHarness.open(tmp_path, agent=AGENT, python="python9") as rig:
        order = rig.order(0, await offer_in(rig))
        await launched(rig, order)
        machine = rig.machine(order, await until_running(rig, order))
        with pytest.raises(HostError) as caught:
            async with rig.provider.attach(machine):
                pass
    assert caught.value.fault is Fault.REJECTED
    assert "has no python9" in caught.value.detail


async def test_a_machine_that_was_outbid_is_not_reached_and_one_that_resumed_is(tmp_path: Path) -> None:
    async with VastaiHarness.open(tmp_path, agent=AGENT) as rig:
        order = rig.order(0, await offer_in(rig, lifecycle="spot"))
        handle = await launched(rig, order)
        machine = rig.machine(order, await until_running(rig, order))
        rig.fake.preempt(handle.ref)
        with pytest.raises(HostError) as caught:
            async with rig.provider.attach(machine):
                pass
        assert caught.value.fault in (Fault.GONE, Fault.NOT_SENT)


async def test_a_machine_whose_lease_is_over_destroys_its_own_contract(tmp_path: Path) -> None:
    async with VastaiHarness.open(tmp_path) as rig:
        offer = await offer_in(rig)
        left, bystander = rig.order(0, offer), rig.order(1, offer)
        await launched(rig, left)
        other = await launched(rig, bystander)
        machine = rig.machine(left, await until_running(rig, left))
        hello = Hello(
            owner=OWNER, instance=left.instance_id, epoch=3, lease_s=1, slots=1, metrics_every_s=3600
        )
        async with rig.provider.attach(machine) as channel:
            await channel.send([hello.model_dump()])
            await channel.receive()
        with anyio.fail_after(90):  # a guest, its agent and its end command start one after the other
            while True:
                if rig.fake.alive() == [other.ref]:
                    break
                await anyio.sleep(0.05)
