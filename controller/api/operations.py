"""GET /v1/operations/{request_id}: everything that followed from one Request, as one thing with a log."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from starlette.responses import Response

from actors.events import (
    BootstrapFailed,
    BootstrapPhase,
    BugCaught,
    Envelope,
    Error,
    Event,
    InstancePreempted,
    LaunchRefused,
    PoolParked,
    PoolReady,
    PoolResized,
    TaskAttemptEnded,
    TaskCompleted,
)
from controller.api.answers import Problem, answer
from controller.api.port import Desk
from controller.api.streaming import Closing
from controller.followers import Wanted

LOG_MAX = 1_000
WAIT_MAX_S = 60.0
Level = Literal["DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR"]


def routes(desk: Desk, closing: Closing) -> APIRouter:
    """The routes of operations."""
    router = APIRouter(tags=["operations"])

    @router.get("/v1/operations/{request_id}", response_class=Response)
    async def operation(
        request_id: str,
        wait: Annotated[float, Query(ge=0, le=WAIT_MAX_S, description="seconds to wait for its end")] = 0,
        after: Annotated[int, Query(ge=0, description="seq behind which the log begins")] = 0,
    ) -> Response:
        """Status, end and log of what one Request asked for."""
        if wait:
            await closing.or_done(desk.followers.ended(request_id, wait))
        return answer(await shown(desk, request_id, after))

    return router


async def shown(desk: Desk, request_id: str, after: int = 0) -> dict[str, Any]:
    """An operation as JSON.

    Raises:
        Problem: 404.
    """
    known = await desk.journal.request(request_id)
    if known is None:
        text = f"no request {request_id!r} is known: it never came, or is older than what is kept"
        raise Problem(404, text)
    page = await desk.followers.page(after, LOG_MAX, Wanted(request_id=request_id))
    envelopes = [Envelope.model_validate_json(body) for _, body in page.rows]
    end: Envelope | None = None
    if known.ended_by is not None:
        end = next((one for one in envelopes if one.seq == known.ended_by), None)
        if end is None:
            rows = await desk.journal.events(known.ended_by - 1, 1)
            found = [Envelope.model_validate_json(body) for seq, body in rows if seq == known.ended_by]
            end = found[0] if found else None
    status = {"new": "pending", "taken": "running"}.get(known.status, "success")
    if known.status == "ended" and end is not None and failed(end.event):
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
        "error": _reason(end.event) if end is not None and status == "failed" else None,
        "end": end.event.model_dump(mode="json") if end is not None else None,
        "log": [entry(one) for one in envelopes],
        "cursor": page.cursor,
        "more": len(envelopes) >= LOG_MAX,
    }


def failed(event: Event) -> bool:
    """Whether a terminal Fact means that what was asked for did not come to be."""
    match event:
        case TaskCompleted(success=success):
            return not success
        case Error() | BootstrapFailed():
            return True
        case _:
            return False


def _reason(event: Event) -> str:
    match event:
        case TaskCompleted():
            return event.error or " ".join(part for part in (event.result, event.reason) if part)
        case Error(message=message):
            return message
        case BootstrapFailed(phase=phase, error=error):
            return f"{phase}: {error}"
        case _:
            return ""


def entry(envelope: Envelope) -> dict[str, Any]:
    """An event as an entry of a log."""
    level, message = told(envelope)
    event = envelope.event
    return {"seq": envelope.seq, "at": envelope.at, "kind": event.kind, "level": level, "message": message}


def told(envelope: Envelope) -> tuple[Level, str]:
    """An event as a line of a log."""
    event = envelope.event
    words = event.kind.replace("_", " ")
    match event:
        case Error() | BootstrapFailed():
            return "ERROR", _reason(event)
        case TaskCompleted(success=True):
            return "SUCCESS", f"task {event.task_id} done in {event.duration:.3g} s"
        case TaskCompleted():
            return "ERROR", f"task {event.task_id}: {_reason(event)}"
        case TaskAttemptEnded(result=result, reason=reason, attempt=attempt):
            level: Level = "INFO" if result == "success" else "WARNING"
            return level, f"attempt {attempt} ended: {result}{f' ({reason})' if reason else ''}"
        case PoolReady(nodes=nodes) | PoolResized(nodes=nodes, superseded=False):
            return "SUCCESS", f"{words}: {nodes} nodes"
        case PoolResized(nodes=nodes):
            return "WARNING", f"overtaken by a resize to {nodes} nodes"
        case PoolParked(reason=reason):
            return "ERROR", f"pool parked: {reason}"
        case InstancePreempted(instance=machine, reason=reason):
            return "WARNING", f"instance {machine.instance.id} is being taken: {reason}"
        case LaunchRefused(instance_id=refused, market=market, fault=fault):
            return "WARNING", f"launch of {refused} in {market} refused: {fault}"
        case BootstrapPhase(event=step, phase=phase):
            return ("WARNING" if step == "failed" else "DEBUG"), f"set-up step {phase!r} {step}"
        case BugCaught(address=address, error=error):
            return "ERROR", f"bug in {address}: {error}"
        case _:
            pass
    if envelope.principal:
        return "INFO", f"{words} by {envelope.principal}"
    name: str | None = getattr(event, "instance_id", None) or getattr(event, "task_id", None)
    nested = getattr(event, "instance", None)
    if name is None and nested is not None:
        name = getattr(nested, "id", "") or nested.instance.id
    return "INFO", f"{words}: {name}" if name else words
