"""Streams that break, agents that die: no log byte and no end is lost or comes twice."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from providers.agent import agent as a
from tests.providers.agent.rig import start
from tests.providers.agent.world import Crash, Daemon, World

UNITS = [
    (b"\n", 1),
    (b"\r", 1),
    (b"\r\n", 1),
    (b"\xff\xfe", 1),
    ("é".encode(), 1),
    (b"z", 70_000),
    (b"q", 300_000),
]
PIECES = st.one_of(
    st.sampled_from(UNITS).map(lambda unit: unit[0] * unit[1]),
    st.text("abc\n", max_size=20).map(str.encode),
)


DIES = st.one_of(st.none(), st.integers(min_value=0, max_value=5))
QUICK = settings(
    max_examples=200,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Resuming(RuleBasedStateMachine):
    """Tasks write and end while streams break and agents die, also in the middle of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.count = 0
        self.told: set[str] = set()

    def attempt(self, what: Callable[[], None], dies_after: int | None) -> None:
        """Do something; when the agent dies in it, after so many actions, another takes over."""
        self.world.crash_after = dies_after
        try:
            what()
        except Crash:
            self.world.restart()
        self.world.crash_after = None

    @rule()
    def die(self) -> None:
        self.world.restart()

    @rule(dies=DIES)
    def connect(self, dies: int | None) -> None:
        self.attempt(self.world.connect, dies)

    @rule()
    def disconnect(self) -> None:
        self.world.disconnect()

    @rule(dies=DIES)
    def acknowledge(self, dies: int | None) -> None:
        self.attempt(self.world.ack, dies)

    @precondition(lambda self: self.world.connected and self.count < 6)
    @rule(fetch=st.booleans(), dies=DIES)
    def start_task(self, fetch: bool, dies: int | None) -> None:
        task = f"t{self.count}"
        self.count += 1
        self.world.files[(task, 1, "f")] = b"f" * 400_000
        fields: dict[str, Any] = {"fetch": ["f"], "fetch_bytes_max": 1 << 20} if fetch else {}
        self.attempt(lambda: self.world.say(start(task, "true", log_bytes_max=1 << 30, **fields)), dies)
        self.told.add(task)

    def running(self) -> list[a.Key]:
        return [key for key, process in self.world.processes.items() if process.alive]

    @precondition(lambda self: self.running())
    @rule(
        which=st.integers(min_value=0),
        stream=st.integers(min_value=0, max_value=1),
        data=st.lists(PIECES, max_size=5),
        dies=DIES,
    )
    def write(self, which: int, stream: int, data: list[bytes], dies: int | None) -> None:
        key = self.running()[which % len(self.running())]
        self.world.write(key, stream, b"".join(data))
        self.attempt(lambda: self.world.grown(key), dies)

    @precondition(lambda self: self.running())
    @rule(which=st.integers(min_value=0), dies=DIES)
    def end_task(self, which: int, dies: int | None) -> None:
        key = self.running()[which % len(self.running())]
        self.attempt(lambda: self.world.exit(key), dies)

    @precondition(lambda self: self.running())
    @rule(which=st.integers(min_value=0))
    def end_unseen(self, which: int) -> None:
        self.world.processes[self.running()[which % len(self.running())]].alive = False
        self.world.restart()

    @invariant()
    def nothing_runs_twice_or_ends_twice(self) -> None:
        spawned = self.world.ever_spawned
        assert len(set(spawned)) == len(spawned)
        self.world.daemon.ended()
        for message in self.world.daemon.of("ended"):
            self.all_was_told(self.world.daemon, message["task"])

    def all_was_told(self, daemon: Daemon, task: str) -> None:
        """Once a task ended, all its output is there: each byte, each line, once and in order."""
        for number, stream in enumerate(a.STREAMS):
            data = self.world.outputs.get((task, 1, number), b"")
            assert daemon.offsets.get((task, 1, stream), 0) == len(data)
            expected: list[a.Line] = []
            at = 0
            while at < len(data):
                lines, used, _ = a.split_lines(data[at:], True)
                expected, at = expected + lines, at + used
            assert daemon.texts.get((task, 1, stream), []) == expected

    def teardown(self) -> None:
        """In the end every task that was asked for has ended, and nothing is kept."""
        world = self.world
        world.crash_after = None
        world.restart()
        world.connect()
        held = {task for task, _, _ in world.daemon.hellos[-1]["tasks"]} | set(world.daemon.ended())
        for task in sorted(self.told - held):  # the agent died before it wrote it down: said again
            world.say(start(task, "true", log_bytes_max=1 << 30))
        for _ in range(1000):
            world.ack()
            for key in self.running():
                world.exit(key)
            if not world.core.outbox and not world.core.tasks:
                break
        assert not world.core.outbox
        assert set(world.daemon.ended()) == self.told
        self.nothing_runs_twice_or_ends_twice()


Resuming.TestCase.settings = QUICK
TestResuming = Resuming.TestCase


def ignore(*_: Any) -> None:
    """What a forgetful agent does."""


PLANTED: dict[str, tuple[dict[Any, Any], Any]] = {
    "a start is not remembered": (a._REPLAY, "go"),
    "a task is not remembered": (a._REPLAY, "task"),
    "an end is not remembered": (a._APPLY, "ended"),
    "reported output is not remembered": (a._APPLY, "log"),
    "output is read and not heard": (a._HEAR, a.Output),
}


@pytest.mark.parametrize("fault", sorted(PLANTED))
def test_planted_faults_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table, name = PLANTED[fault]
    monkeypatch.setitem(table, name, ignore)
    once = settings(QUICK, max_examples=1000, phases=[Phase.generate], derandomize=True)
    with pytest.raises((AssertionError, KeyError, ExceptionGroup)):
        run_state_machine_as_test(Resuming, settings=once)
