"""Whether the daemon makes progress, measured; what systemd's watchdog is fed by.

A sign of life needs three things: the event loop gets around to it, each pool's loop takes a turn when
letters wait, and the journal's writer writes what waits. A journal that fails and says so (a full disk) is
not stuck: a restart would not help, and /readyz and the metrics tell.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

import anyio
import structlog

from actors.ports import Commit
from controller import sdnotify
from controller.journal.writer import Stats

EVERY_S = 0.5
STATUS_EVERY_S = 2.0
LAG_WINDOW_S = 60.0
STUCK_AFTER_S = (
    30.0  # without a watchdog; with one half of its time, so that it ends what hangs in less than two
)

log = structlog.get_logger()


class Journal(Protocol):
    """What is asked of the journal."""

    @property
    def closed_reason(self) -> str | None:
        """Why it is closed."""
        ...

    def stats(self) -> Stats:
        """Its figures of now."""
        ...


class Vitals:
    """Implements `actors.ports.Observer`, to see turns end.

    Attributes:
        lag_s: how much later than wanted the event loop came around to the last measurement, seconds.
        measured: how often it was measured.
    """

    def __init__(
        self,
        journal: Journal,
        mailboxes: Callable[[], Iterable[tuple[str, int]]],
        summary: Callable[[], str] = lambda: "",
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`mailboxes` answers the name and the waiting letters of each loop that should run."""
        self.lag_s = 0.0
        self.measured = 0
        self._journal = journal
        self._mailboxes = mailboxes
        self._summary = summary
        self._now = now
        self._lags: deque[tuple[float, float]] = deque(maxlen=int(LAG_WINDOW_S / EVERY_S))
        self._turns: dict[str, int] = {}
        self._idle: dict[str, tuple[int, float]] = {}  # turns at the last look, and since when
        self._stuck: tuple[str, ...] = ()

    @property
    def lag_max_s(self) -> float:
        """The largest lag within the last minute, seconds."""
        oldest = self._now() - LAG_WINDOW_S
        return max((lag for at, lag in self._lags if at > oldest), default=0.0)

    def note_lag(self, lag_s: float) -> None:
        """Take a measurement of the event loop's lag."""
        self.lag_s = lag_s
        self.measured += 1
        self._lags.append((self._now(), lag_s))

    def committed(self, commit: Commit) -> None:
        """Nothing: the turn's end says enough."""

    def turn_ended(self, pool: str, *, messages: int, seconds: float, waiting: int) -> None:
        """A pool makes progress."""
        self._turns[pool] = self._turns.get(pool, 0) + 1

    def bug(self, address: str, message: str, error: BaseException) -> None:
        """Nothing: a bug that is caught stops nothing."""

    def stuck(self, within_s: float) -> tuple[str, ...]:
        """What had work and none of it done for longer than `within_s`, a line each. Ask often."""
        now, stats = self._now(), self._journal.stats()
        failing = stats.failing_since is not None
        found = []
        if self._journal.closed_reason is not None:
            found.append(f"the journal is closed: {self._journal.closed_reason}")
        elif stats.oldest_waiting_s > within_s and not failing:
            found.append(f"a commit waits for {stats.oldest_waiting_s:.0f} s")
        idle: dict[str, tuple[int, float]] = {}
        for name, waiting in self._mailboxes():
            turns = self._turns.get(name, 0)
            known, since = self._idle.get(name, (turns, now))
            if waiting and known == turns and not failing:
                idle[name] = (turns, since)
                if now - since > within_s:
                    found.append(f"pool {name}: no turn for {now - since:.0f} s, and {waiting} letters wait")
            else:
                idle[name] = (turns, now)
        self._idle = idle
        self._turns = {name: count for name, count in self._turns.items() if name in idle}
        return tuple(found)

    async def run(self) -> None:
        """Measure for ever; feed the watchdog while all is well, and keep the service's status line."""
        within_s = sdnotify.watchdog_s()
        told, status, fed = 0.0, "", 0.0
        while True:
            began = self._now()
            await anyio.sleep(EVERY_S)
            now = self._now()
            self.note_lag(max(0.0, now - began - EVERY_S))
            self._tell_stuck(self.stuck(STUCK_AFTER_S if within_s is None else within_s / 2), within_s)
            if within_s is not None and not self._stuck and now - fed >= within_s / 6:
                sdnotify.notify("WATCHDOG=1")
                fed = now
            if now - told >= STATUS_EVERY_S:
                told, new = now, "; ".join(filter(None, (self._summary(), *self._stuck)))
                if new != status:
                    sdnotify.notify(f"STATUS={new}")
                    status = new

    def _tell_stuck(self, found: tuple[str, ...], within_s: float | None) -> None:
        if found and not self._stuck:
            what = "systemd will start it anew" if within_s is not None else "no watchdog is set: restart it"
            log.error("the daemon is stuck", why=list(found), then=what)
        elif self._stuck and not found:
            log.warning("the daemon goes on")
        self._stuck = found
