"""The agent on a machine of the model, as plain values: it hears, works, ends and dies step by step."""

from typing import Any, Protocol

from providers.agent.wire import (
    Bootstrap,
    BootstrapEnded,
    Drain,
    Ended,
    Phase,
    PhaseCommand,
    Report,
    Start,
    Started,
    Stop,
)


class Processes(Protocol):
    """Who watches processes begin and end."""

    def now(self) -> float:
        """The machine's clock."""
        ...

    def began(self, ref: str, task: str, attempt: int) -> None:
        """A process runs."""

    def over(self, ref: str, task: str, attempt: int) -> None:
        """A process is over."""


class Agent:
    """What the agent on one machine holds, and the reports it was not told to forget."""

    def __init__(self, name: str, outside: Processes) -> None:
        self.name = name
        self.lives = 0
        self.spool: list[Report] = []
        self.tasks: dict[tuple[str, int], str] = {}  # attempt -> waiting, running, ended
        self.runs: dict[str, tuple[str, ...]] = {}  # set-ups by id, and the steps of each still to run
        self.outcomes: dict[str, dict[str, str]] = {}  # how those that are over ended
        self.draining = False
        self._outside = outside
        self._next_id = 1

    @property
    def boot(self) -> str:
        """Which life of the spool this is."""
        return f"{self.name}#{self.lives}"

    def report(self, kind: type[Any], **fields: Any) -> None:
        """Something to tell."""
        self.spool.append(kind(id=self._next_id, at=self._outside.now(), **fields))
        self._next_id += 1

    def hear(self, command: Bootstrap | Start | Stop | Drain) -> None:
        """Obey one command."""
        match command:
            case Bootstrap(run_id=run_id, steps=steps):
                if run_id in self.outcomes:
                    self.report(BootstrapEnded, run_id=run_id, **self.outcomes[run_id])
                else:
                    self.runs.setdefault(run_id, tuple(step.phase for step in steps))
            case Start(task=task, attempt=attempt):
                if (task, attempt) not in self.tasks:
                    self.tasks[task, attempt] = "waiting"
                    if self.draining:
                        self._never((task, attempt), "notice")
            case Stop(task=task, attempt=attempt):
                match self.tasks.get((task, attempt)):
                    case None | "waiting":
                        self._never((task, attempt), "stop")
                    case "running":
                        self.end((task, attempt), why="stop", signal=15)
                    case _:
                        return  # it has ended, and that is told or durable
            case Drain(within_s=within_s):
                self.draining = within_s is not None
                if self.draining:
                    for one, word in list(self.tasks.items()):
                        if word == "waiting":
                            self._never(one, "notice")

    def work(self, fails: bool) -> None:
        """Go on with every set-up by one step."""
        for run_id, left in list(self.runs.items()):
            if left:
                self._phase(run_id, left[0], fails)
                self.runs[run_id] = left[1:]
            if fails and left or not self.runs[run_id]:
                del self.runs[run_id]
                self.outcomes[run_id] = {"phase": left[0], "error": "exit 1"} if fails and left else {}
                self.report(BootstrapEnded, run_id=run_id, **self.outcomes[run_id])

    def _phase(self, run_id: str, phase: str, fails: bool) -> None:
        self.report(Phase, run_id=run_id, event="started", phase=phase)
        self.report(PhaseCommand, run_id=run_id, command="true")
        self.report(Phase, run_id=run_id, event="failed" if fails else "completed", phase=phase)

    def start(self, one: tuple[str, int]) -> None:
        """A waiting attempt gets its process."""
        self.tasks[one] = "running"
        self._outside.began(self.name, *one)
        self.report(Started, task=one[0], attempt=one[1], pid=7)

    def end(self, one: tuple[str, int], **how: Any) -> None:
        """A running attempt ends."""
        self.tasks[one] = "ended"
        self._outside.over(self.name, *one)
        self.report(Ended, task=one[0], attempt=one[1], **how)

    def _never(self, one: tuple[str, int], why: str) -> None:
        self.tasks[one] = "ended"
        self.report(Ended, task=one[0], attempt=one[1], started=False, why=why)

    def die(self) -> None:
        """The machine is gone or starts anew: processes end, and what was not told is lost."""
        for one, word in self.tasks.items():
            if word == "running":
                self._outside.over(self.name, *one)
        self.tasks, self.runs, self.outcomes, self.spool, self._next_id = {}, {}, {}, [], 1
        self.lives += 1
        self.draining = False
