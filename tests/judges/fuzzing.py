"""schemathesis asks a fake whatever its vendor's schema allows, and what it does not."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.judges.judging import clean, python

CONFORMANCE = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
)
PHASES = "examples,coverage,fuzzing"
CHECKS = f"{CONFORMANCE},negative_data_rejection"
CONFIG = """
[phases.coverage]
unexpected-methods = []  # what the schema has no word of is a fake's own affair
"""
WITHIN_S = 240.0


def fuzzed(
    schema: Path,
    url: str,
    headers: Mapping[str, str],
    *,
    examples: int,
    checks: str = CHECKS,
    phases: str = PHASES,
) -> dict[str, Any]:
    """Run schemathesis; its report. What it finds fails the test, in its own words."""
    report = schema.with_name("report.json")
    schema.with_name("schemathesis.toml").write_text(CONFIG)
    given = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    command = [
        str(Path(python()).parent / "st"), "run", str(schema), "--url", url, *given, "--checks", checks,
        "--phases", phases, "--max-examples", str(examples), "--seed", "1",
        "--generation-database", "none", "--suppress-health-check", "all", "--request-timeout", "10",
        "--no-color", "--no-shrink", "--warnings", "off", "--report-json-path", str(report),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=WITHIN_S, check=False, cwd=schema.parent, env=clean()
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-2000:]}"
    told: dict[str, Any] = json.loads(report.read_text())
    return told
