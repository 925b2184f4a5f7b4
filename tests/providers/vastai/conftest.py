"""A fake vast.ai, and an adapter that asks it."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.vastai import VastaiHarness
from tests.fakes.schemas import VARIABLE, schema_file
from tests.fakes.vastai.schema import NAME

NEEDS_SCHEMA = "test_schema.py"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """What tests the checks against the vendor's document needs it; with CI=true it must be there."""
    if collection_path.name != NEEDS_SCHEMA or collection_path.parent != Path(__file__).parent:
        return None
    if schema_file(NAME) is not None:
        return None
    if os.environ.get("CI") == "true":
        raise pytest.UsageError(f"{VARIABLE} is unset: it has to name the folder that {NAME} is in")
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    if schema_file(NAME) is None:
        line = f"{VARIABLE} is unset: nothing is checked against {NAME}, {NEEDS_SCHEMA} is not collected"
        terminalreporter.write_line(line)


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
