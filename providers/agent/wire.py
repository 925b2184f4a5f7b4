"""The agent protocol, version 1, as typed messages.

One stream per machine, JSON lines both ways; every line is an array of messages, each an object with
its type in `t`. What the agent reports carries `id`, growing by one per message within one `boot` (one
life of the agent's spool on that machine); it is kept on disk until acknowledged, and sent
again from the id after the acknowledged one on the next stream. `hello` opens both directions.

Log lines and fetched files also carry byte offsets into what the task wrote, so that their
receiver can tell what it has already: a receiver keeps what lies past its own offset.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

PROTOCOL = 1


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a newer peer may say more


# --- what the daemon says -----------------------------------------------------------------------


class Hello(_Message):
    """First on every stream. Resume after (`boot`, `acked`), both null on the first."""

    t: Literal["hello"] = "hello"
    protocol: int = PROTOCOL
    owner: str
    instance: str
    epoch: int
    boot: str | None = None
    acked: int = 0
    lease_s: float
    slots: int  # tasks that run at once; more wait in the agent, in the order they came
    metrics_every_s: float
    health: "Health | None" = None


class Health(_Message):
    """A command that tells whether the machine is well."""

    run: str
    every_s: float
    timeout_s: float
    failures: int


class Ack(_Message):
    """Everything up to and with `id` is durable here; forget it."""

    t: Literal["ack"] = "ack"
    boot: str
    id: int


class Lease(_Message):
    """The machine may live for another `lease_s` seconds."""

    t: Literal["lease"] = "lease"
    epoch: int
    lease_s: float


class BootstrapStep(_Message):
    """One phase of a set-up."""

    phase: str
    run: str
    timeout_s: float


class Bootstrap(_Message):
    """Run the steps in order. A `run_id` that was heard before is answered by where it stands."""

    t: Literal["bootstrap"] = "bootstrap"
    epoch: int
    run_id: str
    env: dict[str, str]
    steps: tuple[BootstrapStep, ...]


class BootstrapWithSecrets(Bootstrap):
    """Run the steps with values in their environment that the agent keeps in memory only.

    Attributes:
        secret: the keys of `env` whose values are never written down there, nor told in what steps print.
    """

    secret: tuple[str, ...] = ()


class Put(_Message):
    """A piece of a file that a task needs; comes before its `start`."""

    t: Literal["put"] = "put"
    epoch: int
    task: str
    attempt: int
    path: str
    mode: int
    offset: int
    data: str  # base64
    last: bool


class Start(_Message):
    """Run an attempt. One that was heard before is not started again."""

    t: Literal["start"] = "start"
    epoch: int
    task: str
    attempt: int
    argv: tuple[str, ...]  # empty: `shell` is run by /bin/sh -c
    shell: str | None = None
    env: dict[str, str] = {}
    cwd: str | None = None
    fetch: tuple[str, ...] = ()
    fetch_bytes_max: int = 0
    timeout_s: float | None = None
    grace_s: float = 10
    on_notice: str | None = None
    log_bytes_max: int


class StartWithSecrets(Start):
    """Run an attempt with values in its environment that the agent keeps in memory only.

    Attributes:
        secret: the keys of `env` whose values are never written down there.
        env_groups: where they are from, group and revision; said again when the attempt has started.
    """

    secret: tuple[str, ...] = ()
    env_groups: tuple[tuple[str, int], ...] = ()


class Stop(_Message):
    """TERM to the attempt's process group, KILL after the grace. Unheard-of: it will never start."""

    t: Literal["stop"] = "stop"
    epoch: int
    task: str
    attempt: int
    grace_s: float


class Drain(_Message):
    """Give every task its notice (on_notice, else TERM), as if the vendor had; start nothing more.

    `within_s` None withdraws it: tasks may start again.
    """

    t: Literal["drain"] = "drain"
    epoch: int
    within_s: float | None


class Upgrade(_Message):
    """Become the program at `path` (already put there), keeping children and spool."""

    t: Literal["upgrade"] = "upgrade"
    epoch: int
    path: str


Command = Hello | Ack | Lease | Bootstrap | Put | Start | Stop | Drain | Upgrade

# --- what the agent says ------------------------------------------------------------------------


class AgentHello(_Message):
    """First on every stream. Has no id.

    Attributes:
        agent: sha256 of the agent's own file, hex, first 16.
        boot: names this life of the spool; another one means that what was not acknowledged is lost.
        next_id: id of the next new message.
        epoch: newest epoch it has obeyed; one higher than the daemon's means the daemon is old.
        tasks: attempts it holds: "task attempt state" with state waiting, running or ended.
        dropped: messages that did not fit into the spool, since boot.
        lease_left_s: seconds until the machine ends itself.
        instance: whom it serves; empty before the first hello.
        accepted: False when the daemon's epoch is older than `epoch`, or it meant another instance: nothing
            it says is obeyed.
    """

    t: Literal["hello"] = "hello"
    protocol: int
    agent: str
    boot: str
    instance: str = ""
    next_id: int
    epoch: int
    tasks: tuple[tuple[str, int, str], ...] = ()
    dropped: int = 0
    lease_left_s: float = 0
    python: str = ""
    accepted: bool = True


class _Report(_Message):
    id: int
    at: float = 0  # the machine's clock, seconds since the epoch


class Phase(_Report):
    """A bootstrap step began, ended well or failed."""

    t: Literal["phase"] = "phase"
    run_id: str
    event: Literal["started", "completed", "failed"]
    phase: str
    elapsed: float | None = None
    error: str | None = None


class PhaseCommand(_Report):
    """The command of a bootstrap step."""

    t: Literal["command"] = "command"
    run_id: str
    command: str


class Console(_Report):
    """Output of a bootstrap step."""

    t: Literal["console"] = "console"
    run_id: str
    stream: Literal["stdout", "stderr"]
    content: str
    overwrite: bool = False


class BootstrapEnded(_Report):
    """The set-up is over; `phase` names the step that failed, None when all went well."""

    t: Literal["bootstrap_ended"] = "bootstrap_ended"
    run_id: str
    phase: str | None = None
    error: str | None = None


class Started(_Report):
    """The attempt's process runs. `env_groups`: as `start` told them."""

    t: Literal["started"] = "started"
    task: str
    attempt: int
    pid: int
    env_groups: tuple[tuple[str, int], ...] = ()


class Ended(_Report):
    """The attempt is over, its whole process group is gone, all its output was reported before.

    Attributes:
        code: exit code, None when a signal ended it or nobody saw it end.
        signal: the signal that ended it.
        started: whether a process ever ran.
        oom: the kernel's out-of-memory killer took it (evidence in cgroup or kernel counters).
        why: stop, notice, timeout or lease when the agent ended it; lost when it ended unseen,
            while the agent was dead; spawn when it could not be started; secrets, which no agent says, when
            the groups it names can't be had; error says more.
        lines_dropped: log lines beyond the quota.
    """

    t: Literal["ended"] = "ended"
    task: str
    attempt: int
    code: int | None = None
    signal: int | None = None
    started: bool = True
    oom: bool = False
    why: Literal["", "stop", "notice", "timeout", "lease", "lost", "spawn", "secrets"] = ""
    error: str | None = None
    seconds: float = 0
    lines_dropped: int = 0


class LogLines(_Report):
    """Output of an attempt: bytes `offset` to `next_offset` of one stream, as lines.

    A line is [text, kind]: 0 a whole line, 1 ended by a carriage return (overwrite), 2 a piece of a
    line longer than 64 KiB, which goes on in the next. Text is UTF-8, with U+FFFD for what is not.
    `dropped` lines came after these and were not kept (quota).
    """

    t: Literal["log"] = "log"
    task: str
    attempt: int
    stream: Literal["stdout", "stderr"]
    offset: int
    next_offset: int
    lines: tuple[tuple[str, int], ...]
    dropped: int = 0


class FetchedFile(_Report):
    """A piece of a file kept after the end. `error` instead of data when it can't be read."""

    t: Literal["file"] = "file"
    task: str
    attempt: int
    path: str
    offset: int
    data: str = ""  # base64
    last: bool = False
    error: str | None = None


class Metrics(_Report):
    """Measured values, of the machine or of one task's metrics file."""

    t: Literal["metrics"] = "metrics"
    values: dict[str, float]
    task: str = ""


class NoticeSeen(_Report):
    """The machine will be taken; `within_s` from now when somebody said so.

    What all who know of it say together: the soonest end. A later report replaces an earlier one, such as
    an interruption with an end after a recommendation without. `early`: only a recommendation, tasks go on.
    """

    t: Literal["notice"] = "notice"
    reason: str
    within_s: float | None = None
    early: bool = False


class NoticeGone(_Report):
    """The notice was taken back."""

    t: Literal["notice_gone"] = "notice_gone"


class Unhealthy(_Report):
    """The health check failed often enough, or the disk is full."""

    t: Literal["unhealthy"] = "unhealthy"
    reason: str


class Refused(_Report):
    """A command was not obeyed: its epoch is old, or it makes no sense here."""

    t: Literal["refused"] = "refused"
    command: str
    reason: str
    task: str = ""
    attempt: int = 0


Report = (
    Phase
    | PhaseCommand
    | Console
    | BootstrapEnded
    | Started
    | Ended
    | LogLines
    | FetchedFile
    | Metrics
    | NoticeSeen
    | NoticeGone
    | Unhealthy
    | Refused
)

CommandsJson: TypeAdapter[list[Command]] = TypeAdapter(list[Annotated[Command, Field(discriminator="t")]])
FromAgent = Annotated[AgentHello | Report, Field(discriminator="t")]
FromAgentJson: TypeAdapter[list[AgentHello | Report]] = TypeAdapter(list[FromAgent])
