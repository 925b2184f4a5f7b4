"""How a request goes, on stderr: a picture that lives on a terminal, else a line for each step."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from actors.events import (
    BootstrapFailed,
    BootstrapPhase,
    Envelope,
    Event,
    InstanceBootstrapped,
    InstanceDestroyed,
    InstanceLaunched,
    InstancePreempted,
    InstanceProvisioned,
    InstanceReplaced,
    InstanceRequested,
    InstanceRunning,
    LaunchRefused,
    PoolParked,
    PoolUpdated,
)
from controller.cli.tables import broken
from controller.sentences import one_line, told
from controller.telling import count, lasting, took

ROWS_MAX = 12  # more nodes than that are shown as counts
WORDS_MAX = 600
FRAMES_PER_S = 4
BAR_WIDTH = 28
PHASES = ("requested", "launching", "booting", "setting up", "ready", "leaving")
_STYLES = {
    "requested": "dim",
    "launching": "yellow",
    "booting": "yellow",
    "setting up": "cyan",
    "ready": "green",
    "leaving": "magenta",
}
# Events that are worth a line of their own below the picture: something went otherwise than hoped.
_MATTERS = ("WARNING", "ERROR")


@dataclass(frozen=True, slots=True)
class Counts:
    """A pool at one moment: nodes wanted, nodes that wait for a machine, machines in each phase."""

    desired: int = 0
    waiting: int = 0
    launching: int = 0
    booting: int = 0
    setting_up: int = 0
    ready: int = 0
    leaving: int = 0
    outdated: int = 0

    @property
    def machines(self) -> int:
        """All that may cost money."""
        return self.launching + self.booting + self.setting_up + self.ready + self.leaving

    def by_phase(self) -> tuple[int, ...]:
        """In the order of PHASES."""
        return self.waiting, self.launching, self.booting, self.setting_up, self.ready, self.leaving


def counts_of(pool: Mapping[str, Any]) -> Counts:
    """Counts from what /v1/pools/{name} says."""
    machines: Mapping[str, int] = pool["instances"]
    there = sum(machines.get(status, 0) for status in ("requested", "provisioning", "bootstrapping", "ready"))
    gone = pool["status"] in ("draining", "destroyed")
    return Counts(
        desired=0 if gone else pool["desired"],
        waiting=0 if gone else max(0, pool["desired"] - there),
        launching=machines.get("requested", 0),
        booting=machines.get("provisioning", 0),
        setting_up=machines.get("bootstrapping", 0),
        ready=machines.get("ready", 0),
        leaving=machines.get("draining", 0) + machines.get("destroying", 0),
        outdated=0 if gone else pool.get("outdated", 0),
    )


@dataclass(frozen=True, slots=True)
class Aim:
    """What is to come about: `total` nodes `done` ("ready", "gone", "replaced"); 0: that can't be counted.

    `of`: machines there were when those that go are counted.
    """

    title: str
    done: str
    total: int
    of: int = 0


@dataclass(slots=True)
class _Row:
    phase: str
    text: str
    instance: str
    since: float


class Progress:
    """Shows what becomes of nodes.

    Args:
        console: stderr.
        aim: what is waited for.
        quiet: show nothing.
        flags: options that lead to the daemon, for what is suggested.
    """

    def __init__(
        self, console: Console, aim: Aim | None = None, *, quiet: bool = False, flags: str = ""
    ) -> None:
        self.flags = flags
        self._console = console
        self._aim = aim or Aim("", "", 0)
        self._quiet = quiet
        self._began = self._moved = time.monotonic()
        self._rows: dict[int, _Row] = {}
        self._nodes: dict[str, int] = {}  # instance -> node
        self._counts: Counts | None = None
        self._replaced = 0
        self._rolls = False  # machines of an older spec are replaced
        self._last: tuple[str, str] | None = None  # style and words of what last went otherwise than hoped
        self._note = ""
        live = console.is_terminal and not console.is_dumb_terminal and not quiet
        self._live = (
            Live(
                console=console,
                get_renderable=self.picture,
                refresh_per_second=FRAMES_PER_S,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            if live
            else None
        )

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave what was shown."""
        if self._live is not None:
            self._live.stop()

    @property
    def is_live(self) -> bool:
        """Whether it is a picture."""
        return self._live is not None

    def still_for(self) -> float:
        """Seconds in which nothing was heard."""
        return time.monotonic() - self._moved

    def heard(self, envelope: Envelope) -> None:
        """Take in what happened."""
        event = envelope.event
        self._moved = time.monotonic()
        if isinstance(event, InstanceReplaced):
            self._replaced += 1
        elif isinstance(event, PoolUpdated) and event.outdated:
            self._aim = replace(self._aim, done="replaced", total=event.outdated)
            self._rolls, self._replaced, self._counts = True, 0, None
        node, instance, phase, text = self._told(event)
        level, sentence = told(envelope)
        if level in _MATTERS:
            self._last = ("red" if level == "ERROR" else "yellow", sentence)
        if text is None:
            return
        elapsed = time.monotonic() - self._began
        if node is None:
            if self._live is None:
                self._line(f"{took(elapsed):>6}  {text}")
            return
        if instance:
            self._nodes[instance] = node
        before = self._rows.get(node)
        if before is not None and (before.text, before.instance) == (text, instance):
            return
        self._rows[node] = _Row(phase, text, instance, elapsed)
        if self._live is None:
            self._line(f"{took(elapsed):>6}  node {node}  {text}  {instance}".rstrip())

    def looked(self, counts: Counts) -> None:
        """Take in how the pool is."""
        if counts != self._counts:
            self._moved = time.monotonic()
        self._counts = counts

    def note(self, text: str) -> None:
        """Say something that is of no node."""
        if self._live is not None:
            self._note = text
        else:
            self._line(f"{took(time.monotonic() - self._began):>6}  {text}")

    def _line(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text, markup=False)

    def _told(self, event: Event) -> tuple[int | None, str, str, str | None]:
        """Node, instance, phase and what is to be said; None: nothing."""
        match event:
            case InstanceRequested(node_id=node, replacing=old):
                return node, "", "requested", f"asked, to replace {old}" if old else "asked"
            case InstanceLaunched(node_id=node, instance_id=name):
                return node, name, "booting", "launched"
            case InstanceRunning(node_id=node, instance=one):
                at = f"has address {one.ip}:{one.ssh_port}" if one.ip and one.ssh_port else "runs"
                return node, one.id, "booting", at
            case InstanceProvisioned(instance=one):
                return one.node, one.instance.id, "setting up", "connected"
            case BootstrapPhase(instance=one, event="started", phase=step):
                return one.node, one.instance.id, "setting up", f"set-up step {step!r}"
            case BootstrapFailed(instance=one, phase=step, error=error):
                return one.node, one.instance.id, "leaving", f"set-up step {step!r} failed: {error}"
            case InstanceReplaced(new=one) if self._rolls:
                done = f"{min(self._replaced, self._aim.total)} of {self._aim.total}"
                return one.node, one.instance.id, "ready", f"replaced ({done})"
            case InstanceBootstrapped(instance=one) | InstanceReplaced(new=one):
                return one.node, one.instance.id, "ready", "ready"
            case InstancePreempted(instance=one, reason=reason):
                return one.node, one.instance.id, "leaving", f"being taken: {reason}"
            case InstanceDestroyed(instance_id=name, reason=reason):
                where, how = self._nodes.get(name), "gone" if reason in ("", "gone") else f"gone ({reason})"
                return where, name, "leaving", how if where is not None else f"{name} is {how}"
            case LaunchRefused(instance_id=name, market=market, fault=fault, detail=words):
                why = f" ({one_line(words, 200)})" if words else ""
                text = f"{name} refused at {market}: {fault}{why}"
                return self._nodes.get(name), name, "requested", text
            case PoolUpdated(outdated=outdated) if outdated:
                return None, "", "", f"updated; {count(outdated, 'machine')} of the old spec will be replaced"
            case PoolParked(reason=reason):
                return None, "", "", f"pool parked: {reason}"
            case _:
                return None, "", "", None

    # --- the picture ----------------------------------------------------------------------------------

    def picture(self) -> RenderableType:
        """How it goes, as a few lines that fit the terminal."""
        parts: list[RenderableType] = [self._head()]
        if self._counts is not None:
            parts.append(_phases(self._counts))
        parts.append(self._nodes_table())
        if self._last is not None:
            style, text = self._last
            parts.append(self._whole(f"last: {text}", style))
        if self._note:
            parts.append(self._whole(self._note, "yellow"))
        return Group(*parts)

    def _whole(self, text: str, style: str) -> Text:
        """Words on as many lines as they take: a console that wraps softly would cut them."""
        lines = broken(one_line(text, WORDS_MAX), max(20, self._console.width - 2))
        return _cut(Text("\n".join(f"  {line}" for line in lines), style=style))

    def _head(self) -> RenderableType:
        elapsed = lasting(time.monotonic() - self._began)
        aim = self._aim
        in_place = aim.done == "replaced" and not (self._replaced or self._rolls)  # it may be
        if not aim.total or in_place:
            return Text.assemble((aim.title, "bold"), f"  {elapsed}")
        done = min(self._done(), aim.total)
        grid = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=aim.total, completed=done, width=BAR_WIDTH)
        grid.add_row(Text(aim.title, style="bold"), bar, f"{done} of {aim.total} {aim.done}", elapsed)
        return grid

    def _done(self) -> int:
        if self._aim.done == "replaced":  # what was lost is replaced as well, and is none of these
            there = self._counts if self._rolls else None
            return self._replaced if there is None else max(0, self._aim.total - there.outdated)
        if self._counts is None:
            return 0
        if self._aim.done == "gone":
            return max(0, self._aim.of - self._counts.machines)
        return self._counts.ready

    def _nodes_table(self) -> RenderableType:
        most = max(1, min(ROWS_MAX, self._console.height - 8))
        if len(self._rows) > most:
            return _counted(self._rows.values(), most)
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        for _ in range(4):
            table.add_column(no_wrap=True, overflow="ellipsis")
        for node, row in sorted(self._rows.items()):
            text = Text(one_line(row.text, 200), style=_STYLES[row.phase])
            table.add_row(f"  node {node}", text, Text(row.instance), Text(took(row.since), style="dim"))
        return table


def _phases(counts: Counts) -> Text:
    line = Text("  ")
    for phase, number in zip(PHASES, counts.by_phase(), strict=True):
        if phase == "leaving" and not number:
            continue
        line.append(f"{phase} ", style="dim" if not number else "")
        line.append(str(number), style=_STYLES[phase] if number else "dim")
        line.append("   ")
    return _cut(line)


def _counted(rows: Any, most: int) -> RenderableType:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(justify="right")
    table.add_column(no_wrap=True, overflow="ellipsis")
    counts = Counter((row.text, row.phase) for row in rows)
    for (text, phase), number in counts.most_common(most):
        table.add_row(f"  {number}", Text(one_line(text, 200), style=_STYLES[phase]))
    return table


def _cut(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
