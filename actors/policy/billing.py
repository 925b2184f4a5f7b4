"""What a machine has cost. Pure; money is integer micro-dollars, times are the vendor's UTC seconds."""

import math

from providers.model import BillingUnit, Sighting, Value

UNIT_S: dict[BillingUnit, int] = {"second": 1, "minute": 60, "hour": 3600}


class Bill(Value):
    """What the vendor takes for one machine, as far as listings tell.

    Attributes:
        since: its launch, or its last resume.
        spent_micro_usd: what it had cost before.
        stopped_at: since when it is stopped, and costs nothing.
    """

    micro_usd_per_hour: int
    unit: BillingUnit
    since: float
    spent_micro_usd: int = 0
    stopped_at: float | None = None


def cost_micro_usd(per_hour: int, seconds: float, unit: BillingUnit) -> int:
    """What `seconds` of a machine cost, at so many micro-dollars an hour; a begun unit is paid whole."""
    length = UNIT_S[unit]
    return math.ceil(max(0.0, seconds) / length) * length * per_hour // 3600


def total(bill: Bill, until: float) -> int:
    """What the machine has cost until then."""
    end = until if bill.stopped_at is None else min(until, bill.stopped_at)
    return bill.spent_micro_usd + cost_micro_usd(bill.micro_usd_per_hour, end - bill.since, bill.unit)


def seen(
    bill: Bill | None,
    sighting: Sighting,
    unit: BillingUnit,
    at: float | None = None,
    lacked_at: float | None = None,
) -> Bill:
    """The bill after one more look at the machine.

    Args:
        bill: as it was; None: this is the first look.
        sighting: what the vendor shows.
        unit: what the vendor bills whole.
        at: when it showed that; None: it did not say.
        lacked_at: when listings began to lack the machine, had they done so just before.
    """
    per_hour = sighting.micro_usd_per_hour
    is_stopped = sighting.state == "stopped" and sighting.ended_at is None
    if bill is None:
        stopped_at = at if is_stopped else None
        return Bill(micro_usd_per_hour=per_hour, unit=unit, since=sighting.launched_at, stopped_at=stopped_at)
    if sighting.launched_at > bill.since:  # it was stopped, and runs again
        spent = total(bill, sighting.launched_at if lacked_at is None else lacked_at)
        return Bill(micro_usd_per_hour=per_hour, unit=unit, since=sighting.launched_at, spent_micro_usd=spent)
    update: dict[str, object] = {}
    if per_hour != bill.micro_usd_per_hour:
        update["micro_usd_per_hour"] = per_hour
    if is_stopped and bill.stopped_at is None:
        update["stopped_at"] = at
    return bill.model_copy(update=update) if update else bill
