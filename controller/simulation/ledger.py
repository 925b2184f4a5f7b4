"""The journal in memory: synchronous, and it fails or lets the daemon crash on command."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import anyio

from actors.events import Envelope
from actors.ports import (
    Accepted,
    Commit,
    Conflict,
    JournalClosed,
    StateRow,
    Submission,
)
from controller.journal.reader import StoredState

REMEMBERED, REMEMBERED_MAX = ("instance", "quarantine"), 10_000  # terminal states that are kept

Fate = Literal["go on", "crash before", "crash after"]


class Witness(Protocol):
    """Who sees all that becomes durable."""

    def journaled(self, envelope: Envelope) -> None:
        """An event became durable."""

    def stored(self, commit: Commit) -> None:
        """States became durable."""


@dataclass(slots=True)
class _Asked:
    envelope: Envelope
    body: str
    taken: bool = False
    ended_by: int | None = None


class Ledger:
    """What is durable: it outlives every incarnation of the daemon."""

    def __init__(self, witness: Witness) -> None:
        self.epoch = 0
        self.writer = 0  # epoch of the incarnation that wrote last
        self.next_seq = 1
        self.events = 0
        self.last_at = 0.0  # when something was written last, by the clock of who wrote it
        self.commits = 0
        self.refused = 0  # commits that found the disk full
        self.failing = False
        self.healed = anyio.Event()
        self._hash = hashlib.sha256()
        self._rows: dict[tuple[str, str, str], StateRow] = {}
        self._over: dict[tuple[str, str, str], StateRow] = {}
        self._requests: dict[str, _Asked] = {}
        self._witness = witness

    @property
    def rows(self) -> Mapping[tuple[str, str, str], StateRow]:
        """Newest states of what is not over, by (pool, kind, id)."""
        return self._rows

    @property
    def hash(self) -> str:
        """sha256 over every committed envelope, in the order of commits."""
        return self._hash.hexdigest()

    def fail(self) -> None:
        """The disk is full from now on."""
        if not self.failing:
            self.failing = True
            self.healed = anyio.Event()

    def heal(self) -> None:
        """It has room again."""
        self.failing = False
        self.healed.set()

    def write(self, commit: Commit) -> None:
        """Make a commit durable."""
        self.commits += 1
        for row in commit.states:
            key = (commit.pool, row.kind, row.id)
            if row.state is None or row.terminal:
                self._rows.pop(key, None)
                if row.kind in REMEMBERED:
                    self._remember(key, row)
            else:
                self._rows[key] = row
        for request_id in commit.taken:
            self._requests[request_id].taken = True
        for envelope in commit.envelopes:
            self._append(envelope)
            for request_id in envelope.ends:
                if request_id in self._requests:
                    self._requests[request_id].ended_by = envelope.seq
        self._witness.stored(commit)

    def _remember(self, key: tuple[str, str, str], row: StateRow) -> None:
        self._over.pop(key, None)
        if row.state is not None:
            self._over[key] = row
            if len(self._over) > REMEMBERED_MAX:
                del self._over[next(iter(self._over))]

    def row(self, pool: str, kind: str, name: str) -> StateRow | None:
        """The newest state of one actor, over or not; only some kinds are remembered once they are over."""
        return self._rows.get((pool, kind, name)) or self._over.get((pool, kind, name))

    def accept(self, submission: Submission) -> Accepted | Conflict:
        """Make a Request durable, once."""
        request = submission.request
        body = request.model_dump_json()
        known = self._requests.get(request.request_id)
        if known is not None:
            if known.body != body:
                return Conflict(request.request_id)
            return Accepted(known.envelope, new=False, ended_by=known.ended_by)
        envelope = Envelope(
            seq=self.next_seq,
            at=submission.at,
            pool=submission.pool,
            request_id=request.request_id,
            principal=submission.principal,
            event=request,
        )
        self.next_seq += 1
        self._requests[request.request_id] = _Asked(envelope, body)
        self._append(envelope)
        return Accepted(envelope, new=True)

    def _append(self, envelope: Envelope) -> None:
        self.events += 1
        self.last_at = max(self.last_at, envelope.at)
        text = json.dumps(envelope.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        self._hash.update(text.encode() + b"\n")
        self._witness.journaled(envelope)

    # --- what a new incarnation reads -------------------------------------------------------------

    def living(self) -> list[StoredState]:
        """Newest states of what is not over, as they would be read from a file."""
        return [
            StoredState(pool, kind, name, row.version, row.state.model_dump_json().encode(), row.terminal)
            for (pool, kind, name), row in sorted(self._rows.items(), key=lambda item: item[0])
            if row.state is not None
        ]

    def open_requests(self) -> list[Envelope]:
        """Requests that no state has taken over yet."""
        return [one.envelope for one in self._requests.values() if not one.taken and one.ended_by is None]


class MemoryJournal:
    """One incarnation's way to the ledger.

    Args:
        ledger: what is durable.
        fate: asked about every commit what becomes of the daemon there; before it waits for room on the disk.
        crash: ends the incarnation, ports first.
    """

    def __init__(self, ledger: Ledger, fate: Callable[[Commit], Fate], crash: Callable[[], None]) -> None:
        ledger.epoch += 1
        self.epoch = ledger.epoch
        self._ledger = ledger
        self._fate = fate
        self._crash = crash
        self.now: Callable[[], float] = lambda: 0.0  # the clock of the life that this journal is of
        self._is_cut = False
        self._order = anyio.Lock(fast_acquire=True)

    def cut(self) -> None:
        """Let nothing through any more."""
        self._is_cut = True

    def reserve(self, count: int) -> int:
        """Take seqs."""
        first = self._ledger.next_seq
        self._ledger.next_seq += count
        return first

    async def commit(self, commit: Commit) -> None:
        """Make a commit durable; waits while the disk is full."""
        fate = self._fate(commit)
        if fate == "crash before":
            self._crash()
        else:
            async with self._order:  # what was handed over first becomes durable first
                await self._writable()
                self._ledger.writer = self.epoch
                self._ledger.last_at = max(self._ledger.last_at, self.now())
                self._ledger.write(commit)
            if fate == "crash after":
                self._crash()
        await anyio.lowlevel.checkpoint()  # where a crash takes hold
        if self._is_cut:
            raise JournalClosed("this incarnation is over")

    async def accept(self, submissions: Sequence[Submission]) -> Sequence[Accepted | Conflict]:
        """Make Requests durable."""
        async with self._order:
            await self._writable()
            self._ledger.writer = self.epoch
            answers = [self._ledger.accept(submission) for submission in submissions]
        await anyio.lowlevel.checkpoint()
        return answers

    async def state(self, pool: str, kind: str, name: str) -> StoredState | None:
        """The newest state of one actor, over or not; None when it never was, or is forgotten."""
        await anyio.lowlevel.checkpoint()
        row = self._ledger.row(pool, kind, name)
        if row is None or row.state is None:
            return None
        body = row.state.model_dump_json().encode()
        return StoredState(pool, kind, name, row.version, body, row.terminal)

    async def _writable(self) -> None:
        if self._ledger.failing:
            self._ledger.refused += 1
        while self._ledger.failing and not self._is_cut:
            await self._ledger.healed.wait()
        if self._is_cut or self._ledger.epoch != self.epoch:
            raise JournalClosed("this incarnation is over")
