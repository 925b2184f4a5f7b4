"""What can be rented: types, the zones that have them, and their prices."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

import anyio
import structlog

from providers.aws.clients import PRICING_REGION, Clients
from providers.aws.config import AwsConfig, FleetConfig
from providers.aws.places import Networks
from providers.aws.wire import ANY_ZONE, FLEET_PREFIX, shape_of
from providers.errors import Fault, ProviderError
from providers.model import MICRO, InstanceType, Lifecycle, Offer

TYPES_KEEP_S = 3600.0
PRICES_KEEP_S = 24 * 3600.0
PRICES_TRY_AGAIN_S = 600.0
OFFERS_MAX = 10_000
_log = structlog.get_logger("providers.aws")


@dataclass(frozen=True, slots=True)
class Kind:
    """An instance type in one region: its shape, the lifecycles it is sold in, the zones that have it."""

    shape: InstanceType
    lifecycles: tuple[Lifecycle, ...]
    zones: tuple[str, ...]


@dataclass(slots=True)
class _Region:
    kinds: dict[str, Kind] = field(default_factory=dict)
    kinds_until: float = -1.0
    on_demand: dict[str, float] = field(default_factory=dict)  # dollars an hour
    on_demand_until: float = -1.0


class Offers:
    """All offers of an account. Types and zones are read hourly, on-demand prices daily, others always."""

    def __init__(self, name: str, clients: Clients, config: AwsConfig, networks: Networks) -> None:
        self._name, self._clients, self._config, self._networks = name, clients, config, networks
        self._regions = defaultdict[str, _Region](_Region)
        self._looking = defaultdict[str, anyio.Lock](anyio.Lock)

    async def offers(self) -> Sequence[Offer]:
        """See `Provider.offers`. A region that can't be read is left out, unless all can't."""
        found: dict[str, list[Offer]] = {}
        failures: list[ProviderError] = []

        async def one(region: str) -> None:
            try:
                found[region] = await self._of(region)
            except ProviderError as error:
                failures.append(error)
                _log.warning(
                    "offers of a region can't be read", provider=self._name, region=region, why=str(error)
                )

        async with anyio.create_task_group() as reading:
            for region in self._config.regions:
                reading.start_soon(one, region)
        if not found:
            raise failures[0]
        return [offer for region in self._config.regions for offer in found.get(region, ())][:OFFERS_MAX]

    async def kinds(self, region: str) -> Mapping[str, Kind]:
        """The types that the config and its fleets name and the region has. Raises ProviderError."""
        known = self._regions[region]
        if known.kinds_until > anyio.current_time():
            return known.kinds
        async with self._looking[region]:
            if known.kinds_until <= anyio.current_time():
                known.kinds = await self._read_kinds(region)
                known.kinds_until = anyio.current_time() + TYPES_KEEP_S
        return known.kinds

    async def members(self, region: str, fleet: FleetConfig) -> list[Kind]:
        """The types of a fleet, in a fixed order. Raises ProviderError."""
        kinds = await self.kinds(region)
        return [
            kind
            for name, kind in sorted(kinds.items())
            if _matches(name, fleet.types) and kind.shape.architecture == fleet.architecture
        ]

    async def _of(self, region: str) -> list[Offer]:
        kinds = await self.kinds(region)
        spot = await self._spot_prices(region, kinds)
        on_demand = await self._on_demand_prices(region)
        found: list[Offer] = []
        for name, kind in sorted(kinds.items()):
            if not _matches(name, self._config.instance_types):
                continue
            for zone in kind.zones:
                prices = (spot.get((name, zone)), on_demand.get(name))
                found += self._offers(region, zone, kind.shape, kind.lifecycles, prices)
        for fleet in self._config.fleets:
            members = await self.members(region, fleet)
            if members:
                found += self._fleet_offers(region, fleet, members, spot, on_demand)
        return found

    def _offers(
        self,
        region: str,
        zone: str,
        shape: InstanceType,
        lifecycles: Sequence[Lifecycle],
        prices: tuple[float | None, float | None],
    ) -> list[Offer]:
        found = []
        by_lifecycle: tuple[tuple[Lifecycle, float | None], ...] = (
            ("spot", prices[0]),
            ("on_demand", prices[1]),
        )
        for lifecycle, dollars in by_lifecycle:
            if dollars is None or lifecycle not in lifecycles:
                continue
            offer = Offer(
                id=f"{zone if zone != ANY_ZONE else region}/{shape.name}/{lifecycle}",
                instance_type=shape,
                spot_price=prices[0],
                on_demand_price=prices[1],
                provider=self._name,
                region=region,
                zone=zone,
                lifecycle=lifecycle,
                micro_usd_per_hour=round(dollars * MICRO),
                disk_gb=16384.0,  # the largest volume; as large as is ordered
            )
            found.append(offer)
        return found

    def _fleet_offers(
        self,
        region: str,
        fleet: FleetConfig,
        members: Sequence[Kind],
        spot: Mapping[tuple[str, str], float],
        on_demand: Mapping[str, float],
    ) -> list[Offer]:
        places = [
            (one, zone) for one in members for zone in one.zones if not fleet.zones or zone in fleet.zones
        ]
        spots = [spot.get((one.shape.name, zone)) for one, zone in places if "spot" in one.lifecycles]
        demands = [on_demand.get(one.shape.name) for one, _ in places if "on_demand" in one.lifecycles]
        smallest = members[0].shape
        same = all(
            one.shape.accelerator is not None
            and smallest.accelerator is not None
            and one.shape.accelerator.name == smallest.accelerator.name
            for one in members
        )
        fewest = min(
            (one.shape for one in members), key=lambda one: one.accelerator.count if one.accelerator else 0
        )
        shape = InstanceType(
            name=f"{FLEET_PREFIX}{fleet.name}",
            accelerator=fewest.accelerator if same else None,
            vcpus=min(one.shape.vcpus for one in members),
            memory_gb=min(one.shape.memory_gb for one in members),
            architecture=fleet.architecture,
        )
        prices = (
            max((price for price in spots if price is not None), default=None),
            max((price for price in demands if price is not None), default=None),
        )
        return self._offers(region, ANY_ZONE, shape, ("spot", "on_demand"), prices)

    async def _read_kinds(self, region: str) -> dict[str, Kind]:
        globs = [
            *self._config.instance_types,
            *(glob for fleet in self._config.fleets for glob in fleet.types),
        ]
        wanted = [{"Name": "instance-type", "Values": sorted(set(globs))[:200]}]
        network = await self._networks.network(region)
        zones: dict[str, list[str]] = {}
        async for page in self._clients.pages(
            "ec2",
            region,
            "describe_instance_type_offerings",
            LocationType="availability-zone",
            Filters=wanted,
        ):
            for one in page.data["InstanceTypeOfferings"]:
                if one["Location"] in network.subnets:
                    zones.setdefault(str(one["InstanceType"]), []).append(str(one["Location"]))
        found: dict[str, Kind] = {}
        async for page in self._clients.pages("ec2", region, "describe_instance_types", Filters=wanted):
            for one in page.data["InstanceTypes"]:
                kind = self._kind(one, zones)
                if kind is not None and _matches(kind.shape.name, globs):
                    found[kind.shape.name] = kind
        return found

    def _kind(self, told: Mapping[str, Any], zones: Mapping[str, Sequence[str]]) -> Kind | None:
        shape = shape_of(told)
        if shape is None or shape.name not in zones or shape.architecture not in self._config.ami:
            return None
        if told.get("BareMetal") and shape.name not in self._config.instance_types:
            return None  # minutes to start and dear: only for those who name it in full
        classes = told.get("SupportedUsageClasses") or ("on-demand", "spot")
        lifecycles: list[Lifecycle] = []
        if "spot" in classes:
            lifecycles.append("spot")
        if "on-demand" in classes:
            lifecycles.append("on_demand")
        return Kind(shape, tuple(lifecycles), tuple(sorted(zones[shape.name])))

    async def _spot_prices(self, region: str, kinds: Mapping[str, Kind]) -> dict[tuple[str, str], float]:
        """Dollars an hour by type and zone. The newest of each counts: past ones may come along."""
        names = sorted(name for name, kind in kinds.items() if "spot" in kind.lifecycles)
        newest: dict[tuple[str, str], tuple[datetime, float]] = {}
        for start in range(0, len(names), 100):
            async for page in self._clients.pages(
                "ec2",
                region,
                "describe_spot_price_history",
                InstanceTypes=names[start : start + 100],
                ProductDescriptions=["Linux/UNIX"],
                StartTime=datetime.now(UTC),
            ):
                for one in page.data["SpotPriceHistory"]:
                    place = (str(one["InstanceType"]), str(one["AvailabilityZone"]))
                    if place not in newest or newest[place][0] < one["Timestamp"]:
                        newest[place] = (one["Timestamp"], float(one["SpotPrice"]))
        return {place: price for place, (_, price) in newest.items()}

    async def _on_demand_prices(self, region: str) -> dict[str, float]:
        """Dollars an hour by type; those of the config come first. What has no price is not offered."""
        known = self._regions[region]
        if known.on_demand_until <= anyio.current_time():
            keep_s = PRICES_KEEP_S
            try:
                known.on_demand = await self.price_list(region)
            except ProviderError as error:
                keep_s = PRICES_TRY_AGAIN_S
                _log.warning(
                    "no on-demand prices: only types that are in `prices` are offered on demand",
                    provider=self._name,
                    region=region,
                    why=str(error),
                )
            known.on_demand_until = anyio.current_time() + keep_s
        return {**known.on_demand, **self._config.prices}

    async def price_list(self, region: str, *, pages_max: int = 100) -> dict[str, float]:
        """The vendor's price list of Linux machines in a region, dollars an hour.

        A product that is not understood is left out. Raises ProviderError when none was, or when it can't be
        read.

        Source: https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_pricing_GetProducts.html
        """
        wanted = {
            "regionCode": region,
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "preInstalledSw": "NA",
            "capacitystatus": "Used",
        }
        matches = [{"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in wanted.items()]
        found: dict[str, float] = {}
        pages, strange = 0, ""
        async for page in self._clients.pages(
            "pricing",
            PRICING_REGION,
            "get_products",
            ServiceCode="AmazonEC2",
            Filters=matches,
            MaxResults=100,
        ):
            for product in page.data["PriceList"]:
                try:
                    price = _product(product)
                except (KeyError, ValueError, TypeError, AttributeError) as error:
                    strange = repr(error)
                    continue
                if price is not None:
                    found[price[0]] = price[1]
            pages += 1
            if pages >= pages_max:
                break
        if strange and not found:
            raise ProviderError(Fault.UNKNOWN, f"no product of the price list is understood: {strange}")
        return found


def _product(raw: str) -> tuple[str, float] | None:
    """Type and price of one product; None for one that is sold in another way.

    Raises KeyError, ValueError, TypeError or AttributeError for one that is not understood.
    """
    product = json.loads(raw)
    name = str(product["product"]["attributes"]["instanceType"])
    for term in product["terms"]["OnDemand"].values():
        for dimension in term["priceDimensions"].values():
            if dimension["unit"] == "Hrs" and float(dimension["pricePerUnit"]["USD"]) > 0:
                return name, float(dimension["pricePerUnit"]["USD"])
    return None


def _matches(name: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(name, glob) for glob in globs)
