"""A daemon for each test, or for each module."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.real.rig import Rig

# The http library leaves a socket to the garbage collector when nobody listens on its path.
LEFT_BY_HTTP = (
    r"ignore:Exception ignored in. <socket\.socket fd=\d+, family=1:pytest.PytestUnraisableExceptionWarning"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests here ask daemons that are dead at the moment."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.filterwarnings(LEFT_BY_HTTP))


@contextmanager
def made() -> Iterator[Rig]:
    """A state directory with a short path (a socket is in it), and nothing of it left afterwards."""
    with tempfile.TemporaryDirectory(prefix="everpool-", ignore_cleanup_errors=True) as root:
        rig = Rig(Path(root))
        try:
            yield rig
        except BaseException:
            rig.bugs_wanted = True  # there is another complaint already
            raise
        finally:
            rig.end()


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A state directory of one test's own."""
    with made() as rig:
        yield rig


@pytest.fixture(scope="module")
def house() -> Iterator[Rig]:
    """A running daemon that the tests of a module share."""
    with made() as rig:
        rig.start()
        yield rig
