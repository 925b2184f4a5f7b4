"""Webhooks: how far each is, and to try one now."""

import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from actors.events import Administered
from controller.api.answers import answer, unknown
from controller.api.edge import asking
from controller.api.port import Desk


def routes(desk: Desk) -> APIRouter:
    """The routes of webhooks."""
    router = APIRouter(tags=["webhooks"], default_response_class=Response)

    def known(name: str) -> str:
        if name not in desk.webhooks.names():
            raise unknown("webhook", name, desk.webhooks.names())
        return name

    @router.get("/v1/webhooks")
    async def webhooks() -> Response:
        """Each webhook of the config: how far it is, and whether it takes what it is sent."""
        return answer(desk.webhooks.views())

    @router.get("/v1/webhooks/{name}")
    async def webhook(name: str) -> Response:
        """One webhook."""
        return answer(desk.webhooks.view(known(name)))

    @router.post("/v1/webhooks/{name}/test")
    async def test(name: str, request: Request) -> Response:
        """Send a signed test event now; answers what came back. What waits goes on waiting."""
        began = time.monotonic()
        tried = await desk.webhooks.test(known(name), asking(request).name)
        said: dict[str, Any] = {
            "webhook": name,
            "taken": tried.taken,
            "status": tried.status,
            "error": tried.error,
            "answer": tried.answer,
            "took_s": round(time.monotonic() - began, 3),
        }
        return answer(said)

    @router.post("/v1/webhooks/{name}/retry")
    async def retry(name: str, request: Request) -> Response:
        """Try now what waits after a failure."""
        said = desk.webhooks.retry(known(name))
        await desk.records.note(Administered(action="retry", detail=f"webhook {name}"), asking(request).name)
        return answer(said)

    return router
