"""What a policy answers: which machines to buy, in which order, and which of those held it does without."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from actors.policy.board import Candidate, Group


@dataclass(slots=True)
class Purchase:
    """So many machines to buy in one market.

    Attributes:
        cost: what an hour there counts, in micro-dollars.
        sure: the market was seen open just now, or is one that sells on demand.
        floor: the pool wants so many on demand whatever they cost.
    """

    candidate: Candidate
    count: int
    cost: float
    sure: bool
    floor: bool = False


Gain = Callable[[Group, Purchase], float]


def any_gain(group: Group, purchase: Purchase) -> float:
    """Whatever is laid out is worth a move."""
    del group, purchase
    return math.inf


@dataclass(slots=True)
class Layout:
    """A plan in counts, without the nodes.

    Attributes:
        total: machines that there should be, with spares.
        spares: of these.
        purchases: in the order in which they are wanted; more than nodes ask for are better places for
            machines that are held in others.
        dropped: machines that are not wanted where they are, and what an hour there counts, the worst first.
        hazards: losses an hour, by market; only of those for which something is reckoned.
        order: candidates, best first.
        look_at: when it should be thought over again.
        urgent: moves are made at once, however many and however young: the pool wants to be in one place.
        gain: what an hour counts less, in micro-dollars, when a machine of a group is moved to a purchase,
            the start of the new one paid; not positive: it is not worth a move. Not asked when urgent.
    """

    total: int
    spares: int
    purchases: list[Purchase] = field(default_factory=list)
    dropped: list[tuple[Group, int, float]] = field(default_factory=list)
    hazards: dict[str, float] = field(default_factory=dict)
    order: list[Candidate] = field(default_factory=list)
    look_at: float | None = None
    urgent: bool = False
    gain: Gain = any_gain

    def merged(self) -> list[tuple[Group, int, float]]:
        """What is dropped, every group once: where it comes first, with all that is dropped of it."""
        counts: dict[int, int] = {}
        for group, count, _ in self.dropped:
            counts[id(group)] = counts.get(id(group), 0) + count
        found = []
        for group, _, cost in self.dropped:
            if count := counts.pop(id(group), 0):
                found.append((group, min(count, len(group.machines)), cost))
        return found
