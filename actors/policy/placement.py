"""Where the next machine is bought. Pure: the same input gives the same choice and the same reasons."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from actors.market.state import MarketState
from actors.spec import PoolSpec
from providers.model import MICRO, Capabilities, Offer, Value

LOOK_AGAIN_S = 15.0  # when nothing says when a market might be open again


class Rejection(Value):
    """A market refused what this pool wants, so many times in a row; until when it is left alone."""

    times: int
    until: float
    detail: str


@dataclass(frozen=True, slots=True)
class Passed:
    """A market that was passed over, and why."""

    market: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """Offers in the order in which they should be tried.

    Attributes:
        offers: allowed now, best first.
        passed: the others, each with its reason.
        retry_at: when the first of the others may be allowed.
        hopeless: no waiting will help: every market that matches was stopped for this pool.
    """

    offers: tuple[Offer, ...]
    passed: tuple[Passed, ...]
    retry_at: float
    hopeless: bool


def mismatch(spec: PoolSpec, offer: Offer) -> str | None:
    """Why an offer does not have what the spec wants, None when it does. Numbers are minimums."""
    shape = offer.instance_type
    lifecycles = {
        "spot": ("spot",),
        "on-demand": ("on_demand",),
        "spot-if-available": ("spot", "on_demand"),
        "cheapest": ("spot", "on_demand"),
    }[spec.allocation]
    checks = (
        (offer.lifecycle in lifecycles, f"is {offer.lifecycle}, wanted {spec.allocation}"),
        (spec.region in (None, offer.region), f"region is {offer.region}"),
        (spec.zone in (None, offer.zone), f"zone is {offer.zone}"),
        (spec.instance_type in (None, shape.name), f"type is {shape.name}"),
        (shape.vcpus >= (spec.vcpus or 0), f"has {shape.vcpus:g} vcpus"),
        (shape.memory_gb >= (spec.memory_gb or 0), f"has {shape.memory_gb:g} GB memory"),
        (
            offer.disk_gb is None or offer.disk_gb >= (spec.disk_gb or 0),
            f"has {offer.disk_gb or 0:g} GB disk",
        ),
        (spec.architecture in (None, shape.architecture), f"architecture is {shape.architecture}"),
        (_accelerated(spec, offer), "lacks the accelerator"),
        (
            spec.max_hourly_cost is None or offer.micro_usd_per_hour <= spec.max_hourly_cost * MICRO,
            f"costs {offer.micro_usd_per_hour / MICRO:g} dollars an hour",
        ),
    )
    return next((reason for holds, reason in checks if not holds), None)


def clock_time(at: float) -> str:
    """A time of the day, UTC, for a reason."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")


def _accelerated(spec: PoolSpec, offer: Offer) -> bool:
    wanted, there = spec.accelerator, offer.instance_type.accelerator
    if wanted is None:
        return True
    return there is not None and there.name == wanted.name and there.count >= wanted.count


def rank(
    spec: PoolSpec,
    offers: Mapping[str, tuple[Offer, ...]],
    capabilities: Mapping[str, Capabilities],
    markets: Mapping[str, MarketState],
    failures: Mapping[str, int],
    now: float,
    down: Mapping[str, str],
    rejections: Mapping[str, Rejection],
) -> Ranking:
    """Order the offers of a pool's providers.

    By lifecycle as the allocation says; then those first where no machine was taken lately; then by
    price; then by name, so that ties are broken the same way everywhere.

    Args:
        spec: the pool's.
        offers: newest known, by provider; a provider that is missing has not answered yet.
        capabilities: by provider.
        markets: memory, by str(market).
        failures: set-ups that failed in a row in this pool, by str(market).
        now: UTC seconds.
        down: providers that are passed over as a whole, and why: what is launched at one that does not answer
            could be neither seen nor ended.
        rejections: what providers refused of this pool's own wishes, by str(market).
    """
    allowed: list[tuple[tuple[bool, bool, int, str], Offer]] = []
    passed: list[Passed] = []
    times: list[float] = []
    stopped = matching = 0
    for provider in spec.provider:
        if provider not in offers:
            passed.append(Passed(provider, "has not told its offers yet"))
            times.append(now + 1.0)
            matching += 1
            continue
        if provider in down:
            passed.append(Passed(provider, down[provider]))
            times.append(now + LOOK_AGAIN_S)
            matching += 1
            continue
        for offer in offers[provider]:
            name = str(offer.market)
            reason = mismatch(spec, offer)
            if reason is None and offer.lifecycle == "spot" and not _sells_spot(provider, capabilities):
                reason = "provider sells no spot"
            if reason is not None:
                passed.append(Passed(name, reason))
                continue
            matching += 1
            memory = markets.get(name)
            rejected = rejections.get(name)
            if rejected is not None and rejected.until > now:
                times.append(rejected.until)
                when = clock_time(rejected.until)
                passed.append(Passed(name, f"refused as this pool wants it, until {when}: {rejected.detail}"))
                continue
            if failures.get(name, 0) >= spec.bootstrap_failures_max:
                stopped += 1
                passed.append(Passed(name, "stopped: machines there could not be set up"))
            elif memory is not None and memory.cool_until > now:
                times.append(memory.cool_until)
                why = f"refused ({memory.last_fault}), cooling down until {clock_time(memory.cool_until)}"
                passed.append(Passed(name, f"{why}: {memory.last_detail}" if memory.last_detail else why))
            else:
                avoid = memory is not None and memory.avoid_until > now
                later = spec.allocation == "spot-if-available" and offer.lifecycle == "on_demand"
                allowed.append(((later, avoid, offer.micro_usd_per_hour, name), offer))
    allowed.sort(key=lambda entry: entry[0])
    return Ranking(
        offers=tuple(offer for _, offer in allowed),
        passed=tuple(passed),
        retry_at=min(times, default=now + LOOK_AGAIN_S),
        hopeless=stopped > 0 and stopped == matching,
    )


def _sells_spot(provider: str, capabilities: Mapping[str, Capabilities]) -> bool:
    known = capabilities.get(provider)
    return known is None or known.spot
