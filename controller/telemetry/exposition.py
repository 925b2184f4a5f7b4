"""What a scrape is answered with: read in the event loop what only that may, made into text in a thread."""

from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from itertools import chain

from anyio import to_thread
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


class OnLoop(Collector):
    """Collectors of what only the event loop may read; the client's own metrics any thread may."""

    def __init__(self, collectors: Sequence[Collector]) -> None:
        self._collectors = collectors
        self._read: ContextVar[Sequence[Metric] | None] = ContextVar("everpool_metrics_read", default=None)

    def collect(self) -> Iterable[Metric]:
        """Their metrics: as they were read for this scrape, else as they are."""
        read = self._read.get()
        return self._now() if read is None else read

    def _now(self) -> Iterator[Metric]:
        return chain.from_iterable(collector.collect() for collector in self._collectors)

    async def exposed(self, registry: CollectorRegistry) -> bytes:
        """The registry's series as text; these collectors, which it contains, are read here and now."""
        token = self._read.set(list(self._now()))  # the thread gets a copy of this context
        try:
            return await to_thread.run_sync(generate_latest, registry)
        finally:
            self._read.reset(token)


class _Collected(Collector):
    """Metrics that were collected already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


async def exposed(registry: CollectorRegistry) -> bytes:
    """The series of a registry that only the event loop may read, as text."""
    return await to_thread.run_sync(generate_latest, _Collected(registry.collect()))
