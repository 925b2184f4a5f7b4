"""The asynchronous client; `controller.client` is the door."""

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Self, TypeVar, overload

import anyio
import httpx2 as httpx

from actors.events import Request
from controller.client_core import Asynchronous, Call, Feed, fed
from controller.client_routes import Routes, one_request, requests
from controller.client_wire import (
    CURSOR,
    HEADERS,
    LONG_POLL_S,
    STREAM_TIMEOUT,
    Address,
    EverpoolError,
    Operation,
    Patience,
    Submitted,
    Target,
    TimedOut,
    checked,
    is_answer,
    may_wait,
    trusted,
    with_id,
)

T = TypeVar("T")


class AsyncClient(Routes, Asynchronous):
    """As `Client`, on asyncio or trio. Close generators (`contextlib.aclosing`) when leaving them early."""

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
        verify = trusted(ca_file, self._target.url)
        transport = httpx.AsyncHTTPTransport(uds=self._target.path, trust_env=False, verify=verify)
        self._http = httpx.AsyncClient(
            base_url=self._target.url, transport=transport, headers=self._target.headers, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of connections."""
        await self._http.aclose()

    # --- asking for something -----------------------------------------------------------------

    @overload
    async def submit(self, request: Request) -> Submitted: ...
    @overload
    async def submit(self, request: Sequence[Request]) -> list[Submitted]: ...
    async def submit(self, request: Request | Sequence[Request]) -> Submitted | list[Submitted]:
        """Send a Request; raises when it isn't taken. Or a list (up to 10,000): an answer for each."""
        if isinstance(request, Sequence):
            return await self._do(requests([with_id(one) for one in request]))
        return await self._do(one_request(with_id(request)))

    async def wait(self, request_id: str, timeout_s: float | None = None) -> Operation:
        """Wait for the end of a Request, also over a restart of the daemon. Raises TimedOut."""
        until = time.monotonic() + timeout_s if timeout_s is not None else None
        patience = Patience()
        while True:
            left = LONG_POLL_S if until is None else min(LONG_POLL_S, until - time.monotonic())
            if not patience.connected:
                left = 0.0  # is it known at all? from then on the daemon may come and go
            try:
                operation = await self.operation(request_id, wait_s=max(0.0, left))
                patience.came()
                if operation.over:
                    return operation
            except EverpoolError as error:
                if not may_wait(error, patience.connected):
                    raise
                await anyio.sleep(patience.next())
            if until is not None and time.monotonic() >= until:
                raise TimedOut(0, f"{request_id} has not ended within {timeout_s:g} s; it goes on")

    # --- how routes are asked -----------------------------------------------------------------

    async def _do(self, call: Call[T]) -> T:
        return self._target.read(call.decode, await self._send(call), call.fine)

    async def _whole(self, call: Call[list[T]]) -> list[T]:
        return [one async for one in self._each(call)]

    async def _each(self, call: Call[list[T]]) -> AsyncGenerator[T, None]:
        while True:
            response = await self._send(call)
            for one in self._target.read(call.decode, response):
                yield one
            cursor = response.headers.get(CURSOR)
            if cursor is None:
                return
            call = call.behind(cursor)

    async def _follow(self, feed: Feed[T]) -> AsyncGenerator[T, None]:
        patience = Patience()
        while True:
            some = False
            try:
                async with aclosing(self._stream(feed.path, feed.begin())) as chunks:
                    async for chunk in chunks:
                        patience.came()
                        for one in self._target.made(partial(fed, feed, chunk)):
                            some = True
                            yield one
                patience.connected = True
                if not feed.follow and not some:
                    return
                if feed.follow and feed.over is not None and await self._do(feed.over):
                    feed.follow = False  # once more, for what came at the very end
                rests = feed.follow
            except EverpoolError as error:
                if not may_wait(error, patience.connected):
                    raise
                rests = True
            if rests:
                await anyio.sleep(patience.next())

    async def _send(self, call: Call[T], tries: int = 2) -> httpx.Response:
        try:
            return await self._http.request(
                call.method,
                call.path,
                params=call.params,
                content=call.body,
                headers=HEADERS if call.body is not None else None,
                timeout=httpx.Timeout(self._timeout_s + call.wait_s, connect=10.0),
            )
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            if tries > 1 and call.repeatable:  # a kept connection that the daemon had closed
                return await self._send(call, tries - 1)
            raise self._target.failed(error, call.repeatable) from error
        except httpx.RequestError as error:
            raise self._target.failed(error) from error

    async def _stream(self, path: str, params: dict[str, str]) -> AsyncGenerator[bytes, None]:
        try:
            async with self._http.stream("GET", path, params=params, timeout=STREAM_TIMEOUT) as response:
                if not is_answer(response):
                    await response.aread()
                    checked(response)
                async for chunk in response.aiter_raw():
                    yield chunk
        except httpx.RequestError as error:
            raise self._target.failed(error) from error
