"""Waits between tries."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.policy.backoff import retry_delay_s

draws = st.floats(0, 1, exclude_max=True)
seconds = st.floats(0.001, 1e6)


@given(tries=st.integers(1, 10_000), draw=draws, first_s=seconds, most_s=seconds)
def test_between_half_the_ceiling_and_the_ceiling(
    tries: int, draw: float, first_s: float, most_s: float
) -> None:
    wait = retry_delay_s(tries, draw, first_s=first_s, most_s=most_s)
    ceiling = min(most_s, first_s * 2.0 ** min(tries - 1, 32))
    assert ceiling / 2 <= wait <= ceiling <= most_s


@given(tries=st.integers(1, 40), draw=draws)
def test_it_never_shrinks_with_tries(tries: int, draw: float) -> None:
    assert retry_delay_s(tries, draw, first_s=1, most_s=60) <= retry_delay_s(
        tries + 1, draw, first_s=1, most_s=60
    )


@pytest.mark.parametrize(("tries", "draw"), [(0, 0.5), (-1, 0.5), (1, 1.0), (1, -0.1)])
def test_out_of_range_is_a_bug_of_the_caller(tries: int, draw: float) -> None:
    with pytest.raises(ValueError, match="out of range"):
        retry_delay_s(tries, draw, first_s=1, most_s=2)
