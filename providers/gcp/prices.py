"""Prices: Compute Engine tells none, the Cloud Billing Catalog has a price list of its parts.

A machine costs its vCPUs, its memory and its accelerators, each sold per region and lifecycle. Which SKU is
which part is only told by its description ("Spot Preemptible E2 Instance Core running in Iowa"); a family or
part that is not recognised has no price, and no offer, unless the config gives one.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from providers.errors import Fault, ProviderError
from providers.gcp.api import Api
from providers.gcp.config import GcpPrice
from providers.model import MICRO, Lifecycle

SERVICE = "services/6F81-5844-456A"  # Compute Engine, in the catalog
PAGE_SIZE = 5000  # the catalog's most
PAGES_MAX = 100
EVERY_S = 86_400.0  # prices change once a month
PAGE_WITHIN_S = 45.0

_PART = re.compile(
    r"(?i)^(?:spot )?(?:preemptible )?(?P<family>.+?)(?: instance)? (?P<part>core|ram) running in "
)
_GPU = re.compile(
    r"(?i)^nvidia (?:tesla )?(?P<gpu>[a-z]+\d+[a-z]*(?: \d+gb)?(?: mega| plus)?) gpu "
    r"(?:attached to (?:spot )?preemptible vms )?running in "
)
_FAMILY = re.compile(r"^[a-z]+\d+[a-z]*$")
_SPELT = {"compute optimized": "c2", "memory-optimized": "m1", "memory optimized": "m1"}
_FILLERS = re.compile(r" (?:predefined|amd|arm)$")
_SHARED = {"e2-micro": 0.25, "e2-small": 0.5, "e2-medium": 1.0}  # vCPUs that are billed
_USAGE: Mapping[str, Lifecycle] = {"OnDemand": "on_demand", "Preemptible": "spot"}

Part = tuple[str, Lifecycle, str]  # region, lifecycle, such as "e2 core", "n2d ram" or "gpu l4"


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a machine type has a price.

    Attributes:
        accelerators: the vendor's names and how many of each.
    """

    name: str
    vcpus: float
    memory_gb: float
    accelerators: tuple[tuple[str, int], ...] = ()


def price_of(parts: Mapping[Part, float], shape: Shape, region: str, lifecycle: Lifecycle) -> int | None:
    """Micro-dollars an hour of a machine type; None when the price of some part is not known."""
    family = shape.name.partition("-")[0]
    if shape.name.endswith("-lssd") or family in ("f1", "g1"):  # with disks, or with a price of its own
        return None
    wanted = [
        (f"{family} core", _SHARED.get(shape.name, shape.vcpus)),
        (f"{family} ram", shape.memory_gb),
        *((f"gpu {accelerator_part(name)}", float(count)) for name, count in shape.accelerators),
    ]
    total = 0.0
    for part, amount in wanted:
        price = parts.get((region, lifecycle, part))
        if price is None:
            return None
        total += price * amount
    return round(total * MICRO)


def accelerator_part(name: str) -> str:
    """How the price list calls an accelerator: nvidia-tesla-t4 is t4, nvidia-h100-80gb is h100 80gb."""
    return name.lower().removeprefix("nvidia-").removeprefix("tesla-").replace("-", " ")


def parts_of(skus: Iterable[Mapping[str, Any]]) -> dict[Part, float]:
    """Dollars an hour of each part that is recognised: of a vCPU, of a GiB, of an accelerator."""
    found: dict[Part, float] = {}
    for sku in skus:
        lifecycle = _USAGE.get((sku.get("category") or {}).get("usageType", ""))
        part = _part(str(sku.get("description", "")))
        if lifecycle is None or part is None:
            continue
        dollars = _dollars(sku)
        if dollars is not None:
            for region in sku.get("serviceRegions") or ():
                found.setdefault((region, lifecycle, part), dollars)
    return found


def _part(description: str) -> str | None:
    if (gpu := _GPU.match(description)) is not None:
        return f"gpu {gpu['gpu'].lower()}"
    if (match := _PART.match(description)) is None:
        return None
    family = _FILLERS.sub("", match["family"].lower())
    family = _SPELT.get(family, family)
    return f"{family} {match['part'].lower()}" if _FAMILY.match(family) else None


def _dollars(sku: Mapping[str, Any]) -> float | None:
    """Dollars for an hour of one unit, of the newest price's last tier."""
    try:
        expression = sku["pricingInfo"][-1]["pricingExpression"]
        price = expression["tieredRates"][-1]["unitPrice"]
        if expression["usageUnit"] not in ("h", "GiBy.h") or price.get("currencyCode", "USD") != "USD":
            return None
        return int(price.get("units", 0)) + int(price.get("nanos", 0)) / 1e9
    except (KeyError, IndexError, TypeError, ValueError):
        return None


@dataclass
class PriceList:
    """The parts' prices, read once a day. When reading breaks off it goes on from there."""

    api: Api
    now: Callable[[], float]
    parts: dict[Part, float] = field(default_factory=dict)
    read_at: float | None = None
    _draft: dict[Part, float] = field(default_factory=dict)
    _token: str = ""
    _lock: anyio.Lock = field(default_factory=anyio.Lock)

    async def fresh(self) -> Mapping[Part, float]:
        """The prices. Raises ProviderError when there are none at all yet."""
        async with self._lock:
            if self.read_at is None or self.now() - self.read_at > EVERY_S:
                try:
                    await self._read()
                except ProviderError:
                    if self.read_at is None:
                        raise
        return self.parts

    async def _read(self) -> None:
        for _ in range(PAGES_MAX):
            query = {"pageSize": PAGE_SIZE, "currencyCode": "USD"}
            if self._token:
                query |= {"pageToken": self._token}
            try:
                answer = await self.api.read(
                    "skus.list", f"/{SERVICE}/skus", query=query, service="billing", within_s=PAGE_WITHIN_S
                )
            except ProviderError as error:
                if error.fault is Fault.REJECTED:  # the page's token is too old: from the start next time
                    self._draft, self._token = {}, ""
                raise
            page = answer.json()
            self._draft |= parts_of(page.get("skus") or ())
            self._token = page.get("nextPageToken") or ""
            if not self._token:
                self.parts, self._draft, self.read_at = self._draft, {}, self.now()
                return
        raise ProviderError(Fault.UNKNOWN, f"skus.list: more than {PAGES_MAX} pages")


def configured(given: GcpPrice | None, lifecycle: Lifecycle) -> float | None:
    """Dollars an hour that the config gives."""
    if given is None:
        return None
    return given.spot if lifecycle == "spot" else given.on_demand
