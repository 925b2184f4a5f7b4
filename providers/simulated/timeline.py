"""Things that happen later: one heap and one task for all of them, woken only when something is due."""

import heapq
from collections.abc import Callable

import anyio


class Entry:
    """Something planned; `cancel` makes it not happen."""

    __slots__ = ("happen",)

    def __init__(self, happen: Callable[[], None]) -> None:
        self.happen: Callable[[], None] | None = happen

    def cancel(self) -> None:
        """Forget it."""
        self.happen = None


class Timeline:
    """What is planned, in the order of its time, then in the order in which it was planned."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.now = clock
        self._heap: list[tuple[float, int, Entry]] = []
        self._count = 0
        self.wake = anyio.Event()  # set when whoever runs this would sleep too long

    def after(self, seconds: float, happen: Callable[[], None]) -> Entry:
        """Let `happen` be called in so many seconds."""
        return self.at(self.now() + seconds, happen)

    def at(self, when: float, happen: Callable[[], None]) -> Entry:
        """Let `happen` be called at a time of the clock."""
        entry = Entry(happen)
        self._count += 1
        if not self._heap or when < self._heap[0][0]:
            self.wake.set()
        heapq.heappush(self._heap, (when, self._count, entry))
        return entry

    async def run(self) -> None:
        """Make things happen, for ever. Exactly one task must do this."""
        while True:
            self.wake = anyio.Event()
            with anyio.move_on_after(self.happen_due()):
                await self.wake.wait()

    def happen_due(self) -> float | None:
        """Make everything happen that is due; return the seconds until the next, None without one."""
        while self._heap:
            when, _, entry = self._heap[0]
            if entry.happen is None:
                heapq.heappop(self._heap)
                continue
            wait = when - self.now()
            if wait > 0:
                return wait
            heapq.heappop(self._heap)
            entry.happen()
        return None
