"""What the API stands on, as far as it looks at it. `controller.desk.Desk` is it."""

from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from actors.decision import World
from actors.events import Request
from actors.ports import Accepted, Conflict
from controller.api.edge import Counting
from controller.followers import EventSource, Followers
from controller.journal.reader import StoredRequest, StoredState
from controller.records import Records
from controller.status import Status
from controller.telemetry.console import ConsoleStore
from controller.telemetry.costs import Costs
from controller.telemetry.files import FileStore
from controller.telemetry.logs import LogStore
from controller.telemetry.metrics_store import MetricsStore
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
    def acting(self) -> Worlds:
        """Who knows the outside."""
        ...

    async def submit(
        self, requests: Sequence[Request], principal: str
    ) -> Sequence[Accepted | Conflict | Refusal]:
        """Take Requests, each once per request_id (an empty one is filled). An answer for each.

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

    def reload(self) -> Awaitable[Mapping[str, Any]]:
        """Read the config again and say what changes. Raises ConfigError."""
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
