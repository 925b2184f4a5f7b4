"""A real daemon, and the command as a user runs it."""

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[3]
EVERPOOL = (sys.executable, "-m", "controller")
WITHIN_S = 60.0
T = TypeVar("T")


@dataclass(frozen=True)
class Done:
    """What became of one command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its stdout."""
        return json.loads(self.out)


class Face:
    """The command, for one daemon."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "s" / "api.sock"
        self.started: list[subprocess.Popen[str]] = []
        hidden = ("EVERPOOL_", "STATE_DIRECTORY", "NOTIFY_SOCKET")
        self.env = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
        self.env |= {
            "PYTHONPATH": str(ROOT),
            "HOME": str(directory),
            "EVERPOOL_SOCKET": str(self.socket),
            "COLUMNS": "80",
        }

    def start(self, *arguments: str, **settings: Any) -> "subprocess.Popen[str]":
        """Start a command and return at once."""
        process = subprocess.Popen(
            [*EVERPOOL, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.env,
            cwd=self.directory,
            **settings,
        )
        self.started.append(process)
        return process

    def close(self) -> None:
        """End what a test that failed has left."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def __call__(self, *arguments: str) -> Done:
        """Run a command to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=WITHIN_S)
        assert "Traceback" not in err, err
        return Done(process.returncode, out, err)


def until(found: Callable[[], T], within_s: float = WITHIN_S) -> T:
    """Look again and again until there is something."""
    deadline = time.monotonic() + within_s
    while True:
        value = found()
        if value:
            return value
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


class Typed:
    """A program at a terminal, and what a user types there."""

    def __init__(self, line: list[str], env: dict[str, str], directory: Path) -> None:
        self._line, self._env, self._directory = line, env, directory

    def __enter__(self) -> "Typed":
        self._screen, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 150, 0, 0))
        self._process = subprocess.Popen(
            self._line,
            stdin=inner,
            stdout=inner,
            stderr=inner,
            env=self._env,
            cwd=self._directory,
            start_new_session=True,
        )
        os.close(inner)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._screen)

    def types(self, keys: str, shows: str) -> None:
        """Type keys, and read until the screen shows a text after them."""
        os.write(self._screen, keys.encode())
        seen, deadline = b"", time.monotonic() + WITHIN_S
        while shows.encode() not in seen.replace(b"\r", b""):
            left = deadline - time.monotonic()
            assert left > 0, f"{keys!r} shows {seen!r}, and not {shows!r}"
            if select.select([self._screen], [], [], left)[0]:
                seen += os.read(self._screen, 65_536)


@contextmanager
def daemon(face: Face, config: str = "") -> Iterator["subprocess.Popen[bytes]"]:
    """A daemon with the local provider; all its machines are ended with it."""
    path = face.directory / "everpool.toml"
    state = json.dumps(str(face.directory / "s"))
    path.write_text(f"[daemon]\nstate_dir = {state}\nobserve_every_s = 1\n{config}")
    with (face.directory / "daemon.log").open("ab") as log:
        process = subprocess.Popen(
            [*EVERPOOL, "serve", "--config", str(path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=face.env,
            cwd=face.directory,
        )
    try:
        until(lambda: process.poll() is not None or face("ps").code == 0)
        assert process.poll() is None, (face.directory / "daemon.log").read_text()
        yield process
        for pool in face("ps", "--json").json if process.poll() is None else ():
            face("down", pool["name"])
    finally:
        face.close()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        left = processes_of(face.directory)
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert not left, "processes are left after `down`"


def processes_of(directory: Path) -> list[int]:
    """Processes whose command line or working directory is below a directory."""
    mark, found = os.fsencode(directory), []
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        process = Path("/proc") / entry
        try:
            if mark in (process / "cmdline").read_bytes() or mark in os.fsencode(
                os.readlink(process / "cwd")
            ):
                found.append(int(entry))
        except OSError:
            continue
    return found
