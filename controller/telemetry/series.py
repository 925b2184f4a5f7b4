"""Every Prometheus series of the daemon and its pools. Units are in names, label values from closed sets.

What is counted here follows published facts; how many are in which state is in `counting.py`, what
other parts keep is read by `sources.py`, and the series of single machines are in `machines.py`.
"""

import platform
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import product
from typing import TypeVar, get_args

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from actors import events
from actors.events import Envelope, Result
from actors.ports import Commit, StateRow
from controller.telemetry.borders import BorderCollector, Borders
from controller.telemetry.costs import Costs
from controller.telemetry.counting import StateCounts
from controller.telemetry.describe import Describe, Described, describe
from controller.telemetry.exposition import OnLoop
from controller.telemetry.sources import SourceCollector, Sources
from providers.errors import Fault

_T = TypeVar("_T")

OUTCOMES = ("ok", *(fault.value for fault in Fault))
ACTOR_KINDS = ("pool", "node", "instance", "task", "market", "quarantine")
PREEMPTION_KINDS = (
    "spot_interruption",
    "rebalance",
    "maintenance",
    "outbid",
    "preempted",
    "unreachable",
    "gone",
    "unhealthy",
    "lease",
    "other",
)
RESULTS: tuple[str, ...] = get_args(Result)
_LONG = (1, 2.5, 5, 10, 20, 40, 60, 90, 120, 180, 300, 480, 900, 1800, 3600)
_SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_WAITING_MAX = 50_000  # requests and notices whose end is awaited
_POOLS_GONE_MAX = 200  # pools that are no more and still have their counters


def preemption_kind(reason: str) -> str:
    """The closed set's word for the reason of a preemption, which a vendor may word as it likes."""
    word = reason.strip().lower().replace("-", "_").replace(" ", "_")
    for kind in PREEMPTION_KINDS:
        if word.startswith(kind):
            return kind
    return "spot_interruption" if word.startswith("spot") else "other"


class Series:
    """Implements `actors.ports.Observer`; all methods belong to the event loop's thread.

    Args:
        registry: where everything is registered.
        providers: names from the config: their series begin at zero.
        now: UTC seconds since the epoch.
        version: of everpool.
        describe: what to count of a state; replaceable for tests.
        pool_status: the word shown for a pool, where it is derived from more than its state.
        pool_ready: how many of its desired nodes have a machine that works.
        pool_outdated: how many of its machines are not what its spec asks for.
        sources: what other parts keep.
        borders: what is known of providers, webhooks, clients and the disk.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        providers: Iterable[str],
        now: Callable[[], float],
        version: str = "",
        describe: Describe = describe,
        pool_status: Callable[[str], str | None] | None = None,
        pool_ready: Callable[[str], int | None] | None = None,
        pool_outdated: Callable[[str], int] | None = None,
        sources: Sources | None = None,
        borders: Borders | None = None,
    ) -> None:
        self.registry = registry
        self.states = StateCounts(
            now=now,
            describe=describe,
            pool_status=pool_status,
            pool_ready=pool_ready,
            pool_outdated=pool_outdated,
        )
        self.costs = Costs(now=now, leftovers=sources.leftovers if sources is not None else None)
        kept: list[Collector] = [self.states, self.costs]
        if sources is not None:
            kept.append(SourceCollector(sources))
        if borders is not None:
            kept.append(BorderCollector(borders))
        self.on_loop = OnLoop(kept)
        registry.register(self.on_loop)
        self._make_market_series(registry)
        self._make_pool_series(registry)
        self._make_daemon_series(registry, version)
        named = tuple(providers)
        for provider, outcome in product(named, OUTCOMES):
            self.launches.labels(provider, outcome)  # a zero is a sample; absence is not
        for provider, reason in product(named, PREEMPTION_KINDS):
            self.preemptions.labels(provider, reason)
        self._requested: OrderedDict[str, float] = OrderedDict()  # request id -> when
        self._launched: OrderedDict[str, float] = OrderedDict()  # instance id -> when it was requested
        self._noticed: OrderedDict[str, float] = OrderedDict()  # instance id -> when
        self._asked: OrderedDict[str, None] = OrderedDict()  # instance ids whose replacement was asked for
        self._pools_gone: OrderedDict[str, None] = OrderedDict()

    def _make_market_series(self, registry: CollectorRegistry) -> None:
        self.launches = Counter(
            "everpool_launches",
            "Launches that ended, by 'ok' or the provider's fault.",
            ["provider", "outcome"],
            registry=registry,
        )
        self.preemptions = Counter(
            "everpool_preemptions",
            "Machines that were taken, or will be.",
            ["provider", "reason"],
            registry=registry,
        )
        self.bootstraps = Counter(
            "everpool_bootstraps", "Set-ups that ended.", ["provider", "outcome"], registry=registry
        )
        self.time_to_ready = Histogram(
            "everpool_time_to_ready_seconds",
            "From the request for a machine to its being set up.",
            ["provider"],
            registry=registry,
            buckets=_LONG,
        )
        self.notice_to_asked = Histogram(
            "everpool_notice_to_replacement_asked_seconds",
            "From a preemption to the request for another machine.",
            registry=registry,
            buckets=_SHORT,
        )
        self.notice_to_replaced = Histogram(
            "everpool_notice_to_replaced_seconds",
            "From a preemption to the other machine being set up.",
            registry=registry,
            buckets=_LONG,
        )

    def _make_pool_series(self, registry: CollectorRegistry) -> None:
        self.pool_preemptions = Counter(
            "everpool_pool_preemptions", "Machines of the pool that were taken.", ["pool"], registry=registry
        )
        self.pool_replacements = Counter(
            "everpool_pool_replacements",
            "Nodes of the pool that got another machine.",
            ["pool"],
            registry=registry,
        )
        self.tasks = Counter(
            "everpool_tasks_completed", "Tasks that are over.", ["pool", "result"], registry=registry
        )
        self.attempts = Counter(
            "everpool_task_attempts", "Runs of tasks that ended.", ["pool", "result"], registry=registry
        )
        self.messages = Counter(
            "everpool_messages", "Messages that pools have handled.", ["pool"], registry=registry
        )
        self.mailbox_depth = Gauge(
            "everpool_mailbox_depth", "Messages that wait for a pool.", ["pool"], registry=registry
        )
        self.turn_seconds = Histogram(
            "everpool_turn_seconds",
            "From taking messages to their commit.",
            registry=registry,
            buckets=_SHORT,
        )

    def _make_daemon_series(self, registry: CollectorRegistry, version: str) -> None:
        self.events = Counter("everpool_events", "Events published.", ["kind"], registry=registry)
        self.bugs = Counter(
            "everpool_bugs", "Exceptions in rules; each cost one message.", ["kind"], registry=registry
        )
        self.api_requests = Counter(
            "everpool_api_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=registry,
        )
        self.api_seconds = Histogram(
            "everpool_api_request_seconds",
            "Until a request was answered; streams are not counted.",
            ["route"],
            registry=registry,
            buckets=_SHORT,
        )
        build = Gauge(
            "everpool_build_info", "1, with what runs here.", ["version", "python"], registry=registry
        )
        build.labels(version, platform.python_version()).set(1)
        for kind in ACTOR_KINDS:
            self.bugs.labels(kind)

    # --- Observer -----------------------------------------------------------------------------

    def committed(self, commit: Commit) -> None:
        """Count what was published and what changed."""
        self.states.committed(commit)
        self.costs.committed(commit)
        kinds: dict[str, int] = {}
        for envelope in commit.envelopes:
            kinds[envelope.event.kind] = kinds.get(envelope.event.kind, 0) + 1
            self._count(envelope)
        for kind, count in kinds.items():
            self.events.labels(kind).inc(count)
        for row in commit.states:
            if row.kind == "pool":
                self._pool_changed(commit.pool)

    def load(self, pool: str, rows: Iterable[StateRow]) -> None:
        """Take in the states that recovery read."""
        found = list(rows)
        self.states.load(pool, found)
        self.costs.load(pool, found)

    def turn_ended(self, pool: str, *, messages: int, seconds: float, waiting: int) -> None:
        """Note how a turn went."""
        self.messages.labels(pool).inc(messages)
        self.turn_seconds.observe(seconds)
        self.mailbox_depth.labels(pool).set(waiting)

    def bug(self, address: str, message: str, error: BaseException) -> None:
        """Count an exception in a rule."""
        kind = address.split("/", 1)[0]
        self.bugs.labels(kind if kind in ACTOR_KINDS else "other").inc()

    # --- others -------------------------------------------------------------------------------

    def api_answered(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """Count an answer. `route` is the template ("/v1/tasks/{id}"), never a path; None: a stream."""
        self.api_requests.labels(method, route, str(status)).inc()
        if seconds is not None:
            self.api_seconds.labels(route).observe(seconds)

    async def exposed(self) -> bytes:
        """All series as text, for a scrape."""
        return await self.on_loop.exposed(self.registry)

    def instance(self, pool: str, instance_id: str) -> Described | None:
        """What is known of an instance that is not over."""
        return self.states.instance(pool, instance_id)

    # --- facts --------------------------------------------------------------------------------

    def _count(self, envelope: Envelope) -> None:
        match envelope.event:
            case events.TaskQueued() | events.TaskStarted():
                pass  # there are most of them
            case events.InstanceRequested(request_id=request_id, replacing=replacing):
                _note(self._requested, request_id, envelope.at)
                if replacing is not None and replacing in self._noticed and replacing not in self._asked:
                    _note(self._asked, replacing, None)
                    self.notice_to_asked.observe(max(0.0, envelope.at - self._noticed[replacing]))
            case events.InstanceLaunched(provider=provider, request_id=request_id, instance_id=instance_id):
                self.launches.labels(provider, "ok").inc()
                _note(self._launched, instance_id, self._requested.get(request_id, envelope.at))
            case events.LaunchRefused(market=market, fault=fault):
                outcome = fault if fault in OUTCOMES else Fault.UNKNOWN.value
                self.launches.labels(market.split("/", 1)[0], outcome).inc()
            case events.InstanceBootstrapped(instance=one):
                self._ready(one, envelope.at)
            case events.BootstrapFailed(instance=one):
                self.bootstraps.labels(one.provider, "failed").inc()
            case events.InstancePreempted(instance=one, reason=reason):
                self.preemptions.labels(one.provider, preemption_kind(reason)).inc()
                self.pool_preemptions.labels(envelope.pool).inc()
                _note(self._noticed, one.instance.id, envelope.at)
            case events.NoticeWithdrawn(instance_id=instance_id):
                self._noticed.pop(instance_id, None)
                self._asked.pop(instance_id, None)
            case events.InstanceReplaced(old_id=old_id, new=new):
                self._ready(new, envelope.at)
                self.pool_replacements.labels(envelope.pool).inc()
                self._asked.pop(old_id, None)
                if old_id in self._noticed:
                    self.notice_to_replaced.observe(max(0.0, envelope.at - self._noticed.pop(old_id)))
            case events.InstanceDestroyed(instance_id=instance_id):
                self._launched.pop(instance_id, None)
            case events.TaskAttemptEnded(result=result):
                self.attempts.labels(envelope.pool, result).inc()
            case events.TaskCompleted(result=result):
                self.tasks.labels(envelope.pool, result).inc()
            case _:
                pass  # counted by kind, and nothing more

    def _ready(self, one: events.NodeInstance, at: float) -> None:
        requested_at = self._launched.pop(one.instance.id, None)  # once: a replacement has two facts
        if requested_at is not None:
            self.bootstraps.labels(one.provider, "ok").inc()
            self.time_to_ready.labels(one.provider).observe(max(0.0, at - requested_at))

    def _pool_changed(self, pool: str) -> None:
        if self.states.has_pool(pool):
            self._pools_gone.pop(pool, None)
            self.pool_preemptions.labels(pool)
            self.pool_replacements.labels(pool)
            for result in RESULTS:
                self.tasks.labels(pool, result)
                self.attempts.labels(pool, result)
            return
        self._pool_gone(pool)

    def loop_ended(self, pool: str) -> None:
        """A pool's loop came to its end; it may never have had a pool."""
        if not self.states.has_pool(pool):
            self._pool_gone(pool)

    def _pool_gone(self, pool: str) -> None:
        _note(self._pools_gone, pool, None)
        while len(self._pools_gone) > _POOLS_GONE_MAX:
            oldest, _ = self._pools_gone.popitem(last=False)
            for counter in (
                self.tasks,
                self.attempts,
                self.messages,
                self.mailbox_depth,
                self.pool_preemptions,
                self.pool_replacements,
            ):
                counter.remove_by_labels({"pool": oldest})
            self.costs.forget(oldest)


def _note(notes: OrderedDict[str, _T], key: str, value: _T) -> None:
    notes[key] = value
    if len(notes) > _WAITING_MAX:
        notes.popitem(last=False)


def new_registry() -> CollectorRegistry:
    """A registry with the process's own series. Of counters the times of their making are not shown."""
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry
