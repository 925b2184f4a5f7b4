"""A fake vast.ai, and an adapter that asks it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.vastai import VastaiHarness


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def rig(
    tmp_path: Path, anyio_backend: Any, request: pytest.FixtureRequest
) -> AsyncIterator[VastaiHarness]:
    """A harness without guests. Parametrized indirectly: keys of the adapter's config."""
    async with VastaiHarness.open(tmp_path, guests=False, **getattr(request, "param", {})) as harness:
        yield harness
