"""What a simulated cloud sells: prices and capacities of each market, as they are at a moment."""

import math

from providers.model import MICRO, InstanceType, Lifecycle, Market, Offer
from providers.simulated.config import SimulatedConfig, SimulatedOffer
from providers.simulated.series import Course, Trace, Walk, course_of

Place = tuple[str, str, Lifecycle]  # zone, instance type, lifecycle


def place_of(offer: Offer) -> Place:
    """Where machines of an offer count against a capacity."""
    return offer.zone, offer.instance_type.name, offer.lifecycle


class Markets:
    """Every market of one cloud. Ages are seconds since the cloud began, asked for in growing order.

    Args:
        config: what is sold.
        provider: what the config calls the provider.
    """

    def __init__(self, config: SimulatedConfig, provider: str) -> None:
        self._provider = provider
        self._billing_unit = config.billing_unit
        self._sold: list[tuple[SimulatedOffer, Lifecycle]] = []
        self._prices: dict[Place, Course] = {}
        self._capacities: dict[Place, Course] = {}
        self._unlimited: set[Place] = set()
        self._hazards: dict[tuple[str, str], float] = {}
        for one in config.offers:
            self._add(one, config)
        self._shown: tuple[Offer, ...] = ()
        self._by_market: dict[Market, Offer] = {}
        self._shown_until: float | None = -math.inf

    def _add(self, one: SimulatedOffer, config: SimulatedConfig) -> None:
        seed = f"{config.seed}/{one.zone}/{one.instance_type}"
        own = one.preemptions_per_hour
        hazard = config.preemptions_per_hour if own is None else own
        self._hazards[(one.zone, one.instance_type)] = hazard
        lifecycles: tuple[Lifecycle, ...] = ("spot", "on_demand")
        for lifecycle in lifecycles:
            price = one.spot if lifecycle == "spot" else one.on_demand
            if price is None:
                continue
            place = (one.zone, one.instance_type, lifecycle)
            self._sold.append((one, lifecycle))
            self._prices[place] = course_of(price, f"{seed}/{lifecycle}")
            if one.capacity is None or (lifecycle == "on_demand" and isinstance(one.capacity, Trace | Walk)):
                continue
            self._capacities[place] = course_of(one.capacity, f"{seed}/capacity")
            if isinstance(one.capacity, Trace) and one.capacity.unlimited:
                self._unlimited.add(place)

    def offers(self, age_s: float) -> tuple[Offer, ...]:
        """Every market, with the prices of the moment."""
        if self._shown_until is not None and age_s >= self._shown_until:
            self._shown = tuple(self._offer(one, lifecycle, age_s) for one, lifecycle in self._sold)
            self._by_market = {offer.market: offer for offer in self._shown}
            changes = [course.next_change_s(age_s) for course in self._prices.values()]
            self._shown_until = min((at for at in changes if at is not None), default=None)
        return self._shown

    def offer(self, market: Market, age_s: float) -> Offer | None:
        """A market's offer of the moment; None: nobody sells that."""
        self.offers(age_s)
        return self._by_market.get(market)

    def capacity(self, place: Place, age_s: float) -> int | None:
        """How many machines can be had there at once; None: no limit."""
        course = self._capacities.get(place)
        if course is None:
            return None
        value = course.at(age_s)
        return None if place in self._unlimited and value > 0 else math.floor(value)

    def changing(self) -> list[Place]:
        """Where the capacity changes over time."""
        return [place for place, course in self._capacities.items() if course.next_change_s(0.0) is not None]

    def next_capacity_s(self, place: Place, age_s: float) -> float | None:
        """The age after this one at which the capacity may be another; None: never."""
        course = self._capacities.get(place)
        return None if course is None else course.next_change_s(age_s)

    def hazard_per_hour(self, offer: Offer) -> float:
        """Preemptions an hour that a spot machine of an offer must expect."""
        return self._hazards.get((offer.zone, offer.instance_type.name), 0.0)

    def _offer(self, one: SimulatedOffer, lifecycle: Lifecycle, age_s: float) -> Offer:
        spot, on_demand = self._dollars(one, "spot", age_s), self._dollars(one, "on_demand", age_s)
        dollars = spot if lifecycle == "spot" else on_demand
        assert dollars is not None
        return Offer(
            id=f"{one.zone}/{one.instance_type}/{lifecycle}",
            instance_type=InstanceType(name=one.instance_type, vcpus=one.vcpus, memory_gb=one.memory_gb),
            billing_unit=self._billing_unit,
            spot_price=spot,
            on_demand_price=on_demand,
            provider=self._provider,
            region=one.region,
            zone=one.zone,
            lifecycle=lifecycle,
            micro_usd_per_hour=round(dollars * MICRO),
        )

    def _dollars(self, one: SimulatedOffer, lifecycle: Lifecycle, age_s: float) -> float | None:
        course = self._prices.get((one.zone, one.instance_type, lifecycle))
        return None if course is None else round(course.at(age_s), 6)
