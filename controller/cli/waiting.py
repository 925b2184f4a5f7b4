"""Waiting for the end of a request, and telling how it goes: each node's phases, on stderr."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import anyio
from rich.console import Console
from rich.live import Live
from rich.table import Table

from actors.events import (
    BootstrapFailed,
    BootstrapPhase,
    Envelope,
    Error,
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
    Request,
    TaskCompleted,
    TaskStopRequested,
)
from controller.cli.codes import FAILED, OK, TIMEOUT, CliError
from controller.cli.command import Session
from controller.client import AsyncClient, EverpoolError

WHY_AFTER_S = 5.0
ROWS_MAX = 24  # more nodes than that are shown as counts


@dataclass(slots=True)
class _Row:
    phase: str
    instance: str
    since: float


class Progress:
    """Shows what becomes of nodes: a table that lives on a terminal, else a line for each step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._rows: dict[int, _Row] = {}
        self._nodes: dict[str, int] = {}  # instance -> node
        self._live = (
            Live(console=console, transient=False, auto_refresh=False) if console.is_terminal else None
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

    def heard(self, envelope: Envelope) -> None:
        """Take in what happened."""
        event = envelope.event
        node, instance, phase = self._told(event)
        if phase is None:
            return
        elapsed = time.monotonic() - self._began
        if node is None:
            self._line(f"{elapsed:6.1f} s  {phase}")
            return
        if instance:
            self._nodes[instance] = node
        before = self._rows.get(node)
        if before is not None and (before.phase, before.instance) == (phase, instance):
            return
        self._rows[node] = _Row(phase, instance, elapsed)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        else:
            self._line(f"{elapsed:6.1f} s  node {node}  {phase}  {instance}".rstrip())

    def note(self, text: str) -> None:
        """Say something that is of no node."""
        self._line(f"{time.monotonic() - self._began:6.1f} s  {text}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False)

    def _told(self, event: Event) -> tuple[int | None, str, str | None]:
        """Node, instance and what is to be said; None: nothing."""
        match event:
            case InstanceRequested(node_id=node, replacing=old):
                return node, "", f"asked, to replace {old}" if old else "asked"
            case InstanceLaunched(node_id=node, instance_id=name):
                return node, name, "launched"
            case InstanceRunning(node_id=node, instance=instance):
                return node, instance.id, f"has address {instance.ip}:{instance.ssh_port}"
            case InstanceProvisioned(instance=one):
                return one.node, one.instance.id, "connected"
            case BootstrapPhase(instance=one, event="started", phase=phase):
                return one.node, one.instance.id, f"set-up step {phase!r}"
            case BootstrapFailed(instance=one, phase=phase, error=error):
                return one.node, one.instance.id, f"set-up step {phase!r} failed: {error}"
            case InstanceBootstrapped(instance=one) | InstanceReplaced(new=one):
                return one.node, one.instance.id, "ready"
            case InstancePreempted(instance=one, reason=reason):
                return one.node, one.instance.id, f"being taken: {reason}"
            case InstanceDestroyed(instance_id=name, reason=reason):
                where, how = self._nodes.get(name), f"gone ({reason})" if reason else "gone"
                return where, name, how if where is not None else f"{name} is {how}"
            case LaunchRefused(instance_id=name, market=market, fault=fault):
                return self._nodes.get(name), name, f"{name} refused at {market}: {fault}"
            case PoolParked(reason=reason):
                return None, "", f"pool parked: {reason}"
            case _:
                return None, "", None

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        if len(self._rows) > ROWS_MAX:
            for phase, count in Counter(row.phase for row in self._rows.values()).most_common(ROWS_MAX):
                table.add_row(str(count), phase.replace("[", r"\["))
            return table
        for node, row in sorted(self._rows.items()):
            phase = row.phase.replace("[", r"\[")
            table.add_row(f"node {node}", phase, row.instance, f"{row.since:.1f} s")
        return table


async def wait_for_end(
    client: AsyncClient,
    request_id: str,
    pool: str,
    seq: int,
    within_s: float | None,
    heard: Callable[[Envelope], None],
    *,
    only_its_own: bool = False,
) -> Envelope | None:
    """Follow a pool's events, or only a request's own, until it ends; return the event that ended it.

    None: it has not ended within `within_s`.
    """
    with anyio.move_on_after(within_s):
        wanted = request_id if only_its_own else None
        async with aclosing(client.follow(seq - 1, pool=pool, request_id=wanted)) as events:
            async for envelope in events:
                heard(envelope)
                if request_id in envelope.ends:
                    return envelope
    return None


async def _say_why(client: AsyncClient, pool: str, progress: Progress) -> None:
    """Say why nodes wait when nothing can be asked, once for each reason."""
    said: set[str] = set()
    while True:
        await anyio.sleep(WHY_AFTER_S)
        try:
            told = await client.explain(pool)
        except EverpoolError:  # it is gone, or the daemon is: who waits for the end hears that
            continue
        waiting = [one for one in told["missing_groups"] if not one["starting"]]
        if not waiting or told["there"]["starting"] or waiting[0]["why"] in said:
            continue
        said.add(waiting[0]["why"])
        nodes = f"{waiting[0]['count']} node{'' if waiting[0]['count'] == 1 else 's'}"
        progress.note(f"{nodes} of {pool} still wait: {waiting[0]['why']}; more: everpool explain {pool}")


async def see_through(
    session: Session, client: AsyncClient, request: Request, pool: str, *, wait: bool, within_s: float | None
) -> int:
    """Send a request about a pool, show how it goes, and return the exit code that its end means."""
    answer = await client.submit(request)
    name = answer.request_id
    if not wait:
        session.show(
            {"request_id": name, "seq": answer.seq, "status": "accepted"}, f"accepted as request {name}"
        )
        return OK
    session.on_detach = f"detached; request {name} goes on: everpool events --pool {pool} --follow"
    with Progress(session.err) as progress:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_say_why, client, pool, progress)
            end = await wait_for_end(client, name, pool, answer.seq or 1, within_s, progress.heard)
            tasks.cancel_scope.cancel()
    if end is None:
        raise CliError(TIMEOUT, f"request {name} has not ended after {within_s:g} s; it goes on")
    return ended(session, name, end, request)


def ended(session: Session, request_id: str, end: Envelope, request: Request) -> int:
    """Show the end of a request."""
    event = end.event
    stopped = isinstance(request, TaskStopRequested) and isinstance(event, TaskCompleted)
    failure = "" if stopped else failure_of(event)  # however the task ended: it is over, as was asked for
    value = {
        "request_id": request_id,
        "seq": end.seq,
        "status": "failed" if failure else "success",
        "event": event.model_dump(mode="json"),
    }
    if failure:
        session.say(f"everpool: {failure}")
        session.show({**value, "error": failure})
        return FAILED
    session.show(value, _success(event, end.pool))
    return OK


def failure_of(event: Event) -> str:
    """Why what was asked for did not come to be; empty when it did."""
    match event:
        case Error(message=message):
            return message
        case BootstrapFailed(phase=phase, error=error):
            return f"set-up step {phase!r} failed: {error}"
        case TaskCompleted(success=False, error=error, result=result, reason=reason):
            return error or f"{result}{f' ({reason})' if reason else ''}"
        case _:
            return ""


def _success(event: Event, pool: str) -> str:
    nodes = getattr(event, "nodes", None)
    words = event.kind.replace("_", " ")
    match event:
        case InstanceReplaced(old_id=old, new=new):
            return f"node {new.node} of pool {pool}: {old} was replaced by {new.instance.id}"
        case TaskCompleted(task_id=task, result=result):
            return f"task {task} is over: {result}"
        case InstanceDestroyed(instance_id=name):
            return f"{name} of pool {pool} is gone"
        case _ if getattr(event, "superseded", False):
            return f"pool {pool}: overtaken by a resize to {nodes} nodes"
        case _ if getattr(event, "changed", None) is not None:
            return f"pool {pool} updated: {', '.join(getattr(event, 'changed', ())) or 'nothing changed'}"
        case _ if event.kind == "cluster_destroyed":
            return f"pool {pool} is gone"
        case _ if nodes is not None:
            return f"{words}: {pool}, {nodes} node{'' if nodes == 1 else 's'}"
        case _:
            return f"{words}: {pool}"
