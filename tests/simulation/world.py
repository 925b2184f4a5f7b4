"""One run: a cloud, users who ask for things, misfortunes, and a daemon that dies and comes back."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
from anyio.abc import TaskGroup

from actors.events import (
    BootstrapRequested,
    DrainRequested,
    PoolRequested,
    PoolResizeRequested,
    PoolUpdateRequested,
    Request,
    ShutdownRequested,
    TaskRequested,
    TaskStopRequested,
)
from actors.instance.facts import node_instance
from actors.loop import Loop
from actors.pool.state import Active
from actors.ports import Accepted, JournalClosed
from actors.spec import Image, Nodes, PoolSpec, Step, TaskSpec, Worker
from controller.simulation.clock import VirtualClock
from controller.simulation.house import OWNER, Life
from controller.simulation.ledger import Fate, Ledger, MemoryJournal
from providers.simulated.adapter import SimulatedProvider
from providers.simulated.cloud import Cloud, Machine
from providers.simulated.config import Delay, Faults, SimulatedConfig, SimulatedOffer
from tests.simulation.referee import Broken, Referee

START = 1_767_225_600.0  # 2026-01-01, UTC
DAY_S = 86_400.0
PROVIDER = "sim"
WHOLE_WITHIN_S = 2 * 3600.0  # after the last fault every pool must be whole in this time
IDLE_WITHIN_S = 24 * 3600.0  # and have worked off their queues in this
OVER_WITHIN_S = 4 * 3600.0  # and, shut down, be gone in this
EVENTS_A_DAY_MAX = 50_000


@dataclass(frozen=True, slots=True)
class Habits:
    """How much happens, in a virtual day."""

    pools: int = 3
    tasks: int = 180
    bursts: int = 8
    resizes: int = 10
    drains: int = 6
    stops: int = 8
    updates: int = 3
    crashes: int = 6
    commit_crashes: int = 5
    full_disks: int = 6
    strangers: int = 3
    silences: int = 6
    false_notices: int = 5
    set_ups: int = 3
    repeats: int = 6
    remakes: int = 2
    last_words: int = 12  # tasks and other requests that come while the pools are shut down


def config_of(seed: int) -> SimulatedConfig:
    """A cloud that is short of machines at times, takes spot machines back, and often answers badly."""
    zones = (("sim-a", 0.30, 4, 0.25), ("sim-b", 0.33, 8, 0.12), ("sim-c", 0.40, 20, 0.06))
    return SimulatedConfig(
        seed=seed,
        offers=tuple(
            SimulatedOffer(
                zone=zone, spot=spot, on_demand=1.0, capacity=capacity, preemptions_per_hour=hazard
            )
            for zone, spot, capacity, hazard in zones
        ),
        call_delay=Delay(least_s=0.05, more_s=0.3, most_s=20),
        boot_delay=Delay(least_s=15, more_s=20, most_s=400),
        visible_within_s=20,
        notice_s=120,
        notice_share=0.7,
        faults=Faults(
            launch_capacity=0.08,
            launch_throttled=0.05,
            launch_unknown_made=0.05,
            launch_unknown_lost=0.05,
            terminate_unknown=0.05,
            terminate_ignored=0.03,
            listing_incomplete=0.03,
            call_throttled=0.03,
            cuts_per_hour=0.2,
        ),
    )


class World:
    """Everything of one run, seeded.

    Args:
        seed: of all that is random.
        days: how long faults and users go on.
        habits: how much happens.
    """

    def __init__(self, seed: int, days: float, habits: Habits) -> None:
        self.clock = VirtualClock(START)
        self.referee = Referee(self.clock.now)
        self.ledger = Ledger(self.referee)
        self.cloud = Cloud(PROVIDER, config_of(seed), self.clock.now, self.referee)
        self.crashes = 0
        self._seed = seed
        self._days = days
        self._habits = habits
        self._user = random.Random(seed * 7 + 1)
        self._nature = random.Random(seed * 7 + 2)
        self._dice = random.Random(seed * 7 + 3)
        self._daemon: Life | None = None
        self._life = anyio.CancelScope()
        self._crash_commits = 0  # commits left until one of them is the last
        self._is_calm = False
        self._pools = [f"pool-{letter}" for letter in "abcdefgh"[: habits.pools]]
        self._nodes: dict[str, int] = {}
        self._tasks: list[tuple[str, str]] = []
        self._foreign: set[str] = set()
        self._sent: list[tuple[str, Request]] = []
        self._requests = 0
        self._aside: TaskGroup
        self.referee.events_max = int(EVENTS_A_DAY_MAX * max(1.0, days))

    # --- the run ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live through it all. Raises Broken."""
        async with anyio.create_task_group() as tasks:
            self._aside = tasks
            tasks.start_soon(self.cloud.run)
            tasks.start_soon(self._live)
            tasks.start_soon(self._watch, tasks.cancel_scope)
            await self._open_pools()
            span = self._days * DAY_S
            plan = self._plan(span)
            begun = anyio.current_time()
            for at, _, act in plan:
                await anyio.sleep(max(0.0, begun + at - anyio.current_time()))
                await act()
            await anyio.sleep(max(0.0, begun + span - anyio.current_time()))
            await self._end()
            tasks.cancel_scope.cancel()
        self._check()

    def _check(self) -> None:
        if self.referee.broken is not None:
            raise Broken(self.referee.broken)

    async def _watch(self, run: anyio.CancelScope) -> None:
        """End the run when a rule is broken."""
        await self.referee.alarm.wait()
        run.cancel()

    async def _live(self) -> None:
        """One incarnation of the daemon after the other."""
        while True:
            journal = MemoryJournal(self.ledger, self._fate, self._crash)
            provider = SimulatedProvider(PROVIDER, self.cloud.config, clock=self.clock.now, cloud=self.cloud)
            self._daemon = Life(
                self.ledger, journal, {PROVIDER: provider}, self.referee, self.clock, self._dice
            )
            self._life = anyio.CancelScope()
            try:
                with self._life:
                    await self._daemon.run()
            except* JournalClosed:
                self.referee.rule(not self._daemon.up, "the journal closed without a crash")
            await anyio.sleep(round(1 + 60 * self._nature.random() ** 3, 3))

    def _crash(self) -> None:
        """The daemon's process dies: first nothing gets out any more, then it is gone."""
        if self._daemon is None or not self._daemon.up or self._is_calm:
            return
        self.crashes += 1
        self._daemon.cut()
        self._life.cancel()

    def _fate(self) -> Fate:
        """What becomes of the daemon at this commit."""
        if self._crash_commits == 0 or self._is_calm:
            return "go on"
        self._crash_commits -= 1
        if self._crash_commits:
            return "go on"
        return "crash before" if self._nature.random() < 0.5 else "crash after"

    # --- what happens -----------------------------------------------------------------------------

    def _plan(self, span: float) -> list[tuple[float, int, Callable[[], Awaitable[None]]]]:
        habits, days = self._habits, self._days
        acts: list[tuple[int, random.Random, Callable[[], Awaitable[None]]]] = [
            (habits.tasks, self._user, self._ask_task),
            (habits.bursts, self._user, self._ask_many),
            (habits.resizes, self._user, self._ask_resize),
            (habits.drains, self._user, self._ask_drain),
            (habits.stops, self._user, self._ask_stop),
            (habits.updates, self._user, self._ask_update),
            (habits.crashes, self._nature, self._do_crash),
            (habits.commit_crashes, self._nature, self._do_crash_at_commit),
            (habits.full_disks, self._nature, self._do_fill_disk),
            (habits.strangers, self._nature, self._do_plant),
            (habits.silences, self._nature, self._do_silence),
            (habits.false_notices, self._nature, self._do_notice_falsely),
            (habits.set_ups, self._user, self._ask_set_up),
            (habits.repeats, self._user, self._ask_again),
            (habits.remakes, self._user, self._ask_remake),
        ]
        plan: list[tuple[float, int, Callable[[], Awaitable[None]]]] = []
        for count, dice, act in acts:
            for _ in range(round(count * days)):
                plan.append((round(dice.random() * span, 3), len(plan), act))
        return sorted(plan, key=lambda entry: entry[:2])

    async def _do_crash(self) -> None:
        self._crash()

    async def _do_crash_at_commit(self) -> None:
        self._crash_commits = 1 + int(self._nature.random() * 8)

    async def _do_fill_disk(self) -> None:
        """Nothing can be written for a while; what happens meanwhile waits, and the daemon may die of it."""
        self.ledger.fail()
        seconds = round(5 + 600 * self._nature.random(), 3)
        if self._nature.random() < 0.6:
            self.cloud.timeline.after(round(seconds * 0.8, 3), self._crash)
        self.cloud.timeline.after(seconds, self.ledger.heal)

    async def _do_plant(self) -> None:
        """Machines that nobody here ordered: somebody else's, and one with our mark."""
        number = len(self._foreign)
        offer = self.cloud.offers[1]  # on demand: not taken by the market
        foreign = f"somebody/else/{number}/1.1/1"
        self._foreign.add(foreign)
        self.cloud.plant(foreign, "somebody", offer, has_agent=False)
        self.cloud.plant(f"{OWNER}/{self._pools[0]}/{900 + number}/1.1/1", OWNER, offer)

    def _some_machine(self) -> Machine | None:
        machines = [one for one in self.cloud.living.values() if one.host is not None]
        return machines[int(self._nature.random() * len(machines))] if machines else None

    async def _do_silence(self) -> None:
        if (machine := self._some_machine()) is not None:
            self.cloud.silence(machine, round(10 + 900 * self._nature.random() ** 2, 3))

    async def _do_notice_falsely(self) -> None:
        """A notice that is withdrawn in time, or not made true."""
        machine = self._some_machine()
        if machine is None:
            return
        self.cloud.preempt(machine, 120, kill=False)
        wait = round(150 * self._nature.random(), 3)
        self.cloud.timeline.after(wait, lambda: self.cloud.withdraw(machine))

    # --- what users ask ---------------------------------------------------------------------------

    async def _submit(self, pool: str, request: Request) -> Accepted:
        """Send a request again until it is known to be accepted, as a careful client does."""
        while True:
            daemon = self._daemon
            if daemon is not None and daemon.up:
                try:
                    self._sent.append((pool, request))
                    return await daemon.submit(pool, request)
                except JournalClosed:
                    pass
            await anyio.sleep(1)

    def _id(self, kind: str) -> str:
        self._requests += 1
        return f"{kind}-{self._requests}"

    async def _open_pools(self) -> None:
        for pool in self._pools:
            self._nodes[pool] = 2 + int(self._user.random() * 4)
            await self._submit(
                pool, PoolRequested(request_id=self._id("pool"), pool=pool, spec=self._spec(pool))
            )

    def _spec(self, pool: str) -> PoolSpec:
        first = pool == self._pools[0]
        return PoolSpec(
            provider=(PROVIDER,),
            nodes=Nodes(desired=self._nodes[pool]),
            worker=Worker(concurrency=2, buffer=1) if first else Worker(),
            image=Image(steps=(Step(phase="packages", run="sim-sleep 20"), Step(phase="data", run="true"))),
            allocation="spot-if-available" if first else "cheapest",
            metrics_every_s=DAY_S,
            lease_s=7200,
            unreachable_timeout=300,
        )

    def _some_pool(self) -> str:
        return self._pools[int(self._user.random() * len(self._pools))]

    async def _ask_task(self) -> None:
        draw, pool = self._user.random, self._some_pool()
        lines = int(draw() * 4)
        # The number of lines is the end of the id: what is kept of them can be compared.
        name = f"{self._id('task')}-{lines}"
        code = "1" if draw() < 0.1 else "0"
        argv = ["sim-sleep", str(round(draw() ** 2 * 900, 1)), code, str(lines)]
        if draw() < 0.1:
            argv.append("stubborn")
        spec = TaskSpec(
            argv=tuple(argv),
            retries=int(draw() * 3),
            retries_infrastructure=50,
            priority=int(draw() * 3),
            timeout_s=600 if draw() < 0.2 else None,
            on_notice="save" if draw() < 0.2 else None,
        )
        self._tasks.append((pool, name))
        await self._submit(pool, TaskRequested(request_id=name, pool=pool, task=spec))

    async def _ask_many(self) -> None:
        for _ in range(20):
            await self._ask_task()

    async def _ask_resize(self) -> None:
        pool = self._some_pool()
        self._nodes[pool] = int(self._user.random() * 8)
        request = PoolResizeRequested(request_id=self._id("resize"), pool=pool, nodes=self._nodes[pool])
        await self._submit(pool, request)

    async def _ask_drain(self) -> None:
        draw, pool = self._user.random, self._some_pool()
        node = int(draw() * max(1, self._nodes[pool]))
        then: str = "replace" if draw() < 0.7 else "remove"
        request = DrainRequested.model_validate(
            {"request_id": self._id("drain"), "pool": pool, "node": node, "then": then, "within_s": 120}
        )
        await self._submit(pool, request)

    async def _ask_stop(self) -> None:
        if self._tasks:
            recent = self._tasks[-10:]
            pool, task = recent[int(self._user.random() * len(recent))]
            await self._submit(pool, TaskStopRequested(request_id=self._id("stop"), pool=pool, task_id=task))

    async def _ask_update(self) -> None:
        pool = self._some_pool()
        self._nodes[pool] = 1 + int(self._user.random() * 5)
        spec = self._spec(pool).model_copy(
            update={"worker": Worker(concurrency=1 + int(self._user.random() * 3))}
        )
        await self._submit(pool, PoolUpdateRequested(request_id=self._id("update"), pool=pool, spec=spec))

    async def _ask_set_up(self) -> None:
        """Set a machine up again."""
        pool = self._some_pool()
        loop = self._daemon.loops.get(pool) if self._daemon is not None else None
        living = list(loop.index.instances.values()) if loop is not None else []
        if living:
            chosen = node_instance(living[int(self._user.random() * len(living))])
            request = BootstrapRequested(request_id=self._id("setup"), instance=chosen, cluster_id="")
            await self._submit(pool, request)

    async def _ask_again(self) -> None:
        """Send a request again, as a client does that got no answer."""
        if self._sent:
            pool, request = self._sent[int(self._user.random() * len(self._sent))]
            await self._submit(pool, request)

    async def _ask_remake(self) -> None:
        """End a pool, and make one of the same name when it is gone."""
        pool = self._some_pool()
        ending = ShutdownRequested(request_id=self._id("shutdown"), cluster_id=pool)
        await self._submit(pool, ending)
        self._aside.start_soon(self._remake, pool, ending.request_id)

    async def _remake(self, pool: str, ending: str) -> None:
        while not self.referee.is_ended(ending):  # noqa: ASYNC110 - the clock is virtual
            await anyio.sleep(10)
        self._nodes[pool] = 1 + int(self._user.random() * 5)
        request = PoolRequested(request_id=self._id("pool"), pool=pool, spec=self._spec(pool))
        await self._submit(pool, request)

    # --- the end ----------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Faults cease: pools become whole. They are shut down: all is over. Both in stated times."""
        self._is_calm = self.cloud.luck.calm = True
        self.ledger.heal()
        self._crash_commits = 0
        await self._within(WHOLE_WITHIN_S, lambda: self._is_true_of_all(_is_whole), "not whole in time")
        await self._within(IDLE_WITHIN_S, lambda: self._is_true_of_all(_is_idle), "work left in time")
        for pool in self._pools:
            await self._submit(pool, ShutdownRequested(request_id=self._id("shutdown"), cluster_id=pool))
        for _ in range(self._habits.last_words):
            await anyio.sleep(round(5 * self._user.random(), 3))
            for ask in (self._ask_task, self._ask_resize, self._ask_stop):
                await ask()
        await self._within(OVER_WITHIN_S, self._is_over, "not over in time")
        self.referee.at_the_end(self._foreign)

    async def _within(self, seconds: float, holds: Callable[[], bool], what: str) -> None:
        with anyio.move_on_after(seconds) as patience:
            while not holds():  # noqa: ASYNC110 - the clock is virtual, and the cloud tells nobody
                await anyio.sleep(30)
        if patience.cancelled_caught:
            loops = self._daemon.loops.values() if self._daemon else ()
            self.referee.rule(False, f"{what}: {'; '.join(_shown(loop) for loop in loops)}")

    def _is_true_of_all(self, holds: Callable[[Loop], bool]) -> bool:
        daemon = self._daemon
        if daemon is None or not daemon.up or len(daemon.loops) < len(self._pools):
            return False
        return all(holds(loop) for loop in daemon.loops.values())

    def _is_over(self) -> bool:
        daemon = self._daemon
        ours_left = any(key not in self._foreign for key in self.referee.billed)
        return daemon is not None and daemon.up and not daemon.loops and not ours_left


def _is_whole(loop: Loop) -> bool:
    """As many machines as are wanted, all at work, and not one more."""
    pool, index = loop.index.pool, loop.index
    return isinstance(pool, Active) and pool.whole and len(index.instances) == pool.desired


def _is_idle(loop: Loop) -> bool:
    """Nothing is left to run, unless the users want no machine to run it on."""
    pool, index = loop.index.pool, loop.index
    return not index.tasks or (pool is not None and pool.desired == 0)


def _shown(loop: Loop) -> str:
    """A pool in a few words, for who looks why it is not whole."""
    pool, index = loop.index.pool, loop.index
    asked = "" if pool is None else f"{pool.status} desired {pool.desired} removed {pool.removed}"
    steered = getattr(pool, "steered", None)
    nodes = {node: state.status for node, state in index.nodes.items()}
    return (
        f"{loop.name} {asked} steered {steered} nodes {nodes} "
        f"instances {dict(index.instance_counts)} tasks {dict(index.task_counts)}"
    )
