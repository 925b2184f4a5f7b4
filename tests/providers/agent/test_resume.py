"""Streams that break, agents that die: no log byte and no end is lost or comes twice."""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from providers.agent import agent as a
from tests.providers.agent.rig import start
from tests.providers.agent.world import Crash, Daemon, World

PIECES = st.one_of(
    st.sampled_from(
        [b"\n", b"\r", b"\r\n", b"\xff\xfe", "é".encode(), b"z" * 70_000 + b"\n", b"q" * 300_000]
    ),
    st.text("abc\n", max_size=20).map(str.encode),
)


class Resuming(RuleBasedStateMachine):
    """Tasks write and end while streams break and agents die, also in the middle of a step."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.count = 0
        self.told: set[str] = set()

    def attempt(self, what: Any) -> None:
        """Do something; when the agent dies in it, another takes over."""
        try:
            what()
        except Crash:
            self.world.restart()
        self.world.crash_after = None

    @rule(after=st.integers(min_value=0, max_value=8))
    def die_soon(self, after: int) -> None:
        self.world.crash_after = after

    @rule()
    def die(self) -> None:
        self.world.restart()

    @rule()
    def connect(self) -> None:
        self.attempt(self.world.connect)

    @rule()
    def disconnect(self) -> None:
        self.attempt(self.world.disconnect)

    @rule()
    def acknowledge(self) -> None:
        self.attempt(self.world.ack)

    @precondition(lambda self: self.world.connected and self.count < 6)
    @rule(fetch=st.booleans())
    def start_task(self, fetch: bool) -> None:
        task = f"t{self.count}"
        self.count += 1
        self.world.files[(task, 1, "f")] = b"f" * 400_000
        fields: dict[str, Any] = {"fetch": ["f"], "fetch_bytes_max": 1 << 20} if fetch else {}
        self.attempt(lambda: self.world.say(start(task, "true", log_bytes_max=1 << 30, **fields)))
        self.told.add(task)

    def running(self) -> list[a.Key]:
        return [key for key, process in self.world.processes.items() if process.alive]

    @precondition(lambda self: self.running())
    @rule(
        which=st.integers(min_value=0),
        stream=st.integers(min_value=0, max_value=1),
        data=st.lists(PIECES, max_size=5),
    )
    def write(self, which: int, stream: int, data: list[bytes]) -> None:
        key = self.running()[which % len(self.running())]
        self.world.write(key, stream, b"".join(data))
        self.attempt(lambda: self.world.grown(key))

    @precondition(lambda self: self.running())
    @rule(which=st.integers(min_value=0))
    def end_task(self, which: int) -> None:
        key = self.running()[which % len(self.running())]
        self.attempt(lambda: self.world.exit(key))

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
            expected, at = [], 0
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


Resuming.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestResuming = Resuming.TestCase
