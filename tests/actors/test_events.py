"""The public contract: names, fields and defaults, and that no part of it is dead."""

import ast
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

import actors
from actors import effects, events, messages
from actors.events import Envelope, Event, EventJson, Fact, Request, RequestJson
from actors.instance.state import InstanceState
from actors.node.state import NodeState
from actors.pool.state import ClusterState, PoolState
from actors.task.state import TaskState
from providers.agent.wire import Command, Report

ROOT = Path(actors.__file__).parent.parent
REQUIRED = object()

# The main seed's events: every field in order, with its default.
SEED: dict[type[BaseModel], dict[str, object]] = {
    events.ClusterRequested: {
        "request_id": REQUIRED,
        "provider": REQUIRED,
        "spec": REQUIRED,
        "reply_to": None,
    },
    events.InstanceRequested: {
        "request_id": REQUIRED,
        "provider": REQUIRED,
        "cluster_id": REQUIRED,
        "node_id": REQUIRED,
        "reply_to": None,
        "replacing": None,
    },
    events.ShutdownRequested: {"cluster_id": REQUIRED, "reply_to": None},
    events.BootstrapRequested: {
        "request_id": REQUIRED,
        "instance": REQUIRED,
        "cluster_id": REQUIRED,
        "reply_to": None,
    },
    events.ClusterProvisioned: {"request_id": REQUIRED, "cluster_id": REQUIRED, "provider": REQUIRED},
    events.InstanceLaunched: {
        "request_id": REQUIRED,
        "cluster_id": REQUIRED,
        "node_id": REQUIRED,
        "provider": REQUIRED,
        "instance_id": REQUIRED,
    },
    events.InstanceRunning: {
        "request_id": REQUIRED,
        "cluster_id": REQUIRED,
        "node_id": REQUIRED,
        "provider": REQUIRED,
        "instance": REQUIRED,
        "ssh_user": "",
        "ssh_key_path": "",
        "ssh_password": None,
        "network_interface": "",
    },
    events.InstanceProvisioned: {"request_id": REQUIRED, "instance": REQUIRED},
    events.InstanceBootstrapped: {"instance": REQUIRED},
    events.InstancePreempted: {"instance": REQUIRED, "reason": REQUIRED},
    events.InstanceReplaced: {"request_id": REQUIRED, "old_id": REQUIRED, "new": REQUIRED},
    events.InstanceDestroyed: {"instance_id": REQUIRED},
    events.ClusterReady: {"cluster": REQUIRED},
    events.ClusterDestroyed: {"cluster_id": REQUIRED},
    events.TaskStarted: {"task_id": REQUIRED, "instance": REQUIRED, "function_name": REQUIRED},
    events.TaskCompleted: {
        "task_id": REQUIRED,
        "instance": REQUIRED,
        "duration": REQUIRED,
        "success": REQUIRED,
        "error": None,
    },
    events.Metric: {"instance": REQUIRED, "name": REQUIRED, "value": REQUIRED, "timestamp": REQUIRED},
    events.Log: {"instance": REQUIRED, "line": REQUIRED, "stream": "stdout", "overwrite": False},
    events.ConsoleOutput: {
        "instance": REQUIRED,
        "content": REQUIRED,
        "stream": "stdout",
        "overwrite": False,
    },
    events.BootstrapPhase: {
        "instance": REQUIRED,
        "event": REQUIRED,
        "phase": REQUIRED,
        "elapsed": None,
        "error": None,
    },
    events.BootstrapCommand: {"instance": REQUIRED, "command": REQUIRED},
    events.BootstrapFailed: {"instance": REQUIRED, "phase": REQUIRED, "error": REQUIRED},
    events.Error: {"request_id": REQUIRED, "message": REQUIRED, "fatal": False},
    events.NodeInstance: {
        "instance": REQUIRED,
        "node": REQUIRED,
        "provider": REQUIRED,
        "ssh_user": REQUIRED,
        "ssh_key_path": REQUIRED,
        "ssh_password": None,
        "network_interface": "",
    },
}


@pytest.mark.parametrize("model", SEED, ids=lambda model: model.__name__)
def test_the_seeds_fields_are_exact_and_ours_have_defaults(model: type[BaseModel]) -> None:
    fields = model.model_fields
    for name, default in SEED[model].items():
        assert name in fields, name
        if name == "request_id" and issubclass(model, events._Request):
            continue  # empty ones are filled at the border
        if default is REQUIRED:
            assert fields[name].is_required(), name
        else:
            assert fields[name].default == default, name
    for name, field in fields.items():
        assert name in SEED[model] or not field.is_required(), f"{name} is ours and has no default"


def test_the_23_events_of_the_seed_are_in_the_union() -> None:
    missing = set(SEED) - set(get_args(Event)) - {events.NodeInstance}
    assert not missing


def test_kinds_are_the_names_in_snake_case_and_differ() -> None:
    kinds = [member.model_fields["kind"].default for member in get_args(Event)]
    assert len(set(kinds)) == len(kinds)
    for member, kind in zip(get_args(Event), kinds, strict=True):
        assert kind.replace("_", "") == member.__name__.lower()


@pytest.mark.parametrize("member", get_args(Event), ids=lambda member: member.__name__)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_event_survives_json(member: type[BaseModel], data: st.DataObject) -> None:
    event = data.draw(_instances(member))
    envelope = Envelope(seq=data.draw(st.integers(1, 2**53)), at=1.5, pool="a", event=event)
    assert Envelope.model_validate_json(envelope.model_dump_json()) == envelope
    assert EventJson.validate_json(EventJson.dump_json(event)) == event


def _instances(model: type[BaseModel]) -> st.SearchStrategy[Any]:
    """Instances with short, valid field values."""
    from tests.actors.samples import sample

    return st.integers(0, 10_000).map(lambda n: sample(model, n))


def test_a_password_can_never_be_set() -> None:
    with pytest.raises(ValidationError):
        events.NodeInstance(
            instance=None, node=0, provider="a", ssh_user="u", ssh_key_path="k", ssh_password="p"
        )


def test_an_unknown_kind_or_field_is_refused_with_its_name() -> None:
    with pytest.raises(ValidationError, match="pool_requestde"):
        RequestJson.validate_json('{"kind": "pool_requestde"}')
    with pytest.raises(ValidationError, match="nodse"):
        RequestJson.validate_json('{"kind": "pool_resize_requested", "pool": "a", "nodse": 3}')


def _product_sources() -> dict[Path, ast.Module]:
    files = [
        path for room in ("actors", "controller", "providers") for path in sorted((ROOT / room).rglob("*.py"))
    ]
    return {path: ast.parse(path.read_text()) for path in files}


def _constructed() -> set[str]:
    """Names that are called anywhere in the product outside of `case` patterns."""
    names: set[str] = set()
    for tree in _product_sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = node.func
                name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
                names.add(name)
                if name == "validated":  # validated(Model, fields)
                    names |= {argument.id for argument in node.args if isinstance(argument, ast.Name)}
    return names


def _matched() -> set[str]:
    """Names that some `case` or isinstance of the product tells apart."""
    names: set[str] = set()
    for tree in _product_sources().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.MatchClass):
                names.add(node.cls.id if isinstance(node.cls, ast.Name) else getattr(node.cls, "attr", ""))
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
                names |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return names


ALIASES = {  # imported under another name where it is made or told apart
    "OpenCluster": {"OpenClusterState", "OpenCluster"},
    "Draining": {"Draining", "DrainingInstance", "DrainingPool"},
    "Destroyed": {"Destroyed", "DestroyedPool", "DestroyedInstance"},
    "Assigned": {"Assigned", "AssignedMessage"},
    "AgentHello": {"AgentHello"},
}


def _seen(name: str, where: set[str]) -> bool:
    return bool(ALIASES.get(name, {name}) & where)


@pytest.mark.parametrize(
    "union",
    [
        Fact,
        messages.Message,
        effects.Effect,
        PoolState,
        NodeState,
        InstanceState,
        TaskState,
        ClusterState,
        Command,
    ],
    ids="Fact Message Effect PoolState NodeState InstanceState TaskState ClusterState Command".split(),
)
def test_every_member_is_constructed_in_the_product(union: Any) -> None:
    constructed = _constructed()
    dead = [member.__name__ for member in get_args(union) if not _seen(member.__name__, constructed)]
    assert not dead


def test_the_requests_that_actors_send_are_constructed() -> None:
    constructed = _constructed()
    sent_by_users_through_the_client = {"BootstrapRequested"}
    for member in get_args(Request):
        assert _seen(member.__name__, constructed | sent_by_users_through_the_client), member


@pytest.mark.parametrize(
    "union",
    [Request, messages.Message, effects.Effect, PoolState, NodeState, InstanceState, TaskState, Report],
    ids="Request Message Effect PoolState NodeState InstanceState TaskState Report".split(),
)
def test_every_member_is_told_apart_somewhere(union: Any) -> None:
    matched = _matched()
    unheard = [member.__name__ for member in get_args(union) if not _seen(member.__name__, matched)]
    assert not unheard
