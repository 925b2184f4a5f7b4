"""What users ask for, and how they set their config: requests sent until they are known to be accepted."""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio

from actors.events import (
    BootstrapRequested,
    DrainRequested,
    PoolPauseRequested,
    PoolRequested,
    PoolResizeRequested,
    PoolUpdateRequested,
    Request,
    ShutdownRequested,
    TaskRequested,
    TaskStopRequested,
)
from actors.instance.facts import node_instance
from actors.instance.state import InstanceState
from actors.ports import JournalClosed
from actors.spec import Image, Nodes, PoolSpec, Step, TaskSpec, Worker
from controller.config import PoolConfig
from controller.desk import CONFIG
from controller.reload import changes
from providers.simulated.cloud import Cloud
from tests.simulation.lives import Lives
from tests.simulation.plan import DAY_S, Act, Habits
from tests.simulation.referee import Referee
from tests.simulation.wishes import unlimited, wishes_of

NODES_MAX = 4  # of a pool; all pools at their most fit into the clouds they use
IN_CONFIG = ("conf-a", "conf-b")
TASKS_OF_A_BURST = 10
REMEMBERED = 200  # requests that may be sent again
LEASE_S, SHORT_LEASE_S = 7200.0, 1200.0  # of most pools, of some: machines end that nobody can reach so long
LONG_S = 3600.0  # and more run some of the tasks
PAUSE_S = 8 * 3600.0  # the longest pause that ends by itself
IMAGE = Image(steps=(Step(phase="packages", run="sim-sleep 20"), Step(phase="data", run="true")))
HASTE_S = 60.0  # within which users who are in a hurry ask for something else


@dataclass(slots=True)
class Pool:
    """What users think of one of their pools."""

    name: str
    providers: tuple[str, ...]
    allocation: str
    workers: int
    buffer: int
    nodes: int
    lease_s: float
    wishes: dict[str, Any] = field(default_factory=dict)  # where to buy, scaling, money
    image: Image = IMAGE
    shape: dict[str, Any] = field(default_factory=dict)

    def spec(self) -> PoolSpec:
        """What they ask for."""
        wishes = dict(self.wishes)
        nodes = Nodes(desired=self.nodes)
        if "scaling" in wishes:
            least = min(wishes.pop("least"), self.nodes)
            nodes = Nodes(desired=self.nodes, min=least, max=wishes.pop("most"))
        return PoolSpec.model_validate(
            {
                "provider": self.providers,
                "nodes": nodes,
                "worker": Worker(concurrency=self.workers, buffer=self.buffer),
                "image": self.image,
                **self.shape,
                "allocation": self.allocation,
                "metrics_every_s": DAY_S,
                "lease_s": self.lease_s,
                "unreachable_timeout": 300,
                **wishes,
            }
        )


class Users:
    """All users of one world.

    Args:
        seed: of all that is random about them and is not of one act.
        habits: how many pools they have.
        lives: whom they ask.
        clouds: what their pools may use.
        referee: knows what has ended.
    """

    def __init__(
        self, seed: int, habits: Habits, lives: Lives, clouds: Mapping[str, Cloud], referee: Referee
    ) -> None:
        self.waiting = 0  # requests on their way
        self.pools: dict[str, Pool] = {}  # made by users
        self.config: dict[str, PoolConfig] = {}
        self.done = {
            "task": self._task,
            "burst": self._burst,
            "resize": self._resize,
            "drain": self._drain,
            "drain_noticed": self._drain_noticed,
            "stop_task": self._stop_task,
            "update": self._update,
            "set_up": self._set_up,
            "repeat": self._repeat,
            "remake": self._remake,
            "reload": self._reload,
            "pause": self._pause,
            "respec": self._respec,
        }
        self._seed = seed
        self._lives = lives
        self._clouds = clouds
        self._referee = referee
        self._tasks: list[tuple[str, str]] = []
        self._sent: list[tuple[str, Request, str]] = []
        self._reloads = 0
        self._named: dict[str, Pool] = {}  # pools of the config
        dice = random.Random(f"{seed}/pools")
        names = [f"pool-{letter}" for letter in "abcdefgh"[: habits.pools]]
        for number, name in enumerate((*names, *IN_CONFIG)):
            pool = self._drawn(name, number, dice)
            if name in IN_CONFIG:
                self._named[name] = pool
                self.config[name] = PoolConfig(pool.spec())
            else:
                self.pools[name] = pool

    def _drawn(self, name: str, number: int, dice: random.Random) -> Pool:
        clouds = list(self._clouds)
        first = clouds[number % len(clouds)]
        more = [one for one in clouds if one != first and dice.random() < 0.4]
        allocations = ("spot-if-available", "cheapest", "cheapest")
        return Pool(
            name,
            (first, *more),
            allocation=allocations[number % 3],
            workers=1 + int(dice.random() * 2),
            buffer=int(dice.random() * 2),
            nodes=1 + int(dice.random() * 2),
            lease_s=SHORT_LEASE_S if number % 4 == 1 else LEASE_S,
            wishes=wishes_of(random.Random(f"{self._seed}/wishes/{name}"), NODES_MAX),
        )

    @property
    def names(self) -> list[str]:
        """Pools that are wanted now."""
        return [*self.pools, *(name for name, one in self.config.items() if not one.remove)]

    # --- sending ----------------------------------------------------------------------------------

    async def submit(
        self, pool: str, request: Request, principal: str = "user", *, to_old: bool = False
    ) -> None:
        """Send a request again until it is known to be accepted, as a careful client does."""
        self.waiting += 1
        self._sent.append((pool, request, principal))
        del self._sent[:-REMEMBERED]
        if to_old and self._lives.old:  # it went to the daemon that does not lead any more
            try:
                await self._lives.old[0].life.submit(pool, request, principal)
            except JournalClosed:
                pass
        while True:
            life = self._lives.life
            if life is not None:
                try:
                    await life.submit(pool, request, principal)
                except JournalClosed:
                    pass
                else:
                    break
            await anyio.sleep(2)
        self.waiting -= 1

    async def open_pools(self) -> None:
        """Make the first pools. Those of the config are made by each daemon when it starts."""
        for name, pool in self.pools.items():
            draws = random.Random(f"{self._seed}/{name}")
            request = PoolRequested(
                request_id=f"pool-{name}", pool=name, spec=pool.spec(), ready_within_s=_patience_s(draws)
            )
            await self.submit(name, request)

    async def apply_config(self) -> None:
        """Make the config's pools what it says, as a daemon does at its start and when told to reload."""
        self._reloads += 1
        number = self._reloads
        self.waiting += 1
        while (life := self._lives.life) is None:  # noqa: ASYNC110 - the clock is virtual
            await anyio.sleep(2)
        states = {name: loop.index.pool for name, loop in life.loops.items()}
        for name, _, request in changes(self.config, states):
            if request is not None:
                full = request.model_copy(update={"request_id": f"config-{number}-{name}"})
                await self.submit(name, full, CONFIG)
        self.waiting -= 1

    # --- acts -------------------------------------------------------------------------------------

    def _some_pool(self, dice: random.Random) -> Pool:
        """Any pool; those of the config may be used by anybody."""
        pools = [*self.pools.values(), *self._named.values()]
        return pools[int(dice.random() * len(pools))]

    def _some_own(self, dice: random.Random) -> Pool:
        """A pool that belongs to users: it may be updated and ended by them."""
        pools = list(self.pools.values())
        return pools[int(dice.random() * len(pools))]

    async def _task(self, act: Act, dice: random.Random) -> None:
        await self.ask_task(f"{act.index}", dice)

    async def ask_task(self, mark: str, dice: random.Random) -> None:
        """Run something. `mark` tells this request from all others."""
        draw, pool = dice.random, self._some_pool(dice).name
        lines = int(draw() * 4)
        # The number of lines is the end of the id: what is kept of them can be compared.
        name = f"task-{mark}-{lines}"
        code = "1" if draw() < 0.1 else "0"
        seconds = draw() ** 2 * 900
        if draw() < 0.1:
            seconds = LONG_S * (1 + 2 * draw())
        argv = ["sim-sleep", str(round(seconds, 1)), code, str(lines)]
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
        request = TaskRequested(request_id=name, pool=pool, task=spec)
        await self.submit(pool, request, to_old=draw() < 0.5)
        if draw() < 0.04:  # it was a mistake
            if draw() < 0.7:
                await anyio.sleep(round(3 * draw(), 3))
            stop = TaskStopRequested(request_id=f"stop-{name}", pool=pool, task_id=name)
            await self.submit(pool, stop)

    async def _burst(self, act: Act, dice: random.Random) -> None:
        for number in range(TASKS_OF_A_BURST):
            await self.ask_task(f"{act.index}.{number}", dice)

    async def _resize(self, act: Act, dice: random.Random) -> None:
        await self.ask_resize(f"{act.index}", dice)

    async def ask_resize(self, mark: str, dice: random.Random) -> None:
        """Make a pool larger or smaller, and perhaps think of another size soon after."""
        pool, turns = self._some_pool(dice), 2 if dice.random() < 0.3 else 1
        for turn in range(turns):
            if turn > 0:
                await anyio.sleep(round(HASTE_S * dice.random(), 3))
            nodes = int(dice.random() * (NODES_MAX + 1))
            await self._ask_size(f"{mark}.{turn}", pool, nodes, dice)

    async def _ask_size(self, mark: str, pool: Pool, nodes: int, dice: random.Random) -> None:
        pool.nodes = nodes
        request = PoolResizeRequested(
            request_id=f"resize-{mark}", pool=pool.name, nodes=nodes, ready_within_s=_patience_s(dice)
        )
        await self.submit(pool.name, request, to_old=dice.random() < 0.5)

    async def _drain(self, act: Act, dice: random.Random) -> None:
        pool = self._some_pool(dice)
        node = int(dice.random() * max(1, pool.nodes))
        then = "replace" if dice.random() < 0.6 else "remove"
        await self._ask_drain(act, pool.name, node, then)
        if then == "remove" and dice.random() < 0.6:  # while it drains, and no other node may take its place
            await anyio.sleep(round(HASTE_S * dice.random(), 3))
            await self._ask_size(f"{act.index}", pool, min(pool.nodes + 1, NODES_MAX), dice)

    async def _ask_drain(self, act: Act, pool: str, node: int, then: str) -> None:
        request = DrainRequested.model_validate(
            {"request_id": f"drain-{act.index}", "pool": pool, "node": node, "then": then, "within_s": 120}
        )
        await self.submit(pool, request)

    async def _drain_noticed(self, act: Act, dice: random.Random) -> None:
        """Drain a machine that is told at the same time that it will be taken."""
        found = self._some_instance(dice)
        if found is None:
            return
        pool, instance = found
        draws = [dice.random() for _ in range(3)]
        for cloud in self._clouds.values():
            machine = cloud.machines.get(instance.key)
            if machine is not None and machine.ended_at is None:
                wait = round(20 * draws[0], 3) if draws[1] < 0.5 else 0.0
                cloud.timeline.after(wait, lambda: cloud.preempt(machine, 120))  # noqa: B023
                break
        if draws[1] >= 0.5:
            await anyio.sleep(round(20 * draws[0], 3))
        await self._ask_drain(act, pool, instance.node, "replace" if draws[2] < 0.7 else "remove")

    def _some_instance(self, dice: random.Random) -> tuple[str, InstanceState] | None:
        pool, draw = self._some_pool(dice).name, dice.random()
        life = self._lives.life
        loop = life.loops.get(pool) if life is not None else None
        living = list(loop.index.instances.values()) if loop is not None else []
        return (pool, living[int(draw * len(living))]) if living else None

    async def _stop_task(self, act: Act, dice: random.Random) -> None:
        await self.ask_stop(f"{act.index}", dice)

    async def ask_stop(self, mark: str, dice: random.Random) -> None:
        """Stop a task that was asked for not long ago."""
        recent = self._tasks[-10:]
        if recent:
            pool, task = recent[int(dice.random() * len(recent))]
            request = TaskStopRequested(request_id=f"stop-{mark}", pool=pool, task_id=task)
            await self.submit(pool, request)

    async def _update(self, act: Act, dice: random.Random) -> None:
        pool = self._some_own(dice)
        pool.nodes = 1 + int(dice.random() * NODES_MAX)
        pool.workers = 1 + int(dice.random() * 3)
        if dice.random() < 0.5:
            pool.wishes = wishes_of(dice, NODES_MAX)
        request = PoolUpdateRequested(request_id=f"update-{act.index}", pool=pool.name, spec=pool.spec())
        await self.submit(pool.name, request)

    async def _respec(self, act: Act, dice: random.Random) -> None:
        """Have other machines: of another image, another shape; and perhaps think better of it soon after."""
        pool = self._some_own(dice)
        before = pool.image, pool.shape
        draws = [dice.random() for _ in range(6)]
        if draws[0] < 0.7:
            run = "false" if draws[1] < 0.2 else "true"
            pool.image = Image(
                env={"MADE": str(act.index)}, steps=(*IMAGE.steps, Step(phase="more", run=run))
            )
        if draws[0] > 0.5:
            pool.shape = self._some_shape(pool, draws[2])
        await self._ask_spec(f"{act.index}", pool)
        if draws[3] < 0.4:
            await anyio.sleep(round(PAUSE_S * draws[4] ** 3, 3))
            pool.image, pool.shape = before if draws[5] < 0.7 else (IMAGE, {})
            await self._ask_spec(f"{act.index}.again", pool)

    def _some_shape(self, pool: Pool, draw: float) -> dict[str, Any]:
        """A wish that some of what the pool may use meets; at times none does."""
        offers = [one for name in pool.providers for one in self._clouds[name].offers]
        one = offers[int(draw * len(offers))]
        wishes: list[dict[str, Any]] = [
            {},
            {"zone": one.zone},
            {"region": one.region},
            {"instance_type": one.instance_type.name},
            {"vcpus": one.instance_type.vcpus},
            {"disk_gb": 20 + 100 * draw},
        ]
        return wishes[int(draw * 997) % len(wishes)]

    async def _ask_spec(self, mark: str, pool: Pool) -> None:
        request = PoolUpdateRequested(request_id=f"respec-{mark}", pool=pool.name, spec=pool.spec())
        await self.submit(pool.name, request)

    async def _set_up(self, act: Act, dice: random.Random) -> None:
        """Set a machine up again."""
        found = self._some_instance(dice)
        if found is not None:
            pool, instance = found
            chosen = node_instance(instance)
            request = BootstrapRequested(request_id=f"setup-{act.index}", instance=chosen, cluster_id="")
            await self.submit(pool, request)

    async def _repeat(self, act: Act, dice: random.Random) -> None:
        """Send a request again, as a client does that got no answer."""
        del act
        if self._sent:
            pool, request, principal = self._sent[int(dice.random() * len(self._sent))]
            await self.submit(pool, request, principal, to_old=dice.random() < 0.5)

    async def _remake(self, act: Act, dice: random.Random) -> None:
        """End a pool, and make one of the same name when it is gone."""
        pool = self._some_own(dice)
        ending = ShutdownRequested(request_id=f"shutdown-{act.index}", cluster_id=pool.name)
        self.waiting += 1
        await self.submit(pool.name, ending)
        while not self._referee.is_ended(ending.request_id):  # noqa: ASYNC110 - the clock is virtual
            await anyio.sleep(10)
        pool.nodes = 1 + int(dice.random() * NODES_MAX)
        request = PoolRequested(
            request_id=f"pool-{act.index}",
            pool=pool.name,
            spec=pool.spec(),
            ready_within_s=_patience_s(dice),
        )
        await self.submit(pool.name, request)
        self.waiting -= 1

    async def _reload(self, act: Act, dice: random.Random) -> None:
        """Change the config, and have it read again: another spec, a pool removed, one named again."""
        del act
        name = IN_CONFIG[int(dice.random() * len(IN_CONFIG))]
        pool = self._named[name]
        pool.nodes = 1 + int(dice.random() * NODES_MAX)
        pool.workers = 1 + int(dice.random() * 3)
        gone = dice.random() < 0.3
        self.config[name] = PoolConfig(None if gone and dice.random() < 0.5 else pool.spec(), remove=gone)
        if dice.random() < 0.2:  # it names a pool that was not made by the config
            other = self._some_own(dice)
            self.config[other.name] = PoolConfig(other.spec())
        if dice.random() < 0.4:
            pool.wishes = wishes_of(dice, NODES_MAX)  # of the next time that its spec is read
        await self.apply_config()
        for other_name in self.pools:
            self.config.pop(other_name, None)

    async def _pause(self, act: Act, dice: random.Random) -> None:
        """Pause a pool, and mostly resume it later; some pause or resume one that is so already."""
        pool, draws = self._some_pool(dice).name, [dice.random() for _ in range(4)]
        if draws[0] < 0.1:  # somebody else might have paused it
            await self._ask_pause(f"{act.index}.early", pool, paused=False)
        await self._ask_pause(f"{act.index}", pool, paused=True)
        if draws[1] < 0.2:
            await self._ask_pause(f"{act.index}.again", pool, paused=True)
        if draws[2] < 0.8:
            await anyio.sleep(round(PAUSE_S * draws[3] ** 3, 3))
            await self._ask_pause(f"{act.index}.end", pool, paused=False)

    async def _ask_pause(self, mark: str, pool: str, *, paused: bool) -> None:
        request = PoolPauseRequested(request_id=f"pause-{mark}", pool=pool, paused=paused)
        await self.submit(pool, request)

    # --- the end ----------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Have the config read once more, as it is now, but for what may keep a pool from being whole."""
        for name, pool in self._named.items():
            pool.wishes = unlimited(pool.wishes)
            if not self.config[name].remove:
                self.config[name] = PoolConfig(pool.spec())
        await self.apply_config()
        for name, pool in self.pools.items():
            pool.wishes, pool.image, pool.shape = unlimited(pool.wishes), IMAGE, {}
            request = PoolUpdateRequested(request_id=f"settle-{name}", pool=name, spec=pool.spec())
            await self.submit(name, request)
        for name in self.names:
            await self._ask_pause(f"settle-{name}", name, paused=False)

    async def end_pools(self) -> None:
        """Shut everything down."""
        for name in self.config:
            self.config[name] = PoolConfig(None, remove=True)
        await self.apply_config()
        for name in self.pools:
            await self.submit(name, ShutdownRequested(request_id=f"shutdown-{name}", cluster_id=name))

    async def last_words(self, rounds: int, dice: random.Random) -> None:
        """Ask for things while the pools are being ended."""
        for number in range(rounds):
            await anyio.sleep(round(5 * dice.random(), 3))
            await self.ask_task(f"last.{number}", dice)
            await self.ask_resize(f"last.{number}", dice)
            await self.ask_stop(f"last.{number}", dice)


def _patience_s(dice: random.Random) -> float:
    """How long users wait for machines: mostly an hour, at times no longer than a machine takes, or less."""
    is_short, draw = dice.random() < 0.2, dice.random()
    return round(30 + 90 * draw, 3) if is_short else 3600.0
