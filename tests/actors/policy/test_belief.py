"""What is believed of a market."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.market.state import MarketState
from actors.policy.belief import (
    HAZARD_LEAST,
    NO_COUNTS,
    Belief,
    believe,
    common_multiplier,
    joint,
    rests_until,
    worth,
)
from actors.policy.memory import baseline
from tests.actors.model import offer
from tests.actors.policy.situations import HOUR_S, NOW, memories

MARKET = offer().market


def belief(**known: object) -> Belief:
    """What is believed now of a market with this memory."""
    memory = MarketState(market=MARKET, decayed_at=NOW).model_copy(update=known)
    return believe(memory, worth(memory, NOW), 1.0, NOW)


def test_a_market_that_nothing_was_heard_of_is_believed_open() -> None:
    assert believe(None, NO_COUNTS, 1.0, NOW).standing == "believed"


def test_good_news_is_fresh_for_two_minutes_and_while_something_is_held() -> None:
    assert belief(good_at=NOW - 100).standing == "open"
    assert belief(good_at=NOW - 200).standing == "believed"
    assert belief(good_at=NOW - 9000, holders={"p": 1}, watched_at=NOW).standing == "open"


@pytest.mark.parametrize(
    ("closed_s", "bad_s", "again_s"), [(5, 5, 60), (6000, 100, 590), (90_000, 100, 900), (450, 50, 60)]
)
def test_a_closed_market_rests_for_a_tenth_of_the_time_it_has_been_closed(
    closed_s: float, bad_s: float, again_s: float
) -> None:
    memory = MarketState(market=MARKET, closed_since=NOW - closed_s, bad_at=NOW - bad_s)
    assert rests_until(memory) == NOW - bad_s + again_s
    assert belief(closed_since=NOW - closed_s, bad_at=NOW - bad_s).standing == "closed"
    late = believe(memory, NO_COUNTS, 1.0, NOW - bad_s + again_s)
    assert late.standing == "doubtful"


def test_a_market_that_is_full_rests_too_and_what_is_held_there_is_as_safe_as_before() -> None:
    full = {
        "holders": {"p": 1},
        "watched_at": NOW,
        "up_since": NOW - 100 * HOUR_S,
        "last_launch_at": NOW - 3000,
    }
    known = full | {"bad_at": NOW - 5, "last_refusal_at": NOW - 5}
    assert belief(**known).standing == "closed"
    assert belief(**known).again_at == NOW - 5 + 299.5
    assert belief(**known).hazard == belief(**full).hazard
    assert belief(**known | {"last_launch_at": NOW - 1}).standing == "open"


def test_young_spells_are_fragile_and_old_ones_firm() -> None:
    young, old = (belief(good_at=NOW, up_since=NOW - age) for age in (0, 50 * HOUR_S))
    assert young.hazard == pytest.approx(baseline(0))
    assert old.hazard < young.hazard / 10
    assert belief(good_at=NOW, up_since=NOW - 1e9).hazard == HAZARD_LEAST


def test_a_market_that_closed_began_again_halfway_since_as_far_as_is_known() -> None:
    closed = belief(closed_since=NOW - 9 * HOUR_S, bad_at=NOW - 8 * HOUR_S, up_since=NOW - 999 * HOUR_S)
    assert closed.hazard == pytest.approx(baseline(4 * HOUR_S))


def test_losses_make_a_market_worse_and_quiet_time_makes_it_better_than_the_others() -> None:
    usual = belief(good_at=NOW, up_since=NOW - HOUR_S).hazard
    assert belief(good_at=NOW, up_since=NOW - HOUR_S, events=4.0).hazard == pytest.approx(usual * 3)
    assert belief(good_at=NOW, up_since=NOW - HOUR_S, expected=2.0).hazard == pytest.approx(usual / 2)


def test_what_all_markets_do_moves_what_is_believed_of_each() -> None:
    bad = replace(NO_COUNTS, events=8.0)
    assert common_multiplier([]) == 1
    assert common_multiplier([bad]) == 3
    assert believe(None, NO_COUNTS, common_multiplier([bad]), NOW).hazard == pytest.approx(
        3 * believe(None, NO_COUNTS, 1.0, NOW).hazard
    )


def test_markets_of_a_region_close_together_with_a_quarter_until_more_is_known() -> None:
    assert joint([]).region == 0.25
    often = replace(NO_COUNTS, closures=8.0, joint_region=4.0)
    assert joint([often]).region == (1 + 4) / (4 + 4)
    seldom = replace(NO_COUNTS, closures=12.0)
    assert joint([seldom]).region == 1 / 16


@given(memory=memories(offer()), later_s=st.floats(0, 1e7))
def test_a_belief_is_always_in_its_bounds(memory: MarketState, later_s: float) -> None:
    now = NOW + later_s
    found = believe(memory, worth(memory, now), 1.0, now)
    assert found.hazard >= HAZARD_LEAST
    assert (found.again_at > now) == (found.standing == "closed")
    assert found.again_at <= NOW + 900 or found.standing != "closed"
