"""A way into a machine by ssh. The host key is verified on every connection, without exception.

It runs on asyncio, as asyncssh does. Nothing of the user's own ssh set-up is looked at: no agent, no
config file, no password, only the cluster's key and the cluster's known_hosts.
"""

import asyncio
import contextlib
import os
import pwd
import shlex
import signal
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import asyncssh
from anyio.abc import ByteStream
from anyio.lowlevel import checkpoint_if_cancelled

from providers.errors import Fault, HostError
from providers.host.base import Host, Ran
from providers.host.keys import PinMismatch, file_name, pin_in, pinned
from providers.model import Machine

OUTPUT_BYTES_MAX = 2**20  # of each stream, that `run` keeps
STDERR_TAIL_BYTES = 4096
WINDOW_BYTES = 4 * 2**20
PACKET_BYTES = 128 * 1024  # asked for; OpenSSH sends at most 32 KiB anyway
BUFFER_HIGH_BYTES, BUFFER_LOW_BYTES = 2**20, 256 * 1024
KEEPALIVE_S, KEEPALIVES_MISSED_MAX = 10, 3
CLOSE_WITHIN_S = 2.0
EXIT_STATUS_WITHIN_S = 2.0  # after the end of the output

# Elliptic curves only cost 1 ms a connection; the rest is for servers that know nothing newer.
_KEX = (
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group14-sha256",
)
_CIPHERS = (
    "aes128-gcm@openssh.com",
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-ctr",
    "aes256-ctr",
)


@asynccontextmanager
async def connect(machine: Machine, *, timeout_s: float = 20) -> AsyncGenerator[Host]:
    """Log in to a machine; leaving the context closes the connection.

    Raises:
        HostError: not_sent (nobody answers, or not in time), credentials (our key is not accepted),
            rejected (it showed another host key than is pinned, or speaks no ssh we can).
    """
    known_hosts, alias = Path(machine.known_hosts_path), file_name(machine.instance_id)
    client = _Client(await anyio.to_thread.run_sync(pinned, known_hosts, alias))
    with _connecting(machine, timeout_s):
        connection = await _login(machine, client)
    try:
        if client.unpinned is not None:
            # Only now: a server that could not prove it has the key, or refused us, pins nothing.
            await _pin(machine, known_hosts, alias, client.unpinned)
        yield SshHost(connection, machine.instance_id)
    finally:
        connection.close()
        with anyio.move_on_after(CLOSE_WITHIN_S, shield=True) as late:
            await connection.wait_closed()
        if late.cancelled_caught:
            connection.abort()


def _be_somebody() -> None:
    """Have a name and a home: asyncssh asks for them, though nothing that we do depends on them.

    In a container we may run under a uid that no passwd file knows.
    """
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        os.environ.setdefault("LOGNAME", str(os.getuid()))
        os.environ.setdefault("HOME", "/")


async def _login(machine: Machine, client: "_Client") -> asyncssh.SSHClientConnection:
    _be_somebody()
    return await asyncssh.connect(
        machine.address.host,
        machine.address.port,
        client_factory=lambda: client,
        config=None,
        username=machine.ssh_user,
        client_keys=[machine.private_key_path],
        # Empty, but not None (which would verify nothing): `client` is asked about every host key.
        known_hosts=([], [], []),
        server_host_key_algs=client.algorithms,
        x509_trusted_certs=None,
        agent_path=None,
        agent_forwarding=False,
        preferred_auth=["publickey"],
        password_auth=False,
        kbdint_auth=False,
        host_based_auth=False,
        gss_kex=False,
        gss_auth=False,
        kex_algs=_KEX,
        encryption_algs=_CIPHERS,
        compression_algs=["none"],
        keepalive_interval=KEEPALIVE_S,
        keepalive_count_max=KEEPALIVES_MISSED_MAX,
    )


async def _pin(machine: Machine, known_hosts: Path, alias: str, public: str) -> None:
    try:
        await anyio.to_thread.run_sync(pin_in, known_hosts, alias, public)
    except PinMismatch as error:  # another connection was first, and saw another key
        raise _mismatch(machine) from error


def _mismatch(machine: Machine) -> HostError:
    where = f"{machine.address.host}:{machine.address.port}"
    return HostError(Fault.REJECTED, f"{machine.instance_id} at {where} has another host key than is pinned")


@contextmanager
def _connecting(machine: Machine, timeout_s: float) -> Iterator[None]:
    """Bound the way in by `timeout_s`, and say in our words why it failed."""
    where = f"{machine.instance_id} at {machine.address.host}:{machine.address.port}"
    try:
        with anyio.fail_after(timeout_s):
            yield
    except TimeoutError as error:
        raise HostError(Fault.NOT_SENT, f"{where}: no ssh login within {timeout_s:g} s") from error
    except asyncssh.HostKeyNotVerifiable as error:
        raise _mismatch(machine) from error
    except (asyncssh.PermissionDenied, asyncssh.KeyImportError, asyncssh.IllegalUserName) as error:
        raise HostError(Fault.CREDENTIALS, f"{where}: {_one_line(error)}") from error
    except (asyncssh.KeyExchangeFailed, asyncssh.ProtocolNotSupported) as error:
        raise HostError(Fault.REJECTED, f"{where}: {_one_line(error)}") from error
    except FileNotFoundError as error:
        raise HostError(Fault.CREDENTIALS, f"{where}: {error.filename}: no such key") from error
    except (OSError, asyncssh.Error) as error:  # also what a server says that is just starting
        raise HostError(Fault.NOT_SENT, f"{where}: {_one_line(error)}") from error


class _Client(asyncssh.SSHClient):
    """Decides about the host key; `unpinned` is one seen for the first time."""

    def __init__(self, known: list[str]) -> None:
        self._known = known
        self.unpinned: str | None = None
        keys = [asyncssh.import_public_key(line) for line in known]
        # The pinned kinds first, the others after them: a server that has none of the pinned kinds shows its
        # key and is refused for it. Without the others it hangs up, which looks like one that is starting.
        first = [name.decode() for key in keys for name in key.sig_algorithms]
        self.algorithms = f"^{','.join(first)}" if first else "default"

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        seen = " ".join(key.export_public_key().decode().split()[:2])
        if self._known:
            return seen in self._known
        self.unpinned = seen
        return True


class SshHost:
    """An open connection; the `Host` that `connect` gives."""

    def __init__(self, connection: asyncssh.SSHClientConnection, name: str) -> None:
        self._connection = connection
        self._name = name

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30) -> Ran:
        """Run a command to its end; at most 1 MiB of each output is kept. See `Host.run`."""
        what = f"{self._name}: {argv[0]}"
        output = _Output()
        channel: asyncssh.SSHClientChannel[bytes] | None = None
        try:
            with anyio.fail_after(timeout_s):
                channel = await self._start(output, argv)
                with contextlib.suppress(BrokenPipeError):  # it ended without reading it all
                    channel.write(stdin)
                    channel.write_eof()
                await output.gone.wait()
        except TimeoutError as error:
            raise HostError(Fault.UNKNOWN, f"{what}: not over after {timeout_s:g} s") from error
        finally:
            if channel is not None:
                _end(channel, output)
        return Ran(exit_code=output.exit_code, stdout=bytes(output.stdout), stderr=bytes(output.stderr))

    @asynccontextmanager
    async def open(self, argv: Sequence[str]) -> AsyncGenerator[ByteStream]:
        """Run a command with its stdin and stdout as a byte stream; leaving ends the command.

        The stream's `receive` raises EndOfStream after exit status 0, and HostError, with the end of
        what the command wrote to stderr, after any other end.
        """
        session = _Session()
        channel = await self._start(session, argv)
        try:
            yield CommandStream(channel, session, f"{self._name}: {argv[0]}")
        finally:
            _end(channel, session)

    async def put(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file whole or not at all; parent directories are made."""
        # A connection that is cut looks like the end of stdin: only the size tells a whole file.
        script = (
            'mkdir -p -- "$(dirname -- "$1")" && cat > "$1.$$" && [ "$(wc -c < "$1.$$")" -eq "$2" ] '
            '&& chmod "$3" "$1.$$" && mv -f -- "$1.$$" "$1" || { rm -f -- "$1.$$"; exit 1; }'
        )
        argv = ("/bin/sh", "-c", script, "put", path, str(len(data)), f"{mode:o}")
        ran = await self.run(argv, stdin=data, timeout_s=60 + len(data) / 2**20)
        if ran.exit_code is None:
            raise HostError(Fault.UNKNOWN, f"{self._name}: cut off while {path} was written")
        if ran.exit_code:
            said = ran.stderr.decode(errors="replace").strip()[-200:]
            raise HostError(Fault.REJECTED, f"{self._name}: can't write {path}: {said}")

    async def _start(self, session: "_Session", argv: Sequence[str]) -> asyncssh.SSHClientChannel[bytes]:
        try:
            channel, _ = await self._connection.create_session(
                lambda: session,
                shlex.join(argv),
                encoding=None,
                window=WINDOW_BYTES,
                max_pktsize=PACKET_BYTES,
            )
        except (OSError, asyncssh.Error) as error:
            raise HostError(Fault.NOT_SENT, f"{self._name}: {argv[0]}: {_one_line(error)}") from error
        return channel


class _Session(asyncssh.SSHClientSession[bytes]):
    """What asyncssh calls for one command, kept until somebody waits for it."""

    def __init__(self) -> None:
        self.chunks: deque[bytes] = deque()
        self.buffered = 0
        self.exit_code: int | None = None
        self.ended = False  # no more output
        self.error: Exception | None = None
        self.stderr = bytearray()
        self.readable, self.writable, self.gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.writable.set()
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._paused = False

    def connection_made(self, chan: asyncssh.SSHClientChannel[bytes]) -> None:
        self._channel = chan
        chan.set_write_buffer_limits(BUFFER_HIGH_BYTES)

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        if datatype is not None:
            self.stderr = (self.stderr + data)[-STDERR_TAIL_BYTES:]
            return
        self.chunks.append(data)
        self.buffered += len(data)
        if self.buffered > BUFFER_HIGH_BYTES and not self._paused and self._channel is not None:
            self._paused = True
            self._channel.pause_reading()
        self.readable.set()

    def take(self, bytes_max: int) -> bytes:
        """Take what is buffered, at most `bytes_max`; reading goes on when there is room again."""
        parts, room = [], bytes_max
        while self.chunks and room:
            part = self.chunks.popleft()
            if len(part) > room:
                self.chunks.appendleft(part[room:])
                part = part[:room]
            parts.append(part)
            room -= len(part)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self.buffered -= len(data)
        if self._paused and self.buffered < BUFFER_LOW_BYTES and self._channel is not None:
            self._paused = False
            self._channel.resume_reading()
        return data

    def eof_received(self) -> bool:
        self.ended = True
        self.readable.set()
        return True  # our side stays open: what we say may still be heard

    def exit_status_received(self, status: int) -> None:
        self.exit_code = status

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:
        self.exit_code = 128 + _SIGNALS.get(f"SIG{signal}", 0)

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended, self.error = True, exc
        for event in (self.readable, self.writable, self.gone):
            event.set()


class _Output(_Session):
    """Keeps the first of both outputs, for `run`, and lets the rest pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stdout = bytearray()

    def data_received(self, data: bytes, datatype: asyncssh.DataType) -> None:
        kept = self.stdout if datatype is None else self.stderr
        kept += data[: OUTPUT_BYTES_MAX - len(kept)]


class CommandStream(ByteStream):
    """stdin and stdout of a running command."""

    def __init__(self, channel: asyncssh.SSHClientChannel[bytes], session: _Session, name: str) -> None:
        self._channel = channel
        self._session = session
        self._name = name
        self._closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Return what has come, at most `max_bytes`. Raises EndOfStream, HostError: see `SshHost.open`."""
        await checkpoint_if_cancelled()
        session = self._session
        while not session.chunks:
            if self._closed:
                raise anyio.ClosedResourceError
            if session.ended:
                await self._ended()
            session.readable.clear()
            await session.readable.wait()
        return session.take(max_bytes)

    async def _ended(self) -> None:
        with anyio.move_on_after(EXIT_STATUS_WITHIN_S):
            await self._session.gone.wait()
        if self._session.exit_code == 0:
            raise anyio.EndOfStream
        raise self._broken()

    async def send(self, item: bytes) -> None:
        """Hand bytes over; returns when little enough of them wait here."""
        if self._closed:
            raise anyio.ClosedResourceError
        await checkpoint_if_cancelled()
        try:
            self._channel.write(item)
        except OSError as error:
            raise self._broken() from error
        await self._session.writable.wait()
        if self._session.gone.is_set():
            raise self._broken()

    async def send_eof(self) -> None:
        """End the command's stdin."""
        try:
            self._channel.write_eof()
        except OSError as error:
            raise self._broken() from error

    async def aclose(self) -> None:
        """End the command."""
        self._closed = True
        _end(self._channel, self._session)
        self._session.readable.set()

    def _broken(self) -> HostError:
        session = self._session
        how = "connection lost" if session.exit_code is None else f"exit status {session.exit_code}"
        if session.error is not None:
            how = f"connection lost: {_one_line(session.error)}"
        said = session.stderr.decode(errors="replace").strip()
        return HostError(Fault.UNKNOWN, f"{self._name}: {how}" + (f": {said}" if said else ""))


_SIGNALS = {one.name: int(one) for one in signal.Signals}


def _end(channel: asyncssh.SSHClientChannel[bytes], session: _Session) -> None:
    """End the command if it runs. The server hears of it by a signal, old ones by the closed pipes."""
    if session.gone.is_set():
        return
    with contextlib.suppress(OSError):
        channel.terminate()
    channel.close()


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]
