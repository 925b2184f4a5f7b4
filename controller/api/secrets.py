"""Secrets: groups of environment variables, and logins to registries. What comes in never goes out again."""

from collections.abc import Awaitable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from controller.api.answers import Problem, answer
from controller.api.body import read_model, takes
from controller.api.edge import asking
from controller.api.port import Desk
from controller.secrets.errors import InUse, Missing, NoKey, Sealed, SecretsError, TooMuch
from controller.secrets.rules import (
    PASSWORD_BYTES_MAX,
    PATTERNS_MAX,
    USER_CHARS_MAX,
    checked_group,
    checked_hostname,
    checked_patterns,
    problems_of,
)

_BODY_MAX = 1024 * 1024
T = TypeVar("T")
Force = Annotated[bool, Query(description="though something that lives needs it")]
Patterns = Annotated[tuple[str, ...], Field(max_length=PATTERNS_MAX), AfterValidator(checked_patterns)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class GroupSet(_Body):
    """Body of PUT /v1/secrets/{group}: all its variables.

    `pools`: patterns of the pools whose tasks may name the group, [] for all; absent: as it was.
    """

    values: dict[str, str]
    pools: Patterns | None = None

    @model_validator(mode="after")
    def _may_be_kept(self) -> "GroupSet":
        return _checked(self, self.values)


class GroupMerged(_Body):
    """Body of POST /v1/secrets/{group}: variables that change; null removes one."""

    values: dict[str, str | None]
    pools: Patterns | None = None

    @model_validator(mode="after")
    def _may_be_kept(self) -> "GroupMerged":
        return _checked(self, {key: value for key, value in self.values.items() if value is not None})


def _checked(body: T, values: dict[str, str]) -> T:
    if problems := problems_of(values):
        raise ValueError("\n".join(problems))
    return body


class CredentialSet(_Body):
    """Body of PUT /v1/credentials/{name}."""

    hostname: Annotated[str, AfterValidator(checked_hostname)]
    user: Annotated[str, Field(min_length=1, max_length=USER_CHARS_MAX, pattern=r"^[^\x00-\x1f:]+$")]
    password: Annotated[str, Field(min_length=1, max_length=PASSWORD_BYTES_MAX)]


async def _kept(doing: Awaitable[T]) -> T:
    """What is done with secrets; what is wrong with it as a Problem."""
    try:
        return await doing
    except SecretsError as error:
        raise _problem(error) from error


def _problem(error: SecretsError) -> Problem:
    match error:
        case Missing():
            return Problem(404, str(error))
        case InUse(users=users):
            return Problem(409, str(error), users)
        case NoKey() | Sealed():
            return Problem(409, str(error))
        case TooMuch():
            return Problem(422, str(error))
        case _:
            return Problem(500, str(error))


def _named(name: str) -> str:
    try:
        return checked_group(name)
    except ValueError as error:
        raise Problem(422, str(error)) from error


def routes(desk: Desk) -> APIRouter:
    """The routes of secrets."""
    router = APIRouter(tags=["secrets"], default_response_class=Response)

    @router.get("/v1/secrets")
    async def groups() -> Response:
        """Groups of environment variables by name: newest revision and names of variables, never a value."""
        return answer(desk.secrets.groups())

    @router.post("/v1/rotate")
    async def rotate(request: Request) -> Response:
        """Read the keys again, and encrypt with the newest what is encrypted with another.

        Not below /v1/secrets, where every word may be a group.
        """
        return answer(await _kept(desk.secrets.rotate(asking(request).name)))

    @router.get("/v1/secrets/{group}")
    async def group(group: str) -> Response:
        """One group, with all its revisions that are kept."""
        try:
            return answer(desk.secrets.group(group))
        except Missing as error:
            raise _problem(error) from error

    @router.put("/v1/secrets/{group}", openapi_extra=takes(GroupSet))
    async def put(request: Request, group: str) -> Response:
        """Set all variables of a group: a new revision. What starts from now on takes it."""
        name, body = _named(group), await read_model(request, GroupSet, _BODY_MAX)
        doing = desk.secrets.put(name, body.values, asking(request).name, pools=body.pools)
        return answer(await _kept(doing))

    @router.post("/v1/secrets/{group}", openapi_extra=takes(GroupMerged))
    async def merge(request: Request, group: str) -> Response:
        """Set or remove single variables of a group: a new revision with the others as they were."""
        name, body = _named(group), await read_model(request, GroupMerged, _BODY_MAX)
        doing = desk.secrets.put(name, body.values, asking(request).name, merge=True, pools=body.pools)
        return answer(await _kept(doing))

    @router.delete("/v1/secrets/{group}")
    async def remove(request: Request, group: str, force: Force = False) -> Response:
        """Forget a group. 409 while a living task names it."""
        await _kept(desk.secrets.remove(group, asking(request).name, force=force))
        return answer({"group": group, "removed": True})

    @router.get("/v1/credentials")
    async def credentials() -> Response:
        """Logins to registries by name, without their passwords."""
        return answer(desk.secrets.credentials())

    @router.put("/v1/credentials/{name}", openapi_extra=takes(CredentialSet))
    async def put_credential(request: Request, name: str) -> Response:
        """Keep a login to a registry, or change it; the next pull from there uses it."""
        named, body = _named(name), await read_model(request, CredentialSet, _BODY_MAX)
        doing = desk.secrets.put_credential(
            named,
            hostname=body.hostname,
            user=body.user,
            password=body.password,
            by=asking(request).name,
        )
        return answer(await _kept(doing))

    @router.delete("/v1/credentials/{name}")
    async def remove_credential(request: Request, name: str, force: Force = False) -> Response:
        """Forget a login. 409 while the image of a living pool is from its registry."""
        await _kept(desk.secrets.remove_credential(name, asking(request).name, force=force))
        return answer({"name": name, "removed": True})

    return router
