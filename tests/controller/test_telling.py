"""Durations and rates in words."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.telling import hourly, lasting, took

SIZES = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
PART = re.compile(r"([0-9]+(?:\.[0-9])?)(ms|s|m|h|d)")
DURATIONS = st.one_of(st.floats(0, 100), st.floats(0, 4e8))


def read(text: str) -> float:
    """What a duration says, in seconds."""
    parts = PART.findall(text)
    assert "".join(number + unit for number, unit in parts) == text
    return sum(float(number) * SIZES[unit] for number, unit in parts)


@given(DURATIONS)
def test_a_duration_is_short_and_near_what_it_was(seconds: float) -> None:
    text = took(seconds)
    assert len(text) <= 9 and len(PART.findall(text)) <= 2
    if text != "<1ms":
        assert abs(read(text) - seconds) <= max(0.0005, seconds * 0.06)
    else:
        assert 0 < seconds < 0.0005


@given(DURATIONS)
def test_no_unit_is_as_many_as_the_next_one(seconds: float) -> None:
    most = {"ms": 1000, "s": 60, "m": 60, "h": 24}
    assert all(float(number) < most.get(unit, 1e9) for number, unit in PART.findall(took(seconds)))


@given(DURATIONS, DURATIONS)
def test_what_took_longer_is_never_told_as_less(one: float, other: float) -> None:
    less, more = sorted((one, other))
    told = [0.0 if took(each) == "<1ms" else read(took(each)) for each in (less, more)]
    assert told[0] <= told[1]


@given(st.floats(9.95, 4e8))
def test_waits_and_measured_times_read_alike(seconds: float) -> None:
    assert took(seconds) == lasting(seconds)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0s"),
        (0, "0s"),
        (0.0001, "<1ms"),
        (0.000544, "1ms"),
        (0.9996, "1.0s"),
        (1.25, "1.2s"),
        (59.6, "1m"),
        (61, "1m1s"),
        (3599.7, "1h"),
        (90_000, "1d1h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert took(seconds) == text


@pytest.mark.parametrize(("rate", "text"), [(0, "0.00"), (0.001, "<0.01"), (0.1052, "0.11"), (12.0, "12.00")])
def test_rates(rate: float, text: str) -> None:
    assert hourly(rate) == text
