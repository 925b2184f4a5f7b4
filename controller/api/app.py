"""The app: all routes over one desk, and what becomes of errors."""

from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from actors.ports import JournalClosed
from controller.api import (
    costing,
    daemon,
    discovery,
    explaining,
    following,
    openapi,
    operations,
    reading,
    secrets,
    tasks,
    telemetry_events,
    tokens,
    web,
    webhooks,
)
from controller.api.answers import PROBLEMS_MAX, Problem, answer, error, line_of, more_of
from controller.api.authority import allow, authorized
from controller.api.edge import Edge, somebody
from controller.api.port import Desk
from controller.api.streaming import Closing
from controller.api.submitting import Submitting
from controller.journal.errors import JournalBusy, JournalError
from controller.version import own_version

DESCRIPTION = "Everpool keeps pools of machines whole. Submit Requests, read what is, follow what happens."


def build_app(desk: Desk) -> Edge:
    """The ASGI app over one desk."""
    closing = Closing()
    app = FastAPI(
        title="everpool",
        version=own_version(),
        description=DESCRIPTION,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,  # what is not there is 404, and never another place
    )
    submitting = Submitting(desk)

    async def submit(request: Request) -> Response:
        allow(somebody(request), "POST", "/v1/messages")
        return await submitting(request)

    app.router.routes.append(Route("/v1/messages", submit, methods=["POST"]))
    app.router.routes.append(Route("/openapi.json", _described(app), methods=["GET"]))
    for router in (
        following.routes(desk, closing),
        reading.routes(desk, closing),
        explaining.routes(desk),
        costing.routes(desk),
        tasks.routes(desk, closing),
        telemetry_events.routes(desk, closing),
        operations.routes(desk, closing),
        daemon.routes(desk),
        discovery.routes(desk),
        secrets.routes(desk),
        tokens.routes(desk),
        webhooks.routes(desk),
        web.routes(),
    ):
        app.include_router(router, dependencies=[Depends(authorized)])
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return Edge(app, closing, desk.series, desk.guard)


def _described(app: FastAPI) -> Callable[[Request], Any]:
    made: list[dict[str, Any]] = []

    async def document(request: Request) -> Response:
        allow(somebody(request), "GET", "/openapi.json")
        if not made:
            made.append(openapi.document(app))
        return answer(made[0])

    return document


# --- errors ---------------------------------------------------------------------------------------


async def _problem(request: Request, problem: Exception) -> Response:
    del request
    assert isinstance(problem, Problem)
    return problem.response()


async def _http(request: Request, raised: Exception) -> Response:
    assert isinstance(raised, HTTPException)
    text = raised.detail
    if raised.status_code == 404:
        text = f"nothing is at {request.url.path!r}: see /openapi.json"
    elif raised.status_code == 405:
        allowed = (raised.headers or {}).get("Allow", "another method")
        text = f"{request.method} is not for {request.url.path!r}: use {allowed}"
    return error(raised.status_code, text, headers=raised.headers)


async def _parameters(request: Request, invalid: Exception) -> Response:
    del request
    assert isinstance(invalid, RequestValidationError)
    errors = invalid.errors()
    lines = [line_of(one, skip=1) for one in errors[:PROBLEMS_MAX]] + more_of(len(errors))
    return error(422, lines[0], lines if len(lines) > 1 else ())


async def _journal(request: Request, failing: Exception) -> Response:
    del request
    after_s = 1 if isinstance(failing, JournalBusy) else 5
    return error(
        503, str(failing) or "nothing can be made durable now", headers={"Retry-After": str(after_s)}
    )


async def _closed(request: Request, closed: Exception) -> Response:
    del request
    return error(503, str(closed) or "the daemon is stopping", headers={"Retry-After": "5"})


async def _bug(request: Request, bug: Exception) -> Response:
    """A bug costs one request; the server logs its trace."""
    del request
    return error(500, f"a bug in everpool ({type(bug).__name__}): its log says where; please report it")


_HANDLERS: dict[type[Exception] | int, Callable[[Request, Exception], Any]] = {
    Problem: _problem,
    HTTPException: _http,
    RequestValidationError: _parameters,
    JournalError: _journal,
    JournalClosed: _closed,
    Exception: _bug,
}
