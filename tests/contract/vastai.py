"""The vast.ai adapter under the contract tests: its fake, with guests that are real where there are any."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest

from providers.host.keys import KeyStore
from providers.model import ClusterHandle, ClusterOrder, Order
from providers.secret import SecretSource
from providers.vastai.adapter import VastaiProvider
from providers.vastai.config import VastaiConfig
from tests.contract.harness import AGENT_SOURCE, OTHER_OWNER, OWNER, Orders
from tests.fakes.serving import served
from tests.fakes.sshd import ProcessGuests, need_guests
from tests.fakes.vastai.fake import API_KEY, FakeVastai

# As fast as may be: the fake refuses nothing for being too frequent unless it is told to.
EAGER: dict[str, Any] = {
    name: 0
    for name in (
        "search_every_s",
        "search_again_s",
        "create_every_s",
        "list_every_s",
        "destroy_every_s",
        "other_every_s",
        "visible_within_s",
    )
}


def config_for(url: str, directory: Path, **more: Any) -> VastaiConfig:
    """A config for a fake at `url`, its key in a file in `directory`."""
    file = directory / "api-key"
    file.write_text(API_KEY + "\n")
    file.chmod(0o600)
    return VastaiConfig(**({"api_key": SecretSource(file=file), "base_url": url} | EAGER | more))


class VastaiHarness(Orders):
    """A fake of the vendor, and our adapter."""

    provider: VastaiProvider
    backend: ClassVar[Any] = "asyncio"

    def __init__(
        self,
        fake: FakeVastai,
        provider: VastaiProvider,
        keys: KeyStore,
        cluster: ClusterHandle,
        again: Callable[[], VastaiProvider],
    ) -> None:
        self.fake, self.provider, self.keys, self.cluster, self.again = fake, provider, keys, cluster, again

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        directory: Path,
        *,
        agent: bytes = AGENT_SOURCE,
        guests: bool = True,
        fake: FakeVastai | None = None,
        **config: Any,
    ) -> AsyncIterator["VastaiHarness"]:
        """A fake on a port of its own, a provider and a cluster; `config`: keys not as usual.

        `fake`: one of one's own, without guests.
        """
        if guests:
            need_guests()
        real = ProcessGuests() if guests else None
        fake = fake or FakeVastai(guests=real)
        try:
            with served(fake) as url:
                settings = config_for(url, directory, **config)

                def made() -> VastaiProvider:
                    return VastaiProvider("vastai", settings, directory / "provider", agent)

                provider = made()
                keys = KeyStore(directory / "keys")
                _, public = keys.cluster_key("c1")
                cluster = await provider.open_cluster(
                    ClusterOrder(cluster_id="c1", owner=OWNER, pool="pool", region="US", public_key=public)
                )
                yield cls(fake, provider, keys, cluster, made)
                fake.forbidden = set()
                config_for(url, directory)
                await cls._cleared(made())
                await provider.aclose()
        finally:
            fake.close()
            if real is not None:
                real.close()
        assert fake.controls.violations == []

    @staticmethod
    async def _cleared(provider: VastaiProvider) -> None:
        for owner in (OWNER, OTHER_OWNER):
            listing = await provider.observe(owner)
            await provider.terminate([one.handle for one in listing.sightings])
        await provider.aclose()

    async def ref(self, order: Order) -> str:
        """The order's contract."""
        found = await self.provider.find(order.key)
        assert found is not None
        return found.handle.ref

    async def kill(self, order: Order) -> None:
        """Its contract vanishes."""
        ref = await self.ref(order)
        await anyio.to_thread.run_sync(self.fake.kill, ref)

    async def preempt(self, order: Order, within_s: float | None) -> None:
        """The vendor gives no notice: there is none to be seen."""
        if within_s is not None:
            pytest.skip("vast.ai gives no notice of a preemption")
        self.fake.preempt(await self.ref(order))
