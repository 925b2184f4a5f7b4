"""Which offers a pool may buy at all: filters in a row, each with what it says of what it removes. Pure."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from actors.buying import Alternative
from actors.spec import PoolSpec
from providers.model import MICRO, Capabilities, Lifecycle, Offer

Reason = str | None
Test = Callable[[PoolSpec, Offer], Reason]


class Sifted(NamedTuple):
    """One filter of the funnel: how many offers it removed, and how many were left after it."""

    name: str
    removed: int
    left: int


def lifecycles(spec: PoolSpec) -> tuple[Lifecycle, ...]:
    """In which ways the pool's machines may be bought.

    A pool of spot machines buys on demand only what its `on_demand` floor or share wants.
    """
    if spec.allocation == "on-demand" or (spec.buying.policy == "on-demand" and spec.allocation != "spot"):
        return ("on_demand",)
    if spec.allocation == "spot" and not spec.on_demand.floor and not spec.on_demand.share:
        return ("spot",)
    return ("spot", "on_demand")


def _lifecycle(spec: PoolSpec, offer: Offer) -> Reason:
    if offer.lifecycle in lifecycles(spec):
        return None
    wanted = "on-demand" if spec.buying.policy == "on-demand" else spec.allocation
    return f"is {offer.lifecycle}, wanted {wanted}"


def _region(spec: PoolSpec, offer: Offer) -> Reason:
    return None if spec.region in (None, offer.region) else f"region is {offer.region}"


def _zone(spec: PoolSpec, offer: Offer) -> Reason:
    return None if spec.zone in (None, offer.zone) else f"zone is {offer.zone}"


def _type(spec: PoolSpec, offer: Offer) -> Reason:
    name = offer.instance_type.name
    return None if spec.instance_type in (None, name) else f"type is {name}"


def _vcpus(spec: PoolSpec, offer: Offer) -> Reason:
    there = offer.instance_type.vcpus
    return None if there >= (spec.vcpus or 0) else f"has {there:g} vcpus"


def _memory(spec: PoolSpec, offer: Offer) -> Reason:
    there = offer.instance_type.memory_gb
    return None if there >= (spec.memory_gb or 0) else f"has {there:g} GB memory"


def _disk(spec: PoolSpec, offer: Offer) -> Reason:
    there = offer.disk_gb
    return None if there is None or there >= (spec.disk_gb or 0) else f"has {there:g} GB disk"


def _architecture(spec: PoolSpec, offer: Offer) -> Reason:
    there = offer.instance_type.architecture
    return None if spec.architecture in (None, there) else f"architecture is {there}"


def _accelerator(spec: PoolSpec, offer: Offer) -> Reason:
    wanted, there = spec.accelerator, offer.instance_type.accelerator
    if wanted is None:
        return None
    if there is None:
        return "lacks the accelerator"
    if there.name != wanted.name:
        return f"accelerator is {there.name}"
    return None if there.count >= wanted.count else f"has {there.count:g} of the accelerator"


def _price(spec: PoolSpec, offer: Offer) -> Reason:
    if spec.max_hourly_cost is None or offer.micro_usd_per_hour <= spec.max_hourly_cost * MICRO:
        return None
    return f"costs {offer.micro_usd_per_hour / MICRO:g} dollars an hour"


def _alternatives(spec: PoolSpec, offer: Offer) -> Reason:
    return None if not spec.alternatives or _alternative(spec, offer) else "is none of the alternatives"


FILTERS: tuple[tuple[str, Test], ...] = (
    ("allocation", _lifecycle),
    ("region", _region),
    ("zone", _zone),
    ("instance_type", _type),
    ("vcpus", _vcpus),
    ("memory_gb", _memory),
    ("disk_gb", _disk),
    ("architecture", _architecture),
    ("accelerator", _accelerator),
    ("max_hourly_cost", _price),
    ("alternatives", _alternatives),
)


def mismatch(spec: PoolSpec, offer: Offer) -> str | None:
    """Why an offer does not have what the spec wants, None when it does. Numbers are minimums."""
    for _, test in FILTERS:
        reason = test(spec, offer)
        if reason is not None:
            return reason
    return None


def mismatch_but_allocation(spec: PoolSpec, offer: Offer) -> str | None:
    """Why an offer would not do even if the pool bought in that way, None when it would."""
    for name, test in FILTERS:
        if name != "allocation" and (reason := test(spec, offer)) is not None:
            return reason
    return None


def sells(offer: Offer, capabilities: Mapping[str, Capabilities]) -> bool:
    """Whether the provider can sell in this way at all, as far as is known."""
    known = capabilities.get(offer.provider)
    return offer.lifecycle != "spot" or known is None or known.spot


def price_factor(spec: PoolSpec, offer: Offer) -> float:
    """How dear the offer counts beside others: as the first alternative says that holds for it."""
    alternative = _alternative(spec, offer) if spec.alternatives else None
    return 1.0 if alternative is None else alternative.price_factor


def _alternative(spec: PoolSpec, offer: Offer) -> Alternative | None:
    return next((one for one in spec.alternatives if _holds(one, offer)), None)


def _holds(one: Alternative, offer: Offer) -> bool:
    return (
        one.lifecycle in (None, offer.lifecycle)
        and _named(one.provider, offer.provider)
        and _named(one.region, offer.region)
        and _named(one.zone, offer.zone)
        and _named(one.instance_type, offer.instance_type.name)
    )


def _named(patterns: tuple[str, ...], name: str) -> bool:
    """Whether a name is one of these; none given: any is. `[` means itself."""
    return not patterns or any(fnmatchcase(name, pattern.replace("[", "[[]")) for pattern in patterns)


def funnel(
    spec: PoolSpec, offers: Mapping[str, tuple[Offer, ...]], capabilities: Mapping[str, Capabilities]
) -> tuple[Sifted, ...]:
    """What each filter removes of all offers there are, in the order in which they are asked.

    The first line, `all`, removes nothing and counts them. A pool can be filled when the last has some left.
    """
    left = [offer for name in sorted(offers) for offer in offers[name]]
    steps = [Sifted("all", 0, len(left))]

    def sift(name: str, kept: Iterable[Offer]) -> None:
        nonlocal left
        there = len(left)
        left = list(kept)
        steps.append(Sifted(name, there - len(left), len(left)))

    sift("provider", (offer for offer in left if offer.provider in spec.provider))
    sift("spot", (offer for offer in left if sells(offer, capabilities)))
    for name, test in FILTERS:
        sift(name, [offer for offer in left if test(spec, offer) is None])
    return tuple(steps)
