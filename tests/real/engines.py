"""A real dockerd and a real podman service, each with a socket, a root and our images of its own.

Started once per process of tests, at first use, and ended with it. They need root and the engine's programs;
`engine` skips the test where it can't start one, and fails it when CI is true.
"""

import atexit
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlencode

import pytest

from tests.real.images import image_file

EngineKind = Literal["docker", "podman"]
ENGINES: tuple[EngineKind, ...] = ("docker", "podman")
IMAGE, BARE_IMAGE, OLD_IMAGE = (f"localhost/everpool-test:{tag}" for tag in ("python", "bare", "old"))
START_WITHIN_S = 30.0
ULIMITS = {"nofile": {"soft": 1024, "hard": 4096}, "nproc": {"soft": 4096, "hard": 4096}}
PROGRAMS: dict[EngineKind, tuple[str, ...]] = {
    "docker": ("dockerd", "containerd", "runc"),
    "podman": ("podman", "conmon", "runc"),
}


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("engine", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


@dataclass
class RealEngine:
    """One engine that runs. It is asked here without any of everpool's own code."""

    kind: EngineKind
    root: Path
    log: Path
    registry: str = ""  # where tests may serve one, without TLS
    _ends: list[Callable[[], None]] = field(default_factory=list)

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.root / "sock"

    def keys(self, **more: Any) -> dict[str, Any]:
        """Keys of a `ContainerConfig` for it: nothing is pulled, no network unless `more` says so."""
        known = {"engine": self.kind, "socket": str(self.socket), "image": IMAGE, "pull": "never"}
        return known | {"network": "none", "ulimits": ULIMITS} | more

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: object | None = None,
        file: Path | None = None,
    ) -> Any:
        """One call, its answer as JSON when it is any; an answer that is no success fails the test."""
        status, answer = self.raw(method, path, query=query, body=body, file=file)
        assert status < 400, (method, path, status, answer)
        return answer

    def raw(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: object | None = None,
        file: Path | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """One call: its status and its answer."""
        connection = _Unix(self.socket)
        target = f"/v1.41{path}" + (f"?{urlencode(query)}" if query else "")
        try:
            if file is not None:
                with file.open("rb") as data:
                    headers = {
                        "Content-Type": "application/x-tar",
                        "Content-Length": str(file.stat().st_size),
                    }
                    connection.request(method, target, data, headers)
                    response = connection.getresponse()
            else:
                text = None if body is None else json.dumps(body)
                told = {"Content-Type": "application/json", **(headers or {})}
                connection.request(method, target, text, told)
                response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        try:
            return response.status, json.loads(raw)
        except ValueError:
            return response.status, raw

    def containers(self) -> list[dict[str, Any]]:
        """Every container, dead ones too."""
        found: list[dict[str, Any]] = self.ask("GET", "/containers/json", query={"all": "true"})
        return found

    def networks(self) -> list[str]:
        """Names of networks that are not the engine's own."""
        own = {"bridge", "host", "none", "podman"}
        return sorted(one["Name"] for one in self.ask("GET", "/networks") if one["Name"] not in own)

    def volumes(self) -> list[str]:
        """Names of volumes."""
        return sorted(one["Name"] for one in self.ask("GET", "/volumes")["Volumes"] or [])

    def inspect(self, name: str) -> dict[str, Any] | None:
        """All of a container; None when there is none."""
        status, answer = self.raw("GET", f"/containers/{name}/json")
        return answer if status == 200 else None

    def kill(self, name: str) -> None:
        """`docker kill`."""
        self.ask("POST", f"/containers/{name}/kill", query={"signal": "KILL"})

    def clear(self) -> None:
        """Remove every container, network and volume."""
        for one in self.containers():
            self.raw("DELETE", f"/containers/{one['Id']}", query={"force": "true", "v": "true"})
        for name in self.networks():
            self.raw("DELETE", f"/networks/{name}")
        for name in self.volumes():
            self.raw("DELETE", f"/volumes/{name}")

    def toml(self, name: str, **more: Any) -> str:
        """A [providers.<name>] table for it."""
        keys = self.keys(**more)
        lines = [f"[providers.{name}]", 'type = "container"']
        return "\n".join([*lines, *(f"{key} = {_toml(value)}" for key, value in keys.items())]) + "\n"

    def end(self) -> None:
        """End it, and all that runs in it."""
        for end in reversed(self._ends):
            end()


def engine(kind: EngineKind) -> RealEngine:
    """The engine, started when it is first asked for. Where it can't be: skips, or fails with CI."""
    found = started(kind)
    if isinstance(found, RealEngine):
        return found
    if os.environ.get("CI") == "true":
        pytest.fail(f"no real {kind}: {found}")
    pytest.skip(f"no real {kind}: {found}")


@cache
def started(kind: EngineKind) -> RealEngine | str:
    """The engine, or why there is none."""
    if os.geteuid() != 0:
        return "only root can start one here"
    missing = [name for name in PROGRAMS[kind] if _program(name) is None]
    if missing:
        return f"there is no {', '.join(missing)}"
    root = Path(tempfile.mkdtemp(prefix=f"everpool-{kind}-"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        registry = f"127.0.0.1:{server.getsockname()[1]}"
    made = RealEngine(kind, root, root / "log", registry)
    (root / "registries.conf").write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    atexit.register(made.end)
    made._ends.append(lambda: shutil.rmtree(root, ignore_errors=True))
    made._ends.append(lambda: _unmount(root))
    made._ends.append(lambda: _end_rest(root))
    arguments = _dockerd(root) if kind == "docker" else _podman(root)
    with made.log.open("wb") as log:
        process = subprocess.Popen(
            [*_dies_with_us(), *arguments],
            env=os.environ | {"CONTAINERS_REGISTRIES_CONF": str(root / "registries.conf")},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=root,
        )
    made._ends.append(lambda: _ended(process))
    made._ends.append(lambda: _emptied(made))
    deadline = time.monotonic() + START_WITHIN_S
    while not _answers(made):
        if process.poll() is not None or time.monotonic() > deadline:
            return f"it did not start:\n{made.log.read_text(errors='replace')[-2000:]}"
        time.sleep(0.05)
    for tag in ("python", "bare", "old"):
        query = {"fromSrc": "-", "repo": "localhost/everpool-test", "tag": tag}
        told = made.ask("POST", "/images/create", query=query, file=image_file(tag))
        image = told["status"] if isinstance(told, dict) else str(told)
        named = {"repo": "localhost/everpool-test", "tag": tag}  # podman takes no notice of it before
        made.ask("POST", f"/images/{image.strip()}/tag", query=named)
    return made


def _dockerd(root: Path) -> Sequence[str]:
    paths = ("--data-root", f"{root}/data", "--exec-root", f"{root}/exec", "--pidfile", f"{root}/pid")
    network = ("--iptables=false", "--bridge=none")
    return (str(_program("dockerd")), "-H", f"unix://{root}/sock", *paths, *network)


def _podman(root: Path) -> Sequence[str]:
    places = ("--root", f"{root}/root", "--runroot", f"{root}/run", "--tmpdir", f"{root}/tmp")
    config = ("--network-config-dir", f"{root}/networks", "--volumepath", f"{root}/volumes")
    service = ("system", "service", "--time", "0", f"unix://{root}/sock")
    return (str(_program("podman")), *places, *config, "--runtime", "runc", *service)


def _program(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")


def _dies_with_us() -> Sequence[str]:
    setpriv = _program("setpriv")
    return () if setpriv is None else (setpriv, "--pdeathsig", "TERM")


def _answers(made: RealEngine) -> bool:
    try:
        return made.raw("GET", "/_ping")[0] == 200
    except OSError:
        return False


def _emptied(made: RealEngine) -> None:
    try:
        made.clear()
    except (OSError, AssertionError, http.client.HTTPException):
        return


def _ended(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_rest(root: Path) -> None:
    """End what names our directory: podman's monitors stay for five minutes after each exec."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if f"{root}/".encode() in path.read_bytes() and path.parent.name != str(os.getpid()):
                os.kill(int(path.parent.name), signal.SIGKILL)
        except OSError:
            continue


def _unmount(root: Path) -> None:
    with open("/proc/self/mounts") as mounts:
        places = [line.split()[1] for line in mounts]
    for place in sorted((one for one in places if one.startswith(f"{root}/")), key=len, reverse=True):
        subprocess.run(["umount", "-l", place], capture_output=True)


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return json.dumps(value)
