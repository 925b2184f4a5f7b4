"""Planted in what makes, watches and ends machines: the instance's rules and the gateway."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from actors.decision import Decision, View
from actors.events import InstanceBootstrapped
from actors.instance import endings, parts
from actors.instance import rules as instance_rules
from actors.instance import state as states
from actors.messages import (
    AbsenceObserved,
    LaunchFailed,
    LaunchSucceeded,
    LeaveWanted,
    TerminateFailed,
    TerminateSucceeded,
)
from providers.errors import Fault
from providers.gateway import Gateway
from providers.model import Listing
from tests.simulation.mutations.patching import Decide, Mutation, Patch, never


class _Seen:
    """A provider whose listings are read wrongly."""

    def __init__(self, provider: Any, read: Callable[[Listing], Listing]) -> None:
        self._provider, self._read = provider, read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._provider, name)

    async def observe(self, owner: str) -> Listing:
        return self._read(await self._provider.observe(owner))


def _after_init(patch: Patch, change: Callable[[Gateway], None]) -> None:
    def make(init: Any) -> Any:
        def changed(self: Gateway, *args: Any, **named: Any) -> None:
            init(self, *args, **named)
            change(self)

        return changed

    patch.put(Gateway, "__init__", make)


# --- launching ------------------------------------------------------------------------------------


def relaunch_on_unknown(patch: Patch) -> None:
    """A launch without an answer counts as not sent: it is called again, and nobody looks first."""

    def heard(decide: Decide, state: Any, message: Any, view: View) -> Decision:
        if isinstance(message, LaunchFailed) and message.fault is Fault.UNKNOWN:
            message = replace(message, fault=Fault.NOT_SENT)
        return decide(state, message, view)

    patch.hear(instance_rules, heard)


def forget_stop_wanted(patch: Patch) -> None:
    """A machine that is not wanted any more while its launch call is out comes all the same, and stays."""

    def heard(decide: Decide, state: Any, message: Any, view: View) -> Decision:
        if isinstance(state, states.Requested) and isinstance(message, LeaveWanted):
            return Decision(state)
        return decide(state, message, view)

    patch.hear(instance_rules, heard)


def forget_visible_within(patch: Patch) -> None:
    """A young machine that listings do not show yet is believed gone."""

    def change(gateway: Gateway) -> None:
        gateway.capabilities = gateway.capabilities.model_copy(update={"visible_within_s": 0.0})

    _after_init(patch, change)


def launched_untold(patch: Patch) -> None:
    """A machine that a look-up found is taken over without the fact that it was launched."""

    def heard(decide: Decide, state: Any, message: Any, view: View) -> Decision:
        decision = decide(state, message, view)
        if isinstance(state, states.Requested) and not isinstance(message, LaunchSucceeded):
            return Decision(
                decision.state,
                decision.tells,
                decision.effects,
                tuple(one for one in decision.facts if one.event.kind != "instance_launched"),
                decision.taken,
            )
        return decision

    patch.hear(instance_rules, heard)


def end_a_request_twice(patch: Patch) -> None:
    """The set-up of a replacement ends the request that InstanceReplaced ends as well."""

    def heard(decide: Decide, state: Any, message: Any, view: View) -> Decision:
        decision = decide(state, message, view)
        if not isinstance(state, states.Bootstrapping) or state.replacing is None or state.again:
            return decision
        facts = tuple(
            replace(one, ends=(state.request_id, *one.ends))
            if isinstance(one.event, InstanceBootstrapped)
            else one
            for one in decision.facts
        )
        return replace(decision, facts=facts)

    patch.hear(instance_rules, heard)


# --- what listings prove --------------------------------------------------------------------------


def believe_one_missing(patch: Patch) -> None:
    """One complete listing without a machine is enough: it is gone."""

    def make(count: Any) -> Any:
        def twice(self: Gateway, *args: Any) -> None:
            for _ in range(2):
                count(self, *args)

        return twice

    patch.put(Gateway, "_count_missing", make)


# --- ending ---------------------------------------------------------------------------------------


def trust_terminate(patch: Patch) -> None:
    """A terminate that was accepted counts as the end of the machine."""

    def heard(decide: Decide, state: Any, message: Any, view: View) -> Decision:
        if isinstance(state, states.Destroying) and isinstance(message, TerminateSucceeded):
            message = AbsenceObserved()
        return decide(state, message, view)

    patch.hear(instance_rules, heard)


def swallow_terminate(patch: Patch) -> None:
    """A terminate that failed counts as the end of the machine: it is surely gone already."""

    def heard(decide: Decide, state: Any, message: Any, view: View) -> Decision:
        if isinstance(state, states.Destroying) and isinstance(message, TerminateFailed):
            message = AbsenceObserved()
        return decide(state, message, view)

    patch.hear(instance_rules, heard)


def terminate_once(patch: Patch) -> None:
    """Terminate is called once, and then waited for."""
    patch.put(states.Destroying, "due_at", never)


def lose_tasks_of_the_gone(patch: Patch) -> None:
    """Tasks do not hear that their machine is gone, and wait for word of it for ever."""

    def make(gone: Any) -> Any:
        def silent(*args: Any, **named: Any) -> Decision:
            decision: Decision = gone(*args, **named)
            return Decision(
                decision.state,
                tuple(tell for tell in decision.tells if tell[0][0] != "task"),
                decision.effects,
                decision.facts,
            )

        return silent

    patch.put(endings, "gone", make)


# --- dollars --------------------------------------------------------------------------------------


def pay_from_the_answer(patch: Patch) -> None:
    """What a machine costs is counted from when its launch was answered, not from when it was made."""
    patch.put(parts, "billed", lambda billed: lambda state, sighting: state)


def pay_until_it_is_noticed(patch: Patch) -> None:
    """What a machine costs is counted until its absence is believed, not until it ended."""

    def make(gone: Any) -> Any:
        def late(state: Any, reason: str, view: View, at: float | None) -> Decision:
            decision: Decision = gone(state, reason, view, view.now)
            return decision

        return late

    patch.put(endings, "gone", make)


# --- notices and patience -------------------------------------------------------------------------


def wait_for_an_address_for_ever(patch: Patch) -> None:
    """The timer of a machine that boots is forgotten: one that never comes up is waited for."""
    patch.put(states.Provisioning, "due_at", never)


def wait_for_the_silent_for_ever(patch: Patch) -> None:
    """The timer of a machine that fell silent is forgotten: its node is never filled again."""
    patch.put(states.Ready, "due_at", never)


def look_no_more(patch: Patch) -> None:
    """The timer of an order is forgotten: a throttled launch, or a look that found nothing, is the last."""
    patch.put(states.Requested, "due_at", never)


ALL: tuple[Mutation, ...] = (
    relaunch_on_unknown,
    forget_stop_wanted,
    forget_visible_within,
    launched_untold,
    end_a_request_twice,
    believe_one_missing,
    trust_terminate,
    swallow_terminate,
    terminate_once,
    lose_tasks_of_the_gone,
    pay_from_the_answer,
    pay_until_it_is_noticed,
    wait_for_an_address_for_ever,
    wait_for_the_silent_for_ever,
    look_no_more,
)
