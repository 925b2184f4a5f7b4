"""Bugs: how many are forgiven, and what ends when they are not. The one place that catches broadly.

An exception in a rule costs the message that caused it; an exception in a call counts as an unknown outcome.
More bugs than a budget allows condemn the actor, and count against the one above it: task, instance ->
node -> pool. A pool whose budget is spent is parked, loudly; the others live on.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

from actors.address import Address, Kind

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many bugs one actor may cost before it is condemned; after OTP's intensity and period.

    Source: Erlang/OTP, supervisor behaviour, "Maximum Restart Intensity".
    """

    bugs_max: int
    window_s: float


BUDGETS: dict[Kind, Budget] = {
    "task": Budget(bugs_max=1, window_s=60),
    "instance": Budget(bugs_max=3, window_s=60),
    "node": Budget(bugs_max=3, window_s=300),
    "pool": Budget(bugs_max=2, window_s=600),
    "market": Budget(bugs_max=3, window_s=300),
}


@dataclass(frozen=True, slots=True)
class Bug:
    """An exception where none should be."""

    address: Address
    message: str  # the type of the message that was being decided
    error: Exception


class Supervisor:
    """Counts the bugs of one loop's actors."""

    def __init__(self) -> None:
        self._bugs: dict[Address, deque[float]] = {}

    def failed(self, address: Address, now: float) -> bool:
        """Count one bug; True when the actor's budget is spent (and starts anew)."""
        budget = BUDGETS[address[0]]
        times = self._bugs.setdefault(address, deque())
        times.append(now)
        while times and times[0] <= now - budget.window_s:
            times.popleft()
        if len(times) > budget.bugs_max:
            del self._bugs[address]
            return True
        self._prune(now)
        return False

    def _prune(self, now: float) -> None:
        if len(self._bugs) <= 1000:
            return
        longest = max(budget.window_s for budget in BUDGETS.values())
        for address in [a for a, times in self._bugs.items() if times[-1] <= now - longest]:
            del self._bugs[address]


def attempt(address: Address, message: str, rule: Callable[[*Ts], T], *args: *Ts) -> "T | Bug":
    """Run a rule; a bug in it becomes a value."""
    try:
        return rule(*args)
    except Exception as error:  # noqa: BLE001
        return Bug(address, message, error)


async def attempt_call(call: Callable[[], Awaitable[T]], otherwise: Callable[[Exception], T]) -> T:
    """Run a call to the outside; a bug in it becomes an answer, since every call must have one."""
    try:
        return await call()
    except Exception as error:  # noqa: BLE001
        return otherwise(error)
