"""Evenly over zones, or all in one."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings

from actors.buying import OnDemand
from actors.policy.budget import NO_LIMIT
from actors.policy.placement import POLICIES, place
from actors.policy.situation import Asking, Plan, Situation, market_name
from providers.model import Offer
from tests.actors.model import offer
from tests.actors.policy.situations import NOW, closed_market, machine, open_market, situation, situations

A, B, C = offer("a", dollars=1.0), offer("b", dollars=1.1), offer("c", dollars=1.2)
DEAR_A, DEAR_B = offer("a", dollars=3.0, spot=False), offer("b", dollars=3.1, spot=False)
EVEN, GANG = {"spread": "zones"}, {"spread": "together"}


def zones(plan: Plan) -> Counter[str]:
    """How many nodes are bought in each zone."""
    return Counter(choice.offers[0].zone for choice in plan.choices.values())


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_zones_have_as_many_machines_as_each_other(policy: str) -> None:
    spec = EVEN | {"buying": {"policy": policy}, "on_demand": {"ceiling": 0}}
    if policy in ("on-demand", "spothedge"):
        spec = EVEN | {"buying": {"policy": policy}}
    dear = [one.model_copy(update={"lifecycle": "on_demand", "id": one.id + "d"}) for one in (A, B, C)]
    plan = place(situation(A, B, C, *dear, asking=7, spec=spec))
    assert sorted(zones(plan).values()) == [2, 2, 3]


def test_new_machines_go_where_fewest_are() -> None:
    held = (machine(0, A), machine(1, A), machine(2, B))
    asking = tuple(Asking(node, NOW, ()) for node in (3, 4, 5))
    plan = place(replace(situation(A, B, C, held=held, spec=EVEN), asking=asking, nodes=6))
    assert zones(plan) == {"c": 2, "b": 1}


def test_a_zone_that_is_closed_is_made_up_for_by_the_others_and_gets_its_share_when_it_opens() -> None:
    closed = closed_market(A)
    assert zones(place(situation(A, B, C, asking=4, spec=EVEN, markets=closed))) == {"b": 2, "c": 2}
    held = tuple(machine(node, B if node % 2 else C) for node in range(6))
    opened = place(situation(A, B, C, asking=0, held=held, spec=EVEN, markets=open_market(A)))
    assert {move.offer.zone for move in opened.moves} == {"a"}


def test_on_demand_goes_back_to_spot_in_its_own_zone() -> None:
    held = (machine(0, DEAR_A), machine(1, B))
    plan = place(situation(A, B, DEAR_A, asking=0, held=held, spec=EVEN, markets=open_market(A)))
    assert [(move.node, move.offer.id) for move in plan.moves] == [(0, "a-spot")]


@settings(max_examples=100, deadline=None)
@given(some=situations())
def test_choices_make_no_zone_fuller_than_it_must_be(some: Situation) -> None:
    """With one market a zone and no bounds, what is bought new never goes to a zone that is fuller."""
    spec = some.spec.model_copy(update={"spread": "zones", "on_demand": OnDemand()})
    some = replace(some, spec=spec, allowance=NO_LIMIT)
    plan = place(some)
    held = Counter(_zone(one.offer) for one in some.held)
    bought = Counter(_zone(choice.offers[0]) for choice in plan.choices.values())
    there = [held[zone] + count for zone, count in bought.items()]
    assert not there or max(there) - min(there) <= max(1, *held.values(), 1)


def _zone(one: Offer) -> tuple[str, str, str]:
    return one.provider, one.region, one.zone


# --- together ---------------------------------------------------------------------------------------


def test_a_gang_goes_to_the_best_zone_and_stays_there() -> None:
    assert zones(place(situation(A, B, C, asking=4, spec=GANG))) == {"a": 4}
    held = (machine(0, B), machine(1, B))
    asking = (Asking(2, NOW, ()),)
    plan = place(replace(situation(A, B, C, held=held, spec=GANG), asking=asking, nodes=3))
    assert zones(plan) == {"b": 1}
    assert not plan.moves
    assert next(one.reason for one in plan.passed if one.market == market_name(A)) == (
        "all nodes are to be together in b"
    )


def test_a_gang_waits_rather_than_splits_and_then_moves_as_a_whole() -> None:
    held = (machine(0, B), machine(1, B))
    closed = closed_market(B)

    def after(waited_s: float) -> Plan:
        some = situation(A, B, C, held=held, spec=GANG, markets=closed)
        return place(replace(some, asking=(Asking(2, NOW - waited_s, ()),), nodes=3))

    waits = after(100)
    assert not waits.choices and not waits.moves
    assert waits.retry_at <= NOW + 60
    goes = after(300)
    assert zones(goes) == {"a": 1}
    assert not goes.moves, "one goes first, to see"
    some = situation(A, B, C, asking=0, spec=GANG, markets=closed | open_market(A))
    rest = place(replace(some, held=(*held, machine(2, A, age_s=5, ready=False)), nodes=3))
    assert sorted(move.node for move in rest.moves) == [0, 1]
    assert {move.offer.zone for move in rest.moves} == {"a"}


def test_a_gang_whose_machines_work_is_not_parted_by_how_long_they_could_not_be_renewed() -> None:
    held, closed = tuple(machine(node, B) for node in range(3)), closed_market(B)
    some = situation(A, B, C, held=held, spec=GANG, markets=closed)
    renewing = Asking(2, NOW - 3000, (), works=True)
    plan = place(replace(some, asking=(renewing,), nodes=3))
    assert not plan.choices and not plan.moves
    gone = replace(some, asking=(replace(renewing, works=False),), held=held[:2], nodes=3)
    assert zones(place(gone)) == {"a": 1}


def test_a_split_gang_comes_together_where_most_of_it_is() -> None:
    """The rest had no room where the newest machine is."""
    held = (*(machine(node, A, age_s=9000) for node in range(3)), machine(3, B, age_s=400))
    full = open_market(B) | closed_market(B, bad_s=20, closed_since=None, last_launch_at=NOW - 400)
    some = situation(A, B, asking=0, held=held, spec=GANG, markets=full | open_market(A))
    plan = place(some)
    assert [(move.node, move.offer.zone) for move in plan.moves] == [(3, "a")]
    assert plan.look_at is not None and plan.look_at <= NOW + 60
    newest = replace(some, held=(*held[:3], machine(3, B, age_s=100)), markets=open_market(B))
    assert {move.offer.zone for move in place(newest).moves} == {"b"}, "for a while it follows the newest"


def test_a_gang_does_not_go_again_where_only_a_part_of_it_had_room() -> None:
    held = tuple(machine(node, A) for node in range(3))
    small = open_market(B) | closed_market(B, bad_s=1200, closed_since=None, last_launch_at=NOW - 1300)
    some = situation(A, B, C, held=held, spec=GANG, markets=small | closed_market(A))
    some = replace(some, asking=(Asking(3, NOW - 400, ()),), nodes=4)
    assert zones(place(some)) == {"c": 1}
    assert not place(replace(some, offers={"sim": (A, B)})).choices


def test_a_gang_in_its_zone_takes_on_demand_there_when_spot_is_gone() -> None:
    held = (machine(0, B),)
    some = situation(A, B, DEAR_A, DEAR_B, held=held, spec=GANG, markets=closed_market(B))
    plan = place(replace(some, asking=(Asking(1, NOW, ()),), nodes=2))
    assert [choice.offers[0].id for choice in plan.choices.values()] == ["b-on_demand"]


def test_a_gang_chooses_a_zone_that_has_the_on_demand_machines_it_must_have() -> None:
    spec = GANG | {"on_demand": {"floor": 1}, "allocation": "spot"}
    plan = place(situation(A, B, DEAR_B, asking=2, spec=spec))
    assert {choice.offers[0].id for choice in plan.choices.values()} == {"b-spot", "b-on_demand"}
