"""What a machine costs, as its vendor bills it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.policy.billing import Bill, cost_micro_usd, due, meter, seen, total
from providers.model import MICRO, BillingUnit, Handle, Sighting

HOUR = 3600.0


def shown(state: str = "running", since: float = 0, **fields: Any) -> Sighting:
    raw = {"key": "k", "handle": Handle(provider="p", ref="1"), "state": state, "launched_at": since}
    return Sighting.model_validate(raw | {"micro_usd_per_hour": MICRO} | fields)


@pytest.mark.parametrize(
    ("seconds", "unit", "hours"),
    [(0, "hour", 0), (1, "hour", 1), (3600, "hour", 1), (3601, "hour", 2), (61, "minute", 2 / 60)],
)
def test_what_is_begun_is_paid_whole(seconds: float, unit: BillingUnit, hours: float) -> None:
    assert cost_micro_usd(MICRO, seconds, unit) == int(hours * MICRO)


def test_a_machine_that_is_stopped_bills_what_is_left_of_it() -> None:
    bill = seen(None, shown(), "second")
    bill = seen(bill, shown("stopped", stopped_micro_usd_per_hour=MICRO // 10), "second", at=2 * HOUR)
    assert total(bill, 12 * HOUR) == 3 * MICRO
    assert total(bill, HOUR) == MICRO
    again = seen(bill, shown(since=12 * HOUR), "second", at=13 * HOUR)
    assert total(again, 13 * HOUR) == 4 * MICRO


def test_a_price_that_a_vendor_does_not_show_is_that_of_the_offer() -> None:
    bill = seen(None, shown(micro_usd_per_hour=0), "second", offered=2 * MICRO)
    assert total(bill, HOUR) == 2 * MICRO
    assert seen(bill, shown(micro_usd_per_hour=0), "second", offered=2 * MICRO) is bill


@given(
    st.builds(
        Bill,
        micro_usd_per_hour=st.integers(0, 10**8),
        unit=st.sampled_from(["second", "minute", "hour"]),
        since=st.floats(0, 1e6),
        spent_micro_usd=st.integers(0, 10**9),
        stopped_at=st.none() | st.floats(1e6, 2e6),
        stopped_micro_usd_per_hour=st.integers(0, 10**6),
    ),
    st.floats(0, 4e6),
    st.floats(0, 1e5),
)
def test_a_bill_only_grows_and_its_meter_tells_the_same(bill: Bill, until: float, more: float) -> None:
    assert due([meter(bill)], until) == total(bill, until) <= total(bill, until + more)
