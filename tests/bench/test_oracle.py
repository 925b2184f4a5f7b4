"""The oracle against every way there is, where there are few."""

import math
from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench.oracle import HOUR_S, Sold, least_cost

pytest.importorskip("scipy")

NONE: tuple[int, ...] = ()


def stepped(rooms: Sequence[float], every_s: float = 1.0) -> tuple[tuple[float, float], ...]:
    return tuple((i * every_s, room) for i, room in enumerate(rooms))


def least(markets: Sequence[tuple[float, Sequence[float]]], on_demand: float, **keys: float) -> float:
    """Least cost where an hour's price is paid for each second."""
    spot = [Sold(price * HOUR_S, stepped(rooms)) for price, rooms in markets]
    return least_cost(spot, on_demand * HOUR_S, **keys)  # type: ignore[arg-type]


Market = tuple[int, ...]  # machines: those that have just begun to start, …, those that work


def _next(before: Market, room: int) -> Iterator[Market]:
    """All that may be in a market a second later: any may end, any may be launched."""
    *starting, last, ready = (0, *before) if len(before) > 1 else (0, 0, *before)
    moved = [*starting, last + ready] if len(before) > 1 else [ready]
    found = [NONE]
    for most in moved[1:] if len(before) > 1 else []:
        found = [(*one, count) for one in found for count in range(most + 1)]
    for one in found:
        rest = sum(one)
        if len(before) > 1:
            yield from ((count, *one) for count in range(room - rest + 1) if rest <= room)
        else:
            yield from ((count,) for count in range(room + 1))


def brute(
    markets: Sequence[tuple[int, Sequence[int]]], on_demand: int, *, nodes: int, cold: int, seconds: int
) -> float:
    """Least cost by going through every state, second by second. What starts on demand needs no room."""
    empty: Market = (0,) * (cold + 1)
    best: dict[tuple[tuple[Market, ...], int], float] = {((empty,) * len(markets), 0): 0.0}
    for second in range(seconds):
        for place, (price, rooms) in enumerate(markets):
            found: dict[tuple[tuple[Market, ...], int], float] = {}
            for (there, ours), cost in best.items():
                for after in _next(there[place], rooms[second]):
                    key = ((*there[:place], after, *there[place + 1 :]), ours)
                    found[key] = min(found.get(key, math.inf), cost + price * sum(after))
            best = found
        if second < cold:
            continue
        found = {}
        for (there, ours), cost in best.items():
            for now in range(nodes + 1):
                if sum(one[-1] for one in there) + now >= nodes:
                    paid = cost + on_demand * (now + cold * max(0, now - ours))
                    key = (there, now)
                    found[key] = min(found.get(key, math.inf), paid)
        best = found
    return min(best.values())


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[tuple[int, list[int]]], int, int, int]:
    seconds, cold, nodes = draw(st.integers(3, 8)), draw(st.integers(0, 2)), draw(st.integers(1, 2))
    rooms = st.lists(st.integers(0, 2), min_size=seconds, max_size=seconds)
    markets = draw(st.lists(st.tuples(st.integers(1, 3), rooms), min_size=1, max_size=2))
    return markets, nodes, cold, seconds


@given(worlds())
@settings(max_examples=60, deadline=None)
def test_it_is_what_the_cheapest_of_all_ways_costs(
    world: tuple[list[tuple[int, list[int]]], int, int, int],
) -> None:
    markets, nodes, cold, seconds = world
    exact = brute(markets, 4, nodes=nodes, cold=cold, seconds=seconds)
    found = least(markets, 4, nodes=nodes, cold_start_s=cold, seconds=seconds, rounds=seconds)
    assert found == pytest.approx(exact, rel=1e-4)


@given(worlds())
@settings(max_examples=30, deadline=None)
def test_fewer_moments_to_choose_from_never_cost_less(
    world: tuple[list[tuple[int, list[int]]], int, int, int],
) -> None:
    markets, nodes, cold, seconds = world
    keys = {"nodes": nodes, "cold_start_s": cold, "seconds": seconds}
    most = least(markets, 4, **keys, rounds=1)
    assert most >= least(markets, 4, **keys, rounds=seconds) * (1 - 1e-4)
    assert most <= 4 * nodes * seconds * (1 + 1e-4)


def test_a_shortage_is_bridged_on_demand_a_cold_start_ahead() -> None:
    """Open, closed from 10 to 20, open: on demand from 10 to 23, both it and spot started 3 s ahead."""
    rooms = [math.inf] * 10 + [0] * 10 + [math.inf] * 10
    assert least([(1, rooms)], 3, nodes=5, cold_start_s=3, seconds=30) == pytest.approx(
        5 * (10 + 3 * (3 + 13) + 10)
    )


def test_a_closure_too_dear_to_come_back_from_is_not() -> None:
    """Spot that holds for no longer than what coming back to it costs is left alone."""
    rooms = [0] * 10 + [math.inf] * 4 + [0] * 10
    assert least([(1, rooms)], 3, nodes=1, cold_start_s=3, seconds=24) == pytest.approx(3 * 24)


def test_counted_room_is_shared() -> None:
    """Two of three fit where it is cheap."""
    assert least([(1, [2] * 10), (2, [9] * 10)], 3, nodes=3, cold_start_s=1, seconds=10) == pytest.approx(40)


def test_a_span_without_time_to_be_ready_is_refused() -> None:
    with pytest.raises(ValueError, match="over before"):
        least([(1, [1])], 3, nodes=1, cold_start_s=5, seconds=5)
