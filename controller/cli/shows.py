"""Commands that look: ps, logs."""

import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

import typer

from controller.cli.command import Session, command
from controller.cli.completing import pool_names, task_ids
from controller.client import LogLine

LISTED = 20  # tasks, when nobody says which
What = Literal["pools", "nodes", "instances", "tasks"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for function in (ps, logs):
        command(app)(function)


def age(since: float | None) -> str:
    """How long ago, in one or two units."""
    if since is None:
        return "-"
    return span(max(0.0, time.time() - since))


def span(seconds: float) -> str:
    """A duration for people."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    for unit, size, next_unit, next_size in (
        ("d", 86_400, "h", 3600),
        ("h", 3600, "m", 60),
        ("m", 60, "s", 1),
    ):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}{int(seconds % size // next_size)}{next_unit}"
    return f"{int(seconds)}s"


async def ps(
    session: Session,
    what: Annotated[What, typer.Argument(help="What to list.")] = "pools",
    pool: Annotated[
        str | None, typer.Option("--pool", help="Only of this pool.", autocompletion=pool_names)
    ] = None,
    ended: Annotated[bool, typer.Option("--ended", help="Instances or tasks that are over.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="So many tasks.")] = 100,
) -> None:
    """List pools, nodes, instances or tasks."""
    found: Sequence[Any]
    async with session.client() as client:
        match what:
            case "pools":
                found = await client.pools() if pool is None else [await client.pool(pool)]
                session.table(found, *_POOLS, rows=[_pool(one) for one in found], empty="no pools")
            case "nodes":
                found = await client.nodes(pool)
                session.table(found, *_NODES, rows=[_node(one) for one in found], empty="no nodes")
            case "instances":
                found = await client.instances(pool, ended=ended)
                session.table(found, *_INSTANCES, rows=[_machine(one) for one in found], empty="no instances")
            case "tasks":
                page = await client.tasks(pool, status="stopped" if ended else None, limit=limit)
                rows = [_task(one) for one in page.tasks]
                session.table(page.tasks, *_TASKS, rows=rows, empty="no tasks")


_POOLS = (("POOL", "STATUS", "READY", "DESIRED", "QUEUE", "TASKS", "USD/H", "PROVIDER", "AGE", "REASON"),)
_NODES = (("POOL", "NODE", "STATUS", "INSTANCE", "MACHINE", "WAITS FOR", "AGE"),)
_INSTANCES = (("INSTANCE", "POOL", "NODE", "STATUS", "MARKET", "ADDRESS", "USD/H", "TASKS", "AGE", "REASON"),)
_TASKS = (("TASK", "NAME", "POOL", "STATUS", "RESULT", "CODE", "NODE", "ATTEMPT", "TOOK", "AGE"),)


def _pool(one: dict[str, Any]) -> tuple[Any, ...]:
    running = sum(one["tasks"].values()) - one["queue"]
    price, providers = f"{one['usd_per_hour']:.4f}", ",".join(one["provider"])
    head = (one["name"], one["status"], one["ready"], one["desired"], one["queue"], running)
    return (*head, price, providers, age(one["since"]), one["reason"])


def _node(one: dict[str, Any]) -> tuple[Any, ...]:
    head = (one["pool"], one["node"], one["status"], one["instance_id"], one["instance_status"])
    return (*head, one["why_waiting"], age(one["since"]))


def _machine(one: dict[str, Any]) -> tuple[Any, ...]:
    address = f"{one['address']}:{one['port']}" if one["address"] else None
    head = (one["id"], one["pool"], one["node"], one["status"], one["market"], address)
    return (*head, f"{one['usd_per_hour']:.4f}", len(one["tasks"]), age(one["created_at"]), one["reason"])


def _task(one: dict[str, Any]) -> tuple[Any, ...]:
    took = one["duration"]
    if took is None and one["started_at"] is not None:
        took = max(0.0, time.time() - one["started_at"])
    head = (one["id"], one["name"], one["pool"], one["status"], one["result"], one["exit_code"], one["node"])
    return (*head, one["attempt"], None if took is None else span(took), age(one["queued_at"]))


async def logs(
    session: Session,
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="[TASK]", help="The task's id. [default: list the newest]", autocompletion=task_ids
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task is over.")] = False,
    stream: Annotated[
        Literal["stdout", "stderr"] | None, typer.Option("--stream", help="Only this one.")
    ] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, help="Only of this attempt.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="Only the last so many lines.")] = None,
) -> None:
    """Print what a task wrote, its stdout to stdout and its stderr to stderr, over all attempts."""
    if task is None:
        await _newest(session)
        return
    session.on_detach = "detached; the task goes on"
    async with session.client() as client:
        found = client.task_log(task, follow=follow, stream=stream, attempt=attempt, tail=tail)
        async with aclosing(found) as lines:
            async for line in lines:
                if session.json:
                    sys.stdout.write(line.model_dump_json(exclude={"cursor"}) + "\n")
                    sys.stdout.flush()
                else:
                    write_line(line)


async def _newest(session: Session) -> None:
    async with session.client() as client:
        found = (await client.tasks(limit=LISTED)).tasks
    if not session.json and found:
        session.say(f"say which: everpool{session.flags} logs TASK; the newest are")
    none = "there are no tasks: everpool run POOL -- COMMAND"
    session.table(found, *_TASKS, rows=[_task(one) for one in found], empty=none)


def write_line(line: LogLine) -> None:
    """Print a line as the task wrote it. What is missing is said on stderr."""
    if line.lost_bytes or line.lost_lines:
        amounts = ((line.lost_lines, "lines"), (line.lost_bytes, "bytes"))
        lost = " and ".join(f"{count} {unit}" for count, unit in amounts if count)
        sys.stderr.write(f"everpool: {lost} lost with the machine\n")
        if not line.text:
            return
    file = sys.stderr if line.stream == "stderr" else sys.stdout
    end = "\r" if line.overwrite else "\n"
    file.buffer.write((line.text + end).encode("utf-8", "replace"))
    file.flush()
    if line.dropped:
        sys.stderr.write(f"everpool: {line.dropped} lines dropped by the task's log quota\n")
