"""Making a broken seed small: fewer days, then fewer kinds of what happens, then fewer acts."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from tests.simulation.plan import DAY_S, KINDS, MISFORTUNES, SHARES, USERS, Case, Habits, plan_of
from tests.simulation.run import Outcome

T = TypeVar("T")
RUNS_MAX = 400  # of one search


class Spent(Exception):
    """Enough was tried."""


class Shrinking:
    """The search for the smallest case that breaks the same rule.

    Args:
        found: how the whole case went; it has to be broken.
        run: runs a case.
        say: told how far it got.
        habits: of the world.
        runs_max: how many cases are tried at most.
    """

    def __init__(
        self,
        found: Outcome,
        run: Callable[[Case], Outcome],
        say: Callable[[str], None],
        habits: Habits,
        runs_max: int = RUNS_MAX,
    ) -> None:
        self.best = found
        self.runs = 0
        self._run = run
        self._say = say
        self._habits = habits
        self._runs_max = runs_max

    def smallest(self) -> Outcome:
        """Search; what is found last is the smallest."""
        steps = (self._fewer_days, self._fewer_kinds, self._fewer_acts, self._fewer_days)
        try:
            for step in steps:
                step()
                self._say(f"{self.runs} runs: {self._described()}")
        except (Spent, KeyboardInterrupt):
            self._say(f"{self.runs} runs, and no more are made: {self._described()}")
        case = self.best.case
        left = frozenset(act.index for act in plan_of(case, self._habits))  # says all about kinds of acts
        shorter = replace(case, keep=left, without=case.without & set(SHARES))
        return replace(self.best, case=shorter)

    def _described(self) -> str:
        case = self.best.case
        kinds = len(KINDS) - len(case.without)
        return f"{case.days:g} days, {kinds} of {len(KINDS)} kinds, {len(plan_of(case, self._habits))} acts"

    def _breaks(self, case: Case) -> bool:
        """Whether a case breaks the same rule; then it is the best so far."""
        if self.runs >= self._runs_max:
            raise Spent
        self.runs += 1
        outcome = self._run(case)
        if outcome.rule != self.best.rule:
            return False
        self.best = outcome
        return True

    def _fewer_days(self) -> None:
        """A plan of fewer days is the beginning of the one of more."""
        broken_at = self.best.virtual_s / DAY_S
        for share in (0.25, 0.5, 0.75, 0.9, 1.001):
            days = round(min(broken_at, self.best.case.days) * share + 0.0005, 4)
            if 0 < days < self.best.case.days and self._breaks(replace(self.best.case, days=days)):
                return

    def _fewer_kinds(self) -> None:
        case = self.best.case
        acting = {act.kind for act in plan_of(case, self._habits)}
        kinds = [kind for kind in (*SHARES, *MISFORTUNES, *USERS) if kind not in case.without]
        idle = [kind for kind in kinds if kind not in acting and kind not in SHARES]
        if idle:  # changes nothing, and makes the rest easier to read
            self._breaks(replace(case, without=case.without | set(idle)))
            kinds = [kind for kind in kinds if kind in acting or kind in SHARES]
        without = self.best.case.without
        smallest_part(
            kinds, lambda kept: self._breaks(replace(case, without=without | (set(kinds) - set(kept))))
        )

    def _fewer_acts(self) -> None:
        case = self.best.case
        acts = [act.index for act in plan_of(case, self._habits)]
        smallest_part(acts, lambda kept: self._breaks(replace(case, keep=frozenset(kept))))


def smallest_part(whole: Sequence[T], breaks: Callable[[Sequence[T]], bool]) -> Sequence[T]:
    """A part of `whole` that still breaks and of which nothing more can be left out, one by one.

    Source: "ddmin" in A. Zeller and R. Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002,
    with complements only: single parts on their own hardly ever break anything here.
    """
    kept, portions = list(whole), 2
    if kept and breaks([]):
        return []
    while len(kept) >= 2:
        size = max(1, -(-len(kept) // portions))
        for first in range(0, len(kept), size):
            rest = kept[:first] + kept[first + size :]
            if breaks(rest):
                kept, portions = rest, max(2, portions - 1)
                break
        else:
            if portions >= len(kept):
                break
            portions = min(len(kept), portions * 2)
    return kept
