"""A small desk served on a unix socket and on TCP, with tokens of every kind."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx2 as httpx

from actors.events import PoolRequested
from actors.spec import Nodes, PoolSpec
from controller.api.app import build_app
from controller.api.serving import Listening, bind_to, serve
from controller.config_sections import LimitsConfig
from controller.security.certificate import Certificate
from tests.controller.api.desk import SmallDesk, small_desk
from tests.controller.api.documented import documented

OWN = "a-token-of-some-length"
POOLS = ("main", "ci-1")  # who is limited may see the second


def pool(name: str, **spec: Any) -> PoolRequested:
    made = PoolSpec(provider=("local",), nodes=Nodes(desired=0), max_hourly_cost=1, **spec)
    return PoolRequested(request_id=f"make-{name}", pool=name, spec=made)


@dataclass(slots=True)
class Served:
    """Where it listens, and what opens it."""

    desk: SmallDesk
    listening: Listening
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def port(self) -> int:
        assert self.listening.address is not None
        return self.listening.address[1]

    def headers(self, kind: str) -> dict[str, str]:
        """What a token of a kind is shown with."""
        return {"Authorization": f"Bearer {self.tokens[kind]}"} if kind in self.tokens else {}

    def tcp(self, kind: str = "none", **options: Any) -> httpx.AsyncClient:
        """A client that shows a token."""
        scheme = "http" if self.listening.certificate is None else "https"
        url = f"{scheme}://127.0.0.1:{self.port}"
        return httpx.AsyncClient(base_url=url, headers=self.headers(kind), timeout=20, **options)

    def unix(self) -> httpx.AsyncClient:
        """A client on the unix socket."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.listening.path))
        return httpx.AsyncClient(base_url="http://x", transport=transport, timeout=20)


@asynccontextmanager
async def served(
    directory: Path, *, limits: LimitsConfig | None = None, certificate: Certificate | None = None
) -> AsyncIterator[Served]:
    """Both pools, of no nodes, and a token of every kind. Nothing may be a bug of the desk."""
    async with anyio.create_task_group() as group:
        with (
            small_desk(directory, group) as desk,
            bind_to(directory / "s", address=("127.0.0.1", 0), certificate=certificate) as listening,
            documented(build_app(desk)) as app,
        ):
            if limits is not None:
                desk.guard.limit(limits)
            listening.token = OWN
            await group.start(serve, app, listening)
            await desk.submit([pool(name) for name in POOLS], "config")
            for name in POOLS:
                await desk.followers.ended(f"make-{name}", 10)
            yield Served(desk, listening, await _tokens(desk))
            assert desk.bugs == []
            group.cancel_scope.cancel()


async def _tokens(desk: SmallDesk) -> dict[str, str]:
    store = desk.guard.tokens
    made = {
        "read": await store.create("read", "read", (), None, "me"),
        "submit": await store.create("submit", "submit", (), 3600, "me"),
        "admin": await store.create("admin", "admin", (), None, "me"),
        "limited": await store.create("limited", "submit", ("ci-*",), None, "me"),
        "limited-admin": await store.create("limited-admin", "admin", ("ci-*",), None, "me"),
        "expired": await store.create("expired", "admin", (), 1e-6, "me"),
        "revoked": await store.create("revoked", "admin", (), None, "me"),
        "own": OWN,
        "wrong": "evp_" + "A" * 43,
    }
    await store.revoke("revoked", "me")
    return made
