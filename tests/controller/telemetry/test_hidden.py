"""Secrets in the log: as many as there are, at each place the longest, and what happens with too many."""

import io
import logging
import re
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from controller.telemetry.logging import HIDDEN, Secrets, configure


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_thousands_are_hidden() -> None:
    secrets = Secrets()
    values = [f"value-{number:06}" for number in range(60_000)]
    for value in values:
        secrets.add(value)
    assert secrets.hide(f"{values[0]} and {values[-1]} {values[30_000]}") == f"{HIDDEN} and {HIDDEN} {HIDDEN}"


def test_with_too_many_the_oldest_is_dropped_and_that_is_said_once() -> None:
    out = io.StringIO()
    secrets = configure(stream=out, secrets=Secrets(3))
    for value in ("first-value", "second-value", "third-value", "first-value", "fourth-value", "fifth-value"):
        secrets.add(value)
    assert secrets.hide("first-value third-value") == f"{HIDDEN} third-value"
    assert secrets.hide("second-value fifth-value fourth-value") == f"second-value {HIDDEN} {HIDDEN}"
    assert out.getvalue().count("too many secrets") == 1


_TEXT = st.text("ab", max_size=12)


@given(st.lists(_TEXT, max_size=8), st.text("ab", max_size=60))
def test_it_hides_what_a_pattern_of_all_would(values: list[str], text: str) -> None:
    secrets = Secrets()
    for value in values:
        secrets.add(value)
    long = sorted((value for value in values if len(value) >= 6), key=len, reverse=True)
    wanted = re.sub("|".join(map(re.escape, long)), HIDDEN, text) if long else text
    assert secrets.hide(text) == wanted
