"""Planted in pools and nodes: who is wanted, who replaces whom, who is told when it is over."""

from dataclasses import replace
from typing import Any

from actors.address import Address
from actors.decision import Decision, View
from actors.messages import (
    Due,
    Fill,
    InstanceLeaving,
    InstanceStays,
    LeaveWanted,
    Message,
    Move,
    Retire,
)
from actors.node import rules as node_rules
from actors.node import state as nodes
from actors.pool import rolling, settle
from actors.pool import rules as pool_rules
from actors.pool.state import Active
from actors.pool.wanted import told
from tests.simulation.mutations.patching import Decide, Mutation, Patch, without


def count_nodes(patch: Patch) -> None:
    """Nodes are counted, not compared: when two more are wanted, the next two numbers are filled."""

    def make(steer: Any) -> Any:
        def counting(state: Any, view: View) -> Decision:
            if not isinstance(state, Active) or state.steered == (wish := told(state)):
                decision: Decision = steer(state, view)
                return decision
            had, wanted = state.steered[0], wish[0]
            tells: list[tuple[Address, Message]] = [
                (("node", str(node)), Fill()) for node in range(had, wanted)
            ]
            retire = Retire("scale_in", state.spec.drain_timeout)
            tells += [(("node", str(node)), retire) for node in reversed(range(wanted, had))]
            steered = state.model_copy(update={"steered": wish})
            return Decision(steered, tuple(tells))

        return counting

    patch.put(settle, "steer", make)


def give_a_rank_twice(patch: Patch) -> None:
    """A notice is withdrawn, and the machine that was ordered in its place comes and stays as well."""

    def heard(decide: Decide, state: Any, message: Any, view: View) -> Decision:
        decision = decide(state, message, view)
        return without(decision, LeaveWanted) if isinstance(message, InstanceStays) else decision

    patch.hear(node_rules, heard)


def wait_for_the_end(patch: Patch) -> None:
    """A machine that is being taken is replaced when it is gone, and not when that becomes known."""

    def heard(decide: Decide, state: Any, message: Any, view: View) -> Decision:
        if isinstance(state, nodes.Filled) and isinstance(message, InstanceLeaving) and message.works:
            return Decision(state)
        return decide(state, message, view)

    patch.hear(node_rules, heard)


def keep_the_replaced(patch: Patch) -> None:
    """The new machine is set up, and nobody tells the old one to leave."""

    def make(filled: Any) -> Any:
        def kept(*args: Any) -> Decision:
            return without(filled(*args), LeaveWanted)

        return kept

    patch.put(node_rules, "_filled", make)


def ask_no_more(patch: Patch) -> None:
    """The timer of a node that waits for a market is forgotten: only news of prices wakes it."""

    def heard(decide: Decide, state: Any, message: Any, view: View) -> Decision:
        if isinstance(state, nodes.Filling | nodes.Replacing) and isinstance(message, Due):
            return Decision(state)
        return decide(state, message, view)

    patch.hear(node_rules, heard)


def supersede_silently(patch: Patch) -> None:
    """A resize that a newer one overtakes is dropped, and nobody says so."""
    patch.put(pool_rules, "_superseded", lambda ended: lambda state, nodes: (ended(state, nodes)[0], ()))


def miss_deadlines(patch: Patch) -> None:
    """A request that waits for machines is not ended at its deadline."""

    def heard(decide: Decide, state: Any, message: Any, view: View) -> Decision:
        if isinstance(state, Active) and isinstance(message, Due) and state.waiting:
            patient = tuple(one.model_copy(update={"deadline": float("inf")}) for one in state.waiting)
            decision = decide(state.model_copy(update={"waiting": patient}), message, view)
            assert isinstance(decision.state, Active)
            kept = decision.state.model_copy(update={"waiting": state.waiting})
            return replace(decision, state=kept)
        return decide(state, message, view)

    patch.hear(pool_rules, heard)


def forget_clusters(patch: Patch) -> None:
    """A pool that ends leaves its networks and keys where they are."""

    def make(close: Any) -> Any:
        def leaving(state: Any, view: View) -> Decision:
            kept = {name: one for name, one in state.clusters.items() if one.status != "open"}
            decision: Decision = close(state.model_copy(update={"clusters": kept}), view)
            return decision

        return leaving

    patch.put(settle, "_close", make)


def work_in_a_pause(patch: Patch) -> None:
    """A paused pool goes on launching and starting tasks."""

    def awake(step: Any) -> Any:
        def works(state: Any, view: View) -> Any:
            paused = getattr(state, "paused", None)
            if paused is None:
                return step(state, view)
            decision = step(state.model_copy(update={"paused": None}), view)
            if not isinstance(decision, Decision) or decision.state is None:
                return decision
            return replace(decision, state=decision.state.model_copy(update={"paused": paused}))

        return works

    for name in ("place", "schedule"):
        patch.put(settle, name, awake)


def send_away_at_the_order(patch: Patch) -> None:
    """A machine for which another is ordered leaves at once, and not when that is ready."""

    def heard(decide: Decide, state: Any, message: Any, view: View) -> Decision:
        decision = decide(state, message, view)
        if not (isinstance(message, Move) and isinstance(state, nodes.Filled)):
            return decision
        return decision.also(tells=((("instance", state.instance_id), LeaveWanted("moved", 0)),))

    patch.hear(node_rules, heard)


def replace_all_at_once(patch: Patch) -> None:
    """Every machine that is not what the spec asks for is replaced at the same time."""
    patch.put(rolling, "_room", lambda room: lambda state, index: 1000)


ALL: tuple[Mutation, ...] = (
    count_nodes,
    give_a_rank_twice,
    wait_for_the_end,
    keep_the_replaced,
    ask_no_more,
    supersede_silently,
    miss_deadlines,
    forget_clusters,
    work_in_a_pause,
    send_away_at_the_order,
    replace_all_at_once,
)
