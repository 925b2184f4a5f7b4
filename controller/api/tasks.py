"""Tasks, what they wrote, and what they left behind."""

from contextlib import suppress
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, Response

from actors.events import Envelope, Result, TaskCompleted, TaskRequested
from actors.task.state import TaskState
from controller.api import tasklist
from controller.api.answers import Problem, answer, unknown
from controller.api.edge import asking
from controller.api.paging import CURSOR, Names, chosen, split
from controller.api.port import Desk
from controller.api.reading import known_pool
from controller.api.streaming import Closing, Stream
from controller.api.telemetry import Format, answered, log_parts, media_type
from controller.journal.errors import StateUnreadable
from controller.principal import Principal
from controller.recovery import decoded
from controller.telemetry.reading import Cursor
from controller.views import task_view

STATUSES = ("pending", "assigned", "created", "running", "stopping", "invalid", "stopped")
LIVING = STATUSES[:-1]
LINES_MAX = 10_000


class Found(NamedTuple):
    """A task, from memory or from the journal."""

    pool: str
    view: dict[str, Any]


def routes(desk: Desk, closing: Closing) -> APIRouter:
    """The routes of tasks."""
    router = APIRouter(tags=["tasks"], default_response_class=Response)

    @router.get("/v1/tasks")
    async def tasks(
        request: Request,
        pool: str | None = None,
        status: Annotated[str | None, Query(description="one or more, joined by ','; or 'living'")] = None,
        result: Names = None,
        name: Names = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
        cursor: Annotated[int | None, Query(ge=0, le=2**63 - 1)] = None,
        after: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="as `cursor`")] = None,
    ) -> Response:
        """Tasks that live, and those that are over as far as the journal goes back, newest first.

        `cursor` of the answer goes on, as the header does; null: there are no more. A page may be short, even
        empty, and yet have a cursor. Of tasks that one may not see neither says anything.
        """
        who = asking(request)
        known_pool(desk, pool, who)
        wanted = tasklist.Wanted(
            pool=pool,
            statuses=statuses_of(status),
            results=chosen("result", result, get_args(Result)),
            names=split(name),
            may_see=who.may_see,
            within=who.pools,
            limit=limit,
            before=cursor if cursor is not None else after,
        )
        views, more = await tasklist.page(desk, wanted)
        headers = {CURSOR: str(more)} if more is not None else {}
        return answer({"tasks": views, "cursor": more}, headers=headers)

    @router.get("/v1/tasks/{task_id}")
    async def task(request: Request, task_id: str) -> Response:
        """One task, also one that ended long ago, as far as the journal goes back."""
        return answer((await find(desk, task_id, asking(request))).view)

    @router.get("/v1/tasks/{task_id}/log")
    async def log(
        request: Request,
        task_id: str,
        attempt: Annotated[int | None, Query(ge=1, le=10**9)] = None,
        stream: Literal["stdout", "stderr"] | None = None,
        after: Annotated[str, Query(description="a cursor, or a line number")] = "",
        limit: Annotated[int, Query(ge=1, le=LINES_MAX)] = 1000,
        tail: Annotated[int | None, Query(ge=0, le=LINES_MAX)] = None,
        follow: bool = False,
        format: Format = "ndjson",
    ) -> Response:
        """What a task wrote. With `follow` until it is over; X-Everpool-Cursor goes on after a page."""
        found = await find(desk, task_id, asking(request))
        start = cursor_of(after)
        begin = None
        if tail is not None:
            begin = desk.logs.tail(found.pool, task_id, tail, attempt=attempt, stream=stream)
        if follow:
            parts = log_parts(
                desk,
                found.pool,
                task_id,
                format,
                attempt=attempt,
                stream=stream,
                after=start,
                begin=begin,
            )
            return Stream(parts, media_type(format), closing, idle=b"" if format == "text" else b"\n")
        if begin is None:
            begin = desk.logs.read(
                found.pool, task_id, attempt=attempt, stream=stream, after=start, limit=limit
            )
        return answered(begin, format)

    @router.get("/v1/tasks/{task_id}/files")
    async def files(request: Request, task_id: str) -> Response:
        """Files that were fetched after the task's attempts, and those that could not be."""
        found = await find(desk, task_id, asking(request))
        kept = await to_thread.run_sync(desk.files.list, found.pool, task_id)
        return answer([one._asdict() for one in kept])

    @router.get("/v1/tasks/{task_id}/files/{path:path}")
    async def file(
        request: Request,
        task_id: str,
        path: str,
        attempt: Annotated[int | None, Query(ge=1, le=10**9)] = None,
    ) -> Response:
        """One file, of the newest attempt that left it, unless `attempt` says which."""
        found = await find(desk, task_id, asking(request))
        kept = await to_thread.run_sync(desk.files.list, found.pool, task_id)
        there = [one for one in kept if one.path == path and attempt in (None, one.attempt)]
        whole = [one.attempt for one in there if one.error is None]
        if not whole and there:
            raise Problem(404, f"{path!r} could not be fetched: {there[-1].error}")
        place = desk.files.path(found.pool, task_id, whole[-1], path) if whole else None
        if place is None:
            raise unknown("file", path, sorted({one.path for one in kept if one.error is None}))
        return FileResponse(place, media_type="application/octet-stream")

    return router


def statuses_of(text: str | None) -> tuple[str, ...] | None:
    """The statuses that a query names. Raises Problem."""
    if text is None:
        return None
    names: list[str] = []
    for name in text.split(","):
        if name == "living":
            names += LIVING
        elif name in STATUSES:
            names.append(name)
        else:
            raise Problem(422, unknown("status", name, (*STATUSES, "living")).message)
    return tuple(names)


def cursor_of(text: str) -> str | int:
    """A log cursor, or the number of a line. Raises Problem."""
    if text.isascii() and text.isdecimal() and len(text) < 18:
        return int(text)
    try:
        Cursor.parse(text)
    except ValueError as error:
        raise Problem(422, f"after: {error}") from error
    return text


async def find(desk: Desk, task_id: str, who: Principal) -> Found:
    """A task that lives, or is remembered, or that the journal still has, and that somebody may see.

    Raises:
        Problem: 404.
    """
    state = desk.status.task_state(task_id)
    view = desk.status.task(task_id)
    if state is not None and view is not None and who.may_see(state.pool):
        return Found(state.pool, view)
    known = await desk.journal.request(task_id) if state is None else None
    if known is None or known.kind != "task_requested" or not who.may_see(known.pool):
        newest = (desk.status.task_state(one) for one in desk.status.task_ids(1000))
        raise unknown(
            "task", task_id, [one.id for one in newest if one is not None and who.may_see(one.pool)]
        )
    row = await desk.journal.state(known.pool, "task", task_id)
    if row is not None and row.terminal:
        with suppress(StateUnreadable):  # of a release that is too old: its events tell of it
            return Found(known.pool, task_view(cast(TaskState, decoded("task", row.version, row.body))))
    asked = await _event(desk, known.seq)
    ended = await _event(desk, known.ended_by)
    view = from_journal(task_id, known.pool, known.seq, known.at, asked, ended)
    if ended is None and known.ended_by is not None:  # releases before this one forgot how it ended
        over_at = known.ended_at
        view |= {"status": "stopped", "status_code": 7, "result": "unknown", "ended_at": over_at}
    return Found(known.pool, view)


async def _event(desk: Desk, seq: int | None) -> Envelope | None:
    if seq is None:
        return None
    rows = await desk.journal.events(seq - 1, 1)
    return next((Envelope.model_validate_json(body) for found, body in rows if found == seq), None)


def from_journal(
    task_id: str, pool: str, seq: int, at: float, asked: Envelope | None, ended: Envelope | None
) -> dict[str, Any]:
    """The view of a task that nobody remembers, from its Request and its terminal Fact."""
    view: dict[str, Any] = dict.fromkeys(
        (
            "node",
            "instance_id",
            "result",
            "exit_code",
            "signal",
            "duration",
            "error",
            "started_at",
            "ended_at",
            "not_before",
        )
    )
    view |= {
        "id": task_id,
        "name": "",
        "pool": pool,
        "seq": seq,
        "status": "pending",
        "status_code": 0,
        "attempt": 0,
        "reason": "",
        "queued_at": at,
        "since": at,
    }
    if asked is not None and isinstance(asked.event, TaskRequested):
        view |= {"name": asked.event.task.title, "priority": asked.event.task.priority}
    if ended is None:
        return view
    view |= {"status": "stopped", "status_code": 7, "ended_at": ended.at, "since": ended.at}
    match ended.event:
        case TaskCompleted() as fact:
            machine = fact.instance
            view |= {
                "name": fact.function_name or view["name"],
                "attempt": fact.attempts,
                "node": machine.node if machine is not None else None,
                "instance_id": machine.instance.id if machine is not None else None,
                "result": fact.result,
                "reason": fact.reason,
                "exit_code": fact.exit_code,
                "duration": fact.duration,
                "error": fact.error,
                "started_at": ended.at - fact.duration if fact.duration > 0 else None,
            }
        case event:
            view |= {"result": "unknown", "error": getattr(event, "message", event.kind)}
    return view
