"""The systemd journal: entries with fields, by its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

So `journalctl EVERPOOL_POOL=train` finds what concerns a pool, EVERPOOL_INSTANCE= what concerns a machine.
"""

import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

JOURNAL = Path("/run/systemd/journal/socket")
IDENTIFIER = "everpool"
PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
# Which keys become fields. A fixed list: the journal keeps an index of each.
FIELDS = (
    "pool",
    "node",
    "instance",
    "task",
    "request_id",
    "seq",
    "provider",
    "webhook",
    "principal",
    "address",
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def is_journal(stream: TextIO) -> bool:
    """Whether what is written to `stream` ends in the journal, as systemd says in JOURNAL_STREAM."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    if not (device.isdecimal() and inode.isdecimal()):
        return False
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file
        return False
    return (found.st_dev, found.st_ino) == (int(device), int(inode))


def entry(message: str, level: str, event: str, fields: Mapping[str, object]) -> bytes:
    """One entry as it is sent. `fields` are those of a line; only what is in FIELDS becomes one here."""
    found = {"MESSAGE": message, "PRIORITY": str(PRIORITIES.get(level, 6)), "SYSLOG_IDENTIFIER": IDENTIFIER}
    found["EVERPOOL_EVENT"] = event
    for name in FIELDS:
        value = fields.get(name)
        if value is not None and value != "":
            found[f"EVERPOOL_{name.upper()}"] = str(value)
    return b"".join(_field(name, value) for name, value in found.items())


def _field(name: str, value: str) -> bytes:
    data = value.encode(errors="replace")
    if _CONTROL.search(value):
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"


class JournalOut:
    """Sends entries to the journal. It never waits: a journal that takes no more must not end a turn.

    Attributes:
        lost: entries that were not taken in a row; the next that is taken says how many.
        failed: all that were not taken.
    """

    def __init__(self) -> None:
        """Raises OSError when there is no journal."""
        self._path = str(JOURNAL)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        try:
            self._socket.connect(self._path)
        except OSError:
            self._socket.close()
            raise
        self.lost = 0
        self.failed = 0

    def msg(self, data: bytes) -> None:
        """Send one entry."""
        if self.lost:
            data += _field("EVERPOOL_LOST", str(self.lost))
        try:
            self._send(data)
            self.lost = 0
        except OSError:  # full, or journald is being restarted
            self.lost += 1
            self.failed += 1
            self._again()

    debug = info = warning = error = critical = log = exception = msg

    def close(self) -> None:
        """Let go of the socket."""
        self._socket.close()

    def _send(self, data: bytes) -> None:
        try:
            self._socket.send(data)
        except OSError as error:
            if isinstance(error, BlockingIOError | ConnectionError | FileNotFoundError):
                raise
            self._send_large(data)  # EMSGSIZE or ENOBUFS

    def _send_large(self, data: bytes) -> None:
        """What is too long for a datagram goes as a sealed file in memory."""
        file = os.memfd_create("everpool-journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(file, "wb", closefd=False) as out:
                out.write(data)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
            socket.send_fds(self._socket, [b""], [file])
        finally:
            os.close(file)

    def _again(self) -> None:
        try:
            self._socket.connect(self._path)
        except OSError:  # the next entry tries again
            return
