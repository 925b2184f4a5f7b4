"""GET /v1/events: what happened, as NDJSON or as server-sent events, and what happens next."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Annotated, get_args

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from actors.events import Event
from controller.api.answers import NDJSON, SSE, Problem, unknown
from controller.api.port import Desk
from controller.api.streaming import Closing, Stream
from controller.followers import Events, Followers, Wanted

FOLLOWERS_MAX = 1_000
LIMIT_MAX = 10_000
KINDS = tuple(event.model_fields["kind"].default for event in get_args(Event))

Streamed = dict[int | str, dict[str, object]]
STREAMED: Streamed = {
    200: {"description": "One JSON object a line, or server-sent events", "content": {NDJSON: {}, SSE: {}}}
}


def routes(desk: Desk, closing: Closing) -> APIRouter:
    """The routes of events."""
    router = APIRouter(tags=["events"])

    @router.get("/v1/events", response_class=Response, responses=STREAMED)
    async def events(
        request: Request,
        after: Annotated[int, Query(ge=0, le=2**63 - 1, description="seq of the last event you have")] = 0,
        limit: Annotated[int | None, Query(ge=1, le=LIMIT_MAX)] = None,
        follow: bool = False,
        pool: str | None = None,
        kind: Annotated[list[str] | None, Query(description="may be repeated, or joined by ','")] = None,
        task: str | None = None,
        request_id: str | None = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Envelopes in the order of their seq. With `follow` the answer never ends."""
        wanted = _wanted(pool, kind, task, request_id)
        sse = SSE in request.headers.get("accept", "")
        if last_event_id is not None and last_event_id.isascii() and last_event_id.isdecimal():
            after = max(after, int(last_event_id[:18]))
        if not follow:
            page = await desk.followers.page(after, limit or 1000, wanted)
            body = as_sse(page) if sse else as_ndjson(page)
            return Response(
                body, media_type=SSE if sse else NDJSON, headers={"X-Everpool-Cursor": str(page.cursor)}
            )
        if desk.followers.count >= FOLLOWERS_MAX:
            raise Problem(429, f"{FOLLOWERS_MAX} follow already", retry_after_s=10)
        parts = partial(followed, desk.followers, after, limit, wanted, sse=sse)
        if sse:
            return Stream(parts, SSE, closing, idle=b": keep-alive\n\n", first=b": welcome\n\n")
        return Stream(parts, NDJSON, closing, first=b"\n")

    return router


def _wanted(pool: str | None, kind: list[str] | None, task: str | None, request_id: str | None) -> Wanted:
    if task is not None and request_id is not None and task != request_id:
        raise Problem(422, "give 'task' or 'request_id': a task's id is its request's")
    kinds = tuple(one for some in kind or () for one in some.split(",") if one) or None
    for one in kinds or ():
        if one not in KINDS:
            raise Problem(422, unknown("kind of event", one, KINDS).message)
    return Wanted(pool, kinds, task if task is not None else request_id)


def as_ndjson(page: Events) -> bytes:
    """Events, one a line."""
    return b"".join([row + b"\n" for _, row in page.rows])


def as_sse(page: Events) -> bytes:
    """Server-sent events; JSON has no line breaks, so one data line is enough."""
    return b"".join([b"id: %d\ndata: %b\n\n" % row for row in page.rows])


async def followed(
    followers: Followers, after: int, limit: int | None, wanted: Wanted, *, sse: bool
) -> AsyncGenerator[bytes, None]:
    """The parts of an answer that follows; ends after `limit` events, if given."""
    left = limit
    async with aclosing(followers.follow(after, wanted)) as pages:
        async for page in pages:
            rows = page.rows[:left]
            shown = Events(rows, page.cursor)
            yield as_sse(shown) if sse else as_ndjson(shown)
            if left is not None:
                left -= len(rows)
                if left <= 0:
                    return
