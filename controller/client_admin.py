"""What the clients ask about tokens, secrets and the daemon's surroundings: a part of both."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from controller import client_calls as calls
from controller import client_secrets as secrets
from controller import client_tokens as who
from controller.client_calls import Call
from controller.client_views import Json

T = TypeVar("T")


class Administration:
    """Of `Client`."""

    def _do(self, call: Call[T]) -> T:
        raise NotImplementedError

    def whoami(self) -> Json:
        """Who one is for the daemon: name, scope, and patterns of pools (none: all)."""
        return self._do(who.whoami())

    def tokens(self) -> list[Json]:
        """All tokens, without what lets in."""
        return self._do(who.tokens())

    def create_token(
        self, name: str, *, scope: str = "read", pools: Sequence[str] = (), expires_in_s: float | None = None
    ) -> Json:
        """Make a token; `token` of the answer is it, shown this once. It is not asked for twice."""
        return self._do(who.create(name, scope=scope, pools=pools, expires_in_s=expires_in_s))

    def revoke_token(self, name: str) -> Json:
        """Let nobody in with a token any more."""
        return self._do(who.revoke(name))

    def secret_groups(self) -> list[Json]:
        """Groups of environment variables, without values."""
        return self._do(secrets.groups())

    def secret_group(self, name: str) -> Json:
        """One of them, with its revisions."""
        return self._do(secrets.group(name))

    def put_secret_group(
        self, name: str, values: Mapping[str, str], *, pools: Sequence[str] | None = None
    ) -> Json:
        """Set all variables of a group; `pools`: whose tasks may name it, [] for all, None as it was."""
        return self._do(secrets.put_group(name, values, pools=pools))

    def merge_secret_group(
        self, name: str, values: Mapping[str, str | None], *, pools: Sequence[str] | None = None
    ) -> Json:
        """Set single variables of a group; None removes one."""
        return self._do(secrets.merge_group(name, values, pools=pools))

    def remove_secret_group(self, name: str, *, force: bool = False) -> Json:
        """Forget a group; `force`: though a living task names it."""
        return self._do(secrets.remove_group(name, force=force))

    def credentials(self) -> list[Json]:
        """Logins to registries, without passwords."""
        return self._do(secrets.credentials())

    def put_credential(self, name: str, *, hostname: str, user: str, password: str) -> Json:
        """Keep a login to a registry."""
        return self._do(secrets.put_credential(name, hostname=hostname, user=user, password=password))

    def remove_credential(self, name: str, *, force: bool = False) -> Json:
        """Forget a login; `force`: though a living pool pulls from there."""
        return self._do(secrets.remove_credential(name, force=force))

    def rotate_secrets(self) -> Json:
        """Encrypt all that is kept with the newest key."""
        return self._do(secrets.rotate())

    def webhook(self, name: str) -> Json:
        """How far one webhook is."""
        return self._do(calls.webhook_view(name))

    def targets(
        self, pools: Sequence[str] = (), *, port: int | None = None, states: Sequence[str] = ()
    ) -> list[Json]:
        """Machines as targets of Prometheus' service discovery."""
        return self._do(calls.targets(pools, port, states))


class AsyncAdministration:
    """Of `AsyncClient`."""

    async def _do(self, call: Call[T]) -> T:
        raise NotImplementedError

    async def whoami(self) -> Json:
        """Who one is for the daemon: name, scope, and patterns of pools (none: all)."""
        return await self._do(who.whoami())

    async def tokens(self) -> list[Json]:
        """All tokens, without what lets in."""
        return await self._do(who.tokens())

    async def create_token(
        self, name: str, *, scope: str = "read", pools: Sequence[str] = (), expires_in_s: float | None = None
    ) -> Json:
        """Make a token; `token` of the answer is it, shown this once. It is not asked for twice."""
        return await self._do(who.create(name, scope=scope, pools=pools, expires_in_s=expires_in_s))

    async def revoke_token(self, name: str) -> Json:
        """Let nobody in with a token any more."""
        return await self._do(who.revoke(name))

    async def secret_groups(self) -> list[Json]:
        """Groups of environment variables, without values."""
        return await self._do(secrets.groups())

    async def secret_group(self, name: str) -> Json:
        """One of them, with its revisions."""
        return await self._do(secrets.group(name))

    async def put_secret_group(
        self, name: str, values: Mapping[str, str], *, pools: Sequence[str] | None = None
    ) -> Json:
        """Set all variables of a group; `pools`: whose tasks may name it, [] for all, None as it was."""
        return await self._do(secrets.put_group(name, values, pools=pools))

    async def merge_secret_group(
        self, name: str, values: Mapping[str, str | None], *, pools: Sequence[str] | None = None
    ) -> Json:
        """Set single variables of a group; None removes one."""
        return await self._do(secrets.merge_group(name, values, pools=pools))

    async def remove_secret_group(self, name: str, *, force: bool = False) -> Json:
        """Forget a group; `force`: though a living task names it."""
        return await self._do(secrets.remove_group(name, force=force))

    async def credentials(self) -> list[Json]:
        """Logins to registries, without passwords."""
        return await self._do(secrets.credentials())

    async def put_credential(self, name: str, *, hostname: str, user: str, password: str) -> Json:
        """Keep a login to a registry."""
        return await self._do(secrets.put_credential(name, hostname=hostname, user=user, password=password))

    async def remove_credential(self, name: str, *, force: bool = False) -> Json:
        """Forget a login; `force`: though a living pool pulls from there."""
        return await self._do(secrets.remove_credential(name, force=force))

    async def rotate_secrets(self) -> Json:
        """Encrypt all that is kept with the newest key."""
        return await self._do(secrets.rotate())

    async def webhook(self, name: str) -> Json:
        """How far one webhook is."""
        return await self._do(calls.webhook_view(name))

    async def targets(
        self, pools: Sequence[str] = (), *, port: int | None = None, states: Sequence[str] = ()
    ) -> list[Json]:
        """Machines as targets of Prometheus' service discovery."""
        return await self._do(calls.targets(pools, port, states))
