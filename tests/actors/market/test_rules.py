"""The memory of a market."""

from collections.abc import Iterable
from math import isfinite
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.decision import View, World
from actors.index import Index
from actors.market.rules import (
    COOL_FIRST_S,
    COOL_MOST_S,
    JOINT_S,
    TOGETHER_S,
    check,
    cooldown_s,
    decide,
    resume,
)
from actors.market.state import MarketJson, MarketState
from actors.messages import (
    Due,
    HoldingTold,
    LaunchTold,
    LossTold,
    LossWithdrawn,
    MarketMessage,
    RefusalTold,
)
from actors.policy.memory import HALF_LIFE_S, UNKNOWN_AGE_S, age_s, counts, exposure, is_open
from providers.errors import Fault
from tests.actors.model import offer

MARKET = offer().market
HUMAN = {Fault.FUNDS, Fault.CREDENTIALS}
HOUR = 3600.0
START = 1_700_000_000.0

messages = st.one_of(
    st.just(Due()),
    st.just(LaunchTold(MARKET, 5)),
    st.builds(LossTold, st.just(MARKET), st.integers(0, 5), st.sampled_from("ab")),
    st.just(LossWithdrawn(MARKET)),
    st.builds(HoldingTold, st.just(MARKET), st.sampled_from("ab"), st.integers(0, 2)),
    st.builds(RefusalTold, st.just(MARKET), st.sampled_from(Fault), st.none() | st.floats(0, 5000)),
    st.just(RefusalTold(MARKET, Fault.CAPACITY)),
)
later = st.sampled_from([0.0, 1.0, 60.0, 700.0, HOUR, 30 * HOUR]) | st.floats(-5, 1e6)


def view(now: float, others: Iterable[MarketState] = ()) -> View:
    """What a market looks at: the time, and the other markets."""
    world = World(markets={str(other.market): other for other in others})
    return View(now, START, 0.5, "owner", 1, world, Index())


def after(
    state: MarketState | None, message: MarketMessage, now: float, others: Iterable[MarketState] = ()
) -> MarketState:
    """The memory after one piece of news."""
    decision = decide(state, message, view(now, others))
    assert isinstance(decision.state, MarketState)
    assert not (decision.effects or decision.facts or decision.tells)
    check(decision.state)
    return decision.state


def told(*news: tuple[float, MarketMessage], others: Iterable[MarketState] = ()) -> MarketState:
    """The memory after pieces of news, each so many seconds after the start."""
    state: MarketState | None = None
    for at, message in news:
        state = after(state, message, START + at, others)
    assert state is not None
    return state


def about(count: float) -> float:
    """A count but for what is forgotten in minutes."""
    return round(count, 3)


def launched() -> LaunchTold:
    return LaunchTold(MARKET, 100_000)


def lost(held: int, pool: str = "a") -> LossTold:
    return LossTold(MARKET, held, pool)


def holds(held: int, pool: str = "a") -> HoldingTold:
    return HoldingTold(MARKET, pool, held)


def refused(fault: Fault = Fault.CAPACITY, after_s: float | None = None) -> RefusalTold:
    return RefusalTold(MARKET, fault, after_s, "none left")


# --- whatever is told -----------------------------------------------------------------------------


@given(news=st.lists(st.tuples(messages, later), max_size=40))
def test_news_in_any_order(news: list[tuple[MarketMessage, float]]) -> None:
    state, now, withdrawn = None, START, 0
    for message, wait in news:
        now += wait
        decision = decide(state, message, view(now))
        if decision.state is None:
            assert state is None
            assert isinstance(message, Due)
            continue
        assert decision == decide(state, message, view(now))
        assert isinstance(decision.state, MarketState)
        before, state = state, MarketJson.validate_json(MarketJson.dump_json(decision.state))
        assert state == decision.state
        check(state)
        assert resume(state) == ()
        worth = counts(state, now)
        for count in (worth.events, worth.expected, worth.closures, worth.joint_type):
            assert isfinite(count) and count >= 0
        assert worth.events <= state.losses + withdrawn + state.refusals / 2 + 1e-6
        assert worth.closures <= state.losses + withdrawn + 1e-6
        assert is_open(state, now) <= (state.closed_since is None)
        assert age_s(state, now) >= 0
        match message:
            case RefusalTold(fault=fault, retry_after_s=wanted):
                assert state.cool_until >= (now + wanted if wanted else 0)
                if fault is not Fault.CAPACITY:
                    assert state.cool_until > now
                elif before is not None and not wanted:
                    assert state.cool_until == before.cool_until
            case LaunchTold():
                assert (state.due_at, state.closed_since, state.good_at) == (None, None, now)
            case LossTold():
                assert state.last_loss_at == now
            case LossWithdrawn():
                withdrawn += 1
                assert state.closed_since is None
            case HoldingTold(pool=pool, held=held):
                assert (pool in state.holders) == (held > 0)
                assert after(state, message, now + 99) == state
            case _:
                assert state.due_at is None
    if state is not None:
        kinds = [type(message) for message, _ in news]
        assert (state.launches, state.refusals) == (kinds.count(LaunchTold), kinds.count(RefusalTold))
        assert 0 <= state.losses <= kinds.count(LossTold)
        assert len(state.holders) <= 2


@given(pools=st.integers(1, 4), held=st.lists(st.integers(1, 9), min_size=4, max_size=4), data=st.data())
def test_losses_at_one_time_are_never_more_than_one_event(
    pools: int, held: list[int], data: st.DataObject
) -> None:
    names = [f"p{n}" for n in range(pools)]
    state: MarketState | None = None
    for name in names:
        state = after(state, holds(1, name), START)
    left = dict(zip(names, held, strict=False))
    while any(left.values()):
        name = data.draw(st.sampled_from([name for name in names if left[name]]))
        state = after(state, lost(left[name], name), START + 1)
        left[name] -= 1
        assert state.events <= 1 + 1e-9
        assert (state.closed_since is not None) == (not any(left.values()))
    assert state is not None
    assert (about(state.events), state.closures) == (1, 1)


@given(fault=st.sampled_from(Fault), row=st.integers(1, 100), wanted=st.none() | st.floats(0, 9999))
def test_a_cool_down_has_bounds(fault: Fault, row: int, wanted: float | None) -> None:
    cool = cooldown_s(fault, row, wanted)
    assert cool >= (wanted or 0)
    assert cool <= max(COOL_MOST_S, wanted or 0)
    assert cool <= cooldown_s(fault, row + 1, wanted)
    assert (cool == (wanted or 0)) if fault is Fault.CAPACITY else (cool >= COOL_FIRST_S)
    if fault in HUMAN or (fault is Fault.QUOTA and wanted is None):
        assert cool >= COOL_MOST_S


# --- open and closed ------------------------------------------------------------------------------


def test_a_market_that_is_seen_open_for_the_first_time_has_been_so_for_a_while() -> None:
    state = told((0, launched()))
    assert is_open(state, START)
    assert (state.up_since, state.last_price) == (START - UNKNOWN_AGE_S, 100_000)
    assert is_open(state, START + HOUR)
    assert not is_open(state, START + HOUR + 1), "old news"


@pytest.mark.parametrize(("closed_s", "back_s"), [(600.0, 0.0), (2 * HOUR, HOUR)])
def test_when_a_market_opened_again(closed_s: float, back_s: float) -> None:
    state = told((0, launched()), (10, refused()), (10 + closed_s, launched()))
    assert state.up_since == START + 10 + closed_s - back_s
    assert state.closed_since is None


def test_the_first_bad_news_says_since_when_it_is_closed_and_the_last_how_far_it_is_known() -> None:
    state = told((0, launched()), (10, refused()), (5 * HOUR, refused()), (6 * HOUR, launched()))
    assert state.up_since == START + 6 * HOUR
    closed = told((0, launched()), (10, refused()), (5 * HOUR, refused()))
    assert (closed.closed_since, closed.bad_at) == (START + 10, START + 5 * HOUR)


@pytest.mark.parametrize(("at", "events"), [(10.0, 0.5), (HOUR, 0.5), (HOUR + 1, 0.0)])
def test_a_refusal_is_half_a_loss_where_machines_were_believed_to_be(at: float, events: float) -> None:
    state = told((0, launched()), (at, refused()))
    assert (state.events, state.closed_since) == (events, START + at)
    again = after(state, refused(), START + at + 60)
    assert about(again.events) == events
    assert told((0, refused())).events == 0


def test_a_market_that_refuses_while_it_lets_us_keep_what_we_hold_is_full() -> None:
    state = told((0, launched()), (0, holds(1)), (10, refused()))
    assert (state.closed_since, state.events) == (None, 0)
    assert state.bad_at == state.last_refusal_at == START + 10
    left = after(state, holds(0), START + 5 * HOUR)
    assert is_open(left, START + 5 * HOUR), "one of ours was there until now"


# --- losses ---------------------------------------------------------------------------------------


def test_machines_that_go_one_after_the_other_are_one_event() -> None:
    state = told((0, launched()), (0, holds(1)), (HOUR, lost(4)))
    assert state.events == 0.25
    age = UNKNOWN_AGE_S + HOUR
    assert (state.closed_since, state.up_since) == (None, START + HOUR - age * 3 / 4), "as much younger"
    state = after(after(state, lost(3), START + HOUR + 30), lost(2), START + HOUR + 60)
    assert about(state.events) == 0.75
    assert state.up_since == START + HOUR + 60 - (age + 60) / 4, "of one event, not of three"
    state = after(state, lost(1), START + HOUR + TOGETHER_S)
    assert about(state.events) == 1
    assert (state.closed_since, state.closures, state.losses) == (START + HOUR + TOGETHER_S, 1, 4)
    assert state.up_since == START + HOUR + TOGETHER_S


def test_machines_that_are_still_there_while_they_go_are_counted_once() -> None:
    """Notices: all are held until the last minute, and all are lost."""
    state = told((0, launched()), (0, holds(1)), *((HOUR + i, lost(4)) for i in range(4)))
    assert about(state.events) == 1
    assert (state.closed_since, state.closures) == (START + HOUR + 3, 1)


def test_losses_that_are_not_close_are_events_of_their_own() -> None:
    state = told((0, launched()), (0, holds(1)), (HOUR, lost(4)), (HOUR + TOGETHER_S + 1, lost(3)))
    assert about(state.events) == about(1 / 4 + 1 / 3)
    assert state.closures == 0


def test_a_market_where_another_pool_holds_some_did_not_lose_all() -> None:
    state = told((0, launched()), (0, holds(1, "a")), (0, holds(1, "b")), (HOUR, lost(1, "a")))
    assert (state.events, state.closed_since) == (0.5, None)
    state = after(state, lost(9, "b"), START + HOUR + 5)
    assert about(state.events) == 0.2
    assert state.closed_since is None


def test_a_market_that_opens_again_at_once_may_be_lost_again() -> None:
    state = told(
        (0, launched()), (0, holds(1)), (9, lost(1)), (9, holds(0)), (20, launched()), (20, holds(1))
    )
    assert state.closed_since is None
    state = after(state, lost(1), START + 40)
    assert (about(state.closures), about(state.events)) == (2, 2)
    assert state.closed_since == START + 40


def test_a_notice_that_is_taken_back_leaves_nothing() -> None:
    before = told((0, launched()), (0, holds(1)))
    state = after(after(before, lost(1), START + HOUR), LossWithdrawn(MARKET), START + HOUR + 20)
    assert (state.losses, state.closures, state.closed_since) == (0, 0, None)
    assert state.events == 0
    assert state.up_since == before.up_since
    assert is_open(state, START + HOUR + 20)


def test_one_of_two_notices_is_taken_back() -> None:
    state = told((0, launched()), (0, holds(1)), (HOUR, lost(4)), (HOUR, lost(3)))
    age = UNKNOWN_AGE_S + HOUR
    assert state.up_since == START + HOUR - age / 2
    state = after(state, LossWithdrawn(MARKET), START + HOUR)
    assert state.up_since == START + HOUR - age * 3 / 4


@pytest.mark.parametrize(
    ("where", "joint"),
    [
        ({"zone": "b"}, (0, 1, 1)),
        ({"zone": "b", "instance_type": "big"}, (0, 1, 0)),
        ({"instance_type": "big"}, (1, 1, 0)),
        ({"region": "q", "zone": "b"}, (0, 0, 1)),
        ({"provider": "other"}, (0, 0, 0)),
        ({"lifecycle": "on_demand"}, (0, 0, 0)),
    ],
)
def test_markets_that_close_together(where: dict[str, Any], joint: tuple[int, int, int]) -> None:
    other = MarketState(market=MARKET.model_copy(update=where), bad_at=START, closed_since=START)
    news: list[tuple[float, MarketMessage]] = [(0, launched()), (0, holds(1)), (JOINT_S, lost(1))]
    state = told(*news, others=[other])
    assert (state.joint_zone, state.joint_region, state.joint_type) == joint
    long_ago = other.model_copy(update={"closed_since": START - 1})
    assert told(*news, others=[long_ago]).joint_type == 0
    assert told(*news, others=[state]).joint_type == 0, "not with itself"


# --- time -----------------------------------------------------------------------------------------


def test_the_time_that_machines_are_held_is_what_the_baseline_expects_losses_in() -> None:
    state = told((0, launched()), (0, holds(1)))
    in_an_hour = exposure(UNKNOWN_AGE_S, UNKNOWN_AGE_S + HOUR)
    assert counts(state, START + HOUR).expected == pytest.approx(in_an_hour)
    gone = after(state, holds(0), START + HOUR)
    assert gone.expected == pytest.approx(in_an_hour)
    assert counts(gone, START + 2 * HOUR).expected < gone.expected, "none is held any more"


def test_the_time_between_two_looks_counts_half() -> None:
    half = 0.5 * exposure(UNKNOWN_AGE_S, UNKNOWN_AGE_S + HOUR / 2)
    assert told((0, launched()), (HOUR / 2, launched())).expected == pytest.approx(half)
    assert told((0, launched()), (HOUR / 2, refused())).expected == pytest.approx(half)
    assert told((0, launched()), (HOUR + 1, launched())).expected == 0, "too far apart"
    assert told((0, refused()), (60, launched())).expected == 0


def test_what_was_long_ago_is_forgotten() -> None:
    state = told((0, launched()), (0, holds(1)), (60, lost(1)), (60, holds(0)))
    later = after(state, refused(), START + 60 + HALF_LIFE_S)
    assert later.events == pytest.approx(state.events / 2)
    assert later.closures == pytest.approx(0.5)
    assert later.expected == pytest.approx(state.expected / 2)


@given(breaks=st.lists(st.floats(60, 20 * 24 * HOUR), max_size=8))
def test_it_does_not_matter_much_when_it_is_reckoned(breaks: list[float]) -> None:
    state = told((0, launched()), (0, holds(1)))
    until = START + 20 * 24 * HOUR
    at_once = counts(state, until).expected
    for at in sorted(breaks):
        state = after(state, refused(Fault.QUOTA), START + at)
    assert counts(state, until).expected == pytest.approx(at_once, rel=0.03)


# --- cooling down ---------------------------------------------------------------------------------


def test_capacity_cools_nothing_unless_the_vendor_says_when() -> None:
    assert told((0, refused())).cool_until == 0
    assert told((0, refused(Fault.CAPACITY, 30))).cool_until == START + 30
    state = told((0, refused(Fault.CREDENTIALS)), (1, refused(Fault.THROTTLED)))
    assert state.cool_until == START + COOL_MOST_S, "what a human must mend is not mended by less"
    assert told((0, refused(Fault.QUOTA, 15))).cool_until == START + 15


def test_refusals_at_the_same_time_count_once() -> None:
    for fault in (Fault.CAPACITY, Fault.THROTTLED):
        burst = told((0, refused(fault)), (0, refused(fault)))
        assert (burst.refusals, burst.refusals_in_a_row) == (2, 1)
        again = after(burst, refused(fault), START + COOL_FIRST_S)
        assert again.refusals_in_a_row == 2
    assert again.cool_until == START + COOL_FIRST_S * 3
