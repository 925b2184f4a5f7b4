"""The judge of the bodies that we send. Every test that goes through the proxy uses it as well."""

from typing import Any

import pytest

from providers.container.config import ContainerConfig
from providers.container.wire import create_body
from tests.providers.container.proxy import Judge, judge_of_bodies
from tests.providers.container.test_wire import order_of

FULL = ContainerConfig.model_validate(
    {
        "offers": [{"spot": 0.5, "shm_gb": 0.5}],
        "network": "cluster",
        "user": "worker",
        "runtime": "crun",
        "env": {"A": "b"},
        "ulimits": {"nofile": {"soft": 1, "hard": 2}},
        "volumes": [{"target": "/a", "source": "/host", "read_only": True}, {"target": "/b"}],
    }
)


@pytest.fixture
def judge() -> Judge:
    found = judge_of_bodies()
    assert found is not None
    return found


def body() -> dict[str, Any]:
    return create_body(order_of(FULL), FULL, FULL.offers[0], "box", 1.0)


def test_all_that_can_be_in_a_container_is_in_dockers_schema(judge: Judge) -> None:
    assert judge.complaints("POST", "/containers/create", body()) == []


def test_what_is_not_in_it_is_noticed(judge: Judge) -> None:
    wrong = body() | {"Imagine": "x", "Cmd": 5}
    wrong["HostConfig"] |= {"NanoCpu": 1, "Memory": "much"}
    said = " ".join(judge.complaints("POST", "/containers/create", wrong))
    for word in ("Imagine", "Cmd", "NanoCpu", "Memory"):
        assert word in said
    assert judge.complaints("POST", "/containers/invent", {}) != []
