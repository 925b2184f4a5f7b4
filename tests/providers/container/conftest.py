"""Real engines, with a proxy between them and us that plants faults and knows docker's schema."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.contract.container import ContainerHarness, PodmanHarness
from tests.fakes.controls import Controls
from tests.providers.container.proxy import Proxy, proxied
from tests.real.engines import ENGINES, EngineKind, RealEngine, engine


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="everpool-") as path:
        yield Path(path)


@pytest.fixture(params=[pytest.param(kind, marks=pytest.mark.real) for kind in ENGINES])
def real(request: pytest.FixtureRequest) -> Iterator[RealEngine]:
    """A real engine, empty again afterwards."""
    kind: EngineKind = request.param
    found = engine(kind)
    yield found
    found.clear()


@pytest.fixture
def proxy(real: RealEngine, short: Path) -> Iterator[Proxy]:
    """A proxy before it. What was asked has to agree with docker's schema."""
    with proxied(real.socket, short) as made:
        yield made
    assert made.controls.violations == []


@dataclass
class World:
    """A provider on a real engine, and what is between."""

    harness: ContainerHarness
    proxy: Proxy
    real: RealEngine

    @property
    def controls(self) -> Controls:
        """What goes wrong next."""
        return self.proxy.controls


@pytest.fixture
def keys() -> dict[str, Any]:
    """More keys for the config of `world`; a module or a test may have others."""
    return {}


@pytest.fixture
async def world(
    real: RealEngine, proxy: Proxy, tmp_path: Path, keys: dict[str, Any], anyio_backend: str
) -> AsyncIterator[World]:
    kind = ContainerHarness if real.kind == "docker" else PodmanHarness
    async with kind.open(tmp_path, **({"socket": str(proxy.socket)} | keys)) as harness:
        yield World(harness, proxy, real)
