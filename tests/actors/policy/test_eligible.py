"""Which offers a pool may buy at all."""

import pytest
from hypothesis import given, settings

from actors.policy.eligible import funnel, mismatch, price_factor
from actors.policy.situation import Situation, market_name
from actors.spec import PoolSpec
from providers.model import Accelerator, InstanceType
from tests.actors.model import CAPABILITIES, offer
from tests.actors.policy.situations import NO_SPOT, situations, spec_of


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"region": "x"}, "region"),
        ({"zone": "x"}, "zone"),
        ({"instance_type": "x"}, "type"),
        ({"vcpus": 5}, "vcpus"),
        ({"memory_gb": 17}, "memory"),
        ({"disk_gb": 101}, "disk"),
        ({"architecture": "arm64"}, "architecture"),
        ({"accelerator": {"name": "b200"}}, "accelerator"),
        ({"accelerator": {"name": "h100", "count": 3}}, "accelerator"),
        ({"max_hourly_cost": 0.99}, "costs 1 dollars"),
        ({"allocation": "on-demand"}, "wanted on-demand"),
        ({"buying": {"policy": "on-demand"}}, "wanted on-demand"),
        ({"alternatives": [{"zone": ["b*"]}]}, "alternatives"),
    ],
)
def test_why_an_offer_does_not_fit(wanted: dict[str, object], reason: str) -> None:
    shape = InstanceType(name="big", vcpus=4, memory_gb=16, accelerator=Accelerator(name="h100", count=2))
    one = offer(dollars=1).model_copy(update={"instance_type": shape, "disk_gb": 100.0})
    assert mismatch(PoolSpec(provider=("sim",)), one) is None
    said = mismatch(spec_of(**wanted), one)
    assert said is not None
    assert reason in said
    enough = {"vcpus": 4, "memory_gb": 16, "disk_gb": 100, "accelerator": {"name": "h100", "count": 2}}
    assert mismatch(spec_of(max_hourly_cost=1, **enough), one) is None


@pytest.mark.parametrize(
    ("allocation", "on_demand", "spot", "dear"),
    [
        ("spot", {}, True, False),
        ("spot", {"floor": 1}, True, True),
        ("spot", {"share": 0.1}, True, True),
        ("on-demand", {}, False, True),
        ("spot-if-available", {}, True, True),
        ("cheapest", {}, True, True),
    ],
)
def test_the_ways_of_buying_that_an_allocation_lets(
    allocation: str, on_demand: dict[str, object], spot: bool, dear: bool
) -> None:
    spec = spec_of(allocation=allocation, on_demand=on_demand)
    assert (mismatch(spec, offer()) is None) == spot
    assert (mismatch(spec, offer(spot=False)) is None) == dear


def test_every_key_of_an_alternative_must_hold_and_the_first_that_does_says_what_it_counts() -> None:
    spec = spec_of(
        alternatives=[
            {"zone": ["a"], "lifecycle": "spot", "price_factor": 0.5},
            {"instance_type": ["sm?ll"], "zone": ["a", "b*"], "price_factor": 2},
        ]
    )
    assert price_factor(spec, offer("a")) == 0.5
    assert price_factor(spec, offer("a", spot=False)) == 2
    assert price_factor(spec, offer("bc")) == 2
    assert mismatch(spec, offer("cb")) == "is none of the alternatives"
    assert mismatch(spec_of(alternatives=[{"zone": ["[ab]"]}]), offer("a")) is not None
    assert mismatch(spec_of(alternatives=[{"zone": ["[ab]"]}]), offer("[ab]")) is None
    assert price_factor(spec_of(), offer()) == 1


def test_the_funnel_tells_which_filter_removed_the_last_offer() -> None:
    some = {"sim": (offer("a"), offer("b"), offer("c", spot=False)), "other": (offer("a", provider="other"),)}
    steps = funnel(spec_of(zone="a", vcpus=64), some, {"sim": CAPABILITIES})
    told = {name: (removed, left) for name, removed, left in steps}
    assert told["all"] == (0, 4)
    assert told["provider"] == (1, 3)
    assert told["zone"] == (2, 1)
    assert told["vcpus"] == (1, 0)
    assert steps[-1].left == 0


def test_spot_offers_of_a_provider_that_sells_none_are_removed() -> None:
    steps = funnel(spec_of(), {"sim": (offer("a"), offer("a", spot=False))}, {"sim": NO_SPOT})
    assert next(step for step in steps if step.name == "spot").removed == 1
    assert steps[-1].left == 1


@settings(max_examples=50, deadline=None)
@given(some=situations())
def test_the_funnel_leaves_what_has_no_mismatch_and_counts_every_offer(some: Situation) -> None:
    steps = funnel(some.spec, some.offers, some.capabilities)
    there = [one for name in some.spec.provider for one in some.offers.get(name, ())]
    fits = [one for one in there if mismatch(some.spec, one) is None]
    sold = [one for one in fits if one.lifecycle == "on_demand" or some.capabilities[one.provider].spot]
    assert steps[-1].left == len(sold)
    for before, after in zip(steps, steps[1:], strict=False):
        assert before.left == after.left + after.removed


@settings(max_examples=50, deadline=None)
@given(some=situations())
def test_the_short_way_to_a_markets_name_is_right(some: Situation) -> None:
    assert all(market_name(one) == str(one.market) for there in some.offers.values() for one in there)
