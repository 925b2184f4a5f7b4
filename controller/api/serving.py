"""The listening side: sockets bound before anything else, and uvicorn inside the daemon's event loop."""

import asyncio
import errno
import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import anyio
import uvicorn
from anyio.abc import TaskStatus

from controller.api.connections import KEEP_ALIVE_S, Connections
from controller.api.edge import Edge
from controller.config import Config, ConfigError, is_loopback
from controller.security.certificate import Certificate, CertificateProblem
from controller.security.guard import Guard

PATH_BYTES_MAX = 107  # the system's limit on the path of a unix socket
BACKLOG = 1024
GRACE_S = 5


class AddressInUse(Exception):
    """A socket can't be had: it is taken, or can't be made. The text is for the user."""


@dataclass(slots=True)
class Listening:
    """What the API listens on, and what clients show there. Closed by leaving it.

    Attributes:
        unix: the unix socket.
        path: its path.
        tcp: the TCP socket, if any.
        token: the one of token_file, of scope admin.
        certificate: of TCP; None: it is plain.
    """

    unix: socket.socket
    path: Path
    tcp: socket.socket | None = None
    token: str | None = field(default=None, repr=False)
    certificate: Certificate | None = None
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
        ConfigError: the token, or the certificate and its key, can't be used.
    """
    daemon, token, certificate = config.daemon, None, None
    if daemon.address is not None:
        try:
            token = daemon.token() if daemon.token_file is not None else None
            certificate = Certificate(daemon.tls, time.time) if daemon.tls is not None else None
        except ValueError as error:
            raise ConfigError([f"daemon.token_file: {error}"]) from error
        except CertificateProblem as problem:
            raise ConfigError([str(problem)]) from problem
    listening = bind_to(
        daemon.socket_path,
        socket_mode=daemon.socket_permissions,
        address=daemon.address,
        certificate=certificate,
    )
    listening.token = token
    return listening


def bind_to(
    socket_path: Path,
    *,
    socket_mode: int = 0o600,
    address: tuple[str, int] | None = None,
    certificate: Certificate | None = None,
) -> Listening:
    """Bind a unix socket, and TCP on `address` if given. Raises AddressInUse; nothing is left behind."""
    listening = _bind_unix(socket_path, socket_mode)
    listening.certificate = certificate
    if address is not None:
        try:
            listening.tcp = _bind_tcp(*address, tls=certificate is not None)
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


def _bind_tcp(host: str, port: int, *, tls: bool) -> socket.socket:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not tls and not is_loopback(host):
        raise AddressInUse(
            f"{shown} is not a loopback address: that needs [daemon.tls] with certificate and key"
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


class _Server(uvicorn.Server):
    """uvicorn on our sockets, without its signal handlers, and without its ten wake-ups a second."""

    def __init__(self, config: uvicorn.Config, listening: Listening, guard: Guard) -> None:
        super().__init__(config)
        self._listening = listening
        self._guard = guard
        self._look: Callable[[], None] = lambda: None
        self.up = asyncio.Event()
        self.stop = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        connections = Connections(self.config, self.server_state, self._guard)
        self._look = connections.look
        # The server closes what it is given, and when it wants to.
        self.servers: list[Any] = [connections.listen(self._listening.unix.dup(), unix=True)]
        if self._listening.tcp is not None:
            self.servers.append(connections.listen(self._listening.tcp.dup(), unix=False))
        self.started = True
        self.up.set()

    async def main_loop(self) -> None:
        """Tick once a second, for the Date header and for deadlines, until told to stop."""
        counter = 0
        while not await self.on_tick(counter):
            self._look()
            counter = (counter + 10) % 864_000
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.stop.wait(), 1.0)
                self.should_exit = True


def _config(app: Edge) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        lifespan="off",
        ws="none",
        http="httptools" if find_spec("httptools") else "h11",
        log_level="error",  # what strangers send is no reason to write anything down
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
    guard = app.guard
    guard.tokens.own(listening.token)
    guard.certificate = listening.certificate
    server = _Server(_config(app), listening, guard)
    async with anyio.create_task_group() as group:
        group.start_soon(_run, server, listening)
        group.start_soon(guard.tokens.watch)
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
