"""aws for the contract tests: the adapter against the fake, with real ssh servers behind its machines."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from providers.aws.adapter import AwsProvider
from providers.aws.config import AwsConfig
from providers.host.keys import KeyStore
from providers.model import ClusterHandle, ClusterOrder, Order
from tests.contract.harness import AGENT_SOURCE, OWNER, Orders
from tests.fakes.aws.fake import AwsFake, aws, credentials
from tests.fakes.guests import Guests
from tests.fakes.metadata import MetadataServers
from tests.fakes.sshd import ProcessGuests

REGION, SSH_PORT = "us-east-1", 2222
SMALL = {"us-east-1b": "small"}
QUICK: dict[str, Any] = {
    "instance_types": ("t3.small",),
    "ssh_port": SSH_PORT,
    "visible_within_s": 0,
    "look_again_s": 0.05,
    "read_attempts": 1,
    "reads_per_s": 1000,
    "writes_per_s": 1000,
    "launches_per_s": 1000,
    "launches_burst": 1000,
}


class AwsHarness(Orders):
    """An account of the fake, one machine a call, so that each has the host key that we gave it."""

    provider: AwsProvider
    backend: ClassVar[Any] = "asyncio"
    launch_batch: ClassVar[int] = 1

    def __init__(self, fake: AwsFake, keys: KeyStore, config: AwsConfig, agent: bytes) -> None:
        self.fake, self.keys, self.agent = fake, keys, agent
        self.cluster: ClusterHandle
        self._config = config
        self._made: list[AwsProvider] = []
        self.provider = self.again()

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        directory: Path,
        *,
        agent: bytes = AGENT_SOURCE,
        guests: Guests | None = None,
        **settings: Any,
    ) -> AsyncIterator["AwsHarness"]:
        """An account with nothing in it and an open cluster."""
        guests = ProcessGuests() if guests is None else guests
        metadata = MetadataServers()
        with aws(guests=guests, imds=metadata, ssh_port=SSH_PORT, zones=SMALL) as (fake, url):
            for lifecycle in ("spot", "on_demand"):
                fake.controls.capacity[f"small/t3.small/{lifecycle}"] = 2
            told = {**QUICK, **credentials(directory), "launch_batch": cls.launch_batch, **settings}
            config = AwsConfig(endpoint_url=url, queues={REGION: fake.make_queue()}, **told)
            harness = cls(fake, KeyStore(directory / "keys"), config, agent)
            order = ClusterOrder(
                cluster_id="c1",
                owner=OWNER,
                pool="pool",
                region=REGION,
                public_key=harness.keys.cluster_key("c1")[1],
            )
            harness.cluster = await harness.provider.open_cluster(order)
            try:
                yield harness
            finally:
                for made in harness._made:
                    await made.aclose()
                metadata.close()
            assert fake.controls.violations == [], fake.controls.violations

    def again(self) -> AwsProvider:
        made = AwsProvider("aws", self._config, Path("/nonexistent"), self.agent)
        self._made.append(made)
        return made

    async def kill(self, order: Order) -> None:
        self.fake.kill(await self._ref(order))

    async def preempt(self, order: Order, within_s: float | None) -> None:
        self.fake.preempt(await self._ref(order), within_s, end=False)

    async def _ref(self, order: Order) -> str:
        seen = await self.provider.find(order.key)
        assert seen is not None
        return seen.handle.ref


class AwsBatchHarness(AwsHarness):
    """Many machines by one call; each makes a host key of its own."""

    launch_batch: ClassVar[int] = 50
