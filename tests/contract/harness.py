"""What a contract test needs of an adapter besides the contract: orders, keys, and ways to hurt a machine."""

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import anyio

import providers.agent
from providers.contract import Provider
from providers.host.keys import KeyStore
from providers.local.adapter import LocalProvider
from providers.local.config import LocalConfig, LocalOffer
from providers.local.wire import Record, ref_of
from providers.model import ClusterHandle, ClusterOrder, Machine, Offer, Order, Sighting

AGENT_SOURCE = Path(providers.agent.__file__).with_name("agent.py").read_bytes()
OWNER, OTHER_OWNER = "owner-1", "owner-2"


class Harness(Protocol):
    """One adapter under test. Its offers must have one with `capacity` 2 in zone "small"."""

    cluster: ClusterHandle

    @property
    def provider(self) -> Provider:
        """The adapter."""
        ...

    def order(self, node: int, offer: Offer, *, owner: str = OWNER, attempt: int = 1) -> Order:
        """An order that nobody has made yet."""
        ...

    def machine(self, order: Order, sighting: Sighting) -> Machine:
        """How to get into the machine that was made of `order`."""
        ...

    def again(self) -> Provider:
        """Another adapter for the same account, as the next daemon has it."""
        ...

    async def kill(self, order: Order) -> None:
        """End the order's machine without a word."""
        ...

    async def preempt(self, order: Order, within_s: float | None) -> None:
        """Give the order's machine its notice; `within_s` None: nobody says when."""
        ...


class Kind(Protocol):
    """How to make a harness."""

    backend: Any

    def open(self, directory: Path) -> AbstractAsyncContextManager[Harness]:
        """A harness with nothing in it; leaving removes whatever is in it then."""
        ...


class Orders:
    """Orders for one open cluster, and the way into what is made of them."""

    provider: Provider
    keys: KeyStore
    cluster: ClusterHandle

    def order(self, node: int, offer: Offer, *, owner: str = OWNER, attempt: int = 1, **more: Any) -> Order:
        """An order that nobody has made yet; with a host key where machines take one."""
        instance = f"pool-{node}-{attempt}"
        takes_key = self.provider.capabilities.host_keys
        return Order(
            key=f"{owner}/pool/{node}/1/{attempt}",
            owner=owner,
            epoch=3,
            pool="pool",
            node=node,
            instance_id=instance,
            offer=offer,
            cluster=self.cluster,
            public_key=self.keys.cluster_key("c1")[1],
            host_key=self.keys.host_key("c1", instance) if takes_key else "",
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


class LocalHarness(Orders):
    """Real process trees."""

    provider: LocalProvider
    backend: ClassVar[Any] = "asyncio"

    def __init__(
        self,
        provider: LocalProvider,
        keys: KeyStore,
        cluster: ClusterHandle,
        again: Callable[[], LocalProvider],
    ) -> None:
        self.provider = provider
        self.keys = keys
        self.cluster = cluster
        self.again = again

    @classmethod
    @asynccontextmanager
    async def open(
        cls, directory: Path, *, agent: bytes = AGENT_SOURCE, config: LocalConfig | None = None
    ) -> AsyncIterator["LocalHarness"]:
        """A local provider and a cluster in `directory`."""
        offers = (LocalOffer(spot=0.003, on_demand=0.01), LocalOffer(zone="small", spot=0.001, capacity=2))
        config = config or LocalConfig(offers=offers)

        def made() -> LocalProvider:
            return LocalProvider("local", config, directory / "p", agent)

        provider = made()
        keys = KeyStore(directory / "keys")
        _, public = keys.cluster_key("c1")
        cluster = await provider.open_cluster(
            ClusterOrder(cluster_id="c1", owner=OWNER, pool="pool", region="local", public_key=public)
        )
        harness = cls(provider, keys, cluster, made)
        try:
            yield harness
        finally:
            for owner in (OWNER, OTHER_OWNER):
                listing = await provider.observe(owner)
                await provider.terminate([one.handle for one in listing.sightings])
            await provider.aclose()

    def directory(self, order: Order) -> Path:
        """The machine's directory."""
        return self.keys.root.parent / "p" / "machines" / ref_of(order.key)

    def record(self, order: Order) -> Record:
        """What the machine wrote about itself."""
        return Record.model_validate_json((self.directory(order) / "machine.json").read_bytes())

    async def kill(self, order: Order) -> None:
        os.kill(self.record(order).pid, signal.SIGKILL)

    async def preempt(self, order: Order, within_s: float | None) -> None:
        await self.provider.preempt(order.key, within_s=within_s, kill=False)


async def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    with anyio.fail_after(20):
        while True:
            if true():
                return
            await anyio.sleep(0.01)


async def until_running(harness: Harness, order: Order) -> Sighting:
    """Wait until the order's machine has an address."""
    with anyio.fail_after(20):
        while True:
            seen = await harness.provider.find(order.key)
            if seen is not None and seen.state == "running":
                return seen
            await anyio.sleep(0.01)


async def until_absent(harness: Harness, order: Order) -> None:
    """Wait until the order's machine is in no listing, or shown as ended."""
    with anyio.fail_after(20):
        while True:
            listing = await harness.provider.observe(order.owner)
            if all(one.key != order.key or one.ended_at is not None for one in listing.sightings):
                return
            await anyio.sleep(0.01)
