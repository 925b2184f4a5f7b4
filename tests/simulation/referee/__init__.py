"""What must hold in every run, watched from outside: the journal, and the cloud as it really is."""

from collections import Counter
from collections.abc import Callable
from typing import get_args

import anyio

from actors.events import (
    BootstrapCommand,
    BootstrapFailed,
    BootstrapPhase,
    BugCaught,
    Envelope,
    Instance,
    InstanceBootstrapped,
    InstanceDestroyed,
    InstanceLaunched,
    InstancePreempted,
    InstanceProvisioned,
    InstanceReplaced,
    InstanceRunning,
    LaunchRefused,
    NodeInstance,
    NoticeWithdrawn,
    Request,
    TaskCompleted,
    TaskStarted,
)
from actors.instance.state import Ready
from actors.ports import Commit
from controller.simulation.house import Watcher
from providers.agent.wire import LogLines

ENDINGS: dict[str, tuple[str, ...]] = {
    "pool_requested": ("pool_ready", "error"),
    "cluster_requested": ("cluster_provisioned", "cluster_ready", "error"),
    "instance_requested": ("instance_bootstrapped", "instance_replaced", "bootstrap_failed", "error"),
    "bootstrap_requested": ("instance_bootstrapped", "bootstrap_failed", "error"),
    "shutdown_requested": ("cluster_destroyed", "error"),
    "pool_resize_requested": ("pool_resized", "error"),
    "pool_update_requested": ("pool_updated", "error"),
    "drain_requested": ("instance_replaced", "instance_destroyed", "error"),
    "task_requested": ("task_completed", "error"),
    "task_stop_requested": ("task_completed", "error"),
}
EVENTS_MAX = 100_000  # of one run, unless it says otherwise
TAIL = 25  # events kept of what led to a broken rule
_REQUESTS: tuple[type, ...] = get_args(Request)


class Broken(Exception):
    """A rule of the house does not hold; the text names it."""


class Referee(Watcher):
    """Watches one run. The first broken rule is kept in `broken`; the run ends by it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.broken: str | None = None
        self.forgives_bugs = False
        self.events_max = EVENTS_MAX
        self.alarm = anyio.Event()  # a rule was broken
        self.tail: list[str] = []
        self.counts: Counter[str] = Counter()
        self.billed: dict[str, str] = {}  # key -> ref of living machines
        self._now = now
        self._made: dict[str, str] = {}  # every key ever -> ref
        self._asked: dict[str, str] = {}
        self._ended: dict[str, int] = {}
        self._seqs: set[int] = set()
        self._stage: dict[str, int] = {}
        self._key_of: dict[str, str] = {}
        self._ready: dict[tuple[str, int], dict[str, None]] = {}
        self._began: dict[tuple[str, int], str] = {}
        self._running: dict[str, tuple[str, int]] = {}
        self._offsets: dict[tuple[str, int, str], int] = {}
        self._lines: Counter[tuple[str, int, str]] = Counter()

    def rule(self, holds: bool, text: str) -> None:
        """Note a rule that is broken."""
        if not holds and self.broken is None:
            self.broken = f"{text} (at {self._now():.3f})"
            self.alarm.set()

    # --- the cloud (Spectator) --------------------------------------------------------------------

    def machine_made(self, provider: str, key: str, ref: str, late: bool) -> None:
        """A machine begins to cost money."""
        self.rule(key not in self._made, f"two machines for one key: {key}")
        self._made[key] = self.billed[key] = ref
        self.counts["machines"] += 1

    def machine_ended(self, provider: str, key: str, ref: str, reason: str) -> None:
        """A machine is gone."""
        del self.billed[key]
        self.counts[f"ended: {reason}"] += 1

    def machine_resumed(self, provider: str, key: str, ref: str) -> None:
        """A machine that had ended is there again."""
        self.billed[key] = ref

    def happened(self, text: str) -> None:
        """Something went wrong on purpose."""

    def process_began(self, ref: str, task: str, attempt: int) -> None:
        """An attempt's process runs."""
        self.counts["processes"] += 1
        live = self._running.get(task)
        self.rule(live is None, f"task {task}: attempt {attempt} runs beside {live}")
        self.rule((task, attempt) not in self._began, f"task {task}: attempt {attempt} ran twice")
        self._began[(task, attempt)] = ref
        self._running[task] = (ref, attempt)

    def process_ended(self, ref: str, task: str, attempt: int) -> None:
        """An attempt's process is over."""
        if self._running.get(task) == (ref, attempt):
            del self._running[task]

    # --- the daemon's life (Watcher) --------------------------------------------------------------

    def bug(self, text: str) -> None:
        """A rule raised, or a call did what nobody expected."""
        self.rule(self.forgives_bugs, f"a bug {text}")

    def lines(self, report: LogLines) -> None:
        """Lines of a task's output are kept: each once, none left out."""
        name = (report.task, report.attempt, report.stream)
        had = self._offsets.get(name, 0)
        if report.next_offset <= had:
            return
        self.rule(report.offset == had, f"log of {name}: {report.offset} follows {had}")
        self._offsets[name] = report.next_offset
        self._lines[name] += len(report.lines)
        self.counts["lines"] += len(report.lines)

    # --- the journal (Witness) --------------------------------------------------------------------

    def stored(self, commit: Commit) -> None:
        """States became durable."""
        for row in commit.states:
            if row.kind != "instance" or row.state is None:
                continue
            state = row.state
            place = (commit.pool, getattr(state, "node", -1))
            self._key_of[row.id] = getattr(state, "key", "")
            holders = self._ready.setdefault(place, {})
            holders.pop(row.id, None)
            if isinstance(state, Ready):
                holders[row.id] = None
        for place, holders in self._ready.items():
            self.rule(len(holders) <= 1, f"rank {place} is held by {list(holders)}")

    def journaled(self, envelope: Envelope) -> None:
        """An event became durable."""
        event = envelope.event
        if self.broken is None:
            self.tail.append(_shown(envelope))
            del self.tail[:-TAIL]
        self.counts[event.kind] += 1
        self.rule(envelope.seq not in self._seqs, f"seq {envelope.seq} was given twice")
        self._seqs.add(envelope.seq)
        self.rule(
            len(self._seqs) < self.events_max, f"more than {self.events_max} events: something runs hot"
        )
        if isinstance(event, _REQUESTS):
            request_id = envelope.request_id if envelope.principal else getattr(event, "request_id", "")
            self.rule(bool(request_id), f"a request without an id: {event.kind}")
            self.rule(request_id not in self._asked, f"request {request_id} was made twice")
            self._asked[request_id or ""] = event.kind
        for request_id in envelope.ends:
            self._end(request_id, envelope)
        self._instance(event)
        self._task(event)
        if isinstance(event, BugCaught) and not self.forgives_bugs:
            self.rule(False, f"a bug: {event!r}")

    def _end(self, request_id: str, envelope: Envelope) -> None:
        asked = self._asked.get(request_id)
        kind = envelope.event.kind
        self.rule(asked is not None, f"{kind} ends a request that nobody made: {request_id!r}")
        before = self._ended.get(request_id)
        self.rule(before is None, f"request {request_id} ended by seq {before} and again by {kind}")
        if asked is not None:
            self.rule(kind in ENDINGS[asked], f"{asked} {request_id} ended by {kind}")
        self._ended[request_id] = envelope.seq

    def _instance(self, event: object) -> None:
        match event:
            case InstanceLaunched(instance_id=name):
                self._step(name, event, (0,), 1)
            case InstanceRunning(instance=instance):
                self._step(instance.id, event, (1,), 2)
            case InstanceProvisioned(instance=value):
                self._step(value.instance.id, event, (2,), 3)
            case BootstrapPhase(instance=value) | BootstrapCommand(instance=value):
                self._step(value.instance.id, event, (3, 4), None)
            case InstanceBootstrapped(instance=value):
                self._step(value.instance.id, event, (3, 4), 4)
            case BootstrapFailed(instance=value):
                self._step(value.instance.id, event, (3, 4), 5)
            case InstancePreempted(instance=value):
                self._step(value.instance.id, event, (1, 2, 3, 4), 5)
            case NoticeWithdrawn(instance_id=name):
                self._step(name, event, (5,), 4)
            case InstanceReplaced(new=value):
                self._step(value.instance.id, event, (4,), 4)
            case InstanceDestroyed(instance_id=name):
                self._step(name, event, (1, 2, 3, 4, 5), 9)
                key = self._key_of.get(name, "")
                self.rule(key in self._made, f"{name} was destroyed and never made")
                self.rule(key not in self.billed, f"{name} counts as destroyed, and its machine lives")
            case LaunchRefused(instance_id=name):
                self._step(name, event, (0,), 9)
            case _:
                return

    def _step(self, name: str, event: object, allowed: tuple[int, ...], to: int | None) -> None:
        stage = self._stage.get(name, 0)
        self.rule(stage in allowed, f"{type(event).__name__} of {name} in stage {stage}")
        if to is not None:
            self._stage[name] = to

    def _task(self, event: object) -> None:
        match event:
            case TaskStarted(task_id=task, attempt=attempt):
                self.rule((task, attempt) in self._began, f"{task} attempt {attempt} started, and never ran")
            case TaskCompleted(task_id=task, attempts=attempts, result=result):
                self.rule(task not in self._running, f"{task} is completed and still runs")
                if result == "success":
                    self.rule((task, attempts) in self._began, f"{task} succeeded and never ran")
                    wanted, got = _lines_of(task), self._lines[(task, attempts, "stdout")]
                    self.rule(wanted == got, f"{task} wrote {wanted} lines, {got} are kept")
            case _:
                return

    # --- the end ----------------------------------------------------------------------------------

    def is_ended(self, request_id: str) -> bool:
        """Whether a request has its terminal Fact."""
        return request_id in self._ended

    def unended(self) -> list[str]:
        """Requests without a terminal Fact."""
        return [f"{kind} {name}" for name, kind in self._asked.items() if name not in self._ended]

    def at_the_end(self, foreign: set[str]) -> None:
        """All is over: nothing may be left, and what is not ours must be."""
        left = [key for key in self.billed if key not in foreign]
        self.rule(not left, f"machines left: {left[:5]}")
        self.rule(all(key in self.billed for key in foreign), "a machine that is not ours was touched")
        self.rule(not self._running, f"tasks still run: {list(self._running)[:5]}")
        self.rule(not self.unended(), f"requests without an end: {self.unended()[:5]}")


def _shown(envelope: Envelope) -> str:
    """One event in a line: what names things, not what describes them."""
    event, words = envelope.event, list[str]()
    for name in type(event).model_fields:
        value = getattr(event, name)
        if isinstance(value, NodeInstance):
            words.append(f"{name}={value.instance.id}")
        elif isinstance(value, Instance):
            words.append(f"{name}={value.id}")
        elif name != "kind" and isinstance(value, str | int | float) and value != "":
            words.append(f"{name}={value}")
    ends = f" ends {', '.join(envelope.ends)}" if envelope.ends else ""
    return f"{envelope.seq} {envelope.at:.3f} {envelope.pool} {event.kind} {' '.join(words)}{ends}"


def _lines_of(task: str) -> int:
    """How many lines a task of this name writes; the world names tasks so."""
    return int(task.rsplit("-", 1)[1])
