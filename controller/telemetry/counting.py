"""How many actors are in which state, what they cost and how long: kept by what changes, read at a scrape."""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from actors.ports import Commit, StateRow
from controller.telemetry.describe import (
    INSTANCE_STATES,
    NODE_STATES,
    TASK_STATES,
    Describe,
    Described,
    describe,
)
from controller.views import POOL_CODES
from providers.model import MICRO

Key = tuple[str, str, str]  # kind, pool, id
AGES_MAX = 2_000  # samples of how long the oldest is in a state: of the oldest
POOL_WORDS = tuple(word for word in POOL_CODES if word != "destroyed")


class StateCounts(Collector):
    """Gauges over the states of all actors that are not over.

    Args:
        now: UTC seconds.
        describe: what to count of a state.
        pool_status: the word shown for a pool, where it is derived.
        pool_ready: how many of its desired nodes have a machine that works, spares left out.
        pool_outdated: how many of its machines are not what its spec asks for.
    """

    def __init__(
        self,
        *,
        now: Callable[[], float],
        describe: Describe = describe,
        pool_status: Callable[[str], str | None] | None = None,
        pool_ready: Callable[[str], int | None] | None = None,
        pool_outdated: Callable[[str], int] | None = None,
    ) -> None:
        self._now = now
        self._describe = describe
        self._pool_status = pool_status
        self._pool_ready = pool_ready
        self._pool_outdated = pool_outdated
        self._known: dict[Key, Described] = {}
        self._counts: Counter[tuple[str, str, str, str]] = Counter()  # kind, pool, provider, status
        self._cost: Counter[tuple[str, str]] = Counter()  # pool, status -> micro-dollars an hour
        # kind, pool, status -> since when each is in it, oldest first
        self._entered: dict[tuple[str, str, str], dict[Key, float]] = {}
        self._pools: dict[str, Described] = {}

    def committed(self, commit: Commit) -> None:
        """Take in changed states: costs what changed."""
        for row in commit.states:
            self._take(commit.pool, row)

    def load(self, pool: str, rows: Iterable[StateRow]) -> None:
        """Take in what recovery read of a pool."""
        for row in sorted(rows, key=lambda row: float(getattr(row.state, "since", 0.0))):
            self._take(pool, row)

    def _take(self, pool: str, row: StateRow) -> None:
        key = (row.kind, pool, row.id)
        after = None if row.state is None or row.terminal else self._describe(row)
        if after is not None and after.over:
            after = None
        before = self._known.get(key)
        if before is not None:
            self._add(key, before, -1)
            if after is None or after.status != before.status:
                self._left(key, before.status)
        if after is None:
            self._known.pop(key, None)
        else:
            self._known[key] = after
            self._add(key, after, 1)
            place = (row.kind, pool, after.status)
            there = self._entered.get(place)
            if there is None:
                there = self._entered[place] = {}
            there[key] = after.since
        if row.kind == "pool":
            self._take_pool(pool, after)

    def _left(self, key: Key, status: str) -> None:
        entered = self._entered[key[0], key[1], status]
        del entered[key]
        if not entered:
            del self._entered[key[0], key[1], status]

    def _take_pool(self, pool: str, after: Described | None) -> None:
        if after is not None:
            self._pools[pool] = after
        elif self._pools.pop(pool, None) is not None:  # its last instances may still be there: only zeros go
            for count in [count for count, n in self._counts.items() if count[1] == pool and not n]:
                del self._counts[count]
            for cost in [cost for cost, n in self._cost.items() if cost[0] == pool and not n]:
                del self._cost[cost]

    def _add(self, key: Key, one: Described, sign: int) -> None:
        kind, pool, _ = key
        count = (kind, pool, one.provider, one.status)
        left = self._counts[count] = self._counts[count] + sign
        if not left and pool and pool not in self._pools:  # the last trace of a pool
            del self._counts[count]
        if one.micro_usd_per_hour:
            self._cost[pool, one.status] += sign * one.micro_usd_per_hour
            if not self._cost[pool, one.status] and pool and pool not in self._pools:
                del self._cost[pool, one.status]

    def instance(self, pool: str, instance_id: str) -> Described | None:
        """What is known of an instance that is not over."""
        return self._known.get(("instance", pool, instance_id))

    def has_pool(self, pool: str) -> bool:
        """Whether the pool is not over."""
        return pool in self._pools

    def describe(self) -> Iterable[Metric]:
        """The families without samples, for the registry."""
        return list(StateCounts(now=lambda: 0.0).collect())

    def collect(self) -> Iterator[Metric]:
        """All gauges as they are now."""
        yield from self._pool_gauges()
        yield from self._actor_gauges()
        cost = GaugeMetricFamily(
            "everpool_cost_dollars_per_hour",
            "What machines cost now, by state; pool is empty for machines that nobody knows.",
            labels=["pool", "state"],
        )
        for (pool, status), micro in sorted(self._cost.items()):
            cost.add_metric([pool, status], micro / MICRO)
        yield cost
        yield self._ages()

    def _ages(self) -> Metric:
        oldest = GaugeMetricFamily(
            "everpool_oldest_state_age_seconds",
            "How long the one that is longest in a state has been in it; no sample where none is.",
            labels=["pool", "kind", "state"],
        )
        firsts = ((next(iter(there.values())), where) for where, there in self._entered.items())
        now = self._now()
        for since, (kind, pool, status) in sorted(
            heapq.nsmallest(AGES_MAX, firsts), key=lambda found: found[1]
        ):
            oldest.add_metric([pool, kind, status], max(0.0, now - since))
        return oldest

    def _pool_gauges(self) -> Iterator[Metric]:
        pools = GaugeMetricFamily("everpool_pools", "Pools by state.", labels=["state"])
        parked = GaugeMetricFamily(
            "everpool_pool_parked", "1 when the pool launches nothing until it is updated.", labels=["pool"]
        )
        desired = GaugeMetricFamily(
            "everpool_pool_desired_nodes", "Nodes that the pool should have.", labels=["pool"]
        )
        ready = GaugeMetricFamily(
            "everpool_pool_ready_nodes", "Desired nodes with a machine that works.", labels=["pool"]
        )
        least = GaugeMetricFamily(
            "everpool_pool_min_nodes", "Ready nodes below which the pool is unhealthy.", labels=["pool"]
        )
        paused = GaugeMetricFamily(
            "everpool_pool_paused", "1 while a user wants nothing launched or started.", labels=["pool"]
        )
        outdated = GaugeMetricFamily(
            "everpool_pool_outdated_nodes",
            "Nodes whose machine is of an older spec; they are replaced a few at a time.",
            labels=["pool"],
        )
        states = GaugeMetricFamily(
            "everpool_pool_state",
            "1 for the state that the pool is in, 0 for the others.",
            labels=["pool", "state"],
        )
        words: Counter[str] = Counter(dict.fromkeys(POOL_WORDS, 0))
        for name, pool in sorted(self._pools.items()):
            word = self._word(name, pool)
            words[word] += 1
            for one in POOL_WORDS:
                states.add_metric([name, one], one == word)
            parked.add_metric([name], pool.status == "parked")
            desired.add_metric([name], pool.desired)
            ready.add_metric([name], self._ready(name))
            least.add_metric([name], pool.least)
            paused.add_metric([name], pool.paused)
            outdated.add_metric([name], self._pool_outdated(name) if self._pool_outdated is not None else 0)
        for word in POOL_WORDS:
            pools.add_metric([word], words[word])
        yield from (pools, states, parked, paused, desired, ready, least, outdated)

    def _word(self, name: str, pool: Described) -> str:
        """The pool's state as it is shown; what is journaled says less."""
        derived = self._pool_status(name) if self._pool_status is not None else None
        if derived is not None or pool.status != "active":
            return derived or pool.status
        ready = self._ready(name)
        return "ready" if ready >= pool.desired else "degraded" if ready >= pool.least else "short"

    def _ready(self, name: str) -> int:
        known = self._pool_ready(name) if self._pool_ready is not None else None
        if known is not None:
            return known
        return sum(self._counts.get(("node", name, "", status), 0) for status in ("filled", "replacing"))

    def _actor_gauges(self) -> Iterator[Metric]:
        nodes = GaugeMetricFamily("everpool_nodes", "Nodes by state.", labels=["pool", "state"])
        instances = GaugeMetricFamily(
            "everpool_instances", "Machines by state.", labels=["pool", "provider", "state"]
        )
        tasks = GaugeMetricFamily("everpool_tasks", "Tasks that are not over.", labels=["pool", "state"])
        queue = GaugeMetricFamily(
            "everpool_task_queue_depth", "Tasks that wait for a machine.", labels=["pool"]
        )
        quarantined = GaugeMetricFamily(
            "everpool_quarantined_machines",
            "Machines with our mark that no state knows, until they are reaped.",
            labels=["provider"],
        )
        of = self._counts
        for pool in sorted(
            self._pools.keys() | {pool for kind, pool, _, _ in of if kind in ("node", "task")}
        ):
            for status in NODE_STATES:
                nodes.add_metric([pool, status], of.get(("node", pool, "", status), 0))
            for status in TASK_STATES:
                tasks.add_metric([pool, status], of.get(("task", pool, "", status), 0))
            queue.add_metric([pool], of.get(("task", pool, "", "pending"), 0))
        for pool, provider in sorted(
            {(pool, provider) for kind, pool, provider, _ in of if kind == "instance"}
        ):
            for status in INSTANCE_STATES:
                instances.add_metric(
                    [pool, provider, status], of.get(("instance", pool, provider, status), 0)
                )
        for (kind, _, provider, _), count in sorted(of.items()):
            if kind == "quarantine":
                quarantined.add_metric([provider], count)
        yield from (nodes, instances, tasks, queue, quarantined)
