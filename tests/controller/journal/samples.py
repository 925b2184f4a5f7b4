"""Values to journal."""

from collections.abc import Callable

import anyio
import pytest

from actors.events import Envelope, TaskCompleted, TaskQueued, TaskRequested
from actors.ports import Commit, StateRow, Submission
from actors.spec import TaskSpec
from controller.journal.journal import SqliteJournal
from providers.model import Value


class Sample(Value):
    """Stands for the state of an actor."""

    number: int
    text: str = ""


def queued(journal: SqliteJournal, task_id: str, pool: str = "main", at: float = 1.0) -> Envelope:
    """An event of its own."""
    return Envelope(seq=journal.reserve(1), at=at, pool=pool, event=TaskQueued(task_id=task_id, attempt=1))


def completed(journal: SqliteJournal, request_id: str, pool: str = "main", at: float = 2.0) -> Envelope:
    """The event that ends a request."""
    fact = TaskCompleted(task_id=request_id, instance=None, duration=1, success=True, result="success")
    seq = journal.reserve(1)
    return Envelope(seq=seq, at=at, pool=pool, request_id=request_id, ends=(request_id,), event=fact)


def numbered(journal: SqliteJournal, number: int, pool: str = "main", text: str = "") -> Commit:
    """A commit of one state, whose id and number are `number`, and of one event."""
    state = StateRow("sample", str(number), 1, Sample(number=number, text=text))
    return Commit(pool, states=[state], envelopes=[queued(journal, str(number), pool)])


def submission(request_id: str, *argv: str, pool: str = "main") -> Submission:
    """A task that somebody wants run."""
    spec = TaskSpec(argv=argv or ("true",), env={"A": "1", "B": "2"})
    request = TaskRequested(request_id=request_id, pool=pool, task=spec)
    return Submission(pool, request, "somebody", 1.5)


async def until(true: Callable[[], bool]) -> None:
    """Poll, for half a minute at most: what is waited for happens in a thread."""
    for _ in range(3000):
        if true():
            return
        await anyio.sleep(0.01)
    pytest.fail("it never came true")
