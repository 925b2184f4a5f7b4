"""Budgets of bugs."""

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.address import Address, Kind
from actors.supervisor import BUDGETS, Bug, Supervisor, attempt, attempt_call

KINDS: list[Kind] = ["task", "instance", "node", "pool", "market"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_is_spent_by_one_bug_more_than_it_allows(kind: Kind) -> None:
    budget, supervisor = BUDGETS[kind], Supervisor()
    spent = [supervisor.failed((kind, "a"), 100.0) for _ in range(budget.bugs_max + 1)]
    assert spent == [False] * budget.bugs_max + [True]
    assert not supervisor.failed((kind, "a"), 100.0)  # it starts anew


@pytest.mark.parametrize("kind", KINDS)
def test_bugs_that_are_far_apart_are_forgiven(kind: Kind) -> None:
    supervisor, budget = Supervisor(), BUDGETS[kind]
    step = budget.window_s / budget.bugs_max
    assert not any(supervisor.failed((kind, "a"), i * step) for i in range(200))


@given(
    bugs=st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from("ab"), st.floats(0, 200)), max_size=60)
)
def test_a_budget_is_spent_exactly_when_its_window_holds_too_many(
    bugs: list[tuple[Kind, str, float]],
) -> None:
    supervisor, now = Supervisor(), 0.0
    since: dict[Address, list[float]] = {}
    for kind, name, later in bugs:
        now += later
        times = since.setdefault((kind, name), [])
        times.append(now)
        recent = [at for at in times if at > now - BUDGETS[kind].window_s]
        spent = len(recent) > BUDGETS[kind].bugs_max
        assert supervisor.failed((kind, name), now) == spent
        since[kind, name] = [] if spent else recent


def test_what_was_long_ago_is_forgotten() -> None:
    supervisor = Supervisor()
    for i in range(5000):
        supervisor.failed(("task", str(i)), float(i))
    assert len(supervisor._bugs) <= 1001 + 600  # those of the longest window may be kept


def test_a_bug_in_a_rule_becomes_a_value() -> None:
    def rule() -> int:
        raise KeyError("planted")

    bug = attempt(("task", "a"), "Due", rule)
    assert isinstance(bug, Bug)
    assert (bug.address, bug.message, type(bug.error)) == (("task", "a"), "Due", KeyError)
    assert attempt(("task", "a"), "Due", lambda: 5) == 5


@pytest.mark.anyio
async def test_a_bug_in_a_call_becomes_an_answer_and_a_cancellation_does_not() -> None:
    async def call() -> str:
        raise KeyError("planted")

    assert await attempt_call(call, lambda error: type(error).__name__) == "KeyError"
    answers: list[str] = []

    async def endless() -> str:
        await anyio.sleep_forever()
        return "never"

    with anyio.move_on_after(0.01) as scope:
        answers.append(await attempt_call(endless, lambda error: "answer"))
    assert scope.cancelled_caught
    assert not answers
