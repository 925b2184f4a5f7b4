"""Files that are locked, foreign, newer, torn: a clear error, and not a byte changed."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from controller.journal.errors import (
    JournalDamaged,
    JournalError,
    JournalLocked,
    JournalTooNew,
    JournalUnusable,
    StateDirectoryHeld,
    StateDirectoryUnusable,
)
from controller.journal.journal import SqliteJournal
from controller.journal.lock import StateDirectory
from tests.controller.journal.samples import numbered

HOLD = """
import sys, time
from pathlib import Path
from controller.journal.lock import StateDirectory
with StateDirectory.take(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def contents(folder: Path) -> dict[str, bytes]:
    """Everything that counts; SQLite may make or drop -shm, which holds nothing of its own."""
    found = {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}
    return {name: data for name, data in found.items() if data}


def fill(path: Path, count: int) -> None:
    """Make a journal with `count` states, one commit each."""

    async def commit() -> None:
        async with SqliteJournal(path) as journal:
            for number in range(count):
                await journal.commit(numbered(journal, number, text="x" * 200))

    anyio.run(commit)


def test_a_new_journal_is_for_its_owner_only(path: Path) -> None:
    SqliteJournal(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_empty_file_becomes_a_journal(path: Path) -> None:
    path.touch()
    journal = SqliteJournal(path)
    assert journal.epoch == 1
    journal.close()


def test_a_newer_journal_is_left_alone(path: Path) -> None:
    fill(path, 3)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE key = 'schema'")
    connection.close()
    before = contents(path.parent)
    with pytest.raises(JournalTooNew, match="schema version 99.*up to 1"):
        SqliteJournal(path)
    assert contents(path.parent) == before


def test_what_is_no_journal_is_left_alone(path: Path) -> None:
    path.write_bytes(b"my diary, volume 1\n" * 500)
    before = contents(path.parent)
    with pytest.raises(JournalDamaged, match="not a SQLite database"):
        SqliteJournal(path)
    assert contents(path.parent) == before


def test_another_program_s_database_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE accounts (name)")
    connection.close()
    before = contents(path.parent)
    with pytest.raises(JournalDamaged, match="not a journal of everpool"):
        SqliteJournal(path)
    assert contents(path.parent) == before


def test_a_wal_without_its_file_is_left_alone_and_a_backup_named(path: Path) -> None:
    path.with_name(path.name + "-wal").write_bytes(b"commits")
    backup = path.parent / "backups" / "monday.sqlite3"
    backup.parent.mkdir()
    backup.touch()
    with pytest.raises(JournalDamaged, match=f"missing.*{backup}"):
        SqliteJournal(path)
    assert path.with_name(path.name + "-wal").read_bytes() == b"commits"
    assert not path.exists()


def test_a_locked_journal_says_so(path: Path) -> None:
    fill(path, 1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalLocked, match="locked by another process"):
        SqliteJournal(path, busy_s=0.01)
    other.close()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JournalUnusable):
        SqliteJournal(tmp_path / "none" / "journal.sqlite3")


TORN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def torn_from(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal as kill -9 leaves it: 20 commits in the file itself, 20 more only in its WAL."""
    folder = tmp_path_factory.mktemp("whole")
    path = folder / "journal.sqlite3"
    fill(path, 20)
    keeps_wal = tmp_path_factory.mktemp("torn")

    async def commit() -> None:
        async with SqliteJournal(path) as journal:
            for number in range(20, 40):
                await journal.commit(numbered(journal, number, text="x" * 200))
            for suffix in ("", "-wal"):
                shutil.copy(folder / f"{path.name}{suffix}", keeps_wal)

    anyio.run(commit)
    return keeps_wal


@TORN
@given(cut=st.floats(0, 1), garbage=st.binary(max_size=64))
@example(cut=0, garbage=b"")
@example(cut=1, garbage=b"")
def test_a_torn_wal_opens_with_a_prefix_of_the_commits(torn_from: Path, cut: float, garbage: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(shutil.copytree(torn_from, name, dirs_exist_ok=True)) / "journal.sqlite3"
        wal = path.with_name(path.name + "-wal")
        wal.write_bytes(wal.read_bytes()[: int(cut * wal.stat().st_size)] + garbage)
        journal = SqliteJournal(path)
        numbers = sorted(int(state.id) for state in journal.load_states())
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= 20
        assert cut not in (0, 1) or len(numbers) == (40 if cut else 20)
        assert journal.last_seq == len(numbers)
        journal.close()


@TORN
@given(cut=st.floats(0, 1))
@example(cut=1)
def test_a_torn_file_is_an_error_and_left_alone(torn_from: Path, cut: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(shutil.copytree(torn_from, name, dirs_exist_ok=True)) / "journal.sqlite3"
        whole = path.read_bytes()
        path.write_bytes(whole[: max(1, int(cut * (len(whole) - 1)))])
        path.with_name(path.name + "-wal").unlink()
        before = contents(path.parent)
        with pytest.raises(JournalError, match="Nothing was changed"):
            SqliteJournal(path)
        assert contents(path.parent) == before


def test_a_state_directory_is_made_and_signed(tmp_path: Path) -> None:
    with StateDirectory.take(tmp_path / "a" / "state") as taken:
        assert stat.S_IMODE(taken.path.stat().st_mode) == 0o700
        assert f'"pid": {os.getpid()}' in taken.lock.read_text()
        assert taken.journal == taken.path / "journal.sqlite3"
        with pytest.raises(StateDirectoryHeld, match=f"held by pid {os.getpid()} on .* since 20") as caught:
            StateDirectory.take(taken.path).__enter__()
        assert caught.value.pid == os.getpid()
    with StateDirectory.take(taken.path):
        pass


@pytest.mark.real
def test_a_second_daemon_hears_who_was_first_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(StateDirectoryHeld, match=f"pid {first.pid} "):
            StateDirectory.take(tmp_path).__enter__()
        first.kill()
        first.wait()
        with StateDirectory.take(tmp_path):
            pass


def test_a_state_directory_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(StateDirectoryUnusable, match="there is a file"):
        StateDirectory.take(tmp_path / "state").__enter__()


def test_a_state_directory_that_others_may_write_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(StateDirectoryUnusable, match=f"chmod 700 {tmp_path}"):
        StateDirectory.take(tmp_path).__enter__()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory away")
def test_a_state_directory_of_another_user(tmp_path: Path) -> None:
    os.chown(tmp_path, 12_345, -1)
    with pytest.raises(StateDirectoryUnusable, match="belongs to user id 12345"):
        StateDirectory.take(tmp_path).__enter__()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_state_directory_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StateDirectoryUnusable, match="can't be written"):
        StateDirectory.take(tmp_path).__enter__()
