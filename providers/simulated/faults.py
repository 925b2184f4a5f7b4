"""Which call goes wrong, and how: drawn from a seeded source, or queued by a script."""

import math
import random
from collections import Counter, deque
from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar

from providers.errors import Fault, ProviderError
from providers.simulated.config import Delay, Faults

THROTTLED_AFTER_S = 5.0
T = TypeVar("T")


class Trouble(StrEnum):
    """How one call goes wrong."""

    CAPACITY = "capacity"  # refused
    REFUSED_DONE = "refused_done"  # done, the answer is that there is no capacity
    CONFLICT = "conflict"  # refused: it is not ready for that
    THROTTLED = "throttled"  # refused
    UNKNOWN_DONE = "unknown_done"  # done, the answer is lost
    UNKNOWN_NOT_DONE = "unknown_not_done"  # not done, the answer is lost
    IGNORED = "ignored"  # the answer is yes, and nothing is done
    INCOMPLETE = "incomplete"  # a listing that lacks something and says so
    MISSES = "misses"  # a listing that lacks something and says that it is complete
    STALE = "stale"  # the listing before, again

    def error(self, what: str) -> ProviderError:
        """What the caller hears."""
        if self in (Trouble.CAPACITY, Trouble.REFUSED_DONE):
            return ProviderError(Fault.CAPACITY, f"{what}: no capacity (simulated)")
        if self is Trouble.CONFLICT:
            return ProviderError(Fault.CONFLICT, f"{what}: not while it is pending (simulated)")
        if self is Trouble.THROTTLED:
            return ProviderError(Fault.THROTTLED, f"{what}: throttled (simulated)", THROTTLED_AFTER_S)
        return ProviderError(Fault.UNKNOWN, f"{what}: no answer (simulated)")


class Luck:
    """All that is random about one cloud. `calm` ends the faults; what was queued still comes."""

    def __init__(self, seed: int, faults: Faults) -> None:
        self._random = random.Random(seed)
        self._faults = faults
        self.calm = False
        self.happened: Counter[str] = Counter()  # by the name that a fault has in `Faults`
        self.next_launches: deque[Trouble | None] = deque()  # a script: how the next launches go
        self.next_terminates: deque[Trouble | None] = deque()
        self.next_listings: deque[Trouble | None] = deque()
        self.next_others: deque[Trouble | None] = deque()

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

    def pick(self, things: Sequence[T], count: int) -> list[T]:
        """So many of them, each at most once, in the order in which they are drawn."""
        left = list(things)
        return [left.pop(int(self.random() * len(left))) for _ in range(min(count, len(left)))]

    def launch(self) -> Trouble | None:
        """How a launch goes wrong, None: it goes well."""
        if self.next_launches:
            return self.next_launches.popleft()
        faults = self._faults
        return self._trouble(
            (Trouble.CAPACITY, "launch_capacity", faults.launch_capacity),
            (Trouble.REFUSED_DONE, "launch_refused_made", faults.launch_refused_made),
            (Trouble.THROTTLED, "launch_throttled", faults.launch_throttled),
            (Trouble.UNKNOWN_DONE, "launch_unknown_made", faults.launch_unknown_made),
            (Trouble.UNKNOWN_NOT_DONE, "launch_unknown_lost", faults.launch_unknown_lost),
        )

    def launches_done(self, orders: int) -> int | None:
        """How many orders of a batch are carried out before the whole call fails; None: it doesn't."""
        return (
            int(self.random() * orders) if self._hits("launch_partly", self._faults.launch_partly) else None
        )

    def terminate(self, *, pending: bool) -> Trouble | None:
        """How a terminate goes wrong; `pending`: of a machine that is not running yet."""
        if self.next_terminates:
            return self.next_terminates.popleft()
        faults = self._faults
        return self._trouble(
            (
                Trouble.CONFLICT,
                "terminate_refused_pending",
                faults.terminate_refused_pending if pending else 0.0,
            ),
            (Trouble.UNKNOWN_DONE, "terminate_unknown", faults.terminate_unknown),
            (Trouble.IGNORED, "terminate_ignored", faults.terminate_ignored),
            (Trouble.THROTTLED, "call_throttled", faults.call_throttled),
        )

    def listing(self) -> Trouble | None:
        """How a listing goes wrong."""
        if self.next_listings:
            return self.next_listings.popleft()
        faults = self._faults
        return self._trouble(
            (Trouble.INCOMPLETE, "listing_incomplete", faults.listing_incomplete),
            (Trouble.MISSES, "listing_misses", faults.listing_misses),
            (Trouble.STALE, "listing_stale", faults.listing_stale),
            (Trouble.THROTTLED, "call_throttled", faults.call_throttled),
        )

    def other(self) -> Trouble | None:
        """How any other call goes wrong."""
        if self.next_others:
            return self.next_others.popleft()
        return self._trouble((Trouble.THROTTLED, "call_throttled", self._faults.call_throttled))

    def boots_never(self) -> bool:
        """Whether a machine stays pending for ever."""
        return self._hits("boot_never", self._faults.boot_never)

    def is_unreachable(self) -> bool:
        """Whether nobody can ever talk to a machine."""
        return self._hits("boot_unreachable", self._faults.boot_unreachable)

    def push_again_s(self) -> float | None:
        """Seconds until a pushed notice is pushed again; None: it isn't."""
        return round(60 * self.random(), 3) if self._hits("notice_twice", self._faults.notice_twice) else None

    def misdirects(self) -> bool:
        """Whether a pushed notice names another machine."""
        return self._hits("notice_misdirected", self._faults.notice_misdirected)

    def _hits(self, name: str, share: float) -> bool:
        hits = share > 0 and not self.calm and self.random() < share
        if hits:
            self.happened[name] += 1
        return hits

    def _trouble(self, *shares: tuple[Trouble, str, float]) -> Trouble | None:
        if self.calm or not any(share for _, _, share in shares):
            return None
        draw = self.random()
        for trouble, name, share in shares:
            if draw < share:
                self.happened[name] += 1
                return trouble
            draw -= share
        return None
