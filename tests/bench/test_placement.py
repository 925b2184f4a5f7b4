"""The bench of placement works, and its figures say what they should; how fast it is, is measured by hand."""

from typing import get_args

import pytest

from actors.buying import PolicyName
from tests.bench.placement import asking, held, measured, timed, world


@pytest.mark.parametrize("policy", get_args(PolicyName))
def test_every_policy_can_be_measured(policy: PolicyName) -> None:
    told: list[str] = []
    figures = measured(30, 20, policy, quick=True, say=told.append)
    assert figures["all_ask_median_ms"] > 0
    assert figures["ten_ask_p99_ms"] >= figures["ten_ask_median_ms"]
    assert len(told) == 1
    assert told[0].startswith(policy)


def test_what_is_measured_is_decided() -> None:
    here = world(30, 20, "hazard")
    _, plan = timed(here.situation(1_700_000_000.0, asking(range(30), 1_700_000_000.0), ()))
    assert len(plan.choices) == 30
    there = held(here, range(20), 1_700_000_000.0)
    _, plan = timed(here.situation(1_700_000_000.0, asking(range(20, 30), 1_700_000_000.0), there))
    assert len(plan.choices) == 10
