"""Holds every answer that a test gets against /openapi.json: its status, its type, and its body."""

import json
import re
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

from jsonschema import Draft202012Validator
from starlette.types import Message, Receive, Scope, Send

from controller.api import openapi
from controller.api.answers import JSON, NDJSON
from controller.api.edge import Edge

BODY_MAX = 200_000  # bytes of a body that is looked at
Json = dict[str, Any]
_KNOWN: dict[str, Json] = {}  # the document; the same for every desk, so it is made once


@contextmanager
def documented(edge: Edge) -> Iterator[Edge]:
    """The app, whose answers are looked at. AssertionError at the end: some break the contract."""
    watched = _Watched(edge)
    yield cast(Edge, watched)
    assert not watched.wrong, "\n".join(sorted(watched.wrong))


class _Watched:
    """In the place of an app."""

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self.wrong: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._edge, name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._edge(scope, receive, send)
            return
        started: list[Message] = []
        body = bytearray()

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                started.append(message)
            elif message["type"] == "http.response.body" and len(body) <= BODY_MAX:
                body.extend(message.get("body", b""))
            await send(message)

        try:
            await self._edge(scope, receive, sent)
        finally:
            for message in started:
                self._look(scope, message, bytes(body))

    def _look(self, scope: MutableMapping[str, Any], start: Message, body: bytes) -> None:
        headers = {name.decode().lower(): value.decode() for name, value in start["headers"]}
        with held_against(_document(self._edge)):
            wrong = problem(scope["method"], scope["path"], start["status"], headers, body)
        if wrong is not None:
            self.wrong.add(f"{scope['method']} {scope['path']} -> {start['status']}: {wrong}")


def _document(edge: Edge) -> Json:
    if "small" not in _KNOWN:
        app: Any = edge.app
        _KNOWN["small"] = openapi.document(app)
    return _KNOWN["small"]


@contextmanager
def held_against(document: Json) -> Iterator[None]:
    """Which document is meant by `problem`."""
    if _KNOWN.get("document") is not document:
        _KNOWN["document"] = document
        _patterns.cache_clear()
        _validator.cache_clear()
    yield


def problem(method: str, path: str, status: int, headers: dict[str, str], body: bytes) -> str | None:
    """What of an answer is not as the document says; None: all is. Of the page for people it says nothing."""
    if path == "/" or path.startswith("/web/"):
        return None
    kind = headers.get("content-type", "").partition(";")[0]
    template = _template(path)
    named = "GET" if method == "HEAD" else method
    operation = _KNOWN["document"]["paths"].get(template, {}).get(named.lower())
    if operation is None:  # no route, or not this method of it
        return None if status >= 400 and _fits(_PROBLEM, body, kind, method) else "no route has this answer"
    answer = operation["responses"].get(str(status))
    if answer is None:
        return f"{named} {template} has only {', '.join(operation['responses'])}"
    if status == 304 or method == "HEAD":
        return None
    content = answer.get("content", {})
    if kind not in content:
        return f"{named} {template} answers {kind!r}, and has only {', '.join(content) or 'no body'}"
    for name in answer.get("headers", {}):
        if name == "Retry-After" and "retry-after" not in headers:
            return f"{named} {template} has no Retry-After"
    if not _fits(json.dumps(content[kind]["schema"]), body, kind, method):
        return f"{named} {template}: {_why(json.dumps(content[kind]['schema']), body, kind)}"
    return None


_PROBLEM = '{"$ref": "#/components/schemas/Problem"}'


@cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    """Paths of the document, those without names first."""
    found = []
    for path in sorted(_KNOWN["document"]["paths"], key=lambda one: (one.count("{"), one)):
        text = re.sub(r"\\\{path\\\}", ".+", re.escape(path))
        found.append((re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", text)), path))
    return found


def _template(path: str) -> str:
    return next((template for pattern, template in _patterns() if pattern.fullmatch(path)), "")


def _values(body: bytes, kind: str) -> list[Any]:
    """What there is to look at in a body: of lines the first."""
    if len(body) > BODY_MAX:
        return []
    if kind == JSON:
        return [json.loads(body)]
    if kind == NDJSON:
        return [json.loads(line) for line in body.split(b"\n")[:1] if line.strip()]
    return []


@cache
def _validator(schema: str) -> Draft202012Validator:
    whole = {**json.loads(schema), "components": _KNOWN["document"]["components"]}
    return Draft202012Validator(whole)


def _fits(schema: str, body: bytes, kind: str, method: str) -> bool:
    if method == "HEAD":
        return True
    return all(_validator(schema).is_valid(one) for one in _values(body, kind))


def _why(schema: str, body: bytes, kind: str) -> str:
    told = []
    for value in _values(body, kind):
        for error in _validator(schema).iter_errors(value):
            told.append(f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}")
    return "; ".join(told[:5])
