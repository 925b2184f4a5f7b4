"""An account of the fake and adapters for it, for tests."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from providers.aws.adapter import AwsProvider
from providers.aws.config import AwsConfig
from providers.errors import ProviderError
from providers.host.keys import KeyStore
from providers.model import ClusterHandle, ClusterOrder, Handle, Lifecycle, Offer, Order
from tests.contract.aws import QUICK
from tests.fakes.aws.fake import AwsFake, aws, credentials

OWNER, REGION = "owner-1", "us-east-1"


class Account:
    """A fake account; `provider` makes an adapter for it, as often as one likes."""

    def __init__(self, fake: AwsFake, url: str, directory: Path) -> None:
        self.fake, self.url, self.directory = fake, url, directory
        self.keys = KeyStore(directory / "keys")
        self.made: list[AwsProvider] = []

    def provider(self, **settings: Any) -> AwsProvider:
        """An adapter, with these keys of the config."""
        told = {"endpoint_url": self.url, **QUICK, **credentials(self.directory), **settings}
        self.made.append(AwsProvider("aws", AwsConfig(**told), self.directory, b"agent"))
        return self.made[-1]

    async def cluster(
        self, provider: AwsProvider, name: str = "c1", *, owner: str = OWNER, region: str = REGION
    ) -> ClusterHandle:
        """An open cluster."""
        return await provider.open_cluster(self.cluster_order(name, owner=owner, region=region))

    def cluster_order(self, name: str = "c1", *, owner: str = OWNER, region: str = REGION) -> ClusterOrder:
        """What asks for a cluster."""
        public = self.keys.cluster_key(name)[1]
        return ClusterOrder(cluster_id=name, owner=owner, pool="pool", region=region, public_key=public)

    def order(
        self, node: int, offer: Offer, cluster: ClusterHandle, *, host_key: bool = True, **more: Any
    ) -> Order:
        """An order for a machine."""
        instance = f"pool-{node}-1"
        fields: dict[str, Any] = {
            "key": f"{OWNER}/pool/{node}/1/1",
            "owner": OWNER,
            "epoch": 3,
            "pool": "pool",
            "node": node,
            "instance_id": instance,
            "offer": offer,
            "cluster": cluster,
            "public_key": self.keys.cluster_key(cluster.cluster_id)[1],
            "host_key": self.keys.host_key(cluster.cluster_id, instance) if host_key else "",
        }
        return Order(**(fields | more))


@contextmanager
def account(directory: Path, **settings: Any) -> Iterator[Account]:
    """An account with nothing in it. What broke the vendor's model fails at the end."""
    with aws(**settings) as (fake, url):
        yield Account(fake, url, directory)
        assert "\n".join(fake.controls.violations) == ""


def offer_of(
    offers: Sequence[Offer],
    *,
    kind: str = "t3.small",
    zone: str = "us-east-1a",
    lifecycle: Lifecycle = "spot",
) -> Offer:
    """One of the offers."""
    return next(
        one for one in offers if (one.instance_type.name, one.zone, one.lifecycle) == (kind, zone, lifecycle)
    )


def refs(outcomes: Sequence[Handle | ProviderError]) -> list[str]:
    """The machines of outcomes that all went well."""
    for outcome in outcomes:
        assert isinstance(outcome, Handle), outcome
    return [outcome.ref for outcome in outcomes if isinstance(outcome, Handle)]


def problem(outcome: Handle | ProviderError | None) -> ProviderError:
    """The error of an outcome that went wrong."""
    assert isinstance(outcome, ProviderError), outcome
    return outcome
