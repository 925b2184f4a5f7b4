"""Where machines are bought: what holds of every decision, and the recommended policy's story."""

from collections import Counter
from dataclasses import replace
from math import ceil
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.market.state import MarketState
from actors.policy.budget import Allowance, commitment_micro_usd
from actors.policy.eligible import mismatch
from actors.policy.hazard import penalty_for
from actors.policy.placement import MOVING_SHARE, SHORT_TASK_S, YOUNG_S, place
from actors.policy.situation import Asking, Situation, market_name
from providers.model import MICRO, Capabilities, InstanceType, Offer
from tests.actors.model import CAPABILITIES, offer
from tests.actors.policy.situations import (
    FLOATING,
    HOUR_S,
    HOURLY,
    NOW,
    closed_market,
    machine,
    open_market,
    situation,
    situations,
)

MANY = settings(max_examples=100, deadline=None)


def bought(some: Situation) -> list[Offer]:
    """Offers that are asked first, for nodes and for moves."""
    plan = place(some)
    return [choice.offers[0] for choice in plan.choices.values()] + [move.offer for move in plan.moves]


def ids(some: Situation) -> list[str]:
    """Ids of the offers chosen for the nodes that ask."""
    return [choice.offers[0].id for choice in place(some).choices.values()]


# --- what always holds --------------------------------------------------------------------------------


@MANY
@given(some=situations())
def test_nothing_is_bought_that_the_pool_did_not_ask_for(some: Situation) -> None:
    plan = place(some)
    spec = some.spec
    asked = [one for choice in plan.choices.values() for one in choice.offers]
    for one in [*asked, *bought(some)]:
        assert spec.max_hourly_cost is None or one.micro_usd_per_hour <= spec.max_hourly_cost * MICRO
        assert mismatch(spec, one) is None
        assert one.provider in spec.provider
        assert one.lifecycle == "on_demand" or some.capabilities[one.provider].spot


@MANY
@given(some=situations())
def test_no_market_is_asked_that_cools_or_was_stopped_or_refused_just_now(some: Situation) -> None:
    refused = {market for one in some.asking for market in one.refused}
    for one in bought(some):
        name = market_name(one)
        memory, rejected = some.markets.get(name), some.rejections.get(name)
        assert one.provider not in some.down
        assert memory is None or memory.cool_until <= NOW
        assert rejected is None or rejected.until <= NOW
        assert some.failures.get(name, 0) < some.spec.bootstrap_failures_max
        assert name not in refused
        assert (one.provider, one.region) not in some.blocked


@MANY
@given(some=situations())
def test_never_more_machines_than_are_wanted(some: Situation) -> None:
    plan = place(some)
    asked = {one.node for one in some.asking}
    assert set(plan.choices) <= asked
    assert len(some.held) + len(plan.choices) <= max(len(some.held), some.nodes + plan.spares)
    assert plan.spares >= 0
    wanted = some.spec.buying.spares
    if isinstance(wanted, int) and some.spec.buying.policy != "spothedge":
        assert plan.spares == wanted


@MANY
@given(some=situations())
def test_the_allowance_covers_all_that_is_bought(some: Situation) -> None:
    committed = sum(commitment_micro_usd(one, some.spec, some.boot_s) for one in bought(some))
    assert some.allowance.micro_usd is None or committed <= some.allowance.micro_usd


@MANY
@given(some=situations())
def test_on_demand_stays_within_its_bounds(some: Situation) -> None:
    plan, rule = place(some), some.spec.on_demand
    dear = [one for one in bought(some) if one.lifecycle == "on_demand"]
    held = sum(1 for one in some.held if one.offer.lifecycle == "on_demand")
    floor = max(rule.floor, ceil(rule.share * some.nodes))
    if rule.ceiling is not None:
        assert not dear or held + len(dear) - _moved_away(some) <= max(rule.ceiling, 0)
    if some.spec.allocation == "spot":
        assert not dear or held + len(dear) - _moved_away(some) <= floor
    if some.spec.allocation == "on-demand":
        assert len(dear) == len(bought(some))
    # Moves take none away that the floor needs.
    left = held - _moved_away(some) + len(dear)
    assert left >= min(
        held, floor, some.nodes + plan.spares, rule.ceiling if rule.ceiling is not None else 99
    )


def _moved_away(some: Situation) -> int:
    held = {one.node: one for one in some.held}
    return sum(1 for move in place(some).moves if held[move.node].offer.lifecycle == "on_demand")


@MANY
@given(some=situations())
def test_moves_are_few_and_take_only_machines_that_may_be_moved(some: Situation) -> None:
    plan = place(some)
    held = {one.node: one for one in some.held}
    assert len({move.node for move in plan.moves}) == len(plan.moves)
    for move in plan.moves:
        assert held[move.node].movable and held[move.node].ready
        assert market_name(move.offer) != market_name(held[move.node].offer)
    if some.spec.spread != "together":
        most = max(1, int((some.nodes + plan.spares) * MOVING_SHARE))
        assert not plan.moves or len(plan.moves) + some.moved_away <= most
        assert all(held[move.node].launched_at + YOUNG_S <= NOW for move in plan.moves)
        if some.task_s is None or some.task_s > SHORT_TASK_S:
            assert not any(held[move.node].busy for move in plan.moves)


@MANY
@given(some=situations())
def test_whatever_is_too_much_no_machine_is_named_twice(some: Situation) -> None:
    """As surplus, whose machines go to other nodes, a node named twice would be two."""
    plan = place(replace(some, nodes=max(0, some.nodes - 2)))
    assert len(set(plan.surplus)) == len(plan.surplus)
    assert set(plan.surplus) <= {one.node for one in some.held}


@MANY
@given(some=situations())
def test_a_gang_is_bought_in_one_zone(some: Situation) -> None:
    some = replace(some, spec=some.spec.model_copy(update={"spread": "together"}))
    plan = place(some)
    zones = {(one.provider, one.region, one.zone) for one in bought(some)}
    assert len(zones) <= 1
    there = {(one.offer.provider, one.offer.region, one.offer.zone) for one in some.held}
    if plan.choices and len(there) == 1 and zones != there:  # it goes as a whole
        assert max(NOW - one.since for one in some.asking if one.since is not None) >= 300


@MANY
@given(some=situations())
def test_every_market_is_considered_or_passed_over_with_a_reason(some: Situation) -> None:
    plan = place(some)
    silent = {name for name in some.spec.provider if name not in some.offers or name in some.down}
    there = {str(one.market) for name in some.spec.provider for one in some.offers.get(name, ())}
    there = {name for name in there if name.split("/")[0] not in silent} | silent
    considered, passed = {one.market for one in plan.considered}, {one.market for one in plan.passed}
    assert considered | passed == there
    assert not considered & passed
    assert all(one.reason for one in plan.passed)
    assert all(choice.why for choice in plan.choices.values())


@MANY
@given(some=situations(), seed=st.integers(0, 1000))
def test_the_same_input_gives_the_same_plan_and_its_order_does_not_matter(some: Situation, seed: int) -> None:
    dice = Random(seed)
    plan = place(some)
    assert place(some) == plan
    shuffled = {name: tuple(dice.sample(there, len(there))) for name, there in some.offers.items()}
    other = place(
        replace(
            some,
            offers=dict(reversed(shuffled.items())),
            markets=dict(reversed(list(some.markets.items()))),
            held=tuple(dice.sample(some.held, len(some.held))),
        )
    )
    assert replace(other, passed=()) == replace(plan, passed=())
    assert set(other.passed) == set(plan.passed)


@MANY
@given(some=situations())
def test_what_waits_has_a_time_and_hopeless_means_that_nothing_can_be_asked(some: Situation) -> None:
    plan = place(some)
    assert plan.retry_at > NOW
    assert plan.look_at is None or plan.look_at > NOW
    if plan.hopeless:
        assert not plan.considered and not plan.choices and not plan.moves


@MANY
@given(some=situations("hazard"))
def test_nobody_is_left_out_while_a_market_is_believed_to_have_machines(some: Situation) -> None:
    """Unless money, a zone, patience or the bounds of on-demand forbid it."""
    buying = some.spec.buying.model_copy(update={"patience_s": 0.0, "spares": 0})
    spec = some.spec.model_copy(update={"spread": None, "buying": buying})
    some = replace(some, spec=spec, allowance=Allowance(), spares=0)
    plan = place(some)
    if any(one.market.endswith("/spot") for one in plan.considered):
        assert len(plan.choices) == min(max(0, some.nodes - len(some.held)), len(some.asking))


# --- the recommended policy's story -------------------------------------------------------------------

A, B, C = offer("a", dollars=1.0), offer("b", dollars=1.1), offer("c", dollars=1.2)
DEAR = offer("a", dollars=3.0, spot=False)


def test_a_new_pool_buys_the_cheapest_spot_and_says_why() -> None:
    plan = place(situation(C, DEAR, A, B, asking=3))
    assert {choice.offers[0].id for choice in plan.choices.values()} == {"a-spot"}
    why = plan.choices[0].why
    assert "cheapest of 3 markets" in why
    assert "$1.00 an hour" in why and "losses an hour expected" in why and "on demand costs $3.00" in why
    assert plan.choices[2].why is why  # built once, however many nodes there are


def test_what_refused_just_now_is_not_asked_again_and_at_last_on_demand_is() -> None:
    asked: list[str] = []
    for count in range(4):
        refused = tuple(market_name(one) for one in (A, B, C)[:count])
        asked += ids(replace(situation(A, B, C, DEAR), asking=(Asking(0, NOW, refused),)))
    assert asked == ["a-spot", "b-spot", "c-spot", "a-on_demand"]


def test_what_one_node_was_refused_holds_for_all_of_that_turn() -> None:
    asking = (Asking(0, NOW, (market_name(A),)), Asking(1, NOW, ()))
    assert ids(replace(situation(A, B), asking=asking, nodes=2)) == ["b-spot", "b-spot"]


def test_after_a_loss_another_zone_is_asked_first_though_it_is_dearer() -> None:
    lost = closed_market(A, last_loss_at=NOW - 5, last_refusal_at=None)
    plan = place(situation(A, B, DEAR, markets=lost))
    assert plan.choices[0].offers[0].id == "b-spot"
    assert next(one.reason for one in plan.passed if one.market == market_name(A)).startswith(
        "took a machine"
    )


def test_where_nothing_else_is_left_the_market_that_took_a_machine_is_asked_at_once() -> None:
    lost = closed_market(A, last_loss_at=NOW - 5, last_refusal_at=None)
    assert ids(situation(A, markets=lost)) == ["a-spot"]
    refused_too = closed_market(A, last_loss_at=NOW - 5, last_refusal_at=NOW - 4, bad_s=4)
    plan = place(situation(A, markets=refused_too))
    assert not plan.choices
    assert plan.retry_at == NOW - 4 + 60


def test_a_closed_market_is_asked_again_after_a_tenth_of_the_time_it_has_been_closed() -> None:
    early = closed_market(A, bad_s=500, closed_s=500 + 6000)
    late = closed_market(A, bad_s=700, closed_s=700 + 6000)
    spot = {"allocation": "spot"}
    assert place(situation(A, markets=early, spec=spot)).retry_at == NOW - 500 + 600
    assert ids(situation(A, markets=late, spec=spot)) == ["a-spot"]


def test_the_reason_of_a_closed_market_has_the_providers_words_and_a_time() -> None:
    closed = closed_market(A, last_detail="InsufficientInstanceCapacity")
    (passed,) = [one for one in place(situation(A, B, markets=closed)).passed if one.market == market_name(A)]
    assert "InsufficientInstanceCapacity" in passed.reason
    assert "asked again at" in passed.reason


def test_a_market_that_only_just_opened_is_worth_less_than_on_demand_for_who_fears_a_loss() -> None:
    young = open_market(A, age_s=60)
    old = open_market(A, age_s=100 * HOUR_S)
    steady = {"buying": {"missing_node_hour": 100}}
    assert ids(situation(A, DEAR, markets=young, spec=steady, boot_s=600.0)) == ["a-on_demand"]
    assert ids(situation(A, DEAR, markets=old, spec={"buying": {"missing_node_hour": 20}}, boot_s=600.0)) == [
        "a-spot"
    ]
    careless = {"buying": {"missing_node_hour": 0}}
    assert ids(situation(A, DEAR, markets=young, spec=careless, boot_s=600.0)) == ["a-spot"]


def test_a_notice_that_leaves_time_to_replace_makes_young_markets_good_enough() -> None:
    young, steady = open_market(A, age_s=60), {"buying": {"missing_node_hour": 20}}
    warned = {"sim": CAPABILITIES.model_copy(update={"notice_s": 600.0})}
    unwarned = {"sim": CAPABILITIES.model_copy(update={"notice_s": None})}
    assert ids(situation(A, DEAR, markets=young, spec=steady, capabilities=unwarned)) == ["a-on_demand"]
    assert ids(situation(A, DEAR, markets=young, spec=steady, capabilities=warned)) == ["a-spot"]


def test_spot_if_available_prefers_spot_whatever_it_costs_and_cheapest_does_not() -> None:
    cheap, spot = offer("a", dollars=1, spot=False), offer("b", dollars=2)
    assert ids(situation(cheap, spot)) == ["b-spot"]
    assert ids(situation(cheap, spot, spec={"allocation": "cheapest"})) == ["a-on_demand"]
    assert ids(situation(cheap, spot, spec={"allocation": "on-demand"})) == ["a-on_demand"]
    assert ids(situation(cheap, spot, spec={"allocation": "spot"})) == ["b-spot"]


def test_ties_are_broken_by_name() -> None:
    assert ids(situation(offer("c"), offer("a"), offer("b"))) == ["a-spot"]


def test_at_most_sixteen_nodes_try_whether_a_market_opened_again() -> None:
    doubtful = closed_market(A, bad_s=3 * HOUR_S, closed_s=4 * HOUR_S)
    plan = Counter(ids(situation(A, DEAR, asking=40, markets=doubtful)))
    assert plan == {"a-spot": 16, "a-on_demand": 24}
    on_their_way = tuple(machine(node, A, age_s=1, ready=False) for node in range(40, 50))
    more = Counter(ids(situation(A, DEAR, asking=40, held=on_their_way, markets=doubtful)))
    assert more == {"a-spot": 6, "a-on_demand": 34}


def test_a_share_of_time_in_which_all_are_ready_buys_steadier_machines_the_higher_it_is() -> None:
    hours = [penalty_for(share) for share in (0.5, 0.99, 0.995, 0.999, 0.9999)]
    assert hours == sorted(hours)
    assert 5 < hours[1] < 20 < hours[2] < 40
    fragile = open_market(A, age_s=2 * HOUR_S)
    for share, bought_id in ((0.9, "a-spot"), (0.9999, "a-on_demand")):
        some = situation(A, DEAR, markets=fragile, spec={"buying": {"availability": share}}, boot_s=600.0)
        assert ids(some) == [bought_id]


def test_machines_on_demand_go_back_to_spot_one_to_see_then_the_others() -> None:
    held = tuple(machine(node, DEAR) for node in range(8))
    doubtful = closed_market(A, bad_s=3 * HOUR_S, closed_s=4 * HOUR_S)
    first = place(situation(A, DEAR, asking=0, held=held, markets=doubtful))
    assert [move.offer.id for move in first.moves] == ["a-spot"]
    assert "better than" in first.moves[0].why and "$3.00" in first.moves[0].why
    seen = place(situation(A, DEAR, asking=0, held=held, markets=open_market(A)))
    assert len(seen.moves) == 2  # a quarter at a time
    assert seen.look_at is not None and seen.look_at <= NOW + 300


def test_no_machine_is_moved_that_is_young_busy_with_a_notice_or_needed_for_the_floor() -> None:
    there = open_market(A)
    young = (machine(0, DEAR, age_s=YOUNG_S - 1),)
    plan = place(situation(A, DEAR, asking=0, held=young, markets=there))
    assert not plan.moves
    assert plan.look_at == NOW + 1
    leaving = (replace(machine(0, DEAR), movable=False),)
    assert not place(situation(A, DEAR, asking=0, held=leaving, markets=there)).moves
    floor = {"on_demand": {"floor": 1}}
    assert not place(situation(A, DEAR, asking=0, held=(machine(0, DEAR),), markets=there, spec=floor)).moves


def test_the_idle_machine_is_moved_before_the_busy_one() -> None:
    held = (machine(0, DEAR, busy=3), machine(1, DEAR))
    plan = place(situation(A, DEAR, asking=0, held=held, markets=open_market(A)))
    assert [move.node for move in plan.moves] == [1]


# --- moves --------------------------------------------------------------------------------------------


def moved(some: Situation) -> list[int]:
    """Nodes that are moved."""
    return [move.node for move in place(some).moves]


def test_those_that_are_left_after_a_loss_stay_where_they_are() -> None:
    """Other markets, of which nothing is known, look steadier than one that just took a machine."""
    young = open_market(A, age_s=60, events=1.0, holders={"pool": 4}, watched_at=NOW)
    held = tuple(machine(node, A) for node in range(4))
    some = situation(A, B, DEAR, asking=0, held=held, markets=young, boot_s=900.0)
    assert not moved(some)
    # Where it is known to be steady, and better by far, it is worth a move.
    known = young | open_market(B, age_s=500 * HOUR_S, expected=10.0)
    assert moved(replace(some, markets=known)) == [0]
    hardly = young | open_market(B, age_s=100, expected=1.0, events=1.0)
    assert not moved(replace(some, markets=hardly, offers={"sim": (A, B)}))


def test_a_machine_with_tasks_is_moved_only_when_they_are_known_to_be_short() -> None:
    held = (machine(0, DEAR, busy=2),)
    some = situation(A, DEAR, asking=0, held=held, markets=open_market(A))
    assert not moved(some)
    assert not moved(replace(some, task_s=SHORT_TASK_S + 1))
    (move,) = place(replace(some, task_s=SHORT_TASK_S)).moves
    assert "its 2 tasks may end there first" in move.why
    # Two machines are paid until they end: a little is not worth that.
    cheaper = offer("b", dollars=2.3, spot=False)
    spec = {"allocation": "on-demand"}
    some = situation(cheaper, DEAR, asking=0, held=held, spec=spec, task_s=600.0)
    assert not moved(some)
    assert moved(replace(some, held=(machine(0, DEAR),))) == [0]
    assert moved(replace(some, task_s=60.0)) == [0]


def test_machines_that_were_moved_away_and_are_paid_yet_count_as_on_their_way() -> None:
    held = tuple(machine(node, DEAR) for node in range(8))
    some = situation(A, DEAR, asking=0, held=held, markets=open_market(A))
    assert [len(moved(replace(some, moved_away=away))) for away in (0, 1, 2, 7)] == [2, 1, 0, 0]


def test_a_machine_is_never_replaced_by_one_of_its_own_market() -> None:
    for capabilities in (CAPABILITIES, FLOATING):
        for dollars in (0.2, 3.0):
            bought_at = A.model_copy(update={"micro_usd_per_hour": int(dollars * MICRO)})
            some = situation(A, asking=0, held=(machine(0, bought_at),), markets=open_market(A))
            assert not moved(replace(some, capabilities={"sim": capabilities}))


def test_where_running_machines_are_billed_at_the_price_of_the_moment_a_market_that_turned_dear_is_left() -> (
    None
):
    dear = A.model_copy(update={"micro_usd_per_hour": 2 * MICRO})
    markets = open_market(A) | open_market(B)
    some = situation(dear, B, asking=0, held=(machine(0, A),), markets=markets)
    assert not moved(some), "it keeps the price that it was bought at"
    some = replace(some, capabilities={"sim": FLOATING})
    assert moved(some) == [0]
    assert "($2.00 an hour" in place(some).moves[0].why
    cheap = A.model_copy(update={"micro_usd_per_hour": MICRO // 2})
    bought_dear = (machine(0, dear),)
    assert not moved(replace(some, offers={"sim": (cheap, B)}, held=bought_dear)), "it is billed less, too"


def test_where_hours_are_billed_whole_a_move_waits_for_the_end_of_one_and_has_to_pay_for_more() -> None:
    twice = offer("a", dollars=1.6, spot=False)
    less, markets = offer("b", dollars=1.1, spot=False), open_market(A)

    def moves(age_s: float, billed: Capabilities) -> bool:
        some = situation(
            less, twice, asking=0, held=(machine(0, twice, age_s=age_s),), spec={"allocation": "on-demand"}
        )
        return bool(moved(replace(some, capabilities={"sim": billed}, markets=markets)))

    begun, ends = 5 * HOUR_S + 60, 6 * HOUR_S - 200  # and it goes a boot later
    assert moves(begun, CAPABILITIES) and moves(ends, CAPABILITIES)
    assert not moves(begun, HOURLY)
    assert moves(ends, HOURLY)


def test_a_new_machine_is_bought_where_no_begun_hour_is_wasted() -> None:
    hourly = offer("a", dollars=1.0, provider="other")
    by_second = offer("b", dollars=1.05)
    some = situation(spec={"provider": ["sim", "other"]}, offers={"sim": (by_second,), "other": (hourly,)})
    some = replace(some, offers_at={"sim": NOW, "other": NOW})
    assert ids(replace(some, capabilities={"sim": CAPABILITIES, "other": CAPABILITIES})) == [hourly.id]
    assert ids(replace(some, capabilities={"sim": CAPABILITIES, "other": HOURLY})) == [by_second.id]


# --- news that memory has not heard, and regions that can't be used -------------------------------------


def test_a_loss_of_this_very_turn_is_reckoned_with() -> None:
    """The market that took the machine a moment ago hears of it only when the turn is over."""
    known = open_market(A, holders={"pool": 1}, watched_at=NOW)
    asking = (Asking(0, NOW, (), lost_in=market_name(A)),)
    some = replace(situation(A, B, markets=known), asking=asking)
    assert ids(some) == ["b-spot"]
    (passed,) = [one for one in place(some).passed if one.market == market_name(A)]
    assert passed.reason.startswith("took a machine at")
    assert ids(replace(some, offers={"sim": (A,)})) == ["a-spot"], "when nothing else is left"
    # A part of what it has says little of it.
    left = tuple(machine(node, A) for node in range(1, 9))
    assert ids(replace(some, held=left, nodes=9)) == ["a-spot"]
    assert ids(replace(some, markets={})) == ["b-spot"], "nothing was heard of it before"


def test_a_region_that_cannot_be_used_is_passed_over_until_that_is_tried_again() -> None:
    far = B.model_copy(update={"region": "far"})
    blocked = {("sim", A.region): ("no network: quota of networks", NOW + 40)}
    some = situation(A, far, blocked=blocked)
    assert ids(some) == [far.id]
    (passed,) = [one for one in place(some).passed if one.market == market_name(A)]
    assert passed.reason.startswith("no network: quota of networks; tried again at")
    plan = place(situation(A, blocked=blocked))
    assert not plan.choices and not plan.hopeless
    assert plan.retry_at == NOW + 40


def test_the_price_that_spot_is_measured_by_is_of_a_machine_that_would_do() -> None:
    """A spot-only pool, too, is measured by on-demand machines of its own shape."""
    big = InstanceType(name="big", vcpus=96, memory_gb=1000)
    cheap, steady, dear = (
        one.model_copy(update={"instance_type": big})
        for one in (offer("a", dollars=10.0), offer("b", dollars=10.5), offer("a", dollars=30.0, spot=False))
    )
    tiny = offer("z", dollars=0.004, spot=False)
    markets = open_market(cheap, age_s=600, events=8.0, expected=1.0) | open_market(
        steady, age_s=400 * HOUR_S, expected=5.0
    )
    some = situation(cheap, steady, dear, tiny, markets=markets, spec={"allocation": "spot", "vcpus": 64})
    assert ids(some) == ["b-spot"]
    assert "on demand costs $30.00" in place(some).choices[0].why


def test_a_market_that_was_full_is_asked_with_few() -> None:
    held = (machine(99, A),)
    full = open_market(
        A, bad_at=NOW - 500, last_refusal_at=NOW - 500, last_launch_at=NOW - 600, holders={"p": 1}
    )
    plan = Counter(ids(situation(A, DEAR, asking=40, held=held, markets=full)))
    assert plan["a-spot"] == 2


# --- on demand, and other wishes ------------------------------------------------------------------------


def test_a_floor_a_share_and_a_ceiling_of_on_demand() -> None:
    floor = situation(A, DEAR, asking=4, spec={"allocation": "spot", "on_demand": {"floor": 1}})
    assert Counter(ids(floor)) == {"a-on_demand": 1, "a-spot": 3}
    assert "the pool wants so many" in place(floor).choices[0].why
    share = situation(A, DEAR, asking=3, spec={"on_demand": {"share": 0.5}})
    assert Counter(ids(share)) == {"a-on_demand": 2, "a-spot": 1}
    ceiling = situation(DEAR, asking=4, spec={"on_demand": {"ceiling": 1}})
    assert ids(ceiling) == ["a-on_demand"]
    reached = situation(A, DEAR, asking=0, held=(machine(0, A),), spec={"on_demand": {"floor": 1}})
    assert [move.offer.id for move in place(reached).moves] == ["a-on_demand"]


def test_a_cheaper_machine_on_demand_is_not_bought_beside_those_that_the_ceiling_lets() -> None:
    """It would be one to move to; a node that asks does not get it while the dear one is there."""
    cheap = offer("b", dollars=1.0, spot=False)
    spec = {"allocation": "on-demand", "on_demand": {"ceiling": 1}}
    some = situation(cheap, DEAR, held=(machine(1, DEAR),), spec=spec)
    assert not ids(some)
    assert moved(replace(some, asking=(), nodes=1)) == [1]


def test_patience_waits_for_spot_before_it_pays_for_on_demand() -> None:
    spec = {"buying": {"patience_s": 300}}
    waiting = place(replace(situation(DEAR, spec=spec), asking=(Asking(0, NOW - 100, ()),)))
    assert not waiting.choices
    assert waiting.retry_at == NOW + 200
    over = replace(situation(DEAR, spec=spec), asking=(Asking(0, NOW - 300, ()),))
    assert ids(over) == ["a-on_demand"]


def test_a_preferred_alternative_counts_cheaper_than_it_is() -> None:
    prefers = {"alternatives": [{"zone": ["b"], "price_factor": 0.5}, {"zone": ["*"]}]}
    assert ids(situation(A, B, spec=prefers)) == ["b-spot"]


def test_the_budget_stops_what_it_cannot_pay_and_says_when_it_can() -> None:
    one = commitment_micro_usd(A, situation(A).spec, 180.0)
    some = situation(A, asking=3, allowance=Allowance(2 * one, "the day's budget", NOW + 7000))
    plan = place(some)
    assert list(plan.choices) == [0, 1]
    assert plan.too_dear
    assert plan.retry_at == NOW + 7000


def test_what_is_left_of_a_budget_buys_what_it_can_pay() -> None:
    risky = MarketState(
        market=A.market, events=60, expected=1, decayed_at=NOW, up_since=NOW - 600, good_at=NOW
    )
    some = situation(A, DEAR, markets={str(A.market): risky})
    assert ids(some) == ["a-on_demand"], "else this shows nothing"
    one = commitment_micro_usd(A, some.spec, 180.0)
    short = replace(some, allowance=Allowance(one, "the day's budget", NOW + 7000))
    assert ids(short) == ["a-spot"]
    assert "the budget pays for no other" in place(short).choices[0].why
    assert not place(replace(short, allowance=Allowance(one - 1, "the day's budget", NOW + 7000))).choices


def test_old_offers_are_asked_for_again_when_something_depends_on_them() -> None:
    old = {"sim": NOW - 400}
    assert place(situation(A, offers_at=old)).refresh == ("sim",)
    assert not place(situation(A, asking=0, held=(machine(0, A),), offers_at=old)).refresh
    assert not place(situation(A)).refresh


def test_hopeless_means_that_every_market_that_fits_was_stopped() -> None:
    one, small = offer("a"), offer("b")
    spec = {"zone": "a", "bootstrap_failures_max": 1}
    assert place(situation(one, small, spec=spec, failures={str(one.market): 1})).hopeless
    assert not place(situation(one, small, spec=spec)).hopeless
    assert not place(situation(spec=spec, offers={})).hopeless


def test_machines_that_are_too_many_in_turn_in_two_zones_are_each_named_once() -> None:
    held = (machine(0, A), machine(1, A), machine(2, B), machine(3, B))
    plan = place(situation(A, B, asking=0, held=held, nodes=1, spec={"spread": "zones"}))
    assert len(set(plan.surplus)) == 3


# --- spares -------------------------------------------------------------------------------------------


def test_spares_are_kept_only_where_a_missing_node_is_worth_more() -> None:
    markets = open_market(A, age_s=HOUR_S) | open_market(B, age_s=HOUR_S)
    far = B.model_copy(update={"region": "far"})
    markets |= open_market(far, age_s=HOUR_S)

    def spares(worth: float) -> int:
        spec = {"buying": {"spares": "auto", "missing_node_hour": worth}}
        return place(situation(A, far, DEAR, markets=markets, spec=spec, boot_s=600.0)).spares

    assert spares(0) == 0
    assert spares(20) == 1
    assert spares(1e5) == 0  # nothing but on demand is steady enough


def test_no_spare_goes_while_a_node_needs_it() -> None:
    spec = {"buying": {"spares": "auto", "missing_node_hour": 0}}
    held = (machine(0, A, ready=False), machine(1, A))
    assert place(situation(A, asking=0, held=held, nodes=1, spares=1, spec=spec)).spares == 1
    both = (machine(0, A), machine(1, A))
    plan = place(situation(A, asking=0, held=both, nodes=1, spares=1, spec=spec))
    assert plan.spares == 0
    assert len(plan.surplus) == 1


@pytest.mark.parametrize(
    ("policy", "spares"), [("hazard", "auto"), ("hazard", 0), ("karpenter", 0), ("spothedge", 0)]
)
def test_it_comes_to_rest(policy: str, spares: object) -> None:
    """Doing what is planned, again and again in a quiet market, ends with nothing more to do."""
    spec = {"buying": {"policy": policy, "spares": spares, "missing_node_hour": 40}}
    markets = open_market(A) | open_market(B)
    some = situation(A, B, DEAR, asking=4, nodes=4, markets=markets, spec=spec)
    for _ in range(8):
        plan = place(some)
        held = {one.node: one for one in some.held}
        held |= {node: machine(node, choice.offers[0]) for node, choice in plan.choices.items()}
        held |= {move.node: machine(move.node, move.offer) for move in plan.moves}
        for node in plan.surplus[: max(0, len(held) - 4 - plan.spares)]:
            del held[node]
        free = [node for node in range(40) if node not in held]
        asking = tuple(Asking(node, NOW, ()) for node in free[: 4 + plan.spares - len(held)])
        some = replace(some, held=tuple(held.values()), asking=asking, spares=plan.spares)
    plan = place(some)
    assert not some.asking and not plan.moves and not plan.surplus
    assert plan.spares == some.spares
