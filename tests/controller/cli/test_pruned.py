"""Commands on a journal whose oldest events are forgotten."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from controller.journal.journal import SqliteJournal
from tests.controller.cli.running import Done, Face, daemon

pytestmark = pytest.mark.real
EARLIER = 2  # pools asked for before all is forgotten


async def forgotten(journal: Path) -> int:
    """Forget all that is over; the last seq of what is forgotten."""
    async with SqliteJournal(journal) as opened:
        await opened.prune(time.time() + 60, events_max=1_000_000)
        return opened.pruned_seq


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Face, int]]:
    """A daemon whose journal was pruned, and the last seq that is forgotten."""
    face = Face(tmp_path_factory.mktemp("p"))
    with daemon(face) as process:
        for number in range(EARLIER):
            assert face("up", f"old-{number}", "--nodes", "0").code == 0
            assert face("down", f"old-{number}").code == 0
        process.terminate()
        process.wait(30)
    seq = anyio.run(forgotten, face.socket.parent / "journal.sqlite3")
    assert seq > 2 * EARLIER
    with daemon(face):
        assert face("up", "new", "--nodes", "0").code == 0
        yield face, seq


def seqs(done: Done) -> list[int]:
    assert done.code == 0, done.err
    return [json.loads(line)["seq"] for line in done.out.splitlines()]


def test_the_newest_events_and_those_since(pruned: tuple[Face, int]) -> None:
    face, seq = pruned
    kept = seqs(face("events", "--json"))
    assert kept and kept[0] > seq
    for arguments, wanted in (
        (("-n", "2"), kept[-2:]),
        (("-n", "20000"), kept),
        (("--since", "1h"), kept),
        (("--pool", "new", "--since", "1h", "-n", "1"), kept[-1:]),
    ):
        done = face("events", "--json", *arguments)
        assert (seqs(done), done.err) == (wanted, ""), arguments


def test_who_follows_hears_the_next(pruned: tuple[Face, int]) -> None:
    face, _ = pruned
    before = seqs(face("events", "--json", "-n", "1"))
    following = face.start("events", "--follow", "--json", "-n", "1")
    assert following.stdout is not None
    assert json.loads(following.stdout.readline())["seq"] == before[0]
    assert face("up", "newer", "--nodes", "0").code == 0
    assert json.loads(following.stdout.readline())["seq"] > before[0]
    following.kill()


@pytest.mark.parametrize("after", ["pruned", "not there yet"])
def test_a_seq_that_can_not_be_had_is_said_once_and_gone_on_from(
    pruned: tuple[Face, int], after: str
) -> None:
    """Such as after a long break, or after a restored backup."""
    face, seq = pruned
    kept = seqs(face("events", "--json"))
    asked = ("events", "--json", "--after", "2" if after == "pruned" else str(kept[-1] + 1000))
    done = face(*asked)
    assert seqs(done) == (kept if after == "pruned" else [])
    assert len(done.err.splitlines()) == 1
    where = seq if after == "pruned" else kept[-1]
    assert done.err.endswith(f"going on behind seq {where}\n")
    following = face.start(*asked, "--follow", "--limit", "1")
    if after != "pruned":
        assert following.stderr is not None
        assert "going on" in following.stderr.readline()  # it listens
        assert face("up", "newest", "--nodes", "0").code == 0
    out, _ = following.communicate(timeout=30)
    assert json.loads(out)["seq"] > where and following.returncode == 0


def test_top(pruned: tuple[Face, int]) -> None:
    face, _ = pruned
    screen = face("top", "--once")
    assert screen.code == 0, screen.err
    assert "new" in screen.out and "asked for" in screen.out.split("events")[-1]
