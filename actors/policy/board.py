"""The markets that a pool may buy in, and what it has there: what every policy reads. Pure.

A board is built once for a decision; its candidates and groups are not changed afterwards.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from actors.market.state import MarketState
from actors.policy.billing import UNIT_S
from actors.policy.budget import commitment_micro_usd
from actors.policy.eligible import lifecycles, mismatch, mismatch_but_allocation, price_factor, sells
from actors.policy.memory import bereaved
from actors.policy.situation import Asking, Held, Passed, Situation, clock_time, market_name
from providers.errors import Fault
from providers.model import Offer

BOOT_DEFAULT_S = 180.0
PAYBACK_S = 1800.0  # a machine that is launched should be worth its start within so long
UNIT_PAYBACK_S = 4 * 3600.0  # and what of a begun billing unit is not used within so long
LOOK_AGAIN_S = 15.0  # when nothing says when a market might be open again
OFFERS_OLD_S = 300.0

Zone = tuple[str, str, str]  # provider, region, zone: a zone's name alone may occur twice


@dataclass(slots=True)
class Candidate:
    """An offer that matches, in a market that nothing forbids just now.

    Attributes:
        name: of the market.
        weight: micro-dollars an hour as it counts: its price times the alternative's factor.
        memory: of the market.
        full: what a launch there commits.
    """

    offer: Offer
    name: str
    zone: Zone
    spot: bool
    price: int
    weight: float
    memory: MarketState | None
    commitment: int


@dataclass(slots=True)
class Group:
    """Machines that the pool holds in one market at one price.

    Attributes:
        price: micro-dollars an hour, as it is billed: as bought, or the market's of the moment where running
            machines are billed so.
        weight: micro-dollars an hour as it counts.
    """

    offer: Offer
    name: str
    zone: Zone
    spot: bool
    price: int
    weight: float
    memory: MarketState | None
    machines: list[Held]


@dataclass(slots=True)
class Board:
    """What a policy decides by.

    Attributes:
        boot_s: seconds from a launch to a machine that works.
        memories: of markets, by name, with the losses of this turn that they will hear of only later.
        candidates: markets that may be asked now, in the order of their names; a policy takes out those that
            it leaves alone for a while.
        matched: all that match, asked now or not.
        passed: the others, each with its reason.
        times: when some of those may be asked again.
        stopped: markets that match and were stopped for this pool.
        matching: markets that match, and providers of which it is not known.
        refresh: providers whose offers are old.
        groups: what is held, in the order of market and price.
        on_demand: price of the cheapest on-demand offer that has the shape wanted; None: none is known.
        held: nodes that have a machine.
        starting: of these, how many do not work yet.
    """

    situation: Situation
    boot_s: float
    memories: Mapping[str, MarketState] = field(default_factory=dict)
    candidates: list[Candidate] = field(default_factory=list)
    matched: list[Candidate] = field(default_factory=list)
    passed: list[Passed] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    stopped: int = 0
    matching: int = 0
    refresh: tuple[str, ...] = ()
    groups: list[Group] = field(default_factory=list)
    on_demand: int | None = None
    held: int = 0
    starting: int = 0

    def unit_s(self, provider: str) -> int:
        """Seconds that a provider bills whole."""
        known = self.situation.capabilities.get(provider)
        return 1 if known is None else UNIT_S[known.billing_unit]

    def on_demand_bounds(self, total: int) -> tuple[int, int]:
        """How many of so many machines are on demand at the least, and at the most."""
        spec = self.situation.spec
        rule = spec.on_demand
        least = max(rule.floor, ceil(round(rule.share * self.situation.nodes, 6)))
        most = total
        if "on_demand" not in lifecycles(spec):
            most = 0
        elif spec.allocation == "spot":
            most = least
        if rule.ceiling is not None:
            most = min(most, rule.ceiling)
        return min(least, most, total), min(most, total)

    def rest(
        self, candidates: Sequence[Candidate], until: Callable[[Candidate], tuple[float, str] | None]
    ) -> None:
        """Take out those that the policy leaves alone for a while, with what it says of each."""
        kept = []
        for one in candidates:
            found = until(one)
            if found is None:
                kept.append(one)
                continue
            at, why = found
            self.times.append(at)
            self.passed.append(Passed(one.name, f"{why}; asked again at {clock_time(at)}"))
        self.candidates = kept


def build(situation: Situation) -> Board:
    """The board of a situation."""
    s = situation
    board = Board(s, boot_s=BOOT_DEFAULT_S if s.boot_s is None else s.boot_s)
    held = _held(s)
    board.memories = _memories(s, held)
    refused = {market for one in s.asking for market in one.refused}
    refresh = []
    for provider in s.spec.provider:
        if provider not in s.offers:
            board.passed.append(Passed(provider, "has not told its offers yet"))
            board.times.append(s.now + 1.0)
            board.matching += 1
            continue
        if provider in s.down:
            board.passed.append(Passed(provider, s.down[provider]))
            board.times.append(s.now + LOOK_AGAIN_S)
            board.matching += 1
            continue
        if s.now - s.offers_at.get(provider, s.now) > OFFERS_OLD_S:
            refresh.append(provider)
        for offer in s.offers[provider]:
            _consider(board, offer, refused)
    board.candidates.sort(key=lambda one: one.name)
    board.matched.sort(key=lambda one: one.name)
    board.refresh = tuple(refresh)
    _group(board, held)
    return board


def _consider(board: Board, offer: Offer, refused: set[str]) -> None:
    """Put one offer on the board, or say why it is passed over."""
    s = board.situation
    spec, now = s.spec, s.now
    name = market_name(offer)
    reason = mismatch(spec, offer)
    if reason is None and not sells(offer, s.capabilities):
        reason = "provider sells no spot"
    if offer.lifecycle == "on_demand" and mismatch_but_allocation(spec, offer) is None:
        price = offer.micro_usd_per_hour
        board.on_demand = price if board.on_demand is None else min(board.on_demand, price)
    if reason is not None:
        board.passed.append(Passed(name, reason))
        return
    board.matching += 1
    memory, rejected = board.memories.get(name), s.rejections.get(name)
    candidate = Candidate(
        offer=offer,
        name=name,
        zone=(offer.provider, offer.region, offer.zone),
        spot=offer.lifecycle == "spot",
        price=offer.micro_usd_per_hour,
        weight=offer.micro_usd_per_hour * price_factor(spec, offer),
        memory=memory,
        commitment=commitment_micro_usd(offer, spec, s.boot_s),
    )
    board.matched.append(candidate)
    blocked = s.blocked.get(candidate.zone[:2])
    if s.failures.get(name, 0) >= spec.bootstrap_failures_max:
        board.stopped += 1
        board.passed.append(Passed(name, "stopped: machines there could not be set up"))
    elif blocked is not None:
        why, at = blocked
        board.times.append(at)
        board.passed.append(Passed(name, f"{why}; tried again at {clock_time(at)}"))
    elif rejected is not None and rejected.until > now:
        board.times.append(rejected.until)
        when = clock_time(rejected.until)
        board.passed.append(Passed(name, f"refused as this pool wants it, until {when}: {rejected.detail}"))
    elif memory is not None and memory.cool_until > now:
        board.times.append(memory.cool_until)
        why = f"refused ({memory.last_fault}), cooling down until {clock_time(memory.cool_until)}"
        board.passed.append(Passed(name, f"{why}: {memory.last_detail}" if memory.last_detail else why))
    elif name in refused:
        board.times.append(now + LOOK_AGAIN_S)
        board.passed.append(Passed(name, "refused just now"))
    else:
        board.candidates.append(candidate)


def _held(s: Situation) -> dict[str, list[Held]]:
    """The machines of nodes that ask for none, by market; of a node that is being moved the newer one."""
    newest: dict[int, Held] = {}
    for one in s.held:
        other = newest.get(one.node)
        if other is None or (one.launched_at, one.instance_id) > (other.launched_at, other.instance_id):
            newest[one.node] = one
    for asking in s.asking:
        newest.pop(asking.node, None)
    held: dict[str, list[Held]] = {}
    for one in newest.values():
        held.setdefault(market_name(one.offer), []).append(one)
    return held


def _memories(s: Situation, held: Mapping[str, list[Held]]) -> Mapping[str, MarketState]:
    """Memories, with the losses of this turn as if they had been heard."""
    lost = Counter(one.lost_in for one in s.asking if one.lost_in is not None)
    if not lost:
        return s.markets
    markets = {market_name(one): one.market for offers in s.offers.values() for one in offers}
    heard = dict(s.markets)
    for name, count in lost.items():
        memory = heard.get(name)
        if memory is None:
            if name not in markets:
                continue
            memory = MarketState(market=markets[name])
        if memory.last_loss_at is None or memory.last_loss_at < s.now:
            others = 1 if len(memory.holders) > 1 else 0  # of other pools only that they hold some is known
            heard[name] = bereaved(memory, count, len(held.get(name, ())) + others, s.now)
    return heard


def _group(board: Board, held: Mapping[str, list[Held]]) -> None:
    """Put on the board what is held, by market."""
    s = board.situation
    current = _current(s, held)
    groups: dict[tuple[str, int], Group] = {}
    for name, machines in held.items():
        offer, now = machines[0].offer, current.get(name)
        spot, factor = offer.lifecycle == "spot", price_factor(s.spec, offer)
        known = s.capabilities.get(offer.provider)
        floats = spot and known is not None and known.spot_price_floats
        for one in machines:
            bought = one.offer.micro_usd_per_hour
            price = now if floats and now is not None else bought
            group = groups.get((name, price))
            if group is None:
                group = groups[name, price] = Group(
                    offer=one.offer,
                    name=name,
                    zone=(offer.provider, offer.region, offer.zone),
                    spot=spot,
                    price=price,
                    weight=price * factor,
                    memory=board.memories.get(name),
                    machines=[],
                )
            group.machines.append(one)
    board.groups = [groups[key] for key in sorted(groups)]
    board.held = sum(len(group.machines) for group in board.groups)
    board.starting = sum(1 for group in board.groups for one in group.machines if not one.ready)


def _current(s: Situation, held: Mapping[str, list[Held]]) -> dict[str, int]:
    """Prices of new machines in the markets where some are held."""
    prices: dict[str, int] = {}
    for provider in sorted({machines[0].offer.provider for machines in held.values()}):
        for offer in s.offers.get(provider, ()):
            name = market_name(offer)
            if name in held:
                prices[name] = min(offer.micro_usd_per_hour, prices.get(name, offer.micro_usd_per_hour))
    return prices


def missing_s(asking: Asking, now: float) -> float:
    """How long a node has been without a machine that works, or without the other that it should have."""
    return 0.0 if asking.since is None else max(0.0, now - asking.since)


def refusal(memory: MarketState) -> str:
    """What was last heard of a market, in the provider's words, for a reason."""
    lost = memory.last_loss_at is not None and (
        memory.last_refusal_at is None or memory.last_loss_at >= memory.last_refusal_at
    )
    if lost:
        assert memory.last_loss_at is not None
        return f"took a machine at {clock_time(memory.last_loss_at)}"
    if memory.last_refusal_at is None:
        return "had no machines"
    said = f": {memory.last_detail}" if memory.last_detail and memory.last_fault is Fault.CAPACITY else ""
    return f"had none at {clock_time(memory.last_refusal_at)}{said}"
