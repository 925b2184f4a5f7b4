"""Tokens: made, listed, revoked; and who one is oneself."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

from controller.api.answers import Problem, answer, unknown
from controller.api.body import read_model, takes
from controller.api.edge import asking
from controller.api.port import Desk
from controller.security.tokens import (
    LIFE_S_MAX,
    PATTERNS_MAX,
    ScopeName,
    TokenExists,
    TooManyTokens,
)


class NewToken(BaseModel):
    """Body of POST /v1/tokens. `pools`: patterns; empty: all. `expires_in_s` null: never."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=1, max_length=48)]
    scope: ScopeName = "read"
    pools: Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(max_length=PATTERNS_MAX)] = ()
    expires_in_s: Annotated[float, Field(gt=0, le=LIFE_S_MAX, allow_inf_nan=False)] | None = None


def routes(desk: Desk) -> APIRouter:
    """The routes of tokens."""
    router = APIRouter(tags=["tokens"], default_response_class=Response)

    @router.get("/v1/whoami")
    async def whoami(request: Request) -> Response:
        """Who you are here, and what you may; `pools` are patterns, none: all."""
        who = asking(request)
        return answer({"name": who.name, "scope": who.scope.name.lower(), "pools": who.pools})

    @router.get("/v1/tokens")
    async def tokens() -> Response:
        """All tokens: whose, for what, until when. None of them is shown."""
        return answer(desk.guard.tokens.listed())

    @router.post("/v1/tokens", status_code=201, openapi_extra=takes(NewToken))
    async def create(request: Request) -> Response:
        """Make a token. It is in this answer and nowhere else."""
        wanted = await read_model(request, NewToken)
        store = desk.guard.tokens
        try:
            token = await store.create(
                wanted.name, wanted.scope, wanted.pools, wanted.expires_in_s, asking(request).name
            )
        except ValueError as error:
            raise Problem(422, str(error)) from error
        except (TokenExists, TooManyTokens) as error:
            raise Problem(409, str(error)) from error
        return answer({"token": token, **store.shown(wanted.name)}, 201, {"Cache-Control": "no-store"})

    @router.delete("/v1/tokens/{name}")
    async def revoke(request: Request, name: str) -> Response:
        """Let nobody in with a token any more; what goes on for its holders is cut."""
        try:
            await desk.guard.tokens.revoke(name, asking(request).name)
        except KeyError as error:
            raise unknown("token", name, desk.guard.tokens.names()) from error
        return answer({"revoked": name})

    return router
