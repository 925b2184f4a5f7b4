"""POST /v1/messages with good and with bad bodies."""

import json
import os
from typing import Any

import httpx2 as httpx
import pytest

from actors.spec import TITLE_CHARS_MAX, TaskSpec
from controller.api.answers import Problem
from controller.api.body import COMMAS_MAX, ONE_MAX, OPENINGS_MAX, check_shape
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


@pytest.mark.parametrize(
    "body",
    [
        b'{"kind":"task_requested","pool":"main","task":{"argv":[' + b"[]," * ONE_MAX + b"[]]}}",
        b"{" + b'"k":1,' * (ONE_MAX + 1) + b'"k":1}',
        b"[" + b"[]," * OPENINGS_MAX + b"[]]",
        b'[{"a":[' + b"1," * (COMMAS_MAX + 1) + b"1]}]",
        b'["\\"",' + b'"",' * (COMMAS_MAX + 1) + b'""]',
        b"[" + b'"["' * (4 * (COMMAS_MAX + OPENINGS_MAX)),
    ],
)
async def test_too_many_values_are_413_before_anything_is_built(http: httpx.AsyncClient, body: bytes) -> None:
    response = await post(http, body)
    assert response.status_code == 413 and "lists and objects" in response.json()["error"]


async def test_a_full_list_of_long_tasks_is_no_more_than_may_be_sent() -> None:
    task = one(
        "a", name="a", argv=["x"] * 20, env={"A": "1", "B": "2"}, files=[{"path": "p", "data": "eA=="}]
    )
    check_shape(json.dumps([task] * 10_000).encode(), 64)
    check_shape(json.dumps([one("a", shell="a,b;[[ {}" * 7000)] * 50).encode(), 64)
    check_shape(json.dumps([one("a", shell='"[,' * 7000)] * 50).encode(), 64)
    check_shape(json.dumps(one("a", argv=["x"] * 4096, env={f"A{i}": "" for i in range(1000)})).encode(), 64)


async def test_problems_of_a_kind_are_told_once_and_too_many_not_at_all(http: httpx.AsyncClient) -> None:
    wrong = one("a", argv=[[]] * 4000, fetch=[1] * 200, files=[1] * 200)
    response = await post(http, wrong)
    assert response.status_code == 422 and len(response.json()["detail"]) == 3
    keys = {f"k{number}": 1 for number in range(20_100)}
    response = await post(http, [one("a") | keys])
    assert response.status_code == 422 and "problems, too many to tell" in response.json()["error"]


TOO_LARGE: dict[str, dict[str, Any]] = {
    "an argument has 131072 bytes": {"argv": ["x", "y" * 131_072]},
    "an argument has 150000 bytes": {"argv": ["ä" * 75_000]},
    "argv and env have": {"argv": ["x" * 100_000] * 11},
    "argv and env have 1081345": {"argv": ["x"], "env": {f"V{i:02}": "x" * 32_765 for i in range(33)}},
    "task.cwd": {"argv": ["x"], "cwd": "/" * 4097},
    "task.fetch": {"argv": ["x"], "fetch": ["a", "b" * 4097]},
    "task.log_bytes_max": {"argv": ["x"], "log_bytes_max": 2**40 + 1},
}


@pytest.mark.parametrize("text", TOO_LARGE)
async def test_what_no_machine_could_start_is_not_taken_but_still_read(
    http: httpx.AsyncClient, text: str
) -> None:
    keys = TOO_LARGE[text]
    for body in (one("a", **keys), [one("a", **keys)]):
        response = await post(http, body)
        told = response.json() if isinstance(body, dict) else response.json()[0] | {"alone": False}
        assert (response.status_code, told.get("code", 422)) == (422 if "alone" not in told else 200, 422)
        assert text in told["error"]
    assert TaskSpec.model_validate(keys).title == keys["argv"][0][:TITLE_CHARS_MAX]  # of an older journal


async def test_what_is_just_small_enough_is_taken(http: httpx.AsyncClient) -> None:
    keys = {"argv": ["y" * 131_071] * 7, "cwd": "/" * 4096, "fetch": ["b" * 4096], "log_bytes_max": 2**40}
    assert (await post(http, one("a", **keys))).status_code == 202
    assert (await http.get("/v1/tasks/a")).json()["name"] == "y" * 128


async def test_a_pool_has_no_endless_logs(http: httpx.AsyncClient) -> None:
    spec = {"provider": ["local"], "log_bytes_max": 2**40 + 1}
    response = await post(http, {"kind": "pool_requested", "pool": "p", "spec": spec})
    assert response.status_code == 422 and "spec.log_bytes_max: may be up to" in response.text
