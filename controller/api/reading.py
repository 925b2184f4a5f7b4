"""What there is: pools, nodes, instances."""

import time
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from actors.instance.state import InstanceState
from controller.api.answers import NDJSON, Problem, answer, unknown
from controller.api.edge import asking
from controller.api.paging import LIST_MAX, After, Limit, Names, chosen, fits, page, split
from controller.api.port import Desk
from controller.api.streaming import Closing, Stream
from controller.api.telemetry import console_json, console_parts
from controller.principal import Principal
from controller.views import POOL_CODES

NODE_STATUSES = ("vacant", "filling", "filled", "replacing", "retired")
INSTANCE_STATUSES = (
    "requested",
    "provisioning",
    "bootstrapping",
    "ready",
    "draining",
    "destroying",
    "destroyed",
)


def known_pool(desk: Desk, name: str | None, who: Principal) -> None:
    """Raise the 404 for a pool that is not there, or not for whoever asks."""
    if name is not None and (desk.status.pool_state(name) is None or not who.may_see(name)):
        raise unknown("pool", name, seen_pools(desk, who))


def seen_pools(desk: Desk, who: Principal) -> list[str]:
    """Names of the living pools that somebody may see."""
    return [name for name in desk.status.pool_names() if who.may_see(name)]


def seen_instance(desk: Desk, instance_id: str, who: Principal) -> InstanceState:
    """An instance that somebody may see. Raises the 404."""
    state = desk.status.instance_state(instance_id)
    if state is None or not who.may_see(state.pool):
        known = (desk.status.instance_state(name) for name in desk.status.instance_ids())
        ids = [one.id for one in known if one is not None and who.may_see(one.pool)]
        raise unknown("instance", instance_id, ids)
    return state


def routes(desk: Desk, closing: Closing) -> APIRouter:
    """The routes of pools, nodes and instances."""
    router = APIRouter(default_response_class=Response)
    status = desk.status

    @router.get("/v1/pools", tags=["pools"])
    async def pools(
        request: Request, name: Names = None, status: Names = None, limit: Limit = LIST_MAX, after: After = ""
    ) -> Response:
        """Living pools by name."""
        names, statuses = split(name), chosen("status", status, tuple(POOL_CODES))
        there = (one for one in seen_pools(desk, asking(request)) if fits(one, names))
        wanted = (one for one in there if statuses is None or desk.status.pool_status(one) in statuses)
        found, more = page(wanted, lambda one: (one,), after, limit)
        return answer([desk.status.pool_view(one) for one in found], headers=more)

    @router.get("/v1/pools/{name}", tags=["pools"])
    async def pool(request: Request, name: str) -> Response:
        """One pool with its spec; one that was destroyed lately too."""
        known_pool(desk, name, asking(request))
        return answer(status.pool(name))

    @router.get("/v1/nodes", tags=["pools"])
    async def nodes(
        request: Request,
        pool: str | None = None,
        status: Names = None,
        limit: Limit = LIST_MAX,
        after: After = "",
    ) -> Response:
        """Nodes by pool and number, of all pools or of one."""
        who = asking(request)
        known_pool(desk, pool, who)
        statuses = chosen("status", status, NODE_STATUSES)
        states = (one for one in desk.status.node_states(pool) if who.may_see(one.pool))
        wanted = (one for one in states if statuses is None or one.status in statuses)
        found, more = page(wanted, lambda one: (one.pool, one.node), after, limit)
        return answer([desk.status.node_view(one) for one in found], headers=more)

    @router.get("/v1/instances", tags=["instances"])
    async def instances(
        request: Request,
        pool: str | None = None,
        status: Names = None,
        provider: Names = None,
        region: Names = None,
        lifecycle: Literal["spot", "on_demand"] | None = None,
        node: Annotated[int | None, Query(ge=0, le=2**31)] = None,
        ended: bool = False,
        limit: Limit = LIST_MAX,
        after: After = "",
    ) -> Response:
        """Instances that live, by pool and node; with `ended` those that are gone, as far as remembered."""
        who = asking(request)
        known_pool(desk, pool, who)
        statuses = chosen("status", status, INSTANCE_STATUSES)
        providers, regions = split(provider), split(region)
        wanted = (
            one
            for one in desk.status.instance_states(pool, ended=ended)
            if who.may_see(one.pool)
            and (statuses is None or one.status in statuses)
            and (node is None or one.node == node)
            and (lifecycle is None or one.offer.lifecycle == lifecycle)
            and fits(one.offer.provider, providers)
            and fits(one.offer.region, regions)
        )
        found, more = page(wanted, lambda one: (one.pool, one.node, one.created_at, one.id), after, limit)
        now = time.time()
        return answer([desk.status.instance_view(one, now) for one in found], headers=more)

    @router.get("/v1/instances/{instance_id}", tags=["instances"])
    async def instance(request: Request, instance_id: str) -> Response:
        """One instance, also one that is gone, as far as remembered."""
        state = seen_instance(desk, instance_id, asking(request))
        return answer(status.instance_view(state, time.time()))

    @router.get("/v1/instances/{instance_id}/ssh", tags=["instances"])
    async def ssh(request: Request, instance_id: str) -> Response:
        """How to get into an instance; paths are the daemon's host's."""
        seen_instance(desk, instance_id, asking(request))
        machine = desk.ssh_target(instance_id)
        if machine is None:
            raise Problem(409, f"instance {instance_id!r} has no address (any more, or yet)")
        return answer(machine)

    @router.get("/v1/instances/{instance_id}/console", tags=["instances"])
    async def console(
        request: Request,
        instance_id: str,
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
        tail: Annotated[int | None, Query(ge=0, le=10_000)] = None,
        follow: bool = False,
    ) -> Response:
        """What the set-up steps printed: JSON lines."""
        state = seen_instance(desk, instance_id, asking(request))
        if not follow:
            return console_json(desk.console, state.pool, instance_id, after, limit, tail)
        parts = console_parts(desk, state.pool, instance_id, after, tail)
        return Stream(parts, NDJSON, closing)

    return router
