"""The state directory: its layout, and the lock that lets one daemon at a time have it."""

import fcntl
import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from controller.journal.errors import StateDirectoryHeld, StateDirectoryUnusable


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """Where the daemon keeps everything. Get one by `take`, which locks it, or by name just to read."""

    path: Path

    @property
    def journal(self) -> Path:
        """The journal's SQLite file; `-wal` and `-shm` lie beside it."""
        return self.path / "journal.sqlite3"

    @property
    def lock(self) -> Path:
        """The file that is locked; holds JSON about who did it. Never removed."""
        return self.path / "lock"

    @property
    def socket(self) -> Path:
        """The API's unix socket, unless configured elsewhere."""
        return self.path / "api.sock"

    @property
    def keys(self) -> Path:
        """Key pairs and known hosts, by cluster."""
        return self.path / "keys"

    @property
    def logs(self) -> Path:
        """Output of tasks, by pool and task."""
        return self.path / "logs"

    @property
    def files(self) -> Path:
        """Files fetched after tasks, by pool and task."""
        return self.path / "files"

    @property
    def providers(self) -> Path:
        """What providers keep, by provider name."""
        return self.path / "providers"

    @classmethod
    @contextmanager
    def take(cls, path: Path) -> Iterator[Self]:
        """Make the directory if need be, and hold it until the end of the block.

        Raises:
            StateDirectoryUnusable: it is not a directory of ours that we can write to.
            StateDirectoryHeld: another daemon has it.
        """
        taken = cls(path.absolute())
        _prepare(taken.path)
        try:
            # close-on-exec (Python's default), so a machine of the local provider doesn't inherit the lock
            descriptor = os.open(taken.lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise _unusable(taken.path, error) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise _held(taken) from error
            _sign(taken.path, descriptor)
            yield taken
        finally:
            os.close(descriptor)  # unlocks; the file stays, or two daemons could lock two files of one name


def _prepare(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.stat()
    except FileExistsError as error:
        raise StateDirectoryUnusable(f"state directory {path}: there is a file of that name") from error
    except OSError as error:
        raise _unusable(path, error) from error
    if found.st_uid != os.geteuid():
        raise StateDirectoryUnusable(
            f"state directory {path} belongs to user id {found.st_uid}, and this is user id {os.geteuid()}: "
            "run as that user, or set daemon.state_dir to a directory of your own"
        )
    if found.st_mode & 0o022:
        raise StateDirectoryUnusable(
            f"state directory {path} has mode {stat.S_IMODE(found.st_mode):04o}, so others may write to it: "
            f"chmod 700 {path}"
        )
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise StateDirectoryUnusable(
            f"state directory {path} can't be written to: check its mode, and that its file system is not "
            "read-only"
        )


def _unusable(path: Path, error: OSError) -> StateDirectoryUnusable:
    return StateDirectoryUnusable(f"state directory {path} can't be used: {error.strerror}")


def _sign(path: Path, descriptor: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}) + "\n"
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError as error:  # a full disk: better said here than at the first commit
        raise _unusable(path, error) from error


def _held(taken: StateDirectory) -> StateDirectoryHeld:
    pid, host, since = None, "", ""
    try:
        said = json.loads(taken.lock.read_text(errors="replace"))
        pid, host, since = int(said["pid"]), str(said["host"]), str(said["since"])
    except (OSError, ValueError, KeyError, TypeError):  # it took the lock, but has not signed yet
        pass
    who = f"pid {pid} on {host} since {since}" if pid is not None else "another process"
    return StateDirectoryHeld(
        f"state directory {taken.path} is held by {who}: stop that daemon first, or choose another directory",
        pid,
        host,
        since,
    )
