"""Google's discovery documents as routes and as schemas, from inside google-api-python-client."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

_INTEGERS = {"int64": r"^-?[0-9]+$", "uint64": r"^[0-9]+$"}


@dataclass(frozen=True)
class Method:
    """One method of an API.

    Attributes:
        name: such as "instances.insert".
        path: matches a whole path, with the path parameters as groups.
        query: schemas of its own query parameters and of those that every method has, by name.
        request, response: names of schemas; "" for none.
    """

    name: str
    verb: str
    path: re.Pattern[str]
    parameters: Mapping[str, Mapping[str, Any]]
    query: Mapping[str, Mapping[str, Any]]
    request: str
    response: str


class Document:
    """One discovery document.

    Args:
        name: such as "compute.v1".
    """

    def __init__(self, name: str) -> None:
        package = find_spec("googleapiclient")
        assert package is not None and package.origin is not None, "google-api-python-client is not installed"
        path = Path(package.origin).parent / f"discovery_cache/documents/{name}.json"
        self._document = json.loads(path.read_bytes())
        self.revision: str = self._document["revision"]
        self.api_version = ""  # the newest that any method has
        self.methods: list[Method] = []
        self._gather(self._document)
        self._definitions = {
            sending: {
                key: _converted(schema, sending=sending) for key, schema in self._document["schemas"].items()
            }
            for sending in (True, False)
        }
        self._validators: dict[tuple[str, bool], Draft202012Validator] = {}

    def _gather(self, resource: Mapping[str, Any]) -> None:
        prefix, common = self._document["servicePath"], self._document["parameters"]
        for method in resource.get("methods", {}).values():
            self.api_version = max(self.api_version, method.get("apiVersion", ""))
            parameters = method.get("parameters", {})
            in_query = {key: value for key, value in parameters.items() if value["location"] == "query"}
            self.methods.append(
                Method(
                    name=".".join(method["id"].split(".")[1:]),
                    verb=method["httpMethod"],
                    path=_route("/" + prefix + method["path"], parameters),
                    parameters={k: v for k, v in parameters.items() if v["location"] == "path"},
                    query=dict(common) | in_query,
                    request=method.get("request", {}).get("$ref", ""),
                    response=method.get("response", {}).get("$ref", ""),
                )
            )
        for child in resource.get("resources", {}).values():
            self._gather(child)

    def find(self, verb: str, path: str) -> tuple[Method, dict[str, str]] | None:
        """The method of a request, with its path parameters."""
        best: tuple[Method, dict[str, str]] | None = None
        for method in self.methods:
            match = method.path.fullmatch(path) if method.verb == verb else None
            # "…/instances/bulkInsert" is also an instance's name: the route with fewer parameters is meant.
            if match is not None and (best is None or len(method.parameters) < len(best[0].parameters)):
                best = method, match.groupdict()
        return best

    def enum(self, schema: str, field: str) -> list[str]:
        """The values that a field may have."""
        return list(self._document["schemas"][schema]["properties"][field]["enum"])

    def wrong(self, schema: str, value: object, *, sending: bool) -> list[str]:
        """What is wrong with a body. `sending`: it is a request's, and has nothing that only answers have."""
        found = self._validator(schema, sending).iter_errors(value)
        return [f"{schema} at {error.json_path}: {error.message[:300]}" for error in found]

    def _validator(self, schema: str, sending: bool) -> Draft202012Validator:
        made = self._validators.get((schema, sending))
        if made is None:
            whole = {"$defs": self._definitions[sending], "$ref": f"#/$defs/{schema}"}
            made = self._validators[schema, sending] = Draft202012Validator(whole)
        return made


def parameter_wrong(name: str, schema: Mapping[str, Any], value: str) -> str | None:
    """What is wrong with a parameter of a path or query."""
    kind, pattern = schema.get("type"), schema.get("pattern")
    if kind == "integer" and not re.fullmatch(r"-?\d+", value):
        return f"{name}={value!r} is no integer"
    if kind == "integer" and not _within(schema, int(value)):
        return f"{name}={value!r} is out of bounds"
    if kind == "boolean" and value not in ("true", "false"):
        return f"{name}={value!r} is no boolean"
    if pattern is not None and not re.fullmatch(pattern, value):
        return f"{name}={value!r} does not match {pattern}"
    if schema.get("enum") and value not in schema["enum"]:
        return f"{name}={value!r} is none of {schema['enum']}"
    return None


def _within(schema: Mapping[str, Any], number: int) -> bool:
    return int(schema.get("minimum", number)) <= number <= int(schema.get("maximum", number))


@cache
def document(name: str) -> Document:
    """A discovery document, read once."""
    return Document(name)


def _route(path: str, parameters: Mapping[str, Mapping[str, Any]]) -> re.Pattern[str]:
    parts = []
    for literal, greedy, name in re.findall(r"([^{]+)|\{(\+?)(\w+)\}", path):
        held = parameters[name].get("pattern", ".+").strip("^$") if greedy else "[^/:]+"
        parts.append(re.escape(literal) if literal else f"(?P<{name}>{held})")
    return re.compile("".join(parts))


def _converted(schema: Mapping[str, Any], *, sending: bool) -> Any:
    """A schema of Google's as JSON schema: what it does not name is not allowed."""
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    kind = schema.get("type")
    if kind == "any":
        return True
    made: dict[str, Any] = {"type": kind}
    if kind == "object":
        properties = schema.get("properties", {})
        made["properties"] = {
            key: _converted(value, sending=sending)
            for key, value in properties.items()
            if not (sending and value.get("readOnly"))
        }
        more = schema.get("additionalProperties")
        made["additionalProperties"] = False if more is None else _converted(more, sending=sending)
    elif kind == "array":
        made["items"] = _converted(schema["items"], sending=sending)
    elif kind == "string":
        if schema.get("format") in _INTEGERS:
            made["pattern"] = _INTEGERS[schema["format"]]
        elif "pattern" in schema:
            made["pattern"] = f"^(?:{schema['pattern']})$"
        if "enum" in schema:
            made["enum"] = schema["enum"]
    return made
