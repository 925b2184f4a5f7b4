"""Reading a request's body: JSON only, not too large, not too deep."""

import re

from starlette.requests import ClientDisconnect, Request

from controller.api.answers import Problem
from controller.api.edge import limits_of

# A string of JSON, closed or not; possessive, so that no input costs more than one pass.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_TO_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


async def read_json(request: Request, limit: int | None = None) -> bytes:
    """The body as it came. `limit`: its bytes, where that is less than the daemon's limit.

    Raises:
        Problem: 400, 415, 413 or 422.
    """
    limits = limits_of(request)
    limit = min(limit or limits.body_bytes_max, limits.body_bytes_max)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        sent = f"not {kind!r}" if kind else "none was named"
        raise Problem(415, f"send JSON, with Content-Type: application/json ({sent})")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    parts, size = list[bytes](), 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            parts.append(chunk)
    except ClientDisconnect as gone:  # nobody hears it, but it is counted
        raise Problem(400, "the connection ended before the body had come") from gone
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    if not body.strip():
        raise Problem(422, "the body is empty: send a JSON object, or a list of them")
    check_depth(body, limits.depth_max)
    return body


def _too_large(limit: int) -> Problem:
    return Problem(
        413,
        f"the body is larger than {limit} bytes: send fewer messages at once",
        headers={"Connection": "close"},  # the rest of it is not read
    )


def check_depth(body: bytes, most: int) -> None:
    """Raise Problem when JSON is nested deeper than is allowed, before anything is built of it."""
    if body.count(b"[") + body.count(b"{") <= most:
        return
    # without a backslash every other quote ends a string, and to split there takes a fifth of the time
    outside = _STRING.sub(b"", body) if b"\\" in body else b"".join(body.split(b'"')[::2])
    brackets = outside.translate(_TO_BRACKETS, _NO_BRACKETS)
    for _ in range(most):  # each round takes the innermost level away
        if b"[]" not in brackets:
            return
        brackets = brackets.replace(b"[]", b"")
    if b"[]" in brackets:
        raise Problem(422, f"the body is nested deeper than {most} levels")
