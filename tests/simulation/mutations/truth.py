"""Planted in what must survive a crash: the turn, the journal's requests, recovery and the sweep."""

from typing import Any

from actors.effects import Launch
from actors.loop import Letter, Loop
from actors.messages import RequestHeard
from actors.policy.adoption import Judgement
from actors.ports import Commit
from controller import recovery
from controller.recovery import Counted, Sweep
from controller.simulation.ledger import MemoryJournal
from providers.model import Listing, Sighting
from providers.simulated.estate import Estate
from tests.simulation.mutations.patching import Mutation, Patch


def _early(patch: Patch, *kinds: type) -> None:
    """Effects (of these kinds, if any are named) start before the turn is durable."""
    groups: dict[str, Any] = {}

    def make_turn(turn: Any) -> Any:
        async def noted(self: Loop, calls: Any, batch: list[Letter]) -> None:
            groups[self.name] = calls
            await turn(self, calls, batch)

        return noted

    def make_commit(commit_of: Any) -> Any:
        def early(self: Loop, draft: Any, now: float) -> Commit:
            commit: Commit = commit_of(self, draft, now)
            hasty = [one for one in draft.effects if not kinds or isinstance(one[0], kinds)]
            draft.effects = [one for one in draft.effects if one not in hasty]
            for effect, address, _ in hasty:
                self._perform(groups[self.name], effect, address, None)
            return commit

        return early

    patch.put(Loop, "_turn", make_turn)
    patch.put(Loop, "_commit_of", make_commit)


def act_before_journal(patch: Patch) -> None:
    """Effects start while the turn is being committed."""
    _early(patch)


def launch_before_journal(patch: Patch) -> None:
    """Launches start while the turn is being committed: a place in the market may be gone in a moment."""
    _early(patch, Launch)


def forget_what_is_owed(patch: Patch) -> None:
    """After a restart nothing is watched, connected or called again."""
    patch.put(Loop, "_owed", lambda owed: lambda self: ())


def forget_lookups(patch: Patch) -> None:
    """After a restart a launch whose call was out is waited for, and not looked up."""

    def make(owed: Any) -> Any:
        def partly(self: Loop) -> Any:
            return [one for one in owed(self) if type(one[0]).__name__ != "Find"]

        return partly

    patch.put(Loop, "_owed", make)


def take_requests_too_soon(patch: Patch) -> None:
    """A request counts as taken over when the pool hears it, before what the pool decides is durable."""

    def make(turn: Any) -> Any:
        async def hasty(self: Loop, calls: Any, batch: list[Letter]) -> None:
            heard = [one.message.envelope for one in batch if isinstance(one.message, RequestHeard)]
            taken = [envelope.request_id for envelope in heard if envelope.request_id]
            if taken:
                await self._journal.commit(Commit(self.name, (), (), taken))
            await turn(self, calls, batch)

        return hasty

    patch.put(Loop, "_turn", make)


def write_as_an_old_leader(patch: Patch) -> None:
    """The journal takes what a daemon writes that does not lead any more."""

    def make(writable: Any) -> Any:
        async def anyone(self: MemoryJournal) -> None:
            mine, self.epoch = self.epoch, self._ledger.epoch
            try:
                await writable(self)
            finally:
                self.epoch = mine

        return anyone

    patch.put(MemoryJournal, "_writable", make)


def drop_the_age_guard(patch: Patch) -> None:
    """A machine that nobody knows is ended as soon as it is seen again."""

    def make(judge: Any) -> Any:
        def hasty(found: Any, now: float) -> Judgement:
            answer: Judgement = judge(found, now)
            one = found.quarantined
            return "reap" if answer == "wait" and one is not None and one.next_at is None else answer

        return hasty

    patch.put(recovery, "judge", make)


def sweep_once(patch: Patch) -> None:
    """The sweep looks at what is there after a start, and then no more."""

    def make(one: Any) -> Any:
        async def first(self: Sweep, provider: str, listing: Listing) -> None:
            swept = self.__dict__.setdefault("swept", set())
            if provider not in swept:
                await one(self, provider, listing)
            if listing.complete:
                swept.add(provider)

        return first

    patch.put(Sweep, "_one", make)


def reap_by_word(patch: Patch) -> None:
    """A machine in quarantine counts as reaped when terminate was called."""

    def make(reap: Any) -> Any:
        async def trusting(self: Sweep, one: Any) -> None:
            await reap(self, one)
            if one.id in self.quarantine:
                await self._reaped(self.quarantine[one.id], self._clock.now())

        return trusting

    patch.put(Sweep, "_reap", make)


def leave_the_late(patch: Patch) -> None:
    """A machine of a pool that lives is the pool's business, and never the sweep's."""

    def make(known: Any) -> Any:
        def trusting(self: Sweep, sighting: Sighting) -> str | None:
            pool = sighting.key.split("/")[1]
            return sighting.key if pool in self._loops else known(self, sighting)

        return trusting

    patch.put(Sweep, "_known", make)


def know_by_key_alone(patch: Patch) -> None:
    """A second machine under a key that is in use passes for the first."""

    def make(known: Any) -> Any:
        def by_key(self: Sweep, sighting: Sighting) -> str | None:
            for loop in self._loops.values():
                for name, instance in loop.index.instances.items():
                    if instance.key == sighting.key:
                        return name
            name_: str | None = known(self, sighting)
            return name_

        return by_key

    patch.put(Sweep, "_known", make)


def pay_twice(patch: Patch) -> None:
    """Of a machine that is there again, the sweep counts what its instance has counted before."""

    def make(counted: Any) -> Any:
        async def nothing(self: Sweep, sighting: Sighting) -> Counted:
            return Counted(0.0, 0)

        return nothing

    patch.put(Sweep, "_counted", make)


def take_what_is_not_ours(patch: Patch) -> None:
    """Nobody looks whose a listed machine is: the account is thought to be ours alone."""

    def make(sightings: Any) -> Any:
        def every(self: Estate, owner: str) -> tuple[Sighting, ...]:
            owners = dict.fromkeys([owner, *(machine.owner for machine in self.living.values())])
            return tuple(one for name in owners for one in sightings(self, name))

        return every

    patch.put(Estate, "sightings", make)
    patch.put(Sweep, "_is_ours", lambda _: lambda self, sighting: True)


ALL: tuple[Mutation, ...] = (
    act_before_journal,
    launch_before_journal,
    forget_what_is_owed,
    forget_lookups,
    take_requests_too_soon,
    write_as_an_old_leader,
    drop_the_age_guard,
    sweep_once,
    reap_by_word,
    leave_the_late,
    know_by_key_alone,
    pay_twice,
    take_what_is_not_ours,
)
