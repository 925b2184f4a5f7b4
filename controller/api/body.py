"""Reading a request's body: JSON only, not too large, not too deep."""

import re

from starlette.requests import Request

from controller.api.answers import Problem

BODY_BYTES_MAX = 64 * 2**20
DEPTH_MAX = 64

# A string of JSON, closed or not; possessive, so that no input costs more than one pass.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_TO_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


async def read_json(request: Request, limit: int = BODY_BYTES_MAX) -> bytes:
    """The body as it came.

    Raises:
        Problem: 415, 413 or 422.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        sent = f"not {kind!r}" if kind else "none was named"
        raise Problem(415, f"send JSON, with Content-Type: application/json ({sent})")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    parts, size = list[bytes](), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        parts.append(chunk)
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    if not body.strip():
        raise Problem(422, "the body is empty: send a JSON object, or a list of them")
    check_depth(body)
    return body


def _too_large(limit: int) -> Problem:
    return Problem(
        413,
        f"the body is larger than {limit} bytes: send fewer messages at once",
        headers={"Connection": "close"},  # the rest of it is not read
    )


def check_depth(body: bytes) -> None:
    """Raise Problem when JSON is nested deeper than is allowed, before anything is built of it."""
    if body.count(b"[") + body.count(b"{") <= DEPTH_MAX:
        return
    brackets = _STRING.sub(b"", body).translate(_TO_BRACKETS, _NO_BRACKETS)
    for _ in range(DEPTH_MAX):  # each round takes the innermost level away
        if b"[]" not in brackets:
            return
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets:
        raise Problem(422, f"the body is nested deeper than {DEPTH_MAX} levels")
