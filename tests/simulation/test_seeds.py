"""The gate: 300 worlds of a day each, some of them again in other processes with other hash seeds."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.lives import AIMS
from tests.simulation.many import outcomes
from tests.simulation.plan import MISFORTUNES, SHARES, USERS, Case
from tests.simulation.run import Outcome

SEEDS = range(1, 301)
AGAIN = range(1, 7)
PROCESSES = 2
PATIENCE_S = 1800  # real, for the 300 seeds beside all else; two quiet cores need a fifth of it
ROOT = Path(__file__).parents[2]

# What went wrong, and how it was made good, as events and happenings have it.
SEEN = (
    *(f"fault {share}" for share in SHARES),
    *(f"{fate} commit, {aim}" for aim in AIMS for fate in ("crash before", "crash after", "go on")),
    "ended: lease",
    "ended: preempted",
    "ended: stopped",
    "resumed",
    "crash before launch",
    "crash after launch",
    "crash before terminate",
    "crash after terminate",
    "late crash before launch",
    "late crash before terminate",
    "disk full",
    "error",
    "instance_adopted",
    "instance_quarantined",
    "instance_reaped",
    "instance_replaced",
    "launch_refused",
    "lines",
    "notice_withdrawn",
    "pool_paused",
    "pool_resized",
    "pool_resumed",
    "pool_rolled",
    "pool_updated",
    "task_attempt_ended",
)

pytestmark = pytest.mark.timeout(PATIENCE_S)


@pytest.fixture(scope="module")
def runs() -> list[Outcome]:
    """Every seed, once."""
    return list(outcomes((Case(seed) for seed in SEEDS), PROCESSES))


def test_no_rule_is_broken(runs: list[Outcome]) -> None:
    broken = [outcome for outcome in runs if outcome.broken is not None]
    assert not broken, "\n".join([*(one.line for one in broken), *broken[0].tail])


def test_all_that_can_go_wrong_does(runs: list[Outcome]) -> None:
    acts, counts = Counter[str](), Counter[str]()
    for one in runs:
        acts.update(one.acts)
        counts.update(one.counts)
    assert [kind for kind in (*USERS, *MISFORTUNES) if not acts[kind]] == []
    assert [what for what in SEEN if not counts[what]] == []
    assert all(one.counts["lives"] > 1 for one in runs)


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_a_seed_is_one_run(runs: list[Outcome], hash_seed: str) -> None:
    seeds = ["--seeds", f"{AGAIN[0]}-{AGAIN[-1]}", "--jobs", str(PROCESSES)]
    command = [sys.executable, "-m", "tests.simulation", *seeds]
    environment = os.environ | {"PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("seed ")]
    assert lines == [one.line for one in runs if one.seed in AGAIN], done.stdout[-2000:] + done.stderr[-2000:]


def test_seeds_differ(runs: list[Outcome]) -> None:
    assert len({one.hash for one in runs}) == len(runs)
