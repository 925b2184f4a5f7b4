"""python -m tests.simulation --seed N --days D | --seeds A-B

Prints `seed N hash H ok` for each, or the broken rule with what led to it, and then exits 1.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Iterable
from functools import partial

from tests.simulation.run import Outcome, run_seed


def seeds_of(text: str) -> range:
    """Read "A-B" (both included) or "A"."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def outcomes(seeds: range, days: float, jobs: int) -> Iterable[Outcome]:
    """Run seeds, in order, some at a time in processes of their own."""
    one = partial(run_seed, days=days)
    if jobs == 1 or len(seeds) == 1:
        yield from map(one, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(one, seeds)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, help="one seed")
    parser.add_argument("--seeds", type=seeds_of, help="a range, as 1-20")
    parser.add_argument("--days", type=float, default=1.0, help="virtual days of each")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--counts", action="store_true", help="say what happened")
    options = parser.parse_args()
    seeds = options.seeds or range(options.seed or 1, (options.seed or 1) + 1)
    failed = False
    for outcome in outcomes(seeds, options.days, options.jobs):
        sys.stdout.write(outcome.line + "\n")
        if options.counts:
            told = ", ".join(f"{name} {count}" for name, count in sorted(outcome.counts.items()))
            sys.stdout.write(f"  {outcome.seconds:.2f} s; {told}\n")
        for line in outcome.tail:
            sys.stdout.write(f"  {line}\n")
        sys.stdout.flush()
        failed = failed or outcome.broken is not None
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
