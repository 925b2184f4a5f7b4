"""Reading beside the writer, on connections that can't write; each read sees one moment of the journal."""

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import anyio
from anyio import to_thread
from pydantic import ValidationError

from actors.events import Envelope
from controller.journal.errors import StateUnreadable
from controller.journal.listing import (
    OneOrMore,
    RequestPage,
    RequestsWanted,
    TaskRow,
    ended_tasks,
    events_fit,
    requests_page,
)
from controller.journal.schema import connect, explained

READERS_MAX = 2  # threads reading at once
EVENTS_LIMIT_MAX = 10_000
_FETCH_ROWS = 2000

T = TypeVar("T")


class StoredState(NamedTuple):
    """The newest state of one actor; `body` is JSON."""

    pool: str
    kind: str
    id: str
    version: int
    body: bytes
    terminal: bool


class StoredRequest(NamedTuple):
    """What is known of one request. `ended_by` is the seq of its terminal Fact."""

    request_id: str
    seq: int
    pool: str
    kind: str
    status: Literal["new", "taken", "ended"]
    ended_by: int | None
    at: float
    ended_at: float | None


class Reader:
    """All that is read from the journal's file. The sync methods are for recovery, before loops run."""

    def __init__(self, path: Path, *, busy_s: float = 5.0) -> None:
        self._path = path
        self._busy_s = busy_s
        self._free: list[sqlite3.Connection] = []
        self._limiter = anyio.CapacityLimiter(READERS_MAX)

    def load_states(self, *, living_only: bool = False) -> Iterator[StoredState]:
        """Yield the newest state of every actor, pool by pool."""
        query = f"""SELECT pool, kind, id, version, CAST(body AS BLOB), terminal FROM states
            {"WHERE terminal = 0" if living_only else ""} ORDER BY pool, kind, id"""
        with explained(self._path), closing(self._connect()) as connection:
            cursor = connection.execute(query)
            while rows := cursor.fetchmany(_FETCH_ROWS):
                for pool, kind, name, version, body, terminal in rows:
                    yield StoredState(pool, kind, name, version, body, terminal == 1)

    def open_requests(self) -> list[Envelope]:
        """Return the requests that no state has taken over yet, in the order in which they were accepted.

        Raises:
            StateUnreadable: this program can't read one of them.
        """
        query = """SELECT seq, events.body FROM requests JOIN events USING (seq)
            WHERE requests.status = 'new' ORDER BY requests.seq"""
        with explained(self._path), closing(self._connect()) as connection:
            return [self._envelope(seq, body) for seq, body in connection.execute(query)]

    def _envelope(self, seq: int, body: str) -> Envelope:
        try:
            return Envelope.model_validate_json(body)
        except ValidationError as error:
            raise StateUnreadable(
                f"the request with seq {seq} in journal {self._path} can't be read: a newer everpool took it "
                "in, or it is damaged. Install the newer everpool again, or restore a backup"
            ) from error

    def last_at(self) -> float:
        """Return when something was written last, UTC seconds; 0 when never. For the clock at a start."""
        query = "SELECT body FROM events ORDER BY seq DESC LIMIT 1"
        with explained(self._path), closing(self._connect()) as connection:
            row = connection.execute(query).fetchone()
            (written,) = connection.execute("SELECT max(updated_at) FROM states").fetchone()
        told = 0.0 if row is None else Envelope.model_validate_json(row[0]).at
        return max(told, float(written or 0.0))

    async def events(
        self,
        after: int,
        limit: int,
        pool: OneOrMore | None = None,
        kinds: Sequence[str] | None = None,
        request_id: OneOrMore | None = None,
        within: Sequence[str] = (),
    ) -> list[tuple[int, bytes]]:
        """Return (seq, envelope as JSON) of the first `limit` events behind `after` that fit.

        Pools may be one or several, and have * and ?. Of one request id those events fit that name it; of
        several, which may have * and ?, also the Facts that end them, whichever request these name. All of
        them `within` the pools that fit these patterns, if there are any.
        Filters but request_id read over what doesn't fit: one who follows should move its cursor to the
        journal's last_seq, taken before the call, when fewer than `limit` come back.
        """
        fits, values = events_fit(pool, kinds, request_id, within)
        query = f"SELECT seq, CAST(body AS BLOB) FROM events WHERE seq > ? {fits} ORDER BY seq LIMIT ?"
        bound = (after, *values, min(limit, EVENTS_LIMIT_MAX))
        return await self._read(lambda connection: connection.execute(query, bound).fetchall())

    async def newest(
        self,
        limit: int,
        pool: OneOrMore | None = None,
        kinds: Sequence[str] | None = None,
        request_id: OneOrMore | None = None,
        within: Sequence[str] = (),
    ) -> int | None:
        """Return the seq of the oldest among the newest `limit` events that fit; None: none does."""
        fits, values = events_fit(pool, kinds, request_id, within)
        query = f"""SELECT min(seq) FROM
            (SELECT seq FROM events WHERE TRUE {fits} ORDER BY seq DESC LIMIT ?)"""
        bound = (*values, min(limit, EVENTS_LIMIT_MAX))
        row = await self._read(lambda connection: connection.execute(query, bound).fetchone())
        return None if row is None else row[0]

    async def requests(self, wanted: RequestsWanted) -> RequestPage:
        """Return requests, newest first; a page may be short and yet not the last."""
        return await self._read(lambda connection: requests_page(connection, wanted))

    async def ended_tasks(
        self, before: int | None, limit: int, pool: str | None = None, within: Sequence[str] = ()
    ) -> list[TaskRow]:
        """Return the states of tasks that are over, newest request first, from behind seq `before`.

        Of pools that fit the patterns `within`, if there are any.
        """
        return await self._read(lambda connection: ended_tasks(connection, before, limit, pool, within))

    async def chosen(
        self, after: int, upto: int, limit: int, kinds: Sequence[str], *, ends: bool
    ) -> list[tuple[int, bytes]]:
        """Return (seq, envelope as JSON) of the first `limit` events in (`after`, `upto`] that are of these
        kinds or, with `ends`, end requests."""
        fits = f"kind IN ({','.join('?' * len(kinds))})"
        if ends:  # written so by pydantic; in a text the quotes would be escaped
            fits = f"""({fits} OR instr(body, '"ends":[]') = 0)"""
        query = f"""SELECT seq, CAST(body AS BLOB) FROM events WHERE seq > ? AND seq <= ? AND {fits}
            ORDER BY seq LIMIT ?"""
        values = (after, upto, *kinds, min(limit, EVENTS_LIMIT_MAX))
        return await self._read(lambda connection: connection.execute(query, values).fetchall())

    async def replies(self, after: int) -> list[bytes]:
        """Return envelopes, as JSON, of requests with a reply_to that are open or ended behind `after`."""
        query = """SELECT CAST(events.body AS BLOB) FROM requests JOIN events USING (seq)
            WHERE (requests.status != 'ended' OR requests.ended_by > ?)
            AND instr(events.body, '"reply_to":"') > 0 ORDER BY requests.seq"""
        rows = await self._read(lambda connection: connection.execute(query, (after,)).fetchall())
        return [body for (body,) in rows]

    async def state(self, pool: str, kind: str, name: str) -> StoredState | None:
        """Return the newest state of one actor, over or not; None when it never was, or is pruned."""
        query = """SELECT pool, kind, id, version, CAST(body AS BLOB), terminal FROM states
            WHERE pool = ? AND kind = ? AND id = ?"""
        values = (pool, kind, name)
        row = await self._read(lambda connection: connection.execute(query, values).fetchone())
        return None if row is None else StoredState._make((*row[:5], row[5] == 1))

    async def request(self, request_id: str) -> StoredRequest | None:
        """Return what is known of a request; None when it never came, or is pruned."""
        query = """SELECT request_id, seq, pool, kind, status, ended_by, at, ended_at FROM requests
            WHERE request_id = ?"""
        row = await self._read(lambda connection: connection.execute(query, (request_id,)).fetchone())
        return None if row is None else StoredRequest(*row)

    def close(self) -> None:
        """Close what is free; whoever reads just now closes behind itself."""
        self._closed = True
        while self._free:
            self._free.pop().close()

    _closed = False

    def _connect(self) -> sqlite3.Connection:
        return connect(self._path, read_only=True, busy_s=self._busy_s)

    async def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        def in_thread() -> T:
            with explained(self._path, sound=True):
                connection = self._free.pop() if self._free else self._connect()
                try:
                    return read(connection)
                finally:
                    if self._closed:
                        connection.close()
                    else:
                        self._free.append(connection)

        return await to_thread.run_sync(in_thread, limiter=self._limiter)
