"""What a rule decides, and what it may look at while deciding. Pure values."""

from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from actors.address import Address
from actors.effects import Effect
from actors.events import Event, RequestId
from actors.messages import Message
from actors.quick import dataclass
from providers.model import Capabilities, Offer, Value

if TYPE_CHECKING:
    from actors.index import Index
    from actors.market.state import MarketState


@dataclass(frozen=True, slots=True)
class Published:
    """An event to publish, the Request it serves and the ones it ends."""

    event: Event
    request_id: RequestId | None = None
    ends: tuple[RequestId, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """The next state (None: forget this actor), what to tell whom, what to do, what to publish."""

    state: Value | None
    tells: tuple[tuple[Address, Message], ...] = ()
    effects: tuple[Effect, ...] = ()
    facts: tuple[Published, ...] = ()
    taken: tuple[RequestId, ...] = ()

    def also(
        self,
        *,
        tells: tuple[tuple[Address, Message], ...] = (),
        effects: tuple[Effect, ...] = (),
        facts: tuple[Published, ...] = (),
    ) -> "Decision":
        """The same decision with more after it."""
        return Decision(
            self.state, self.tells + tells, self.effects + effects, self.facts + facts, self.taken
        )


@dataclass(frozen=True, slots=True)
class World:
    """What the loop's host knows about the outside, at one moment."""

    offers: Mapping[str, tuple[Offer, ...]] = field(default_factory=dict)  # by provider
    capabilities: Mapping[str, Capabilities] = field(default_factory=dict)
    markets: "Mapping[str, MarketState]" = field(default_factory=dict)  # by str(market)
    down: Mapping[str, str] = field(default_factory=dict)  # providers that sell nothing now, and why
    offers_at: Mapping[str, float] = field(default_factory=dict)  # by provider: when they were told


@dataclass(frozen=True, slots=True)
class View:
    """The snapshot a rule decides by.

    Attributes:
        now: UTC seconds.
        began: when this loop began; what it saw before that is not known.
        draw: uniform from [0, 1), fresh for every message.
        owner: the id this installation marks its machines with.
        epoch: of our leadership.
        world: offers, capabilities, market memory.
        index: the pool's other states, and what is derived from them.
    """

    now: float
    began: float
    draw: float
    owner: str
    epoch: int
    world: World
    index: "Index"
