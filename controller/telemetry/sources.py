"""Series whose values are kept elsewhere and only read at a scrape."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from controller.telemetry.console import ConsoleStore
from controller.telemetry.files import FileStore
from controller.telemetry.logs import LogStore
from controller.telemetry.metrics_store import MetricsStore
from controller.telemetry.samples import counter, gauge
from providers.model import MICRO


class JournalStats(Protocol):
    """How the journal's writer does."""

    @property
    def waiting(self) -> int:
        """Jobs that wait or are being written."""
        ...

    @property
    def oldest_waiting_s(self) -> float:
        """How long the oldest of them has waited."""
        ...

    @property
    def last_commit_s(self) -> float:
        """How long the last transaction took."""
        ...

    @property
    def commits(self) -> int:
        """Transactions."""
        ...

    @property
    def rows(self) -> int:
        """Rows written."""
        ...

    @property
    def retries(self) -> int:
        """Transactions that failed and were tried again."""
        ...

    @property
    def failing_since(self) -> float | None:
        """Since when nothing can be committed."""
        ...


class LinkView(Protocol):
    """One stream to an agent."""

    @property
    def up(self) -> bool:
        """Whether it is open."""
        ...

    @property
    def lease_until(self) -> float | None:
        """When the machine ends itself, as far as we know."""
        ...


class LinksView(Protocol):
    """All of them."""

    @property
    def links(self) -> Mapping[str, LinkView]:
        """By instance id."""
        ...

    @property
    def reconnects(self) -> int:
        """Streams that were open and ended, since start."""
        ...


@dataclass(slots=True, kw_only=True)
class Sources:
    """Where to look. What is None has no samples."""

    now: Callable[[], float]
    logs: LogStore | None = None
    files: FileStore | None = None
    console: ConsoleStore | None = None
    metrics: MetricsStore | None = None
    journal: Callable[[], JournalStats] | None = None
    epoch: Callable[[], int] | None = None
    links: LinksView | None = None
    leftovers: Callable[[], Iterable[tuple[str, str, int, int]]] | None = None  # see LeftoverSweep.counted


class SourceCollector(Collector):
    """Reads the sources at each scrape."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """All series of the sources there are."""
        sources = self._sources
        if sources.logs is not None:
            yield from _logs(sources.logs)
        if sources.console is not None:
            yield gauge("console_kept_bytes", "Console output kept, in bytes.", sources.console.kept.bytes)
        if sources.files is not None:
            yield gauge("files_kept_bytes", "Fetched files kept, in bytes.", sources.files.kept.bytes)
            yield counter("files_fetched", "Files fetched whole from machines.", sources.files.whole)
            yield counter("files_refused", "Files that could not be fetched or kept.", sources.files.refused)
        if sources.metrics is not None:
            yield counter("metric_values_received", "Values measured on machines.", sources.metrics.received)
            yield counter(
                "metric_values_dropped", "Measured values beyond a maximum.", sources.metrics.dropped
            )
        if sources.journal is not None:
            yield from _journal(sources.journal())
        if sources.epoch is not None:
            yield gauge("leadership_epoch", "Grows with each daemon that takes over.", sources.epoch())
        if sources.links is not None:
            yield from _links(sources.links, sources.now())
        if sources.leftovers is not None:
            yield from _leftovers(sources.leftovers())


def _logs(logs: LogStore) -> Iterator[Metric]:
    kept = logs.kept
    yield gauge("log_kept_bytes", "Task output kept, in bytes.", kept.bytes)
    yield gauge("log_kept_bytes_max", "How much task output may be kept.", kept.total_bytes_max)
    yield counter("log_lines", "Lines of task output written.", logs.lines)
    yield counter("log_lines_dropped", "Lines that agents dropped because of a task's quota.", logs.dropped)
    yield counter("log_lines_lost", "Lines known to have died with a machine.", logs.lost_lines)
    yield counter("log_lost_bytes", "Bytes of output known to have died with a machine.", logs.lost_bytes)
    yield counter("log_evicted_bytes", "Output deleted because the maximum was reached.", kept.evicted_bytes)
    yield counter("log_evicted_tasks", "Tasks whose output was deleted for room.", kept.evicted_tasks)
    yield counter("log_delete_failures", "Deletions of task output that failed.", kept.failures)


def _journal(stats: JournalStats) -> Iterator[Metric]:
    yield gauge("journal_lag_seconds", "How long the oldest waiting job has waited.", stats.oldest_waiting_s)
    yield gauge("journal_queue_depth", "Jobs that wait for the journal.", stats.waiting)
    yield gauge("journal_failing", "1 while nothing can be committed.", stats.failing_since is not None)
    yield gauge("journal_last_commit_seconds", "What the last transaction took.", stats.last_commit_s)
    yield counter("journal_commits", "Transactions committed.", stats.commits)
    yield counter("journal_rows", "Rows written by them.", stats.rows)
    yield counter("journal_retries", "Transactions that failed and were tried again.", stats.retries)


def _links(view: LinksView, now: float) -> Iterator[Metric]:
    links = GaugeMetricFamily("everpool_links", "Streams to agents.", labels=["state"])
    up = sum(link.up for link in view.links.values())
    links.add_metric(["up"], up)
    links.add_metric(["down"], len(view.links) - up)
    yield links
    yield counter("link_reconnects", "Streams to agents that were open and ended.", view.reconnects)
    left = GaugeMetricFamily(
        "everpool_lease_left_min_seconds",
        "Shortest time until some machine ends itself unless it is renewed.",
    )
    until = [link.lease_until for link in view.links.values() if link.lease_until is not None]
    if until:
        left.add_metric([], min(until) - now)
    yield left


def _leftovers(counted: Iterable[tuple[str, str, int, int]]) -> Iterator[Metric]:
    count = GaugeMetricFamily(
        "everpool_leftovers",
        "Disks, networks, keys and the like with our mark that nothing living claims.",
        labels=["provider", "kind"],
    )
    cost = GaugeMetricFamily(
        "everpool_leftovers_dollars_per_hour",
        "What they cost, as far as their provider says.",
        labels=["provider", "kind"],
    )
    for provider, kind, number, micro_usd_per_hour in counted:
        count.add_metric([provider, kind], number)
        cost.add_metric([provider, kind], micro_usd_per_hour / MICRO)
    yield from (count, cost)
