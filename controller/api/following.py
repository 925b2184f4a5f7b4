"""GET /v1/events: what happened, as NDJSON or as server-sent events, and what happens next."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, suppress
from functools import partial
from typing import Annotated, get_args

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import Response

from actors.events import Event
from controller.api.answers import NDJSON, SSE, Problem
from controller.api.edge import asking
from controller.api.paging import CURSOR, Names, chosen, split
from controller.api.port import Desk
from controller.api.streaming import Closing, Stream
from controller.followers import Events, EventsPruned, Followers, OneOrMore, Row, Wanted
from controller.patterns import is_pattern
from controller.principal import Principal

LIMIT_MAX = 10_000
PIECE_BYTES = 256 * 1024
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
        tail: Annotated[
            int | None, Query(ge=0, le=LIMIT_MAX, description="begin with the newest so many that fit")
        ] = None,
        follow: bool = False,
        pool: Names = None,
        kind: Names = None,
        task: Names = None,
        request_id: Names = None,
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Envelopes in the order of their seq. With `follow` the answer never ends.

        410: some events behind the cursor are pruned, or the journal has not come as far as the cursor (it
        was restored from a backup); the answer's X-Everpool-Cursor is where to go on. `after` 0 begins with
        the oldest that is kept. A follower that falls so far behind that events are pruned before it has
        them is cut off, and hears the 410 when it comes back.
        """
        who = asking(request)
        wanted = _wanted(pool, kind, task, request_id, who)
        sse = SSE in request.headers.get("accept", "")
        if last_event_id is not None and last_event_id.isascii() and last_event_id.isdecimal():
            after = max(after, int(last_event_id[:18]))
        if 0 < after < desk.journal.pruned_seq:
            raise _pruned(EventsPruned(after, desk.journal.pruned_seq))
        if after > desk.journal.last_seq:
            await _ahead(desk, after)
        if tail is not None:
            after = max(after, await _begin(desk, tail, wanted))
            limit = limit if limit is not None or follow else LIMIT_MAX
        if not follow:
            try:
                page = await desk.followers.page(after, limit or 1000, wanted)
            except EventsPruned as pruned:
                raise _pruned(pruned) from pruned
            body = as_sse(page) if sse else as_ndjson(page)
            return Response(body, media_type=SSE if sse else NDJSON, headers={CURSOR: str(page.cursor)})
        parts = partial(followed, desk.followers, after, limit, wanted, sse=sse)
        if sse:
            return Stream(parts, SSE, closing, idle=b": keep-alive\n\n", first=b": welcome\n\n")
        return Stream(parts, NDJSON, closing, first=b"\n")

    return router


def _wanted(
    pool: list[str] | None,
    kind: list[str] | None,
    task: list[str] | None,
    request_id: list[str] | None,
    who: Principal,
) -> Wanted:
    tasks, ids = split(task), split(request_id)
    if tasks is not None and ids is not None and set(tasks) != set(ids):
        raise Problem(422, "give 'task' or 'request_id': a task's id is its request's")
    kinds = chosen("kind of event", kind, KINDS)
    may_see = who.may_see if who.limited else None
    return Wanted(_one_or_more(split(pool)), kinds, _one_or_more(tasks or ids), may_see, who.pools)


def _one_or_more(names: tuple[str, ...] | None) -> OneOrMore | None:
    """One name as it is: it is found faster."""
    if names is None or "*" in names:
        return None
    return names[0] if len(names) == 1 and not is_pattern(names[0]) else names


async def _begin(desk: Desk, tail: int, wanted: Wanted) -> int:
    """The cursor behind which the newest `tail` events are."""
    last = desk.journal.last_seq
    ids = (wanted.request_id,) if isinstance(wanted.request_id, str) else wanted.request_id
    if not tail:
        return last
    newest = await desk.journal.newest(tail, wanted.pool, wanted.kinds, ids, wanted.within)
    return last if newest is None else newest - 1


async def _ahead(desk: Desk, after: int) -> None:
    """Raise Problem when no event is as new as a cursor: it is of a journal that had come further."""
    if await desk.journal.events(after - 1, 1):  # durable this very moment, and not counted yet
        return
    last = desk.journal.last_seq
    text = (
        f"there is no event {after} yet, the newest is {last}: the journal was restored from a backup, or is "
        f"another one; look at what there is now, then go on with after={last}"
    )
    raise Problem(410, text, headers={CURSOR: str(last)})


def _pruned(pruned: EventsPruned) -> Problem:
    return Problem(410, str(pruned), headers={CURSOR: str(pruned.cursor)})


def as_ndjson(page: Events) -> bytes:
    """Events, one a line."""
    return b"".join([row + b"\n" for _, row in page.rows])


def as_sse(page: Events) -> bytes:
    """Server-sent events; JSON has no line breaks, so one data line is enough."""
    return b"".join([b"id: %d\ndata: %b\n\n" % row for row in page.rows])


async def followed(
    followers: Followers, after: int, limit: int | None, wanted: Wanted, *, sse: bool
) -> AsyncGenerator[bytes, None]:
    """The parts of an answer that follows; ends after `limit` events, if given, or where some are pruned."""
    left = limit
    with suppress(EventsPruned):  # who comes back with its cursor hears of it
        async with aclosing(followers.follow(after, wanted)) as pages:
            async for page in pages:
                for rows in _in_pieces(page.rows[:left]):
                    shown = Events(rows, page.cursor)
                    yield as_sse(shown) if sse else as_ndjson(shown)
                if left is not None:
                    left -= len(page.rows)
                    if left <= 0:
                        return


def _in_pieces(rows: list[Row]) -> Iterator[list[Row]]:
    """Rows in pieces of about PIECE_BYTES: so much is copied at once for a client that may be slow."""
    piece, size = list[Row](), 0
    for row in rows:
        piece.append(row)
        size += len(row[1])
        if size >= PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece
