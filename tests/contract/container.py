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
from providers.model import ClusterHandle, ClusterOrder, Order
from tests.contract.harness import AGENT_SOURCE, OWNER, Orders
from tests.real.engines import EngineKind, RealEngine, engine

OFFERS: tuple[dict[str, Any], ...] = (
    {"spot": 0.003, "on_demand": 0.01, "vcpus": 1, "memory_gb": 0.25},
    {"zone": "small", "spot": 0.001, "capacity": 2, "vcpus": 0.5, "memory_gb": 0.125},
)


class ContainerHarness(Orders):
    """Containers of a real engine."""

    provider: ContainerProvider
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

    async def kill(self, order: Order) -> None:
        """`docker kill`."""
        self.engine.kill(container_name(order.key))

    async def preempt(self, order: Order, within_s: float | None) -> None:
        """An engine takes nothing back, so it has no notice to give."""
        pytest.skip("an engine gives no notices")


class PodmanHarness(ContainerHarness):
    """The same on podman."""

    engine_kind = "podman"
