"""The simulated provider: a cloud in memory behind the contract of `providers/contract.py`."""

import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from providers.contract import AgentChannel
from providers.errors import Fault, HostError, ProviderError
from providers.model import (
    ClusterHandle,
    ClusterOrder,
    Handle,
    Listing,
    Machine,
    Notice,
    Offer,
    Order,
    Sighting,
)
from providers.simulated.cloud import Cloud
from providers.simulated.config import SimulatedConfig
from providers.simulated.faults import Trouble
from providers.simulated.host import SimulatedChannel

NOTICES_MAX = 10_000  # pushed and not taken; the next listing has them all


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
        clock: UTC seconds.
        cloud: a cloud that outlives this provider and is run by whoever made it; None: a new one, which
            lives while somebody listens to `notices`.
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
    ) -> None:
        del directory, agent_source
        self.name = name
        self.capabilities = config.capabilities()
        self.cloud = Cloud(name, config, clock) if cloud is None else cloud
        self._runs_cloud = cloud is None
        self._delay = config.call_delay
        self._is_cut = False
        self._channels: list[SimulatedChannel] = []
        self._notices: deque[tuple[str, Notice | None]] = deque()
        self._pushed = anyio.Event()
        self.cloud.on_notice.append(self._push)

    def cut(self) -> None:
        """Let nothing through any more, as when the process of the daemon dies. The cloud goes on."""
        self._is_cut = True
        if self._push in self.cloud.on_notice:
            self.cloud.on_notice.remove(self._push)
        self._pushed.set()
        for channel in list(self._channels):
            channel.close("the daemon is gone")

    # --- calls ------------------------------------------------------------------------------------

    async def offers(self) -> Sequence[Offer]:
        """Every market."""
        await self._other("offers")
        return self.cloud.offers

    async def open_cluster(self, order: ClusterOrder) -> ClusterHandle:
        """Make a cluster, or find it."""
        await self._other("open cluster")
        return self.cloud.open_cluster(order)

    async def close_cluster(self, cluster: ClusterHandle) -> None:
        """Remove a cluster that has no machines."""
        await self._other("close cluster")
        self.cloud.close_cluster(cluster.cluster_id)

    async def launch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
        """Launch machines; they are made midway through the call."""
        await self._pause()
        outcomes = [self._launch(order) for order in orders]
        await self._pause()
        return outcomes

    def _launch(self, order: Order) -> Handle | ProviderError:
        what = f"launch {order.key}"
        known = order.key in self.cloud.machines
        trouble = None if known else self.cloud.luck.launch()
        if trouble not in (None, Trouble.UNKNOWN_DONE):
            return trouble.error(what)
        try:
            machine = self.cloud.make(order)
        except ProviderError as error:
            return error
        return self.cloud.handle(machine) if trouble is None else trouble.error(what)

    async def find(self, key: str) -> Sighting | None:
        """The machine of a key, when it can be seen."""
        await self._other("find")
        return self.cloud.find(key)

    async def observe(self, owner: str) -> Listing:
        """Every machine of an owner that can be seen."""
        await self._pause()
        trouble = self.cloud.luck.listing()
        if trouble is Trouble.THROTTLED:
            raise trouble.error("observe")
        at, seen = self.cloud.timeline.now(), self.cloud.sightings(owner)
        if trouble is None:
            return Listing(at=at, sightings=seen, complete=True)
        kept = tuple(one for one in seen if self.cloud.luck.random() < 0.5)
        return Listing(at=at, sightings=kept, complete=False, unreachable=("some of it",))

    async def terminate(self, handles: Sequence[Handle]) -> Sequence[ProviderError | None]:
        """End machines; they are gone a little later."""
        await self._pause()
        outcomes: list[ProviderError | None] = []
        for handle in handles:
            trouble = self.cloud.luck.terminate()
            if trouble in (None, Trouble.UNKNOWN_DONE):
                self.cloud.terminate(handle.ref)
            is_yes = trouble in (None, Trouble.IGNORED)
            outcomes.append(None if is_yes or trouble is None else trouble.error(f"terminate {handle.ref}"))
        await self._pause()
        return outcomes

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
                self.cloud.timeline.wake = self._pushed
                wait = self.cloud.timeline.happen_due()
            if self._notices:
                return self._notices.popleft()
            with anyio.move_on_after(wait):
                await self._pushed.wait()

    def _push(self, key: str, notice: Notice | None) -> None:
        if len(self._notices) < NOTICES_MAX:
            self._notices.append((key, notice))
        self._pushed.set()

    # --- streams ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def attach(self, machine: Machine) -> AsyncGenerator[AgentChannel]:
        """Talk to a machine's agent."""
        await self._pause()
        there = self.cloud.living.get(machine.handle.ref)
        if there is None:
            raise HostError(Fault.GONE, f"machine {machine.handle.ref} is gone (simulated)")
        if there.host is None or there.state != "running" or there.address != machine.address:
            raise HostError(Fault.NOT_SENT, f"nobody answers at {machine.address.host} (simulated)")
        if there.silent_until > self.cloud.timeline.now():
            raise HostError(Fault.UNKNOWN, f"no answer from {machine.address.host} (simulated)")
        channel = there.host.connect()
        cut_in_s = self.cloud.luck.cut_in_s()
        if cut_in_s is not None:
            channel.cut_entry = self.cloud.timeline.after(cut_in_s, lambda: channel.close("cut"))
        self._channels.append(channel)
        try:
            yield channel
        finally:
            self._channels.remove(channel)
            channel.close("closed")

    async def aclose(self) -> None:
        """Let go. Machines live on."""
        self.cut()

    # --- how calls behave -------------------------------------------------------------------------

    async def _pause(self) -> None:
        """Half of what a call takes; nothing gets through once this provider is cut off."""
        if self._is_cut:
            raise self._cut_error()
        await anyio.sleep(self.cloud.luck.delay_s(self._delay) / 2)
        if self._is_cut:
            raise self._cut_error()

    async def _other(self, what: str) -> None:
        await self._pause()
        trouble = self.cloud.luck.other()
        if trouble is not None:
            raise trouble.error(what)

    def _cut_error(self) -> ProviderError:
        return HostError(Fault.UNKNOWN, f"{self.name} is cut off")
