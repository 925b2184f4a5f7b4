"""Running seeds: one seed is one world on a virtual clock, the same each time."""

import re
import time
from dataclasses import dataclass, field

import trio
import trio.testing
from trio._core import _run

from tests.simulation.plan import Case, Habits
from tests.simulation.referee import Broken
from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a case went. `broken` says which rule did not hold, and how."""

    case: Case
    hash: str
    broken: str | None
    seconds: float  # real
    virtual_s: float
    counts: dict[str, int] = field(default_factory=dict)
    acts: dict[str, int] = field(default_factory=dict)  # of each kind
    tail: tuple[str, ...] = ()

    @property
    def seed(self) -> int:
        """The seed of the case."""
        return self.case.seed

    @property
    def rule(self) -> str | None:
        """The broken rule without what differs from run to run."""
        return None if self.broken is None else rule_of(self.broken)

    @property
    def line(self) -> str:
        """What is printed about it."""
        if self.broken is None:
            return f"seed {self.seed} hash {self.hash} ok"
        return f"seed {self.seed} hash {self.hash} BROKEN: {self.broken}"


def rule_of(broken: str) -> str:
    """What was broken, without names and numbers: two runs that break one rule have it in common."""
    return re.sub(r"\S*\d\S*", "#", broken)[:60]


def run_seed(seed: int, days: float = 1.0, habits: Habits | None = None) -> Outcome:
    """Run one world to its end."""
    return run_case(Case(seed, days), habits)


def run_case(case: Case, habits: Habits | None = None) -> Outcome:
    """Run one world to its end, or what is kept of it."""
    # Trio shuffles what is ready, on purpose. These two make it do so in the same way every time.
    _run._r.seed(case.seed)
    setattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # noqa: B010 - it is declared Final
    began = time.perf_counter()
    worlds: list[World] = []
    clock = trio.testing.MockClock(autojump_threshold=0)

    async def main() -> None:
        world = World(case, habits or Habits())
        worlds.append(world)
        await world.run()

    broken: str | None = None
    try:
        trio.run(main, clock=clock)
    except Broken as error:
        broken = str(error)
    world = worlds[0]
    counts = dict(world.referee.counts) | dict(world.lives.counts)
    counts |= {"crashes": world.lives.crashes, "commits": world.ledger.commits}
    for cloud in world.clouds.values():
        for fault, count in cloud.luck.happened.items():
            counts[f"fault {fault}"] = counts.get(f"fault {fault}", 0) + count
    counts |= {"disk full": world.ledger.refused, "lives": world.ledger.epoch}
    return Outcome(
        case=case,
        hash=world.ledger.hash,
        broken=broken,
        seconds=time.perf_counter() - began,
        virtual_s=clock.current_time(),
        counts=counts,
        acts=dict(world.acts),
        tail=tuple(world.referee.tail) if broken else (),
    )
