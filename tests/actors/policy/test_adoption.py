"""What is done about machines that a listing shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.policy.adoption import Found, Quarantined, judge
from providers.model import Handle

NOW = 1000.0


def quarantined(reap_at: float, next_at: float | None = None) -> Quarantined:
    """One that nobody knows."""
    return Quarantined(
        key="o/p/0/1.1/1",
        handle=Handle(provider="sim", ref="m"),
        micro_usd_per_hour=1,
        seen_at=0,
        reap_at=reap_at,
        next_at=next_at,
    )


@pytest.mark.parametrize(
    ("found", "judgement"),
    [
        (Found(True, None), "known"),
        (Found(True, quarantined(0)), "known"),
        (Found(False, None), "quarantine"),
        (Found(False, quarantined(NOW + 1)), "wait"),
        (Found(False, quarantined(NOW)), "reap"),
        (Found(False, quarantined(0, NOW + 1)), "wait"),
        (Found(False, quarantined(0, NOW)), "reap"),
    ],
)
def test_the_cases(found: Found, judgement: str) -> None:
    assert judge(found, NOW) == judgement


@given(
    known=st.booleans(),
    seen=st.booleans(),
    reap_at=st.floats(0, 2000),
    next_at=st.none() | st.floats(0, 2000),
    now=st.floats(0, 2000),
)
def test_nothing_is_reaped_that_is_known_new_or_young(
    known: bool, seen: bool, reap_at: float, next_at: float | None, now: float
) -> None:
    found = Found(known, quarantined(reap_at, next_at) if seen else None)
    if judge(found, now) == "reap":
        assert not known
        assert seen
        assert now >= reap_at
        assert next_at is None or now >= next_at
