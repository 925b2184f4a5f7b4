"""What every rule of the house is made of: a name, hooks to look through, and a way to say it is broken."""

from collections.abc import Callable
from typing import Any, ClassVar

from actors.events import Envelope
from actors.ports import Commit
from providers.agent.wire import LogLines
from providers.model import Listing
from tests.simulation.referee.book import Book, Made
from tests.simulation.referee.times import Fair

Broken = Callable[[str, tuple[str, ...]], None]


class Checker:
    """One rule. A subclass overrides the hooks it needs; the referee calls no others.

    `events` are the classes of events that `event` is called with, `kinds` the kinds of states of `changed`.

    Args:
        book: what is known of the run; it is brought up to date before the hooks are called.
        broken: called with a text and the names it is about (instances, keys, refs, tasks, requests, pools).
    """

    name: ClassVar[str] = ""
    events: ClassVar[tuple[type, ...]] = ()
    kinds: ClassVar[tuple[str, ...]] = ()

    def __init__(self, book: Book, broken: Broken) -> None:
        self.book = book
        self._broken = broken

    def fail(self, text: str, *about: str) -> None:
        """The rule is broken."""
        self._broken(f"{self.name}: {text}", about)

    # --- the journal ------------------------------------------------------------------------------

    def event(self, envelope: Envelope, event: Any) -> None:
        """An event of `events` became durable; the states of its commit follow."""

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """A state of `kinds` became durable; None: there was none, or it is over."""

    def committed(self, commit: Commit) -> None:
        """All of a commit was told."""

    # --- the daemon -------------------------------------------------------------------------------

    def life_began(self, epoch: int) -> None:
        """A daemon leads from now on."""

    def life_ended(self) -> None:
        """It is gone."""

    def listed(self, provider: str, listing: Listing) -> None:
        """The daemon got a listing."""

    def lines(self, report: LogLines) -> None:
        """The daemon got lines of a task's output."""

    # --- the clouds, as they really are -----------------------------------------------------------

    def machine_made(self, made: Made) -> None:
        """A machine begins to cost money; the book has it."""

    def machine_ended(self, made: Made, reason: str) -> None:
        """A machine is gone; the book knows."""

    def machine_resumed(self, made: Made) -> None:
        """A machine that had ended is there again; the book knows."""

    def process_began(self, ref: str, task: str, attempt: int) -> None:
        """A process runs; the book does not have it yet."""

    def process_ended(self, ref: str, task: str, attempt: int) -> None:
        """A process is over; the book has it no more."""

    # --- time -------------------------------------------------------------------------------------

    def tick(self, seconds: float, fair: Fair) -> None:
        """So many seconds have passed; the book's fair time has been counted on."""

    def at_the_end(self) -> None:
        """All is over."""
