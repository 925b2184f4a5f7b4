"""Contract harnesses on real engines."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from providers.container.adapter import ContainerProvider
from providers.container.config import ContainerConfig
from providers.container.wire import container_name
from providers.host.keys import KeyStore
from providers.model import ClusterHandle, ClusterOrder, Machine, Offer, Order, Sighting
from tests.contract.harness import AGENT_SOURCE, OWNER
from tests.real.engines import EngineKind, RealEngine, engine

OFFERS: tuple[dict[str, Any], ...] = (
    {"spot": 0.003, "on_demand": 0.01, "vcpus": 1, "memory_gb": 0.25},
    {"zone": "small", "spot": 0.001, "capacity": 2, "vcpus": 0.5, "memory_gb": 0.125},
)


class ContainerHarness:
    """Containers of a real engine."""

    backend: ClassVar[Any] = "asyncio"
    engine_kind: ClassVar[EngineKind] = "docker"

    def __init__(
        self,
        provider: ContainerProvider,
        keys: KeyStore,
        cluster: ClusterHandle,
        again: Callable[[], ContainerProvider],
        engine: RealEngine,
    ) -> None:
        self.provider = provider
        self.keys = keys
        self.cluster = cluster
        self.again = again
        self.engine = engine

    @classmethod
    @asynccontextmanager
    async def open(
        cls, directory: Path, *, agent: bytes = AGENT_SOURCE, **keys: Any
    ) -> AsyncIterator["ContainerHarness"]:
        """A provider and a cluster; `keys` are the config's."""
        real = engine(cls.engine_kind)
        config = ContainerConfig.model_validate(real.keys(**{"offers": OFFERS} | keys))
        opened: list[ContainerProvider] = []

        def made() -> ContainerProvider:
            opened.append(ContainerProvider("box", config, directory / "p", agent))
            return opened[-1]

        provider = made()
        store = KeyStore(directory / "keys")
        order = ClusterOrder(
            cluster_id="c1",
            owner=OWNER,
            pool="pool",
            region="local",
            public_key=store.cluster_key("c1")[1],
        )
        try:
            cluster = await provider.open_cluster(order)
            yield cls(provider, store, cluster, made, real)
        finally:
            for each in opened:
                await each.aclose()
            real.clear()

    def order(self, node: int, offer: Offer, *, owner: str = OWNER, attempt: int = 1, **more: Any) -> Order:
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
            public_key=self.keys.cluster_key("c1")[1],
            **more,
        )

    def machine(self, order: Order, sighting: Sighting) -> Machine:
        """How to get into the machine that was made of `order`."""
        assert sighting.address is not None
        return Machine(
            instance_id=order.instance_id,
            handle=sighting.handle,
            address=sighting.address,
            ssh_user=self.cluster.ssh_user,
            private_key_path=str(self.keys.private_key_path("c1")),
            known_hosts_path=str(self.keys.known_hosts_path("c1")),
        )

    async def kill(self, order: Order) -> None:
        """`docker kill`."""
        self.engine.kill(container_name(order.key))

    async def preempt(self, order: Order, within_s: float | None) -> None:
        """An engine takes nothing back, so it has no notice to give."""
        pytest.skip("an engine gives no notices")


class PodmanHarness(ContainerHarness):
    """The same on podman."""

    engine_kind = "podman"
