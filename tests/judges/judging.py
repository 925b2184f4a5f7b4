"""Runs judges, and takes down what they say."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

VARIABLE = "EVERPOOL_JUDGES"
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WITHIN_S = 120.0


def python() -> str:
    """The judges' Python."""
    return os.environ[VARIABLE]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says: how many things it looked at, and what it found wrong."""

    checks: int
    failed: tuple[str, ...]


def judged(script: str, *words: str, stdin: str = "", **environment: str) -> Verdict:
    """Run one of the scripts of this folder in the judges' environment."""
    command = [python(), str(HERE / script), *words]
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
        cwd=ROOT,
        env=clean() | environment,
    )
    assert done.stdout.strip(), f"{script} said nothing, and ended with {done.returncode}:\n{done.stderr}"
    said = json.loads(done.stdout.strip().splitlines()[-1])
    checks = said["checks"]
    return Verdict(checks if isinstance(checks, int) else len(checks), tuple(map(str, said["failed"])))


def clean() -> dict[str, str]:
    """An environment without anybody's account in it, and without our packages."""
    private = ("AWS_", "GOOGLE_", "GCE_", "CLOUDSDK_", "VAST_", "PYTHON", "PYTEST")
    return {key: value for key, value in os.environ.items() if not key.startswith(private)}
