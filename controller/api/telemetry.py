"""Lines of output as answers: NDJSON with a cursor, or plain text."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, Literal

from pydantic_core import to_json
from starlette.responses import Response

from controller.api.answers import NDJSON, Problem
from controller.api.port import Desk
from controller.telemetry.console import ConsoleStore
from controller.telemetry.lines import LogLine
from controller.telemetry.reading import Page

Format = Literal["text", "ndjson"]
TEXT = "text/plain; charset=utf-8"
CURSOR = "X-Everpool-Cursor"
FOLLOW_LINES = 500
Parts = Callable[[], AsyncGenerator[bytes, None]]


def media_type(form: Format) -> str:
    """The type of an answer of this format."""
    return TEXT if form == "text" else NDJSON


def line_json(line: LogLine) -> dict[str, Any]:
    """A line as JSON; what is not special about it is left out."""
    shown: dict[str, Any] = {
        "attempt": line.attempt,
        "stream": line.stream,
        "n": line.n,
        "at": line.at,
        "text": line.text,
    }
    for name in ("overwrite", "cut", "dropped", "lost_bytes", "lost_lines"):
        value = getattr(line, name)
        if value:
            shown[name] = value
    return shown


def encoded(page: Page, form: Format) -> bytes:
    """A page in one piece. The last line of NDJSON carries the cursor that goes on after it."""
    if form == "text":
        return "".join([text_of(line) for line in page.lines]).encode("utf-8", "replace")
    lines = [line_json(line) for line in page.lines]
    if lines:
        lines[-1]["cursor"] = page.cursor
    return b"".join([to_json(line) + b"\n" for line in lines])


def text_of(line: LogLine) -> str:
    """A line as text; what is missing is said in a line of its own."""
    missing = ""
    if line.lost_lines or line.lost_bytes:
        counts = ((line.lost_lines, "lines"), (line.lost_bytes, "bytes"))
        amounts = [f"{count} {unit}" for count, unit in counts if count]
        missing = f"[everpool: {' and '.join(amounts)} lost]\n"
    if missing and not line.text:
        return missing
    after = f"[everpool: {line.dropped} lines dropped by the log quota]\n" if line.dropped else ""
    return f"{missing}{line.text}\n{after}"


def answered(page: Page, form: Format) -> Response:
    """A page as a whole answer."""
    headers = {CURSOR: page.cursor, "X-Everpool-More": "true" if page.more else "false"}
    return Response(encoded(page, form), media_type=media_type(form), headers=headers)


def console_json(
    store: ConsoleStore, pool: str, instance_id: str, after: str, limit: int, tail: int | None
) -> Response:
    """Console lines that are there."""
    try:
        if tail is not None:
            return answered(store.tail(pool, instance_id, tail), "ndjson")
        return answered(store.read(pool, instance_id, after=after, limit=limit), "ndjson")
    except ValueError as error:
        raise Problem(422, f"after: {error}") from error


def console_parts(desk: Desk, pool: str, instance_id: str, after: str, tail: int | None) -> Parts:
    """Console lines as they come."""
    try:  # a wrong cursor is told before the answer begins
        first = desk.console.read(pool, instance_id, after=after, limit=1)
        if tail is not None:
            first = desk.console.tail(pool, instance_id, tail)
    except ValueError as error:
        raise Problem(422, f"after: {error}") from error

    async def parts(begin: Page | None) -> AsyncGenerator[bytes, None]:
        if begin is not None:
            yield encoded(begin, "ndjson")
        cursor = after if begin is None else begin.cursor
        pages = desk.console.follow(pool, instance_id, after=cursor, is_over=is_over)
        async with aclosing(pages) as following:
            async for page in following:
                yield encoded(page, "ndjson")

    def is_over() -> bool:
        state = desk.status.instance_state(instance_id)
        return state is None or state.status == "destroyed"

    return partial(parts, first if tail is not None else None)


def log_parts(
    desk: Desk,
    pool: str,
    task_id: str,
    form: Format,
    *,
    attempt: int | None,
    stream: Literal["stdout", "stderr"] | None,
    after: str | int,
    begin: Page | None,
) -> Parts:
    """A task's lines as they come, `begin` first, until it is over and all is sent."""

    def is_over() -> bool:
        state = desk.status.task_state(task_id)
        return state is None or state.status == "stopped"

    async def parts() -> AsyncGenerator[bytes, None]:
        if begin is not None:
            yield encoded(begin, form)
        cursor = after if begin is None else begin.cursor
        pages = desk.logs.follow(
            pool, task_id, attempt=attempt, stream=stream, after=cursor, limit=FOLLOW_LINES, is_over=is_over
        )
        async with aclosing(pages) as following:
            async for page in following:
                yield encoded(page, form)

    return parts
