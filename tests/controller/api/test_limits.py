"""What one caller may do to the API: how much, how often, how slowly, over how many connections."""

import contextlib
import socket
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream

from controller.api import connections, streaming
from controller.api.body import BODY_BYTES_MAX
from controller.config_sections import LimitsConfig
from controller.security.guard import Bodies
from tests.controller.api.conftest import task
from tests.controller.api.world import Served, served
from tests.controller.journal.samples import until

pytestmark = pytest.mark.anyio
both = pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)
HEAD = b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
ASKING = b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\n\r\n"


async def closed(stream: SocketStream, within_s: float = 20) -> bytes:
    """What came until the other side closed the connection."""
    came = b""
    with anyio.fail_after(within_s):
        while True:
            try:
                came += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return came


async def test_a_body_is_not_too_large_nor_too_deep(tmp_path: Path) -> None:
    async with served(tmp_path, limits=LimitsConfig(body_bytes_max=2048, depth_max=10)) as world:
        async with world.unix() as http:
            json = {"Content-Type": "application/json"}
            large = await http.post("/v1/messages", content=b"[" + b" " * 2048 + b"]", headers=json)
            assert large.status_code == 413 and "larger than 2048 bytes" in large.json()["error"]
            deep = await http.post("/v1/messages", content=b'{"a":' * 11 + b"1" + b"}" * 11, headers=json)
            assert deep.status_code == 422 and "deeper than 10 levels" in deep.json()["error"]
            small = await http.post("/v1/messages", json=task("t").model_dump(mode="json"))
            assert small.status_code == 202, small.text


async def test_too_many_requests_hear_when_to_come_again_and_others_do_not(tmp_path: Path) -> None:
    async with served(tmp_path, limits=LimitsConfig(requests_per_s=0.5, burst=3)) as world:
        async with world.tcp("read") as often, world.tcp("submit") as seldom:
            codes = [(await often.get("/v1/pools")).status_code for _ in range(3)]
            assert codes == [200] * 3
            limited = await often.get("/v1/pools")
            assert limited.status_code == 429 and "token:read" in limited.json()["error"]
            assert int(limited.headers["Retry-After"]) == 2
            assert (await seldom.get("/v1/pools")).status_code == 200
            assert world.desk.guard.requests_limited == 1


async def test_who_guesses_tokens_is_slowed_and_who_has_one_is_not(tmp_path: Path) -> None:
    async with served(tmp_path, limits=LimitsConfig(refused_per_minute=3)) as world:
        async with world.tcp("wrong") as guessing, world.tcp("read") as good:
            codes = [(await guessing.get("/v1/pools")).status_code for _ in range(4)]
            assert codes == [401, 401, 401, 429]
            last = await guessing.get("/v1/pools")
            assert last.status_code == 429 and 1 <= int(last.headers["Retry-After"]) <= 20
            assert (await good.get("/v1/pools")).status_code == 200
            assert world.desk.guard.tokens_refused == 5


@both
async def test_connections_over_their_number_are_closed_at_once(tmp_path: Path, anyio_backend: Any) -> None:
    async with served(tmp_path, limits=LimitsConfig(connections_max=3)) as world:
        guard = world.desk.guard
        held = [await anyio.connect_tcp("127.0.0.1", world.port) for _ in range(3)]
        await until(lambda: guard.connections == 3)
        async with await anyio.connect_tcp("127.0.0.1", world.port) as over:
            assert await closed(over) == b""
        assert guard.connections_refused == 1
        async with world.unix() as http:  # whoever floods TCP does not lock out who is on the machine
            assert (await http.get("/v1/whoami")).status_code == 200
        for one in held:
            await one.aclose()
        await until(lambda: guard.connections == 0)
        async with world.tcp("read") as http:
            assert (await http.get("/v1/whoami")).status_code == 200


@both
async def test_one_address_without_a_token_takes_a_quarter_of_the_connections(
    tmp_path: Path, anyio_backend: Any
) -> None:
    async with served(tmp_path, limits=LimitsConfig(connections_max=40)) as world, world.tcp("read") as good:
        guard = world.desk.guard
        assert (await good.get("/v1/whoami")).status_code == 200  # and is not counted among the unknown
        held = [await anyio.connect_tcp("127.0.0.1", world.port) for _ in range(10)]
        await until(lambda: guard.connections == 11)
        async with await anyio.connect_tcp("127.0.0.1", world.port) as over:
            assert await closed(over) == b""
        assert guard.connections_refused == 1
        elsewhere = await anyio.connect_tcp("127.0.0.1", world.port, local_host="127.0.0.2")
        token = f"Authorization: Bearer {world.tokens['read']}".encode()
        asking = b"GET /v1/whoami HTTP/1.1\r\nHost: x\r\n" + token + b"\r\n\r\n"
        await elsewhere.send(asking)
        assert (await elsewhere.receive()).startswith(b"HTTP/1.1 200")
        assert (await good.get("/v1/whoami")).status_code == 200
        for one in held:  # who shows a token makes room
            await one.send(asking)
            assert (await one.receive()).startswith(b"HTTP/1.1 200")
        more = [await anyio.connect_tcp("127.0.0.1", world.port) for _ in range(10)]
        await until(lambda: guard.connections == 22)
        for one in (*held, *more, elsewhere):
            await one.aclose()
        await until(lambda: guard.connections == 1)
        assert guard.connections_refused == 1


async def test_bodies_that_do_not_end_leave_room_for_others(tmp_path: Path) -> None:
    size = 2 * BODY_BYTES_MAX
    begun = HEAD + b"Content-Length: %d\r\n" % size
    part = b"[" + b" " * (size - 2)

    async def begin(kind: str) -> SocketStream:
        stream = await anyio.connect_tcp("127.0.0.1", world.port)
        token = world.headers(kind)["Authorization"].encode()
        await stream.send(begun + b"Authorization: " + token + b"\r\n\r\n" + part)
        return stream

    async with served(tmp_path, limits=LimitsConfig(body_bytes_max=size)) as world:
        bodies = world.desk.guard.bodies
        first = [await begin("submit"), await begin("submit")]
        await until(lambda: bodies.held > size)
        third, other = await begin("submit"), await begin("admin")
        refused = await closed(third)
        assert refused.startswith(b"HTTP/1.1 503") and b"retry-after: 5" in refused.lower()
        async with world.tcp("submit") as http:  # what is small is always taken
            small = await http.post("/v1/messages", json=task("t").model_dump(mode="json"))
            assert small.status_code == 202, small.text
        for stream in (first[0], other):
            await stream.send(b"]")
            assert (await stream.receive()).startswith(b"HTTP/1.1 200")
        for stream in (*first, third, other):
            await stream.aclose()
        await until(lambda: bodies.held == 0)


def test_bodies_are_counted_for_each_and_for_all() -> None:
    bodies = Bodies()
    assert bodies.take("a", 20, 40) and not bodies.take("a", 1, 40)
    assert bodies.take("b", 15, 40) and not bodies.take("c", 6, 40) and bodies.take("c", 5, 40)
    bodies.give("a", 20)
    bodies.give("b", 10)
    assert bodies.held == 10 and bodies.take("a", 20, 40)
    for who, size in (("a", 20), ("b", 5), ("c", 5), ("nobody", 0)):
        bodies.give(who, size)
    assert bodies.held == 0 and bodies._of == {}


async def test_a_body_has_an_end_however_steadily_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "BODY_WITHIN_S", 1.0)
    async with served(tmp_path, limits=LimitsConfig(header_within_s=0.5)) as world:
        async with await anyio.connect_unix(str(world.listening.path)) as stream:
            await stream.send(HEAD + b"Content-Length: 1000000\r\n\r\n" + b" " * 900_000)
            await until(lambda: world.desk.guard.connections_cut == 1)
            await closed(stream)


SLOW: dict[str, list[bytes]] = {
    "says nothing": [],
    "half a head": [b"GET / HTTP/1.1\r\nHost:"],
    "empty lines before a head": [b"\r\n", b"\r\n"],
    "half a body": [HEAD + b"Content-Length: 100\r\n\r\n", b"{"],
    "half a chunk": [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10\r\n{"],
    "half a head after an answer": [ASKING, b"GET /v1/pools HTTP/1.1\r\n"],
    "an empty line after an answer": [ASKING, b"\r\n"],
    "a body to a route that does not read it": [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n",
        b"1",
    ],
}


@both
async def test_who_is_too_slow_is_cut_off_and_who_goes_on_is_not(
    tmp_path: Path, anyio_backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    body = task("slow").model_dump_json().encode() + b" " * 60_000

    async def slow(what: str) -> None:
        async with await anyio.connect_unix(str(world.listening.path)) as stream:
            with contextlib.suppress(anyio.BrokenResourceError):  # cut off already
                for part in SLOW[what]:
                    await stream.send(part)
                    await anyio.wait_all_tasks_blocked()
            await closed(stream)

    async with served(tmp_path, limits=LimitsConfig(header_within_s=0.2)) as world:
        guard = world.desk.guard
        async with (
            await anyio.connect_unix(str(world.listening.path)) as goes_on,
            await anyio.connect_unix(str(world.listening.path)) as quiet,
            anyio.create_task_group() as group,
        ):
            await goes_on.send(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body[:-1])
            await quiet.send(ASKING)  # and may then be so for longer
            assert (await quiet.receive()).startswith(b"HTTP/1.1 200")
            for what in SLOW:
                group.start_soon(slow, what)
            await until(lambda: guard.connections_cut == len(SLOW))
            await goes_on.send(body[-1:])
            assert (await goes_on.receive()).startswith(b"HTTP/1.1 202")
            await quiet.send(ASKING)
            assert (await quiet.receive()).startswith(b"HTTP/1.1 200")
        await until(lambda: guard.connections == 0)
        assert guard.connections_cut == len(SLOW)
    assert not caplog.records


@both
async def test_a_head_has_an_end(tmp_path: Path, anyio_backend: Any) -> None:
    async with served(tmp_path) as world, await anyio.connect_unix(str(world.listening.path)) as stream:
        await stream.send(b"GET / HTTP/1.1\r\n")
        with pytest.raises((anyio.BrokenResourceError, anyio.ClosedResourceError)):  # noqa: PT012
            for number in range(10_000):
                await stream.send(b"X-%d: %s\r\n" % (number, b"y" * 1000))
        await until(lambda: world.desk.guard.connections == 0)


@both
async def test_who_takes_nothing_of_an_answer_is_cut_off(
    tmp_path: Path, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "UNTAKEN_WITHIN_S", 1.0)
    async with served(tmp_path) as world, await anyio.connect_unix(str(world.listening.path)) as stream:
        raw: socket.socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await stream.send(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        await until(lambda: world.desk.guard.connections_cut == 1)
        await until(lambda: world.desk.guard.connections == 0)


async def test_an_answer_that_goes_on_ends_with_its_token(tmp_path: Path) -> None:
    async with served(tmp_path) as world, world.tcp("read") as http, anyio.create_task_group() as group:

        async def revoke() -> None:
            await until(lambda: bool(_staying(world)))
            await world.desk.guard.tokens.revoke("read", "me")

        with anyio.fail_after(20):
            async with http.stream("GET", "/v1/events?follow=true") as response:
                assert response.status_code == 200
                group.start_soon(revoke)
                came = [chunk async for chunk in response.aiter_raw()]  # ends, and is no error
            assert came
            assert (await http.get("/v1/events")).status_code == 401
        assert not _staying(world)


async def test_nobody_takes_the_followers_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is followed: events, a log, a console, metrics."""
    monkeypatch.setattr(streaming, "SHARE_MAX", 2)
    monkeypatch.setattr(streaming, "FOLLOWERS_MAX", 4)
    async with served(tmp_path) as world:
        await world.desk.submit([task("t")], "config")
        await until(lambda: world.desk.status.task_state("t") is not None)  # else its log is at its end

        async def follow(http: Any, path: str, stack: contextlib.AsyncExitStack) -> int:
            response = await stack.enter_async_context(http.stream("GET", path, params={"follow": "true"}))
            return int(response.status_code)

        log, events = "/v1/tasks/t/log", "/v1/events"
        async with contextlib.AsyncExitStack() as stack:
            http = {
                kind: await stack.enter_async_context(world.tcp(kind)) for kind in ("read", "submit", "own")
            }
            unix = await stack.enter_async_context(world.unix())
            assert [await follow(http["read"], path, stack) for path in (log, events, log)] == [200, 200, 429]
            assert [await follow(http["submit"], events, stack) for _ in range(3)] == [200, 200, 429]
            assert await follow(http["own"], events, stack) == 429  # all of them together
            assert [await follow(unix, log, stack) for _ in range(5)] == [200] * 4 + [429]
            refused = await http["read"].get(events, params={"follow": "true"})
            assert "token:read follows 2 things already" in refused.json()["error"]
            assert refused.headers["Retry-After"] == "10"
            assert (await http["read"].get(events)).status_code == 200
        async with world.tcp("read") as http_again, contextlib.AsyncExitStack() as stack:
            await until(lambda: world.desk.followers.count == 0)
            assert await follow(http_again, log, stack) == 200


def _staying(world: Served) -> int:
    return len(world.desk.guard.tokens._stays)
