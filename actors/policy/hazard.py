"""The recommended policy: what a machine costs plus the priced chance of losing it. Pure.

Source: reference/spot.md, "The recommended policy: hazard". Costs are micro-dollars an hour.
"""

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass
from math import inf

from actors.policy.belief import Belief, Joint, believe, common_multiplier, joint, rests_until, worth
from actors.policy.board import PAYBACK_S, UNIT_PAYBACK_S, Board, Candidate, Group, Zone, missing_s, refusal
from actors.policy.layout import Gain, Layout, Purchase
from actors.policy.memory import Counts
from actors.spec import NODES_MAX
from providers.model import MICRO

DETECT_S = 15.0  # from a loss until it is known and the next machine is ordered
DAMAGE_LEAST_S = 20.0  # what a loss costs even when a notice leaves time for everything
DOUBTFUL_MOST = 16  # nodes of one turn that are sent to a market that may be closed yet
FULL_MOST = 2  # to one that let us keep what we held, and had no room for more
MARGIN = 0.5  # share of its risk by which a machine is better left where it is, when nothing else is gained
EVIDENCE_LEAST = 0.25  # losses expected or seen in a market: so well it is known when its risk alone draws
OVER_AND_OVER_S = 600.0
LOOK_ON_DEMAND_S = 300.0  # while machines run on demand that would better be spot
LOOK_LEAST_S = 30.0
UNCOVERED = 0.02  # of a risk that spares pay for: a second loss may come before they are whole again
FINELY_MOST = 8  # spares that are tried one by one; beyond, twice as many each time
SPARES_GAIN = 0.01  # share of the cost by which another number of spares must be better
SPOT_SHARE = 0.5  # of the on-demand price: what spot counts at most when it is preferred whatever it costs


@dataclass(slots=True)
class Place:
    """One market as the plan sees it.

    Attributes:
        blocks: (what an hour counts, how many, the group held or None for new ones), cheapest first.
        risk: what the chance of losing a machine counts.
    """

    name: str
    zone: Zone
    type: str
    spot: bool
    risk: float
    candidate: Candidate | None
    sure: bool
    blocks: list[tuple[float, int, Group | None]]

    @property
    def cost_of_new(self) -> float:
        """What an hour of a new machine counts."""
        return next((cost for cost, _, group in self.blocks if group is None), 0.0) + self.risk


def penalty(board: Board) -> float:
    """Micro-dollars that an hour of one missing node counts."""
    buying = board.situation.spec.buying
    if buying.missing_node_hour_usd is not None:
        return buying.missing_node_hour_usd * MICRO
    hours = buying.missing_node_hour
    if buying.availability is not None:
        hours = penalty_for(buying.availability)
    return hours * reference(board)


def penalty_for(availability: float) -> float:
    """On-demand hours that a missing node-hour must count so that all nodes are ready for that share of time.

    A fit to what this policy reached on ten scenarios of spot traces with a cold start of 180 s: some node
    was missing for 0.0058 of the time at 20, and that falls with the penalty to the power of about 0.7.
    """
    hours: float = 20.0 * (0.0058 / (1.0 - availability)) ** 1.4
    return min(1e5, max(1.0, hours))


def reference(board: Board) -> float:
    """Price of the cheapest on-demand machine that would do; where none is sold, of three spot machines."""
    if board.on_demand is not None:
        return float(board.on_demand)
    spot = [one.price for one in board.candidates] + [one.price for one in board.groups]
    return 3.0 * min(spot, default=0)


def lay_out(board: Board) -> Layout:
    """The plan of least cost."""
    s = board.situation
    memories = {one.name: one.memory for one in board.matched}
    memories |= {group.name: group.memory for group in board.groups}
    known = {name: worth(memory, s.now) for name, memory in memories.items()}
    spots = [known[name] for name in known if name.endswith("/spot")]
    common, together = common_multiplier(spots), joint(spots)
    beliefs = {name: believe(memory, known[name], common, s.now) for name, memory in memories.items()}
    _rest(board)
    places = _places(board, beliefs)
    spares = _spares(board, places, together)
    total = s.nodes + spares
    kept, purchases = _fill(board, places, total, spares, together)
    by_name = {place.name: place for place in places}
    dropped: list[tuple[Group, int, float]] = []
    for group in board.groups:
        over = len(group.machines) - kept.get((group.name, group.price), 0)
        if over > 0:
            place = by_name[group.name]
            dropped.append((group, over, group.weight + place.risk))
    dropped.sort(key=lambda entry: (-entry[2], entry[0].spot, entry[0].name, entry[0].price))
    hazards = {name: belief.hazard for name, belief in beliefs.items() if name.endswith("/spot")}
    order = sorted(
        (place for place in places if place.candidate is not None),
        key=lambda place: (place.cost_of_new, place.name),
    )
    return Layout(
        total=total,
        spares=spares,
        purchases=purchases,
        dropped=dropped,
        hazards=hazards,
        order=[place.candidate for place in order if place.candidate is not None],
        look_at=_look_at(board),
        gain=_gain(board, by_name, known),
    )


def _gain(board: Board, places: dict[str, Place], known: dict[str, Counts]) -> Gain:
    """What a move gains; one that only lowers a risk needs a margin, and a market that is known.

    A market that nothing is known of looks steadier than one that just took a machine, whatever they are.
    """
    shift = _shift(board)
    _, most = board.on_demand_bounds(board.situation.nodes)
    too_many = sum(len(group.machines) for group in board.groups if not group.spot) > most

    def price(weight: float, spot: bool) -> float:
        return weight - shift if spot else weight

    def is_known(one: Candidate) -> bool:
        counts = known[one.name]
        return not one.spot or counts.expected + counts.events >= EVIDENCE_LEAST

    def gain(group: Group, purchase: Purchase) -> float:
        one = purchase.candidate
        if purchase.floor or (too_many and not group.spot):
            return inf
        here, risk = price(group.weight, group.spot), places[group.name].risk
        if price(one.weight, one.spot) * _start(board, one.zone[0]) < here:
            return here + risk - purchase.cost
        return here + risk * (1.0 - MARGIN) - purchase.cost if is_known(one) else 0.0

    return gain


def _start(board: Board, provider: str) -> float:
    """What a new machine's price counts with its start: its boot, and half a unit that it will not use."""
    return 1.0 + board.boot_s / PAYBACK_S + board.unit_s(provider) / 2 / UNIT_PAYBACK_S


def _rest(board: Board) -> None:
    """Take markets that had no machines out until they may be asked again.

    One that only took ours, and was not asked since, is asked at once when nothing else is left.
    """
    now = board.situation.now
    before = board.candidates

    def until(one: Candidate) -> tuple[float, str] | None:
        if one.memory is None or (at := rests_until(one.memory)) <= now:
            return None
        return at, refusal(one.memory)

    passed, times = list(board.passed), list(board.times)
    board.rest(before, until)
    if board.candidates:
        return
    unasked = [
        one
        for one in before
        if one.memory is not None and (one.memory.last_loss_at or 0.0) > (one.memory.last_refusal_at or 0.0)
    ]
    if unasked:
        names = {one.name for one in unasked}
        board.passed, board.times = passed, times
        board.rest(before, lambda one: None if one.name in names else until(one))


def _places(board: Board, beliefs: dict[str, Belief]) -> list[Place]:
    s = board.situation
    notices = {name: known.notice_s for name, known in s.capabilities.items()}
    price = penalty(board)
    shift = _shift(board)
    places: dict[str, Place] = {}

    def place_of(one: Candidate | Group) -> Place:
        place = places.get(one.name)
        if place is None:
            belief = beliefs[one.name]
            damage_s = max(DAMAGE_LEAST_S, DETECT_S + board.boot_s - (notices.get(one.zone[0]) or 0.0))
            risk = price * damage_s / 3600.0 * belief.hazard if one.spot else 0.0
            sure = not one.spot or belief.standing == "open"
            place = places[one.name] = Place(
                one.name, one.zone, one.offer.instance_type.name, one.spot, risk, None, sure, []
            )
        return place

    starting: dict[str, int] = defaultdict(int)
    for group in board.groups:
        starting[group.name] += sum(1 for one in group.machines if not one.ready)
        weight = group.weight - shift if group.spot else group.weight
        place_of(group).blocks.append((weight, len(group.machines), group))
    for one in board.candidates:
        place = place_of(one)
        place.candidate = one
        weight = one.weight - shift if one.spot else one.weight
        limit = s.nodes + NODES_MAX
        if beliefs[one.name].standing == "doubtful":
            is_full = one.memory is not None and one.memory.closed_since is None
            limit = max(0, (FULL_MOST if is_full else DOUBTFUL_MOST) - starting[one.name])
        place.blocks.append((weight * _start(board, one.zone[0]), limit, None))
    for place in places.values():
        place.blocks.sort(key=lambda block: (block[0], block[2] is None))
    return [places[name] for name in sorted(places)]


def _shift(board: Board) -> float:
    """What is taken off the price of spot where it is preferred whatever it costs: its risk counts then."""
    if board.situation.spec.allocation != "spot-if-available" or board.on_demand is None:
        return 0.0
    spot = [one.weight for one in board.candidates if one.spot]
    spot += [group.weight for group in board.groups if group.spot]
    return max(0.0, min(spot, default=0.0) - SPOT_SHARE * board.on_demand)


def _spares(board: Board, places: list[Place], together: Joint) -> int:
    """How many spares are kept: as many as are wanted, or as make the whole cheapest."""
    s = board.situation
    wanted = s.spec.buying.spares
    if isinstance(wanted, int):
        return wanted
    numbers = {0, s.spares, s.spares + 1, max(0, s.spares - 1), s.nodes}
    number = 1
    while number < s.nodes:
        numbers.add(number)
        number += 1 if number < FINELY_MOST else number
    best, least = s.spares, _cost(board, places, s.spares, together) * (1.0 - SPARES_GAIN)
    for number in sorted(numbers):
        if number <= s.nodes and (cost := _cost(board, places, number, together)) < least:
            best, least = number, cost
    ready = sum(1 for group in board.groups for one in group.machines if one.ready)
    return max(min(best, s.nodes), board.held - max(ready, s.nodes))  # none goes that is needed yet


def _cost(board: Board, places: list[Place], spares: int, together: Joint) -> float:
    filling = _Filling(board, places, board.situation.nodes + spares, spares, together)
    filling.run()
    return filling.cost


def _fill(
    board: Board, places: list[Place], total: int, spares: int, together: Joint
) -> tuple[dict[tuple[str, int], int], list[Purchase]]:
    filling = _Filling(board, places, total, spares, together)
    filling.run()
    return filling.kept, filling.purchases


class _Filling:
    """Takes places one block after the other, the cheapest first, until there are enough."""

    def __init__(self, board: Board, places: list[Place], total: int, spares: int, together: Joint) -> None:
        s = board.situation
        self.places = places
        self.left = total
        self.spares = spares
        self.together = together
        self.least, self.most = board.on_demand_bounds(total)
        patience = s.spec.buying.patience_s
        overdue = sum(1 for one in s.asking if missing_s(one, s.now) >= patience)
        self.new_on_demand = total if patience <= 0 else overdue
        self.kept: dict[tuple[str, int], int] = {}
        self.purchases: list[Purchase] = []
        self.cost = 0.0
        self._next = [0] * len(places)  # the block of each place that comes next
        self._used = [0] * len(places)  # of that block
        self._covered = [spares] * len(places)  # shares whose loss the spares pay for yet
        # Places with a covered share, by what they have in common.
        self._zones, self._regions = Counter[Zone](), Counter[tuple[str, str]]()
        self._types, self._near_types = Counter[str](), Counter[tuple[str, str, str]]()

    def run(self) -> None:
        """Fill all that is wanted."""
        taken = self._take(self.least, on_demand=True)
        self.most -= taken
        self._take(self.left, on_demand=False)

    def _price(self, index: int) -> float | None:
        """What the next machine at a place counts; None: there is room for no more."""
        place, block = self.places[index], self._next[index]
        if block >= len(place.blocks):
            return None
        return place.blocks[block][0] + place.risk * self._share(index)

    def _share(self, index: int) -> float:
        """How much of the risk is not paid for by the spares."""
        if self._covered[index] <= 0:
            return 1.0
        place, chance = self.places[index], self.together
        itself = 1 if self._covered[index] < self.spares else 0
        zone = self._zones[place.zone] - itself
        region = self._regions[place.zone[:2]] - itself - zone
        far = self._types[place.type] - self._near_types[(*place.zone[:2], place.type)]
        alone: float = (1 - chance.zone) ** zone * (1 - chance.region) ** region * (1 - chance.type) ** far
        return 1.0 - alone * (1.0 - UNCOVERED)

    def _cover(self, index: int, count: int) -> None:
        """So many shares of a place are covered."""
        place = self.places[index]
        if self._covered[index] == self.spares:
            self._zones[place.zone] += 1
            self._regions[place.zone[:2]] += 1
            self._types[place.type] += 1
            self._near_types[(*place.zone[:2], place.type)] += 1
        self._covered[index] -= count

    def _take(self, wanted: int, *, on_demand: bool) -> int:
        """Take so many places, when `on_demand` only such; returns how many."""
        heap = []
        for index, place in enumerate(self.places):
            if on_demand and place.spot:
                continue
            price = self._price(index)
            if price is not None:
                heap.append((price, index))
        heapq.heapify(heap)
        taken = 0
        while heap and taken < wanted:
            price, index = heapq.heappop(heap)
            now = self._price(index)
            if now is None:
                continue
            if now > price:
                heapq.heappush(heap, (now, index))
                continue
            count = self._block(index, wanted - taken, now, floor=on_demand)
            if count is None:
                continue
            taken += count
            after = self._price(index)
            if after is not None:
                heapq.heappush(heap, (after, index))
        return taken

    def _block(self, index: int, room: int, price: float, *, floor: bool) -> int | None:
        """Take what the next block of a place has; None: nothing can be taken there any more."""
        place = self.places[index]
        _, limit, group = place.blocks[self._next[index]]
        count = min(room, limit - self._used[index])
        if not place.spot:
            if not floor:
                count = min(count, self.most)
            if group is None and not floor:
                count = min(count, self.new_on_demand)
        elif self._covered[index] > 0:
            count = min(count, self._covered[index])
        if count <= 0:
            return None
        if place.spot and self._covered[index] > 0:
            self._cover(index, count)
        self.left -= count
        self.cost += count * price
        self._used[index] += count
        if self._used[index] >= limit:
            self._next[index] += 1
            self._used[index] = 0
        if not place.spot and not floor:
            self.most -= count
            if group is None:
                self.new_on_demand -= count
        self._note(place, group, count, price, floor=floor)
        return count

    def _note(self, place: Place, group: Group | None, count: int, price: float, *, floor: bool) -> None:
        if group is not None:
            key = (group.name, group.price)
            self.kept[key] = self.kept.get(key, 0) + count
            return
        assert place.candidate is not None
        self.purchases.append(Purchase(place.candidate, count, price, place.sure, floor))


def _look_at(board: Board) -> float | None:
    """When to think again: markets grow older, and closed ones may have opened."""
    s = board.situation
    if not s.nodes:
        return None
    least, _ = board.on_demand_bounds(s.nodes)
    on_demand = sum(len(group.machines) for group in board.groups if not group.spot)
    if on_demand <= least or s.spec.allocation == "on-demand":
        return s.now + OVER_AND_OVER_S
    soon = min((at for at in board.times if at > s.now), default=s.now + LOOK_ON_DEMAND_S)
    return min(s.now + LOOK_ON_DEMAND_S, max(s.now + LOOK_LEAST_S, soon))
