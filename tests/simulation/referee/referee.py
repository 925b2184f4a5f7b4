"""The referee: it watches one run from outside, and asks every checker."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import anyio

from actors.events import Envelope
from actors.pool.pausing import is_paused
from actors.ports import Commit
from controller.simulation.house import Watcher
from controller.simulation.ledger import Ledger
from providers.agent.wire import LogLines
from providers.model import Listing
from providers.simulated.cloud import Cloud
from tests.simulation.referee.base import Checker
from tests.simulation.referee.book import Book
from tests.simulation.referee.buying import (
    CeilingHolds,
    OnlyWhatFitsIsBought,
    SizeIsWithinBounds,
    SpentIsEnded,
)
from tests.simulation.referee.dollars import DollarsAreBilled
from tests.simulation.referee.ends import (
    LateCallsAreRepaired,
    NoBugs,
    NothingIsLeft,
    OnlyTheLeaderWrites,
    PoolsCloseTheirClusters,
)
from tests.simulation.referee.guarded import GuardIsKept, LaunchesAreJournaled
from tests.simulation.referee.log import TAIL_ALL, Log
from tests.simulation.referee.machines import (
    AbsenceIsObserved,
    ForeignUntouched,
    NoneForgotten,
    OneMachineAKey,
)
from tests.simulation.referee.order import LegalOrder
from tests.simulation.referee.paused import PausedRests
from tests.simulation.referee.places import LimitsHold, OneReadyARank, OnlyWantedAtWork
from tests.simulation.referee.progress import AgentsWordComes, NothingIsStuck, OverdueIsHeard, SlotsAreUsed
from tests.simulation.referee.requests import RequestsEnd
from tests.simulation.referee.rolling import FewAtATime, RightStays, WorksUntilReplaced
from tests.simulation.referee.tasks import LinesAreKept, OneProcessATask, OneResultATask, RetriesInBudget
from tests.simulation.referee.times import Fair

CHECKERS: tuple[type[Checker], ...] = (
    OneMachineAKey,
    LateCallsAreRepaired,
    NoneForgotten,
    AbsenceIsObserved,
    LaunchesAreJournaled,
    GuardIsKept,
    ForeignUntouched,
    DollarsAreBilled,
    RequestsEnd,
    OneProcessATask,
    OneResultATask,
    RetriesInBudget,
    LinesAreKept,
    OneReadyARank,
    OnlyWantedAtWork,
    LimitsHold,
    OnlyWhatFitsIsBought,
    CeilingHolds,
    SizeIsWithinBounds,
    SpentIsEnded,
    PausedRests,
    WorksUntilReplaced,
    FewAtATime,
    RightStays,
    LegalOrder,
    NothingIsStuck,
    OverdueIsHeard,
    SlotsAreUsed,
    AgentsWordComes,
    OnlyTheLeaderWrites,
    PoolsCloseTheirClusters,
    NoBugs,
    NothingIsLeft,
)
EVENTS_MAX = 100_000  # of one run, unless it says otherwise
T = TypeVar("T", bound=Checker)


class Broken(Exception):
    """A rule of the house does not hold; the text names it."""


class Referee(Watcher):
    """Watches one run: a Watcher of its lives, the Witness of its ledger, the Spectator of its clouds.

    The first broken rule is kept in `broken`; the run ends by it. What is counted in fair time is looked at
    only when somebody calls `tick`, what needs the clouds themselves only after `bind`.

    Args:
        now: UTC seconds as they are.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.broken: str | None = None
        self.alarm = anyio.Event()  # a rule was broken
        self.counts: Counter[str] = Counter()
        self.book = Book(now)
        self._now = now
        self._log = Log()
        self._tail: list[str] = []
        self._checkers = [one(self.book, self._break) for one in CHECKERS]
        self._requests = self._one(RequestsEnd)
        self._limits = self._one(LimitsHold)
        self._bugs = self._one(NoBugs)
        self._left = self._one(NothingIsLeft)
        self._slots = self._one(SlotsAreUsed)
        self._by_event: dict[type, list[Callable[[Envelope, Any], None]]] = {}
        self._by_kind: dict[str, list[Callable[[str, str, str, Any, Any], None]]] = {}
        self._hooks: dict[str, list[Callable[..., None]]] = {
            hook: [getattr(one, hook) for one in self._checkers if getattr(type(one), hook) is not own]
            for hook, own in vars(Checker).items()
            if callable(own) and not hook.startswith("_")
        }
        self.events_max = EVENTS_MAX

    def _one(self, kind: type[T]) -> T:
        return next(one for one in self._checkers if isinstance(one, kind))

    # --- what is broken ---------------------------------------------------------------------------

    def rule(self, holds: bool, text: str, about: Iterable[str] = ()) -> None:
        """Note a rule of somebody else that is broken; `about`: what it names."""
        if not holds:
            self._break(text, tuple(about))

    def _break(self, text: str, about: tuple[str, ...]) -> None:
        if self.broken is None:
            self.broken = f"{text} (at {self._now():.3f})"
            names = {other for name in about if name for other in self.book.names(name)}
            self._tail = self._log.tail(names)
            self.alarm.set()

    @property
    def tail(self) -> list[str]:
        """What led to the broken rule; while none is, the newest lines."""
        return self._log.tail()[-TAIL_ALL:] if self.broken is None else self._tail

    # --- settings ---------------------------------------------------------------------------------

    def bind(self, clouds: Mapping[str, Cloud], ledger: Ledger) -> None:
        """Let the referee look at the clouds and the ledger themselves. Once, before the run."""
        self.book.clouds, self.book.ledger = clouds, ledger

    @property
    def foreign(self) -> set[str]:
        """Keys of machines that are not ours; to be added to before such a machine is made."""
        return self.book.foreign

    @foreign.setter
    def foreign(self, keys: set[str]) -> None:
        self.book.foreign = keys

    @property
    def forgives_bugs(self) -> bool:
        """Whether a test plants bugs, which must not count."""
        return self.book.forgives_bugs

    @forgives_bugs.setter
    def forgives_bugs(self, forgives: bool) -> None:
        self.book.forgives_bugs = forgives

    @property
    def events_max(self) -> int:
        """Events that the run may have."""
        return self._limits.events_max

    @events_max.setter
    def events_max(self, count: int) -> None:
        self._limits.events_max = count

    @property
    def billed(self) -> dict[str, str]:
        """Keys of the machines that cost money now, and their refs."""
        return {made.key: made.ref for made in self.book.living.values()}

    # --- time -------------------------------------------------------------------------------------

    def tick(self, seconds: float, fair: Fair, mailboxes: Mapping[str, int] | None = None) -> None:
        """So many seconds have passed since the last tick, in which `fair` worked all the time.

        `mailboxes`: letters that wait, by pool.
        """
        at_work = [pool for pool, state in self.book.pools.items() if not is_paused(state)]
        clocks = [f"unpaused:{pool}" for pool in at_work]
        clocks += [f"served:{pool}" for pool in self._slots.served() if pool in at_work]
        self.book.fair.tick(seconds, fair, self.book.clouds, clocks)
        for pool, waiting in (mailboxes or {}).items():
            self._limits.mailbox(pool, waiting)
        for hook in self._hooks["tick"]:
            hook(seconds, fair)

    # --- the clouds (Spectator) -------------------------------------------------------------------

    def machine_made(self, provider: str, key: str, ref: str, late: bool) -> None:
        """A machine begins to cost money."""
        self.counts["machines"] += 1
        made = self.book.make(provider, key, ref, late)
        self._log.happened(made.at, provider, "made", ref, "of", key, "late" if made.late else "")
        for hook in self._hooks["machine_made"]:
            hook(made)

    def machine_ended(self, provider: str, key: str, ref: str, reason: str) -> None:
        """A machine is gone."""
        made = self.book.end(ref, reason)
        if made is None:
            return
        self.counts[f"ended: {reason}"] += 1
        self._log.happened(self._now(), provider, "ended", ref, "of", key, reason)
        for hook in self._hooks["machine_ended"]:
            hook(made, reason)

    def machine_resumed(self, provider: str, key: str, ref: str) -> None:
        """A machine that had ended is there again."""
        made = self.book.resume(ref)
        if made is None:
            return
        self.counts["resumed"] += 1
        self._log.happened(self._now(), provider, "resumed", ref, "of", key)
        for hook in self._hooks["machine_resumed"]:
            hook(made)

    def happened(self, text: str) -> None:
        """Something went wrong on purpose."""
        self.counts["misfortunes"] += 1
        self._log.happened(self._now(), text)

    def process_began(self, ref: str, task: str, attempt: int) -> None:
        """An attempt's process runs."""
        self.counts["processes"] += 1
        self._log.happened(self._now(), "process of", task, "attempt", attempt, "begins on", ref)
        for hook in self._hooks["process_began"]:
            hook(ref, task, attempt)
        self.book.begin(ref, task, attempt)

    def process_ended(self, ref: str, task: str, attempt: int) -> None:
        """An attempt's process is over."""
        self._log.happened(self._now(), "process of", task, "attempt", attempt, "ends on", ref)
        self.book.finish(ref, task, attempt)
        for hook in self._hooks["process_ended"]:
            hook(ref, task, attempt)

    # --- the daemon's lives (Watcher) -------------------------------------------------------------

    def life_began(self, epoch: int) -> None:
        """A daemon leads from now on."""
        self.book.offset = -math.inf  # its clock is its own
        self._log.happened(self._now(), "a daemon begins, epoch", epoch)
        for hook in self._hooks["life_began"]:
            hook(epoch)

    def life_ended(self) -> None:
        """It is gone."""
        self._log.happened(self._now(), "the daemon ends")
        for hook in self._hooks["life_ended"]:
            hook()

    def late_calls_from(self, epoch: int) -> None:
        """A life was cut while calls of it were on their way, which may still take effect."""
        self._log.happened(self._now(), "calls of epoch", epoch, "are on their way")

    def bug(self, text: str) -> None:
        """A rule raised, or a call did what nobody expected."""
        self._bugs.bug(text)

    def lines(self, report: LogLines) -> None:
        """Lines of a task's output are kept."""
        self.counts["lines"] += len(report.lines)
        for hook in self._hooks["lines"]:
            hook(report)

    def listed(self, provider: str, listing: Listing) -> None:
        """The daemon got a listing."""
        self.book.list(provider, listing)
        for hook in self._hooks["listed"]:
            hook(provider, listing)

    # --- the journal (Witness) --------------------------------------------------------------------

    def journaled(self, envelope: Envelope) -> None:
        """An event became durable."""
        event = envelope.event
        self._log.event(envelope)
        self.counts[event.kind] += 1
        # An envelope may wait for its commit: the one that waited least tells best.
        self.book.offset = max(self.book.offset, envelope.at - self._now())
        hooks = self._by_event.get(type(event))
        if hooks is None:
            hooks = self._by_event[type(event)] = [
                one.event for one in self._checkers if isinstance(event, one.events)
            ]
        for hook in hooks:
            hook(envelope, event)

    def stored(self, commit: Commit) -> None:
        """States became durable."""
        for kind, name, old, new in self.book.store(commit):
            hooks = self._by_kind.get(kind)
            if hooks is None:
                hooks = self._by_kind[kind] = [one.changed for one in self._checkers if kind in one.kinds]
            for hook in hooks:
                hook(commit.pool, kind, name, old, new)
        for committed in self._hooks["committed"]:
            committed(commit)

    # --- the end ----------------------------------------------------------------------------------

    def is_ended(self, request_id: str) -> bool:
        """Whether a request has its terminal Fact."""
        return request_id in self._requests.ended

    def unended(self) -> list[str]:
        """Requests without a terminal Fact."""
        return self._requests.unended()

    def left(self) -> list[str]:
        """What must be gone before the run is over: machines, clusters, states."""
        return self._left.left()

    def at_the_end(self, foreign: Iterable[str] = ()) -> None:
        """All is over: nothing may be left, and what is not ours must be."""
        self.book.foreign.update(foreign)
        for hook in self._hooks["at_the_end"]:
            hook()

    # --- for tests that tell a part of a story ----------------------------------------------------

    @property
    def _made(self) -> dict[str, str]:
        return self.book.made

    @property
    def _key_of(self) -> dict[str, str]:
        return self.book.key_of

    @property
    def _asked(self) -> dict[str, str]:
        return self._requests.asked

    @property
    def _stage(self) -> dict[str, int]:
        return self._one(LegalOrder).stage
