"""What a machine has cost. Pure; money is integer micro-dollars, times are the vendor's UTC seconds."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from providers.model import MICRO, BillingUnit, Sighting, Value

UNIT_S: dict[BillingUnit, int] = {"second": 1, "minute": 60, "hour": 3600}


class Bill(Value):
    """What the vendor takes for one machine, as far as listings tell.

    Attributes:
        since: its launch, or its last resume.
        spent_micro_usd: what it had cost before.
        stopped_at: since when it is stopped.
        stopped_micro_usd_per_hour: what it costs from then on.
    """

    micro_usd_per_hour: int
    unit: BillingUnit
    since: float
    spent_micro_usd: int = 0
    stopped_at: float | None = None
    stopped_micro_usd_per_hour: int = 0


def cost_micro_usd(per_hour: int, seconds: float, unit: BillingUnit) -> int:
    """What `seconds` of a machine cost, at so many micro-dollars an hour; a begun unit is paid whole."""
    length = UNIT_S[unit]
    return math.ceil(max(0.0, seconds) / length) * length * per_hour // 3600


def total(bill: Bill, until: float) -> int:
    """What the machine has cost until then."""
    end = until if bill.stopped_at is None else min(until, bill.stopped_at)
    ran = cost_micro_usd(bill.micro_usd_per_hour, end - bill.since, bill.unit)
    stood = cost_micro_usd(bill.stopped_micro_usd_per_hour, until - end, bill.unit)
    return bill.spent_micro_usd + ran + stood


class Meter(NamedTuple):
    """A bill, as short as what it comes to can be told from.

    Attributes:
        micro_usd_per_hour: its price.
        unit_s: what is billed whole.
        since: its launch, or its last resume.
        spent_micro_usd: what it had cost before.
        stopped_at: since when it is stopped.
        stopped_micro_usd_per_hour: its price from then on.
    """

    micro_usd_per_hour: int
    unit_s: int
    since: float
    spent_micro_usd: int = 0
    stopped_at: float | None = None
    stopped_micro_usd_per_hour: int = 0

    @property
    def rate(self) -> int:
        """Micro-dollars an hour now."""
        return self.micro_usd_per_hour if self.stopped_at is None else self.stopped_micro_usd_per_hour


def meter(bill: Bill) -> Meter:
    """What the bill comes to, as `due` reckons it."""
    return Meter(
        bill.micro_usd_per_hour,
        UNIT_S[bill.unit],
        bill.since,
        bill.spent_micro_usd,
        bill.stopped_at,
        bill.stopped_micro_usd_per_hour,
    )


def due(meters: Iterable[Meter], until: float) -> int:
    """What machines have cost in all until then: the sum of `total` over their bills."""
    cost = 0
    for per_hour, unit_s, since, spent, stopped_at, stopped_per_hour in meters:
        end = until
        if stopped_at is not None and stopped_at < until:
            end = stopped_at
            cost += math.ceil((until - stopped_at) / unit_s) * unit_s * stopped_per_hour // 3600
        units = math.ceil((end - since) / unit_s) if end > since else 0
        cost += spent + units * unit_s * per_hour // 3600
    return cost


def seen(
    bill: Bill | None,
    sighting: Sighting,
    unit: BillingUnit,
    at: float | None = None,
    lacked_at: float | None = None,
    offered: int = 0,
) -> Bill:
    """The bill after one more look at the machine.

    Args:
        bill: as it was; None: this is the first look.
        sighting: what the vendor shows.
        unit: what the vendor bills whole.
        at: when it showed that; None: it did not say.
        lacked_at: when listings began to lack the machine, had they done so just before.
        offered: micro-dollars an hour it was bought at: its price when the vendor shows none.
    """
    per_hour = sighting.micro_usd_per_hour or offered
    is_stopped = sighting.state == "stopped" and sighting.ended_at is None
    if bill is None:
        return Bill(
            micro_usd_per_hour=per_hour,
            unit=unit,
            since=sighting.launched_at,
            stopped_at=at if is_stopped else None,
            stopped_micro_usd_per_hour=sighting.stopped_micro_usd_per_hour,
        )
    if sighting.launched_at > bill.since:  # it was stopped, and runs again
        spent = total(bill, sighting.launched_at if lacked_at is None else lacked_at)
        return Bill(micro_usd_per_hour=per_hour, unit=unit, since=sighting.launched_at, spent_micro_usd=spent)
    update: dict[str, object] = {}
    if per_hour != bill.micro_usd_per_hour:
        update["micro_usd_per_hour"] = per_hour
    if is_stopped and bill.stopped_at is None:
        update["stopped_at"] = at
        update["stopped_micro_usd_per_hour"] = sighting.stopped_micro_usd_per_hour
    return bill.model_copy(update=update) if update else bill


def usd(micro: int) -> str:
    """Micro-dollars in a user's words; cents, and more digits for less than one."""
    if 0 < abs(micro) < MICRO // 100:
        return f"${micro / MICRO:.6f}".rstrip("0")
    return f"${micro / MICRO:,.2f}"
