"""The lives of the daemon in one world: how each begins, what it believes the time is, and how it dies."""

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import anyio
from anyio.abc import TaskGroup

from actors.events import InstanceLaunched, InstanceRequested, TaskAttemptEnded
from actors.ports import Clock, Commit, JournalClosed
from actors.supervisor import attempt_call
from controller.clock import Start, SteadyClock, start
from controller.simulation.house import Life
from controller.simulation.ledger import Fate, Ledger, MemoryJournal
from providers.simulated.adapter import SimulatedProvider
from providers.simulated.cloud import Cloud
from tests.simulation.referee import Referee

Aim = Literal["any", "launch", "attempt", "request"]
AIMS: tuple[Aim, ...] = ("any", "launch", "attempt", "request")


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


@dataclass(frozen=True, slots=True)
class End:
    """How a life ends.

    Attributes:
        late_share: of its calls that are on their way, those that still reach the cloud.
        wrong_s: how wrong the computer's clock is from then on; None: as before.
        reboots: the computer does as well.
    """

    late_share: float = 0.0
    wrong_s: float | None = None
    reboots: bool = False


PLAIN = End()


@dataclass(slots=True)
class _AtCommit:
    """What waits for a commit."""

    aim: Aim
    left: int
    do: Callable[[], Fate]


@dataclass(slots=True)
class _CallCrash:
    """A crash that waits for a provider's call."""

    names: tuple[str, ...]  # of calls; none: any
    when: str
    left: int
    end: End


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
        self._at_commits: list[_AtCommit] = []
        self._at_calls: list[_CallCrash] = []
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
        journal = MemoryJournal(self._ledger, partial(self._fate, made), lambda: self.crash(made[0]))
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

    def crash(self, one: Incarnation | None = None, end: End = PLAIN) -> None:
        """The daemon's process dies."""
        one = one or self.newest
        if one is None or one.dead or self.calm:
            return
        self.crashes += 1
        if end.wrong_s is not None:
            self.wall.wrong_s = end.wrong_s
        if end.reboots:
            self.anchor = None
        self._bury(one, end.late_share)

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

    def at_commit(self, aim: Aim, count: int, do: Callable[[], Fate]) -> None:
        """Do something at the `count`th commit from now on that does what is aimed at."""
        self._at_commits.append(_AtCommit(aim, count, do))

    def _fate(self, made: list[Incarnation], commit: Commit) -> Fate:
        one = made[0]
        if self.calm or one is not self.newest or one.dead:
            return "go on"
        for waits in self._at_commits:
            if _does(commit, waits.aim):
                waits.left -= 1
                if waits.left == 0:
                    self._at_commits.remove(waits)
                    fate = waits.do()
                    self.counts[f"{fate} commit, {waits.aim}"] += 1
                    return fate
        return "go on"

    def crash_at_call(self, names: tuple[str, ...], when: str, count: int, end: End = PLAIN) -> None:
        """Let the daemon die right before or after a call takes effect in the cloud."""
        self._at_calls.append(_CallCrash(names, when, count, end))

    def _called(self, one: Incarnation, name: str, when: str) -> None:
        if self.calm or one is not self.newest or one.dead:
            return
        for waits in self._at_calls:
            if when == waits.when and (not waits.names or name in waits.names):
                waits.left -= 1
                if waits.left == 0:
                    self._at_calls.remove(waits)
                    late = "late " if waits.end.late_share else ""
                    self.counts[f"{late}crash {when} {name}"] += 1
                    self.crash(one, waits.end)
                    return

    def rest(self) -> None:
        """No more faults."""
        self.calm = True
        self._at_commits, self._at_calls = [], []
        for one in list(self.old):
            self._bury(one)


def _does(commit: Commit, aim: Aim) -> bool:
    """Whether a commit is one of those that are aimed at."""
    if aim == "any":
        return True
    if aim == "request":
        return bool(commit.taken)
    kinds = TaskAttemptEnded if aim == "attempt" else (InstanceRequested, InstanceLaunched)
    return any(isinstance(envelope.event, kinds) for envelope in commit.envelopes)


def is_closed(error: BaseException | None) -> bool:
    """Whether nothing but a closed journal ended a life."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_closed(one) for one in error.exceptions)
    return isinstance(error, JournalClosed)
