"""A simulated machine: the real core of the agent, driven as `agent.Loop` drives it, over scripted processes.

The agent can die alone, or become another version of itself; its processes and its spool stay, and the next
core learns from them what the last one knew.
"""

from collections.abc import Callable
from typing import Any

from pydantic_core import from_json

from providers.agent import agent
from providers.contract import Wire
from providers.errors import Fault, HostError
from providers.simulated.channel import SimulatedChannel, SimulatedWire, path_of
from providers.simulated.processes import Processes, Script
from providers.simulated.spectator import Spectator
from providers.simulated.spool import Spool
from providers.simulated.timeline import Entry, Timeline

__all__ = ["Script", "SimulatedHost", "Spectator"]

FIRST_LEASE_S = 1800.0  # how long an agent lives that never hears a hello


class SimulatedHost:
    """One machine's agent and its processes.

    Args:
        ref: the machine's name in the cloud.
        timeline: when things happen.
        end_machine: called when the agent ends its machine.
        spectator: who watches.
        version: of the agent that is started with the machine.
    """

    __slots__ = (
        "_dies_in", "_end_machine", "_inputs", "_notice", "_over", "_sends", "_spool", "_stepping",
        "_timeline", "_wake", "_wake_at", "channel", "core", "lives", "processes", "ref", "versions",
    )  # fmt: skip

    def __init__(
        self,
        ref: str,
        timeline: Timeline,
        end_machine: Callable[[], None],
        spectator: Spectator | None,
        version: str = "1",
    ) -> None:
        self.ref = ref
        self.core: agent.Core  # of the agent, or of the one that died last
        self.lives = False  # whether it does
        self.channel: SimulatedChannel | None = None
        self.processes = Processes(ref, timeline, self.hear, spectator)
        self.versions = {path_of(version): version}  # of the agent, that were put here
        self._timeline = timeline
        self._end_machine = end_machine
        self._over = False
        self._spool = Spool()
        self._inputs: list[Any] = []  # seldom more than two
        self._sends: list[Wire] = []
        self._stepping = False
        self._dies_in: int | None = None  # actions left to an agent that is about to die
        self._notice: tuple[str, float | None] | None = None  # what the metadata say: reason, deadline
        self._wake: Entry | None = None
        self._wake_at = 0.0
        self._start(version)

    # --- from outside -----------------------------------------------------------------------------

    @property
    def version(self) -> str | None:
        """Of the agent that lives here."""
        return self.core.about[0] if self.lives else None

    @property
    def is_dying(self) -> bool:
        """Whether its agent will die in the middle of what it does next."""
        return self._dies_in is not None

    def connect(self, version: str) -> SimulatedChannel:
        """Open a conversation; one before it ends. An agent of that version is started when none lives.

        Raises:
            HostError: the machine is gone.
        """
        if self._over:
            raise HostError(Fault.GONE, f"machine {self.ref} is gone")
        if self.channel is not None:
            self.channel.close()
        self.versions[path_of(version)] = version
        if not self.lives:
            self._start(version)
        wire = SimulatedWire(self._said, lambda: self._disconnected(channel))
        channel = self.channel = SimulatedChannel(wire, version)
        self.hear(agent.Connected())
        return channel

    def _said(self, line: bytes) -> None:
        self.hear(agent.Said(from_json(line)))

    def _disconnected(self, channel: SimulatedChannel) -> None:
        if channel is self.channel:
            self.channel = None
            self.hear(agent.Disconnected())

    def die(self) -> None:
        """The machine is gone, and all that was on it."""
        if self._over:
            return
        self._over = True
        self.agent_dies()
        self.processes.end_all()

    def stop(self) -> None:
        """The machine is switched off: its processes die, its disk stays."""
        self.agent_dies()
        self.processes.end_all()
        self._notice = None

    def boot(self) -> None:
        """It is switched on again. Nothing runs: the agent is started by the next who attaches."""
        self._spool.reboot()

    def agent_dies(self, after_actions: int = 0) -> None:
        """The agent's process dies, alone: now, or in the middle of its work, after so many more actions."""
        if not self.lives:
            return
        if after_actions:
            self._dies_in = after_actions
            return
        self.lives, self._dies_in = False, None
        self._spool.lose()
        self._inputs.clear()
        self._sends.clear()
        self._cancel_wake()
        self.processes.agent_died(children_kept=False)
        if self.channel is not None:
            self.channel.close()

    def noticed(self, reason: str | None, within_s: float | None) -> None:
        """The machine's metadata says now that it will be taken, or (reason None) that it will not."""
        deadline = None if within_s is None else self._timeline.now() + within_s
        self._notice = None if reason is None else (reason, deadline)
        self.hear(agent.Noticed(reason, within_s))

    def hear(self, item: Any) -> None:
        """Let the agent, when it lives, take in one input of its core, and do what it decides."""
        if not self.lives:
            return
        self._inputs.append(item)
        if self._stepping:
            return
        self._stepping = True
        try:
            while self._inputs and self.lives:
                self._step(self.core, self._inputs.pop(0))
        finally:
            self._stepping = False
        if self.lives:
            self._flush()
            self._arm()

    def _step(self, core: agent.Core, item: Any) -> None:
        for action in core.step(self._timeline.now(), item):
            if self._dies_in is not None:
                self._dies_in -= 1
                if self._dies_in <= 0:
                    if isinstance(action, agent.Spawn):
                        self._spool.write()  # it is on disk that it was started, and it was not
                    self.agent_dies()
            if not self.lives or self.core is not core:  # dead, or another program by now
                return
            self._act(action)

    # --- the agent's process ----------------------------------------------------------------------

    def _start(self, version: str) -> None:
        """Begin a process of the agent, as `agent.Loop.run` does."""
        now = self._timeline.now()
        core = agent.Core(f"boot-{self.ref}", agent=version, lease_s=FIRST_LEASE_S)
        core.now = now
        if self._spool.replay(core):
            self._spool.rewrite(core)
        self.processes.keep_only(core.kept_dirs())
        self.core, self.lives = core, True
        self.hear(agent.Resume(self._spool.take_rebooted()))
        if self._notice is None:
            self.hear(agent.Noticed(None))
        else:
            reason, deadline = self._notice
            self.hear(agent.Noticed(reason, None if deadline is None else round(max(deadline - now, 0.0), 3)))

    def _become(self, path: str) -> None:
        """Become another version of itself: children and spool are kept, the stream is not."""
        version = self.versions.get(path)
        if version is None:
            self.hear(agent.ExecFailed(f"{path}: no such file (simulated)"))
            return
        self._flush()
        self.lives = False
        self._inputs.clear()
        self._cancel_wake()
        self.processes.agent_died(children_kept=True)
        if self.channel is not None:
            self.channel.close()
        self._start(version)

    def _flush(self) -> None:
        """Write what was decided, then say what is to be said: in this order, as the real agent does."""
        self._spool.write()
        if self._spool.is_large:
            self._spool.rewrite(self.core)
        if self._sends and self.channel is not None:
            self.channel.deliver(self._sends)
        self._sends.clear()

    # --- what the core decided --------------------------------------------------------------------

    def _act(self, action: Any) -> None:
        processes = self.processes
        match action:
            case agent.Persist(record=record):
                self._spool.persist(record)
            case agent.Send(messages=messages):
                self._sends += messages
            case agent.Spawn(task=task, attempt=attempt, command=command):
                self._spool.write()  # that it was started must be known, whatever happens to us
                processes.spawn(task, attempt, command)
            case agent.Signal(task=task, attempt=attempt, sig=sig):
                processes.signal(task, attempt, sig)
            case agent.Adopt(task=task, attempt=attempt, pid=pid):
                processes.adopt(task, attempt, pid)
            case agent.ReadOutput(task, attempt, stream, offset, length, number):
                data = processes.read(task, attempt, offset, length) if stream == 0 else b""
                self.hear(agent.Output(task, attempt, stream, offset, data, number))
            case agent.RemoveTaskDir(task=task, attempt=attempt):
                processes.remove(task, attempt)
            case agent.RunStep(run_id=run_id, run=run):
                processes.run_step(run_id, run)
            case agent.StopStep(sig=sig, pid=pid):
                processes.stop_step(pid, sig)
            case agent.Hook(task=task, attempt=attempt):
                processes.hook(task, attempt)
            case agent.FindFile(task=task, attempt=attempt, path=path):
                self.hear(agent.FoundFile(task, attempt, path, error="no such file (simulated)"))
            case agent.ReadFile(id=number):
                self.hear(agent.FileRead(number, error="no such file (simulated)"))
            case agent.Sample():
                self.hear(agent.Sampled({"load1": float(len(processes))}))
            case agent.CheckHealth(run=run):
                code = Script.of(run.split()).code
                self.hear(agent.HealthChecked(f"exit code {code}" if code else None))
            case agent.Exec(path=path):
                self._become(path)
            case agent.EndMachine():
                self._spool.write()
                self._end_machine()
            case agent.Release() | agent.WriteFile():
                return  # outputs are small, and no program here reads a file
            case _:
                raise TypeError(f"an action that hosts do not know: {type(action).__name__}")

    # --- the agent's own timer --------------------------------------------------------------------

    def _arm(self) -> None:
        """Wake the core when it wants; a wake-up that has become too early is looked at when it comes."""
        at = self.core.next_wake()
        if at is None or (self._wake is not None and self._wake_at <= at):
            return
        self._cancel_wake()
        self._wake_at = at
        self._wake = self._timeline.at(at, self._woken)

    def _cancel_wake(self) -> None:
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None

    def _woken(self) -> None:
        self._wake = None
        if not self.lives:
            return
        at = self.core.next_wake()
        if at is not None and at <= self._timeline.now():
            self.hear(agent.Tick())
        else:
            self._arm()
