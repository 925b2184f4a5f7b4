"""What the actors need from whoever hosts them: the daemon, or the simulation."""

from collections.abc import Sequence
from typing import Protocol

from actors.events import Envelope, Request, RequestId
from actors.quick import dataclass
from providers.model import Value


@dataclass(frozen=True, slots=True)
class StateRow:
    """The newest state of one actor, as it is to be kept. `state` None removes the row."""

    kind: str  # pool, node, instance, task, market, quarantine
    id: str
    version: int
    state: Value | None
    terminal: bool = False  # may be pruned after retention


@dataclass(frozen=True, slots=True)
class Commit:
    """Everything one turn changed; becomes durable as a whole or not at all."""

    pool: str
    states: Sequence[StateRow] = ()
    envelopes: Sequence[Envelope] = ()  # seqs from reserve(); their `ends` end requests
    taken: Sequence[RequestId] = ()  # requests that live on in these states from now on


@dataclass(frozen=True, slots=True)
class Submission:
    """One Request as the API took it, before it is accepted."""

    pool: str
    request: Request  # with its request_id filled
    principal: str
    at: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """The request is durable. `new` False: its id was known with the same body, nothing was written.

    `ended_by` is the seq of its terminal Fact when it is over already.
    """

    envelope: Envelope
    new: bool
    ended_by: int | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """The request's id is known with another body. Nothing was written."""

    request_id: RequestId


class JournalClosed(Exception):
    """The journal is shut, or another daemon leads now: nothing can be committed any more."""


class Journal(Protocol):
    """Where truth is kept. Commits become durable in the order in which they were handed over."""

    def reserve(self, count: int) -> int:
        """Take `count` consecutive seqs and return the first. Unused ones stay gaps.

        reserve and the commit or accept that uses it must follow each other without an await.
        """
        ...

    async def commit(self, commit: Commit) -> None:
        """Return when `commit` is durable. While it can't be (disk full), wait and try again.

        Raises:
            JournalClosed: it never will be.
        """
        ...

    async def accept(self, submissions: Sequence[Submission]) -> Sequence[Accepted | Conflict]:
        """Make Requests durable, each once per request_id. Raises JournalClosed."""
        ...


class Observer(Protocol):
    """Hears of every commit after it is durable, before its effects start. Must not raise."""

    def committed(self, commit: Commit) -> None:
        """Take note of changed states and published facts."""
        ...

    def turn_ended(self, pool: str, *, messages: int, seconds: float, waiting: int) -> None:
        """Take note of how a turn went; `waiting` is the depth of the mailbox."""
        ...

    def bug(self, address: str, message: str, error: BaseException) -> None:
        """Take note of an exception in a rule."""
        ...


class Clock(Protocol):
    """Time, as the host has it."""

    def now(self) -> float:
        """UTC seconds since the epoch; never goes back while the process lives."""
        ...


class Dice(Protocol):
    """Randomness, as the host has it."""

    def random(self) -> float:
        """A float from [0, 1)."""
        ...
