"""What is known of the seeds of a long range, kept as JSON lines: so it can be stopped and resumed."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulation.run import Outcome


class BadState(Exception):
    """A state file can't be used; the text says why."""


@dataclass(slots=True)
class Done:
    """One finished seed, as it is kept."""

    seed: int
    days: float
    hash: str
    ok: bool
    seconds: float
    virtual_days: float
    counts: dict[str, int]
    broken: str | None = None

    @classmethod
    def of(cls, outcome: Outcome) -> "Done":
        """What is kept of an outcome."""
        return cls(
            outcome.seed,
            outcome.case.days,
            outcome.hash,
            outcome.broken is None,
            round(outcome.seconds, 3),
            round(outcome.virtual_s / 86_400, 4),
            dict(sorted(outcome.counts.items())),
            outcome.broken,
        )


@dataclass(slots=True)
class Total:
    """What many seeds come to."""

    seeds: int = 0
    broken: int = 0
    days: float = 0.0
    seconds: float = 0.0  # of all processes
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, done: Done) -> None:
        """Take a seed in."""
        self.seeds += 1
        self.broken += not done.ok
        self.days += done.virtual_days
        self.seconds += done.seconds
        self.counts.update(done.counts)

    @property
    def line(self) -> str:
        """All of it in a line."""
        count = self.counts
        return (
            f"{self.seeds} seeds, {self.days:.1f} virtual days in {self.seconds:.0f} s: "
            f"{count['machines']} machines, {count['crashes']} crashes, "
            f"{count['instance_preempted']} preemptions, {count['task_requested']} tasks, "
            f"{self.broken} broken"
        )


class Progress:
    """A state file.

    Args:
        path: where it is; None: nothing is kept.
        days: of every seed; a file with others is refused.

    Raises:
        BadState: it can't be read, or is of another run.
    """

    def __init__(self, path: Path | None, days: float) -> None:
        self.done: dict[int, Done] = {}
        self._path = path
        if path is None:
            return
        try:
            text = path.read_text() if path.exists() else ""
            if text and not text.endswith("\n"):  # it was killed while it wrote
                text = text[: text.rfind("\n") + 1]
                path.write_text(text)
            with path.open("a"):
                pass
        except (OSError, UnicodeDecodeError) as error:
            raise BadState(f"{path}: {getattr(error, 'strerror', None) or 'is not text'}") from error
        for number, line in enumerate(text.splitlines(), 1):
            try:
                done = Done(**json.loads(line))
            except (ValueError, TypeError) as error:
                raise BadState(f"{path}:{number}: is not a line of a state file") from error
            if done.days != days:
                raise BadState(f"{path}:{number}: is of {done.days:g} days a seed, not of {days:g}")
            self.done[done.seed] = done

    def add(self, done: Done) -> None:
        """Keep a finished seed."""
        self.done[done.seed] = done
        if self._path is not None:
            fields = {name: getattr(done, name) for name in Done.__dataclass_fields__}
            with self._path.open("a") as file:
                file.write(json.dumps(fields) + "\n")
