"""What pools cost."""

import time

from fastapi import APIRouter
from starlette.responses import Response

from actors.task.state import Stopped
from controller.api.answers import answer, unknown
from controller.api.port import Desk
from controller.cost import TASKS_MAX, Sum, brief, together, whole


def routes(desk: Desk) -> APIRouter:
    """The routes of money."""
    router = APIRouter(tags=["pools"], default_response_class=Response)
    status = desk.status

    @router.get("/v1/cost")
    async def costs() -> Response:
        """What all living pools cost: dollars an hour, today, forecast, in all, and what is left of budgets.

        `unknown_usd`: what machines and leftovers cost that nobody knows, since the daemon began; `unknown`
        tells of which pools these machines were.
        """
        now, found = time.time(), []
        for name in status.pool_names():
            state, word = status.pool_state(name), status.pool_status(name)
            if state is not None and word is not None:
                found.append(brief(Sum(state, status.machines(name), now), word))
        return answer(together(found, desk.series.costs))

    @router.get("/v1/cost/{pool}")
    async def cost(pool: str) -> Response:
        """What one pool costs: by day (UTC), by market and by what machines did, and what its tasks cost.

        Markets and kinds are counted from when the daemon began (`since`), all else since the pool is there.
        """
        state, word = status.pool_state(pool), status.pool_status(pool)
        if state is None or word is None:
            raise unknown("pool", pool, status.pool_names())
        machines = status.machines(pool)
        ended = status.task_page(pool, ("stopped",), TASKS_MAX).tasks
        stopped = sorted(
            (task for task in ended if isinstance(task, Stopped)), key=lambda task: -task.ended_at
        )
        account = Sum(state, machines, time.time())
        return answer(whole(account, word, machines, stopped, desk.series.costs))

    return router
