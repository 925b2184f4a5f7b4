"""The rule about money: what is reported is what is billed."""

from bisect import bisect_right, insort
from collections import Counter
from typing import Any

from actors.events import InstanceDestroyed, InstanceReaped
from controller.simulation.house import OBSERVE_EVERY_S
from providers.model import Listing
from tests.simulation.referee.base import Checker
from tests.simulation.referee.book import Made
from tests.simulation.referee.times import TICK_S

CALL_S = 20.0  # a listing may be as old as its call took


class DollarsAreBilled(Checker):
    """The cost of all facts about a machine is what its cloud billed: exactly, where a listing told its end;
    else but for the time between the listings around it, of which unfair time may keep some away. Each time
    that it was stopped and ran again is an end that only listings show."""

    name = "dollars reported are dollars billed"
    events = (InstanceDestroyed, InstanceReaped)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._reported: Counter[str] = Counter()  # by ref
        self._facts: Counter[str] = Counter()
        # By ref: when it was shown last before it stopped, when it stopped and when it ran again.
        self._stops: dict[str, list[tuple[float, float, float]]] = {}
        self._told: set[str] = set()  # refs whose end was listed
        self._listings: dict[str, list[float]] = {}  # times of complete listings
        self._unfair: dict[str, float] = {}  # when it ended: unfair time so far

    def machine_ended(self, made: Made, reason: str) -> None:
        """From now on the cost is fixed."""
        self._unfair[made.ref] = self.book.fair.unfair(made.provider)
        self._told.discard(made.ref)

    def machine_resumed(self, made: Made) -> None:
        """It costs again, from a new second on."""
        if made.ended_at is not None:
            shown_at = made.at if made.shown_at is None else made.shown_at
            stop = (min(shown_at, made.ended_at), made.ended_at, self.book.now())
            self._stops.setdefault(made.ref, []).append(stop)

    def listed(self, provider: str, listing: Listing) -> None:
        """Remember when who was seen."""
        if listing.complete:
            insort(self._listings.setdefault(provider, []), listing.at)
        for sighting in listing.sightings:
            if sighting.ended_at is not None and sighting.handle.ref not in self.book.living:
                self._told.add(sighting.handle.ref)

    def life_began(self, epoch: int) -> None:
        """What was told to the last daemon may not have reached its journal."""
        self._told.clear()

    def event(self, envelope: Any, event: Any) -> None:
        """Add up, and compare when the machine has ended."""
        if isinstance(event, InstanceReaped):
            refs = [event.ref]
        else:
            refs = [made.ref for made in self.book.machines_of(event.instance_id)][:1]
        for ref in refs:
            self._reported[ref] += event.cost_micro_usd
            self._facts[ref] += 1
            made = self.book.machines.get(ref)
            if made is not None and not made.lives:
                self._compare(made)

    def _compare(self, made: Made) -> None:
        machine = made.machine
        if machine is None or (made.shown_at is None and made.ref not in self._told):
            return  # never shown: nobody can know more than what the offer said
        reported, billed = self._reported[made.ref], machine.billed_micro_usd(self.book.now())
        per_s = machine.offer.micro_usd_per_hour / 3600
        # Every fact counts begun seconds whole, and the cloud does so each time that the machine runs.
        runs = 1 + len(self._stops.get(made.ref, ()))
        rounding = max(0, self._facts[made.ref] + runs - 2) * (per_s + 1)
        less = more = 0.0
        if made.ref not in self._told:
            less, more = self._doubt_s(made)
        for shown_at, ended_at, began_at in self._stops.get(made.ref, ()):
            unseen_s = min(began_at, self._listed_after(made.provider, ended_at)) - ended_at
            less += max(OBSERVE_EVERY_S, ended_at - shown_at) + CALL_S
            more += max(OBSERVE_EVERY_S, unseen_s) + CALL_S
        if not billed - less * per_s - rounding <= reported <= billed + more * per_s + rounding:
            how = "exactly" if made.ref in self._told else f"-{less:.0f} +{more:.0f} s"
            self.fail(
                f"{made.ref} of {made.key} cost {billed} micro-dollars ({how}), reported are {reported}",
                made.key,
            )

    def _doubt_s(self, made: Made) -> tuple[float, float]:
        """How much too little and too much may be reported of an end that nobody told, in seconds."""
        assert made.ended_at is not None
        shown_at = made.at if made.shown_at is None else made.shown_at
        before = max(0.0, made.ended_at - shown_at)
        # It is missed by the first listing that must show it (it may be hidden for a while after its launch,
        # which is when its name was heard), and does not show what was before.
        named_at = self.book.named_at.get(made.ref, made.at)
        lacking_from = max(made.ended_at, named_at + self.book.visible_within_s(made.provider), shown_at)
        after = self._listed_after(made.provider, lacking_from)
        unfair = self.book.fair.unfair(made.provider) - self._unfair.get(made.ref, 0.0)
        late = max(OBSERVE_EVERY_S, after - made.ended_at) + CALL_S
        return max(OBSERVE_EVERY_S, before) + CALL_S, late + (unfair + TICK_S if unfair else 0.0)

    def _listed_after(self, provider: str, at: float) -> float:
        """The time of the first complete listing later than that; now, when there is none."""
        listings = self._listings.get(provider, [])
        place = bisect_right(listings, at)
        return listings[place] if place < len(listings) else self.book.now()

    def at_the_end(self) -> None:
        """Every machine of ours was paid for."""
        for made in self.book.machines.values():
            if made.key not in self.book.foreign and not made.lives:
                self._compare(made)
