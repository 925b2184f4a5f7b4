"""What a user may ask of the daemon itself, its health, and its series for Prometheus."""

from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from actors.events import Administered
from controller.api.answers import Problem, answer, retry_after, unknown
from controller.api.authority import whole
from controller.api.body import read_model, takes
from controller.api.edge import asking, somebody
from controller.api.port import Desk
from controller.config_errors import ConfigError
from controller.doctor import UnknownProvider
from controller.journal.errors import BackupFailed, NoRoom
from controller.telemetry.exposition import CONTENT_TYPE, exposed
from controller.telemetry.machines import Whose, machine_registry

ROOM_S = 60.0  # until somebody may have made room
UNREADY_S = 5  # until it is worth asking again


def _absolute(path: str) -> str:
    if not Path(path).is_absolute() or "\0" in path:
        raise ValueError("give an absolute path, on the daemon's host")
    return path


class Hold(BaseModel):
    """Body of POST /v1/hold."""

    model_config = ConfigDict(extra="forbid")
    pool: str | None = None  # None: all
    seconds: Annotated[float, Field(gt=0, le=31_536_000, allow_inf_nan=False)]


class Backup(BaseModel):
    """Body of POST /v1/backup."""

    model_config = ConfigDict(extra="forbid")
    path: Annotated[str, AfterValidator(_absolute)]


async def _config(doing: Awaitable[Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        return await doing
    except ConfigError as error:
        problems = error.problems
        first = problems[0] if len(problems) == 1 else f"the config has {len(problems)} problems"
        raise Problem(422, f"nothing was changed: {first}", problems) from error


async def _administered(
    desk: Desk, request: Request, action: Literal["adopt", "hold", "backup", "reload"], detail: str
) -> None:
    """Tell who did something."""
    await desk.records.note(Administered(action=action, detail=detail), asking(request).name)


def _health(desk: Desk, request: Request, word: Literal["live", "ready"]) -> Response:
    """All of it for who may see everything; others only hear whether."""
    health = desk.health()
    who = somebody(request)
    shown = health if who is not None and not who.limited else {one: health[one] for one in ("live", "ready")}
    if health[word]:
        return answer(shown)
    return answer(shown, 503, {"Retry-After": retry_after(UNREADY_S)})


def routes(desk: Desk) -> APIRouter:
    """The routes of the daemon."""
    router = APIRouter(tags=["daemon"], default_response_class=Response)

    def whose(pool: str, instance_id: str) -> Whose | None:
        state = desk.status.instance_state(instance_id)
        if state is None or state.pool != pool or state.status == "destroyed":
            return None
        return Whose(state.node, state.offer.provider)

    machines = machine_registry(desk.metrics, whose)

    @router.post("/v1/adopt")
    async def adopt(request: Request) -> Response:
        """Take the lead, after a restored backup."""
        done = await desk.adopt()
        if done["adopted"]:
            await _administered(desk, request, "adopt", f"epoch {done.get('epoch')}")
        return answer(done)

    @router.post("/v1/hold", openapi_extra=takes(Hold))
    async def hold(request: Request) -> Response:
        """Give machines a longer lease, so that the daemon may be away for as long."""
        wanted, who = await read_model(request, Hold), asking(request)
        if wanted.pool is None and who.limited:
            raise whole(who, "POST /v1/hold without a pool")
        try:
            if wanted.pool is not None and not who.may_see(wanted.pool):
                raise KeyError(wanted.pool)
            held = await desk.hold(wanted.pool, wanted.seconds)
        except KeyError as error:
            there = filter(who.may_see, desk.status.pool_names())
            raise unknown("pool", str(error.args[0]), there) from error
        await _administered(desk, request, "hold", f"{wanted.pool or 'all pools'} for {wanted.seconds:g} s")
        return answer(held)

    @router.post("/v1/backup", openapi_extra=takes(Backup))
    async def backup(request: Request) -> Response:
        """Copy the journal to a path on the daemon's host."""
        wanted = await read_model(request, Backup)
        try:
            done = await desk.backup(Path(wanted.path))
        except NoRoom as error:
            raise Problem(
                503, f"{error}: make room, or choose another place", retry_after_s=ROOM_S
            ) from error
        except BackupFailed as error:
            raise Problem(422, str(error)) from error
        await _administered(desk, request, "backup", wanted.path)
        return answer(done)

    @router.post("/v1/reload")
    async def reload(
        request: Request,
        dry_run: Annotated[bool, Query(description="only say what a reload would do")] = False,
    ) -> Response:
        """Read the config again and apply it; the answer says what changes, and what needs a restart."""
        done = await _config(desk.reload(dry_run=dry_run, principal=asking(request).name))
        if not dry_run:
            await _administered(desk, request, "reload", "")
        return answer(done)

    @router.get("/v1/doctor")
    async def doctor(provider: Annotated[tuple[str, ...], Query(max_length=100)] = ()) -> Response:
        """Checks of everything that tends to be wrong; with `provider`, of these providers only."""
        try:
            return answer(await desk.doctor(provider))
        except UnknownProvider as error:
            raise Problem(404, str(error)) from error

    @router.get("/healthz")
    async def healthz(request: Request) -> Response:
        """200 while the daemon can go on. Without a token only that."""
        return _health(desk, request, "live")

    @router.get("/readyz")
    async def readyz(request: Request) -> Response:
        """200 when the daemon can do its work; 503 with the reasons when not. Without a token only that."""
        return _health(desk, request, "ready")

    @router.get("/metrics", tags=["telemetry"])
    async def metrics() -> Response:
        """Prometheus series of the daemon and its pools."""
        return Response(await desk.series.exposed(), media_type=CONTENT_TYPE)

    @router.get("/metrics/instances", tags=["telemetry"])
    async def metrics_instances() -> Response:
        """Prometheus series of single instances."""
        return Response(await exposed(machines), media_type=CONTENT_TYPE)

    return router
