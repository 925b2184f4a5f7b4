"""What there is: over HTTP, and through the client."""

import json
from pathlib import Path
from typing import Any, get_args

import anyio
import httpx2 as httpx
import pytest

from actors.events import Fact, PoolResizeRequested, Request, ShutdownRequested, TaskStopRequested
from controller.client import AsyncClient, Client, EverpoolError, TimedOut, file_put
from providers.agent.wire import FetchedFile, LogLines
from tests.controller.api.conftest import task
from tests.controller.api.desk import SmallDesk
from tests.controller.journal.samples import until

pytestmark = pytest.mark.anyio


def lines_report(task_id: str, number: int, *texts: str, stream: Any = "stdout", offset: int = 0) -> LogLines:
    return LogLines(
        id=number,
        at=1000.0 + number,
        task=task_id,
        attempt=1,
        stream=stream,
        offset=offset,
        next_offset=offset + sum(len(text.encode()) + 1 for text in texts),
        lines=tuple((text, 0) for text in texts),
    )


async def stop(desk: SmallDesk, task_id: str) -> None:
    request = TaskStopRequested(request_id=f"stop-{task_id}", pool="main", task_id=task_id)
    await desk.submit([request], "me")
    await desk.followers.ended(task_id, 10)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("/v1/pools/mian", "did you mean main?"),
        ("/v1/nodes?pool=x", "there is main"),
        ("/v1/tasks?pool=x", "there is main"),
        ("/v1/instances?pool=x", "no pool"),
        ("/v1/instances/i-1", "no instance 'i-1'"),
        ("/v1/instances/i-1/ssh", "no instance"),
        ("/v1/instances/i-1/console", "no instance"),
        ("/v1/tasks/t-2", "did you mean t-1?"),
        ("/v1/tasks/t-2/log", "did you mean t-1?"),
        ("/v1/tasks/t-1/files/x", "no file 'x'"),
        ("/v1/operations/x", "no request 'x'"),
        ("/v1/explain/x", "no pool"),
        ("/v1/explain/mian/tasks/t-1", "did you mean main?"),
        ("/v1/explain/main/tasks/t-2", "did you mean t-1?"),
        ("/v1/explain/main/instances/i-1", "no instance 'i-1'"),
        ("/v1/offers?pool=mian", "did you mean main?"),
        ("/v1/offers?provider=locla", "did you mean local?"),
        ("/v2", "/openapi.json"),
    ],
)
async def test_what_is_not_there(http: httpx.AsyncClient, desk: SmallDesk, url: str, text: str) -> None:
    await desk.submit([task("t-1")], "me")
    await until(lambda: desk.status.task("t-1") is not None)
    response = await http.get(url)
    assert response.status_code == 404
    assert text in response.json()["error"]


@pytest.mark.parametrize(
    "url",
    [
        "/v1/tasks?limit=0",
        "/v1/tasks?status=runing",
        "/v1/operations/make-main?wait=61",
        "/v1/events?after=x",
        "/v1/tasks/t-1/log?after=x.y",
        "/v1/tasks/t-1/log?stream=out",
        "/v1/offers?sort=prize",
        "/v1/offers?limit=0",
        "/v1/offers?vcpus=-1",
        "/v1/offers?lifecycle=spto",
    ],
)
async def test_wrong_parameters(http: httpx.AsyncClient, desk: SmallDesk, url: str) -> None:
    await desk.submit([task("t-1")], "me")
    response = await http.get(url)
    assert response.status_code == 422
    assert "\n" not in response.json()["error"]
    assert (await http.delete("/v1/pools")).status_code == 405


async def test_pool_and_its_shortage(everpool: AsyncClient, desk: SmallDesk) -> None:
    await everpool.submit(PoolResizeRequested(request_id="grow", pool="main", nodes=2, ready_within_s=600))
    await until(lambda: bool(desk.status.instances(0, "main", ended=True)))
    pool = await everpool.pool("main")
    assert (pool["desired"], pool["ready"], pool["status"]) == (2, 0, "requesting")
    assert pool["spec"]["provider"] == ["local"] and pool["nodes"] == {"filling": 2}
    assert pool["waiting"][0]["request_id"] == "grow" and pool["usd_per_hour"] == 0
    assert [node["status_code"] for node in await everpool.nodes("main")] == [2, 2]
    told = await everpool.explain("main")
    assert [one["node"] for one in told["missing"]] == [0, 1]
    assert all(one["why"] for one in told["missing"])
    assert told["markets"][0]["usd_per_hour"] == 0.02
    gone = (await everpool.instances(ended=True))[0]
    assert (gone["status"], gone["status_code"]) == ("destroyed", 9)
    with pytest.raises(TimedOut):
        await everpool.wait("grow", timeout_s=0.1)
    operation = await everpool.operation("grow")
    assert operation.status in ("pending", "running") and operation.log


async def test_operation_ends(everpool: AsyncClient, desk: SmallDesk) -> None:
    submitted = await everpool.submit(task("t"))
    assert submitted.taken
    async with anyio.create_task_group() as group:
        group.start_soon(stop, desk, "t")
        operation = await everpool.wait("t", timeout_s=20)
    assert operation.status == "failed" and operation.error == "terminated: user"
    assert operation.end is not None and operation.end["kind"] == "task_completed"
    assert [entry.kind for entry in operation.log] == ["task_requested", "task_queued", "task_completed"]
    other = await everpool.wait("stop-t", timeout_s=20)  # ended by the very same fact
    assert other.ended_by == operation.ended_by
    made = await everpool.wait("make-main")
    assert made.status == "success" and made.log[-1].level == "SUCCESS"


async def test_tasks_in_pages(everpool: AsyncClient, desk: SmallDesk) -> None:
    await everpool.submit([task(f"t{i}") for i in range(25)])
    await stop(desk, "t3")
    found: list[str] = []
    cursor = None
    while True:
        page = await everpool.tasks("main", limit=10, cursor=cursor)
        found += [one["id"] for one in page.tasks]
        if page.cursor is None:
            break
        cursor = page.cursor
    assert found == [f"t{i}" for i in reversed(range(25))]
    assert [one["id"] for one in (await everpool.tasks(status="stopped")).tasks] == ["t3"]
    assert len((await everpool.tasks(status="living")).tasks) == 24
    assert (await everpool.pool("main"))["tasks"] == {"pending": 24}


async def test_forgotten_task_comes_from_the_journal(everpool: AsyncClient, desk: SmallDesk) -> None:
    desk.status.tasks_ended_max = 1
    for name in ("a", "b"):
        await everpool.submit(task(name))
        await stop(desk, name)
    remembered, forgotten = await everpool.task("b"), await everpool.task("a")
    assert desk.status.task("a") is None
    same = ("status", "status_code", "result", "reason", "name", "exit_code")
    assert {key: forgotten[key] for key in same} == {key: remembered[key] for key in same}


async def test_logs(everpool: AsyncClient, http: httpx.AsyncClient, desk: SmallDesk) -> None:
    await everpool.submit(task("t"))
    desk.logs.append("main", lines_report("t", 1, "one", "two\u2028half", "drei"), "boot", "i")
    desk.logs.append("main", lines_report("t", 2, "bad", stream="stderr"), "boot", "i")
    texts = [line.text async for line in everpool.task_log("t")]
    assert texts == ["one", "two\u2028half", "drei", "bad"]
    assert [line.text async for line in everpool.task_log("t", stream="stderr")] == ["bad"]
    plain = await http.get("/v1/tasks/t/log", params={"format": "text", "tail": 2})
    assert plain.text == "drei\nbad\n" and plain.headers["Content-Type"].startswith("text/plain")
    page = await http.get("/v1/tasks/t/log", params={"limit": 1})
    rest = await http.get("/v1/tasks/t/log", params={"after": page.headers["X-Everpool-Cursor"]})
    assert rest.content.count(b"\n") == 3
    numbered = await http.get("/v1/tasks/t/log", params={"after": "2", "stream": "stdout"})
    assert json.loads(numbered.text)["text"] == "drei"

    followed: list[str] = []
    async with anyio.create_task_group() as group:

        async def follow() -> None:
            async for line in everpool.task_log("t", follow=True, tail=1):
                followed.append(line.text)

        group.start_soon(follow)
        await until(lambda: len(followed) == 1)
        desk.logs.append("main", lines_report("t", 3, "more", offset=22), "boot", "i")
        await until(lambda: len(followed) == 2)
        await stop(desk, "t")
        desk.logs.finish("main", "t")
    assert followed == ["bad", "more"]


async def test_files(everpool: AsyncClient, desk: SmallDesk) -> None:
    await everpool.submit(task("t"))
    put = file_put("x", b"content")
    piece = FetchedFile(id=1, task="t", attempt=1, path="out/x", offset=0, data=put.data, last=True)
    assert desk.files.put("main", piece) == "whole"
    lost = FetchedFile(id=2, task="t", attempt=1, path="y", offset=0, data="", last=True, error="not there")
    desk.files.put("main", lost)
    assert [one["path"] for one in await everpool.files("t")] == ["out/x", "y"]
    assert await everpool.file("t", "out/x") == b"content"
    with pytest.raises(EverpoolError, match="not there"):
        await everpool.file("t", "y")
    with pytest.raises(EverpoolError):
        await everpool.file("t", "../../../etc/passwd")


async def test_the_daemon_itself(everpool: AsyncClient, desk: SmallDesk, tmp_path: Path) -> None:
    assert (await everpool.hold(3600))["pools"] == ["main"]
    with pytest.raises(EverpoolError, match="did you mean main"):
        await everpool.hold(3600, "mine")
    with pytest.raises(EverpoolError, match="seconds"):
        await everpool.hold(-1)
    assert (await everpool.backup(tmp_path / "copy"))["bytes"] > 0
    with pytest.raises(EverpoolError, match="absolute"):
        await everpool.backup("copy")
    assert (await everpool.ready())["ready"]
    assert [line["what"] for line in await everpool.doctor()] == ["local", "far"]
    assert [line["what"] for line in await everpool.doctor("far", "local", "far")] == ["far", "local"]
    with pytest.raises(EverpoolError, match="did you mean 'local'") as refused:
        await everpool.doctor("far", "locla")
    assert refused.value.status == 404
    assert (await everpool.reload(dry_run=True))["applied"] is False
    assert not (await everpool.adopt())["adopted"]
    assert (await everpool.offers())["offers"][0]["provider"] == "local"
    desk.failing = True
    assert (await everpool.ready())["reasons"] == ["disk is full"]
    metrics = await everpool.metrics()
    assert 'route="/v1/hold",status="422"' in metrics
    assert await everpool.metrics(instances=True) == ""


async def test_openapi_names_everything(http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    for event in (*get_args(Request), *get_args(Fact)):
        assert event.__name__ in schemas
    for path in (
        "/v1/messages",
        "/v1/events",
        "/v1/pools/{name}",
        "/v1/nodes",
        "/v1/instances/{instance_id}/ssh",
        "/v1/tasks/{task_id}/log",
        "/v1/tasks/{task_id}/files/{path}",
        "/v1/operations/{request_id}",
        "/v1/offers",
        "/v1/explain/{pool}",
        "/v1/explain/{pool}/tasks/{task_id}",
        "/v1/explain/{pool}/instances/{instance_id}",
        "/metrics",
        "/healthz",
        "/readyz",
    ):
        assert path in document["paths"]
    references = [part for part in json.dumps(document).split('"') if part.startswith("#/components/")]
    assert all(one.rsplit("/", 1)[1] in schemas for one in references)


async def test_sync_client(desk: SmallDesk, path: Path) -> None:
    def work() -> None:
        with Client(path) as everpool:
            assert everpool.submit(task("t")).status == "accepted"
            assert everpool.submit(task("t")).status == "duplicate"
            assert [one.code for one in everpool.submit([task("t", "other"), task("u")])] == [409, 202]
            with pytest.raises(EverpoolError) as caught:
                everpool.submit(task("t", "other"))
            assert caught.value.status == 409
            seqs: list[int] = []
            for envelope in everpool.follow(pool="main"):
                seqs.append(envelope.seq)
                if envelope.request_id == "u":
                    break
            assert seqs == sorted(set(seqs))
            everpool.submit(TaskStopRequested(request_id="s", pool="main", task_id="t"))
            assert everpool.wait("t", 20).over
            assert list(everpool.task_log("t")) == []
            everpool.submit(ShutdownRequested(request_id="down", cluster_id="main"))
            assert everpool.wait("down", 20).status == "success"
            assert everpool.pools() == [] and everpool.pool("main")["status"] == "destroyed"

    await anyio.to_thread.run_sync(work)
