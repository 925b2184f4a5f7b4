"""The daemon's routes as values, which both clients send in their own way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from pydantic_core import from_json, to_json

from actors.events import Envelope, Request
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


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One request, and what is made of its answer. `wait_s`: how long the daemon may take besides."""

    method: str
    path: str
    decode: Callable[[bytes], T]
    params: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    body: bytes | None = None
    wait_s: float = 0


def _json(body: bytes) -> Any:
    return from_json(body)


def _get(path: str, *names: str, **params: Any) -> Call[Any]:
    return Call("GET", path.format(*(quote(name, safe="") for name in names)), _json, clean(params))


def _post(path: str, body: Json | None = None, wait_s: float = 60) -> Call[Json]:
    return Call("POST", path, _json, body=to_json(body or {}), wait_s=wait_s)


def submit(request: Request) -> Call[Submitted]:
    """One Request."""
    return Call(
        "POST", "/v1/messages", Submitted.model_validate_json, body=request.model_dump_json().encode()
    )


def submit_many(requests: Sequence[Request]) -> Call[list[Submitted]]:
    """A list of them."""
    return Call("POST", "/v1/messages", SUBMITTED.validate_json, body=body_of(requests), wait_s=60)


def operation(request_id: str, wait_s: float = 0) -> Call[Operation]:
    """An operation, perhaps waited for."""
    path = f"/v1/operations/{quote(request_id, safe='')}"
    return Call("GET", path, Operation.model_validate_json, clean({"wait": wait_s or None}), wait_s=wait_s)


def events(after: int, limit: int, wanted: Params) -> Call[list[Envelope]]:
    """A page of events."""
    params = clean({"after": after, "limit": limit, **wanted})
    return Call("GET", "/v1/events", lambda body: EventFeed(after, {}).feed(body), params)


def tasks(pool: str | None, status: str | None, limit: int, cursor: int | None) -> Call[TaskPage]:
    """A page of tasks."""
    params: Params = {"pool": pool, "status": status, "limit": limit, "cursor": cursor}
    return Call("GET", "/v1/tasks", TaskPage.model_validate_json, clean(params))


def pools() -> Call[list[Json]]:
    """Living pools."""
    return _get("/v1/pools")


def pool(name: str) -> Call[Json]:
    """One pool."""
    return _get("/v1/pools/{}", name)


def nodes(pool: str | None) -> Call[list[Json]]:
    """Nodes."""
    return _get("/v1/nodes", pool=pool)


def instances(pool: str | None, ended: bool) -> Call[list[Json]]:
    """Instances."""
    return _get("/v1/instances", pool=pool, ended=ended)


def instance(name: str) -> Call[Json]:
    """One instance."""
    return _get("/v1/instances/{}", name)


def ssh(instance: str) -> Call[Json]:
    """How to get into one."""
    return _get("/v1/instances/{}/ssh", instance)


def task(name: str) -> Call[Json]:
    """One task."""
    return _get("/v1/tasks/{}", name)


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


def reload() -> Call[Json]:
    """Read the config again."""
    return _post("/v1/reload")


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
