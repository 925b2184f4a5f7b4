"""A daemon's side of the agent's stream, for tests: real processes, plain blocking calls."""

import base64
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from providers.agent import agent as agent_module
from providers.agent.wire import CommandsJson, FromAgentJson

AGENT = Path(agent_module.__file__)
WAIT_S = 30.0

Message = dict[str, Any]


def start(task: str, *argv: str, attempt: int = 1, epoch: int = 1, **fields: Any) -> Message:
    """A `start` message with what tests need most."""
    message = {"t": "start", "epoch": epoch, "task": task, "attempt": attempt, "argv": list(argv)}
    return {**message, "log_bytes_max": 1 << 20, "grace_s": 5, **fields}


def put(task: str, path: str, data: bytes, *, mode: int = 0o644, attempt: int = 1) -> Message:
    """A `put` of a whole file."""
    text = base64.b64encode(data).decode()
    return {
        "t": "put", "epoch": 1, "task": task, "attempt": attempt, "path": path, "mode": mode, "offset": 0,
        "data": text, "last": True,
    }  # fmt: skip


class Stream:
    """One `attach`: says hello, keeps what it heard, acknowledges when told to."""

    def __init__(self, command: list[str], hello: Message) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.heard: list[Message] = []
        self._rest = b""
        self.say(hello)

    def say(self, *messages: Message) -> None:
        """Send messages as one line; each must be right by wire.py."""
        line = json.dumps(messages).encode()
        CommandsJson.validate_json(line)
        self.say_raw(line + b"\n")

    def say_raw(self, data: bytes) -> None:
        """Send bytes as they are."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def hear(self, timeout_s: float) -> list[Message]:
        """Messages of the next lines, [] when none came or the stream ended."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], timeout_s)[0]:
            return []
        data = os.read(self.process.stdout.fileno(), 1 << 20)
        if not data:
            raise EOFError
        *lines, self._rest = (self._rest + data).split(b"\n")
        new: list[Message] = []
        for line in lines:
            FromAgentJson.validate_json(line)
            new += json.loads(line)
        self.heard += new
        return new

    def until(self, wanted: Callable[[Message], bool]) -> Message:
        """Listen until a message like this was heard, and return it."""
        give_up_at = time.monotonic() + WAIT_S
        seen = 0
        while True:
            for message in self.heard[seen:]:
                if wanted(message):
                    return message
            seen = len(self.heard)
            left_s = give_up_at - time.monotonic()
            assert left_s > 0, f"never heard; last: {self.heard[-5:]}"
            self.hear(left_s)

    def ended(self, task: str) -> Message:
        """Listen until an attempt of `task` ended."""
        return self.until(lambda m: m["t"] == "ended" and m["task"] == task)

    def of(self, kind: str, task: str = "") -> list[Message]:
        """What was heard of this kind."""
        return [m for m in self.heard if m["t"] == kind and (not task or m.get("task") == task)]

    def text(self, task: str, stream: str = "stdout") -> list[str]:
        """Lines of a task as they came."""
        logs = [m for m in self.of("log", task) if m["stream"] == stream]
        return [line for m in logs for line, _ in m["lines"]]

    def ack(self) -> int:
        """Acknowledge all that was heard."""
        boot = self.of("hello")[0]["boot"]
        last = max((m["id"] for m in self.heard if "id" in m), default=0)
        self.say({"t": "ack", "boot": boot, "id": last})
        return last

    def close(self) -> None:
        """End the attach process."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.process.kill()
        self.process.wait()


class Rig:
    """An agent's directory, and streams to it."""

    def __init__(self, directory: Path, python: str = sys.executable) -> None:
        self.dir = directory / "agent"
        self.notice = directory / "notice.json"
        self.python = python
        self.options: list[str] = ["--notice-file", str(self.notice)]
        self.streams: list[Stream] = []
        self.command_file = AGENT

    def attach(self, **hello: Any) -> Stream:
        """A new stream; the agent is started when none lives."""
        message = {
            "t": "hello", "protocol": 1, "owner": "o", "instance": "i-1", "epoch": 1, "boot": None,
            "acked": 0, "lease_s": 600, "slots": 4, "metrics_every_s": 0, "health": None, **hello,
        }  # fmt: skip
        command = [self.python, str(self.command_file), "attach", "--dir", str(self.dir), *self.options]
        stream = Stream(command, message)
        self.streams.append(stream)
        stream.until(lambda m: m["t"] == "hello")
        return stream

    def agent_pid(self) -> int:
        """Pid of the agent that holds the lock, 0 when none does."""
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError):
                    argv = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
                    if b"run" in argv and os.fsencode(self.dir) in argv:
                        return int(name)
        return 0

    def kill_agent(self) -> None:
        """kill -9, and wait until it is gone."""
        pid = self.agent_pid()
        assert pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: self.agent_pid() != pid)

    def end(self) -> None:
        """Leave nothing behind: no stream, no agent, no task."""
        for stream in self.streams:
            stream.close()
        quiet = 0
        while quiet < 5:  # one that was just being started may show up a moment later
            quiet += 1
            if self.agent_pid():
                self.kill_agent()
                quiet = 0
            time.sleep(0.02)
        for pid in marked(str(self.dir)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def marked(text: str) -> Iterator[int]:
    """Processes with `text` in their environment."""
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                if os.fsencode(text) in Path(f"/proc/{name}/environ").read_bytes():
                    yield int(name)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until(condition: Callable[[], bool]) -> None:
    """Poll a condition of the real world, for a bounded time."""
    give_up_at = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < give_up_at, "it never came true"
        time.sleep(0.01)
