"""A machine and a daemon in memory around the agent's pure core: what its loop and the network would do."""

import base64
import json
from collections.abc import Callable
from typing import Any

from providers.agent import agent as a
from providers.agent.wire import CommandsJson, FromAgentJson

Message = dict[str, Any]
Key = tuple[str, int]


class Crash(Exception):
    """The agent's process died between two actions."""


class Daemon:
    """Keeps what it hears as wire.py says, and what of it is durable."""

    def __init__(self) -> None:
        self.durable = 0  # acknowledged, or about to be
        self.boot: str | None = None
        self.texts: dict[tuple[str, int, str], list[tuple[str, int]]] = {}
        self.offsets: dict[tuple[str, int, str], int] = {}
        self.lines_dropped: dict[Key, int] = {}
        self.files: dict[tuple[str, int, str], bytes] = {}
        self.reports: list[Message] = []  # each id once
        self.hellos: list[Message] = []

    def hear(self, messages: list[Message]) -> None:
        """Take in one line."""
        FromAgentJson.validate_json(json.dumps(messages))
        for message in messages:
            if message["t"] == "hello":
                self.hellos.append(message)
                self.boot = message["boot"]
            elif message["id"] == 0:
                self.reports.append(message)
            elif message["id"] > self.durable:
                self.durable = message["id"]
                self._keep(message)

    def _keep(self, message: Message) -> None:
        self.reports.append(message)
        if message["t"] == "log":
            stream = (message["task"], message["attempt"], message["stream"])
            assert message["offset"] == self.offsets.get(stream, 0), "a gap, or bytes twice"
            self.offsets[stream] = message["next_offset"]
            self.texts.setdefault(stream, []).extend((text, kind) for text, kind in message["lines"])
            key = stream[:2]
            self.lines_dropped[key] = self.lines_dropped.get(key, 0) + message.get("dropped", 0)
        elif message["t"] == "file" and "data" in message:
            name = (message["task"], message["attempt"], message["path"])
            before = self.files.get(name, b"")
            assert message["offset"] == len(before)
            self.files[name] = before + base64.b64decode(message["data"])

    def of(self, kind: str) -> list[Message]:
        """Reports of this kind, in order."""
        return [m for m in self.reports if m["t"] == kind]

    def ended(self) -> dict[str, Message]:
        """How tasks ended; each exactly once."""
        ends = self.of("ended")
        assert len({(m["task"], m["attempt"]) for m in ends}) == len(ends), "ended twice"
        return {m["task"]: m for m in ends}


class Process:
    """A task that runs, or ended unseen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.alive = True


class World:
    """Performs the core's actions at once; time stands still unless told."""

    def __init__(self, *, lease_s: float = 0) -> None:
        self.now = 100.0
        self.lease_s = lease_s
        self.records: list[str] = []
        self.daemon = Daemon()
        self.connected = False
        self.outputs: dict[tuple[str, int, int], bytes] = {}
        self.files: dict[tuple[str, int, str], bytes] = {}
        self.processes: dict[Key, Process] = {}
        self.ever_spawned: list[Key] = []
        self.removed: list[Key] = []
        self.acts: list[Any] = []  # all that was not performed here
        self.refuse_spawn: tuple[int, str] | None = None
        self.crash_after: int | None = None  # actions
        self.core = a.Core("boot-1", lease_s=lease_s)
        self.step(a.Resume())

    def step(self, item: Any) -> None:
        """Feed an input, and the answers to what it causes, until nothing follows."""
        inputs = [item]
        while inputs:
            for action in self.core.step(self.now, inputs.pop(0)):
                if self.crash_after is not None:
                    if self.crash_after == 0:
                        raise Crash
                    self.crash_after -= 1
                answer = self._perform(action)
                if answer is not None:
                    inputs.append(answer)

    def _perform(self, action: Any) -> Any:
        answer = self._ANSWERS.get(type(action))
        if answer is not None:
            return answer(self, action)
        if isinstance(action, a.Send):
            assert self.connected
            self.daemon.hear(json.loads(json.dumps(action.messages)))
        elif isinstance(action, a.Persist):
            self.records.append(json.dumps(action.record))
        elif isinstance(action, a.RemoveTaskDir):
            self.removed.append((action.task, action.attempt))
        else:
            self.acts.append(action)
        return None

    def _spawn(self, action: a.Spawn) -> Any:
        key = (action.task, action.attempt)
        if self.refuse_spawn is not None:
            return a.SpawnFailed(*key, *self.refuse_spawn)
        self.ever_spawned.append(key)
        self.processes[key] = Process(1000 + len(self.ever_spawned))
        return a.Spawned(*key, self.processes[key].pid, 7)

    def _adopt(self, action: a.Adopt) -> Any:
        key = (action.task, action.attempt)
        process = self.processes.get(key)
        if process is not None and process.alive and action.pid in (0, process.pid):
            return a.Spawned(*key, process.pid, 7)
        return a.Exited(*key, out=self._size(key, 0), err=self._size(key, 1), seen=False)

    def _read_output(self, action: a.ReadOutput) -> Any:
        assert (action.task, action.attempt) not in self.removed
        data = self.outputs.get((action.task, action.attempt, action.stream), b"")
        piece = data[action.offset : action.offset + action.length]
        return a.Output(action.task, action.attempt, action.stream, action.offset, piece, action.id)

    def _find_file(self, action: a.FindFile) -> Any:
        data = self.files.get((action.task, action.attempt, action.path))
        error = "No such file or directory" if data is None else None
        return a.FoundFile(action.task, action.attempt, action.path, len(data or b""), error)

    def _read_file(self, action: a.ReadFile) -> Any:
        assert (action.task, action.attempt) not in self.removed
        data = self.files[(action.task, action.attempt, action.path)]
        return a.FileRead(action.id, data[action.offset : action.offset + action.length])

    _ANSWERS: dict[type, Callable[["World", Any], Any]] = {
        a.Spawn: _spawn,
        a.Adopt: _adopt,
        a.ReadOutput: _read_output,
        a.FindFile: _find_file,
        a.ReadFile: _read_file,
    }

    def _size(self, key: Key, stream: int) -> int:
        return len(self.outputs.get((*key, stream), b""))

    # --- what happens to the machine

    def connect(self, **hello: Any) -> None:
        """A new stream, greeted from where the daemon stands."""
        self.connected = True
        self.step(a.Connected())
        self.say({
            "t": "hello", "protocol": 1, "owner": "o", "instance": "i", "epoch": 1,
            "boot": self.daemon.boot, "acked": self.daemon.durable, "lease_s": 1000,
            "slots": 2, "metrics_every_s": 0, "health": None, **hello,
        })  # fmt: skip

    def disconnect(self) -> None:
        """The stream breaks."""
        if self.connected:
            self.connected = False
            self.step(a.Disconnected())

    def say(self, *messages: Message) -> None:
        """The daemon says something, right by wire.py."""
        CommandsJson.validate_json(json.dumps(messages))
        self.step(a.Said(list(messages)))

    def ack(self) -> None:
        """The daemon acknowledges all that it keeps."""
        if self.connected:
            self.say({"t": "ack", "boot": self.daemon.boot, "id": self.daemon.durable})

    def write(self, key: Key, stream: int, data: bytes) -> None:
        """A task writes."""
        where = (*key, stream)
        self.outputs[where] = self.outputs.get(where, b"") + data

    def grown(self, key: Key) -> None:
        """The agent looks at the sizes of a task's output."""
        for stream in (0, 1):
            self.step(a.Grown(*key, stream, self._size(key, stream)))

    def exit(self, key: Key, code: int | None = 0, sig: int | None = None, *, left: bool = False) -> None:
        """The main process of a task ends, seen by the agent."""
        self.processes[key].alive = False
        self.step(a.Exited(*key, code, sig, False, left, self._size(key, 0), self._size(key, 1)))

    def advance(self, seconds: float) -> None:
        """Let time pass, with every tick that is asked for."""
        until = self.now + seconds
        while True:
            wake = self.core.next_wake()
            if wake is None or wake > until:
                break
            self.now = max(wake, self.now)
            self.step(a.Tick())
        self.now = until

    def restart(self, *, rebooted: bool = False) -> None:
        """The agent dies; another process of it reads what was written down."""
        self.connected = False
        self.crash_after = None
        self.core = a.Core("boot-1", lease_s=self.lease_s)
        self.core.now = self.now
        for record in self.records:
            self.core.replay(json.loads(record))
        self.records = [json.dumps(record) for record in self.core.snapshot()]
        self.step(a.Resume(rebooted=rebooted))
