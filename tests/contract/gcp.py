"""Compute Engine, on its fake."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from providers.gcp.adapter import GcpProvider
from providers.gcp.config import GcpConfig
from providers.gcp.names import machine_name
from providers.host.keys import KeyStore
from providers.model import ClusterHandle, ClusterOrder, Order
from providers.secret import SecretSource
from tests.contract.harness import AGENT_SOURCE, OWNER, Orders
from tests.fakes.controls import market
from tests.fakes.gcp.fake import PROJECT, FakeGcp
from tests.fakes.metadata import MetadataServers
from tests.fakes.sshd import ProcessGuests

SSH_PORT = 2222
KIND = "e2-standard-2"


def config_of(url: str, directory: Path, fake: FakeGcp, **settings: object) -> GcpConfig:
    """A config for a fake that is served at `url`; the key file is put into `directory`."""
    key = directory / "key.json"
    if not key.exists():
        fd = os.open(key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(fake.key_file())
    given: dict[str, object] = {
        "project": PROJECT,
        "zones": ("us-central1-a", "small"),
        "key": SecretSource(file=key),
        "machine_types": (KIND,),
        "ssh_port": SSH_PORT,
        "visible_within_s": 0,
        "notices_every_s": 0.05,
        "requests_per_minute": 100_000,
        "base_url": f"{url}/compute/v1",
        "resource_manager_url": f"{url}/v1",
        "billing_url": f"{url}/v1",
        "token_url": f"{url}/token",
    }
    return GcpConfig.model_validate(given | settings)


class GcpHarness(Orders):
    """A project at the fake."""

    provider: GcpProvider
    backend: ClassVar[Any] = "asyncio"

    def __init__(
        self,
        fake: FakeGcp,
        made: Callable[[], GcpProvider],
        keys: KeyStore,
        provider: GcpProvider,
        cluster: ClusterHandle,
    ) -> None:
        self.fake, self.again, self.keys = fake, made, keys
        self.provider, self.cluster = provider, cluster

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        directory: Path,
        *,
        agent: bytes = AGENT_SOURCE,
        with_guests: bool = True,
        **settings: Any,
    ) -> AsyncIterator["GcpHarness"]:
        """A fake, an adapter for it, and a cluster; `with_guests`: real processes behind the machines."""
        with ExitStack() as stack:
            guests, metadata = None, None
            if with_guests:
                guests, metadata = ProcessGuests(), MetadataServers()
                stack.callback(guests.close)
                stack.callback(metadata.close)
            fake = FakeGcp(guests=guests, metadata=metadata, ssh_port=SSH_PORT)
            for lifecycle in ("spot", "on_demand"):
                fake.controls.capacity[market("small", KIND, lifecycle)] = 2
            url = stack.enter_context(fake.serving())
            config = config_of(url, directory, fake, **settings)
            opened: list[GcpProvider] = []

            def made() -> GcpProvider:
                opened.append(GcpProvider("gcp", config, directory, agent))
                return opened[-1]

            provider = made()
            keys = KeyStore(directory / "keys")
            public = keys.cluster_key("c1")[1]
            cluster = await provider.open_cluster(
                ClusterOrder(
                    cluster_id="c1", owner=OWNER, pool="pool", region="us-central1", public_key=public
                )
            )
            try:
                yield cls(fake, made, keys, provider, cluster)
            finally:
                for one in opened:
                    await one.aclose()
            assert fake.controls.violations == [], fake.controls.violations

    async def kill(self, order: Order) -> None:
        self.fake.kill(machine_name(order.key))

    async def preempt(self, order: Order, within_s: float | None) -> None:
        self.fake.preempt(machine_name(order.key), within_s)
