"""Histories about tasks."""

from actors.events import (
    InstanceDestroyed,
    Result,
    TaskAttemptEnded,
    TaskCompleted,
    TaskRequested,
    TaskStarted,
)
from actors.instance.facts import node_instance
from actors.spec import TaskSpec
from providers.agent.wire import LogLines
from tests.simulation.referee.story import (
    POOL,
    Story,
    pending,
    requested,
    row,
)
from tests.simulation.referee.told.histories import broken, holds, over


def _ask_task(story: Story, task: str = "t-0", **spec: object) -> None:
    story.ask(
        TaskRequested(request_id=task, pool=POOL, task=TaskSpec.model_validate({"argv": ("x",), **spec}))
    )


def _attempt(story: Story, attempt: int, result: Result, *, reason: str = "", runs: bool = True) -> None:
    if runs:
        story.referee.process_began(f"m{attempt}", "t-0", attempt)
        story.referee.process_ended(f"m{attempt}", "t-0", attempt)
    story.write(
        TaskAttemptEnded(task_id="t-0", attempt=attempt, instance_id=None, result=result, reason=reason)
    )


def _complete(story: Story, attempts: int, result: Result = "failure") -> None:
    fact = TaskCompleted(
        task_id="t-0",
        instance=None,
        duration=0,
        success=result == "success",
        result=result,
        attempts=attempts,
    )
    story.end(fact, "t-0")


@broken("a task runs once at a time")
def beside_itself(story: Story) -> None:
    _ask_task(story)
    story.referee.process_began("m1", "t-0", 1)
    story.referee.process_began("m2", "t-0", 2)


@holds("a task runs once at a time")
def beside_itself_at_least_once(story: Story) -> None:
    _ask_task(story, at_least_once=True)
    story.referee.process_began("m1", "t-0", 1)
    story.referee.process_began("m2", "t-0", 2)


@holds("a task runs once at a time")
def one_after_the_other(story: Story) -> None:
    _ask_task(story)
    story.referee.process_began("m1", "t-0", 1)
    story.referee.process_ended("m1", "t-0", 1)
    story.referee.process_began("m2", "t-0", 2)


@holds("a task runs once at a time")
def beside_one_whose_machine_all_listings_lacked(story: Story) -> None:
    _ask_task(story)
    state, machine = story.ready()
    story.referee.process_began(machine.ref, "t-0", 1)
    for _ in range(2):
        story.wait(60)
        story.list(without=[machine])
    story.write(InstanceDestroyed(instance_id=state.id), row(over(state), over=True))
    story.referee.process_began("m2", "t-0", 2)


@broken("a task runs once at a time")
def one_attempt_twice(story: Story) -> None:
    for _ in range(2):
        story.referee.process_began("m1", "t-0", 1)
        story.referee.process_ended("m1", "t-0", 1)


@broken("a task runs once at a time")
def begun_after_the_end(story: Story) -> None:
    _ask_task(story)
    _attempt(story, 1, "failure")
    _complete(story, 1)
    story.referee.process_began("m2", "t-0", 2)


@broken("a task runs once at a time")
def told_and_never_ran(story: Story) -> None:
    state, _ = story.ready()
    story.write(TaskStarted(task_id="t-0", instance=node_instance(state), function_name="x"))


@broken("a task runs once at a time")
def over_and_still_running(story: Story) -> None:
    _ask_task(story)
    story.referee.process_began("m1", "t-0", 1)
    _attempt(story, 1, "failure", runs=False)
    _complete(story, 1)


@broken("a task has one result")
def more_attempts_than_were_told(story: Story) -> None:
    _ask_task(story)
    _attempt(story, 1, "failure")
    _complete(story, 2)


@holds("a task has one result")
def as_many_attempts_as_were_told(story: Story) -> None:
    _ask_task(story, retries=1)
    _attempt(story, 1, "failure")
    _attempt(story, 2, "success")
    _complete(story, 2, "success")


@broken("a task has one result")
def an_attempt_left_out(story: Story) -> None:
    _ask_task(story)
    _attempt(story, 2, "failure")


@broken("a task has one result")
def succeeded_and_never_ran(story: Story) -> None:
    _ask_task(story)
    _attempt(story, 1, "success", runs=False)
    _complete(story, 1, "success")


@broken("a task has one result")
def lost(story: Story) -> None:
    _attempt(story, 1, "failure")
    story.referee.at_the_end()


@broken("retries stay in their budget")
def one_retry_too_many(story: Story) -> None:
    _ask_task(story, retries=1)
    for attempt in (1, 2, 3):
        _attempt(story, attempt, "failure")


@holds("retries stay in their budget")
def all_retries_used(story: Story) -> None:
    story.pool()
    _ask_task(story, retries=1, retries_infrastructure=2)
    _attempt(story, 1, "failure")
    for attempt in (2, 3, 4):
        _attempt(story, attempt, "resource_failure", reason="gone")
    _attempt(story, 5, "failure")
    _complete(story, 5)


@broken("retries stay in their budget")
def one_lost_machine_too_many(story: Story) -> None:
    story.pool()
    _ask_task(story, retries_infrastructure=1)
    for attempt in (1, 2, 3):
        _attempt(story, attempt, "resource_failure", reason="gone")


@broken("retries stay in their budget")
def a_state_beyond_the_budget(story: Story) -> None:
    story.keep(pending("t-0", retries=1).model_copy(update={"failures": 2}))


@broken("retries stay in their budget")
def six_launches_under_one_key(story: Story) -> None:
    story.keep(requested(now=story.now, tries=6))


@broken("lines are kept")
def a_line_is_missing(story: Story) -> None:
    _task_with_a_line(story, kept=False)


@holds("lines are kept")
def every_line_is_there(story: Story) -> None:
    _task_with_a_line(story, kept=True)


def _task_with_a_line(story: Story, *, kept: bool) -> None:
    story.referee.process_began("m1", "t-1", 1)
    story.referee.process_ended("m1", "t-1", 1)
    if kept:
        for _ in range(2):  # sent again, and kept once
            story.referee.lines(_report(0))
    _ask_task(story, "t-1")
    story.write(TaskAttemptEnded(task_id="t-1", attempt=1, instance_id=None, result="success"))
    fact = TaskCompleted(task_id="t-1", instance=None, duration=0, success=True, result="success", attempts=1)
    story.end(fact, "t-1")


def _report(offset: int) -> LogLines:
    return LogLines.model_validate(
        {
            "id": 1,
            "at": 0,
            "task": "t-1",
            "attempt": 1,
            "stream": "stdout",
            "offset": offset,
            "next_offset": offset + 5,
            "lines": [("line", 0)],
        }
    )


@broken("lines are kept")
def a_gap_in_the_lines(story: Story) -> None:
    story.referee.lines(_report(5))
