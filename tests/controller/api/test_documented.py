"""What the look at every answer finds, on answers that break the contract; and streams that break."""

import json
from typing import Any

import httpx2 as httpx
import pytest
from pydantic_core import to_json

from actors.events import Log
from controller.api.examples import MACHINE
from controller.client_core import Call
from controller.client_feeds import TelemetryFeed
from tests.controller.api.documented import held_against, problem

pytestmark = pytest.mark.anyio
KIND = {"content-type": "application/json"}
LIVE: dict[str, Any] = {"live": True, "ready": True}
WHO: dict[str, Any] = {"name": "me", "scope": "read", "pools": []}
BUSY = {"error": "busy"}
BROKEN: dict[str, tuple[int, dict[str, str], Any, str]] = {
    "/v1/whoami": (200, KIND, {"name": "me", "pools": []}, "'scope' is a required property"),
    "/v1/tokens": (200, KIND, [{**WHO, "scope": "root"}], "required property"),
    "/v1/pools": (418, KIND, BUSY, "has only"),
    "/v1/webhooks": (429, KIND, BUSY, "no Retry-After"),
    "/v1/nodes": (200, {"content-type": "text/html"}, [], "answers 'text/html'"),
    "/v1/sd": (404, KIND, {"detail": "no error"}, "'error' is a required property"),
    "/v1/nothing": (200, KIND, {}, "no route"),
}


async def test_what_is_not_in_the_document_is_found(http: httpx.AsyncClient) -> None:
    with held_against((await http.get("/openapi.json")).json()):
        assert problem("GET", "/v1/whoami", 200, KIND, json.dumps(WHO).encode()) is None
        assert problem("GET", "/readyz", 200, KIND, json.dumps(LIVE).encode()) is None
        assert problem("GET", "/v1/nothing", 404, KIND, json.dumps(BUSY).encode()) is None
        for path, (status, headers, body, said) in BROKEN.items():
            found = problem("GET", path, status, headers, json.dumps(body).encode())
            assert found is not None and said in found, (path, found)


def line(number: int, cursor: str, more: bool = False) -> bytes:
    event = Log(instance=MACHINE, line=str(number), number=number).model_dump(mode="json")
    return to_json({"cursor": cursor, "event": event} | ({"more": True} if more else {})) + b"\n"


def test_a_page_of_telemetry_is_given_once_though_its_stream_broke() -> None:
    over = Call("GET", "/v1/tasks/t", lambda body: True)
    feed = TelemetryFeed("/v1/telemetry/log", Log, {"task": "t"}, after="", follow=True, over=over)
    assert feed.begin() == {"follow": "true", "task": "t"}
    page = line(1, "a", more=True) + line(2, "a", more=True) + line(3, "a")
    assert list(feed.feed(line(0, "0") + page[:-30])) and feed.after == "0"
    assert feed.begin()["after"] == "0", "the whole page is asked for again"
    again = [one for byte in page for one in feed.feed(bytes([byte]))]
    assert [one.number for one in again] == [1, 2, 3] and feed.begin()["after"] == "a"
