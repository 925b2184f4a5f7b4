"""The accounts of a world: two or three clouds of different temper, chosen by the seed."""

import random
from typing import Any

from providers.simulated.config import Delay, Faults, SimulatedConfig, SimulatedOffer
from providers.simulated.series import Walk


def accounts_of(seed: int, without: frozenset[str]) -> dict[str, SimulatedConfig]:
    """The clouds of a seed, by name; kinds of faults in `without` do not happen there."""
    dice = random.Random(f"{seed}/accounts")
    names = ["alpha", "bravo", "charlie"]
    if dice.random() < 0.8:
        names.remove(dice.choice(names))
    makers = {"alpha": _alpha, "bravo": _bravo, "charlie": _charlie}
    return {name: makers[name](dice.randrange(2**31), without) for name in names}


def _alpha(seed: int, without: frozenset[str]) -> SimulatedConfig:
    """One of the big ones: launch tokens, notices that are pushed, short of machines at times."""
    zones = (("alpha-1", 0.30, 3, 0.2), ("alpha-2", 0.33, 6, 0.08), ("alpha-3", 0.40, 16, 0.04))
    return _config(
        seed,
        without,
        _offers("alpha", zones, without),
        visible_within_s=20,
        notice_s=120,
        notice_share=0.7,
        shows_ended_s=600,
        faults={
            "launch_capacity": 0.08,
            "launch_throttled": 0.05,
            "launch_unknown_made": 0.05,
            "launch_unknown_lost": 0.05,
            "launch_refused_made": 0.02,
            "launch_partly": 0.03,
            "terminate_unknown": 0.05,
            "terminate_ignored": 0.03,
            "terminate_refused_pending": 0.2,
            "listing_incomplete": 0.03,
            "call_throttled": 0.03,
            "cuts_per_hour": 0.2,
            "notice_twice": 0.2,
            "notice_misdirected": 0.05,
        },
    )


def _bravo(seed: int, without: frozenset[str]) -> SimulatedConfig:
    """A marketplace: no tokens, no notices, listings that miss machines, machines that never come up."""
    zones = (("bravo-1", 0.20, 12, 0.15), ("bravo-2", 0.25, 12, 0.08))
    return _config(
        seed,
        without,
        _offers("bravo", zones, without),
        visible_within_s=45,
        notice_s=None,
        tokens=False,
        lists_stopped=seed % 2 == 0,
        addresses_reused=True,
        boot_delay=Delay(least_s=10, more_s=40, most_s=280),
        faults={
            "launch_capacity": 0.05,
            "launch_unknown_made": 0.08,
            "launch_unknown_lost": 0.04,
            "terminate_unknown": 0.05,
            "terminate_ignored": 0.05,
            "listing_incomplete": 0.02,
            "listing_misses": 0.02,
            "listing_stale": 0.03,
            "call_throttled": 0.03,
            "cuts_per_hour": 0.2,
            "boot_never": 0.02,
            "boot_unreachable": 0.02,
        },
    )


def _charlie(seed: int, without: frozenset[str]) -> SimulatedConfig:
    """Zones whose prices and capacities move."""
    zones = (("charlie-1", 0.28, 8, 0.08), ("charlie-2", 0.31, 10, 0.06), ("charlie-3", 0.50, 12, 0.02))
    offers = tuple(
        SimulatedOffer(
            region="charlie",
            zone=zone,
            spot=Walk(least=spot / 2, most=spot * 3, every_s=1800, step=spot / 4),
            on_demand=1.0,
            capacity=Walk(least=0, most=most, every_s=3600, step=most / 3),
            preemptions_per_hour=0.0 if "preemptions" in without else hazard,
        )
        for zone, spot, most, hazard in zones
    )
    return _config(
        seed,
        without,
        offers,
        visible_within_s=10,
        notice_s=30,
        notice_share=0.9,
        shows_ended_s=3600,
        notice_push_delay=Delay(least_s=0, more_s=10, most_s=60),
        faults={
            "launch_capacity": 0.05,
            "launch_throttled": 0.03,
            "launch_unknown_made": 0.03,
            "launch_partly": 0.03,
            "terminate_unknown": 0.03,
            "listing_incomplete": 0.05,
            "call_throttled": 0.03,
            "cuts_per_hour": 0.1,
            "notice_twice": 0.1,
        },
    )


def _offers(
    name: str, zones: tuple[tuple[str, float, int, float], ...], without: frozenset[str]
) -> tuple[SimulatedOffer, ...]:
    return tuple(
        SimulatedOffer(
            region=f"{name}-west" if zone.endswith("3") else f"{name}-east",
            zone=zone,
            spot=spot,
            on_demand=1.0,
            capacity=capacity,
            preemptions_per_hour=0.0 if "preemptions" in without else hazard,
        )
        for zone, spot, capacity, hazard in zones
    )


def _config(
    seed: int,
    without: frozenset[str],
    offers: tuple[SimulatedOffer, ...],
    *,
    faults: dict[str, float],
    **more: Any,
) -> SimulatedConfig:
    shares = {kind: share for kind, share in faults.items() if kind not in without}
    settings = {
        "call_delay": Delay(least_s=0.05, more_s=0.3, most_s=20),
        "boot_delay": Delay(least_s=15, more_s=20, most_s=400),
        **more,
    }
    return SimulatedConfig(seed=seed, offers=offers, faults=Faults(**shares), **settings)
