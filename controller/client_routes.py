"""What both clients can ask about pools and what is in them: a method for each route."""

from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from pydantic_core import from_json

from actors.events import ConsoleOutput, Envelope, Log, Metric, Request
from controller.client_admin import Administration, viewed, views
from controller.client_core import Call, Feed, asked, each, followed, listed
from controller.client_feeds import EventFeed, LogFeed, TelemetryFeed
from controller.client_views import (
    CostView,
    ExplainView,
    FileView,
    InstanceView,
    InstanceWhyView,
    Lifecycle,
    NodeView,
    OffersView,
    OperationView,
    PoolCostView,
    PoolView,
    SshView,
    TaskView,
    TaskWhyView,
    View,
)
from controller.client_wire import (
    SUBMITTED,
    LogLine,
    Operation,
    Params,
    Stream,
    Submitted,
    TaskPage,
    body_of,
    clean,
    inside,
    named,
    several,
)
from providers.model import Architecture

V = TypeVar("V", bound=View)
PAGE = 1000  # of lists that are read page by page


class Routes(Administration):
    """Of both clients."""

    @asked
    def operation(self, request_id: str, *, wait_s: float = 0, after: int = 0) -> Call[Operation]:
        """What followed from a Request; with `wait_s` (up to 60) once it has ended.

        The log begins behind seq `after` and has up to 1,000 entries; if there are `more`, go on at `cursor`.
        """
        path = f"/v1/operations/{named(request_id)}"
        params = clean({"wait": wait_s or None, "after": after or None})
        return Call("GET", path, Operation.model_validate_json, params, wait_s=wait_s)

    # --- following ----------------------------------------------------------------------------

    @asked
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
    ) -> Call[list[Envelope]]:
        """The first `limit` (up to 10,000) events behind seq `after` there are, or the newest `tail`."""
        params = {"after": after, "limit": limit, "tail": tail, **_events(pool, kinds, task, request_id)}
        return Call("GET", "/v1/events", lambda body: list(EventFeed(after, {}).feed(body)), clean(params))

    @followed
    def follow(
        self,
        after: int = 0,
        *,
        pool: str | None = None,
        kinds: Sequence[str] = (),
        task: str | None = None,
        request_id: str | None = None,
    ) -> Feed[Envelope]:
        """Events behind seq `after`, then those to come, each once; connects again by itself for ever."""
        return EventFeed(after, _events(pool, kinds, task, request_id))

    @followed
    def task_log(
        self,
        task_id: str,
        *,
        attempt: int | None = None,
        stream: Stream | None = None,
        after: str = "",
        tail: int | None = None,
        follow: bool = False,
    ) -> Feed[LogLine]:
        """A task's output; with `follow` until it is over, over all attempts and restarts of the daemon."""
        wanted: Params = {"attempt": attempt, "stream": stream, "format": "ndjson"}
        path, over = f"/v1/tasks/{named(task_id)}/log", _task_over(task_id, attempt)
        return LogFeed(path, wanted, after=after, tail=tail, follow=follow, over=over)

    @followed
    def console(
        self, instance_id: str, *, after: str = "", tail: int | None = None, follow: bool = False
    ) -> Feed[LogLine]:
        """What the set-up steps of an instance printed; with `follow` until the instance is gone."""
        path = f"/v1/instances/{named(instance_id)}/console"
        return LogFeed(path, {}, after=after, tail=tail, follow=follow, over=_instance_over(instance_id))

    @followed
    def logs_told(self, task_id: str, *, after: str = "", follow: bool = False) -> Feed[Log]:
        """A task's output as Log events, each with its machine; with `follow` until the task is over."""
        wanted, over = {"task": task_id}, _task_over(task_id, None)
        return TelemetryFeed("/v1/telemetry/log", Log, wanted, after=after, follow=follow, over=over)

    @followed
    def console_told(self, instance_id: str, *, after: str = "", follow: bool = False) -> Feed[ConsoleOutput]:
        """What set-up steps print as ConsoleOutput events; with `follow` until the instance is gone."""
        wanted, over = {"instance": instance_id}, _instance_over(instance_id)
        path = "/v1/telemetry/console"
        return TelemetryFeed(path, ConsoleOutput, wanted, after=after, follow=follow, over=over)

    @followed
    def measured(self, instance_id: str, *, after: str = "", follow: bool = False) -> Feed[Metric]:
        """What a machine and its tasks measure, as Metric events; with `follow` until it is gone."""
        wanted, over = {"instance": instance_id}, _instance_over(instance_id)
        path = "/v1/telemetry/metrics"
        return TelemetryFeed(path, Metric, wanted, after=after, follow=follow, over=over)

    # --- what there is ------------------------------------------------------------------------

    @listed
    def pools(self, *, name: str | None = None, status: str | None = None) -> Call[list[PoolView]]:
        """Living pools; filters are names joined by ',', with * and ?."""
        return _list(PoolView, "/v1/pools", name=name, status=status)

    @asked
    def pool(self, name: str) -> Call[PoolView]:
        """One pool, with its spec."""
        return viewed(PoolView, "GET", "/v1/pools/{}", name)

    @listed
    def nodes(self, pool: str | None = None, *, status: str | None = None) -> Call[list[NodeView]]:
        """Nodes of all pools, or of one."""
        return _list(NodeView, "/v1/nodes", pool=pool, status=status)

    @listed
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
    ) -> Call[list[InstanceView]]:
        """Instances that live, or those that are gone."""
        wanted: Params = {"pool": pool, "ended": ended, "status": status, "provider": provider}
        more: Params = {"region": region, "lifecycle": lifecycle, "node": node}
        return _list(InstanceView, "/v1/instances", **wanted, **more)

    @asked
    def instance(self, instance_id: str) -> Call[InstanceView]:
        """One instance."""
        return viewed(InstanceView, "GET", "/v1/instances/{}", instance_id)

    @asked
    def ssh(self, instance_id: str) -> Call[SshView]:
        """How to get into an instance."""
        return viewed(SshView, "GET", "/v1/instances/{}/ssh", instance_id)

    @asked
    def tasks(
        self,
        pool: str | None = None,
        *,
        status: str | None = None,
        result: str | None = None,
        name: str | None = None,
        limit: int = 100,
        cursor: int | None = None,
    ) -> Call[TaskPage]:
        """Tasks that live, and those that are over as far as the journal goes back, newest first."""
        params: Params = {"pool": pool, "status": status, "result": result, "name": name}
        page: Params = {"limit": limit, "cursor": cursor}
        return Call("GET", "/v1/tasks", _task_page, clean({**params, **page}))

    @each
    def each_task(
        self,
        pool: str | None = None,
        *,
        status: str | None = None,
        result: str | None = None,
        name: str | None = None,
    ) -> Call[list[TaskView]]:
        """All of them, read page by page."""
        params: Params = {"pool": pool, "status": status, "result": result, "name": name, "limit": PAGE}
        return Call("GET", "/v1/tasks", lambda body: _task_page(body).tasks, clean(params))

    @each
    def operations(
        self,
        *,
        status: str | None = None,
        pool: str | None = None,
        kind: str | None = None,
        since: float | None = None,
    ) -> Call[list[OperationView]]:
        """Operations, newest first, read page by page; `since` is UTC seconds."""
        wanted: Params = {"status": status, "pool": pool, "kind": kind, "since": since}
        return _list(OperationView, "/v1/operations", **wanted, limit=PAGE)

    @asked
    def task(self, task_id: str) -> Call[TaskView]:
        """One task."""
        return viewed(TaskView, "GET", "/v1/tasks/{}", task_id)

    @asked
    def files(self, task_id: str) -> Call[list[FileView]]:
        """Files that a task left behind."""
        path = f"/v1/tasks/{named(task_id)}/files"
        return Call("GET", path, partial(views, FileView))

    @asked
    def file(self, task_id: str, path: str, *, attempt: int | None = None) -> Call[bytes]:
        """One of them."""
        place = f"/v1/tasks/{named(task_id)}/files/{inside(path)}"
        return Call("GET", place, bytes, clean({"attempt": attempt}), wait_s=300)

    @asked
    def offers(
        self,
        *,
        pool: str | None = None,
        provider: Sequence[str] = (),
        region: Sequence[str] = (),
        zone: Sequence[str] = (),
        type: Sequence[str] = (),
        lifecycle: Lifecycle | None = None,
        vcpus: float | None = None,
        memory: float | None = None,
        disk: float | None = None,
        accelerator: str | None = None,
        count: float | None = None,
        architecture: Architecture | None = None,
        max_price: float | None = None,
        sort: str | None = None,
        limit: int | None = None,
    ) -> Call[OffersView]:
        """What the providers would rent now. Names may have * and ?; numbers are minimums, but max_price.

        `pool`: only what fits this pool's own wishes. `memory`, `disk`: GB. `max_price`: dollars an hour.
        """
        names = {"provider": provider, "region": region, "zone": zone, "type": type}
        many = {key: several(some) for key, some in names.items() if some}
        shape: Params = {"vcpus": vcpus, "memory": memory, "disk": disk, "architecture": architecture}
        kind: Params = {"accelerator": accelerator, "count": count, "lifecycle": lifecycle, "pool": pool}
        shown: Params = {"max_price": max_price, "sort": sort, "limit": limit}
        params = {**clean({**shape, **kind, **shown}), **many}
        return viewed(OffersView, "GET", "/v1/offers", params=params, wait_s=30)

    @asked
    def explain(self, pool: str) -> Call[ExplainView]:
        """Why a pool is as it is: `story` says the main things in sentences."""
        return viewed(ExplainView, "GET", "/v1/explain/{}", pool)

    @asked
    def explain_task(self, pool: str, task_id: str) -> Call[TaskWhyView]:
        """Why a task is still pending, or what became of it."""
        return viewed(TaskWhyView, "GET", "/v1/explain/{}/tasks/{}", pool, task_id)

    @asked
    def explain_instance(self, pool: str, instance_id: str) -> Call[InstanceWhyView]:
        """Why an instance is where it is, or why it is gone."""
        return viewed(InstanceWhyView, "GET", "/v1/explain/{}/instances/{}", pool, instance_id)

    @asked
    def cost(self) -> Call[CostView]:
        """What all pools cost together, and each in a line."""
        return viewed(CostView, "GET", "/v1/cost")

    @asked
    def pool_cost(self, pool: str) -> Call[PoolCostView]:
        """All about what one pool costs: by day, market, kind and task, and its budget."""
        return viewed(PoolCostView, "GET", "/v1/cost/{}", pool)


def one_request(request: Request) -> Call[Submitted]:
    """Send one Request."""
    body = request.model_dump_json().encode()
    named = bool(request.request_id)
    return Call("POST", "/v1/messages", Submitted.model_validate_json, body=body, named=named)


def requests(some: Sequence[Request]) -> Call[list[Submitted]]:
    """Send a list of them."""
    body, named = body_of(some), all(one.request_id for one in some)
    return Call("POST", "/v1/messages", SUBMITTED.validate_json, body=body, wait_s=60, named=named)


def _list(view: type[V], path: str, **params: str | int | float | bool | None) -> Call[list[V]]:
    return Call("GET", path, partial(views, view), clean(params))


def _task_page(body: bytes) -> TaskPage:
    told = from_json(body)
    return TaskPage(tasks=[TaskView(one) for one in told["tasks"]], cursor=told["cursor"])


def _events(pool: str | None, kinds: Sequence[str], task: str | None, request_id: str | None) -> Params:
    return {"pool": pool, "kind": ",".join(several(kinds)) or None, "task": task, "request_id": request_id}


def _task_over(task_id: str, attempt: int | None) -> Call[bool]:
    """Whether no more lines of a task, or of an attempt of it, will come."""

    def over(body: bytes) -> bool:
        task = from_json(body)
        return task["status"] == "stopped" or (attempt is not None and task["attempt"] > attempt)

    return Call("GET", f"/v1/tasks/{named(task_id)}", over)


def _instance_over(instance_id: str) -> Call[bool]:
    """Whether an instance is gone."""
    path = f"/v1/instances/{named(instance_id)}"
    return Call("GET", path, lambda body: bool(from_json(body)["status"] == "destroyed"))
