"""Every event has words."""

import inspect
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import events
from actors.events import (
    BudgetReached,
    Envelope,
    Error,
    Event,
    InstanceDestroyed,
    LaunchRefused,
    PoolParked,
    PoolReady,
    TaskAttemptEnded,
    TaskCompleted,
)
from controller import sentences
from controller.sentences import called_off, one_line, told

TELEMETRY = {events.Metric, events.Log, events.ConsoleOutput}  # they have no seq, and are never told


def envelope(event: Event, principal: str = "") -> Envelope:
    return Envelope(seq=1, at=0, pool="web", event=event, principal=principal)


def test_every_event_has_a_sentence_of_its_own() -> None:
    source = inspect.getsource(sentences)
    kinds = {kind for union in get_args(Event) for kind in (get_args(union) or (union,))} - TELEMETRY
    assert len(kinds) > 50
    assert [kind.__name__ for kind in kinds if f"case e.{kind.__name__}(" not in source] == []


@pytest.mark.parametrize(
    ("event", "level", "text"),
    [
        (PoolReady(pool="web", nodes=1), "SUCCESS", "pool ready: 1 node"),
        (PoolParked(pool="web", reason="all\nfailed"), "ERROR", "pool parked: all failed"),
        (
            LaunchRefused(instance_id="i", market="m", fault="capacity", detail="none left"),
            "WARNING",
            "launch of i in m refused: capacity (none left)",
        ),
        (
            InstanceDestroyed(instance_id="i", reason="user", cost_micro_usd=20_000),
            "INFO",
            "i is gone (user), cost $0.02",
        ),
        (
            BudgetReached(
                pool="web", period="day", spent_micro_usd=10**6, limit_micro_usd=2 * 10**6, then="drain"
            ),
            "ERROR",
            "budget reached: $1.00 of $2.00 a day; then: drain",
        ),
        (
            TaskAttemptEnded(task_id="t", attempt=2, instance_id="i", result="failure", exit_code=3),
            "WARNING",
            "task t: attempt 2 ended: failure, exit code 3",
        ),
        (
            TaskCompleted(task_id="t", instance=None, duration=2, success=True),
            "SUCCESS",
            "task t done in 2.0s",
        ),
        (
            TaskCompleted(task_id="t", instance=None, duration=0.000544, success=True),
            "SUCCESS",
            "task t done in 1ms",
        ),
        (
            TaskCompleted(
                task_id="t",
                instance=None,
                duration=1,
                success=False,
                result="failure",
                error="exit code 3",
                exit_code=3,
            ),
            "ERROR",
            "task t: exit code 3",
        ),
        (
            TaskAttemptEnded(task_id="t", attempt=1, instance_id="i", result="killed", signal=9),
            "WARNING",
            "task t: attempt 1 ended: killed, SIGKILL",
        ),
        (
            TaskAttemptEnded(
                task_id="t", attempt=1, instance_id="i", result="resource_failure", reason="oom", signal=77
            ),
            "WARNING",
            "task t: attempt 1 ended: resource failure (oom), signal 77",
        ),
        (Error(request_id="r", message="no such zone", fatal=True), "ERROR", "no such zone"),
        (
            Error(request_id="r", message="cancelled by shutdown", fatal=True),
            "INFO",
            "request r: cancelled by shutdown",
        ),
    ],
)
def test_sentences(event: Event, level: str, text: str) -> None:
    assert told(envelope(event)) == (level, text)


def test_who_asked_is_told() -> None:
    assert told(envelope(PoolReady(pool="web", nodes=2), "token:ci"))[1].endswith(
        "2 nodes (asked by token:ci)"
    )


def test_only_what_somebody_called_off_is_no_failure() -> None:
    assert called_off(Error(request_id="r", message="cancelled by shutdown"))
    assert not called_off(Error(request_id="r", message="the provider cancelled it"))


@given(st.text())
def test_a_line_is_a_line(text: str) -> None:
    line = one_line(text, 80)
    assert line.isprintable() and len(line) <= 80
