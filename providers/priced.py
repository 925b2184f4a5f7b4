"""Offers of providers that sell what their config says, at the prices it says."""

from collections.abc import Iterable
from typing import Protocol

from providers.model import MICRO, InstanceType, Lifecycle, Offer


class Priced(Protocol):
    """One kind of machine in one zone; None: not sold so. Prices are dollars an hour."""

    @property
    def instance_type(self) -> str: ...
    @property
    def region(self) -> str: ...
    @property
    def zone(self) -> str: ...
    @property
    def vcpus(self) -> float: ...
    @property
    def memory_gb(self) -> float: ...
    @property
    def spot(self) -> float | None: ...
    @property
    def on_demand(self) -> float | None: ...


def offers_of(priced: Iterable[Priced], provider: str) -> tuple[Offer, ...]:
    """An offer for every lifecycle that has a price: each is a market of its own."""
    return tuple(
        _offer(one, provider, lifecycle, dollars)
        for one in priced
        for lifecycle, dollars in _prices(one)
        if dollars is not None
    )


def _prices(one: Priced) -> tuple[tuple[Lifecycle, float | None], ...]:
    return ("spot", one.spot), ("on_demand", one.on_demand)


def _offer(one: Priced, provider: str, lifecycle: Lifecycle, dollars: float) -> Offer:
    return Offer(
        id=f"{one.zone}/{one.instance_type}/{lifecycle}",
        instance_type=InstanceType(name=one.instance_type, vcpus=one.vcpus, memory_gb=one.memory_gb),
        spot_price=one.spot,
        on_demand_price=one.on_demand,
        provider=provider,
        region=one.region,
        zone=one.zone,
        lifecycle=lifecycle,
        micro_usd_per_hour=round(dollars * MICRO),
    )
