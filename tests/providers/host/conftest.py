"""A real machine to get into."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from providers.model import Machine
from tests.contract.harness import LocalHarness, until_running


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass(frozen=True)
class There:
    """A machine that runs."""

    machine: Machine
    harness: LocalHarness
    pid: int
    directory: Path


@pytest.fixture
async def there(tmp_path: Path, anyio_backend: str) -> AsyncIterator[There]:
    async with LocalHarness.open(tmp_path) as harness:
        order = harness.order(0, (await harness.provider.offers())[0])
        await harness.provider.launch([order])
        machine = harness.machine(order, await until_running(harness, order))
        yield There(machine, harness, harness.record(order).pid, harness.directory(order))
