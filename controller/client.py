"""What other programs use to talk to the daemon, sync and async; needs nothing of the server.

    with Client() as everpool:
        task = TaskRequested(pool="main", task=TaskSpec(argv=("true",)))
        print(everpool.wait(everpool.submit(task).request_id).status)

Both clients have the same methods. Errors are `EverpoolError`; `NotRunning` when no daemon answers. Requests
get an id before they are sent, so one that met a broken connection is sent again without harm.
"""

import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any, Self, TypeVar, overload

import httpx2 as httpx

from actors.events import Envelope, Request
from controller import client_calls as calls
from controller.client_admin import Administration
from controller.client_async import AsyncClient
from controller.client_calls import Call
from controller.client_views import InstanceView, Lifecycle, NodeView, OperationView, PoolView, TaskView
from controller.client_wire import (
    CURSOR,
    HEADERS,
    LONG_POLL_S,
    STREAM_TIMEOUT,
    Address,
    Entry,
    EventFeed,
    EventsPruned,
    EverpoolError,
    Json,
    LogFeed,
    LogLine,
    NotRunning,
    Operation,
    Patience,
    Stream,
    Submitted,
    Target,
    TaskPage,
    TimedOut,
    checked,
    default_address,
    events_wanted,
    file_put,
    health_of,
    log_over,
    log_wanted,
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


class Client(Administration):
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

    def _failed(self, error: httpx.TransportError, repeatable: bool = True) -> EverpoolError:
        self._probed = False
        return self._target.failed(error, repeatable)

    def _probe(self) -> None:
        if not self._probed:
            self._target.probe()
            self._probed = True

    def _do(self, call: Call[T]) -> T:
        return call.decode(checked(self._send(call)))

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
        except httpx.TransportError as error:
            raise self._failed(error) from error

    def ask(self, call: Call[T]) -> T:
        """Send a call that has no method of its own here, such as those of `client_secrets`."""
        return self._do(call)

    def _each(self, call: Call[list[T]]) -> Generator[T, None, None]:
        """Everything of a list, page by page."""
        while True:
            response = self._send(call)
            yield from call.decode(checked(response))
            cursor = response.headers.get(CURSOR)
            if cursor is None:
                return
            call = call.behind(cursor)

    # --- asking for something -----------------------------------------------------------------

    @overload
    def submit(self, request: Request) -> Submitted: ...
    @overload
    def submit(self, request: Sequence[Request]) -> list[Submitted]: ...
    def submit(self, request: Request | Sequence[Request]) -> Submitted | list[Submitted]:
        """Send a Request; raises when it isn't taken. Or a list (up to 10,000): an answer for each."""
        if isinstance(request, Sequence):
            return self._do(calls.submit_many([with_id(one) for one in request]))
        return self._do(calls.submit(with_id(request)))

    def wait(self, request_id: str, timeout_s: float | None = None) -> Operation:
        """Wait for the end of a Request, also over a restart of the daemon. Raises TimedOut."""
        until = time.monotonic() + timeout_s if timeout_s is not None else None
        patience = Patience()
        while True:
            left = LONG_POLL_S if until is None else min(LONG_POLL_S, until - time.monotonic())
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

    def operation(self, request_id: str, *, wait_s: float = 0) -> Operation:
        """What followed from a Request; with `wait_s` (up to 60) once it has ended."""
        return self._do(calls.operation(request_id, wait_s))

    # --- following ----------------------------------------------------------------------------

    def _stream(self, path: str, params: dict[str, str]) -> Generator[bytes, None, None]:
        self._probe()
        try:
            with self._http.stream("GET", path, params=params, timeout=STREAM_TIMEOUT) as response:
                if response.status_code >= 400:
                    response.read()
                    checked(response)
                yield from response.iter_raw()
        except httpx.TransportError as error:
            raise self._failed(error) from error

    def events(
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
        return self._do(calls.events(after, limit, tail, events_wanted(pool, kinds, task, request_id)))

    def follow(
        self,
        after: int = 0,
        *,
        pool: str | None = None,
        kinds: Sequence[str] = (),
        task: str | None = None,
        request_id: str | None = None,
    ) -> Generator[Envelope, None, None]:
        """Events behind seq `after`, then those to come, each once; connects again by itself for ever."""
        feed, patience = EventFeed(after, events_wanted(pool, kinds, task, request_id)), Patience()
        while True:
            try:
                with closing(self._stream("/v1/events", feed.begin())) as chunks:
                    for chunk in chunks:
                        patience.came()
                        for envelope in feed.feed(chunk):
                            feed.seen(envelope)
                            yield envelope
            except EverpoolError as error:
                if not may_wait(error, patience.connected):
                    raise
            time.sleep(patience.next())

    def task_log(
        self,
        task_id: str,
        *,
        attempt: int | None = None,
        stream: Stream | None = None,
        after: str = "",
        tail: int | None = None,
        follow: bool = False,
    ) -> Generator[LogLine, None, None]:
        """A task's output; with `follow` until it is over, over all attempts and restarts of the daemon."""
        feed = LogFeed(log_wanted(attempt, stream), after, tail)
        yield from self._lines(calls.log_path(task_id), feed, follow, task_id, attempt)

    def console(
        self, instance_id: str, *, after: str = "", tail: int | None = None
    ) -> Generator[LogLine, None, None]:
        """What the set-up steps of an instance printed."""
        yield from self._lines(calls.console_path(instance_id), LogFeed({}, after, tail), False, "", None)

    def _lines(
        self, path: str, feed: LogFeed, follow: bool, task_id: str, attempt: int | None
    ) -> Generator[LogLine, None, None]:
        patience = Patience()
        while True:
            some = False
            try:
                with closing(self._stream(path, feed.begin(follow=follow))) as chunks:
                    for chunk in chunks:
                        patience.came()
                        for line in feed.feed(chunk):
                            some = True
                            yield line
                patience.connected = True
                if not follow and not some:
                    return
                if follow and log_over(self.task(task_id), attempt):
                    follow = False  # once more, for what came at the very end
                    continue
            except EverpoolError as error:
                if not may_wait(error, patience.connected):
                    raise
            if follow:
                time.sleep(patience.next())

    # --- what there is ------------------------------------------------------------------------

    def pools(self, *, name: str | None = None, status: str | None = None) -> list[PoolView]:
        """Living pools; filters are names joined by ',', with * and ?."""
        return list(self._each(calls.pools(name, status)))

    def pool(self, name: str) -> PoolView:
        """One pool, with its spec."""
        return self._do(calls.pool(name))

    def nodes(self, pool: str | None = None, *, status: str | None = None) -> list[NodeView]:
        """Nodes of all pools, or of one."""
        return list(self._each(calls.nodes(pool, status)))

    def instances(
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
        return list(self._each(wanted))

    def instance(self, instance_id: str) -> InstanceView:
        """One instance."""
        return self._do(calls.instance(instance_id))

    def ssh(self, instance_id: str) -> Json:
        """How to get into an instance."""
        return self._do(calls.ssh(instance_id))

    def tasks(
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
        return self._do(calls.tasks(pool, status, result, name, limit, cursor))

    def each_task(
        self,
        pool: str | None = None,
        *,
        status: str | None = None,
        result: str | None = None,
        name: str | None = None,
    ) -> Generator[TaskView, None, None]:
        """All of them, read page by page."""
        return self._each(calls.each_task(pool, status, result, name))

    def operations(
        self,
        *,
        status: str | None = None,
        pool: str | None = None,
        kind: str | None = None,
        since: float | None = None,
    ) -> Generator[OperationView, None, None]:
        """Operations, newest first, read page by page; `since` is UTC seconds."""
        return self._each(calls.operations(status, pool, kind, since))

    def task(self, task_id: str) -> TaskView:
        """One task."""
        return self._do(calls.task(task_id))

    def files(self, task_id: str) -> list[Json]:
        """Files that a task left behind."""
        return self._do(calls.files(task_id))

    def file(self, task_id: str, path: str, *, attempt: int | None = None) -> bytes:
        """One of them."""
        return self._do(calls.file(task_id, path, attempt))

    def offers(self, **wanted: Any) -> Json:
        """What the providers would rent now, filtered and sorted as /v1/offers can; see /openapi.json."""
        return self._do(calls.offers(wanted))

    def explain(self, pool: str, *, task: str | None = None, instance: str | None = None) -> Json:
        """Why a pool is as it is; or why one of its tasks or instances is, or is gone."""
        return self._do(calls.explain(pool, task, instance))

    def cost(self, pool: str | None = None) -> Json:
        """What all pools cost; or all about one: by day, market, kind and task, and its budget."""
        return self._do(calls.cost(pool))

    # --- the daemon ---------------------------------------------------------------------------

    def adopt(self) -> Json:
        """Take the lead after a restored backup."""
        return self._do(calls.adopt())

    def hold(self, seconds: float, pool: str | None = None) -> Json:
        """Give machines a longer lease."""
        return self._do(calls.hold(seconds, pool))

    def backup(self, path: Address) -> Json:
        """Copy the journal to an absolute path on the daemon's host."""
        return self._do(calls.backup(os.fspath(path)))

    def reload(self, *, dry_run: bool = False) -> Json:
        """Read the config again; answers what changes, or with `dry_run` what would."""
        return self._do(calls.reload(dry_run))

    def webhooks(self) -> list[Json]:
        """Where events are sent: how far each webhook is."""
        return self._do(calls.webhooks())

    def webhook_test(self, name: str) -> Json:
        """Send a signed test to a webhook; answers what came back."""
        return self._do(calls.webhook(name, "test"))

    def webhook_retry(self, name: str) -> Json:
        """Try now what waits after a failure."""
        return self._do(calls.webhook(name, "retry"))

    def doctor(self, *providers: str) -> list[Json]:
        """Checks of everything that tends to be wrong: of these providers, or else of all."""
        return self._do(calls.doctor(providers))

    def ready(self) -> Json:
        """The daemon's health; `ready` and `reasons` say whether it can do its work."""
        self._probe()
        try:
            response = self._http.get("/readyz", timeout=self._timeout_s)
        except httpx.TransportError as error:
            raise self._failed(error) from error
        return health_of(response)

    def metrics(self, *, instances: bool = False) -> str:
        """Prometheus series as text."""
        return self._do(calls.metrics(instances))
