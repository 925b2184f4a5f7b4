"""Faults of the journal that the kills must find."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from controller.journal import group, journal, writer
from controller.journal.jobs import CallJob, CommitJob, Job
from controller.journal.schema import Opened, open_journal
from controller.journal.writer import Writer


def _replace(owner: object, **functions: Callable[..., object]) -> None:
    for name, function in functions.items():
        setattr(owner, name, function)


def _acknowledged_early() -> None:
    """Those who wait hear that it is done before it is written."""
    written, settle = Writer._written, Writer._settle

    def early(self: Writer, group: list[Job]) -> bool:
        settle(self, [job for job in group if isinstance(job, CommitJob)])
        return written(self, group)

    def once(self: Writer, jobs: Sequence[Job]) -> None:
        settle(self, [job for job in jobs if not isinstance(job, CommitJob)])

    _replace(Writer, _written=early, _settle=once)


class _Statements:
    """A connection on which every statement is a transaction of its own."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @property
    def total_changes(self) -> int:
        return self._connection.total_changes

    def execute(self, statement: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        if statement in ("BEGIN IMMEDIATE", "COMMIT"):
            statement = "SELECT 1"
        return self._connection.execute(statement, values)

    def executemany(self, statement: str, values: Sequence[Sequence[object]]) -> sqlite3.Cursor:
        return self._connection.executemany(statement, values)


def _in_pieces() -> None:
    """A group is not written as a whole."""
    write = group.write

    def pieces(connection: sqlite3.Connection, jobs: Sequence[Job], epoch: int) -> int:
        return write(_Statements(connection), jobs, epoch)  # type: ignore[arg-type]

    _replace(writer, write=pieces)


def _seqs_again() -> None:
    """After a start the newest seqs are given once more."""

    def forgetful(path: Path, *, busy_s: float) -> Opened:
        found = open_journal(path, busy_s=busy_s)
        return replace(found, last_seq=max(0, found.last_seq - 1))

    _replace(journal, open_journal=forgetful)


def _pruned_too_much() -> None:
    """What lives is pruned like what is over."""
    prepare = CallJob.prepare

    def greedy(self: CallJob, now: float) -> None:
        prepare(self, now)
        call = self.call

        def more(connection: sqlite3.Connection) -> object:
            connection.execute("DELETE FROM states WHERE rowid IN (SELECT min(rowid) FROM states)")
            return call(connection)

        self.call = more

    _replace(CallJob, prepare=greedy)


FAULTS: dict[str, Callable[[], None]] = {
    "acknowledged early": _acknowledged_early,
    "in pieces": _in_pieces,
    "seqs again": _seqs_again,
    "pruned too much": _pruned_too_much,
}


def plant(fault: str) -> None:
    """Break the journal of this process in one way."""
    FAULTS[fault]()
