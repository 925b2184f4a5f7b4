"""Fixtures of the tests of the gcp adapter."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.gcp import GcpHarness


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def gcp(tmp_path: Path, anyio_backend: object) -> AsyncIterator[GcpHarness]:
    """A project at the fake, nothing behind its machines."""
    async with GcpHarness.open(tmp_path, with_guests=False) as opened:
        yield opened
