"""Judges: software of the vendors' own, in the environment that EVERPOOL_JUDGES names the Python of."""

import os
from pathlib import Path

import pytest

from tests.fakes import schemas
from tests.judges.judging import VARIABLE

HERE = Path(__file__).parent
OF_SCHEMAS = ("test_vastai_schema.py",)
OF_OURS = ("test_botocore.py",)  # botocore is in our own environment too


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Nothing here is a test while there are no judges, except with CI=true: then they must be there."""
    if collection_path.parent != HERE or not collection_path.name.startswith("test_"):
        return None
    lacking = _lacking(collection_path.name)
    if lacking and os.environ.get("CI") == "true":
        raise pytest.UsageError(f"{lacking} is unset, and {collection_path.name} needs it")
    return True if lacking else None


def _lacking(name: str) -> str | None:
    """The variable that a file of tests needs and that is unset."""
    needed = [] if name in OF_OURS else [VARIABLE]
    needed += [schemas.VARIABLE] if name in OF_SCHEMAS else []
    return next((one for one in needed if not os.environ.get(one)), None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    if not os.environ.get(VARIABLE):
        terminalreporter.write_line(f"{VARIABLE} is unset: most of tests/judges is not collected")
    elif not os.environ.get(schemas.VARIABLE):
        terminalreporter.write_line(f"{schemas.VARIABLE} is unset: not collected: {', '.join(OF_SCHEMAS)}")
