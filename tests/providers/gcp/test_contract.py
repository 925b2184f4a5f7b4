"""The gcp adapter keeps the contract on trio too, and in bulk; what needs guests is in tests/contract."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import tests.contract.test_contract as contract
from tests.contract.gcp import GcpHarness

pytestmark = pytest.mark.anyio
ELSEWHERE = (
    "test_a_notice_is_seen_and_pushed",  # leaves its iterator to asyncio; here in test_adapter.py
    "test_a_stream_that_is_cancelled_does_no_harm",
    "test_messages_come_whole_and_in_order",
    "test_the_agent_is_the_same_on_the_next_stream",
    "test_the_stream_to_a_machine_that_dies_ends_with_an_error",
)
for _name in [name for name in vars(contract) if name.startswith("test_") and name not in ELSEWHERE]:
    globals()[_name] = getattr(contract, _name)


@pytest.fixture
async def harness(tmp_path: Path, anyio_backend: str) -> AsyncIterator[GcpHarness]:
    bulk = 2 if anyio_backend == "asyncio" else None
    async with GcpHarness.open(tmp_path, with_guests=False, bulk=bulk) as opened:
        yield opened
