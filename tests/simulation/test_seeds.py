"""The gate: twenty worlds of a day each, twice, in processes of their own (and so with other hash seeds)."""

import multiprocessing
from collections import Counter
from functools import partial

import pytest

from tests.simulation.run import Outcome, run_seed

SEEDS = range(1, 21)
PROCESSES = 2


@pytest.fixture(scope="module")
def runs() -> list[tuple[Outcome, Outcome]]:
    """Every seed, twice."""
    both = [seed for seed in SEEDS for _ in range(2)]
    # A process for every four runs: what one run leaves behind in memory can't be what makes the next equal.
    with multiprocessing.get_context("spawn").Pool(PROCESSES, maxtasksperchild=4) as pool:
        found = pool.map(partial(run_seed, days=1.0), both, chunksize=1)
    return list(zip(found[::2], found[1::2], strict=True))


def test_no_rule_is_broken(runs: list[tuple[Outcome, Outcome]]) -> None:
    broken = [outcome for pair in runs for outcome in pair if outcome.broken is not None]
    assert not broken, "\n".join([broken[0].line, *broken[0].tail])


def test_a_seed_is_one_run(runs: list[tuple[Outcome, Outcome]]) -> None:
    different = [(one.line, two.line) for one, two in runs if one.hash != two.hash]
    assert not different
    assert len({one.hash for one, _ in runs}) == len(SEEDS)


def test_what_can_go_wrong_does(runs: list[tuple[Outcome, Outcome]]) -> None:
    total: Counter[str] = Counter()
    for one, _ in runs:
        total.update(one.counts)
    for what in (
        "crashes",
        "disk full",
        "ended: preempted",
        "instance_adopted",
        "instance_quarantined",
        "instance_reaped",
        "instance_replaced",
        "launch_refused",
        "pool_resized",
        "pool_updated",
        "task_attempt_ended",
        "lines",
    ):
        assert total[what] > 0, what
    assert all(one.counts["crashes"] > 0 for one, _ in runs)
