"""Fixtures of aws's tests."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.providers.aws.account import Account
from tests.providers.aws.account import account as opened


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio"


@pytest.fixture
async def account(tmp_path: Path, anyio_backend: Any) -> AsyncIterator[Account]:
    with opened(tmp_path) as account:
        yield account
        for made in account.made:
            await made.aclose()
