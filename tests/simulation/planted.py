"""Tests of the tests: every planted fault must be found by the seeds that CI runs.

    python -m tests.simulation --planted

prints each with the seed that finds it and the rule that broke, and last `found X of Y`.

The seeds are run without a fault first: one that breaks a rule by itself could blame a mutation for
nothing, so it is named and left out. A fault counts as found when a rule of the referee is broken, not when
the planted code fails: then the mutation no longer fits the product, and that is an error of the test.
"""

import multiprocessing
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from tests.simulation.many import begin_process
from tests.simulation.mutations import machines, pools, truth, work
from tests.simulation.mutations.patching import Mutation, Patch
from tests.simulation.referee.referee import CHECKERS
from tests.simulation.run import run_seed

MUTATIONS: dict[str, Mutation] = {
    one.__name__: one for one in (*machines.ALL, *pools.ALL, *work.ALL, *truth.ALL)
}
SEEDS = range(1, 25)  # most are found by the first three
DAYS = 0.5
PROCESSES = 2
RULE_MAX = 120  # letters shown of a broken rule
PATIENCE_S = 600  # real, for one run; a run that goes on for ever proves nothing
# What an actor's rule raises when planted code does not fit it. A check of the product itself that fails
# (AssertionError) is a finding.
_MISFIT = re.compile(r"\b(Attribute|Import|Index|Key|Name|NotImplemented|Type|Validation|Value)Error\b")


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one planted fault.

    Attributes:
        name: of the mutation; empty when nothing was planted.
        seed: that broke a rule; None: none did.
        rule: the broken rule, in the referee's words.
        misfit: the mutation itself failed, which proves nothing.
        seconds: real, of all its seeds.
    """

    name: str
    seed: int | None
    rule: str
    misfit: bool
    seconds: float

    @property
    def found(self) -> bool:
        """Whether the seeds find it."""
        return bool(self.name) and self.seed is not None

    @property
    def line(self) -> str:
        """What is printed about it."""
        if not self.name:
            return f"seed {self.seed} is broken with nothing planted, and not used: {self.rule}"
        if self.misfit:
            return f"{self.name:32} MISFIT, the mutation must be mended: {self.rule}"
        if self.seed is None:
            return f"{self.name:32} NOT FOUND"
        return f"{self.name:32} seed {self.seed}: {self.rule[:RULE_MAX]}"


def _give_up(*_: object) -> None:
    raise TimeoutError


def run_without(seed: int) -> Finding:
    """Run a seed with nothing planted."""
    outcome = run_seed(seed, days=DAYS)
    broken = outcome.broken
    return Finding("", seed if broken else None, broken or "", False, outcome.seconds)


def run_with(name: str, seeds: Sequence[int]) -> Finding:
    """Plant one fault and run seeds until one finds it."""
    began = time.perf_counter()
    patch = Patch()
    seed, rule, misfit = None, "", False
    try:
        MUTATIONS[name](patch)
        signal.signal(signal.SIGALRM, _give_up)
        for seed in seeds:
            signal.alarm(PATIENCE_S)
            rule = run_seed(seed, days=DAYS).broken or ""
            signal.alarm(0)
            if rule:
                misfit = _MISFIT.search(rule) is not None
                break
    except* (TimeoutError, trio.TrioInternalError):  # it may meet trio itself at work
        rule, misfit = f"seed {seed} went on for {PATIENCE_S} s", True
    except* (AttributeError, KeyError, NameError, TypeError) as errors:  # the product was renamed
        rule, misfit = repr(errors.exceptions[0])[:500], True
    finally:
        signal.alarm(0)
        patch.undo()
    return Finding(name, seed if rule and not misfit else None, rule, misfit, time.perf_counter() - began)


def findings() -> Iterator[Finding]:
    """First the seeds that break a rule with nothing planted, then every fault, in order."""
    with multiprocessing.get_context("spawn").Pool(PROCESSES, begin_process) as pool:
        plain = pool.map(run_without, SEEDS, chunksize=1)
        yield from (one for one in plain if one.seed is not None)
        broken = {one.seed for one in plain}
        sound = [seed for seed in SEEDS if seed not in broken]
        yield from pool.imap(partial(run_with, seeds=sound), MUTATIONS)


def unbroken(found: Iterable[Finding]) -> list[str]:
    """Rules of the referee that no planted fault breaks: nobody knows whether they would notice anything."""
    rules = {finding.rule.partition(":")[0] for finding in found if finding.found}
    return [checker.name for checker in CHECKERS if checker.name not in rules]


def main() -> int:
    """Run all, say what was found; 0 when all was, and nothing else."""
    several = list[Finding]()
    for finding in findings():
        several.append(finding)
        sys.stdout.write(finding.line + "\n")
        sys.stdout.flush()
    found = sum(finding.found for finding in several)
    sound = all(finding.name for finding in several)
    sys.stdout.write(f"rules that none of them broke first: {', '.join(unbroken(several)) or 'none'}\n")
    sys.stdout.write(f"found {found} of {len(MUTATIONS)}\n")
    return 0 if sound and found == len(MUTATIONS) else 1
