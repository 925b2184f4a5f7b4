"""What type checkers see of both clients, whose routes are written once; and views of views."""

from collections.abc import AsyncGenerator, Generator
from typing import assert_type

import pytest

from actors.events import Envelope, Log
from controller.client import AsyncClient, Client, LogLine
from controller.client_views import (
    BudgetView,
    ExplainView,
    MarketView,
    OffersView,
    OfferView,
    PoolSumView,
    PoolView,
    StepView,
    View,
    fields,
)


def check_now(client: Client) -> None:
    """Of the synchronous one."""
    assert_type(client.pools(), list[PoolView])
    assert_type(client.pool("main"), PoolView)
    assert_type(client.explain("main"), ExplainView)
    assert_type(client.offers(max_price=1).offers[0], OfferView)
    assert_type(client.follow(3, kinds=["error"]), Generator[Envelope, None, None])
    assert_type(client.task_log("t", follow=True), Generator[LogLine, None, None])
    client.pools(colour="red")  # type: ignore[call-arg]
    _ = client.pool("main").colour  # type: ignore[attr-defined]
    client.pool(3)  # type: ignore[arg-type]


async def check_later(client: AsyncClient) -> None:
    """Of the asynchronous one."""
    assert_type(await client.pools(), list[PoolView])
    assert_type((await client.explain("main")).markets[0], MarketView)
    assert_type(client.logs_told("t"), AsyncGenerator[Log, None])
    await client.pools(colour="red")  # type: ignore[call-arg]


def test_methods_are_functions_with_names_and_words() -> None:
    for client in (Client, AsyncClient):
        for name in ("pools", "tokens", "task_log", "submit", "wait", "ready"):
            method = getattr(client, name)
            assert method.__name__ == name and method.__doc__


def test_what_is_in_a_view_is_a_view() -> None:
    told = {"steps": [{"name": "all", "removed": 0, "left": 3}], "offers": [], "count": 3}
    found = OffersView(told)
    assert type(found.steps[0]) is StepView and found.steps[0].left == 3 and found == told
    row = PoolSumView({"budget": {"then": "warn", "warn_at": [0.5], "periods": [{"period": "day"}]}})
    budget = row.budget
    assert type(budget) is BudgetView and budget.periods[0].period == "day"
    assert PoolSumView({"budget": None}).budget is None
    assert MarketView({"memory": {"held": 2}}).memory.held == 2  # type: ignore[union-attr]
    with pytest.raises(AttributeError, match="says nothing of 'at'"):
        _ = found.at


def test_no_key_hides_a_method_of_dictionaries() -> None:
    """Such a key is `named`, and read as view["keys"]."""
    todo, views = [View], list[type[View]]()
    while todo:
        views.append(view := todo.pop())
        todo += view.__subclasses__()
    assert len(views) > 40
    for view in views:
        assert not {name for name in fields(view) if hasattr(dict, name)} - view.named.keys(), view
        assert view.sometimes <= fields(view).keys(), view
