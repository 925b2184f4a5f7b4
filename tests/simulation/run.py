"""Running seeds: one seed is one world on a virtual clock, the same each time."""

import time
from dataclasses import dataclass, field

import trio
import trio.testing
from trio._core import _run

from tests.simulation.referee import Broken
from tests.simulation.world import Habits, World


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a seed went. `broken` names the rule that did not hold."""

    seed: int
    hash: str
    broken: str | None
    seconds: float  # real
    counts: dict[str, int] = field(default_factory=dict)
    tail: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """What is printed about it."""
        if self.broken is None:
            return f"seed {self.seed} hash {self.hash} ok"
        return f"seed {self.seed} hash {self.hash} BROKEN: {self.broken}"


def run_seed(seed: int, days: float = 1.0, habits: Habits | None = None) -> Outcome:
    """Run one world to its end."""
    # Trio shuffles what is ready, on purpose. These two make it do so in the same way every time.
    _run._r.seed(seed)
    setattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # noqa: B010 - it is declared Final
    began = time.perf_counter()
    worlds: list[World] = []

    async def main() -> None:
        world = World(seed, days, habits or Habits())
        worlds.append(world)
        await world.run()

    broken: str | None = None
    try:
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    except Broken as error:
        broken = str(error)
    world = worlds[0]
    counts = dict(world.referee.counts)
    counts |= {"crashes": world.crashes, "commits": world.ledger.commits, "disk full": world.ledger.refused}
    return Outcome(
        seed=seed,
        hash=world.ledger.hash,
        broken=broken,
        seconds=time.perf_counter() - began,
        counts=counts,
        tail=tuple(world.referee.tail) if broken else (),
    )
