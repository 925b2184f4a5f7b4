"""What is remembered of a market."""

from typing import Literal

from pydantic import TypeAdapter

from providers.errors import Fault
from providers.model import Market, Value

VERSION = 1


class MarketState(Value):
    """Counts since it was first seen, and until when it is better left alone.

    Attributes:
        refusals_in_a_row: doubles the cool-down; a launch sets it back.
        cool_until: no launch here before, by the last refusal.
        avoid_until: other markets are preferred until then, by the last loss.
    """

    status: Literal["known"] = "known"
    market: Market
    launches: int = 0
    refusals: int = 0
    refusals_in_a_row: int = 0
    losses: int = 0
    last_launch_at: float | None = None
    last_loss_at: float | None = None
    last_fault: Fault | None = None
    last_detail: str = ""
    cool_until: float = 0
    avoid_until: float = 0
    since: float = 0

    @property
    def due_at(self) -> float | None:
        """When pools should hear that it may be tried again."""
        return self.cool_until or None


MarketJson: TypeAdapter[MarketState] = TypeAdapter(MarketState)
