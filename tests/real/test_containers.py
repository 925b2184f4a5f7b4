"""A pool on real docker and a real podman: kept whole while containers are killed, nothing left after."""

import time
from collections.abc import Iterator

import pytest

from actors.events import InstanceReplaced, PoolRequested
from providers.container.wire import INSTANCE, OWNER
from tests.real.engines import BARE_IMAGE, ENGINES, OLD_IMAGE, EngineKind, RealEngine, engine
from tests.real.rig import Rig, pool_spec, tasks_of, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]

NODES, TASKS, KILLS = 3, 50, 2
OFFERS = [{"on_demand": 0.01, "vcpus": 1, "memory_gb": 0.25}]
VOLUMES = [{"target": "/shared", "source": "shared", "scope": "cluster"}, {"target": "/scratch"}]


@pytest.fixture(params=ENGINES)
def real(request: pytest.FixtureRequest) -> Iterator[RealEngine]:
    kind: EngineKind = request.param
    found = engine(kind)
    yield found
    found.clear()


def ours(real: RealEngine) -> dict[str, str]:
    """The state of each container with everpool's marks, by its name."""
    return {
        one["Names"][0].lstrip("/"): one["State"]
        for one in real.containers()
        if OWNER in (one["Labels"] or {})
    }


def nothing_left(real: RealEngine) -> None:
    assert real.containers() == []
    assert real.networks() == []
    assert real.volumes() == []


def test_a_pool_stays_whole_and_leaves_nothing(real: RealEngine, rig: Rig) -> None:
    rig.configure(rest=real.toml("box", offers=OFFERS, network="cluster", volumes=VOLUMES))
    rig.start()
    up = rig.up("boxes", nodes=NODES, provider="box", worker={"concurrency": 2})
    assert up.status == "success", up
    assert list(ours(real).values()) == ["running"] * NODES
    assert len(real.networks()) == 1
    assert len(real.volumes()) == 1 + NODES

    tasks = tasks_of("boxes", [{"shell": "echo $EVERPOOL_TASK_ID >> /shared/done; sleep 0.4"}] * TASKS)
    rig.client.submit(tasks)
    until(lambda: rig.events("task_completed"), "the first task is done")
    killed = killed_under_load(real, rig)

    ends = {one.request_id: rig.done(one.request_id) for one in tasks}
    assert {end.result for end in ends.values()} == {"success"}
    rig.check_tasks(ends)
    until(
        lambda: len([one for one in rig.client.instances("boxes") if one["status"] == "ready"]) == NODES,
        "whole again",
    )
    replaced = [one.event for one in rig.events("instance_replaced", pool="boxes")]
    assert {one.old_id for one in replaced if isinstance(one, InstanceReplaced)} == killed

    rig.down("boxes")
    nothing_left(real)
    rig.check_ends()


def killed_under_load(real: RealEngine, rig: Rig) -> set[str]:
    """`docker kill` two nodes that work; the ids of their instances."""
    busy = [one for one in rig.client.instances("boxes") if one["status"] == "ready"][:KILLS]
    names = {one["Labels"][INSTANCE]: one["Id"] for one in real.containers()}
    for one in busy:
        real.kill(names[one["id"]])
    return {str(one["id"]) for one in busy}


@pytest.mark.parametrize(("image", "said"), [(BARE_IMAGE, "no python3"), (OLD_IMAGE, "says it is 3.6")])
def test_an_image_without_our_python_is_said_in_one_line(
    real: RealEngine, rig: Rig, image: str, said: str
) -> None:
    rig.configure(rest=real.toml("box", image=image, offers=OFFERS))
    rig.start()
    rig.client.submit(PoolRequested(pool="boxes", spec=pool_spec(1, provider="box")))
    rig.until_event("launch_refused")
    why = until(lambda: rig.client.nodes("boxes")[0]["why_waiting"], "it is said why")
    assert image in why and said in why and "take an image with Python 3.8 or newer" in why
    assert "\n" not in why
    assert len(rig.events("launch_refused")) == 1
    assert real.containers() == []
    rig.down("boxes")
    assert rig.events("instance_launched") == []
    nothing_left(real)


def test_a_task_out_of_memory_is_told_apart_from_one_that_is_killed(real: RealEngine, rig: Rig) -> None:
    rig.configure(rest=real.toml("box", offers=OFFERS))
    rig.start()
    assert rig.up("boxes", nodes=1, provider="box").status == "success"
    killed = rig.done(rig.task("kill -9 $$", pool="boxes"))
    hungry = rig.done(rig.task("exec python3 -c 'b = b\"x\" * (1 << 30)'", pool="boxes"))
    assert (hungry.result, hungry.reason) == ("resource_failure", "oom")
    assert killed.result == "killed"
    rig.down("boxes")
    nothing_left(real)


def test_machines_of_a_daemon_that_was_killed_go_on_and_are_found(real: RealEngine, rig: Rig) -> None:
    rig.configure(rest=real.toml("box", offers=OFFERS))
    rig.start()
    assert rig.up("boxes", nodes=1, provider="box").status == "success"
    before = ours(real)
    task = rig.task("sleep 2; echo over", pool="boxes")
    rig.until_running(task)
    began = time.monotonic()
    rig.restart()
    assert rig.done(task).result == "success"
    assert time.monotonic() - began < 60
    assert ours(real) == before
    assert rig.text(task) == ["over"]
    rig.down("boxes")
    nothing_left(real)
