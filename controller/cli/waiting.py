"""Waiting for the end of a request, and why it takes so long."""

import re
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import anyio

from actors.events import (
    BootstrapFailed,
    DrainRequested,
    Envelope,
    Error,
    Event,
    InstanceDestroyed,
    InstanceReplaced,
    PoolRequested,
    PoolResizeRequested,
    PoolUpdateRequested,
    Request,
    ShutdownRequested,
    TaskCompleted,
    TaskStopRequested,
)
from controller.cli.codes import FAILED, OK, TIMEOUT, CliError
from controller.cli.command import Session
from controller.cli.progress import Aim, Counts, Progress, counts_of
from controller.cli.rolls import roll_ended, rolls, wait_for_roll
from controller.client import AsyncClient, EventsPruned, EverpoolError
from controller.sentences import called_off, ended_how, outcome
from controller.telling import count, lasting, took

WHY_AFTER_S = 5.0
STILL_S = 20.0  # nothing at all moved for so long: even what is under way is worth a word
LOOK_EVERY_S = 1.0
_NUMBERS = re.compile(r"[0-9]+")


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

    None: it has not ended within `within_s`. Events that are forgotten meanwhile are passed over; raises
    EventsPruned when the end itself may be among them.
    """
    with anyio.move_on_after(within_s):
        wanted, after = request_id if only_its_own else None, seq - 1
        while True:
            try:
                async with aclosing(client.follow(after, pool=pool, request_id=wanted)) as events:
                    async for envelope in events:
                        after = envelope.seq
                        heard(envelope)
                        if request_id in envelope.ends:
                            return envelope
            except EventsPruned as pruned:
                if pruned.cursor == after or (await client.operation(request_id)).over:
                    raise  # its end may be forgotten too
                after = pruned.cursor
    return None


async def _say_why(client: AsyncClient, pool: str, progress: Progress) -> None:
    """Say why nodes wait when nothing can be asked, or when nothing moves; once for each reason."""
    said: set[str] = set()
    while True:
        await anyio.sleep(WHY_AFTER_S)
        try:
            told = await client.explain(pool)
        except EverpoolError:  # it is gone, or the daemon is: who waits for the end hears that
            continue
        why = _why(told, pool, is_still=progress.still_for() >= STILL_S)
        # Times and counts in a reason change all the while, and are no news.
        if why is None or (key := _NUMBERS.sub("#", why)) in said:
            continue
        said.add(key)
        progress.note(f"{why}; more: everpool{progress.flags} explain {pool}")


def _why(told: dict[str, Any], pool: str, *, is_still: bool) -> str | None:
    groups = told["missing_groups"]
    if told["there"]["starting"] and not is_still:
        return None
    waiting = [one for one in groups if not one["starting"]]
    if waiting:
        number = waiting[0]["count"]
        verb = "node of {} still waits" if number == 1 else "nodes of {} still wait"
        why = str(waiting[0]["why"]).removeprefix("waits ")  # said once
        return f"{number} {verb.format(pool)}{' ' if why != waiting[0]['why'] else ': '}{why}"
    if is_still and groups:
        return f"nothing moved for {lasting(STILL_S)}: {groups[0]['why']}"
    if not groups and told.get("outdated") and told.get("roll_waits"):
        number = told["outdated"]
        verb = "machine is" if number == 1 else "machines are"
        return f"{number} {verb} still to be replaced: {told['roll_waits']}"
    return None


async def _look(client: AsyncClient, pool: str, progress: Progress) -> None:
    """Keep the counts fresh: one small answer a second, however many nodes there are."""
    while True:
        try:
            progress.looked(counts_of(await client.pool(pool)))
        except EverpoolError:
            pass  # it is not there yet, or not any more
        await anyio.sleep(LOOK_EVERY_S)


def aim_of(request: Request, pool: str, before: Counts | None) -> Aim:
    """What a request is to bring about, and how far that has come."""
    there = before or Counts()
    match request:
        case PoolRequested(spec=spec):
            return Aim(f"up {pool}", "ready", total=spec.nodes.desired)
        case PoolResizeRequested(nodes=nodes) if nodes < there.machines:
            return Aim(f"resize {pool} to {nodes}", "gone", total=there.machines - nodes, of=there.machines)
        case PoolResizeRequested(nodes=nodes):
            return Aim(f"resize {pool} to {nodes}", "ready", total=nodes)
        case PoolUpdateRequested():
            return Aim(f"update {pool}", "replaced", total=there.desired)
        case ShutdownRequested():
            return Aim(f"down {pool}", "gone", total=there.machines, of=there.machines)
        case DrainRequested(node=node):
            return Aim(f"drain node {node} of {pool}", "", total=0)
        case TaskStopRequested(task_id=task):
            return Aim(f"stop {task}", "", total=0)
        case _:
            return Aim(f"{request.kind.removesuffix('_requested').replace('_', ' ')} {pool}", "", total=0)


async def see_through(
    session: Session, client: AsyncClient, request: Request, pool: str, *, wait: bool, within_s: float | None
) -> int:
    """Send a request about a pool, show how it goes, and return the exit code that its end means."""
    before: Counts | None = None
    if wait and not session.quiet and session.err.is_terminal:
        try:
            before = counts_of(await client.pool(pool))
        except EverpoolError:
            pass  # a new pool; else the request is refused, which is said then
    answer = await client.submit(request)
    name = answer.request_id
    if not wait:
        session.show(
            {"request_id": name, "seq": answer.seq, "status": "accepted"}, f"accepted as request {name}"
        )
        return OK
    flags = session.flags
    session.on_detach = f"detached; request {name} goes on: everpool{flags} events --pool {pool} --follow"
    progress = Progress(session.err, aim_of(request, pool, before), quiet=session.quiet, flags=flags)
    began, over = anyio.current_time(), None

    def heard(envelope: Envelope) -> None:
        if name in envelope.ends and rolls(envelope.event):
            session.on_detach = f"detached; pool {pool} was updated, and its machines are replaced: "
            session.on_detach += f"everpool{flags} events --pool {pool} --follow"
        progress.heard(envelope)

    with progress:
        async with anyio.create_task_group() as tasks:
            if not session.quiet:
                tasks.start_soon(_say_why, client, pool, progress)
            if progress.is_live:
                tasks.start_soon(_look, client, pool, progress)
            end = await wait_for_end(client, name, pool, answer.seq or 1, within_s, heard)
            if end is not None and rolls(end.event):
                left_s = None if within_s is None else max(0.0, began + within_s - anyio.current_time())
                over = await wait_for_roll(client, pool, end.seq, left_s, progress.heard)
            if end is not None and progress.is_live:
                await _last_look(client, pool, progress)
            tasks.cancel_scope.cancel()
    if end is None:
        text = f"request {name} has not ended after {took(within_s or 0)}; it goes on"
        raise CliError(TIMEOUT, text, [f"follow it: everpool{flags} events --pool {pool} --follow"])
    if rolls(end.event):
        return roll_ended(session, name, end, over, within_s)
    return ended(session, name, end, request)


async def _last_look(client: AsyncClient, pool: str, progress: Progress) -> None:
    """So that the picture that stays is the one at the end."""
    with anyio.move_on_after(LOOK_EVERY_S):
        try:
            progress.looked(counts_of(await client.pool(pool)))
        except EverpoolError:
            progress.looked(Counts())


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
        if isinstance(request, PoolRequested | PoolResizeRequested) and not called_off(event):
            session.say(f"  why: everpool{session.flags} explain {end.pool}")
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
            return error or ended_how(result, reason)
        case _:
            return ""


def _success(event: Event, pool: str) -> str:
    nodes = getattr(event, "nodes", None)
    words = event.kind.replace("_", " ")
    match event:
        case InstanceReplaced(old_id=old, new=new):
            return f"node {new.node} of pool {pool}: {old} was replaced by {new.instance.id}"
        case TaskCompleted(task_id=task, result=result):
            return f"task {task} is over: {outcome(result)}"
        case InstanceDestroyed(instance_id=name):
            return f"{name} of pool {pool} is gone"
        case _ if getattr(event, "already", False):
            return f"{words} already: {pool}"
        case _ if getattr(event, "superseded", False):
            return f"pool {pool}: overtaken by a resize to {count(nodes or 0, 'node')}"
        case _ if getattr(event, "changed", None) is not None:
            text = f"pool {pool} updated: {', '.join(getattr(event, 'changed', ())) or 'nothing changed'}"
            outdated = getattr(event, "outdated", 0)
            return f"{text}; {count(outdated, 'machine')} will be replaced" if outdated else text
        case _ if event.kind == "cluster_destroyed":
            return f"pool {pool} is gone"
        case _ if nodes is not None:
            return f"{words}: {pool}, {count(nodes, 'node')}"
        case _:
            return f"{words}: {pool}"
