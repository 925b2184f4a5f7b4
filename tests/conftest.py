"""What all tests share."""

import gc
from collections.abc import Generator

import hypothesis  # when imported it asks the collector who refers to what: so before anything is frozen
import pytest

__all__ = ["hypothesis"]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests and all that they import live to the end: the collector leaves them alone.

    It would look through them every few tests, which takes a fifth of the processor's time. What tests
    make is collected as ever.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
