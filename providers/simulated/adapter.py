"""The simulated provider: a cloud in memory behind the contract of `providers/contract.py`."""

import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio

from providers.contract import AgentChannel
from providers.errors import Fault, HostError, ProviderError
from providers.model import (
    Check,
    ClusterHandle,
    ClusterOrder,
    Handle,
    Leftover,
    Leftovers,
    Listing,
    Machine,
    Notice,
    Offer,
    Order,
    Sighting,
)
from providers.simulated.channel import SimulatedChannel
from providers.simulated.cloud import Cloud
from providers.simulated.config import SimulatedConfig
from providers.simulated.faults import Trouble
from providers.simulated.host import SimulatedHost

NOTICES_MAX = 10_000  # pushed and not taken; the next listing has them all
LATE_S = 300.0  # at most, until a call of a daemon that died reaches the cloud
LOGIN_WITHIN_S = 20.0  # as ssh: then nobody answers
MISSED_SHARE = 0.3  # of the machines, in a listing that misses some
T = TypeVar("T")


class _Notices:
    """An iterator that may be left at any time, as a generator may not."""

    def __init__(self, following: Callable[[], Awaitable[tuple[str, Notice | None]]]) -> None:
        self._following = following

    def __aiter__(self) -> "_Notices":
        return self

    async def __anext__(self) -> tuple[str, Notice | None]:
        return await self._following()


class SimulatedProvider:
    """A `Provider` without anything real behind it.

    Args:
        name: what the config calls this provider.
        config: what it sells and how it behaves.
        directory: not used; all that exists is in memory.
        agent_source: not used; hosts run the agent's core of this installation.
        clock: the daemon's UTC seconds. The cloud has a clock of its own.
        cloud: a cloud that outlives this provider and is run by whoever made it; None: a new one, which
            lives while somebody listens to `notices`.
        agent_version: of the agent that this daemon carries.
        on_call: called with a call's name, and "before" or "after" it takes effect in the cloud.
    """

    def __init__(
        self,
        name: str,
        config: SimulatedConfig,
        directory: Path | None = None,
        agent_source: bytes = b"",
        *,
        clock: Callable[[], float] = time.time,
        cloud: Cloud | None = None,
        agent_version: str = "1",
        on_call: Callable[[str, str], None] | None = None,
    ) -> None:
        del directory, agent_source
        self.name = name
        self.capabilities = config.capabilities()
        self.cloud = Cloud(name, config, clock) if cloud is None else cloud
        self.agent_version = agent_version
        self.on_call = on_call
        self._clock = clock
        self._runs_cloud = cloud is None
        self._delay = config.call_delay
        self._visible_within_s = config.visible_within_s
        self._is_cut = False
        self._flying: dict[object, Callable[[bool], object]] = {}  # calls that are on their way
        self._channels: list[SimulatedChannel] = []
        self._notices: deque[tuple[str, Notice | None]] = deque()
        self._pushed = anyio.Event()
        self._missed: set[str] = set()  # refs that the last whole listing lacked by a fault
        self._last: tuple[str, float, tuple[Sighting, ...]] | None = (
            None  # owner, time, the last true listing
        )
        self.cloud.on_notice.append(self._push)

    def cut(self, late_share: float = 0.0) -> None:
        """Let nothing through any more, as when the process of the daemon dies. The cloud goes on.

        Of the calls that are on their way, `late_share` reach the cloud all the same, some time later.
        """
        if self._is_cut:
            return
        self._is_cut = True
        if self._push in self.cloud.on_notice:
            self.cloud.on_notice.remove(self._push)
        self._pushed.set()
        for channel in list(self._channels):
            channel.close()
        flying, luck = list(self._flying.values()), self.cloud.luck
        self._flying.clear()
        for effect in flying:
            if late_share > 0 and luck.random() < late_share:
                self.cloud.timeline.after(round(LATE_S * luck.random(), 3), partial(_late, effect))

    # --- calls ------------------------------------------------------------------------------------

    async def offers(self) -> Sequence[Offer]:
        """Every market."""
        return await self._read("offers", lambda: self._tried("offers", lambda: self.cloud.offers))

    async def open_cluster(self, order: ClusterOrder) -> ClusterHandle:
        """Make a cluster, or find it."""
        return await self._write(
            "open_cluster", lambda _: self._tried("open", self.cloud.open_cluster, order)
        )

    async def close_cluster(self, cluster: ClusterHandle) -> None:
        """Remove a cluster that has no machines."""
        name = cluster.cluster_id
        await self._write("close_cluster", lambda _: self._tried("close", self.cloud.close_cluster, name))

    async def find(self, key: str) -> Sighting | None:
        """The machine of a key, when it can be seen. One that ended may be, with its end."""
        found = await self._read("find", lambda: self._tried("find", self.cloud.find, key))
        return None if found is None else self._corrected(found)

    async def launch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
        """Launch machines; they are made midway through the call."""
        return await self._write("launch", lambda late: self._launch_all(orders, late))

    def _launch_all(self, orders: Sequence[Order], late: bool) -> Sequence[Handle | ProviderError]:
        self._admit("launch")
        done = self.cloud.luck.launches_done(len(orders))
        outcomes = [self._launch(order, late) for order in orders[:done]]
        if done is not None:
            raise Trouble.UNKNOWN_DONE.error(f"launch of {len(orders)}")
        return outcomes

    def _launch(self, order: Order, late: bool) -> Handle | ProviderError:
        what, cloud = f"launch {order.key}", self.cloud
        if order.offer.zone in cloud.dark_zones():
            return ProviderError(Fault.CAPACITY, f"{what}: {order.offer.zone} is dark (simulated)")
        known = cloud.config.tokens and cloud.of_key(order.key)
        trouble = None if known else cloud.luck.launch()
        if trouble not in (None, Trouble.UNKNOWN_DONE, Trouble.REFUSED_DONE):
            return trouble.error(what)
        try:
            machine = cloud.make(order, version=self.agent_version, late=late)
        except ProviderError as error:
            return error
        return cloud.handle(machine) if trouble is None else trouble.error(what)

    async def terminate(self, handles: Sequence[Handle]) -> Sequence[ProviderError | None]:
        """End machines; they are gone a little later."""
        return await self._write("terminate", lambda _: self._terminate_all(handles))

    def _terminate_all(self, handles: Sequence[Handle]) -> Sequence[ProviderError | None]:
        self._admit("terminate")
        return [self._terminate(handle) for handle in handles]

    def _terminate(self, handle: Handle) -> ProviderError | None:
        what, machine = f"terminate {handle.ref}", self.cloud.living.get(handle.ref)
        if machine is not None and machine.offer.zone in self.cloud.dark_zones():
            return ProviderError(Fault.UNKNOWN, f"{what}: {machine.offer.zone} is dark (simulated)")
        pending = machine is not None and machine.state == "pending"
        trouble = self.cloud.luck.terminate(pending=pending)
        if trouble in (None, Trouble.UNKNOWN_DONE):
            self.cloud.terminate(handle.ref)
        return None if trouble in (None, Trouble.IGNORED) else trouble.error(what)

    # --- listings ---------------------------------------------------------------------------------

    async def observe(self, owner: str) -> Listing:
        """Every machine of an owner that can be seen."""
        return await self._read("observe", lambda: self._listing(owner))

    def _listing(self, owner: str) -> Listing:
        self._admit("observe")
        luck, now, dark = self.cloud.luck, self.cloud.timeline.now(), self.cloud.dark_zones()
        trouble = luck.listing()
        if trouble is Trouble.THROTTLED:
            raise trouble.error("observe")
        if trouble is Trouble.STALE and self._last is not None and not self._missed and not dark:
            last_owner, at, before = self._last
            if last_owner == owner and now - at <= self._visible_within_s:
                return Listing(at=now, sightings=before, complete=True)
        seen = self.cloud.sightings(owner)
        if any(one.notice is not None for one in seen):
            seen = tuple(self._corrected(one) for one in seen)
        if trouble is Trouble.INCOMPLETE or dark:
            kept = seen if dark else tuple(one for one in seen if luck.random() < 0.5)
            self._missed.difference_update(one.handle.ref for one in kept)
            return Listing(at=now, sightings=kept, complete=False, unreachable=dark or ("some of it",))
        if trouble is Trouble.MISSES:
            kept = tuple(
                one for one in seen if one.handle.ref in self._missed or luck.random() >= MISSED_SHARE
            )
            self._missed = {one.handle.ref for one in seen} - {one.handle.ref for one in kept}
            return Listing(at=now, sightings=kept, complete=True)
        self._missed.clear()
        self._last = owner, now, seen
        return Listing(at=now, sightings=seen, complete=True)

    def _corrected(self, sighting: Sighting) -> Sighting:
        """What is shown, with the deadline of its notice in the daemon's time."""
        notice = None if sighting.notice is None else self._in_our_time(sighting.notice)
        return sighting if notice is sighting.notice else sighting.model_copy(update={"notice": notice})

    def _in_our_time(self, notice: Notice) -> Notice:
        wrong_s = round(self._clock() - self.cloud.timeline.now(), 3)
        if notice.deadline_at is None or wrong_s == 0:
            return notice
        return notice.model_copy(update={"deadline_at": round(notice.deadline_at + wrong_s, 3)})

    # --- notices ----------------------------------------------------------------------------------

    def notices(self) -> AsyncIterator[tuple[str, Notice | None]]:
        """What is pushed. A cloud of our own lives by this being listened to."""
        return _Notices(self._next_notice)

    async def _next_notice(self) -> tuple[str, Notice | None]:
        while True:
            if self._is_cut:
                raise self._cut_error()
            self._pushed = anyio.Event()
            wait = None
            if self._runs_cloud:
                self.cloud.begin()
                self.cloud.timeline.wake = self._pushed
                wait = self.cloud.timeline.happen_due()
            if self._notices:
                return self._notices.popleft()
            with anyio.move_on_after(wait):
                await self._pushed.wait()

    def _push(self, key: str, notice: Notice | None) -> None:
        if len(self._notices) < NOTICES_MAX:
            self._notices.append((key, None if notice is None else self._in_our_time(notice)))
        self._pushed.set()

    # --- streams ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def attach(self, machine: Machine) -> AsyncGenerator[AgentChannel]:
        """Talk to a machine's agent, which is started when it is not there."""
        await self._pause(self.cloud.luck.delay_s(self._delay))
        self._moment("attach", "before")
        host = await self._login(machine)
        channel = host.connect(self.agent_version)
        cut_in_s = self.cloud.luck.cut_in_s()
        entry = None
        if cut_in_s is not None:
            entry = self.cloud.timeline.after(cut_in_s, lambda: self.cloud.break_stream(channel))
        self._channels.append(channel)
        try:
            self._moment("attach", "after")
            yield channel
        finally:
            self._channels.remove(channel)
            channel.close()
            if entry is not None:
                entry.cancel()

    async def _login(self, machine: Machine) -> SimulatedHost:
        """Who answers at the machine's address, if it is that machine. Raises HostError."""
        where, cloud = machine.address.host, self.cloud
        there = cloud.at_address(where)
        if there is None and machine.handle.ref not in cloud.living:
            raise HostError(Fault.GONE, f"machine {machine.handle.ref} is gone (simulated)")
        if there is None or there.host is None or there.state != "running":
            raise HostError(Fault.NOT_SENT, f"nobody answers at {where} (simulated)")
        if there.silent_until > cloud.timeline.now() or there.offer.zone in cloud.dark_zones():
            await anyio.sleep(LOGIN_WITHIN_S)
            raise HostError(Fault.NOT_SENT, f"no login at {where} in time (simulated)")
        if not cloud.is_trusted(there, machine.instance_id):
            known = f"{machine.instance_id} at {where} has another host key than is pinned (simulated)"
            raise HostError(Fault.REJECTED, known)
        return there.host

    # --- leftovers --------------------------------------------------------------------------------

    async def leftovers(self, owner: str) -> Leftovers:
        """Every cluster of an owner: nothing else is left behind here but machines."""
        return await self._read("leftovers", lambda: self._tried("leftovers", self._leftovers, owner))

    def _leftovers(self, owner: str) -> Leftovers:
        dark = self.cloud.dark_zones()  # clusters have no zone, but a listing that is not whole proves less
        return Leftovers(found=self.cloud.leftovers(owner), complete=not dark, unreachable=dark)

    async def remove(self, leftover: Leftover) -> None:
        """Remove a cluster that has no machines."""
        name = leftover.handle.ref
        await self._write("remove", lambda _: self._tried("remove", self.cloud.close_cluster, name))

    async def check(self, owner: str) -> Sequence[Check]:
        """A cloud in memory needs nothing."""
        return ()

    async def aclose(self) -> None:
        """Let go. Machines live on."""
        self.cut()

    # --- how calls behave -------------------------------------------------------------------------

    async def _write(self, name: str, effect: Callable[[bool], T]) -> T:
        """A call that changes something: midway, or later (True) when the daemon has died by then."""
        flight = object()
        self._flying[flight] = effect
        half_s = self.cloud.luck.delay_s(self._delay) / 2
        try:
            await self._pause(half_s)
            self._moment(name, "before")
        finally:
            self._flying.pop(flight, None)
        try:
            result = effect(False)
        finally:
            self._moment(name, "after")
        await self._pause(half_s)
        return result

    async def _read(self, name: str, look: Callable[[], T]) -> T:
        """A call that only looks, before or after most of what the call takes."""
        delay_s, is_early = self.cloud.luck.delay_s(self._delay), self.cloud.luck.random() < 0.5
        if not is_early:
            await self._pause(delay_s)
        elif self._is_cut:
            raise self._cut_error()
        self._moment(name, "before")
        try:
            result = look()
        finally:
            self._moment(name, "after")
            if is_early:
                await self._pause(delay_s)
        return result

    def _tried(self, name: str, do: Callable[..., T], *args: Any) -> T:
        """One of the plain calls, which share their faults."""
        self._admit(name)
        trouble = self.cloud.luck.other()
        if trouble is not None:
            raise trouble.error(name)
        return do(*args)

    def _admit(self, what: str) -> None:
        """Whether the account may call at all now. Raises ProviderError."""
        now = self.cloud.timeline.now()
        if self.cloud.locked_until > now:
            raise ProviderError(Fault.CREDENTIALS, f"{what}: credentials are refused (simulated)")
        if self.cloud.throttled_until > now:
            raise Trouble.THROTTLED.error(what)

    def _moment(self, name: str, when: str) -> None:
        if self.on_call is not None:
            self.on_call(name, when)
            if self._is_cut:
                raise self._cut_error()

    async def _pause(self, seconds: float) -> None:
        """Some of the time that a call takes; nothing gets through once this provider is cut off."""
        if self._is_cut:
            raise self._cut_error()
        await anyio.sleep(seconds)
        if self._is_cut:
            raise self._cut_error()

    def _cut_error(self) -> ProviderError:
        return HostError(Fault.UNKNOWN, f"{self.name} is cut off")


def _late(effect: Callable[[bool], Any]) -> None:
    try:
        effect(True)
    except ProviderError:
        return  # nobody hears the answer
