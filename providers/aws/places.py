"""Where machines can be put: subnets and zones of each region."""

from collections import defaultdict
from dataclasses import dataclass

import anyio

from providers.aws.clients import Clients
from providers.aws.config import AwsConfig
from providers.errors import Fault, ProviderError

KEEP_S = 3600.0


@dataclass(frozen=True, slots=True)
class Network:
    """A region's network: the subnet of each zone, all in one vpc."""

    vpc: str
    subnets: dict[str, str]


class Networks:
    """The networks of all regions, kept for an hour."""

    def __init__(self, clients: Clients, config: AwsConfig) -> None:
        self._clients, self._config = clients, config
        self._known: dict[str, tuple[float, Network]] = {}
        self._looking = defaultdict[str, anyio.Lock](anyio.Lock)  # many that ask at once make one call

    async def network(self, region: str) -> Network:
        """The configured subnets, or those of the vpc, or the default subnets.

        Raises:
            ProviderError: rejected when there is none, or what the lookup failed with.
        """
        if (kept := self._kept(region)) is not None:
            return kept
        async with self._looking[region]:
            if (kept := self._kept(region)) is None:
                kept = await self._read(region)
                self._known[region] = (anyio.current_time() + KEEP_S, kept)
            return kept

    def _kept(self, region: str) -> Network | None:
        until, network = self._known.get(region, (0.0, None))
        return network if until > anyio.current_time() else None

    async def _read(self, region: str) -> Network:
        config = self._config
        if config.subnets:
            wanted = [{"Name": "subnet-id", "Values": list(config.subnets)}]
        elif config.vpc is not None:
            wanted = [{"Name": "vpc-id", "Values": [config.vpc]}]
        else:
            wanted = [{"Name": "default-for-az", "Values": ["true"]}]
        found: dict[str, str] = {}
        vpcs: set[str] = set()
        async for page in self._clients.pages("ec2", region, "describe_subnets", Filters=wanted):
            for subnet in sorted(page.data["Subnets"], key=lambda one: str(one["SubnetId"])):
                zone = str(subnet["AvailabilityZone"])
                vpcs.add(str(subnet["VpcId"]))
                if not config.zones or zone in config.zones:
                    found.setdefault(zone, str(subnet["SubnetId"]))
        if not found:
            raise ProviderError(Fault.REJECTED, f"{region} has no subnet for us: set subnets or vpc")
        if len(vpcs) > 1:
            raise ProviderError(Fault.REJECTED, f"the subnets are of several vpcs: {', '.join(sorted(vpcs))}")
        return Network(vpcs.pop(), found)
