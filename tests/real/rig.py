"""A real daemon in a directory of its own: started, killed, stopped, asked, and searched for what it left.

Everything goes over the API's unix socket, as a user's program would. Waiting is bounded polling.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from actors.events import (
    Envelope,
    InstanceDestroyed,
    InstanceLaunched,
    PoolRequested,
    ShutdownRequested,
    TaskCompleted,
    TaskRequested,
)
from actors.spec import PoolSpec, TaskSpec
from controller.client import Client, EverpoolError, LogLine, Operation
from providers.local.machine import start_time
from providers.local.wire import Record, read

PATIENCE_S = 60.0
POLL_S = 0.02
REPOSITORY = Path(__file__).parents[2]
T = TypeVar("T")


def until(wanted: Callable[[], T | None], what: str, within_s: float = PATIENCE_S) -> T:
    """Poll until `wanted` answers something true; fail after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        found = wanted()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)


class Rig:
    """One state directory, and the daemons that live in it one after another.

    Attributes:
        root: everything is below it; it names our processes.
        bugs_wanted: the test plants bugs: the end does not complain of them.
        program: what Python runs as the daemon.
        sources: where it finds the packages.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.log = root / "daemon.log"
        self.config = root / "config.toml"
        self.daemon: subprocess.Popen[bytes] | None = None
        self.client = Client(self.state / "api.sock")
        self.bugs_wanted = False
        self.program: tuple[str, ...] = ("-m", "controller")
        self.sources = REPOSITORY
        self._namespaces: dict[str, int] = {}  # of our machines; held open, so that no other gets its name
        self.configure()

    # --- the daemon -------------------------------------------------------------------------------

    def configure(self, *, daemon: str = "", local: str = "", rest: str = "") -> None:
        """Write the config; each part is TOML for its section."""
        self.config.write_text(
            f'[daemon]\nstate_dir = "{self.state}"\nobserve_every_s = 1\n{daemon}\n'
            f'[providers.local]\ntype = "local"\n{local}\n{rest}\n'
        )

    def start(self, *, wait: bool = True) -> None:
        """Start a daemon, and wait until it is ready."""
        assert self.daemon is None or self.daemon.poll() is not None, "a daemon runs already"
        self.daemon = self.spawn(self.config)
        if wait:
            self.until_ready()

    def spawn(self, config: Path) -> "subprocess.Popen[bytes]":
        """Start a daemon with any config; what it says goes to the log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *self.program, "serve", "--config", str(config)],
                cwd=self.sources,
                env=os.environ | {"PYTHONPATH": str(self.sources)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def until_ready(self) -> None:
        """Wait until the daemon can do its work."""
        until(self.is_ready, f"the daemon is ready; its log ends in\n{self.log_tail()}")

    def is_ready(self) -> bool:
        """Whether the daemon answers, and can do its work."""
        assert self.daemon is not None
        assert self.daemon.poll() is None, f"the daemon ended by itself:\n{self.log_tail()}"
        return bool(self.health().get("ready"))

    def health(self) -> dict[str, Any]:
        """What /readyz says; empty while nobody answers."""
        try:
            return self.client.ready()
        except EverpoolError:
            return {}

    def kill(self) -> None:
        """Kill -9 the daemon."""
        if self.daemon is not None:
            self.daemon.kill()
            self.daemon.wait()

    def stop(self) -> int:
        """Tell the daemon to stop; its exit code."""
        assert self.daemon is not None
        self.daemon.terminate()
        return self.daemon.wait(30)

    def restart(self) -> None:
        """Kill -9 the daemon and start another."""
        self.kill()
        self.start()

    def restart_observing(self) -> None:
        """Kill -9 a daemon that only observes, and start another that does."""
        self.kill()
        self.start(wait=False)
        until(lambda: self.health().get("observing_only"), "it only observes")

    def log_tail(self, lines: int = 40) -> str:
        """The end of what daemons said."""
        if not self.log.exists():
            return "(nothing)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    # --- asking -----------------------------------------------------------------------------------

    def end_of(self, request_id: str, within_s: float = PATIENCE_S) -> Operation:
        """Wait for the end of a Request."""
        return self.client.wait(request_id, within_s)

    def up(self, name: str = "main", nodes: int = 1, within_s: float = PATIENCE_S, **spec: Any) -> Operation:
        """Ask for a pool, and wait until it is whole (or the request failed)."""
        request = PoolRequested(pool=name, spec=pool_spec(nodes, **spec), ready_within_s=within_s)
        return self.end_of(self.client.submit(request).request_id, within_s)

    def down(self, name: str = "main", within_s: float = PATIENCE_S) -> None:
        """End a pool, and wait until nothing of it is left."""
        request = ShutdownRequested(cluster_id=name)
        ended = self.end_of(self.client.submit(request).request_id, within_s)
        assert ended.status == "success", ended

    def task(self, shell: str = "", *, pool: str = "main", **spec: Any) -> str:
        """Ask for a task; its id."""
        task = TaskSpec.model_validate(spec | ({"shell": shell} if shell else {}))
        return self.client.submit(TaskRequested(pool=pool, task=task)).request_id

    def done(self, task: str, within_s: float = PATIENCE_S) -> TaskCompleted:
        """Wait for a task's end."""
        end = self.end_of(task, within_s).end
        assert end is not None
        return TaskCompleted.model_validate(end)

    def run(self, shell: str = "", *, pool: str = "main", **spec: Any) -> TaskCompleted:
        """Run a task to its end."""
        return self.done(self.task(shell, pool=pool, **spec))

    def until_running(self, task: str) -> dict[str, Any]:
        """Wait until a task runs; its view."""

        def running() -> dict[str, Any] | None:
            view = self.client.task(task)
            assert view["status"] != "stopped", view
            return view if view["status"] == "running" else None

        return until(running, f"task {task} runs")

    def lines(self, task: str, **wanted: Any) -> list[LogLine]:
        """All lines of a task that are there."""
        return list(self.client.task_log(task, **wanted))

    def text(self, task: str, stream: str = "stdout") -> list[str]:
        """The text of one stream."""
        return [line.text for line in self.lines(task) if line.stream == stream]

    def events(self, *kinds: str, pool: str | None = None, after: int = 0) -> list[Envelope]:
        """Every event so far, of these kinds."""
        found: list[Envelope] = []
        while page := self.client.events(after, limit=10_000, kinds=kinds, pool=pool):
            found += page
            after = page[-1].seq
        return found

    def until_event(self, *kinds: str, after: int = 0, within_s: float = PATIENCE_S) -> Envelope:
        """Wait for the first event of these kinds."""
        found = until(lambda: self.events(*kinds, after=after), f"an event of {kinds}", within_s)
        return found[0]

    # --- machines ---------------------------------------------------------------------------------

    def records(self) -> dict[str, Record]:
        """Machines whose parent lives, by instance."""
        found: dict[str, Record] = {}
        for path in self.state.glob("providers/*/machines/*/machine.json"):
            record = read(Record, path)
            if record is not None and self._lives(record):
                found[record.instance_id] = record
        return found

    def _lives(self, record: Record) -> bool:
        """Whether it lives; if so its namespace is remembered."""
        name = _namespace(record.pid)
        if name is not None and name != _namespace(os.getpid()) and name not in self._namespaces:
            try:
                held = os.open(f"/proc/{record.pid}/ns/pid", os.O_RDONLY)
            except OSError:
                return False
            if start_time(record.pid) != record.start_time:  # it is another's by now
                os.close(held)
                return False
            self._namespaces[name] = held
        return start_time(record.pid) == record.start_time

    def directory(self, instance: str) -> Path:
        """Where a machine lives."""
        for path in self.state.glob("providers/*/machines/*/machine.json"):
            record = read(Record, path)
            if record is not None and record.instance_id == instance:
                return path.parent
        raise AssertionError(f"no machine of {instance}")

    def kill_machine(self, instance: str) -> None:
        """Take a machine away without a word."""
        os.kill(self.records()[instance].pid, signal.SIGKILL)

    def give_notice(self, instance: str, *, within_s: float | None = 20.0, kill: bool = True) -> None:
        """Tell a machine that it will be taken, as its provider would."""
        now = time.time()
        notice = {
            "reason": "planted",
            "deadline_at": None if within_s is None else now + within_s,
            "within_s": within_s,
            "kill_at": now + within_s if kill and within_s is not None else None,
        }
        place = self.directory(instance) / "notice.json"
        draft = place.with_name(".notice.new")
        draft.write_text(json.dumps(notice))
        draft.rename(place)

    def withdraw_notice(self, instance: str) -> None:
        """Take it back."""
        (self.directory(instance) / "notice.json").unlink()

    def machine_of(self, pool: str = "main", node: int = 0) -> str:
        """The ready machine of a node."""

        def ready() -> str | None:
            for one in self.client.instances(pool):
                if one["node"] == node and one["status"] == "ready":
                    return str(one["id"])
            return None

        return until(ready, f"node {node} of {pool} has a ready machine")

    def processes(self) -> dict[int, str]:
        """Every living process of ours but the daemon, by pid; what a machine hides in its namespace too."""
        self.records()
        daemon = self.daemon.pid if self.daemon is not None and self.daemon.poll() is None else None
        own = {os.getpid(), daemon}
        mark = os.fsencode(self.root) + b"/"
        found: dict[int, str] = {}
        for name in os.listdir("/proc"):
            if not name.isdecimal() or int(name) in own:
                continue
            pid = int(name)
            if _namespace(pid) in self._namespaces or mark in _about(pid):
                about = _command(pid)
                if about is not None:
                    found[pid] = about
        return found

    # --- what must hold at the end ----------------------------------------------------------------

    def check_ends(self) -> None:
        """Every machine that was launched is destroyed, once; no process is left."""
        launched = [_instance_of(one) for one in self.events("instance_launched")]
        destroyed = [_instance_of(one) for one in self.events("instance_destroyed")]
        assert sorted(destroyed) == sorted(launched)
        assert len(set(launched)) == len(launched)
        until(lambda: not self.processes(), f"no process is left: {self.processes()}", 10)

    def check_tasks(self, tasks: Iterable[str]) -> dict[str, TaskCompleted]:
        """Each task completed, exactly once; how."""
        counts: dict[str, int] = defaultdict(int)
        ends: dict[str, TaskCompleted] = {}
        for envelope in self.events("task_completed"):
            assert isinstance(envelope.event, TaskCompleted)
            counts[envelope.event.task_id] += 1
            ends[envelope.event.task_id] = envelope.event
        wanted = list(tasks)
        assert {task: counts[task] for task in wanted if counts[task] != 1} == {}
        return {task: ends[task] for task in wanted}

    def check_log(self, task: str) -> dict[tuple[int, str], list[str]]:
        """Lines of a task are numbered without gap or double, per attempt and stream; their text."""
        texts: dict[tuple[int, str], list[str]] = defaultdict(list)
        for line in self.lines(task):
            if not line.text and line.lost_bytes + line.lost_lines:
                continue  # says what was lost with a machine
            known = texts[line.attempt, line.stream]
            known.append(line.text)
            assert line.n == len(known), (task, line)
        return texts

    def end(self) -> None:
        """Leave nothing behind, and complain of bugs."""
        self.kill()
        self.client.close()
        deadline = time.monotonic() + 20
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(POLL_S)
        for held in self._namespaces.values():
            os.close(held)
        said = self.log.read_text(errors="replace") if self.log.exists() else ""
        shutil.rmtree(self.root, ignore_errors=True)
        if not self.bugs_wanted:
            at = said.find("Traceback (most recent call last)")
            assert at < 0, said[max(0, at - 2000) : at + 6000]
            assert "bug" not in {word.strip("[]':,") for word in said.split()}, said[-6000:]


def pool_spec(nodes: int = 1, **spec: Any) -> PoolSpec:
    """A spec with `nodes` nodes of the local provider."""
    return PoolSpec.model_validate({"provider": "local", "nodes": nodes, "metrics_every_s": 1} | spec)


def tasks_of(pool: str, specs: Sequence[dict[str, Any]]) -> list[TaskRequested]:
    """Requests for many tasks, with ids."""
    batch = secrets.token_hex(3)
    return [
        TaskRequested(request_id=f"t-{batch}-{i}", pool=pool, task=TaskSpec.model_validate(spec))
        for i, spec in enumerate(specs)
    ]


def _instance_of(envelope: Envelope) -> str:
    assert isinstance(envelope.event, InstanceLaunched | InstanceDestroyed)
    return envelope.event.instance_id


def _namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return None


def _about(pid: int) -> bytes:
    """Everything about a process that can name our directory."""
    parts = []
    for name in ("cmdline", "environ"):
        try:
            parts.append(Path(f"/proc/{pid}/{name}").read_bytes())
        except OSError:
            continue
    try:
        parts.append(os.fsencode(os.readlink(f"/proc/{pid}/cwd")) + b"/")
    except OSError:
        pass
    return b"\0".join(parts)


def _command(pid: int) -> str | None:
    """The command of a process that lives, None for one that is dead and not buried."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return None
    return None if state in b"ZX" else command.decode(errors="replace")[:200]
