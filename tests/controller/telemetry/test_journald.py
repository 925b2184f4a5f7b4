"""Entries of the systemd journal, as a journal of our own receives them."""

import array
import io
import os
import socket
import struct
import tempfile
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from controller.telemetry import journald, logging
from controller.telemetry.journald import JournalOut, entry, is_journal


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard,
    ):
        path = Path(directory, "socket")
        heard.bind(str(path))
        heard.setblocking(False)
        monkeypatch.setattr(journald, "JOURNAL", path)
        yield heard


def parsed(data: bytes) -> dict[str, str]:
    """An entry, read as journald reads it."""
    found: dict[str, str] = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            found[name.decode()], data = value.decode(), rest
            continue
        (size,) = struct.unpack("<Q", rest[:8])
        found[line.decode()] = rest[8 : 8 + size].decode()
        assert rest[8 + size : 9 + size] == b"\n"
        data = rest[9 + size :]
    return found


def received(journal: socket.socket) -> dict[str, str]:
    """The next entry."""
    data, ancillary, _, _ = journal.recvmsg(2**20, socket.CMSG_SPACE(4))
    for _, _, raw in ancillary:
        files = array.array("i", raw)
        with open(files[0], "rb") as file:
            file.seek(0)
            data = file.read()
    return parsed(data)


def test_an_entry_has_fields_and_hides_secrets(journal: socket.socket) -> None:
    secrets = logging.configure(format="journald", stream=io.StringIO())
    secrets.add("hunter2hunter2")
    structlog.get_logger().error(
        "launch_refused",
        pool="a",
        node=0,
        instance="i-1",
        task="t",
        request_id="r",
        why="x hunter2hunter2",
        token="y",
    )
    got = received(journal)
    assert got == {
        "MESSAGE": got["MESSAGE"],
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "everpool",
        "EVERPOOL_EVENT": "launch_refused",
        "EVERPOOL_POOL": "a",
        "EVERPOOL_NODE": "0",
        "EVERPOOL_INSTANCE": "i-1",
        "EVERPOOL_TASK": "t",
        "EVERPOOL_REQUEST_ID": "r",
    }
    assert got["MESSAGE"].startswith("launch_refused pool=a node=0 instance=i-1")
    assert "hunter2" not in got["MESSAGE"] and "token=y" not in got["MESSAGE"]
    structlog.get_config()["logger_factory"]().close()


def test_a_large_entry_goes_as_a_file_in_memory(journal: socket.socket) -> None:
    out = JournalOut()
    out.msg(entry("x" * 500_000, "info", "large", {"pool": "a"}))
    got = received(journal)
    assert (len(got["MESSAGE"]), got["EVERPOOL_POOL"], out.failed) == (500_000, "a", 0)
    out.close()


def test_what_was_lost_is_counted_and_said_and_nobody_waits(journal: socket.socket) -> None:
    out = JournalOut()
    while not out.failed:
        out.msg(entry("fill", "info", "fill", {}))
    out.msg(entry("lost too", "info", "fill", {}))
    assert out.lost == 2
    while True:
        try:
            assert "EVERPOOL_LOST" not in received(journal)
        except BlockingIOError:
            break
    out.msg(entry("room again", "info", "fill", {}))
    assert received(journal)["EVERPOOL_LOST"] == "2"
    assert (out.lost, out.failed) == (0, 2)
    out.close()


def test_a_journal_that_is_started_anew_is_found_again(journal: socket.socket) -> None:
    out = JournalOut()
    path = journal.getsockname()
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        journal.close()
        out.msg(entry("nobody hears", "info", "x", {}))
        other.bind(path)
        out.msg(entry("nor this, at worst", "info", "x", {}))
        out.msg(entry("this", "info", "x", {}))
        heard = [received(other)]
        while heard[-1]["MESSAGE"] != "this":
            heard.append(received(other))
    out.close()


def test_without_a_journal_it_is_text_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journald, "JOURNAL", Path("/nowhere/socket"))
    out = io.StringIO()
    logging.configure(format="journald", stream=out)
    structlog.get_logger().info("hello", pool="a")
    assert out.getvalue().endswith("hello pool=a\n")


def test_auto_looks_whether_stderr_is_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "stderr").open("w") as stream:
        found = os.fstat(stream.fileno())
        for value, wanted in (
            (f"{found.st_dev}:{found.st_ino}", True),
            (f"{found.st_dev}:1", False),
            ("x", False),
        ):
            monkeypatch.setenv("JOURNAL_STREAM", value)
            assert is_journal(stream) is wanted
    assert is_journal(io.StringIO()) is False


@given(st.text(), st.dictionaries(st.sampled_from(journald.FIELDS), st.text()))
def test_any_text_arrives_as_it_was(message: str, fields: dict[str, str]) -> None:
    got = parsed(entry(message, "info", "x", fields))
    assert got["MESSAGE"].encode() == message.encode(errors="replace")
    for name, value in fields.items():
        assert got.get(f"EVERPOOL_{name.upper()}", "") == value.encode(errors="replace").decode()
