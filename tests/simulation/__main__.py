"""python -m tests.simulation --seed N [--days D] | --seeds A-B | --planted

Prints `seed N hash H ok` for each seed, or the broken rule with what led to it, and then exits 1.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import count
from math import isfinite
from pathlib import Path

from tests.simulation.many import outcomes
from tests.simulation.plan import Case, Habits, kinds_of, numbers_of, plan_of
from tests.simulation.progress import BadState, Done, Progress, Total
from tests.simulation.run import Outcome, run_case
from tests.simulation.shrink import RUNS_MAX, Shrinking

COMMAND = "python -m tests.simulation"
INTERRUPTED = 130
ACTS_SHOWN_MAX = 20


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code, and exits with 2 when the arguments are wrong."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    if options.planted:
        from tests.simulation import planted

        return planted.main()
    if options.seed is not None:
        return _one(options)
    return _many(parser, options)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# --- arguments ------------------------------------------------------------------------------------


def _seeds(text: str) -> range | Iterator[int]:
    first, dash, last = text.partition("-")
    if not first.isdecimal() or not (last.isdecimal() or last == ""):
        raise argparse.ArgumentTypeError(f"{text!r} is not a range such as 1-300")
    if dash and not last:
        return count(int(first))
    seeds = range(int(first), int(last or first) + 1)
    if not seeds:
        raise argparse.ArgumentTypeError(f"{text!r} has no seeds: the first is above the last")
    return seeds


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not (number > 0 and isfinite(number)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _jobs(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes from 1 to 256")
    return int(text)


def _kinds(text: str) -> frozenset[str]:
    try:
        return kinds_of([name for name in text.split(",") if name])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _acts(text: str) -> frozenset[int]:
    try:
        return numbers_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 3,17,40-44") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Whole daemons on a virtual clock. One seed is one run, the same each time."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=_natural, metavar="N", help="one seed")
    what.add_argument("--seeds", type=_seeds, metavar="A-B", help="a range; 'A-' has no end, with --minutes")
    what.add_argument(
        "--planted", action="store_true", help="plant faults into the product: seeds must find them"
    )
    parser.add_argument("--days", type=_positive, default=1.0, metavar="D", help="virtual days of each (1)")
    parser.add_argument("--jobs", type=_jobs, default=1, metavar="J", help="processes (1)")
    parser.add_argument("--state", type=Path, metavar="FILE", help="keep what is finished; go on from there")
    parser.add_argument("--minutes", type=_positive, metavar="M", help="begin no seed after so many minutes")
    parser.add_argument("--counts", action="store_true", help="say what happened")
    parser.add_argument("--shrink", action="store_true", help="look for the smallest case that breaks so")
    parser.add_argument("--without", type=_kinds, default=frozenset(), metavar="KIND,KIND", help="leave out")
    parser.add_argument("--keep", type=_acts, metavar="3,17,40-44", help="only these acts of the plan")
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What options say of each other."""
    if options.seed is None:
        for name in ("shrink", "keep"):
            if getattr(options, name) not in (None, False):
                parser.error(f"--{name} is about one seed: give it with --seed")
    if options.seeds is None:
        for name in ("state", "minutes"):
            if getattr(options, name) is not None:
                parser.error(f"--{name} is about a range: give one with --seeds")
    elif not isinstance(options.seeds, range) and options.minutes is None:
        parser.error("a range without an end needs --minutes")


# --- one seed -------------------------------------------------------------------------------------


def _one(options: argparse.Namespace) -> int:
    try:
        outcome = run_case(Case(options.seed, options.days, options.without, options.keep))
        _tell(outcome, counts=options.counts)
        if outcome.broken is None:
            if options.shrink:
                _say("nothing to shrink")
            return 0
        if options.shrink:
            _say(f"looking for a smaller case that breaks the same rule, in {RUNS_MAX} runs at most")
            _tell(Shrinking(outcome, run_case, _say, Habits(), RUNS_MAX).smallest(), counts=options.counts)
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    return 1


def _tell(outcome: Outcome, *, counts: bool) -> None:
    _say(outcome.line)
    if counts:
        told = ", ".join(f"{name} {number}" for name, number in sorted(outcome.counts.items()))
        acts = ", ".join(f"{name} {number}" for name, number in sorted(outcome.acts.items()))
        _say(f"  {outcome.seconds:.2f} s, {outcome.virtual_s / 86_400:.2f} days; {told}; acts: {acts}")
    if outcome.broken is not None:
        for line in outcome.tail:
            _say(f"  {line}")
        plan = plan_of(outcome.case, Habits())
        if len(plan) <= ACTS_SHOWN_MAX:
            _say(f"  acts: {', '.join(f'{act.kind} ({act.index}) at {act.at:g}' for act in plan) or 'none'}")
        _say(f"  again: {COMMAND} {outcome.case.options}")


# --- many seeds -----------------------------------------------------------------------------------


def _many(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    try:
        progress = Progress(options.state, options.days)
    except BadState as error:
        parser.error(str(error))
    total, began = Total(), time.monotonic()

    def cases() -> Iterator[Case]:
        for seed in options.seeds:
            if options.minutes is not None and time.monotonic() - began > 60 * options.minutes:
                return
            if (done := progress.done.get(seed)) is not None:
                total.add(done)
            else:
                yield Case(seed, options.days, options.without)

    running = outcomes(cases(), options.jobs)
    try:
        for outcome in running:
            _tell(outcome, counts=options.counts)
            done = Done.of(outcome)
            progress.add(done)
            total.add(done)
    except KeyboardInterrupt:
        running.close()
        _say(total.line)
        _say(f"stopped; the same command goes on: {_resuming(options)}")
        return INTERRUPTED
    _say(total.line)
    return 1 if total.broken else 0


def _resuming(options: argparse.Namespace) -> str:
    words = " ".join(sys.argv[1:])
    return f"{COMMAND} {words}" if options.state else f"{COMMAND} {words} --state FILE (nothing was kept now)"


if __name__ == "__main__":
    sys.exit(main())
