"""The journal as the daemon holds it: the port of `actors.ports`, reads, retention and backups."""

import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import anyio
from anyio import to_thread

from actors.events import Envelope
from actors.ports import Accepted, Commit, Conflict, Submission
from controller.journal.backup import back_up
from controller.journal.errors import JournalFailing
from controller.journal.jobs import AcceptJob, CallJob, CommitJob, Job, Key
from controller.journal.listing import OneOrMore, RequestPage, RequestsWanted, TaskRow
from controller.journal.prune import Chunk, Limits, Pruned, prune_chunk
from controller.journal.reader import Reader, StoredRequest, StoredState
from controller.journal.schema import open_journal
from controller.journal.writer import Stats, Writer

EPOCH_WITHIN_S = 30.0  # for one row: whoever asked would rather hear that the disk is stuck


class SqliteJournal:
    """Implements `actors.ports.Journal`. All async methods and `reserve` belong to one event loop.

    Attributes:
        path: the SQLite file.
        owner: the id put on everything we rent; made once, with the journal.
        pruned_seq: of the events up to this seq some are forgotten.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time, busy_s: float = 2.0) -> None:
        """Open or create the journal and take the lead (epoch + 1). Hold the state directory first.

        Raises:
            JournalTooNew, JournalDamaged, JournalLocked, JournalUnusable: nothing was changed.
        """
        opened = open_journal(path, busy_s=busy_s)
        self.path = path
        self.owner = opened.owner
        self.pruned_seq = opened.pruned_seq
        self._next_seq = opened.last_seq + 1
        self._writer = Writer(opened, now)
        self._reader = Reader(path)

    @property
    def epoch(self) -> int:
        """Which leadership this is; a newer one anywhere ends it."""
        return self._writer.epoch

    @property
    def last_seq(self) -> int:
        """The newest durable seq."""
        return self._writer.last_seq

    @property
    def failing_since(self) -> float | None:
        """Since when (UTC seconds) nothing could be written; None while all is well."""
        return self._writer.failing_since

    @property
    def failing_reason(self) -> str:
        """Why nothing can be written; empty while all is well."""
        return self._writer.failing_reason

    @property
    def closed_reason(self) -> str | None:
        """Why the journal is closed (leadership lost, say); None while it is open."""
        return self._writer.closed_reason

    def stats(self) -> Stats:
        """Return the writer's figures of now."""
        return self._writer.stats()

    # --- writing ------------------------------------------------------------------------------

    def reserve(self, count: int) -> int:
        """Take `count` consecutive seqs and return the first. See `actors.ports.Journal`."""
        first = self._next_seq
        self._next_seq += count
        return first

    async def commit(self, commit: Commit, *, wait: bool = True) -> None:
        """Return when `commit` is durable. Cancelled while waiting, it is still written in its turn.

        Raises:
            JournalFailing: without `wait`: it can't be written just now, and was not.
            JournalClosed: it never will be.
            CommitRefused: it can't be written by its content; nothing of it was.
        """
        await self._done(CommitJob(commit, time.monotonic(), wait=wait))

    async def accept(self, submissions: Sequence[Submission]) -> Sequence[Accepted | Conflict]:
        """Make Requests durable, each once per request_id; an answer per submission.

        Raises:
            JournalFailing: nothing can be written just now, and none of them was.
            JournalBusy: too many wait already.
            JournalClosed: the journal is shut.
        """
        job = AcceptJob(submissions, self.reserve(len(submissions)), time.monotonic())
        await self._done(job)
        return job.answers

    async def advance_epoch(self, beyond: int, within_s: float = EPOCH_WITHIN_S) -> int:
        """Lead under a newer epoch than any seen: what `everpool adopt` does. Returns the epoch.

        Raises:
            JournalFailing: nothing can be written just now, or it took longer than `within_s`. Asked for
                again, it is newer still.
            JournalClosed: the journal is shut.
        """

        def advance(connection: sqlite3.Connection) -> int:
            epoch = max(self.epoch, beyond) + 1
            connection.execute("UPDATE meta SET value = ? WHERE key = 'epoch'", (epoch,))
            return epoch

        def led(epoch: object) -> None:
            if isinstance(epoch, int):
                self._writer.epoch = epoch

        job = CallJob(advance, time.monotonic(), led)
        job.waits = False
        try:
            with anyio.fail_after(within_s):
                await self._done(job)
        except TimeoutError as error:
            text = f"the journal wrote nothing for {within_s:g} s: look at its disk, and try again"
            raise JournalFailing(text) from error
        return self.epoch

    async def prune(
        self,
        older_than: float,
        *,
        events_max: int,
        requests_max: int = 1_000_000,
        states_max: int = 1_000_000,
        warn: Callable[[int, float], Awaitable[None]] | None = None,
    ) -> Pruned:
        """Forget what was over before `older_than` (UTC seconds), or is more than is kept; see `Limits`.

        Goes in small steps, between which commits are written.

        Args:
            warn: told before anything goes: events up to that seq will, and those before that time. What is
                written while it is awaited makes no more of them go.
        """
        limits = Limits(older_than, events_max, self.last_seq - events_max, requests_max, states_max)
        if warn is not None:
            await warn(limits.upto, older_than)
        events, requests, states = 0, 0, list[Key]()
        next_seq: int | None = 0
        while True:
            job = CallJob(partial(prune_chunk, limits=limits, from_seq=next_seq), time.monotonic())
            await self._done(job)
            chunk = job.result
            if not isinstance(chunk, Chunk):
                raise TypeError(f"the writer answered {chunk!r}")
            events += chunk.pruned.events
            requests += chunk.pruned.requests
            states += chunk.pruned.states
            next_seq = chunk.next_seq
            self.pruned_seq = max(self.pruned_seq, chunk.pruned_seq)
            if not chunk.more:
                return Pruned(events, requests, tuple(states))

    async def _done(self, job: Job) -> None:
        self._writer.put(job)  # before the first await: order is the order of calls
        await job.done.wait()
        if job.error is not None:
            raise job.error

    # --- reading ------------------------------------------------------------------------------

    def load_states(self, *, living_only: bool = False) -> Iterator[StoredState]:
        """Yield the newest state of every actor, pool by pool. For recovery."""
        return self._reader.load_states(living_only=living_only)

    def open_requests(self) -> list[Envelope]:
        """Return accepted requests that no state has taken over yet, oldest first. For recovery."""
        return self._reader.open_requests()

    def last_at(self) -> float:
        """Return when something was written last, UTC seconds; 0 when never. For the clock at a start."""
        return self._reader.last_at()

    def keep_time(self, now: Callable[[], float]) -> None:
        """Note by this clock from now on when something is written."""
        self._writer.now = now

    async def events(
        self,
        after: int,
        limit: int,
        pool: OneOrMore | None = None,
        kinds: Sequence[str] | None = None,
        request_id: OneOrMore | None = None,
        within: Sequence[str] = (),
    ) -> list[tuple[int, bytes]]:
        """Return (seq, envelope as JSON) of the first `limit` events behind `after`; see `Reader.events`."""
        return await self._reader.events(after, limit, pool, kinds, request_id, within)

    async def newest(
        self,
        limit: int,
        pool: OneOrMore | None = None,
        kinds: Sequence[str] | None = None,
        request_id: OneOrMore | None = None,
        within: Sequence[str] = (),
    ) -> int | None:
        """Return the seq of the event that `limit` - 1 fitting ones follow; see `Reader.newest`."""
        return await self._reader.newest(limit, pool, kinds, request_id, within)

    async def requests(self, wanted: RequestsWanted) -> RequestPage:
        """Return requests, newest first; see `Reader.requests`."""
        return await self._reader.requests(wanted)

    async def ended_tasks(
        self, before: int | None, limit: int, pool: str | None = None, within: Sequence[str] = ()
    ) -> list[TaskRow]:
        """Return the states of tasks that are over, newest request first; see `Reader.ended_tasks`."""
        return await self._reader.ended_tasks(before, limit, pool, within)

    async def chosen(
        self, after: int, upto: int, limit: int, kinds: Sequence[str], *, ends: bool
    ) -> list[tuple[int, bytes]]:
        """Return events of some kinds, and with `ends` those that end requests; see `Reader.chosen`."""
        return await self._reader.chosen(after, upto, limit, kinds, ends=ends)

    async def replies(self, after: int) -> list[bytes]:
        """Return envelopes of requests with a reply_to that are open or ended behind `after`, as JSON."""
        return await self._reader.replies(after)

    async def state(self, pool: str, kind: str, name: str) -> StoredState | None:
        """Return the newest state of one actor, over or not; None when it never was, or is pruned."""
        return await self._reader.state(pool, kind, name)

    async def request(self, request_id: str) -> StoredRequest | None:
        """Return what is known of a request; None when it never came, or is pruned."""
        return await self._reader.request(request_id)

    async def backup(self, target: Path) -> int:
        """Copy the journal as it is now to `target`; return the copy's bytes. See `back_up`."""
        return await to_thread.run_sync(back_up, self.path, target)

    # --- closing ------------------------------------------------------------------------------

    def close(self) -> None:
        """Write what waits, unless writing fails, and let go of the file. May be called twice."""
        self._writer.close()
        self._reader.close()

    async def aclose(self) -> None:
        """Close without holding the event loop up."""
        await to_thread.run_sync(self.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()
