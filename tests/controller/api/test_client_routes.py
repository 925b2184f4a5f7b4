"""Both clients have a method for every route of the API."""

import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest

from controller.api.authority import NEEDS
from controller.client import AsyncClient, Client, EverpoolError
from tests.controller.api.conftest import task
from tests.controller.api.desk import SmallDesk

pytestmark = pytest.mark.anyio
NOT_FOR_PROGRAMS = {"/", "/web/{path}", "/openapi.json", "/healthz"}
GIVEN: dict[str, Any] = {
    "request": task("t1"),
    "request_id": "t1",
    "timeout_s": 0,
    "seconds": 1.0,
    "path": "/nowhere/copy",
    "values": {"A": "1"},
}


async def test_every_route_is_asked_by_a_method(
    everpool: AsyncClient, desk: SmallDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[tuple[str, str]] = set()
    monkeypatch.setattr(
        desk.series, "api_answered", lambda method, route, status, seconds: asked.add((method, route))
    )
    for name, method in inspect.getmembers(everpool, inspect.ismethod):
        if name.startswith("_") or name in ("aclose", "ask", "follow", "wait"):
            continue
        needed = {
            one.name: GIVEN.get(one.name, "x")
            for one in inspect.signature(method).parameters.values()
            if one.default is one.empty
            and one.kind is not one.VAR_POSITIONAL
            and one.kind is not one.VAR_KEYWORD
        }
        optional: list[dict[str, Any]] = [{}, {"instances": True}]
        for more in optional:
            if set(more) - set(inspect.signature(method).parameters):
                continue
            try:
                found = method(**{**needed, **more})
                if isinstance(found, AsyncIterator):
                    _ = [one async for one in found]
                else:
                    await found
            except EverpoolError:
                pass
    there = {(method, path) for method, path in NEEDS if path not in NOT_FOR_PROGRAMS}
    assert there - {(method, path.replace(":path", "")) for method, path in asked} == set()


def test_both_clients_have_the_same_methods() -> None:
    def names(client: type) -> set[str]:
        return {name for name in dir(client) if not name.startswith("_")}

    assert names(Client) - {"close"} == names(AsyncClient) - {"aclose"}
