"""GET /v1/operations/{request_id}: everything that followed from one Request, as one thing with a log."""

from typing import Annotated, Any, get_args

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from actors.events import Envelope
from actors.events import Request as Requests
from controller.api.answers import Problem, answer
from controller.api.edge import asking, while_welcome
from controller.api.paging import CURSOR, LIST_MAX, Names, chosen, split
from controller.api.port import Desk
from controller.api.streaming import Closing
from controller.followers import EventsPruned, Wanted
from controller.journal.listing import RequestRow, RequestsWanted
from controller.journal.reader import StoredRequest
from controller.principal import Principal
from controller.sentences import failed, reason, told

LOG_MAX = 1_000
WAIT_MAX_S = 60.0
STATUSES = ("pending", "running", "success", "failed")
KINDS = tuple(request.model_fields["kind"].default for request in get_args(Requests))


def routes(desk: Desk, closing: Closing) -> APIRouter:
    """The routes of operations."""
    router = APIRouter(tags=["operations"])

    @router.get("/v1/operations", response_class=Response)
    async def operations(
        request: Request,
        status: Names = None,
        pool: Names = None,
        kind: Names = None,
        since: Annotated[float | None, Query(ge=0, allow_inf_nan=False, description="UTC seconds")] = None,
        limit: Annotated[int, Query(ge=1, le=LIST_MAX)] = 100,
        after: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="the cursor")] = None,
    ) -> Response:
        """Operations, newest first: those of users, and those that nodes ask for.

        A page may be short, even empty, and yet have a cursor: then the search goes on there.
        """
        who = asking(request)
        wanted = RequestsWanted(
            limit=limit,
            before=after,
            pool=split(pool),
            kinds=chosen("kind of Request", kind, KINDS),
            statuses=chosen("status", status, STATUSES),
            since=since,
            within=who.pools,
        )
        page = await desk.journal.requests(wanted)
        more = {CURSOR: str(page.cursor)} if page.cursor is not None else {}
        return answer([_listed(row) for row in page.rows if who.may_see(row.pool)], headers=more)

    @router.get("/v1/operations/{request_id}", response_class=Response)
    async def operation(
        request: Request,
        request_id: str,
        wait: Annotated[float, Query(ge=0, le=WAIT_MAX_S, description="seconds to wait for its end")] = 0,
        after: Annotated[int, Query(ge=0, le=2**63 - 1, description="seq behind which the log begins")] = 0,
    ) -> Response:
        """Status, end and log of what one Request asked for.

        To follow the log, follow /v1/events with this `request_id`; an answer has at most 1,000 entries.
        """
        who = asking(request)
        if wait:
            await _known(desk, request_id, who)
            ended = closing.or_done(desk.followers.ended(request_id, wait))
            await while_welcome(desk.guard, request, ended)
        return answer(await shown(desk, request_id, who, after))

    return router


def _listed(row: RequestRow) -> dict[str, Any]:
    end = None if row.end is None else Envelope.model_validate_json(row.end)
    shown = {name: getattr(row, name) for name in ("request_id", "kind", "pool", "status", "seq", "at")}
    return shown | {
        "ended_by": row.ended_by,
        "ended_at": row.ended_at,
        "error": reason(end.event) if end is not None else None,
    }


async def _known(desk: Desk, request_id: str, who: Principal) -> StoredRequest:
    known = await desk.journal.request(request_id)
    if known is None or not who.may_see(known.pool):
        text = f"no request {request_id!r} is known: it never came, or is older than what is kept"
        raise Problem(404, text)
    return known


async def shown(desk: Desk, request_id: str, who: Principal, after: int = 0) -> dict[str, Any]:
    """An operation as JSON.

    Raises:
        Problem: 404.
    """
    known = await _known(desk, request_id, who)
    try:
        page = await desk.followers.page(after, LOG_MAX, Wanted(request_id=request_id))
    except EventsPruned as pruned:  # what is left of the log is behind it
        page = await desk.followers.page(pruned.cursor, LOG_MAX, Wanted(request_id=request_id))
    envelopes = [Envelope.model_validate_json(body) for _, body in page.rows]
    end: Envelope | None = None
    if known.ended_by is not None:
        end = next((one for one in envelopes if one.seq == known.ended_by), None)
        if end is None:
            rows = await desk.journal.events(known.ended_by - 1, 1)
            found = [Envelope.model_validate_json(body) for seq, body in rows if seq == known.ended_by]
            end = found[0] if found else None
    status = {"new": "pending", "taken": "running"}.get(known.status, "success")
    if known.status == "ended" and end is not None and failed(end.event, known.kind):
        status = "failed"
    return {
        "request_id": request_id,
        "kind": known.kind,
        "pool": known.pool,
        "status": status,
        "seq": known.seq,
        "at": known.at,
        "ended_by": known.ended_by,
        "ended_at": known.ended_at,
        "error": reason(end.event) if end is not None and status == "failed" else None,
        "end": end.event.model_dump(mode="json") if end is not None else None,
        "log": [entry(one) for one in envelopes],
        "cursor": page.cursor,
        "more": len(envelopes) >= LOG_MAX,
    }


def entry(envelope: Envelope) -> dict[str, Any]:
    """An event as an entry of a log."""
    level, message = told(envelope)
    event = envelope.event
    return {"seq": envelope.seq, "at": envelope.at, "kind": event.kind, "level": level, "message": message}
