"""What placement looks at, and what it decides: values without behaviour."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from actors.market.state import MarketState
from actors.policy.budget import Allowance
from actors.spec import PoolSpec
from providers.model import Capabilities, Offer, Value


class Rejection(Value):
    """A market refused what this pool wants, so many times in a row; until when it is left alone."""

    times: int
    until: float
    detail: str


@dataclass(frozen=True, slots=True)
class Passed:
    """A market that was passed over, and why."""

    market: str
    reason: str


@dataclass(frozen=True, slots=True)
class Held:
    """A machine of the pool that fills a node or is on its way to one, and that nobody is ending.

    Attributes:
        node: which it fills, or will.
        offer: as it was bought; what it costs is what the offer said.
        launched_at: when it was ordered.
        ready: it works.
        movable: it fills its node undisturbed: no notice, no drain, no other machine beside it.
        busy: tasks on it.
    """

    node: int
    instance_id: str
    offer: Offer
    launched_at: float
    ready: bool
    movable: bool
    busy: int


@dataclass(frozen=True, slots=True)
class Asking:
    """A node that wants a machine now.

    Attributes:
        since: since when it has none that works, or what works can't be renewed; None: it has one yet.
        refused: markets that refused it just now.
        lost_in: the market that took its machine in this turn; its memory will hear of that only later.
        works: it has one that works and stays until the other does: nothing is missing.
    """

    node: int
    since: float | None
    refused: tuple[str, ...]
    lost_in: str | None = None
    works: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """All that placement may look at.

    Attributes:
        spec: the pool's.
        nodes: how many are wanted, without spares; may be more or fewer than those held and asking.
        spares: how many there are now.
        asking: nodes to place, in the order of their numbers.
        held: all machines that are there to stay.
        offers: newest known, by provider; a provider that is missing has not answered yet.
        offers_at: when they were told.
        capabilities: by provider.
        markets: memory, by str(market).
        failures: set-ups that failed in a row in this pool, by str(market).
        rejections: what providers refused of this pool's own wishes, by str(market).
        down: providers that are passed over as a whole, and why.
        boot_s: seconds that a machine of this pool takes from launch to ready; None: not known yet.
        allowance: what the budget lets.
        now: UTC seconds.
        task_s: seconds that an attempt of a task of this pool takes; None: not known yet.
        moved_away: machines that were replaced by better ones and still have tasks to end.
        blocked: regions, as (provider, region), whose network or keys can't be made just now: why, and when
            that is tried again.
    """

    spec: PoolSpec
    nodes: int
    spares: int
    asking: tuple[Asking, ...]
    held: tuple[Held, ...]
    offers: Mapping[str, tuple[Offer, ...]]
    offers_at: Mapping[str, float]
    capabilities: Mapping[str, Capabilities]
    markets: Mapping[str, MarketState]
    failures: Mapping[str, int]
    rejections: Mapping[str, Rejection]
    down: Mapping[str, str]
    boot_s: float | None
    allowance: Allowance
    now: float
    task_s: float | None = None
    moved_away: int = 0
    blocked: Mapping[tuple[str, str], tuple[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a node's next machine is bought: the first of `offers`; the others when that can't be asked."""

    offers: tuple[Offer, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Moved:
    """A node whose machine should be replaced by a better one, bought there."""

    node: int
    offer: Offer
    why: str


@dataclass(frozen=True, slots=True)
class Considered:
    """A market that is not passed over: what a machine there costs, its risk, and what is said of it."""

    market: str
    micro_usd_per_hour: int
    losses_per_hour: float | None
    detail: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What placement decides.

    Attributes:
        choices: for each asking node that can be placed.
        moves: of nodes that have a machine.
        spares: how many spares there should be from now on.
        surplus: nodes whose machines the plan does not want, the least wanted first.
        considered: markets that are allowed now, best first.
        passed: the others, each with its reason.
        retry_at: when to look again for the asking nodes that were not placed.
        look_at: when to look again for moves and spares; None: not before something happens.
        hopeless: no waiting will help: every market that matches was stopped for this pool.
        refresh: providers whose offers are too old for what is decided next.
        too_dear: something was not bought because the budget does not let it.
    """

    choices: Mapping[int, Choice]
    moves: tuple[Moved, ...]
    spares: int
    surplus: tuple[int, ...]
    considered: tuple[Considered, ...]
    passed: tuple[Passed, ...]
    retry_at: float
    look_at: float | None
    hopeless: bool
    refresh: tuple[str, ...]
    too_dear: bool = False


def clock_time(at: float) -> str:
    """A time of the day, UTC, for a reason."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")


def market_name(offer: Offer) -> str:
    """The same as str(offer.market), without making that market."""
    place = f"{offer.provider}/{offer.region}/{offer.zone}"
    return f"{place}/{offer.instance_type.name}/{offer.lifecycle}"
