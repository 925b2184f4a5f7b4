"""What a client may ask about secrets, as calls for `Client.ask` and `AsyncClient.ask`.

everpool.ask(put_group("db", {"PASSWORD": password}))
everpool.ask(groups())
"""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from pydantic_core import from_json, to_json

from controller.client_calls import Call
from controller.client_wire import Json


def _call(method: str, path: str, *names: str, body: Json | None = None, force: bool = False) -> Call[Any]:
    place = path.format(*(quote(name, safe="") for name in names))
    params = {"force": "true"} if force else {}
    return Call(method, place, from_json, params, None if body is None else to_json(body))


def groups() -> Call[list[Json]]:
    """Groups of environment variables, without values."""
    return _call("GET", "/v1/secrets")


def group(name: str) -> Call[Json]:
    """One, with its revisions."""
    return _call("GET", "/v1/secrets/{}", name)


def put_group(name: str, values: Mapping[str, str], *, pools: Sequence[str] | None = None) -> Call[Json]:
    """Set all variables of a group; `pools`: whose tasks may name it, [] for all, None as it was."""
    return _call("PUT", "/v1/secrets/{}", name, body=_body(values, pools))


def merge_group(
    name: str, values: Mapping[str, str | None], *, pools: Sequence[str] | None = None
) -> Call[Json]:
    """Set single variables of a group; None removes one."""
    return _call("POST", "/v1/secrets/{}", name, body=_body(values, pools))


def _body(values: Mapping[str, str | None], pools: Sequence[str] | None) -> Json:
    body: Json = {"values": dict(values)}
    return body if pools is None else body | {"pools": list(pools)}


def remove_group(name: str, *, force: bool = False) -> Call[Json]:
    """Forget a group."""
    return _call("DELETE", "/v1/secrets/{}", name, force=force)


def credentials() -> Call[list[Json]]:
    """Logins to registries, without passwords."""
    return _call("GET", "/v1/credentials")


def put_credential(name: str, *, hostname: str, user: str, password: str) -> Call[Json]:
    """Keep a login to a registry."""
    body = {"hostname": hostname, "user": user, "password": password}
    return _call("PUT", "/v1/credentials/{}", name, body=body)


def remove_credential(name: str, *, force: bool = False) -> Call[Json]:
    """Forget a login."""
    return _call("DELETE", "/v1/credentials/{}", name, force=force)


def rotate() -> Call[Json]:
    """Encrypt all with the newest key."""
    return _call("POST", "/v1/rotate", body={})
