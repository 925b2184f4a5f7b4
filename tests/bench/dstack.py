"""`python -m tests.bench.dstack`: how long one submit takes, here and at a running dstack server, in one run.

EVERPOOL_DSTACK names the Python of a virtual environment with `pip install 'dstack[server]'`; its server is
started in a folder that is thrown away, on loopback, with no backend. What is compared is the call by which a
program submits work and after which it is durable: POST /v1/messages with a TaskRequested (committed with
fsync), and dstack's POST /api/project/main/runs/apply with a task (committed to its SQLite; the run stays
`submitted` until its server finds no offer). Both over TCP on loopback, with a token, on one kept
connection, one after the other, in turns. dstack's own look for prices elsewhere is not waited for.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import TextIO

from tests.bench.house import house

POOL, TOKEN = "bench", "a-token-for-the-bench-of-submits"
ROUNDS, SUBMITS, WARM = 5, 60, 10
START_S = 120.0
TASK = {
    "plan": {
        "run_spec": {
            "repo_id": "none",
            "repo_data": {"repo_type": "virtual"},
            "configuration_path": "task.dstack.yml",
            "configuration": {"type": "task", "commands": ["true"]},
            "ssh_key_pub": "ssh-ed25519 AAAA bench",
        }
    },
    "force": False,
}


class Submitter:
    """Submits on one kept connection, one after the other, and takes the time of each."""

    def __init__(self, port: int, path: str, body: Callable[[int], object]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._path = path
        self._body = body
        self._count = 0
        self.seconds: list[float] = []

    def submit(self, count: int) -> None:
        """Submit so many. Raises RuntimeError when one is not taken."""
        for _ in range(count):
            self._count += 1
            body = json.dumps(self._body(self._count)).encode()
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
            began = time.perf_counter()
            self._connection.request("POST", self._path, body, headers)
            response = self._connection.getresponse()
            said = response.read()
            self.seconds.append(time.perf_counter() - began)
            if response.status not in (200, 202):
                raise RuntimeError(f"HTTP {response.status}: {said[:500].decode(errors='replace')}")

    def figures(self) -> tuple[float, float]:
        """Median and 90th percentile, milliseconds."""
        return median(self.seconds) * 1000, quantiles(self.seconds, n=10)[-1] * 1000


def free_port() -> int:
    """A TCP port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def dstack(python: Path) -> Iterator[int]:
    """A dstack server that answers; its port."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="everpool-bench-dstack-") as folder:
        settings = {
            "HOME": folder,
            "DSTACK_SERVER_DIR": f"{folder}/server",
            "DSTACK_SERVER_ADMIN_TOKEN": TOKEN,
            "DSTACK_DEFAULT_CREDS_DISABLED": "1",
        }
        command = [
            str(python.parent / "dstack"),
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--yes",
        ]
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(
                command, env=os.environ | settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            end = time.monotonic() + START_S
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > end:
                    tail = (Path(folder) / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"the dstack server does not start:\n{tail}")
                time.sleep(0.1)
            yield port
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def measure(python: Path, say: Callable[[str], None]) -> dict[str, float]:
    """Medians of both, in milliseconds, and their ratio."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        token = Path(folder) / "token"
        token.touch(0o600)
        token.write_text(TOKEN)
        ours = f'listen = "127.0.0.1:{port}"\ntoken_file = "{token}"\n'
        with house(ours) as home, dstack(python) as theirs:
            home.make_pool(POOL, 0, provider="local")
            here = Submitter(port, "/v1/messages", _task)
            there = Submitter(theirs, "/api/project/main/runs/apply", lambda count: TASK)
            here.submit(WARM)
            there.submit(WARM)
            here.seconds, there.seconds = [], []
            for turn in range(ROUNDS):
                here.submit(SUBMITS)
                there.submit(SUBMITS)
                say(f"round {turn + 1}: {here.figures()[0]:.2f} ms here, {there.figures()[0]:.2f} ms dstack")
    (own, own_90), (their, their_90) = here.figures(), there.figures()
    return {
        "submit_ms": own,
        "submit_p90_ms": own_90,
        "dstack_submit_ms": their,
        "dstack_submit_p90_ms": their_90,
        "dstack_submit_ratio": their / own,
    }


def _task(count: int) -> object:
    return {
        "kind": "task_requested",
        "request_id": f"one-{count}",
        "pool": POOL,
        "task": {"argv": ["/bin/true"]},
    }


def main() -> int:
    """Measure, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.dstack", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    python = os.environ.get("EVERPOOL_DSTACK")
    if not python:
        sys.stderr.write(
            "set EVERPOOL_DSTACK to the Python of a virtual environment with dstack[server]: "
            "python3 -m venv /tmp/dstack && /tmp/dstack/bin/pip install 'dstack[server]'\n"
        )
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    figures = measure(Path(python), lambda text: print_to(sys.stderr, text))
    if options.json:
        print_to(sys.stdout, json.dumps({name: float(f"{value:.4g}") for name, value in figures.items()}))
    else:
        for name, value in figures.items():
            print_to(sys.stdout, f"{name:24} {value:8.4g}")
    return 0


def print_to(stream: TextIO, text: str) -> None:
    """Write a line."""
    stream.write(f"{text}\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
