"""The simulated provider keeps the contract, on the virtual clock and with its faults off."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from controller.simulation.clock import VirtualClock
from providers.model import ClusterHandle, ClusterOrder, Machine, Offer, Order, Sighting
from providers.simulated.adapter import SimulatedProvider
from providers.simulated.cloud import Cloud
from providers.simulated.config import Delay, SimulatedConfig, SimulatedOffer
from tests.contract.harness import OWNER
from tests.contract.test_contract import (  # noqa: F401 - collected here too
    test_a_cluster_is_opened_and_closed_as_often_as_one_likes,
    test_a_key_is_never_used_again,
    test_a_machine_that_died_is_in_no_listing,
    test_a_notice_is_seen_and_pushed,
    test_an_offer_that_nobody_made_is_rejected,
    test_capacity_is_there_again_after_a_machine_has_ended,
    test_concurrent_launches_of_one_key_make_one_machine,
    test_each_order_of_a_batch_has_its_own_outcome,
    test_every_offer_is_a_market_of_its_own_with_a_price,
    test_find_sees_a_key_only_after_its_launch,
    test_observe_lists_all_of_an_owner_and_nothing_else,
    test_one_key_makes_one_machine,
    test_terminate_is_idempotent_and_what_is_gone_is_a_success,
    test_terminate_of_an_unknown_machine_is_a_success,
    test_the_agent_is_the_same_on_the_next_stream,
    test_the_stream_to_a_machine_that_dies_ends_with_an_error,
)

pytestmark = pytest.mark.anyio
CONFIG = SimulatedConfig(
    offers=(SimulatedOffer(spot=0.003, on_demand=0.01), SimulatedOffer(zone="small", spot=0.001, capacity=2)),
    boot_delay=Delay(least_s=0.5, more_s=0.2, most_s=5),
    visible_within_s=0,
)


class SimulatedHarness:
    """A cloud in memory."""

    def __init__(self, provider: SimulatedProvider, cluster: ClusterHandle) -> None:
        self.provider = provider
        self.cluster = cluster

    def order(self, node: int, offer: Offer, *, owner: str = OWNER, attempt: int = 1) -> Order:
        """An order that nobody has made yet."""
        return Order(
            key=f"{owner}/pool/{node}/1/{attempt}",
            owner=owner,
            epoch=3,
            pool="pool",
            node=node,
            instance_id=f"pool-{node}-{attempt}",
            offer=offer,
            cluster=self.cluster,
            public_key="ssh-ed25519 AAAA",
        )

    def machine(self, order: Order, sighting: Sighting) -> Machine:
        """How to get into the machine that was made of `order`."""
        assert sighting.address is not None
        return Machine(
            instance_id=order.instance_id,
            handle=sighting.handle,
            address=sighting.address,
            ssh_user=self.cluster.ssh_user,
            private_key_path="/keys/id",
            known_hosts_path="/keys/known_hosts",
        )

    async def kill(self, order: Order) -> None:
        """End the order's machine without a word."""
        self.provider.cloud.preempt(self.provider.cloud.machines[order.key], None)

    async def preempt(self, order: Order, within_s: float | None) -> None:
        """Give the order's machine its notice."""
        machine = self.provider.cloud.machines[order.key]
        self.provider.cloud.preempt(machine, 3600 if within_s is None else within_s, kill=False)


@pytest.fixture
def anyio_backend() -> Any:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


@pytest.fixture
async def harness(anyio_backend: Any) -> AsyncIterator[SimulatedHarness]:
    clock = VirtualClock(1_767_225_600.0)
    cloud = Cloud("sim", CONFIG, clock.now)
    provider = SimulatedProvider("sim", CONFIG, clock=clock.now, cloud=cloud)
    order = ClusterOrder(
        cluster_id="c1", owner=OWNER, pool="pool", region="sim", public_key="ssh-ed25519 AAAA"
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cloud.run)
        yield SimulatedHarness(provider, await provider.open_cluster(order))
        tasks.cancel_scope.cancel()


async def test_a_cloud_of_its_own_lives_while_notices_are_listened_to() -> None:
    clock = VirtualClock(1_767_225_600.0)
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
    assert here.provider.cloud.machines[key].state == "running"
