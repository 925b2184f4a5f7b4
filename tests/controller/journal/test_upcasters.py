"""States as older releases wrote them are read by this one."""

import json
from typing import Any

import pytest

from actors.market.rules import check
from actors.market.state import MarketState
from controller.journal.errors import StateUnreadable
from controller.recovery import decoded

MARKET = {
    "provider": "aws",
    "region": "us-east-1",
    "zone": "us-east-1a",
    "instance_type": "m5.large",
    "lifecycle": "spot",
}


def market_1(**known: Any) -> MarketState:
    """A market as the first release wrote it."""
    body = {
        "status": "known",
        "market": MARKET,
        "launches": 0,
        "refusals": 0,
        "refusals_in_a_row": 0,
        "losses": 0,
        "last_launch_at": None,
        "last_loss_at": None,
        "last_fault": None,
        "last_detail": "",
        "cool_until": 0.0,
        "avoid_until": 0.0,
        "since": 0.0,
    }
    assert not set(known) - set(body)
    state = decoded("market", 1, json.dumps(body | known).encode())
    assert isinstance(state, MarketState)
    check(state)
    return state


def test_a_market_that_took_a_machine_last() -> None:
    state = market_1(
        launches=3, losses=1, last_launch_at=100.0, last_loss_at=200.0, avoid_until=500.0, since=200.0
    )
    assert (state.launches, state.losses) == (3, 1)
    assert (state.good_at, state.bad_at, state.closed_since) == (100.0, 200.0, 200.0)
    assert (state.events, state.decayed_at) == (0, 200.0)


def test_a_market_that_sold_one_last_and_cools_down() -> None:
    state = market_1(
        launches=1,
        refusals=2,
        refusals_in_a_row=2,
        losses=1,
        last_launch_at=300.0,
        last_loss_at=200.0,
        last_fault="quota",
        last_detail="ask for more",
        cool_until=900.0,
        since=310.0,
    )
    assert (state.good_at, state.up_since, state.closed_since) == (300.0, 300.0, None)
    assert (state.cool_until, state.last_fault, state.refusals_in_a_row) == (900.0, "quota", 2)


def test_a_market_of_which_nothing_is_known_but_that_it_refused() -> None:
    state = market_1(refusals=1, refusals_in_a_row=1, last_fault="capacity", since=5.0)
    assert (state.good_at, state.bad_at, state.closed_since) == (None, None, None)


def test_one_of_a_release_to_come_is_not_read() -> None:
    with pytest.raises(StateUnreadable, match="install the newer everpool"):
        decoded("market", 99, b"{}")
