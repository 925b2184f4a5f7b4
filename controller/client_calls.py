"""The daemon's routes as values, which both clients send in their own way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic_core import from_json, to_json

from actors.events import Envelope, Request
from controller.client_views import InstanceView, NodeView, OperationView, PoolView, TaskView, View
from controller.client_wire import (
    SUBMITTED,
    EventFeed,
    Json,
    Operation,
    Params,
    Submitted,
    TaskPage,
    body_of,
    clean,
)

T = TypeVar("T")
V = TypeVar("V", bound=View)
PAGE = 1000  # of lists that are read page by page


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and what is made of its answer.

    Attributes:
        wait_s: how long the daemon may take besides.
        named: it has an id by which the daemon knows it again.
    """

    method: str
    path: str
    decode: Callable[[bytes], T]
    params: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    body: bytes | None = None
    wait_s: float = 0
    named: bool = False

    @property
    def repeatable(self) -> bool:
        """Whether to ask twice is as good as once: a token that is made twice is lost the first time."""
        return self.method == "GET" or self.named

    def behind(self, cursor: str) -> "Call[T]":
        """The same list from a cursor on."""
        return replace(self, params={**self.params, "after": cursor})


def _json(body: bytes) -> Any:
    return from_json(body)


def _get(path: str, *names: str, **params: Any) -> Call[Any]:
    return Call("GET", path.format(*(quote(name, safe="") for name in names)), _json, clean(params))


def _post(path: str, body: Json | None = None, wait_s: float = 60) -> Call[Json]:
    return Call("POST", path, _json, body=to_json(body or {}), wait_s=wait_s)


def submit(request: Request) -> Call[Submitted]:
    """One Request."""
    body = request.model_dump_json().encode()
    named = bool(request.request_id)
    return Call("POST", "/v1/messages", Submitted.model_validate_json, body=body, named=named)


def submit_many(requests: Sequence[Request]) -> Call[list[Submitted]]:
    """A list of them."""
    body, named = body_of(requests), all(one.request_id for one in requests)
    return Call("POST", "/v1/messages", SUBMITTED.validate_json, body=body, wait_s=60, named=named)


def operation(request_id: str, wait_s: float = 0) -> Call[Operation]:
    """An operation, perhaps waited for."""
    path = f"/v1/operations/{quote(request_id, safe='')}"
    return Call("GET", path, Operation.model_validate_json, clean({"wait": wait_s or None}), wait_s=wait_s)


def events(after: int, limit: int, tail: int | None, wanted: Params) -> Call[list[Envelope]]:
    """A page of events."""
    params = clean({"after": after, "limit": limit, "tail": tail, **wanted})
    return Call("GET", "/v1/events", lambda body: EventFeed(after, {}).feed(body), params)


def tasks(
    pool: str | None,
    status: str | None,
    result: str | None,
    name: str | None,
    limit: int,
    cursor: int | None,
) -> Call[TaskPage]:
    """A page of tasks."""
    params: Params = {"pool": pool, "status": status, "result": result, "name": name}
    page: Params = {"limit": limit, "cursor": cursor}
    return Call("GET", "/v1/tasks", _task_page, clean({**params, **page}))


def each_task(
    pool: str | None, status: str | None, result: str | None, name: str | None
) -> Call[list[TaskView]]:
    """Tasks in pages of a list each."""
    params: Params = {"pool": pool, "status": status, "result": result, "name": name, "limit": PAGE}
    return Call("GET", "/v1/tasks", lambda body: _task_page(body).tasks, clean(params))


def _task_page(body: bytes) -> TaskPage:
    told = from_json(body)
    return TaskPage(tasks=[TaskView(one) for one in told["tasks"]], cursor=told["cursor"])


def operations(
    status: str | None, pool: str | None, kind: str | None, since: float | None
) -> Call[list[OperationView]]:
    """Operations, newest first."""
    params: Params = {"status": status, "pool": pool, "kind": kind, "since": since, "limit": PAGE}
    return Call("GET", "/v1/operations", partial(_views, OperationView), clean(params))


def _views(view: type[V], body: bytes) -> list[V]:
    return [view(one) for one in from_json(body)]


def _one(view: type[V], path: str, name: str) -> Call[V]:
    return Call("GET", path.format(quote(name, safe="")), lambda body: view(from_json(body)))


def pools(name: str | None, status: str | None) -> Call[list[PoolView]]:
    """Living pools."""
    return Call("GET", "/v1/pools", partial(_views, PoolView), clean({"name": name, "status": status}))


def pool(name: str) -> Call[PoolView]:
    """One pool."""
    return _one(PoolView, "/v1/pools/{}", name)


def nodes(pool: str | None, status: str | None) -> Call[list[NodeView]]:
    """Nodes."""
    return Call("GET", "/v1/nodes", partial(_views, NodeView), clean({"pool": pool, "status": status}))


def instances(pool: str | None, **filters: str | int | bool | None) -> Call[list[InstanceView]]:
    """Instances; filters are those of /v1/instances."""
    return Call("GET", "/v1/instances", partial(_views, InstanceView), clean({"pool": pool, **filters}))


def instance(name: str) -> Call[InstanceView]:
    """One instance."""
    return _one(InstanceView, "/v1/instances/{}", name)


def ssh(instance: str) -> Call[Json]:
    """How to get into one."""
    return _get("/v1/instances/{}/ssh", instance)


def task(name: str) -> Call[TaskView]:
    """One task."""
    return _one(TaskView, "/v1/tasks/{}", name)


def files(task: str) -> Call[list[Json]]:
    """What a task left behind."""
    return _get("/v1/tasks/{}/files", task)


def file(task: str, path: str, attempt: int | None) -> Call[bytes]:
    """One file."""
    place = f"/v1/tasks/{quote(task, safe='')}/files/{quote(path)}"
    return Call("GET", place, bytes, clean({"attempt": attempt}), wait_s=300)


def offers(wanted: Mapping[str, Any]) -> Call[Json]:
    """Offers; filters are those of /v1/offers, lists are repeated."""
    many = {key: list(value) for key, value in wanted.items() if isinstance(value, list | tuple) and value}
    one = {key: value for key, value in wanted.items() if not isinstance(value, list | tuple)}
    return Call("GET", "/v1/offers", _json, {**clean(one), **many}, wait_s=30)


def explain(pool: str, task: str | None, instance: str | None) -> Call[Json]:
    """Why a pool is as it is, or one of its tasks or instances."""
    if task is not None:
        return _get("/v1/explain/{}/tasks/{}", pool, task)
    if instance is not None:
        return _get("/v1/explain/{}/instances/{}", pool, instance)
    return _get("/v1/explain/{}", pool)


def cost(pool: str | None) -> Call[Json]:
    """What all pools cost, or all about one."""
    return _get("/v1/cost") if pool is None else _get("/v1/cost/{}", pool)


def adopt() -> Call[Json]:
    """Take the lead."""
    return _post("/v1/adopt")


def hold(seconds: float, pool: str | None) -> Call[Json]:
    """Longer leases."""
    return _post("/v1/hold", {"seconds": seconds, "pool": pool})


def backup(path: str) -> Call[Json]:
    """Copy the journal."""
    return _post("/v1/backup", {"path": path}, wait_s=3600)


def reload(dry_run: bool) -> Call[Json]:
    """Read the config again."""
    call = _post("/v1/reload")
    return replace(call, params={"dry_run": "true"}) if dry_run else call


def webhooks() -> Call[list[Json]]:
    """How far webhooks are."""
    return Call("GET", "/v1/webhooks", _json)


def webhook(name: str, do: Literal["test", "retry"]) -> Call[Json]:
    """Try a webhook now."""
    return _post(f"/v1/webhooks/{quote(name, safe='')}/{do}", wait_s=60)


def webhook_view(name: str) -> Call[Json]:
    """How far one is."""
    return _get("/v1/webhooks/{}", name)


def targets(pools: Sequence[str], port: int | None, states: Sequence[str]) -> Call[list[Json]]:
    """Machines to scrape."""
    lists = {"pool": list(pools), "state": list(states)}
    many = {key: value for key, value in lists.items() if value}
    return Call("GET", "/v1/sd", _json, {**clean({"port": port}), **many})


def doctor(providers: Sequence[str]) -> Call[list[Json]]:
    """Checks."""
    params = {"provider": list(providers)} if providers else {}
    return Call("GET", "/v1/doctor", _json, params, wait_s=60)


def metrics(instances: bool) -> Call[str]:
    """Prometheus text."""
    return Call("GET", "/metrics/instances" if instances else "/metrics", bytes.decode)


def log_path(task: str) -> str:
    """Where a task's log is."""
    return f"/v1/tasks/{quote(task, safe='')}/log"


def console_path(instance: str) -> str:
    """Where an instance's console is."""
    return f"/v1/instances/{quote(instance, safe='')}/console"
