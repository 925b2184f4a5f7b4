"""Guests that are real process trees with real ssh servers, each behind one machine of a fake vendor."""

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.fakes.guest import PRIVATE
from tests.fakes.guests import Boot

PROGRAM = Path(__file__).with_name("guest.py")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
START_WITHIN_S = 20.0
END_WITHIN_S = 5.0
BACKLOG = 64


class GuestsUnavailable(RuntimeError):
    """This system does not let us isolate a guest; the text says what it refused."""


@dataclass(frozen=True, slots=True)
class _Guest:
    process: subprocess.Popen[bytes]
    init: int  # its pid, as seen from here
    life: int  # closing it ends the guest
    directory: Path


class ProcessGuests:
    """`Guests` made of processes. See tests/fakes/guest.py for what a guest can and can't touch.

    Args:
        directory: where the guests' files are; None: a temporary one, removed by `close`.
        shared: directories that guests see, and may write to, at their own place.
    """

    def __init__(self, directory: Path | None = None, *, shared: Sequence[Path] = ()) -> None:
        self._temporary = directory is None
        self._directory = Path(tempfile.mkdtemp(prefix="guests-")) if directory is None else directory
        self._shared = [str(path.resolve()) for path in shared]
        self._guests: dict[str, _Guest] = {}
        self._booted = 0
        self._lock = threading.Lock()

    def boot(self, boot: Boot) -> int:
        """Start a machine; returns the port of its ssh server. Connections wait until it answers.

        Raises:
            GuestsUnavailable: this system can't isolate it.
            OSError: the port is taken.
        """
        listening = socket.create_server((boot.host, boot.port), backlog=BACKLOG)
        port: int = listening.getsockname()[1]
        with listening, self._lock:
            if boot.ref in self._guests:
                raise ValueError(f"guest {boot.ref} was booted before")
            self._booted += 1
            self._guests[boot.ref] = self._start(boot, listening, self._directory / str(self._booted))
        return port

    def _start(self, boot: Boot, listening: socket.socket, directory: Path) -> _Guest:
        directory.mkdir(parents=True)
        for path in PRIVATE:
            (directory / path.strip("/").replace("/", "-")).mkdir()
        plan = {
            "ref": boot.ref,
            "user": boot.user,
            "home": "/root" if boot.user == "root" else f"/home/{boot.user}",
            "authorized_keys": boot.authorized_keys,
            "host_key": boot.host_key,
            "env": dict(boot.env),
            "directory": str(directory),
            "kept": _kept(),
            "shared": self._shared,
            "python": sys.executable,
            "base_python": os.path.realpath(sys.executable),
            "path": PATH,
        }
        life, ours = os.pipe()
        try:
            with open(directory / "log", "wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(PROGRAM), "enter", str(life), str(listening.fileno())],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd="/",
                    env={"PATH": PATH},
                    pass_fds=(life, listening.fileno()),
                )
        finally:
            os.close(life)
        init = _told(process, json.dumps(plan).encode())
        if not init:
            os.close(ours)
            process.kill()
            process.wait()
            words = (directory / "log").read_text(errors="replace").strip()
            raise GuestsUnavailable(words.splitlines()[-1] if words else "a guest said nothing")
        return _Guest(process, init, ours, directory)

    def runs(self, ref: str) -> bool:
        """Whether it was booted and has not ended, by itself (shutdown) or by `kill`."""
        with self._lock:
            guest = self._guests.get(ref)
        return guest is not None and guest.process.poll() is None

    def files(self, ref: str) -> Path:
        """Where the guest's own files are, seen from here: home, root, tmp, var-tmp, run."""
        return self._guests[ref].directory

    def kill(self, ref: str) -> None:
        """End it without a word, with all that runs in it; nothing happens when there is none."""
        with self._lock:
            guest = self._guests.pop(ref, None)
        if guest is not None:
            os.close(guest.life)
            try:
                guest.process.wait(END_WITHIN_S)
            except subprocess.TimeoutExpired:
                guest.process.kill()  # takes the init with it
                guest.process.wait()
            shutil.rmtree(guest.directory, ignore_errors=True)

    def close(self) -> None:
        """End all."""
        for ref in list(self._guests):
            self.kill(ref)
        if self._temporary:
            shutil.rmtree(self._directory, ignore_errors=True)


def _told(process: subprocess.Popen[bytes], plan: bytes) -> int:
    """Hand over the plan; returns the pid of the guest's init, 0 when there is none."""
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdin, process.stdout:
        try:
            process.stdin.write(plan)
            process.stdin.close()
        except BrokenPipeError:
            return 0
        if not select.select([process.stdout], [], [], START_WITHIN_S)[0]:
            return 0
        return int(process.stdout.readline() or b"0")


@cache
def _kept() -> list[str]:
    """Directories that the ssh server's program is made of; guests see them, read-only."""
    project = Path(__file__).resolve().parents[2]
    wanted = {project, *map(Path, (sys.prefix, sys.base_prefix)), *map(Path, filter(None, sys.path))}
    wanted.add(Path(os.path.realpath(sys.executable)).parents[1])
    found = {path.resolve() for path in wanted if path.is_dir()} | {Path(sys.prefix)}
    hidden = [Path(path) for path in PRIVATE]
    kept = {path for path in found if not any(path in (one, *one.parents) for one in hidden)}
    if project not in kept:
        raise GuestsUnavailable(f"the project is in {project}, which guests do not see")
    return sorted(str(path) for path in kept if not kept.intersection(path.parents))


@cache
def why_impossible() -> str:
    """What keeps this system from isolating guests; "" when nothing does."""
    guests = ProcessGuests()
    try:
        guests.boot(Boot(ref="probe", host="127.0.0.1", user="root", authorized_keys=()))
    except (GuestsUnavailable, OSError) as error:
        return str(error)
    finally:
        guests.close()
    return ""


def need_guests() -> None:
    """Skip the test where guests are impossible; with CI=true that is a failure."""
    why = why_impossible()
    if why and os.environ.get("CI") == "true":
        pytest.fail(f"guests are impossible here: {why}")
    if why:
        pytest.skip(f"guests are impossible here: {why}")
