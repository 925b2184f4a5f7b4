"""The daemon's time: UTC seconds that never go back, whatever happens to the system's clock.

While the process lives the clock runs by CLOCK_BOOTTIME. Over a restart the system's clock may have been
set: then states hold times of another reckoning. Within one boot of the machine CLOCK_BOOTTIME tells how
long it really was; over a reboot nobody knows. `Start.jumped_s` says by how much those recovered times have
to move on which it depends that nothing runs twice (see `recovery.recover`).
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
ANCHOR_FILE = "clock"
WRONG_S = 60.0  # a system clock that differs by more is worth a word


class SteadyClock:
    """UTC seconds, from an instant on.

    Args:
        start: UTC seconds now.
        steady: seconds of a clock that is never set.
    """

    def __init__(self, start: float, steady: Callable[[], float]) -> None:
        self._offset = start - steady()
        self._steady = steady

    def now(self) -> float:
        """UTC seconds since the epoch."""
        return self._steady() + self._offset


@dataclass(frozen=True, slots=True)
class Start:
    """When a daemon starts.

    Attributes:
        at: UTC seconds: the system's clock, unless that went back.
        jumped_s: seconds that states hold too little: what the clock moved without time having passed, and
            over a reboot all that can have been such.
    """

    at: float
    jumped_s: float


TRUSTED = Start(0.0, 0.0)


def start(wall: float, last_at: float, expected: float | None) -> Start:
    """Where the clock begins.

    Args:
        wall: the system's clock.
        last_at: when the journal was written last, 0 for an empty one.
        expected: what the last daemon's clock would show now; None: nobody knows.
    """
    at = max(wall, last_at, 0.0 if expected is None else expected)
    if last_at <= 0.0:
        return Start(at, 0.0)
    return Start(at, max(0.0, at - (last_at if expected is None else expected)))


def boottime() -> float:
    """Seconds since the machine booted, those in which it slept included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def expected(directory: Path) -> float | None:
    """What the clock of the last daemon would show now; None: nobody knows (it was booted since)."""
    try:
        anchor = json.loads((directory / ANCHOR_FILE).read_text())
        boot, offset = str(anchor["boot"]), float(anchor["offset"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return boottime() + offset if boot == _boot_id() != "" else None


def keep(directory: Path, now: float) -> None:
    """Write down what `expected` needs. Raises OSError."""
    anchor = {"boot": _boot_id(), "offset": now - boottime()}
    path = directory / ANCHOR_FILE
    new = path.with_suffix(".new")
    new.write_text(json.dumps(anchor))
    os.replace(new, path)


def _boot_id() -> str:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return ""
