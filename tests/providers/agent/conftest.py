"""Agents of their own for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.providers.agent.rig import Rig


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """An agent's directory; whatever runs there is gone afterwards."""
    it = Rig(tmp_path)
    yield it
    it.end()
