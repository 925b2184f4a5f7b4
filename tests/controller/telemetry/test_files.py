"""Fetched files: whole or not there, whatever is sent again."""

import base64
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller.telemetry.files import FileStore, KeptFile
from providers.agent.wire import FetchedFile

POOL, TASK = "p", "t-1"


def piece(
    data: bytes, *, offset: int = 0, last: bool = True, path: str = "out/a.bin", task: str = TASK
) -> FetchedFile:
    return FetchedFile(
        id=1, task=task, attempt=1, path=path, offset=offset, data=base64.b64encode(data).decode(), last=last
    )


def content(store: FileStore, path: str = "out/a.bin", task: str = TASK) -> bytes:
    with store.open(POOL, task, 1, path) as file:
        return file.read()


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    assert store.put(POOL, piece(b"abc", last=False)) == "piece"
    assert store.list(POOL, TASK) == []
    assert store.put(POOL, piece(b"abc", last=False)) == "piece"
    assert store.put(POOL, piece(b"cdef", offset=2)) == "whole"
    assert store.put(POOL, piece(b"cdef", offset=2)) == "known"
    assert content(store) == b"abcdef"
    assert store.put(POOL, piece(b"", path="empty")) == "whole"
    assert store.list(POOL, TASK) == [KeptFile(1, "empty", 0), KeptFile(1, "out/a.bin", 6)]
    assert (tmp_path / POOL / TASK / "1" / "out" / "a.bin").read_bytes() == b"abcdef"
    assert store.kept.bytes == 6


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), whole=st.binary(min_size=1, max_size=300))
def test_any_pieces_and_repeats_give_the_same_file(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, whole: bytes
) -> None:
    root, have = tmp_path_factory.mktemp("files"), 0
    store, outcome = FileStore(root), "piece"
    while outcome != "whole":
        begin = data.draw(st.integers(0, have))
        again = data.draw(st.booleans())
        end = data.draw(
            st.integers(begin, have) if again else st.integers(min(have + 1, len(whole)), len(whole))
        )
        outcome = store.put(POOL, piece(whole[begin:end], offset=begin, last=end == len(whole)))
        have = max(have, end)
        if data.draw(st.booleans()):
            store = FileStore(root)
    assert content(store) == whole


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", "", ".", "a\0b", "x" * 300, "\ud800"])
def test_paths_that_leave_the_directory_are_refused(tmp_path: Path, path: str) -> None:
    root = tmp_path / "files"
    store = FileStore(root)
    assert store.put(POOL, piece(b"x", path=path)) == "refused"
    assert list(tmp_path.iterdir()) == [root]
    [refusal] = store.list(POOL, TASK)
    assert refusal.error
    assert store.path(POOL, TASK, 1, path) is None


def test_one_file_in_the_way_of_another_is_told(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    assert store.put(POOL, piece(b"x", path="a")) == "whole"
    assert store.put(POOL, piece(b"x", path="a/b")) == "refused"
    assert store.put(POOL, piece(b"x", path="c/d")) == "whole"
    assert store.put(POOL, piece(b"x", path="c")) == "refused"
    assert [(file.path, bool(file.error)) for file in store.list(POOL, TASK)] == [
        ("a", False),
        ("a/b", True),
        ("c", True),
        ("c/d", False),
    ]


def test_what_is_too_much_is_refused_with_the_reason(tmp_path: Path) -> None:
    store = FileStore(tmp_path, file_bytes_max=10, files_max=3)
    assert store.put(POOL, piece(b"x" * 8, last=False, path="large")) == "piece"
    assert store.put(POOL, piece(b"x" * 8, offset=8, path="large")) == "refused"
    assert store.put(POOL, piece(b"x", offset=16, path="large")) == "known"
    assert store.put(POOL, piece(b"x", offset=3, path="hole")) == "refused"
    broken = FetchedFile(id=1, task=TASK, attempt=1, path="b", offset=0, error="no such file")
    assert store.put(POOL, broken) == "refused"
    assert store.put(POOL, broken) == "known"
    assert store.put(POOL, piece(b"x", path="fourth")) == "refused"
    assert [(file.path, file.error) for file in store.list(POOL, TASK)] == [
        ("b", "no such file"),
        ("fourth", "more than 3 files"),
        ("hole", "3 bytes were lost with the machine's agent"),
        ("large", "larger than 10 bytes"),
    ]


def test_old_tasks_give_way(tmp_path: Path) -> None:
    store = FileStore(tmp_path, total_bytes_max=1000)
    assert store.put(POOL, piece(b"x" * 600, task="old")) == "whole"
    assert store.put(POOL, piece(b"x" * 600, task="new")) == "refused"
    store.finish(POOL, "old")
    assert store.put(POOL, piece(b"x" * 500, task="newer")) == "whole"
    assert store.path(POOL, "old", 1, "out/a.bin") is None
    assert store.remove(POOL, "newer")
    assert store.list(POOL, "newer") == []


@pytest.fixture
def file_size_limit() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_raises_and_the_piece_is_taken_later(tmp_path: Path, file_size_limit: None) -> None:
    store = FileStore(tmp_path)
    whole = bytes(range(250)) * 8
    with pytest.raises(OSError, match="too large|No space"):
        store.put(POOL, piece(whole))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert store.put(POOL, piece(whole)) == "whole"
    assert content(store) == whole
