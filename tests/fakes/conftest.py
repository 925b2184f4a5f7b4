"""Fixtures of the tests of what fakes are made of."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
