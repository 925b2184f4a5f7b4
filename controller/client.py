"""What other programs use to talk to the daemon, sync and async; needs nothing of the server.

    with Client() as everpool:
        task = TaskRequested(pool="main", task=TaskSpec(argv=("true",)))
        print(everpool.wait(everpool.submit(task).request_id).status)

Both clients have the same methods: those of `client_routes` and `client_admin`, and the few that are here.
Errors are `EverpoolError`; `NotRunning` when no daemon answers. Requests get an id before they are sent, so
one that met a broken connection is sent again without harm.
"""

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from functools import partial
from typing import Self, TypeVar, overload

import httpx2 as httpx

from actors.events import Request
from controller.client_async import AsyncClient
from controller.client_core import Call, Feed, Synchronous, fed
from controller.client_routes import Routes, one_request, requests
from controller.client_views import InstanceView, NodeView, OperationView, PoolView, TaskView
from controller.client_wire import (
    CURSOR,
    HEADERS,
    LONG_POLL_S,
    STREAM_TIMEOUT,
    Address,
    Entry,
    EventsPruned,
    EverpoolError,
    LogLine,
    NotRunning,
    Operation,
    Patience,
    Submitted,
    Target,
    TaskPage,
    TimedOut,
    checked,
    default_address,
    file_put,
    is_answer,
    may_wait,
    trusted,
    with_id,
)
from controller.webhook_signature import WebhookInvalid, verify_webhook

__all__ = [
    "AsyncClient",
    "Client",
    "Entry",
    "EventsPruned",
    "EverpoolError",
    "InstanceView",
    "LogLine",
    "NodeView",
    "NotRunning",
    "Operation",
    "OperationView",
    "PoolView",
    "Submitted",
    "TaskPage",
    "TaskView",
    "TimedOut",
    "WebhookInvalid",
    "default_address",
    "file_put",
    "verify_webhook",
]

T = TypeVar("T")


class Client(Routes, Synchronous):
    """Talks to a daemon at a unix socket's path or a URL; see `default_address`."""

    def __init__(
        self,
        address: Address | None = None,
        *,
        token: str | None = None,
        timeout_s: float = 30,
        ca_file: Address | None = None,
    ) -> None:
        self._target = Target.parse(address, token)
        self._timeout_s = timeout_s
        self._probed = False
        verify = trusted(ca_file, self._target.url)
        transport = httpx.HTTPTransport(uds=self._target.path, trust_env=False, verify=verify)
        self._http = httpx.Client(
            base_url=self._target.url, transport=transport, headers=self._target.headers, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    # --- asking for something -----------------------------------------------------------------

    @overload
    def submit(self, request: Request) -> Submitted: ...
    @overload
    def submit(self, request: Sequence[Request]) -> list[Submitted]: ...
    def submit(self, request: Request | Sequence[Request]) -> Submitted | list[Submitted]:
        """Send a Request; raises when it isn't taken. Or a list (up to 10,000): an answer for each."""
        if isinstance(request, Sequence):
            return self._do(requests([with_id(one) for one in request]))
        return self._do(one_request(with_id(request)))

    def wait(self, request_id: str, timeout_s: float | None = None) -> Operation:
        """Wait for the end of a Request, also over a restart of the daemon. Raises TimedOut."""
        until = time.monotonic() + timeout_s if timeout_s is not None else None
        patience = Patience()
        while True:
            left = LONG_POLL_S if until is None else min(LONG_POLL_S, until - time.monotonic())
            if not patience.connected:
                left = 0.0  # is it known at all? from then on the daemon may come and go
            try:
                operation = self.operation(request_id, wait_s=max(0.0, left))
                patience.came()
                if operation.over:
                    return operation
            except EverpoolError as error:
                if not may_wait(error, patience.connected):
                    raise
                time.sleep(patience.next())
            if until is not None and time.monotonic() >= until:
                raise TimedOut(0, f"{request_id} has not ended within {timeout_s:g} s; it goes on")

    # --- how routes are asked -----------------------------------------------------------------

    def _do(self, call: Call[T]) -> T:
        return self._target.read(call.decode, self._send(call), call.fine)

    def _whole(self, call: Call[list[T]]) -> list[T]:
        return list(self._each(call))

    def _each(self, call: Call[list[T]]) -> Generator[T, None, None]:
        while True:
            response = self._send(call)
            yield from self._target.read(call.decode, response)
            cursor = response.headers.get(CURSOR)
            if cursor is None:
                return
            call = call.behind(cursor)

    def _follow(self, feed: Feed[T]) -> Generator[T, None, None]:
        patience = Patience()
        while True:
            some = False
            try:
                with closing(self._stream(feed.path, feed.begin())) as chunks:
                    for chunk in chunks:
                        patience.came()
                        for one in self._target.made(partial(fed, feed, chunk)):
                            some = True
                            yield one
                patience.connected = True
                if not feed.follow and not some:
                    return
                if feed.follow and feed.over is not None and self._do(feed.over):
                    feed.follow = False  # once more, for what came at the very end
                rests = feed.follow
            except EverpoolError as error:
                if not may_wait(error, patience.connected):
                    raise
                rests = True
            if rests:
                time.sleep(patience.next())

    def _send(self, call: Call[T], tries: int = 2) -> httpx.Response:
        self._probe()
        try:
            return self._http.request(
                call.method,
                call.path,
                params=call.params,
                content=call.body,
                headers=HEADERS if call.body is not None else None,
                timeout=httpx.Timeout(self._timeout_s + call.wait_s, connect=10.0),
            )
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            self._probed = False
            if tries > 1 and call.repeatable:  # a kept connection that the daemon had closed
                return self._send(call, tries - 1)
            raise self._failed(error, call.repeatable) from error
        except httpx.RequestError as error:
            raise self._failed(error) from error

    def _stream(self, path: str, params: dict[str, str]) -> Generator[bytes, None, None]:
        self._probe()
        try:
            with self._http.stream("GET", path, params=params, timeout=STREAM_TIMEOUT) as response:
                if not is_answer(response):
                    response.read()
                    checked(response)
                yield from response.iter_raw()
        except httpx.RequestError as error:
            raise self._failed(error) from error

    def _failed(self, error: httpx.RequestError, repeatable: bool = True) -> EverpoolError:
        self._probed = False
        return self._target.failed(error, repeatable)

    def _probe(self) -> None:
        if not self._probed:
            self._target.probe()
            self._probed = True
