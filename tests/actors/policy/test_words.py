"""What a user reads of why a machine is bought where it is."""

import pytest

from actors.policy.placement import place
from tests.actors.model import offer
from tests.actors.policy.situations import situation

DEAR = offer("a", dollars=3.0, spot=False)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"allocation": "on-demand"}, "the pool buys nothing else"),
        ({"buying": {"policy": "on-demand"}}, "the policy buys nothing else"),
        ({}, "no spot market may be asked now"),
    ],
)
def test_why_on_demand(spec: dict[str, object], said: str) -> None:
    assert place(situation(DEAR, asking=1, spec=spec)).choices[0].why.endswith(f" on demand: {said}")
