"""What the API stands on, as far as it looks at it. `controller.desk.Desk` is it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from actors.decision import World
from actors.events import Request
from actors.ports import Accepted, Conflict
from controller.api.edge import Counting
from controller.followers import EventSource, Followers
from controller.journal.listing import OneOrMore, RequestPage, RequestsWanted, TaskRow
from controller.journal.reader import StoredRequest, StoredState
from controller.records import Records
from controller.secrets.store import SecretStore
from controller.security.guard import Guard
from controller.status import Status
from controller.telemetry.console import ConsoleStore
from controller.telemetry.costs import Costs
from controller.telemetry.files import FileStore
from controller.telemetry.logs import LogStore
from controller.telemetry.metrics_store import MetricsStore
from controller.webhooks.webhooks import Webhooks
from providers.model import Machine


class Refusal(Protocol):
    """A Request that was not taken."""

    @property
    def status(self) -> int:
        """In HTTP's words."""
        ...

    @property
    def message(self) -> str:
        """One line that says why."""
        ...

    @property
    def retry_after_s(self) -> float | None:
        """When it may be taken."""
        ...

    @property
    def detail(self) -> Sequence[str]:
        """More lines."""
        ...


class Journal(EventSource, Protocol):
    """What the API reads of the journal."""

    @property
    def failing_since(self) -> float | None:
        """Since when nothing can be written, UTC seconds."""
        ...

    async def newest(
        self,
        limit: int,
        pool: OneOrMore | None = None,
        kinds: Sequence[str] | None = None,
        request_id: OneOrMore | None = None,
        within: Sequence[str] = (),
    ) -> int | None:
        """The seq of the oldest among the newest `limit` events that fit; None: none does."""
        ...

    async def requests(self, wanted: RequestsWanted) -> RequestPage:
        """Requests, newest first."""
        ...

    async def ended_tasks(
        self, before: int | None, limit: int, pool: str | None = None, within: Sequence[str] = ()
    ) -> list[TaskRow]:
        """The states of tasks that are over, newest request first; of pools that fit `within`, if any."""
        ...

    async def request(self, request_id: str) -> StoredRequest | None:
        """What is known of a request."""
        ...

    async def state(self, pool: str, kind: str, name: str) -> StoredState | None:
        """The newest state of one actor, over or not; None when it never was, or is pruned."""
        ...


class Worlds(Protocol):
    """Who knows the outside."""

    def world(self) -> World:
        """Offers, capabilities and market memory of now."""
        ...


class Counted(Counting, Protocol):
    """What Prometheus scrapes."""

    @property
    def registry(self) -> CollectorRegistry:
        """Series of the daemon and its pools."""
        ...

    def exposed(self) -> Awaitable[bytes]:
        """All of them as text."""
        ...

    @property
    def costs(self) -> Costs:
        """What machines have cost since the daemon began."""
        ...


class Desk(Protocol):
    """One object for all that a user may ask of the daemon."""

    @property
    def status(self) -> Status:
        """The read model."""
        ...

    @property
    def journal(self) -> Journal:
        """Events and requests."""
        ...

    @property
    def followers(self) -> Followers:
        """Events as they come."""
        ...

    @property
    def logs(self) -> LogStore:
        """What tasks write."""
        ...

    @property
    def files(self) -> FileStore:
        """What tasks leave behind."""
        ...

    @property
    def console(self) -> ConsoleStore:
        """What set-up steps print."""
        ...

    @property
    def series(self) -> Counted:
        """What Prometheus scrapes."""
        ...

    @property
    def metrics(self) -> MetricsStore:
        """What machines measure."""
        ...

    @property
    def records(self) -> Records:
        """What the daemon keeps besides pools."""
        ...

    @property
    def guard(self) -> Guard:
        """Who may come in, and how much of them."""
        ...

    @property
    def secrets(self) -> SecretStore:
        """What is kept for tasks and registries."""
        ...

    @property
    def webhooks(self) -> Webhooks:
        """Where events are sent."""
        ...

    @property
    def acting(self) -> Worlds:
        """Who knows the outside."""
        ...

    def pool_of(self, request: Request) -> str | None:
        """The pool that a Request is for; "" when it names none, None when there is not what it names."""
        ...

    async def submit(
        self, requests: Sequence[Request], principal: str, may_see: Callable[[str], bool] | None = None
    ) -> Sequence[Accepted | Conflict | Refusal]:
        """Take Requests, each once per request_id (an empty one is filled). An answer for each.

        `may_see`: the pools whose names answers may tell; None: all.
        Raises JournalFailing or JournalClosed: none was taken.
        """
        ...

    def adopt(self) -> Awaitable[Mapping[str, Any]]:
        """Take the lead after a restored backup."""
        ...

    def hold(self, pool: str | None, seconds: float) -> Awaitable[Mapping[str, Any]]:
        """Lengthen the machines' leases for a maintenance. Raises KeyError: no such pool."""
        ...

    def backup(self, path: Path) -> Awaitable[Mapping[str, Any]]:
        """Copy the journal. Raises BackupFailed."""
        ...

    def reload(self, *, dry_run: bool = False, principal: str = "") -> Awaitable[Mapping[str, Any]]:
        """Read the config again, say what changes, and without `dry_run` do it, as `principal` asked.

        Raises ConfigError: nothing was changed; JournalFailing: not all of it is done yet.
        """
        ...

    def doctor(self, names: Sequence[str]) -> Awaitable[Sequence[Mapping[str, Any]]]:
        """Checks of everything that tends to be wrong, of these providers or all. Raises UnknownProvider."""
        ...

    def health(self) -> Mapping[str, Any]:
        """`live`, `ready`, `reasons` and more."""
        ...

    def ssh_target(self, instance_id: str) -> Machine | None:
        """How to get into a machine; None when it has no address."""
        ...
