"""A daemon inside this process, around a simulated provider that takes note of launch calls.

Everything is what the daemon is made of (loops, gateways, the SQLite journal, the API); only what would
be a vendor's cloud is in memory, and at hand.
"""

import gc
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio

from actors.events import Request
from actors.ports import Accepted
from controller.api.serving import bind
from controller.config import parse
from controller.daemon import Daemon
from controller.journal.journal import SqliteJournal
from controller.journal.lock import StateDirectory
from controller.telemetry.logging import configure
from providers.errors import ProviderError
from providers.model import Handle, Order
from providers.registry import ADAPTERS, Adapter
from providers.simulated.adapter import SimulatedProvider
from tests.bench.house import SIMULATED

POOL = "bench"
WITHIN_S = 600.0

ADAPTERS["tapped"] = Adapter(ADAPTERS["simulated"].config, "tests.bench.inside:Tapped")


class Tapped(SimulatedProvider):
    """The simulated provider; says of each node when its newest launch call came in."""

    def launches(self) -> dict[int, float]:
        """Node -> when, on the performance counter. The same dictionary each time."""
        found: dict[int, float] = self.__dict__.setdefault("_launches", {})
        return found

    async def launch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
        """Take note, and launch."""
        now = time.perf_counter()
        self.launches().update((order.node, now) for order in orders)
        return await super().launch(orders)


def tapped(daemon: Daemon) -> Tapped:
    """The daemon's provider."""
    provider = daemon.providers["sim"]
    assert isinstance(provider, Tapped)
    return provider


async def until(holds: Callable[[], bool], every_s: float = 0.01) -> None:
    """Wait for something. Raises TimeoutError."""
    with anyio.fail_after(WITHIN_S):
        while not holds():  # noqa: ASYNC110 (nothing says when)
            await anyio.sleep(every_s)


async def ask(daemon: Daemon, *requests: Request) -> None:
    """Hand requests in at the desk, and be sure that they were taken."""
    for answer in await daemon.desk.submit(requests, "bench"):
        if not isinstance(answer, Accepted):
            raise RuntimeError(str(answer))


def ready(daemon: Daemon) -> int:
    """Nodes of the pool with a machine that works."""
    view = daemon.status.pool(POOL)
    return 0 if view is None else int(view["ready"])


def live(state: Path, before: Callable[[Daemon], None], then: Callable[[Daemon], Awaitable[None]]) -> None:
    """Live as a daemon: `before` it runs, and as long as `then` takes."""

    async def life() -> None:
        async with SqliteJournal(directory.journal) as journal:
            with bind(config) as listening:
                daemon = Daemon(config, None, directory, journal)
                before(daemon)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(daemon.run, listening)
                    await until(lambda: daemon.desk.health()["ready"])
                    await then(daemon)
                    tasks.cancel_scope.cancel()

    config = parse(
        f'[daemon]\nstate_dir = "{state}"\nlog_level = "warning"\n{SIMULATED}'.replace("simulated", "tapped"),
        "bench",
    )
    configure(level="warning", format="text")
    sys.setswitchinterval(0.0005)  # as controller.daemon.run does
    gc.set_threshold(50_000, 20, 100)
    with StateDirectory.take(config.daemon.state_dir) as directory:
        anyio.run(life, backend_options={"use_uvloop": True})
