"""The one thread that writes: whatever waits goes into one transaction, in the order in which it came.

When a write fails for a reason that may pass (disk full, I/O error, a foreign lock) the thread keeps what it
has and tries again for ever; those who wait go on waiting, and nobody is told anything that isn't so.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from actors.ports import JournalClosed
from controller.journal.errors import CommitRefused, JournalBusy, JournalFailing
from controller.journal.group import LeadershipLost, probe, write
from controller.journal.jobs import AcceptJob, CallJob, Job, Post
from controller.journal.schema import Opened

WINDOW_S = 0.002  # how long a group waits for callers who came along with the last one
GROUP_ROWS_MAX = 20_000  # a larger transaction makes everybody wait for one
SUBMISSIONS_WAITING_MAX = 100_000
RETRY_FIRST_S = 0.1
RETRY_MOST_S = 5.0

# Errors of one job's content, not of the disk; found by writing the group's jobs one by one.
_REFUSED = (
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
    sqlite3.DataError,
    OverflowError,  # an integer of more than 64 bits
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stats:
    """How the writer does, for metrics."""

    waiting: int  # jobs, those being written included
    oldest_waiting_s: float
    last_commit_s: float
    commits: int  # transactions
    jobs: int  # commits and accepts in them
    rows: int
    retries: int
    failing_since: float | None  # UTC seconds
    failing_reason: str


class Writer:
    """Owns the connection that writes. `put` is called on the event loop, the rest runs in the thread."""

    def __init__(self, opened: Opened, now: Callable[[], float]) -> None:
        self.epoch = opened.epoch
        self.last_seq = opened.last_seq
        self.closed_reason: str | None = None
        self.failing_since: float | None = None
        self.failing_reason = ""
        self._connection = opened.connection
        self.now = now
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # between `put` and the end of the thread
        self._closing = threading.Event()
        self._waiting: dict[Job, None] = {}  # in order; the first is the oldest
        self._submissions_waiting = 0
        self._last_size = 0
        self._last_commit_s = 0.0
        self._commits = self._jobs = self._rows = self._retries = 0
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Queue a job behind those that wait. Raises JournalClosed, JournalFailing."""
        with self._lock:
            if self.closed_reason is not None:
                raise JournalClosed(self.closed_reason)
            if self._closing.is_set():
                raise JournalClosed("the journal is being closed")
            if not job.waits and self.failing_since is not None:
                raise JournalFailing(self.failing_reason)
            if isinstance(job, AcceptJob):
                if self._submissions_waiting + len(job.submissions) > SUBMISSIONS_WAITING_MAX:
                    raise JournalBusy(
                        f"{self._submissions_waiting} requests wait to be written: try again later"
                    )
                self._submissions_waiting += len(job.submissions)
            self._waiting[job] = None
            self._queue.put(job)

    def stats(self) -> Stats:
        """Return figures of now."""
        with self._lock:
            oldest = next(iter(self._waiting), None)
            waiting = len(self._waiting)
        return Stats(
            waiting=waiting,
            oldest_waiting_s=time.monotonic() - oldest.waiting_since if oldest else 0.0,
            last_commit_s=self._last_commit_s,
            commits=self._commits,
            jobs=self._jobs,
            rows=self._rows,
            retries=self._retries,
            failing_since=self.failing_since,
            failing_reason=self.failing_reason,
        )

    def close(self) -> None:
        """Write what waits, unless writing fails, then end the thread and wait for it."""
        with self._lock:
            if not self._closing.is_set():
                self._closing.set()
                self._queue.put(None)
        self._thread.join()

    # --- in the thread ------------------------------------------------------------------------

    def _run(self) -> None:
        reason = "the journal's writer died"
        try:
            reason = self._serve()
        except LeadershipLost as lost:
            reason = str(lost)
        except sqlite3.Error as error:  # a damaged file: what passes is retried below
            reason = f"the journal can't be written any more: {error}"
        finally:
            self._end(reason)

    def _serve(self) -> str:
        while True:
            first = self._queue.get()
            if first is None:
                return "the journal is closed"
            group = self._prepared(self._gather(first))
            if group and not self._written(group):
                return f"the journal was closed while it could not write: {self.failing_reason}"
            del first, group  # or they would be kept until the next job comes

    def _gather(self, first: Job) -> list[Job]:
        """Take what waits; where the last group was larger, wait a little for its callers to come again."""
        group, rows = [first], first.rows
        until: float | None = None
        while rows < GROUP_ROWS_MAX:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                if len(group) == 1 or len(group) >= self._last_size:
                    break
                until = until or time.monotonic() + WINDOW_S
                left = until - time.monotonic()
                try:
                    job = self._queue.get(timeout=max(left, 0))
                except queue.Empty:
                    break
            if job is None:
                self._queue.put(None)  # nothing comes behind it: `put` refuses by now
                break
            group.append(job)
            rows += job.rows
        self._last_size = len(group)
        return group

    def _prepared(self, group: Sequence[Job]) -> list[Job]:
        now, sound = self.now(), []
        for job in group:
            try:
                job.prepare(now)
                sound.append(job)
            except (ValueError, TypeError, RecursionError) as error:
                job.error = _refusal(error)
                self._settle([job])
        return sound

    def _written(self, group: list[Job]) -> bool:
        """Write a group, however long it takes; False when the journal is closed first."""
        wait_s = RETRY_FIRST_S
        while True:
            began = time.perf_counter()
            try:
                self._write(group)
                self._last_commit_s = time.perf_counter() - began
                self._recovered()
                self._settle(group)
                return True
            except sqlite3.OperationalError as error:
                self._roll_back()
                group = self._failed(error, group)
            except _REFUSED as error:
                self._roll_back()
                if len(group) > 1:
                    return all([self._written([job]) for job in group])
                for job in group:
                    job.error = _refusal(error)
                self._settle(group)
                return True
            if self._closing.wait(wait_s):
                return False
            wait_s = min(2 * wait_s, RETRY_MOST_S)

    def _write(self, group: Sequence[Job]) -> None:
        if not group:  # none that waits was there when it failed, and the others were answered
            probe(self._connection)
            return
        self.last_seq = max(self.last_seq, write(self._connection, group, self.epoch))
        self._commits += 1
        self._jobs += len(group)
        for job in group:
            self._rows += job.rows
            if isinstance(job, CallJob) and job.written is not None:
                job.written(job.result)

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):  # it may be over already; the next BEGIN tells
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    def _failed(self, error: sqlite3.OperationalError, group: Sequence[Job]) -> list[Job]:
        """Remember why, and tell those who do not wait: a request that isn't accepted can be sent again."""
        self._retries += 1
        with self._lock:
            self.failing_reason = f"the journal can't be written: {error}"
            if self.failing_since is None:
                self.failing_since = self.now()
                log.error("%s; trying again until it works", self.failing_reason)
        refused = [job for job in group if not job.waits]
        for job in refused:
            job.error = JournalFailing(self.failing_reason)
        self._settle(refused)
        return [job for job in group if job.waits]

    def _recovered(self) -> None:
        if self.failing_since is not None:
            log.warning("the journal can be written again, after %.1f s", self.now() - self.failing_since)
            with self._lock:
                self.failing_since, self.failing_reason = None, ""

    def _settle(self, jobs: Sequence[Job]) -> None:
        """Wake whoever waits, with one call per event loop."""
        if not jobs:
            return
        by_loop: dict[Post, list[Job]] = {}
        with self._lock:
            for job in jobs:
                self._waiting.pop(job, None)
                if isinstance(job, AcceptJob):
                    self._submissions_waiting -= len(job.submissions)
                by_loop.setdefault(job.post, []).append(job)
        for post, theirs in by_loop.items():
            with suppress(RuntimeError):  # that loop is over, and so is the waiting
                post(_wake, theirs)

    def _end(self, reason: str) -> None:
        with self._lock:
            self.closed_reason = reason
            left = list(self._waiting)
        for job in left:
            job.error = JournalClosed(reason)
        self._settle(left)
        with suppress(sqlite3.Error):
            self._connection.close()


def _wake(jobs: Sequence[Job]) -> None:
    for job in jobs:
        job.done.set()


def _refusal(error: Exception) -> CommitRefused:
    refusal = CommitRefused(f"{type(error).__name__}: {error}")
    refusal.__cause__ = error
    return refusal
