"""A desk served for real: uvicorn on a unix socket, in the test's own event loop."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx2 as httpx
import pytest

from actors.events import PoolRequested, TaskRequested
from actors.spec import Nodes, PoolSpec, TaskSpec
from controller.api.app import build_app
from controller.api.serving import bind_to, serve
from controller.client import AsyncClient
from tests.controller.api.desk import SmallDesk, small_desk
from tests.controller.api.documented import documented
from tests.controller.journal.samples import until

POOL = PoolRequested(
    request_id="make-main",
    pool="main",
    spec=PoolSpec(provider=("local",), nodes=Nodes(desired=0), max_hourly_cost=1),
)


def task(request_id: str, *argv: str) -> TaskRequested:
    return TaskRequested(request_id=request_id, pool="main", task=TaskSpec(argv=argv or ("true",)))


@pytest.fixture(params=["uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """What the daemon runs on; tests of streams and sockets ask for plain asyncio as well."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api.sock"


@pytest.fixture
async def desk(tmp_path: Path, path: Path, anyio_backend: Any) -> AsyncIterator[SmallDesk]:
    """Served on `path` until the test is over; there is a pool `main` of no nodes."""
    async with anyio.create_task_group() as group:
        with (
            small_desk(tmp_path, group) as made,
            bind_to(path) as listening,
            documented(build_app(made)) as app,
        ):
            await group.start(serve, app, listening)
            await made.submit([POOL], "config")
            await made.followers.ended("make-main", 10)
            yield made
            assert made.bugs == []
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await until(lambda: listening.unix.fileno() < 0)


@pytest.fixture
async def http(desk: SmallDesk, path: Path) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(uds=str(path))
    async with httpx.AsyncClient(base_url="http://x", transport=transport, timeout=20) as client:
        yield client


@pytest.fixture
async def everpool(desk: SmallDesk, path: Path) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(path) as client:
        yield client
