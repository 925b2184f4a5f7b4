"""Which scope each route needs: a closed table. A route that is not in it needs the highest.

Who is limited to some pools sees those only: lists are filtered and single things are looked at by the routes
themselves; what is the daemon's as a whole is not for them.
"""

from typing import NamedTuple

from starlette.requests import Request

from controller.api.answers import Problem
from controller.api.edge import CHALLENGE, LOGIN, somebody
from controller.principal import Principal, Scope

READ, SUBMIT, ADMIN = Scope.READ, Scope.SUBMIT, Scope.ADMIN


class Needs(NamedTuple):
    """What a route asks of who calls it.

    Attributes:
        scope: at least this one; None: nobody needs to be known.
        whole: it is about the daemon as a whole, so not for who is limited to some pools.
    """

    scope: Scope | None
    whole: bool = False


NOBODY = Needs(None)
NEEDS: dict[tuple[str, str], Needs] = {
    ("GET", "/healthz"): NOBODY,
    ("GET", "/readyz"): NOBODY,
    ("GET", "/"): NOBODY,
    ("GET", "/web/{path}"): NOBODY,
    ("GET", "/openapi.json"): Needs(READ),
    ("GET", "/v1/whoami"): Needs(READ),
    ("POST", "/v1/messages"): Needs(SUBMIT),
    ("GET", "/v1/events"): Needs(READ),
    ("GET", "/v1/pools"): Needs(READ),
    ("GET", "/v1/pools/{name}"): Needs(READ),
    ("GET", "/v1/nodes"): Needs(READ),
    ("GET", "/v1/instances"): Needs(READ),
    ("GET", "/v1/instances/{instance_id}"): Needs(READ),
    ("GET", "/v1/instances/{instance_id}/console"): Needs(READ),
    ("GET", "/v1/instances/{instance_id}/ssh"): Needs(ADMIN),
    ("GET", "/v1/tasks"): Needs(READ),
    ("GET", "/v1/tasks/{task_id}"): Needs(READ),
    ("GET", "/v1/tasks/{task_id}/log"): Needs(READ),
    ("GET", "/v1/tasks/{task_id}/files"): Needs(READ),
    ("GET", "/v1/tasks/{task_id}/files/{path}"): Needs(READ),
    ("GET", "/v1/operations"): Needs(READ),
    ("GET", "/v1/operations/{request_id}"): Needs(READ),
    ("GET", "/v1/offers"): Needs(READ),
    ("GET", "/v1/explain/{pool}"): Needs(READ),
    ("GET", "/v1/explain/{pool}/tasks/{task_id}"): Needs(READ),
    ("GET", "/v1/explain/{pool}/instances/{instance_id}"): Needs(READ),
    ("GET", "/v1/cost"): Needs(READ),
    ("GET", "/v1/cost/{pool}"): Needs(READ),
    ("GET", "/v1/telemetry/log"): Needs(READ),
    ("GET", "/v1/telemetry/console"): Needs(READ),
    ("GET", "/v1/telemetry/metrics"): Needs(READ),
    ("GET", "/v1/sd"): Needs(READ),
    ("GET", "/v1/doctor"): Needs(READ, whole=True),
    ("GET", "/metrics"): Needs(READ, whole=True),
    ("GET", "/metrics/instances"): Needs(READ, whole=True),
    ("GET", "/v1/webhooks"): Needs(READ, whole=True),
    ("GET", "/v1/webhooks/{name}"): Needs(READ, whole=True),
    ("POST", "/v1/webhooks/{name}/test"): Needs(ADMIN, whole=True),
    ("POST", "/v1/webhooks/{name}/retry"): Needs(ADMIN, whole=True),
    ("POST", "/v1/hold"): Needs(ADMIN),
    ("POST", "/v1/adopt"): Needs(ADMIN, whole=True),
    ("POST", "/v1/backup"): Needs(ADMIN, whole=True),
    ("POST", "/v1/reload"): Needs(ADMIN, whole=True),
    ("POST", "/v1/rotate"): Needs(ADMIN, whole=True),
    ("GET", "/v1/secrets"): Needs(ADMIN, whole=True),
    ("GET", "/v1/secrets/{group}"): Needs(ADMIN, whole=True),
    ("PUT", "/v1/secrets/{group}"): Needs(ADMIN, whole=True),
    ("POST", "/v1/secrets/{group}"): Needs(ADMIN, whole=True),
    ("DELETE", "/v1/secrets/{group}"): Needs(ADMIN, whole=True),
    ("GET", "/v1/credentials"): Needs(ADMIN, whole=True),
    ("PUT", "/v1/credentials/{name}"): Needs(ADMIN, whole=True),
    ("DELETE", "/v1/credentials/{name}"): Needs(ADMIN, whole=True),
    ("GET", "/v1/tokens"): Needs(ADMIN, whole=True),
    ("POST", "/v1/tokens"): Needs(ADMIN, whole=True),
    ("DELETE", "/v1/tokens/{name}"): Needs(ADMIN, whole=True),
}
UNLISTED = Needs(ADMIN, whole=True)


def needs(method: str, template: str) -> Needs:
    """What a route asks for; HEAD as GET."""
    return NEEDS.get(("GET" if method == "HEAD" else method, template), UNLISTED)


async def authorized(request: Request) -> None:
    """Let who may go on to the route that was found. Raises Problem: 401 or 403."""
    template = getattr(request.scope.get("route"), "path_format", request.url.path)
    allow(somebody(request), request.method, template)


def allow(who: Principal | None, method: str, template: str) -> None:
    """Raise Problem unless a principal, or somebody unknown, may use a route: 401 or 403."""
    needed = needs(method, template)
    if needed.scope is None:
        return
    if who is None:
        raise Problem(401, LOGIN, headers=CHALLENGE)
    if who.scope < needed.scope:
        wanted = needed.scope.name.lower()
        raise Problem(
            403,
            f"{who.name} has scope {who.scope.name.lower()}, and {method} {template} needs {wanted}: "
            f"`everpool token create NAME --scope {wanted}` on the daemon's host makes a token that may",
        )
    if needed.whole and who.limited:
        raise whole(who, f"{method} {template}")


def whole(who: Principal, what: str) -> Problem:
    """The 403 for who asks for more than their pools."""
    return Problem(
        403,
        f"{who.name} is limited to pools {', '.join(who.pools)}, and {what} is about all of them: "
        "`everpool token create` without --pool makes a token that may",
    )
