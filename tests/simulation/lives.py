"""The lives of the daemon in one world: how each begins, what it believes the time is, and how it dies."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import anyio
from anyio.abc import TaskGroup

from actors.ports import Clock, JournalClosed
from actors.supervisor import attempt_call
from controller.clock import Start, SteadyClock, start
from controller.simulation.house import Life
from controller.simulation.ledger import Fate, Ledger, MemoryJournal
from providers.simulated.adapter import SimulatedProvider
from providers.simulated.cloud import Cloud
from tests.simulation.referee import Referee


class WallClock:
    """The clock of the daemon's computer: it may be wrong, and jump.

    Args:
        true: UTC seconds as they are.
    """

    def __init__(self, true: Callable[[], float]) -> None:
        self.wrong_s = 0.0
        self._true = true

    def now(self) -> float:
        """UTC seconds as this computer has them."""
        return self._true() + self.wrong_s


@dataclass(slots=True, eq=False)
class Incarnation:
    """One life, and all that is only its own."""

    life: Life
    providers: Mapping[str, SimulatedProvider]
    clock: Clock
    epoch: int
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    over: anyio.Event = field(default_factory=anyio.Event)  # another one may lead
    dead: bool = False
    deposed: bool = False  # another one leads, and this one does not know yet


@dataclass(slots=True)
class _CallCrash:
    """A crash that waits for a provider's call."""

    names: tuple[str, ...]  # of calls; none: any
    when: str
    left: int


class Lives:
    """One life of the daemon after the other, and sometimes two at once.

    Args:
        seed: of all that is random about them.
        ledger: what is durable.
        clouds: the accounts.
        referee: watches them all.
        true: UTC seconds as they are.
        began: told of each life that is up, so that the config is applied.
    """

    def __init__(
        self,
        seed: int,
        ledger: Ledger,
        clouds: Mapping[str, Cloud],
        referee: Referee,
        true: Callable[[], float],
        began: Callable[[], None],
    ) -> None:
        self.newest: Incarnation | None = None
        self.old: list[Incarnation] = []  # deposed, and still at work
        self.crashes = 0
        self.counts: Counter[str] = Counter()
        self.calm = False
        self.was_down = True  # at some time since somebody last looked
        self.agent_version = 1
        self.anchor: float | None = None  # of the last life's clock to that of the computer; a reboot ends it
        self.wall = WallClock(true)
        self._dice = random.Random(f"{seed}/lives")
        self._seed = seed
        self._ledger = ledger
        self._clouds = clouds
        self._referee = referee
        self._began = began
        self._commits = 0  # left until a life ends at one
        self._at_commit: Fate = "go on"
        self._call: _CallCrash | None = None
        self._tasks: TaskGroup

    @property
    def life(self) -> Life | None:
        """The one that leads, when it is up."""
        newest = self.newest
        return newest.life if newest is not None and newest.life.up and not newest.dead else None

    async def run(self) -> None:
        """Let the daemon live, again and again, until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            while True:
                one = self.newest = self._made()
                tasks.start_soon(self._live, one)
                await one.over.wait()
                if not one.deposed:
                    await anyio.sleep(round(1 + 60 * self._dice.random() ** 3, 3))

    def _clock(self) -> tuple[Start, Clock]:
        """The clock of a new life, as the daemon makes it of what its computer tells."""
        steady = anyio.current_time
        expected = None if self.anchor is None else steady() + self.anchor
        start_of = start(self.wall.now(), self._ledger.last_at, expected)
        if not self._ledger.failing:  # the anchor is a file on the same disk
            self.anchor = start_of.at - steady()
        return start_of, SteadyClock(start_of.at, steady)

    def _made(self) -> Incarnation:
        start_of, clock = self._clock()
        made: list[Incarnation] = []
        providers = {
            name: SimulatedProvider(
                name,
                cloud.config,
                clock=clock.now,
                cloud=cloud,
                agent_version=str(self.agent_version),
                on_call=lambda call, when: self._called(made[0], call, when),
            )
            for name, cloud in self._clouds.items()
        }
        journal = MemoryJournal(self._ledger, lambda: self._fate(made[0]), lambda: self.crash(made[0]))
        dice = random.Random(f"{self._seed}/life/{journal.epoch}")
        life = Life(self._ledger, journal, providers, self._referee, clock, dice, began=start_of)
        made.append(Incarnation(life, providers, clock, journal.epoch))
        return made[0]

    async def _live(self, one: Incarnation) -> None:
        self._referee.life_began(one.epoch)
        self._began()

        async def run() -> Exception | None:
            with one.scope:
                await one.life.run()
            return None

        error = await attempt_call(run, lambda error: error)
        if error is not None and not ((one.dead or one.deposed) and is_closed(error)):
            self._referee.rule(False, f"the daemon ended: {error!r}")
        self._bury(one)

    # --- ends -------------------------------------------------------------------------------------

    def _bury(self, one: Incarnation, late_share: float = 0.0) -> None:
        """Nothing gets out of it any more, then it is gone."""
        if one.dead:
            return
        one.dead = True
        if late_share:
            self._referee.late_calls_from(one.epoch)
            for provider in one.providers.values():
                provider.cut(late_share)
        one.life.cut()
        one.scope.cancel()
        if one in self.old:
            self.old.remove(one)
        if one is self.newest:
            self.was_down = True
            self._referee.life_ended()
            one.over.set()

    def crash(self, one: Incarnation | None = None, late_share: float = 0.0) -> None:
        """The daemon's process dies."""
        one = one or self.newest
        if one is None or one.dead or self.calm:
            return
        self.crashes += 1
        self._bury(one, late_share)

    def usurp(self, seconds: float) -> bool:
        """A second daemon takes over; the one that led goes on for a while without knowing."""
        one = self.newest
        if one is None or one.dead or self.calm:
            return False
        one.deposed = True
        self.was_down = True
        self.old.append(one)
        one.over.set()
        self._tasks.start_soon(self._end_later, one, seconds)
        return True

    async def _end_later(self, one: Incarnation, seconds: float) -> None:
        await anyio.sleep(seconds)
        self._bury(one)

    def crash_at_commit(self, count: int, fate: Fate) -> None:
        """Let the daemon die at a commit, after so many more."""
        self._commits, self._at_commit = count, fate

    def _fate(self, one: Incarnation) -> Fate:
        if self._commits == 0 or self.calm or one is not self.newest:
            return "go on"
        self._commits -= 1
        return "go on" if self._commits else self._at_commit

    def crash_at_call(self, names: tuple[str, ...], when: str, count: int) -> None:
        """Let the daemon die right before or after a call takes effect in the cloud."""
        self._call = _CallCrash(names, when, count)

    def _called(self, one: Incarnation, name: str, when: str) -> None:
        waits = self._call
        if (
            waits is None
            or one is not self.newest
            or when != waits.when
            or waits.names
            and name not in waits.names
        ):
            return
        waits.left -= 1
        if waits.left == 0:
            self._call = None
            self.counts[f"crash {when} {name}"] += 1
            self.crash(one)

    def rest(self) -> None:
        """No more faults."""
        self.calm = True
        self._commits, self._call = 0, None
        for one in list(self.old):
            self._bury(one)


def is_closed(error: BaseException | None) -> bool:
    """Whether nothing but a closed journal ended a life."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_closed(one) for one in error.exceptions)
    return isinstance(error, JournalClosed)
