"""The listening side: sockets bound before anything else, and uvicorn inside the daemon's event loop."""

import asyncio
import errno
import os
import socket
import stat
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

import anyio
import uvicorn
from anyio.abc import TaskStatus

from controller.api.edge import UNIX, Edge
from controller.config import Config, ConfigError

PATH_BYTES_MAX = 107  # the system's limit on the path of a unix socket
BACKLOG = 1024
GRACE_S = 5
KEEP_ALIVE_S = 75


class AddressInUse(Exception):
    """A socket can't be had: it is taken, or can't be made. The text is for the user."""


@dataclass(slots=True)
class Listening:
    """What the API listens on, and what clients show there. Closed by leaving it.

    Attributes:
        unix: the unix socket.
        path: its path.
        tcp: the TCP socket, if any.
        token: what clients on TCP must show.
    """

    unix: socket.socket
    path: Path
    tcp: socket.socket | None = None
    token: str | None = field(default=None, repr=False)
    _inode: int = 0

    @property
    def address(self) -> tuple[str, int] | None:
        """Where TCP is listened on: the port that was really bound."""
        if self.tcp is None:
            return None
        host, port = self.tcp.getsockname()[:2]
        return host, port

    def close(self) -> None:
        """Stop listening, and remove the socket's file if it is still ours. May be called twice."""
        if self.unix.fileno() >= 0:
            with suppress(OSError):
                if os.lstat(self.path).st_ino == self._inode:
                    os.unlink(self.path)
        self.unix.close()
        if self.tcp is not None:
            self.tcp.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def bind(config: Config) -> Listening:
    """Bind what the config says, before anything else starts. Hold the state directory first.

    Raises:
        AddressInUse: a socket is taken or can't be made; nothing is left behind.
        ConfigError: the token can't be read.
    """
    daemon, token = config.daemon, None
    if daemon.address is not None:
        try:
            token = daemon.token()
        except ValueError as error:
            raise ConfigError([f"daemon.token_file: {error}"]) from error
    listening = bind_to(daemon.socket_path, socket_mode=daemon.socket_permissions, address=daemon.address)
    listening.token = token
    return listening


def bind_to(
    socket_path: Path, *, socket_mode: int = 0o600, address: tuple[str, int] | None = None
) -> Listening:
    """Bind a unix socket, and TCP on `address` if given. Raises AddressInUse; nothing is left behind."""
    listening = _bind_unix(socket_path, socket_mode)
    if address is not None:
        try:
            listening.tcp = _bind_tcp(*address)
        except AddressInUse:
            listening.close()
            raise
    return listening


def _bind_unix(path: Path, mode: int) -> Listening:
    if len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise AddressInUse(
            f"the socket's path {path} is longer than {PATH_BYTES_MAX} bytes: set 'socket' to a shorter one"
        )
    _make_way(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o777 & ~mode)  # from its first moment on nobody else may connect
    try:
        sock.bind(os.fspath(path))
        os.chmod(path, mode)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        return Listening(sock, path, _inode=os.lstat(path).st_ino)
    except OSError as error:
        sock.close()
        raise AddressInUse(f"the socket {path} can't be made: {error.strerror}") from error
    finally:
        os.umask(old)


def _make_way(path: Path) -> None:
    """Remove the socket's file of a daemon that is dead."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise AddressInUse(f"the socket {path} can't be made: {error.strerror}") from error
    if not stat.S_ISSOCK(found.st_mode):
        raise AddressInUse(f"{path} is there and is no socket: move it away, or set 'socket' to another path")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.settimeout(2)
    try:
        probe.connect(os.fspath(path))
    except (ConnectionRefusedError, FileNotFoundError):
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    except OSError as error:
        raise AddressInUse(f"somebody listens on the socket {path} ({error})") from error
    finally:
        probe.close()
    raise AddressInUse(f"another process listens on the socket {path}: is a daemon running?")


def _bind_tcp(host: str, port: int) -> socket.socket:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if host != "localhost" and not ip_address(host).is_loopback:
        raise AddressInUse(
            f"{shown} is not a loopback address, and this version has no TLS: reach the unix socket by ssh"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"{shown} is taken by another process: set 'listen' to another port"
            ) from error
        raise AddressInUse(f"{shown} can't be listened on: {error.strerror}") from error
    return sock


def principal_of(sock: Any) -> str:
    """Who is at the other end of a unix socket, as the kernel knows."""
    try:
        with socket.socket(fileno=os.dup(sock.fileno())) as copy:
            credentials = copy.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return "unix"
    _, uid, _ = struct.unpack("3i", credentials)
    return f"unix:{uid}"


class _Server(uvicorn.Server):
    """uvicorn on our sockets, without its signal handlers, and without its ten wake-ups a second."""

    def __init__(self, config: uvicorn.Config, listening: Listening) -> None:
        super().__init__(config)
        self._listening = listening
        self.up = asyncio.Event()
        self.stop = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        ours = self._listening.unix.dup()  # the server closes what it is given, and when it wants to
        unix = await loop.create_unix_server(self._protocol(unix=True), sock=ours)
        self.servers: list[Any] = [unix]
        if self._listening.tcp is not None:
            ours = self._listening.tcp.dup()
            self.servers.append(await loop.create_server(self._protocol(unix=False), sock=ours))
        self.started = True
        self.up.set()

    def _protocol(self, *, unix: bool) -> Callable[[], asyncio.Protocol]:
        """What makes the protocol of a new connection; it writes down who is there, once."""
        base: Any = self.config.http_protocol_class

        class Protocol(base):  # type: ignore[misc]
            def connection_made(self, transport: asyncio.Transport) -> None:
                if unix:
                    self.app_state = {UNIX: principal_of(transport.get_extra_info("socket"))}
                super().connection_made(transport)

        def make() -> asyncio.Protocol:
            protocol: asyncio.Protocol = Protocol(
                config=self.config, server_state=self.server_state, app_state={}
            )
            return protocol

        return make

    async def main_loop(self) -> None:
        """Tick once a second, for the Date header, until told to stop."""
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 10) % 864_000
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.stop.wait(), 1.0)
                self.should_exit = True


def _config(app: Edge) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
    )


async def serve(
    app: Edge, listening: Listening, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled: then unending answers end, others are finished, and the sockets are closed.

    Must run on asyncio or uvloop. Takes a few seconds at most to end.
    """
    app.token = listening.token
    server = _Server(_config(app), listening)
    async with anyio.create_task_group() as group:
        group.start_soon(_run, server, listening)
        try:
            await server.up.wait()
            task_status.started()
            await anyio.sleep_forever()
        finally:
            app.closing.set()
            server.stop.set()


async def _run(server: _Server, listening: Listening) -> None:
    try:
        with anyio.CancelScope(shield=True):  # it ends when it is told to stop
            await server._serve()
    finally:
        listening.close()
