"""A simulated provider that is listed seldom while its listings can't say anything new.

The daemon lists its machines every few seconds for ever; of a run over weeks that would be nearly all
the work.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

import anyio

from providers.contract import AgentChannel
from providers.errors import Fault, ProviderError
from providers.model import Handle, Listing, Machine, Order, Sighting
from providers.simulated.adapter import SimulatedProvider
from providers.simulated.cloud import Cloud
from providers.simulated.config import SimulatedConfig

AWAKE_S = 60.0  # so long after anything happened listings come as often as the daemon asks for them
REST_S = 3600.0  # a listing waits no longer than that
OBSERVE_TIMEOUT_S = REST_S + 60  # so long the gateway has to wait for one


class RestingProvider(SimulatedProvider):
    """Holds a listing back while nothing moves, until something does.

    Nothing moves when every machine runs, none has a notice, and for a minute no call was made, no stream
    opened and no machine made or ended; a launch that is refused for capacity moves nothing. What the daemon
    would have learnt from the listings in between is that all is as it was.

    Args:
        name: what the config calls this provider.
        config: how it behaves.
        clock: UTC seconds.
        cloud: what it sells.
    """

    def __init__(self, name: str, config: SimulatedConfig, clock: Callable[[], float], cloud: Cloud) -> None:
        super().__init__(name, config, clock=clock, cloud=cloud)
        self._stirred = anyio.Event()
        self._awake_until = 0.0

    def stir(self) -> None:
        """Something happens: listings may tell it."""
        self._awake_until = self.cloud.timeline.now() + AWAKE_S
        self._stirred.set()

    def _is_at_rest(self) -> bool:
        living = self.cloud.living.values()
        if not all(machine.state in ("running", "stopped") and machine.notice is None for machine in living):
            self.stir()  # what becomes of it has to be listed too
        return self.cloud.timeline.now() >= self._awake_until

    async def observe(self, owner: str) -> Listing:
        """Every machine of an owner that can be seen, at once or when something has happened."""
        if self._is_at_rest():
            self._stirred = anyio.Event()
            with anyio.move_on_after(REST_S):
                await self._stirred.wait()
        return await super().observe(owner)

    async def launch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
        """Launch machines."""
        outcomes = await super().launch(orders)
        if not all(isinstance(one, ProviderError) and one.fault is Fault.CAPACITY for one in outcomes):
            self.stir()
        return outcomes

    async def find(self, key: str) -> Sighting | None:
        """The machine of a key."""
        self.stir()
        return await super().find(key)

    async def terminate(self, handles: Sequence[Handle]) -> Sequence[ProviderError | None]:
        """End machines."""
        self.stir()
        return await super().terminate(handles)

    @asynccontextmanager
    async def attach(self, machine: Machine) -> AsyncGenerator[AgentChannel]:
        """Talk to a machine's agent."""
        self.stir()
        async with super().attach(machine) as channel:
            yield channel
