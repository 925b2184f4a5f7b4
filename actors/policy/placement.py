"""Where the next machine is bought. Pure: the same input gives the same choice and the same reasons.

Offers that match (`eligible`) in markets that nothing forbids (`board`) go to the policy that the pool names
(`hazard`, `published`), or to its rule of spread (`spread`). What it wants is dealt out to nodes here, within
the budget; every choice says why.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from actors.buying import PolicyName
from actors.policy import hazard, published, spread
from actors.policy.board import (
    LOOK_AGAIN_S,
    PAYBACK_S,
    UNIT_PAYBACK_S,
    Board,
    Group,
    build,
    missing_s,
)
from actors.policy.layout import Layout, Purchase
from actors.policy.situation import Asking, Choice, Considered, Held, Moved, Plan, Situation
from actors.policy.words import Words
from providers.model import Offer

YOUNG_S = 1800.0  # a machine is not moved before it is so old
SHORT_TASK_S = 600.0  # one with tasks that take no longer is moved too: they end before it goes
MOVING_SHARE = 0.25  # of all machines: no more are on their way at one time because of moves
MOVES_AGAIN_S = 60.0  # while as many are on their way as may be; news is heard sooner
OTHERS_MOST = 8  # offers told beside the first choice
SHORT_WAIT_S = 1.0

POLICIES: Mapping[PolicyName, Callable[[Board], Layout]] = {
    "hazard": hazard.lay_out,
    **published.POLICIES,
}


def place(situation: Situation) -> Plan:
    """Decide where nodes that ask get their machines, and which machines would better be elsewhere."""
    board = build(situation)
    layout = spread.lay_out(board, POLICIES[situation.spec.buying.policy])
    layout.dropped = layout.merged()
    words = Words(board, layout)
    dealing = _Dealing(board, layout, words)
    choices = dealing.choices()
    moves = dealing.moves()
    return Plan(
        choices=choices,
        moves=moves,
        spares=layout.spares,
        surplus=tuple(one.node for group, count, _ in layout.dropped for one in least_wanted(group, count)),
        considered=tuple(
            Considered(one.name, one.price, layout.hazards.get(one.name), words.market(one))
            for one in layout.order
        ),
        passed=tuple(board.passed),
        retry_at=dealing.retry_at(),
        look_at=dealing.look_at(),
        hopeless=board.stopped > 0 and board.stopped == board.matching,
        refresh=board.refresh if situation.asking or moves else (),
        too_dear=dealing.too_dear,
    )


def least_wanted(group: Group, count: int) -> list[Held]:
    """Which of a group's machines go first: without tasks, not ready yet, young."""
    order = sorted(group.machines, key=lambda one: (one.busy, one.ready, -one.launched_at, one.node))
    return order[:count]


class _Dealing:
    """Deals what a layout wants to the nodes that ask, then to machines that would better be elsewhere."""

    def __init__(self, board: Board, layout: Layout, words: Words) -> None:
        self.board = board
        self.layout = layout
        self.words = words
        self.situation = board.situation
        self.budget = board.situation.allowance.micro_usd
        self.left = [purchase.count for purchase in layout.purchases]
        self.unplaced: list[Asking] = []
        self.too_dear = False  # something was not bought for want of budget
        self.later: list[float] = []  # when a move that is wanted may be made
        self.reserved = 0  # purchases for nodes that do not ask just now
        self.settled = {group.zone for group in board.groups}
        self.tried = False  # a machine was bought
        dear = sum(len(group.machines) for group in board.groups if not group.spot)
        self.dear_room = (
            board.on_demand_bounds(layout.total)[1] - dear
        )  # those held count until they are gone

    def choices(self) -> dict[int, Choice]:
        """A choice for every node that can be placed."""
        s = self.situation
        room = max(0, self.layout.total - self.board.held)
        asking, self.unplaced = list(s.asking[:room]), list(s.asking[room:])
        self.reserved = room - len(asking)
        patience = s.spec.buying.patience_s
        chosen: dict[int, Choice] = {}
        patient = [one for one in asking if missing_s(one, s.now) < patience]
        overdue = [one for one in asking if missing_s(one, s.now) >= patience]
        # The patient ones can take spot only, so they choose first.
        self._deal(patient, chosen, lambda purchase: purchase.candidate.spot or purchase.floor)
        self._deal(overdue, chosen, lambda purchase: True)
        self.tried = bool(chosen)
        return {node: chosen[node] for node in sorted(chosen)}

    def _deal(
        self, asking: list[Asking], chosen: dict[int, Choice], allowed: Callable[[Purchase], bool]
    ) -> None:
        purchases = [index for index, one in enumerate(self.layout.purchases) if allowed(one)]
        at, choice = 0, None
        for one in asking:
            while at < len(purchases):
                index = purchases[at]
                purchase = self.layout.purchases[index]
                has_room = purchase.candidate.spot or self.dear_room > 0
                if self.left[index] > 0 and has_room and self._affords(purchase):
                    break
                at, choice = at + 1, None
            else:
                affordable = self._affordable()
                if affordable is None:
                    self.unplaced.append(one)
                    continue
                chosen[one.node] = affordable
                continue
            self._take(index)
            self.dear_room -= 0 if purchase.candidate.spot else 1
            if choice is None:
                choice = Choice(self._offers(purchase), self.words.choice(purchase))
            chosen[one.node] = choice

    def _affords(self, purchase: Purchase) -> bool:
        if self.budget is None or purchase.candidate.commitment <= self.budget:
            return True
        self.too_dear = True
        return False

    def _affordable(self) -> Choice | None:
        """When what is wanted is too dear for what the budget has left: the best spot market that is not."""
        if self.budget is None or not self.too_dear or self.situation.spec.spread is not None:
            return None
        for one in self.layout.order:
            if one.spot and one.commitment <= self.budget:
                self.budget -= one.commitment
                why = self.words.choice(Purchase(one, 1, one.weight, sure=False))
                return Choice((one.offer,), f"{why}; the budget pays for no other")
        return None

    def _take(self, index: int) -> None:
        self.left[index] -= 1
        if self.budget is not None:
            self.budget -= self.layout.purchases[index].candidate.commitment

    def _offers(self, purchase: Purchase) -> tuple[Offer, ...]:
        """The offer itself, then the best of other regions that would do as well at no greater commitment."""
        first = purchase.candidate
        offers, regions = [first.offer], {first.zone[:2]}
        if self.situation.spec.spread is None:
            for one in self.layout.order:
                if len(offers) >= OTHERS_MOST:
                    break
                if one.spot != first.spot or one.zone[:2] in regions:
                    continue
                if self.budget is None or one.commitment <= first.commitment:
                    offers.append(one.offer)
                    regions.add(one.zone[:2])
        return tuple(offers)

    def moves(self) -> tuple[Moved, ...]:
        """Machines to be replaced by better ones: only so many at a time, none of them young."""
        s, layout = self.situation, self.layout
        if self.board.held > layout.total:
            return ()  # those that go are chosen first
        slots = sum(self.left) - self.reserved
        bound = max(1, int(layout.total * MOVING_SHARE)) - self.board.starting - s.moved_away
        if slots <= 0:
            return ()
        slots = slots if layout.urgent else min(slots, bound)
        starting: dict[str, int] = defaultdict(int)
        for group in self.board.groups:
            starting[group.name] += sum(1 for one in group.machines if not one.ready)
        moves: list[Moved] = []
        for group, count, _ in layout.dropped:
            gains = self._gains(group)
            for one in least_wanted(group, len(group.machines)) if gains else ():
                if count <= 0:
                    break
                if not self._movable(one):
                    continue
                if slots <= 0:
                    self.later.append(s.now + MOVES_AGAIN_S)
                    return tuple(moves)
                if group.spot and self.dear_room <= 0:
                    gains = [(at, gain) for at, gain in gains if layout.purchases[at].candidate.spot]
                index = self._target(gains, self._cost_of_moving(group, one), starting)
                if index is None:
                    continue
                purchase = layout.purchases[index]
                self._take(index)
                self.dear_room -= 1 if group.spot and not purchase.candidate.spot else 0
                self.tried = True
                if not purchase.sure:
                    starting[purchase.candidate.name] += 1
                moves.append(Moved(one.node, purchase.candidate.offer, self.words.move(group, one, purchase)))
                slots -= 1
                count -= 1
        return tuple(moves)

    def _movable(self, one: Held) -> bool:
        """Whether a machine may be moved now: it works, is no longer young, and its tasks are short."""
        s = self.situation
        if not (one.movable and one.ready):
            return False
        if self.layout.urgent:
            return True
        if one.launched_at + YOUNG_S > s.now:
            self.later.append(one.launched_at + YOUNG_S)
            return False
        return not one.busy or (s.task_s is not None and s.task_s <= SHORT_TASK_S)

    def _gains(self, group: Group) -> list[tuple[int, float]]:
        """Purchases that are left and better for a group's machines than where they are, and by how much."""
        found = []
        for index, purchase in enumerate(self.layout.purchases):
            if self.left[index] > 0 and purchase.candidate.name != group.name:
                gain = math.inf if self.layout.urgent else self.layout.gain(group, purchase)
                if gain > 0:
                    found.append((index, gain))
        return found

    def _cost_of_moving(self, group: Group, one: Held) -> float:
        """What it counts that a machine is paid on: the rest of its begun unit, and until its tasks end."""
        s, unit_s = self.situation, self.board.unit_s(group.zone[0])
        rest_s = -(s.now + self.board.boot_s - one.launched_at) % unit_s if unit_s > 1 else 0.0
        tasks_s = (s.task_s or 0.0) if one.busy else 0.0
        return group.weight * (rest_s / UNIT_PAYBACK_S + tasks_s / PAYBACK_S)

    def _target(
        self, gains: Sequence[tuple[int, float]], cost: float, starting: Mapping[str, int]
    ) -> int | None:
        """The first purchase that is left and pays for the move; None: there is none."""
        for index, gain in gains:
            purchase = self.layout.purchases[index]
            if self.left[index] <= 0 or gain <= cost:
                continue
            if self._open_to_move(purchase, starting) and self._affords(purchase):
                return index
        return None

    def _open_to_move(self, purchase: Purchase, starting: Mapping[str, int]) -> bool:
        """A market that was not seen open just now gets one machine first, to see.

        A gang that goes elsewhere sends one machine first, too.
        """
        if purchase.sure:
            return True
        if self.layout.urgent:
            may_go = purchase.candidate.zone in self.settled or not self.tried
        else:
            may_go = not starting[purchase.candidate.name]
        if not may_go:
            self.later.append(self.situation.now + LOOK_AGAIN_S)  # it may have been seen open by then
        return may_go

    def retry_at(self) -> float:
        """When to look again for nodes that were not placed."""
        s = self.situation
        patience = s.spec.buying.patience_s
        times = list(self.board.times)
        times += [
            s.now + patience - waited for one in self.unplaced if (waited := missing_s(one, s.now)) < patience
        ]
        if self.too_dear and s.allowance.until is not None:
            times.append(s.allowance.until)
        times = [at for at in times if at > s.now]
        return max(s.now + SHORT_WAIT_S, min(times, default=s.now + LOOK_AGAIN_S))

    def look_at(self) -> float | None:
        """When to look again for moves and spares."""
        s = self.situation
        if self.layout.look_at is None:
            return None
        later = [at for at in self.later if at > s.now]
        return max(s.now + SHORT_WAIT_S, min([self.layout.look_at, *later]))
