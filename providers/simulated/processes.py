"""What runs on a simulated machine: processes that are only a script, and outlive their agent.

A program says itself how it will end, so that a task reads the same in every run:

    ["sim-sleep", seconds, exit code, lines of output, "stubborn"]      all but the first may be left out

`stubborn` ignores TERM. A set-up step or health check is the same line as shell text. Anything else
ends well after a second.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from providers.agent import agent
from providers.contract import Wire
from providers.simulated.spectator import Spectator
from providers.simulated.timeline import Entry, Timeline

HOOK_S = 1.0
TERM = 15
Key = tuple[str, int]  # task, attempt


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
    pid: int
    output: bytes
    end: Entry | None = None  # None: its main process is over
    hook: Entry | None = None  # its on_notice command runs
    is_child: bool = True  # of the agent that lives: else nobody learns its exit code
    hook_is_known: bool = True


@dataclass(slots=True)
class _Step:
    run_id: str
    pid: int
    end: Entry
    is_known: bool = True


class Processes:
    """All that runs on one machine, and its files.

    Args:
        ref: the machine's name in the cloud.
        timeline: when things happen.
        hear: the agent's ear; deaf while there is no agent.
        spectator: who watches.
    """

    __slots__ = ("_hear", "_outputs", "_pid", "_processes", "_ref", "_spectator", "_step", "_timeline")

    def __init__(
        self, ref: str, timeline: Timeline, hear: Callable[[Any], None], spectator: Spectator | None
    ) -> None:
        self._ref = ref
        self._timeline = timeline
        self._hear = hear
        self._spectator = spectator
        self._pid = 100
        self._processes: dict[Key, _Process] = {}
        self._outputs: dict[Key, bytes] = {}  # until the directory is removed
        self._step: _Step | None = None

    def __len__(self) -> int:
        return len(self._processes)

    # --- tasks ------------------------------------------------------------------------------------

    def spawn(self, task: str, attempt: int, command: Wire) -> None:
        """Start an attempt."""
        argv = command.get("argv") or str(command.get("shell") or "").split()
        script = Script.of([str(word) for word in argv] if isinstance(argv, list | tuple) else [])
        self._pid += 1
        output = b"".join(b"line %d of %s\n" % (n, task.encode()) for n in range(1, script.lines + 1))
        process = self._processes[(task, attempt)] = _Process(script, self._pid, output)
        process.end = self._timeline.after(
            script.seconds, lambda: self._main_over(task, attempt, script.code, None)
        )
        if self._spectator is not None:
            self._spectator.process_began(self._ref, task, attempt)
        self._hear(agent.Spawned(task, attempt, process.pid, process.pid))

    def adopt(self, task: str, attempt: int, pid: int) -> None:
        """A new agent asks for what an earlier one started; without a pid by the mark of its directory."""
        process = self._processes.get((task, attempt))
        if process is None or process.end is None or pid not in (0, process.pid):
            left = process is not None
            out = 0 if left else len(self._outputs.get((task, attempt), b""))
            self._hear(agent.Exited(task, attempt, left=left, out=out, seen=False))
        else:
            self._hear(agent.Spawned(task, attempt, process.pid, process.pid))

    def signal(self, task: str, attempt: int, sig: int) -> None:
        """Signal all of an attempt's processes."""
        process = self._processes.get((task, attempt))
        if process is None:
            return
        if process.hook is not None and (process.end is None or sig != TERM):
            process.hook.cancel()
            self._hook_over(task, attempt, process)
        if process.end is not None and not (process.script.stubborn and sig == TERM):
            self._main_over(task, attempt, None, sig)

    def hook(self, task: str, attempt: int) -> None:
        """Run an attempt's on_notice command."""
        process = self._processes.get((task, attempt))
        if process is None:
            self._hear(agent.HookEnded(task, attempt))
            return
        process.hook_is_known = True
        process.hook = self._timeline.after(HOOK_S, lambda: self._hook_over(task, attempt, process))

    def _hook_over(self, task: str, attempt: int, process: _Process) -> None:
        process.hook = None
        if process.hook_is_known:
            self._hear(agent.HookEnded(task, attempt))
        if process.end is None:
            self._all_over(task, attempt, process)
            self._hear(agent.Gone(task, attempt, len(process.output)))

    def _main_over(self, task: str, attempt: int, code: int | None, sig: int | None) -> None:
        process = self._processes[(task, attempt)]
        if process.end is not None:
            process.end.cancel()
            process.end = None
        if self._spectator is not None:
            self._spectator.process_ended(self._ref, task, attempt)
        seen = process.is_child
        if not seen:
            code = sig = None
        if process.hook is not None:
            self._hear(agent.Exited(task, attempt, code, sig, left=True, seen=seen))
            return
        self._all_over(task, attempt, process)
        self._hear(agent.Exited(task, attempt, code, sig, out=len(process.output), seen=seen))

    def _all_over(self, task: str, attempt: int, process: _Process) -> None:
        del self._processes[(task, attempt)]
        if process.output:
            self._outputs[(task, attempt)] = process.output

    # --- files ------------------------------------------------------------------------------------

    def read(self, task: str, attempt: int, offset: int, length: int) -> bytes:
        """Bytes of an attempt's output."""
        return self._outputs.get((task, attempt), b"")[offset : offset + length]

    def remove(self, task: str, attempt: int) -> None:
        """Nothing of an attempt's directory is needed any more."""
        self._outputs.pop((task, attempt), None)

    def keep_only(self, needed: Sequence[Key]) -> None:
        """Remove the directories of all others."""
        for key in [key for key in self._outputs if key not in needed]:
            del self._outputs[key]

    # --- set-up steps -----------------------------------------------------------------------------

    def run_step(self, run_id: str, run: str) -> None:
        """Run one step of a set-up."""
        script = Script.of(run.split())
        self._pid += 1
        end = self._timeline.after(script.seconds, lambda: self._step_over(step, script.code, None))
        step = self._step = _Step(run_id, self._pid, end)
        self._hear(agent.StepStarted(run_id, step.pid, step.pid))
        lines = [(f"line {n}", 0) for n in range(1, script.lines + 1)]
        if lines:
            self._hear(agent.StepOutput(run_id, 0, lines))

    def stop_step(self, pid: int, sig: int) -> None:
        """Signal a step's process."""
        if self._step is not None and self._step.pid == pid:
            self._step.end.cancel()
            self._step_over(self._step, None, sig)

    def _step_over(self, step: _Step, code: int | None, sig: int | None) -> None:
        if self._step is step:
            self._step = None
        if step.is_known:
            self._hear(agent.StepEnded(step.run_id, code, sig))

    # --- ends -------------------------------------------------------------------------------------

    def agent_died(self, *, children_kept: bool) -> None:
        """The agent's process is another, or none: children are kept by an upgrade, not by a death."""
        for process in self._processes.values():
            process.is_child = process.is_child and children_kept
            process.hook_is_known = False
        if self._step is not None:
            self._step.is_known = False

    def end_all(self) -> None:
        """The machine stops."""
        for (task, attempt), process in self._processes.items():
            for entry in (process.end, process.hook):
                if entry is not None:
                    entry.cancel()
            if process.output:
                self._outputs[(task, attempt)] = process.output
            if process.end is not None and self._spectator is not None:
                self._spectator.process_ended(self._ref, task, attempt)
        self._processes.clear()
        if self._step is not None:
            self._step.end.cancel()
            self._step = None
