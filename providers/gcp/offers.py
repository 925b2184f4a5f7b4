"""What a project could rent: the machine types of its zones, with their prices."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import anyio

from providers.errors import Fault, ProviderError
from providers.gcp.api import Api, last
from providers.gcp.config import GcpConfig
from providers.gcp.prices import Part, PriceList, Shape, accelerator_part, configured, price_of
from providers.model import MICRO, Accelerator, Architecture, InstanceType, Lifecycle, Offer

ZONES_AT_ONCE = 4
MB_PER_GB = 1024.0
_MEMORY = {
    "T4": "16GB", "V100": "16GB", "P100": "16GB", "P4": "8GB", "L4": "24GB", "A100": "40GB",
    "A100-80GB": "80GB", "H100": "80GB", "H100-MEGA-80GB": "80GB", "H200": "141GB", "B200": "180GB",
}  # fmt: skip
_LIFECYCLES: tuple[Lifecycle, ...] = ("spot", "on_demand")


def accelerator_of(types: Sequence[Mapping[str, Any]]) -> Accelerator | None:
    """The accelerator of a machine type, under the name that people use: nvidia-h100-80gb is an H100."""
    if not types:
        return None
    vendor_name = str(types[0].get("guestAcceleratorType", ""))
    words = accelerator_part(vendor_name).upper().split()
    if words[:1] == ["A100"] or words[1:2] != ["80GB"]:
        name = "-".join(words)
    else:
        name = "-".join((words[0], *words[2:]))  # there is no other H100
    return Accelerator(
        name=name,
        memory=_MEMORY.get(name, ""),
        count=int(types[0].get("guestAcceleratorCount", 1)),
        metadata={"type": vendor_name},
    )


def instance_type(found: Mapping[str, Any]) -> InstanceType:
    """A machine type of the vendor."""
    architecture: Architecture = "arm64" if found.get("architecture") == "ARM64" else "x86_64"
    return InstanceType(
        name=found["name"],
        accelerator=accelerator_of(found.get("accelerators") or ()),
        vcpus=found["guestCpus"],
        memory_gb=found["memoryMb"] / MB_PER_GB,
        architecture=architecture,
    )


class Catalog:
    """Zones, machine types and prices of one project."""

    def __init__(self, name: str, config: GcpConfig, api: Api, now: Callable[[], float]) -> None:
        self._name, self._config, self._api = name, config, api
        self._prices = PriceList(api, now)
        self._regions: dict[str, str] = {}  # of zones
        self.unpriced: tuple[str, ...] = ()  # machine types that have no price, as of the last look

    async def zones(self) -> Mapping[str, str]:
        """The zones of the config, with their regions."""
        everywhere = await self._everywhere()
        wanted, regions = self._config.zones, self._config.regions
        return {zone: region for zone, region in everywhere.items() if zone in wanted or region in regions}

    async def region_of(self, zone: str) -> str:
        """A zone's region. Raises ProviderError(rejected) when there is no such zone."""
        everywhere = self._regions if zone in self._regions else await self._everywhere()
        if zone not in everywhere:
            raise ProviderError(Fault.REJECTED, f"{zone} is no zone of this project")
        return everywhere[zone]

    def region_known(self, zone: str) -> str:
        """The same without asking: as zones are named when it is not known."""
        return self._regions.get(zone) or zone.rpartition("-")[0] or zone

    async def _everywhere(self) -> Mapping[str, str]:
        if not self._regions:
            found: dict[str, str] = {}
            for page in await self._api.pages("regions.list", f"{self._api.project}/regions"):
                for region in page.json.get("items") or ():
                    found |= {last(zone): region["name"] for zone in region.get("zones") or ()}
            self._regions = found
        return self._regions

    async def offers(self) -> Sequence[Offer]:
        """See `Provider.offers`. A zone that can't be read is left out, unless none can."""
        zones = await self.zones()
        parts: Mapping[Part, float] = {}
        if self._config.price_list:
            try:
                parts = await self._prices.fresh()
            except ProviderError:
                if not self._config.prices:  # else what the config has a price for can be offered
                    raise
        found: dict[str, list[Mapping[str, Any]]] = {}
        failures: list[ProviderError] = []
        limiter = anyio.CapacityLimiter(ZONES_AT_ONCE)

        async def read(zone: str) -> None:
            async with limiter:
                try:
                    found[zone] = await self._types(zone)
                except ProviderError as error:
                    failures.append(error)

        async with anyio.create_task_group() as reading:
            for zone in zones:
                reading.start_soon(read, zone)
        if failures and not found:
            raise failures[0]
        unpriced, offers = set[str](), list[Offer]()
        for zone in sorted(found):
            for machine in found[zone]:
                made = self._offers_of(instance_type(machine), machine, zone, zones[zone], parts)
                offers += made
                if not made:
                    unpriced.add(machine["name"])
        self.unpriced = tuple(sorted(unpriced))
        return tuple(offers)

    async def _types(self, zone: str) -> list[Mapping[str, Any]]:
        path = f"{self._api.project}/zones/{zone}/machineTypes"
        found: list[Mapping[str, Any]] = []
        for page in await self._api.pages("machineTypes.list", path):
            found += [
                machine
                for machine in page.json.get("items") or ()
                if any(fnmatchcase(machine["name"], glob) for glob in self._config.machine_types)
                and (machine.get("deprecated") or {}).get("state") not in ("OBSOLETE", "DELETED")
            ]
        return found

    def _offers_of(
        self,
        shape: InstanceType,
        machine: Mapping[str, Any],
        zone: str,
        region: str,
        parts: Mapping[Part, float],
    ) -> list[Offer]:
        priced = Shape(
            name=shape.name,
            vcpus=shape.vcpus,
            memory_gb=shape.memory_gb,
            accelerators=tuple(
                (str(one.get("guestAcceleratorType")), int(one.get("guestAcceleratorCount", 1)))
                for one in machine.get("accelerators") or ()
            ),
        )
        given = self._config.prices.get(shape.name)
        micro: dict[Lifecycle, int] = {}
        for lifecycle in _LIFECYCLES:
            dollars = configured(given, lifecycle)
            price = price_of(parts, priced, region, lifecycle) if given is None else None
            if dollars is not None:
                price = round(dollars * MICRO)
            if price is not None:
                micro[lifecycle] = price
        prices = {f"{lifecycle}_price": price / MICRO for lifecycle, price in micro.items()}
        return [
            Offer(
                id=f"{zone}/{shape.name}/{lifecycle}",
                instance_type=shape,
                spot_price=prices.get("spot_price"),
                on_demand_price=prices.get("on_demand_price"),
                provider=self._name,
                region=region,
                zone=zone,
                lifecycle=lifecycle,
                micro_usd_per_hour=price,
            )
            for lifecycle, price in micro.items()
        ]
