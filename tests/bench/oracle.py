"""What an all-knowing buyer would pay: the least cost of keeping n nodes ready all the time.

It knows every market's capacity for the whole span. A machine is paid from its launch, works `cold_start_s`
later, can only be launched and kept while its market has room for it, and may be ended at any time. On
demand there is always room. Nodes have to be ready from `cold_start_s` on.

Where capacity never binds, n nodes cost n times what the cheapest way of one does (the times in which
machines are ready are intervals on a line: whatever covers the span n times can be parted into n covers),
which is found by dynamic programming over the moments at which it can pay to change. Where it binds, it is
a mixed-integer programme.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

HOUR_S = 3600.0
ROUNDS = 2
GAP = 1e-5  # share of the cost by which a programme's answer may miss the least


@dataclass(frozen=True, slots=True)
class Sold:
    """A spot market: its dollars an hour, and (since when, room for how many), in order, the first at 0 s."""

    usd_per_hour: float
    steps: tuple[tuple[float, float], ...]


def least_cost(
    spot: Sequence[Sold],
    on_demand_usd_per_hour: float,
    *,
    nodes: int,
    cold_start_s: float,
    seconds: float,
    rounds: int = ROUNDS,
) -> float:
    """Dollars that keeping `nodes` ready over a span costs at least.

    Args:
        spot: markets; capacities are infinite where nobody counts.
        on_demand_usd_per_hour: of the cheapest.
        nodes: how many have to be ready.
        cold_start_s: from a launch until the machine works.
        seconds: the span, from the first launches on.
        rounds: where capacity binds, machines are launched and ended only so many cold starts before or after
            some capacity changes. More are slower, and the answer can only become less.

    Raises:
        ValueError: the span is not longer than a cold start.
    """
    if seconds <= cold_start_s:
        raise ValueError(f"{seconds:g} s are over before anything launched in them is ready")
    useful = [_cut(one, nodes, seconds) for one in spot if one.usd_per_hour < on_demand_usd_per_hour]
    if all(room in (0, nodes) for one in useful for _, room in one.steps):
        return nodes * _one_node(useful, on_demand_usd_per_hour, cold_start_s, seconds)
    return _programme(useful, on_demand_usd_per_hour, nodes, cold_start_s, seconds, rounds)


def _cut(one: Sold, nodes: int, seconds: float) -> Sold:
    """The market as far as it matters: within the span, with room for no more than `nodes`."""
    steps: list[tuple[float, float]] = []
    for at, room in one.steps:
        least = min(math.floor(room), nodes) if math.isfinite(room) else nodes
        if at < seconds and (not steps or steps[-1][1] != least):
            steps.append((at, least))
    return Sold(one.usd_per_hour, tuple(steps))


def _spells(one: Sold, seconds: float) -> list[tuple[float, float]]:
    """When a market is open: (from, until)."""
    ends = [at for at, _ in one.steps[1:]] + [seconds]
    return [(at, end) for (at, room), end in zip(one.steps, ends, strict=True) if room > 0]


# --- one node, capacity does not bind -------------------------------------------------------------------


def _one_node(spot: Sequence[Sold], on_demand: float, cold_start_s: float, seconds: float) -> float:
    """The cheapest way of one node, from ready to the end.

    A change from one machine to another costs what they cost an hour times when it is, so it is best made as
    early or as late as can be: when a market has been open for a cold start, or closes.
    """
    spells = [_spells(one, seconds) for one in spot]
    moments = {cold_start_s, seconds}
    for there in spells:
        for begin, end in there:
            if begin + cold_start_s < end:
                moments |= {begin + cold_start_s, end}
    points = sorted(at for at in moments if cold_start_s <= at <= seconds)
    prices = [one.usd_per_hour for one in spot] + [on_demand]
    best = [math.inf] * len(prices)
    places = [0] * len(spells)
    for point, following in zip(points, points[1:], strict=False):
        cheapest = 0.0 if point == cold_start_s else min(best)
        for market, price in enumerate(prices):
            if market < len(spells):
                there = spells[market]
                while places[market] < len(there) and there[places[market]][1] <= point:
                    places[market] += 1
                if places[market] == len(there) or there[places[market]][0] + cold_start_s > point:
                    best[market] = math.inf
                    continue
            changed = cheapest + price * cold_start_s
            best[market] = min(best[market], changed) + price * (following - point)
    return min(best) / HOUR_S


# --- capacity binds ---------------------------------------------------------------------------------


def _moments(spot: Sequence[Sold], cold_start_s: float, seconds: float, rounds: int) -> list[float]:
    changes = {0.0, seconds, *(at for one in spot for at, _ in one.steps)}
    return sorted(
        {
            round(at + step * cold_start_s, 6)
            for at in changes
            for step in range(-rounds, rounds + 1)
            if 0 <= at + step * cold_start_s <= seconds
        }
    )


class _Rows:
    """Rows of a sparse matrix, each with its bounds."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self.columns: list[int] = []
        self.starts = [0]
        self.least: list[float] = []
        self.most: list[float] = []

    def add(self, terms: Sequence[tuple[int, float]], least: float, most: float) -> None:
        for column, value in terms:
            self.columns.append(column)
            self.values.append(value)
        self.starts.append(len(self.values))
        self.least.append(least)
        self.most.append(most)


def _programme(
    spot: Sequence[Sold], on_demand: float, nodes: int, cold_start_s: float, seconds: float, rounds: int
) -> float:
    """Least cost over machines that work in each market between moments, and launches at them.

    What works between two moments did so before, or was launched a cold start ago; what works or starts in a
    market is within its capacity; what works in all of them is enough.
    """
    points = _moments(spot, cold_start_s, seconds, rounds)
    place = {at: index for index, at in enumerate(points)}
    lengths = np.diff(np.array(points))
    segments = len(lengths)
    rooms = [_rooms(one, points) for one in spot] + [[nodes] * segments]
    prices = [one.usd_per_hour for one in spot] + [on_demand]
    costs: list[float] = []
    most: list[float] = []
    rows = _Rows()
    cover: list[list[tuple[int, float]]] = [[] for _ in range(segments)]

    def column(cost: float, bound: float) -> int:
        costs.append(cost)
        most.append(bound)
        return len(costs) - 1

    for market, (room, price) in enumerate(zip(rooms, prices, strict=True)):
        ready = [
            column(price * lengths[i], room[i]) if room[i] > 0 and points[i] >= cold_start_s else None
            for i in range(segments)
        ]
        starting: list[list[int]] = [[] for _ in range(segments)]
        made: dict[int, int] = {}
        for i, at in enumerate(points[:-1]):
            until = place.get(round(at + cold_start_s, 6))
            if until is None or until >= segments or min(room[i : until + 1]) == 0:
                continue
            made[until] = column(price * cold_start_s, min(room[i : until + 1]))
            for between in range(i, until):
                starting[between].append(made[until])
        for i, now in enumerate(ready):
            if now is not None:
                before = ready[i - 1] if i > 0 else None
                terms = [(now, 1.0)]
                terms += [(one, -1.0) for one in (before, made.get(i)) if one is not None]
                rows.add(terms, -math.inf, 0.0)
                cover[i].append((now, 1.0))
            if starting[i] and market < len(spot):
                terms = [(one, 1.0) for one in starting[i]] + ([(now, 1.0)] if now is not None else [])
                rows.add(terms, -math.inf, room[i])
    for i, terms in enumerate(cover):
        if points[i] >= cold_start_s:
            rows.add(terms, nodes, math.inf)
    return _solved(costs, most, rows) / HOUR_S


def _rooms(one: Sold, points: Sequence[float]) -> list[float]:
    rooms = [0.0] * (len(points) - 1)
    ends = [at for at, _ in one.steps[1:]] + [points[-1]]
    for (at, room), end in zip(one.steps, ends, strict=True):
        for i in range(bisect_left(points, round(at, 6)), bisect_left(points, round(end, 6))):
            rooms[i] = room
    return rooms


def _solved(costs: Sequence[float], most: Sequence[float], rows: _Rows) -> float:
    shape = (len(rows.least), len(costs))
    matrix = csr_matrix((rows.values, rows.columns, rows.starts), shape=shape)
    answer: Any = milp(
        np.array(costs),
        integrality=np.ones(len(costs)),
        bounds=Bounds(0, np.array(most)),
        constraints=LinearConstraint(matrix, np.array(rows.least), np.array(rows.most)),
        options={"mip_rel_gap": GAP},
    )
    if answer.x is None:
        raise ArithmeticError(f"the programme has no answer: {answer.message}")
    return float(answer.fun)
