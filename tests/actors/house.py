"""The real loops, links and gateways around a small quiet cloud, with everything that happens at hand."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random

import anyio
from anyio.abc import TaskGroup

from actors.events import Envelope, Event, PoolRequested, Request
from actors.instance.state import Ready
from actors.ports import Accepted, Commit
from actors.spec import PoolSpec
from controller.simulation.clock import VirtualClock
from controller.simulation.house import Life
from controller.simulation.ledger import Ledger, MemoryJournal
from providers.errors import ProviderError
from providers.model import Handle, Order
from providers.simulated.adapter import SimulatedProvider
from providers.simulated.cloud import Cloud
from providers.simulated.config import Delay, SimulatedConfig, SimulatedOffer
from tests.simulation.referee import Referee

POOL = "pool"
QUICK = Delay(least_s=0.001, most_s=0.001)
CONFIG = SimulatedConfig(
    offers=(
        SimulatedOffer(zone="sim-a", spot=0.1, on_demand=1.0),
        SimulatedOffer(zone="sim-b", spot=0.2, on_demand=1.0),
    ),
    call_delay=QUICK,
    boot_delay=QUICK,
    end_delay=QUICK,
    visible_within_s=0.01,
)


class Provider(SimulatedProvider):
    """The simulated provider, and what it was asked."""

    launched: list[str]
    looked_for: list[str]

    async def launch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
        """Launch, and take note."""
        self.launched += [order.key for order in orders]
        return await super().launch(orders)

    async def find(self, key: str) -> object:  # type: ignore[override]
        """Find, and take note."""
        self.looked_for.append(key)
        return await super().find(key)


class House:
    """One daemon and its world."""

    def __init__(self, config: SimulatedConfig, tasks: TaskGroup) -> None:
        self.clock = VirtualClock(1_767_225_600.0)
        self.referee = Referee(self.clock.now)
        self.ledger = Ledger(self)
        self.cloud = Cloud("sim", config, self.clock.now, self.referee)
        self.commits: list[Commit] = []
        self.envelopes: list[Envelope] = []
        self.launched: list[str] = []
        self.looked_for: list[str] = []
        self.daemon: Life
        self._tasks = tasks
        self._life = anyio.CancelScope()
        self._changed = anyio.Event()

    # --- the journal's witness --------------------------------------------------------------------

    def journaled(self, envelope: Envelope) -> None:
        """An event became durable."""
        self.referee.journaled(envelope)
        self.envelopes.append(envelope)

    def stored(self, commit: Commit) -> None:
        """States became durable."""
        self.referee.stored(commit)
        self.commits.append(commit)
        self._changed.set()

    # --- what a test does -------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin an incarnation of the daemon."""
        provider = Provider("sim", self.cloud.config, clock=self.clock.now, cloud=self.cloud)
        provider.launched, provider.looked_for = self.launched, self.looked_for
        journal = MemoryJournal(self.ledger, lambda _: "go on", self.crash)
        self.daemon = Life(self.ledger, journal, {"sim": provider}, self.referee, self.clock, Random(1))
        self._life = anyio.CancelScope()
        self._tasks.start_soon(self._live, self.daemon, self._life)
        while not self.daemon.up:
            await anyio.lowlevel.checkpoint()

    async def _live(self, daemon: Life, life: anyio.CancelScope) -> None:
        with life:
            await daemon.run()

    def crash(self) -> None:
        """End the incarnation, ports first."""
        self.daemon.cut()
        self._life.cancel()

    async def ask(self, request: Request) -> Accepted:
        """Send a request to the pool."""
        return await self.daemon.submit(POOL, request)

    async def pool(self, spec: PoolSpec) -> None:
        """Make the pool and wait until it is whole."""
        await self.ask(PoolRequested(request_id="make", pool=POOL, spec=spec))
        await self.until(lambda: self.ended("make"))

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds; looked at after every commit."""
        with anyio.fail_after(20):
            while not holds():
                self._changed = anyio.Event()
                await self._changed.wait()

    def ended(self, request_id: str) -> bool:
        """Whether a request has its terminal Fact."""
        return any(request_id in envelope.ends for envelope in self.envelopes)

    def ending(self, request_id: str) -> Event:
        """The terminal Fact of a request."""
        return next(envelope.event for envelope in self.envelopes if request_id in envelope.ends)

    def facts(self, kind: str) -> list[Envelope]:
        """Events of a kind."""
        return [envelope for envelope in self.envelopes if envelope.event.kind == kind]

    @property
    def ready(self) -> list[str]:
        """Instances that are ready now."""
        states = self.daemon.loops[POOL].index.instances.items()
        return [name for name, state in states if isinstance(state, Ready)]


@asynccontextmanager
async def house(config: SimulatedConfig = CONFIG, *, lawful: bool = True) -> AsyncIterator[House]:
    """A house with a daemon that is up; leaving looks whether any rule was broken, when all must be kept."""
    async with anyio.create_task_group() as tasks:
        made = House(config, tasks)
        tasks.start_soon(made.cloud.run)
        await made.start()
        try:
            yield made
        finally:
            made.crash()
            tasks.cancel_scope.cancel()
    assert made.referee.broken is None or not lawful
