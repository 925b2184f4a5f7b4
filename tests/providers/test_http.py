"""The one HTTP client, before real servers on loopback that do as the test says."""

import gzip
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream, SocketAttribute

from providers import http
from providers.errors import Fault, ProviderError
from providers.http import Answer, Http

pytestmark = pytest.mark.anyio
PATIENCE_S = 20  # of a test; nothing here is waited for that long
SHORT_S = 0.3
SECRET = "s3cr3t-of-the-account"
Handler = Callable[[ByteStream, bytes], Awaitable[None]]


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Both loops."""
    return request.param


class Server:
    """Where it listens, and what it was asked; `closed` once a client has hung up."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[bytes] = []
        self.connections = 0
        self.asked = anyio.Event()
        self.closed = anyio.Event()


def ok(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A whole answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def says(answer: bytes) -> Handler:
    """A server that always answers so."""

    async def handle(stream: ByteStream, _: bytes) -> None:
        await stream.send(answer)

    return handle


async def hangs_up(stream: ByteStream, _: bytes) -> None:
    """A server that is gone when it has heard the request."""
    await stream.aclose()


async def is_silent(stream: ByteStream, _: bytes) -> None:
    """A server that never answers."""
    await anyio.sleep_forever()


@asynccontextmanager
async def serving(handle: Handler, path: Path | None = None) -> AsyncIterator[Server]:
    """A server whose handler is given each request, head and body."""
    server = Server()
    if path is None:
        listener: Any = await anyio.create_tcp_listener(local_host="127.0.0.1")
        server.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
    else:
        listener = await anyio.create_unix_listener(path)
        server.url = "http://engine"

    async def serve(stream: ByteStream) -> None:
        server.connections += 1
        held = b""
        try:
            while True:
                while b"\r\n\r\n" not in held:
                    held += await stream.receive()
                head, _, held = held.partition(b"\r\n\r\n")
                size = next(
                    (int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"ength:" in line), 0
                )
                while len(held) < size:
                    held += await stream.receive()
                body, held = held[:size], held[size:]
                server.requests.append(head + b"\r\n\r\n" + body)
                server.asked.set()
                async with anyio.create_task_group() as watching:

                    async def until_closed() -> None:
                        nonlocal held
                        held += await stream.receive()

                    watching.start_soon(_quietly, until_closed, server.closed)
                    await handle(stream, body)
                    watching.cancel_scope.cancel()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            server.closed.set()
        finally:
            with anyio.CancelScope(shield=True):
                await stream.aclose()

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        with anyio.fail_after(PATIENCE_S):
            yield server
        tasks.cancel_scope.cancel()


async def _quietly(until_closed: Callable[[], Awaitable[None]], closed: anyio.Event) -> None:
    try:
        await until_closed()
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        closed.set()


@asynccontextmanager
async def client(url: str, **settings: Any) -> AsyncIterator[Http]:
    """A client that is closed at the end."""
    made = Http(url, **settings)
    try:
        yield made
    finally:
        await made.aclose()


async def failure(call: Awaitable[object]) -> ProviderError:
    """What a call raises."""
    with pytest.raises(ProviderError) as caught:
        await call
    return caught.value


# --- answers --------------------------------------------------------------------------------------


async def test_an_answer_of_any_status_is_an_answer() -> None:
    body = json.dumps({"error": "full"}).encode()
    answer = ok(body, "X-Request-Id: 7", "Date: Sun, 06 Nov 1994 08:49:37 GMT", status="503 Full")
    async with serving(says(answer)) as server, client(f"{server.url}/v1", headers={"X-Key": "k"}) as vendor:
        got = await vendor.call(
            "POST", "/machines", query={"zone": "a b"}, headers={"X-More": "m"}, json={"n": 1}
        )
    assert (got.status, got.ok, got.json()) == (503, False, {"error": "full"})
    assert got.headers["x-request-id"] == "7" and got.date() == 784111777
    (request,) = server.requests
    head, _, sent = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/machines?zone=a")
    lines = head.lower().split(b"\r\n")
    assert {b"x-key: k", b"x-more: m", b"user-agent: everpool"} <= set(lines)
    assert json.loads(sent) == {"n": 1}


async def test_a_connection_is_used_again_and_one_that_was_closed_is_not() -> None:
    served = 0

    async def twice(stream: ByteStream, _: bytes) -> None:
        nonlocal served
        served += 1
        await stream.send(ok(b"x"))
        if served == 2:
            await stream.aclose()

    async with serving(twice) as server, client(server.url) as vendor:
        for _ in range(2):
            assert (await vendor.call("GET", "/")).body == b"x"
        assert server.connections == 1
        await server.closed.wait()
        assert (await vendor.call("GET", "/")).body == b"x"
        assert server.connections == 2


async def test_a_packed_answer_is_unpacked() -> None:
    packed = ok(gzip.compress(b"a" * 5000), "Content-Encoding: gzip")
    async with serving(says(packed)) as server, client(server.url) as vendor:
        assert (await vendor.call("GET", "/")).body == b"a" * 5000


async def test_a_redirect_is_an_answer_and_nobody_else_hears_of_the_request() -> None:
    async with serving(says(ok(b""))) as elsewhere:
        away = ok(b"", f"Location: {elsewhere.url}/", status="307 Temporary Redirect")
        async with serving(says(away)) as server, client(server.url, headers={"X-Key": SECRET}) as vendor:
            assert (await vendor.call("POST", "/", body=b"x")).status == 307
        assert elsewhere.connections == 0


async def test_a_unix_socket_and_no_proxy_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    path = tmp_path / "engine.sock"
    async with serving(says(ok(b"pong")), path) as server, client(server.url, uds=str(path)) as engine:
        assert (await engine.call("GET", "/_ping")).body == b"pong"
    async with client("http://engine", uds=str(tmp_path / "nobody.sock")) as engine:
        assert (await failure(engine.call("GET", "/_ping"))).fault is Fault.NOT_SENT


# --- failures before anything was sent ------------------------------------------------------------


async def test_who_refuses_the_connection_was_sent_nothing() -> None:
    async with serving(is_silent) as server:
        url = server.url
    async with client(url) as vendor:
        error = await failure(vendor.call("POST", "/machines"))
    assert error.fault is Fault.NOT_SENT and error.detail.startswith("POST /machines: ")


async def test_who_does_not_take_the_connection_in_time_was_sent_nothing() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        waiting = [socket.socket() for _ in range(3)]  # they fill its queue; the next gets no answer at all
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        async with client(f"http://127.0.0.1:{deaf.getsockname()[1]}") as vendor:
            error = await failure(vendor.call("POST", "/machines", timeout_s=SHORT_S))
        for one in waiting:
            one.close()
    assert error.fault is Fault.NOT_SENT


async def test_a_server_without_tls_was_sent_nothing_that_it_could_read() -> None:
    async with serving(says(ok(b""))) as server, client(server.url.replace("http", "https")) as vendor:

        async def not_tls() -> None:
            error = await failure(vendor.call("POST", "/machines", timeout_s=SHORT_S))
            assert error.fault is Fault.NOT_SENT

        await not_tls()
        assert not server.requests


async def test_a_call_that_finds_no_free_connection_was_not_sent() -> None:
    async with serving(is_silent) as server, client(server.url, connections_max=1) as vendor:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(vendor.call, "GET", "/first")
            await server.asked.wait()
            error = await failure(vendor.call("POST", "/second", timeout_s=SHORT_S))
            assert error.fault is Fault.NOT_SENT
            tasks.cancel_scope.cancel()
        assert len(server.requests) == 1


@pytest.mark.parametrize("value", [f"{SECRET}\nX-More: 1", f"{SECRET}\r", f"{SECRET}\N{BULLET}"])
async def test_a_header_that_http_does_not_allow_is_not_sent_and_not_shown(value: str) -> None:
    async with serving(says(ok(b""))) as server, client(server.url) as vendor:
        error = await failure(vendor.call("GET", "/", headers={"Authorization": value}))
        assert error.fault is Fault.REJECTED and not server.requests
        told: BaseException | None = error
        while told is not None:
            assert SECRET not in str(told)
            told = told.__cause__ or (None if told.__suppress_context__ else told.__context__)


async def test_an_address_that_is_none_is_rejected() -> None:
    async with client("ftp://127.0.0.1") as vendor:
        assert (await failure(vendor.call("GET", "/"))).fault is Fault.REJECTED


# --- failures after it was sent -------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"HTTP/1.1 200",
        ok(b"x" * 100)[:-1],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
async def test_an_answer_that_breaks_off_leaves_the_outcome_unknown(part: bytes) -> None:
    async def breaks(stream: ByteStream, body: bytes) -> None:
        if part:
            await stream.send(part)
        await hangs_up(stream, body)

    async with serving(breaks) as server, client(server.url) as vendor:
        error = await failure(vendor.call("POST", "/machines", json={}))
        assert error.fault is Fault.UNKNOWN and len(server.requests) == 1  # and it is not sent again


async def test_silence_ends_in_time_and_leaves_the_outcome_unknown() -> None:
    async with serving(is_silent) as server, client(server.url) as vendor:
        error = await failure(vendor.call("POST", "/machines", timeout_s=SHORT_S))
        assert (error.fault, len(server.requests)) == (Fault.UNKNOWN, 1)
        assert error.detail == f"POST /machines: no answer in {SHORT_S:g} s"
        await server.closed.wait()  # and nobody waits for it any more


async def test_an_answer_that_drips_for_ever_ends_in_time_too() -> None:
    async def drips(stream: ByteStream, _: bytes) -> None:
        await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            await stream.send(b"x")
            await anyio.sleep(0.01)

    async with serving(drips) as server, client(server.url) as vendor:
        assert (await failure(vendor.call("GET", "/", timeout_s=SHORT_S))).fault is Fault.UNKNOWN


@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_that_is_too_large_is_not_read_to_its_end(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ANSWER_BYTES_MAX", 100_000)
    body = b"a" * 100_001
    answer = ok(gzip.compress(body), "Content-Encoding: gzip") if packed else ok(body)
    async with serving(says(answer)) as server, client(server.url) as vendor:
        error = await failure(vendor.call("GET", "/"))
        assert error.fault is Fault.UNKNOWN and "more than 100000 bytes" in error.detail
    async with serving(says(ok(body[1:]))) as server, client(server.url) as vendor:
        assert len((await vendor.call("GET", "/")).body) == 100_000


async def test_what_is_no_http_leaves_the_outcome_unknown() -> None:
    async with serving(says(b"SSH-2.0-OpenSSH_9\r\n\r\n")) as server, client(server.url) as vendor:
        assert (await failure(vendor.call("GET", "/"))).fault is Fault.UNKNOWN


async def test_a_call_that_is_cancelled_hangs_up() -> None:
    async with serving(is_silent) as server, client(server.url) as vendor:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(vendor.call, "GET", "/")
            await server.asked.wait()
            tasks.cancel_scope.cancel()
        await server.closed.wait()


# --- streams --------------------------------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


async def counts(stream: ByteStream, _: bytes) -> None:
    """A stream without an end."""
    await stream.send(CHUNKED)
    for i in range(1_000_000):
        text = b"%d " % i
        await stream.send(b"%x\r\n%s\r\n" % (len(text), text))
        await anyio.sleep(0.01)


async def test_pieces_are_read_as_they_come_and_whoever_leaves_hangs_up() -> None:
    async with serving(counts) as server, client(server.url) as vendor:
        async with vendor.stream("GET", "/events", timeout_s=SHORT_S) as (head, pieces):
            assert (head.status, head.body) == (200, b"")
            held = b""
            async for piece in pieces:
                held += piece
                if b"50 " in held:  # it has taken longer than the head may
                    break
            assert held.startswith(b"0 1 2 ")
        await server.closed.wait()


async def test_a_piece_may_be_waited_for_for_a_while_only() -> None:
    async def pauses(stream: ByteStream, _: bytes) -> None:
        await stream.send(CHUNKED + b"1\r\na\r\n")
        await anyio.sleep_forever()

    async with (
        serving(pauses) as server,
        client(server.url) as vendor,
        vendor.stream("GET", "/events") as (_, pieces),
    ):
        with anyio.move_on_after(PATIENCE_S):
            assert await anext(pieces) == b"a"
        with anyio.move_on_after(SHORT_S) as waiting:
            await anext(pieces)
        assert waiting.cancelled_caught


async def test_a_stream_that_ends_ends_and_one_that_breaks_fails() -> None:
    async with serving(says(CHUNKED + b"2\r\nab\r\n0\r\n\r\n")) as server, client(server.url) as vendor:
        async with vendor.stream("GET", "/") as (_, pieces):
            assert b"".join([piece async for piece in pieces]) == b"ab"

    async def breaks(stream: ByteStream, body: bytes) -> None:
        await stream.send(CHUNKED + b"2\r\nab\r\n")
        await hangs_up(stream, body)

    async with serving(breaks) as server, client(server.url) as vendor:
        async with vendor.stream("GET", "/") as (_, pieces):
            assert await anext(pieces) == b"ab"
            with pytest.raises(ProviderError, match="GET /") as caught:
                await anext(pieces)
            assert caught.value.fault is Fault.UNKNOWN


async def test_a_streams_head_has_its_time_and_its_faults() -> None:
    async def opened(vendor: Http, timeout_s: float = SHORT_S) -> None:
        async with vendor.stream("POST", "/", timeout_s=timeout_s):
            raise AssertionError

    async with serving(is_silent) as server, client(server.url) as vendor:
        assert (await failure(opened(vendor))).fault is Fault.UNKNOWN
        url = server.url
    async with client(url) as vendor:
        assert (await failure(opened(vendor))).fault is Fault.NOT_SENT
    async with client("ftp://127.0.0.1") as vendor:
        assert (await failure(opened(vendor))).fault is Fault.REJECTED


# --- what an answer says --------------------------------------------------------------------------


def answer(body: bytes = b"", **headers: str) -> Answer:
    """An answer with these headers."""
    return Answer(200, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def test_an_answer_that_is_no_json_says_how_it_begins_without_its_secrets() -> None:
    with pytest.raises(ProviderError, match="<html>") as caught:
        answer(b"<html>no such page").json()
    assert caught.value.fault is Fault.UNKNOWN
    with pytest.raises(ProviderError) as caught:
        answer(b"access_token=" + SECRET.encode() + b"&expires=3600").json()
    assert SECRET not in str(caught.value) and "expires" in caught.value.detail
    with pytest.raises(ProviderError):
        answer(b"\xff\xfe").json()


@pytest.mark.parametrize(
    ("told", "at"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", 784111777.0),
        ("Sun, 06 Nov 1994 08:49:37 -0000", 784111777.0),
        ("Sun, 06 Nov 1994 09:49:37 +0100", 784111777.0),
        ("yesterday", None),
        ("", None),
        ("Sun, 06 Nov 99999 08:49:37 GMT", None),
    ],
)
def test_the_date_is_utc_or_nothing(told: str, at: float | None) -> None:
    assert answer(date=told).date() == at
    assert answer().date() is None


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("-1", 0.0),
        ("inf", None),
        ("nan", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", None),
    ],
)
def test_how_long_to_wait_is_a_number_of_seconds_or_nothing(told: str, seconds: float | None) -> None:
    assert answer(retry_after=told).retry_after_s() == seconds
    assert answer().retry_after_s() is None
