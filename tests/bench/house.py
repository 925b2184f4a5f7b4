"""A real daemon in a process of its own, with a state directory that is thrown away."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.bench.rawhttp import Connection, Refused
from tests.bench.runs import ROOT

START = (
    "import sys; from pathlib import Path; from controller.config import load; "
    "from controller.daemon import run; path = Path(sys.argv[1]); sys.exit(run(load(path), path))"
)
START_S = 60.0
POLL_S = 0.02
TICKS = os.sysconf("SC_CLK_TCK")

SIMULATED = """
[providers.sim]
type = "simulated"
call_delay = { least_s = 0 }
boot_delay = { least_s = 0 }
end_delay = { least_s = 0 }
visible_within_s = 0
"""


class House:
    """The daemon's process and its state directory."""

    def __init__(self, state: Path, config: str, command: tuple[str, ...] = ("-c", START)) -> None:
        self.state = state
        self.socket = state / "api.sock"
        self._config = state.parent / "config.toml"
        self._command = command
        text = f'[daemon]\nstate_dir = "{state}"\nlog_level = "warning"\n{config}'
        self._config.write_text(text)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the daemon and wait until it answers."""
        with (self.state.parent / "daemon.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self._command, str(self._config)], cwd=ROOT, stdout=log, stderr=log
            )
        self.until(self._answers, START_S)

    def _answers(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError(f"the daemon ended: {(self.state.parent / 'daemon.log').read_text()[-2000:]}")
        try:
            with Connection(self.socket) as connection:
                return bool(connection.get("/healthz") is not None)
        except OSError:
            return False

    def until(self, holds: Callable[[], bool], within_s: float = 300.0) -> None:
        """Wait for something. Raises TimeoutError."""
        end = time.monotonic() + within_s
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {within_s:g} s: {holds}")
            time.sleep(POLL_S)

    @property
    def pid(self) -> int:
        """The daemon's process."""
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """End the daemon without a word."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End the daemon; what it rented lives on."""
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
            self.process = None

    # --- what is asked of it ----------------------------------------------------------------------

    def ask(self, *messages: dict[str, Any]) -> None:
        """Send messages. Raises Refused when one of them is not taken."""
        with Connection(self.socket) as connection:
            connection.post(list(messages))

    def pool(self, name: str) -> dict[str, Any] | None:
        """A pool as the API shows it; None when there is none (yet)."""
        with Connection(self.socket) as connection:
            try:
                found: dict[str, Any] = connection.get(f"/v1/pools/{name}")
            except Refused:
                return None
            return found

    def ready(self, name: str) -> int:
        """Nodes of a pool that have a machine which works."""
        pool = self.pool(name)
        return 0 if pool is None else int(pool["ready"])

    def results(self, name: str) -> dict[str, int]:
        """How many tasks of a pool ended, by result; known after they are journaled."""
        found: dict[str, int] = (self.pool(name) or {}).get("results", {})
        return found

    def is_settled(self, name: str) -> bool:
        """Whether every request that was accepted for a pool is in its states."""
        with closing(self._journal()) as journal:
            query = "SELECT count(*) FROM requests WHERE pool = ? AND status = 'new'"
            (count,) = journal.execute(query, (name,)).fetchone()
            return bool(count == 0)

    def processes(self) -> dict[int, bytes]:
        """Every process that has this house's directory in its command line, such as its machines'."""
        found = {}
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                command = (directory / "cmdline").read_bytes()
            except OSError:
                continue
            if str(self.state).encode() in command:
                found[int(directory.name)] = command
        return found

    def agents(self) -> list[int]:
        """The agents' processes."""
        return [pid for pid, command in self.processes().items() if b"/agent/agent-" in command]

    def clear(self) -> None:
        """End the daemon and the machines that a failed measurement left."""
        self.kill()
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def make_pool(self, name: str, nodes: int, **spec: Any) -> None:
        """Make a pool and wait until all its nodes are ready."""
        self.ask({"kind": "pool_requested", "pool": name, "spec": {"nodes": nodes, **spec}})
        self.until(lambda: self.pool(name) is not None and self.ready(name) == nodes)

    def resize(self, name: str, nodes: int) -> None:
        """Give a pool another size and wait until all its nodes are ready."""
        self.ask({"kind": "pool_resize_requested", "pool": name, "nodes": nodes})
        self.until(lambda: self.ready(name) == nodes)

    def drop_pool(self, name: str) -> None:
        """End a pool and wait until its machines are gone."""
        self.ask({"kind": "shutdown_requested", "cluster_id": name})
        self.until(lambda: (self.pool(name) or {}).get("status", "destroyed") == "destroyed")

    def journaled(self, kind: str) -> int:
        """How many events of a kind are in the journal's file."""
        with closing(self._journal()) as journal:
            (count,) = journal.execute("SELECT count(*) FROM events WHERE kind = ?", (kind,)).fetchone()
            return int(count)

    def _journal(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.state}/journal.sqlite3?mode=ro", uri=True)


@contextmanager
def house(config: str, command: tuple[str, ...] = ("-c", START)) -> Iterator[House]:
    """A daemon that is up; at the end it is stopped and everything it left is removed."""
    root = Path(tempfile.mkdtemp(prefix="everpool-bench-"))
    (root / "state").mkdir(mode=0o700)
    made = House(root / "state", config, command)
    try:
        made.start()
        yield made
        made.stop()
    finally:
        made.clear()
        shutil.rmtree(root, ignore_errors=True)


def memory_kib(pid: int, what: str = "Pss") -> int:
    """A process's memory: Pss (its share of what is shared), or Rss."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1])
    raise RuntimeError(f"the kernel does not say {what}")


def cpu_s(pid: int) -> float:
    """Seconds of cpu that a process has had, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS
