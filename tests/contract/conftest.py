"""The adapters that must keep the contract. A new one is one more `param`."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.harness import Harness, Kind, LocalHarness


@pytest.fixture(params=[pytest.param(LocalHarness, marks=pytest.mark.real, id="local")])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def anyio_backend(kind: Kind) -> Any:
    return kind.backend


@pytest.fixture
async def harness(kind: Kind, tmp_path: Path, anyio_backend: Any) -> AsyncIterator[Harness]:
    async with kind.open(tmp_path) as opened:
        yield opened
