"""What a client may ask about tokens, as calls for `Client.ask` and `AsyncClient.ask`.

everpool.ask(create("ci", scope="submit", pools=["ci-*"], expires_in_s=86_400))["token"]
everpool.ask(whoami())
"""

from collections.abc import Sequence
from urllib.parse import quote

from pydantic_core import from_json, to_json

from controller.client_calls import Call
from controller.client_wire import Json


def whoami() -> Call[Json]:
    """Who one is for the daemon: name, scope, and patterns of pools (none: all)."""
    return Call("GET", "/v1/whoami", from_json)


def tokens() -> Call[list[Json]]:
    """All tokens, without what lets in."""
    return Call("GET", "/v1/tokens", from_json)


def create(
    name: str, *, scope: str = "read", pools: Sequence[str] = (), expires_in_s: float | None = None
) -> Call[Json]:
    """Make one; `token` of the answer is it, shown this once."""
    body = {"name": name, "scope": scope, "pools": list(pools), "expires_in_s": expires_in_s}
    return Call("POST", "/v1/tokens", from_json, body=to_json(body))


def revoke(name: str) -> Call[Json]:
    """Let nobody in with it any more."""
    return Call("DELETE", f"/v1/tokens/{quote(name, safe='')}", from_json)
