"""Lists: filters, pages that miss nothing, what is over after a restart, and whose pools are seen."""

import fnmatch
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import anyio
import httpx2 as httpx
import pytest
from pydantic import ConfigDict, create_model
from starlette.types import Receive, Send
from starlette.types import Scope as HttpScope

from actors.events import PoolRequested, PoolResizeRequested, ShutdownRequested, TaskStopRequested
from actors.spec import Nodes, PoolSpec
from controller.api import paging
from controller.api.answers import Problem
from controller.api.app import build_app
from controller.api.streaming import PRINCIPAL
from controller.client import AsyncClient, EventsPruned
from controller.client_views import InstanceView, NodeView, OperationView, PoolView, TaskView, View, fields
from controller.followers import Wanted
from controller.principal import Principal, Scope
from controller.status import Status
from tests.controller.api.conftest import task
from tests.controller.api.desk import SmallDesk
from tests.controller.journal.samples import until

pytestmark = pytest.mark.anyio


async def make(desk: SmallDesk, name: str, nodes: int = 0) -> None:
    spec = PoolSpec(provider=("local",), nodes=Nodes(desired=nodes), max_hourly_cost=1)
    await desk.submit([PoolRequested(request_id=f"make-{name}", pool=name, spec=spec)], "me")
    await until(lambda: desk.status.pool_state(name) is not None)


async def end(desk: SmallDesk, *names: str) -> None:
    stops = [TaskStopRequested(request_id=f"stop-{one}", pool="main", task_id=one) for one in names]
    await desk.submit(stops, "me")
    for one in names:
        await desk.followers.ended(one, 10)


async def pages(http: httpx.AsyncClient, url: str, **params: Any) -> list[list[dict[str, Any]]]:
    """All pages of a list, by its cursors."""
    found: list[list[dict[str, Any]]] = []
    while True:
        response = await http.get(url, params=params)
        assert response.status_code == 200, response.text
        found.append(response.json())
        if paging.CURSOR not in response.headers:
            return found
        params["after"] = response.headers[paging.CURSOR]


async def names(http: httpx.AsyncClient, **params: str) -> list[str]:
    return [one["name"] for one in (await http.get("/v1/pools", params=params)).json()]


async def test_pools_in_pages_and_filtered(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    for name in ("ci-a", "ci-b", "web"):
        await make(desk, name)
    found = await pages(http, "/v1/pools", limit=3)
    assert [[one["name"] for one in page] for page in found] == [["ci-a", "ci-b", "main"], ["web"]]
    assert await names(http, name="ci-*") == ["ci-a", "ci-b"]
    assert await names(http, name="web,m?in") == ["main", "web"]
    assert await names(http, status="parked") == []
    assert await names(http, status="ready") == ["ci-a", "ci-b", "main", "web"]
    wrong = await http.get("/v1/pools", params={"status": "redy"})
    assert wrong.status_code == 422 and "ready" in wrong.json()["error"]


async def test_nodes_and_instances_in_pages(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    await make(desk, "two", 2)
    await desk.submit([PoolResizeRequested(request_id="grow", pool="main", nodes=3)], "me")
    await until(lambda: len(desk.status.nodes()) == 5)
    found = await pages(http, "/v1/nodes", limit=2)
    places = [(one["pool"], one["node"]) for page in found for one in page]
    assert [len(page) for page in found] == [2, 2, 1]
    assert places == [("main", 0), ("main", 1), ("main", 2), ("two", 0), ("two", 1)]
    assert (await http.get("/v1/nodes", params={"status": "filled"})).json() == []
    await until(lambda: len(desk.status.instances(0, ended=True)) >= 4)
    gone = [one for page in await pages(http, "/v1/instances", ended="true", limit=1) for one in page]
    assert len({one["id"] for one in gone}) == len(gone) >= 4
    picked = {"ended": "true", "pool": "main", "node": "1", "provider": "lo*", "region": "here"}
    assert {one["node"] for one in (await http.get("/v1/instances", params=picked)).json()} == {1}
    other = {"ended": "true", "lifecycle": "spot"}
    assert (await http.get("/v1/instances", params=other)).json() == []


@pytest.mark.parametrize("cursor", ["x", "WyJhIg", "W10", "e30", "WzFd", "é", "bnVsbA", "W251bGxd"])
async def test_wrong_cursors(http: httpx.AsyncClient, desk: SmallDesk, cursor: str) -> None:
    response = await http.get("/v1/pools", params={"after": cursor})
    assert response.status_code == 422 and paging.CURSOR in response.json()["error"]


def test_a_cursor_is_its_key() -> None:
    for key in (("a",), ("main", 3), ("main", 0, 1_790_000_000.123, "i-1")):
        assert paging.decoded(paging.encoded(key)) == key
    with pytest.raises(Problem):
        paging.decoded(paging.encoded((1,))[:-1] + "!")


async def test_tasks_that_are_over_are_listed_after_a_restart(
    everpool: AsyncClient, http: httpx.AsyncClient, desk: SmallDesk
) -> None:
    await everpool.submit([task(f"t{i}") for i in range(12)])
    await end(desk, *(f"t{i}" for i in range(0, 12, 2)))
    before = [one async for one in everpool.each_task()]
    for name in [one["id"] for one in before if one["status"] == "stopped"]:  # memory as after a restart
        desk.status._task("main", name, None)
    assert [one.id async for one in everpool.each_task()] == [f"t{i}" for i in reversed(range(12))]
    found: list[str] = []
    cursor: int | None = None
    while True:
        page = await everpool.tasks("main", limit=5, cursor=cursor)
        found += [one.id for one in page.tasks]
        if (cursor := page.cursor) is None:
            break
    assert found == [one.id for one in before]
    over = [one async for one in everpool.each_task(result="terminated")]
    assert [one.id for one in over] == [f"t{i}" for i in reversed(range(0, 12, 2))]
    assert over == [one for one in before if one["status"] == "stopped"]
    assert [one async for one in everpool.each_task(result="success")] == []
    assert len((await everpool.tasks(name="tr*")).tasks) == 12
    assert (await everpool.tasks(name="false")).tasks == []
    assert len((await everpool.tasks(status="living")).tasks) == 6


async def test_operations_newest_first(
    everpool: AsyncClient, http: httpx.AsyncClient, desk: SmallDesk
) -> None:
    await everpool.submit([task(f"t{i}") for i in range(5)])
    await end(desk, "t1")
    all_ = [one["request_id"] for page in await pages(http, "/v1/operations", limit=2) for one in page]
    assert all_ == ["stop-t1", "t4", "t3", "t2", "t1", "t0", "make-main"]
    failed = [one async for one in everpool.operations(status="failed")]
    assert [one.request_id for one in failed] == ["t1"]  # the stop did what it was asked for
    assert failed[0].error == "terminated: user" and failed[0].ended_at is not None
    waiting = [one.request_id async for one in everpool.operations(status="running", kind="task_*")]
    assert waiting == ["t4", "t3", "t2", "t0"]
    assert [one.request_id async for one in everpool.operations(since=desk.journal.last_seq + 2e9)] == []
    assert [one.request_id async for one in everpool.operations(pool="o*")] == []
    made = [one async for one in everpool.operations(status="success")]
    assert [one.kind for one in made] == ["task_stop_requested", "pool_requested"]
    assert (await http.get("/v1/operations", params={"kind": "task_request"})).status_code == 422


async def test_views_say_what_they_promise(everpool: AsyncClient, desk: SmallDesk) -> None:
    await everpool.submit([task("a"), task("b")])
    await end(desk, "a")
    await desk.submit([PoolResizeRequested(request_id="grow", pool="main", nodes=1)], "me")
    await until(lambda: bool(desk.status.instances(0, ended=True)))
    shown: list[Any] = [
        *await everpool.pools(),
        *await everpool.nodes(),
        *await everpool.instances(ended=True),
        *(await everpool.tasks()).tasks,
        *[one async for one in everpool.operations()],
    ]
    assert {type(one) for one in shown} == {PoolView, NodeView, InstanceView, TaskView, OperationView}
    for one in shown:
        view: type[View] = type(one)
        kinds = {name: kind for name, kind in fields(view).items() if name in one}
        assert kinds.keys() >= fields(view).keys() - view.sometimes
        promised: Any = {name: (kind, ...) for name, kind in kinds.items()}
        config = ConfigDict(extra="forbid", strict=True)
        create_model(type(one).__name__, __config__=config, **promised).model_validate_json(json.dumps(one))
    pool = await everpool.pool("main")
    assert pool.desired == pool["desired"] == 1
    with pytest.raises(AttributeError, match="colour"):
        _ = pool.colour  # type: ignore[attr-defined]


# --- events -------------------------------------------------------------------------------------


async def test_filters_take_several_and_patterns(
    everpool: AsyncClient, http: httpx.AsyncClient, desk: SmallDesk
) -> None:
    await everpool.submit([task("a-1"), task("a-2"), task("b-1")])
    await until(lambda: len(desk.status.all_tasks()) == 3)

    async def ids(**params: Any) -> list[str]:
        lines = (await http.get("/v1/events", params=params)).text.splitlines()
        return [json.loads(line)["request_id"] for line in lines]

    assert set(await ids(task="a-*")) == {"a-1", "a-2"}
    assert set(await ids(request_id="a-1,b-1")) == {"a-1", "b-1"}
    assert await ids(kind="task_requested", pool="m*") == ["a-1", "a-2", "b-1"]
    assert await ids(kind="task_r*", pool="other,x?") == []
    assert len(await ids(request_id="*")) == len(await ids())
    newest = [json.loads(line) for line in (await http.get("/v1/events?tail=3")).text.splitlines()]
    assert [one["seq"] for one in newest] == [one.seq for one in (await everpool.events())[-3:]]
    assert [one.request_id for one in await everpool.events(kinds=["task_requested"], tail=1)] == ["b-1"]
    assert await everpool.events(tail=0) == []


async def test_a_fact_that_ends_others_fits_several_ids(everpool: AsyncClient, desk: SmallDesk) -> None:
    await everpool.submit(task("t"))
    await end(desk, "t")
    found = await everpool.events(request_id="stop-t,none")
    assert [one.event.kind for one in found] == ["task_stop_requested", "task_completed"]
    assert [one.event.kind for one in await everpool.events(request_id="stop-?")] == [
        "task_stop_requested",
        "task_completed",
    ]


async def test_a_stop_has_what_it_asked_for_when_its_task_was_stopped(
    everpool: AsyncClient, desk: SmallDesk
) -> None:
    await everpool.submit(task("t"))
    await end(desk, "t")
    there = {one.request_id: one.status async for one in everpool.operations()}
    assert {name: there[name] for name in ("t", "stop-t")} == {"t": "failed", "stop-t": "success"}
    for name in ("t", "stop-t"):
        assert (await everpool.operation(name)).status == there[name]


async def test_pruned_events_are_no_silent_gap(
    everpool: AsyncClient, http: httpx.AsyncClient, desk: SmallDesk
) -> None:
    await everpool.submit([task(f"t{i}") for i in range(20)])
    await end(desk, *(f"t{i}" for i in range(20)))
    last = desk.journal.last_seq
    await desk.journal.prune(0, events_max=5)
    assert 0 < desk.journal.pruned_seq <= last - 5
    for params in ({"after": "3"}, {"after": "3", "follow": "true"}):
        answer = await http.get("/v1/events", params=params)
        assert answer.status_code == 410 and "begins with the oldest" in answer.json()["error"]
    resumed = await http.get(
        "/v1/events?follow=true", headers={"Accept": "text/event-stream", "Last-Event-ID": "3"}
    )
    assert resumed.status_code == 410
    with pytest.raises(EventsPruned) as gone:
        async for _ in everpool.follow(3):
            pass
    assert gone.value.cursor == desk.journal.pruned_seq
    assert [one.seq for one in await everpool.events(gone.value.cursor)][-1] == last
    assert (await everpool.events(0))[0].seq > 0
    assert (await everpool.operation("make-main")).status == "success"


async def test_how_a_request_ended_outlives_its_other_events(everpool: AsyncClient, desk: SmallDesk) -> None:
    await everpool.submit([task("t1"), task("t2")])
    await end(desk, "t1", "t2")
    desk.status = Status()  # as after a restart: what is over is not remembered
    ended, stopped = await everpool.operation("t1"), await everpool.task("t1")
    listed = [one async for one in everpool.operations(status="failed")]
    await desk.journal.prune(0, events_max=0)
    assert (await everpool.operation("t1")).status == ended.status == "failed"
    assert (await everpool.operation("t1")).end == ended.end
    assert await everpool.task("t1") == stopped
    assert stopped.status == "stopped" and stopped.result == "terminated"
    assert [one async for one in everpool.operations(status="failed")] == listed and "t1" in str(listed)
    await desk.journal.prune(0, events_max=0, states_max=0)
    assert (await everpool.task("t1")).result == "terminated"
    assert [one async for one in everpool.task_log("t1", follow=True)] == []


# --- limits -------------------------------------------------------------------------------------


@pytest.fixture
async def limited(desk: SmallDesk) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody who may see pools `ci-*` only."""
    edge = build_app(desk)

    async def app(scope: HttpScope, receive: Receive, send: Send) -> None:
        scope[PRINCIPAL] = Principal("token:ci", Scope.ADMIN, ("ci-*",))
        scope["state"] = {}
        await edge.app(scope, receive, send)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(base_url="http://x", transport=transport, timeout=20) as client:
        yield client


async def test_limits_hold_everywhere(limited: httpx.AsyncClient, desk: SmallDesk) -> None:
    await make(desk, "ci-a", 1)
    await desk.submit([PoolResizeRequested(request_id="grow", pool="main", nodes=1)], "me")
    await desk.submit([task("secret"), task("mine").model_copy(update={"pool": "ci-a"})], "me")
    await until(lambda: len({one["pool"] for one in desk.status.instances(0, ended=True)}) == 2)
    gone = {one["pool"]: one["id"] for one in desk.status.instances(0, ended=True)}

    for url in ("/v1/pools", "/v1/nodes", "/v1/instances?ended=true", "/v1/operations?limit=1000"):
        listed = (await limited.get(url)).json()
        assert listed and {one.get("pool", one.get("name")) for one in listed} == {"ci-a"}
    assert [one["id"] for one in (await limited.get("/v1/tasks")).json()["tasks"]] == ["mine"]
    events = [json.loads(line) for line in (await limited.get("/v1/events?limit=10000")).text.splitlines()]
    assert events and {one["pool"] for one in events} == {"ci-a"}
    newest = (await limited.get("/v1/events?tail=2")).text.splitlines()
    assert [json.loads(line)["seq"] for line in newest] == [one["seq"] for one in events[-2:]]
    assert [one["pool"] for one in (await limited.get("/v1/cost")).json()["pools"]] == ["ci-a"]

    for url in (
        "/v1/pools/main",
        "/v1/nodes?pool=main",
        "/v1/instances?pool=main",
        "/v1/tasks?pool=main",
        f"/v1/instances/{gone['main']}",
        f"/v1/instances/{gone['main']}/ssh",
        f"/v1/instances/{gone['main']}/console",
        f"/v1/explain/ci-a/instances/{gone['main']}",
        f"/v1/telemetry/console?instance={gone['main']}",
        f"/v1/telemetry/metrics?instance={gone['main']}",
        "/v1/tasks/secret",
        "/v1/tasks/secret/log",
        "/v1/tasks/secret/files",
        "/v1/tasks/secret/files/x",
        "/v1/telemetry/log?task=secret",
        "/v1/explain/ci-a/tasks/secret",
        "/v1/operations/secret",
        "/v1/operations/secret?wait=1",
        "/v1/explain/main",
        "/v1/cost/main",
        "/v1/offers?pool=main",
    ):
        answer = await limited.get(url)
        assert answer.status_code == 404, url
        named = answer.json()["error"].replace(gone["main"], "").replace("'main'", "").replace("'secret'", "")
        assert "main" not in named and "secret" not in named, answer.text
    assert (await limited.get("/v1/tasks/mine")).json()["pool"] == "ci-a"
    assert (await limited.get("/v1/operations/mine")).json()["pool"] == "ci-a"


async def test_a_follower_with_limits_sees_its_pools_only(desk: SmallDesk) -> None:
    seen: list[str] = []
    who = Principal("token:ci", Scope.READ, ("ci-*",))
    async with anyio.create_task_group() as group:

        async def follow() -> None:
            async with aclosing(desk.followers.follow(0, Wanted(may_see=who.may_see))) as pages_:
                async for page in pages_:
                    seen.extend(json.loads(body)["pool"] for _, body in page.rows)
                    if "ci-b" in seen:
                        return

        group.start_soon(follow)
        await until(lambda: desk.followers.count == 1)
        await make(desk, "ci-a")
        await desk.submit([task("not-yours")], "me")
        await make(desk, "ci-b")
    assert set(seen) == {"ci-a", "ci-b"}


async def test_a_destroyed_pool_leaves_the_list(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    await desk.submit([ShutdownRequested(request_id="down", cluster_id="main")], "me")
    await desk.followers.ended("down", 10)
    assert await names(http) == []
    assert (await http.get("/v1/pools/main")).json()["status"] == "destroyed"


FILTERS = (
    *(f"/v1/pools?{key}" for key in ("name", "status")),
    *(f"/v1/instances?{key}" for key in ("provider", "region", "status")),
    *(f"/v1/operations?{key}" for key in ("pool", "kind")),
    *(f"/v1/events?{key}" for key in ("pool", "kind", "task", "request_id")),
    *(f"/v1/offers?{key}" for key in ("provider", "region", "zone", "type")),
    "/v1/tasks?name",
)


@pytest.mark.parametrize("url", [*FILTERS, "/v1/offers?accelerator", "/v1/sd?pool"])
async def test_no_name_in_a_filter_is_too_long(http: httpx.AsyncClient, url: str) -> None:
    response = await http.get(f"{url}=*{'x' * 50_001}")
    assert response.status_code == 422 and "128 characters" in response.text


@pytest.mark.parametrize("url", FILTERS)
async def test_patterns_are_not_too_long_together(http: httpx.AsyncClient, url: str) -> None:
    many = "&".join(f"{url.partition('?')[2]}=*{number:03}{'x' * 60}" for number in range(50))
    response = await http.get(f"{url.partition('?')[0]}?{many}")
    assert response.status_code == 422 and "patterns of more than 2048" in response.text


async def test_what_patterns_cost_does_not_stay(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    kept = fnmatch._compile_pattern.cache_info().currsize  # type: ignore[attr-defined]
    task_ = task("t")
    await desk.submit([task_], "me")
    for number in range(70):
        for url in (*FILTERS, "/v1/offers?accelerator"):
            assert (await http.get(f"{url}=*{number}a*")).status_code in (200, 404), url
        assert not Wanted(pool=(f"x*{number}",)).fits({"pool": "main"})
    assert fnmatch._compile_pattern.cache_info().currsize == kept  # type: ignore[attr-defined]
    assert paging._fitting.cache_info().currsize <= 64


@pytest.mark.parametrize(
    ("name", "wanted", "fits"),
    [
        ("ab", ("a*",), True),
        ("a[1]", ("a[?]",), True),
        ("a1", ("a[1]*",), False),
        ("b", ("a", "b"), True),
        ("ba", ("a", "b"), False),
        ("xb", ("a?", "?b"), True),
        ("a\nb", ("a*b",), True),
        ("a", (), False),
    ],
)
def test_what_fits(name: str, wanted: tuple[str, ...], fits: bool) -> None:
    assert paging.fits(name, wanted) is fits
