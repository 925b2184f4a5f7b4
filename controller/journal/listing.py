"""The queries behind lists: which events fit, requests newest first, tasks that are over."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from controller.patterns import is_pattern

OneOrMore = str | Sequence[str]  # names, which may have * and ?
SCANNED_MAX = 20_000  # requests looked at for one page, so that no read takes long

_STATUS = """CASE r.status WHEN 'new' THEN 'pending' WHEN 'taken' THEN 'running' ELSE
    CASE WHEN e.kind IN ('error', 'bootstrap_failed')
        OR (e.kind = 'task_completed' AND json_extract(e.body, '$.event.success') = 0
            AND r.kind != 'task_stop_requested')
    THEN 'failed' ELSE 'success' END END"""


@dataclass(frozen=True, slots=True)
class RequestsWanted:
    """Which requests a list shows; None: all.

    Attributes:
        limit: at most so many.
        before: those with a lower seq than this.
        pool: names, which may have * and ?.
        kinds: kinds of Requests.
        statuses: of pending, running, success, failed.
        since: those that came at this time or later, UTC seconds.
        within: patterns of the pools that whoever asks may see; none: all.
    """

    limit: int
    before: int | None = None
    pool: OneOrMore | None = None
    kinds: Sequence[str] | None = None
    statuses: Sequence[str] | None = None
    since: float | None = None
    within: Sequence[str] = ()


class RequestRow(NamedTuple):
    """A request in a list. `end` is the envelope of its terminal Fact as JSON, when it failed."""

    request_id: str
    seq: int
    pool: str
    kind: str
    status: str
    at: float
    ended_by: int | None
    ended_at: float | None
    end: bytes | None


class RequestPage(NamedTuple):
    """Some requests, newest first. `cursor` goes on behind them; None: there are no more."""

    rows: list[RequestRow]
    cursor: int | None


class TaskRow(NamedTuple):
    """The state of a task that is over, and the seq of its Request."""

    seq: int
    pool: str
    version: int
    body: bytes


def events_fit(
    pool: OneOrMore | None,
    kinds: Sequence[str] | None,
    request_id: OneOrMore | None,
    within: Sequence[str] = (),
) -> tuple[str, list[object]]:
    """The conditions on events, each with AND before it, and their values."""
    parts, values = list[str](), list[object]()
    if within:
        condition, some = theirs("pool", within)
        parts.append(condition)
        values += some
    if pool is not None:
        condition, some = named("pool", pool)
        parts.append(condition)
        values += some
    if kinds is not None:
        parts.append(f"kind IN ({marks(kinds)})")
        values += kinds
    if isinstance(request_id, str):
        parts.append("request_id = ?")
        values.append(request_id)
    elif request_id is not None:
        condition, some = named("request_id", request_id)
        ends = f"SELECT ended_by FROM requests WHERE ended_by IS NOT NULL AND {condition}"
        parts.append(f"({condition} OR seq IN ({ends}))")
        values += [*some, *some]
    return "".join(f" AND {part}" for part in parts), values


def named(column: str, names: OneOrMore) -> tuple[str, list[object]]:
    """The condition that a column is one of these names or fits one of these patterns."""
    several = [names] if isinstance(names, str) else list(names)
    exact = [name for name in several if not is_pattern(name)]
    patterns = [name.replace("[", "[[]") for name in several if is_pattern(name)]
    parts = [f"{column} IN ({marks(exact)})"] if exact or not patterns else []
    parts += [f"{column} GLOB ?"] * len(patterns)
    return f"({' OR '.join(parts)})", [*exact, *patterns]


def theirs(column: str, patterns: Sequence[str]) -> tuple[str, list[object]]:
    """The condition that a column is a pool that a principal may see: patterns as in `Principal.pools`."""
    return f"({' OR '.join([f'{column} GLOB ?'] * len(patterns))})", [
        one.replace("[!", "[^") for one in patterns
    ]


def marks(values: Sequence[object]) -> str:
    """A place for each value."""
    return ",".join("?" * len(values))


def requests_page(connection: sqlite3.Connection, wanted: RequestsWanted) -> RequestPage:
    """Requests, newest first; looks at no more than SCANNED_MAX of them."""
    parts, values = ["TRUE"], list[object]()
    if wanted.within:
        condition, some = theirs("r.pool", wanted.within)
        parts.append(condition)
        values += some
    if wanted.pool is not None:
        condition, some = named("r.pool", wanted.pool)
        parts.append(condition)
        values += some
    if wanted.kinds is not None:
        parts.append(f"r.kind IN ({marks(wanted.kinds)})")
        values += wanted.kinds
    if wanted.statuses is not None:
        parts.append(f"{_STATUS} IN ({marks(wanted.statuses)})")
        values += wanted.statuses
    before = 2**63 - 1 if wanted.before is None else wanted.before
    since = -1.0 if wanted.since is None else wanted.since
    scanned = "SELECT * FROM requests WHERE seq < ? ORDER BY seq DESC LIMIT ?"
    query = f"""SELECT r.request_id, r.seq, r.pool, r.kind, {_STATUS}, r.at, r.ended_by, r.ended_at,
        CASE {_STATUS} WHEN 'failed' THEN CAST(e.body AS BLOB) END
        FROM ({scanned}) AS r LEFT JOIN events AS e ON e.seq = r.ended_by
        WHERE r.at >= ? AND {" AND ".join(parts)} ORDER BY r.seq DESC LIMIT ?"""
    found = connection.execute(query, (before, SCANNED_MAX, since, *values, wanted.limit)).fetchall()
    rows = [RequestRow._make(row) for row in found]
    if len(rows) >= wanted.limit:
        return RequestPage(rows, rows[-1].seq)
    oldest = connection.execute(
        f"SELECT count(*), min(seq), min(at) FROM ({scanned})", (before, SCANNED_MAX)
    ).fetchone()
    more = oldest[0] >= SCANNED_MAX and oldest[2] >= since
    return RequestPage(rows, oldest[1] if more else None)


def ended_tasks(
    connection: sqlite3.Connection,
    before: int | None,
    limit: int,
    pool: str | None,
    within: Sequence[str] = (),
) -> list[TaskRow]:
    """The states of tasks that are over, newest request first."""
    condition, some = theirs("r.pool", within) if within else ("", [])
    query = f"""SELECT r.seq, s.pool, s.version, CAST(s.body AS BLOB) FROM requests AS r
        JOIN states AS s ON s.pool = r.pool AND s.kind = 'task' AND s.id = r.request_id
        WHERE r.seq < ? AND r.kind = 'task_requested' AND s.terminal = 1
        {"" if pool is None else "AND r.pool = ?"} {f"AND {condition}" if within else ""}
        ORDER BY r.seq DESC LIMIT ?"""
    values = (2**63 - 1 if before is None else before, *(() if pool is None else (pool,)), *some, limit)
    return [TaskRow._make(row) for row in connection.execute(query, values)]
