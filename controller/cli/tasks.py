"""Commands about tasks: run, stop."""

import secrets
import signal
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import anyio
import typer

from actors.events import (
    Envelope,
    Event,
    TaskAttemptEnded,
    TaskCompleted,
    TaskRequested,
    TaskStarted,
    TaskStopRequested,
)
from controller.cli import specs
from controller.cli.codes import FAILED, NOT_FETCHED, NOT_STARTED, OK, SIGNALLED
from controller.cli.command import Session, command
from controller.cli.completing import group_names, node_numbers, task_ids
from controller.cli.pools import Pool, Wait, Within, named, within
from controller.cli.queued import Queued
from controller.cli.shows import write_line
from controller.cli.waiting import failure_of, see_through, wait_for_end
from controller.client import AsyncClient, EverpoolError
from controller.sentences import ended_how, outcome


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    command(app)(run)
    command(app)(stop)


async def run(
    session: Session,
    pool: Pool,
    line: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="What to run, without a shell.")],
    name: Annotated[str, typer.Option("--name", help="What the task is called.")] = "",
    env: Annotated[list[str] | None, typer.Option("--env", metavar="KEY=VALUE", help="Repeatable.")] = None,
    env_group: Annotated[
        list[str] | None,
        typer.Option(
            "--env-group",
            metavar="GROUP",
            help="Kept by `everpool secrets`. Repeatable.",
            autocompletion=group_names,
        ),
    ] = None,
    cwd: Annotated[str | None, typer.Option("--cwd", help="[default: a directory of the task's own]")] = None,
    put: Annotated[
        list[str] | None,
        typer.Option("--put", metavar="LOCAL[:REMOTE]", help="A file or directory it needs. Repeatable."),
    ] = None,
    fetch: Annotated[
        list[str] | None,
        typer.Option("--fetch", metavar="PATH[:LOCAL]", help="A file to bring back after it. Repeatable."),
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="DURATION", help="Of each attempt.")
    ] = None,
    grace: Annotated[
        str | None, typer.Option("--grace", metavar="DURATION", help="From TERM to KILL.")
    ] = None,
    retries: Annotated[int, typer.Option("--retries", min=0, help="When it fails.")] = 0,
    retries_infrastructure: Annotated[
        int | None, typer.Option("--retries-infrastructure", min=0, help="When its machine is lost.")
    ] = None,
    at_least_once: Annotated[
        bool, typer.Option("--at-least-once", help="Retry before the lost attempt surely ended.")
    ] = False,
    priority: Annotated[int, typer.Option("--priority", help="Higher goes first.")] = 0,
    node: Annotated[
        int | None,
        typer.Option("--node", min=0, help="Only on this node.", autocompletion=node_numbers),
    ] = None,
    on_notice: Annotated[
        str | None,
        typer.Option("--on-notice", metavar="COMMAND", help="Run at a preemption notice instead of TERM."),
    ] = None,
    shell: Annotated[bool, typer.Option("--shell", help="COMMAND is a line for /bin/sh.")] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Print the task's id, don't wait.")] = False,
) -> int:
    """Run a command on a node, show its output, exit with its code.

    123: it ended well, but a file of --fetch could not be brought back. 125: it has no exit code of its own.
    Ctrl-C detaches and leaves the task running.
    """
    places = specs.fetches(fetch or ())
    task = specs.task_spec(
        line,
        shell=shell,
        name=name,
        env=specs.environment(env or ()),
        env_groups=tuple(env_group or ()),
        cwd=cwd,
        files=specs.puts(put or ()),
        fetch=tuple(places),
        timeout_s=within(timeout),
        grace_s=within(grace),
        retries=retries,
        retries_infrastructure=retries_infrastructure,
        at_least_once=at_least_once,
        priority=priority,
        node=node,
        on_notice=on_notice,
    )
    request = TaskRequested(request_id=f"t-{secrets.token_hex(6)}", pool=named(pool), task=task)
    async with session.client() as client:
        taken = await client.submit(request)
        task_id = taken.request_id
        if detach:
            session.show({"task": task_id, "pool": pool, "seq": taken.seq}, task_id)
            return OK
        session.on_detach = (
            f"detached; task {task_id} goes on: everpool{session.flags} logs {task_id} --follow, "
            f"everpool{session.flags} stop {task_id}"
        )
        end, number = await _watched(session, client, pool, task_id, taken.seq or 1)
        missing = await _fetched(session, client, task_id, places)
    return _over(session, task_id, end, number, missing)


async def _watched(
    session: Session, client: AsyncClient, pool: str, task_id: str, seq: int
) -> tuple[Envelope, int | None]:
    """Show a task's output and its misfortunes until it is over; its end, and the signal that ended it."""
    ends: list[Envelope] = []
    signals: list[int | None] = [None]
    queued = Queued(session, client, pool, task_id)

    async def output() -> None:
        async with aclosing(client.task_log(task_id, follow=True)) as lines:
            async for one in lines:
                queued.over()
                if session.json:
                    session.show({"kind": "log", **one.model_dump(exclude={"cursor"}, exclude_defaults=True)})
                else:
                    write_line(one)

    async def misfortunes() -> None:
        def heard(envelope: Envelope) -> None:
            queued.heard(envelope)
            if isinstance(envelope.event, TaskAttemptEnded):
                signals.append(envelope.event.signal)
            text = _misfortune(envelope)
            if text:
                session.say(f"everpool: {text}")

        end = await wait_for_end(client, task_id, pool, seq, None, heard, only_its_own=True)
        assert end is not None
        queued.over()
        ends.append(end)

    with queued:
        async with anyio.create_task_group() as watching:
            watching.start_soon(output)
            watching.start_soon(misfortunes)
            watching.start_soon(queued.keep)
    return ends[0], signals[-1]


def _misfortune(envelope: Envelope) -> str:
    event = envelope.event
    match event:
        case TaskAttemptEnded(result=result, reason=reason, attempt=attempt) if result != "success":
            return f"attempt {attempt} ended: {ended_how(result, reason, event.exit_code, event.signal)}"
        case TaskStarted(attempt=attempt, instance=one) if attempt > 1:
            return f"attempt {attempt} runs on node {one.node}, {one.instance.id}"
        case _:
            return ""


async def _fetched(
    session: Session, client: AsyncClient, task_id: str, places: Mapping[str, Path]
) -> list[str]:
    """Bring files back; those that could not be."""
    missing = []
    for remote, local in places.items():
        try:
            data = await client.file(task_id, remote)
            local.parent.mkdir(parents=True, exist_ok=True)
            local.write_bytes(data)
        except EverpoolError as error:
            session.say(f"everpool: --fetch {remote}: {error}")
            missing.append(remote)
        except OSError as error:
            session.say(f"everpool: --fetch {remote}: {local} can't be written: {error.strerror}")
            missing.append(remote)
    return missing


def _over(
    session: Session, task_id: str, end: Envelope, number: int | None, missing: Sequence[str] = ()
) -> int:
    event = end.event
    failure = failure_of(event)
    code = exit_code_of(event, number) or (NOT_FETCHED if missing else OK)
    if session.json:
        value = {"kind": "end", "task": task_id, "code": code, "event": event.model_dump(mode="json")}
        session.show({**value, "not_fetched": list(missing)} if missing else value)
    elif isinstance(event, TaskCompleted):
        told = failure.startswith(("ended by ", "exit code "))  # with its last attempt
        if event.result not in ("success", "failure") and not told:
            session.say(f"everpool: task {task_id}: {failure}")
    else:
        session.say(f"everpool: {failure}")
    return code


def exit_code_of(event: Event, number: int | None) -> int:
    """What `run` exits with: the task's own code, or 128 and the signal's number, or 125 without either."""
    if not isinstance(event, TaskCompleted):
        return FAILED
    if event.success:
        return OK
    if event.exit_code is None:
        return NOT_STARTED if number is None else SIGNALLED + number
    if event.exit_code == 0:  # ended well, but only because it was told to stop
        return SIGNALLED + signal.SIGTERM
    return min(event.exit_code, 255)


async def stop(
    session: Session,
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task's id.", autocompletion=task_ids)],
    grace: Annotated[
        str | None,
        typer.Option("--grace", metavar="DURATION", help="From TERM to KILL. [default: the task's]"),
    ] = None,
    wait: Wait = True,
    within_text: Within = None,
) -> int:
    """Stop a task, and wait until it surely ended."""
    async with session.client() as client:
        there = await client.task(task)
        if there["status"] == "stopped":
            session.say(f"task {task} is over already: {outcome(there['result'])}")
            session.show(there)
            return OK
        raw = {"pool": there["pool"], "task_id": task, "grace_s": within(grace)}
        request = specs.validated(TaskStopRequested, raw)
        return await see_through(
            session, client, request, there["pool"], wait=wait, within_s=within(within_text)
        )
