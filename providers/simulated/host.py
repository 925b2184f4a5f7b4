"""What runs on a simulated machine: the agent's real core, and processes that are only a script.

A program says itself how it will end, so that a task reads the same in every run:

    ["sim-sleep", seconds, exit code, lines of output, "stubborn"]      all but the first may be left out

`stubborn` ignores TERM. A set-up step or health check is the same line as shell text. Anything else
ends well after a second.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
from pydantic_core import from_json, to_json

from providers.agent import agent
from providers.contract import Wire
from providers.errors import Fault, HostError
from providers.simulated.timeline import Entry, Timeline

FIRST_LEASE_S = 1800.0  # how long an agent lives that never hears a hello
HOOK_S = 1.0
TERM, KILL = 15, 9


class Spectator(Protocol):
    """Who watches what really happens in the cloud, as nobody inside can. For tests and reports."""

    def machine_made(self, provider: str, key: str, ref: str, late: bool) -> None:
        """A machine begins to cost money; `late`: by a call whose daemon had died before."""

    def machine_ended(self, provider: str, key: str, ref: str, reason: str) -> None:
        """A machine is gone, and costs no more."""

    def machine_resumed(self, provider: str, key: str, ref: str) -> None:
        """A machine that had ended is there again, and costs again."""

    def happened(self, text: str) -> None:
        """Something went wrong on purpose."""

    def process_began(self, ref: str, task: str, attempt: int) -> None:
        """An attempt's process runs."""

    def process_ended(self, ref: str, task: str, attempt: int) -> None:
        """An attempt's process is over."""


@dataclass(frozen=True, slots=True)
class Script:
    """How a program goes."""

    seconds: float = 1.0
    code: int = 0
    lines: int = 0
    stubborn: bool = False

    @classmethod
    def of(cls, argv: Sequence[str]) -> "Script":
        """Read a script from a command; what is none is one that ends well after a second."""
        if not argv or argv[0] != "sim-sleep":
            return cls()
        words = [*argv[1:5], *("1", "0", "0", "")[len(argv) - 1 :]]
        try:
            return cls(max(0.0, float(words[0])), int(words[1]), int(words[2]), words[3] == "stubborn")
        except ValueError:
            return cls(0.0, 2)  # as a program would that does not understand its arguments


@dataclass(slots=True)
class _Process:
    script: Script
    end: Entry | None
    output: bytes


class SimulatedChannel:
    """An `AgentChannel` in memory. Messages are copied as JSON, as they would be on a wire."""

    def __init__(self, host: "SimulatedHost") -> None:
        self._host = host
        self._inbox: list[Wire] = []
        self._arrived = anyio.Event()
        self._error: HostError | None = None
        self.cut_entry: Entry | None = None

    async def send(self, messages: Sequence[Wire]) -> None:
        """Hand over messages; the agent hears them at once."""
        await anyio.lowlevel.checkpoint()
        if self._error is not None:
            raise self._error
        if messages:
            self._host.hear(agent.Said(from_json(to_json(list(messages)))))

    async def receive(self) -> Sequence[Wire]:
        """Wait for at least one message and return all that are there."""
        while not self._inbox:
            if self._error is not None:
                raise self._error
            self._arrived = anyio.Event()
            await self._arrived.wait()
        messages, self._inbox = self._inbox, []
        return messages

    def deliver(self, messages: Sequence[Wire]) -> None:
        """The agent's side: let the daemon hear messages."""
        self._inbox += from_json(to_json(list(messages)))
        self._arrived.set()

    def close(self, detail: str) -> None:
        """End the conversation: what was not read is lost, and both sides notice."""
        if self._error is not None:
            return
        self._error = HostError(Fault.UNKNOWN, f"the agent's stream ended: {detail}")
        self._inbox.clear()
        self._arrived.set()
        if self.cut_entry is not None:
            self.cut_entry.cancel()
        self._host.disconnected(self)


class SimulatedHost:
    """One machine's agent and its processes.

    Args:
        ref: the machine's name in the cloud.
        timeline: when things happen.
        end_machine: called when the agent ends its machine.
        spectator: who watches.
    """

    def __init__(
        self, ref: str, timeline: Timeline, end_machine: Callable[[], None], spectator: Spectator | None
    ) -> None:
        self.ref = ref
        self.core = agent.Core(f"boot-{ref}", agent="simulated", lease_s=FIRST_LEASE_S)
        self.channel: SimulatedChannel | None = None
        self._timeline = timeline
        self._end_machine = end_machine
        self._spectator = spectator
        self._over = False
        self._inputs: deque[Any] = deque()
        self._stepping = False
        self._pid = 100
        self._processes: dict[tuple[str, int], _Process] = {}
        self._outputs: dict[tuple[str, int], bytes] = {}  # until the directory is removed
        self._step_end: Entry | None = None
        self._wake: Entry | None = None
        self._wake_at = 0.0
        self.hear(agent.Resume())

    # --- from outside -----------------------------------------------------------------------------

    def connect(self) -> SimulatedChannel:
        """Open a conversation; one before it ends. Raises HostError when the machine is gone."""
        if self._over:
            raise HostError(Fault.GONE, f"machine {self.ref} is gone")
        if self.channel is not None:
            self.channel.close("another stream was opened")
        self.channel = SimulatedChannel(self)
        self.hear(agent.Connected())
        return self.channel

    def disconnected(self, channel: SimulatedChannel) -> None:
        """A conversation ended."""
        if channel is self.channel:
            self.channel = None
            self.hear(agent.Disconnected())

    def die(self, detail: str) -> None:
        """The machine is gone, and all that ran on it."""
        if self._over:
            return
        self._over = True
        for (task, attempt), process in self._processes.items():
            if process.end is not None:
                process.end.cancel()
            self._saw_end(task, attempt)
        self._processes.clear()
        self._outputs.clear()
        for entry in (self._wake, self._step_end):
            if entry is not None:
                entry.cancel()
        if self.channel is not None:
            self.channel.close(detail)

    def noticed(self, reason: str | None, within_s: float | None) -> None:
        """The machine's metadata says now that it will be taken, or (reason None) that it will not."""
        self.hear(agent.Noticed(reason, within_s))

    def hear(self, item: Any) -> None:
        """Let the agent take in one input of its core, and do what it decides."""
        if self._over:
            return
        self._inputs.append(item)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._inputs and not self._over:
                for action in self.core.step(self._timeline.now(), self._inputs.popleft()):
                    self._act(action)
        finally:
            self._stepping = False
        self._arm()

    # --- what the core decided --------------------------------------------------------------------

    def _act(self, action: Any) -> None:
        match action:
            case agent.Send(messages=messages):
                if self.channel is not None:
                    self.channel.deliver(messages)
            case agent.Spawn(task=task, attempt=attempt, command=command):
                self._spawn(task, attempt, command)
            case agent.Signal(task=task, attempt=attempt, sig=sig):
                self._signal(task, attempt, sig)
            case agent.ReadOutput(task, attempt, stream, offset, length, number):
                data = self._outputs.get((task, attempt), b"")[offset : offset + length]
                self.hear(agent.Output(task, attempt, stream, offset, data, number))
            case agent.RemoveTaskDir(task=task, attempt=attempt):
                self._outputs.pop((task, attempt), None)
            case agent.RunStep(run_id=run_id, run=run):
                self._run_step(run_id, run)
            case agent.StopStep(run_id=run_id, sig=sig):
                self._stop_step(run_id, sig)
            case agent.Hook(task=task, attempt=attempt):
                self._timeline.after(HOOK_S, lambda: self.hear(agent.HookEnded(task, attempt)))
            case agent.FindFile(task=task, attempt=attempt, path=path):
                self.hear(agent.FoundFile(task, attempt, path, error="no such file (simulated)"))
            case agent.ReadFile(id=number):
                self.hear(agent.FileRead(number, error="no such file (simulated)"))
            case agent.Sample():
                self.hear(agent.Sampled({"load1": float(len(self._processes))}))
            case agent.CheckHealth(run=run):
                code = Script.of(run.split()).code
                self.hear(agent.HealthChecked(f"exit code {code}" if code else None))
            case agent.Exec():
                self.hear(agent.ExecFailed("a simulated agent has no other version"))
            case agent.EndMachine():
                self._end_machine()
            case agent.Persist() | agent.Release() | agent.WriteFile() | agent.Adopt():
                return  # this agent never dies alone, so nothing has to outlive it
            case _:
                raise TypeError(f"an action that hosts do not know: {type(action).__name__}")

    def _spawn(self, task: str, attempt: int, command: Wire) -> None:
        argv = command.get("argv") or str(command.get("shell") or "").split()
        script = Script.of([str(word) for word in argv] if isinstance(argv, list | tuple) else [])
        self._pid += 1
        output = b"".join(b"line %d of %s\n" % (n, task.encode()) for n in range(1, script.lines + 1))
        end = self._timeline.after(script.seconds, lambda: self._exit(task, attempt, script.code, None))
        self._processes[(task, attempt)] = _Process(script, end, output)
        if self._spectator is not None:
            self._spectator.process_began(self.ref, task, attempt)
        self.hear(agent.Spawned(task, attempt, self._pid, self._pid))

    def _signal(self, task: str, attempt: int, sig: int) -> None:
        process = self._processes.get((task, attempt))
        if process is not None and not (process.script.stubborn and sig == TERM):
            self._exit(task, attempt, None, sig)

    def _exit(self, task: str, attempt: int, code: int | None, sig: int | None) -> None:
        process = self._processes.pop((task, attempt), None)
        if process is None:
            return
        if process.end is not None:
            process.end.cancel()
        if process.output:
            self._outputs[(task, attempt)] = process.output
        self._saw_end(task, attempt)
        self.hear(agent.Exited(task, attempt, code, sig, out=len(process.output)))

    def _saw_end(self, task: str, attempt: int) -> None:
        if self._spectator is not None:
            self._spectator.process_ended(self.ref, task, attempt)

    def _run_step(self, run_id: str, run: str) -> None:
        script = Script.of(run.split())
        self._pid += 1
        self.hear(agent.StepStarted(run_id, self._pid, self._pid))
        lines = [(f"line {n}", 0) for n in range(1, script.lines + 1)]
        if lines:
            self.hear(agent.StepOutput(run_id, 0, lines))

        def end() -> None:
            self._step_end = None
            self.hear(agent.StepEnded(run_id, code=script.code))

        self._step_end = self._timeline.after(script.seconds, end)

    def _stop_step(self, run_id: str, sig: int) -> None:
        if self._step_end is not None:
            self._step_end.cancel()
            self._step_end = None
            self.hear(agent.StepEnded(run_id, signal=sig))

    # --- the agent's own timer --------------------------------------------------------------------

    def _arm(self) -> None:
        """Wake the core when it wants; a wake-up that has become too early is looked at when it comes."""
        at = self.core.next_wake()
        if at is None or self._over or (self._wake is not None and self._wake_at <= at):
            return
        if self._wake is not None:
            self._wake.cancel()
        self._wake_at = at
        self._wake = self._timeline.at(at, self._woken)

    def _woken(self) -> None:
        self._wake = None
        at = self.core.next_wake()
        if at is not None and at <= self._timeline.now():
            self.hear(agent.Tick())
        else:
            self._arm()
