"""One transaction: everything that was waiting, written together."""

import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain

from pydantic import ValidationError

from actors.events import Envelope
from actors.ports import Accepted, Conflict
from controller.journal.jobs import (
    AcceptJob,
    CallJob,
    CommitJob,
    EventValues,
    Job,
    Key,
    RequestValues,
    StateValues,
    canonical_hash,
    enveloped,
)

Known = dict[str, tuple[int, bytes, int | None]]  # request id -> seq, body hash, ended by

_IDS_MAX = 500  # variables in one SELECT

# `{rows}` stands for as many value lists as go into one step. Each step gives the interpreter's lock away and
# waits to have it back: with many rows in a step a group is written in a quarter less time.
_STEP_ROWS = (128, 16)  # few sizes, so that each statement is compiled once

_PUT_STATE = """INSERT INTO states (pool, kind, id, version, terminal, updated_at, body)
    VALUES {rows} ON CONFLICT (pool, kind, id) DO UPDATE SET
    version = excluded.version, terminal = excluded.terminal, updated_at = excluded.updated_at,
    body = excluded.body"""
_DROP_STATE = "DELETE FROM states WHERE pool = ? AND kind = ? AND id = ?"
_PUT_EVENT = "INSERT INTO events (seq, at, pool, kind, request_id, body) VALUES {rows}"
_PUT_REQUEST = """INSERT INTO requests (request_id, seq, pool, kind, body_hash, status, at)
    VALUES {rows}"""
_PUT_SENT = """INSERT OR IGNORE INTO requests (request_id, seq, pool, kind, body_hash, status, at)
    VALUES {rows}"""
_TAKE = "UPDATE requests SET status = 'taken' WHERE status = 'new' AND request_id IN (VALUES {rows})"
_END = """UPDATE requests SET status = 'ended', ended_by = over.column1, ended_at = over.column2
    FROM (VALUES {rows}) AS over WHERE request_id = over.column3 AND status != 'ended'"""


class LeadershipLost(Exception):
    """The journal's epoch is not ours any more."""


def write(connection: sqlite3.Connection, jobs: Sequence[Job], epoch: int) -> int:
    """Write prepared jobs in one transaction; return the highest seq written, or 0.

    Raises:
        LeadershipLost: nothing was written.
        sqlite3.Error: nothing was written; the transaction may have to be rolled back.
    """
    connection.execute("BEGIN IMMEDIATE")
    (now_leading,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    if now_leading != epoch:
        connection.execute("ROLLBACK")
        raise LeadershipLost(f"another daemon leads: the journal's epoch is {now_leading}, ours is {epoch}")
    commits = [job for job in jobs if isinstance(job, CommitJob)]
    events = [event for job in commits for event in job.events]
    requests: list[RequestValues] = []
    _accept(connection, [job for job in jobs if isinstance(job, AcceptJob)], events, requests)
    events.sort(key=lambda event: event[0])  # in seq order rows are appended, not inserted
    _in_steps(connection, _PUT_EVENT, "(?, ?, ?, ?, ?, ?)", events)
    _in_steps(connection, _PUT_REQUEST, "(?, ?, ?, ?, ?, 'new', ?)", requests)
    sent = [row for job in commits for row in job.requests]
    _in_steps(connection, _PUT_SENT, "(?, ?, ?, ?, ?, 'taken', ?)", sent)
    _change_states(connection, commits)
    _in_steps(connection, _TAKE, "(?)", [row for job in commits for row in job.taken])
    ended: dict[object, tuple[object, ...]] = {}  # the first end counts, also among those of one step
    for commit in commits:
        for row in commit.ended:
            ended.setdefault(row[2], row)
    _in_steps(connection, _END, "(?, ?, ?)", list(ended.values()))
    for job in jobs:
        if isinstance(job, CallJob):
            job.result = job.call(connection)
    connection.execute("COMMIT")
    return events[-1][0] if events else 0


def probe(connection: sqlite3.Connection) -> None:
    """Find out whether a write goes through. Raises sqlite3.Error when it doesn't."""
    connection.execute("UPDATE meta SET value = value WHERE key = 'schema'")


def _in_steps(
    connection: sqlite3.Connection, statement: str, row: str, values: Sequence[tuple[object, ...]]
) -> None:
    """Run a statement for all rows, many of them in one step."""
    done = 0
    for size in _STEP_ROWS:
        if len(values) - done >= size:
            many = statement.format(rows=", ".join([row] * size))
        while len(values) - done >= size:
            some = values[done : done + size]
            connection.execute(many, list(chain.from_iterable(some)))
            done += size
    connection.executemany(statement.format(rows=row), values[done:])


def _change_states(connection: sqlite3.Connection, commits: Iterable[CommitJob]) -> None:
    newest: dict[Key, StateValues | None] = {}
    for job in commits:
        newest.update(job.states)
    put = [values for values in newest.values() if values is not None]
    _in_steps(connection, _PUT_STATE, "(?, ?, ?, ?, ?, ?, ?)", put)
    connection.executemany(_DROP_STATE, [key for key, values in newest.items() if values is None])


def _accept(
    connection: sqlite3.Connection,
    jobs: Sequence[AcceptJob],
    events: list[EventValues],
    requests: list[RequestValues],
) -> None:
    if not jobs:
        return
    known = _known(connection, [envelope.request_id or "" for job in jobs for envelope, _, _ in job.entries])
    for job in jobs:
        job.answers = []  # a group is written again after a failure
        for submission, (envelope, body_hash, event) in zip(job.submissions, job.entries, strict=True):
            request_id = submission.request.request_id
            before = known.get(request_id)
            if before is None:
                known[request_id] = (envelope.seq, body_hash, None)
                events.append(event)
                row = (
                    request_id,
                    envelope.seq,
                    envelope.pool,
                    submission.request.kind,
                    body_hash,
                    submission.at,
                )
                requests.append(row)
                job.answers.append(Accepted(envelope, new=True))
            elif before[1] != body_hash and before[1] != canonical_hash(submission.request):
                job.answers.append(Conflict(request_id))
            else:
                seq, _, ended_by = before
                original = _original(connection, seq) or enveloped(submission, seq)
                job.answers.append(Accepted(original, new=False, ended_by=ended_by))


def _known(connection: sqlite3.Connection, ids: Sequence[str]) -> Known:
    known: Known = {}
    for start in range(0, len(ids), _IDS_MAX):
        some = ids[start : start + _IDS_MAX]
        marks = ",".join("?" * len(some))
        query = f"SELECT request_id, seq, body_hash, ended_by FROM requests WHERE request_id IN ({marks})"
        for request_id, seq, body_hash, ended_by in connection.execute(query, some):
            known[request_id] = (seq, body_hash, ended_by)
    return known


def _original(connection: sqlite3.Connection, seq: int) -> Envelope | None:
    """The envelope as it was accepted; None when it is pruned, comes in this very group, or can't be read."""
    # as bytes: text that is damaged would be an error of SQLite's, and look as if nothing could be written
    row = connection.execute("SELECT CAST(body AS BLOB) FROM events WHERE seq = ?", (seq,)).fetchone()
    if row is None:
        return None
    try:
        return Envelope.model_validate_json(row[0])
    except ValidationError:  # of a release whose events were different; its body is the same all the same
        return None
