"""Who is let in, and which sockets can be had."""

import os
import socket
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import httpx2 as httpx
import pytest

from controller.api import streaming
from controller.api.app import build_app
from controller.api.serving import AddressInUse, bind, bind_to, serve
from controller.client import AsyncClient, Client, EverpoolError, NotRunning
from controller.config import ConfigError, parse
from tests.controller.api.conftest import POOL, task
from tests.controller.api.desk import small_desk
from tests.controller.journal.samples import until

TOKEN = "a-token-of-some-length"
both = pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True)


@pytest.mark.anyio
@both
async def test_tcp_needs_the_token(tmp_path: Path, anyio_backend: Any) -> None:
    async with anyio.create_task_group() as group:
        with small_desk(tmp_path, group) as desk:
            with bind_to(tmp_path / "s", address=("127.0.0.1", 0)) as listening:
                listening.token = TOKEN
                await group.start(serve, build_app(desk), listening)
                assert listening.address is not None
                url = f"http://127.0.0.1:{listening.address[1]}"
                async with httpx.AsyncClient(base_url=url) as http:
                    for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": TOKEN}):
                        refused = await http.get("/v1/pools", headers=headers)
                        assert refused.status_code == 401
                        assert refused.headers["WWW-Authenticate"].startswith("Bearer")
                    good = await http.get("/v1/pools", headers={"Authorization": f"Bearer {TOKEN}"})
                    assert good.status_code == 200
                async with AsyncClient(url, token=TOKEN) as everpool:
                    assert await everpool.pools() == []
                async with AsyncClient(url, token="wrong") as everpool:
                    with pytest.raises(EverpoolError, match="not known here"):
                        await everpool.pools()
                group.cancel_scope.cancel()
    assert not (tmp_path / "s").exists()


@pytest.mark.anyio
@both
async def test_stopping_ends_followers_at_once(tmp_path: Path, anyio_backend: Any) -> None:
    async with anyio.create_task_group() as outer:
        with small_desk(tmp_path, outer) as desk, bind_to(tmp_path / "s") as listening:
            async with anyio.create_task_group() as group:
                await group.start(serve, build_app(desk), listening)
                transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "s"))
                async with httpx.AsyncClient(base_url="http://x", transport=transport) as http:
                    async with http.stream("GET", "/v1/events", params={"follow": "true"}) as response:
                        chunks = response.aiter_raw()
                        assert await anext(chunks) == b"\n"
                        group.cancel_scope.cancel()
                        with anyio.CancelScope(shield=True), anyio.fail_after(4):
                            assert [chunk async for chunk in chunks] == []
            outer.cancel_scope.cancel()


def test_mode_and_stale_file(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()  # its daemon was killed: the file stays
    with bind_to(path, socket_mode=0o660):
        assert path.stat().st_mode & 0o777 == 0o660
        with pytest.raises(AddressInUse, match="another process listens"):
            bind_to(path)
        assert path.exists()
    assert not path.exists()


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    path.write_text("precious")
    with pytest.raises(AddressInUse, match="no socket"):
        bind_to(path)
    assert path.read_text() == "precious"
    with pytest.raises(AddressInUse, match="can't be made"):
        bind_to(tmp_path / "nowhere" / "api.sock")
    with pytest.raises(AddressInUse, match="longer than 107"):
        bind_to(tmp_path / ("x" * 120))


def test_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(AddressInUse, match=f"127.0.0.1:{port} is taken"):
            bind_to(tmp_path / "s", address=("127.0.0.1", port))
    assert not (tmp_path / "s").exists()
    with pytest.raises(AddressInUse, match="daemon.tls"):
        bind_to(tmp_path / "s", address=("0.0.0.0", 0))


def test_bind_by_config(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    text = f'[daemon]\nstate_dir = "{tmp_path}"\nlisten = "127.0.0.1:0"\ntoken_file = "{token}"\n'
    config = parse(text, "test")
    with bind(config) as listening:
        assert listening.token == TOKEN
        assert (tmp_path / "api.sock").exists()
    token.unlink()
    with pytest.raises(ConfigError, match="token_file"):
        bind(config)
    assert not (tmp_path / "api.sock").exists()


def test_nobody_there(tmp_path: Path) -> None:
    with Client(tmp_path / "api.sock") as everpool, pytest.raises(NotRunning, match="everpool serve"):
        everpool.pools()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(tmp_path / "dead"))
    with Client(tmp_path / "dead") as everpool, pytest.raises(NotRunning, match="it is gone"):
        everpool.pools()


@pytest.mark.anyio
@both
async def test_client_follows_over_a_restart(tmp_path: Path, anyio_backend: Any) -> None:
    seen: list[int] = []
    path = tmp_path / "s"

    async def follow() -> None:
        async with (
            AsyncClient(path) as everpool,
            aclosing(everpool.follow(kinds=["task_requested"])) as events,
        ):
            async for envelope in events:
                seen.append(envelope.seq)
                if envelope.request_id == "last":
                    return

    async with anyio.create_task_group() as outer:
        with small_desk(tmp_path, outer) as desk:
            await desk.submit([POOL], "config")
            for life in range(3):
                names = [f"a{life}", f"b{life}"] if life < 2 else ["last"]
                with bind_to(path) as listening:
                    async with anyio.create_task_group() as group:
                        await group.start(serve, build_app(desk), listening)
                        if life == 0:
                            outer.start_soon(follow)
                        await desk.submit([task(name) for name in names], "me")
                        count = 2 * life + len(names)
                        await until(lambda: len(seen) == count)  # noqa: B023
                        group.cancel_scope.cancel()
            rows = await desk.journal.events(0, 100, kinds=["task_requested"])
            assert seen == [seq for seq, _ in rows]
            outer.cancel_scope.cancel()


@pytest.mark.anyio
async def test_silence_is_broken(tmp_path: Path, anyio_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE_S", 0.02)
    async with anyio.create_task_group() as group:
        with small_desk(tmp_path, group) as desk, bind_to(tmp_path / "s") as listening:
            await group.start(serve, build_app(desk), listening)
            transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "s"))
            async with httpx.AsyncClient(base_url="http://x", transport=transport) as http:
                headers = {"Accept": "text/event-stream"}
                url = "/v1/events?follow=true"
                async with http.stream("GET", url, headers=headers) as response:
                    chunks = response.aiter_raw()
                    text = b"".join([await anext(chunks) for _ in range(3)])
                    assert text.startswith(b": welcome\n\n: keep-alive\n\n")
            group.cancel_scope.cancel()


def test_client_needs_no_server() -> None:
    code = (
        "import sys, controller.client\n"
        "loaded = {'fastapi', 'uvicorn', 'starlette', 'controller.daemon', 'sqlite3', 'asyncssh'}\n"
        "sys.exit(', '.join(loaded & set(sys.modules)) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
