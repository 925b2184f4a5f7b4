"""kill -9 at 200 random moments of a day, and whether that would notice if anything were wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.controller.journal.planted import FAULTS

ROOT = Path(__file__).parents[3]
KILLS = 200

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]


def kills(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The kills in a process without threads: it forks those that are killed."""
    command = [sys.executable, "-m", "tests.controller.journal.kills", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_a_journal_killed_at_200_moments_is_recovered_as_it_was_acknowledged() -> None:
    done = kills("--kills", str(KILLS))
    assert done.returncode == 0, done.stdout + done.stderr
    *_, figures, verdict = done.stdout.splitlines()
    assert verdict == f"seed 1 kills {KILLS} ok"
    for what in (
        "at opening",
        "at a commit",
        "in a checkpoint",
        "at pruning",
        "at backing up",
        "with a WAL",
        "durable, not acknowledged",
        "requests handed out again",
        "effects owed",
        "states decided anew",
        "backups",
    ):
        assert f"{what} 0," not in figures
        assert f"{what} " in figures, (what, figures)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_journal_is_found(fault: str) -> None:
    done = kills("--kills", str(KILLS), "--planted", fault)
    assert done.returncode == 1, done.stdout + done.stderr
    assert " BROKEN: " in done.stdout.splitlines()[-1]
