"""Policies that others published: each does what is said of it in reference/spot.md."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest

from actors.market.state import MarketState
from actors.policy.placement import place
from actors.policy.situation import Asking, Held, Plan, Situation, market_name
from providers.errors import Fault
from providers.model import Offer
from tests.actors.model import offer
from tests.actors.policy.situations import NOW, machine, situation

A, B, C = offer("a", dollars=1.0), offer("b", dollars=1.1), offer("c", dollars=1.2)
FAR = offer("z", dollars=1.3).model_copy(update={"region": "far"})
DEAR = offer("a", dollars=3.0, spot=False)


def ask(
    policy: str, *offers: Offer, asking: int = 1, spec: Mapping[str, object] | None = None, **given: object
) -> Plan:
    """What a policy plans for a pool of spot machines, or, with on-demand offers, of both."""
    dear = any(one.lifecycle == "on_demand" for one in offers)
    allocation = "spot-if-available" if dear else "spot"
    whole = {"buying": {"policy": policy}, "allocation": allocation} | dict(spec or {})
    return place(situation(*offers, asking=asking, spec=whole, **given))


def chosen(plan: Plan) -> list[str]:
    """Zones, or for on demand the whole id, in the order of the nodes."""
    first = [choice.offers[0] for choice in plan.choices.values()]
    return [one.zone if one.lifecycle == "spot" else one.id for one in first]


def known(where: Offer, **memory: object) -> dict[str, MarketState]:
    """Memory of a market."""
    state = MarketState(market=where.market, decayed_at=NOW)
    return {market_name(where): state.model_copy(update=memory)}


def refused(*offers: Offer) -> tuple[Asking, ...]:
    """One node that these refused just now."""
    return (Asking(0, NOW, tuple(market_name(one) for one in offers)),)


SPOT = ["round-robin", "eager-next-region", "even-spread", "karpenter", "sticky-race", "spothedge"]


@pytest.mark.parametrize("policy", SPOT)
def test_on_demand_covers_what_no_spot_market_takes_where_the_pool_lets_it(policy: str) -> None:
    assert chosen(ask(policy, DEAR)) == ["a-on_demand"]
    assert chosen(ask(policy, A)) == ["a"]
    assert not ask(policy, DEAR, spec={"allocation": "spot"}).choices


@pytest.mark.parametrize("policy", sorted(set(SPOT) - {"spothedge"}))
def test_what_runs_on_demand_goes_back_to_spot_but_for_the_floor(policy: str) -> None:
    held = tuple(machine(node, DEAR) for node in range(4))
    assert len(ask(policy, A, DEAR, asking=0, held=held).moves) == 1
    floor = {"on_demand": {"floor": 4}}
    assert not ask(policy, A, DEAR, asking=0, held=held, spec=floor).moves


def test_on_demand_buys_nothing_else() -> None:
    assert chosen(ask("on-demand", A, DEAR, asking=2)) == ["a-on_demand"] * 2


@pytest.mark.parametrize("policy", [*SPOT, "on-demand"])
def test_on_demand_is_not_asked_over_and_over_either(policy: str) -> None:
    """A refusal is news, and news make the pool look again: without a rest it would never stop."""
    full = known(DEAR, last_refusal_at=NOW - 1, bad_at=NOW - 1, last_fault=Fault.CAPACITY)
    plan = ask(policy, DEAR, markets=full)
    assert not plan.choices
    assert NOW + 10 <= plan.retry_at <= NOW + 60
    later = known(DEAR, last_refusal_at=NOW - 61, bad_at=NOW - 61, last_fault=Fault.CAPACITY)
    assert chosen(ask(policy, DEAR, markets=later)) == ["a-on_demand"]


def test_round_robin_goes_round_the_markets_and_on_after_a_refusal() -> None:
    assert chosen(ask("round-robin", A, B, C, asking=5)) == ["a", "b", "c", "a", "b"]
    assert chosen(ask("round-robin", A, B, C, markets=known(A, last_launch_at=NOW - 50))) == ["b"]
    there = situation(A, B, C, spec={"buying": {"policy": "round-robin"}})
    assert chosen(place(replace(there, asking=refused(B)))) == ["c"]
    plan = ask("round-robin", A, markets=known(A, last_refusal_at=NOW - 10))
    assert not plan.choices
    assert plan.retry_at == NOW + 20


def test_eager_next_region_leaves_the_region_that_took_a_machine() -> None:
    lost = known(A, last_loss_at=NOW - 5)
    assert chosen(ask("eager-next-region", A, B, FAR)) == ["a"]
    assert chosen(ask("eager-next-region", A, B, FAR, markets=lost)) == ["z"]
    assert chosen(ask("eager-next-region", A, B, markets=lost)) == ["a"]
    waits = known(A, last_refusal_at=NOW - 10)
    assert ask("eager-next-region", A, markets=waits).retry_at == NOW + 50


def test_even_spread_gives_every_zone_its_share_and_waits_for_those_that_are_closed() -> None:
    assert Counter(chosen(ask("even-spread", A, B, C, asking=7))) == {"a": 3, "b": 2, "c": 2}
    closed = known(A, last_refusal_at=NOW - 5)
    plan = ask("even-spread", A, B, C, asking=6, markets=closed)
    assert Counter(chosen(plan)) == {"b": 2, "c": 2}


def test_karpenter_takes_the_fewest_interruptions_of_the_day_then_the_price() -> None:
    one = known(A, last_loss_at=NOW - 500, events=1.0)
    assert chosen(ask("karpenter", A, B, markets=one)) == ["b"]
    both = one | known(B, last_loss_at=NOW - 50, events=1.0)
    assert chosen(ask("karpenter", A, B, markets=both)) == ["a"]
    long_ago = known(A, last_loss_at=NOW - 100_000, events=1.0)
    assert chosen(ask("karpenter", A, B, markets=long_ago)) == ["a"]
    left_alone = known(A, last_refusal_at=NOW - 170)
    assert chosen(ask("karpenter", A, DEAR, markets=left_alone)) == ["a-on_demand"]
    assert chosen(ask("karpenter", A, DEAR, markets=known(A, last_refusal_at=NOW - 181))) == ["a"]


def test_sticky_race_stays_where_most_is_and_lets_a_zone_that_failed_rest() -> None:
    held = (machine(1, B), machine(2, B), machine(3, C))
    assert chosen(ask("sticky-race", A, B, C, held=held)) == ["b"]
    lost = known(B, last_loss_at=NOW - 290)
    assert chosen(ask("sticky-race", A, B, C, held=held, markets=lost)) == ["c"]
    over = known(B, last_loss_at=NOW - 301)
    assert chosen(ask("sticky-race", A, B, C, held=held, markets=over)) == ["b"]


def edge(**given: object) -> Plan:
    """What spothedge plans for two nodes over three zones."""
    return ask("spothedge", A, B, C, DEAR, nodes=2, **given)  # type: ignore[arg-type]


def test_spothedge_keeps_more_and_covers_on_demand_what_is_not_ready() -> None:
    first = edge(asking=2)
    assert first.spares == 1 + 2
    assert chosen(first) == ["a-on_demand"] * 2
    dear = tuple(machine(node, DEAR) for node in range(2))
    asking = tuple(Asking(node, NOW, ()) for node in (2, 3, 4))
    second = place(replace(_edge(held=dear), spares=3, asking=asking))
    assert chosen(second) == ["a", "b", "c"]  # each in a zone that has none of ours
    spot = tuple(machine(node, one) for node, one in zip((2, 3, 4), (A, B, C), strict=True))
    done = edge(asking=0, held=dear + spot, spares=3)
    assert done.spares == 1
    assert sorted(done.surplus) == [0, 1]


def _edge(held: tuple[Held, ...]) -> Situation:
    spec = {"buying": {"policy": "spothedge"}}
    return situation(A, B, C, DEAR, asking=0, held=held, nodes=2, spec=spec)


def test_spothedge_leaves_preempting_zones_until_fewer_than_two_are_left() -> None:
    bad = known(A, bad_at=NOW - 100, last_launch_at=NOW - 900)
    held = (machine(0, DEAR), machine(1, DEAR))
    asking = (Asking(2, NOW, ()),)
    there = replace(_edge(held), spares=3, asking=asking)
    assert chosen(place(replace(there, markets=bad))) == ["b"]
    worse = bad | known(B, bad_at=NOW - 100)
    assert chosen(place(replace(there, markets=worse))) == ["a"]
