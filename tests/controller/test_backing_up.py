"""A backup is whole (journal, keys, an epoch that a restored daemon is behind), or is not there at all."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from controller.backing_up import backed_up
from controller.journal.errors import BackupFailed, JournalFailing, NoRoom
from controller.journal.journal import SqliteJournal
from tests.controller.journal.samples import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[SqliteJournal]:
    made = SqliteJournal(tmp_path / "journal.sqlite3")
    yield made
    made.close()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    made.mkdir()
    (made / "cluster").write_bytes(bytes(4 * 2**20))
    return made


@contextmanager
def full(journal: SqliteJournal) -> Iterator[None]:
    """Nothing can be written, as on a full disk."""
    journal._writer._connection.execute("PRAGMA query_only = ON")
    try:
        yield
    finally:
        journal._writer._connection.execute("PRAGMA query_only = OFF")


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.glob(f"*{target.name}*"))


async def test_afterwards_we_lead_under_a_newer_epoch_than_the_copy_would(
    journal: SqliteJournal, keys: Path, tmp_path: Path
) -> None:
    led: list[int] = []
    done = await backed_up(journal, keys, tmp_path / "copy", led.append)
    assert left(tmp_path / "copy") == ["copy", "copy.keys.tar"]
    restored = SqliteJournal(tmp_path / "copy")
    assert led == [journal.epoch] and done["epoch"] < restored.epoch < journal.epoch
    restored.close()


@pytest.mark.parametrize("known", [False, True])
async def test_while_nothing_can_be_written_there_is_none_and_nobody_waits(
    journal: SqliteJournal, keys: Path, tmp_path: Path, known: bool
) -> None:
    led: list[int] = []
    with full(journal), anyio.fail_after(60):
        for _ in range(2 if known else 1):
            with pytest.raises(JournalFailing, match="can't be written"):
                await backed_up(journal, keys, tmp_path / "copy", led.append)
    assert (led, left(tmp_path / "copy")) == ([], [])
    await until(lambda: journal.failing_since is None)
    await backed_up(journal, keys, tmp_path / "copy", led.append)
    assert led == [journal.epoch]


async def test_nobody_waits_to_adopt_on_a_full_disk(journal: SqliteJournal) -> None:
    before = journal.epoch
    with full(journal), anyio.fail_after(60), pytest.raises(JournalFailing, match="can't be written"):
        await journal.advance_epoch(7)
    assert journal.epoch == before
    await until(lambda: journal.failing_since is None)
    assert await journal.advance_epoch(7) == journal.epoch == 8


async def test_a_disk_that_is_stuck_is_told(journal: SqliteJournal) -> None:
    with pytest.raises(JournalFailing, match="wrote nothing for 0 s"):
        await journal.advance_epoch(7, within_s=0)


async def test_without_room_for_the_keys_the_copy_of_the_journal_goes_too(
    journal: SqliteJournal, keys: Path, tmp_path: Path
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 2**20, before[1]))
    try:
        with pytest.raises(NoRoom):
            await backed_up(journal, keys, tmp_path / "copy", lambda epoch: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert left(tmp_path / "copy") == []


async def test_what_was_there_before_stays(journal: SqliteJournal, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "copy.keys.tar").write_text("mine")
    epoch = journal.epoch
    with pytest.raises(BackupFailed, match=r"copy\.keys\.tar exists"):
        await backed_up(journal, keys, tmp_path / "copy", lambda epoch: None)
    assert (left(tmp_path / "copy"), journal.epoch) == (["copy.keys.tar"], epoch)
    assert (tmp_path / "copy.keys.tar").read_text() == "mine"
