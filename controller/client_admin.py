"""What both clients can ask about tokens, secrets, webhooks and the daemon: a method for each route."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TypeVar

from pydantic_core import from_json, to_json

from controller.client_core import Call, asked
from controller.client_views import (
    AdoptedView,
    BackupView,
    CredentialView,
    DoctorView,
    GroupView,
    HealthView,
    HeldView,
    MadeTokenView,
    PrincipalView,
    ReloadView,
    RemovedView,
    RevokedView,
    RotatedView,
    TargetView,
    TokenView,
    TriedView,
    View,
    WebhookView,
)
from controller.client_wire import Address, Json, clean, named, several

V = TypeVar("V", bound=View)


class Administration:
    """Of both clients."""

    # --- tokens -------------------------------------------------------------------------------

    @asked
    def whoami(self) -> Call[PrincipalView]:
        """Who one is for the daemon: name, scope, and patterns of pools (none: all)."""
        return viewed(PrincipalView, "GET", "/v1/whoami")

    @asked
    def tokens(self) -> Call[list[TokenView]]:
        """All tokens, without what lets in."""
        return _all(TokenView, "/v1/tokens")

    @asked
    def create_token(
        self, name: str, *, scope: str = "read", pools: Sequence[str] = (), expires_in_s: float | None = None
    ) -> Call[MadeTokenView]:
        """Make a token; `token` of the answer is it, shown this once. It is not asked for twice."""
        body = {"name": name, "scope": scope, "pools": several(pools), "expires_in_s": expires_in_s}
        return viewed(MadeTokenView, "POST", "/v1/tokens", body=body)

    @asked
    def revoke_token(self, name: str) -> Call[RevokedView]:
        """Let nobody in with a token any more."""
        return viewed(RevokedView, "DELETE", "/v1/tokens/{}", name)

    # --- secrets ------------------------------------------------------------------------------

    @asked
    def secret_groups(self) -> Call[list[GroupView]]:
        """Groups of environment variables, without values."""
        return _all(GroupView, "/v1/secrets")

    @asked
    def secret_group(self, name: str) -> Call[GroupView]:
        """One of them, with its revisions."""
        return viewed(GroupView, "GET", "/v1/secrets/{}", name)

    @asked
    def put_secret_group(
        self, name: str, values: Mapping[str, str], *, pools: Sequence[str] | None = None
    ) -> Call[GroupView]:
        """Set all variables of a group; `pools`: whose tasks may name it, [] for all, None as it was."""
        return viewed(GroupView, "PUT", "/v1/secrets/{}", name, body=_group(values, pools))

    @asked
    def merge_secret_group(
        self, name: str, values: Mapping[str, str | None], *, pools: Sequence[str] | None = None
    ) -> Call[GroupView]:
        """Set single variables of a group; None removes one."""
        return viewed(GroupView, "POST", "/v1/secrets/{}", name, body=_group(values, pools))

    @asked
    def remove_secret_group(self, name: str, *, force: bool = False) -> Call[RemovedView]:
        """Forget a group; `force`: though a living task names it."""
        return viewed(RemovedView, "DELETE", "/v1/secrets/{}", name, params=clean({"force": force or None}))

    @asked
    def credentials(self) -> Call[list[CredentialView]]:
        """Logins to registries, without passwords."""
        return _all(CredentialView, "/v1/credentials")

    @asked
    def put_credential(self, name: str, *, hostname: str, user: str, password: str) -> Call[CredentialView]:
        """Keep a login to a registry."""
        body = {"hostname": hostname, "user": user, "password": password}
        return viewed(CredentialView, "PUT", "/v1/credentials/{}", name, body=body)

    @asked
    def remove_credential(self, name: str, *, force: bool = False) -> Call[RemovedView]:
        """Forget a login; `force`: though a living pool pulls from there."""
        params = clean({"force": force or None})
        return viewed(RemovedView, "DELETE", "/v1/credentials/{}", name, params=params)

    @asked
    def rotate_secrets(self) -> Call[RotatedView]:
        """Encrypt all that is kept with the newest key."""
        return viewed(RotatedView, "POST", "/v1/rotate", body={})

    # --- webhooks -----------------------------------------------------------------------------

    @asked
    def webhooks(self) -> Call[list[WebhookView]]:
        """Where events are sent: how far each webhook is."""
        return _all(WebhookView, "/v1/webhooks")

    @asked
    def webhook(self, name: str) -> Call[WebhookView]:
        """How far one webhook is."""
        return viewed(WebhookView, "GET", "/v1/webhooks/{}", name)

    @asked
    def webhook_test(self, name: str) -> Call[TriedView]:
        """Send a signed test to a webhook; answers what came back."""
        return viewed(TriedView, "POST", "/v1/webhooks/{}/test", name, body={}, wait_s=60)

    @asked
    def webhook_retry(self, name: str) -> Call[WebhookView]:
        """Try now what waits after a failure."""
        return viewed(WebhookView, "POST", "/v1/webhooks/{}/retry", name, body={}, wait_s=60)

    # --- the daemon ---------------------------------------------------------------------------

    @asked
    def adopt(self) -> Call[AdoptedView]:
        """Take the lead after a restored backup."""
        return viewed(AdoptedView, "POST", "/v1/adopt", body={}, wait_s=60)

    @asked
    def hold(self, seconds: float, pool: str | None = None) -> Call[HeldView]:
        """Give machines a longer lease."""
        return viewed(HeldView, "POST", "/v1/hold", body={"seconds": seconds, "pool": pool}, wait_s=60)

    @asked
    def backup(self, path: Address) -> Call[BackupView]:
        """Copy the journal to an absolute path on the daemon's host."""
        return viewed(BackupView, "POST", "/v1/backup", body={"path": os.fspath(path)}, wait_s=3600)

    @asked
    def reload(self, *, dry_run: bool = False) -> Call[ReloadView]:
        """Read the config again; answers what changes, or with `dry_run` what would."""
        params = clean({"dry_run": dry_run or None})
        return viewed(ReloadView, "POST", "/v1/reload", body={}, params=params, wait_s=60)

    @asked
    def doctor(self, *providers: str) -> Call[list[DoctorView]]:
        """Checks of everything that tends to be wrong: of these providers, or else of all."""
        params = {"provider": list(providers)} if providers else {}
        return _all(DoctorView, "/v1/doctor", params, wait_s=60)

    @asked
    def ready(self) -> Call[HealthView]:
        """The daemon's health; `ready` and `reasons` say whether it can do its work."""
        return Call("GET", "/readyz", partial(_one, HealthView), fine=(503,))

    @asked
    def metrics(self, *, instances: bool = False) -> Call[str]:
        """Prometheus series as text."""
        return Call("GET", "/metrics/instances" if instances else "/metrics", bytes.decode)

    @asked
    def targets(
        self, pools: Sequence[str] = (), *, port: int | None = None, states: Sequence[str] = ()
    ) -> Call[list[TargetView]]:
        """Machines as targets of Prometheus' service discovery."""
        many = {name: several(some) for name, some in (("pool", pools), ("state", states)) if some}
        return _all(TargetView, "/v1/sd", {**clean({"port": port}), **many})


def viewed(
    view: type[V],
    method: str,
    path: str,
    *names: str,
    params: Mapping[str, str | Sequence[str]] | None = None,
    body: Json | None = None,
    wait_s: float = 0,
) -> Call[V]:
    """A route whose answer is one thing; `names` are what its path has {} for."""
    return Call(
        method,
        path.format(*(named(name) for name in names)),
        partial(_one, view),
        params or {},
        None if body is None else to_json(body),
        wait_s,
    )


def _all(
    view: type[V], path: str, params: Mapping[str, str | Sequence[str]] | None = None, *, wait_s: float = 0
) -> Call[list[V]]:
    return Call("GET", path, partial(views, view), params or {}, wait_s=wait_s)


def _one(view: type[V], body: bytes) -> V:
    told = from_json(body)
    if not isinstance(told, dict):
        raise TypeError("not a thing")
    return view(told)


def views(view: type[V], body: bytes) -> list[V]:
    """A list of things. Raises ValueError, TypeError when it is none."""
    told = from_json(body)
    if not isinstance(told, list):
        raise TypeError("not a list")
    return [view(one) for one in told]


def _group(values: Mapping[str, str | None], pools: Sequence[str] | None) -> Json:
    body: Json = {"values": dict(values)}
    return body if pools is None else body | {"pools": several(pools)}
