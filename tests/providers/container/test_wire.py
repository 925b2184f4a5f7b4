"""The engine's words, and ours."""

from typing import Any

import pytest

from providers.container.config import ContainerConfig
from providers.container.images import python_version, registry_host, split_tag
from providers.container.wire import (
    Seen,
    agent_directory,
    container_name,
    create_body,
    ending,
    filters,
    labels_of,
    seen,
    sighting,
    timestamp,
    tombstone,
)
from providers.model import ClusterHandle, Order
from providers.priced import offers_of


def order_of(config: ContainerConfig, **more: Any) -> Order:
    cluster = ClusterHandle(
        cluster_id="c1",
        provider="box",
        region="local",
        ssh_user="root",
        specific={"name": "everpool-0123", "network": "everpool-0123", "owner": "o"},
    )
    offer = offers_of(config.offers, "box")[0]
    known: dict[str, Any] = {"key": "o/pool/0/1/1", "owner": "o", "epoch": 7, "pool": "pool", "node": 0}
    known |= {"instance_id": "pool-0.1.1", "offer": offer, "cluster": cluster, "public_key": ""}
    return Order(**known | more)


def test_a_container_has_its_limits_and_its_marks() -> None:
    config = ContainerConfig.model_validate(
        {
            "offers": [{"spot": 0.5, "vcpus": 1.5, "memory_gb": 2, "shm_gb": 0.5}],
            "network": "cluster",
            "user": "worker:users",
            "runtime": "crun",
            "env": {"A": "b=c"},
            "ulimits": {"nofile": {"soft": 1, "hard": 2}},
            "volumes": [
                {"target": "/a", "source": "/host", "read_only": True},
                {"target": "/b", "source": "named"},
                {"target": "/c", "source": "own", "scope": "cluster"},
                {"target": "/d"},
            ],
        }
    )
    order = order_of(config, image="r.example/x:1")
    body = create_body(order, config, config.offers[0], "box", 12.5)
    host = body["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (1_500_000_000, 2 * 2**30, 2 * 2**30)
    assert (host["ShmSize"], host["Runtime"], host["NetworkMode"]) == (2**29, "crun", "everpool-0123")
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 1, "Hard": 2}]
    assert [mount.get("Source") for mount in host["Mounts"]] == ["/host", "named", "everpool-0123-own", None]
    assert [mount["ReadOnly"] for mount in host["Mounts"]] == [True, False, False, False]
    assert (body["Image"], body["User"], body["Env"]) == ("r.example/x:1", "worker:users", ["A=b=c"])
    assert body["Labels"] == labels_of(order, "box", 12.5)
    assert body["Labels"]["everpool.key"] == order.key


def test_what_a_listing_shows_is_what_was_ordered() -> None:
    config = ContainerConfig.model_validate({"offers": [{"spot": 0.5, "region": "r", "zone": "z"}]})
    order = order_of(config)
    entry = {
        "Id": "a" * 64,
        "State": "running",
        "Labels": labels_of(order, "box", 12.5),
        "NetworkSettings": {"Networks": {"n": {"IPAddress": "10.0.0.2"}}},
        "Mounts": [{"Type": "volume", "Name": "v"}, {"Type": "bind"}],
    }
    shown = sighting("box", seen(entry))
    assert (shown.key, shown.epoch, shown.launched_at) == (order.key, 7, 12.5)
    assert (shown.handle.ref, shown.handle.region, shown.handle.zone) == ("a" * 64, "r", "z")
    assert (shown.lifecycle, shown.micro_usd_per_hour) == ("spot", 500_000)
    assert shown.address is not None
    assert (shown.address.port, shown.address.private_host) == (0, "10.0.0.2")
    assert seen(entry).volumes == ("v",) and seen(entry).networks == ("n",)
    # What podman leaves out, and what others may have broken.
    bare = sighting("box", seen({"Id": "b", "State": "Exited", "Labels": {"everpool.epoch": "x"}}))
    assert (bare.state, bare.epoch, bare.address) == ("stopped", 0, None)


@pytest.mark.parametrize(
    ("state", "shown", "dead"),
    [
        ("created", "pending", False),
        ("initialized", "pending", False),
        ("running", "running", False),
        ("paused", "running", False),
        ("removing", "stopping", False),
        ("stopping", "stopping", False),
        ("exited", "stopped", True),
        ("dead", "stopped", True),
        ("stopped", "stopped", True),
    ],
)
def test_every_state_of_an_engine_is_one_of_ours(state: str, shown: str, dead: bool) -> None:
    one = Seen(id="c", labels={}, state=state)
    assert (sighting("box", one).state, one.is_dead) == (shown, dead)


def test_a_tombstone_has_the_engines_time_and_its_reason() -> None:
    one = Seen(id="c", labels={"everpool.launched-at": "1795356250.0"}, state="exited")
    state = {"FinishedAt": "2026-11-22T14:05:01.710834913Z", "ExitCode": 137, "OOMKilled": False}
    told = tombstone("box", one, {"State": state}, now=99.0)
    assert told.ended_at == pytest.approx(1795356301.710834913)
    assert told.detail == "exited 137"
    assert tombstone("box", one, {}, now=1795356299.0).ended_at == 1795356299.0
    oom = {"OOMKilled": True, "ExitCode": 137}
    assert ending(oom, is_oom=True) == "out of memory, exited 137"
    assert ending(oom) == "exited 137"  # a task was killed for memory, before
    assert ending(oom | {"ExitCode": 143}, is_oom=True) == "exited 143"
    assert ending(oom | {"OOMKilled": False}, is_oom=True) == "exited 137"
    unseen = tombstone("box", one, {}, now=99.0)
    assert unseen.detail == "exited"
    assert ending({"ExitCode": 1, "Error": "no\n luck"}) == "exited 1: no luck"


def test_times_are_read_as_engines_write_them() -> None:
    assert timestamp("1970-01-01T00:00:10Z") == 10
    assert timestamp("1970-01-01T01:00:10.5+01:00") == 10.5
    assert [timestamp(text) for text in ("0001-01-01T00:00:00Z", "", None, 5, "yesterday")] == [None] * 5


def test_a_key_has_one_name_that_engines_allow() -> None:
    first, second = container_name("o/p/0/1/1"), container_name("o/p/0/1/2")
    assert first != second
    assert first == container_name("o/p/0/1/1")
    assert first.removeprefix("everpool-").isalnum() and len(first) < 64


def test_images_are_named_as_users_name_them() -> None:
    assert split_tag("python") == ("python", "latest")
    assert split_tag("r.example:5000/a/b") == ("r.example:5000/a/b", "latest")
    assert split_tag("r.example:5000/a/b:3.12") == ("r.example:5000/a/b", "3.12")
    assert split_tag("a/b@sha256:0f") == ("a/b", "sha256:0f")
    hosts = {"python:3": "docker.io", "library/python": "docker.io", "localhost/x": "localhost"}
    hosts |= {"r.example/x": "r.example", "r:5000/x:1": "r:5000", "docker.io/library/python": "docker.io"}
    assert {image: registry_host(image) for image in hosts} == hosts


def test_small_things() -> None:
    assert filters({"a": "b"}) == '{"label": ["a=b"]}'
    assert python_version(b"3 12 1\n") == (3, 12)
    assert python_version(b"Python 3.12") is None
    assert [agent_directory(user) for user in ("", "0", "root", "0:0", "root:users")] == [
        "/var/lib/everpool/agent"
    ] * 5
    assert agent_directory("worker:0") == "/tmp/.everpool/agent"
