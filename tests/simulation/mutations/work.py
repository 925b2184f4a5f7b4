"""Planted in tasks, and in what is said between daemon and agent."""

from typing import Any

from actors.decision import Decision, View
from actors.events import TaskAttemptEnded
from actors.index import Index
from actors.links import Links
from actors.messages import MachineGone, StopWanted
from actors.policy import results
from actors.task import rules as task_rules
from actors.task import state as tasks
from providers.agent.agent import Core
from tests.simulation.mutations.patching import Decide, Mutation, Patch, never, without


def forget_task_stop(patch: Patch) -> None:
    """A stop that comes while the agent has not answered to the start yet is taken, and forgotten."""

    def heard(decide: Decide, state: Any, message: Any, view: View) -> Decision:
        if isinstance(state, tasks.Assigned | tasks.Created) and isinstance(message, StopWanted):
            return Decision(state, taken=() if message.request_id is None else (message.request_id,))
        return decide(state, message, view)

    patch.hear(task_rules, heard)


def retry_once_more(patch: Patch) -> None:
    """The budget of retries is off by one."""

    def make(may_retry: Any) -> Any:
        def generous(state: Any, verdict: results.Verdict, view: View) -> bool:
            if not verdict.infrastructure:
                return bool(state.failures <= state.spec.retries)
            return bool(may_retry(state, verdict, view))

        return generous

    patch.put(task_rules, "_may_retry", make)


def hold_back_for_ever(patch: Patch) -> None:
    """The timer of a task that waits before its retry is forgotten."""
    patch.put(tasks.Pending, "due_at", never)


def end_attempts_silently(patch: Patch) -> None:
    """An attempt whose machine is gone is not told to have ended, only that the task waits again."""

    def heard(decide: Decide, state: Any, message: Any, view: View) -> Decision:
        decision = decide(state, message, view)
        return without(decision, TaskAttemptEnded) if isinstance(message, MachineGone) else decision

    patch.hear(task_rules, heard)


def lose_slots(patch: Patch) -> None:
    """The slot that a task leaves stays taken until something else happens to the machine."""

    def make(count: Any) -> Any:
        def partly(self: Index, task: str, old: Any, new: Any) -> None:
            left = getattr(old, "instance_id", None)
            had = left in self.free, left in self.buffers
            count(self, task, old, new)
            if left is not None and getattr(new, "instance_id", None) != left:
                for slots, was_free in zip((self.free, self.buffers), had, strict=True):
                    if not was_free:
                        slots.pop(left, None)

        return partly

    patch.put(Index, "_task", make)


def renew_no_lease(patch: Patch) -> None:
    """Leases are not renewed while a stream is open: machines end themselves under a daemon that works."""
    patch.put(Links, "_renew_leases", lambda renew: lambda self: None)


def go_on_after_what_was_sent(patch: Patch) -> None:
    """On a new stream an agent goes on after what it had sent on the last one, heard or not."""

    def make(cut: Any) -> Any:
        def keeping(self: Core) -> None:
            sent = self.sent
            cut(self)
            self.sent = min(sent, len(self.outbox))

        return keeping

    patch.put(Core, "_cut", make)


def take_one_too_many(patch: Patch) -> None:
    """An agent's count of its slots is off by one."""

    def make(configure: Any) -> Any:
        def generous(self: Core, config: Any) -> None:
            configure(self, config)
            self.slots += 1

        return generous

    patch.put(Core, "_configure", make)


ALL: tuple[Mutation, ...] = (
    forget_task_stop,
    retry_once_more,
    hold_back_for_ever,
    end_attempts_silently,
    lose_slots,
    renew_no_lease,
    go_on_after_what_was_sent,
    take_one_too_many,
)
