"""Who is let in, and which sockets can be had."""

import os
import socket
from pathlib import Path
from typing import Any

import anyio
import httpx2 as httpx
import pytest

from controller.api.app import build_app
from controller.api.serving import AddressInUse, bind, bind_to, serve
from controller.client import AsyncClient, Client, EverpoolError, NotRunning
from controller.config import ConfigError, parse
from tests.controller.api.desk import small_desk

TOKEN = "a-token-of-some-length"


@pytest.mark.anyio
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
                    with pytest.raises(EverpoolError, match="token_file"):
                        await everpool.pools()
                group.cancel_scope.cancel()
    assert not (tmp_path / "s").exists()


@pytest.mark.anyio
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
    with pytest.raises(AddressInUse, match="no TLS"):
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
