"""What the machines of one pool cost, kept by what changes: part of what is derived from states."""

import math
from collections.abc import Iterator

from actors.instance.state import (
    Bootstrapping,
    Destroyed,
    Destroying,
    Draining,
    InstanceState,
    Provisioning,
    Ready,
    Requested,
)
from actors.policy.billing import UNIT_S, Meter, due, meter

_MS_PER_HOUR = 3_600_000


class Purse:
    """Meters of all machines that cost, or may.

    What they come to is told exactly by a look at each (`living`, `committed`), and at once by `at_most`.

    Attributes:
        rate: micro-dollars an hour that machines cost now.
    """

    def __init__(self) -> None:
        self.rate = 0
        self._living: dict[str, Meter] = {}
        self._ordered: dict[str, Meter] = {}  # a launch of unknown outcome, or in flight
        self._slope = 0  # micro-dollars an hour of all meters that run
        self._fixed = 0  # micro-dollars times milliseconds in an hour: what all would come to at time 0

    def __len__(self) -> int:
        """How many machines cost, or may."""
        return len(self._living) + len(self._ordered)

    @property
    def reading(self) -> tuple[int, int]:
        """Two numbers that stay while no meter changes, however much time passes."""
        return self._slope, self._fixed

    def change(self, name: str, new: InstanceState | None) -> None:
        """Replace a machine's meter by that of its new state."""
        lives, after = (False, None) if new is None else metered(new)
        mine, other = (self._living, self._ordered) if lives else (self._ordered, self._living)
        if after is not None and mine.get(name) == after:
            return
        for meters in (mine, other):
            before = meters.pop(name, None)
            if before is not None:
                self._add(before, -1, living=meters is self._living)
        if after is not None:
            mine[name] = after
            self._add(after, 1, living=lives)

    def _add(self, one: Meter, sign: int, *, living: bool) -> None:
        per_hour, since, spent = one.rate, one.since, one.spent_micro_usd
        if one.stopped_at is not None:
            since, spent = one.stopped_at, due((one,), one.stopped_at)
        start_ms = math.floor(since * 1000) - one.unit_s * 1000
        self._slope += sign * per_hour
        self._fixed += sign * (spent * _MS_PER_HOUR - per_hour * start_ms)
        if living:
            self.rate += sign * per_hour

    def living(self, until: float) -> int:
        """What machines that are there have cost until then. A look at each."""
        return due(self._living.values(), until)

    def committed(self, until: float) -> int:
        """The same with those that are being launched, as if they were there since that was asked."""
        return due(self._living.values(), until) + due(self._ordered.values(), until)

    def at_most(self, until: float) -> int:
        """No less than `committed`, and no more than one billing unit of each machine above it."""
        return (self._slope * math.ceil(until * 1000) + self._fixed) // _MS_PER_HOUR + len(self)

    def meters(self) -> Iterator[tuple[str, Meter]]:
        """The machines that are there, by id."""
        return iter(self._living.items())


def metered(state: InstanceState) -> tuple[bool, Meter | None]:
    """Whether the machine is there, and its meter; None: it costs nothing more."""
    offer = state.offer
    unit_s = UNIT_S[offer.billing_unit]
    match state:
        case Destroyed():
            return False, None
        case Requested():
            return False, Meter(offer.micro_usd_per_hour, unit_s, state.asked_at)
        case Provisioning() | Bootstrapping() | Ready() | Draining() | Destroying():
            if state.bill is not None:
                return True, meter(state.bill)
            if isinstance(state, Destroying) and state.handle is None:  # it may be there, or come
                return False, Meter(offer.micro_usd_per_hour, unit_s, min(state.launched_at, state.since))
            return True, Meter(offer.micro_usd_per_hour, unit_s, state.launched_at)
