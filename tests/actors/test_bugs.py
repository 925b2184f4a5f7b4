"""Bugs in rules, anywhere and any number of them: each costs its message and nothing else."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from actors.address import Kind
from actors.decision import View
from actors.events import (
    BugCaught,
    DrainRequested,
    PoolRequested,
    PoolResizeRequested,
    PoolUpdateRequested,
    Request,
    ShutdownRequested,
    TaskCompleted,
    TaskRequested,
    TaskStopRequested,
)
from actors.messages import RequestHeard
from actors.pool import settle
from actors.spec import Nodes, PoolSpec, TaskSpec
from controller.simulation.virtual import run_virtual
from tests.actors.house import CONFIG, POOL, House, house
from tests.actors.turns import RULES

CALM = "calm"  # the pool whose rules are sound
SPEC = PoolSpec(
    provider=("sim",),
    nodes=Nodes(desired=2),
    metrics_every_s=86_400,
    unreachable_timeout=60,
    drain_timeout=60,
)
PATIENCE_S = 2 * 3600.0  # virtual
HOUR_S = 3600.0
BUGS_AN_HOUR_MAX = 1000  # of one kind of rule that fails every time
STEPS = ("steer", "place", "schedule", "conclude")  # what a pool does at the end of a turn
Place = tuple[str, int]  # a kind of actor, or a step; and which of its decisions, counted from 0


class Planted(Exception):
    """The bug."""


class Bugs:
    """Rules that raise in chosen decisions of one pool, and count what they raised.

    Args:
        places: where.
        always: kinds and steps of which every decision raises while `on`.
    """

    def __init__(self, places: Iterable[Place] = (), always: Iterable[str] = ()) -> None:
        self.places = set(places)
        self.always = set(always)
        self.on = True
        self.raised = 0
        self._counts: Counter[str] = Counter()

    def _perhaps(self, where: str, pool: str | None) -> None:
        if pool != POOL or not self.on:
            return
        self._counts[where] += 1
        if where in self.always or (where, self._counts[where] - 1) in self.places:
            self.raised += 1
            raise Planted

    def _decide(self, kind: Kind, rule: Callable[..., Any]) -> Callable[..., Any]:
        def decide(state: Any, message: Any, view: View) -> Any:
            pool = view.index.pool.name if view.index.pool is not None else None
            if isinstance(message, RequestHeard):
                pool = message.envelope.pool
            self._perhaps(kind, pool)
            return rule(state, message, view)

        return decide

    def _step(self, name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def decide(state: Any, view: View) -> Any:
            self._perhaps(name, state.name)
            return step(state, view)

        decide.__name__ = name
        return decide

    @contextmanager
    def planted(self) -> Iterator[None]:
        """For a while the rules are like that."""
        with pytest.MonkeyPatch.context() as patch:
            for kind, rules in RULES.items():
                patch.setattr(rules, "decide", self._decide(kind, rules.decide))
            for name in STEPS:
                patch.setattr(settle, name, self._step(name, getattr(settle, name)))
            yield


def task(name: str, seconds: float) -> TaskRequested:
    """A task that writes nothing."""
    spec = TaskSpec(argv=("sim-sleep", str(seconds), "0", "0"), retries=1, retries_infrastructure=50)
    return TaskRequested(request_id=f"{name}-0", pool=POOL, task=spec)


class Day:
    """What users and the cloud do to two pools, while one of them has bugs."""

    def __init__(self, here: House) -> None:
        self.here = here
        self.asked: list[str] = []

    async def ask(self, request: Request, pool: str = POOL) -> None:
        """Send a request."""
        self.asked.append(request.request_id)
        await self.here.daemon.submit(pool, request)

    async def begin(self) -> None:
        """Make both pools."""
        self.here.referee.forgives_bugs = True
        for pool in (POOL, CALM):
            request = PoolRequested(request_id=f"make-{pool}", pool=pool, spec=SPEC, ready_within_s=900)
            await self.ask(request.model_copy(update={"pool": pool}), pool)

    async def act(self, what: str, number: int) -> None:
        """One thing that happens; and a task for the pool that is sound."""
        match what:
            case "task":
                await self.ask(task(f"task-{number}", number % 3 * 7.0))
            case "resize":
                await self.ask(
                    PoolResizeRequested(request_id=f"resize-{number}", pool=POOL, nodes=1 + number % 3)
                )
            case "drain":
                await self.ask(DrainRequested(request_id=f"drain-{number}", pool=POOL, node=number % 3))
            case "stop":
                name = f"task-{max(0, number - 1)}-0"
                await self.ask(TaskStopRequested(request_id=f"stop-{number}", pool=POOL, task_id=name))
            case _:
                ours = [one for one in self.here.cloud.living.values() if f"/{POOL}/" in one.key]
                if ours:
                    self.here.cloud.preempt(ours[number % len(ours)], 30 if what == "notice" else None)
        await self.ask(task(f"calm-{number}", 1.0).model_copy(update={"pool": CALM}), CALM)
        await anyio.sleep(number % 5 * 11.0)

    async def end(self) -> None:
        """Everything that was asked has ended; then the pools are shut down, and nothing is left."""
        await self.until(lambda: not self.open, lambda: f"not ended: {self.open}")
        for number in range(10):
            for pool in list(self.here.daemon.loops):
                await self.ask(ShutdownRequested(request_id=f"end-{pool}-{number}", cluster_id=pool), pool)
            await self.until(lambda: not self.open, lambda: f"not ended: {self.open}")
            if not self.here.daemon.loops:
                break
        assert not self.here.daemon.loops
        assert not self.here.cloud.living

    @property
    def open(self) -> list[str]:
        """Requests that have not ended."""
        ended = {name for envelope in self.here.envelopes for name in envelope.ends}
        return [name for name in self.asked if name not in ended]

    def open_of(self, pool: str) -> list[str]:
        """Tasks of one pool that have not ended."""
        return [name for name in self.open if name.startswith(f"{pool}-")]

    async def until(self, holds: Callable[[], bool], what: Callable[[], str]) -> None:
        """Wait, for hours if need be: they pass at once."""
        with anyio.move_on_after(PATIENCE_S):
            while not holds():  # noqa: ASYNC110 - the clock is virtual
                await anyio.sleep(5)
        assert holds(), what()

    def check(self, bugs: Bugs) -> None:
        """Each bug was told once; the other pool noticed nothing; every request ended once."""
        caught = self.here.facts("bug_caught")
        assert len(caught) == bugs.raised
        assert all(envelope.pool == POOL for envelope in caught)
        ends = Counter(name for envelope in self.here.envelopes for name in envelope.ends)
        assert not {name: count for name, count in ends.items() if count > 1}
        calm = [one for one in self.here.facts("task_completed") if one.pool == CALM]
        assert len(calm) == sum(name.startswith("calm-") for name in self.asked)
        for envelope in calm:
            assert isinstance(envelope.event, TaskCompleted)
            assert (envelope.event.result, envelope.event.attempts) == ("success", 1)
        parked = self.here.facts("pool_parked")
        assert all(envelope.pool == POOL for envelope in parked)


acts = st.lists(
    st.sampled_from(["task", "task", "resize", "drain", "stop", "notice", "vanish"]), min_size=1, max_size=8
)
kinds = st.sampled_from(["pool", "node", "instance", "task", *STEPS])
places = st.lists(st.tuples(kinds, st.integers(0, 40)), min_size=1, max_size=6, unique=True)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(some=acts, where=places)
@example(["task"], [("pool", 3)])  # the answer of OpenCluster
@example(["task"], [("instance", 3)])  # the answer of Launch
@example(["stop", "task"], [("pool", 9)])  # the report that the task ended, while the stream stays open
def test_whatever_message_a_bug_costs_all_that_was_asked_ends(some: list[str], where: list[Place]) -> None:
    bugs = Bugs(where)

    async def live() -> None:
        async with house(CONFIG) as here:
            day = Day(here)
            await day.begin()
            for number, what in enumerate(some):
                await day.act(what, number)
            await day.end()
            day.check(bugs)

    with bugs.planted():
        run_virtual(live, 1)


@pytest.mark.parametrize("where", ["pool", "node", "instance", "task", *STEPS])
def test_rules_that_always_fail_park_their_pool_and_no_other(where: str) -> None:
    bugs = Bugs(always=[where])

    async def live() -> None:
        bugs.on = False
        async with house(CONFIG, lawful=False) as here:
            day = Day(here)
            await day.begin()
            await day.until(lambda: len(here.facts("pool_ready")) == 2, lambda: "not ready")
            bugs.on = True
            for number, what in enumerate(["task", "notice", "task", "task", "task", "task"]):
                await day.act(what, number)
            await day.until(lambda: not day.open_of(CALM), lambda: f"{CALM}: {day.open}")
            await anyio.sleep(HOUR_S)
            caught = [envelope.event for envelope in here.facts("bug_caught")]
            kind = "pool" if where in STEPS else where
            assert all(isinstance(one, BugCaught) and one.address.startswith(f"{kind}/") for one in caught)
            assert 0 < len(caught) < BUGS_AN_HOUR_MAX
            # a task that can't be taken in ends at once: none lives long enough to be condemned
            parked = [envelope.pool for envelope in here.facts("pool_parked")]
            assert parked == ([] if where == "task" else [POOL])
            bugs.on = False
            await day.ask(PoolUpdateRequested(request_id="mended", pool=POOL, spec=SPEC))
            await day.until(lambda: not day.open, lambda: f"not ended: {day.open}")
            await day.ask(task("last", 1.0))
            await day.end()
            day.check(bugs)
            assert here.ending("last-0").kind == "task_completed"

    with bugs.planted():
        run_virtual(live, 1)
