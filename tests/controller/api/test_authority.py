"""Every route against every kind of token; and what those who are limited to some pools get to know."""

import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2 as httpx
import pytest
from pydantic_core import from_json

from actors.events import Request, ShutdownRequested, TaskStopRequested
from controller import status
from controller.api.app import build_app
from controller.api.authority import NEEDS, NOBODY, needs
from controller.client import AsyncClient, EverpoolError
from controller.principal import Scope
from tests.controller.api.conftest import task
from tests.controller.api.desk import SmallDesk
from tests.controller.api.world import Served, served
from tests.controller.journal.samples import until

NAMED = {"provider": "local", "path": "x"}
SCOPES = {"read": Scope.READ, "submit": Scope.SUBMIT, "admin": Scope.ADMIN}
pytestmark = pytest.mark.anyio


def _routes(router: Any) -> Iterator[tuple[str, str]]:
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from _routes(inner)
        else:
            for method in route.methods:
                yield method, route.path_format


def _path(template: str, name: str = "main") -> str:
    return re.sub(r"\{(\w+)(?::\w+)?\}", lambda match: NAMED.get(match[1], name), template)


async def _status(http: httpx.AsyncClient, method: str, path: str) -> tuple[int, str]:
    async with http.stream(method, path) as response:
        refused = response.status_code >= 400
        return response.status_code, (await response.aread()).decode() if refused else ""


async def test_the_table_is_closed(desk: SmallDesk) -> None:
    app: Any = build_app(desk).app
    there = {(method, path) for method, path in _routes(app.router) if method != "HEAD"}
    assert there == set(NEEDS)


async def test_every_route_refuses_who_is_not_known(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        for kind in ("wrong", "expired", "revoked", "none"):
            async with world.tcp(kind) as http:
                for (method, template), needed in NEEDS.items():
                    status, text = await _status(http, method, _path(template))
                    if kind == "none" and needed == NOBODY:
                        assert status not in (401, 403), (method, template, text)
                        continue
                    assert status in (401, 429), (kind, method, template, status)
                    assert ("expired" in text) == (kind == "expired" and status == 401)
            world.desk.guard.limit(world.desk.guard.limits)  # the address is forgiven
        assert await _events(world, "administered", "token_revoked") == [("me", "token_revoked")]


async def test_every_route_knows_its_scope(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        for kind, scope in SCOPES.items():
            async with world.tcp(kind) as http:
                for (method, template), needed in NEEDS.items():
                    if method == "POST" and template in ("/v1/adopt", "/v1/reload") and kind == "admin":
                        continue
                    status, text = await _status(http, method, _path(template))
                    assert status != 401 and status < 500, (kind, method, template, text)
                    if needed.scope is not None and scope < needed.scope:
                        assert status == 403, (kind, method, template, status)
                        wanted = needed.scope.name.lower()
                        assert f"token:{kind} has scope {kind}" in text and f"--scope {wanted}" in text
                    else:
                        assert status != 403, (kind, method, template, text)


async def test_a_route_that_nobody_thought_of_is_for_admins_alone() -> None:
    assert needs("POST", "/v1/new").scope is Scope.ADMIN and needs("POST", "/v1/new").whole
    assert needs("HEAD", "/v1/pools") == needs("GET", "/v1/pools")


async def test_who_is_limited_hears_of_another_pool_what_is_said_of_none(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        assert [one.ended_by is not None for one in await _tasks(world, "main", "ci-1")] == [False, False]
        async with world.tcp("limited-admin") as http:
            for (method, template), needed in NEEDS.items():
                if needed.whole:
                    status, text = await _status(http, method, _path(template))
                    assert status == 403 and "limited to pools ci-*" in text, (method, template, text)
                elif "{pool}" in template or "{task_id}" in template or template == "/v1/pools/{name}":
                    await _same(http, method, template)
            for path in ("/v1/pools", "/v1/nodes", "/v1/instances", "/v1/tasks", "/v1/events", "/v1/sd"):
                answer = await http.get(path)
                assert answer.status_code == 200, (path, answer.text)
                assert '"main"' not in answer.text and "of-main" not in answer.text, (path, answer.text)
            assert [one["name"] for one in (await http.get("/v1/pools")).json()] == ["ci-1"]
            theirs = await http.get("/v1/tasks/of-ci-1")
            assert theirs.status_code == 200
            assert (await http.get("/v1/operations/of-main")).status_code == 404
            assert (await http.get("/readyz")).json() == {"live": True, "ready": True}
            for body, status in (({"seconds": 1}, 403), ({"seconds": 1, "pool": "main"}, 404)):
                held = await http.post("/v1/hold", json=body)
                assert held.status_code == status, held.text
            assert "main" not in held.json()["error"].replace("'main'", "", 1)
            assert (await http.post("/v1/hold", json={"seconds": 1, "pool": "ci-1"})).status_code == 200


async def test_a_cursor_says_nothing_of_what_may_not_be_seen(tmp_path: Path) -> None:
    """A pool, or a request, of others looks like none: else names could be found out letter by letter."""
    async with served(tmp_path) as world:
        assert await _tasks(world, "main", "ci-1")
        asked = ["pool", "request_id", "task"]
        names = {"pool": ("main", "m*", "nowhere"), "request_id": ("of-m*", "make-m*", "of-n*")}
        async with world.tcp("limited") as http:
            for path in ("/v1/events", "/v1/operations"):
                for query in ("limit=1", "limit=1&tail=1", "limit=2&after=1"):
                    for what in asked if path == "/v1/events" else ["pool"]:
                        said = set()
                        for name in names.get(what, names["request_id"]):
                            answer = await http.get(f"{path}?{query}&{what}={name}")
                            assert answer.status_code == 200
                            said.add((answer.headers.get("X-Everpool-Cursor"), answer.text))
                        assert len(said) == 1, (path, query, what, said)
            whole = await http.get("/v1/events?limit=1")
            assert whole.json()["pool"] == "ci-1", "a page is not empty because of others"
            theirs = await http.get("/v1/operations?limit=1")
            assert [one["request_id"] for one in theirs.json()] == ["of-ci-1"]
            assert (await http.get("/v1/events?tail=1")).json()["pool"] == "ci-1"


async def test_a_cursor_of_tasks_is_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a search ends in a task of others, its seq is not told, nor that there are more of theirs."""
    monkeypatch.setattr(status, "_SCAN_MAX", 2)
    async with served(tmp_path) as world:
        async with AsyncClient(world.listening.path) as everpool:
            pools = ("main", "main", "main", "ci-1", "main", "main", "ci-1", "main", "ci-1", "main", "main")
            names = [f"t{number}" for number in range(len(pools))]
            tasks = [
                task(name).model_copy(update={"pool": pool}) for name, pool in zip(names, pools, strict=True)
            ]
            await everpool.submit(tasks)
            over = [TaskStopRequested(pool=one.pool, task_id=one.request_id) for one in tasks[:8]]
            for taken in await everpool.submit(over):
                await everpool.wait(taken.request_id, timeout_s=10)
            for one in tasks[:6]:  # these only the journal remembers
                world.desk.status._task(one.pool, one.request_id, None)
        async with world.tcp("limited") as http:
            for query in ("limit=1", "limit=2", "limit=3", "limit=1&status=living", "limit=1&status=stopped"):
                pages = [page async for page in _pages(http, f"/v1/tasks?{query}")]
                shown = [one["seq"] for page in pages for one in page["tasks"]]
                assert len(shown) == {"living": 1, "stopped": 2}.get(query.rpartition("=")[2], 3)
                assert {page["cursor"] for page in pages[:-1]} <= set(shown)
                assert all(page["tasks"] for page in pages[:1]) and pages[-1]["cursor"] is None


async def _pages(http: httpx.AsyncClient, url: str) -> AsyncIterator[dict[str, Any]]:
    cursor = ""
    while True:
        page = (await http.get(url + cursor)).json()
        yield page
        if page["cursor"] is None:
            return
        cursor = f"&cursor={page['cursor']}"


async def _same(http: httpx.AsyncClient, method: str, template: str) -> None:
    """What is in another's pool looks like what is nowhere."""
    name = "of-main" if "{task_id}" in template else "main"
    paths = [_path(template, name).replace("/of-main/tasks", "/main/tasks"), _path(template, "nowhere")]
    said = [await _status(http, method, path) for path in paths]
    assert said[0][0] == 404, (template, said)
    known, unknown = (text.replace(name, "X").replace("main", "X") for text in (said[0][1], said[1][1]))
    assert known == unknown.replace("nowhere", "X"), template


async def test_in_ones_own_pool_what_others_have_looks_like_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        await _tasks(world, "main", "ci-1")
        await until(lambda: world.desk.status.task_state("of-main") is not None)
        async with world.tcp("limited-admin") as http:
            template = "/v1/explain/ci-1/tasks/{}"
            foreign, nothing = [
                await _status(http, "GET", template.format(name)) for name in ("of-main", "nowhere")
            ]
            assert foreign[0] == 404 and foreign[1].replace("of-main", "X") == nothing[1].replace(
                "nowhere", "X"
            )
            said = []
            for name in ("main", "nowhere"):
                body = ShutdownRequested(cluster_id=name, request_id="end").model_dump(mode="json")
                refused = await http.post("/v1/messages", json=body)
                said.append((refused.status_code, refused.text.replace(name, "X")))
            assert said[0] == said[1]


async def test_a_path_leads_nowhere_else(tmp_path: Path) -> None:
    async with served(tmp_path) as world, world.tcp("read") as http:
        assert (await http.get("/v1/pools/")).status_code == 404


async def _tasks(world: Served, *pools: str) -> list[Any]:
    async with AsyncClient(world.listening.path) as everpool:
        asked = [task(f"of-{name}").model_copy(update={"pool": name}) for name in pools]
        taken = [await everpool.submit(one) for one in asked]
        return [one for one in taken if one.taken]


async def test_requests_for_other_pools_are_refused(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        url = f"http://127.0.0.1:{world.port}"
        async with AsyncClient(url, token=world.tokens["limited"]) as everpool:
            theirs = task("theirs").model_copy(update={"pool": "ci-1"})
            for foreign in (
                task("foreign"),
                ShutdownRequested(cluster_id="main", request_id="end-main"),
                ShutdownRequested(cluster_id="nowhere", request_id="end-nothing"),
            ):
                with pytest.raises(EverpoolError, match="limited to pools ci-") as refused:
                    await everpool.submit(foreign)
                assert refused.value.status == 403
            several: list[Request] = [
                theirs,
                task("foreign"),
                ShutdownRequested(cluster_id="main", request_id="end"),
            ]
            codes = [one.code for one in await everpool.submit(several)]
            assert codes == [202, 403, 403]
            with pytest.raises(EverpoolError) as unknown:
                await everpool.submit(task("none").model_copy(update={"pool": "ci-2"}))
            assert unknown.value.status == 404 and "main" not in unknown.value.message
        assert await _events(world, "task_requested") == [("token:limited", "task_requested")]


async def test_every_request_has_its_principal_in_its_envelope(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        url = f"http://127.0.0.1:{world.port}"
        for number, kind in enumerate(("own", "submit", "admin")):
            async with AsyncClient(url, token=world.tokens[kind]) as everpool:
                await everpool.submit(task(f"t{number}"))
        async with AsyncClient(world.listening.path) as everpool:
            await everpool.submit(task("t-unix"))
            await everpool.hold(5, "main")
            await everpool.backup(tmp_path / "copy")
            await everpool.reload()
        me = f"unix:{os.getuid()}"
        assert await _events(world, "pool_requested") == [("config", "pool_requested")] * 2
        asked = await _events(world, "task_requested")
        assert [who for who, _ in asked] == ["token", "token:submit", "token:admin", me]
        done = await _events(world, "administered")
        assert done == [(me, "administered")] * 3


async def test_who_waits_hears_nothing_once_their_token_is_revoked(tmp_path: Path) -> None:
    """Not even the end of what they waited for."""
    async with served(tmp_path) as world:
        await _tasks(world, "main")
        answers: list[httpx.Response] = []

        async def wait() -> None:
            async with world.tcp("read") as http:
                answers.append(await http.get("/v1/operations/of-main", params={"wait": 15}))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await until(lambda: bool(world.desk.followers._ends))
            await world.desk.guard.tokens.revoke("read", "me")
            with anyio.fail_after(10):
                await until(lambda: bool(answers))
        assert answers[0].status_code == 401 and "revoked" in answers[0].json()["error"]
        assert "log" not in answers[0].json() and world.desk.followers._ends == {}


async def test_the_unknown_only_hear_whether(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        async with world.tcp() as http:
            assert (await http.get("/healthz")).json() == {"live": True, "ready": True}
            world.desk.failing = True
            unready = await http.get("/readyz")
            assert (unready.status_code, unready.json()) == (503, {"live": True, "ready": False})
        async with world.tcp("read") as http:
            assert (await http.get("/readyz")).json()["reasons"] == ["disk is full"]
        async with world.unix() as http:
            who = (await http.get("/v1/whoami")).json()
            assert who["name"].startswith("unix:") and (who["scope"], who["pools"]) == ("admin", [])


async def _events(world: Served, *kinds: str) -> list[tuple[str, str]]:
    rows = await world.desk.journal.events(0, 1000, kinds=list(kinds))
    told = [from_json(row) for _, row in rows]
    return [(one["principal"], one["event"]["kind"]) for one in told]
