"""Tests of the tests: faults planted in the product, each of which the seeds must find."""

from collections.abc import Callable
from typing import Any

import pytest

from actors.decision import Decision, View
from actors.instance import endings, parts
from actors.instance import rules as instance_rules
from actors.instance.state import Destroying, InstanceState, Ready
from actors.loop import Loop
from actors.messages import (
    InstanceMessage,
    LinkDown,
    MachineGone,
    MachineUnreachable,
    TaskMessage,
    TerminateSucceeded,
)
from actors.task import rules as task_rules
from actors.task.state import Running, TaskState
from providers.model import Capabilities
from providers.simulated.config import SimulatedConfig
from tests.simulation.run import run_seed

SEEDS = range(1, 13)
Plant = Callable[[pytest.MonkeyPatch], None]


def hide_longer(patch: pytest.MonkeyPatch) -> None:
    """A provider hides young machines longer than it says: absence is believed too early."""
    honest = SimulatedConfig.capabilities

    def lying(self: SimulatedConfig) -> Capabilities:
        return honest(self).model_copy(update={"visible_within_s": 0.0})

    patch.setattr(SimulatedConfig, "capabilities", lying)


def trust_terminate(patch: pytest.MonkeyPatch) -> None:
    """A terminate that was accepted counts as the end of the machine."""
    decide = instance_rules.decide

    def hasty(state: InstanceState | None, message: InstanceMessage, view: View) -> Decision:
        if isinstance(state, Destroying) and isinstance(message, TerminateSucceeded):
            return endings.gone(state, state.reason, view, None)
        return decide(state, message, view)

    patch.setattr(instance_rules, "decide", hasty)


def run_beside(patch: pytest.MonkeyPatch) -> None:
    """A task whose machine can't be talked to starts anew, as if it had surely ended."""
    decide, tasks = task_rules.decide, instance_rules.decide

    def hasty(state: TaskState | None, message: TaskMessage, view: View) -> Decision:
        if isinstance(state, Running) and isinstance(message, MachineUnreachable):
            return decide(state, MachineGone(message.instance_id, "gone"), view)
        return decide(state, message, view)

    def telling(state: InstanceState | None, message: InstanceMessage, view: View) -> Decision:
        decision = tasks(state, message, view)
        if isinstance(state, Ready) and isinstance(message, LinkDown):
            return decision.also(tells=parts.to_tasks(state, MachineUnreachable(state.id), view))
        return decision

    patch.setattr(task_rules, "decide", hasty)
    patch.setattr(instance_rules, "decide", telling)


def forget_what_is_owed(patch: pytest.MonkeyPatch) -> None:
    """After a restart nothing is watched, connected or called again."""
    patch.setattr(Loop, "_owed", lambda self: ())


def act_before_commit(patch: pytest.MonkeyPatch) -> None:
    """Effects start before the turn is durable."""
    commit_of: Callable[..., Any] = Loop._commit_of

    def early(self: Loop, draft: Any, now: float) -> Any:
        commit = commit_of(self, draft, now)
        for effect, _, _ in draft.effects:
            if type(effect).__name__ in ("StartTask", "Acknowledge"):
                self._outside.word(self.name, effect)
        return commit

    patch.setattr(Loop, "_commit_of", early)


@pytest.mark.parametrize(
    "plant", [hide_longer, trust_terminate, run_beside, forget_what_is_owed, act_before_commit]
)
def test_a_planted_fault_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    outcomes = (run_seed(seed, days=0.5) for seed in SEEDS)
    found = next((outcome for outcome in outcomes if outcome.broken is not None), None)
    assert found is not None
