"""One gateway per account: the only door to a provider's calls.

It limits the rate of calls (terminates go first), collects launches and terminates into batches, keeps the
newest offers, and runs the one observation loop, which compares each listing with what it saw before and
passes on only what changed. A machine is its vendor's ref: two can have one key where a vendor knows no
tokens. Absence is believed when a watched machine is missing from two complete listings in a row, both later
than the provider's `visible_within_s` after its launch, or when a listing says that it has ended.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import anyio

from providers.contract import Provider
from providers.errors import Fault, ProviderError
from providers.model import (
    Check,
    ClusterHandle,
    ClusterOrder,
    Handle,
    Leftover,
    Leftovers,
    Listing,
    Notice,
    Offer,
    Order,
    Sighting,
)
from providers.pace import RateLimit

CALL_TIMEOUT_S = 60.0
LAUNCH_TIMEOUT_S = 120.0
SWEEP_TIMEOUT_S = 180.0  # a listing of leftovers is many calls: of each kind, in each region
CHECK_TIMEOUT_S = 30.0
BATCH_WINDOW_S = 0.005  # launches, or terminates, that come this close together share a call
LOOK_SOON_S = 0.05  # a hurried observation waits so long for others that hurry it too
FAILED_LOOKS = 2  # listings in a row that fail: then nothing is bought there until one comes
WATCHED_WITHIN_S = 60.0  # of its launch, when anybody still wants it
REFUSED_S = 300.0  # nor for so long after the account was refused
OFFERS_FRESH_S = 10.0  # offers that are not older are not asked for again, whoever wants them
FULL_AGAIN_S = 15.0  # when there are as many machines as may be: when to ask again
NOTICES_AGAIN_S = 10.0
NOTICES_WELL_S = 300.0  # a stream of notices that lasted so long had nothing wrong with it
WAIT_MAX_S = 3600.0  # however long a provider asks us to wait
# What soon trying again will not mend: a human has to, or another day has to come.
SLOW_FAULTS = frozenset({Fault.CREDENTIALS, Fault.FUNDS, Fault.QUOTA, Fault.REJECTED})


class Listener(Protocol):
    """Who hears what the provider shows. Called from the gateway's task; must not block."""

    def seen(self, sighting: Sighting, at: float, lacked_at: float | None) -> None:
        """A watched machine is new or changed `at` (the vendor's time); listings had lacked it since."""

    def absent(self, key: str, at: float, told: Sighting | None) -> None:
        """A watched machine is gone since `at` (the vendor's time); `told`: the vendor says so itself."""

    def noticed(self, key: str, notice: Notice | None) -> None:
        """The vendor pushed a notice for a watched machine, or withdrew it."""

    def listed(self, provider: str, listing: Listing) -> None:
        """A listing came in, whole or not: for the sweep."""

    def offers_changed(self, provider: str) -> None:
        """Offers, prices or whether anything can be bought there may not be what they were."""


@dataclass(slots=True)
class _Watched:
    key: str
    launched_at: float
    region: str
    zone: str
    last: Sighting | None = None
    missing: int = 0  # listings in a row that count
    lacked_at: float | None = None  # when listings began to lack it, whether they count or not


_Asked = TypeVar("_Asked")  # what one caller asks for
_Outcome = TypeVar("_Outcome")


@dataclass(slots=True)
class _Waiting(Generic[_Asked, _Outcome]):
    asked: _Asked
    outcome: _Outcome | ProviderError
    done: anyio.Event = field(default_factory=anyio.Event)


class _Batches(Generic[_Asked, _Outcome]):
    """Collects what is asked for within a moment into calls of at most `size`, each for one region.

    A call answers when its slowest part does: no region waits for another.
    """

    def __init__(
        self,
        size: int,
        region: Callable[[_Asked], str],
        call: Callable[[Sequence[_Asked]], Awaitable[Sequence[_Outcome | ProviderError]]],
    ) -> None:
        self._size = max(1, size)
        self._region = region
        self._call = call
        self._queue: list[_Waiting[_Asked, _Outcome]] = []
        self._asked = anyio.Event()

    async def ask(self, asked: _Asked) -> _Outcome:
        """Wait for the outcome of one. Raises ProviderError."""
        waiting = _Waiting[_Asked, _Outcome](asked, ProviderError(Fault.UNKNOWN, "the call was given up"))
        self._queue.append(waiting)
        self._asked.set()
        await waiting.done.wait()
        if isinstance(waiting.outcome, ProviderError):
            raise waiting.outcome
        return waiting.outcome

    async def run(self) -> None:
        """Make the calls, side by side, until cancelled."""
        async with anyio.create_task_group() as calls:
            while True:
                await self._asked.wait()
                await anyio.sleep(BATCH_WINDOW_S)
                self._asked = anyio.Event()
                queue, self._queue = self._queue, []
                by_region: dict[str, list[_Waiting[_Asked, _Outcome]]] = {}
                for waiting in queue:
                    by_region.setdefault(self._region(waiting.asked), []).append(waiting)
                for some in by_region.values():
                    for start in range(0, len(some), self._size):
                        calls.start_soon(self._one, some[start : start + self._size])
                del queue, by_region  # they hold keys, and the next may be long in coming

    async def _one(self, batch: Sequence[_Waiting[_Asked, _Outcome]]) -> None:
        outcomes: Sequence[_Outcome | ProviderError] = ()
        failure = ProviderError(Fault.UNKNOWN, "the call ended without an answer")
        try:
            outcomes = await self._call([waiting.asked for waiting in batch])
        except ProviderError as error:
            failure = error
        finally:
            for i, waiting in enumerate(batch):
                waiting.outcome = outcomes[i] if i < len(outcomes) else failure
                waiting.done.set()


class Gateway:
    """Calls to one account, and what it shows of our machines."""

    def __init__(
        self,
        provider: Provider,
        *,
        owner: str,
        listener: Listener,
        now: Callable[[], float],
        observe_every_s: float = 15.0,
        observe_timeout_s: float = CALL_TIMEOUT_S,
        offers_every_s: float = 300.0,
        calls_per_s: float = 50.0,
        calls_burst: int = 200,
    ) -> None:
        self.provider = provider
        self.name = provider.name
        self.capabilities = provider.capabilities
        self.offers: tuple[Offer, ...] | None = None
        self.offers_at: float | None = None
        self.observed_at: float | None = None  # last complete listing
        self.last_error: str | None = None
        self.trouble: str | None = None  # why nothing can be bought here now, whatever the market
        self._failed_looks = 0
        self._no_offers: str | None = None  # why there never were any
        self._refused: tuple[float, str] | None = None  # until when, and why
        self._offers_wanted = anyio.Event()
        self._wants_offers = False  # somebody asked for them and waits
        self._forbidden: set[str] = set()  # markets that refused our credentials since the last launch
        self.notices_error: str | None = None  # why the push of notices failed last; None: it runs
        self._owner = owner
        self._listener = listener
        self._now = now
        self.observe_every(observe_every_s)
        self._observe_timeout_s = observe_timeout_s
        self._offers_every_s = offers_every_s
        self._limit = RateLimit(calls_per_s, calls_burst, now)
        self._watched: dict[str, _Watched] = {}  # by the vendor's ref
        self._refs: dict[str, str] = {}  # of watched keys
        self._launches = _Batches[Order, Handle](
            self.capabilities.launch_batch_max, lambda order: order.offer.region, self._launch_batch
        )
        self._terminates = _Batches[Handle, None](
            self.capabilities.terminate_batch_max, lambda handle: handle.region, self._terminate_batch
        )
        self._launching = 0  # calls for so many machines are out
        self._launched: dict[str, float] = {}  # when keys got a machine that is not watched yet
        self._hurry = anyio.Event()
        self._pause_s = self._observe_every_s  # until the next look; short after a hurry, then growing

    def observe_every(self, seconds: float) -> None:
        """Look so often from the next look on; a provider may want it to be less often."""
        self._observe_every_s = max(seconds, self.capabilities.observe_every_s)

    # --- calls ------------------------------------------------------------------------------------

    async def launch(self, order: Order) -> Handle:
        """Order one machine, together with others that come at the same time.

        Raises:
            ProviderError: as the provider answers, or quota: there are as many machines as may be.
        """
        most = self.capabilities.machines_max
        if self._machines() >= most:
            text = f"machines_max of {self.name} is reached: {most}"
            raise ProviderError(Fault.QUOTA, text, retry_after_s=FULL_AGAIN_S)
        self._launching += 1
        try:
            handle = await self._launches.ask(order)
        finally:
            self._launching -= 1
        if handle.ref not in self._watched:
            self._launched[order.key] = self._now()
        return handle

    def _machines(self) -> int:
        """How many there are, and may soon be. What nobody came to watch is the sweep's."""
        long_ago = self._now() - WATCHED_WITHIN_S
        for key in [key for key, at in self._launched.items() if at < long_ago]:
            del self._launched[key]
        return len(self._watched) + len(self._launched) + self._launching

    async def find(self, key: str) -> Sighting | None:
        """Look one machine up by key. Raises ProviderError."""
        await self._limit.take()
        with _bounded(CALL_TIMEOUT_S, "find"):
            return await self.provider.find(key)

    async def terminate(self, handle: Handle) -> None:
        """End one machine; goes before calls of other kinds. Raises ProviderError.

        Where the provider ends many with one call, those that come at the same time share it; else each
        is called for at once.
        """
        if self.capabilities.terminate_batch_max > 1:
            await self._terminates.ask(handle)
        elif (outcome := (await self._terminate_batch([handle]))[0]) is not None:
            raise outcome

    async def _launch_batch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
        await self._limit.take()
        with _bounded(LAUNCH_TIMEOUT_S, "launch"):
            outcomes = await self.provider.launch(orders)
            for order, outcome in zip(orders, outcomes, strict=False):
                self._note_refusal(str(order.offer.market), outcome)
            return outcomes
        raise AssertionError  # _bounded raises when it ends the call

    def _note_refusal(self, market: str, outcome: Handle | ProviderError) -> None:
        """No money is so for all markets alike; no right is, once two of them say so."""
        if isinstance(outcome, Handle):
            self._forbidden.clear()
        elif outcome.fault is Fault.CREDENTIALS:
            self._forbidden.add(market)
        if isinstance(outcome, ProviderError) and (
            outcome.fault is Fault.FUNDS or (outcome.fault is Fault.CREDENTIALS and len(self._forbidden) > 1)
        ):
            self._refused = (self._now() + REFUSED_S, f"refuses to launch: {outcome}")
            self._judge()

    def forgive(self) -> None:
        """Forget refusals to launch: what they were for may have been mended just now."""
        self._forbidden.clear()
        if self._refused is not None:
            self._refused = None
            self._judge()

    async def _terminate_batch(self, handles: Sequence[Handle]) -> Sequence[ProviderError | None]:
        await self._limit.take(urgent=True)
        with _bounded(CALL_TIMEOUT_S, "terminate"):
            return await self.provider.terminate(handles)
        raise AssertionError

    async def open_cluster(self, order: ClusterOrder) -> ClusterHandle:
        """Make what a cluster needs. Raises ProviderError."""
        await self._limit.take()
        with _bounded(CALL_TIMEOUT_S, "open cluster"):
            return await self.provider.open_cluster(order)

    async def close_cluster(self, cluster: ClusterHandle) -> None:
        """Remove it again. Raises ProviderError."""
        await self._limit.take()
        with _bounded(CALL_TIMEOUT_S, "close cluster"):
            await self.provider.close_cluster(cluster)

    async def leftovers(self) -> Leftovers:
        """What is ours there besides machines. Raises ProviderError."""
        await self._limit.take()
        with _bounded(SWEEP_TIMEOUT_S, "leftovers"):
            return await self.provider.leftovers(self._owner)
        raise AssertionError

    async def remove(self, leftover: Leftover) -> None:
        """Remove one of them. Raises ProviderError."""
        await self._limit.take()
        with _bounded(CALL_TIMEOUT_S, "remove"):
            await self.provider.remove(leftover)

    async def check(self) -> Sequence[Check]:
        """What the provider finds wrong or well. Raises ProviderError when it does not answer in time."""
        with _bounded(CHECK_TIMEOUT_S, "check"):
            await self._limit.take()
            return await self.provider.check(self._owner)
        raise AssertionError

    # --- watching ---------------------------------------------------------------------------------

    def watch(self, key: str, ref: str, launched_at: float, region: str = "", zone: str = "") -> None:
        """Pass on what is seen of this machine, from the next listing on."""
        self._launched.pop(key, None)
        if self._refs.get(key, ref) != ref:
            self.unwatch(key)
        if ref not in self._watched:
            self._watched[ref] = _Watched(key, launched_at, region, zone)
            self._refs[key] = ref
        self.tell_again(key)

    def unwatch(self, key: str) -> None:
        """Stop that."""
        self._watched.pop(self._refs.pop(key, ""), None)

    def tell_again(self, key: str) -> None:
        """Pass on what the next listing shows of this machine, changed or not."""
        if (watched := self._watched.get(self._refs.get(key, ""))) is not None:
            watched.last = None
            self.look()

    def look(self) -> None:
        """List soon, and again at growing intervals: something is expected to have changed."""
        self._pause_s = self.capabilities.look_again_s
        self._hurry.set()

    def refresh_offers(self) -> None:
        """Ask for offers now, at our own pace; `offers_changed` tells when they came, new or not.

        Not when they are on their way, nor when they are fresh (then it is told at once), nor before a
        provider that failed to tell them is to be asked again.
        """
        if self.offers_at is not None and self._now() - self.offers_at < OFFERS_FRESH_S:
            self._listener.offers_changed(self.name)
            return
        self._wants_offers = True
        self._offers_wanted.set()

    async def run(self) -> None:
        """Observe, batch and refresh until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._observe_for_ever)
            tasks.start_soon(self._launches.run)
            if self.capabilities.terminate_batch_max > 1:
                tasks.start_soon(self._terminates.run)
            tasks.start_soon(self._keep_offers)
            tasks.start_soon(self._hear_notices)

    async def _keep_offers(self) -> None:
        wait = 1.0
        while True:
            try:
                await self._limit.take()
                with _bounded(CALL_TIMEOUT_S, "offers"):
                    offers = tuple(await self.provider.offers())
            except ProviderError as error:
                self.last_error = str(error)
                if self.offers is None:
                    self._no_offers = str(error)
                    self._judge()
                if error.fault in SLOW_FAULTS:
                    wait = self._offers_every_s
                await anyio.sleep(max(wait, _asked_to_wait_s(error)))
                wait = min(wait * 2, self._offers_every_s)
                continue
            wait = 1.0
            changed, self.offers = offers != self.offers, offers
            if self._no_offers is not None:
                self._no_offers = None
                self._judge()
            self.offers_at = self._now()
            wanted, self._wants_offers = self._wants_offers, False
            if changed or wanted:
                self._listener.offers_changed(self.name)
            self._offers_wanted = anyio.Event()
            with anyio.move_on_after(self._offers_every_s):
                await self._offers_wanted.wait()

    async def _hear_notices(self) -> None:
        while True:
            opened_at = self._now()
            try:
                async for key, notice in self.provider.notices():
                    self.notices_error = None
                    if key in self._refs:
                        self._listener.noticed(key, notice)
            except ProviderError as error:
                self.notices_error = str(error)
            else:
                self.notices_error = "its stream of notices ended"
            if self._now() - opened_at > NOTICES_WELL_S:
                self.notices_error = None
            await anyio.sleep(NOTICES_AGAIN_S)  # a push channel that ends is opened again

    async def _observe_for_ever(self) -> None:
        while True:
            self._hurry = anyio.Event()
            not_before_s = await self._observe()
            if not_before_s > 0:
                await anyio.sleep(not_before_s)
            wait = min(self._pause_s, self._observe_every_s)
            self._pause_s = min(self._pause_s * 1.5, self._observe_every_s)
            with anyio.move_on_after(wait):
                await self._hurry.wait()
                await anyio.sleep(LOOK_SOON_S)

    def _judge(self) -> None:
        """Tell when nothing can be bought here any more, or again."""
        if self._refused is not None and self._now() >= self._refused[0]:
            self._refused = None
        trouble = None if self._refused is None else self._refused[1]
        if self._no_offers is not None:
            trouble = f"has not told its offers: {self._no_offers}"
        if self._failed_looks >= FAILED_LOOKS:
            trouble = f"does not list its machines: {self.last_error}"
        was, self.trouble = self.trouble, trouble
        if (was is None) != (trouble is None):
            self._listener.offers_changed(self.name)

    async def _observe(self) -> float:
        """List once; returns for how many seconds no other listing may be asked for."""
        asked_at = self._now()
        try:
            await self._limit.take()
            with _bounded(self._observe_timeout_s, "observe"):
                listing = await self.provider.observe(self._owner)
        except ProviderError as error:
            self.last_error = str(error)
            if error.fault is not Fault.THROTTLED:
                self._failed_looks += 1
            if self._failed_looks == 1:  # a second look soon tells a hiccup from an outage
                self._pause_s = min(self._pause_s, self.capabilities.look_again_s)
            self._judge()
            return _asked_to_wait_s(error)
        self._failed_looks = 0
        self._judge()
        self.last_error = None if listing.complete else f"unreachable: {', '.join(listing.unreachable)}"
        if listing.complete:
            self.observed_at = asked_at
        self._listener.listed(self.name, listing)
        known = self._watched
        seen: set[str] = set()
        for sighting in listing.sightings:
            ref = sighting.handle.ref
            watched = known.get(ref)
            if watched is None:
                continue
            seen.add(ref)
            lacked_at, watched.lacked_at, watched.missing = watched.lacked_at, None, 0
            if watched.last is not sighting and watched.last != sighting:
                watched.last = sighting
                if sighting.ended_at is None:
                    self._listener.seen(sighting, listing.at, lacked_at)
                else:
                    self._listener.absent(watched.key, sighting.ended_at, sighting)
        if len(seen) < len(known):
            self._count_missing(seen, asked_at, listing)
        return 0.0

    def _count_missing(self, seen: set[str], asked_at: float, listing: Listing) -> None:
        listed_at = listing.at
        for ref, watched in list(self._watched.items()):
            if ref in seen or not listing.covers(watched.region, watched.zone):
                continue
            if watched.lacked_at is None:
                watched.lacked_at = listed_at
            if asked_at < watched.launched_at + self.capabilities.visible_within_s:
                continue
            watched.missing += 1
            if watched.missing == 1:
                self.look()
            elif watched.missing % 2 == 0:  # told again after two more, until nobody watches
                watched.last = None
                self._listener.absent(watched.key, watched.lacked_at, None)


def _asked_to_wait_s(error: ProviderError) -> float:
    return min(WAIT_MAX_S, error.retry_after_s or 0.0)


@contextmanager
def _bounded(timeout_s: float, what: str) -> Iterator[None]:
    """Turn a call that takes too long into an outcome nobody knows."""
    with anyio.move_on_after(timeout_s) as scope:
        yield
    if scope.cancelled_caught:
        raise ProviderError(Fault.UNKNOWN, f"{what}: no answer in {timeout_s:g} s")
