"""What pools cost."""

import time

from fastapi import APIRouter, Request
from starlette.responses import Response

from actors.task.state import Stopped
from controller.api.answers import answer
from controller.api.edge import asking
from controller.api.port import Desk
from controller.api.reading import known_pool, seen_pools
from controller.cost import TASKS_MAX, Sum, brief, together, whole


def routes(desk: Desk) -> APIRouter:
    """The routes of money."""
    router = APIRouter(tags=["pools"], default_response_class=Response)
    status = desk.status

    @router.get("/v1/cost")
    async def costs(request: Request) -> Response:
        """What all living pools cost: dollars an hour, today, forecast, in all, and what is left of budgets.

        `unknown_usd`: what machines and leftovers cost that nobody knows, since the daemon began; `unknown`
        tells of which pools these machines were.
        """
        who = asking(request)
        now, found = time.time(), []
        for name in seen_pools(desk, who):
            state, word = status.pool_state(name), status.pool_status(name)
            if state is not None and word is not None:
                found.append(brief(Sum(state, status.machines(name), now), word))
        told = together(found, desk.series.costs)
        if who.limited:  # what is nobody's, or was of other pools
            told["unknown"] = [one for one in told["unknown"] if who.may_see(one["pool"])]
            told["unknown_usd"] = sum(one["usd"] for one in told["unknown"])
        return answer(told)

    @router.get("/v1/cost/{pool}")
    async def cost(request: Request, pool: str) -> Response:
        """What one pool costs: by day (UTC), by market and by what machines did, and what its tasks cost.

        Markets and kinds are counted from when the daemon began (`since`), all else since the pool is there.
        """
        known_pool(desk, pool, asking(request))
        state, word = status.pool_state(pool), status.pool_status(pool)
        assert state is not None and word is not None
        machines = status.machines(pool)
        ended = status.task_page(pool, ("stopped",), TASKS_MAX).tasks
        stopped = sorted(
            (task for task in ended if isinstance(task, Stopped)), key=lambda task: -task.ended_at
        )
        account = Sum(state, machines, time.time())
        return answer(whole(account, word, machines, stopped, desk.series.costs))

    return router
