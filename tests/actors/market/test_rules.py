"""The memory of a market."""

from hypothesis import given
from hypothesis import strategies as st

from actors.decision import View, World
from actors.index import Index
from actors.market.rules import (
    AVOID_AFTER_LOSS_S,
    COOL_FIRST_S,
    COOL_MOST_S,
    check,
    cooldown_s,
    decide,
    resume,
)
from actors.market.state import MarketJson, MarketState
from actors.messages import Due, LaunchTold, LossTold, MarketMessage, RefusalTold
from providers.errors import Fault
from tests.actors.model import offer

MARKET = offer().market
HUMAN = {Fault.QUOTA, Fault.FUNDS, Fault.CREDENTIALS}

messages = st.one_of(
    st.just(Due()),
    st.just(LaunchTold(MARKET, 5)),
    st.just(LossTold(MARKET)),
    st.builds(
        RefusalTold,
        st.just(MARKET),
        st.sampled_from(Fault),
        st.none() | st.floats(0, 5000),
    ),
)


def view(now: float) -> View:
    """What a market looks at: the time."""
    return View(now, 0.5, "owner", 1, World(), Index())


def after(state: MarketState | None, message: MarketMessage, now: float = 0) -> MarketState:
    """The memory after one piece of news."""
    decision = decide(state, message, view(now))
    assert isinstance(decision.state, MarketState)
    assert not (decision.effects or decision.facts or decision.tells)
    return decision.state


@given(news=st.lists(st.tuples(messages, st.floats(0, 500)), max_size=30))
def test_news_in_any_order(news: list[tuple[MarketMessage, float]]) -> None:
    state, now = None, 1000.0
    for message, later in news:
        now += later
        decision = decide(state, message, view(now))
        if decision.state is None:
            assert state is None
            assert isinstance(message, Due)
            continue
        assert isinstance(decision.state, MarketState)
        state = MarketJson.validate_json(MarketJson.dump_json(decision.state))
        assert state == decision.state
        check(state)
        assert resume(state) == ()
        match message:
            case RefusalTold(retry_after_s=wanted):
                assert state.cool_until >= now + (wanted or 0) > now - 1
                assert state.cool_until > now
            case LaunchTold():
                assert state.due_at is None
            case LossTold():
                assert state.avoid_until == now + AVOID_AFTER_LOSS_S
            case _:
                assert state.due_at is None
    if state is not None:
        kinds = [type(message) for message, _ in news]
        assert (state.launches, state.refusals, state.losses) == (
            kinds.count(LaunchTold),
            kinds.count(RefusalTold),
            kinds.count(LossTold),
        )


@given(fault=st.sampled_from(Fault), row=st.integers(1, 100), wanted=st.none() | st.floats(0, 9999))
def test_a_cool_down_has_bounds(fault: Fault, row: int, wanted: float | None) -> None:
    cool = cooldown_s(fault, row, wanted)
    assert cool >= (wanted or 0)
    assert COOL_FIRST_S <= cool <= max(COOL_MOST_S, wanted or 0)
    assert cool <= cooldown_s(fault, row + 1, wanted)
    if fault in HUMAN:
        assert cool >= COOL_MOST_S


def test_refusals_at_the_same_time_count_once() -> None:
    first = after(None, RefusalTold(MARKET, Fault.CAPACITY))
    burst = after(first, RefusalTold(MARKET, Fault.CAPACITY))
    assert burst.refusals_in_a_row == 1
    later = after(burst, RefusalTold(MARKET, Fault.CAPACITY), now=COOL_FIRST_S)
    assert later.refusals_in_a_row == 2
    assert later.cool_until == COOL_FIRST_S * 3
