"""kill -9, and a full disk: what was acknowledged is there, what was not may be tried again."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest

from actors.events import Envelope
from actors.ports import Commit, JournalClosed
from controller.journal.errors import JournalFailing
from controller.journal.journal import SqliteJournal
from tests.controller.journal.samples import numbered, submission, until

COMMIT_FOR_EVER = """
import sys
from pathlib import Path
import anyio
from controller.journal.journal import SqliteJournal
from tests.controller.journal.samples import numbered, submission

async def main():
    journal = SqliteJournal(Path(sys.argv[1]))

    async def one_pool(pool):
        for number in range(1_000_000):
            await journal.commit(numbered(journal, number, pool))
            await journal.accept([submission(f"{pool}-{number}", pool=pool)])
            print(pool, number, flush=True)

    async with anyio.create_task_group() as group:
        for pool in ("a", "b", "c"):
            group.start_soon(one_pool, pool)

anyio.run(main)
"""


@pytest.mark.real
@pytest.mark.parametrize("lines", [1, 50, 400])
def test_what_was_acknowledged_survives_kill_9(path: Path, lines: int) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", COMMIT_FOR_EVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as child:
        assert child.stdout is not None
        said = [child.stdout.readline() for _ in range(lines)]
        child.kill()
        said += child.stdout.readlines()
    acknowledged = {tuple(line.split()) for line in said if line.endswith("\n")}
    journal = SqliteJournal(path)
    states = {(state.pool, state.id) for state in journal.load_states()}
    requests = {envelope.request_id for envelope in journal.open_requests()}
    assert len(acknowledged) >= lines
    assert acknowledged <= states
    assert {f"{pool}-{number}" for pool, number in acknowledged} <= requests
    assert len(states) <= len(acknowledged) + 3  # at most what was under way
    journal.close()


@contextmanager
def small_disk() -> Iterator[Path]:
    """A file system of 2 MB."""
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False
        )
        if made.returncode:
            pytest.skip("may not mount a tmpfs")
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", folder], check=True)


@pytest.mark.real
@pytest.mark.anyio
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
async def test_a_full_disk_stops_everything_and_loses_nothing() -> None:
    with small_disk() as folder:
        journal = SqliteJournal(folder / "journal.sqlite3")
        ballast = folder / "ballast"
        for number in range(5):
            await journal.commit(numbered(journal, number))
        fill_up(ballast)
        done: list[int] = []

        async def one(number: int) -> None:
            await journal.commit(numbered(journal, number, text="x" * 50_000))
            done.append(number)

        async with anyio.create_task_group() as group:
            for number in range(5, 15):
                group.start_soon(one, number)
            await until(lambda: journal.failing_since is not None)
            assert "full" in journal.failing_reason
            with pytest.raises(JournalFailing, match="full"):
                await journal.accept([submission("r1")])
            assert await journal.request("r1") is None
            assert [state.id for state in journal.load_states()] == [str(number) for number in range(5)]
            assert done == []
            ballast.unlink()
        assert done == list(range(5, 15))
        assert journal.failing_since is None
        assert journal.stats().retries > 0
        [(first, _), *_] = await journal.events(0, 1)
        assert first == 1
        seqs = [Envelope.model_validate_json(body).seq for _, body in await journal.events(0, 100)]
        assert len(seqs) == 15
        await journal.accept([submission("r1")])
        await journal.aclose()


@pytest.mark.real
@pytest.mark.anyio
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system")
async def test_a_journal_closed_on_a_full_disk_tells_those_who_wait() -> None:
    with small_disk() as folder:
        journal = SqliteJournal(folder / "journal.sqlite3")
        await journal.commit(numbered(journal, 1))
        fill_up(folder / "ballast")
        closed: list[int] = []

        async def one(commit: Commit) -> None:
            with pytest.raises(JournalClosed, match="could not write"):
                await journal.commit(commit)
            closed.append(1)

        async with anyio.create_task_group() as group:
            group.start_soon(one, numbered(journal, 2, text="x" * 500_000))
            await until(lambda: journal.failing_since is not None)
            group.start_soon(one, numbered(journal, 3))
            await anyio.wait_all_tasks_blocked()
            await journal.aclose()
        assert closed == [1, 1]
        (folder / "ballast").unlink()
        again = SqliteJournal(folder / "journal.sqlite3")
        assert [state.id for state in again.load_states()] == ["1"]
        again.close()


def fill_up(ballast: Path) -> None:
    """Take all the room that is left."""
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                pass
