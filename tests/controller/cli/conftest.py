"""One daemon with one pool, for all tests that only look or add tasks."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controller.cli.running import Face, daemon


@pytest.fixture
def face() -> Iterator[Face]:
    """A directory and the command, without a daemon."""
    with tempfile.TemporaryDirectory(prefix="epcli-") as directory:  # short: it holds a unix socket
        face = Face(Path(directory))
        yield face
        face.close()


@pytest.fixture(scope="module")
def house() -> Iterator[Face]:
    """A daemon with the pool `web`, two nodes of two slots."""
    with tempfile.TemporaryDirectory(prefix="epcli-") as directory:
        face = Face(Path(directory))
        with daemon(face):
            made = face("up", "web", "--nodes", "2", "--slots", "2", "--step", "greet=echo hi > ~/greeting")
            assert made.code == 0, made.err
            yield face
