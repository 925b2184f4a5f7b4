"""The ssh server of a local machine: one user, one key, commands and shells. No forwarding, no sftp.

    python -P sshd.py DIRECTORY

listens on loopback, writes its port to DIRECTORY/port, and runs commands in DIRECTORY/home.
"""

import asyncio
import contextlib
import fcntl
import gc
import json
import os
import pty
import pwd
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from pathlib import Path

import asyncssh

TermSize = tuple[int, int, int, int]  # columns, rows, and both in pixels

READ_BYTES = 256 * 1024
PIPE_BYTES = 256 * 1024
WINDOW_BYTES = 4 * 2**20
PACKET_BYTES = 128 * 1024
BACKLOG_HIGH_BYTES = 2**20
LINGER_S = 0.25  # output of what a command left running, after its own end
HANGUP_S = 2.0  # from HUP to KILL, when the client is gone


def login_shell() -> str:
    """The user's shell, or /bin/sh for one who has none."""
    try:
        shell = pwd.getpwuid(os.getuid()).pw_shell
    except KeyError:  # containers run under uids that no file knows
        return "/bin/sh"
    return "/bin/sh" if Path(shell).name in ("", "nologin", "false") else shell


class Machine:
    """What the server knows about its machine."""

    def __init__(self, directory: Path) -> None:
        order = json.loads((directory / "order.json").read_bytes())
        self.user: str = order["ssh_user"]
        self.port: int = order.get("port", 0)
        self.directory = directory
        self.home = directory / "home"
        self.key = asyncssh.import_public_key((directory / "authorized_key").read_bytes())
        self.shell = login_shell()
        self.environment = {
            "HOME": str(self.home),
            "USER": self.user,
            "LOGNAME": self.user,
            "SHELL": self.shell,
            "PATH": os.environ.get("PATH") or os.defpath,
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "EVERPOOL_MACHINE": os.environ["EVERPOOL_MACHINE"],
        }
        self.sessions: set[Session] = set()

    def reap(self) -> None:
        """Tell each session whose command is dead. Called after SIGCHLD."""
        for session in list(self.sessions):
            session.check_exit()


class Server(asyncssh.SSHServer):
    """Lets the one user in, by the one key."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return username == self._machine.user and key == self._machine.key

    def session_requested(self) -> "Session":
        return Session(self._machine)


class Session(asyncssh.SSHServerSession[bytes]):
    """One command or shell, its bytes moved without copies between pipes and channel."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._loop = asyncio.get_running_loop()
        self._command: str | None = None
        self._terminal: tuple[str, TermSize] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._readers: dict[int, asyncssh.DataType] = {}  # fd -> which stream of the channel
        self._stdin = self._theirs = -1
        self._backlog = bytearray()
        self._eof = self._stopped = self._holding = self._flowed = self._over = False

    # what the client asks for

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan
        chan.set_write_buffer_limits(BACKLOG_HIGH_BYTES)

    def pty_requested(self, term_type: str, term_size: TermSize, term_modes: Mapping[int, int]) -> bool:
        self._terminal = (term_type, term_size)
        return True

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self._terminal is not None and self._stdin >= 0:
            size = struct.pack("HHHH", height, width, pixwidth, pixheight)
            fcntl.ioctl(self._stdin, termios.TIOCSWINSZ, size)

    def shell_requested(self) -> bool:
        return True

    def exec_requested(self, command: str) -> bool:
        self._command = command
        return True

    def session_started(self) -> None:
        try:
            self._start()
        except OSError as error:
            self._channel.write_stderr(f"can't start: {error}\n".encode())
            self._channel.exit(127)

    def signal_received(self, name: str) -> None:
        self._signal(getattr(signal, f"SIG{name}", 0))

    # the process

    def _start(self) -> None:
        machine = self._machine
        argv = [machine.shell, "-l"] if self._command is None else ["/bin/sh", "-c", self._command]
        if self._terminal is not None:
            self._start_on_terminal(argv, *self._terminal)
        else:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=machine.home,
                env=machine.environment,
                start_new_session=True,
            )
            stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
            assert stdin is not None
            assert stdout is not None
            assert stderr is not None
            self._stdin = _own(stdin.fileno())
            self._readers = {
                _own(stdout.fileno()): None,
                _own(stderr.fileno()): asyncssh.EXTENDED_DATA_STDERR,
            }
            for pipe in (stdin, stdout, stderr):
                pipe.close()
        machine.sessions.add(self)
        self._read_on()

    def _start_on_terminal(self, argv: list[str], name: str, size: TermSize) -> None:
        ours, theirs = pty.openpty()
        try:
            fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], size[2], size[3]))
            # The first terminal that a session's leader opens becomes the one that controls it.
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", 'exec "$@" < "$0" > "$0" 2>&1', os.ttyname(theirs), *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self._machine.home,
                env={**self._machine.environment, "TERM": name or "dumb"},
                start_new_session=True,
            )
            self._stdin, out = _own(ours), _own(ours)
            self._readers = {out: None}
            self._theirs = theirs  # held until the end, else we read EIO before the shell has opened it
        except OSError:
            os.close(theirs)
            raise
        finally:
            os.close(ours)

    def check_exit(self) -> None:
        """Look whether the command is dead; then send what is left, and its status."""
        if self._process is None or self._process.poll() is None or self._over:
            return
        if self._theirs >= 0:
            os.close(self._theirs)
            self._theirs = -1
        if self._readers:
            self._flowed = False
            self._loop.call_later(LINGER_S, self._linger)
        self._finish()

    def _linger(self) -> None:
        """Give up on output that comes from what the command left behind, once it has stopped flowing."""
        if self._flowed or self._stopped:
            self._flowed = False
            self._loop.call_later(LINGER_S, self._linger)
            return
        for fd in list(self._readers):
            self._forget(fd)
        self._finish()

    def _finish(self) -> None:
        if self._readers or self._over or self._process is None or self._process.returncode is None:
            return
        self._over = True
        self._machine.sessions.discard(self)
        self._close_stdin()
        if self._channel.is_closing():
            return
        code = self._process.returncode
        if code < 0:
            self._channel.exit_with_signal(signal.Signals(-code).name.removeprefix("SIG"))
        else:
            self._channel.exit(code)

    def _signal(self, number: int) -> None:
        if number and self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    # from the process to the client

    def _read_on(self) -> None:
        for fd, datatype in self._readers.items():
            self._loop.add_reader(fd, self._readable, fd, datatype)

    def _readable(self, fd: int, datatype: asyncssh.DataType) -> None:
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody has the terminal open any more
            data = b""
        if data:
            self._flowed = True
            self._channel.write(data, datatype)
        else:
            self._forget(fd)
            self._finish()

    def _forget(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        del self._readers[fd]
        os.close(fd)

    def pause_writing(self) -> None:
        self._stopped = True
        for fd in self._readers:
            self._loop.remove_reader(fd)

    def resume_writing(self) -> None:
        self._stopped = False
        self._read_on()

    # from the client to the process

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if self._stdin < 0:
            return
        if self._backlog:
            self._backlog += data
        else:
            sent = self._write(data)
            if sent == len(data) or self._stdin < 0:
                return
            self._backlog += data[sent:]
            self._loop.add_writer(self._stdin, self._writable)
        if len(self._backlog) > BACKLOG_HIGH_BYTES and not self._holding:
            self._holding = True
            self._channel.pause_reading()

    def _write(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._stdin, data)
        except BlockingIOError:
            return 0
        except OSError:  # the command does not read any more
            self._close_stdin()
            return 0

    def _writable(self) -> None:
        del self._backlog[: self._write(self._backlog)]
        if self._backlog:
            return
        if self._stdin >= 0:
            self._loop.remove_writer(self._stdin)
        if self._holding:
            self._holding = False
            self._channel.resume_reading()
        if self._eof:
            self.eof_received()

    def eof_received(self) -> bool:
        self._eof = True
        if not self._backlog and self._terminal is None:
            self._close_stdin()
        return True  # the command's output still goes out

    def _close_stdin(self) -> None:
        if self._stdin < 0:
            return
        self._loop.remove_writer(self._stdin)
        os.close(self._stdin)
        self._stdin = -1
        self._backlog.clear()
        if self._holding:
            self._holding = False
            self._channel.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, or we have ended it: what still runs gets HUP, then KILL."""
        self._close_stdin()
        for fd in list(self._readers):
            self._forget(fd)
        if not self._over:
            self._signal(signal.SIGHUP)
            self._loop.call_later(HANGUP_S, self._signal, signal.SIGKILL)


def _own(fd: int) -> int:
    """A non-blocking duplicate of `fd`, with a large buffer where the system grants one."""
    mine = os.dup(fd)
    os.set_blocking(mine, False)
    with contextlib.suppress(OSError):
        fcntl.fcntl(mine, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return mine


async def serve(machine: Machine) -> None:
    """Listen until the process is killed."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, machine.reap)
    listener = await asyncssh.listen(
        "127.0.0.1",
        machine.port,
        server_factory=lambda: Server(machine),
        server_host_keys=[str(machine.directory / "host_key")],
        config=None,
        encoding=None,
        line_editor=False,
        allow_scp=False,
        x11_forwarding=False,
        agent_forwarding=False,
        password_auth=False,
        kbdint_auth=False,
        gss_kex=False,
        gss_auth=False,
        compression_algs=["none"],
        login_timeout=30,
        window=WINDOW_BYTES,
        max_pktsize=PACKET_BYTES,
    )
    draft = machine.directory / ".port"
    draft.write_text(str(listener.get_port()))
    draft.rename(machine.directory / "port")
    gc.collect()
    gc.freeze()
    await listener.wait_closed()


if __name__ == "__main__":
    asyncio.run(serve(Machine(Path(sys.argv[1]))))
