"""Who is asking: decided once, before anything else looks at a request."""

import hmac
import time
from typing import Protocol

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Send
from starlette.types import Scope as HttpScope

from controller.api.answers import error
from controller.api.streaming import STREAMED, Closing
from controller.principal import Principal, Scope

UNIX = "everpool.unix"  # in the connection's state: the principal of a unix socket
PRINCIPAL = "everpool.principal"  # in the scope of a request that was let in
_PLAIN = frozenset({"/v1/messages", "/openapi.json"})  # routes that the framework does not name


class Counting(Protocol):
    """Who counts answers."""

    def api_answered(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count an answer; `seconds` None: a stream."""
        ...


class Edge:
    """The outermost ASGI app. A unix socket is trusted by its file's mode; everybody else shows the token.

    Puts `principal` into the scope: "unix:<uid>", "unix" or "token".

    Attributes:
        token: what clients on TCP must show; None: nobody is let in there.
        closing: ends unending answers when the server stops.
    """

    def __init__(self, app: ASGIApp, closing: Closing, counting: Counting) -> None:
        self.token: str | None = None
        self.closing = closing
        self._app = app
        self._counting = counting

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer 401."""
        principal = scope.get("state", {}).get(UNIX)
        if principal is None and self._shows_token(scope):
            principal = "token"
        if principal is None:
            answer = error(
                401,
                "show the daemon's token: 'Authorization: Bearer <token>', as in its token_file",
                headers={"WWW-Authenticate": 'Bearer realm="everpool"', "Connection": "close"},
            )
            await answer(scope, receive, send)
            self._counting.api_answered(_method(scope), "other", 401, 0.0)
            return
        scope["principal"] = principal
        scope[PRINCIPAL] = Principal(principal, Scope.ADMIN)
        began, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            seconds = None if scope.get(STREAMED) else time.perf_counter() - began
            self._counting.api_answered(_method(scope), _route(scope), status, seconds)

    def _shows_token(self, scope: HttpScope) -> bool:
        if self.token is None:
            return False
        shown = [value for name, value in scope.get("headers", ()) if name == b"authorization"]
        if len(shown) != 1:
            return False
        scheme, _, value = shown[0].partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(value.strip(), self.token.encode())


def asking(request: HTTPConnection) -> Principal:
    """Who sent a request that was let in."""
    principal: Principal = request.scope[PRINCIPAL]
    return principal


def _method(scope: HttpScope) -> str:
    """From a closed set: it is a label."""
    method = scope.get("method", "")
    return method if method in ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE") else "other"


def _route(scope: HttpScope) -> str:
    """The route's template, never a path with names in it."""
    path = scope.get("path", "")
    return path if path in _PLAIN else str(getattr(scope.get("route"), "path_format", "other"))
