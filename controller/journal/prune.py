"""Forgetting what is over: old events, ended requests and terminal states. What lives never goes."""

import sqlite3
from dataclasses import dataclass

from controller.journal.jobs import Key

CHUNK_ROWS = 1000  # of each table, in one transaction: commits get their turn in between


@dataclass(frozen=True, slots=True)
class Limits:
    """What is kept.

    Attributes:
        older_than: what was over before this time (UTC seconds) goes.
        events_max: of events, those within the newest so many seqs stay; besides, those by which living
            requests came, and those that ended requests which are kept.
        upto: those behind this seq stay, however many there are.
        requests_max: so many ended requests stay at most.
        states_max: so many terminal states stay at most.
    """

    older_than: float
    events_max: int
    upto: int
    requests_max: int
    states_max: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """What went. `states` names the actors whose states did, so that memory can forget them too."""

    events: int
    requests: int
    states: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What went in one transaction, and where to go on: None when there is nothing left to look at."""

    pruned: Pruned
    next_seq: int | None
    more: bool
    pruned_seq: int = 0  # the newest seq among the events that went; 0: none did


def prune_chunk(connection: sqlite3.Connection, limits: Limits, from_seq: int | None) -> Chunk:
    """Delete up to CHUNK_ROWS rows of each table within the running transaction.

    Args:
        connection: the writer's.
        limits: what is kept.
        from_seq: look at events from here on; None when all were looked at.
    """
    requests = _requests(connection, limits)  # first: the events that ended them may go as well
    events, next_seq, pruned_seq = (0, None, 0) if from_seq is None else _events(connection, limits, from_seq)
    states = _states(connection, limits)
    more = next_seq is not None or max(requests, len(states)) == CHUNK_ROWS
    return Chunk(Pruned(events, requests, states), next_seq, more, pruned_seq)


def _events(connection: sqlite3.Connection, limits: Limits, from_seq: int) -> tuple[int, int | None, int]:
    """How many went, where to go on, and the newest seq of those that are over."""
    (newest,) = connection.execute("SELECT max(seq) FROM events").fetchone()
    if newest is None:
        return 0, None, 0
    # the seqs of what is deleted must never be given again
    connection.execute("UPDATE meta SET value = max(value, ?) WHERE key = 'high_water'", (newest,))
    query = "SELECT seq, at FROM events WHERE seq >= ? ORDER BY seq LIMIT ?"
    seen = connection.execute(query, (from_seq, CHUNK_ROWS)).fetchall()
    most = min(newest - limits.events_max, limits.upto)
    over = [(seq,) for seq, at in seen if seq <= most or at < limits.older_than]
    # the event by which a living request came stays: after a restart it may have to be handed out again;
    # so does that which ended one that is known still: it says whether what was asked for came to be
    before = connection.total_changes
    connection.executemany(
        """DELETE FROM events WHERE seq = ? AND NOT EXISTS (SELECT 1 FROM requests
        WHERE requests.request_id = events.request_id AND requests.seq = events.seq
        AND requests.status != 'ended')
        AND (instr(body, '"ends":[]') > 0 OR NOT EXISTS (SELECT 1 FROM json_each(body, '$.ends') AS ended
        JOIN requests ON requests.request_id = ended.value AND requests.ended_by = events.seq))""",
        over,
    )
    # seqs follow time, so a chunk that ends in something young enough is the last
    go_on = len(seen) == CHUNK_ROWS and over and over[-1][0] == seen[-1][0]
    deleted = connection.total_changes - before
    pruned_seq = over[-1][0] if deleted else 0
    if deleted:  # who follows from before it has to hear that something is missing, also after a restart
        connection.execute(
            """INSERT INTO meta VALUES ('pruned_seq', ?)
            ON CONFLICT (key) DO UPDATE SET value = max(value, excluded.value)""",
            (pruned_seq,),
        )
    return deleted, seen[-1][0] + 1 if go_on else None, pruned_seq


def _requests(connection: sqlite3.Connection, limits: Limits) -> int:
    (kept,) = connection.execute("SELECT count(*) FROM requests WHERE status = 'ended'").fetchone()
    ids = connection.execute(
        """SELECT request_id, ended_at FROM requests WHERE status = 'ended'
        ORDER BY ended_at, rowid LIMIT ?""",
        (CHUNK_ROWS,),
    ).fetchall()
    too_many = max(0, kept - limits.requests_max)
    over = [(request_id,) for n, (request_id, at) in enumerate(ids) if n < too_many or at < limits.older_than]
    connection.executemany("DELETE FROM requests WHERE request_id = ?", over)
    return len(over)


def _states(connection: sqlite3.Connection, limits: Limits) -> tuple[Key, ...]:
    (kept,) = connection.execute("SELECT count(*) FROM states WHERE terminal = 1").fetchone()
    rows = connection.execute(
        """SELECT pool, kind, id, updated_at FROM states WHERE terminal = 1
        ORDER BY updated_at, rowid LIMIT ?""",
        (CHUNK_ROWS,),
    ).fetchall()
    too_many = max(0, kept - limits.states_max)
    over = [
        (pool, kind, name)
        for n, (pool, kind, name, at) in enumerate(rows)
        if n < too_many or at < limits.older_than
    ]
    connection.executemany("DELETE FROM states WHERE pool = ? AND kind = ? AND id = ?", over)
    return tuple(over)
