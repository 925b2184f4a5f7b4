"""Answers and errors, the same everywhere: `{"error": one line, "detail": [...]}`."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, to_json
from starlette.responses import Response

from controller.config_errors import nearest

PROBLEMS_MAX = 20
SHOWN_MAX = 10

JSON = "application/json"
NDJSON = "application/x-ndjson"
SSE = "text/event-stream"


class Problem(Exception):
    """An error on its way to the client.

    Attributes:
        status: HTTP status.
        message: one line.
        detail: more lines.
        headers: of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        detail: Sequence[str] = (),
        *,
        retry_after_s: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = one_line(message)
        self.detail = [one_line(line) for line in detail]
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = retry_after(retry_after_s)

    def response(self) -> Response:
        """The answer."""
        return error(self.status, self.message, self.detail, self.headers)


def one_line(text: str) -> str:
    """`text` without line breaks, and not too long."""
    text = " ".join(text.split())
    return text if len(text) <= 1000 else text[:1000] + "…"


def retry_after(seconds: float) -> str:
    """Whole seconds, at least one."""
    return str(max(1, math.ceil(seconds)))


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON."""
    return Response(
        to_json(value, inf_nan_mode="null"), status, dict(headers) if headers else None, media_type=JSON
    )


def error(
    status: int, message: str, detail: Sequence[str] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """An error as JSON."""
    body: dict[str, Any] = {"error": one_line(message)}
    if detail:
        body["detail"] = list(detail)
    return answer(body, status, headers)


def unknown(what: str, name: str, existing: Iterable[str], more: str = "") -> Problem:
    """The 404 for a name: the nearest that exist, or all when they are few."""
    names = list(existing)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        there = f"did you mean {' or '.join(near)}?"
    elif not names:
        there = f"there is no {what}"
    elif len(names) <= SHOWN_MAX:
        there = f"there are {', '.join(names)}" if len(names) > 1 else f"there is {names[0]}"
    else:
        there = f"there are {len(names)}, such as {', '.join(names[:3])}"
    return Problem(404, f"no {what} {name!r}: {there}{more}")


def lines_of(invalid: ValidationError, *, skip: int = 0) -> list[str]:
    """What is wrong, one line a problem with the field's path; `skip` parts of the path are left out."""
    errors = invalid.errors(include_url=False, include_context=True)
    return [line_of(one, skip) for one in errors[:PROBLEMS_MAX]] + more_of(len(errors))


def more_of(count: int) -> list[str]:
    """A line for what is not shown."""
    return [f"and {count - PROBLEMS_MAX} more"] if count > PROBLEMS_MAX else []


def line_of(one: ErrorDetails, skip: int = 0) -> str:
    """One problem as a line."""
    parts = [str(part) for part in one["loc"][skip:] if part not in _TAGS]
    path = ".".join(parts)
    context = one.get("ctx", {})
    match one["type"]:
        case "union_tag_invalid":
            tag = str(context.get("tag"))
            known = str(context.get("expected_tags")).replace("'", "").split(", ")
            near = difflib.get_close_matches(tag, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            return one_line(f"{_join(path, 'kind')}: unknown kind {tag!r}: {hint}")
        case "union_tag_not_found":
            return one_line(f"{_join(path, 'kind')}: is missing")
        case "extra_forbidden":
            return one_line(f"{path}: unknown field")
        case "missing":
            return one_line(f"{path}: is missing")
        case "value_error":
            return one_line(f"{path}: {context.get('error', one['msg'])}".removeprefix(": "))
        case _:
            return one_line(f"{path}: {one['msg']}{nearest(one)}".removeprefix(": "))


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


_TAGS = frozenset(
    {
        "body",
        "pool_requested",
        "cluster_requested",
        "instance_requested",
        "bootstrap_requested",
        "shutdown_requested",
        "pool_resize_requested",
        "pool_update_requested",
        "pool_pause_requested",
        "drain_requested",
        "task_requested",
        "task_stop_requested",
    }
)
