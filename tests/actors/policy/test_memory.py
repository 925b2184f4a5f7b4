"""The formulas that a market's memory is read by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.policy.memory import HALF_LIFE_S, baseline, exposure, kept

HOUR = 3600.0
ages = st.floats(0, 1e8)


def test_figures_of_the_reference() -> None:
    assert baseline(0) == pytest.approx(0.7 * 0.4**-0.7)
    assert baseline(HOUR) == pytest.approx(0.7 * 1.4**-0.7)
    assert kept(0) == 1
    assert kept(HALF_LIFE_S) == 0.5
    assert kept(-5) == 1, "a clock that was set back"


@given(age=ages)
def test_old_spells_are_firmer(age: float) -> None:
    assert baseline(age) > baseline(age + HOUR) > 0


@given(age=ages, seconds=st.floats(0, 1e6))
def test_exposure_lies_between_what_the_ends_would_give(age: float, seconds: float) -> None:
    hours = seconds / HOUR
    most, least = baseline(age) * hours, baseline(age + seconds) * hours
    assert least - 1e-6 <= exposure(age, age + seconds) <= most + 1e-6
    assert exposure(age + seconds, age) == 0


@given(age=ages, first=st.floats(0, 1e6), then=st.floats(0, 1e6))
def test_exposure_adds_up(age: float, first: float, then: float) -> None:
    parts = exposure(age, age + first) + exposure(age + first, age + first + then)
    assert parts == pytest.approx(exposure(age, age + first + then), abs=1e-6)
