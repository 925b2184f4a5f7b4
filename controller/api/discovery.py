"""Service discovery for Prometheus: which machines there are to scrape (`http_sd_configs`)."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from actors.instance.state import InstanceState
from controller.api.answers import answer
from controller.api.edge import asking
from controller.api.paging import NAME_CHARS_MAX
from controller.api.port import Desk

PORT = 9100  # where Prometheus' node exporter listens
META = "__meta_everpool_"
State = Literal["provisioning", "bootstrapping", "ready", "draining", "destroying"]


def routes(desk: Desk) -> APIRouter:
    """The route of service discovery."""
    router = APIRouter(tags=["telemetry"], default_response_class=Response)

    @router.get("/v1/sd")
    async def discover(
        request: Request,
        pool: Annotated[
            tuple[Annotated[str, Field(max_length=NAME_CHARS_MAX)], ...],
            Query(max_length=100, description="these pools only"),
        ] = (),
        port: Annotated[int, Query(ge=1, le=65_535, description="where the machines are scraped")] = PORT,
        state: Annotated[tuple[State, ...], Query(max_length=5)] = ("ready",),
    ) -> Response:
        """Machines as targets of Prometheus' HTTP service discovery; pools that are not there have none.

        Their labels begin with `__meta_everpool_`: pool, node, instance, provider, region, zone, type,
        lifecycle and state. Machines that are not ready are told when their `state` is asked for.
        """
        principal = asking(request)
        names = [name for name in desk.status.pool_names() if not pool or name in pool]
        machines = (
            machine
            for name in names
            if principal.may_see(name)
            for machine in desk.status.machines(name)
            if machine.status in state
        )
        return answer(list(targets(machines, port)))

    return router


def targets(machines: Iterable[InstanceState], port: int) -> Iterator[dict[str, Any]]:
    """A group for each machine that has an address."""
    for state in machines:
        address = getattr(state, "address", None)
        if address is None:
            continue
        host = f"[{address.host}]" if ":" in address.host else address.host
        offer = state.offer
        labels = {
            "pool": state.pool,
            "node": str(state.node),
            "instance": state.id,
            "provider": offer.provider,
            "region": offer.region,
            "zone": offer.zone,
            "type": offer.instance_type.name,
            "lifecycle": offer.lifecycle,
            "state": state.status,
        }
        yield {
            "targets": [f"{host}:{port}"],
            "labels": {f"{META}{name}": value for name, value in labels.items()},
        }
