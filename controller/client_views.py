"""What the daemon shows of things, typed: dictionaries as they came, whose keys can be read as attributes.

`pool.ready` is `pool["ready"]`. A newer daemon may say more than is named here: it is in the dictionary.
"""

from typing import Any, Literal

Json = dict[str, Any]
Lifecycle = Literal["spot", "on_demand"]


class View(Json):
    """An answer of the daemon. AttributeError: it says nothing of the kind."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the daemon says nothing of {name!r} here") from None


class PoolView(View):
    """A pool. Counts are by status; times are UTC seconds. `spec` comes with a single pool only."""

    name: str
    status: str
    status_code: int
    desired: int
    min: int
    max: int | None
    ready: int
    nodes: dict[str, int]
    instances: dict[str, int]
    tasks: dict[str, int]
    results: dict[str, int]
    queue: int
    usd_per_hour: float
    provider: list[str]
    clusters: list[Json]
    waiting: list[Json]
    reason: str
    paused: Json | None
    generation: int
    made_by: str
    since: float


class NodeView(View):
    """A node of a pool, and why it waits if it does."""

    node: int
    pool: str
    status: str
    status_code: int
    instance_id: str | None
    old_instance_id: str | None
    last_instance_id: str | None
    instance_status: str | None
    incarnation: int
    why_waiting: str
    next_at: float | None
    losses_in_a_row: int
    reason: str
    since: float


class InstanceView(View):
    """An instance, living or gone. `tasks` are the ids of those on it."""

    id: str
    key: str
    pool: str
    node: int
    provider: str
    market: str
    lifecycle: Lifecycle
    region: str
    instance_type: str
    ref: str | None
    cluster_id: str
    status: str
    status_code: int
    reason: str
    address: str | None
    port: int | None
    ssh_user: str
    created_at: float
    launched_at: float | None
    since: float
    age_s: float
    deadline: float | None
    next_at: float | None
    tries: int
    last_fault: str
    usd_per_hour: float
    link_up: bool
    silent_since: float | None
    replacing: str | None
    tasks: list[str]


class TaskView(View):
    """A task. What has not come yet is None; `result` is there once it is over."""

    id: str
    name: str
    pool: str
    seq: int
    status: str
    status_code: int
    attempt: int
    node: int | None
    instance_id: str | None
    result: str | None
    reason: str
    exit_code: int | None
    signal: int | None
    duration: float | None
    error: str | None
    priority: int
    failures: int
    interruptions: int
    lines_dropped: int
    cost_usd: float
    queued_at: float | None
    not_before: float | None
    started_at: float | None
    ended_at: float | None
    since: float


class OperationView(View):
    """An operation in a list."""

    request_id: str
    kind: str
    pool: str
    status: Literal["pending", "running", "success", "failed"]
    seq: int
    at: float
    ended_by: int | None
    ended_at: float | None
    error: str | None


VIEWS: tuple[type[View], ...] = (PoolView, NodeView, InstanceView, TaskView, OperationView)
