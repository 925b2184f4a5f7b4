"""A living pool gets another image while it works: real machines, tasks and a daemon that dies midway."""

import time

import pytest

from actors.events import PoolUpdateRequested
from tests.real.rig import Rig, pool_spec, until

pytestmark = pytest.mark.real

NODES = 3
STEP = {"phase": "flavour", "run": 'echo "$FLAVOUR" > flavour && test "$FLAVOUR" != broken'}


def image(flavour: str) -> dict[str, object]:
    """What machines are made from; its step leaves a mark."""
    return {"env": {"FLAVOUR": flavour}, "steps": [STEP]}


def update(rig: Rig, flavour: str) -> int:
    """Ask for another image; answers how many machines are to be replaced."""
    spec = pool_spec(NODES, image=image(flavour), bootstrap_failures_max=1)
    ended = rig.end_of(rig.client.submit(PoolUpdateRequested(pool="main", spec=spec)).request_id)
    assert ended.end is not None and ended.end["kind"] == "pool_updated", ended
    return int(ended.end["outdated"])


def machines(rig: Rig) -> set[str]:
    """Those that are ready."""
    return {one["id"] for one in rig.client.instances("main") if one["status"] == "ready"}


def is_whole(rig: Rig) -> None:
    """No node is without a machine that works."""
    [pool] = [one for one in rig.client.pools() if one["name"] == "main"]
    assert pool["ready"] == NODES, pool


def test_a_living_pool_gets_another_image(rig: Rig) -> None:
    rig.start()
    rig.up(nodes=NODES, image=image("old"), bootstrap_failures_max=1)
    first = machines(rig)
    assert update(rig, "new") == NODES
    tasks, killed, deadline = list[str](), False, time.monotonic() + 90
    while not (rolled := rig.events("pool_rolled")):
        assert time.monotonic() < deadline, rig.log_tail(60)
        tasks.append(rig.task("sleep 0.4; echo done"))
        is_whole(rig)
        if not killed and len(first & machines(rig)) < NODES:
            rig.kill()
            rig.start()
            killed = True
        time.sleep(0.2)
    assert killed and [one.event.renewed for one in rolled] == [NODES]  # type: ignore[union-attr]
    second = machines(rig)
    assert not first & second and len(second) == NODES
    for task in tasks:
        rig.done(task)
    ended = rig.check_tasks(tasks)
    assert {(one.result, one.attempts) for one in ended.values()} == {("success", 1)}
    [pool] = [one for one in rig.client.pools() if one["name"] == "main"]
    assert (pool["outdated"], pool["reason"]) == (0, "")

    assert update(rig, "broken") == NODES
    until(lambda: rig.client.pools()[0]["outdated"] == NODES, "the view tells it")
    story = " ".join(rig.client.explain("main")["story"])
    assert f"{NODES} machines of an older spec" in story, story
    rig.until_event("pool_parked")
    assert machines(rig) == second
    assert rig.run("echo still here").result == "success"
    assert update(rig, "new") == 0
    until(lambda: rig.client.pools()[0]["status"] == "ready", "it works again")
    assert machines(rig) == second
