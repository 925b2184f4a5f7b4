"""The asynchronous client; `controller.client` is the door."""

import os
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Self, TypeVar, overload

import anyio
import httpx2 as httpx

from actors.events import Envelope, Request
from controller import client_calls as calls
from controller.client_admin import AsyncAdministration
from controller.client_calls import Call
from controller.client_views import InstanceView, Lifecycle, NodeView, OperationView, PoolView, TaskView
from controller.client_wire import (
    CURSOR,
    HEADERS,
    LONG_POLL_S,
    STREAM_TIMEOUT,
    Address,
    EventFeed,
    EverpoolError,
    Json,
    LogFeed,
    LogLine,
    Operation,
    Patience,
    Stream,
    Submitted,
    Target,
    TaskPage,
    TimedOut,
    checked,
    events_wanted,
    health_of,
    log_over,
    log_wanted,
    may_wait,
    trusted,
    with_id,
)

T = TypeVar("T")


class AsyncClient(AsyncAdministration):
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

    async def _do(self, call: Call[T]) -> T:
        return call.decode(checked(await self._send(call)))

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
        except httpx.TransportError as error:
            raise self._target.failed(error) from error

    async def ask(self, call: Call[T]) -> T:
        """Send a call that has no method of its own here, such as those of `client_secrets`."""
        return await self._do(call)

    async def _each(self, call: Call[list[T]]) -> AsyncGenerator[T, None]:
        """Everything of a list, page by page."""
        while True:
            response = await self._send(call)
            for one in call.decode(checked(response)):
                yield one
            cursor = response.headers.get(CURSOR)
            if cursor is None:
                return
            call = call.behind(cursor)

    # --- asking for something -----------------------------------------------------------------

    @overload
    async def submit(self, request: Request) -> Submitted: ...
    @overload
    async def submit(self, request: Sequence[Request]) -> list[Submitted]: ...
    async def submit(self, request: Request | Sequence[Request]) -> Submitted | list[Submitted]:
        """Send a Request; raises when it isn't taken. Or a list (up to 10,000): an answer for each."""
        if isinstance(request, Sequence):
            return await self._do(calls.submit_many([with_id(one) for one in request]))
        return await self._do(calls.submit(with_id(request)))

    async def wait(self, request_id: str, timeout_s: float | None = None) -> Operation:
        """Wait for the end of a Request, also over a restart of the daemon. Raises TimedOut."""
        until = time.monotonic() + timeout_s if timeout_s is not None else None
        patience = Patience()
        while True:
            left = LONG_POLL_S if until is None else min(LONG_POLL_S, until - time.monotonic())
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

    async def operation(self, request_id: str, *, wait_s: float = 0) -> Operation:
        """What followed from a Request; with `wait_s` (up to 60) once it has ended."""
        return await self._do(calls.operation(request_id, wait_s))

    # --- following ----------------------------------------------------------------------------

    async def _stream(self, path: str, params: dict[str, str]) -> AsyncGenerator[bytes, None]:
        try:
            async with self._http.stream("GET", path, params=params, timeout=STREAM_TIMEOUT) as response:
                if response.status_code >= 400:
                    await response.aread()
                    checked(response)
                async for chunk in response.aiter_raw():
                    yield chunk
        except httpx.TransportError as error:
            raise self._target.failed(error) from error

    async def events(
        self,
        after: int = 0,
        *,
        limit: int = 1000,
        tail: int | None = None,
        pool: str | None = None,
        kinds: Sequence[str] = (),
        task: str | None = None,
        request_id: str | None = None,
    ) -> list[Envelope]:
        """The first `limit` (up to 10,000) events behind seq `after` there are, or the newest `tail`."""
        return await self._do(calls.events(after, limit, tail, events_wanted(pool, kinds, task, request_id)))

    async def follow(
        self,
        after: int = 0,
        *,
        pool: str | None = None,
        kinds: Sequence[str] = (),
        task: str | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Envelope, None]:
        """Events behind seq `after`, then those to come, each once; connects again by itself for ever."""
        feed, patience = EventFeed(after, events_wanted(pool, kinds, task, request_id)), Patience()
        while True:
            try:
                async with aclosing(self._stream("/v1/events", feed.begin())) as chunks:
                    async for chunk in chunks:
                        patience.came()
                        for envelope in feed.feed(chunk):
                            feed.seen(envelope)
                            yield envelope
            except EverpoolError as error:
                if not may_wait(error, patience.connected):
                    raise
            await anyio.sleep(patience.next())

    async def task_log(
        self,
        task_id: str,
        *,
        attempt: int | None = None,
        stream: Stream | None = None,
        after: str = "",
        tail: int | None = None,
        follow: bool = False,
    ) -> AsyncGenerator[LogLine, None]:
        """A task's output; with `follow` until it is over, over all attempts and restarts of the daemon."""
        feed = LogFeed(log_wanted(attempt, stream), after, tail)
        async with aclosing(self._lines(calls.log_path(task_id), feed, follow, task_id, attempt)) as lines:
            async for line in lines:
                yield line

    async def console(
        self, instance_id: str, *, after: str = "", tail: int | None = None
    ) -> AsyncGenerator[LogLine, None]:
        """What the set-up steps of an instance printed."""
        feed = LogFeed({}, after, tail)
        async with aclosing(self._lines(calls.console_path(instance_id), feed, False, "", None)) as lines:
            async for line in lines:
                yield line

    async def _lines(
        self, path: str, feed: LogFeed, follow: bool, task_id: str, attempt: int | None
    ) -> AsyncGenerator[LogLine, None]:
        patience = Patience()
        while True:
            some = False
            try:
                async with aclosing(self._stream(path, feed.begin(follow=follow))) as chunks:
                    async for chunk in chunks:
                        patience.came()
                        for line in feed.feed(chunk):
                            some = True
                            yield line
                patience.connected = True
                if not follow and not some:
                    return
                if follow and log_over(await self.task(task_id), attempt):
                    follow = False  # once more, for what came at the very end
                    continue
            except EverpoolError as error:
                if not may_wait(error, patience.connected):
                    raise
            if follow:
                await anyio.sleep(patience.next())

    # --- what there is ------------------------------------------------------------------------

    async def pools(self, *, name: str | None = None, status: str | None = None) -> list[PoolView]:
        """Living pools; filters are names joined by ',', with * and ?."""
        return [one async for one in self._each(calls.pools(name, status))]

    async def pool(self, name: str) -> PoolView:
        """One pool, with its spec."""
        return await self._do(calls.pool(name))

    async def nodes(self, pool: str | None = None, *, status: str | None = None) -> list[NodeView]:
        """Nodes of all pools, or of one."""
        return [one async for one in self._each(calls.nodes(pool, status))]

    async def instances(
        self,
        pool: str | None = None,
        *,
        ended: bool = False,
        status: str | None = None,
        provider: str | None = None,
        region: str | None = None,
        lifecycle: Lifecycle | None = None,
        node: int | None = None,
    ) -> list[InstanceView]:
        """Instances that live, or those that are gone."""
        wanted = calls.instances(
            pool,
            ended=ended,
            status=status,
            provider=provider,
            region=region,
            lifecycle=lifecycle,
            node=node,
        )
        return [one async for one in self._each(wanted)]

    async def instance(self, instance_id: str) -> InstanceView:
        """One instance."""
        return await self._do(calls.instance(instance_id))

    async def ssh(self, instance_id: str) -> Json:
        """How to get into an instance."""
        return await self._do(calls.ssh(instance_id))

    async def tasks(
        self,
        pool: str | None = None,
        *,
        status: str | None = None,
        result: str | None = None,
        name: str | None = None,
        limit: int = 100,
        cursor: int | None = None,
    ) -> TaskPage:
        """Tasks that live, and those that are over as far as the journal goes back, newest first."""
        return await self._do(calls.tasks(pool, status, result, name, limit, cursor))

    def each_task(
        self,
        pool: str | None = None,
        *,
        status: str | None = None,
        result: str | None = None,
        name: str | None = None,
    ) -> AsyncGenerator[TaskView, None]:
        """All of them, read page by page."""
        return self._each(calls.each_task(pool, status, result, name))

    def operations(
        self,
        *,
        status: str | None = None,
        pool: str | None = None,
        kind: str | None = None,
        since: float | None = None,
    ) -> AsyncGenerator[OperationView, None]:
        """Operations, newest first, read page by page; `since` is UTC seconds."""
        return self._each(calls.operations(status, pool, kind, since))

    async def task(self, task_id: str) -> TaskView:
        """One task."""
        return await self._do(calls.task(task_id))

    async def files(self, task_id: str) -> list[Json]:
        """Files that a task left behind."""
        return await self._do(calls.files(task_id))

    async def file(self, task_id: str, path: str, *, attempt: int | None = None) -> bytes:
        """One of them."""
        return await self._do(calls.file(task_id, path, attempt))

    async def offers(self, **wanted: Any) -> Json:
        """What the providers would rent now, filtered and sorted as /v1/offers can; see /openapi.json."""
        return await self._do(calls.offers(wanted))

    async def explain(self, pool: str, *, task: str | None = None, instance: str | None = None) -> Json:
        """Why a pool is as it is; or why one of its tasks or instances is, or is gone."""
        return await self._do(calls.explain(pool, task, instance))

    async def cost(self, pool: str | None = None) -> Json:
        """What all pools cost; or all about one: by day, market, kind and task, and its budget."""
        return await self._do(calls.cost(pool))

    # --- the daemon ---------------------------------------------------------------------------

    async def adopt(self) -> Json:
        """Take the lead after a restored backup."""
        return await self._do(calls.adopt())

    async def hold(self, seconds: float, pool: str | None = None) -> Json:
        """Give machines a longer lease."""
        return await self._do(calls.hold(seconds, pool))

    async def backup(self, path: Address) -> Json:
        """Copy the journal to an absolute path on the daemon's host."""
        return await self._do(calls.backup(os.fspath(path)))

    async def reload(self, *, dry_run: bool = False) -> Json:
        """Read the config again; answers what changes, or with `dry_run` what would."""
        return await self._do(calls.reload(dry_run))

    async def webhooks(self) -> list[Json]:
        """Where events are sent: how far each webhook is."""
        return await self._do(calls.webhooks())

    async def webhook_test(self, name: str) -> Json:
        """Send a signed test to a webhook; answers what came back."""
        return await self._do(calls.webhook(name, "test"))

    async def webhook_retry(self, name: str) -> Json:
        """Try now what waits after a failure."""
        return await self._do(calls.webhook(name, "retry"))

    async def doctor(self, *providers: str) -> list[Json]:
        """Checks of everything that tends to be wrong: of these providers, or else of all."""
        return await self._do(calls.doctor(providers))

    async def ready(self) -> Json:
        """The daemon's health; `ready` and `reasons` say whether it can do its work."""
        try:
            response = await self._http.get("/readyz", timeout=self._timeout_s)
        except httpx.TransportError as error:
            raise self._target.failed(error) from error
        return health_of(response)

    async def metrics(self, *, instances: bool = False) -> str:
        """Prometheus series as text."""
        return await self._do(calls.metrics(instances))
