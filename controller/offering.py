"""Every provider's offers: filtered, sorted, with what all pools remember of each market. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from actors.decision import World
from actors.policy.belief import Belief, believe, common_multiplier, worth
from actors.policy.eligible import FILTERS, Sifted, sells
from actors.policy.memory import Counts
from actors.policy.situation import market_name
from actors.spec import PoolSpec
from controller.explain_parts import remembered
from controller.patterns import fitting
from controller.views import Json, dollars
from providers.model import MICRO, Architecture, Offer

Sort = Literal["price", "name", "vcpus", "memory", "price-per-vcpu"]
Test = Callable[[Offer], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which offers are shown; numbers are minimums, names may have * and ?.

    Attributes:
        pool: the spec of a pool, whose own wishes come before the others.
        max_price: dollars an hour.
        count: of the accelerator.
    """

    pool: PoolSpec | None = None
    provider: Sequence[str] = ()
    region: Sequence[str] = ()
    zone: Sequence[str] = ()
    instance_type: Sequence[str] = ()
    lifecycle: Literal["spot", "on_demand"] | None = None
    vcpus: float | None = None
    memory_gb: float | None = None
    disk_gb: float | None = None
    accelerator: str | None = None
    count: float | None = None
    architecture: Architecture | None = None
    max_price: float | None = None

    def tests(self, world: World) -> list[tuple[str, Test]]:
        """The filters that were given, in the order in which they are asked."""
        found: list[tuple[str, Test]] = []
        spec = self.pool
        if spec is not None:
            found.append(("pool's provider", lambda offer: offer.provider in spec.provider))
            found.append(("pool's spot", lambda offer: sells(offer, world.capabilities)))
            found += [(f"pool's {name}", _of_pool(test, spec)) for name, test in FILTERS]
        names: tuple[tuple[str, Sequence[str], Callable[[Offer], str]], ...] = (
            ("provider", self.provider, lambda offer: offer.provider),
            ("region", self.region, lambda offer: offer.region),
            ("zone", self.zone, lambda offer: offer.zone),
            ("type", self.instance_type, lambda offer: offer.instance_type.name),
        )
        found += [(what, _named(patterns, of)) for what, patterns, of in names if patterns]
        if self.lifecycle is not None:
            found.append(("lifecycle", lambda offer: offer.lifecycle == self.lifecycle))
        numbers: tuple[tuple[str, float | None, Callable[[Offer], float | None]], ...] = (
            ("vcpus", self.vcpus, lambda offer: offer.instance_type.vcpus),
            ("memory", self.memory_gb, lambda offer: offer.instance_type.memory_gb),
            ("disk", self.disk_gb, lambda offer: offer.disk_gb),
        )
        found += [(what, _at_least(least, of)) for what, least, of in numbers if least is not None]
        if self.accelerator is not None:
            found.append(("accelerator", _accelerated(self.accelerator or "*", 0)))
        if self.count is not None:
            found.append(("count", _accelerated("*", self.count)))
        if self.architecture is not None:
            found.append(
                ("architecture", lambda offer: offer.instance_type.architecture == self.architecture)
            )
        most = self.max_price
        if most is not None:
            found.append(("max-price", lambda offer: offer.micro_usd_per_hour <= most * MICRO))
        return found


def _of_pool(test: Callable[[PoolSpec, Offer], str | None], spec: PoolSpec) -> Test:
    return lambda offer: test(spec, offer) is None


def _named(patterns: Sequence[str], of: Callable[[Offer], str]) -> Test:
    fits = fitting(patterns)
    return lambda offer: bool(fits(of(offer)))


def _at_least(least: float, of: Callable[[Offer], float | None]) -> Test:
    def test(offer: Offer) -> bool:
        there = of(offer)
        return there is None or there >= least

    return test


def _accelerated(pattern: str, count: float) -> Test:
    fits = fitting((pattern.lower(),))

    def test(offer: Offer) -> bool:
        there = offer.instance_type.accelerator
        return there is not None and bool(fits(there.name.lower())) and there.count >= count

    return test


def providers_of(world: World) -> list[str]:
    """Names of all providers that are known."""
    return sorted({*world.capabilities, *world.offers, *world.down})


def offered(world: World, wanted: Wanted, sort: Sort, limit: int, now: float) -> Json:
    """The offers that fit, best first, and what removed the others."""
    left = [offer for name in sorted(world.offers) for offer in world.offers[name]]
    steps = [Sifted("all", 0, len(left))]
    for name, test in wanted.tests(world):
        kept = [offer for offer in left if test(offer)]
        steps.append(Sifted(name, len(left) - len(kept), len(kept)))
        left = kept
    left.sort(key=_KEYS[sort])
    known = {name: worth(memory, now) for name, memory in world.markets.items()}
    common = common_multiplier(known.values())
    return {
        "at": now,
        "offers": [_row(offer, world, known, common, now) for offer in left[:limit]],
        "count": len(left),
        "steps": [step._asdict() for step in steps],
        "providers": [_provider(name, world, now) for name in providers_of(world)],
    }


def _name(offer: Offer) -> tuple[str, str, str, str, str]:
    kind = offer.instance_type.name
    return offer.provider, kind, offer.region, offer.zone, offer.lifecycle


_Key = tuple[float, float, tuple[str, str, str, str, str]]
_KEYS: dict[Sort, Callable[[Offer], _Key]] = {
    "price": lambda offer: (offer.micro_usd_per_hour, 0, _name(offer)),
    "name": lambda offer: (0, 0, _name(offer)),
    "vcpus": lambda offer: (-offer.instance_type.vcpus, offer.micro_usd_per_hour, _name(offer)),
    "memory": lambda offer: (-offer.instance_type.memory_gb, offer.micro_usd_per_hour, _name(offer)),
    "price-per-vcpu": lambda offer: (_per_vcpu(offer), offer.micro_usd_per_hour, _name(offer)),
}


def _per_vcpu(offer: Offer) -> float:
    vcpus = offer.instance_type.vcpus
    return offer.micro_usd_per_hour / vcpus if vcpus else float(offer.micro_usd_per_hour)


def _row(offer: Offer, world: World, known: dict[str, Counts], common: float, now: float) -> Json:
    name = market_name(offer)
    memory = world.markets.get(name)
    belief: Belief | None = None
    if offer.lifecycle == "spot":
        belief = believe(memory, known.get(name, worth(None, now)), common, now)
    at = world.offers_at.get(offer.provider)
    return {
        **offer.model_dump(mode="json"),
        "market": name,
        "usd_per_hour": dollars(offer.micro_usd_per_hour),
        "usd_per_vcpu_hour": _per_vcpu(offer) / MICRO,
        "age_s": None if at is None else max(0.0, now - at),
        "losses_per_hour": None if belief is None else belief.hazard,
        "standing": None if belief is None else belief.standing,
        "memory": None if memory is None else remembered(memory),
    }


def _provider(name: str, world: World, now: float) -> Json:
    offers, at = world.offers.get(name), world.offers_at.get(name)
    down = world.down.get(name)
    if offers is None and down is None:
        down = "has not told its offers yet"
    return {
        "provider": name,
        "offers": None if offers is None else len(offers),
        "age_s": None if at is None else max(0.0, now - at),
        "error": down,
    }
