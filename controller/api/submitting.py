"""POST /v1/messages: one Request, or a list of them, each with an answer of its own."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from actors.events import (
    INTERNAL_REQUESTS,
    ClusterRequested,
    PoolRequested,
    PoolUpdateRequested,
    Request,
    RequestJson,
    TaskRequested,
)
from actors.ports import Accepted, Conflict
from actors.spec import LOG_BYTES_MAX, PoolSpec, TaskSpec
from controller.api.answers import Problem, answer, line_of, lines_of, more_of, retry_after
from controller.api.body import read_json
from controller.api.edge import asking
from controller.api.port import Desk, Refusal
from controller.config_pools import contradictions
from controller.principal import Principal

MESSAGES_MAX = 10_000
PROBLEMS_MAX = 20_000  # told of one body: telling one takes more than finding it
ARGUMENT_BYTES_MAX = 128 * 2**10  # Linux starts no program with a longer one,
COMMAND_BYTES_MAX = 2**20  # nor with many more of arguments and environment together
PATH_CHARS_MAX = 4096
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # it names directories
_LIST: TypeAdapter[list[Request]] = TypeAdapter(
    Annotated[list[Annotated[Request, Field(discriminator="kind")]], Field(max_length=MESSAGES_MAX)]
)

Answer = dict[str, Any]


class Submitting:
    """The handler of one desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def __call__(self, request: HttpRequest) -> Response:
        """Take what was sent."""
        principal = asking(request)
        body = await read_json(request)
        if body.lstrip()[:1] == b"[":
            return await self._many(body, principal)
        return await self._one(body, principal)

    async def _one(self, body: bytes, principal: Principal) -> Response:
        try:
            request = RequestJson.validate_json(body)
        except ValidationError as invalid:
            raise _invalid(invalid) from invalid
        wrong = objections(request)
        if wrong:
            raise Problem(422, wrong[0], wrong[1:])
        if foreign := self._foreign(request, principal):
            raise Problem(403, foreign)
        taken = (await self._desk.submit([request], principal.name, principal.may_see))[0]
        said = told(request, taken)
        code = said.pop("code")
        if code == 202:
            return answer(said, 202)
        headers = {}
        if "retry_after_s" in said:
            headers["Retry-After"] = retry_after(said["retry_after_s"])
        return answer(said, code, headers)

    async def _many(self, body: bytes, principal: Principal) -> Response:
        answers: list[Answer] = []
        try:
            requests: list[Request | None] = list(_LIST.validate_json(body))
            answers = [{}] * len(requests)
        except ValidationError as invalid:
            requests, answers = _one_by_one(body, invalid)
        limited = principal.limited
        for place, request in enumerate(requests):
            wrong = objections(request) if request is not None else ()
            if request is not None and wrong:
                requests[place] = None
                answers[place] = refusal(request.request_id, 422, "invalid", wrong[0])
                if len(wrong) > 1:
                    answers[place]["detail"] = _shown(wrong)
            elif request is not None and limited and (foreign := self._foreign(request, principal)):
                requests[place] = None
                answers[place] = refusal(request.request_id, 403, "refused", foreign)
        sound = [request for request in requests if request is not None]
        taken = iter(await self._desk.submit(sound, principal.name, principal.may_see) if sound else ())
        for place, request in enumerate(requests):
            if request is not None:
                answers[place] = told(request, next(taken))
        return answer(answers)

    def _foreign(self, request: Request, principal: Principal) -> str | None:
        """Why a Request is not for who is limited to some pools."""
        if not principal.limited:
            return None
        pool = self._desk.pool_of(request)
        if pool and principal.may_see(pool):
            return None
        theirs = f"{principal.name} is limited to pools {', '.join(principal.pools)}"
        if pool is None or pool != getattr(request, "pool", None):  # whose it is, is not theirs to know
            return f"{theirs}, and none of them has what this names"
        if not pool:
            return f"{theirs}: name the pool"
        return f"{theirs}, and {pool!r} is none of them"


def objections(request: Request) -> Sequence[str]:
    """Why a user may not send this, a line each; none when they may."""
    if request.request_id and not _ID.fullmatch(request.request_id):
        return (
            "request_id: use 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-', starting with a letter or digit",
        )
    if isinstance(request, TaskRequested):  # there are most of them
        return _too_large(request.task)
    if isinstance(request, INTERNAL_REQUESTS):
        return (f"kind: only the daemon itself sends {request.kind!r}: resize the pool instead",)
    if isinstance(request, PoolRequested | ClusterRequested | PoolUpdateRequested):
        return [f"spec.{one}" for one in contradictions(_spec_of(request))]
    return ()


def _too_large(task: TaskSpec) -> Sequence[str]:
    """What of a task is too large. Not in the model: what was taken in before there were limits goes on."""
    if task.env or sum(map(len, task.argv)) > ARGUMENT_BYTES_MAX // 4:  # characters, of up to 4 bytes
        longest = max((len(one.encode()) for one in task.argv), default=0)
        if longest >= ARGUMENT_BYTES_MAX:
            return (f"task.argv: an argument has {longest} bytes, and may have {ARGUMENT_BYTES_MAX - 1}",)
        size = sum(len(one.encode()) for one in (*task.argv, *task.env, *task.env.values()))
        if size > COMMAND_BYTES_MAX:
            return (f"task: argv and env have {size} bytes, and may have {COMMAND_BYTES_MAX}: send a file",)
    if task.cwd is not None and len(task.cwd) > PATH_CHARS_MAX:
        return (f"task.cwd: has {len(task.cwd)} characters, and may have {PATH_CHARS_MAX}",)
    if task.fetch and max(map(len, task.fetch)) > PATH_CHARS_MAX:
        return (f"task.fetch: a path has more than {PATH_CHARS_MAX} characters",)
    if task.log_bytes_max is not None and task.log_bytes_max > LOG_BYTES_MAX:
        return (f"task.log_bytes_max: may be up to {LOG_BYTES_MAX}",)
    return ()


def _spec_of(request: PoolRequested | ClusterRequested | PoolUpdateRequested) -> PoolSpec:
    if isinstance(request, ClusterRequested):
        return request.spec.model_copy(update={"provider": (request.provider,)})
    return request.spec


def told(request: Request, taken: Accepted | Conflict | Refusal) -> Answer:
    """The answer for one message."""
    if isinstance(taken, Accepted):
        said: Answer = {
            "request_id": taken.envelope.request_id,
            "seq": taken.envelope.seq,
            "status": "accepted" if taken.new else "duplicate",
            "code": 202,
        }
        if taken.ended_by is not None:
            said["ended_by"] = taken.ended_by
        return said
    if isinstance(taken, Conflict):
        text = f"request_id {taken.request_id!r} is known with another body: choose another id"
        return refusal(taken.request_id, 409, "conflict", text)
    said = refusal(request.request_id, taken.status, "refused", taken.message)
    if taken.retry_after_s is not None:
        said["retry_after_s"] = taken.retry_after_s
    if taken.detail:
        said["detail"] = _shown(taken.detail)
    return said


def refusal(request_id: str, code: int, status: str, error: str) -> Answer:
    """The answer for a message that was not taken."""
    return {"request_id": request_id, "status": status, "code": code, "error": error}


def _invalid(invalid: ValidationError) -> Problem:
    if invalid.error_count() > PROBLEMS_MAX:
        return Problem(422, f"{invalid.error_count()} problems, too many to tell: are these messages?")
    first = invalid.errors(include_url=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return Problem(422, f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    lines = lines_of(invalid)
    return Problem(422, lines[0] if len(lines) == 1 else f"{len(lines)} problems", lines)


def _one_by_one(body: bytes, invalid: ValidationError) -> tuple[list[Request | None], list[Answer]]:
    """Messages that are sound, in their places, and answers for the others.

    Raises:
        Problem: the list itself is wrong.
    """
    if invalid.error_count() > PROBLEMS_MAX:
        raise _invalid(invalid)
    problems: dict[int, list[str]] = {}
    for one in invalid.errors(include_url=False):
        if not one["loc"] or not isinstance(one["loc"][0], int):
            if one["type"] == "too_long":
                raise Problem(413, f"a list may have up to {MESSAGES_MAX} messages: send several lists")
            raise _invalid(invalid)
        problems.setdefault(one["loc"][0], []).append(line_of(one, skip=1))
    requests: list[Request | None] = []
    answers: list[Answer] = []
    for place, raw in enumerate(from_json(body)):
        lines = problems.get(place)
        if lines is None:
            requests.append(RequestJson.validate_json(to_json(raw)))
            answers.append({})
            continue
        requests.append(None)
        request_id = raw.get("request_id", "") if isinstance(raw, dict) else ""
        said = refusal(request_id if isinstance(request_id, str) else "", 422, "invalid", lines[0])
        if len(lines) > 1:
            said["detail"] = _shown(lines)
        answers.append(said)
    return requests, answers


def _shown(lines: Sequence[str]) -> list[str]:
    return [*lines[:20], *more_of(len(lines))]
