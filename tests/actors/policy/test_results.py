"""The result table: section 7 of the seed systems' reference, with the design's choices, row by row."""

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.events import Result
from actors.policy.results import Verdict, of_ended, of_gone
from providers.agent.wire import Ended

FAILURE_CODES = [1, 2, 77, 124, 125, 126, 127, 128, 129, 130, 136, 138, 142, 144, 255]


def ended(**how: Any) -> Ended:
    """The agent's word on an attempt."""
    return Ended(id=1, task="t", attempt=1, **how)


def row(stopped: str | None, expected: tuple[Any, ...], **how: Any) -> Any:
    """One row of the table."""
    name = " ".join(f"{key}={value}" for key, value in how.items()) + (f" after {stopped}" if stopped else "")
    return pytest.param(how, stopped, Verdict(*expected), id=name)


# result, reason, lost infrastructure is to blame, counts against the retry budget
TABLE = [
    # 1: never ran
    row(None, ("startup_failure", "spawn"), started=False, why="spawn"),
    row(None, ("startup_failure", "spawn"), started=False, why="spawn", code=126),
    row(None, ("startup_failure", "spawn"), started=False, why="spawn", code=127),
    row(None, ("resource_failure", "preempted", True, False), started=False, why="notice"),
    row(None, ("resource_failure", "preempted", True, False), started=False, why="lease"),
    row("user", ("terminated", "user", True, False), started=False, why="stop"),
    row(None, ("unknown", "lost", True), started=False, why="lost"),
    row(None, ("unknown", "never started", True), started=False),
    # 2: evidence of memory running out goes before everything else
    row(None, ("resource_failure", "oom"), oom=True, code=137),
    row("user", ("resource_failure", "oom"), oom=True, signal=9, why="stop"),
    row(None, ("resource_failure", "oom"), oom=True, signal=9, why="notice"),
    # 3: the machine was taken, or nobody saw the end
    row(None, ("resource_failure", "preempted", True), why="notice", signal=15),
    row(None, ("resource_failure", "preempted", True), why="notice", code=0),
    row(None, ("resource_failure", "lease", True), why="lease", signal=9),
    row(None, ("unknown", "lost", True), why="lost"),
    # 4: killed
    row(None, ("killed", ""), signal=9),
    row(None, ("killed", ""), code=137),
    row("user", ("killed", "user"), signal=9, why="stop"),
    row(None, ("killed", "timeout"), signal=9, why="timeout"),
    # 5: terminated
    row(None, ("terminated", ""), signal=15),
    row(None, ("terminated", ""), code=143),
    row("user", ("terminated", "user"), signal=15, why="stop"),
    row("user", ("terminated", "user"), code=0, why="stop"),
    row(None, ("terminated", "timeout"), code=0, why="timeout"),
    # 6: success, also when a stop came too late
    row(None, ("success", ""), code=0),
    row("user", ("success", ""), code=0),
    # 7: its own failure; 125 to 127 of a process that was seen running too
    *(row(None, ("failure", ""), code=code) for code in FAILURE_CODES),
    *(row(None, ("failure", ""), signal=signal) for signal in (1, 2, 6, 11)),
    row("user", ("failure", "user"), code=3, why="stop"),
    row(None, ("failure", "timeout"), code=3, why="timeout"),
    # 8: nothing known
    row(None, ("unknown", "")),
    row(None, ("unknown", ""), code=256),
    row(None, ("unknown", ""), code=-1),
]


@pytest.mark.parametrize(("how", "stopped", "expected"), TABLE)
def test_the_table(how: dict[str, Any], stopped: str | None, expected: Verdict) -> None:
    assert of_ended(ended(**how), stopped) == expected


def test_every_result_is_in_the_table() -> None:
    assert {param.values[2].result for param in TABLE} == set(get_args(Result))


@pytest.mark.parametrize("reason", ["preempted", "unreachable", "scale_in", "user"])
def test_a_machine_that_is_gone_is_a_resource_failure_with_its_reason(reason: str) -> None:
    assert of_gone(reason) == Verdict("resource_failure", reason, True)


def test_other_reasons_are_gone() -> None:
    assert of_gone("failed") == Verdict("resource_failure", "gone", True)


@given(
    code=st.none() | st.integers(-1, 300),
    signal=st.none() | st.integers(1, 31),
    why=st.sampled_from(["", "stop", "notice", "timeout", "lease", "lost", "spawn"]),
    started=st.booleans(),
    oom=st.booleans(),
    stopped=st.sampled_from([None, "user", "moved"]),
)
def test_only_a_clean_exit_is_a_success(
    code: int | None, signal: int | None, why: Any, started: bool, oom: bool, stopped: str | None
) -> None:
    verdict = of_ended(ended(code=code, signal=signal, why=why, started=started, oom=oom), stopped)
    assert verdict.result in get_args(Result)
    clean = code == 0 and signal not in (9, 15) and started and not oom and why in ("", "spawn")
    assert (verdict.result == "success") == clean
    assert verdict.counts or verdict.infrastructure
