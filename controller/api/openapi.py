"""/openapi.json: what FastAPI knows, every Request and Fact, and the one route that goes around it."""

import re
from functools import cache
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import ConfigDict, Field, TypeAdapter, create_model
from pydantic.json_schema import models_json_schema

from actors.events import Envelope, EventJson, RequestJson, TaskCompleted
from controller.api import contract
from controller.api.answers import NDJSON, SSE
from controller.api.authority import needs
from controller.api.examples import REQUESTS, envelope, examples
from controller.api.paging import CURSOR
from controller.api.submitting import MESSAGES_MAX
from controller.client_views import View, fields
from controller.client_wire import LogLine

_REF = "#/components/schemas/{model}"


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document."""
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for name, adapter in (("Request", RequestJson), ("Event", EventJson)):
        schemas[name] = _schema(adapter, schemas)
    shown = (Envelope, LogLine, *map(_model, contract.VIEWS))
    models = [(model, "serialization") for model in shown]
    _, shared = models_json_schema(models, ref_template=_REF)  # type: ignore[arg-type]
    for name, schema in shared["$defs"].items():
        schemas.setdefault(name, schema)
    for name, event in examples().items():
        schemas[name]["examples"] = [event.model_dump(mode="json")]
    schemas["Answer"] = _ANSWER
    schemas["Problem"] = _PROBLEM
    made["components"]["securitySchemes"] = {"bearer": _BEARER}
    made["security"] = [{"bearer": []}]
    own = {"/v1/messages": {"post": _messages()}, "/openapi.json": {"get": _itself()}}
    made["paths"] = own | made["paths"]
    for path, methods in made["paths"].items():
        for method, operation in methods.items():
            _complete(path, method, operation)
    return made


@cache
def _model(view: type[View]) -> type[Any]:
    """A view as a model, for its schema."""
    keys: dict[str, Any] = {
        name: (_modelled(kind), Field(default_factory=dict) if name in view.sometimes else ...)
        for name, kind in fields(view).items()
    }
    config = ConfigDict(extra="allow")
    made: type[Any] = create_model(view.__name__, __config__=config, __doc__=view.__doc__, **keys)
    return made


def _modelled(kind: Any) -> Any:
    """A type with models in the places of views."""
    if isinstance(kind, type) and issubclass(kind, View):
        return _model(kind)
    origin = get_origin(kind)
    if origin is None or origin is Literal:
        return kind
    parts = tuple(_modelled(one) for one in get_args(kind))
    return Union[parts] if origin in (Union, UnionType) else origin[parts]  # noqa: UP007


def _schema(adapter: TypeAdapter[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    schema = adapter.json_schema(ref_template=_REF)
    for name, definition in schema.pop("$defs", {}).items():
        schemas.setdefault(name, definition)
    return schema


def _messages() -> dict[str, Any]:
    ref = {"$ref": "#/components/schemas/Request"}
    one = {"$ref": "#/components/schemas/Answer"}
    body = {"oneOf": [ref, {"type": "array", "items": ref, "maxItems": MESSAGES_MAX}]}
    shown = {request.kind: {"value": request.model_dump(mode="json")} for request in REQUESTS}
    return {
        "tags": ["messages"],
        "summary": "Submit",
        "operationId": "submit",
        "description": "Send one Request, or a list of them. 202: it is durable. A list is answered with 200 "
        "and one answer a message, in order.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": body, "examples": shown}},
        },
        "responses": {
            "202": {"description": "Accepted, or known already", "content": _json(one)},
            "200": {"description": "A list: one answer a message", "content": _json(_list(one))},
            "404": {"description": "There is no such pool, node, task or provider"},
            "409": {"description": "The request_id is known with another body; or the pool is the config's"},
            "413": {"description": "The body is too large: send fewer messages at once"},
            "415": {"description": "Not JSON: send Content-Type: application/json"},
            "422": {"description": "The message is wrong: `detail` has a line for each problem"},
        },
    }


def _itself() -> dict[str, Any]:
    return {
        "tags": ["daemon"],
        "summary": "This document",
        "responses": {"200": {"description": "OpenAPI 3.1", "content": _json({"type": "object"})}},
    }


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    """Add what holds for every route: its name, what it needs, what its answers are and when errors come."""
    operation["operationId"] = "submit" if path == "/v1/messages" else name_of(path, method)
    needed = needs(method.upper(), path)
    responses = operation["responses"]
    problems = {
        "429": "Too many requests, or a pool is busy: Retry-After says when to come again",
        "503": "Nothing can be read or made durable now: Retry-After says when to come again",
    }
    problems["401"] = "No token is shown, or one that is wrong, revoked or expired"
    if needed.scope is None:
        operation["security"] = []
        problems["401"] = "The token that is shown is wrong, revoked or expired; none is needed"
    else:
        operation["x-everpool-scope"] = needed.scope.name.lower()
        problems["403"] = "The token's scope or its pools do not allow it"
    names = [one["name"] for one in operation.get("parameters", ())]
    if "{" in path or "pool" in names:
        problems["404"] = "It is not there, or not for you to see; the nearest that is there is named"
    if names:
        problems["422"] = "A parameter is wrong; the nearest right one is named"
    if path == "/v1/events":
        problems["410"] = f"Events behind the cursor are pruned; {CURSOR} is where nothing is missing"
    if "requestBody" in operation:
        problems |= contract.OF_A_BODY
        if shown := contract.BODIES.get((method, path)):
            operation["requestBody"]["content"]["application/json"]["example"] = shown
    problems |= contract.PROBLEMS.get((method, path), {})
    for code, text in problems.items():
        responses.setdefault(code, {})
        if not responses[code].get("description") or "content" in responses[code]:
            responses[code] = {"description": text}
    for code, response in responses.items():
        if code >= "400" and not (path in ("/healthz", "/readyz") and code == "503"):
            response["content"] = _json({"$ref": "#/components/schemas/Problem"})
        if code in ("429", "503"):
            response["headers"] = {"Retry-After": _RETRY_AFTER}
    ok: dict[str, Any] = next(
        (response for code, response in responses.items() if code in ("200", "201")), {}
    )
    if (method, path) in contract.ANSWERS:
        ok["content"] = _json(contract.ANSWERS[method, path])
        if path in ("/healthz", "/readyz"):
            responses["503"] |= {"description": "It is not", "content": ok["content"]}
    if path in contract.CONTENTS:
        ok["content"] = contract.CONTENTS[path]
    if path == "/v1/events":
        ok["content"] = _EVENTS
    if {"limit", "after"} <= set(names) or path == "/v1/events":
        ok["headers"] = {CURSOR: _CURSOR}
        responses.get("410", {})["headers"] = {CURSOR: _CURSOR} if "410" in responses else {}


def plain(path: str) -> str:
    """A route's path as the document names it, without converters."""
    return re.sub(r":[a-z]+}", "}", path)


def name_of(path: str, method: str) -> str:
    """An operationId that only changes when the route does."""
    words = re.findall(r"[a-z_]+", path.removeprefix("/v1").lower())
    return "_".join([method, *words]) if words else f"{method}_page"


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _list(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": schema}


_DONE = next(event for event in examples().values() if isinstance(event, TaskCompleted))
_EVENTS = {
    NDJSON: {"schema": contract.ref("Envelope"), "example": envelope(_DONE).model_dump(mode="json")},
    SSE: {"schema": {"type": "string", "description": "`id:` is the seq, `data:` an Envelope"}},
}
_CURSOR = {
    "description": "where to go on, as `after`; of lists: absent at the end",
    "schema": {"type": "string"},
}
_RETRY_AFTER = {"description": "seconds", "schema": {"type": "integer", "minimum": 1}}
_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token of `everpool token create`. A unix socket needs none: its file's mode lets in.",
}
_ANSWER = {
    "type": "object",
    "required": ["request_id", "status"],
    "properties": {
        "request_id": {"type": "string"},
        "seq": {"type": "integer", "description": "where the Request stands in the journal"},
        "status": {"enum": ["accepted", "duplicate", "conflict", "refused", "invalid"]},
        "code": {"type": "integer", "description": "in lists: the HTTP status of this message"},
        "ended_by": {"type": "integer", "description": "seq of its terminal Fact, when it is over"},
        "error": {"type": "string"},
        "retry_after_s": {"type": "number"},
        "detail": {"type": "array", "items": {"type": "string"}},
    },
}
_PROBLEM = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}, "detail": {"type": "array", "items": {"type": "string"}}},
}
