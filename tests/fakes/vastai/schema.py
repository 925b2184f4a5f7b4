"""Requests and answers against the vendor's OpenAPI document, where it is at hand.

The document is wrong in places: what its own SDK does, and what the vendor's pages say, is written down in
`_correct`, so that all else is held to it.
"""

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from openapi_core import OpenAPI
from openapi_core.datatypes import RequestParameters
from openapi_core.exceptions import OpenAPIError
from openapi_core.templating.paths.exceptions import OperationNotFound, PathNotFound
from openapi_core.validation.request.exceptions import SecurityValidationError
from werkzeug.datastructures import Headers, ImmutableMultiDict
from werkzeug.wrappers import Request, Response

from tests.fakes.controls import Controls, Environ, StartResponse, WSGIApp
from tests.fakes.schemas import schema_file

NAME = "vast-openapi.yaml"
OPERATORS = {"eq", "neq", "gt", "gte", "lt", "lte", "in", "notin"}
# Sent by the vendor's SDK 1.9.1, and in none of the document's lists.
SDK_CREATE_FIELDS = {"client_id", "extra"}
SDK_SEARCH_FIELDS = {"disable_bundling"}
_SEARCH, _CREATE = "/api/v0/bundles", re.compile(r"/api/v0/asks/\d+")

_REFUSED = Response(
    '{"success": false, "error": "invalid_args", "msg": "not by the document"}',
    400,
    mimetype="application/json",
)


class Checked:
    """WSGI middleware: notes each request and answer that breaks the document in `Controls.violations`."""

    def __init__(self, app: WSGIApp, controls: Controls) -> None:
        self._app, self._controls = app, controls
        path = schema_file(NAME)
        self._document = None if path is None else _document(path)
        self._properties = {} if path is None else _properties(path)

    @property
    def checks(self) -> bool:
        """Whether there is a document to check with."""
        return self._document is not None

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        if self._document is None:
            return self._app(environ, start_response)
        asked = _Asked(Request(environ))
        environ["wsgi.input"] = _Again(asked.body)
        if not self._right(self._document, asked):
            return _REFUSED(environ, start_response)
        told: list[Any] = []

        def start(status: str, headers: Any, *rest: Any) -> Any:
            told[:] = [status, headers]
            return start_response(status, headers, *rest)

        answer = b"".join(self._app(environ, start))
        self._check_answer(self._document, asked, _Told(int(told[0].split()[0]), Headers(told[1]), answer))
        return [answer]

    def _right(self, document: Any, asked: "_Asked") -> bool:
        try:
            asked.body.decode()
        except UnicodeDecodeError as error:  # openapi-core can't say what is wrong with it
            self._controls.violated(f"{asked.what}: request: {error}")
            return False
        try:
            document.validate_request(asked)
        except (SecurityValidationError, PathNotFound, OperationNotFound):
            return True  # refused by the fake itself
        except OpenAPIError as error:
            self._controls.violated(f"{asked.what}: request: {_said(error)}")
            return False
        for problem in self._unknown(asked):
            self._controls.violated(f"{asked.what}: request: {problem}")
        return True

    def _check_answer(self, document: Any, asked: "_Asked", told: "_Told") -> None:
        if told.status_code >= 500:
            return  # the document does not speak of them
        try:
            document.validate_response(asked, told)
        except (PathNotFound, OperationNotFound):
            self._controls.violated(f"{asked.what}: there is no such call")
        except OpenAPIError as error:
            self._controls.violated(f"{asked.what}: answer {told.status_code}: {_said(error)}")

    def _unknown(self, asked: "_Asked") -> Iterable[str]:
        """Fields that the document has no name for: it does not forbid them, and a misspelt one is lost."""
        if not asked.body or asked.method == "delete":
            return
        sent = json.loads(asked.body)
        if asked.path == _SEARCH:
            for name, value in sent.items():
                if name not in self._properties["search"] | SDK_SEARCH_FIELDS:
                    yield f"{name} is nothing to search for"
                if isinstance(value, dict) and not OPERATORS.issuperset(value):
                    yield f"{name}: {sorted(value)} are no operators"
        elif _CREATE.fullmatch(asked.path):
            for name in sorted(set(sent) - self._properties["create"] - SDK_CREATE_FIELDS):
                yield f"{name} is nothing to create with"


class _Asked:
    """A request as openapi-core wants it. Paths of the document have no slash at the end, calls have one."""

    def __init__(self, request: Request) -> None:
        self.parameters = RequestParameters(
            query=ImmutableMultiDict(request.args), header=Headers(request.headers), cookie=request.cookies
        )
        self.body: bytes = request.get_data()
        self.path = request.path.rstrip("/")
        self.method = request.method.lower()
        self.what = f"{request.method} {self.path}"
        self.host_url = "https://console.vast.ai"
        self.content_type = request.mimetype or "application/json"


class _Told:
    def __init__(self, status_code: int, headers: Headers, data: bytes) -> None:
        self.status_code, self.headers, self.data = status_code, headers, data
        self.content_type = headers.get("Content-Type", "").partition(";")[0]


class _Again:
    """A body that was read, to be read again."""

    def __init__(self, body: bytes) -> None:
        self._left = body

    def read(self, size: int = -1) -> bytes:
        """Some of what is left."""
        size = len(self._left) if size < 0 else size
        part, self._left = self._left[:size], self._left[size:]
        return part

    def readline(self, size: int = -1) -> bytes:
        """No lines here."""
        return self.read(size)


def _said(error: Exception) -> str:
    """The cause that says most: a schema's own errors where there are some, each with its place."""
    cause: BaseException | None = error
    said = str(error)
    while cause is not None:
        wrong = getattr(cause, "schema_errors", None)
        if wrong:
            return "; ".join(f"{'.'.join(map(str, one.path))}: {one.message}" for one in wrong)[:600]
        said, cause = str(cause), cause.__cause__
    return said[:600]


@cache
def loaded(path: Path) -> dict[str, Any]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document: dict[str, Any] = yaml.load(path.read_bytes(), Loader=loader)
    _correct(document)
    return document


@cache
def _document(path: Path) -> Any:
    return OpenAPI.from_dict(loaded(path))


def _properties(path: Path) -> dict[str, set[str]]:
    paths = loaded(path)["paths"]
    return {
        "search": set(_sent(paths["/api/v0/bundles"]["post"])),
        "create": set(_sent(paths["/api/v0/asks/{id}"]["put"])),
    }


def _sent(operation: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = operation["requestBody"]["content"]["application/json"]["schema"][
        "properties"
    ]
    return properties


def _correct(document: dict[str, Any]) -> None:
    """What is wrong in the document, each with where the truth is from."""
    paths = document["paths"]
    create, search = _sent(paths["/api/v0/asks/{id}"]["put"]), _sent(paths["/api/v0/bundles"]["post"])
    # SDK 1.9.1 sends an object; its listings give pairs back.
    create["env"] = {"type": ["object", "string", "null"]}
    # SDK 1.9.1, resolve_runtype; the document's own example of image_runtype has these words.
    create["runtype"]["enum"] += ["ssh_direc ssh_proxy", "ssh_direc"]
    # SDK 1.9.1 sends null for what is not given.
    for field in create.values():
        if isinstance(field.get("type"), str):
            field["type"] = [field["type"], "null"]
    # SDK 1.9.1, parse_query: what is in a list stays text.
    search["num_gpus"]["properties"]["in"]["items"]["type"] = ["integer", "string"]
    # SDK 1.9.1, and the document's own example.
    search["type"]["enum"].append("on-demand")
    # Its own description says: each entry has two elements; it is not the list that has two entries.
    for bound in ("minItems", "maxItems"):
        search["order"]["items"][bound] = search["order"].pop(bound)
    # Its own listing has port mappings and pairs there.
    instance = document["components"]["schemas"]["Instance"]["properties"]
    instance["ports"] = {"type": ["object", "null"]}
    instance["extra_env"]["items"] = {"type": "array", "items": {"type": "string"}}
    problem = {"schema": {"$ref": "#/components/schemas/Error"}}
    for operations in paths.values():
        for name in {"get", "put", "post", "delete"} & set(operations):
            answers = operations[name].setdefault("responses", {})
            # The rate limits page shows other words than these lists have: they are not whole.
            for answer in answers.values():
                body = answer.get("content", {}).get("application/json", {}).get("schema", {})
                body.get("properties", {}).get("error", {}).pop("enum", None)
            # The authentication page: 401 or 403 for a key without the permission, from every call.
            # And what is sent wrong is refused by every call, though not all say so.
            # The calls of one machine, but for showing it, say 404 for one that is gone.
            for status in ("400", "401", "403", "404"):
                answers.setdefault(status, {"description": "", "content": {"application/json": problem}})
            # The rate limits page: a 429's body is often plain text.
            frequent = answers.setdefault(
                "429", {"description": "", "content": {"application/json": problem}}
            )
            frequent.setdefault("content", {})["text/plain"] = {"schema": {"type": "string"}}
