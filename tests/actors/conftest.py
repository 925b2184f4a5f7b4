"""Actor tests run on asyncio as in the daemon, and on trio's virtual clock as in the simulation."""

from typing import Any

import pytest
from trio.testing import MockClock


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    if request.param == "asyncio":
        return "asyncio"
    return "trio", {"clock": MockClock(autojump_threshold=0)}
