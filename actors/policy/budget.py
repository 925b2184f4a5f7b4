"""What a pool has spent, and what it may spend yet. Pure.

Money is integer micro-dollars, times are UTC seconds, a day is one of UTC.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from actors.buying import Budget
from actors.policy.billing import cost_micro_usd
from actors.policy.billing import usd as usd
from actors.spec import PoolSpec
from providers.model import MICRO, Offer, Value

DAY_S = 86_400
DAYS_MAX = 62  # earlier days that are remembered one by one
BOOT_DEFAULT_S = 300.0  # how long a machine takes to be set up, while that is not known
STOP_GRACE_S = 10.0  # what tasks still get when a drain has run out of time
END_S = 90.0  # from the call that ends a machine until it bills no more, at the most
LOOK_S = 5.0  # an account may be looked at so late
LEAP_S = 600.0  # who first looks so long after a midnight was away, or the clock leapt over it

Period = Literal["day", "total"]


class Mark(Value):
    """The days of an account as they were before the clock leapt; as in `Spend`."""

    day: int
    before_day: int
    days: tuple[tuple[int, int], ...] = ()


class Spend(Value):
    """What a pool has cost.

    Attributes:
        gone: in all, of machines that are gone.
        day: which day it is, in days since the epoch; 0: the account was never looked at.
        before_day: what the pool had cost in all when that day began.
        days: earlier days and what they cost, oldest first; at most `DAYS_MAX`.
        warned: periods of which a warning was told and still holds.
        reached: the period whose limit was reached and still holds; None: it may spend.
        needed: what was set aside when it was reached: to end the machines there were, or to launch one.
        budget: what these two were judged by.
        least: what the cheapest machine that fits would commit, when last looked at.
        looked: what the meter of the machines showed then; nothing can have changed while it shows that.
        mark: to go on from when the clock comes back; forgotten when it passes a midnight as it should.
    """

    gone: int = 0
    day: int = 0
    before_day: int = 0
    days: tuple[tuple[int, int], ...] = ()
    warned: tuple[Period, ...] = ()
    reached: Period | None = None
    needed: int = 0
    budget: Budget = Budget()
    least: int = 0
    looked: tuple[int, int, int] | None = None
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be committed to new machines now; None: no limit. `why` and `until` when it is too little."""

    micro_usd: int | None = None
    why: str = ""
    until: float | None = None


NO_LIMIT = Allowance()


# --- the account ----------------------------------------------------------------------------------


def gone(spend: Spend, cost_micro_usd: int) -> Spend:
    """The account after a machine is gone that has cost so much in all."""
    return spend.model_copy(update={"gone": spend.gone + cost_micro_usd}) if cost_micro_usd else spend


def day_of(now: float) -> int:
    """Which day it is, in days since the epoch."""
    return int(now // DAY_S)


def midnight_after(now: float) -> float:
    """When the next day begins."""
    return float((day_of(now) + 1) * DAY_S)


def closed(spend: Spend, now: float, living: Callable[[float], int]) -> Spend:
    """The account with every day that is over closed at its midnight.

    `living(at)` is what the machines that are there had cost at that time. When machines turn out to have
    ended earlier than was thought, the pool has cost less than what was closed: the last days give it back,
    so that the days always add up. An account that was never looked at begins today: what its machines cost
    before is of no day. When the clock leaps and comes back, the account goes on from where it leapt; when it
    was ahead from the first, or is behind now, today has cost what was spent since the last midnight it saw.
    """
    if not spend.day:
        before = spend.gone + living(float(day_of(now) * DAY_S))
        return spend.model_copy(update={"day": day_of(now), "before_day": before})
    found = _closed(_on_its_way(spend, now), now, spend.gone, living)
    mark = found.mark
    if (found.day, found.before_day, found.days, mark) == (
        spend.day,
        spend.before_day,
        spend.days,
        spend.mark,
    ):
        return spend
    update = {"day": found.day, "before_day": found.before_day, "days": found.days, "mark": mark}
    return spend.model_copy(update=update)


@dataclass(frozen=True, slots=True)
class _Days:
    """The part of an account that the clock moves; as in `Spend`."""

    day: int
    before_day: int
    days: tuple[tuple[int, int], ...]
    mark: Mark | None


def _on_its_way(spend: Spend, now: float) -> _Days:
    """Where to go on from, and what is remembered should the clock come back."""
    today, day, mark = day_of(now), spend.day, spend.mark
    here = Mark(day=day, before_day=spend.before_day, days=spend.days)
    if mark is not None and (mark.day <= today < day or day < mark.day <= today):  # it came back
        here, mark = mark, None
    if today < here.day or now >= (here.day + 1) * DAY_S + LEAP_S:
        mark = here
    elif today != here.day:
        mark = None
    return _Days(here.day, here.before_day, here.days, mark)


def _closed(found: _Days, now: float, gone: int, living: Callable[[float], int]) -> _Days:
    today = day_of(now)
    day, before, days = found.day, found.before_day, found.days
    if day < today - DAYS_MAX:  # nobody remembers these one by one
        day, before = today - DAYS_MAX, gone + living(float((today - DAYS_MAX) * DAY_S))
    while day < today:
        total = gone + living(float((day + 1) * DAY_S))
        days, before = _given_back(days, before, total)
        days = (*days, (day, total - before))
        day, before = day + 1, total
    days, before = _given_back(days, before, gone + living(now))
    if day > today:
        days = tuple(one for one in days if one[0] < today)
    return _Days(today, before, days[-DAYS_MAX:], found.mark)


def _given_back(
    days: tuple[tuple[int, int], ...], before: int, total: int
) -> tuple[tuple[tuple[int, int], ...], int]:
    """The days, and what they cost in all, when the pool has cost no more than `total` by now."""
    kept = list(days)
    for i in range(len(kept) - 1, -1, -1):
        if before <= total:
            break
        day, cost = kept[i]
        back = min(cost, before - total)
        kept[i], before = (day, cost - back), before - back
    return tuple(kept), min(before, total)  # what days cost that are not remembered may go back, too


# --- limits ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit of a budget: of the day that began when the pool had cost `base`, or of all (base 0)."""

    period: Period
    micro_usd: int
    base: int
    until: float | None

    @property
    def level(self) -> int:
        """The same as what the pool may have cost in all."""
        return self.base + self.micro_usd


def limits(spend: Spend, budget: Budget, now: float) -> tuple[Limit, ...]:
    """What the budget limits, after `closed`."""
    found: list[Limit] = []
    if budget.per_day is not None:
        found.append(Limit("day", round(budget.per_day * MICRO), spend.before_day, midnight_after(now)))
    if budget.total is not None:
        found.append(Limit("total", round(budget.total * MICRO), 0, None))
    return tuple(found)


def lead_s(spec: PoolSpec) -> float:
    """How long a machine of this pool still bills once it is decided to end it, at the most."""
    return spec.drain_timeout + STOP_GRACE_S + END_S + LOOK_S


def ahead_s(spec: PoolSpec) -> float:
    """How far ahead machines are reckoned with: to drain them in time; else what they have begun."""
    return lead_s(spec) if spec.budget.then == "drain" else 0.0


def commitment_micro_usd(offer: Offer, spec: PoolSpec, boot_s: float | None) -> int:
    """What a launch commits the pool to at the least: whole billing units of its set-up and its drain."""
    seconds = (BOOT_DEFAULT_S if boot_s is None else boot_s) + lead_s(spec)
    return cost_micro_usd(offer.micro_usd_per_hour, seconds, offer.billing_unit)


def projected(limit: Limit, spend: Spend, committed: Callable[[float], int], at: float, ahead: float) -> int:
    """What the pool will have cost in all when every machine it has at `at` is ended as soon as can be.

    `committed(at)` is what the machines that are there, and those that are being launched, cost until then.
    Of a day, only what falls into it.
    """
    end = at + ahead if limit.until is None else max(at, min(at + ahead, limit.until))
    return spend.gone + committed(end)


def allowance(
    spend: Spend,
    spec: PoolSpec,
    now: float,
    committed: Callable[[float], int],
    living: Callable[[float], int],
) -> Allowance:
    """What may be committed to new machines now: what no machine that is there will need.

    Args:
        spend: after `closed`.
        spec: of the pool.
        now: UTC seconds.
        committed: what machines cost until some time, with those that are being launched.
        living: the same without these.
    """
    if spec.budget.then == "warn":
        return NO_LIMIT
    best = NO_LIMIT
    ahead = ahead_s(spec)
    spent = spend.gone + living(now)
    for limit in limits(spend, spec.budget, now):
        will = projected(limit, spend, committed, now, ahead)
        left = 0 if spend.reached == limit.period else max(0, limit.level - will)
        if best.micro_usd is None or left < best.micro_usd:
            why = _why(limit, spent - limit.base, max(0, will - spent))
            best = Allowance(left, why, limit.until)
    return best


def _why(limit: Limit, spent: int, more: int) -> str:
    whose = "the day's budget" if limit.period == "day" else "the whole budget"
    committed = f", {usd(more)} committed" if more else ""
    again = "again at 00:00:00 UTC" if limit.until is not None else "raise it to go on"
    return f"{whose} of {usd(limit.micro_usd)}: {usd(spent)} spent{committed}; {again}"


@dataclass(frozen=True, slots=True)
class Crossing:
    """A limit, or the warning before it, that was reached just now."""

    limit: Limit
    spent_micro_usd: int
    warning: bool
    needed_micro_usd: int = 0


def judged(
    spend: Spend,
    spec: PoolSpec,
    now: float,
    committed: Callable[[float], int],
    living: Callable[[float], int],
    *,
    short: bool,
    empty: bool,
) -> tuple[Spend, tuple[Crossing, ...]]:
    """The account with its limits looked at, and what was reached just now.

    Args:
        spend: after `closed` and `forgotten`.
        spec: of the pool.
        now: UTC seconds.
        committed: what machines cost until some time, with those that are being launched.
        living: the same without these.
        short: machines are wanted; the cheapest would commit `spend.least`.
        empty: there is none, and none is being launched.
    """
    budget = spec.budget
    found = limits(spend, budget, now)
    spent = spend.gone + living(now)
    stuck = short and (empty or budget.then == "stop-launching")
    crossings: list[Crossing] = []
    warned: list[Period] = []
    reached: Period | None = None
    needed = spend.needed if spend.reached is not None else 0
    for limit in found:
        of_it = spent - limit.base
        if limit.period == spend.reached or _is_reached(
            limit, spend, spec, now, committed, spent, stuck=stuck
        ):
            reached = reached or limit.period
            warned.append(limit.period)
            if spend.reached is None and reached == limit.period:
                will = projected(limit, spend, committed, now, ahead_s(spec))
                needed = max(0, will - spent) + (spend.least if stuck else 0)
                crossings.append(Crossing(limit, of_it, warning=False, needed_micro_usd=needed))
        elif of_it >= limit.micro_usd * budget.warn_at:
            warned.append(limit.period)
            if limit.period not in spend.warned:
                crossings.append(Crossing(limit, of_it, warning=True))
        elif limit.period in spend.warned:
            warned.append(limit.period)
    update = {
        "warned": tuple(warned),
        "reached": reached,
        "needed": needed if reached is not None else 0,
        "budget": budget,
    }
    return spend.model_copy(update=update), tuple(crossings)


def _is_reached(
    limit: Limit,
    spend: Spend,
    spec: PoolSpec,
    now: float,
    committed: Callable[[float], int],
    spent: int,
    *,
    stuck: bool,
) -> bool:
    if spec.budget.then == "drain":
        will = projected(limit, spend, committed, now, ahead_s(spec))
        return will > limit.level or (stuck and will + spend.least > limit.level)
    if spent >= limit.level:
        return True
    return stuck and spec.budget.then == "stop-launching" and spent + spend.least > limit.level


def forgotten(before: Spend, after: Spend, budget: Budget) -> Spend:
    """The account without what holds no more: a day's limits on the next day, all of another budget's."""
    if before.budget != budget:
        return after.model_copy(update={"warned": (), "reached": None})
    if before.day == after.day:
        return after
    warned = tuple(period for period in after.warned if period != "day")
    return after.model_copy(
        update={"warned": warned, "reached": None if after.reached == "day" else after.reached}
    )


def calm_until(
    spend: Spend,
    spec: PoolSpec,
    now: float,
    most: float,
    committed: Callable[[float], int],
    living: Callable[[float], int],
) -> float:
    """Until when no limit and no warning can be reached by the machines that are there: at most `most`."""
    budget, ahead = spec.budget, ahead_s(spec)
    found = limits(spend, budget, now)

    def calm(at: float) -> bool:
        for limit in found:
            if limit.period not in spend.warned:
                if spend.gone + living(at) - limit.base >= limit.micro_usd * budget.warn_at:
                    return False
            if spend.reached is None:
                if budget.then == "drain":
                    if projected(limit, spend, committed, at, ahead) > limit.level:
                        return False
                elif spend.gone + living(at) >= limit.level:
                    return False
        return True

    if not found or calm(most):
        return most
    low, high = now, most
    while high - low > 1:
        middle = (low + high) / 2
        low, high = (middle, high) if calm(middle) else (low, middle)
    return max(high, now + 1)


def nearest(spend: Spend, budget: Budget, now: float) -> int | None:
    """What the pool may have cost in all before anything of its budget can have to be done; None: any."""
    levels: list[int] = []
    for limit in limits(spend, budget, now):
        if limit.period not in spend.warned:
            levels.append(limit.base + int(limit.micro_usd * budget.warn_at))
        if spend.reached is None:
            levels.append(limit.level - spend.least)
    return min(levels, default=None)
