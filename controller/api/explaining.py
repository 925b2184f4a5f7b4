"""Why things are as they are: pools, tasks, instances; and what is offered."""

import time
from difflib import get_close_matches
from typing import Annotated, Literal, cast

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from actors.events import BootstrapFailed, Envelope
from actors.instance.state import InstanceState
from actors.pool.state import Active, Parked
from actors.task import state as tasks
from actors.task.state import TaskState
from controller.api.answers import Problem, answer, unknown
from controller.api.edge import asking
from controller.api.operations import entry
from controller.api.paging import NAME_CHARS_MAX, NAMES_MAX, checked
from controller.api.port import Desk
from controller.api.reading import known_pool
from controller.api.tasks import find
from controller.explain import explained
from controller.explain_one import LOG_SHOWN, Around, ahead_of, instance_explained, task_explained
from controller.explain_parts import Picture, SetupFailed, forbidden
from controller.journal.errors import StateUnreadable
from controller.offering import Sort, Wanted, offered, providers_of
from controller.patterns import is_pattern
from controller.principal import Principal
from controller.recovery import decoded
from controller.status import Snapshot
from controller.views import Json
from providers.model import Architecture

OFFERS_MAX = 10_000
OFFER_KEYS = (
    "pool",
    "provider",
    "region",
    "zone",
    "type",
    "lifecycle",
    "vcpus",
    "memory",
    "disk",
    "accelerator",
    "count",
    "architecture",
    "max_price",
    "sort",
    "limit",
)
_EVENTS_MAX = 5_000
_EVENTS_PAGE = 1_000
_FAILED_LOOKED_AT = 5
Name = Annotated[str | None, Query(max_length=NAME_CHARS_MAX)]
Names = Annotated[list[str] | None, Query(max_length=NAMES_MAX)]
Least = Annotated[float | None, Query(ge=0, allow_inf_nan=False)]


def routes(desk: Desk) -> APIRouter:
    """The routes of explanations and offers."""
    router = APIRouter(default_response_class=Response)

    @router.get("/v1/offers", tags=["markets"])
    async def offers(
        request: Request,
        pool: Annotated[str | None, Query(description="only what fits this pool's own wishes")] = None,
        provider: Names = None,
        region: Names = None,
        zone: Names = None,
        type: Names = None,
        lifecycle: Literal["spot", "on_demand"] | None = None,
        vcpus: Least = None,
        memory: Annotated[float | None, Query(ge=0, allow_inf_nan=False, description="GB")] = None,
        disk: Annotated[float | None, Query(ge=0, allow_inf_nan=False, description="GB")] = None,
        accelerator: Name = None,
        count: Annotated[float | None, Query(gt=0, allow_inf_nan=False)] = None,
        architecture: Architecture | None = None,
        max_price: Annotated[float | None, Query(ge=0, allow_inf_nan=False, description="dollars/h")] = None,
        sort: Sort = "price",
        limit: Annotated[int, Query(ge=1, le=OFFERS_MAX)] = 1_000,
    ) -> Response:
        """What the providers would rent now, what is remembered of each market, and what each filter removed.

        Numbers are minimums, but for `max_price`; names may have * and ?, and may be given more than once.
        """
        for key in request.query_params:
            if key not in OFFER_KEYS:
                near = get_close_matches(key[:NAME_CHARS_MAX], OFFER_KEYS, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(OFFER_KEYS)}"
                raise Problem(422, f"no filter {key!r}: {hint}")
        who = asking(request)
        known_pool(desk, pool, who)
        world = desk.acting.world()
        for name in checked(tuple(provider or ())):
            if not is_pattern(name) and name not in providers_of(world):
                raise unknown("provider", name, providers_of(world))
        state = desk.status.pool_state(pool) if pool is not None else None
        wanted = Wanted(
            pool=state.spec if state is not None else None,
            provider=checked(tuple(provider or ())),
            region=checked(tuple(region or ())),
            zone=checked(tuple(zone or ())),
            instance_type=checked(tuple(type or ())),
            lifecycle=lifecycle,
            vcpus=vcpus,
            memory_gb=memory,
            disk_gb=disk,
            accelerator=accelerator,
            count=count,
            architecture=architecture,
            max_price=max_price,
        )
        return answer(await to_thread.run_sync(offered, world, wanted, sort, limit, time.time()))

    @router.get("/v1/explain/{pool}", tags=["pools"])
    async def explain(request: Request, pool: str) -> Response:
        """Why a pool is as it is: what is missing and why, what was tried, what happens next and when."""
        it, tasks_ = _snapshot(desk, pool, asking(request)), list[TaskState]()
        if it.state.spec.scaling is not None:
            tasks_ = desk.status.all_tasks()
        failed = await _failed(desk, it)
        picture = Picture(it, desk.acting.world(), time.time(), tasks_, failed)
        return answer(await to_thread.run_sync(explained, picture))

    @router.get("/v1/explain/{pool}/tasks/{task_id}", tags=["tasks"])
    async def explain_task(request: Request, pool: str, task_id: str) -> Response:
        """Why a task is still pending, or what became of it."""
        who = asking(request)
        around = _around(desk, pool, who)
        state = desk.status.task_state(task_id)
        if state is not None and not who.may_see(state.pool):
            state = None  # for them it is nowhere
        found = await find(desk, task_id, who) if state is None else None
        there = found.pool if found is not None else state.pool if state is not None else ""
        if there != pool:
            raise Problem(404, f"task {task_id!r} is of pool {there!r}, not of {pool!r}")
        log = await _events(desk, task_id, None)
        if found is not None:
            return answer(_forgotten(found.view, pool, log, around.now))
        assert state is not None
        living = desk.status.all_tasks()
        told = await to_thread.run_sync(_of_task, state, around, living, log)
        return answer({**told, "log": [entry(one) for one in log[-LOG_SHOWN:]]})

    @router.get("/v1/explain/{pool}/instances/{instance_id}", tags=["instances"])
    async def explain_instance(request: Request, pool: str, instance_id: str) -> Response:
        """Why an instance is where it is, or why it is gone."""
        who = asking(request)
        around = _around(desk, pool, who)
        state = desk.status.instance_state(instance_id)
        if state is None or not who.may_see(state.pool):
            state = await _remembered(desk, pool, instance_id)
        if state.pool != pool:
            raise Problem(404, f"instance {instance_id!r} is of pool {state.pool!r}, not of {pool!r}")
        log = await _events(desk, state.request_id, instance_id)
        successor = next((one.id for one in around.instances.values() if one.replacing == instance_id), None)
        outdated = desk.status.is_outdated(state)
        told = instance_explained(state, around, successor, log, outdated=outdated)
        return answer({**told, "log": [entry(one) for one in log[-LOG_SHOWN:]]})

    return router


def _snapshot(desk: Desk, pool: str, who: Principal) -> Snapshot:
    known_pool(desk, pool, who)
    found = desk.status.snapshot(pool)
    assert found is not None
    return found


def _around(desk: Desk, pool: str, who: Principal) -> Around:
    it, now = _snapshot(desk, pool, who), time.time()
    forbids, frees_at = "", None
    if isinstance(it.state, Active | Parked):
        picture = Picture(it, desk.acting.world(), now)
        if picture.allowance.micro_usd is not None:
            forbids, frees_at = forbidden(picture), picture.allowance.until
    return Around(it.state, it.nodes, it.instances, it.tasks_on, now, forbids, frees_at)


async def _failed(desk: Desk, it: Snapshot) -> SetupFailed | None:
    """The last set-up that failed, of a pool that was parked or has markets where machines failed."""
    state = it.state
    if not isinstance(state, Parked) and not getattr(state, "failures", {}):
        return None
    ended = [
        desk.status.instance_state(one["id"]) for one in desk.status.instances(0, state.name, ended=True)
    ]
    known = [one for one in (*it.instances.values(), *ended) if one is not None]
    failed = [one for one in known if getattr(one, "reason", "") == "failed"]
    for one in sorted(failed, key=lambda one: (-one.since, one.id))[:_FAILED_LOOKED_AT]:
        for envelope in await _events(desk, one.request_id, one.id):
            if isinstance(envelope.event, BootstrapFailed):
                return SetupFailed(one.id, envelope.event.phase, envelope.event.error)
    return None


def _of_task(state: TaskState, around: Around, living: list[TaskState], log: list[Envelope]) -> Json:
    queue = None
    if isinstance(state, tasks.Pending) and state.spec.node is None and state.not_before is None:
        queue = ahead_of(state, living)
    return task_explained(state, around, queue, log)


def _forgotten(view: Json, pool: str, log: list[Envelope], now: float) -> Json:
    """A task that only the journal still knows."""
    how = " ".join(str(part) for part in (view.get("result"), view.get("reason")) if part)
    text = (
        f"Task {view['id']} ended long ago: {how}."
        if view.get("ended_at")
        else f"Task {view['id']} is pending."
    )
    return {
        "pool": pool,
        "at": now,
        "task": view,
        "story": [text, *([view["error"]] if view.get("error") else [])],
        "log": [entry(one) for one in log[-LOG_SHOWN:]],
    }


async def _remembered(desk: Desk, pool: str, instance_id: str) -> InstanceState:
    """An instance that only the journal still knows. Raises the 404."""
    row = await desk.journal.state(pool, "instance", instance_id)
    if row is not None:
        try:
            return cast(InstanceState, decoded("instance", row.version, row.body))
        except StateUnreadable as error:
            raise Problem(500, str(error)) from error
    there = [*desk.status.instances(0, pool), *desk.status.instances(0, pool, ended=True)]
    raise unknown("instance", instance_id, [one["id"] for one in there], f" in pool {pool!r}")


async def _events(desk: Desk, request_id: str, naming: str | None) -> list[Envelope]:
    """Events that serve a request, and name something, oldest first. Those of a machine serve its node's."""
    mark = f'"{naming}"'.encode() if naming is not None else b""
    found: list[Envelope] = []
    after, seen = 0, 0
    while seen < _EVENTS_MAX:
        rows = await desk.journal.events(after, _EVENTS_PAGE, request_id=request_id)
        found += [Envelope.model_validate_json(body) for _, body in rows if mark in body]
        seen += len(rows)
        if len(rows) < _EVENTS_PAGE:
            break
        after = rows[-1][0]
    return found
