"""Google's discovery document as OpenAPI, for a judge that reads nothing else."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

KEPT = ("type", "format", "pattern", "enum", "minimum", "maximum", "default", "readOnly")


def from_discovery(
    document: dict[str, Any], methods: Iterable[str], values: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """An OpenAPI 3.1 document of some of the methods ("compute.instances.insert", …).

    `values`: what some parameters of paths may be, so that not everything asked for is unknown.

    Bodies are closed, as discovery documents mean them: a field that is not named there is wrong. Answers
    with an error are described by what all of Google's APIs send.

    Raises:
        KeyError: there is no such method.
    """
    known = {method["id"]: method for method in _methods(document)}
    paths: dict[str, dict[str, Any]] = {}
    wanted: set[str] = set()
    for name in methods:
        method = known[name]
        path = f"/{method['flatPath']}"
        paths.setdefault(path, {})[method["httpMethod"].lower()] = _operation(method, values)
        wanted |= set(_references(method))
    return {
        "openapi": "3.1.0",
        "info": {"title": document["title"], "version": document["revision"]},
        "paths": paths,
        "components": {"schemas": _schemas(document["schemas"], wanted)},
    }


def _methods(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from node.get("methods", {}).values()
    for resource in node.get("resources", {}).values():
        yield from _methods(resource)


def _operation(method: dict[str, Any], values: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    parameters = [_parameter(name, one) for name, one in method.get("parameters", {}).items()]
    for one in parameters:
        if one["in"] == "path" and one["name"] in values:
            one["schema"]["enum"] = list(values[one["name"]])
    operation: dict[str, Any] = {
        "operationId": method["id"],
        "parameters": parameters,
        "responses": {
            "200": {"description": "done", **_content(_schema(method["response"]))},
            "4XX": {"description": "refused", **_content(ERROR)},
        },
    }
    if "request" in method:
        operation["requestBody"] = {"required": True, **_content(_schema(method["request"]))}
    return operation


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _parameter(name: str, described: dict[str, Any]) -> dict[str, Any]:
    schema = {key: described[key] for key in KEPT if key in described}
    for key in ("minimum", "maximum"):
        if key in schema:
            schema[key] = int(schema[key])
    if schema.get("type") == "boolean" and "default" in schema:
        schema["default"] = schema["default"] == "true"
    if schema.get("type") == "integer" and "default" in schema:
        schema["default"] = int(schema["default"])
    if "pattern" in schema:
        schema["pattern"] = f"^(?:{schema['pattern']})$"
    if described.get("repeated"):
        schema = {"type": "array", "items": schema}
    return {
        "name": name,
        "in": described["location"],
        "required": bool(described.get("required")),
        "schema": schema,
    }


def _schemas(known: dict[str, Any], wanted: set[str]) -> dict[str, Any]:
    """The schemas that are needed, and those that they need."""
    found: dict[str, Any] = {}
    waiting = sorted(wanted)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = _schema(known[name])
            waiting += _references(known[name])
    return found


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def _schema(node: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in node:
        return {"$ref": f"#/components/schemas/{node['$ref']}"}
    if node.get("type") == "any":
        return {}
    schema = {key: node[key] for key in KEPT if key in node and key != "default"}
    if schema.get("format") in ("int64", "uint64"):  # as a string, so that no reader rounds it
        schema["pattern"] = r"^-?[0-9]{1,19}$" if schema["format"] == "int64" else r"^[0-9]{1,19}$"
    if "pattern" in node:
        schema["pattern"] = f"^(?:{node['pattern']})$"
    if "items" in node:
        schema["items"] = _schema(node["items"])
    if node.get("type") == "object":
        schema["properties"] = {name: _schema(one) for name, one in node.get("properties", {}).items()}
        more = node.get("additionalProperties")
        schema["additionalProperties"] = _schema(more) if isinstance(more, dict) else False
    return schema


ERROR: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "errors"],
            "properties": {
                "code": {"type": "integer"},
                "message": {"type": "string"},
                "errors": {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["reason", "message", "domain"],
                        "properties": {name: {"type": "string"} for name in ("reason", "message", "domain")},
                    },
                },
            },
        }
    },
}
