"""A fleet: one pool of many nodes for whole days on the virtual clock, and what that costs the daemon.

    python -m tests.simulation.fleet --nodes 10000 --days 1 --preemptions-per-day 1
    python -m tests.simulation.fleet --nodes 10000 --burst 1000        so many notices in one moment

Prints one JSON object: the fields of `Outcome`. What happens is the same in every run of the same numbers,
seconds and bytes are not. The bench (tests/bench/fleet.py) holds them against the goals.
"""

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

import anyio

from actors.events import (
    Envelope,
    InstanceBootstrapped,
    InstanceDestroyed,
    InstanceLaunched,
    InstancePreempted,
    InstanceReplaced,
    PoolRequested,
)
from actors.ports import Commit
from actors.spec import Nodes, PoolSpec
from controller.simulation.clock import VirtualClock
from controller.simulation.house import Life, Watcher
from controller.simulation.ledger import Ledger, MemoryJournal
from controller.simulation.virtual import run_virtual
from providers.errors import ProviderError
from providers.model import Handle, Listing, Order
from providers.simulated.adapter import SimulatedProvider
from providers.simulated.cloud import Cloud
from providers.simulated.config import SimulatedConfig
from tests.bench.house import memory_kib
from tests.bench.sampler import Sampler

START = 1_767_225_600.0  # 2026-01-01, UTC
DAY_S = 86_400.0
POOL, PROVIDER = "fleet", "sim"
WHOLE_WITHIN_S = 3600.0
CALM_S = 60.0  # before a burst: what the account allows of calls is all there again
TOLD_WITHIN_S = 600.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is run.

    Attributes:
        nodes: of the one pool.
        days: virtual, from when all nodes are ready.
        preemptions_per_day: of each node, each with a notice of `notice_s`.
        burst: notices in one moment, after the days; 0: none.
        observe_every_s: between listings; the default is the daemon's.
        metrics_every_s: between an agent's reports; the default is never, users' is 10 s.
        commit_s: virtual seconds that a commit takes.
        checking: whether every turn is checked against what always holds; the daemon does not.
        measuring: whether seconds and bytes are taken; else they are 0.
    """

    nodes: int
    days: float = 1.0
    preemptions_per_day: float = 1.0
    burst: int = 0
    notice_s: float = 120.0
    observe_every_s: float = 5.0
    metrics_every_s: float = 365 * DAY_S
    commit_s: float = 0.0
    seed: int = 1
    checking: bool = False
    measuring: bool = False


@dataclass(slots=True)
class Outcome:
    """How it went.

    Attributes:
        hash: of all that was journaled.
        short_share: of the node-seconds of the days: those without a machine that works.
        wrong: what should not have been.
        up_cpu_s, up_parts: cpu from nothing to all ready, all of it and by whose code it was.
        days_cpu_s, days_parts: of the days after.
        up_virtual_s: virtual time from nothing to all ready.
        burst_virtual_s, burst_real_s, burst_cpu_s: from the notices to the last launch call.
        ready_kib, ready_peak_kib: PSS for each node when all were ready, and the most before.
        end_kib, end_peak_kib: the same after the days. All this holds the cloud and the journal too.
    """

    hash: str = ""
    launches: int = 0
    preemptions: int = 0
    replaced: int = 0
    machines: int = 0
    commits: int = 0
    events: int = 0
    listings: int = 0
    sightings: int = 0
    short_share: float = 0.0
    wrong: list[str] = field(default_factory=list)
    up_virtual_s: float = 0.0
    up_cpu_s: float = 0.0
    up_parts: dict[str, float] = field(default_factory=dict)
    days_cpu_s: float = 0.0
    days_parts: dict[str, float] = field(default_factory=dict)
    burst_virtual_s: float = 0.0
    burst_real_s: float = 0.0
    burst_cpu_s: float = 0.0
    burst_calls: int = 0
    ready_kib: float = 0.0
    ready_peak_kib: float = 0.0
    end_kib: float = 0.0
    end_peak_kib: float = 0.0


class Tapped(SimulatedProvider):
    """The simulated provider; counts listings, and notes when the last launch call came in."""

    listings = 0
    sightings = 0
    launch_calls = 0
    ordered = 0  # machines, in them
    last_call: tuple[float, float, float] = (0.0, 0.0, 0.0)  # virtual, real and cpu seconds

    async def launch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
        """Take note, and launch."""
        self.launch_calls += 1
        self.ordered += len(orders)
        self.last_call = _now()
        return await super().launch(orders)

    async def observe(self, owner: str) -> Listing:
        """List, and count."""
        listing = await super().observe(owner)
        self.listings += 1
        self.sightings += len(listing.sightings)
        return listing


class SlowJournal(MemoryJournal):
    """A journal whose commits take virtual time."""

    commit_s = 0.0

    async def commit(self, commit: Commit) -> None:
        """Wait, then make it durable."""
        if self.commit_s:
            await anyio.sleep(self.commit_s)
        await super().commit(commit)


def _now() -> tuple[float, float, float]:
    return anyio.current_time(), time.perf_counter(), time.process_time()


def _crash() -> None:
    """Nobody crashes here."""


class Fleet(Watcher):
    """One run: the cloud, one life of the daemon, and what is counted of both. Also the ledger's witness."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.outcome = Outcome()
        self._clock = VirtualClock(START)
        self._ledger = Ledger(self)
        hazard = plan.preemptions_per_day / 24 if plan.days else 0.0
        config = SimulatedConfig(seed=plan.seed, preemptions_per_hour=hazard, notice_s=plan.notice_s)
        self._cloud = Cloud(PROVIDER, config, self._clock.now)
        self._provider = Tapped(PROVIDER, config, clock=self._clock.now, cloud=self._cloud)
        journal = SlowJournal(self._ledger, lambda commit: "go on", _crash)
        journal.commit_s = plan.commit_s
        self._life = Life(
            self._ledger,
            journal,
            {PROVIDER: self._provider},
            self,
            self._clock,
            Random(plan.seed),
            checking=plan.checking,
            observe_every_s=plan.observe_every_s,
        )
        self._sampler = Sampler()
        self._changed = anyio.Event()
        self._holders: dict[int, str] = {}  # rank -> the instance that fills it
        self._ready, self._since, self._short_s = 0, 0.0, 0.0
        self._before_kib = 0

    # --- what is heard ----------------------------------------------------------------------------

    def bug(self, text: str) -> None:
        """Nothing may fail here."""
        self.outcome.wrong.append(text)

    def journaled(self, envelope: Envelope) -> None:
        """Count, and see that no rank is filled twice."""
        match envelope.event:
            case InstanceLaunched():
                self.outcome.launches += 1
            case InstanceBootstrapped(instance=one):
                if (other := self._holders.get(one.node)) is not None:
                    self.outcome.wrong.append(f"rank {one.node} is filled by {other} and {one.instance.id}")
                self._holders[one.node] = one.instance.id
            case InstancePreempted(instance=one):
                self.outcome.preemptions += 1
                self._left(one.node, one.instance.id)
            case InstanceDestroyed(instance_id=name):
                self._left(int(name.split("-")[-2]), name)
            case InstanceReplaced():
                self.outcome.replaced += 1
            case _:
                pass

    def _left(self, rank: int, name: str) -> None:
        if self._holders.get(rank) == name:
            del self._holders[rank]

    def stored(self, commit: Commit) -> None:
        """Keep account of how many nodes have a machine that works."""
        loop = self._life.loops.get(POOL)
        ready = 0 if loop is None else loop.index.nodes_ready
        if ready != self._ready:
            self._account(ready)
        if len(self._holders) >= self.plan.nodes:
            self._changed.set()

    def _account(self, ready: int) -> None:
        now = anyio.current_time()
        self._short_s += (self.plan.nodes - self._ready) * (now - self._since)
        self._ready, self._since = ready, now

    async def _until_whole(self) -> None:
        """Wait until every rank has a machine that nobody takes."""
        with anyio.fail_after(WHOLE_WITHIN_S):
            while len(self._holders) < self.plan.nodes:
                self._changed = anyio.Event()
                await self._changed.wait()

    # --- the run ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Make the pool, keep it for the days, perhaps take many of its machines at once."""
        if self.plan.measuring:
            gc.collect()
            self._before_kib = memory_kib(os.getpid())
            self._sampler.start()
        try:
            await self._live()
        finally:
            self._sampler.stop()
        outcome, ledger = self.outcome, self._ledger
        outcome.hash, outcome.commits, outcome.events = ledger.hash, ledger.commits, ledger.events
        outcome.listings, outcome.sightings = self._provider.listings, self._provider.sightings
        outcome.machines = len(self._cloud.machines)

    async def _live(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._cloud.run)
            tasks.start_soon(self._life.run)
            while not self._life.up:  # noqa: ASYNC110 (nothing says when)
                await anyio.sleep(0.001)
            await self._up()
            if self.plan.days:
                await self._days()
            if self.plan.burst:
                await self._burst()
            tasks.cancel_scope.cancel()

    async def _up(self) -> None:
        plan, outcome, began = self.plan, self.outcome, anyio.current_time()
        spec = PoolSpec(
            provider=(PROVIDER,), nodes=Nodes(desired=plan.nodes), metrics_every_s=plan.metrics_every_s
        )
        await self._life.submit(POOL, PoolRequested(request_id="all", pool=POOL, spec=spec))
        await self._until_whole()
        outcome.up_virtual_s = anyio.current_time() - began
        outcome.up_cpu_s, outcome.up_parts = self._sampler.taken()
        outcome.ready_kib, outcome.ready_peak_kib = self._kib()

    async def _days(self) -> None:
        outcome, span = self.outcome, self.plan.days * DAY_S
        self._account(self._ready)
        self._short_s = 0.0
        self._sampler.taken()
        await anyio.sleep(span)
        self._account(self._ready)
        outcome.short_share = self._short_s / (span * self.plan.nodes)
        outcome.days_cpu_s, outcome.days_parts = self._sampler.taken()
        outcome.end_kib, outcome.end_peak_kib = self._kib()
        self._cloud.luck.calm = True  # no more is taken; what is on its way comes
        await anyio.sleep(self.plan.notice_s)
        await self._until_whole()

    async def _burst(self) -> None:
        """So many notices in one moment: until the last launch call was made, and all is whole again."""
        outcome, provider, count = self.outcome, self._provider, self.plan.burst
        await anyio.sleep(CALM_S)
        provider.ordered, calls = 0, provider.launch_calls
        began = _now()
        quiet = [machine for machine in self._cloud.living.values() if machine.notice is None]
        for machine in quiet[:count]:
            self._cloud.preempt(machine, self.plan.notice_s)
        with anyio.fail_after(TOLD_WITHIN_S):
            while provider.ordered < count:  # noqa: ASYNC110 (nothing says when)
                await anyio.sleep(0.01)
        took = [end - start for start, end in zip(began, provider.last_call, strict=True)]
        outcome.burst_virtual_s, outcome.burst_real_s, outcome.burst_cpu_s = took
        outcome.burst_calls = provider.launch_calls - calls
        await anyio.sleep(self.plan.notice_s)
        await self._until_whole()

    def _kib(self) -> tuple[float, float]:
        """KiB of each node: now, and the most since this was asked last."""
        if not self.plan.measuring:
            return 0.0, 0.0
        status = Path("/proc/self/status").read_text()
        rss, most = (int(status.split(f"{what}:")[1].split()[0]) for what in ("VmRSS", "VmHWM"))
        gc.collect()
        now = memory_kib(os.getpid()) - self._before_kib
        Path("/proc/self/clear_refs").write_text("5")  # the most is reckoned anew
        return now / self.plan.nodes, (now + most - rss) / self.plan.nodes


def run_fleet(plan: Plan) -> Outcome:
    """Run a plan to its end, in this process."""

    async def main() -> Outcome:
        fleet = Fleet(plan)
        await fleet.run()
        return fleet.outcome

    return run_virtual(main, plan.seed)


def main() -> int:
    """Run the command line; answers 1 when something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.fleet")
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--days", type=float, help="virtual; without it 1, or 0 with --burst")
    parser.add_argument("--preemptions-per-day", type=float, default=1.0, help="of each node")
    parser.add_argument("--burst", type=int, default=0, help="so many notices in one moment, at the end")
    parser.add_argument("--observe-every-s", type=float, default=Plan(1).observe_every_s)
    parser.add_argument("--metrics-every-s", type=float, default=Plan(1).metrics_every_s)
    parser.add_argument("--commit-s", type=float, default=0.0, help="virtual time that a commit takes")
    parser.add_argument("--seed", type=int, default=1)
    options = vars(parser.parse_args())
    if options["days"] is None:
        options["days"] = 0.0 if options["burst"] else 1.0
    gc.set_threshold(50_000, 20, 100)  # as controller.daemon.run does
    outcome = run_fleet(Plan(**options, measuring=True))
    sys.stdout.write(f"{json.dumps(asdict(outcome))}\n")
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
