"""The sweep's other half: disks, networks, keys and whatever else of ours is no machine.

The cloud is listed first, then what is known is looked at. What belongs to a machine or a cluster that lives
is left alone, and so is what its vendor says is in use. The rest waits out an age guard, counted from when
this daemon first saw that nobody claims it, and must be shown a second time; then it is removed, again and
again until a whole listing lacks it. Nothing of this is journaled: a restart begins every guard anew.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import anyio

from actors.events import Envelope, Fact, LeftoverFound, LeftoverRemoved
from actors.instance.parts import instance_id
from actors.loop import Loop
from actors.policy.backoff import retry_delay_s
from actors.ports import Clock, Commit, Dice, Journal, Observer
from controller.recovery import Sweep
from providers.errors import Fault, ProviderError
from providers.gateway import WAIT_MAX_S, Gateway
from providers.model import MICRO, Leftover, LeftoverKind, Leftovers

EVERY_S = 60.0
IN_USE = "something holds it"
FIRST_S = 2.0  # after the start, when the first machines have been listed
AGAIN_S = 5.0  # at least so long between two listings, also when something is due
FAILING_MOST_S = 900.0  # between two listings of a provider that fails
KINDS: tuple[LeftoverKind, ...] = get_args(LeftoverKind)
# What one removal heard is true of the next too, so that the rest of them waits.
ACCOUNT_FAULTS = frozenset(
    {Fault.THROTTLED, Fault.CREDENTIALS, Fault.FUNDS, Fault.QUOTA, Fault.NOT_SENT, Fault.UNKNOWN}
)

Name = tuple[str, LeftoverKind, str, str]  # provider, kind, region, the vendor's ref


@dataclass(slots=True)
class Unclaimed:
    """A leftover that belongs to nothing that lives.

    Attributes:
        leftover: as it was shown last.
        since: our time from when on nobody claimed it and nothing held it.
        shown: in how many listings.
        told: whether LeftoverFound was published.
        tries: removals asked for.
        next_at: our time before which no other is.
        refusal: what the newest one heard; "" when it was accepted, or none was made.
    """

    leftover: Leftover
    since: float
    shown: int = 0
    told: bool = False
    tries: int = 0
    next_at: float = 0.0
    refusal: str = ""


class LeftoverSweep:
    """Finds what is left behind at each provider, and removes it.

    Args:
        owner: whose leftovers.
        machines: the sweep of machines: what it holds in quarantine, and who was listed whole.
        gateways: by provider.
        loops: by pool; their states say what lives.
        guard_s: how long nobody may have claimed a thing before it is removed.
        every_s: between two listings of a provider.
        may_act: whether this daemon leads; else it only looks.
    """

    def __init__(
        self,
        *,
        owner: str,
        journal: Journal,
        observer: Observer,
        clock: Clock,
        dice: Dice,
        machines: Sweep,
        gateways: Mapping[str, Gateway],
        loops: Mapping[str, Loop],
        guard_s: float,
        every_s: float = EVERY_S,
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        self.errors: dict[str, str] = {}  # by provider: why the newest listing failed, or was not whole
        self._owner = owner
        self._journal = journal
        self._observer = observer
        self._clock = clock
        self._dice = dice
        self._machines = machines
        self._gateways = gateways
        self._loops = loops
        self.guard_s = guard_s
        self._every_s = every_s
        self._may_act = may_act
        self._unclaimed: dict[str, dict[Name, Unclaimed]] = {name: {} for name in gateways}

    # --- what is shown of it ----------------------------------------------------------------------

    def of(self, provider: str) -> Iterable[Unclaimed]:
        """What nobody claims at a provider, oldest first."""
        return self._unclaimed[provider].values()

    def counted(self) -> Iterable[tuple[str, LeftoverKind, int, int]]:
        """(provider, kind, how many, their micro-dollars an hour), zeros too."""
        for provider, found in self._unclaimed.items():
            count: Counter[str] = Counter(one.leftover.kind for one in found.values())
            cost: Counter[str] = Counter()
            for one in found.values():
                cost[one.leftover.kind] += one.leftover.micro_usd_per_hour
            for kind in KINDS:
                yield provider, kind, count[kind], cost[kind]

    def summary(self, provider: str) -> dict[str, Any]:
        """What there is at a provider, in short; which ones they are is told by their facts."""
        found = list(self.of(provider))
        return {
            "kinds": dict(Counter(one.leftover.kind for one in found)),
            "usd_per_hour": sum(one.leftover.micro_usd_per_hour for one in found) / MICRO,
            "refusal": next((one.refusal for one in found if one.refusal), None),
            "error": self.errors.get(provider),
        }

    # --- the loop ---------------------------------------------------------------------------------

    async def watch(self, provider: str) -> None:
        """Look after one provider until cancelled."""
        gateway, failures = self._gateways[provider], 0
        wait = FIRST_S
        while True:
            await anyio.sleep(wait)
            try:
                shown = await gateway.leftovers()
            except ProviderError as error:
                failures += 1
                self.errors[provider] = str(error)
                slower = min(FAILING_MOST_S, self._every_s * 2.0 ** min(failures, 10))
                wait = max(slower, min(WAIT_MAX_S, error.retry_after_s or 0.0))
                continue
            failures = 0
            self.errors.pop(provider, None)
            if not shown.complete:
                self.errors[provider] = f"unreachable: {', '.join(shown.unreachable)}"
            await self._compare(provider, shown)
            if self._can_remove(provider):
                await self._remove_due(gateway)
            wait = self._wait_s(provider)

    async def _compare(self, provider: str, shown: Leftovers) -> None:
        there: set[Name] = set()
        known = self._unclaimed[provider]
        now = self._clock.now()
        for leftover in shown.found:
            if leftover.key and not leftover.key.startswith(f"{self._owner}/"):
                continue  # whatever the adapter took for our mark
            name: Name = (provider, leftover.kind, leftover.handle.region, leftover.handle.ref)
            there.add(name)
            if self._is_claimed(leftover):
                known.pop(name, None)
                continue
            one = known.get(name)
            if one is None:
                one = known[name] = Unclaimed(leftover, now)
            one.leftover = leftover
            one.shown += 1
            if leftover.in_use:
                one.refusal = IN_USE
            elif one.refusal == IN_USE:  # what held it has let go: the guard begins anew
                one.since, one.refusal = now, ""
            # Once may be a listing older than the end of a cluster, or a disk that goes with its machine.
            if one.shown >= 2 and not one.told and self._may_act():
                await self._publish(_found(leftover, provider))
                one.told = True
        for gone in [name for name in known if name not in there and shown.covers(known[name].leftover)]:
            if known[gone].told:
                await self._publish(_removed(known[gone].leftover, provider))
            del known[gone]

    def _is_claimed(self, leftover: Leftover) -> bool:
        """Whether it belongs to something that lives: its machine when it has one, else its cluster."""
        if leftover.key:
            parts = leftover.key.split("/")
            if len(parts) == 5 and parts[1] in self._loops:
                instance = self._loops[parts[1]].index.instances.get(instance_id(leftover.key))
                if instance is not None and instance.key == leftover.key:
                    return True
            return any(one.key == leftover.key for one in self._machines.quarantine.values())
        return any(
            loop.index.pool is not None and leftover.cluster_id in loop.index.pool.clusters
            for loop in self._loops.values()
        )

    # --- removal ----------------------------------------------------------------------------------

    def _can_remove(self, provider: str) -> bool:
        """Machines first: their listing also tells whether a newer daemon leads."""
        return self._may_act() and provider in self._machines.listed

    def _due_at(self, one: Unclaimed) -> float:
        return max(one.since + self.guard_s, one.next_at)

    def _wait_s(self, provider: str) -> float:
        if not self._can_remove(provider):
            return self._every_s
        soonest = min((self._due_at(one) for one in self.of(provider)), default=None)
        if soonest is None:
            return self._every_s
        return min(self._every_s, max(AGAIN_S, soonest - self._clock.now()))

    async def _remove_due(self, gateway: Gateway) -> None:
        for one in list(self.of(gateway.name)):
            now = self._clock.now()
            if not one.told or one.leftover.in_use or now < self._due_at(one):
                continue
            if not self._may_act() or self._is_claimed(one.leftover):
                continue  # while others were removed
            one.tries += 1
            one.next_at = now + retry_delay_s(one.tries, self._dice.random(), first_s=5, most_s=300)
            try:
                await gateway.remove(one.leftover)
            except ProviderError as error:
                one.refusal = str(error)
                one.next_at = max(one.next_at, now + min(WAIT_MAX_S, error.retry_after_s or 0.0))
                if error.fault in ACCOUNT_FAULTS:
                    return
            else:
                one.refusal = ""

    async def _publish(self, fact: Fact) -> None:
        envelope = Envelope(seq=self._journal.reserve(1), at=self._clock.now(), pool="", event=fact)
        commit = Commit("", (), [envelope])
        await self._journal.commit(commit)
        self._observer.committed(commit)


def _found(one: Leftover, provider: str) -> LeftoverFound:
    return LeftoverFound(
        leftover=one.kind,
        provider=provider,
        ref=one.handle.ref,
        region=one.handle.region,
        key=one.key,
        cluster_id=one.cluster_id,
        micro_usd_per_hour=one.micro_usd_per_hour,
    )


def _removed(one: Leftover, provider: str) -> LeftoverRemoved:
    return LeftoverRemoved(
        leftover=one.kind,
        provider=provider,
        ref=one.handle.ref,
        region=one.handle.region,
        key=one.key,
        cluster_id=one.cluster_id,
    )
