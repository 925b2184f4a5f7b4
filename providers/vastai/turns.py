"""Whose turn it is to make a call of a kind that may be made only now and then."""

from collections.abc import Callable

import anyio

from providers.errors import Fault, ProviderError
from providers.pace import RateLimit

FORGOTTEN_S = 60.0  # who does not come again so long after its turn is not reckoned with any more


class Turns:
    """Callers wait for their turn; those that would wait too long are told at once when to come again.

    They are told different times, one turn after the other, so that as many come as can be served: the pace
    is kept up, however many there are.

    Args:
        kind: of the calls, for what is said.
        every_s: between two calls.
        now: seconds, of any origin.
    """

    def __init__(self, kind: str, every_s: float, now: Callable[[], float]) -> None:
        self._kind, self._every_s, self._now = kind, every_s, now
        self._limit = RateLimit(1 / every_s, 1, now)
        self._waiting = 0
        self._told: dict[str, float] = {}  # who was told to come again, in turn: when its turn should be

    async def take(self, who: str, within_s: float) -> None:
        """Wait for the turn of `who`, if it comes within so many seconds.

        Raises:
            ProviderError: throttled, by ourselves; `retry_after_s` is about what the others ahead take, less
                half of `within_s`.
        """
        if self._waiting and (self._waiting + 1) * self._every_s > within_s:
            raise self._later(who, within_s)
        self._told.pop(who, None)
        self._waiting += 1
        try:
            with anyio.move_on_after(within_s):
                await self._limit.take()
                return
        finally:
            self._waiting -= 1
        raise self._later(who, within_s)

    def _later(self, who: str, within_s: float) -> ProviderError:
        now = self._now()
        self._told = {one: at for one, at in self._told.items() if now < at + FORGOTTEN_S}
        before = list(self._told).index(who) if who in self._told else len(self._told)
        wait = (self._waiting + before) * self._every_s
        self._told[who] = now + wait
        text = f"{self._waiting + before} calls ({self._kind}) are ahead, one in {self._every_s:g} s"
        return ProviderError(Fault.THROTTLED, text, max(self._every_s, wait - within_s / 2), paced=True)
