"""Explanations and offers over HTTP, of a pool whose only market is sold out."""

import httpx2 as httpx
import pytest

from actors.events import PoolResizeRequested, TaskStopRequested
from actors.spec import TaskSpec
from controller.client import AsyncClient, EverpoolError
from tests.controller.api.conftest import task
from tests.controller.api.desk import SmallDesk
from tests.controller.journal.samples import until

pytestmark = pytest.mark.anyio

MARKET = "local/here/a/small/on_demand"


async def grown(everpool: AsyncClient, desk: SmallDesk) -> str:
    """Two nodes that get no machine; the id of one that was refused."""
    await everpool.submit(PoolResizeRequested(request_id="grow", pool="main", nodes=2, ready_within_s=600))
    await until(lambda: len(desk.status.instances(0, "main", ended=True)) > 1)
    return str(desk.status.instances(0, "main", ended=True)[0]["id"])


async def test_a_pool_that_gets_no_machine(everpool: AsyncClient, desk: SmallDesk) -> None:
    await grown(everpool, desk)
    told = await everpool.explain("main")
    assert (told["ready"], told["desired"]) == (0, 2)
    assert told["there"]["leaving"] == 0 and told["machines"] == []
    assert sum(group["count"] for group in told["missing_groups"]) == 2
    assert any("sold out" in group["why"] for group in told["missing_groups"])
    assert "0 of 2 nodes are ready" in told["story"][0]
    assert [row["market"] for row in told["markets"]] == [MARKET]
    assert told["policy"]["name"] == "hazard" and told["scaling"] is None
    assert told["money"]["usd_per_hour"] == 0.0
    assert "ask for a machine again" in " ".join(one["what"] for one in told["next"])


async def test_why_a_task_is_pending_and_what_became_of_it(everpool: AsyncClient, desk: SmallDesk) -> None:
    await grown(everpool, desk)
    urgent = task("urgent").model_copy(update={"task": TaskSpec(argv=("true",), priority=5)})
    pinned = task("pinned").model_copy(update={"task": TaskSpec(argv=("true",), node=1)})
    await everpool.submit([task("t"), urgent, pinned])
    await until(lambda: desk.status.task("pinned") is not None)
    told = await everpool.explain_task("main", "t")
    assert told["queue"] == {"ahead": 1, "waiting": 2, "slots": 0, "slots_used": 0, "nodes_ready": 0}
    assert "1 task goes before it of 2 in the queue (priority 0)." in told["story"]
    assert "No machine of the pool takes tasks now." in told["story"]
    assert any(line.startswith("Node 0 has no machine for") for line in told["story"])
    assert [one["kind"] for one in told["log"]] == ["task_requested", "task_queued"]
    alone = await everpool.explain_task("main", "pinned")
    assert alone["queue"]["ahead"] is None
    assert any("It runs only on node 1, which has no machine" in line for line in alone["story"])
    await desk.submit([TaskStopRequested(request_id="s", pool="main", task_id="t")], "me")
    await until(lambda: (desk.status.task("t") or {}).get("status") == "stopped")  # durable comes before seen
    over = await everpool.explain_task("main", "t")
    assert "terminated (user), attempt 1." in over["story"][0]
    desk.status.tasks_ended_max = 0
    await desk.submit([TaskStopRequested(request_id="s2", pool="main", task_id="urgent")], "me")
    await until(lambda: desk.status.task("t") is None)
    forgotten = await everpool.explain_task("main", "t")
    assert forgotten["story"][0] == "Task t ended long ago: terminated user."


async def test_why_an_instance_never_was(everpool: AsyncClient, desk: SmallDesk) -> None:
    name = await grown(everpool, desk)
    told = await everpool.explain_instance("main", name)
    text = "\n".join(told["story"])
    assert f"{name} was ordered" in text and MARKET in text
    assert "the launch was refused (capacity): sold out." in text
    assert told["instance"]["status"] == "destroyed" and told["usd"] == 0
    assert "launch_refused" in [one["kind"] for one in told["log"]]
    assert all(name in str(one) or one["kind"] != "launch_refused" for one in told["log"])
    desk.status.instances_ended_max = 0
    before = len(desk.status.instance_ids())
    await everpool.submit(PoolResizeRequested(request_id="more", pool="main", nodes=3, ready_within_s=600))
    await until(lambda: len(desk.status.instance_ids()) < before)
    again = await everpool.explain_instance("main", name)  # from the journal
    assert again["story"] == told["story"] or again["story"][1:] == told["story"][1:]
    with pytest.raises(EverpoolError) as wrong:
        await everpool.explain_instance("main", name[:-1] + "x")
    assert wrong.value.status == 404


async def test_things_of_another_pool(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    await desk.submit([task("t")], "me")
    await until(lambda: desk.status.task("t") is not None)
    other = {"kind": "pool_requested", "pool": "other", "spec": {"provider": "local", "nodes": 0}}
    assert (await http.post("/v1/messages", json=other)).status_code == 202
    await until(lambda: desk.status.pool_state("other") is not None)
    answer = await http.get("/v1/explain/other/tasks/t")
    assert answer.status_code == 404
    assert "is of pool 'main'" in answer.json()["error"]


async def test_only_this_pools_instances_are_suggested(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    other = {"kind": "pool_requested", "pool": "other", "spec": {"provider": "local", "nodes": 0}}
    await http.post("/v1/messages", json=other)
    resize = {"kind": "pool_resize_requested", "pool": "main", "nodes": 2}
    await http.post("/v1/messages", json=resize)
    await until(lambda: len(desk.status.instances(0, "main", ended=True)) > 1)
    await until(lambda: desk.status.pool_state("other") is not None)
    answer = await http.get("/v1/explain/other/instances/nope")
    assert answer.status_code == 404
    assert answer.json()["error"] == "no instance 'nope': there is no instance in pool 'other'"


async def test_a_filter_that_is_none(http: httpx.AsyncClient) -> None:
    answer = await http.get("/v1/offers?max_prise=1")
    assert answer.status_code == 422
    assert answer.json()["error"] == "no filter 'max_prise': did you mean 'max_price'?"
    assert "there are pool, provider" in (await http.get("/v1/offers?nope=1")).json()["error"]


async def test_offers_and_what_removed_them(everpool: AsyncClient) -> None:
    found = await everpool.offers()
    assert (found["count"], [one["market"] for one in found["offers"]]) == (1, [MARKET])
    assert found["providers"] == [{"provider": "local", "offers": 1, "age_s": None, "error": None}]
    none = await everpool.offers(type=["small", "s*"], vcpus=3, max_price=5)
    assert none["offers"] == []
    assert [(one["name"], one["removed"]) for one in none["steps"]] == [
        ("all", 0),
        ("type", 0),
        ("vcpus", 1),
        ("max-price", 0),
    ]
    fits = await everpool.offers(pool="main", sort="name", limit=1)
    assert len(fits["offers"]) == 1
    assert fits["steps"][1]["name"] == "pool's provider"


async def test_a_spec_that_contradicts_itself_is_refused(http: httpx.AsyncClient) -> None:
    spec = {"provider": "local", "nodes": 2, "on_demand": {"floor": 3}, "buying": {"extra": 2}}
    asked = {"kind": "pool_requested", "pool": "odd", "spec": spec}
    answer = await http.post("/v1/messages", json=asked)
    assert answer.status_code == 422
    said = answer.json()
    assert said["error"] == "spec.on_demand.floor: 3 nodes on demand, and nodes.desired is 2"
    assert said["detail"][0].startswith("spec.buying.extra: is for the policy 'spothedge'")
    [listed] = (await http.post("/v1/messages", json=[asked])).json()
    assert (listed["code"], len(listed["detail"])) == (422, 2)
    near = {**asked, "spec": {"provider": "local", "buying": {"policy": "hazrad"}}}
    assert "did you mean 'hazard'?" in (await http.post("/v1/messages", json=near)).json()["error"]
