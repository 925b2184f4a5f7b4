"""Every rule decides about every message in every state, and what it decides can be kept and shown."""

from itertools import product
from typing import Any, get_args

import pytest

from actors import messages
from actors.address import Kind
from actors.decision import Decision, View, World
from actors.events import Envelope, Request
from actors.instance.state import InstanceState, Ready
from actors.node.state import NodeState
from actors.pool import money, scale, settle
from actors.pool.rules import decide as pool_decide
from actors.pool.state import ClusterState, Destroyed, PoolState
from actors.task.state import TaskState
from providers.agent.wire import Report
from tests.actors import kinds
from tests.actors.index import built
from tests.actors.model import CAPABILITIES, offer
from tests.actors.turns import CONDEMN, JSON, OWNER, RULES

ALL: dict[Kind, tuple[list[Any], list[Any]]] = {
    "instance": (kinds.INSTANCES, kinds.INSTANCE_MESSAGES),
    "node": (kinds.NODES, kinds.NODE_MESSAGES),
    "task": (kinds.TASKS, kinds.TASK_MESSAGES),
    "pool": (kinds.POOLS, kinds.POOL_MESSAGES),
}
WORLDS = (World(), World({"sim": (offer(), offer("b", spot=False))}, {"sim": CAPABILITIES}, {}))


def neighbours(kind: Kind, state: Any) -> View:
    """What the rules of one actor look at, with others around it."""
    some: dict[Any, Any] = {
        kinds.ADDRESSES["pool"]: kinds.POOLS[0],
        kinds.ADDRESSES["node"]: kinds.NODES[-1],
        kinds.ADDRESSES["instance"]: next(one for one in kinds.INSTANCES if isinstance(one, Ready)),
        kinds.ADDRESSES["task"]: next(one for one in kinds.TASKS if one.status == "running"),
    }
    some[kinds.ADDRESSES[kind]] = state
    return View(
        kinds.NOW, 0.0, 0.5, OWNER, 1, WORLDS[1], built({k: v for k, v in some.items() if v is not None})
    )


def sound(kind: Kind, decision: Any) -> None:
    """Whether a decision can be committed."""
    assert isinstance(decision, Decision)
    if decision.state is not None:
        RULES[kind].check(decision.state)
        assert JSON[kind].validate_json(JSON[kind].dump_json(decision.state)) == decision.state
    for published in decision.facts:
        envelope = Envelope(
            seq=1,
            at=0,
            pool="p",
            request_id=published.request_id,
            ends=published.ends,
            event=published.event,
        )
        assert "" not in envelope.ends
        assert len(set(envelope.ends)) == len(envelope.ends)


@pytest.mark.parametrize("kind", ALL)
def test_every_message_in_every_state(kind: Kind) -> None:
    states, heard = ALL[kind]
    for state in (None, *states):
        view = neighbours(kind, state)
        for message in heard:
            if kind == "node" and state is None:
                continue  # the loop makes nodes
            before = None if state is None else state.model_dump_json()
            decision = RULES[kind].decide(state, message, view)
            sound(kind, decision)
            again = RULES[kind].decide(state, message, view)
            assert again == decision, "a rule is pure"
            assert state is None or state.model_dump_json() == before


@pytest.mark.parametrize("kind", ALL)
def test_every_state_survives_a_restart_and_a_spent_budget(kind: Kind) -> None:
    for state in ALL[kind][0]:
        view = neighbours(kind, state)
        RULES[kind].check(state)
        assert JSON[kind].validate_json(JSON[kind].dump_json(state)) == state
        for effect in RULES[kind].resume(state, view):
            assert effect is not None
        sound(kind, CONDEMN[kind].condemn(state, view))


STEPS = (money.account, scale.scale, settle.steer, settle.promote, settle.place, settle.conclude)


@pytest.mark.parametrize("step", STEPS, ids=lambda it: it.__name__)
def test_every_pool_can_be_settled_among_every_node(step: Any) -> None:
    for pool, node, world in product(kinds.POOLS, kinds.NODES, WORLDS):
        if isinstance(pool, Destroyed):
            continue
        some = {kinds.ADDRESSES["pool"]: pool, kinds.ADDRESSES["node"]: node}
        view = View(kinds.NOW, 0.0, 0.5, OWNER, 1, world, built(some))
        sound("pool", step(pool, view))


def test_every_task_can_be_scheduled_beside_every_machine() -> None:
    for node, instance, task in product(kinds.NODES[-8:], kinds.INSTANCES[::3], kinds.TASKS[:9]):
        states = (kinds.POOLS[0], node, instance, task)
        some = dict(zip(kinds.ADDRESSES.values(), states, strict=True))
        view = View(kinds.NOW, 0.0, 0.5, OWNER, 1, WORLDS[1], built(some))
        for address, _ in settle.schedule(kinds.POOLS[0], view):
            assert address == kinds.ADDRESSES["task"]
            assert task.status == "pending"
            assert instance.status == "ready"


@pytest.mark.parametrize(
    ("union", "there"),
    [
        (InstanceState, kinds.INSTANCES),
        (NodeState, kinds.NODES),
        (TaskState, kinds.TASKS),
        (PoolState, kinds.POOLS),
        (ClusterState, [cluster for pool in kinds.POOLS for cluster in pool.clusters.values()]),
        (messages.InstanceMessage, kinds.INSTANCE_MESSAGES),
        (messages.NodeMessage, kinds.NODE_MESSAGES),
        (messages.TaskMessage, kinds.TASK_MESSAGES),
        (messages.PoolMessage, kinds.POOL_MESSAGES),
        (Report, kinds.REPORTS),
        (Request, kinds.REQUESTS),
    ],
)
def test_none_is_missing_here(union: Any, there: list[Any]) -> None:
    assert {type(one) for one in there} == set(get_args(union))


@pytest.mark.parametrize("request_", kinds.REQUESTS, ids=lambda it: type(it).__name__)
def test_every_request_is_taken_over_or_ended_or_handed_on(request_: Request) -> None:
    envelope = Envelope(seq=9, at=0, pool="pool", request_id="r", principal="user", event=request_)
    for pool in (None, *kinds.POOLS):
        decision = pool_decide(pool, messages.RequestHeard(envelope), neighbours("pool", pool))
        ends = [request for published in decision.facts for request in published.ends]
        handed_on = [one for _, one in decision.tells if "r" in repr(one)]
        assert ends.count("r") + list(decision.taken).count("r") + len(handed_on) == 1, (pool, decision)
