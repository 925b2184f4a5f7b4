"""One run: clouds, users who ask for things, misfortunes, and a daemon that dies and comes back."""

import random
from collections import Counter
from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup

from actors.loop import Loop
from actors.pool.state import Active
from actors.pool.wanted import wanted_count
from controller.simulation.clock import VirtualClock
from controller.simulation.ledger import Ledger
from providers.simulated.cloud import Cloud
from tests.simulation.accounts import accounts_of
from tests.simulation.lives import Lives
from tests.simulation.nature import Nature
from tests.simulation.plan import DAY_S, Act, Case, Habits, plan_of
from tests.simulation.referee import Broken, Fair, Referee
from tests.simulation.users import Users

START = 1_767_225_600.0  # 2026-01-01, UTC
WHOLE_WITHIN_S = 2 * 3600.0  # after the last fault every pool must be whole in this time
IDLE_WITHIN_S = 24 * 3600.0  # and have worked off their queues in this
OVER_WITHIN_S = 4 * 3600.0  # and, shut down, be gone in this
EVENTS_A_DAY_MAX = 50_000
LOOK_EVERY_S = 60.0  # how often the referee is told what worked


class World:
    """Everything of one run, seeded.

    Args:
        case: the seed, how long faults and users go on, and what is left out.
        habits: how much happens.
    """

    def __init__(self, case: Case, habits: Habits) -> None:
        self.case = case
        self.acts: Counter[str] = Counter()
        self.clock = VirtualClock(START)
        self.referee = Referee(self.clock.now)
        self.referee.events_max = int(EVENTS_A_DAY_MAX * max(1.0, case.days))
        self.ledger = Ledger(self.referee)
        self.clouds = {
            name: Cloud(name, config, self.clock.now, self.referee)
            for name, config in accounts_of(case.seed, case.without).items()
        }
        self.lives = Lives(case.seed, self.ledger, self.clouds, self.referee, self.clock.now, self._began)
        self.users = Users(case.seed, habits, self.lives, self.clouds, self.referee)
        self.nature = Nature(self.clouds, self.lives, self.ledger, self.referee)
        self.referee.bind(self.clouds, self.ledger)
        self._habits = habits
        self._tasks: TaskGroup

    async def run(self) -> None:
        """Live through it all. Raises Broken."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for cloud in self.clouds.values():
                tasks.start_soon(cloud.run)
            tasks.start_soon(self.lives.run)
            tasks.start_soon(self._watch, tasks.cancel_scope)
            tasks.start_soon(self._tell_time)
            tasks.start_soon(self.users.open_pools)
            began = anyio.current_time()
            for act in plan_of(self.case, self._habits):
                await anyio.sleep_until(began + act.at)
                self._happen(act)
            await anyio.sleep_until(began + self.case.days * DAY_S)
            await self._end()
            tasks.cancel_scope.cancel()
        if self.referee.broken is not None:
            raise Broken(self.referee.broken)

    def _happen(self, act: Act) -> None:
        self.acts[act.kind] += 1
        dice = act.dice(self.case.seed)
        if act.kind in self.users.done:
            self._tasks.start_soon(self.users.done[act.kind], act, dice)
        else:
            self.nature.done[act.kind](act, dice)

    def _began(self) -> None:
        """A daemon starts, and makes its config's pools what the config says."""
        self._tasks.start_soon(self.users.apply_config)

    async def _watch(self, run: anyio.CancelScope) -> None:
        """End the run when a rule is broken."""
        await self.referee.alarm.wait()
        run.cancel()

    async def _tell_time(self) -> None:
        """Tell the referee what worked, so that it knows what may be expected."""
        looked_at = self.clock.now()
        while True:
            await anyio.sleep(LOOK_EVERY_S)
            now, life = self.clock.now(), self.lives.life
            fair = Fair(
                up=life is not None and not self.lives.was_down,
                writable=not (self.ledger.failing or self.nature.was_full),
                providers=frozenset(
                    name for name in self.clouds if self.nature.troubled.get(name, 0.0) < looked_at
                ),
            )
            self.lives.was_down, self.nature.was_full = life is None, self.ledger.failing
            looked_at = now
            waiting = {name: loop.waiting for name, loop in life.loops.items()} if life is not None else {}
            self.referee.tick(LOOK_EVERY_S, fair, waiting)

    # --- the end ----------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Faults cease: pools become whole. They are shut down: all is over. Both in stated times."""
        self.nature.rest()
        await anyio.sleep(max([0.0, *(until - self.clock.now() for until in self.nature.troubled.values())]))
        self._tasks.start_soon(self.users.settle)
        await self._within(WHOLE_WITHIN_S, lambda: self._is_true_of_all(_is_whole), "not whole in time")
        await self._within(IDLE_WITHIN_S, lambda: self._is_true_of_all(_is_idle), "work left in time")
        await self.users.end_pools()
        await self.users.last_words(self._habits.last_words, random.Random(f"{self.case.seed}/last"))
        await self._within(OVER_WITHIN_S, self._is_over, "not over in time")
        self.referee.at_the_end()

    async def _within(self, seconds: float, holds: Callable[[], bool], what: str) -> None:
        with anyio.move_on_after(seconds) as patience:
            while not holds():  # noqa: ASYNC110 - the clock is virtual, and the cloud tells nobody
                await anyio.sleep(30)
        if patience.cancelled_caught:
            life = self.lives.life
            loops = life.loops.values() if life is not None else ()
            asked = f"{self.users.waiting} requests wait, pools {', '.join(self.users.names)} are wanted"
            self.referee.rule(False, f"{what}: {asked}; {'; '.join(_shown(loop) for loop in loops)}")

    def _is_true_of_all(self, holds: Callable[[Loop], bool]) -> bool:
        life = self.lives.life
        if life is None or self.users.waiting or set(life.loops) != set(self.users.names):
            return False
        return all(holds(loop) for loop in life.loops.values())

    def _is_over(self) -> bool:
        life = self.lives.life
        return life is not None and not life.loops and not self.users.waiting and not self.referee.left()


def _is_whole(loop: Loop) -> bool:
    """As many machines as are wanted, all at work, and not one more: but for nodes that move, and machines
    that they left, which may have hours for their tasks."""
    pool, index = loop.index.pool, loop.index
    if not (isinstance(pool, Active) and pool.whole and pool.paused is None):
        return False
    staying = len(index.instances) - index.instance_counts["draining"]
    return staying == wanted_count(pool) + index.node_counts["replacing"]


def _is_idle(loop: Loop) -> bool:
    """Nothing is left to run, unless the users want no machine to run it on. No machine is left to be
    replaced either, but in a gang: that stays in its zone, where there may be no room for one beside."""
    pool, index = loop.index.pool, loop.index
    if index.outdated and pool is not None and pool.spec.spread != "together":
        return False
    return not index.tasks or (pool is not None and pool.desired == 0 and pool.spec.scaling is None)


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
