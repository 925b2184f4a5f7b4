"""What is known of a run: the newest states, and the clouds as they really are."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from actors.instance.state import Requested
from actors.ports import Commit
from controller.simulation.ledger import Ledger
from providers.model import Listing
from providers.simulated.cloud import Cloud, Machine
from tests.simulation.referee.times import FairTime

Row = tuple[str, str, str]  # pool, kind, id
OVER = ("destroyed", "stopped", "reaped")  # statuses after which an actor is forgotten


@dataclass(slots=True)
class Made:
    """One machine that some cloud made.

    Attributes:
        at: when.
        late: by a call whose daemon had died or been deposed before.
        lives: it costs money now.
        ended_at: when it ended last.
        shown_at: the time of the last listing that showed it as there, which it need not have been.
        lacked: complete listings in a row that ought to have shown it and did not.
        absent_at: fair time of the daemon when two listings in a row or more had lacked it last.
        buried: it was counted as destroyed while it lived, and rightly so: it was lacking twice.
        machine: the cloud's own.
    """

    provider: str
    key: str
    ref: str
    at: float
    late: bool
    lives: bool = True
    ended_at: float | None = None
    shown_at: float | None = None
    lacked: int = 0
    absent_at: float | None = None
    buried: bool = False
    machine: Machine | None = None


class Book:
    """The run so far, as the checkers look it up."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.fair = FairTime()
        self.clouds: Mapping[str, Cloud] = {}
        self.ledger: Ledger | None = None
        self.foreign: set[str] = set()  # keys of machines that are not ours
        self.forgives_bugs = False
        self.offset = 0.0  # of the daemon's clock
        # the journal
        self.states: dict[Row, Any] = {}  # living
        self.key_of: dict[str, str] = {}  # of every instance there ever was
        self.ref_of: dict[str, str] = {}
        self.named_at: dict[str, float] = {}  # when an instance heard its machine's ref
        self.of_key: dict[str, tuple[str, str]] = {}  # pool and id of the living instance
        self.quarantined: dict[tuple[str, str], str] = {}  # (key, ref) -> id of its row
        self.looked_for: set[str] = set()  # keys of launches whose outcome nobody knew
        self.pools: dict[str, Any] = {}
        # the clouds
        self.made: dict[str, str] = {}  # every key there ever was -> its first ref
        self.machines: dict[str, Made] = {}  # by ref
        self.refs: dict[str, list[str]] = {}  # by key
        self.living: dict[str, Made] = {}  # by ref
        self.stopped: dict[str, Made] = {}  # that may run again
        self.began: dict[tuple[str, int], str] = {}  # every attempt that ever ran -> where
        self.running: dict[str, dict[tuple[str, int], None]] = {}  # task -> (ref, attempt)
        self.on: dict[str, int] = {}  # processes by ref

    # --- what checkers ask ------------------------------------------------------------------------

    def instance(self, name: str) -> Any:
        """The living state of an instance, by its id; None: there is none."""
        row = self.of_key.get(self.key_of.get(name, ""))
        return None if row is None else self.states.get((row[0], "instance", row[1]))

    def owner(self, made: Made) -> str | None:
        """The instance that a machine is, or may be while nobody knows which one is its."""
        row = self.of_key.get(made.key)
        if row is None:
            return None
        handle = getattr(self.states[(row[0], "instance", row[1])], "handle", None)
        return row[1] if handle is None or handle.ref == made.ref else None

    def is_quarantined(self, made: Made) -> bool:
        """Whether it is in quarantine."""
        return (made.key, made.ref) in self.quarantined

    def machines_of(self, name: str) -> list[Made]:
        """The machine of an instance; those of its key when nobody heard which one it is."""
        ref = self.ref_of.get(name)
        if ref in self.machines:
            return [self.machines[ref]]
        return [self.machines[one] for one in self.refs.get(self.key_of.get(name, ""), ())]

    def visible_within_s(self, provider: str) -> float:
        """How long a young machine may be missing from listings, as the cloud really is."""
        cloud = self.clouds.get(provider)
        if cloud is None:
            return 0.0
        return cloud.config.visible_within_s * (2 if cloud.config.faults.listing_stale else 1)

    def names(self, name: str) -> Iterator[str]:
        """What else is called so: an instance's id, its key and its ref are one thing."""
        yield name
        keys = {name, self.key_of.get(name, ""), *(key for key, refs in self.refs.items() if name in refs)}
        for key in keys & (self.refs.keys() | set(self.key_of.values())):
            yield key
            yield from self.refs.get(key, ())
            yield from (one for one, its in self.key_of.items() if its == key)

    # --- the journal ------------------------------------------------------------------------------

    def store(self, commit: Commit) -> Iterator[tuple[str, str, Any, Any]]:
        """Take a commit in; yields kind, id, the state before and after for each row, None: none living."""
        pool = commit.pool
        changes = []
        for row in commit.states:
            kind, name, state = row.kind, row.id, row.state
            key = (pool, kind, name)
            old = self.states.get(key)
            over = state is None or row.terminal or getattr(state, "status", "") in OVER
            if over:
                self.states.pop(key, None)
            else:
                self.states[key] = state
            if kind == "instance":
                self._instance(pool, name, state, over)
            elif kind == "quarantine":
                self._quarantine(name, old, None if over else state)
            elif kind == "pool":
                if over:
                    self.pools.pop(pool, None)
                else:
                    self.pools[pool] = state
            changes.append((kind, name, old, None if over else state))
        yield from changes

    def _instance(self, pool: str, name: str, state: Any, over: bool) -> None:
        if state is None:
            self.of_key.pop(self.key_of.get(name, ""), None)
            return
        self.key_of[name] = state.key
        handle = getattr(state, "handle", None)
        if handle is not None and self.ref_of.get(name) != handle.ref:
            self.ref_of[name] = handle.ref
            self.named_at[handle.ref] = self.now()
        if over:
            self.of_key.pop(state.key, None)
        else:
            self.of_key[state.key] = (pool, name)
            if isinstance(state, Requested) and state.looking:
                self.looked_for.add(state.key)

    def _quarantine(self, name: str, old: Any, new: Any) -> None:
        if old is not None:
            self.quarantined.pop((old.key, old.handle.ref), None)
        if new is not None:
            self.quarantined[(new.key, new.handle.ref)] = name

    # --- the clouds -------------------------------------------------------------------------------

    def make(self, provider: str, key: str, ref: str, late: bool) -> Made:
        """A machine is there."""
        cloud = self.clouds.get(provider)
        machine = None if cloud is None else cloud.living.get(ref)
        if machine is not None and self.ledger is not None and 0 < machine.epoch < self.ledger.epoch:
            late = True
        made = Made(provider, key, ref, self.now(), late, machine=machine)
        self.made.setdefault(key, ref)
        self.machines[ref] = self.living[ref] = made
        self.refs.setdefault(key, []).append(ref)
        return made

    def end(self, ref: str, reason: str) -> Made | None:
        """A machine is gone; None when it had ended before, or nobody saw it begin."""
        made = self.living.pop(ref, None)
        if made is not None:
            made.lives, made.ended_at = False, self.now()
            if reason == "stopped":
                self.stopped[ref] = made
        return made

    def resume(self, ref: str) -> Made | None:
        """A machine is there again."""
        made = self.machines.get(ref)
        if made is not None:
            made.lives = True
            self.living[ref] = made
            self.stopped.pop(ref, None)
        return made

    def list(self, provider: str, listing: Listing) -> None:
        """A listing came in: who was shown, who ought to have been."""
        shown: set[str] = set()
        for sighting in listing.sightings:
            made = self.machines.get(sighting.handle.ref)
            if made is not None and sighting.ended_at is None:
                made.shown_at, made.lacked = listing.at, 0
                shown.add(made.ref)
        if not listing.complete:
            return
        young = listing.at - self.visible_within_s(provider)
        for ref, made in (*self.living.items(), *self.stopped.items()):
            if made.provider == provider and ref not in shown and made.at <= young:
                made.lacked += 1
                if made.lacked >= 2:
                    made.absent_at = self.fair.of(FairTime.HOUSE)

    def begin(self, ref: str, task: str, attempt: int) -> None:
        """A process runs."""
        self.began.setdefault((task, attempt), ref)
        self.running.setdefault(task, {})[(ref, attempt)] = None
        self.on[ref] = self.on.get(ref, 0) + 1

    def finish(self, ref: str, task: str, attempt: int) -> None:
        """A process is over."""
        live = self.running.get(task)
        if live is not None and (ref, attempt) in live:
            del live[(ref, attempt)]
            self.on[ref] -= 1
            if not live:
                del self.running[task]
