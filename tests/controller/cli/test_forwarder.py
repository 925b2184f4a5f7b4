"""What the page's port lets pass."""

from contextlib import suppress
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api import serving
from controller.cli.forwarder import Forwarder, NotPassed, passed
from tests.controller.api.world import served

HOSTS = ("127.0.0.1:8000", "localhost:8000")
TOKEN = "evp_right"


def head(first: str, **fields: str) -> bytes:
    lines = [first, *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode()


def ask(first: str, **fields: str) -> str:
    return passed(head(first, **{"Host": HOSTS[0], **fields}), TOKEN, HOSTS).raw.decode()


def test_the_page_needs_no_token_and_the_rest_does() -> None:
    for path in ("/", "/web/app.js", "/web/views/pool.js?v=1", "/favicon.ico"):
        assert ask(f"GET {path} HTTP/1.1").startswith(f"GET {path} HTTP/1.1\r\n")
    closed = ("/v1/pools", "/metrics", "/healthz", "/readyz", "//v1/pools", "/webs")
    for path in (*closed, "/web/../v1/pools", "/web/%2e%2e/v1/pools"):
        with pytest.raises(NotPassed) as refused:
            ask(f"GET {path} HTTP/1.1")
        assert refused.value.status == 401
        assert ask(f"GET {path} HTTP/1.1", Authorization=f"Bearer {TOKEN}")


def test_the_daemon_sees_the_token_and_closes_the_connection() -> None:
    """Also where the browser shows none: without it the socket would take a request for an admin's."""
    raw = ask("GET /v1/pools HTTP/1.1", Authorization=f"Bearer {TOKEN}", Connection="keep-alive")
    assert raw.lower().count("authorization") == 1 and f": Bearer {TOKEN}\r\n" in raw
    assert "keep-alive" not in raw and raw.endswith("connection: close\r\n\r\n")
    assert f": Bearer {TOKEN}\r\n" in ask("GET / HTTP/1.1")


@pytest.mark.parametrize(
    ("first", "fields", "status"),
    [
        ("GET /v1/pools HTTP/1.1", {"Authorization": "Bearer evp_wrong"}, 401),
        ("GET /v1/pools HTTP/1.1", {"Authorization": f"bearer {TOKEN}"}, 401),
        ("GET / HTTP/1.1", {"Authorization": "Bearer evp_wrong"}, 401),
        ("POST / HTTP/1.1", {}, 401),
        ("GET / HTTP/1.1", {"Host": "evil.example"}, 403),
        ("GET / HTTP/1.1", {"Origin": "http://evil.example"}, 403),
        ("POST /v1/messages HTTP/1.1", {"Transfer-Encoding": "chunked"}, 411),
        ("POST /v1/messages HTTP/1.1", {"Content-Length": "99999999999"}, 413),
        ("POST /v1/messages HTTP/1.1", {"Content-Length": "-1"}, 413),
        ("GET / HTTP/1.0", {}, 400),
        ("TRACE / HTTP/1.1", {}, 400),
        ("GET http://x/ HTTP/1.1", {}, 400),
    ],
)
def test_what_does_not_pass(first: str, fields: dict[str, str], status: int) -> None:
    with pytest.raises(NotPassed) as refused:
        ask(first, **fields)
    assert refused.value.status == status and TOKEN not in str(refused.value)


def test_no_second_header_slips_by() -> None:
    twice = head("GET /v1/pools HTTP/1.1", Host=HOSTS[0], Authorization=f"Bearer {TOKEN}")
    with pytest.raises(NotPassed):
        passed(twice + b"\r\nauthorization: Bearer other", TOKEN, HOSTS)
    with pytest.raises(NotPassed):
        passed(head("GET / HTTP/1.1", Host=HOSTS[0]) + b"\r\nAuthorization : Bearer x", TOKEN, HOSTS)


@given(st.binary(max_size=300))
def test_any_bytes_pass_or_are_refused(raw: bytes) -> None:
    with suppress(NotPassed):
        passed(raw, TOKEN, HOSTS)


@pytest.mark.parametrize("byte", [*range(9), *range(10, 0x20), 0x7F])
def test_no_byte_passes_that_may_end_a_line_for_others(byte: int) -> None:
    field = b"\r\nX: a" + bytes([byte]) + b"b"
    with pytest.raises(NotPassed) as refused:
        passed(head("GET / HTTP/1.1", Host=HOSTS[0]) + field, TOKEN, HOSTS)
    assert refused.value.status == 400
    assert b"x: a\tb\r\n" in passed(head("GET / HTTP/1.1", Host=HOSTS[0]) + b"\r\nX: a\tb", TOKEN, HOSTS).raw


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("server", ["h11", "httptools"])
async def test_nothing_is_smuggled_to_either_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    """h11 takes a bare line feed for the end of a line: behind it there was room for an admin's request."""
    if server == "h11":
        monkeypatch.setattr(serving, "find_spec", lambda name: None)
    async with (
        served(tmp_path) as world,
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as group,
    ):
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        host = f"127.0.0.1:{port}"
        door = Forwarder(str(world.listening.path), world.tokens["read"], (host,))
        group.start_soon(listener.serve, door)

        async def asked(path: str, rest: str) -> bytes:
            came = b""
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{rest}\r\n\r\n".encode())
                with suppress(anyio.EndOfStream):
                    while True:
                        came += await stream.receive()
            return came

        smuggled = "X: a\n\nGET /v1/tokens HTTP/1.1\nHost: x\nY: z"
        for path in ("/healthz", "/"):
            came = await asked(path, smuggled)
            assert came.startswith(b"HTTP/1.1 400") and came.count(b"HTTP/1.1") == 1, came
        shown = f"Authorization: Bearer {world.tokens['read']}"
        assert (await asked("/v1/pools", shown)).startswith(b"HTTP/1.1 200")
        assert (await asked("/v1/tokens", shown)).startswith(b"HTTP/1.1 403")
        assert (await asked("/", "X: y")).startswith(b"HTTP/1.1 200")
        assert (await asked("/healthz", "X: y")).startswith(b"HTTP/1.1 401")
        group.cancel_scope.cancel()
