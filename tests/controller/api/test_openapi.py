"""/openapi.json: valid, complete, with examples that are right, and nothing of /v1 ever goes."""

import json
from pathlib import Path
from typing import Any, get_args

import httpx2 as httpx
import pytest
from openapi_core import OpenAPI
from pydantic import BaseModel
from starlette.routing import Route

from actors.events import Envelope, EventJson, Fact, Request, RequestJson
from controller.api import contract, openapi
from controller.api.app import build_app
from controller.api.daemon import Backup, Hold
from controller.api.examples import envelope, examples
from controller.api.secrets import CredentialSet, GroupMerged, GroupSet
from controller.api.tokens import NewToken
from tests.controller.api.desk import SmallDesk

pytestmark = pytest.mark.anyio
SHAPE = Path(__file__).parent / "openapi_shape.json"
KINDS = (*get_args(Request), *get_args(Fact))


@pytest.fixture
async def document(http: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await http.get("/openapi.json")).json()
    return found


async def test_it_is_valid(document: dict[str, Any]) -> None:
    OpenAPI.from_dict(document).check_spec()
    text = json.dumps(document)
    references = {part for part in text.split('"') if part.startswith("#/components/")}
    assert {one.rsplit("/", 1)[1] for one in references} <= set(document["components"]["schemas"])


async def test_it_has_every_served_route(desk: SmallDesk, document: dict[str, Any]) -> None:
    app: Any = build_app(desk).app
    served = {
        (openapi.plain(route.path), method.lower())
        for route in _routes(app.router.routes)
        if getattr(route, "include_in_schema", True)
        for method in (route.methods or set()) - {"HEAD"}
    }
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert served == described
    ids = [one["operationId"] for methods in document["paths"].values() for one in methods.values()]
    assert len(ids) == len(set(ids))


def _routes(routes: Any) -> list[Route]:
    found: list[Route] = []
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            found += _routes(inner.routes)
        elif isinstance(route, Route) or hasattr(route, "methods"):
            found.append(route)
    return found


async def test_every_request_and_fact_has_an_example(document: dict[str, Any]) -> None:
    known, schemas = examples(), document["components"]["schemas"]
    for kind in KINDS:
        shown = schemas[kind.__name__]["examples"]
        assert EventJson.validate_python(shown[0]) == known[kind.__name__]
        assert Envelope.model_validate_json(envelope(known[kind.__name__]).model_dump_json())
    submit = document["paths"]["/v1/messages"]["post"]["requestBody"]["content"]["application/json"]
    shown = {name: RequestJson.validate_python(one["value"]) for name, one in submit["examples"].items()}
    assert {type(one) for one in shown.values()} == set(get_args(Request))


async def test_errors_are_told_for_each_route(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            answers = operation["responses"]
            for code, answer in answers.items():
                assert answer["description"], (path, method, code)
                if code >= "400" and path not in ("/healthz", "/readyz"):
                    assert "Problem" in json.dumps(answer["content"]), (path, method, code)
            assert "Retry-After" in answers["429"]["headers"] and "Retry-After" in answers["503"]["headers"]
            if operation.get("security") != []:
                assert {"401", "403"} <= set(answers), (path, method)
    events = document["paths"]["/v1/events"]["get"]["responses"]
    assert "X-Everpool-Cursor" in events["200"]["headers"] and "410" in events
    assert "X-Everpool-Cursor" in document["paths"]["/v1/nodes"]["get"]["responses"]["200"]["headers"]


async def test_every_answer_and_every_body_is_described(document: dict[str, Any]) -> None:
    """`default` would let an answer that nobody described pass as described."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            answers = operation["responses"]
            assert "default" not in answers, (path, method)
            good = [one for code, one in answers.items() if code < "300"]
            assert good, (path, method)
            if path.startswith("/v1/"):
                assert all(one.get("content") for one in good), (path, method)
                shown = [content["schema"] for one in good for content in one["content"].values()]
                assert {} not in shown, (path, method)
            if "requestBody" in operation:
                assert {"400", "413", "415", "422"} <= set(answers), (path, method)
                body = operation["requestBody"]["content"]["application/json"]
                assert "example" in body or "examples" in body, (path, method)


async def test_examples_of_bodies_are_right() -> None:
    models: dict[tuple[str, str], type[BaseModel]] = {
        ("post", "/v1/hold"): Hold,
        ("post", "/v1/backup"): Backup,
        ("post", "/v1/tokens"): NewToken,
        ("put", "/v1/secrets/{group}"): GroupSet,
        ("post", "/v1/secrets/{group}"): GroupMerged,
        ("put", "/v1/credentials/{name}"): CredentialSet,
    }
    assert set(models) == set(contract.BODIES)
    for route, model in models.items():
        assert model.model_validate_json(json.dumps(contract.BODIES[route]))


async def test_nothing_of_v1_goes(document: dict[str, Any]) -> None:
    """What a release had stays as it was. Something new: write the shape anew, see `shape`."""
    kept, now = json.loads(SHAPE.read_text()), shape(document)
    gone = {name: what for name, what in kept.items() if now.get(name) != what}
    assert not gone, f"removed, or of another type: {gone}"


def shape(document: dict[str, Any]) -> dict[str, str]:
    """Every route, parameter and field, with its type.

    To keep what is new: `python -m tests.controller.api.test_openapi` writes openapi_shape.json.
    """
    found: dict[str, str] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            route = f"{method.upper()} {path}"
            found[route] = operation["operationId"]
            for one in operation.get("parameters", ()):
                found[f"{route} ?{one['name']}"] = _type(one["schema"])
            for code in operation["responses"]:
                if code < "300":
                    found[f"{route} -> {code}"] = "answer"
    for name, schema in document["components"]["schemas"].items():
        for field, value in schema.get("properties", {}).items():
            found[f"{name}.{field}"] = _type(value)
    return dict(sorted(found.items()))


def _type(schema: dict[str, Any]) -> str:
    """A schema's type in a word; limits and words of a set may change."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[1]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " | ".join(sorted(_type(one) for one in schema[key]))
    if "items" in schema and isinstance(schema["items"], dict):
        return f"list of {_type(schema['items'])}"
    kind = schema.get("type") or type(next(iter(schema.get("enum", [schema.get("const")])))).__name__
    return str(kind)


async def _write() -> None:
    import tempfile

    import anyio

    from tests.controller.api.desk import small_desk

    async with anyio.create_task_group() as group:
        with tempfile.TemporaryDirectory() as folder, small_desk(Path(folder), group) as desk:
            app: Any = build_app(desk).app
            SHAPE.write_text(json.dumps(shape(openapi.document(app)), indent=0) + "\n")


if __name__ == "__main__":
    import anyio

    anyio.run(_write)
