"""POST /v1/messages with good and with bad bodies."""

import json
import os
from typing import Any

import httpx2 as httpx
import pytest

from controller.api.answers import Problem
from controller.api.body import check_shape
from tests.controller.api.desk import SmallDesk

pytestmark = pytest.mark.anyio


async def post(http: httpx.AsyncClient, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return await http.post("/v1/messages", content=content, headers=sent)


def one(request_id: str = "", **task_keys: Any) -> dict[str, Any]:
    keys = task_keys or {"argv": ["true"]}
    return {"kind": "task_requested", "request_id": request_id, "pool": "main", "task": keys}


async def test_single_is_accepted_then_known(http: httpx.AsyncClient) -> None:
    first, again = await post(http, one("a")), await post(http, one("a"))
    assert first.status_code == again.status_code == 202
    assert first.json()["status"] == "accepted" and again.json()["status"] == "duplicate"
    assert first.json()["seq"] == again.json()["seq"]


async def test_empty_id_is_filled(http: httpx.AsyncClient) -> None:
    said = (await post(http, one())).json()
    assert said["request_id"]
    assert (await http.get(f"/v1/tasks/{said['request_id']}")).status_code == 200


async def test_other_body_is_conflict(http: httpx.AsyncClient) -> None:
    await post(http, one("a"))
    other = await post(http, one("a", argv=["false"]))
    assert other.status_code == 409 and "another body" in other.json()["error"]


async def test_ended_request_tells_its_end(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    request = {
        "kind": "pool_resize_requested",
        "request_id": "resize",
        "pool": "main",
        "nodes": 0,
    }
    await post(http, request)
    await desk.followers.ended("resize", 10)
    assert (await post(http, request)).json()["ended_by"] > 0


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"no json", 422, "not JSON"),
        (b"", 422, "empty"),
        (b"[" * 100_000, 422, "not JSON"),
        (b"[" * 65 + b"]" * 65, 422, "deeper than 64"),
        (b"3", 422, ""),
        ({"kind": "task_request"}, 422, "did you mean task_requested?"),
        ({"pool": "main"}, 422, "kind: is missing"),
        (one("a", argv=["x"], enf={}), 422, "task.enf: unknown field"),
        (one("a", argv="x"), 422, "task.argv"),
        (one("a/b"), 422, "request_id: use 1 to 128"),
        (one("-a"), 422, "request_id"),
        (one("x" * 129), 422, "request_id"),
        (one("a") | {"pool": "Main!"}, 422, "pool"),
        (one("a") | {"pool": "mian"}, 404, "there are main"),
        (
            {"kind": "instance_requested", "provider": "local", "cluster_id": "c", "node_id": 0},
            422,
            "only the daemon",
        ),
    ],
)
async def test_bad_bodies(http: httpx.AsyncClient, body: Any, status: int, text: str) -> None:
    response = await post(http, body)
    assert response.status_code == status
    error = response.json()["error"]
    assert text in error and "\n" not in error and "Traceback" not in response.text


async def test_all_problems_are_told(http: httpx.AsyncClient) -> None:
    response = await post(http, one("a", argv=["x"], enf={}, priority="high"))
    assert response.status_code == 422
    assert len(response.json()["detail"]) == 2


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_other_types_are_415(http: httpx.AsyncClient, kind: str) -> None:
    response = await http.post("/v1/messages", content=b"{}", headers={"Content-Type": kind} if kind else {})
    assert response.status_code == 415


async def test_too_large_is_413(http: httpx.AsyncClient) -> None:
    response = await post(http, b" " * (64 * 2**20 + 1))
    assert response.status_code == 413


async def test_too_large_without_a_length_is_413(http: httpx.AsyncClient) -> None:
    async def parts() -> Any:
        for _ in range(65):
            yield b" " * 2**20

    response = await http.post("/v1/messages", content=parts(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413


async def test_list_has_an_answer_each(http: httpx.AsyncClient) -> None:
    bad = one("c", argv=["x"], enf={})
    unknown = one("d") | {"pool": "other"}
    response = await post(http, [one("a"), one("a"), bad, one("a", argv=["false"]), unknown, 7, one("e/")])
    assert response.status_code == 200
    told = [(answer["status"], answer["code"]) for answer in response.json()]
    assert told == [
        ("accepted", 202),
        ("duplicate", 202),
        ("invalid", 422),
        ("conflict", 409),
        ("refused", 404),
        ("invalid", 422),
        ("invalid", 422),
    ]
    assert "task.enf" in response.json()[2]["error"]
    assert (await post(http, [])).json() == []


async def test_too_many_in_a_list(http: httpx.AsyncClient) -> None:
    assert (await post(http, [one(str(i)) for i in range(10_001)])).status_code == 413


async def test_busy_and_failing(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    desk.busy = True
    busy = await post(http, one("a"))
    assert (busy.status_code, busy.headers["Retry-After"]) == (429, "2")
    desk.failing = True
    failing = await post(http, one("a"))
    assert failing.status_code == 503 and "disk is full" in failing.json()["error"]
    assert "Retry-After" in failing.headers
    assert (await http.get("/readyz")).status_code == 503
    assert (await http.get("/healthz")).status_code == 200


async def test_principal_is_the_peer(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    await post(http, one("mine"))
    rows = await desk.journal.events(0, 10, request_id="mine")
    assert json.loads(rows[0][1])["principal"] == f"unix:{os.getuid()}"


async def test_depth_is_measured_outside_strings() -> None:
    deep = b'{"a": "' + b"[" * 1000 + b'\\"' + b"{" * 1000 + b'", "b": []}'
    check_shape(deep, 64)
    check_shape(b"[" + b"[{}]," * 500 + b"[]]", 64)
    check_shape(b"[" * 64 + b"]" * 64, 64)
    check_shape(b'"' + b'\\"' * 300_000 + b"[" * 100, 64)
    with pytest.raises(Problem):
        check_shape(b'{"a":' * 65 + b"1" + b"}" * 65, 64)
