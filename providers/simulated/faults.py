"""Which call goes wrong, and how: drawn from a seeded source, or queued by a script."""

import math
import random
from collections import deque
from enum import StrEnum

from providers.errors import Fault, ProviderError
from providers.simulated.config import Delay, Faults

THROTTLED_AFTER_S = 5.0


class Trouble(StrEnum):
    """How one call goes wrong."""

    CAPACITY = "capacity"  # refused
    THROTTLED = "throttled"  # refused
    UNKNOWN_DONE = "unknown_done"  # done, the answer is lost
    UNKNOWN_NOT_DONE = "unknown_not_done"  # not done, the answer is lost
    IGNORED = "ignored"  # the answer is yes, and nothing is done
    INCOMPLETE = "incomplete"  # a listing that lacks something and says so

    def error(self, what: str) -> ProviderError:
        """What the caller hears."""
        if self is Trouble.CAPACITY:
            return ProviderError(Fault.CAPACITY, f"{what}: no capacity (simulated)")
        if self is Trouble.THROTTLED:
            return ProviderError(Fault.THROTTLED, f"{what}: throttled (simulated)", THROTTLED_AFTER_S)
        return ProviderError(Fault.UNKNOWN, f"{what}: no answer (simulated)")


class Luck:
    """All that is random about one cloud. `calm` ends the faults; what was queued still comes."""

    def __init__(self, seed: int, faults: Faults) -> None:
        self._random = random.Random(seed)
        self._faults = faults
        self.calm = False
        self.next_launches: deque[Trouble | None] = deque()  # a script: how the next launches go
        self.next_terminates: deque[Trouble | None] = deque()

    def random(self) -> float:
        """A float from [0, 1)."""
        return self._random.random()

    def delay_s(self, delay: Delay) -> float:
        """One sample, in whole milliseconds."""
        more = -math.log(1.0 - self.random()) * delay.more_s if delay.more_s else 0.0
        return round(min(delay.least_s + more, delay.most_s), 3)

    def wait_s(self, per_hour: float) -> float | None:
        """Seconds until something that happens so often happens next; None: never."""
        if per_hour <= 0 or self.calm:
            return None
        return round(-math.log(1.0 - self.random()) * 3600 / per_hour, 3)

    def cut_in_s(self) -> float | None:
        """Seconds until a stream that is opened now breaks."""
        return self.wait_s(self._faults.cuts_per_hour)

    def launch(self) -> Trouble | None:
        """How a launch goes wrong, None: it goes well."""
        if self.next_launches:
            return self.next_launches.popleft()
        faults = self._faults
        return self._pick(
            (Trouble.CAPACITY, faults.launch_capacity),
            (Trouble.THROTTLED, faults.launch_throttled),
            (Trouble.UNKNOWN_DONE, faults.launch_unknown_made),
            (Trouble.UNKNOWN_NOT_DONE, faults.launch_unknown_lost),
        )

    def terminate(self) -> Trouble | None:
        """How a terminate goes wrong."""
        if self.next_terminates:
            return self.next_terminates.popleft()
        faults = self._faults
        return self._pick(
            (Trouble.UNKNOWN_DONE, faults.terminate_unknown),
            (Trouble.IGNORED, faults.terminate_ignored),
            (Trouble.THROTTLED, faults.call_throttled),
        )

    def listing(self) -> Trouble | None:
        """How a listing goes wrong."""
        faults = self._faults
        return self._pick(
            (Trouble.INCOMPLETE, faults.listing_incomplete), (Trouble.THROTTLED, faults.call_throttled)
        )

    def other(self) -> Trouble | None:
        """How any other call goes wrong."""
        return self._pick((Trouble.THROTTLED, self._faults.call_throttled))

    def _pick(self, *shares: tuple[Trouble, float]) -> Trouble | None:
        if self.calm:
            return None
        draw = self.random()
        for trouble, share in shares:
            if draw < share:
                return trouble
            draw -= share
        return None
