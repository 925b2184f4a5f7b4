"""Where zones count: evenly over all of them, or all machines in one. Pure.

Either way the policy says what is better; only where the zones leave a choice is it heard.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace

from actors.policy.board import Board, Candidate, Group, Zone, missing_s
from actors.policy.layout import Layout, Purchase
from actors.policy.situation import Passed

EVENED_MOST = 64  # machines that one decision moves to other zones for evenness
RELOCATE_S = 300.0  # so long a gang is not whole in its zone before all of it goes to another
SPLIT_LOOK_S = 60.0  # while it is not in one zone
TOO_SMALL_S = 3600.0  # so long a gang does not go where only a part of it had room

Policy = Callable[[Board], Layout]


def lay_out(board: Board, policy: Policy) -> Layout:
    """What the policy wants, as the pool's spread lets it."""
    match board.situation.spec.spread:
        case "together":
            return _together(board, policy)
        case "zones":
            return _even(board, policy(board))
        case None:
            return policy(board)


# --- all in one zone --------------------------------------------------------------------------------


def _together(board: Board, policy: Policy) -> Layout:
    """The policy's layout with one zone only: the gang's, or the one that is best for all of it."""
    zone = _gang_zone(board, policy)
    inside = [group for group in board.groups if group.zone == zone]
    outside = [group for group in board.groups if group.zone != zone]
    name = "" if zone is None else zone[2]
    within = replace(
        board,
        groups=inside,
        candidates=[one for one in board.candidates if one.zone == zone],
        matched=[one for one in board.matched if one.zone == zone],
    )
    layout = policy(within)
    board.times = within.times
    elsewhere = [one for one in board.candidates if one.zone != zone]
    board.passed += [Passed(one.name, f"all nodes are to be together in {name}") for one in elsewhere]
    is_certain = all(one.sure for one in layout.purchases)  # else a few go first, to see
    if outside and not inside and is_certain and sum(one.count for one in layout.purchases) < layout.total:
        layout.purchases = []  # there is no room for the whole of it: it stays where it is, and waits
        return layout
    layout.dropped = [(group, len(group.machines), group.weight) for group in outside] + layout.dropped
    layout.urgent = bool(outside)
    if outside:  # it is not whole, though no node may ask
        soon = board.situation.now + SPLIT_LOOK_S
        layout.look_at = soon if layout.look_at is None else min(layout.look_at, soon)
    return layout


def _gang_zone(board: Board, policy: Policy) -> Zone | None:
    """Where the gang is, or goes: where its newest machine is, unless it was not made whole there for long.

    Then, when it is split, where most of it is, if that may be asked; else the best zone that did not prove
    too small lately; else it waits.
    """
    s = board.situation
    counts = Counter[Zone]()
    newest: tuple[float, str, Zone] | None = None
    for group in board.groups:
        counts[group.zone] += len(group.machines)
        for one in group.machines:
            entry = (one.launched_at, one.instance_id, group.zone)
            newest = entry if newest is None or entry > newest else newest
    trial = replace(board, passed=list(board.passed), times=list(board.times))
    if newest is None:
        return _best_zone(board, policy(trial).order)
    launched_at, _, zone = newest
    is_split = len(counts) > 1
    missing = (missing_s(one, s.now) for one in s.asking if not one.works)  # a renewal does not part it
    waited = s.now - launched_at if is_split else max(missing, default=0.0)
    if waited < RELOCATE_S:
        return zone
    if is_split:
        zone = max(counts, key=lambda one: (counts[one], one == zone, one))
    layout = policy(trial)  # takes out what it leaves alone for a while
    there = {one.zone for one in trial.candidates}
    if zone in there or not there:
        return zone
    roomy = {one.zone for one in trial.candidates if not _was_too_small(one, s.now)}
    return _best_zone(board, [one for one in layout.order if one.zone in roomy]) or zone


def _was_too_small(one: Candidate, now: float) -> bool:
    """Lately a market took some of what was asked of it and refused the rest."""
    memory = one.memory
    if memory is None or memory.closed_since is not None or memory.last_launch_at is None:
        return False
    refused = memory.last_refusal_at
    return refused is not None and memory.last_launch_at <= refused and now - refused < TOO_SMALL_S


def _best_zone(board: Board, order: list[Candidate]) -> Zone | None:
    """The zone of the best market among those zones that can hold what the pool wants on demand."""
    least, most = board.on_demand_bounds(board.situation.nodes)
    kinds: dict[Zone, set[bool]] = defaultdict(set)
    for one in order:
        kinds[one.zone].add(one.spot)
    for one in order:
        there = kinds[one.zone]
        if (least == 0 or False in there) and (most >= board.situation.nodes or True in there):
            return one.zone
    return order[0].zone if order else None


# --- evenly over zones ------------------------------------------------------------------------------


def _even(board: Board, wanted: Layout) -> Layout:
    """As many machines in each zone as in any other, in the best markets that each has.

    What the policy thinks of zones against each other is not heard, what it thinks of markets within one is.
    """
    layout = Layout(
        total=wanted.total,
        spares=wanted.spares,
        hazards=wanted.hazards,
        order=wanted.order,
        look_at=wanted.look_at,
    )
    _Even(board, layout).run()
    return layout


class _Even:
    """Deals machines out over zones."""

    def __init__(self, board: Board, layout: Layout) -> None:
        self.board = board
        self.layout = layout
        self.best: dict[Zone, dict[bool, Candidate]] = defaultdict(dict)  # by zone, by whether it is spot
        for one in layout.order:
            self.best[one.zone].setdefault(one.spot, one)
        self.place = {one.name: index for index, one in enumerate(layout.order)}
        self.counts: dict[Zone, int] = dict.fromkeys(sorted(self.best), 0)
        self.dear = 0
        for group in board.groups:
            self.counts[group.zone] = self.counts.get(group.zone, 0) + len(group.machines)
            self.dear += 0 if group.spot else len(group.machines)
        self.least, self.most = board.on_demand_bounds(layout.total)
        self.dropped: dict[int, int] = defaultdict(int)
        self._heap: list[tuple[int, int, Zone]] | None = (
            None  # for new machines, while the bounds are the same
        )
        self._heap_bounds = (False, False)

    def run(self) -> None:
        """New machines first, then better places for those that are held."""
        missing = self.layout.total - self.board.held
        for _ in range(missing):
            if not self._add():
                break
        for _ in range(-missing):
            group = self._worst(max(self.counts, key=lambda zone: (self.counts[zone], zone)))
            if group is None:
                break
            self._drop(group)
        if missing < 0:
            return
        for group in self.board.groups:
            self._better(group)
        for _ in range(EVENED_MOST):
            if not self._evener():
                break

    def _choice(self, zone: Zone) -> Candidate | None:
        """The best market of a zone that the bounds let."""
        there = self.best.get(zone, {})
        spot, dear = there.get(True), there.get(False)
        if self.dear < self.least and dear is not None:
            return dear
        if dear is None or self.dear >= self.most:
            return spot
        if spot is None:
            return dear
        return spot if self.place[spot.name] < self.place[dear.name] else dear

    def _add(self) -> bool:
        """One more machine where there are fewest."""
        bounds = self.dear < self.least, self.dear >= self.most
        if self._heap is None or bounds != self._heap_bounds:
            self._heap, self._heap_bounds = self._open_zones(), bounds
        if not self._heap:
            return False
        count, place, zone = self._heap[0]
        one = self._choice(zone)
        assert one is not None
        heapq.heapreplace(self._heap, (count + 1, place, zone))
        self._buy(one)
        return True

    def _open_zones(self) -> list[tuple[int, int, Zone]]:
        """Zones that can have one more machine: fewest machines first, then the best market."""
        short = self.dear < self.least and any(False in there for there in self.best.values())
        heap = [
            (self.counts[zone], self.place[one.name], zone)
            for zone in self.best
            if (one := self._choice(zone)) is not None and not (short and one.spot)
        ]
        heapq.heapify(heap)
        return heap

    def _buy(self, one: Candidate) -> None:
        floor = not one.spot and self.dear < self.least
        self.counts[one.zone] += 1
        self.dear += 0 if one.spot else 1
        last = self.layout.purchases[-1] if self.layout.purchases else None
        if last is not None and last.candidate is one and last.floor == floor:
            last.count += 1
        else:
            self.layout.purchases.append(Purchase(one, 1, one.weight, not one.spot, floor))

    def _drop(self, group: Group) -> None:
        self.counts[group.zone] -= 1
        self.dear -= 0 if group.spot else 1
        self.dropped[id(group)] += 1
        last = self.layout.dropped[-1] if self.layout.dropped else None
        if last is not None and last[0] is group:
            self.layout.dropped[-1] = (group, last[1] + 1, group.weight)
        else:
            self.layout.dropped.append((group, 1, group.weight))

    def _left(self, group: Group) -> int:
        return len(group.machines) - self.dropped[id(group)]

    def _worst(self, zone: Zone) -> Group | None:
        """A group of the zone that can lose a machine, on demand first, then the dearest."""
        there = [
            group
            for group in self.board.groups
            if group.zone == zone and self._left(group) > 0 and (group.spot or self.dear > self.least)
        ]
        return min(there, key=lambda group: (group.spot, -group.weight, group.name), default=None)

    def _better(self, group: Group) -> None:
        """Machines on demand go back to spot in their own zone as the bounds let, or the other way."""
        there = self.best.get(group.zone, {})
        spot, dear = there.get(True), there.get(False)
        if not group.spot and spot is not None:
            over = self.dear - self.most
            if dear is None or self.place[spot.name] < self.place[dear.name]:
                over = self.dear - self.least
            for _ in range(min(self._left(group), over)):
                self._drop(group)
                self._buy(spot)
        elif group.spot and dear is not None:
            for _ in range(min(self._left(group), self.least - self.dear)):
                self._buy(dear)  # first, so that it counts for the floor
                self._drop(group)

    def _evener(self) -> bool:
        """Move one machine from the fullest zone to the emptiest that may be bought in; False: it is even."""
        if not self.best:
            return False
        full = max(self.counts, key=lambda zone: (self.counts[zone], zone))
        empty = min(self.best, key=lambda zone: (self.counts[zone], zone))
        if self.counts[full] - self.counts[empty] < 2:
            return False
        group = self._worst(full)
        if group is None:
            return False
        self._drop(group)
        one = self._choice(empty)
        if one is None:
            self._undrop(group)
            return False
        self._buy(one)
        return True

    def _undrop(self, group: Group) -> None:
        self.counts[group.zone] += 1
        self.dear += 0 if group.spot else 1
        self.dropped[id(group)] -= 1
        _, count, weight = self.layout.dropped.pop()
        if count > 1:
            self.layout.dropped.append((group, count - 1, weight))
