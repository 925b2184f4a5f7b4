"""The rules about tasks: one process at a time, one result, no retry too many, no line lost."""

from collections import Counter
from typing import Any

from actors.events import TaskAttemptEnded, TaskCompleted, TaskRequested, TaskStarted
from actors.instance.launching import CALLS_MAX
from actors.instance.state import Requested
from actors.spec import TaskSpec
from providers.agent.wire import LogLines
from tests.simulation.referee.base import Checker


class OneProcessATask(Checker):
    """Every attempt runs once, and never beside another one, unless the task is `at_least_once`, or every
    listing said that the other one's machine was gone."""

    name = "a task runs once at a time"
    events = (TaskRequested, TaskStarted, TaskCompleted)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._may_run_beside: set[str] = set()
        self._over: set[str] = set()

    def process_began(self, ref: str, task: str, attempt: int) -> None:
        """Nothing else of the task runs."""
        beside = self._beside(task)
        if beside:
            self.fail(f"{task} attempt {attempt} on {ref} runs beside {beside}", task)
        if (task, attempt) in self.book.began:
            self.fail(
                f"{task} attempt {attempt} ran twice, on {self.book.began[(task, attempt)]} and {ref}", task
            )
        if task in self._over and task not in self._may_run_beside:
            self.fail(f"{task} attempt {attempt} begins on {ref} after the task's end", task)

    def _beside(self, task: str) -> list[str]:
        if task in self._may_run_beside:
            return []
        machines = self.book.machines
        return [
            f"attempt {attempt} on {ref}"
            for ref, attempt in self.book.running.get(task, ())
            if ref not in machines or not machines[ref].buried
        ]

    def event(self, envelope: Any, event: Any) -> None:
        """What is told of attempts is true."""
        task = event.task_id if not isinstance(event, TaskRequested) else event.request_id
        match event:
            case TaskRequested():
                if event.task.at_least_once:
                    self._may_run_beside.add(task)
            case TaskStarted(attempt=attempt):
                if (task, attempt) not in self.book.began:
                    self.fail(f"{task} attempt {attempt} started, and never ran", task)
            case TaskCompleted():
                self._over.add(task)
                if beside := self._beside(task):
                    self.fail(f"{task} is completed and still runs: {beside}", task)
            case _:
                return

    def at_the_end(self) -> None:
        """Nothing runs."""
        if self.book.running:
            self.fail(f"still running: {sorted(self.book.running)[:5]}", *sorted(self.book.running)[:5])


class OneResultATask(Checker):
    """Each task that was taken in is completed exactly once, after as many attempts as were told and seen."""

    name = "a task has one result"
    events = (TaskRequested, TaskAttemptEnded, TaskCompleted)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._asked: dict[str, None] = {}
        self._refused: set[str] = set()
        self._attempts: Counter[str] = Counter()
        self._completed: set[str] = set()

    def event(self, envelope: Any, event: Any) -> None:
        """Count."""
        match event:
            case TaskRequested(request_id=task):
                self._asked[task] = None
            case TaskAttemptEnded(task_id=task, attempt=attempt):
                self._attempts[task] += 1
                if task in self._completed:
                    self.fail(f"{task} attempt {attempt} ended after the task", task)
                if attempt != self._attempts[task]:
                    self.fail(f"{task} attempt {attempt} ended as the {self._attempts[task]}.", task)
            case TaskCompleted(task_id=task, attempts=attempts, result=result):
                self._complete(task, attempts, result)
            case _:
                return

    def _complete(self, task: str, attempts: int, result: str) -> None:
        if task in self._completed:
            self.fail(f"{task} is completed twice", task)
        self._completed.add(task)
        if self.book.forgives_bugs:  # who is condemned for bugs ends without the end of its attempt
            return
        if attempts != self._attempts[task]:
            self.fail(f"{task} is completed after {attempts} attempts, {self._attempts[task]} ended", task)
        if (task, attempts + 1) in self.book.began:
            self.fail(f"{task} is completed after {attempts} attempts, and another one ran", task)
        if result == "success" and (task, attempts) not in self.book.began:
            self.fail(f"{task} succeeded and never ran", task)

    def at_the_end(self) -> None:
        """None is lost: what was refused ended in an Error, so only its request knows it."""
        lost = [task for task in self._attempts if task not in self._completed]
        if lost:
            self.fail(f"lost: {lost[:5]}", *lost[:5])


class RetriesInBudget(Checker):
    """Own failures are tried again `retries` times, lost machines `retries_infrastructure` times; a launch is
    called for at most CALLS_MAX times under one key."""

    name = "retries stay in their budget"
    events = (TaskRequested, TaskAttemptEnded, TaskCompleted)
    kinds = ("task", "instance", "pool")

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._specs: dict[str, tuple[TaskSpec, str]] = {}
        self._own: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._by_pool: dict[str, int] = {}  # the most that a pool's spec has allowed

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """The states count as the rules say."""
        if new is None:
            return
        if kind == "pool":
            self._by_pool[pool] = max(self._by_pool.get(pool, 0), new.spec.retry_on_interruption)
        elif kind == "instance":
            if isinstance(new, Requested) and new.tries > CALLS_MAX:
                self.fail(f"{name} was launched {new.tries} times under one key", name)
        elif new.failures or new.interruptions:
            if new.failures > new.spec.retries:
                self.fail(f"{name} goes on after {new.failures} failures of {new.spec.retries}", name)
            allowed = self._allowed(new.spec, pool)
            if new.interruptions > allowed:
                self.fail(f"{name} goes on after {new.interruptions} losses of {allowed}", name)

    def _allowed(self, spec: TaskSpec, pool: str) -> int:
        own = spec.retries_infrastructure
        return self._by_pool.get(pool, 0) if own is None else own

    def event(self, envelope: Any, event: Any) -> None:
        """Count attempts that ran, by whose fault they ended; the states are not believed."""
        match event:
            case TaskRequested(request_id=task):
                self._specs[task] = (event.task, envelope.pool)
            case TaskAttemptEnded(task_id=task, attempt=attempt) if (task, attempt) in self.book.began:
                self._ended(task, event)
            case TaskCompleted(task_id=task):
                self._specs.pop(task, None)
            case _:
                return

    def _ended(self, task: str, event: TaskAttemptEnded) -> None:
        if task not in self._specs:
            return
        spec, pool = self._specs[task]
        if event.result == "resource_failure" and event.reason != "oom":
            self._lost[task] += 1
            allowed = self._allowed(spec, pool)
            if self._lost[task] > allowed + 1 and pool in self._by_pool:
                self.fail(f"{task} ran {self._lost[task]} times on lost machines, {allowed} retries", task)
        elif event.result in ("failure", "startup_failure", "killed"):
            self._own[task] += 1
            if self._own[task] > spec.retries + 1:
                self.fail(f"{task} failed {self._own[task]} times, {spec.retries} retries", task)


class LinesAreKept(Checker):
    """Every line of output is kept, once and in order; the number of lines is the end of a task's name."""

    name = "lines are kept"
    events = (TaskCompleted,)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._offsets: dict[tuple[str, int, str], int] = {}
        self._lines: Counter[tuple[str, int, str]] = Counter()
        self.count = 0

    def lines(self, report: LogLines) -> None:
        """They follow those before; what comes again is passed over."""
        name = (report.task, report.attempt, report.stream)
        had = self._offsets.get(name, 0)
        if report.next_offset <= had:
            return
        if report.offset != had:
            self.fail(f"log of {name}: {report.offset} follows {had}", report.task)
        self._offsets[name] = report.next_offset
        self._lines[name] += len(report.lines)
        self.count += len(report.lines)

    def event(self, envelope: Any, event: Any) -> None:
        """All that a successful task wrote is there."""
        if event.result == "success":
            wanted, got = lines_of(event.task_id), self._lines[(event.task_id, event.attempts, "stdout")]
            if wanted != got:
                self.fail(f"{event.task_id} wrote {wanted} lines, {got} are kept", event.task_id)


def lines_of(task: str) -> int:
    """How many lines a task of this name writes; the world names tasks so."""
    return int(task.rsplit("-", 1)[1])
