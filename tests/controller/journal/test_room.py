"""Times at which nothing can be written, for whatever cause: all wait, nothing is lost, nothing doubled."""

import resource
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.ports import Accepted, Commit, StateRow, Submission
from controller.journal import writer
from controller.journal.errors import JournalFailing
from controller.journal.journal import SqliteJournal
from tests.controller.journal.contents import Model, contents, difference
from tests.controller.journal.samples import Sample, completed, queued, submission, until

LARGE = 40_000  # bytes of a state: more than any room that is left

LOCK = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1], isolation_level=None)
for line in sys.stdin:
    other.execute(line)
    print("done", flush=True)
"""


@contextmanager
def no_pages(journal: SqliteJournal) -> Iterator[None]:
    """The file may not grow by a single page: what SQLite says when the disk is full."""
    with closing(sqlite3.connect(journal.path)) as file:
        (count,) = file.execute("PRAGMA page_count").fetchone()
    connection = journal._writer._connection
    connection.execute(f"PRAGMA max_page_count = {count}")
    try:
        yield
    finally:
        connection.execute("PRAGMA max_page_count = 1000000000")


@contextmanager
def no_larger_file(journal: SqliteJournal) -> Iterator[None]:
    """The system lets no file grow beyond where the WAL ends now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = journal.path.with_name(journal.path.name + "-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def locked(journal: SqliteJournal) -> Iterator[None]:
    """Another process has the file's write lock."""
    command = [sys.executable, "-c", LOCK, str(journal.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None and other.stdout is not None
        for statement in ("BEGIN IMMEDIATE", "ROLLBACK"):
            other.stdin.write(statement + "\n")
            other.stdin.flush()
            assert other.stdout.readline() == "done\n"
            if statement.startswith("BEGIN"):
                yield
        other.stdin.close()


Trouble = Callable[[SqliteJournal], AbstractContextManager[None]]
TROUBLES: dict[str, Trouble] = {"no pages": no_pages, "no larger file": no_larger_file, "locked": locked}

Turn = tuple[str, bool, str]  # pool, whether it needs room, what else it does
turns = st.tuples(st.sampled_from("abc"), st.booleans(), st.sampled_from(["", "takes", "ends"]))
lots = st.lists(turns | st.integers(0, 12), max_size=12)  # a number is a request that is sent


class Room:
    """A journal, what was handed to it, and what it answered."""

    def __init__(self, journal: SqliteJournal) -> None:
        self.journal = journal
        self.number = 0
        self.order: list[Commit | Submission] = []  # as it was handed over
        self.seqs: dict[int, int] = {}  # of accepted requests, by place in the order
        self.acknowledged: set[int] = set()
        self.refused: list[Submission] = []

    def made(self, what: Turn | int) -> Commit | Submission:
        """The next thing to hand over. Seqs are taken, so it must be handed over at once."""
        if isinstance(what, int):
            return submission(f"r{what}")
        pool, large, also = what
        self.number += 1
        state = Sample(number=self.number, text="x" * (LARGE if large else 10))
        some = [self.order[place] for place in sorted(self.acknowledged)]
        sent = [one.request.request_id for one in some if isinstance(one, Submission)]
        events = [queued(self.journal, str(self.number), pool)]
        if also == "ends" and sent:
            events.append(completed(self.journal, sent[self.number % len(sent)], pool))
        taken = sent[-1:] if also == "takes" else []
        name = f"large-{self.number}" if large else f"{self.number % 7}"  # no old room is used again
        return Commit(pool, [StateRow("sample", name, 1, state)], events, taken)

    async def hand_over(self, what: Commit | Submission) -> None:
        """Give it to the journal, and take note of the answer."""
        place = len(self.order)
        self.order.append(what)
        if isinstance(what, Commit):
            await self.journal.commit(what)
        else:
            try:
                [answer] = await self.journal.accept([what])
            except JournalFailing:
                self.refused.append(what)
                return
            assert isinstance(answer, Accepted)
            self.seqs[place] = answer.envelope.seq
        self.acknowledged.add(place)

    async def hand_over_all(self, some: list[Turn | int], trouble: Trouble | None) -> None:
        """Hand all over at once; with trouble, until something could not be written."""
        async with anyio.create_task_group() as tasks:
            if trouble is None:
                self.start(tasks.start_soon, some)
                return
            with trouble(self.journal):
                self.start(tasks.start_soon, some)
                tasks.start_soon(self.hand_over, self.made(("a", True, "")))  # one at least needs room
                await anyio.lowlevel.checkpoint()
                await until(lambda: self.journal.failing_since is not None)
                await self.is_as_it_was()

    def start(self, soon: Callable[..., object], some: list[Turn | int]) -> None:
        """Begin to hand over, in this order."""
        for what in some:
            soon(self.hand_over, self.made(what))

    async def is_as_it_was(self) -> None:
        """While nothing can be written, the file has what was acknowledged, and no half of anything."""
        seen = contents(self.journal.path)
        acknowledged = set(self.acknowledged)
        for length in range(len(self.order) + 1):
            if difference(seen, self.model(length)) is None and max(acknowledged, default=-1) < length:
                return
        raise AssertionError("the file is of no moment")

    def model(self, length: int) -> Model:
        """What so many of the first things that were handed over come to."""
        model = Model()
        for place, what in enumerate(self.order[:length]):
            if isinstance(what, Commit):
                model.commit(what)
            elif place in self.seqs:
                model.accept(what, self.seqs[place])
        return model


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer tries again sooner than a daemon's."""
    monkeypatch.setattr(writer, "RETRY_FIRST_S", 0.002)
    monkeypatch.setattr(writer, "RETRY_MOST_S", 0.01)


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest.mark.usefixtures("impatient")
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(st.tuples(lots, lots), min_size=1, max_size=3))
def test_what_could_not_be_written_waits(
    trouble: str, rounds: list[tuple[list[Turn | int], list[Turn | int]]]
) -> None:
    anyio.run(through, trouble, rounds)


async def through(trouble: str, rounds: list[tuple[list[Turn | int], list[Turn | int]]]) -> None:
    """Good times and bad times take turns; at the end all is there that should be."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite3"
        async with SqliteJournal(path, busy_s=0.01) as journal:
            room = Room(journal)
            for good, bad in rounds:
                await room.hand_over_all(good, None)
                await room.hand_over_all(bad, TROUBLES[trouble])
                assert journal.failing_since is None
            commits = {i for i, what in enumerate(room.order) if isinstance(what, Commit)}
            assert commits <= room.acknowledged
            for refused in list(room.refused):  # and those who were refused try again
                await room.hand_over(refused)
            assert len(room.acknowledged) == len(room.order) - len(room.refused)
            assert difference(contents(path), room.model(len(room.order))) is None
        again = SqliteJournal(path)
        assert difference(contents(path), room.model(len(room.order))) is None
        assert again.reserve(0) > max(room.model(len(room.order)).events)
        again.close()
