"""What a simulated day of the daemon makes durable, step by step."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from actors.ports import Accepted, Commit, Conflict, Submission
from controller.simulation.ledger import Ledger
from tests.controller.journal.contents import Model
from tests.simulation.run import run_seed


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was made durable.

    Attributes:
        what: a turn's commit, or a request as a user sent it.
        seq: of a request's envelope, as it was answered; 0 for a commit.
        lane: steps of one lane follow each other; each waits until the one before is acknowledged.
        needs: earlier steps that were acknowledged before this one could be thought of.
    """

    what: Commit | Submission
    seq: int
    lane: str
    needs: tuple[int, ...]


def apply(model: Model, step: Step) -> Accepted | Conflict | None:
    """Make a step durable in the model; what a request is answered."""
    if isinstance(step.what, Commit):
        model.commit(step.what)
        return None
    return model.accept(step.what, step.seq)


@contextmanager
def _overheard() -> Iterator[list[tuple[Commit, None] | tuple[Submission, Accepted]]]:
    """All that ledgers make durable meanwhile, in order."""
    heard: list[tuple[Commit, None] | tuple[Submission, Accepted]] = []
    write, accept = Ledger.write, Ledger.accept

    def written(self: Ledger, commit: Commit) -> None:
        write(self, commit)
        rows = tuple(commit.states)
        heard.append((Commit(commit.pool, rows, tuple(commit.envelopes), tuple(commit.taken)), None))

    def accepted(self: Ledger, submission: Submission) -> Accepted | Conflict:
        answer = accept(self, submission)
        if isinstance(answer, Accepted):
            heard.append((submission, answer))
            self.next_seq += not answer.new  # the file's journal takes its seq before it knows
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "write", written)
        patch.setattr(Ledger, "accept", accepted)
        yield heard


def record(seed: int, days: float = 1.0) -> list[Step]:
    """Live through a simulated day and keep what became durable, in order."""
    with _overheard() as heard:
        run_seed(seed, days)
    steps: list[Step] = []
    last_of: dict[str, int] = {}  # by lane
    accepted: dict[str, int] = {}
    for i, (what, answer) in enumerate(heard):
        if isinstance(what, Commit):
            lane, seq = what.pool, 0
            asked = [*what.taken, *(name for one in what.envelopes for name in (*one.ends, one.request_id))]
            needs = {accepted[name] for name in asked if name in accepted}
        elif answer is not None:
            name = what.request.request_id
            lane, seq = f"request {name}", answer.envelope.seq
            needs = set()
            accepted.setdefault(name, i)
        if lane in last_of:
            needs.add(last_of[lane])
        last_of[lane] = i
        steps.append(Step(what, seq, lane, tuple(sorted(needs))))
    return steps
