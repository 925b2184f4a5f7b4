"""Rules about machines: one for a key, none forgotten, none touched that is not ours."""

from typing import Any

from actors.events import InstanceDestroyed, InstanceQuarantined
from controller.simulation.house import GUARD_S, OBSERVE_EVERY_S
from providers.model import Listing
from tests.simulation.referee.base import Checker
from tests.simulation.referee.book import Made
from tests.simulation.referee.times import TICK_S, Ages, Fair, FairTime

SWEEP_S = 2 * OBSERVE_EVERY_S + GUARD_S  # two listings and the age guard
# What a terminate may take: it is refused or ignored several times, waits longer after each, and the end
# shows only in the second listing after it.
TERMINATE_S = 900.0
REPAIR_S = SWEEP_S + TERMINATE_S
LISTING_EVERY_S = 10 * OBSERVE_EVERY_S  # of fair time: so many in a row do not fail by bad luck


class OneMachineAKey(Checker):
    """A launch key names one machine. A twin is made only by a cloud that knows no tokens, by a late call of
    an old daemon or for a launch whose outcome nobody knew; and then one is gone within a sweep."""

    name = "one machine for a key"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._twins = Ages(self.book.fair)

    def machine_made(self, made: Made) -> None:
        """It is the first, or there is a good reason."""
        key, refs = made.key, self.book.refs[made.key]
        if len(refs) == 1:
            return
        cloud = self.book.clouds.get(made.provider)
        has_tokens = cloud is None or cloud.config.tokens
        if has_tokens:
            self.fail(f"two machines for {key}: {', '.join(refs)}", key)
        elif not made.late and key not in self.book.looked_for:
            self.fail(f"{key} was launched again though nobody doubted that it had been: {refs}", key)
        else:
            self._watch(made)

    def machine_resumed(self, made: Made) -> None:
        """It may have a twin by now."""
        self._watch(made)

    def _watch(self, made: Made) -> None:
        if self._living(made.key) > 1:
            self._twins.start(made.key, made.provider, REPAIR_S)

    def machine_ended(self, made: Made, reason: str) -> None:
        """One is left."""
        if made.key in self._twins and self._living(made.key) <= 1:
            self._twins.stop(made.key)

    def _living(self, key: str) -> int:
        return sum(1 for ref in self.book.refs[key] if ref in self.book.living)

    def tick(self, seconds: float, fair: Fair) -> None:
        """Twins do not last."""
        for key in self._twins.over():
            refs = [ref for ref in self.book.refs[str(key)] if ref in self.book.living]
            self.fail(f"{len(refs)} machines for {key} after a whole sweep: {', '.join(refs)}", str(key))


class NoneForgotten(Checker):
    """Every machine of ours is an instance's, or in quarantine from the second listing on that shows it; and
    what no instance has is gone within a sweep."""

    name = "no machine is forgotten"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._unknown: dict[
            str, tuple[int, float]
        ] = {}  # ref -> listings that showed it, fair time at the first
        self._unwanted = Ages(self.book.fair)
        self._listings = Ages(self.book.fair)

    def machine_made(self, made: Made) -> None:
        """Somebody must know it soon."""
        if made.provider not in self._listings:
            self._listings.start(made.provider, made.provider, LISTING_EVERY_S)

    def machine_ended(self, made: Made, reason: str) -> None:
        """Nobody needs to know it any more."""
        self._unknown.pop(made.ref, None)
        self._unwanted.stop(made.ref)

    def listed(self, provider: str, listing: Listing) -> None:
        """What is shown must be known when it is shown again."""
        book = self.book
        if listing.complete:
            self._listings.start(provider, provider, LISTING_EVERY_S)
        for sighting in listing.sightings:
            made = book.living.get(sighting.handle.ref)
            if made is None or sighting.ended_at is not None:
                continue
            if book.is_quarantined(made) or book.owner(made) is not None or made.key in book.foreign:
                self._unknown.pop(made.ref, None)
                continue
            count, since = self._unknown.get(made.ref, (0, book.fair.of(provider)))
            self._unknown[made.ref] = (count + 1, since)
            if count >= 2 and book.fair.of(provider) - since > OBSERVE_EVERY_S:
                self.fail(f"nobody knows {made.ref} of {made.key}, shown {count + 1} times", made.key)

    def tick(self, seconds: float, fair: Fair) -> None:
        """Listings go on, and nothing stays that no instance has."""
        for provider in self._listings.over():
            self.fail(f"no complete listing of {provider} for {LISTING_EVERY_S:g} s of fair time")
        for ref, made in self.book.living.items():
            if made.key in self.book.foreign:
                continue
            if self.book.owner(made) is not None:
                self._unwanted.stop(ref)
            elif ref not in self._unwanted:
                hidden_s = self.book.visible_within_s(made.provider)
                self._unwanted.start(ref, made.provider, REPAIR_S + hidden_s)
        for name in self._unwanted.over():
            one = self.book.living[str(name)]
            where = "in quarantine" if self.book.is_quarantined(one) else "unknown"
            self.fail(f"{one.ref} of {one.key} lives, no instance has it, {where} for too long", one.key)


class AbsenceIsObserved(Checker):
    """A machine counts as destroyed when it is gone, or when two complete listings in a row, made late enough
    after its launch, lacked it."""

    name = "absence is observed"
    events = (InstanceDestroyed,)

    def event(self, envelope: Any, event: Any) -> None:
        """It is gone."""
        name = event.instance_id
        machines = self.book.machines_of(name)
        if not machines and self.book.key_of.get(name, "") not in self.book.made:
            self.fail(f"{name} was destroyed and never made", name)
        for made in machines:
            if made.lives and not self._was_absent(made):
                self.fail(f"{name} counts as destroyed, and its machine {made.ref} lives", name)
            made.buried = made.lives

    def _was_absent(self, made: Made) -> bool:
        """A commit may have had to wait for the disk since; fair time has hardly passed meanwhile."""
        at, now = made.absent_at, self.book.fair.of(FairTime.HOUSE)
        return made.lacked >= 2 or (at is not None and now - at <= 2 * TICK_S)


class ForeignUntouched(Checker):
    """What does not have our mark is never terminated, and is no business of ours."""

    name = "foreign machines are untouched"
    events = (InstanceQuarantined,)

    def machine_ended(self, made: Made, reason: str) -> None:
        """Not by us."""
        if made.key in self.book.foreign and reason == "terminated":
            self.fail(f"{made.ref} of {made.key} was terminated", made.key)

    def event(self, envelope: Any, event: Any) -> None:
        """It is ours."""
        if event.key in self.book.foreign:
            self.fail(f"{event.ref} of {event.key} is in quarantine", event.key)

    def at_the_end(self) -> None:
        """They are still there, but for what their cloud did itself."""
        for key in sorted(self.book.foreign):
            refs = self.book.refs.get(key, [])
            if not refs or not any(self.book.machines[ref].lives for ref in refs):
                self.fail(f"the machine of {key} is gone", key)
