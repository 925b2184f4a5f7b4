"""What a market's memory is worth at a later time, and the risk that it is read by. Pure.

Ages are seconds since a market's current open spell is believed to have begun, hazards are losses an hour.
"""

from dataclasses import dataclass

from actors.market.state import MarketState

HALF_LIFE_S = 168 * 3600.0  # what happened longer ago counts half
NEWS_OLD_S = 3600.0  # older news says little of what is now
UNKNOWN_AGE_S = 86_400.0  # a market that is seen open for the first time has been so for about as long
UNHELD_WEIGHT = 0.5  # of the time between two looks, when no machine of ours was there
_STEP_S = 86_400.0  # exposure is forgotten in steps of so much
_STEPS_MAX = 70  # ten half-lives: what was before is forgotten


def baseline(age_s: float) -> float:
    """Losses an hour in a spell of that age: 0.7 (a + 0.4) ** -0.7, a in hours.

    Source: reference/spot.md, measured on traces of spot markets; young spells are fragile, old ones firm.
    """
    return 0.7 * (max(0.0, age_s) / 3600.0 + 0.4) ** -0.7  # type: ignore[no-any-return]


def exposure(from_age_s: float, to_age_s: float) -> float:
    """Losses that the baseline gives between two ages: its integral, 7/3 (a + 0.4) ** 0.3."""
    if to_age_s <= from_age_s:
        return 0.0
    return _integral(to_age_s) - _integral(from_age_s)


def _integral(age_s: float) -> float:
    return (0.7 / 0.3) * (max(0.0, age_s) / 3600.0 + 0.4) ** 0.3  # type: ignore[no-any-return]


def kept(seconds: float) -> float:
    """The share of a count that is left after so long."""
    return 0.5 ** (max(0.0, seconds) / HALF_LIFE_S)  # type: ignore[no-any-return]


def age_s(state: MarketState, now: float) -> float:
    """How long the spell has lasted in which the market is open, or how long ago it began."""
    return UNKNOWN_AGE_S if state.up_since is None else max(0.0, now - state.up_since)


def seen_good_at(state: MarketState, now: float) -> float | None:
    """When it was last seen to have machines: now, when some of ours are there and it did not close."""
    return now if state.holders and state.closed_since is None else state.good_at


def is_open(state: MarketState, now: float) -> bool:
    """Whether it is believed to have machines: good news within the hour, and no bad since."""
    good = seen_good_at(state, now)
    if good is None or state.closed_since is not None or now - good > NEWS_OLD_S:
        return False
    return state.bad_at is None or state.bad_at <= good


@dataclass(frozen=True, slots=True)
class Counts:
    """A market's counts as they are worth now; see `MarketState`."""

    events: float
    expected: float
    closures: float
    joint_zone: float
    joint_region: float
    joint_type: float


def counts(state: MarketState, now: float) -> Counts:
    """The counts with what was forgotten since, and with the time that machines were held since."""
    left = kept(now - state.decayed_at)
    return Counts(
        events=state.events * left,
        expected=state.expected * left + _held(state, now),
        closures=state.closures * left,
        joint_zone=state.joint_zone * left,
        joint_region=state.joint_region * left,
        joint_type=state.joint_type * left,
    )


def caught_up(state: MarketState, now: float) -> MarketState:
    """The counts as they are worth now."""
    worth = counts(state, now)
    return state.model_copy(
        update={
            "events": worth.events,
            "expected": worth.expected,
            "closures": worth.closures,
            "joint_zone": worth.joint_zone,
            "joint_region": worth.joint_region,
            "joint_type": worth.joint_type,
            "decayed_at": max(now, state.decayed_at),  # a clock that was set back forgets nothing twice
            "watched_at": max(now, state.watched_at or now) if state.holders else None,
            "since": now,
        }
    )


def up_since_after(up_since: float | None, share: float, now: float) -> float:
    """The believed start of the spell of those that are left when such a share was lost.

    All gone is a new spell, one of many gone hardly anything: the age shrinks by the share lost.
    """
    age = UNKNOWN_AGE_S if up_since is None else max(0.0, now - up_since)
    return now - age * (1.0 - share)


def bereaved(state: MarketState, lost: int, left: int, now: float) -> MarketState:
    """The memory as it will be when it has heard of losses of this moment; `left` are there yet."""
    state = caught_up(state, now)
    share = lost / (lost + left)
    closed_since = state.closed_since
    if not left and closed_since is None:
        closed_since = now
    return state.model_copy(
        update={
            "losses": state.losses + lost,
            "events": state.events + share,
            "last_loss_at": now,
            "bad_at": now,
            "closed_since": closed_since,
            "up_since": up_since_after(state.up_since, share, now),
        }
    )


def _held(state: MarketState, now: float) -> float:
    """Exposure since `watched_at`, when machines were held and it did not close, as it is worth now."""
    if not state.holders or state.watched_at is None or state.closed_since is not None:
        return 0.0
    at, total = max(state.watched_at, now - _STEPS_MAX * _STEP_S), 0.0
    while at < now:
        until = min(now, at + _STEP_S)
        total += exposure(age_s(state, at), age_s(state, until)) * kept(now - until)
        at = until
    return total
