"""Rate limits of ours, so that a vendor's are never met."""

from collections.abc import Callable

import anyio


class RateLimit:
    """A token bucket; those that wait are served by urgency, then in the order they came."""

    def __init__(self, per_s: float, burst: int, now: Callable[[], float]) -> None:
        self._per_s, self._burst, self._now = per_s, float(burst), now
        self._tokens, self._at = float(burst), now()
        self._waiting: dict[bool, list[anyio.Event]] = {True: [], False: []}

    async def take(self, *, urgent: bool = False) -> None:
        """Wait until one more call may be made."""
        if not self._waiting[True] and not self._waiting[False] and self._take():
            return
        turn = anyio.Event()
        queue = self._waiting[urgent]
        queue.append(turn)
        try:
            while not (self._first() is turn and self._take()):
                missing = max(0.0, 1.0 - self._tokens) / self._per_s
                with anyio.move_on_after(max(missing, 0.001) if self._first() is turn else 60.0):
                    await turn.wait()
                    turn = self._renew(queue, turn)
        finally:
            queue.remove(turn)
            if (first := self._first()) is not None:
                first.set()

    def _renew(self, queue: list[anyio.Event], turn: anyio.Event) -> anyio.Event:
        again = anyio.Event()
        queue[queue.index(turn)] = again
        return again

    def _first(self) -> anyio.Event | None:
        for urgent in (True, False):
            if self._waiting[urgent]:
                return self._waiting[urgent][0]
        return None

    def _take(self) -> bool:
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
