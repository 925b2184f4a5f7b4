"""Rules about what must come first: the journal before the launch, the age guard before the reaping."""

from typing import Any

from actors.events import InstanceQuarantined
from controller.simulation.house import GUARD_S, OWNER
from tests.simulation.referee.base import Checker
from tests.simulation.referee.book import Made

EARLY_S = 1.0  # a daemon's clock, as the referee knows it, may be off by so much
PLANTED_NODE = 900  # from here on nodes are the world's own, which plants machines under their keys


class LaunchesAreJournaled(Checker):
    """A machine of ours is made only under a key that the journal has."""

    name = "launches are journaled first"

    def machine_made(self, made: Made) -> None:
        """Somebody must have ordered it."""
        parts = made.key.split("/")
        if made.key in self.book.foreign or len(parts) != 5 or parts[0] != OWNER:
            return
        if self.book.ledger is None or (parts[2].isdigit() and int(parts[2]) >= PLANTED_NODE):
            return
        if not made.late and made.key not in self.book.key_of.values():
            self.fail(f"{made.ref} was made, and no state in the journal has its key {made.key}", made.key)


class GuardIsKept(Checker):
    """What is quarantined waits for the age guard, once, before it is ended."""

    name = "the age guard is kept"
    kinds = ("quarantine",)
    events = (InstanceQuarantined,)

    def event(self, envelope: Any, event: Any) -> None:
        """It is not taken in twice."""
        if (event.key, event.ref) in self.book.quarantined:
            self.fail(f"{event.ref} of {event.key} is quarantined again", event.key, event.ref)

    def changed(self, pool: str, kind: str, name: str, old: Any, new: Any) -> None:
        """The guard is long enough, and the first try comes after it."""
        if new is None:
            return
        if old is None and new.reap_at - new.seen_at < GUARD_S:
            self.fail(f"{new.key} is quarantined for {new.reap_at - new.seen_at:g} s only", new.key)
        now = self.book.now() + self.book.offset
        is_known = now > 0  # its clock; before its first event a life has told nothing of it
        if old is not None and old.tries == 0 and new.tries > 0 and is_known and now < new.reap_at - EARLY_S:
            self.fail(f"{new.key} is reaped {new.reap_at - now:.0f} s before its guard is over", new.key)
