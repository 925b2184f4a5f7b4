"""What is remembered of a market."""

from typing import Literal

from pydantic import TypeAdapter

from providers.errors import Fault
from providers.model import Market, Value

VERSION = 2


class Taken(Value):
    """Losses that belong together: one event, that took a share of what was held.

    Attributes:
        at: when the first was told.
        lost: machines lost.
        held: machines held just before, by pool.
        counted: the share of it that `events` has counted.
        up_since: of the market, as it was before.
        closed: all were taken, and the market closed by it.
        joint: of (zone, region, type) whether another closed with it.
    """

    at: float
    lost: int
    held: dict[str, int]
    counted: float = 0
    up_since: float | None = None
    closed: bool = False
    joint: tuple[bool, bool, bool] = (False, False, False)


class MarketState(Value):
    """What is remembered of a market, by all pools together. `policy.memory` says what it is worth later.

    Attributes:
        launches, refusals, losses: counts since it was first seen.
        refusals_in_a_row: a launch sets it back; those of one moment are one.
        last_refusal_at: of any refusal, whatever for.
        last_fault, last_detail: of the last refusal.
        last_price: micro-dollars an hour of the last launch.
        cool_until: no launch here before, by a refusal that was not for capacity, or as the vendor said.
        good_at: when it was last seen to have machines: a launch, or the last of ours was there. While some
            are held (`holders`) and it is not closed it is seen so all the time, and this is not kept up.
        bad_at: when it was last seen to have none: a refusal for capacity, or a loss.
        closed_since: the first bad news since the last good that left none of ours there; None: none such.
            A market that refuses while it lets us keep what we hold is full, not closed.
        up_since: believed start of the spell in which it is open, or was; None: never seen open. A loss of a
            part of what is held makes the spell as much younger.
        events: losses, forgotten with a half-life; one that took only a part of what was held counts as that
            part, a launch refused where machines were believed to be as half.
        expected: losses that the baseline hazard would have given over the time it was watched; as forgotten.
            Time in which machines are held counts in full, time between good news and the next look half,
            when that is less than an hour.
        closures: times that it lost all that was held here; as forgotten.
        joint_zone, joint_region, joint_type: of those, the ones that came within ten minutes after another
            market of the same provider and lifecycle closed: in the same zone; in the same region, its zone
            or another; of the same instance type, wherever. Of two that close together the later one counts.
        decayed_at: up to when events, expected, closures and joint ones are forgotten.
        watched_at: up to when `expected` counts the time in which machines are held; None: none are.
        holders: machines held here, by pool, as told when the first came: only pools that hold some.
        taken: the last losses that belong together.
    """

    status: Literal["known"] = "known"
    market: Market
    launches: int = 0
    refusals: int = 0
    refusals_in_a_row: int = 0
    losses: int = 0
    last_launch_at: float | None = None
    last_refusal_at: float | None = None
    last_loss_at: float | None = None
    last_fault: Fault | None = None
    last_detail: str = ""
    last_price: int | None = None
    cool_until: float = 0
    good_at: float | None = None
    bad_at: float | None = None
    closed_since: float | None = None
    up_since: float | None = None
    events: float = 0
    expected: float = 0
    closures: float = 0
    joint_zone: float = 0
    joint_region: float = 0
    joint_type: float = 0
    decayed_at: float = 0
    watched_at: float | None = None
    holders: dict[str, int] = {}
    taken: Taken | None = None
    since: float = 0

    @property
    def due_at(self) -> float | None:
        """When pools should hear that it may be tried again."""
        return self.cool_until or None


MarketJson: TypeAdapter[MarketState] = TypeAdapter(MarketState)
