"""Tests of checks against a vendor's schema are collected where the schema is."""

import os
from pathlib import Path

import pytest

from tests.fakes.schemas import VARIABLE, schema_file
from tests.fakes.vastai.schema import NAME as VAST
from tests.providers.container.proxy import SCHEMA as DOCKER

HERE = Path(__file__).parent
NEEDED = {HERE / "vastai" / "test_schema.py": VAST, HERE / "container" / "test_schema.py": DOCKER}


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """What tests the checks against a vendor's document needs it; with CI=true it must be there."""
    name = NEEDED.get(collection_path)
    if name is None or schema_file(name) is not None:
        return None
    if os.environ.get("CI") == "true":
        raise pytest.UsageError(f"{VARIABLE} is unset: it has to name the folder that {name} is in")
    return True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out."""
    for path, name in NEEDED.items():
        if schema_file(name) is None:
            line = f"{VARIABLE} is unset: nothing is checked against {name}, and not collected: "
            terminalreporter.write_line(line + str(path.relative_to(HERE)))
