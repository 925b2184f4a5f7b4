"""What can't be used as a journal, or not by this release: an error that says so, and nothing is changed."""

import os
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest

from actors.loop import VERSIONS
from actors.node.state import Vacant
from actors.ports import Commit, StateRow
from controller.journal.errors import JournalError, JournalTooNew, JournalUnusable, StateUnreadable
from controller.journal.journal import SqliteJournal
from controller.journal.lock import StateDirectory
from controller.journal.schema import SCHEMA_VERSION, look
from controller.recovery import recover
from tests.controller.journal.contents import contents
from tests.controller.journal.samples import numbered, submission
from tests.controller.journal.test_files import contents as files


def fill(path: Path, commit: Commit | None = None) -> None:
    """A journal with something in it."""

    async def write() -> None:
        async with SqliteJournal(path) as journal:
            await journal.accept([submission("r1")])
            await journal.commit(numbered(journal, 1) if commit is None else commit)

    anyio.run(write)


def change(path: Path, statement: str) -> None:
    """Change the file as another release would have."""
    with closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute(statement)


def refused(path: Path, *, match: str) -> JournalError:
    """The journal is not opened, and all is as it was."""
    before = files(path.parent)
    with pytest.raises(JournalError, match=match) as caught:
        SqliteJournal(path)
    assert files(path.parent) == before
    return caught.value


def test_a_directory_in_the_file_s_place(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine")
    with pytest.raises(JournalUnusable, match="not a file"):
        SqliteJournal(path)
    assert (path / "mine").read_text() == "mine"


@pytest.mark.timeout(20)
def test_a_pipe_in_the_file_s_place(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(JournalUnusable, match="not a file"):
        SqliteJournal(path)


def test_a_directory_in_the_wal_s_place(path: Path) -> None:
    fill(path)
    path.with_name(path.name + "-wal").mkdir()
    with pytest.raises(JournalError, match=str(path)):
        SqliteJournal(path)


def test_a_link_that_leads_nowhere(path: Path) -> None:
    path.symlink_to(path.parent / "none" / "journal.sqlite3")
    with pytest.raises(JournalUnusable, match=str(path)):
        SqliteJournal(path)


def test_a_newer_schema_is_refused_also_while_it_is_in_the_wal(path: Path) -> None:
    fill(path)
    newer = SqliteJournal(path)
    newer._writer._connection.execute(f"UPDATE meta SET value = {SCHEMA_VERSION + 1} WHERE key = 'schema'")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        for suffix in ("", "-wal"):
            Path(f"{copy}{suffix}").write_bytes(Path(f"{path}{suffix}").read_bytes())
        error = refused(copy, match=f"schema version {SCHEMA_VERSION + 1}.*Install the newer everpool again")
        assert isinstance(error, JournalTooNew)
    newer.close()


@pytest.mark.parametrize("version", ["0", "-1", "'new'", "NULL", "1.5"])
def test_a_schema_version_that_is_none(path: Path, version: str) -> None:
    fill(path)
    if version == "NULL":
        change(path, "DELETE FROM meta WHERE key = 'schema'")
    else:
        change(path, f"UPDATE meta SET value = {version} WHERE key = 'schema'")
    refused(path, match="doesn't say which schema it has")


def test_tables_that_are_not_all_there(path: Path) -> None:
    fill(path)
    change(path, "DROP TABLE events")
    refused(path, match="no such table")


def test_a_state_of_a_newer_release_is_refused_and_kept(path: Path) -> None:
    state = Vacant(pool="main", generation=1, node=0)
    fill(path, Commit("main", [StateRow("node", "0", VERSIONS["node"] + 1, state)]))
    before = contents(path)
    journal = SqliteJournal(path)
    with pytest.raises(StateUnreadable, match=r"node state has version \d+.*install the newer everpool"):
        recover(journal.load_states(living_only=True), journal.open_requests())
    journal.close()
    assert contents(path) == before
    assert look(path, busy_s=1) == SCHEMA_VERSION


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A file system that was mounted read-only meanwhile, as after an error of its disk."""
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", folder], check=True)


@pytest.fixture
def mounted() -> Iterator[Path]:
    """A file system of its own."""
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m,mode=700", "tmpfs", folder],
            capture_output=True,
            check=False,
        )
        if made.returncode:
            pytest.skip("may not mount a tmpfs")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a file system")
def test_a_file_system_that_is_read_only(mounted: Path) -> None:
    path = mounted / "journal.sqlite3"
    fill(path)
    with read_only(mounted):
        refused(path, match="can't be opened.*Nothing was changed")
        with pytest.raises(JournalError, match="read-only"), StateDirectory.take(mounted):
            pass
    SqliteJournal(path).close()


@pytest.mark.real
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a file system")
def test_no_journal_on_a_file_system_that_is_read_only(mounted: Path) -> None:
    with read_only(mounted):
        refused(mounted / "journal.sqlite3", match="can't be opened")
        assert not list(mounted.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_is_read_only(path: Path) -> None:
    fill(path)
    path.parent.chmod(0o500)
    try:
        refused(path, match="can't be opened")
    finally:
        path.parent.chmod(0o700)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_that_is_read_only(path: Path) -> None:
    fill(path)
    path.chmod(0o400)
    refused(path, match="can't be opened")
