"""Fair time: it passes only while all works that somebody needs. What the daemon owes is counted in it."""

import heapq
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

TICK_S = 60.0  # how often the referee is told what worked; an age is known no better than that


@dataclass(frozen=True, slots=True)
class Fair:
    """What worked all the time since the last tick.

    Attributes:
        up: a daemon ran and led.
        writable: its journal could be written.
        providers: those without outage, darkness or lock-out.
    """

    up: bool
    writable: bool
    providers: frozenset[str]


class FairTime:
    """Seconds of fair time since the run began, by clock.

    Clocks are "house" (the daemon runs and can write), the name of a provider (and that works too), "whole"
    (all of them do), and whatever else is asked for by `also`. The first tick after trouble is not counted:
    calls that were cut off are made again in it.
    """

    HOUSE, WHOLE = "house", "whole"

    def __init__(self) -> None:
        self.total = 0.0  # fair or not
        self._seconds: dict[str, float] = {}
        self._was_fair: set[str] = set()

    def of(self, clock: str) -> float:
        """Fair seconds so far."""
        return self._seconds.get(clock, 0.0)

    def unfair(self, clock: str) -> float:
        """Seconds so far that were not fair."""
        return self.total - self.of(clock)

    def tick(self, seconds: float, fair: Fair, providers: Iterable[str], also: Iterable[str] = ()) -> None:
        """Count on. `also`: further clocks that run whenever "whole" does."""
        self.total += seconds
        now: set[str] = set()
        if fair.up and fair.writable:
            now.add(self.HOUSE)
            now |= fair.providers
            if fair.providers.issuperset(providers):
                now.add(self.WHOLE)
                now.update(also)
        for clock in now & self._was_fair:
            self._seconds[clock] = self.of(clock) + seconds
        self._was_fair = now


class Ages:
    """Things that may last so long and no longer, in fair time."""

    def __init__(self, fair: FairTime) -> None:
        self._fair = fair
        self._heaps: dict[str, list[tuple[float, int, Hashable]]] = {}
        self._serials: dict[Hashable, int] = {}
        self._count = 0

    def start(self, name: Hashable, clock: str, seconds: float) -> None:
        """From now on; what was started under this name before is forgotten."""
        self._count += 1
        self._serials[name] = self._count
        # What starts in the middle of a tick has that tick's time counted whole.
        until = self._fair.of(clock) + seconds + TICK_S
        heapq.heappush(self._heaps.setdefault(clock, []), (until, self._count, name))

    def stop(self, name: Hashable) -> None:
        """It has ended."""
        self._serials.pop(name, None)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._serials

    def over(self) -> list[Hashable]:
        """What has lasted too long; told once."""
        found: list[Hashable] = []
        for clock, heap in self._heaps.items():
            now = self._fair.of(clock)
            while heap and heap[0][0] < now:
                _, serial, name = heapq.heappop(heap)
                if self._serials.get(name) == serial:
                    del self._serials[name]
                    found.append(name)
        return found
