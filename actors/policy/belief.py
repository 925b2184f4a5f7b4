"""What is believed of a market: whether it has machines, how soon it takes one, when to ask again. Pure.

Source of the formulas: reference/spot.md, "What is believed of z"; `memory` has what they are read from.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum
from typing import Literal

from actors.market.state import MarketState
from actors.policy.memory import UNKNOWN_AGE_S, Counts, age_s, baseline, counts, seen_good_at

FRESH_S = 120.0  # news so young is as good as seen now
AGAIN_SHARE = 0.1  # a closed market is asked again after so much of the time that it has been closed
AGAIN_FIRST_S = 60.0
AGAIN_MOST_S = 900.0
HAZARD_LEAST = 0.015  # losses an hour, however old the spell
COMMON_WEIGHT = 4.0  # losses that the prior of all markets together is worth
OWN_WEIGHT = 2.0  # of one market
JOINT_WEIGHT = 4.0  # closures that the prior of a joint one is worth
JOINT_PRIOR = 0.25  # chance that a market closes with another of its zone or region
JOINT_PRIOR_TYPE = 0.0  # with one that has only its instance type in common

Standing = Literal["open", "believed", "doubtful", "closed"]


@dataclass(frozen=True, slots=True)
class Belief:
    """What is believed of one market at one moment.

    Attributes:
        standing: `open`: seen so just now; `believed`: nothing speaks against it; `doubtful`: it closed, and
            may be open again; `closed`: it is too early to ask again.
        hazard: losses an hour of a machine there.
        again_at: when it may be asked again.
    """

    standing: Standing
    hazard: float
    again_at: float


@dataclass(frozen=True, slots=True)
class Joint:
    """The chance that two markets close together, by what they have in common.

    `type` is that of two in different regions that have only their instance type in common.
    """

    zone: float
    region: float
    type: float


NO_COUNTS = Counts(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def common_multiplier(known: Iterable[Counts]) -> float:
    """By how much markets are worse than the baseline, all together: (4 + events) / (4 + expected)."""
    some = list(known)
    events = fsum(one.events for one in some)
    expected = fsum(one.expected for one in some)
    return (COMMON_WEIGHT + events) / (COMMON_WEIGHT + expected)


def joint(known: Iterable[Counts]) -> Joint:
    """Chances that markets close together: (4 p + joint closures) / (4 + the other closures)."""
    some = list(known)
    closures = fsum(one.closures for one in some)

    def chance(prior: float, together: float) -> float:
        alone = max(0.0, closures - together)  # of two that close together only the later one counts
        return (JOINT_WEIGHT * prior + together) / (JOINT_WEIGHT + alone)

    return Joint(
        zone=min(1.0, chance(JOINT_PRIOR, fsum(one.joint_zone for one in some))),
        region=min(1.0, chance(JOINT_PRIOR, fsum(one.joint_region for one in some))),
        type=min(
            1.0, chance(JOINT_PRIOR_TYPE, fsum(max(0.0, one.joint_type - one.joint_region) for one in some))
        ),
    )


def believe(memory: MarketState | None, known: Counts, common: float, now: float) -> Belief:
    """What is believed of a market.

    Args:
        memory: of it; None: nothing was ever heard.
        known: its counts as they are worth now.
        common: `common_multiplier` of all markets.
        now: UTC seconds.
    """
    own = (OWN_WEIGHT * common + known.events) / (OWN_WEIGHT + known.expected)
    if memory is None:
        return Belief("believed", max(HAZARD_LEAST, baseline(UNKNOWN_AGE_S) * own), now)
    again_at, age = rests_until(memory), age_s(memory, now)
    standing: Standing
    if memory.closed_since is not None:
        standing = "closed" if again_at > now else "doubtful"
        # Were it open, its spell began between the last bad news and now: in the middle, as far as we know.
        age = max(0.0, now - (memory.bad_at or memory.closed_since)) / 2
    elif again_at > now:
        standing = "closed"
    elif again_at > 0.0:  # full
        standing = "doubtful"
    else:
        good = seen_good_at(memory, now)
        standing = "open" if good is not None and now - good <= FRESH_S else "believed"
    return Belief(standing, max(HAZARD_LEAST, baseline(age) * own), again_at)


def rests_until(memory: MarketState) -> float:
    """When a market that had no machines may be asked again: after a tenth of the time it has been so."""
    bad_at = memory.bad_at
    since = memory.closed_since
    if bad_at is None:
        return 0.0
    if since is None:  # it lets us keep what we hold: full, since some time after the last launch
        refused = memory.last_refusal_at
        if refused is None or refused < bad_at or refused <= (memory.last_launch_at or 0.0):
            return 0.0
        since = memory.last_launch_at or bad_at
    return bad_at + min(AGAIN_MOST_S, max(AGAIN_FIRST_S, AGAIN_SHARE * (bad_at - since)))


def worth(memory: MarketState | None, now: float) -> Counts:
    """A market's counts as they are worth now; none of one that nothing was ever heard of."""
    return NO_COUNTS if memory is None else counts(memory, now)
