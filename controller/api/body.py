"""Reading a request's body: JSON only, not too large, not too deep."""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from controller.api.answers import Problem, lines_of
from controller.api.edge import bodies_of, limits_of, somebody

_TO_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NO_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
_NO_MARKS_NOR_COMMAS = bytes(set(_NO_MARKS) - set(b","))

BODY_BYTES_MAX = 65_536  # of what is not messages, unless a route says otherwise
BODIES_MAX = 4  # so many of the largest there may be whose last byte has not come; of one sender, half of it
# The parser builds a node for each value, and each may be a problem of its own: an empty list takes 3 bytes
# of a body, and several hundred of memory.
COMMAS_MAX = 300_000  # of a list: 30 for each of 10,000 messages
OPENINGS_MAX = 150_000  # lists and objects in a list, so 15 for each
ONE_MAX = 20_000  # of either, in what is not a list
M = TypeVar("M", bound=BaseModel)


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """The part of OpenAPI for a body that is read by hand."""
    schema = model.model_json_schema()
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def read_model(request: Request, model: type[M], limit: int = BODY_BYTES_MAX) -> M:
    """The body as a model. Raises Problem, as `read_json`; no value of the body is in its text."""
    raw = await read_json(request, limit)
    try:
        return model.model_validate_json(raw)
    except ValidationError as invalid:
        lines = [part for line in lines_of(invalid) for part in line.split("\n")]
        raise Problem(422, lines[0], lines if len(lines) > 1 else ()) from None


async def read_json(request: Request, limit: int | None = None) -> bytes:
    """The body as it came. `limit`: its bytes, where that is less than the daemon's limit.

    Raises:
        Problem: 400, 415, 413 or 422; 503, too much of others' bodies is here and waits for its rest.
    """
    limits, bodies, who = limits_of(request), bodies_of(request), somebody(request)
    name = who.name if who is not None else ""
    limit = min(limit or limits.body_bytes_max, limits.body_bytes_max)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        sent = f"not {kind!r}" if kind else "none was named"
        raise Problem(415, f"send JSON, with Content-Type: application/json ({sent})")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    parts, size, held = list[bytes](), 0, 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            if size > BODY_BYTES_MAX:  # what is small is always taken
                if not bodies.take(name, len(chunk), BODIES_MAX * limits.body_bytes_max):
                    raise _too_much()
                held += len(chunk)
            parts.append(chunk)
    except ClientDisconnect as gone:  # nobody hears it, but it is counted
        raise Problem(400, "the connection ended before the body had come") from gone
    finally:
        bodies.give(name, held)
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    if not body.strip():
        raise Problem(422, "the body is empty: send a JSON object, or a list of them")
    check_shape(body, limits.depth_max)
    return body


def _too_much() -> Problem:
    return Problem(
        503,
        "too many large bodies are being sent at once: send it again later, or fewer messages at once",
        retry_after_s=5,
        headers={"Connection": "close"},
    )


def _too_large(limit: int) -> Problem:
    return Problem(
        413,
        f"the body is larger than {limit} bytes: send fewer messages at once",
        headers={"Connection": "close"},  # the rest of it is not read
    )


def check_shape(body: bytes, depth_max: int) -> None:
    """Raise Problem when JSON is nested too deep, or has too many values, before anything is built of it."""
    openings, commas = body.count(b"[") + body.count(b"{"), body.count(b",")
    many = body.lstrip()[:1] == b"["
    openings_max, commas_max = (OPENINGS_MAX, COMMAS_MAX) if many else (ONE_MAX, ONE_MAX)
    if openings <= depth_max and commas <= commas_max:
        return
    if b"\\" in body:  # without them every other quote ends a string
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    if body.count(b'"') > 4 * (openings_max + commas_max + 1):  # of a name and a value
        raise _too_many(openings_max, commas_max)
    others = _NO_MARKS if commas <= commas_max else _NO_MARKS_NOR_COMMAS
    outside = body.translate(None, others).replace(b'""', b"")  # what strings mostly are is gone
    outside = b"".join(outside.split(b'"')[::2])
    brackets = outside.translate(_TO_BRACKETS, _NO_BRACKETS)
    if brackets.count(b"[") > openings_max or outside.count(b",") > commas_max:
        raise _too_many(openings_max, commas_max)
    for _ in range(depth_max):  # each round takes the innermost level away
        if b"[]" not in brackets:
            return
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets:
        raise Problem(422, f"the body is nested deeper than {depth_max} levels")


def _too_many(openings: int, commas: int) -> Problem:
    return Problem(413, f"more than {openings} lists and objects, or {commas} values: send fewer at once")
