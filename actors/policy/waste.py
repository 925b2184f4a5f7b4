"""When a pool burns money for nothing: machines that cost, and never worked. Pure.

Money is integer micro-dollars, times are UTC seconds.
"""

from actors.policy.billing import usd
from actors.spec import PoolSpec
from providers.model import MICRO, Offer, Value

WASTE_WINDOW_S = 3600.0
WASTE_MERGE_S = 60.0  # what ended within a minute is one entry: the hour has at most 61
LAST_MAX = 200  # letters of what failed last
FEW_MACHINES = 3  # so many that never worked say nothing yet, whatever they cost
# why a machine ended, when that is no market's or user's doing
_BLAMED = ("failed", "timeout", "unreachable")


class Wasted(Value):
    """Machines that ended within a minute and had never worked."""

    at: float
    micro_usd: int
    machines: int
    blamed_micro_usd: int  # of those that failed; the others were taken, or not wanted any more


class Waste(Value):
    """Machines that cost money and never worked, of the last hour.

    Attributes:
        ended: the oldest first.
        worked_at: when a machine was last set up.
        last: why the last of them that failed did.
        judged: nothing was added since the breaker looked at it.
        priced: the offers among which none fitted when it last tried: when they were told, and how many.
        alarm: why the pool should be parked, said at `alarm_at`; "": it need not.
    """

    ended: tuple[Wasted, ...] = ()
    worked_at: float | None = None
    last: str = ""
    judged: bool = True
    priced: tuple[float, int] | None = None
    alarm: str = ""
    alarm_at: float | None = None


def wasted(waste: Waste, now: float, cost_micro_usd: int, why: str = "") -> Waste:
    """The record after a machine ended that had never worked; `why` as in its `MachineBilled`."""
    if cost_micro_usd <= 0:
        return waste
    blamed = why.startswith(_BLAMED)
    entry = Wasted(
        at=now, micro_usd=cost_micro_usd, machines=1, blamed_micro_usd=cost_micro_usd if blamed else 0
    )
    ended = recent(waste, 0.0, now)
    if ended and now < ended[-1].at + WASTE_MERGE_S:
        last = ended[-1]
        merged = Wasted(
            at=last.at,
            micro_usd=last.micro_usd + entry.micro_usd,
            machines=last.machines + 1,
            blamed_micro_usd=last.blamed_micro_usd + entry.blamed_micro_usd,
        )
        ended = (*ended[:-1], merged)
    else:
        ended = (*ended, entry)
    update = {"ended": ended, "last": waste.last or why, "judged": False, "priced": None}
    return waste.model_copy(update=update)


def failed(waste: Waste, error: str) -> Waste:
    """The record after a machine could not be set up, and why: what is said of it when it has ended."""
    last = " ".join(error.split())[:LAST_MAX]
    return waste if last == waste.last else waste.model_copy(update={"last": last})


def worked(waste: Waste, now: float) -> Waste:
    """The record after a machine was set up. Changes at most once a minute."""
    if waste.worked_at is not None and waste.worked_at <= now < waste.worked_at + WASTE_MERGE_S:
        return waste
    return waste.model_copy(update={"worked_at": now})


def of_now(waste: Waste, now: float) -> Waste:
    """The record without an alarm of a clock that was ahead, which no user could end before that comes."""
    if waste.alarm_at is None or waste.alarm_at <= now + WASTE_MERGE_S:
        return waste
    return waste.model_copy(update={"judged": False, "priced": None, "alarm": "", "alarm_at": None})


def recent(waste: Waste, since: float, now: float) -> tuple[Wasted, ...]:
    """What was wasted within the last hour, and after `since`; not what a clock says that was ahead."""
    after = max(since, now - WASTE_WINDOW_S)
    return tuple(one for one in waste.ended if after < one.at <= now + WASTE_MERGE_S)


def waste_limit(spec: PoolSpec, nodes: int, offers: tuple[Offer, ...]) -> tuple[int, int] | None:
    """What machines that never work may cost within an hour, and how many of them say nothing yet.

    As the budget says; else half of what all nodes cost in an hour at the cheapest of `offers`, which fit the
    spec. A pool that only burns money pays about twice that. None: nothing fits that could tell a price.
    """
    if spec.budget.waste_per_hour is not None:
        return round(spec.budget.waste_per_hour * MICRO), 0
    if not offers:
        return None
    price = min(offer.micro_usd_per_hour for offer in offers)
    return max(1, nodes) * price // 2, FEW_MACHINES


def burning(waste: Waste, limit: int, since: float, now: float, *, working: bool, few: int = 0) -> str | None:
    """Why the pool should stop launching, in a user's words; None: it need not.

    What failed may cost no more than the limit. What was taken, or was not wanted any more, counts with it,
    but that alone stops no pool in which machines get to work: only when for half an hour none did.

    Args:
        waste: of the last hour.
        limit: micro-dollars.
        since: what was wasted before does not count: a user has changed the pool.
        now: UTC seconds.
        working: some machine works now.
        few: no more machines than these say nothing, whatever they cost.
    """
    counted = recent(waste, since, now)
    total = sum(one.micro_usd for one in counted)
    machines = sum(one.machines for one in counted)
    if total <= limit or machines <= few:
        return None
    blamed = sum(one.blamed_micro_usd for one in counted)
    if blamed <= limit:
        works = working or (waste.worked_at is not None and waste.worked_at > counted[0].at)
        if works or now < counted[0].at + WASTE_WINDOW_S / 2:
            return None
    which = "1 machine" if machines == 1 else f"{machines} machines"
    last = f"; the last: {waste.last}" if waste.last else ""
    return (
        f"{which} that never worked cost {usd(total)} within an hour, "
        f"more than the {usd(limit)} that may be wasted{last}. "
        "Mend that, then update or resize the pool"
    )
