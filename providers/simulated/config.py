"""What can be set about a simulated provider: what it sells, how fast it is, and how it misbehaves."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from providers.model import MICRO, Capabilities, InstanceType, Lifecycle, Offer, Value

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)]
PerHour = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
Dollars = Annotated[float, Field(ge=0, le=100_000, allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Delay(Value):
    """A time that varies: `least_s` and more, by an exponential tail of mean `more_s`, cut at `most_s`."""

    least_s: Seconds = 0
    more_s: Seconds = 0
    most_s: Seconds = 3600

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        if self.least_s > self.most_s:
            raise ValueError(f"least_s={self.least_s:g} exceeds most_s={self.most_s:g}")
        return self


class SimulatedOffer(Value):
    """One kind of machine in one zone; every lifecycle with a price is a market of its own."""

    instance_type: Name = "sim"
    region: Name = "sim"
    zone: Name = "sim-a"
    vcpus: Annotated[float, Field(gt=0)] = 4
    memory_gb: Annotated[float, Field(gt=0)] = 16
    spot: Dollars | None = None  # dollars an hour; None: not sold so
    on_demand: Dollars | None = None
    capacity: Count | None = None  # machines at once in each of its markets; None: no limit
    preemptions_per_hour: PerHour | None = None  # of each spot machine here; None: as the provider

    @model_validator(mode="after")
    def _has_a_price(self) -> Self:
        if self.spot is None and self.on_demand is None:
            raise ValueError("give a price: spot, on_demand or both")
        return self


class Faults(Value):
    """How often calls go wrong, each as a share of the calls. What is left over goes well.

    Attributes:
        launch_capacity: refused, none left.
        launch_throttled: refused, try later.
        launch_unknown_made: the answer is lost; the machine is there.
        launch_unknown_lost: the answer is lost; there is no machine.
        terminate_unknown: the answer is lost; the machine ends.
        terminate_ignored: the answer is yes; the machine lives on.
        listing_incomplete: a listing that could not be read whole, and says so.
        call_throttled: any other call is refused, try later.
    """

    launch_capacity: Share = 0
    launch_throttled: Share = 0
    launch_unknown_made: Share = 0
    launch_unknown_lost: Share = 0
    terminate_unknown: Share = 0
    terminate_ignored: Share = 0
    listing_incomplete: Share = 0
    call_throttled: Share = 0
    cuts_per_hour: PerHour = 0  # of each open agent stream


_DEFAULT_OFFERS = tuple(
    SimulatedOffer(zone=zone, spot=spot, on_demand=0.010)
    for zone, spot in (("sim-a", 0.003), ("sim-b", 0.0035), ("sim-c", 0.004))
)


class SimulatedConfig(Value):
    """One [providers.<name>] table of kind simulated."""

    kind: Literal["simulated"] = "simulated"
    seed: int = 0
    offers: tuple[SimulatedOffer, ...] = _DEFAULT_OFFERS
    call_delay: Delay = Delay(least_s=0.05, more_s=0.1, most_s=5)  # of every call
    boot_delay: Delay = Delay(least_s=15, more_s=15, most_s=240)  # from launch to an address
    end_delay: Delay = Delay(least_s=2, more_s=5, most_s=60)  # from terminate to absence
    visible_within_s: Seconds = 5  # a machine may be missing from listings so long after its launch
    preemptions_per_hour: PerHour = 0  # of each spot machine
    notice_s: Seconds | None = 120  # lead time of a notice; None: there are no notices
    notice_share: Share = 1  # preemptions that are announced
    faults: Faults = Faults()
    launch_batch_max: Annotated[int, Field(ge=1, le=1000)] = 100
    machines_max: Annotated[int, Field(ge=1)] = 100_000

    @model_validator(mode="after")
    def _places_differ(self) -> Self:
        places = [(offer.zone, offer.instance_type) for offer in self.offers]
        if len(set(places)) != len(places):
            raise ValueError("two offers have the same zone and instance_type")
        return self

    def hazard_per_hour(self, zone: str, instance_type: str) -> float:
        """Preemptions an hour that a spot machine of this kind must expect."""
        for offer in self.offers:
            if (offer.zone, offer.instance_type) == (zone, instance_type):
                own = offer.preemptions_per_hour
                return self.preemptions_per_hour if own is None else own
        return 0.0

    def capabilities(self) -> Capabilities:
        """What this provider can do."""
        return Capabilities(
            spot=any(offer.spot is not None for offer in self.offers),
            notice_s=self.notice_s,
            launch_batch_max=self.launch_batch_max,
            dead_man_switch=True,
            tags=True,
            billing_unit="second",
            visible_within_s=self.visible_within_s,
            heartbeat=False,
            host_keys=False,
            machines_max=self.machines_max,
        )


def offers_of(config: SimulatedConfig, provider: str) -> tuple[Offer, ...]:
    """Every market of the config, as an offer."""
    found: list[Offer] = []
    for offer in config.offers:
        prices: tuple[tuple[Lifecycle, float | None], ...] = (
            ("spot", offer.spot),
            ("on_demand", offer.on_demand),
        )
        found += [
            _offer(offer, provider, lifecycle, dollars)
            for lifecycle, dollars in prices
            if dollars is not None
        ]
    return tuple(found)


def _offer(offer: SimulatedOffer, provider: str, lifecycle: Lifecycle, dollars: float) -> Offer:
    shape = InstanceType(name=offer.instance_type, vcpus=offer.vcpus, memory_gb=offer.memory_gb)
    return Offer(
        id=f"{offer.zone}/{offer.instance_type}/{lifecycle}",
        instance_type=shape,
        spot_price=offer.spot,
        on_demand_price=offer.on_demand,
        provider=provider,
        region=offer.region,
        zone=offer.zone,
        lifecycle=lifecycle,
        micro_usd_per_hour=round(dollars * MICRO),
    )
