"""What there is: pools, nodes, instances."""

import time
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from controller.api.answers import NDJSON, Problem, answer, unknown
from controller.api.port import Desk
from controller.api.streaming import Closing, Stream
from controller.api.telemetry import console_json, console_parts


def known_pool(desk: Desk, name: str | None) -> None:
    """Raise the 404 for a pool that is not there."""
    if name is not None and desk.status.pool_state(name) is None:
        raise unknown("pool", name, desk.status.pool_names())


def routes(desk: Desk, closing: Closing) -> APIRouter:
    """The routes of pools, nodes and instances."""
    router = APIRouter(default_response_class=Response)
    status = desk.status

    @router.get("/v1/pools", tags=["pools"])
    async def pools() -> Response:
        """All living pools."""
        return answer(status.pools())

    @router.get("/v1/pools/{name}", tags=["pools"])
    async def pool(name: str) -> Response:
        """One pool with its spec; one that was destroyed lately too."""
        view = status.pool(name)
        if view is None:
            raise unknown("pool", name, status.pool_names())
        return answer(view)

    @router.get("/v1/nodes", tags=["pools"])
    async def nodes(pool: str | None = None) -> Response:
        """Nodes, of all pools or of one."""
        known_pool(desk, pool)
        return answer(status.nodes(pool))

    @router.get("/v1/instances", tags=["instances"])
    async def instances(pool: str | None = None, ended: bool = False) -> Response:
        """Instances that live; with `ended` those that are gone, as far as remembered."""
        known_pool(desk, pool)
        return answer(status.instances(time.time(), pool, ended=ended))

    @router.get("/v1/instances/{instance_id}", tags=["instances"])
    async def instance(instance_id: str) -> Response:
        """One instance, also one that is gone, as far as remembered."""
        view = status.instance(instance_id, time.time())
        if view is None:
            raise _no_instance(desk, instance_id)
        return answer(view)

    @router.get("/v1/instances/{instance_id}/ssh", tags=["instances"])
    async def ssh(instance_id: str) -> Response:
        """How to get into an instance; paths are the daemon's host's."""
        if status.instance_state(instance_id) is None:
            raise _no_instance(desk, instance_id)
        machine = desk.ssh_target(instance_id)
        if machine is None:
            raise Problem(409, f"instance {instance_id!r} has no address (any more, or yet)")
        return answer(machine)

    @router.get("/v1/instances/{instance_id}/console", tags=["instances"])
    async def console(
        instance_id: str,
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
        tail: Annotated[int | None, Query(ge=0, le=10_000)] = None,
        follow: bool = False,
    ) -> Response:
        """What the set-up steps printed: JSON lines."""
        state = status.instance_state(instance_id)
        if state is None:
            raise _no_instance(desk, instance_id)
        if not follow:
            return console_json(desk.console, state.pool, instance_id, after, limit, tail)
        parts = console_parts(desk, state.pool, instance_id, after, tail)
        return Stream(parts, NDJSON, closing)

    return router


def _no_instance(desk: Desk, instance_id: str) -> Problem:
    return unknown("instance", instance_id, desk.status.instance_ids())
