"""What a machine has cost. Pure; money is integer micro-dollars."""

import math

from providers.model import BillingUnit

UNIT_S: dict[BillingUnit, int] = {"second": 1, "minute": 60, "hour": 3600}


def cost_micro_usd(per_hour: int, seconds: float, unit: BillingUnit) -> int:
    """What `seconds` of a machine cost, at so many micro-dollars an hour; a begun unit is paid whole."""
    length = UNIT_S[unit]
    return math.ceil(max(0.0, seconds) / length) * length * per_hour // 3600
