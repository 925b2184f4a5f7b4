"""Where machines are bought."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.market.state import MarketState
from actors.policy.placement import LOOK_AGAIN_S, Ranking, Rejection, mismatch, rank
from actors.spec import PoolSpec
from providers.errors import Fault
from providers.model import MICRO, Accelerator, Capabilities, InstanceType, Offer
from tests.actors.model import CAPABILITIES, offer

NOW = 10_000.0
LIFECYCLES = {
    "spot": {"spot"},
    "on-demand": {"on_demand"},
    "spot-if-available": {"spot", "on_demand"},
    "cheapest": {"spot", "on_demand"},
}
NO_SPOT = CAPABILITIES.model_copy(update={"spot": False})

dollars = st.integers(0, 30).map(lambda tenths: tenths / 10)
offers = st.lists(
    st.builds(
        offer,
        st.sampled_from("abcdef"),
        provider=st.sampled_from(["sim", "other"]),
        dollars=dollars,
        spot=st.booleans(),
    ),
    unique_by=lambda one: str(one.market),
    max_size=12,
)
specs = st.builds(
    PoolSpec,
    provider=st.sampled_from([("sim",), ("sim", "other"), ("other", "sim", "silent")]),
    max_hourly_cost=st.none() | dollars.filter(bool),
    allocation=st.sampled_from(sorted(LIFECYCLES)),
    zone=st.sampled_from([None, None, "a"]),
    vcpus=st.sampled_from([None, 4.0, 5.0]),
    bootstrap_failures_max=st.integers(1, 3),
)


@st.composite
def cases(draw: st.DrawFn) -> dict[str, object]:
    """What `rank` is given."""
    some = draw(offers)
    markets: dict[str, MarketState] = {}
    for one in draw(st.lists(st.sampled_from(some), unique_by=id)) if some else []:
        markets[str(one.market)] = MarketState(
            market=one.market,
            cool_until=draw(st.sampled_from([0.0, NOW, NOW + 5, NOW + 50])),
            avoid_until=draw(st.sampled_from([0.0, NOW + 5])),
            last_fault=Fault.CAPACITY,
        )
    by_provider: dict[str, tuple[Offer, ...]] = {"sim": (), "other": ()}
    for one in some:
        by_provider[one.provider] += (one,)
    capabilities = {"sim": CAPABILITIES, "other": draw(st.sampled_from([CAPABILITIES, NO_SPOT]))}
    failures = {str(one.market): draw(st.integers(0, 3)) for one in some}
    return {
        "spec": draw(specs),
        "offers": by_provider,
        "capabilities": capabilities,
        "markets": markets,
        "failures": failures,
        "now": NOW,
        "down": draw(st.sampled_from([{}, {}, {"sim": "does not answer"}])),
        "rejections": {
            str(one.market): Rejection(times=1, until=until, detail="no python3")
            for one in some
            if (until := NOW + draw(st.sampled_from([-5, 0, 40]))) != NOW
        },
    }


def ranked(case: dict[str, object]) -> Ranking:
    """The ranking of a case."""
    return rank(**case)  # type: ignore[arg-type]


@given(case=cases())
def test_no_offer_costs_more_or_has_less_than_asked_for(case: dict[str, object]) -> None:
    spec = case["spec"]
    assert isinstance(spec, PoolSpec)
    for one in ranked(case).offers:
        assert spec.max_hourly_cost is None or one.micro_usd_per_hour <= spec.max_hourly_cost * MICRO
        assert one.lifecycle in LIFECYCLES[spec.allocation]
        assert spec.zone in (None, one.zone)
        assert one.instance_type.vcpus >= (spec.vcpus or 0)
        assert one.provider in spec.provider


@given(case=cases())
def test_every_market_is_offered_or_passed_over_with_a_reason(case: dict[str, object]) -> None:
    ranking, spec, by_provider = ranked(case), case["spec"], case["offers"]
    assert isinstance(spec, PoolSpec)
    assert isinstance(by_provider, dict)
    down = case["down"]
    assert isinstance(down, dict)
    silent = {name for name in spec.provider if name not in by_provider or name in down}
    there = {str(one.market) for name in spec.provider if name not in silent for one in by_provider[name]}
    there |= silent
    offered, passed = {str(one.market) for one in ranking.offers}, {one.market for one in ranking.passed}
    assert offered | passed == there
    assert not offered & passed
    assert all(one.reason for one in ranking.passed)


@given(case=cases(), seed=st.integers(0, 1000))
def test_the_order_of_what_is_known_does_not_matter(case: dict[str, object], seed: int) -> None:
    dice, by_provider = Random(seed), case["offers"]
    assert isinstance(by_provider, dict)
    shuffled = {name: tuple(dice.sample(some, len(some))) for name, some in by_provider.items()}
    one, other = ranked(case), ranked(case | {"offers": dict(reversed(shuffled.items()))})
    assert ranked(case) == one
    assert other.offers == one.offers
    assert replace(other, passed=()) == replace(one, passed=())
    assert set(other.passed) == set(one.passed)


@given(case=cases())
def test_no_cooling_or_stopped_market_is_tried_and_what_waits_has_a_time(case: dict[str, object]) -> None:
    ranking, markets, failures = ranked(case), case["markets"], case["failures"]
    spec = case["spec"]
    assert isinstance(markets, dict)
    assert isinstance(failures, dict)
    assert isinstance(spec, PoolSpec)
    rejections = case["rejections"]
    assert isinstance(case["down"], dict)
    assert isinstance(rejections, dict)
    for one in ranking.offers:
        assert one.provider not in case["down"]
        assert rejections.get(str(one.market), Rejection(times=0, until=0, detail="")).until <= NOW
        memory = markets.get(str(one.market))
        assert memory is None or memory.cool_until <= NOW
        assert failures.get(str(one.market), 0) < spec.bootstrap_failures_max
    assert NOW < ranking.retry_at <= NOW + max(50, LOOK_AGAIN_S)
    if ranking.hopeless:
        assert not ranking.offers


def by(*some: Offer, allocation: str = "cheapest", **known: object) -> list[str]:
    """Ids of offers in the order in which they would be tried."""
    spec = PoolSpec.model_validate({"provider": "sim", "allocation": allocation})
    case = {
        "capabilities": {},
        "markets": {},
        "failures": {},
        "now": NOW,
        "down": {},
        "rejections": {},
    } | known
    return [one.id for one in ranked(case | {"spec": spec, "offers": {"sim": some}}).offers]


def test_cheapest_goes_by_price_and_ties_by_name() -> None:
    some = (offer("b", dollars=2), offer("c", dollars=1), offer("a", dollars=1, spot=False))
    assert by(*some) == ["a-on_demand", "c-spot", "b-spot"]


def test_spot_if_available_takes_spot_first_whatever_it_costs() -> None:
    some = (offer("a", dollars=1, spot=False), offer("b", dollars=2))
    assert by(*some, allocation="spot-if-available") == ["b-spot", "a-on_demand"]


def test_a_market_that_took_a_machine_lately_comes_last() -> None:
    lately = offer("a", dollars=1)
    memory = MarketState(market=lately.market, avoid_until=NOW + 1)
    assert by(lately, offer("b", dollars=2), markets={str(lately.market): memory}) == ["b-spot", "a-spot"]


def test_hopeless_means_that_every_market_that_fits_was_stopped() -> None:
    one, small = offer("a"), offer("b")
    spec = PoolSpec(provider=("sim",), zone="a", bootstrap_failures_max=1)
    some: dict[str, tuple[Offer, ...]] = {"sim": (one, small)}
    capabilities: dict[str, Capabilities] = {}
    assert rank(spec, some, capabilities, {}, {str(one.market): 1}, NOW, {}, {}).hopeless
    assert not rank(spec, some, capabilities, {}, {}, NOW, {}, {}).hopeless
    assert not rank(spec, {}, capabilities, {}, {}, NOW, {}, {}).hopeless


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
    ],
)
def test_why_an_offer_does_not_fit(wanted: dict[str, object], reason: str) -> None:
    shape = InstanceType(name="big", vcpus=4, memory_gb=16, accelerator=Accelerator(name="h100", count=2))
    one = offer(dollars=1).model_copy(update={"instance_type": shape, "disk_gb": 100.0})
    assert mismatch(PoolSpec(provider=("sim",)), one) is None
    said = mismatch(PoolSpec.model_validate({"provider": "sim"} | wanted), one)
    assert said is not None
    assert reason in said
    enough = {"vcpus": 4, "memory_gb": 16, "disk_gb": 100, "accelerator": {"name": "h100", "count": 2}}
    assert mismatch(PoolSpec.model_validate({"provider": "sim", "max_hourly_cost": 1} | enough), one) is None
