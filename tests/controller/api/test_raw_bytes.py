"""Whatever bytes come over a real socket: the server answers others afterwards, and nothing of it stays.

One server for all of it, in a thread of its own; each case is one connection, sent in parts and left in one
of the ways in which clients leave. A case that makes the server write anything to its log is a failure.
"""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import hypothesis.strategies as st
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import HealthCheck, example, given, settings

from controller.config_sections import LimitsConfig
from tests.controller.api.world import Served, served

DEADLINE_S = 1.0  # header_within_s of this server
WITHIN_S = 20.0
EXAMPLES = 400
LONG = b"[" * 70_000  # what the word stands for

ROUTES = (b"/", b"/v1/messages", b"/v1/pools", b"/healthz", b"/v1/events?limit=1", b"/v1/tokens", b"*", b"//")
HEADS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"Host: x",
            b"Content-Length: 5",
            b"Content-Length: -1",
            b"Content-Length: 99999999999999999999999",
            b"Content-Length: 5\r\nContent-Length: 6",
            b"Transfer-Encoding: chunked",
            b"Transfer-Encoding: chunked, chunked",
            b"Transfer-Encoding: chunked\r\nContent-Length: 4",
            b"Content-Type: application/json",
            b"Expect: 100-continue",
            b"Connection: close",
            b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x",
            b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c",
            b"Authorization: Bearer \xff\x00",
            b"Authorization: Bearer a\r\nAuthorization: Bearer b",
            b"Accept: text/event-stream",
            b"Last-Event-ID: 99999999999999999999999999",
            b" folded: yes",
            b"X: LONG",
        ]
    ),
)
LINES = st.one_of(
    st.builds(
        lambda method, route, version: method + b" " + route + b" " + version,
        st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"TRACE", b"PRI", b"get", b"\0"]),
        st.one_of(st.sampled_from(ROUTES), st.binary(max_size=30), st.just(b"/LONG")),
        st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9.9", b"", b"JUNK"]),
    ),
    st.binary(max_size=60),
)
BODIES = st.one_of(
    st.binary(max_size=200),
    st.sampled_from(
        [
            b"",
            b"5\r\nhello\r\n0\r\n\r\n",
            b"5;ext=1\r\nhello\r\n0\r\nTrailer: x\r\n\r\n",
            b"fffffffffffffffff\r\n",
            b"-5\r\n",
            b"[LONG",
            b'{"kind":"task_requested","pool":"main","task":{"argv":["\\ud800"]}}',
            b"[[[[[[[[[[" * 10,
            b"\xff\xfe\x00" * 100,
        ]
    ),
)
MESSAGES = st.builds(
    lambda line, heads, body: line + b"\r\n" + b"".join(head + b"\r\n" for head in heads) + b"\r\n" + body,
    LINES,
    st.lists(HEADS, max_size=6),
    BODIES,
)
SENT = st.lists(st.one_of(MESSAGES, st.binary(max_size=300)), min_size=1, max_size=5)
LEAVING = st.sampled_from(["close", "reset", "half", "stay"])


class Heard(logging.Handler):
    """Everything that is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@dataclass
class Target:
    """The server, and what was sent to it."""

    world: Served
    heard: Heard
    cases: int = 0

    def connect(self, *, tcp: bool) -> socket.socket:
        if tcp:
            return socket.create_connection(("127.0.0.1", self.world.port), timeout=WITHIN_S)
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(WITHIN_S)
        sock.connect(str(self.world.listening.path))
        return sock

    def answers(self) -> None:
        """Another client is served as ever."""
        with self.connect(tcp=False) as sock:
            sock.sendall(b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            came = b""
            while part := sock.recv(65_536):
                came += part
        assert came.startswith(b"HTTP/1.1 200"), came

    def is_quiet(self) -> None:
        """No connection is left, nothing was written down, and nothing was a bug."""
        ends = time.monotonic() + WITHIN_S
        while self.world.desk.guard.connections and time.monotonic() < ends:
            time.sleep(0.02)
        assert self.world.desk.guard.connections == 0
        assert self.heard.lines == []
        assert self.world.desk.bugs == []


@pytest.fixture(scope="module", params=[True, False], ids=["uvloop", "asyncio"])
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    heard = Heard()
    logging.getLogger().addHandler(heard)
    directory: Path = tmp_path_factory.mktemp("raw")
    options = {"use_uvloop": request.param}
    up, over = threading.Event(), threading.Event()
    found: list[Served] = []

    async def live() -> None:
        async with served(directory, limits=LimitsConfig(header_within_s=DEADLINE_S, burst=10**6)) as world:
            found.append(world)
            up.set()
            await anyio.to_thread.run_sync(over.wait)

    with start_blocking_portal("asyncio", options) as portal:
        living = portal.start_task_soon(live)
        assert up.wait(WITHIN_S)
        made = Target(found[0], heard)
        try:
            yield made
        finally:
            over.set()
            living.result(WITHIN_S)
            logging.getLogger().removeHandler(heard)
    print(f"raw bytes: {made.cases} connections, none hung")  # noqa: T201


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(sent=SENT, tcp=st.booleans(), leaving=LEAVING)
@example(sent=[b"\r\n" * 1000], tcp=True, leaving="stay")
@example(sent=[b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 500], tcp=False, leaving="half")
@example(
    sent=[
        b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n",
        b"Content-Length: 9\r\n\r\n{",
    ],
    tcp=False,
    leaving="reset",
)
def test_nothing_that_is_sent_hurts(target: Target, sent: list[bytes], tcp: bool, leaving: str) -> None:
    target.cases += 1
    with target.connect(tcp=tcp) as sock:
        try:
            for part in sent:
                sock.sendall(part.replace(b"LONG", LONG))
            if leaving == "half":
                sock.shutdown(socket.SHUT_WR)
            if leaving == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if leaving == "stay" and target.cases % 10 == 0:  # until it is cut off: that takes a second each
                while sock.recv(65_536):
                    pass
        except TimeoutError:
            raise
        except OSError:
            pass  # it closed the connection, as it may
    target.answers()
    assert target.heard.lines == []


def test_nothing_of_it_stays(target: Target) -> None:
    target.is_quiet()
    target.answers()
