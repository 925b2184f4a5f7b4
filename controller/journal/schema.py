"""The tables, and how a journal's file is opened: looked at first, changed only when it is sound."""

import os
import secrets
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from controller.journal.errors import (
    JournalDamaged,
    JournalError,
    JournalLocked,
    JournalTooNew,
    JournalUnusable,
)

SCHEMA_VERSION = 1
BACKUPS = "backups"  # folder in the state directory where backups are looked for when advice is given

_MAGIC = b"SQLite format 3\0"
_HEADER_BYTES = 100  # see https://sqlite.org/fileformat.html

TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    """CREATE TABLE states (
        pool TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
        version INTEGER NOT NULL, terminal INTEGER NOT NULL, updated_at REAL NOT NULL, body TEXT NOT NULL,
        PRIMARY KEY (pool, kind, id)
    )""",
    "CREATE INDEX states_terminal ON states (updated_at) WHERE terminal = 1",  # pruning
    """CREATE TABLE events (
        seq INTEGER PRIMARY KEY, at REAL NOT NULL, pool TEXT NOT NULL, kind TEXT NOT NULL,
        request_id TEXT, body TEXT NOT NULL
    )""",
    "CREATE INDEX events_request ON events (request_id) WHERE request_id IS NOT NULL",  # operations
    """CREATE TABLE requests (
        request_id TEXT PRIMARY KEY, seq INTEGER NOT NULL, pool TEXT NOT NULL, kind TEXT NOT NULL,
        body_hash BLOB NOT NULL, status TEXT NOT NULL CHECK (status IN ('new', 'taken', 'ended')),
        ended_by INTEGER, at REAL NOT NULL, ended_at REAL
    )""",
    "CREATE INDEX requests_new ON requests (seq) WHERE status = 'new'",  # recovery
    "CREATE INDEX requests_ended ON requests (ended_at) WHERE status = 'ended'",  # pruning
)
# Of later releases; older ones go on with them all the same, so that the schema's version stays.
ADDED = ("CREATE INDEX IF NOT EXISTS requests_seq ON requests (seq)",)  # lists, newest first


@dataclass(frozen=True, slots=True)
class Opened:
    """A journal that we lead: the connection to write by, and what its meta table says."""

    connection: sqlite3.Connection
    owner: str
    epoch: int
    last_seq: int
    pruned_seq: int = 0


def connect(path: Path, *, read_only: bool, busy_s: float) -> sqlite3.Connection:
    """Open a connection in autocommit mode that may be handed from thread to thread."""
    mode = "ro" if read_only else "rw"
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        timeout=busy_s,
        isolation_level=None,
        check_same_thread=False,
    )


def open_journal(path: Path, *, busy_s: float) -> Opened:
    """Create the journal or open it, and take the lead: epoch + 1.

    Raises:
        JournalTooNew, JournalDamaged, JournalLocked, JournalUnusable: nothing was changed.
    """
    with explained(path):
        if _is_new(path):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
        else:
            look(path, busy_s=busy_s)
        connection = connect(path, read_only=False, busy_s=busy_s)
        try:
            return _take_over(connection)
        except BaseException:
            connection.close()
            raise


def look(path: Path, *, busy_s: float) -> int | None:
    """Check the file without changing it, and return its schema version; None when it has no table yet."""
    with explained(path), closing(connect(path, read_only=True, busy_s=busy_s)) as connection:
        tables = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        }
        version = None
        if tables:
            if "meta" not in tables:
                raise _damaged(path, "it is a database, but not a journal of everpool")
            version = _version(connection, path)
            if version > SCHEMA_VERSION:
                raise JournalTooNew(
                    f"journal {path} has schema version {version}, and this everpool knows up to "
                    f"{SCHEMA_VERSION}. Nothing was changed. Install the newer everpool again, or restore a "
                    "backup made before it"
                )
        (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            raise _damaged(path, " ".join(str(found).split()))
        return version


@contextmanager
def explained(path: Path, *, sound: bool = False) -> Iterator[None]:
    """Turn SQLite's and the system's errors into ours, which say what to do.

    `sound`: the journal was looked at and is used; a query that SQLite does not take is then no damage, but
    a bug, and its error goes on as it is.
    """
    try:
        yield
    except sqlite3.Error as error:
        if sound and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_ERROR:
            raise
        raise _explain(path, error) from error
    except UnicodeDecodeError as error:  # a message of SQLite's that quotes what is damaged
        raise _damaged(path, "names in it are garbled") from error
    except OSError as error:
        raise JournalUnusable(f"journal {path} can't be opened: {error.strerror}") from error


def _is_new(path: Path) -> bool:
    """Whether there is nothing yet; also rules out what SQLite would take for nothing, or for a database."""
    try:
        found = path.stat()
    except FileNotFoundError:
        size = 0
    else:
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            raise JournalUnusable(f"journal {path} can't be opened: it is not a file. Nothing was changed")
        size = found.st_size
    wal = path.with_name(path.name + "-wal")
    has_wal = wal.exists() and wal.stat().st_size > 0
    if size == 0:
        if has_wal:  # SQLite would delete it, and commits with it
            raise _damaged(path, f"it is empty or missing, while {wal.name} has data")
        return True
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    if not header.startswith(_MAGIC):
        raise _damaged(path, "it is not a SQLite database")
    if len(header) < _HEADER_BYTES or (not has_wal and size < _size_by(header)):
        raise _damaged(path, "it ends too early")  # SQLite would take what is missing for zeros
    return False


def _size_by(header: bytes) -> int:
    """The size that the file says it has; with a WAL it may be just about to grow to that."""
    page_bytes = int.from_bytes(header[16:18])
    return (65_536 if page_bytes == 1 else page_bytes) * int.from_bytes(header[28:32])


def _version(connection: sqlite3.Connection, path: Path) -> int:
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if row is None or not isinstance(row[0], int) or row[0] < 1:
        raise _damaged(path, "it doesn't say which schema it has")
    return row[0]


def _take_over(connection: sqlite3.Connection) -> Opened:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA wal_autocheckpoint = 2000")  # pages
    connection.execute("PRAGMA journal_size_limit = 67108864")  # a WAL that had to grow shrinks again
    connection.execute("BEGIN IMMEDIATE")
    if connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'meta'").fetchone() == (0,):
        for statement in TABLES:
            connection.execute(statement)
        first = [("schema", SCHEMA_VERSION), ("owner", secrets.token_hex(6)), ("epoch", 0), ("high_water", 0)]
        connection.executemany("INSERT INTO meta VALUES (?, ?)", first)
    for statement in ADDED:
        connection.execute(statement)
    connection.execute("UPDATE meta SET value = value + 1 WHERE key = 'epoch'")
    meta = dict(connection.execute("SELECT key, value FROM meta"))
    (newest,) = connection.execute("SELECT max(seq) FROM events").fetchone()
    connection.execute("COMMIT")
    last_seq = max(newest or 0, int(meta["high_water"]))
    pruned_seq = int(meta.get("pruned_seq", 0))
    return Opened(connection, str(meta["owner"]), int(meta["epoch"]), last_seq, pruned_seq)


def _explain(path: Path, error: sqlite3.Error) -> JournalError:
    # errors that the sqlite3 module raises itself, such as for text that is not UTF-8, have no code
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    match code & 0xFF:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return JournalLocked(f"journal {path} is locked by another process: end what has it open")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_ERROR | sqlite3.SQLITE_FORMAT:
            return _damaged(path, str(error))
        case sqlite3.SQLITE_IOERR if code == sqlite3.SQLITE_IOERR_SHORT_READ:
            return _damaged(path, "it ends too early")
        case _:
            return JournalUnusable(f"journal {path} can't be opened: {error}. Nothing was changed")


def _damaged(path: Path, what: str) -> JournalDamaged:
    backups = [file for file in (path.parent / BACKUPS).glob("*") if file.is_file()]
    newest = max(backups, key=lambda file: file.stat().st_mtime, default=None)
    source = f"the newest backup, {newest}," if newest else "your newest backup"
    return JournalDamaged(
        f"journal {path} is damaged: {what}. Nothing was changed. To go on: move {path.name}, "
        f"{path.name}-wal and {path.name}-shm aside, copy {source} to {path}, start, look at "
        f"`everpool doctor`, then run `everpool adopt`. Without a backup, `sqlite3 {path.name} .recover` "
        "may save most of it"
    )
