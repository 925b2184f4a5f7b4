"""A task, whatever happens to its attempts."""

from typing import Any

import pytest
from hypothesis import settings

from actors.effects import Say, StartTask
from actors.events import TaskRequested, TaskStopRequested
from actors.messages import (
    AgentReported,
    Assigned,
    LinkDown,
    MachineGone,
    MachineUnreachable,
    StopWanted,
    Submitted,
)
from actors.spec import TaskSpec
from actors.task.state import Invalid, Pending, Running, Stopped, Stopping
from providers.agent.wire import Refused, Stop
from tests.actors.model import VISIBLE_S
from tests.actors.task.machine import LOSSES_MAX, TaskRules

TestTask = TaskRules.TestCase
TestTask.settings = settings(
    max_examples=250, stateful_step_count=40, deadline=None, database=None, derandomize=True
)
NAME = "t-0"


class One(TaskRules):
    """One task on one machine, step by step."""

    def __init__(self, **spec: Any) -> None:
        super().__init__()
        self.begin(1)
        if spec.get("at_least_once"):
            self.here.twice.add(NAME)
        task = TaskSpec(argv=("x",), **spec)
        self.turns.journal(TaskRequested(request_id=NAME, pool="pool", task=task))
        self.hear(Submitted(self.turns.heard[-1]))

    @property
    def task(self) -> Any:
        """Its state."""
        return self.turns.states.get(("task", NAME))

    def hear(self, message: Any) -> None:
        self.turns.hear((("task", NAME), message))

    def place(self) -> None:
        """Assign it, and let its machine's agent hear of it."""
        self.hear(Assigned(self.ready[0], 0))
        self.talk(0)

    def runs(self) -> None:
        """Place it and start its process."""
        self.place()
        self.run(0, 0)
        self.talk(0)
        assert isinstance(self.task, Running)

    def ends(self, code: int) -> None:
        """Its process ends."""
        self.run(0, code)
        self.talk(0)

    @property
    def completed(self) -> Any:
        """Its only TaskCompleted."""
        [fact] = self.turns.facts("task_completed")
        return fact


def test_the_facts_of_a_task_that_works_at_once() -> None:
    one = One()
    one.runs()
    one.ends(0)
    kinds = [event.event.kind for event in one.turns.events if event.request_id == NAME]
    assert kinds == ["task_requested", "task_queued", "task_started", "task_attempt_ended", "task_completed"]
    assert (one.completed.result, one.completed.attempts, one.completed.success) == ("success", 1, True)
    assert one.task is None


def test_its_own_failures_have_a_budget() -> None:
    one = One(retries=2)
    for attempt in (1, 2, 3):
        if isinstance(one.task, Pending) and one.task.not_before is not None:
            one.turns.now = one.task.not_before
            one.turns.due()
        assert one.task.attempt == attempt
        one.runs()
        one.ends(3)
    assert (one.completed.result, one.completed.attempts, one.completed.exit_code) == ("failure", 3, 3)


@pytest.mark.parametrize("losses", [None, 0, 1])
def test_lost_machines_have_another_budget(losses: int | None) -> None:
    one, attempts = One(retries_infrastructure=losses), 0
    while one.task is not None:
        one.runs()
        attempts += 1
        one.here.vanish(next(iter(one.here.machines)))
        one.turns.hear((("instance", one.task.instance_id), LinkDown("cut")))
        one.turns.now += VISIBLE_S
        one.here.listing()
        assert isinstance(one.task, Running), "one listing is no proof"
        one.here.listing()
        if one.task is not None:
            one.machine()
    allowed = LOSSES_MAX if losses is None else losses
    assert attempts == allowed + 1
    assert (one.completed.result, one.completed.reason) == ("resource_failure", "gone")


def test_a_machine_that_can_not_be_reached_keeps_its_attempt() -> None:
    one = One()
    one.runs()
    before = one.task
    one.hear(MachineUnreachable(one.task.instance_id))
    assert one.task is before


def test_one_that_may_run_twice_does_not_wait() -> None:
    one = One(at_least_once=True)
    one.runs()
    one.hear(MachineUnreachable(one.task.instance_id))
    assert isinstance(one.task, Pending)
    assert one.task.attempt == 2


def test_what_the_agent_does_not_hold_is_stopped_and_that_confirmed_before_another() -> None:
    one = One()
    one.runs()
    one.trouble(0, "reboot")
    one.stream(0, "cut")
    one.talk(0)
    assert isinstance(one.task, Invalid)
    assert one.task.attempt == 1
    one.talk(0)
    assert isinstance(one.task, Pending)
    assert one.task.attempt == 2


def test_a_start_that_was_lost_is_said_again_under_the_same_attempt() -> None:
    one = One()
    one.hear(Assigned(one.ready[0], 0))
    one.stream(0, "cut")  # before the agent heard
    one.talk(0)
    one.talk(0)
    one.run(0, 0)
    one.talk(0)
    assert isinstance(one.task, Running)
    assert one.task.attempt == 1


def test_a_refused_start_is_stopped_and_queued_again() -> None:
    one = One()
    one.place()
    refused = Refused(id=99, command="start", reason="no", task=NAME, attempt=1)
    one.hear(AgentReported(one.task.instance_id, refused))
    assert isinstance(one.task, Invalid)


def test_a_stop_ends_a_task_that_waits_at_once() -> None:
    one = One()
    one.turns.journal(TaskStopRequested(request_id="stop", pool="pool", task_id=NAME))
    one.hear(StopWanted("stop", "user", None))
    assert (one.completed.result, one.completed.reason, one.completed.attempts) == ("terminated", "user", 0)
    assert {"stop", NAME} <= one.turns.ended


def test_a_stop_ends_a_task_that_runs_when_the_agent_says_so() -> None:
    one = One(retries=3)
    one.runs()
    for request in ("stop-1", "stop-2"):
        one.turns.journal(TaskStopRequested(request_id=request, pool="pool", task_id=NAME))
        one.hear(StopWanted(request, "user", 0.0))
    assert isinstance(one.task, Stopping)
    assert not one.turns.facts("task_completed")
    one.talk(0)
    assert (one.completed.result, one.completed.reason) == ("terminated", "user")
    assert {"stop-1", "stop-2", NAME} <= one.turns.ended


def test_a_stop_that_is_not_confirmed_is_said_again() -> None:
    one = One()
    one.runs()
    said: list[Any] = []
    one.turns.perform = lambda address, effect: said.append(effect)
    one.hear(StopWanted(None, "user", 1.0))
    one.stream(0, "cut")
    for _ in range(3):
        one.turns.now = one.task.next_at
        one.turns.due()
    stops = [effect for effect in said if isinstance(effect, Say) and isinstance(effect.command, Stop)]
    assert len(stops) == 4
    assert not [effect for effect in said if isinstance(effect, StartTask)]


def test_nothing_reaches_a_task_that_is_over() -> None:
    one = One()
    one.runs()
    one.ends(0)
    events = len(one.turns.events)
    one.hear(MachineGone("x", "gone"))
    one.hear(StopWanted(None, "user", None))
    assert len(one.turns.events) == events
    assert not isinstance(one.task, Stopped)
