#!/usr/bin/env python3
"""The program on a machine that runs its tasks and reports. One file, standard library, Python >= 3.8.

    agent.py run --dir D [--notice-file F] [--metadata aws|gcp [--metadata-url BASE]] [--end-command CMD]
                 [--lease S] [--rebalance replace|ignore]          the agent, in the foreground
    agent.py attach --dir D [same options]      stdin/stdout joined to the agent, which is started if need be
    agent.py version                            first 16 hex digits of this file's sha256

The protocol is `wire.py`. `Core` decides and does nothing else; `Loop` reads sockets, starts processes and
writes files for it.

Core, for whoever drives it (the loop below, a simulation, tests)
-----------------------------------------------------------------

`core = Core(boot)`, then `core.replay(record)` for every record persisted before, in order, then
`core.step(now, Resume(...))` once. From then on every happening is one `core.step(now, input)`, which
returns the actions to perform, in that order; the answers to actions are later inputs. `now` is any clock
in seconds that never goes back. `core.next_wake()` is when to step with `Tick()` at the latest, None for
never; it changes with every step. A core polls nothing and owns no thread, file, clock or random number.

A stream to a daemon: `Connected()`, then `Said([message, ...])` as they come, `Disconnected()`.
`Send(messages)` goes out as one line; it is only given while connected. Persist what came before a `Spawn`
or `Send` before doing it: then an id is never used twice and a task never started twice.

A task without output: `Spawn` -> `Spawned(task, attempt, pid, start_time)` or `SpawnFailed(...)`; when its
main process is over `Exited(task, attempt, code, signal, out=0, err=0)`. That is all a plain simulation
needs. `left=True` says that processes of it are still there: `Signal`s follow, until `Gone(task, attempt,
out, err)`. `out` and `err` are the sizes of its two output files. `Signal(task, attempt, sig)` is for the
whole group.

With output: `Grown(task, attempt, stream, size)` when a file grew; `ReadOutput(task, attempt, stream,
offset, length, id)` wants those bytes, answered by `Output(same..., data, id)` with at most `length` bytes.
The core holds no log text: it is read again to be sent again. `Release` gives a range of the file back to
the disk. `FindFile` -> `FoundFile(size or error)` and `ReadFile` -> `FileRead` do the same for files to
fetch. `RemoveTaskDir`: nothing of the attempt's directory is needed any more.

A set-up step: `RunStep` -> `StepStarted`, `StepOutput(run_id, stream, [(text, kind), ...])`, `StepEnded`;
`StopStep(run_id, sig)`. The rest: `Sample` -> `Sampled` (and `TaskMetrics`), `CheckHealth` ->
`HealthChecked`, `Hook` (the on_notice command) -> `HookEnded`, `WriteFile` (a failure is told by
`PutFailed`), `Noticed(reason, within_s, source)` when the word of one of those who know changes (reason None:
none any more; what all of them say together is reported when that changes, and the soonest end counts),
`EndMachine` (the lease is over; `EndFailed` to be asked again in a minute), `Exec(path)` (become that
program, or `ExecFailed`), `Adopt(task, attempt, pid, start_time)` after a restart -> `Spawned` when that
very process lives (pid 0: look for it), else `Exited(seen=False)`.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import collections
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import selectors
import shutil
import signal
import socket
import stat
import struct
import sys
import threading
import time
import uuid
from typing import Any, Callable, Deque, Dict, Iterator, List, NamedTuple, NoReturn, Optional, Set, Tuple

PROTOCOL = 1
PIECE = 64 * 1024  # bytes of a longer line that go as one
READ_MAX = 3 * PIECE  # of output, at once
LINES_MAX = 4096  # in one log report
FILE_PIECE = 192 * 1024  # of a fetched file, in one report
STREAM_WINDOW = 128 * 1024  # unacknowledged output of one stream before reading on only for the disk's sake
SEND_WINDOW = 1024 * 1024  # unacknowledged bytes of logs and files on the wire
BACKLOG_MAX = 1024 * 1024  # unread output that makes us read on, connected or not
DROP_REPORT_BYTES = 16 * 1024 * 1024  # dropped output between two reports of it
SKIP_BYTES = 64 * 1024 * 1024  # unread output over quota that is thrown away unread, counted as one line
RELEASE_BYTES = 1024 * 1024  # given back to the disk at once
SPOOL_COUNT_MAX = 20_000
SPOOL_BYTES_MAX = 8 * 1024 * 1024
TASKS_MAX = 100_000
DONE_MAX = 1000  # ended attempts remembered after their end was acknowledged
RUNS_MAX = 16  # bootstrap runs remembered
HIDDEN = "[hidden]"  # instead of a secret in what a set-up step prints
HIDDEN_CHARS_MIN = 6  # a shorter value would black out ordinary words
LEFT_GRACE_S = 2.0  # for processes that a task left behind, between TERM and KILL
STEP_GRACE_S = 5.0
KILL_AGAIN_S = 2.0
END_AGAIN_S = 60.0
DISK_FREE_MIN = 32 * 1024 * 1024
DISK_TOLD_EVERY_S = 60.0
SEND_BYTES = 1024 * 1024  # in one line to the daemon; a single message may be larger
STREAMS = ("stdout", "stderr")
_LIGHT = ("metrics", "console")  # reports that may be dropped when the spool is full
EARLY_SOURCES = ("aws-rebalance",)  # of words that only recommend to leave
TASK_METRICS_MAX = 1000  # reports from one look at a task's metrics file

Message = Dict[str, Any]
Key = Tuple[str, int]
Line = Tuple[str, int]
Notice = Tuple[str, Optional[float]]  # the reason, and when the machine ends

WAITING, SPAWNING, RUNNING, CLEANING, DRAINING, ENDED = range(6)
_STATE_WORDS = ("waiting", "running", "running", "running", "running", "ended")

# --- inputs -------------------------------------------------------------------------------------


class Resume(NamedTuple):
    """All records were replayed. `rebooted`: the machine's own boot is another, its processes are gone."""

    rebooted: bool = False


class Connected(NamedTuple):
    """A new stream is open; a stream before it is closed."""


class Disconnected(NamedTuple):
    """The stream is closed."""


class Said(NamedTuple):
    """What the daemon said, in order."""

    messages: List[Message]


class Spawned(NamedTuple):
    """The attempt's process runs."""

    task: str
    attempt: int
    pid: int
    start_time: int


class Identified(NamedTuple):
    """When the process named by Spawned(start_time=0) started: with its pid it names it for ever."""

    task: str
    attempt: int
    start_time: int


class SpawnFailed(NamedTuple):
    """The attempt's process could not be started; `code` as a shell would say, 126 or 127."""

    task: str
    attempt: int
    code: int
    error: str


class Exited(NamedTuple):
    """The attempt's main process is over. `seen` False: nobody saw how."""

    task: str
    attempt: int
    code: Optional[int] = None
    signal: Optional[int] = None
    oom: bool = False
    left: bool = False
    out: int = 0
    err: int = 0
    seen: bool = True


class Gone(NamedTuple):
    """After Exited(left=True): no process of the attempt is left. `out`, `err`: final sizes of its output."""

    task: str
    attempt: int
    out: int = 0
    err: int = 0


class HookEnded(NamedTuple):
    """The on_notice command is over."""

    task: str
    attempt: int


class Grown(NamedTuple):
    """An output file has `size` bytes now."""

    task: str
    attempt: int
    stream: int
    size: int


class Output(NamedTuple):
    """Answer to ReadOutput."""

    task: str
    attempt: int
    stream: int
    offset: int
    data: bytes
    id: int = 0


class FoundFile(NamedTuple):
    """Answer to FindFile."""

    task: str
    attempt: int
    path: str
    size: int = 0
    error: Optional[str] = None


class FileRead(NamedTuple):
    """Answer to ReadFile."""

    id: int
    data: bytes = b""
    error: Optional[str] = None


class PutFailed(NamedTuple):
    """A file could not be written; the attempt can't start."""

    task: str
    attempt: int
    error: str


class StepStarted(NamedTuple):
    """The step's shell runs."""

    run_id: str
    pid: int
    start_time: int


class StepOutput(NamedTuple):
    """Lines that a step wrote."""

    run_id: str
    stream: int
    lines: List[Line]


class StepEnded(NamedTuple):
    """The step's shell is over; `error` when it could not be started."""

    run_id: str
    code: Optional[int] = None
    signal: Optional[int] = None
    error: Optional[str] = None


class Noticed(NamedTuple):
    """What `source` says now: the machine will be taken, or (reason None) it will not."""

    reason: Optional[str]
    within_s: Optional[float] = None
    source: str = "file"


class Sampled(NamedTuple):
    """The machine's metrics, and bytes free on the agent's disk."""

    values: Dict[str, float]
    disk_free: Optional[int] = None


class TaskMetrics(NamedTuple):
    """What a task wrote to its metrics file; `at` None: now."""

    task: str
    values: Dict[str, float]
    at: Optional[float] = None


class DiskFull(NamedTuple):
    """A write failed for want of space."""


class HealthChecked(NamedTuple):
    """Answer to CheckHealth; `error` None: the machine is well."""

    error: Optional[str]


class EndFailed(NamedTuple):
    """The machine could not be ended."""


class ExecFailed(NamedTuple):
    """The new program can't be run; we stay what we are."""

    error: str


class Clock(NamedTuple):
    """Wall clock minus `now`: set once, and whenever somebody turned the wall clock."""

    skew: float


class Tick(NamedTuple):
    """It is next_wake()."""


# --- actions ------------------------------------------------------------------------------------


class Send(NamedTuple):
    """Messages to the daemon."""

    messages: List[Message]


class Persist(NamedTuple):
    """A record (JSON) to keep for replay."""

    record: List[Any]


class Spawn(NamedTuple):
    """Start an attempt; `command` is its `start` message."""

    task: str
    attempt: int
    command: Message


class Signal(NamedTuple):
    """Send `sig` to every process of the attempt."""

    task: str
    attempt: int
    sig: int


class Adopt(NamedTuple):
    """After a restart: say whether this process lives."""

    task: str
    attempt: int
    pid: int
    start_time: int


class Hook(NamedTuple):
    """Run the task's on_notice command; `seconds` are left, None when nobody said how many."""

    task: str
    attempt: int
    command: str
    reason: str
    seconds: Optional[float]


class ReadOutput(NamedTuple):
    """Read a piece of output."""

    task: str
    attempt: int
    stream: int
    offset: int
    length: int
    id: int


class Release(NamedTuple):
    """These bytes of an output file are not needed any more."""

    task: str
    attempt: int
    stream: int
    offset: int
    end: int


class FindFile(NamedTuple):
    """Tell the size of a file to fetch; `path` is relative to `cwd`, or to the attempt's own directory."""

    task: str
    attempt: int
    path: str
    cwd: Optional[str]


class ReadFile(NamedTuple):
    """Read a piece of a file to fetch."""

    task: str
    attempt: int
    path: str
    cwd: Optional[str]
    offset: int
    length: int
    id: int


class WriteFile(NamedTuple):
    """Write a piece of a file into the attempt's directory; it appears whole, with its last piece."""

    task: str
    attempt: int
    path: str
    mode: int
    offset: int
    data: bytes
    last: bool


class RemoveTaskDir(NamedTuple):
    """Nothing of the attempt's directory is needed any more."""

    task: str
    attempt: int


class RunStep(NamedTuple):
    """Run one step of the set-up."""

    run_id: str
    step: int
    run: str
    env: Dict[str, str]


class StopStep(NamedTuple):
    """Signal the step's process group; `pid` and `start_time` name it after a restart."""

    run_id: str
    sig: int
    pid: int
    start_time: int


class Sample(NamedTuple):
    """Measure the machine, and look into the tasks' metrics files."""


class CheckHealth(NamedTuple):
    """Run the health check."""

    run: str
    timeout_s: float


class EndMachine(NamedTuple):
    """The lease is over and nothing runs: the machine should end."""


class Exec(NamedTuple):
    """Become the program at `path`."""

    path: str


Action = Any  # one of the above; a union of NamedTuples costs a cast at every use


class Malformed(Exception):
    """A command that makes no sense here; its text is the reason given to the daemon."""


# --- lines --------------------------------------------------------------------------------------

_LINE_END = re.compile(rb"\r\n|\n|\r")


def _piece_end(data: bytes, start: int) -> int:
    """End of a piece that begins at `start`: PIECE bytes on, but not within a UTF-8 character."""
    end = start + PIECE
    for back in range(4):
        if data[end - back] & 0xC0 != 0x80:
            return end - back
    return end  # no character is that long: not UTF-8, cut anywhere


def split_lines(data: bytes, final: bool) -> Tuple[List[Line], int, bool]:
    """Split output at a clean boundary into lines.

    What comes out depends on the bytes alone, not on how many are seen at once, so output can be read
    again in other pieces and gives the same lines.

    Args:
        data: output from the end of the last line (or piece of a line) on.
        final: nothing comes after `data`: what has no line end is a line too.

    Returns:
        The lines as (text, kind), how many bytes they took, and whether the last is a piece.
    """
    end = data.rfind(b"\n") + 1
    if len(data) <= PIECE and b"\r" not in data and data.count(b"\n") < LINES_MAX:
        if final and end < len(data):
            end = len(data)
        if not end:
            return [], 0, False
        text = data[:end].decode("utf-8", "replace")
        return [(line, 0) for line in (text[:-1] if text.endswith("\n") else text).split("\n")], end, False
    lines: List[Line] = []
    at = 0

    def pieces(until: int) -> int:
        start = at
        while until - start > PIECE and len(lines) < LINES_MAX:
            cut = _piece_end(data, start)
            lines.append((data[start:cut].decode("utf-8", "replace"), 2))
            start = cut
        return start

    for match in _LINE_END.finditer(data):
        ending, content_end = match.group(), match.start()
        if len(lines) >= LINES_MAX or (ending == b"\r" and match.end() == len(data) and not final):
            break
        at = pieces(content_end)
        if len(lines) >= LINES_MAX:
            return lines, at, True
        lines.append((data[at:content_end].decode("utf-8", "replace"), 1 if ending == b"\r" else 0))
        at = match.end()
    if len(lines) >= LINES_MAX or at == len(data):
        return lines, at, bool(lines) and lines[-1][1] == 2
    content = len(data) - (0 if final or not data.endswith(b"\r") else 1)
    at = pieces(content)
    if final and at < len(data) and len(lines) < LINES_MAX:
        lines.append((data[at:].decode("utf-8", "replace"), 0))
        at = len(data)
    return lines, at, bool(lines) and lines[-1][1] == 2


def same_lines(data: bytes, cut: bool) -> List[Line]:
    """Split again what `split_lines` took; `cut` as it said then."""
    lines: List[Line] = []
    at = 0
    while at < len(data):
        more, used, _ = split_lines(data[at:], True)
        lines += more
        at += used
    if cut and lines:
        lines[-1] = (lines[-1][0], 2)
    return lines


# --- the core -----------------------------------------------------------------------------------


class _Stream:
    """How far one output of one attempt was read, reported and acknowledged."""

    __slots__ = (
        "acked", "dropped", "holed", "noted", "reading", "released", "seen", "size", "tail",
        "taken", "unacked",
    )  # fmt: skip

    def __init__(self) -> None:
        self.size = 0  # bytes there
        self.taken = 0  # bytes read, as lines or as dropped
        self.noted = 0  # bytes covered by reports
        self.seen = 0  # end of the last read: nothing new before it
        self.acked = 0
        self.released = 0
        self.holed = 0  # what was dropped is given back to the disk up to here
        self.unacked = 0  # kept bytes reported and not acknowledged
        self.dropped = 0  # lines dropped and not reported yet
        self.tail = False  # what was dropped last had no line end
        self.reading = False


class Task:
    """One attempt. `command` is let go when it has ended."""

    __slots__ = (
        "attempt", "began", "code", "command", "cwd", "dropped", "entries", "error", "exited",
        "fetched", "file_at", "hook", "kill_at", "killed", "oom", "pid", "quota", "seconds", "signal",
        "start_time", "started", "state", "streams", "task", "timeout_at", "why",
    )  # fmt: skip

    def __init__(self, command: Message) -> None:
        self.task: str = command["task"]
        self.attempt: int = command["attempt"]
        self.command: Message = command
        self.cwd: Optional[str] = command.get("cwd")
        self.state = WAITING
        self.pid = 0
        self.start_time = 0
        self.began = 0.0
        self.started = False
        self.why = ""
        self.kill_at: Optional[float] = None
        self.timeout_at: Optional[float] = None
        self.killed = False
        self.hook = False
        self.exited = False  # how it ended is known
        self.code: Optional[int] = None
        self.signal: Optional[int] = None
        self.oom = False
        self.error: Optional[str] = None
        self.seconds = 0.0
        self.streams: Optional[Tuple[_Stream, _Stream]] = None
        self.quota: int = command.get("log_bytes_max", 0)
        self.dropped = 0
        self.entries = 0  # reports not acknowledged that need files of it
        self.fetched = 0
        self.file_at = 0  # so much of the next file is reported

    @property
    def key(self) -> Key:
        return (self.task, self.attempt)

    def both(self) -> Tuple[_Stream, _Stream]:
        if self.streams is None:
            self.streams = (_Stream(), _Stream())
        return self.streams


class _Run:
    """The bootstrap run under way. Of its environment the keys in `secret` are never written down."""

    __slots__ = (
        "began", "env", "hidden", "index", "kill_at", "last", "pid", "run_id", "secret", "start_time",
        "steps", "stopping",
    )  # fmt: skip

    def __init__(self, command: Message) -> None:
        self.run_id: str = command["run_id"]
        self.env: Dict[str, str] = dict(command["env"])
        self.secret: List[str] = _names(command.get("secret"))
        self.hidden: List[str] = _hidden([self.env[key] for key in self.secret if key in self.env])
        self.steps: List[Message] = [dict(step) for step in command["steps"]]
        for step in self.steps:
            step["phase"], step["run"], float(step["timeout_s"])
        self.index = 0
        self.began = 0.0
        self.kill_at: Optional[float] = None
        self.stopping = ""  # why we stop the step
        self.last = ""  # last line of its output
        self.pid = 0
        self.start_time = 0


def _parts(messages: List[Message]) -> Iterator[bytes]:
    """Messages as lines of about SEND_BYTES at the most."""
    texts: List[bytes] = []
    size = 0
    for message in messages:
        text = json.dumps(message, separators=(",", ":")).encode()
        if texts and size + len(text) > SEND_BYTES:
            yield b"[" + b",".join(texts) + b"]"
            texts, size = [], 0
        texts.append(text)
        size += len(text) + 1
    yield b"[" + b",".join(texts) + b"]"


def _weight(entry: Message) -> int:
    return (
        200
        + len(entry.get("content") or "")
        + len(entry.get("error") or "")
        + 40 * len(entry.get("values") or ())
    )


def _bytes_of(entry: Message) -> int:
    """Bytes of a task's file that go with this report; they are read when it is sent."""
    return entry["end"] - entry["offset"] if "end" in entry else 0


class Core:
    """What the agent knows and decides. See the top of this file."""

    __slots__ = (
        "_acts", "_awaiting", "_bytes", "_hand", "_hand_id", "_light", "_next_metrics", "about",
        "bad_puts", "boot", "checking", "disk_full", "done", "draining", "dropped", "end_at",
        "ended_machine", "epoch", "failures", "flight", "greeted", "health", "health_at",
        "instance", "lease_at", "lease_over", "lease_s", "live", "metrics_every_s", "next_id",
        "notices", "now", "online", "outbox", "owner", "run", "run_next", "runs", "sampling",
        "disk_told_at", "sent", "skew", "slots", "tasks", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        boot: str,
        *,
        agent: str = "",
        python: str = "",
        skew: float = 0.0,
        lease_s: float = 0.0,
    ) -> None:
        """Start with an empty spool named `boot`.

        Args:
            boot: names this spool; given again when its records are replayed.
            agent: sha256 of the agent's file, for its hello.
            python: version of the interpreter, for its hello.
            skew: wall clock minus `now`.
            lease_s: how long to live without any hello; 0 for ever.
        """
        self.boot = boot
        self.about = (agent, python)
        self.skew = skew
        self.now = 0.0
        self.epoch = 0
        self.owner = ""
        self.instance = ""
        self.slots = 1
        self.metrics_every_s = 0.0
        self.health: Optional[Message] = None
        self.health_at: Optional[float] = None
        self.checking = False
        self.failures = 0
        self.disk_told_at = 0.0
        self.disk_full = False
        self.lease_s = lease_s
        self.lease_at: Optional[float] = None
        self.lease_over = False
        self.ended_machine = False
        self.end_at: Optional[float] = None
        self.greeted = False  # hello was heard on this stream
        self.online = False  # and accepted
        self.next_id = 1
        self.dropped = 0
        self.outbox: Deque[Message] = collections.deque()
        self.sent = 0  # of the outbox, on this stream
        self.flight = 0
        self._bytes = 0
        self._light = 0  # reports in the outbox that may be dropped
        self._awaiting = 0
        self._hand_id = 0
        self._hand: Any = None
        self._next_metrics: Optional[float] = None
        self.sampling = False
        self.tasks: Dict[Key, Task] = {}
        self.live: Dict[Key, Task] = {}  # hold a slot
        self.waiting: Deque[Task] = collections.deque()
        self.draining = 0
        self.done: Dict[Key, Message] = {}
        self.bad_puts: Dict[Key, str] = {}
        self.notices: Dict[str, Notice] = {}
        self.run: Optional[_Run] = None
        self.run_next: Optional[Message] = None
        self.runs: Dict[str, Optional[Tuple[Optional[str], Optional[str]]]] = {}
        self._acts: List[Action] = []

    # --- stepping

    def step(self, now: float, item: Any) -> List[Action]:
        """Take in one input; return what to do, in order."""
        self.now = now
        acts: List[Action] = []
        self._acts = acts
        _HEAR[type(item)](self, item)
        if self.lease_over and not self.ended_machine:
            self._maybe_end_machine()
        if self.online and self.sent < len(self.outbox) and not self._awaiting:
            self._pump()
        return acts

    def next_wake(self) -> Optional[float]:
        """When Tick is due, or None."""
        times = [self.end_at, self.health_at]
        if not self.lease_over:
            times.append(self.lease_at)
        if self.online and not self.sampling:
            times.append(self._next_metrics)
        for task in self.live.values():
            times.append(task.kill_at)
            times.append(task.timeout_at)
        if self.run is not None:
            times.append(self.run.kill_at)
        return min((at for at in times if at is not None), default=None)

    def kept_dirs(self) -> List[Key]:
        """Attempts whose directory is still needed."""
        return [key for key, task in self.tasks.items() if task.state != ENDED or task.entries]

    def _tick(self, _: Tick) -> None:
        now = self.now
        for task in list(self.live.values()):
            if task.kill_at is not None and task.kill_at <= now:
                task.killed = True
                task.kill_at = now + KILL_AGAIN_S
                self._acts.append(Signal(task.task, task.attempt, signal.SIGKILL))
            elif task.timeout_at is not None and task.timeout_at <= now:
                task.timeout_at = None
                self._stop_live(task, "timeout", float(task.command.get("grace_s", 10)))
        if self.lease_at is not None and self.lease_at <= now and not self.lease_over:
            self._lease_ends()
        run = self.run
        if run is not None and run.kill_at is not None and run.kill_at <= now:
            if run.stopping:
                run.kill_at = now + KILL_AGAIN_S
                self._signal_step(run, signal.SIGKILL)
            else:
                self._stop_step(run, f"timed out after {run.steps[run.index]['timeout_s']:g} s")
        if self.online and not self.sampling and self._next_metrics is not None and self._next_metrics <= now:
            self.sampling = True
            self._acts.append(Sample())
        if self.health is not None and self.health_at is not None and self.health_at <= now:
            if self.run is not None:  # what is being set up need not be well yet
                self.health_at = now + float(self.health["every_s"])
            else:
                self.health_at, self.checking = None, True
                self._acts.append(CheckHealth(self.health["run"], float(self.health["timeout_s"])))
        if self.end_at is not None and self.end_at <= now:
            self.end_at = None
            self.ended_machine = False

    def _clock(self, item: Clock) -> None:
        self.skew = item.skew

    # --- reports, spool and stream

    def _report(self, kind: str, extra: Optional[List[Any]] = None, **fields: Any) -> Message:
        entry: Message = {"t": kind, "id": self.next_id, "at": round(self.now + self.skew, 3)}
        entry.update(fields)
        self._acts.append(Persist(["r", entry] if extra is None else ["r", entry, extra]))
        self._admit(entry, extra)
        return entry

    def _admit(self, entry: Message, extra: Optional[List[Any]]) -> None:
        """Append a report to the spool, and let it change what is known. Replay comes this way too."""
        self.next_id = entry["id"] + 1
        self.outbox.append(entry)
        self._bytes += _weight(entry)
        apply = _APPLY.get(entry["t"])
        if apply is not None:
            apply(self, entry, extra)
        if entry["t"] in _LIGHT:
            self._light += 1
            # not for each one: what may not be dropped can fill the spool alone
            if self._light >= 256 and (len(self.outbox) > SPOOL_COUNT_MAX or self._bytes > SPOOL_BYTES_MAX):
                self._shed()

    def _shed(self) -> None:
        """Drop the oldest metrics and console lines until a quarter is free; nothing else may go."""
        kept: Deque[Message] = collections.deque()
        sent = count = 0
        surplus = max(len(self.outbox) - SPOOL_COUNT_MAX * 3 // 4, 0)
        heavy = self._bytes - SPOOL_BYTES_MAX * 3 // 4
        for index, entry in enumerate(self.outbox):
            if (surplus > 0 or heavy > 0) and entry["t"] in _LIGHT:
                self._light -= 1
                surplus -= 1
                heavy -= _weight(entry)
                self._bytes -= _weight(entry)
                count += 1
            else:
                kept.append(entry)
                sent += index < self.sent
        self.outbox, self.sent = kept, sent
        self.dropped += count

    def _pump(self) -> None:
        """Send what is next, as far as the window allows; what needs a file's bytes asks for them first."""
        batch: List[Message] = []
        outbox = self.outbox
        while self.sent < len(outbox) and not self._awaiting:
            entry = outbox[self.sent]
            size = _bytes_of(entry)
            if size:
                if self.flight and self.flight + size > SEND_WINDOW:
                    break
                if self._hand_id != entry["id"]:
                    self._fetch(entry)
                    break
                self.flight += size
            batch.append(self._wire(entry))
            self.sent += 1
        if batch:
            self._acts.append(Send(batch))

    def _fetch(self, entry: Message) -> None:
        self._awaiting = entry["id"]
        key, length = (entry["task"], entry["attempt"]), _bytes_of(entry)
        if entry["t"] == "log":
            which = STREAMS.index(entry["stream"])
            self._acts.append(ReadOutput(key[0], key[1], which, entry["offset"], length, entry["id"]))
        else:
            cwd = self.tasks[key].cwd if key in self.tasks else None
            self._acts.append(ReadFile(*key, entry["path"], cwd, entry["offset"], length, entry["id"]))

    def _wire(self, entry: Message) -> Message:
        if "end" not in entry:
            return entry
        message = {name: value for name, value in entry.items() if name not in ("end", "cut")}
        hand, self._hand, self._hand_id = (self._hand if self._hand_id == entry["id"] else None), None, 0
        if entry["t"] == "log":
            message["lines"] = hand or []
        elif isinstance(hand, str):
            message["error"] = hand
        else:
            message["data"] = base64.b64encode(hand or b"").decode()
        return message

    def _connected(self, _: Connected) -> None:
        self._cut()

    def _disconnected(self, _: Disconnected) -> None:
        self._cut()

    def _cut(self) -> None:
        self.greeted = self.online = False
        self.sent = self.flight = self._awaiting = self._hand_id = 0
        self._hand = None
        self._next_metrics = None

    def _said(self, item: Said) -> None:
        for message in item.messages:
            try:
                self._obey(message)
            except Malformed as error:
                self._refuse(message, str(error))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self._refuse(message, f"malformed: {error!r}"[:300])

    def _obey(self, message: Message) -> None:
        kind = message["t"]
        if kind == "hello":
            self._hello(message)
        elif not self.online:
            if kind != "ack":
                reason = f"epoch {self.epoch} is newer" if self.greeted else "say hello first"
                self._acts.append(Send([self._refusal(message, reason, 0)]))
        elif kind == "ack":
            if message["boot"] == self.boot:
                self._acknowledged(int(message["id"]))
        else:
            command = _COMMANDS.get(kind)
            if command is None:
                raise Malformed(f"unknown command {kind!r}"[:100])
            epoch = message["epoch"]
            if epoch < self.epoch:
                raise Malformed(f"epoch {epoch} is old, {self.epoch} was heard")
            if epoch > self.epoch:
                self._heard_epoch(epoch)
            command(self, message)

    def _heard_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self._acts.append(Persist(["epoch", epoch]))

    def _refusal(self, message: Any, reason: str, number: int) -> Message:
        fields = message if isinstance(message, dict) else {}
        task, attempt = fields.get("task"), fields.get("attempt")
        return {
            "t": "refused",
            "id": number,
            "at": round(self.now + self.skew, 3),
            "command": str(fields.get("t", "?"))[:50],
            "reason": reason,
            "task": task if isinstance(task, str) else "",
            "attempt": attempt if isinstance(attempt, int) else 0,
        }

    def _refuse(self, message: Any, reason: str) -> None:
        refusal = self._refusal(message, reason, 0)
        for name in ("t", "id", "at"):
            del refusal[name]
        self._report("refused", **refusal)

    def _hello(self, message: Message) -> None:
        epoch, lease_s, slots = int(message["epoch"]), float(message["lease_s"]), int(message["slots"])
        self._cut()
        self.greeted = True
        if epoch < self.epoch:
            self._acts.append(Send([self._hello_of(False)]))
            return
        instance = str(message.get("instance", ""))
        if self.instance and instance != self.instance:  # its address was another machine's before
            self._acts.append(Send([self._hello_of(False)]))
            return
        health = message.get("health")
        config = {
            "epoch": epoch,
            "owner": str(message.get("owner", "")),
            "instance": instance,
            "slots": max(slots, 1),
            "metrics_every_s": float(message.get("metrics_every_s") or 0),
            "health": dict(health) if health else None,
        }
        self._configure(config)
        self._acts.append(Persist(["hello", config]))
        self._renew(lease_s)
        if message.get("boot") == self.boot:
            self._acknowledged(int(message.get("acked") or 0))
        self.online = True
        if self.metrics_every_s > 0:
            self._next_metrics = self.now
        self.bad_puts.clear()
        self._acts.append(Send([self._hello_of(True)]))
        for task in self.live.values():
            self._read_on(task)
        self._fill()

    def _hello_of(self, accepted: bool) -> Message:
        return {
            "t": "hello",
            "protocol": PROTOCOL,
            "agent": self.about[0],
            "python": self.about[1],
            "boot": self.boot,
            "instance": self.instance,
            "next_id": self.next_id,
            "epoch": self.epoch,
            "tasks": [[t.task, t.attempt, _STATE_WORDS[t.state]] for t in self.tasks.values()],
            "dropped": self.dropped,
            "lease_left_s": max((self.lease_at or self.now) - self.now, 0),
            "accepted": accepted,
        }

    def _configure(self, config: Message) -> None:
        self.epoch = config["epoch"]
        self.owner, self.instance, self.slots = config["owner"], config["instance"], config["slots"]
        self.metrics_every_s = config["metrics_every_s"]
        if config["health"] != self.health:
            self.health = config["health"]
            self.failures, self.checking = 0, False
            self.health_at = None
        if self.health is not None and self.health_at is None and not self.checking:
            self.health_at = self.now + float(self.health["every_s"])

    def _acknowledged(self, number: int) -> None:
        outbox = self.outbox
        if not outbox or outbox[0]["id"] > number:
            return
        while outbox and outbox[0]["id"] <= number:
            entry = outbox.popleft()
            self._bytes -= _weight(entry)
            self._light -= entry["t"] in _LIGHT
            size = _bytes_of(entry)
            if self.sent:
                self.sent -= 1
                self.flight -= size
            if entry["id"] == self._awaiting:
                self._awaiting = 0
            forget = _FORGET.get(entry["t"])
            if forget is not None:
                forget(self, entry)
        self._acts.append(Persist(["ack", number]))

    def _forget_log(self, entry: Message) -> None:
        task = self.tasks.get((entry["task"], entry["attempt"]))
        if task is None:
            return
        task.entries -= 1
        if entry["t"] == "log":
            which = STREAMS.index(entry["stream"])
            stream = task.both()[which]
            stream.unacked -= _bytes_of(entry)
            stream.acked = entry["next_offset"]
            if stream.acked - stream.released >= RELEASE_BYTES:
                self._acts.append(Release(task.task, task.attempt, which, stream.released, stream.acked))
                stream.released = stream.acked
            if task.state in (RUNNING, CLEANING):
                self._want(task, which)

    def _forget_ended(self, entry: Message) -> None:
        key = (entry["task"], entry["attempt"])
        task = self.tasks.pop(key, None)
        if task is None:
            return
        self._remember(key, {k: v for k, v in entry.items() if k not in ("t", "id", "at", "task", "attempt")})
        if task.fetched or task.streams is not None:
            self._acts.append(RemoveTaskDir(*key))

    def _remember(self, key: Key, result: Message) -> None:
        self.done[key] = result
        if len(self.done) > DONE_MAX:
            del self.done[next(iter(self.done))]

    # --- tasks

    def _put(self, message: Message) -> None:
        key = _key_of(message)
        if key in self.tasks or key in self.done:
            return
        path = str(message["path"])
        if path.startswith("/") or "\0" in path or ".." in path.split("/"):
            self.bad_puts[key] = f"file {path!r} would be outside the task's directory"
            return
        try:
            data = base64.b64decode(message["data"], validate=True)
        except binascii.Error as error:
            self.bad_puts[key] = f"file {path!r}: {error}"
            return
        mode, offset, last = int(message["mode"]), int(message["offset"]), bool(message["last"])
        self._acts.append(WriteFile(*key, path, mode, offset, data, last))

    def _put_failed(self, item: PutFailed) -> None:
        if len(self.bad_puts) < DONE_MAX and (item.task, item.attempt) not in self.tasks:
            self.bad_puts[(item.task, item.attempt)] = item.error

    def _start(self, message: Message) -> None:
        key = _key_of(message)
        if key in self.tasks:
            return
        if key in self.done:  # its end is forgotten by whoever asks: say it again
            self._report("ended", task=key[0], attempt=key[1], **self.done[key])
            return
        if len(self.tasks) >= TASKS_MAX:
            raise Malformed(f"{TASKS_MAX} attempts are held already")
        _check_start(message)
        task = Task(message)
        self.tasks[key] = task
        if not message.get("secret"):
            self._acts.append(Persist(["task", message]))
        bad_put = self.bad_puts.pop(key, None)
        if bad_put is not None:
            task.code, task.error = 126, bad_put
            self._end_unstarted(task, "spawn")
        elif self._leaves() or self.lease_over:
            self._end_unstarted(task, "notice" if self._leaves() else "lease")
        else:
            self.waiting.append(task)
            self._fill()

    def _fill(self) -> None:
        """Start waiting tasks while there are free slots."""
        if self._leaves() or self.lease_over:
            return
        while self.waiting and len(self.live) < self.slots:
            task = self.waiting.popleft()
            if task.state == WAITING:
                self._keep_secret(task)
                task.state = SPAWNING
                self.live[task.key] = task
                self._acts.append(Persist(["go", task.task, task.attempt]))
                self._acts.append(Spawn(task.task, task.attempt, task.command))

    def _keep_secret(self, task: Task) -> None:
        """Persist a waiting task that has secrets, without them: it will not wait any more.

        While it waits it is in memory only. An agent that died meanwhile does not know it then, and the
        daemon says it again: nobody starts it without its secrets.
        """
        if task.command.get("secret"):
            self._acts.append(Persist(["task", _without_secrets(task.command)]))

    def _spawned(self, item: Spawned) -> None:
        task = self.tasks.get((item.task, item.attempt))
        if task is None or task.state not in (SPAWNING, RUNNING):
            return
        if task.state == SPAWNING:
            extra = [item.start_time, round(self.now, 3)]
            about: Message = {"task": item.task, "attempt": item.attempt, "pid": item.pid}
            if task.command.get("env_groups"):
                about["env_groups"] = task.command["env_groups"]
            self._report("started", extra, **about)
        timeout_s = task.command.get("timeout_s")
        if timeout_s is not None:
            task.timeout_at = task.began + timeout_s
        grace_s = float(task.command.get("grace_s", 10))
        if task.why == "notice" and task.command.get("on_notice") and task.hook:
            task.kill_at = self._notice_kill_at(None)
        elif task.why:
            self._signal_stop(task, grace_s)
        elif self._leaves():
            self._give_notice(task)

    def _identified(self, item: Identified) -> None:
        task = self.live.get((item.task, item.attempt))
        if task is not None and task.state == RUNNING:
            task.start_time = item.start_time
            self._acts.append(Persist(["started", item.task, item.attempt, item.start_time]))

    def _apply_started(self, entry: Message, extra: Optional[List[Any]]) -> None:
        task = self.tasks.get((entry["task"], entry["attempt"]))
        if task is not None and extra is not None:
            task.state, task.started, task.pid = RUNNING, True, entry["pid"]
            task.start_time, task.began = extra[0], extra[1]

    def _spawn_failed(self, item: SpawnFailed) -> None:
        task = self.live.pop((item.task, item.attempt), None)
        if task is None:
            return
        task.code, task.error = item.code, item.error
        self._end_unstarted(task, task.why or "spawn")
        self._fill()

    def _end_unstarted(self, task: Task, why: str) -> None:
        if task.state == WAITING:
            self._keep_secret(task)
        task.why = why
        task.state = DRAINING
        self.draining += 1
        self._finish(task)

    def _stop(self, message: Message) -> None:
        key = _key_of(message)
        grace_s = float(message["grace_s"])
        task = self.tasks.get(key)
        if task is None:
            if key in self.done:
                self._report("ended", task=key[0], attempt=key[1], **self.done[key])
                return
            task = Task({"task": key[0], "attempt": key[1]})
            self.tasks[key] = task
            self._acts.append(Persist(["task", task.command]))
            self._end_unstarted(task, "stop")
        elif task.state == WAITING:
            self._end_unstarted(task, "stop")
        elif task.state in (SPAWNING, RUNNING, CLEANING):
            self._stop_live(task, "stop", grace_s)

    def _stop_live(self, task: Task, why: str, grace_s: float) -> None:
        if task.state == CLEANING:
            if task.kill_at is not None:
                task.kill_at = min(task.kill_at, self.now + grace_s)
        elif not task.why or task.hook:
            task.why = task.why or why
            self._acts.append(Persist(["why", task.task, task.attempt, task.why]))
            if task.state == RUNNING:
                self._signal_stop(task, grace_s)
        elif task.kill_at is not None:
            task.kill_at = min(task.kill_at, self.now + grace_s)

    def _signal_stop(self, task: Task, grace_s: float) -> None:
        self._acts.append(Signal(task.task, task.attempt, signal.SIGTERM))
        kill_at = self.now + grace_s
        task.kill_at = kill_at if task.kill_at is None else min(task.kill_at, kill_at)

    def _exited(self, item: Exited) -> None:
        task = self.tasks.get((item.task, item.attempt))
        if task is None or task.state not in (SPAWNING, RUNNING):
            return
        if not task.exited:  # else it was known before a restart
            task.exited = True
            task.started = True
            task.code, task.signal = item.code, item.signal
            task.oom = item.oom and not task.killed
            task.seconds = max(self.now - task.began, 0.0) if task.began else 0.0
            if not item.seen and not task.why:
                task.why = "lost"
        task.timeout_at = None
        if item.left:
            task.state = CLEANING
            if not task.hook:
                self._acts.append(Signal(task.task, task.attempt, signal.SIGTERM))
                task.kill_at = self.now + LEFT_GRACE_S
            elif task.kill_at is None:
                task.kill_at = self.now + 30.0  # an on_notice command that outlives its task, no deadline
        else:
            self._all_gone(task, item.out, item.err)
        if task.state != ENDED:
            known = [task.code, task.signal, task.oom, round(task.seconds, 6), task.why]
            self._acts.append(Persist(["exit", task.task, task.attempt, known]))
        self._fill()  # last: the end that freed a slot is on disk before the next process starts

    def _gone(self, item: Gone) -> None:
        task = self.live.get((item.task, item.attempt))
        if task is not None and task.state == CLEANING:
            self._all_gone(task, item.out, item.err)
            self._fill()

    def _hook_ended(self, item: HookEnded) -> None:
        task = self.live.get((item.task, item.attempt))
        if task is None or not task.hook:
            return
        task.hook = False
        if task.state == CLEANING:
            self._acts.append(Signal(task.task, task.attempt, signal.SIGTERM))
            task.kill_at = self.now + LEFT_GRACE_S

    def _all_gone(self, task: Task, out: int, err: int) -> None:
        task.state = DRAINING
        task.kill_at = None
        self.draining += 1
        self.live.pop(task.key, None)
        if out or err or task.streams is not None:
            for which, size in enumerate((out, err)):
                stream = task.both()[which]
                stream.size = max(size, stream.taken)
                stream.seen = stream.taken  # what was half a line is a line now
        self._drain(task)

    def _drain(self, task: Task) -> None:
        """Read the rest of the output, then find the files to fetch, then report the end."""
        if task.streams is not None:
            for which, stream in enumerate(task.streams):
                self._want(task, which)
                if stream.taken >= stream.size and (
                    stream.dropped or stream.tail or stream.noted < stream.taken
                ):
                    self._note_dropped(task, which)
            if any(stream.taken < stream.size for stream in task.streams):
                return
        fetch = task.command.get("fetch") or ()
        if task.fetched < len(fetch):
            self._acts.append(FindFile(task.task, task.attempt, fetch[task.fetched], task.cwd))
        else:
            self._finish(task)

    def _found_file(self, item: FoundFile) -> None:
        task = self.tasks.get((item.task, item.attempt))
        if task is None or task.state != DRAINING:
            return
        fetch = task.command.get("fetch") or ()
        if task.fetched >= len(fetch) or fetch[task.fetched] != item.path:
            return
        most, error = int(task.command.get("fetch_bytes_max") or 0), item.error
        if error is None and item.size > most:
            error = f"{item.size} bytes, more than the {most} allowed"
        about: Message = {"task": item.task, "attempt": item.attempt, "path": item.path}
        if error is None and item.size < task.file_at:
            error = "the file changed while it was read"
        if error is not None or item.size == 0:
            end: Message = {} if error is None else {"error": error}
            self._report("file", **about, offset=task.file_at, last=True, **end)
        else:
            for offset in range(task.file_at, item.size, FILE_PIECE):
                stop = min(offset + FILE_PIECE, item.size)
                self._report("file", **about, offset=offset, end=stop, last=stop == item.size)
        self._drain(task)

    def _apply_file(self, entry: Message, _: Optional[List[Any]]) -> None:
        task = self.tasks.get((entry["task"], entry["attempt"]))
        if task is not None:
            task.entries += 1
            task.fetched += entry["last"]
            task.file_at = 0 if entry["last"] else entry["end"]

    def _finish(self, task: Task) -> None:
        fields: Message = {"task": task.task, "attempt": task.attempt}
        for name in ("code", "signal", "oom", "why", "error"):
            value = getattr(task, name)
            if value:
                fields[name] = value
        if task.code is not None:
            fields["code"] = task.code
        if not task.started:
            fields["started"] = False
        if task.seconds:
            fields["seconds"] = round(task.seconds, 6)
        if task.dropped:
            fields["lines_dropped"] = task.dropped
        self._report("ended", **fields)
        self.draining -= 1
        if not task.entries:
            task.streams, task.fetched = None, 0
            self._acts.append(RemoveTaskDir(task.task, task.attempt))

    def _apply_ended(self, entry: Message, _: Optional[List[Any]]) -> None:
        task = self.tasks.get((entry["task"], entry["attempt"]))
        if task is not None:
            task.state = ENDED
            task.command = {}

    # --- output

    def _grown(self, item: Grown) -> None:
        task = self.live.get((item.task, item.attempt))
        if task is None:
            return
        stream = task.both()[item.stream]
        if item.size <= stream.size:
            return
        stream.size = item.size
        if task.quota <= 0 and stream.size - stream.taken > SKIP_BYTES and not stream.reading:
            self._acts.append(Release(item.task, item.attempt, item.stream, stream.taken, stream.size))
            stream.taken = stream.holed = stream.size
            stream.dropped += 1
        self._want(task, item.stream)

    def _read_on(self, task: Task) -> None:
        if task.streams is not None:
            self._want(task, 0)
            self._want(task, 1)

    def _want(self, task: Task, which: int) -> None:
        """Ask for the next bytes of a stream, when there are any and it is time."""
        stream = task.both()[which]
        backlog = stream.size - stream.taken
        if stream.reading or backlog <= 0 or stream.size <= stream.seen:
            return
        due = task.state == DRAINING or task.quota <= 0 or backlog > BACKLOG_MAX
        if due or (self.online and stream.unacked < STREAM_WINDOW):
            stream.reading = True
            most = RELEASE_BYTES if task.quota <= 0 else READ_MAX
            self._acts.append(ReadOutput(task.task, task.attempt, which, stream.taken, min(backlog, most), 0))

    def _output(self, item: Output) -> None:
        if item.id:
            entry = self.outbox[self.sent] if self.sent < len(self.outbox) else None
            if entry is not None and item.id == self._awaiting == entry["id"]:
                self._awaiting = 0
                self._hand_id, self._hand = item.id, same_lines(item.data, bool(entry.get("cut")))
                self._pump()
            return
        task = self.tasks.get((item.task, item.attempt))
        if task is None or task.state == ENDED:
            return
        stream = task.both()[item.stream]
        stream.reading = False
        if item.offset == stream.taken:
            if item.data:
                self._take(task, item.stream, item.data)
            else:
                stream.size = stream.taken  # the file is shorter than was said
        if task.state == DRAINING:
            self._drain(task)
        else:
            self._want(task, item.stream)

    def _take(self, task: Task, which: int, data: bytes) -> None:
        """Turn output into a report of lines, or drop it when the quota is used up."""
        stream = task.both()[which]
        offset = stream.taken
        stream.seen = offset + len(data)
        final = task.state == DRAINING and stream.seen >= stream.size
        if task.quota <= 0:
            self._drop(task, which, data)
            return
        lines, used, cut = split_lines(data, final)
        if used == 0:
            return
        if self.online and not self._awaiting:
            self._pump()  # then these lines are next, and need not be read again to be sent
        if used <= task.quota:
            if len(lines) >= LINES_MAX:
                stream.seen = offset + used  # more lines were read than fit
            stream.taken = offset + used
            self._note(task, which, lines, offset + used, offset + used, cut=cut)
            return
        lines, used, cut = split_lines(data[: task.quota], False)
        rest = data[used:]
        stream.taken = stream.seen
        stream.holed = offset + used
        stream.tail = not rest.endswith(b"\n")
        self._note(task, which, lines, offset + used, stream.taken, rest.count(b"\n"), cut, over=True)

    def _note(
        self,
        task: Task,
        which: int,
        lines: List[Line],
        end: int,
        next_offset: int,
        dropped: int = 0,
        cut: bool = False,
        over: bool = False,
    ) -> None:
        stream = task.both()[which]
        fields: Message = {"task": task.task, "attempt": task.attempt, "stream": STREAMS[which]}
        fields["offset"], fields["next_offset"], fields["end"] = stream.noted, next_offset, end
        if dropped:
            fields["dropped"] = dropped
        if cut:
            fields["cut"] = True
        if self.online and self.sent == len(self.outbox) and not self._awaiting:
            self._hand_id, self._hand = self.next_id, lines  # goes out at once: no need to read it again
        self._report("log", [1] if over else None, **fields)

    def _drop(self, task: Task, which: int, data: bytes) -> None:
        stream = task.both()[which]
        start = stream.taken
        stream.taken += len(data)
        count = data.count(b"\n")
        stream.dropped += count
        stream.tail = not data.endswith(b"\n")
        stream.holed = stream.holed or start
        if stream.taken - stream.holed >= RELEASE_BYTES:
            self._acts.append(Release(task.task, task.attempt, which, stream.holed, stream.taken))
            stream.holed = stream.taken
        if stream.taken - stream.noted >= DROP_REPORT_BYTES:
            self._note_dropped(task, which)

    def _note_dropped(self, task: Task, which: int) -> None:
        stream = task.both()[which]
        count = stream.dropped
        if stream.tail and task.state == DRAINING and stream.taken >= stream.size:
            count += 1
            stream.tail = False
        stream.dropped = 0
        self._note(task, which, [], stream.noted, stream.taken, count, over=True)

    def _apply_log(self, entry: Message, extra: Optional[List[Any]]) -> None:
        task = self.tasks.get((entry["task"], entry["attempt"]))
        if task is None:
            return
        stream = task.both()[STREAMS.index(entry["stream"])]
        kept = _bytes_of(entry)
        task.entries += 1
        task.quota = 0 if extra and extra[0] else task.quota - kept
        task.dropped += entry.get("dropped", 0)
        stream.unacked += kept
        stream.noted = entry["next_offset"]
        stream.taken = max(stream.taken, stream.noted)

    def _file_read(self, item: FileRead) -> None:
        entry = self.outbox[self.sent] if self.sent < len(self.outbox) else None
        if entry is None or not item.id == self._awaiting == entry["id"]:
            return
        self._awaiting = 0
        error = item.error
        if error is None and len(item.data) != _bytes_of(entry):
            error = "the file changed while it was read"
        self._hand_id, self._hand = item.id, error if error is not None else item.data
        self._pump()

    # --- notices, lease, drain

    def _noticed(self, item: Noticed) -> None:
        source, held, before = item.source, self.notices.get(item.source), self._word()
        if item.reason is None:
            if held is None:
                return
            self._withdraw(source)
            word = self._word()
            if word is None:
                self._report("notice_gone")
            elif not _is_same(word, before):
                self._tell(word, early=not self._leaves(("drain",)))
            return
        deadline = None if item.within_s is None else self.now + item.within_s
        said = (item.reason, deadline)
        if held is not None and _is_same(held, said):
            return
        word = self._word({**self.notices, source: said})
        early = source in EARLY_SOURCES and not self._leaves(("drain",))
        if word is not None and not _is_same(word, before):
            self._tell(word, item.within_s if word == said else None, early)
        self._announce(source, item.reason, deadline)

    def _leaves(self, but: Tuple[str, ...] = ()) -> bool:
        """Whether the machine will be taken: more than a recommendation was heard, from others than `but`."""
        return any(source not in EARLY_SOURCES and source not in but for source in self.notices)

    def _word(self, notices: Optional[Dict[str, Notice]] = None) -> Optional[Notice]:
        """What all who know say together: the soonest end that one names, else the first; advice last."""
        words = [
            (source in EARLY_SOURCES, float("inf") if word[1] is None else word[1], i, word)
            for i, (source, word) in enumerate((self.notices if notices is None else notices).items())
            if source != "drain"
        ]
        return min(words)[3] if words else None

    def _tell(self, word: Notice, within_s: Optional[float] = None, early: bool = False) -> None:
        if within_s is None and word[1] is not None:
            within_s = round(max(word[1] - self.now, 0.0), 3)
        if early:
            self._report("notice", reason=word[0], within_s=within_s, early=True)
        else:
            self._report("notice", reason=word[0], within_s=within_s)

    def _drain_command(self, message: Message) -> None:
        within_s = message["within_s"]
        if within_s is None:
            self._withdraw("drain")
        else:  # no report: whoever asked knows, and would take it for the vendor's word
            self._announce("drain", "drain", self.now + float(within_s))

    def _announce(self, source: str, reason: str, deadline: Optional[float]) -> None:
        self.notices[source] = (reason, deadline)
        self._acts.append(Persist(["notice", source, reason, deadline]))
        early = source in EARLY_SOURCES
        if not early:
            self._end_waiting("notice")
        for task in list(self.live.values()):
            # The machine may live for hours: only those that can save their work are told already.
            if task.state == RUNNING and (task.command.get("on_notice") or not early):
                self._give_notice(task)

    def _withdraw(self, source: str) -> None:
        if self.notices.pop(source, None) is None:
            return
        self._acts.append(Persist(["notice", source, None, None]))
        for task in self.live.values():
            if task.why == "notice" and task.command.get("on_notice"):
                task.kill_at = self._notice_kill_at(None)
        self._fill()

    def _end_waiting(self, why: str) -> None:
        waiting, self.waiting = self.waiting, collections.deque()
        for task in waiting:
            if task.state == WAITING:
                self._end_unstarted(task, why)

    def _notice_kill_at(self, default: Optional[float]) -> Optional[float]:
        """When tasks must be dead: a little before the machine is, so that their end can be told."""
        deadlines = [at for _, at in self.notices.values() if at is not None]
        if not deadlines:
            return default
        left_s = min(deadlines) - self.now
        return self.now + max(left_s - min(2.0, left_s * 0.1), 0.0)

    def _give_notice(self, task: Task) -> None:
        if task.why not in ("", "notice"):
            return
        hook, first = task.command.get("on_notice"), not task.why
        kill_at = self._notice_kill_at(None if hook else self.now + float(task.command.get("grace_s", 10)))
        if not first:
            soonest = [at for at in (kill_at, None if hook else task.kill_at) if at is not None]
            task.kill_at = min(soonest, default=None)
            return
        task.kill_at = kill_at
        task.why = "notice"
        self._acts.append(Persist(["why", task.task, task.attempt, "notice"]))
        if hook:
            task.hook = True
            reason = (self._word() or next(iter(self.notices.values())))[0]
            seconds = None if kill_at is None else kill_at - self.now
            self._acts.append(Hook(task.task, task.attempt, hook, reason, seconds))
        else:
            self._acts.append(Signal(task.task, task.attempt, signal.SIGTERM))

    def _lease(self, message: Message) -> None:
        self._renew(float(message["lease_s"]))
        self._fill()

    def _renew(self, lease_s: float) -> None:
        self.lease_s = lease_s
        self.lease_at = self.now + lease_s
        self.lease_over = self.ended_machine = False
        self.end_at = None
        self._acts.append(Persist(["lease", lease_s, round(self.lease_at, 3)]))

    def _lease_ends(self) -> None:
        self.lease_over = True
        self._end_waiting("lease")
        for task in list(self.live.values()):
            self._stop_live(task, "lease", float(task.command.get("grace_s", 10)))
        self.run_next = None
        if self.run is not None and not self.run.stopping:
            self._stop_step(self.run, "the lease is over")

    def _maybe_end_machine(self) -> None:
        if not self.live and not self.draining and self.run is None and self.end_at is None:
            self.ended_machine = True
            self._acts.append(EndMachine())

    def _end_failed(self, _: EndFailed) -> None:
        if self.lease_over:
            self.end_at = self.now + END_AGAIN_S

    # --- bootstrap

    def _bootstrap(self, message: Message) -> None:
        run_id = str(message["run_id"])
        if run_id in self.runs:
            ended = self.runs[run_id]
            known = any(e["t"] == "bootstrap_ended" and e["run_id"] == run_id for e in self.outbox)
            if ended is not None and not known:
                self._report("bootstrap_ended", run_id=run_id, phase=ended[0], error=ended[1])
            return
        run = _Run(message)
        if self.run is None:
            self._begin_run(run, message)
        else:
            self.run_next = message
            if not self.run.stopping:
                self._stop_step(self.run, "superseded by another run")

    def _begin_run(self, run: _Run, message: Message) -> None:
        self._acts.append(Persist(["run", _without_secrets(message)]))
        self.run = run
        self._heard_run(run.run_id)
        self._begin_step(run)

    def _heard_run(self, run_id: str) -> None:
        self.runs[run_id] = None
        if len(self.runs) > RUNS_MAX:
            del self.runs[next(iter(self.runs))]

    def _begin_step(self, run: _Run) -> None:
        if run.index >= len(run.steps):
            self._end_run(run, None, None)
            return
        step = run.steps[run.index]
        run.began, run.last, run.pid = self.now, "", 0
        run.kill_at = self.now + float(step["timeout_s"])
        self._report("phase", run_id=run.run_id, event="started", phase=step["phase"])
        self._report("command", run_id=run.run_id, command=step["run"])
        self._acts.append(RunStep(run.run_id, run.index, step["run"], run.env))

    def _step_started(self, item: StepStarted) -> None:
        run = self.run
        if run is not None and run.run_id == item.run_id:
            run.pid, run.start_time = item.pid, item.start_time
            self._acts.append(Persist(["step", run.index, item.pid, item.start_time]))
            if run.stopping:
                self._signal_step(run, signal.SIGTERM)

    def _step_output(self, item: StepOutput) -> None:
        run = self.run
        if run is None or run.run_id != item.run_id:
            return
        stream = STREAMS[item.stream]
        for text, kind in item.lines:
            for value in run.hidden:
                text = text.replace(value, HIDDEN)
            if text.strip():
                run.last = text.strip()[:500]
            over: Message = {"overwrite": True} if kind == 1 else {}
            self._report("console", run_id=run.run_id, stream=stream, content=text, **over)

    def _step_ended(self, item: StepEnded) -> None:
        run = self.run
        if run is None or run.run_id != item.run_id:
            return
        if item.error is not None:
            error: Optional[str] = item.error
        elif run.stopping:
            error = run.stopping
        elif item.signal is not None:
            error = f"killed by signal {item.signal}"
        else:
            error = f"exit code {item.code}" if item.code else None
        if error is not None and run.last:
            error = f"{error}: {run.last}"
        self._step_over(run, error)

    def _step_over(self, run: _Run, error: Optional[str]) -> None:
        phase, elapsed = run.steps[run.index]["phase"], round(max(self.now - run.began, 0.0), 3)
        if error is None:
            self._report("phase", run_id=run.run_id, event="completed", phase=phase, elapsed=elapsed)
            run.index += 1
            self._begin_step(run)
        else:
            fields: Message = {"phase": phase, "elapsed": elapsed, "error": error}
            self._report("phase", run_id=run.run_id, event="failed", **fields)
            self._end_run(run, phase, error)

    def _end_run(self, run: _Run, phase: Optional[str], error: Optional[str]) -> None:
        self._report("bootstrap_ended", run_id=run.run_id, phase=phase, error=error)
        following, self.run_next = self.run_next, None
        if following is not None:
            self._begin_run(_Run(following), following)

    def _apply_run_ended(self, entry: Message, _: Optional[List[Any]]) -> None:
        if entry["run_id"] in self.runs:
            self.runs[entry["run_id"]] = (entry["phase"], entry["error"])
        if self.run is not None and self.run.run_id == entry["run_id"]:
            self.run = None

    def _apply_phase(self, entry: Message, _: Optional[List[Any]]) -> None:
        run = self.run
        if run is not None and run.run_id == entry["run_id"] and entry["event"] == "started":
            phases = [step["phase"] for step in run.steps]
            if run.steps[run.index]["phase"] != entry["phase"] and entry["phase"] in phases:
                run.index = phases.index(entry["phase"])  # only on replay

    def _stop_step(self, run: _Run, why: str) -> None:
        run.stopping = why
        run.kill_at = self.now + STEP_GRACE_S
        if run.pid:
            self._signal_step(run, signal.SIGTERM)

    def _signal_step(self, run: _Run, sig: int) -> None:
        self._acts.append(StopStep(run.run_id, sig, run.pid, run.start_time))

    # --- the machine

    def _sampled(self, item: Sampled) -> None:
        self.sampling = False
        if self.metrics_every_s > 0:
            self._next_metrics = self.now + self.metrics_every_s
        if item.values:
            self._report("metrics", values=item.values)
        if item.disk_free is not None:
            if item.disk_free < DISK_FREE_MIN:
                self._disk_is_full(DiskFull())
            elif item.disk_free > 2 * DISK_FREE_MIN:
                self.disk_full = False

    def _disk_is_full(self, _: DiskFull) -> None:
        if not self.disk_full or self.now >= self.disk_told_at + DISK_TOLD_EVERY_S:
            self.disk_full, self.disk_told_at = True, self.now
            self._report("unhealthy", reason="disk full")

    def _task_metrics(self, item: TaskMetrics) -> None:
        entry: Message = {"task": item.task, "values": item.values}
        if item.at is not None:
            entry["at"] = item.at
        self._report("metrics", **entry)

    def _health_checked(self, item: HealthChecked) -> None:
        self.checking = False
        if self.health is None:
            return
        self.health_at = self.now + float(self.health["every_s"])
        if item.error is None:
            self.failures = 0
            return
        self.failures += 1
        if self.failures >= int(self.health["failures"]):
            self.failures = 0  # told again after as many more: the daemon may not have been able to act
            self._report("unhealthy", reason=f"health check: {item.error}")

    def _upgrade(self, message: Message) -> None:
        if self.run is not None:
            raise Malformed("a bootstrap step is running")
        self._acts.append(Exec(str(message["path"])))

    def _exec_failed(self, item: ExecFailed) -> None:
        self._refuse({"t": "upgrade"}, item.error)

    # --- what a new process of the agent knows

    def replay(self, record: List[Any]) -> None:
        """Take in a record that was persisted."""
        self._acts = []
        _REPLAY[record[0]](self, record)
        self._acts = []

    def _replay_boot(self, record: List[Any]) -> None:
        self.boot, self.next_id, self.dropped = record[1], record[2], record[3]

    def _replay_report(self, record: List[Any]) -> None:
        self._admit(record[1], record[2] if len(record) > 2 else None)

    def _replay_ack(self, record: List[Any]) -> None:
        self._acknowledged(record[1])

    def _replay_epoch(self, record: List[Any]) -> None:
        self.epoch = record[1]

    def _replay_hello(self, record: List[Any]) -> None:
        self._configure(record[1])
        self.health_at = None

    def _replay_lease(self, record: List[Any]) -> None:
        self.lease_s, self.lease_at = record[1], record[2]

    def _replay_task(self, record: List[Any]) -> None:
        task = Task(record[1])
        self.tasks[task.key] = task

    def _replay_go(self, record: List[Any]) -> None:
        task = self.tasks.get((record[1], record[2]))
        if task is not None:
            task.state = SPAWNING

    def _replay_started(self, record: List[Any]) -> None:
        task = self.tasks.get((record[1], record[2]))
        if task is not None:
            task.start_time = record[3]

    def _replay_why(self, record: List[Any]) -> None:
        task = self.tasks.get((record[1], record[2]))
        if task is not None:
            task.why = record[3]
            task.hook = task.why == "notice" and bool(task.command.get("on_notice"))

    def _replay_exit(self, record: List[Any]) -> None:
        task = self.tasks.get((record[1], record[2]))
        if task is not None:
            task.code, task.signal, task.oom, task.seconds, task.why = record[3]
            task.exited = task.started = True

    def _replay_notice(self, record: List[Any]) -> None:
        if record[2] is None:
            self.notices.pop(record[1], None)
        else:
            self.notices[record[1]] = (record[2], record[3])

    def _replay_run(self, record: List[Any]) -> None:
        self.run = _Run(record[1])
        self._heard_run(self.run.run_id)

    def _replay_step(self, record: List[Any]) -> None:
        if self.run is not None:
            self.run.index, self.run.pid, self.run.start_time = record[1], record[2], record[3]

    def _replay_held(self, record: List[Any]) -> None:
        state = record[1]
        task = Task(state["command"] or {"task": state["task"], "attempt": state["attempt"]})
        for name in _HELD:
            setattr(task, name, state[name])
        task.command = state["command"]
        for which, numbers in enumerate(state["streams"] or ()):
            stream = task.both()[which]
            stream.taken, stream.noted, stream.acked, stream.released, stream.unacked = numbers
        self.tasks[task.key] = task

    def _replay_done(self, record: List[Any]) -> None:
        for task, attempt, result in record[1]:
            self._remember((task, attempt), result)

    def _replay_runs(self, record: List[Any]) -> None:
        self.runs.update(
            (run_id, None if ended is None else (ended[0], ended[1])) for run_id, ended in record[1]
        )

    def snapshot(self) -> Iterator[List[Any]]:
        """Records that say all that matters now: they replace every record persisted before."""
        # reports first: they find no task then, so that they change nothing; the tasks follow as they are
        yield ["boot", self.boot, self.next_id, self.dropped]
        for entry in self.outbox:
            yield ["r", entry]
        yield ["boot", self.boot, self.next_id, self.dropped]
        yield [
            "hello",
            {
                "epoch": self.epoch, "owner": self.owner, "instance": self.instance, "slots": self.slots,
                "metrics_every_s": self.metrics_every_s, "health": self.health,
            },
        ]  # fmt: skip
        if self.lease_at is not None:
            yield ["lease", self.lease_s, self.lease_at]
        for source, (reason, deadline) in self.notices.items():
            yield ["notice", source, reason, deadline]
        for task in self.tasks.values():
            held: Message = {name: getattr(task, name) for name in _HELD}
            held["command"], held["streams"] = _without_secrets(task.command), None
            if task.streams is not None:
                held["streams"] = [[s.noted, s.noted, s.acked, s.released, s.unacked] for s in task.streams]
            yield ["held", held]
        yield ["done", [[key[0], key[1], result] for key, result in self.done.items()]]
        run = self.run
        if run is not None:
            kept = {key: value for key, value in run.env.items() if key not in run.secret}
            yield ["run", {"run_id": run.run_id, "env": kept, "steps": run.steps}]
            yield ["step", run.index, run.pid, run.start_time]
        yield ["runs", [[run_id, ended] for run_id, ended in self.runs.items()]]

    def _resume(self, item: Resume) -> None:
        if self.lease_at is None and self.lease_s > 0:
            self.lease_at = self.now + self.lease_s
        if item.rebooted:
            self.lease_at = self.now + self.lease_s if self.lease_s > 0 else None
            self.notices.clear()
            self.instance = ""  # the disk may have come from another machine's image
        if self.health is not None:
            self.health_at = self.now + float(self.health["every_s"])
        for task in list(self.tasks.values()):
            if task.state == WAITING and task.command.get("secret"):
                del self.tasks[task.key]  # its secrets died with us: the daemon will say it again
            elif task.state == WAITING:
                self.waiting.append(task)
            elif task.state != ENDED:
                task.state = RUNNING if task.started else SPAWNING
                self.live[task.key] = task
                if item.rebooted:
                    task.began = 0.0
                self._acts.append(Adopt(task.task, task.attempt, task.pid, task.start_time))
        run = self.run
        if run is not None:
            self._signal_step(run, signal.SIGKILL)
            run.began = self.now
            if run.index < len(run.steps):
                self._step_over(run, "the agent ended while this step ran")
            else:
                self._end_run(run, None, None)
        if self._leaves():
            self._end_waiting("notice")
        self._fill()


_HELD = (
    "task", "attempt", "cwd", "state", "pid", "start_time", "began", "started", "why", "hook",
    "exited", "code", "signal", "oom", "error", "seconds", "quota", "dropped", "entries",
    "fetched", "file_at",
)  # fmt: skip

_HEAR: Dict[type, Callable[[Core, Any], None]] = {
    Resume: Core._resume,
    Connected: Core._connected,
    Disconnected: Core._disconnected,
    Said: Core._said,
    Spawned: Core._spawned,
    Identified: Core._identified,
    SpawnFailed: Core._spawn_failed,
    Exited: Core._exited,
    Gone: Core._gone,
    HookEnded: Core._hook_ended,
    Grown: Core._grown,
    Output: Core._output,
    FoundFile: Core._found_file,
    FileRead: Core._file_read,
    PutFailed: Core._put_failed,
    StepStarted: Core._step_started,
    StepOutput: Core._step_output,
    StepEnded: Core._step_ended,
    Noticed: Core._noticed,
    Sampled: Core._sampled,
    TaskMetrics: Core._task_metrics,
    DiskFull: Core._disk_is_full,
    HealthChecked: Core._health_checked,
    EndFailed: Core._end_failed,
    ExecFailed: Core._exec_failed,
    Clock: Core._clock,
    Tick: Core._tick,
}
_COMMANDS: Dict[str, Callable[[Core, Message], None]] = {
    "lease": Core._lease,
    "bootstrap": Core._bootstrap,
    "put": Core._put,
    "start": Core._start,
    "stop": Core._stop,
    "drain": Core._drain_command,
    "upgrade": Core._upgrade,
}
_APPLY: Dict[str, Callable[[Core, Message, Optional[List[Any]]], None]] = {
    "started": Core._apply_started,
    "log": Core._apply_log,
    "file": Core._apply_file,
    "ended": Core._apply_ended,
    "phase": Core._apply_phase,
    "bootstrap_ended": Core._apply_run_ended,
}
_FORGET: Dict[str, Callable[[Core, Message], None]] = {
    "log": Core._forget_log,
    "file": Core._forget_log,
    "ended": Core._forget_ended,
}
_REPLAY: Dict[str, Callable[[Core, List[Any]], None]] = {
    "boot": Core._replay_boot,
    "r": Core._replay_report,
    "ack": Core._replay_ack,
    "epoch": Core._replay_epoch,
    "hello": Core._replay_hello,
    "lease": Core._replay_lease,
    "task": Core._replay_task,
    "go": Core._replay_go,
    "started": Core._replay_started,
    "why": Core._replay_why,
    "exit": Core._replay_exit,
    "notice": Core._replay_notice,
    "run": Core._replay_run,
    "step": Core._replay_step,
    "held": Core._replay_held,
    "done": Core._replay_done,
    "runs": Core._replay_runs,
}


def _is_same(one: Notice, other: Optional[Notice]) -> bool:
    """Whether two words say the same; of an end that is told again, the hundredths differ."""
    if other is None or one[0] != other[0] or (one[1] is None) != (other[1] is None):
        return False
    return one[1] is None or other[1] is None or abs(one[1] - other[1]) < 1.0


def _key_of(message: Message) -> Key:
    task, attempt = message["task"], message["attempt"]
    if not isinstance(task, str) or not isinstance(attempt, int):
        raise Malformed("task must be a string and attempt a number")
    return (task, attempt)


def _without_secrets(command: Message) -> Message:
    """What of a `start` or `bootstrap` may be on disk."""
    secret = command.get("secret")
    if not secret:
        return command
    return dict(command, env={key: value for key, value in command["env"].items() if key not in secret})


def _names(secret: Any) -> List[str]:
    if not all(isinstance(key, str) for key in secret or ()):
        raise Malformed("secret must be names")
    return list(secret or ())


def _hidden(values: List[str]) -> List[str]:
    """What is not to be told of what a step prints: values, and lines of them, the longest first."""
    parts = {part.strip() for value in values for part in [value, *value.splitlines()]}
    return sorted((part for part in parts if len(part) >= HIDDEN_CHARS_MIN), key=len, reverse=True)


def _check_start(message: Message) -> None:
    argv, shell = message.get("argv"), message.get("shell")
    if not argv and not shell:
        raise Malformed("neither argv nor shell is given")
    if not all(isinstance(arg, str) for arg in argv or ()):
        raise Malformed("argv must be strings")
    if not all(isinstance(k, str) and isinstance(v, str) for k, v in (message.get("env") or {}).items()):
        raise Malformed("env must be strings")
    _names(message.get("secret"))
    int(message["log_bytes_max"]), float(message.get("grace_s", 10))


# --- the kernel ---------------------------------------------------------------------------------


class _Kernel:
    """What Python has no call for. Each of them may be missing; then there is a plainer way."""

    def __init__(self) -> None:
        try:
            self._libc: Optional[ctypes.CDLL] = ctypes.CDLL(None, use_errno=True)
        except (OSError, TypeError):
            self._libc = None

    def become_subreaper(self) -> bool:
        """Have orphaned descendants become our children (prctl PR_SET_CHILD_SUBREAPER)."""
        try:
            return self._libc is not None and self._libc.prctl(36, 1, 0, 0, 0) == 0
        except AttributeError:
            return False

    def punch(self, fd: int, start: int, end: int) -> None:
        """Give these bytes of a file back to the disk; its size stays."""
        try:
            if self._libc is not None:
                self._libc.fallocate(fd, 3, ctypes.c_int64(start), ctypes.c_int64(end - start))
        except AttributeError:
            return

    def watch(self, directory: str) -> int:
        """Return an inotify descriptor that tells of changes in a directory, -1 when there is none."""
        if self._libc is None:
            return -1
        try:
            fd = int(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
            if fd >= 0 and self._libc.inotify_add_watch(fd, os.fsencode(directory), 0x3CA) < 0:
                os.close(fd)
                fd = -1
        except AttributeError:
            return -1
        return fd


def _environ(pid: int) -> Dict[str, str]:
    """The environment that a process was started with; empty when it can't be had."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            pairs = [os.fsdecode(pair).partition("=") for pair in file.read().split(b"\0")]
    except OSError:
        return {}
    return {key: value for key, _, value in pairs if key}


class _Stat(NamedTuple):
    state: str
    parent: int
    group: int
    session: int
    start: int


def _process(pid: int) -> Optional[_Stat]:
    """What /proc says of a process; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            fields = file.read(2048).rpartition(b")")[2].split()
        return _Stat(fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None


def _all_pids() -> List[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _group_lives(group: int) -> bool:
    """Whether a process group has a member that is no zombie."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    for pid in _all_pids():
        found = _process(pid)
        if found is not None and found.group == group and found.state not in "ZX":
            return True
    return False


def _kill(pid: int, sig: int, group: bool = False) -> None:
    try:
        if group:
            os.killpg(pid, sig)
        else:
            os.kill(pid, sig)
    except (ProcessLookupError, PermissionError):
        return  # gone already, or not ours to signal (setuid): it is looked at again


def _is_inside(pid: int, directory: str) -> bool:
    """Whether a process works in a directory or writes to a file there, whatever its environment says."""
    for link in ("cwd", "fd/1", "fd/2"):
        try:
            if f"{os.readlink(f'/proc/{pid}/{link}')}/".startswith(f"{directory}/"):
                return True
        except OSError:
            continue
    return False


class _OomCounter:
    """How many processes the kernel killed for want of memory: of our cgroup, else of the machine."""

    def __init__(self) -> None:
        self._path, self._word = "/proc/vmstat", b"oom_kill "
        self._read_at = -10.0
        self._count = 0
        try:
            with open("/proc/self/cgroup") as file:
                groups = [line.strip().split(":", 2) for line in file]
        except OSError:
            groups = []
        for _, controllers, path in groups:
            if controllers == "":
                candidates = [f"/sys/fs/cgroup{path}/memory.events", "/sys/fs/cgroup/memory.events"]
            elif "memory" in controllers.split(","):
                base = "/sys/fs/cgroup/memory"
                candidates = [f"{base}{path}/memory.oom_control", f"{base}/memory.oom_control"]
            else:
                continue
            for candidate in candidates:
                if self._parse(candidate) is not None:
                    self._path = candidate
                    return

    def _parse(self, path: str) -> Optional[int]:
        try:
            with open(path, "rb") as file:
                for line in file:
                    if line.startswith(self._word):
                        return int(line.split()[1])
        except (OSError, ValueError):
            return None
        return None

    def count(self, now: float, fresh: bool) -> int:
        """The counter; when not `fresh`, as it was within the last second."""
        if fresh or now - self._read_at > 1.0:
            self._read_at = now
            self._count = self._parse(self._path) or 0
        return self._count


# --- what the vendor says on the machine ----------------------------------------------------------

METADATA_URLS = {"aws": "http://169.254.169.254", "gcp": "http://169.254.169.254"}
METADATA_NAMES = ("metadata.google.internal", "metadata.google.internal.", "metadata")  # is that address
METADATA_FIRST_S, METADATA_MOST_S = 1.0, 30.0  # pause after a failure, doubled with each that follows
METADATA_LOG_S = 600.0
ANSWER_S = 5.0
ANSWER_BYTES_MAX = 64 * 1024
EC2_EVERY_S = 2.0
EC2_TOKEN_S = 21_600
GCE_HOLDS_S = 60  # how long an answer may be held back until something changes
GCE_ABSENT_S = 60.0  # until a key that is not there is asked for again
GCE_PREEMPTED_S = 30.0
GCE_MAINTENANCE_S = 60.0
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_HTTP_TIME = re.compile(r"(\d{1,2}) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT")
_ISO_TIME = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)")
_URL = re.compile(r"http://(\[[0-9A-Fa-f:.%]+\]|[^/:@\s]+)(?::(\d{1,5}))?(/[^\s?#]*)?")
_WORD = re.compile(r"[!-~]{1,4096}")


class Ask(NamedTuple):
    """A request to the metadata server."""

    method: str
    path: str
    headers: Dict[str, str]
    within_s: float = ANSWER_S


class Answer(NamedTuple):
    """What it answered; names of headers in lower case."""

    status: int
    headers: Dict[str, str]
    body: bytes


class NoAnswer(Exception):
    """There was none, or none that makes sense; the text says which."""


def parse_answer(data: bytes, ended: bool) -> Optional[Answer]:
    """Read an HTTP answer; None when more has to come. Raises NoAnswer.

    Args:
        data: what came so far.
        ended: nothing more comes.
    """
    if len(data) > ANSWER_BYTES_MAX:
        raise NoAnswer(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
    head, found, body = data.partition(b"\r\n\r\n")
    if not b"HTTP/1.".startswith(data[:7]) or (ended and not found):
        raise NoAnswer("no HTTP" if data else "the connection was closed")
    if not found:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ", 2)
    if len(words) < 2 or not re.fullmatch(r"[1-5]\d\d", words[1]):
        raise NoAnswer(f"no HTTP: {first[:100]!r}")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length, is_whole = headers.get("content-length", ""), ended
    if "chunked" in headers.get("transfer-encoding", "").lower():
        chunks, is_whole = _unchunked(body)
    elif re.fullmatch(r"\d{1,9}", length):
        chunks, is_whole = body[: int(length)], len(body) >= int(length)
    else:
        chunks = body
    if is_whole:
        return Answer(int(words[1]), headers, chunks)
    if ended:
        raise NoAnswer("the answer was cut off")
    return None


def _unchunked(body: bytes) -> Tuple[bytes, bool]:
    """The content of a chunked body, and whether it is whole."""
    content = b""
    while True:
        size, found, rest = body.partition(b"\r\n")
        if not found:
            return content, False
        try:
            length = int(size.split(b";")[0], 16)
        except ValueError:
            raise NoAnswer("no HTTP: chunks without a size") from None
        if length <= 0:
            return content, True
        if len(rest) < length + 2:
            return content, False
        content, body = content + rest[:length], rest[length + 2 :]


def _epoch(year: int, month: int, day: int, hour: int, minute: int, second: int) -> float:
    """Seconds since the epoch, of a time in UTC. `calendar.timegm` would load much else."""
    year -= month <= 2
    of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    days = year * 365 + year // 4 - year // 100 + year // 400 + of_year - 719_468
    return float(((days * 24 + hour) * 60 + minute) * 60 + second)


def http_time(text: str) -> Optional[float]:
    """Read a Date header; None when it is none."""
    found = _HTTP_TIME.search(text)
    if found is None or found.group(2) not in _MONTHS:
        return None
    day, month, year, *clock = found.groups()
    return _epoch(int(year), _MONTHS.index(month) + 1, int(day), *map(int, clock))


def iso_time(text: str) -> Optional[float]:
    """Read a time of ISO 8601, in UTC as vendors write it; None when it is none."""
    found = _ISO_TIME.match(text)
    return None if found is None else _epoch(*map(int, found.groups()))


class Ec2Watch:
    """What to ask the metadata service of ec2 (version 2), and what its answers mean. Does nothing itself.

    Source: EC2 user guide, "Spot Instance interruption notices" and "Rebalance recommendations".
    """

    def __init__(self, rebalance: bool) -> None:
        self.sources = ("aws", "aws-rebalance") if rebalance else ("aws",)
        self._paths = ("spot/instance-action", "events/recommendations/rebalance")[: len(self.sources)]
        self._next = 0
        self._token = ""
        self._asks_token = False
        self._renew_at = 0.0
        self._refused = False  # the token that was used last
        self._said: Dict[str, str] = {}

    def ask(self, now: float) -> Ask:
        """The next request."""
        self._asks_token = not self._token or now >= self._renew_at
        if self._asks_token:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(EC2_TOKEN_S)}
            return Ask("PUT", "/latest/api/token", headers)
        headers = {"X-aws-ec2-metadata-token": self._token}
        return Ask("GET", f"/latest/meta-data/{self._paths[self._next]}", headers)

    def failed(self) -> None:
        """There was no answer: begin with what matters most."""
        self._next = 0

    def hear(
        self, now: float, wall: float, answer: Answer, held: Dict[str, Notice]
    ) -> Tuple[List[Noticed], float]:
        """Take in an answer to the last request. Raises NoAnswer.

        Returns:
            Words that have changed, and how many seconds the next request has to wait.
        """
        if self._asks_token:
            self._take_token(now, answer)
            return [], 0.0
        if answer.status == 401:
            self._token = ""
            if self._refused:
                raise NoAnswer("a new token is refused")
            self._refused = True
            return [], 0.0
        self._refused = False
        path = self._paths[self._next]
        if answer.status not in (200, 404):
            raise NoAnswer(f"{path}: status {answer.status}")
        said = answer.body.decode("utf-8", "replace") if answer.status == 200 else ""
        noticed = []
        if said != self._said.get(path):
            noticed.append(self._rebalance(said) if self._next else self._action(said, answer, wall))
            self._said[path] = said
        self._next = (self._next + 1) % len(self._paths)
        return noticed, 0.0 if self._next else EC2_EVERY_S

    def _take_token(self, now: float, answer: Answer) -> None:
        token = answer.body.decode("latin-1")
        if answer.status != 200 or not _WORD.fullmatch(token):
            raise NoAnswer(f"token: status {answer.status}")
        ttl = answer.headers.get("x-aws-ec2-metadata-token-ttl-seconds", "")
        self._token = token
        self._renew_at = now + 0.9 * (int(ttl) if re.fullmatch(r"\d{1,6}", ttl) else EC2_TOKEN_S)

    def _action(self, said: str, answer: Answer, wall: float) -> Noticed:
        """What is to be done with the machine, {"action": "terminate", "time": "..."}, if anything."""
        content = _object(said)
        action = content.get("action") if said else "none"
        if not isinstance(action, str) or not re.fullmatch(r"[ -~]{1,100}", action):
            raise NoAnswer(f"no action: {said[:100]!r}")
        if action == "none":
            return Noticed(None, None, "aws")
        ends_at = iso_time(str(content.get("time")))
        within_s = None
        if ends_at is not None:
            date = http_time(answer.headers.get("date", ""))
            # the vendor's clock counts; a Date header is cut off to seconds: half a one is right on average
            within_s = round(max(ends_at - (wall if date is None else date + 0.5), 0.0), 3)
        return Noticed(f"spot interruption: {action}", within_s, "aws")

    def _rebalance(self, said: str) -> Noticed:
        if said and "noticeTime" not in _object(said):
            raise NoAnswer(f"no recommendation: {said[:100]!r}")
        return Noticed("rebalance recommendation" if said else None, None, "aws-rebalance")


def _object(text: str) -> Dict[str, Any]:
    """A JSON object; {} for nothing. Raises NoAnswer."""
    try:
        content = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise NoAnswer(f"no JSON object: {text[:100]!r}")
    return content


class GceWatch:
    """Waits for the change of one value at the metadata server of compute engine. Does nothing itself.

    Source: Compute Engine guide, "View and query VM metadata", "Spot VMs", "Handle GPU host maintenance".
    """

    def __init__(
        self, key: str, source: str, words: Dict[str, Tuple[Optional[str], Optional[float]]]
    ) -> None:
        self._path = f"/computeMetadata/v1/instance/{key}"
        self._source = source
        self._words = words
        self._etag = ""
        self._value: Optional[str] = None
        self._asked_at = 0.0
        self.sources = (source,)

    def ask(self, now: float) -> Ask:
        """The next request: when the value is known, it is answered when that changes."""
        self._asked_at = now
        headers = {"Metadata-Flavor": "Google"}
        if not self._etag:
            return Ask("GET", self._path, headers)
        query = f"?wait_for_change=true&timeout_sec={GCE_HOLDS_S}&last_etag={self._etag}"
        return Ask("GET", self._path + query, headers, GCE_HOLDS_S + ANSWER_S)

    def failed(self) -> None:
        """There was no answer. What is known stays: whatever changed is answered at once."""

    def hear(
        self, now: float, wall: float, answer: Answer, held: Dict[str, Notice]
    ) -> Tuple[List[Noticed], float]:
        """Take in an answer to the last request. Raises NoAnswer.

        Returns:
            The word, if it has changed, and how many seconds the next request has to wait.
        """
        if answer.headers.get("metadata-flavor") != "Google":
            raise NoAnswer(f"status {answer.status}, and not of a metadata server")
        if answer.status not in (200, 404):
            raise NoAnswer(f"status {answer.status}")
        value = answer.body.decode("utf-8", "replace").strip() if answer.status == 200 else ""
        if value and value not in self._words:
            raise NoAnswer(f"not known: {value[:100]!r}")
        etag = answer.headers.get("etag", "")
        self._etag = etag if value and re.fullmatch(r"[A-Za-z0-9_-]{1,100}", etag) else ""
        changed, self._value = value != self._value, value
        reason, within_s = self._words.get(value, (None, None))
        # an earlier life of ours may have heard it: what is left since is less than at first
        known = changed and reason is not None and held.get(self._source, ("",))[0] == reason
        noticed = [Noticed(reason, within_s, self._source)] if changed and not known else []
        if not value:
            return noticed, GCE_ABSENT_S
        if not self._etag:
            return noticed, EC2_EVERY_S
        # one that does not hold its answers back is not asked without end
        return noticed, 0.0 if now - self._asked_at > 1.0 else 0.2 if changed else 1.0


def watches_of(kind: str, rebalance: bool) -> List[Any]:
    """Those who watch a vendor's metadata."""
    if kind == "aws":
        return [Ec2Watch(rebalance)]
    if kind == "gcp":
        preempted = {"TRUE": ("preempted", GCE_PREEMPTED_S), "FALSE": (None, None)}
        events = {
            "TERMINATE_ON_HOST_MAINTENANCE": ("maintenance", GCE_MAINTENANCE_S),
            "MIGRATE_ON_HOST_MAINTENANCE": (None, None),
            "NONE": (None, None),
        }
        return [
            GceWatch("preempted", "gcp", preempted),
            GceWatch("maintenance-event", "gcp-maintenance", events),
        ]
    return []


def split_url(url: str) -> Tuple[str, int, str]:
    """Host, port and path of a metadata server's base URL. Raises ValueError."""
    found = _URL.fullmatch(url.strip())
    if found is None or int(found.group(2) or 80) > 65535:
        raise ValueError(f"no URL of a metadata server (http://HOST[:PORT]): {url!r}")
    return found.group(1), int(found.group(2) or 80), (found.group(3) or "").rstrip("/")


# --- the loop -----------------------------------------------------------------------------------

TAIL_S = 0.05
NOTICE_S = 1.0
DYING_S = 0.1
UNSURE_S = 1.0  # an orphan without environment may be in its exec for so long, and belong to a task
SPARES_MAX = 64
JOURNAL_BYTES_MIN = 4 * 1024 * 1024
LINE_BYTES_MAX = 64 * 1024 * 1024
LOG_BYTES_MAX = 1024 * 1024
INPUTS_MAX = 500  # handled before sockets are looked at again
GPU_COMMAND = (
    "nvidia-smi",
    "--query-gpu=index,utilization.gpu,memory.used,memory.total,temperature.gpu,power.draw",
    "--format=csv,noheader,nounits",
)
GPU_VALUES = (  # after the index; nvidia-smi counts memory in MiB
    ("utilization_percent", 1.0),
    ("memory_used_bytes", 1048576.0),
    ("memory_total_bytes", 1048576.0),
    ("temperature_celsius", 1.0),
    ("power_watts", 1.0),
)
GPUS_MAX = 16
GPU_S = 10.0
GPU_FAILURES_MAX = 3
GPU_AGAIN_S = 600.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PYTHON = (sys.executable, "-I", "-S")


class _Attempt:
    """The processes and files of one attempt."""

    __slots__ = (
        "alone", "child", "directory", "fds", "hook", "key", "marker", "metrics_at", "name", "oom",
        "over", "pid", "pidfd", "sizes", "start_time",
    )  # fmt: skip

    def __init__(self, key: Key, directory: str) -> None:
        self.key = key
        self.directory = directory
        self.marker = b"EVERPOOL_METRICS_FILE=" + os.fsencode(directory) + b"/metrics\0"
        self.fds = (-1, -1)
        self.sizes = [0, 0]
        self.pid = 0
        self.start_time = 0
        self.child = True
        self.pidfd = -1
        self.over = False  # the main process
        self.alone = False  # nothing was left behind that could still write
        self.hook = 0
        self.oom = 0
        self.metrics_at = 0


class _Step:
    """The set-up step that runs, and how far its output was read."""

    def __init__(self, run_id: str, pid: int, fds: Tuple[int, int]) -> None:
        self.run_id = run_id
        self.pid = pid
        self.fds = fds
        self.read = [0, 0]
        self.released = [0, 0]


class _Watching:
    """One who watches the vendor's metadata, and the request under way."""

    def __init__(self, watch: Any) -> None:
        self.watch = watch
        self.sock: Optional[socket.socket] = None
        self.at = 0.0  # the next request, or when this one has failed
        self.said = b""  # of the request, what is still to be sent
        self.heard = b""
        self.fetches = False  # what we want to know; else only a token for it
        self.failures = 0  # in a row
        self.failed = 0  # since the last line about it
        self.log_at = 0.0


class Loop:
    """Does what the core decides, on a real machine."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.dir: str = options.dir
        self.kernel = _Kernel()
        self.subreaper = self.kernel.become_subreaper()
        self.oom = _OomCounter()
        self.null = os.open(os.devnull, os.O_RDWR)
        self.selector = selectors.DefaultSelector()
        self.inputs: Deque[Any] = collections.deque()
        self.attempts: Dict[Key, _Attempt] = {}
        self.dying: Dict[Key, _Attempt] = {}
        self.pids: Dict[int, Tuple[str, Any]] = {}  # our children, and what for
        self.deadlines: Dict[int, float] = {}  # of helpers
        self.polled: Dict[Key, _Attempt] = {}  # adopted, without a pidfd
        self.blank: Dict[int, float] = {}  # orphans that show no environment, and since when
        self.step: Optional[_Step] = None
        self.spares: List[Tuple[str, Tuple[int, int]]] = []
        self.spares_made = 0
        self.puts: Set[Key] = set()
        self.failed_puts: Dict[Key, str] = {}
        self.reading: Tuple[str, int] = ("", -1)  # the output file read last
        self.stopping = False
        self.tail_at: Optional[float] = None
        self.notice_at: Optional[float] = None
        self.notice_seen: Any = None
        self.notice_torn = False
        self.inotify = -1
        self.watchings: List[_Watching] = []
        self.metadata: Tuple[str, int, str] = ("", 0, "")  # host, port, path
        self.metadata_at: Optional[Tuple[Any, ...]] = None  # its address
        self.resolver: Optional[threading.Thread] = None
        self.gpu_pid = 0  # of nvidia-smi, while it runs
        self.gpu_failures = 0
        self.gpu_at = 0.0  # not before
        self.dying_at: Optional[float] = None
        self.conn: Optional[socket.socket] = None
        self.heard = False  # the core knows of this stream: what it says is meant for it
        self.inbox = bytearray()
        self.outbox = bytearray()
        self.sends: List[Message] = []
        self.journal = -1
        self.journal_lines: List[str] = []
        self.journal_rest = b""
        self.journal_size = 0
        self.journal_most = JOURNAL_BYTES_MIN
        self.cpu_before: Tuple[float, float] = (0.0, 0.0)
        self.base_env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("EVERPOOL_", "SSH_")) and name not in ("_", "PWD", "OLDPWD", "SHLVL")
        }
        self.base_env.setdefault("PATH", PATH)
        self.children_fd = -1
        try:
            self.children_fd = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY)
        except OSError:
            self.subreaper = False  # without it we could not find what it brings us
        self.do: Dict[type, Callable[[Any], None]] = {
            Send: self._send,
            Persist: self._persist,
            Spawn: self._spawn,
            Signal: self._signal,
            Adopt: self._adopt,
            Hook: self._hook,
            ReadOutput: self._read_output,
            Release: self._release,
            FindFile: self._find_file,
            ReadFile: self._read_file,
            WriteFile: self._write_file,
            RemoveTaskDir: self._remove_task_dir,
            RunStep: self._run_step,
            StopStep: self._stop_step,
            Sample: self._sample,
            CheckHealth: self._check_health,
            EndMachine: self._end_machine,
            Exec: self._exec,
        }

    # --- running

    def now(self) -> float:
        """Seconds since the machine's boot, sleep included: nobody turns this clock."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def run(self) -> None:
        """Be the agent until a signal ends us. Tasks live on."""
        os.makedirs(os.path.join(self.dir, "tasks"), mode=0o700, exist_ok=True)
        os.chdir(self.dir)
        self._lock()
        self._signals()
        rebooted = self._open_journal()
        self._clean_dirs()
        self.inputs.append(Resume(rebooted))
        self._watch_notices()
        self._watch_metadata()
        while self.inputs:
            self._work()
        self._reap()  # children that ended while we became another program
        self._listen()
        while not self.stopping:
            for key, events in self.selector.select(self._timeout()):
                key.data(events)
            self._timers()
            self._work()
            self._flush()
        self._write_journal()

    def _timeout(self) -> Optional[float]:
        if self.inputs:
            return 0
        times = [self.core.next_wake(), self.tail_at, self.notice_at, self.dying_at, *self.deadlines.values()]
        times += [watching.at for watching in self.watchings]
        soonest = min((at for at in times if at is not None), default=None)
        return None if soonest is None else max(soonest - self.now(), 0)

    def _timers(self) -> None:
        now = self.now()
        skew = time.time() - now
        if abs(skew - self.core.skew) > 0.05:
            self.inputs.append(Clock(skew))
        wake = self.core.next_wake()
        if wake is not None and wake <= now:
            self.inputs.append(Tick())
        if self.tail_at is not None and self.tail_at <= now:
            self._tail()
        if self.notice_at is not None and self.notice_at <= now:
            self._look_at_notices()
        if self.dying_at is not None and self.dying_at <= now:
            self._look_at_dying()
        for watching in self.watchings:
            if watching.at <= now:
                self._ask_or_give_up(watching)
        for pid in [pid for pid, at in self.deadlines.items() if at <= now]:
            self.deadlines[pid] = now + KILL_AGAIN_S
            self.pids[pid] = ("late", self.pids[pid]) if self.pids[pid][0] != "late" else self.pids[pid]
            _kill(pid, signal.SIGKILL, group=True)

    def _work(self) -> None:
        inputs, core, do = self.inputs, self.core, self.do
        for _ in range(INPUTS_MAX):
            if not inputs:
                break
            item = inputs.popleft()
            if type(item) is Connected:
                self.heard = True
            for action in core.step(self.now(), item):
                do[type(action)](action)

    def _lock(self) -> None:
        fd = self.options.lock_fd
        if fd is None:
            fd = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SystemExit(f"another agent holds {self.dir}/lock") from None
        os.set_inheritable(fd, False)
        self.lock_fd = fd

    def _signals(self) -> None:
        self.woken, wake = socket.socketpair()
        self.woken.setblocking(False)
        wake.setblocking(False)
        self._wake = wake
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # the byte on the wakeup socket is what counts
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        self.selector.register(self.woken, selectors.EVENT_READ, self._wakeup)

    def _stop(self, *_: Any) -> None:
        self.stopping = True

    def _wakeup(self, _: int) -> None:
        try:
            self.woken.recv(4096)
        except BlockingIOError:
            pass
        self._reap()

    # --- the journal

    def _open_journal(self) -> bool:
        """Replay what an earlier process knew. Returns whether the machine booted in between."""
        with open("/proc/sys/kernel/random/boot_id") as file:
            machine_boot = file.read().strip()
        self.journal = os.open("spool", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with open("spool", "rb") as spool:
            data = spool.read()
        records: List[List[Any]] = []
        for line in data.splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:  # torn by the death of the process that wrote it
                continue
        boot = next((record[1] for record in records if record[0] == "boot"), None) or uuid.uuid4().hex[:16]
        now = self.now()
        self.core = Core(
            boot,
            agent=_version(),
            python=".".join(map(str, sys.version_info[:3])),
            skew=time.time() - now,
            lease_s=self.options.lease,
        )
        self.core.now = now
        known_boot = None
        for record in records:
            if record[0] == "machine":
                known_boot = record[1]
            else:
                self.core.replay(record)
        self.machine_boot = machine_boot
        self._rewrite_journal()
        return known_boot is not None and known_boot != machine_boot

    def _rewrite_journal(self) -> None:
        """Replace the journal by what matters now."""
        lines = [json.dumps(["machine", self.machine_boot])]
        lines += [json.dumps(record, separators=(",", ":")) for record in self.core.snapshot()]
        data = ("\n".join(lines) + "\n").encode()
        try:
            fd = os.open("spool.new", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            os.rename("spool.new", "spool")
        except OSError as error:
            self._failed_write("spool", error)
            self.journal_most = self.journal_size * 2 + JOURNAL_BYTES_MIN
            return
        os.close(self.journal)
        self.journal, self.journal_size = fd, len(data)
        self.journal_lines.clear()
        self.journal_rest = b""
        self.journal_most = max(4 * len(data), JOURNAL_BYTES_MIN)

    def _persist(self, action: Persist) -> None:
        self.journal_lines.append(json.dumps(action.record, separators=(",", ":")))

    def _write_journal(self) -> None:
        if not self.journal_lines and not self.journal_rest:
            return
        data = self.journal_rest
        if self.journal_lines:
            self.journal_lines.append("")
            data += "\n".join(self.journal_lines).encode()
            self.journal_lines.clear()
        try:
            written = os.write(self.journal, data)
        except OSError as error:
            self._failed_write("spool", error)
            written = 0
        self.journal_rest = data[written:]
        self.journal_size += written

    def _failed_write(self, what: str, error: OSError) -> None:
        _log(f"cannot write {what}: {error}")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self.inputs.append(DiskFull())

    # --- the stream

    def _listen(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.unlink("agent.sock")
        except FileNotFoundError:
            pass
        self.listener.bind("agent.sock")  # relative: the full path may be too long for a socket's address
        os.chmod("agent.sock", 0o600)
        self.listener.listen(8)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)

    def _accept(self, _: int) -> None:
        try:
            conn = self.listener.accept()[0]
        except OSError:
            return
        self._hang_up()
        conn.setblocking(False)
        self.conn = conn
        self.selector.register(conn, selectors.EVENT_READ, self._talk)
        self.inputs.append(Connected())

    def _hang_up(self) -> None:
        if self.conn is not None:
            self.selector.unregister(self.conn)
            self.conn.close()
            self.conn = None
            self.heard = False
            self.inbox.clear()
            self.outbox.clear()
            self.sends.clear()
            self.inputs.append(Disconnected())

    def _talk(self, events: int) -> None:
        if self.conn is None:
            return
        if events & selectors.EVENT_WRITE:
            self._push()
        if not events & selectors.EVENT_READ or self.conn is None:
            return
        try:
            data = self.conn.recv(256 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._hang_up()
            return
        self.inbox += data
        end = self.inbox.rfind(b"\n", len(self.inbox) - len(data)) + 1
        if not end:
            if len(self.inbox) > LINE_BYTES_MAX:
                _log(f"a line of more than {LINE_BYTES_MAX} bytes: stream closed")
                self._hang_up()
            return
        lines = bytes(self.inbox[:end]).splitlines()
        del self.inbox[:end]
        for line in lines:
            try:
                messages = json.loads(line)
            except (ValueError, RecursionError) as error:
                _log(f"not JSON, stream closed: {error}")
                self._hang_up()
                return
            self.inputs.append(Said(messages if isinstance(messages, list) else [messages]))

    def _send(self, action: Send) -> None:
        if self.heard:
            self.sends += action.messages

    def _flush(self) -> None:
        self._write_journal()
        if self.journal_size > self.journal_most:
            self._rewrite_journal()
        if self.sends and self.conn is not None:
            line = json.dumps(self.sends, separators=(",", ":")).encode()
            if len(line) <= SEND_BYTES:
                self.outbox += line + b"\n"
            else:  # what waited long enough to be much is said in several lines
                for part in _parts(self.sends):
                    self.outbox += part + b"\n"
            self.sends.clear()
            self._push()

    def _push(self) -> None:
        if self.conn is None:
            return
        try:
            while self.outbox:
                del self.outbox[: self.conn.send(self.outbox)]
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up()
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self.outbox else 0)
        if self.selector.get_key(self.conn).events != events:
            self.selector.modify(self.conn, events, self._talk)

    # --- directories

    def _directory(self, key: Key) -> str:
        name = re.sub(r"[^A-Za-z0-9_-]", lambda match: f"%{ord(match.group()):x}", key[0])
        if len(name) > 200:
            name = hashlib.sha256(key[0].encode("utf-8", "surrogatepass")).hexdigest()
        return f"{self.dir}/tasks/{name}.{key[1]}"

    def _clean_dirs(self) -> None:
        kept = {self._directory(key) for key in self.core.kept_dirs()}
        for name in os.listdir("tasks"):
            if f"{self.dir}/tasks/{name}" not in kept:
                self._remove_tree(f"{self.dir}/tasks/{name}")

    def _remove_tree(self, path: str) -> None:
        for known in ("stdout", "stderr", "metrics"):
            try:
                os.unlink(f"{path}/{known}")
            except OSError:
                continue
        try:
            os.rmdir(f"{path}/work")
            os.rmdir(path)
        except FileNotFoundError:
            if not os.path.lexists(path):
                return
            self._remove_slowly(path)
        except OSError:
            self._remove_slowly(path)

    def _remove_slowly(self, path: str) -> None:
        """It may hold very much: another process takes the time."""
        try:
            pid = self._launch("/bin/rm", ["rm", "-rf", "--", path], self.base_env, (self.null, self.null))
            self.pids[pid] = ("remove", path)
        except OSError:
            shutil.rmtree(path, ignore_errors=True)

    def _open_attempt(self, key: Key) -> _Attempt:
        """Make (or take a spare of) the directory of an attempt and its output files."""
        attempt = _Attempt(key, self._directory(key))
        if self.spares and key not in self.puts:
            spare, fds = self.spares.pop()
            try:
                os.rename(spare, attempt.directory)
                attempt.fds = fds
                return attempt
            except OSError:
                self.spares.append((spare, fds))
        self.puts.discard(key)
        self.failed_puts.pop(key, None)
        os.makedirs(f"{attempt.directory}/work", exist_ok=True)
        attempt.fds = self._open_outputs(f"{attempt.directory}/stdout", f"{attempt.directory}/stderr")
        return attempt

    def _open_outputs(self, out: str, err: str) -> Tuple[int, int]:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        first = os.open(out, flags, 0o600)
        try:
            return (first, os.open(err, flags, 0o600))
        except OSError:
            os.close(first)
            raise

    def _remove_task_dir(self, action: RemoveTaskDir) -> None:
        key = (action.task, action.attempt)
        self.puts.discard(key)
        self.failed_puts.pop(key, None)
        attempt = self.attempts.pop(key, None)
        directory = self._directory(key)
        if attempt is not None:
            if self._recycle(attempt):
                return
            self._close(attempt)
        if os.path.exists(directory):
            self._remove_tree(directory)

    def _recycle(self, attempt: _Attempt) -> bool:
        """Keep an untouched directory for the next task: making and removing one costs more than a start."""
        if not attempt.alone or attempt.sizes != [0, 0] or len(self.spares) >= SPARES_MAX:
            return False
        try:
            with os.scandir(attempt.directory) as entries:
                names = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
            if names != {"stdout": False, "stderr": False, "work": True} or os.listdir(
                f"{attempt.directory}/work"
            ):
                return False
            self.spares_made += 1
            spare = f"{self.dir}/tasks/.spare-{self.spares_made}"
            os.rename(attempt.directory, spare)
        except OSError:
            return False
        self.spares.append((spare, attempt.fds))
        return True

    def _close(self, attempt: _Attempt) -> None:
        for fd in attempt.fds:
            if fd >= 0:
                os.close(fd)
        attempt.fds = (-1, -1)

    # --- starting

    def _launch(self, path: str, argv: List[str], env: Dict[str, str], fds: Tuple[int, int]) -> int:
        """Start a program in a session of its own."""
        if _CAN_SPAWN:
            return os.posix_spawn(
                path,
                argv,
                env,
                file_actions=(
                    (os.POSIX_SPAWN_DUP2, self.null, 0),
                    (os.POSIX_SPAWN_DUP2, fds[0], 1),
                    (os.POSIX_SPAWN_DUP2, fds[1], 2),
                ),
                setsid=True,
                setsigmask=(),
                setsigdef=_SIGNALS_IGNORED,
            )
        return self._fork(path, argv, env, fds)

    def _fork(self, path: str, argv: List[str], env: Dict[str, str], fds: Tuple[int, int]) -> int:
        """Like posix_spawn, for a C library whose own can't start a session."""
        told, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.setsid()
                for sig in _SIGNALS_IGNORED:
                    signal.signal(sig, signal.SIG_DFL)
                for fd, to in ((self.null, 0), (fds[0], 1), (fds[1], 2)):
                    os.dup2(fd, to)
                os.execve(path, argv, env)
            except OSError as error:
                os.write(tell, struct.pack("i", error.errno or 0))
            finally:
                os._exit(127)
        os.close(tell)
        failed = os.read(told, 4)
        os.close(told)
        if failed:
            os.waitpid(pid, 0)
            code = struct.unpack("i", failed)[0]
            raise OSError(code, os.strerror(code))
        return pid

    def _program(self, name: str, env: Dict[str, str]) -> str:
        """Find a program as a shell would. Raises FileNotFoundError or PermissionError."""
        if "/" in name:
            if not os.path.exists(name):
                raise FileNotFoundError(f"not found: {name!r}")
            if not os.path.isfile(name):
                raise PermissionError(f"not a program: {name!r}")
            if not os.access(name, os.X_OK):
                raise PermissionError(f"not executable: {name!r}")
            return name
        denied = False
        for directory in env.get("PATH", PATH).split(":"):
            path = f"{directory or '.'}/{name}"
            if os.access(path, os.X_OK) and os.path.isfile(path):
                return path
            denied = denied or os.path.isfile(path)
        if denied:
            raise PermissionError(f"not executable: {name!r}")
        raise FileNotFoundError(f"not found: {name!r} (in PATH={env.get('PATH', PATH)})")

    def _task_env(self, attempt: _Attempt, command: Message) -> Dict[str, str]:
        env = dict(self.base_env)
        env.update(command.get("env") or ())
        env["EVERPOOL_TASK_ID"] = attempt.key[0]
        env["EVERPOOL_ATTEMPT"] = str(attempt.key[1])
        env["EVERPOOL_INSTANCE"] = self.core.instance
        env["EVERPOOL_METRICS_FILE"] = f"{attempt.directory}/metrics"
        return env

    def _spawn(self, action: Spawn) -> None:
        self._write_journal()  # that it was started must be known, whatever happens to us
        key, command = (action.task, action.attempt), action.command
        lost = self.failed_puts.pop(key, None)
        if lost is not None:
            self.inputs.append(SpawnFailed(*key, 126, lost))
            return
        try:
            attempt = self._open_attempt(key)
        except OSError as error:
            self._failed_write("the task's directory", error)
            self.inputs.append(SpawnFailed(*key, 126, f"no directory for the task: {error.strerror}"))
            return
        code, problem = 0, ""
        cwd = command.get("cwd") or f"{attempt.directory}/work"
        try:
            os.chdir(cwd)
        except OSError as error:
            code, problem = 126, f"working directory {cwd!r}: {error.strerror}"
        if not problem:
            env = self._task_env(attempt, command)
            argv = list(command.get("argv") or ()) or ["/bin/sh", "-c", command["shell"]]
            try:
                attempt.pid = self._launch(self._program(argv[0], env), argv, env, attempt.fds)
            except OSError as error:
                code = 127 if isinstance(error, FileNotFoundError) else 126
                if len(error.args) == 1:
                    problem = str(error)
                elif code == 127:  # the program is there: what its first line names is not
                    problem = f"not found: interpreter of {argv[0]!r}"
                else:
                    problem = f"{argv[0]!r}: {error.strerror}"
            except ValueError as error:
                code, problem = 126, f"{argv[0]!r}: {error}"
            os.chdir(self.dir)
        if problem:
            self._close(attempt)
            self.inputs.append(SpawnFailed(*key, code, problem))
            return
        self.pids[attempt.pid] = ("task", key)
        self.attempts[key] = attempt
        now = self.now()
        attempt.oom = self.oom.count(now, fresh=False)
        self.tail_at = self.tail_at or now + TAIL_S
        self.inputs.append(Spawned(*key, attempt.pid, 0))  # its start time is looked up if it lives on

    def _hook(self, action: Hook) -> None:
        key = (action.task, action.attempt)
        attempt = self.attempts.get(key)
        task = self.core.tasks.get(key)
        if attempt is None or task is None:
            self.inputs.append(HookEnded(*key))
            return
        env = self._task_env(attempt, task.command)
        lost = [key for key in task.command.get("secret") or () if key not in task.command["env"]]
        if lost:  # an earlier agent started it, and wrote them nowhere: the task itself has them
            theirs = _environ(attempt.pid)
            env.update((key, theirs[key]) for key in lost if key in theirs)
            if not theirs:
                _log(f"on_notice of {key}: runs without {', '.join(lost)}, which can't be had any more")
        env["EVERPOOL_NOTICE_REASON"] = action.reason
        env["EVERPOOL_NOTICE_SECONDS"] = "" if action.seconds is None else str(int(action.seconds))
        env["EVERPOOL_TASK_PID"] = str(attempt.pid)
        try:
            os.chdir(task.cwd or f"{attempt.directory}/work")
            attempt.hook = self._launch("/bin/sh", ["/bin/sh", "-c", action.command], env, attempt.fds)
            self.pids[attempt.hook] = ("hook", key)
        except (OSError, ValueError) as error:
            _log(f"on_notice of {key}: {error}")
            self.inputs.append(HookEnded(*key))
        finally:
            os.chdir(self.dir)

    def _adopt(self, action: Adopt) -> None:
        """Go on watching a process that an earlier agent process started."""
        key = (action.task, action.attempt)
        attempt = _Attempt(key, self._directory(key))
        try:
            os.makedirs(f"{attempt.directory}/work", exist_ok=True)
            attempt.fds = self._open_outputs(f"{attempt.directory}/stdout", f"{attempt.directory}/stderr")
        except OSError as error:
            self._failed_write("the task's directory", error)
        self.attempts[key] = attempt
        now = self.now()
        self.tail_at = self.tail_at or now + TAIL_S
        attempt.oom = self.oom.count(now, fresh=False)
        pid = action.pid or self._session_of(attempt)
        found = _process(pid) if pid else None
        if found is None or not self._same(found, action, attempt):
            attempt.child = False
            self._main_over(attempt, None, None, seen=False)
            return
        attempt.pid, attempt.start_time = pid, found.start
        attempt.child = found.parent == os.getpid()
        if attempt.child:
            self.pids[pid] = ("task", key)
        elif found.state in "ZX":
            self._main_over(attempt, None, None, seen=False)
            return
        else:
            self._watch_stranger(attempt)
        self.inputs.append(Spawned(*key, pid, found.start))

    def _same(self, found: _Stat, action: Adopt, attempt: _Attempt) -> bool:
        """Whether the process with the pid we wrote down is the one we started."""
        if action.start_time:
            return found.start == action.start_time
        ours = not action.pid or found.parent == os.getpid()
        return ours or bool(self._marked([action.pid], attempt.marker))

    def _session_of(self, attempt: _Attempt) -> int:
        """Find the main process of an attempt whose pid nobody wrote down."""
        for pid in self._marked(_all_pids(), attempt.marker):
            found = _process(pid)
            if found is not None and found.session == pid:
                return pid
        return 0

    def _watch_stranger(self, attempt: _Attempt) -> None:
        try:
            attempt.pidfd = os.pidfd_open(attempt.pid)  # type: ignore[attr-defined,unused-ignore]
        except (AttributeError, OSError):  # before Python 3.9 or Linux 5.3
            self.polled[attempt.key] = attempt
            return
        self.selector.register(attempt.pidfd, selectors.EVENT_READ, lambda _: self._stranger_over(attempt))

    def _stranger_over(self, attempt: _Attempt) -> None:
        if attempt.pidfd >= 0:
            self.selector.unregister(attempt.pidfd)
            os.close(attempt.pidfd)
            attempt.pidfd = -1
        self.polled.pop(attempt.key, None)
        self._main_over(attempt, None, None, seen=False)

    # --- ending

    def _reap(self) -> None:
        ended: List[Tuple[str, Any, int, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            kind, what = self.pids.pop(pid, ("stray", None))
            self.deadlines.pop(pid, None)
            ended.append((kind, what, status, pid))
        for kind, what, status, pid in ended:
            late = kind == "late"
            if late:
                kind, what = what
            code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
            sig = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
            if kind == "task":
                self._main_over(self.attempts[what], code, sig, seen=True)
            elif kind == "hook":
                self._hook_over(what)
            elif kind == "step":
                self._step_over(what, code, sig)
            elif kind == "health":
                self._health_over(pid, code, late)
            elif kind == "gpu":
                self._gpu_over(code, late)
            elif kind == "end" and code != 0:
                _log(f"end command failed: exit code {code}")
                self.inputs.append(EndFailed())
        if self.dying:
            self._look_at_dying()

    def _hook_over(self, key: Key) -> None:
        attempt = self.attempts.get(key)
        if attempt is not None:
            attempt.hook = 0
        self.inputs.append(HookEnded(*key))

    def _main_over(self, attempt: _Attempt, code: Optional[int], sig: Optional[int], seen: bool) -> None:
        attempt.over = True
        key = attempt.key
        oom = False
        if sig == signal.SIGKILL or code == 128 + signal.SIGKILL:
            oom = self.oom.count(self.now(), fresh=True) > attempt.oom
        left = self._left(attempt)
        if left:
            self.dying[key] = attempt
            self.dying_at = self.now() + DYING_S
            self.inputs.append(Exited(*key, code, sig, oom, True, seen=seen))
        else:
            out, err = self._last_look(attempt)
            self.inputs.append(Exited(*key, code, sig, oom, False, out, err, seen))

    def _last_look(self, attempt: _Attempt) -> Tuple[int, int]:
        """All its processes are gone: read the metrics, tell the final sizes, let go of the files."""
        self._task_metrics(attempt)
        sizes = self._sizes(attempt)
        attempt.sizes = [sizes[0], sizes[1]]
        task = self.core.tasks.get(attempt.key)
        if sizes != (0, 0) or task is None or task.command.get("fetch"):
            self._close(attempt)  # what is kept until it is acknowledged must not hold descriptors
            self.attempts.pop(attempt.key, None)
        return sizes

    def _sizes(self, attempt: _Attempt) -> Tuple[int, int]:
        if attempt.fds[0] < 0:
            return (0, 0)
        return (os.fstat(attempt.fds[0]).st_size, os.fstat(attempt.fds[1]).st_size)

    def _left(self, attempt: _Attempt) -> bool:
        """Whether processes of an attempt whose main process ended are still there."""
        if attempt.pid and _group_lives(attempt.pid):
            return True
        if attempt.hook:
            return True
        if self._strays(attempt):
            return True
        if attempt.alone or not attempt.child or not self.subreaper:
            return False
        now, seen = self.now(), self.blank
        blank = self._marked(self._unknown(), attempt.marker, unsure=True)
        self.blank = {pid: seen.get(pid, now) for pid in blank}
        return any(now < since + UNSURE_S for since in self.blank.values())

    def _strays(self, attempt: _Attempt) -> List[int]:
        """Processes of an attempt that left its process group."""
        if not self.subreaper or not attempt.child:
            return self._marked(_all_pids(), attempt.marker)
        unknown = self._unknown()
        attempt.alone = not unknown
        orphans = self._descendants(unknown)
        marked = self._marked(orphans, attempt.marker)
        return marked + [pid for pid in orphans if pid not in marked and _is_inside(pid, attempt.directory)]

    def _unknown(self) -> List[int]:
        """Children that we did not start: orphans that the kernel gave to us."""
        return [pid for pid in self._children() if pid not in self.pids]

    def _children(self, pid: int = 0) -> List[int]:
        try:
            if pid == 0:
                data, at = b"", 0
                while True:
                    more = os.pread(self.children_fd, 65536, at)
                    data, at = data + more, at + len(more)
                    if not more:
                        break
            else:
                with open(f"/proc/{pid}/task/{pid}/children", "rb") as file:
                    data = file.read()
        except OSError:
            return []
        return [int(word) for word in data.split()]

    def _descendants(self, pids: List[int]) -> List[int]:
        found = list(pids)
        for pid in found:  # grows as it goes
            if len(found) < 10_000:
                found += self._children(pid)
        return found

    def _marked(self, pids: List[int], marker: bytes, unsure: bool = False) -> List[int]:
        """Those of `pids` that belong to an attempt; `unsure`: also those that do not say.

        In the middle of its exec a process shows no environment.
        """
        marked = []
        for pid in pids:
            if pid in self.pids or pid == os.getpid():
                continue
            try:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    environ = file.read()
            except OSError:
                continue
            if marker in environ or (unsure and not environ):
                found = _process(pid)
                if found is not None and found.state not in "ZX":
                    marked.append(pid)
        return marked

    def _look_at_dying(self) -> None:
        for key, attempt in list(self.dying.items()):
            if not self._left(attempt):
                del self.dying[key]
                self.inputs.append(Gone(*key, *self._last_look(attempt)))
        self.dying_at = self.now() + DYING_S if self.dying else None

    def _signal(self, action: Signal) -> None:
        attempt = self.attempts.get((action.task, action.attempt))
        if attempt is None:
            return
        if attempt.hook and (attempt.over or action.sig == signal.SIGKILL):
            _kill(attempt.hook, action.sig, group=True)
        if not attempt.over:
            if not attempt.child:  # its pid may be another's by now
                found = _process(attempt.pid)
                if found is None or found.start != attempt.start_time:
                    return
            _kill(attempt.pid, action.sig, group=True)
            return
        if attempt.pid and _group_lives(attempt.pid):
            _kill(attempt.pid, action.sig, group=True)
        for pid in self._strays(attempt):
            _kill(pid, action.sig)

    # --- output, files

    def _tail(self) -> None:
        """Look whether outputs have grown: only while something runs."""
        for attempt in self.attempts.values():
            if attempt.over and attempt.key not in self.dying:
                continue
            if not attempt.start_time and not attempt.over:
                found = _process(attempt.pid)
                attempt.start_time = found.start if found is not None else 0
                self.inputs.append(Identified(*attempt.key, attempt.start_time))
            for stream, size in enumerate(self._sizes(attempt)):
                if size > attempt.sizes[stream]:
                    attempt.sizes[stream] = size
                    self.inputs.append(Grown(*attempt.key, stream, size))
        for attempt in list(self.polled.values()):
            found = _process(attempt.pid)
            if found is None or found.start != attempt.start_time or found.state in "ZX":
                self._stranger_over(attempt)
        if self.step is not None:
            self._read_step(self.step, final=False)
        self.tail_at = self.now() + TAIL_S if self.attempts or self.step is not None else None

    def _output_fd(self, key: Key, stream: int) -> int:
        attempt = self.attempts.get(key)
        if attempt is not None and attempt.fds[stream] >= 0:
            return attempt.fds[stream]
        path = f"{self._directory(key)}/{STREAMS[stream]}"
        if self.reading[0] != path:
            if self.reading[1] >= 0:
                os.close(self.reading[1])
            self.reading = ("", -1)
            self.reading = (path, os.open(path, os.O_RDWR | os.O_CLOEXEC))
        return self.reading[1]

    def _read_output(self, action: ReadOutput) -> None:
        key = (action.task, action.attempt)
        try:
            data = os.pread(self._output_fd(key, action.stream), action.length, action.offset)
        except OSError as error:
            _log(f"output of {key}: {error}")
            data = b""
        self.inputs.append(Output(*key, action.stream, action.offset, data, action.id))

    def _release(self, action: Release) -> None:
        try:
            fd = self._output_fd((action.task, action.attempt), action.stream)
        except OSError:
            return
        self.kernel.punch(fd, action.offset, action.end)

    def _fetch_path(self, key: Key, path: str, cwd: Optional[str]) -> str:
        return os.path.join(cwd or f"{self._directory(key)}/work", path)

    def _find_file(self, action: FindFile) -> None:
        key = (action.task, action.attempt)
        size, error = 0, None
        try:
            found = os.stat(self._fetch_path(key, action.path, action.cwd))
            size = found.st_size
            if not stat.S_ISREG(found.st_mode):
                error = "not a regular file"
        except OSError as problem:
            error = problem.strerror
        except ValueError as problem:
            error = str(problem)
        self.inputs.append(FoundFile(*key, action.path, size, error))

    def _read_file(self, action: ReadFile) -> None:
        path = self._fetch_path((action.task, action.attempt), action.path, action.cwd)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                data = os.pread(fd, action.length, action.offset)
            finally:
                os.close(fd)
        except OSError as error:
            self.inputs.append(FileRead(action.id, error=error.strerror or "unreadable"))
            return
        self.inputs.append(FileRead(action.id, data))

    def _write_file(self, action: WriteFile) -> None:
        key = (action.task, action.attempt)
        path = os.path.join(self._directory(key), "work", action.path)
        part = f"{path}.part~"
        try:
            if action.offset == 0:
                self.puts.add(key)
                os.makedirs(os.path.dirname(path), exist_ok=True)
            flags = os.O_WRONLY | os.O_CLOEXEC | (os.O_CREAT | os.O_TRUNC if action.offset == 0 else 0)
            fd = os.open(part, flags, 0o600)
            try:
                size = os.fstat(fd).st_size
                if size != action.offset:
                    raise OSError(errno.EINVAL, f"piece at {action.offset} of a file that has {size} bytes")
                view = memoryview(action.data)
                while view:
                    view = view[os.pwrite(fd, view, action.offset + len(action.data) - len(view)) :]
                if action.last:
                    os.fchmod(fd, action.mode)
                    os.rename(part, path)
            finally:
                os.close(fd)
        except OSError as error:
            self._failed_write(part, error)
            lost = f"file {action.path!r}: {error.strerror}"
            self.failed_puts[key] = lost  # the word to start may be among what was heard with it
            self.inputs.append(PutFailed(*key, lost))

    # --- set-up steps

    def _run_step(self, action: RunStep) -> None:
        env = dict(self.base_env)
        env["EVERPOOL_INSTANCE"] = self.core.instance
        env.update(action.env)
        home = os.path.expanduser("~")
        try:
            for name in ("step.out", "step.err"):
                if os.path.lexists(name):
                    os.unlink(name)
            fds = self._open_outputs("step.out", "step.err")
            try:
                os.chdir(home if os.path.isdir(home) else self.dir)
                pid = self._launch("/bin/sh", ["/bin/sh", "-c", action.run], env, fds)
            finally:
                os.chdir(self.dir)
        except (OSError, ValueError) as error:
            self.inputs.append(StepEnded(action.run_id, error=f"cannot start: {error}"))
            return
        self.step = _Step(action.run_id, pid, fds)
        self.pids[pid] = ("step", self.step)
        self.tail_at = self.tail_at or self.now() + TAIL_S
        found = _process(pid)
        self.inputs.append(StepStarted(action.run_id, pid, found.start if found is not None else 0))

    def _read_step(self, step: _Step, final: bool) -> None:
        for stream, fd in enumerate(step.fds):
            size = os.fstat(fd).st_size
            if size - step.read[stream] > SKIP_BYTES:
                skipped = size - step.read[stream]
                step.read[stream] = size
                self.inputs.append(StepOutput(step.run_id, stream, [(f"[{skipped} bytes not shown]", 0)]))
            while step.read[stream] < size:
                start = step.read[stream]
                data = os.pread(fd, READ_MAX, start)
                lines, used, _ = split_lines(data, final and start + len(data) >= size)
                if not used:
                    break
                step.read[stream] += used
                self.inputs.append(StepOutput(step.run_id, stream, lines))
            if step.read[stream] - step.released[stream] >= RELEASE_BYTES:
                self.kernel.punch(fd, step.released[stream], step.read[stream])
                step.released[stream] = step.read[stream]

    def _step_over(self, step: _Step, code: Optional[int], sig: Optional[int]) -> None:
        self._read_step(step, final=True)
        for fd in step.fds:
            os.close(fd)
        if self.step is step:
            self.step = None
        self.inputs.append(StepEnded(step.run_id, code, sig))

    def _stop_step(self, action: StopStep) -> None:
        found = _process(action.pid) if action.pid else None
        if found is not None and found.start == action.start_time:
            _kill(action.pid, action.sig, group=True)

    # --- notices

    def _watch_notices(self) -> None:
        path = self.options.notice_file
        if not path:
            return
        self.inotify = self.kernel.watch(os.path.dirname(path))
        if self.inotify >= 0:
            self.selector.register(self.inotify, selectors.EVENT_READ, self._notice_changed)
        self._look_at_notices()

    def _notice_changed(self, _: int) -> None:
        try:
            os.read(self.inotify, 65536)
        except BlockingIOError:
            return
        self._look_at_notices()

    def _look_at_notices(self) -> None:
        self.notice_at = self.now() + NOTICE_S
        path = self.options.notice_file
        try:
            found = os.stat(path)
            seen = (found.st_mtime_ns, found.st_size, found.st_ino)
            if seen == self.notice_seen and not self.notice_torn:
                return
            with open(path, "rb") as file:
                data = file.read(65536).strip()
        except OSError:
            if self.notice_seen != ():
                self.notice_seen = ()
                self.inputs.append(Noticed(None))
            return
        try:
            content = json.loads(data) if data else {}
        except ValueError:
            if seen != self.notice_seen:  # perhaps half written: look again
                self.notice_seen, self.notice_torn = seen, True
                return
            content = {"reason": data.decode("utf-8", "replace")[:200]}
        self.notice_seen, self.notice_torn = seen, False
        self.inputs.append(self._notice_of(content, found.st_mtime))

    def _notice_of(self, content: Any, written_at: float) -> Noticed:
        if not content:
            return Noticed(None)
        if not isinstance(content, dict):
            return Noticed(str(content)[:200])
        within_s: Optional[float] = None
        try:
            if content.get("deadline_at") is not None:
                within_s = float(content["deadline_at"]) - time.time()
            elif content.get("within_s") is not None:
                within_s = float(content["within_s"]) - max(time.time() - written_at, 0.0)
        except (TypeError, ValueError):
            within_s = None  # a notice whose deadline can't be read is still a notice
        if within_s is not None:
            within_s = round(max(within_s, 0.0), 3)
        return Noticed(str(content.get("reason") or "notice")[:500], within_s)

    def _watch_metadata(self) -> None:
        """Begin to ask the vendor; what sources say that nobody watches any more is withdrawn."""
        kind = self.options.metadata
        url = self.options.metadata_url or _metadata_url(kind, os.environ)
        try:
            self.metadata = split_url(url) if kind != "none" else self.metadata
        except ValueError as error:
            _log(f"metadata: {error}")
            kind = "none"
        watches = watches_of(kind, self.options.rebalance != "ignore")
        self.watchings = [_Watching(watch) for watch in watches]
        watched = {source for watch in watches for source in watch.sources}
        watched.update(("drain", "file") if self.options.notice_file else ("drain",))
        for source in self.core.notices:
            if source not in watched:
                self.inputs.append(Noticed(None, None, source))

    def _ask_or_give_up(self, watching: _Watching) -> None:
        if watching.sock is not None:
            self._no_answer(watching, "no answer in time")
            return
        address = self._metadata_address()
        if address is None:
            watching.at = self.now() + 0.5
            return
        host, port, path = self.metadata
        ask = watching.watch.ask(self.now())
        lines = [f"{ask.method} {path}{ask.path} HTTP/1.1", f"Host: {host}:{port}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in ask.headers.items()]
        if ask.method != "GET":
            lines.append("Content-Length: 0")
        watching.fetches = ask.method == "GET"
        watching.said, watching.heard = "\r\n".join([*lines, "", ""]).encode("latin-1"), b""
        watching.at = self.now() + ask.within_s
        sock = None
        try:
            sock = socket.socket(address[0], socket.SOCK_STREAM)
            sock.setblocking(False)
            failed = sock.connect_ex(address[1])
            if failed not in (0, errno.EINPROGRESS):
                raise OSError(failed, os.strerror(failed))
        except OSError as error:
            if sock is not None:
                sock.close()
            self._no_answer(watching, str(error))
            return
        watching.sock = sock
        self.selector.register(sock, selectors.EVENT_WRITE, lambda _: self._talk_metadata(watching))

    def _metadata_address(self) -> Optional[Tuple[Any, ...]]:
        """Family and address of the metadata server; None while a name is being looked up, in a thread."""
        if self.metadata_at is None:
            host, port, _ = self.metadata
            if host in METADATA_NAMES:
                host = METADATA_URLS["gcp"][len("http://") :]
            host = host.strip("[]")
            for family in (socket.AF_INET, socket.AF_INET6):
                try:
                    socket.inet_pton(family, host)
                    self.metadata_at = (family, (host, port))
                except OSError:
                    continue
            if self.metadata_at is None and (self.resolver is None or not self.resolver.is_alive()):
                self.resolver = threading.Thread(target=self._resolve, args=(host, port), daemon=True)
                self.resolver.start()
        return self.metadata_at

    def _resolve(self, host: str, port: int) -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.metadata_at = (found[0], found[4])
        except (OSError, UnicodeError) as error:
            _log(f"metadata: {host}: {error}")
            time.sleep(METADATA_MOST_S)  # before it is tried again

    def _talk_metadata(self, watching: _Watching) -> None:
        """Send what is left of the request, or read more of the answer."""
        sock = watching.sock
        if sock is None:
            return
        answer = None
        try:
            if watching.said:
                watching.said = watching.said[sock.send(watching.said) :]
                if not watching.said:
                    self.selector.modify(sock, selectors.EVENT_READ, lambda _: self._talk_metadata(watching))
                return
            data = sock.recv(65536)
            watching.heard += data
            answer = parse_answer(watching.heard, ended=not data)
        except BlockingIOError:
            return
        except (OSError, NoAnswer) as error:
            self._no_answer(watching, str(error))
            return
        if answer is not None:
            self._hear_metadata(watching, answer)

    def _hear_metadata(self, watching: _Watching, answer: Answer) -> None:
        now = self.now()
        try:
            noticed, wait_s = watching.watch.hear(now, time.time(), answer, self.core.notices)
        except NoAnswer as error:
            self._no_answer(watching, str(error))
            return
        self._hang_up_metadata(watching)
        if watching.fetches and answer.status != 401:
            watching.failures = 0
        watching.at = now + wait_s
        self.inputs.extend(noticed)

    def _no_answer(self, watching: _Watching, why: str) -> None:
        """Ask again, later with each failure; say so, but not each time."""
        self._hang_up_metadata(watching)
        watching.watch.failed()
        now = self.now()
        watching.at = now + min(METADATA_FIRST_S * 2 ** min(watching.failures, 10), METADATA_MOST_S)
        watching.failures += 1
        watching.failed += 1
        if now >= watching.log_at:
            _log(f"metadata ({watching.watch.sources[0]}): {why}; {watching.failed} failures since last told")
            watching.log_at, watching.failed = now + METADATA_LOG_S, 0

    def _hang_up_metadata(self, watching: _Watching) -> None:
        if watching.sock is not None:
            self.selector.unregister(watching.sock)
            watching.sock.close()
            watching.sock = None
        watching.heard = b""

    # --- measuring

    def _sample(self, _: Sample) -> None:
        for attempt in self.attempts.values():
            self._task_metrics(attempt)
        values, free = self._measure()
        self.inputs.append(Sampled(values, free))
        self._sample_gpus()

    def _sample_gpus(self) -> None:
        """Ask nvidia-smi, where it is; its answer is reported when it comes. One at a time."""
        now = self.now()
        if self.gpu_pid or now < self.gpu_at:
            return
        try:
            program = self._program("nvidia-smi", self.base_env)
            fd = os.open("gpu.out", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                self.gpu_pid = self._launch(program, list(GPU_COMMAND), self.base_env, (fd, self.null))
            finally:
                os.close(fd)
        except FileNotFoundError:
            return
        except OSError as error:
            self._gpu_failed(str(error))
            return
        self.pids[self.gpu_pid] = ("gpu", None)
        self.deadlines[self.gpu_pid] = now + GPU_S

    def _gpu_over(self, code: Optional[int], late: bool) -> None:
        self.gpu_pid = 0
        values: Dict[str, float] = {}
        try:
            with open("gpu.out", "rb") as file:
                values = parse_gpus(file.read(65536).decode("utf-8", "replace"))
        except OSError as error:
            _log(f"gpu.out: {error}")
        if late or code != 0 or not values:
            self._gpu_failed("it took too long" if late else f"exit code {code}, {len(values)} values")
            return
        self.gpu_failures = 0
        self.inputs.append(TaskMetrics("", values))

    def _gpu_failed(self, why: str) -> None:
        """Give up for a while after some failures: a driver may still be set up, or there may be none."""
        self.gpu_failures += 1
        if self.gpu_failures >= GPU_FAILURES_MAX:
            self.gpu_at = self.now() + GPU_AGAIN_S
            if self.gpu_failures == GPU_FAILURES_MAX:
                _log(f"nvidia-smi: {why}; given up, but for a try every {GPU_AGAIN_S:g} s")

    def _measure(self) -> Tuple[Dict[str, float], Optional[int]]:
        values: Dict[str, float] = {}
        free: Optional[int] = None
        try:
            with open("/proc/stat") as file:
                ticks = [float(word) for word in file.readline().split()[1:9]]
            busy, total = sum(ticks) - ticks[3] - ticks[4], sum(ticks)
            before = self.cpu_before
            if total > before[1] > 0:
                values["cpu_percent"] = round(100 * max(busy - before[0], 0) / (total - before[1]), 2)
            self.cpu_before = (busy, total)
            with open("/proc/meminfo") as file:
                memory = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in file}
            values["memory_total_bytes"] = memory["MemTotal"]
            values["memory_used_bytes"] = memory["MemTotal"] - memory.get("MemAvailable", memory["MemFree"])
            values["load1"] = os.getloadavg()[0]
            disk = os.statvfs(self.dir)
            free = disk.f_bavail * disk.f_frsize
            values["disk_total_bytes"] = disk.f_blocks * disk.f_frsize
            values["disk_used_bytes"] = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
            received = sent = 0
            with open("/proc/net/dev") as file:
                for line in file.readlines()[2:]:
                    name, _, numbers = line.partition(":")
                    if name.strip() != "lo":
                        words = numbers.split()
                        received, sent = received + int(words[0]), sent + int(words[8])
            values["network_rx_bytes"], values["network_tx_bytes"] = received, sent
        except (OSError, ValueError, KeyError, IndexError) as error:
            _log(f"metrics: {error!r}")
        return values, free

    def _task_metrics(self, attempt: _Attempt) -> None:
        """Read the new complete lines of a task's metrics file."""
        path = f"{attempt.directory}/metrics"
        try:
            size = os.stat(path).st_size
        except OSError:
            return
        if size < attempt.metrics_at:
            attempt.metrics_at = 0  # written anew
        try:
            with open(path, "rb") as file:
                start = max(attempt.metrics_at, size - 256 * 1024)  # what is older is too much
                file.seek(start)
                data = file.read(256 * 1024)
        except OSError:
            return
        end = data.rfind(b"\n") + 1
        attempt.metrics_at = start + end
        for at, values in parse_metrics(data[:end].decode("utf-8", "replace")):
            self.inputs.append(TaskMetrics(attempt.key[0], values, at))

    def _check_health(self, action: CheckHealth) -> None:
        try:
            fd = os.open("health.out", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                pid = self._launch("/bin/sh", ["/bin/sh", "-c", action.run], self.base_env, (fd, fd))
            finally:
                os.close(fd)
        except (OSError, ValueError) as error:
            self.inputs.append(HealthChecked(f"cannot start: {error}"))
            return
        self.pids[pid] = ("health", None)
        self.deadlines[pid] = self.now() + action.timeout_s

    def _health_over(self, pid: int, code: Optional[int], late: bool) -> None:
        if code == 0 and not late:
            self.inputs.append(HealthChecked(None))
            return
        error = "timed out" if late else f"exit code {code}"
        _kill(pid, signal.SIGKILL, group=True)  # what it left behind
        try:
            with open("health.out", "rb") as file:
                file.seek(max(os.fstat(file.fileno()).st_size - 1000, 0))
                lines = file.read().decode("utf-8", "replace").split("\n")
        except OSError:
            lines = []
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        self.inputs.append(HealthChecked(f"{error}: {last}" if last else error))

    # --- the machine

    def _end_machine(self, _: EndMachine) -> None:
        self._write_journal()
        _log("the lease is over")
        if not self.options.end_command:
            return
        try:
            argv = ["/bin/sh", "-c", self.options.end_command]
            pid = self._launch("/bin/sh", argv, self.base_env, (self.null, self.null))
        except (OSError, ValueError) as error:
            _log(f"end command: {error}")
            self.inputs.append(EndFailed())
            return
        self.pids[pid] = ("end", None)

    def _exec(self, action: Exec) -> None:
        """Become another program, with our children, our lock and what we wrote down."""
        path = os.path.abspath(action.path)
        try:
            with open(path, "rb") as file:
                compile(file.read(), path, "exec")
        except (OSError, SyntaxError, ValueError) as error:
            self.inputs.append(ExecFailed(f"{path}: {error}"[:300]))
            return
        self._flush()
        os.set_inheritable(self.lock_fd, True)
        argv = [*PYTHON, path, "run", *_options_of(self.options), "--lock-fd", str(self.lock_fd)]
        try:
            os.execv(argv[0], argv)
        except OSError as error:
            os.set_inheritable(self.lock_fd, False)
            self.inputs.append(ExecFailed(f"{path}: {error}"[:300]))


def parse_gpus(text: str) -> Dict[str, float]:
    """Read what GPU_COMMAND writes, a line for each; a value that a gpu does not tell is left out."""
    values: Dict[str, float] = {}
    for line in text.split("\n")[:GPUS_MAX]:
        index, *words = [word.strip() for word in line.split(",")]
        if not re.fullmatch(r"\d{1,3}", index):
            continue
        for place, word in enumerate(words[: len(GPU_VALUES)]):
            name, factor = GPU_VALUES[place]
            try:
                value = float(word) * factor
            except ValueError:  # [N/A], [Not Supported]
                continue
            if value == value and value not in (float("inf"), float("-inf")):
                values[f"gpu{int(index)}_{name}"] = value
    return values


def parse_metrics(text: str) -> List[Tuple[Optional[float], Dict[str, float]]]:
    """Read lines "name value [timestamp]"; those of one time come together, what is none is skipped."""
    groups: List[Tuple[Optional[float], Dict[str, float]]] = []
    for line in text.split("\n"):
        words = line.split()
        if not 2 <= len(words) <= 3:
            continue
        try:
            value = float(words[1])
            at = float(words[2]) if len(words) == 3 else None
        except ValueError:
            continue
        if value != value or value in (float("inf"), float("-inf")):
            continue  # JSON has no such numbers
        if not groups or groups[-1][0] != at or words[0] in groups[-1][1]:
            groups.append((at, {}))
        groups[-1][1][words[0]] = value
    return groups[-TASK_METRICS_MAX:]


_SIGNALS_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP)  # by Python or by us; not by what we start


def _can_spawn() -> bool:
    try:
        pid = os.posix_spawn("/bin/true", ["true"], {}, setsid=True)
    except (AttributeError, NotImplementedError, OSError):
        return False
    os.waitpid(pid, 0)
    return True


_CAN_SPAWN = True  # found out when the agent starts


def _log(text: str) -> None:
    """Write a line to stderr, which is a file that stays small."""
    try:
        if os.fstat(2).st_size > LOG_BYTES_MAX and stat.S_ISREG(os.fstat(2).st_mode):
            os.ftruncate(2, 0)
        os.write(
            2, f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n".encode("utf-8", "replace")
        )
    except OSError:
        return  # nowhere to say it


def _version() -> str:
    with open(os.path.abspath(__file__), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()[:16]


# --- attach -------------------------------------------------------------------------------------

ATTACH_S = 15.0


def _start_detached(options: argparse.Namespace) -> None:
    """Start `run` as a daemon: no parent, no terminal, no descriptors of ours."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    if os.path.exists("agent.log") and os.path.getsize("agent.log") > LOG_BYTES_MAX:
        os.rename("agent.log", "agent.log.1")
    log, null = os.open("agent.log", flags, 0o600), os.open(os.devnull, os.O_RDONLY)
    for fd, to in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, to)
    os.closerange(3, 1024)
    os.execv(PYTHON[0], [*PYTHON, os.path.abspath(__file__), "run", *_options_of(options)])


def _connect(options: argparse.Namespace) -> socket.socket:
    """Connect to the agent, started when nobody listens."""
    give_up_at, started, pause_s = time.monotonic() + ATTACH_S, False, 0.005
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect("agent.sock")
            return sock
        except OSError as error:
            sock.close()
            if time.monotonic() > give_up_at:
                raise SystemExit(f"no agent answers at {options.dir}/agent.sock: {error}") from None
        if not started:  # its lock decides when two start at once
            started = True
            _start_detached(options)
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.2)


def _carry(source: int, target: int) -> None:
    """Copy bytes until either side closes, then end the whole process."""
    try:
        while True:
            data = os.read(source, 256 * 1024)
            if not data:
                break
            view = memoryview(data)
            while view:
                view = view[os.write(target, view) :]
    except OSError:
        pass  # the other side is gone: the same end
    finally:
        os._exit(0)


def attach(options: argparse.Namespace) -> NoReturn:
    """Join stdin and stdout to the agent's socket."""
    os.makedirs(options.dir, mode=0o700, exist_ok=True)
    os.chdir(options.dir)
    sock = _connect(options)
    threading.Thread(target=_carry, args=(sock.fileno(), 1), daemon=True).start()
    _carry(0, sock.fileno())
    raise SystemExit(0)


# --- command line -------------------------------------------------------------------------------


def _options_of(options: argparse.Namespace) -> List[str]:
    argv = ["--dir", options.dir, "--lease", str(options.lease)]
    if options.notice_file:
        argv += ["--notice-file", options.notice_file]
    if options.end_command:
        argv += ["--end-command", options.end_command]
    if options.metadata != "none":
        argv += ["--metadata", options.metadata, "--rebalance", options.rebalance]
    if options.metadata_url:
        argv += ["--metadata-url", options.metadata_url]
    return argv


def _metadata_url(kind: str, environment: Any) -> str:
    """Where a vendor's metadata are: where its own variable says, else at their well-known address."""
    if kind == "aws" and environment.get("AWS_EC2_METADATA_SERVICE_ENDPOINT"):
        return str(environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"])
    if kind == "gcp" and environment.get("GCE_METADATA_HOST"):
        return f"http://{environment['GCE_METADATA_HOST']}"
    return METADATA_URLS.get(kind, "")


def _base_url(text: str) -> str:
    try:
        split_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _parse(argv: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="agent.py", description="everpool's agent on a machine")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("version", help="print the first 16 hex digits of this file's sha256")
    for name, text in (
        ("run", "be the agent"),
        ("attach", "join stdin/stdout to the agent, started if need be"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--dir", required=True, type=os.path.abspath, help="the agent's directory")
        command.add_argument("--notice-file", type=os.path.abspath, help="JSON file that tells of the end")
        command.add_argument(
            "--metadata",
            choices=("none", "aws", "gcp"),
            default="none",
            help="whose metadata server tells of the end",
        )
        command.add_argument(
            "--metadata-url", type=_base_url, help="where that is, if not where it should be"
        )
        command.add_argument(
            "--rebalance",
            choices=("replace", "ignore"),
            default="replace",
            help="whether aws' recommendation to rebalance is an early notice",
        )
        command.add_argument("--end-command", help="ends the machine when the lease is over")
        command.add_argument("--lease", type=float, default=1800.0, help="seconds to live before a hello")
        command.add_argument("--lock-fd", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Optional[List[str]] = None) -> int:
    """Run the command line."""
    options = _parse(sys.argv[1:] if argv is None else argv)
    if options.command == "version":
        os.write(1, f"{_version()}\n".encode())
    elif options.command == "attach":
        attach(options)
    else:
        globals()["_CAN_SPAWN"] = _can_spawn()
        Loop(options).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
