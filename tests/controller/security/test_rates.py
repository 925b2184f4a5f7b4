"""Token buckets, against what they promise."""

import hypothesis.strategies as st
from hypothesis import given

from controller.security import rates
from controller.security.rates import Rates, neighbourhood

STEPS = st.lists(st.floats(0, 3), min_size=1, max_size=100)


@given(STEPS, st.floats(0.5, 50), st.integers(1, 20))
def test_never_more_than_the_burst_and_the_rate_and_never_less(
    steps: list[float], per_s: float, burst: int
) -> None:
    bucket, left, now, last = Rates(per_s, burst), float(burst), 0.0, 0.0
    for step in steps:
        now += step
        left = min(float(burst), left + (now - last) * per_s)
        last = now
        wait = bucket.wait_s("me", now)
        if wait == 0:
            assert left > 1 - 1e-6
            left -= 1
        else:
            assert left < 1 + 1e-6
            assert abs(wait - (1 - left) / per_s) < 1e-6


def test_each_has_a_bucket_of_its_own() -> None:
    bucket = Rates(1, 2)
    assert [bucket.wait_s(who, 0.0) for who in ("a", "a", "a", "b")] == [0, 0, 1, 0]
    assert bucket.wait_s("a", 1.0) == 0


def test_strangers_fill_no_memory() -> None:
    bucket = Rates(1, 1)
    for number in range(rates.KEYS_MAX * 2):
        bucket.wait_s(f"address-{number}", 0.0)
    assert len(bucket) <= rates.KEYS_MAX


def test_who_has_one_network_is_one_somebody() -> None:
    assert neighbourhood("192.0.2.7") == "192.0.2.7" == neighbourhood("::ffff:192.0.2.7")
    assert neighbourhood("2001:db8::1") == neighbourhood("2001:db8::ffff:1%eth0")
    assert neighbourhood("2001:db8::1") != neighbourhood("2001:db8:0:1::1")
    assert neighbourhood("") == ""
