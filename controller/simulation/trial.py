"""A pool tried before it costs: the real daemon, for days, against clouds in memory."""

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import anyio
import trio

from actors.events import PoolRequested, TaskRequested
from actors.policy.eligible import mismatch
from actors.spec import PoolSpec, TaskSpec
from controller.simulation.clock import VirtualClock
from controller.simulation.figures import Onlooker
from controller.simulation.house import Life, Watcher
from controller.simulation.ledger import Ledger, MemoryJournal
from controller.simulation.resting import OBSERVE_TIMEOUT_S, RestingProvider
from controller.simulation.results import Course, PoolFigures
from controller.simulation.virtual import run_virtual
from providers.model import Value
from providers.simulated.cloud import Cloud
from providers.simulated.config import SimulatedConfig
from providers.simulated.machine import Machine
from providers.simulated.processes import Script

START = 1_767_225_600.0  # 2026-01-01, UTC
NEVER_S = 31_536_000.0  # the longest time that a spec can name


@dataclass(frozen=True, slots=True)
class Load:
    """Tasks that every pool is given at the start."""

    tasks: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Scripted:
    """A preemption that is acted out on a machine, so long after its launch.

    Attributes:
        machines: only on those with these numbers, the first that its provider makes is 1; empty: on all.
        lifecycle, zone: only on such machines; None: on all.
        within_s: lead time of the notice; None: taken without a word.
        withdraw_after_s: the notice is taken back so long after it was given.
        kill: whether it comes true.
    """

    after_s: float
    machines: tuple[int, ...] = ()
    lifecycle: str | None = None
    zone: str | None = None
    within_s: float | None = None
    withdraw_after_s: float | None = None
    kill: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is tried.

    Attributes:
        pools: their specs.
        providers: how each provider that they name behaves.
        scripts: preemptions of its machines, by provider.
        seconds: how long.
        seed: of everything that is random.
        observe_every_s: as the daemon's config says.
        counted_from_s: shares of time are of what comes after it; all else is counted from the start.
        load: what the pools have to work on.
        assumed: what was assumed, for people.
    """

    pools: Mapping[str, PoolSpec]
    providers: Mapping[str, SimulatedConfig]
    seconds: float
    scripts: Mapping[str, Sequence[Scripted]] = field(default_factory=dict)
    seed: int = 0
    observe_every_s: float = 5.0
    counted_from_s: float = 0.0
    load: Load | None = None
    assumed: tuple[str, ...] = ()


class Report(Value):
    """What came of it. `seconds` is what was simulated, less than `asked_seconds` when it was stopped.

    The same scenario with the same seed has the same `journal_sha256`.
    """

    seconds: float
    asked_seconds: float
    seed: int
    assumed: tuple[str, ...]
    bugs: tuple[str, ...]
    events: int
    journal_sha256: str
    pools: tuple[PoolFigures, ...]


class _Watcher(Watcher):
    def __init__(self) -> None:
        self.bugs: list[str] = []

    def bug(self, text: str) -> None:
        """Keep it: a report with a bug in it says so."""
        self.bugs.append(text)


class _Eyes(Onlooker):
    """Sees what the onlooker sees, lets listings come when something happens, and acts scripts out."""

    def __init__(
        self, scenario: Scenario, now: Callable[[], float], progress: Callable[[float], None]
    ) -> None:
        tasks = scenario.load.tasks if scenario.load is not None else 0
        sizes = {
            name: (
                spec.nodes.desired,
                spec.nodes.desired if spec.nodes.min is None else spec.nodes.min,
                tasks,
            )
            for name, spec in scenario.pools.items()
        }
        super().__init__(sizes, now, progress, counted_from_s=scenario.counted_from_s)
        self.providers: dict[str, RestingProvider] = {}
        self._scripts = scenario.scripts
        self._made: dict[str, int] = {}

    def machine_made(self, provider: str, key: str, ref: str, late: bool) -> None:
        """A machine begins to cost money, and its fate is planned."""
        super().machine_made(provider, key, ref, late)
        self._stir(provider)
        number = self._made[provider] = self._made.get(provider, 0) + 1
        cloud = self.clouds[provider]
        for script in self._scripts.get(provider, ()):
            _act_out(script, cloud, cloud.living[ref], number)

    def machine_ended(self, provider: str, key: str, ref: str, reason: str) -> None:
        """A machine is gone."""
        super().machine_ended(provider, key, ref, reason)
        self._stir(provider)

    def machine_resumed(self, provider: str, key: str, ref: str) -> None:
        """A machine is there again."""
        super().machine_resumed(provider, key, ref)
        self._stir(provider)

    def happened(self, text: str) -> None:
        """Nobody says where, so all listings come."""
        for provider in self.providers:
            self._stir(provider)

    def _stir(self, provider: str) -> None:
        if (found := self.providers.get(provider)) is not None:
            found.stir()


def _act_out(script: Scripted, cloud: Cloud, machine: Machine, number: int) -> None:
    offer = machine.offer
    is_meant = (
        (not script.machines or number in script.machines)
        and script.lifecycle in (None, offer.lifecycle)
        and script.zone in (None, offer.zone)
    )
    if not is_meant:
        return
    cloud.timeline.after(script.after_s, lambda: cloud.preempt(machine, script.within_s, kill=script.kill))
    if script.withdraw_after_s is not None:
        cloud.timeline.after(script.after_s + script.withdraw_after_s, lambda: cloud.withdraw(machine))


class Trial:
    """One run of a scenario.

    Args:
        scenario: what is tried.
        progress: called now and then with the virtual seconds that have passed.
        moments: what is done at which virtual seconds with the daemon that runs then.
    """

    def __init__(
        self,
        scenario: Scenario,
        progress: Callable[[float], None] = lambda seconds: None,
        moments: Mapping[float, Callable[[Life], Awaitable[None]]] = MappingProxyType({}),
    ) -> None:
        self.courses: dict[str, Course] = {}
        self._scenario = scenario
        self._progress = progress
        self._moments = sorted(moments.items(), key=lambda item: item[0])
        self._stopping = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._time = trio.CancelScope()  # virtual time goes on within it

    def run(self) -> Report:
        """Simulate it. Never call it within another event loop."""
        return run_virtual(self._run, self._scenario.seed)

    def stop(self) -> None:
        """Let the run end now, with the figures so far. May be called by a signal handler."""
        self._stopping = True
        if self._token is not None:
            self._token.run_sync_soon(self._time.cancel)

    async def _run(self) -> Report:
        scenario, clock, watcher = self._scenario, VirtualClock(START), _Watcher()
        self._token = trio.lowlevel.current_trio_token()
        eyes = _Eyes(scenario, anyio.current_time, self._progress)
        ledger = Ledger(eyes)
        async with anyio.create_task_group() as tasks:
            for name, config in scenario.providers.items():
                cloud = eyes.clouds[name] = Cloud(name, config, clock.now, eyes)
                eyes.providers[name] = RestingProvider(name, config, clock.now, cloud)
                tasks.start_soon(cloud.run)
            on_demand = {name: on_demand_price(spec, eyes.clouds) for name, spec in scenario.pools.items()}
            life = Life(
                ledger,
                MemoryJournal(ledger, lambda _: "go on", lambda: None),
                eyes.providers,
                watcher,
                clock,
                random.Random(f"dice {scenario.seed}"),
                checking=False,
                observe_every_s=scenario.observe_every_s,
                observe_timeout_s=OBSERVE_TIMEOUT_S,
            )
            tasks.start_soon(life.run)
            while not life.up:
                await anyio.lowlevel.checkpoint()
            with self._time:
                if not self._stopping:
                    await self._ask(life)
                    for at, meet in self._moments:
                        await anyio.sleep_until(at)
                        await meet(life)
                    await anyio.sleep_until(scenario.seconds)
            report = Report(
                seconds=round(anyio.current_time(), 6),
                asked_seconds=scenario.seconds,
                seed=scenario.seed,
                assumed=scenario.assumed,
                bugs=tuple(watcher.bugs),
                events=ledger.events,
                journal_sha256=ledger.hash,
                pools=tuple(eyes.figures(name, price, clock.now) for name, price in on_demand.items()),
            )
            self.courses = {name: eyes.course(name, price) for name, price in on_demand.items()}
            tasks.cancel_scope.cancel()
        return report

    async def _ask(self, life: Life) -> None:
        scenario = self._scenario
        for name, spec in scenario.pools.items():
            request = PoolRequested(request_id=f"pool-{name}", pool=name, spec=unhurried(spec))
            await life.submit(name, request)
        if scenario.load is None:
            return
        task = TaskSpec(name="load", argv=("sim-sleep", f"{scenario.load.seconds:g}"))
        for number in range(scenario.load.tasks):
            for name in scenario.pools:
                await life.submit(
                    name, TaskRequested(request_id=f"task-{name}-{number + 1}", pool=name, task=task)
                )


def unhurried(spec: PoolSpec) -> PoolSpec:
    """The spec without what wakes machines up and changes no figure: their metrics, and checks that pass."""
    update: dict[str, object] = {"metrics_every_s": NEVER_S}
    if spec.health is not None and Script.of(spec.health.run.split()).code == 0:
        update["health"] = None
    return spec.model_copy(update=update)


def on_demand_price(spec: PoolSpec, clouds: Mapping[str, Cloud]) -> int | None:
    """Micro-dollars an hour of the cheapest on-demand offer that fits, however dear; None: none fits."""
    wanted = spec.model_copy(update={"allocation": "on-demand", "max_hourly_cost": None})
    prices = [
        offer.micro_usd_per_hour
        for name in spec.provider
        for offer in clouds[name].offers
        if mismatch(wanted, offer) is None
    ]
    return min(prices, default=None)
