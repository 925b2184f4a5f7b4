"""A Debian with a systemd of its own: booted by systemd-nspawn, from what debootstrap makes once."""

import functools
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.real.images import cache
from tests.real.rig import REPOSITORY, until

PAGE = REPOSITORY / "deploy/docs/install.md"
VERSION = 1  # of what is in the root file system
PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "ca-certificates")
NEEDED = ("debootstrap", "systemd-nspawn", "nsenter")
LEFT_OUT = (
    "var/cache/apt/archives",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/locale",
    "usr/share/man",
)
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def lacking(why: str) -> None:
    """It can't be had here: skip, or fail with CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(why)
    pytest.skip(why)


def block(name: str) -> list[str]:
    """The commands of one block of the install page."""
    found = re.search(rf"^```sh {name}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert found is not None, f"{PAGE} has no block {name}"
    return found[1].splitlines()


def root_file_system() -> Path:
    """A Debian as debootstrap makes it, in the cache."""
    if os.geteuid() != 0:
        lacking("only root can boot a system")
    missing = [name for name in NEEDED if _program(name) is None]
    if missing:
        lacking(f"there is no {', '.join(missing)}")
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "bookworm")
    place = cache() / f"debian-{VERSION}-{suite}"
    if not place.exists():
        draft = cache() / f".debian-{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        command = [
            str(_program("debootstrap")),
            "--variant=minbase",
            f"--include={','.join(PACKAGES)}",
            suite,
        ]
        done = subprocess.run([*command, str(draft)], capture_output=True, text=True)
        if done.returncode:
            shutil.rmtree(draft, ignore_errors=True)
            lacking(f"debootstrap failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        for name in LEFT_OUT:
            shutil.rmtree(draft / name, ignore_errors=True)
            (draft / name).mkdir()
        draft.rename(place)
    return place


@functools.cache
def wheelhouse(version: str) -> Path:
    """Our wheel as built from the checkout, and what it and its extras need, for that version of Python."""
    place = cache() / f"wheels-{version}"
    place.mkdir(exist_ok=True)
    source = cache() / f".source-{os.getpid()}"
    try:
        for part in ("actors", "controller", "providers", "pyproject.toml", "README.md"):
            where, ignored = REPOSITORY / part, shutil.ignore_patterns("__pycache__", "*.egg-info")
            if where.is_dir():
                shutil.copytree(where, source / part, ignore=ignored)
            else:
                shutil.copy(where, source)
        for old in place.glob("everpool-*.whl"):
            old.unlink()
        for command in block("wheel"):
            ours = command.replace("python3", sys.executable)  # it may be another one than the system's
            subprocess.run(["sh", "-euc", ours], cwd=source, check=True, stdout=subprocess.DEVNULL)
        shutil.copy(next(source.glob("everpool-*.whl")), place)
    finally:
        shutil.rmtree(source, ignore_errors=True)
    wheel = next(place.glob("everpool-*.whl"))
    _pip(
        *("download", "--python-version", version, "--only-binary=:all:", "--find-links", str(place)),
        *("--dest", str(place), f"{wheel}[aws,gcp]"),
    )
    return place


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


@dataclass
class Booted:
    """A running system. `environment` is there for each command in it."""

    root: Path
    leader: int
    environment: Mapping[str, str] = field(default_factory=dict)

    def sh(self, script: str, *, within_s: float = 120, ok: bool = True) -> str:
        """Run a script as root there; its output, both streams together."""
        done = self.ran(script, within_s=within_s)
        assert done.returncode == 0 or not ok, f"{script}\nended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def ran(self, script: str, *, within_s: float = 120) -> "subprocess.CompletedProcess[str]":
        """Run a script as root there."""
        words = [f"{name}={value}" for name, value in self.environment.items()]
        return subprocess.run(
            [
                *(str(_program("nsenter")), f"--target={self.leader}", "--all", "--root", "--wd"),
                *("env", "-i", f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8", *words),
                *("sh", "-c", f"cd /root && {script}"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=within_s,
        )


@contextmanager
def booted(directory: Path, binds: Mapping[Path, str] = MappingProxyType({})) -> Iterator[Booted]:
    """Boot a copy of the root file system, with files of ours in it; nothing of it is left afterwards."""
    base = root_file_system()
    root = directory / "root"
    subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(root)], check=True)
    (root / "etc/hostname").write_text("everpool-test\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    log = (directory / "console").open("wb")
    nspawn = subprocess.Popen(
        [
            *(
                str(_program("systemd-nspawn")),
                "--quiet",
                "--register=no",
                "--keep-unit",
                "--private-network",
            ),
            *(f"--bind={ours}:{place}" for ours, place in binds.items()),
            *("--console=pipe", f"--directory={root}", f"--machine=everpool-{os.getpid()}", "--boot"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    try:

        def init() -> int | None:
            assert nspawn.poll() is None, (directory / "console").read_text(errors="replace")[-3000:]
            return _init_of(nspawn.pid)

        system = Booted(root, until(init, "the system has an init", 30))
        until(lambda: "done" in _state(system), "the system is up", 60)
        yield system
    finally:
        leader = _init_of(nspawn.pid)
        if leader is not None:
            os.kill(leader, signal.SIGKILL)  # and with it its whole pid namespace
        try:
            nspawn.wait(10)
        except subprocess.TimeoutExpired:
            nspawn.kill()
            nspawn.wait()
        log.close()
        _clear_groups()


def _clear_groups() -> None:
    """Remove the control groups that nspawn made below ours; those with processes in them stay."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kind, path = line.split(":", 2)
        for mount in ("", "unified", "systemd", *kind.split(",")):
            for name in ("payload", "supervisor"):
                top = Path("/sys/fs/cgroup", mount, path.lstrip("/"), name)
                for place, _, _ in os.walk(top, topdown=False):
                    with suppress(OSError):
                        os.rmdir(place)


def _state(system: Booted) -> str:
    said = system.sh("systemctl is-system-running 2>&1", ok=False).strip()
    return "done" if said in ("running", "degraded") else said


def _init_of(pid: int) -> int | None:
    """The init of the pid namespace that a process made: the nearest descendant that is in another."""
    own, wave = os.readlink("/proc/self/ns/pid"), [pid]
    while wave:
        found: list[int] = []
        for one in wave:
            try:
                children = Path(f"/proc/{one}/task/{one}/children").read_text().split()
                found += [int(child) for child in children]
            except OSError:
                continue
        for child in found:
            try:
                if os.readlink(f"/proc/{child}/ns/pid") != own:
                    name = Path(f"/proc/{child}/comm").read_text().strip()
                    return child if name in ("systemd", "init") else None
            except OSError:
                continue
        wave = found
    return None


class Steps:
    """The steps of a run, with their times."""

    def __init__(self) -> None:
        self.times: list[tuple[str, float]] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """One step."""
        began = time.monotonic()
        yield
        self.times.append((name, time.monotonic() - began))

    def table(self) -> str:
        """All of them, a line each."""
        whole = sum(took for _, took in self.times)
        return "".join(f"{took:7.1f} s  {name}\n" for name, took in [*self.times, ("all", whole)])
