"""What the demo hears: all events in order, its tasks, and whether everything fits in the end."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from actors.events import (
    Envelope,
    Event,
    InstanceDestroyed,
    InstanceLaunched,
    TaskAttemptEnded,
    TaskCompleted,
    TaskStarted,
)
from controller.cli.house import DemoFailed, House
from controller.client import LogLine

T = TypeVar("T")
E = TypeVar("E", bound=Event)
POLL_S = 0.05


class Story:
    """Events as they come, from the first on. Survives the daemon: it asks by seq."""

    def __init__(self, house: House, say: Callable[[str], None]) -> None:
        self.house = house
        self.say = say
        self.envelopes: list[Envelope] = []
        self.tasks: dict[str, int] = {}  # id -> lines it has to write

    def listen(self) -> None:
        """Take in what happened since."""
        while True:
            after = self.envelopes[-1].seq if self.envelopes else 0
            page = self.house.client.events(after, limit=1000)
            self.envelopes += page
            if len(page) < 1000:
                return

    def until(self, what: str, within_s: float, found: Callable[[], T | None]) -> T:
        """Listen until there is what is looked for. Raises DemoFailed when it does not come."""
        deadline = time.monotonic() + within_s
        while True:
            self.house.check_alive()
            self.listen()
            value = found()
            if value:
                return value
            if time.monotonic() > deadline:
                raise DemoFailed(f"{what}: not within {within_s:g} s")
            time.sleep(POLL_S)

    def facts(self, kind: type[E], fits: Callable[[E], bool] = lambda fact: True) -> list[tuple[float, E]]:
        """Events of a kind with their times."""
        return [
            (one.at, one.event) for one in self.envelopes if isinstance(one.event, kind) and fits(one.event)
        ]

    def first(self, kind: type[E], fits: Callable[[E], bool] = lambda fact: True) -> tuple[float, E] | None:
        """The first event of a kind."""
        found = self.facts(kind, fits)
        return found[0] if found else None

    def completed(self) -> list[str]:
        """Ids of the tasks that are over, once for each TaskCompleted."""
        return [fact.task_id for _, fact in self.facts(TaskCompleted)]

    def log(self, task: str) -> list[LogLine]:
        """Everything that is kept of a task's output."""
        return list(self.house.client.task_log(task))


# --- what has to hold in the end --------------------------------------------------------------------


def check_tasks(story: Story) -> str:
    """Each task has exactly one result, and it is a success."""
    counts = Counter(story.completed())
    wrong = {task: counts[task] for task in story.tasks if counts[task] != 1}
    if wrong:
        raise DemoFailed(f"TaskCompleted, not once each: {wrong}")
    failed = [fact.task_id for _, fact in story.facts(TaskCompleted) if not fact.success]
    if failed:
        raise DemoFailed(f"tasks that did not succeed: {', '.join(failed)}")
    ends = Counter((fact.task_id, fact.attempt) for _, fact in story.facts(TaskAttemptEnded))
    starts = Counter((fact.task_id, fact.attempt) for _, fact in story.facts(TaskStarted))
    doubled = [name for counter in (starts, ends) for name, count in counter.items() if count != 1]
    if doubled or starts.keys() - ends.keys():
        raise DemoFailed(f"attempts that started or ended twice, or never ended: {doubled}")
    again = sum(1 for _, attempt in starts if attempt > 1)
    return f"{len(story.tasks)} tasks, each with exactly one result, a success; {again} of them after a retry"


def check_logs(story: Story) -> str:
    """Every log has each line once and in order, and the last attempt's is whole."""
    total = 0
    for task, lines in story.tasks.items():
        kept = story.log(task)
        attempts = sorted({line.attempt for line in kept})
        for attempt in attempts:
            ours = [line for line in kept if (line.attempt, line.stream) == (attempt, "stdout") and line.text]
            texts = [line.text for line in ours]
            if texts != [f"line {number} of {lines}" for number in range(1, len(texts) + 1)]:
                raise DemoFailed(f"the log of task {task}, attempt {attempt}, is not in order: {texts[:99]}")
            if attempt == attempts[-1] and len(texts) != lines:
                raise DemoFailed(f"the log of task {task} has {len(texts)} lines of {lines}")
            total += len(texts)
    return f"{total} log lines, each once and in order; the log of every last attempt is whole"


def check_marks(story: Story, marks: Path) -> str:
    """What the tasks wrote down themselves: nobody ran twice at the same time, all came to their end."""
    attempts = Counter(fact.task_id for _, fact in story.facts(TaskStarted))
    for task in story.tasks:
        written = (marks / task).read_text().split()
        if written.count("twice") or written.count("stop") != 1 or written.count("start") > attempts[task]:
            raise DemoFailed(f"task {task} wrote down: {' '.join(written)}")
    return "no task ran twice at the same time, by the tasks' own record"


def check_machines(story: Story, expected: int) -> str:
    """As many machines as nodes, and those the daemon knows."""
    living = story.house.living()
    known = sorted(one["id"] for one in story.house.client.instances("demo"))
    launched = {fact.instance_id for _, fact in story.facts(InstanceLaunched)}
    if len(living) != expected or known != living or not launched.issuperset(living):
        raise DemoFailed(f"machines that live: {living}; that the daemon knows: {known}")
    return f"{expected} machines live, those that the daemon knows: none is lost or doubled"


def check_gone(story: Story) -> str:
    """Every machine that was launched is observed absent, once."""
    launched = sorted(fact.instance_id for _, fact in story.facts(InstanceLaunched))
    destroyed = sorted(fact.instance_id for _, fact in story.facts(InstanceDestroyed))
    missing: Sequence[str] = sorted(set(launched) - set(destroyed))
    if missing or len(set(destroyed)) != len(destroyed) or len(set(launched)) != len(launched):
        raise DemoFailed(f"launched: {launched}; observed absent: {destroyed}")
    if story.house.living():
        raise DemoFailed(f"machines that still live: {story.house.living()}")
    return f"{len(launched)} machines were launched, each ended in one InstanceDestroyed"
