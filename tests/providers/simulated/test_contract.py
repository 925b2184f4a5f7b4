"""The simulated provider keeps the contract, on the virtual clock and with its faults off."""

from collections.abc import AsyncIterator

import pytest

import tests.contract.test_contract as contract
from controller.simulation.clock import VirtualClock
from providers.model import ClusterOrder
from providers.simulated.adapter import SimulatedProvider
from tests.contract.harness import OWNER
from tests.providers.simulated.harness import CONFIG, START, SimulatedHarness, cloud_of

pytestmark = pytest.mark.anyio
for _name in [name for name in vars(contract) if name.startswith("test_")]:
    globals()[_name] = getattr(contract, _name)  # collected here too, with the harness below


@pytest.fixture
async def harness(anyio_backend: object) -> AsyncIterator[SimulatedHarness]:
    async with cloud_of(CONFIG) as made:
        yield made


async def test_a_cloud_of_its_own_lives_while_notices_are_listened_to() -> None:
    clock = VirtualClock(START)
    config = CONFIG.model_copy(update={"preemptions_per_hour": 60.0, "notice_s": 30.0})
    provider = SimulatedProvider("sim", config, clock=clock.now)
    cluster = await provider.open_cluster(
        ClusterOrder(cluster_id="c1", owner=OWNER, pool="pool", region="sim", public_key="ssh-ed25519 AAAA")
    )
    here = SimulatedHarness(provider, cluster)
    offer = next(one for one in await provider.offers() if one.lifecycle == "spot")
    await provider.launch([here.order(0, offer)])
    key, notice = await anext(provider.notices())
    assert key == here.order(0, offer).key
    assert notice is not None
    assert here.cloud.of_key(key)[0].state == "running"
