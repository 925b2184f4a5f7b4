"""A way into a container by its engine's exec API: any image with python3 will do, nothing listens inside.

The API starts a command, and gives its stdin, stdout and stderr as one byte stream on a connection that has
stopped to be HTTP: what we send is stdin, what we hear comes in frames of eight bytes of head (which stream,
how long) and data. Closing the connection closes stdin but ends nothing, so every command is started through
a line of Python that first says its own process id and then becomes the command: by that id another exec
ends it.

Source: "Attach to a container", stream format, of docker's API v1.41; podman 4.3 does the same.
"""

import socket
import struct
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import anyio
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint
from pydantic_core import to_json

from providers.errors import Fault, HostError, ProviderError
from providers.host.base import Ran
from providers.http import Answer

OUTPUT_BYTES_MAX = 2**20  # of each stream, that `run` keeps
STDERR_TAIL_BYTES = 4096
HEAD_BYTES_MAX = 32 * 1024  # of the HTTP answer
READ_BYTES = 256 * 1024
START_WITHIN_S = 30.0
END_WITHIN_S = 5.0
EOF_WITHIN_S = 0.3  # that a command gets to end by itself when its stdin is closed
EXIT_STATUS_WITHIN_S = 2.0
DEATH_WITHIN_S = 0.3  # a container whose commands were killed is seen to be dead after so long
STDOUT, STDERR = 1, 2
KILLED = 137
SIGNALLED = 128

_BECOME = """\
import os, signal, sys
try:
    os.setsid()
except OSError:
    pass
os.write(1, b"%d\\n" % os.getpid())
for one in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(one, signal.SIG_DFL)
try:
    os.execvp(sys.argv[1], sys.argv[1:])
except OSError as error:
    sys.stderr.write("%s: %s\\n" % (sys.argv[1], error.strerror))
    sys.stderr.flush()
    os._exit(127 if isinstance(error, FileNotFoundError) else 126)
"""
_END = """\
import os, sys, time
group = int(sys.argv[1])
try:
    if os.getpgid(group) == group:
        os.killpg(group, 15)
        for _ in range(50):
            time.sleep(0.02)
            os.killpg(group, 0)
        os.killpg(group, 9)
except OSError:
    pass
"""
_PUT = """\
import os, sys
path, size, mode = sys.argv[1], int(sys.argv[2]), int(sys.argv[3], 8)
draft = "%s.%d" % (path, os.getpid())
try:
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    data = sys.stdin.buffer.read()
    if len(data) != size:
        raise OSError(5, "cut off after %d of %d bytes" % (len(data), size))
    try:
        with open(draft, "wb") as file:
            file.write(data)
        os.chmod(draft, mode)
        os.replace(draft, path)
    except BaseException:
        if os.path.exists(draft):
            os.unlink(draft)
        raise
except OSError as error:
    sys.exit(error.strerror)
"""


class EngineApi(Protocol):
    """What is needed of an engine; `providers.container.engine.Engine` is one."""

    async def target(self, path: str) -> tuple[str, str]:
        """The engine's socket, and the path with the API's version before it."""
        ...

    async def look(self, path: str) -> Answer:
        """GET something; a 404 is an answer. Raises ProviderError."""
        ...

    async def make_exec(self, path: str, body: object) -> Answer:
        """POST something about an exec. Raises ProviderError."""
        ...

    def refused(self, what: str, status: int, body: bytes) -> ProviderError:
        """What an answer that is no success means."""
        ...


class ExecHost:
    """The `Host` of one running container.

    Args:
        engine: the engine that runs it.
        container: its id.
        name: what it is called in errors.
        python: the interpreter inside.
    """

    def __init__(self, engine: EngineApi, container: str, name: str, *, python: str = "python3") -> None:
        self._engine, self._container, self._name, self._python = engine, container, name, python

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30) -> Ran:
        """Run a command to its end; at most 1 MiB of each output is kept. See `Host.run`."""
        what = f"{self._name}: {argv[0]}"
        command = _Command(self._engine, self._container, what, self._python)
        kept = {STDOUT: bytearray(), STDERR: bytearray()}
        try:
            with anyio.fail_after(timeout_s):
                await command.start(argv)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(command.feed, stdin)
                    is_whole = await command.collect(kept, OUTPUT_BYTES_MAX)
                    tasks.cancel_scope.cancel()
                # podman breaks off when a command ends that has not read all its stdin: that one has ended.
                exit_code = await command.exit_code() if is_whole or not command.is_fed else None
        except TimeoutError as error:
            raise HostError(Fault.UNKNOWN, f"{what}: not over after {timeout_s:g} s") from error
        finally:
            await command.end(patient=False)
        return Ran(exit_code=exit_code, stdout=bytes(kept[STDOUT]), stderr=bytes(kept[STDERR]))

    @asynccontextmanager
    async def open(self, argv: Sequence[str]) -> AsyncGenerator[ByteStream]:
        """Run a command with its stdin and stdout as a byte stream; leaving ends the command.

        The stream's `receive` raises EndOfStream after exit status 0, and HostError, with the end of what the
        command wrote to stderr, after any other end.
        """
        command = _Command(self._engine, self._container, f"{self._name}: {argv[0]}", self._python)
        try:
            await self._start(command, argv)
            yield ExecStream(command)
        finally:
            await command.end(patient=True)

    @asynccontextmanager
    async def session(self, argv: Sequence[str], *, tty: bool) -> AsyncGenerator["Session"]:
        """Run a command that a person talks to; leaving ends the command.

        Args:
            argv: the command.
            tty: in a terminal of its own, where stdout and stderr are one.

        Raises:
            HostError: it can't be started.
        """
        command = _Command(self._engine, self._container, f"{self._name}: {argv[0]}", self._python, tty=tty)
        try:
            await self._start(command, argv)
            yield Session(command)
        finally:
            await command.end(patient=False)

    async def _start(self, command: "_Command", argv: Sequence[str]) -> None:
        try:
            with anyio.fail_after(START_WITHIN_S):
                await command.start(argv)
        except TimeoutError as error:
            text = f"{self._name}: {argv[0]}: not started in {START_WITHIN_S:g} s"
            raise HostError(Fault.UNKNOWN, text) from error

    async def put(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file whole or not at all; parent directories are made."""
        argv = (self._python, "-I", "-S", "-c", _PUT, path, str(len(data)), f"{mode:o}")
        ran = await self.run(argv, stdin=data, timeout_s=60 + len(data) / 2**20)
        if ran.exit_code is None:
            raise HostError(Fault.UNKNOWN, f"{self._name}: cut off while {path} was written")
        if ran.exit_code:
            said = ran.stderr.decode(errors="replace").strip()[-200:]
            raise HostError(Fault.REJECTED, f"{self._name}: can't write {path}: {said}")


class _Wire:
    """A unix socket whose calls can be cancelled at any moment.

    anyio's own stream for unix sockets may, when it is cancelled just as its socket becomes ready, leave an
    InvalidStateError to the event loop's log (4.16, asyncio); waiting by `wait_readable` has no such moment.
    """

    def __init__(self, path: str) -> None:
        """Connect; raises OSError. The engine's queue is long, so nothing is waited for."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    async def receive(self, bytes_max: int) -> bytes:
        """What has come; empty at the end. Raises OSError, and ClosedResourceError after `close`."""
        await checkpoint()
        while not self.is_closed:
            try:
                return self._socket.recv(bytes_max)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
        raise anyio.ClosedResourceError

    async def send(self, data: bytes) -> None:
        """Send all. Raises OSError, and ClosedResourceError after `close`."""
        await checkpoint()
        left = memoryview(data)
        while left:
            if self.is_closed:
                raise anyio.ClosedResourceError
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)

    def send_eof(self) -> None:
        """Say that no more will be sent. Raises OSError."""
        self._socket.shutdown(socket.SHUT_WR)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._socket.fileno() < 0

    def close(self) -> None:
        """Close it; who waits for it hears of it."""
        if not self.is_closed:
            anyio.notify_closing(self._socket)
            self._socket.close()


class _Command:
    """One command in a container: started, talked to, ended."""

    def __init__(
        self, engine: EngineApi, container: str, what: str, python: str, *, tty: bool = False
    ) -> None:
        self.what = what
        self._tty = tty  # then there are no frames: all comes as it is
        self._engine, self._container, self._python = engine, container, python
        self._id = ""
        self._group: int | None = None  # of processes, inside
        self._wire: _Wire | None = None
        self._raw = bytearray()  # heard, and not taken yet
        self._kind, self._left = 0, 0  # of the frame whose data comes next
        self._is_over = False  # no more output
        self.is_fed = False  # all of its stdin was taken

    async def start(self, argv: Sequence[str]) -> None:
        """Start it; returns when it runs. Raises HostError."""
        body = {
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": self._tty,
            "Cmd": [self._python, "-I", "-S", "-c", _BECOME, *argv],
        }
        if self._tty:
            body["Env"] = ["TERM=xterm-256color"]
        try:
            made = await self._engine.make_exec(f"/containers/{self._container}/exec", body)
            self._id = str(made.json()["Id"])
            path, target = await self._engine.target(f"/exec/{self._id}/start")
            self._wire = _Wire(path)
            await self._upgrade(target)
        except ProviderError as error:
            raise HostError(error.fault, f"{self.what}: {error.detail}") from error
        except OSError as error:
            raise HostError(Fault.NOT_SENT, f"{self.what}: {error}") from error
        await self._begun()

    async def _upgrade(self, target: str) -> None:
        """Say what HTTP there is to say, and hear the head of the answer."""
        body = to_json({"Detach": False, "Tty": self._tty})
        head = (
            f"POST {target} HTTP/1.1\r\nHost: engine\r\nUser-Agent: everpool\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        )
        await self._send(head.encode() + body)
        while (end := self._raw.find(b"\r\n\r\n")) < 0:
            if len(self._raw) > HEAD_BYTES_MAX or not await self._hear():
                raise HostError(Fault.UNKNOWN, f"{self.what}: the engine's answer is cut, or is no HTTP")
        first = bytes(self._raw[:end]).split(b"\r\n", 1)[0].split(b" ", 2)
        status = int(first[1]) if len(first) > 1 and first[1].isdigit() else 0
        del self._raw[: end + 4]
        if status in (101, 200):  # podman before 4 says 200, and means the same
            return
        with anyio.move_on_after(1.0):
            while len(self._raw) < 4096 and await self._hear():
                pass
        raise self._engine.refused(f"POST {target}", status, bytes(self._raw))

    async def _begun(self) -> None:
        """Hear the line with its process id, which says that it runs."""
        said, complaint = bytearray(), bytearray()
        while not said.endswith(b"\n"):
            # No byte more than the line has: what follows is the command's own.
            piece = await self.read(1 if not said or said.strip().isdigit() else READ_BYTES)
            if piece is None or len(said) + len(complaint) > HEAD_BYTES_MAX:
                raise await self._not_begun(bytes(complaint + said))
            (said if piece[0] == STDOUT else complaint).extend(piece[1])
        if not said.strip().isdigit():
            raise await self._not_begun(bytes(complaint + said))
        self._group = int(said)

    async def _not_begun(self, said: bytes) -> HostError:
        code = await self.exit_code()
        text = " ".join(said.decode(errors="replace").split())[:300]
        if code is None:
            return HostError(Fault.GONE, f"{self.what}: the container ended")
        if code >= SIGNALLED:
            return HostError(Fault.UNKNOWN, f"{self.what}: ended before it began, exit status {code}: {text}")
        return HostError(Fault.REJECTED, f"{self.what}: {self._python} can't be run there: {text}")

    async def feed(self, data: bytes) -> None:
        """Write all of its stdin, and end that. A command that does not read it all is no failure."""
        try:
            await self.send(data)
            await self.send_eof()
            self.is_fed = True
        except HostError:
            return

    async def collect(self, kept: dict[int, bytearray], bytes_max: int) -> bool:
        """Hear all of its output, and keep the first of each stream; False when the connection broke."""
        try:
            while (piece := await self.read(READ_BYTES)) is not None:
                held = kept[piece[0]]
                held += piece[1][: bytes_max - len(held)]
        except HostError:
            return False
        return True

    async def read(self, bytes_max: int) -> tuple[int, bytes] | None:
        """Some of its output as (stream, data), of stdout at most `bytes_max`; None when there is no more.

        Raises:
            HostError: unknown; the connection broke, or what comes are no frames.
            anyio.ClosedResourceError: `end` was called.
        """
        while not self._left and not self._tty:
            if len(self._raw) < 8:
                if not await self._hear():
                    return None
                continue
            kind, size = struct.unpack_from(">BxxxI", self._raw)
            if kind > 3 or any(self._raw[1:4]):
                raise HostError(Fault.UNKNOWN, f"{self.what}: no frames: {bytes(self._raw[:80])!r}")
            self._kind, self._left = (STDERR if kind == 3 else STDOUT if kind == 0 else kind), size
            del self._raw[:8]
        while not self._raw:
            if not await self._hear():
                return None
        if self._tty:
            self._kind, self._left = STDOUT, len(self._raw)
        most = bytes_max if self._kind == STDOUT else READ_BYTES
        data = bytes(self._raw[: min(self._left, most)])
        del self._raw[: len(data)]
        self._left -= len(data)
        return self._kind, data

    async def resize(self, rows: int, columns: int) -> None:
        """Give its terminal another size. One that is over has none, which is no failure."""
        try:
            await self._engine.make_exec(f"/exec/{self._id}/resize?h={rows}&w={columns}", {})
        except ProviderError:
            return

    async def send(self, data: bytes) -> None:
        """Write to its stdin. Raises HostError when it is over."""
        if self._is_over:
            raise HostError(Fault.UNKNOWN, f"{self.what}: its stream is over")
        if data:
            await self._send(data)

    async def send_eof(self) -> None:
        """End its stdin. Raises HostError when it is over."""
        assert self._wire is not None
        try:
            self._wire.send_eof()
        except OSError as error:
            raise HostError(Fault.UNKNOWN, f"{self.what}: its stream is over") from error

    async def exit_code(self) -> int | None:
        """Its exit status once its output has ended; None when nobody knows, as its container is gone."""
        with anyio.move_on_after(EXIT_STATUS_WITHIN_S):
            pause_s = 0.005
            while True:
                told = await self._inspected(f"/exec/{self._id}/json")
                if told is None:
                    return None
                if not told.get("Running"):
                    break
                await anyio.sleep(pause_s)
                pause_s = min(pause_s * 2, 0.1)
            code = told.get("ExitCode")
            if isinstance(code, int) and (code == KILLED or code < 0) and await self._is_dead():
                return None
            return code if isinstance(code, int) else None
        return None

    async def _is_dead(self) -> bool:
        """Whether its container is, which is told a little later than the ends of its commands."""
        pauses = 5
        for attempt in range(pauses + 1):
            told = await self._inspected(f"/containers/{self._container}/json")
            if told is None or not (told.get("State") or {}).get("Running"):
                return True
            if attempt < pauses:
                await anyio.sleep(DEATH_WITHIN_S / pauses)
        return False

    async def _inspected(self, path: str) -> dict[str, Any] | None:
        try:
            answer = await self._engine.look(path)
            told = answer.json() if answer.ok else None
        except ProviderError:
            return None
        return told if isinstance(told, dict) else None

    async def end(self, *, patient: bool) -> None:
        """End it if it runs, and let go of it; when `patient` it may end by itself when stdin is closed."""
        wire, was_over = self._wire, self._is_over
        if wire is None or wire.is_closed:
            return
        with anyio.CancelScope(shield=True):
            with anyio.move_on_after(END_WITHIN_S):
                if not was_over:
                    await self._make_end(patient)
            self._is_over = True
            wire.close()

    async def _make_end(self, patient: bool) -> None:
        try:
            if self._group is None:  # we were cancelled while it began
                await self._begun()
            if patient:
                await self.send_eof()
                if await self._ends_by_itself():
                    return
            argv = [self._python, "-I", "-S", "-c", _END, str(self._group)]
            made = await self._engine.make_exec(f"/containers/{self._container}/exec", {"Cmd": argv})
            path = f"/exec/{made.json()['Id']}/start"
            await self._engine.make_exec(path, {"Detach": True, "Tty": False})
        except ProviderError:  # its container is gone, or the engine: nothing more to be done about it
            return

    async def _ends_by_itself(self) -> bool:
        pause_s = 0.005
        deadline = anyio.current_time() + EOF_WITHIN_S
        while anyio.current_time() < deadline:
            told = await self._inspected(f"/exec/{self._id}/json")
            if told is None or not told.get("Running"):
                return True
            await anyio.sleep(pause_s)
            pause_s *= 1.5
        return False

    async def _send(self, data: bytes) -> None:
        assert self._wire is not None
        try:
            await self._wire.send(data)
        except OSError as error:
            raise HostError(Fault.UNKNOWN, f"{self.what}: the connection broke") from error

    async def _hear(self) -> bool:
        """Take what has come, at least one byte; False at the end."""
        assert self._wire is not None
        if self._is_over:
            return False
        try:
            data = await self._wire.receive(READ_BYTES)
        except OSError as error:
            self._is_over = True
            raise HostError(Fault.UNKNOWN, f"{self.what}: the connection broke") from error
        self._raw += data
        self._is_over = not data
        return not self._is_over


class ExecStream(ByteStream):
    """stdin and stdout of a running command."""

    def __init__(self, command: _Command) -> None:
        self._command = command
        self._stderr = bytearray()
        self._end: HostError | None = None
        self._has_ended = False
        self._closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return what has come, at most `max_bytes`. Raises EndOfStream, HostError: see `ExecHost.open`."""
        if self._closed:
            raise anyio.ClosedResourceError
        while not self._has_ended:
            piece = await self._command.read(max_bytes)
            if piece is None:
                await self._note_end()
            elif piece[0] == STDOUT:
                return piece[1]
            else:
                self._stderr = (self._stderr + piece[1])[-STDERR_TAIL_BYTES:]
        if self._end is None:
            raise anyio.EndOfStream
        raise self._end

    async def _note_end(self) -> None:
        code = await self._command.exit_code()
        if code != 0:
            how = "connection lost" if code is None else f"exit status {code}"
            said = self._stderr.decode(errors="replace").strip()
            text = f"{self._command.what}: {how}" + (f": {said}" if said else "")
            self._end = HostError(Fault.UNKNOWN, text)
        self._has_ended = True

    async def send(self, item: bytes) -> None:
        """Hand bytes over; returns when the engine has taken them. Raises HostError."""
        if self._closed:
            raise anyio.ClosedResourceError
        await self._command.send(item)

    async def send_eof(self) -> None:
        """End the command's stdin. Raises HostError."""
        await self._command.send_eof()

    async def aclose(self) -> None:
        """End the command."""
        self._closed = True
        await self._command.end(patient=True)


class Session:
    """A running command that a person talks to."""

    def __init__(self, command: _Command) -> None:
        self._command = command

    async def read(self) -> tuple[int, bytes] | None:
        """Some output as (STDOUT or STDERR, data); None when there is no more. Raises HostError."""
        return await self._command.read(READ_BYTES)

    async def send(self, data: bytes) -> None:
        """Write to its stdin. Raises HostError when it is over."""
        await self._command.send(data)

    async def send_eof(self) -> None:
        """End its stdin."""
        await self._command.send_eof()

    async def resize(self, rows: int, columns: int) -> None:
        """Give its terminal another size."""
        await self._command.resize(rows, columns)

    async def exit_code(self) -> int | None:
        """How it ended; None: the container did, or nobody knows."""
        return await self._command.exit_code()
