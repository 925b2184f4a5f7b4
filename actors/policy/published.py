"""Policies that others published, to be chosen by name and to be measured against. Pure.

Each is stateless: what it would remember is read from what is held and from the memory of the markets. They
prefer spot; on demand covers what no spot market takes, and goes back to spot, where the pool lets them.
Source: reference/spot.md, "The published policies, as replayed".
"""

from collections import Counter
from collections.abc import Callable, Mapping

from actors.buying import PolicyName
from actors.market.state import MarketState
from actors.policy.board import Board, Candidate, Group, Zone, refusal
from actors.policy.layout import Layout, Purchase

TICK_S = 30.0  # policies that look at every tick ask a market again so soon
EAGER_AGAIN_S = 60.0
KARPENTER_AGAIN_S = 180.0
STICKY_AGAIN_S = 300.0
LOOK_S = 60.0
CALM_LOOK_S = 600.0
DAY_S = 86_400.0

Pick = Callable[[], Candidate | None]  # where the next spot machine goes; counts what it answers
Chooser = Callable[[Board], Pick]


def _in_order(board: Board, key: Callable[[Candidate], tuple[object, ...]]) -> Pick:
    """Always the first by `key`; what refuses is not on the board when it is asked again."""
    spot = [one for one in board.candidates if one.spot]
    best = min(spot, key=lambda one: (*key(one), one.weight, one.name), default=None)
    return lambda: best


def _round_robin(board: Board) -> Pick:
    """The next of a ring of markets, after the one that was asked last."""
    ring = sorted((one for one in board.candidates if one.spot), key=lambda one: one.name)
    last = _asked_last(board)
    at = next((index for index, one in enumerate(ring) if one.name > last), 0)

    def pick() -> Candidate | None:
        nonlocal at
        if not ring:
            return None
        at += 1
        return ring[(at - 1) % len(ring)]

    return pick


def _asked_last(board: Board) -> str:
    refused = [one.refused[-1] for one in board.situation.asking if one.refused]
    if refused:
        return refused[0]
    asked = [(_asked_at(one.memory), one.name) for one in board.matched if one.spot]
    at, name = max(asked, default=(0.0, ""))
    return name if at else ""


def _asked_at(memory: MarketState | None) -> float:
    return 0.0 if memory is None else max(memory.last_launch_at or 0.0, memory.last_refusal_at or 0.0)


def _eager(board: Board) -> Pick:
    """Regions other than the one that took a machine last, the cheapest first."""
    lost = [
        (one.memory.last_loss_at, one.zone[:2])
        for one in board.matched
        if one.memory is not None and one.memory.last_loss_at is not None
    ]
    took = max(lost)[1] if lost else None
    cheapest: dict[tuple[str, str], float] = {}
    for one in board.candidates:
        if one.spot:
            region = one.zone[:2]
            cheapest[region] = min(one.weight, cheapest.get(region, one.weight))
    return _in_order(board, lambda one: (one.zone[:2] == took, cheapest[one.zone[:2]], one.zone[:2]))


def _even_spread(board: Board) -> Pick:
    """Every zone has its share of the nodes, whether it has machines or not."""
    cheapest: dict[Zone, float] = {}
    for one in board.matched:
        if one.spot:
            cheapest[one.zone] = min(one.weight, cheapest.get(one.zone, one.weight))
    zones = sorted(cheapest, key=lambda zone: (cheapest[zone], zone))
    total = board.situation.nodes + _spares(board)
    room = {
        zone: total // len(zones) + (1 if index < total % len(zones) else 0)
        for index, zone in enumerate(zones)
    }
    for group in board.groups:
        if group.spot:  # those on demand go back to their zone's share
            room[group.zone] = room.get(group.zone, 0) - len(group.machines)
    best: dict[Zone, Candidate] = {}
    for one in sorted(board.candidates, key=lambda one: (one.weight, one.name)):
        if one.spot:
            best.setdefault(one.zone, one)
    ready = [zone for zone in zones if zone in best]

    def pick() -> Candidate | None:
        while ready and room[ready[0]] <= 0:
            ready.pop(0)
        if not ready:
            return None
        room[ready[0]] -= 1
        return best[ready[0]]

    return pick


def _karpenter(board: Board) -> Pick:
    """Fewest interruptions in the last day, then price."""
    now = board.situation.now

    def interruptions(one: Candidate) -> float:
        memory = one.memory
        if memory is None or memory.last_loss_at is None or now - memory.last_loss_at > DAY_S:
            return 0.0
        return round(memory.events, 1)

    return _in_order(board, lambda one: (interruptions(one),))


def _sticky(board: Board) -> Pick:
    """All in the zone where most is held, else in the cheapest."""
    held: Counter[Zone] = Counter()
    for group in board.groups:
        if group.spot:
            held[group.zone] += len(group.machines)
    return _in_order(board, lambda one: (-held[one.zone],))


def _none(board: Board) -> Pick:
    del board
    return lambda: None


def _active(board: Board) -> Pick:
    """The cheapest zone that is not preempting and holds none of ours, else the cheapest that is not."""
    held: Counter[Zone] = Counter()
    for group in board.groups:
        if group.spot:
            held[group.zone] += len(group.machines)
    zones = {one.zone for one in board.matched if one.spot}
    bad = {
        one.zone
        for one in board.matched
        if one.spot
        and one.memory is not None
        and (one.memory.bad_at or 0.0) > (one.memory.last_launch_at or 0.0)
    }
    active = zones - bad if len(zones - bad) >= 2 else zones
    there = sorted(
        (one for one in board.candidates if one.spot and one.zone in active),
        key=lambda one: (one.weight, one.name),
    )
    empty = [one for one in there if not held[one.zone]]

    def pick() -> Candidate | None:
        while empty and held[empty[0].zone]:
            empty.pop(0)
        chosen = empty[0] if empty else next(iter(there), None)
        if chosen is not None:
            held[chosen.zone] += 1
        return chosen

    return pick


# --- what they have in common ---------------------------------------------------------------------


def _spares(board: Board) -> int:
    wanted = board.situation.spec.buying.spares
    return wanted if isinstance(wanted, int) else 0


def _rest(board: Board, again_s: float, *, losses: bool = False) -> None:
    """Leave those alone that refused so lately, with `losses` those too that took a machine.

    On demand rests for a tick: a refusal is news to the pool, which looks again at once.
    """
    now = board.situation.now

    def until(one: Candidate) -> tuple[float, str] | None:
        memory = one.memory
        if memory is None:
            return None
        taken_at = memory.last_loss_at if losses and one.spot else None
        at = max(memory.last_refusal_at or 0.0, taken_at or 0.0)
        rest_s = again_s if one.spot else TICK_S
        return (at + rest_s, refusal(memory)) if at and at + rest_s > now else None

    board.rest(board.candidates, until)


class _Buying:
    """Puts a layout together, one machine after the other."""

    def __init__(self, board: Board, layout: Layout, pick: Pick) -> None:
        self.board = board
        self.layout = layout
        self.pick = pick
        dear = [one for one in board.candidates if not one.spot]
        self.on_demand = min(dear, key=lambda one: (one.weight, one.name), default=None)

    def buy(self, one: Candidate, *, floor: bool = False) -> None:
        """One more machine there."""
        last = self.layout.purchases[-1] if self.layout.purchases else None
        if last is not None and last.candidate is one and last.floor == floor:
            last.count += 1
        else:
            purchase = Purchase(one, 1, one.weight, not one.spot, floor)
            self.layout.purchases.append(purchase)

    def next(self, *, on_demand: bool) -> Candidate | None:
        """Where the next one is bought; on demand only if that is allowed, and no spot market takes it."""
        spot = self.pick()
        if not on_demand or self.on_demand is None:
            return spot
        cheapest = self.board.situation.spec.allocation == "cheapest"
        if spot is None or (cheapest and self.on_demand.weight < spot.weight):
            return self.on_demand
        return spot

    def drop(self, groups: list[Group], count: int) -> int:
        """So many of these are not wanted, those of the first group first; returns how many there were."""
        dropped = 0
        for group in groups:
            some = min(count - dropped, len(group.machines))
            if some > 0:
                self.layout.dropped.append((group, some, group.weight))
                dropped += some
        return dropped


def _laid_out(board: Board, pick: Pick, *, back_to_spot: bool = True) -> Layout:
    """A machine for every node that has none; machines on demand go back to spot."""
    spares = _spares(board)
    total = board.situation.nodes + spares
    layout = Layout(total=total, spares=spares, look_at=board.situation.now + LOOK_S)
    layout.order = sorted(board.candidates, key=lambda one: (not one.spot, one.weight, one.name))
    buying = _Buying(board, layout, pick)
    least, most = board.on_demand_bounds(total)
    dear = [group for group in board.groups if not group.spot]
    cheap = [group for group in board.groups if group.spot]
    on_demand = sum(len(group.machines) for group in dear)
    missing = total - board.held
    for _ in range(missing):
        floor = on_demand < least and buying.on_demand is not None
        one = buying.on_demand if floor else buying.next(on_demand=on_demand < most)
        if one is None:
            break
        on_demand += 0 if one.spot else 1
        buying.buy(one, floor=floor)
    if missing < 0:
        gone = buying.drop(_worst_first(dear), min(-missing, max(0, on_demand - least)))
        buying.drop(_worst_first(cheap), -missing - gone)
        return layout
    held = sum(len(group.machines) for group in dear)
    back = min(held, max(0, on_demand - (least if back_to_spot else most)))
    for _ in range(back):
        one = buying.pick()
        if one is None or (board.situation.spec.allocation == "cheapest" and _dearer(one, dear)):
            break
        buying.buy(one)
        buying.drop(_worst_first(dear), 1) if not layout.dropped else _one_more(layout, _worst_first(dear))
    if on_demand < least and buying.on_demand is not None and cheap:
        short = min(least - on_demand, sum(len(group.machines) for group in cheap))
        for _ in range(short):
            buying.buy(buying.on_demand, floor=True)
        buying.drop(_worst_first(cheap), short)
    return layout


def _dearer(one: Candidate, groups: list[Group]) -> bool:
    return one.weight >= max(group.weight for group in groups)


def _one_more(layout: Layout, groups: list[Group]) -> None:
    """One more of these is not wanted."""
    counts = {id(group): count for group, count, _ in layout.dropped}
    for group in groups:
        if counts.get(id(group), 0) < len(group.machines):
            entry = (group, counts.get(id(group), 0) + 1, group.weight)
            layout.dropped = [one for one in layout.dropped if one[0] is not group] + [entry]
            return


def _worst_first(groups: list[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: (-group.weight, group.name, group.price))


def _simple(chooser: Chooser, again_s: float, *, losses: bool = False) -> Callable[[Board], Layout]:
    def lay_out(board: Board) -> Layout:
        _rest(board, again_s, losses=losses)
        return _calm(board, _laid_out(board, chooser(board)))

    return lay_out


def _calm(board: Board, layout: Layout) -> Layout:
    """Look again later where only news can change anything: nothing is to be done, and none is on demand."""
    least, _ = board.on_demand_bounds(board.situation.nodes)
    on_demand = sum(len(group.machines) for group in board.groups if not group.spot)
    is_meant = on_demand <= least or board.situation.spec.buying.policy == "on-demand"
    if not layout.purchases and not layout.dropped and is_meant and board.held >= layout.total:
        layout.look_at = board.situation.now + CALM_LOOK_S
    return layout


def _spothedge(board: Board) -> Layout:
    """`extra` spot machines beyond the nodes; on demand as many as are not ready of all these."""
    _rest(board, TICK_S)
    s = board.situation
    spot_wanted = s.nodes + s.spec.buying.extra
    dear = [group for group in board.groups if not group.spot]
    cheap = [group for group in board.groups if group.spot]
    ready = sum(1 for group in cheap for one in group.machines if one.ready)
    held_spot = sum(len(group.machines) for group in cheap)
    held_dear = sum(len(group.machines) for group in dear)
    least, most = board.on_demand_bounds(s.nodes)
    cover = max(least, min(most, s.nodes, spot_wanted - ready))
    total = spot_wanted + cover
    layout = Layout(total=total, spares=total - s.nodes, look_at=s.now + LOOK_S)
    layout.order = sorted(board.candidates, key=lambda one: (not one.spot, one.weight, one.name))
    buying = _Buying(board, layout, _active(board))
    for _ in range(cover - held_dear):
        if buying.on_demand is None:
            break
        buying.buy(buying.on_demand, floor=True)
    for _ in range(spot_wanted - held_spot):
        one = buying.pick()
        if one is None:
            break
        buying.buy(one)
    buying.drop(_worst_first(dear), held_dear - cover)
    buying.drop(_worst_first(cheap), held_spot - spot_wanted)
    return _calm(board, layout)


POLICIES: Mapping[PolicyName, Callable[[Board], Layout]] = {
    "sticky-race": _simple(_sticky, STICKY_AGAIN_S, losses=True),
    "karpenter": _simple(_karpenter, KARPENTER_AGAIN_S),
    "spothedge": _spothedge,
    "eager-next-region": _simple(_eager, EAGER_AGAIN_S),
    "round-robin": _simple(_round_robin, TICK_S),
    "even-spread": _simple(_even_spread, TICK_S),
    "on-demand": _simple(_none, TICK_S),
}
