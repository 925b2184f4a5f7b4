"""Connections: how many there may be, and how long each may take for what it has to do.

The server's own protocol waits for ever for the rest of a head or body, and for a client to take its answer.
Here every connection that waits for its client has a deadline; one look a second goes over all of them.
"""

import asyncio
import os
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import structlog
import uvicorn
from uvicorn.server import ServerState

from controller.api.edge import UNIX, WELCOMED
from controller.security.guard import Guard
from controller.security.rates import neighbourhood

KEEP_ALIVE_S = 75
HEAD_BYTES_MAX = 65_536
BODY_BYTES_PER_S = 1024  # on the average at least, once header_within_s is over
BODY_WITHIN_S = 300.0  # however fast it comes
UNKNOWN_MIN = 8  # connections that one address may have before it shows a token; else a quarter of all
UNTAKEN_WITHIN_S = 60.0  # a client that takes nothing of its answer for so long is gone
ACCEPT_AGAIN_S = 0.5  # after the system could not give us a connection

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 32\r\nconnection: close\r\n\r\nthe request's head is too large\n"
)

log = structlog.get_logger()


def principal_of(sock: Any) -> str:
    """Who is at the other end of a unix socket, as the kernel knows."""
    try:
        with socket.socket(fileno=os.dup(sock.fileno())) as copy:
            credentials = copy.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return "unix"
    _, uid, _ = struct.unpack("3i", credentials)
    return f"unix:{uid}"


class Connections:
    """The connections of one server."""

    def __init__(self, config: uvicorn.Config, state: ServerState, guard: Guard) -> None:
        self._config = config
        self._state = state
        self._guard = guard
        self._protocol = _watched(config.http_protocol_class)

    def listen(self, sock: socket.socket, *, unix: bool) -> "Listener":
        """Take connections from a socket, which is closed in the end."""
        return Listener(sock, self._guard, self._maker(unix=unix), unix=unix)

    def _maker(self, *, unix: bool) -> "Callable[[_Place], asyncio.Protocol]":
        def make(place: _Place) -> asyncio.Protocol:
            state = {} if unix else {WELCOMED: place.known}
            protocol: Any = self._protocol(config=self._config, server_state=self._state, app_state=state)
            protocol.unix, protocol.lost = unix, place.lost
            protocol.header_within_s = self._guard.limits.header_within_s
            return protocol  # type: ignore[no-any-return]

        return make

    def look(self) -> None:
        """Close the connections that took too long for what they have to do."""
        now = asyncio.get_running_loop().time()
        for protocol in list(self._state.connections):
            if isinstance(protocol, _Deadlines) and protocol.overdue(now):
                self._guard.connections_cut += 1
                protocol.transport.abort()


class _Place:
    """That of one connection among those that are counted; each call counts once."""

    def __init__(self, listener: "Listener", host: str) -> None:
        self._listener = listener
        self._host: str | None = host
        self._open = True
        listener.count(1)
        listener.unknown[host] += 1

    def known(self) -> None:
        """Somebody who is known uses it."""
        host, self._host = self._host, None
        if host is not None:
            unknown = self._listener.unknown
            unknown[host] -= 1
            if not unknown[host]:
                del unknown[host]

    def lost(self) -> None:
        """It is closed."""
        self.known()
        if self._open:
            self._open = False
            self._listener.count(-1)


class Listener:
    """Takes connections: not more than there may be, each with the certificate that is served now."""

    def __init__(
        self,
        sock: socket.socket,
        guard: Guard,
        make: Callable[[_Place], asyncio.Protocol],
        *,
        unix: bool,
    ) -> None:
        self._sock = sock
        self._guard = guard
        self._make = make
        self._unix = unix
        self._open = 0  # of each socket apart: whoever floods TCP does not lock the operator out
        self.unknown = Counter[str]()  # of them, those of nobody known yet, by who is near whom
        self._greeting: set[asyncio.Task[None]] = set()
        self._task = asyncio.get_running_loop().create_task(self._listen())

    def close(self) -> None:
        """Take no more."""
        self._task.cancel()
        for task in self._greeting:
            task.cancel()

    async def wait_closed(self) -> None:
        """Return when it takes no more."""
        await asyncio.wait({self._task, *self._greeting})

    async def _listen(self) -> None:
        with self._sock:
            await self._accept()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(self._sock)
            except OSError as error:  # out of descriptors, say, or its client is gone already
                log.warning("no connection taken", why=error.strerror)
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            host = "" if self._unix else neighbourhood(address[0])
            most = self._guard.limits.connections_max
            unknown_most = most if self._unix else max(UNKNOWN_MIN, most // 4)
            if self._open >= most or self.unknown[host] >= unknown_most:
                self._guard.connections_refused += 1
                sock.close()
                continue
            task = loop.create_task(self._greet(sock, _Place(self, host)))
            self._greeting.add(task)
            task.add_done_callback(self._greeting.discard)

    async def _greet(self, sock: socket.socket, place: _Place) -> None:
        loop = asyncio.get_running_loop()
        certificate = None if self._unix else self._guard.certificate
        tls: dict[str, Any] = {}
        if certificate is not None:
            tls = {
                "ssl": certificate.pair.context,
                "ssl_handshake_timeout": self._guard.limits.header_within_s,
            }
        try:
            if not self._unix:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(lambda: self._make(place), sock, **tls)
        except (OSError, ssl.SSLError):  # no handshake, not in time, or gone: its own affair
            place.lost()
            sock.close()
        except asyncio.CancelledError:
            place.lost()
            sock.close()
            raise

    def count(self, change: int) -> None:
        """So many more are open."""
        self._open += change
        self._guard.connections += change


class _Deadlines:
    """What a protocol of ours knows besides. `overdue` is asked every second."""

    transport: Any
    cycle: Any
    flow: Any
    loop: asyncio.AbstractEventLoop
    timeout_keep_alive_task: Any
    unix: bool
    header_within_s: float

    def overdue(self, now: float) -> bool:
        """Whether it waits for its client longer than it may."""
        raise NotImplementedError


def _watched(base: Any) -> Any:
    """The server's protocol with deadlines; uvicorn's two ways to read HTTP have what is used here."""

    class Protocol(base, _Deadlines):  # type: ignore[misc]
        lost: Callable[[], None]

        def connection_made(self, transport: asyncio.Transport) -> None:
            if self.unix:
                self.app_state = {UNIX: principal_of(transport.get_extra_info("socket"))}
            self.since: float = self.loop.time()  # when it began what it does: to send a head, or a body
            self.quiet = False  # nothing came since the last answer
            self.head_bytes = 0
            self.body_bytes = 0
            self.untaken: int = 0  # bytes of an answer that the client did not take yet,
            self.untaken_since = 0.0  # and since when not a single one more
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            in_body = before is not None and before.more_body
            if self.quiet:
                self.quiet, self.since = False, self.loop.time()
            super().data_received(data)
            if self.cycle is not before:  # a head is complete
                self.head_bytes, self.body_bytes = 0, len(data)
                self.since = self.loop.time()
            elif in_body:
                self.body_bytes += len(data)
            else:
                self.head_bytes += len(data)
                if self.head_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
                    if before is None or before.response_complete:
                        self.transport.write(_TOO_LARGE)
                    self.transport.close()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.timeout_keep_alive_task is not None:  # no request waits behind this one
                self.quiet, self.since = True, self.loop.time()

        def overdue(self, now: float) -> bool:
            untaken = self.transport.get_write_buffer_size()
            if untaken == 0 or untaken < self.untaken or self.untaken == 0:
                self.untaken_since = now
            self.untaken = untaken
            if untaken:
                return now - self.untaken_since > UNTAKEN_WITHIN_S
            cycle, spent = self.cycle, now - self.since
            if cycle is not None and cycle.more_body and not self.flow.read_paused:
                within_s = self.header_within_s + self.body_bytes / BODY_BYTES_PER_S
                return spent > min(within_s, max(BODY_WITHIN_S, self.header_within_s))
            if cycle is not None and not cycle.response_complete:
                return False  # it is our turn
            return spent > (KEEP_ALIVE_S if self.quiet else self.header_within_s)

    return Protocol
