"""Who is asking: decided once, before anything else looks at a request. What they may: see authority.py."""

import time
from collections.abc import Awaitable
from typing import Any, Protocol

import anyio
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as HttpScope

from controller.api.answers import Problem, retry_after
from controller.api.streaming import PRINCIPAL, STREAMED, Closing
from controller.config_sections import LimitsConfig
from controller.principal import Principal, Scope
from controller.security.guard import Bodies, Guard
from controller.security.rates import neighbourhood
from controller.security.tokens import Known, Unwelcome

UNIX = "everpool.unix"  # in the connection's state: the principal of a unix socket
WELCOMED = "everpool.welcomed"  # in the state of a TCP connection: is called when somebody known uses it
KNOWN = "everpool.known"  # in the scope of a request that shows a token: as what it was known
LIMITS = "everpool.limits"  # in the scope of every request that was let in,
BODIES = "everpool.bodies"  # and the bodies that come in just now
LOGIN = (
    "show a token: 'Authorization: Bearer <token>'; `everpool token create NAME` on the daemon's host makes "
    "one, and token_file in its config may hold one"
)
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="everpool"', "Connection": "close"}

_OPEN = frozenset({"/", "/healthz", "/readyz"})  # who is unknown gets as far as these, and below /web/
_PLAIN = frozenset({"/v1/messages", "/openapi.json"})  # routes that the framework does not name


class Counting(Protocol):
    """Who counts answers."""

    def api_answered(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count an answer; `seconds` None: a stream."""
        ...


class Edge:
    """The outermost ASGI app. A unix socket is trusted by its file's mode; everybody else shows a token.

    Attributes:
        guard: who is let in, and how often.
        closing: ends unending answers when the server stops.
        app: what is behind.
    """

    def __init__(self, app: ASGIApp, closing: Closing, counting: Counting, guard: Guard) -> None:
        self.guard = guard
        self.closing = closing
        self.app = app
        self._counting = counting

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer 401 or 429."""
        try:
            known = self._welcome(scope)
        except Problem as problem:
            await problem.response()(scope, receive, send)
            self._counting.api_answered(_method(scope), "other", problem.status, 0.0)
            return
        scope[LIMITS], scope[BODIES] = self.guard.limits, self.guard.bodies
        if known is not None:
            scope.get("state", {}).get(WELCOMED, _nobody_asks)()
            scope[PRINCIPAL] = known.principal
            scope[KNOWN] = known if known.digest else None
        began, status, ended = time.perf_counter(), 500, False

        async def watched(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                ended = not message.get("more_body", False)
            await send(message)

        try:
            if known is None or not known.digest:
                await self.app(scope, receive, watched)
            else:
                staying = _Staying(self.guard, known, scope, receive)
                await self.app(scope, staying.receive, watched)
                if staying.cut and not ended:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            seconds = None if scope.get(STREAMED) else time.perf_counter() - began
            self._counting.api_answered(_method(scope), _route(scope), status, seconds)

    def _welcome(self, scope: HttpScope) -> Known | None:
        """Who it is; None: somebody unknown, where that will do. Raises Problem."""
        name = scope.get("state", {}).get(UNIX)
        host = (scope.get("client") or ("",))[0]
        known: Known | None = None
        if name is not None and not _shows_something(scope):
            known = Known(Principal(name, Scope.ADMIN))
        else:
            try:
                shown = _token(scope)
                known = self.guard.tokens.who(shown) if shown is not None else None
            except Unwelcome as unwelcome:
                raise self._refusal(host, str(unwelcome)) from unwelcome
            if known is None and not _is_open(scope.get("path", "")):
                raise self._refusal(host, LOGIN)
        who = known.principal.name if known is not None else f"from {neighbourhood(host)}"
        wait = self.guard.request_waits_s(who)
        if wait:
            rate = f"more than {self.guard.limits.requests_per_s:g} requests a second"
            raise Problem(429, f"{rate} of {who}: send fewer, or lists of messages", retry_after_s=wait)
        return known

    def _refusal(self, host: str, text: str) -> Problem:
        wait = self.guard.refused_waits_s(host)
        if not wait:
            return Problem(401, text, headers=CHALLENGE)
        headers = {"Connection": "close", "Retry-After": retry_after(wait)}
        return Problem(429, f"too many requests without a good token from {host}: wait", headers=headers)


class _Staying:
    """Ends an answer that goes on as if the client had left, when its token is not good any more."""

    def __init__(self, guard: Guard, known: Known, scope: HttpScope, receive: Receive) -> None:
        self.cut = False
        self._guard = guard
        self._known = known
        self._scope = scope
        self._receive = receive

    async def receive(self) -> Message:
        if not self._scope.get(STREAMED):
            return await self._receive()
        message: Message = {"type": "http.disconnect"}
        with self._guard.tokens.staying(self._known) as over:
            async with anyio.create_task_group() as group:

                async def until_over() -> None:
                    await over.wait()
                    self.cut = True
                    group.cancel_scope.cancel()

                group.start_soon(until_over)
                message = await self._receive()
                group.cancel_scope.cancel()
        return message


async def while_welcome(guard: Guard, request: HTTPConnection, doing: Awaitable[object]) -> None:
    """Wait for something that takes long, but not longer than the token that was shown is good.

    Raises:
        Problem: 401, it is not good any more.
    """
    known: Known | None = request.scope.get(KNOWN)
    if known is None:
        await doing
        return
    with guard.tokens.staying(known) as over:
        async with anyio.create_task_group() as group:

            async def until_over() -> None:
                await over.wait()
                group.cancel_scope.cancel()

            group.start_soon(until_over)
            await doing
            group.cancel_scope.cancel()
    if over.is_set():
        raise Problem(401, "this token was revoked or has expired while you waited", headers=CHALLENGE)


def asking(request: HTTPConnection) -> Principal:
    """Who sent a request to a route for which somebody has to be known."""
    principal: Principal = request.scope[PRINCIPAL]
    return principal


def somebody(request: HTTPConnection) -> Principal | None:
    """Who sent a request; None: somebody unknown."""
    return request.scope.get(PRINCIPAL)


def limits_of(request: HTTPConnection) -> LimitsConfig:
    """What holds for a request."""
    limits: Any = request.scope.get(LIMITS)
    return limits if isinstance(limits, LimitsConfig) else LimitsConfig()


def bodies_of(request: HTTPConnection) -> Bodies:
    """The bodies among which that of a request comes in."""
    bodies: Any = request.scope.get(BODIES)
    return bodies if isinstance(bodies, Bodies) else Bodies()


def _nobody_asks() -> None:
    """In the place of WELCOMED where connections are not told apart."""


def _shows_something(scope: HttpScope) -> bool:
    """Whether a token is shown: on a unix socket it narrows what may be done, as for `everpool dashboard`."""
    return any(header == b"authorization" for header, _ in scope.get("headers", ()))


def _token(scope: HttpScope) -> bytes | None:
    """The token that is shown; None: there is none. Raises Unwelcome."""
    shown = [value for name, value in scope.get("headers", ()) if name == b"authorization"]
    if not shown:
        return None
    scheme, _, value = shown[0].partition(b" ")
    if len(shown) > 1 or scheme.lower() != b"bearer":
        raise Unwelcome(LOGIN)
    return bytes(value.strip())


def _is_open(path: str) -> bool:
    return path in _OPEN or path.startswith("/web/")


def _method(scope: HttpScope) -> str:
    """From a closed set: it is a label."""
    method = scope.get("method", "")
    return method if method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE") else "other"


def _route(scope: HttpScope) -> str:
    """The route's template, never a path with names in it."""
    path = scope.get("path", "")
    return path if path in _PLAIN else str(getattr(scope.get("route"), "path_format", "other"))
