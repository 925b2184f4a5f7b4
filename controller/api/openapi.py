"""/openapi.json: what FastAPI knows, every Request and Fact, and the one route that goes around it."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter
from pydantic.json_schema import models_json_schema

from actors.events import Envelope, EventJson, RequestJson
from controller.api.submitting import MESSAGES_MAX

_REF = "#/components/schemas/{model}"


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document."""
    made = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for name, adapter in (("Request", RequestJson), ("Event", EventJson)):
        schemas[name] = _schema(adapter, schemas)
    _, shared = models_json_schema([(Envelope, "serialization")], ref_template=_REF)
    for name, schema in shared["$defs"].items():
        schemas.setdefault(name, schema)
    schemas["Answer"] = _ANSWER
    schemas["Problem"] = _PROBLEM
    made["paths"] = {"/v1/messages": {"post": _messages()}} | made["paths"]
    _with_problems(made["paths"])
    return made


def _schema(adapter: TypeAdapter[Any], schemas: dict[str, Any]) -> dict[str, Any]:
    schema = adapter.json_schema(ref_template=_REF)
    for name, definition in schema.pop("$defs", {}).items():
        schemas.setdefault(name, definition)
    return schema


def _messages() -> dict[str, Any]:
    ref = {"$ref": "#/components/schemas/Request"}
    one = {"$ref": "#/components/schemas/Answer"}
    body = {"oneOf": [ref, {"type": "array", "items": ref, "maxItems": MESSAGES_MAX}]}
    problems = {
        "404": "no such pool",
        "409": "the request_id is known with another body",
        "413": "too large",
        "415": "not JSON",
        "422": "wrong",
        "429": "too busy: Retry-After says when",
        "503": "nothing can be made durable now",
    }
    return {
        "tags": ["messages"],
        "summary": "Submit",
        "operationId": "submit",
        "description": "Send one Request, or a list of them. 202: it is durable. A list is answered with 200 "
        "and one answer a message, in order.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "202": {"description": "Accepted", "content": {"application/json": {"schema": one}}},
            "200": {
                "description": "One answer a message",
                "content": {"application/json": {"schema": {"type": "array", "items": one}}},
            },
        }
        | {code: {"description": text} for code, text in problems.items()},
    }


def _with_problems(paths: dict[str, Any]) -> None:
    """Errors look the same everywhere."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for methods in paths.values():
        for operation in methods.values():
            for code, response in operation["responses"].items():
                if code >= "400":
                    response["content"] = content
            operation["responses"].setdefault("default", {"description": "Problem", "content": content})


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
