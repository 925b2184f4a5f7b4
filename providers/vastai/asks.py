"""Searches and what they find: asks, as our values. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from providers.model import MICRO, Accelerator, Architecture, InstanceType, Lifecycle, Offer
from providers.vastai.config import PRICE_MAX, VastaiConfig
from providers.vastai.wire import Row, place_of

DAY_S = 86_400
MONTH_HOURS = 720  # storage_cost is dollars per GB and month; dstack's gpuhunt reckons 30 days
BID_STEP = 10_000  # bids are rounded up to so many parts of a dollar
BID_MIN = 0.001  # [OpenAPI, createInstance.price]


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing that can be rented, once. Prices are micro-dollars an hour.

    Attributes:
        bid: dollars an hour to bid for it; None: on demand.
        gpu_micro_usd: what it costs without its disk.
        disk_micro_usd: of each GB of disk.
        disk_max_gb: as much as its host would give.
    """

    id: int
    region: str
    zone: str
    shape: InstanceType
    gpu_name: str  # in the vendor's own spelling
    num_gpus: int
    lifecycle: Lifecycle
    bid: float | None
    gpu_micro_usd: int
    disk_micro_usd: float
    disk_max_gb: float

    def micro_usd(self, disk_gb: float) -> int:
        """The price with so much disk."""
        return self.gpu_micro_usd + round(self.disk_micro_usd * disk_gb)

    @property
    def market_id(self) -> str:
        """Names its market; the id of the offer that stands for all asks there."""
        return f"{self.region}/{self.zone}/{self.shape.name}/{self.lifecycle}"


def search_body(
    config: VastaiConfig, lifecycle: Lifecycle, *, narrowed_to: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What to search for: the config's filters, and those of one market when a launch wants more of it.

    Numbers are the API's: memory in MB (1 GB is 1000, as the vendor's CLI has it), durations in seconds.
    """
    body: dict[str, Any] = {
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "external": {"eq": False},
        "disk_space": {"gte": config.disk_gb},
        "duration": {"gte": config.min_days * DAY_S},
    }
    if config.verified:
        body["verified"] = {"eq": True}
    if config.datacenter:
        body["datacenter"] = {"eq": True}
    place: dict[str, Any] = {}
    if config.countries:
        place["in"] = list(config.countries)
    if config.not_countries:
        place["notin"] = list(config.not_countries)
    if place:
        body["geolocation"] = place
    if config.gpu_names:
        body["gpu_name"] = {"in": [name.replace("_", " ") for name in config.gpu_names]}
    if config.num_gpus:
        body["num_gpus"] = {"in": list(config.num_gpus)}
    minimums = {
        "gpu_ram": config.min_vram_gb and config.min_vram_gb * 1000,
        "cpu_cores_effective": config.min_vcpus,
        "cpu_ram": config.min_memory_gb and config.min_memory_gb * 1000,
        "inet_down": config.min_inet_mbps,
        "inet_up": config.min_inet_mbps,
        "reliability": config.min_reliability,
        "cuda_max_good": config.cuda_min,
    }
    body.update({name: {"gte": least} for name, least in minimums.items() if least is not None})
    if config.max_price is not None:
        body["dph_total"] = {"lte": config.max_price}
    body.update(narrowed_to or {})
    body["type"] = "on-demand" if lifecycle == "on_demand" else "bid"
    body["order"] = [["dph_total", "asc"]]
    body["limit"] = config.offers_max
    body["allocated_storage"] = config.disk_gb
    return body


def ask_of(row: Row, lifecycle: Lifecycle, config: VastaiConfig) -> Ask | None:
    """One row of a search; None when it lacks what we must know, or is more than may be paid."""
    try:
        total, storage = float(row["dph_total"]), _storage(row, config.disk_gb)
        bid, gpu = None, total - storage
        if lifecycle == "spot":
            lowest = float(row["min_bid"])
            bid = bid_of(lowest, storage, config)
            if bid < lowest:
                return None
            gpu = bid
        shape = _shape(row)
        if shape is None or gpu < 0:
            return None
        region, zone = place_of(row.get("geolocation"))
        ask = Ask(
            id=int(row["id"]),
            region=region,
            zone=zone,
            shape=shape,
            gpu_name=str(row["gpu_name"]),
            num_gpus=int(row["num_gpus"]),
            lifecycle=lifecycle,
            bid=bid,
            gpu_micro_usd=round(gpu * MICRO),
            disk_micro_usd=storage * MICRO / config.disk_gb,
            disk_max_gb=float(row.get("disk_space") or config.disk_gb),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    most = config.max_price
    return None if most is not None and ask.micro_usd(config.disk_gb) > round(most * MICRO) else ask


def bid_of(lowest: float, storage: float, config: VastaiConfig) -> float:
    """What to bid where `lowest` would win now; the config's max_price caps it together with the disk."""
    bid = math.ceil(round(max(lowest * config.bid_factor, BID_MIN) * BID_STEP, 6)) / BID_STEP
    most = PRICE_MAX if config.max_price is None else config.max_price - storage
    return min(bid, math.floor(round(most * BID_STEP, 6)) / BID_STEP)


def offer_of(provider: str, asks: list[Ask], config: VastaiConfig) -> Offer:
    """The offer that stands for all asks of one market, cheapest first."""
    first = asks[0]
    micro = first.micro_usd(config.disk_gb)
    spot = first.lifecycle == "spot"
    return Offer(
        id=first.market_id,
        instance_type=first.shape,
        spot_price=micro / MICRO if spot else None,
        on_demand_price=None if spot else micro / MICRO,
        billing_unit="second",
        specific={"gpu_name": first.gpu_name, "num_gpus": first.num_gpus},
        provider=provider,
        region=first.region,
        zone=first.zone,
        lifecycle=first.lifecycle,
        micro_usd_per_hour=micro,
        disk_gb=max(ask.disk_max_gb for ask in asks),
    )


def market_id(offer: Offer) -> str:
    """The id that an offer of ours has for its market."""
    return f"{offer.region}/{offer.zone}/{offer.instance_type.name}/{offer.lifecycle}"


def _storage(row: Row, disk_gb: float) -> float:
    """Dollars an hour for the disk that was searched with."""
    told = row.get("storage_total_cost")
    return float(told) if told is not None else float(row.get("storage_cost") or 0) * disk_gb / MONTH_HOURS


def _shape(row: Row) -> InstanceType | None:
    """The shape that an ask surely has. Asks differ in vcpus and memory: rounded down to powers of two, they
    make types, so that all asks of a type have what it says."""
    cores, effective = float(row.get("cpu_cores") or 0), float(row.get("cpu_cores_effective") or 0)
    # cpu_ram is the whole host's; one's part of it goes with the cores [dstack's gpuhunt]
    memory = float(row["cpu_ram"]) / 1000 * (effective / cores if cores else 0)
    gpus, gpu_name = int(row["num_gpus"]), str(row["gpu_name"] or "").strip()
    if effective < 1 or memory < 1 or gpus < 1 or not gpu_name:
        return None
    vcpus, memory_gb = 2 ** int(math.log2(effective)), 2 ** int(math.log2(memory))
    name, vram = gpu_name.replace(" ", "_").replace("/", "-"), round(float(row["gpu_ram"]) / 1024)
    architecture: Architecture = "arm64" if row.get("cpu_arch") in ("arm64", "aarch64") else "x86_64"
    return InstanceType(
        name=f"{gpus}x_{name}_{vram}GB-{vcpus}c-{memory_gb}g",
        accelerator=Accelerator(name=name, memory=f"{vram}GB", count=gpus),
        vcpus=vcpus,
        memory_gb=memory_gb,
        architecture=architecture,
    )
