"""Commands that look: ps, logs."""

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

import typer

from controller.cli.command import Session, command
from controller.cli.completing import pool_names, task_ids
from controller.cli.tables import Column
from controller.client import AsyncClient, EverpoolError, LogLine
from controller.sentences import outcome, signalled
from controller.telling import count, lasting, took

LISTED = 20  # tasks, when nobody says which
EXPLAINED_MAX = 8  # pools that are not whole: for more, ps does not ask why
Json = dict[str, Any]
What = Literal["pools", "nodes", "instances", "tasks"]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for function in (ps, logs):
        command(app)(function)


def age(since: float | None) -> str:
    """How long ago, in one or two units."""
    return "-" if since is None else lasting(time.time() - since)


async def ps(
    session: Session,
    what: Annotated[What, typer.Argument(help="What to list.")] = "pools",
    pool: Annotated[
        str | None, typer.Option("--pool", help="Only of this pool.", autocompletion=pool_names)
    ] = None,
    ended: Annotated[bool, typer.Option("--ended", help="Instances or tasks that are over.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="So many tasks.")] = 100,
) -> None:
    """List pools, nodes, instances or tasks.

    SINCE: when a pool was made, parked or set going again. FOR: how long a node has been so. AGE: since an
    instance was asked for, or a task. A terminal without room for all columns leaves some out; a pipe and
    --json have all.
    """
    found: Sequence[Any]
    async with session.client() as client:
        match what:
            case "pools":
                found = await client.pools() if pool is None else [await client.pool(pool)]
                why = {} if session.json else await _reasons(client, found)
                rows = [_pool(one, why.get(one["name"], "")) for one in found]
                session.table(found, _POOLS, rows=rows, empty="no pools: everpool up NAME makes one")
            case "nodes":
                found = await client.nodes(pool)
                session.table(found, _NODES, rows=[_node(one) for one in found], empty="no nodes")
            case "instances":
                found = await client.instances(pool, ended=ended)
                session.table(found, _INSTANCES, rows=[_machine(one) for one in found], empty="no instances")
            case "tasks":
                page = await client.tasks(pool, status="stopped" if ended else None, limit=limit)
                rows = [_task(one) for one in page.tasks]
                session.table(page.tasks, _TASKS, rows=rows, empty="no tasks")


_POOLS = (
    "POOL",
    "STATUS",
    "READY",
    "DESIRED",
    Column("QUEUE", drop=2),
    Column("TASKS", drop=3),
    "USD/H",
    Column("PROVIDER", drop=1),
    Column("SINCE", drop=4),
    Column("REASON", words=True),
)
_NODES = (
    "POOL",
    "NODE",
    "STATUS",
    "INSTANCE",
    Column("MACHINE", drop=1),
    "FOR",
    Column("WAITS FOR", words=True),
)
_INSTANCES = (
    "INSTANCE",
    Column("POOL", drop=4),
    "NODE",
    "STATUS",
    Column("MARKET", drop=2),
    Column("ADDRESS", drop=1),
    "USD/H",
    Column("TASKS", drop=3),
    "AGE",
    Column("REASON", words=True),
)
_TASKS = (
    "TASK",
    "NAME",
    "POOL",
    "STATUS",
    "CODE",
    Column("NODE", drop=2),
    Column("ATTEMPT", drop=1),
    "TOOK",
    Column("AGE", drop=3),
    Column("WHY", words=True),
)


async def _reasons(client: AsyncClient, found: Sequence[Json]) -> dict[str, str]:
    """What nodes wait for, of pools that are not whole and say nothing themselves."""
    reasons: dict[str, str] = {}
    quiet = [one["name"] for one in found if one["ready"] < one["desired"] and not one["reason"]]
    for name in quiet[:EXPLAINED_MAX]:
        try:
            groups = (await client.explain(name))["missing_groups"]
        except EverpoolError:  # it has gone meanwhile
            continue
        if groups:
            first = next((group for group in groups if not group["starting"]), groups[0])
            reasons[name] = f"{count(first['count'], 'node')}: {first['why']}"
    return reasons


def _pool(one: Json, why: str) -> tuple[Any, ...]:
    running = sum(one["tasks"].values()) - one["queue"]
    price, providers = f"{one['usd_per_hour']:.4f}", ",".join(one["provider"])
    head = (one["name"], one["status"], one["ready"], one["desired"], one["queue"], running)
    return (*head, price, providers, age(one["since"]), one["reason"] or why)


def _node(one: dict[str, Any]) -> tuple[Any, ...]:
    name = one["instance_id"] or one["old_instance_id"]
    head = (one["pool"], one["node"], one["status"], name, machine_word(one))
    return (*head, age(one["since"]), one["why_waiting"])


def machine_word(one: Mapping[str, Any]) -> str | None:
    """How a node's machine is; while it is replaced also how the other is."""
    new, old = one["instance_status"], one.get("old_instance_status")
    return new if old is None else f"{old} -> {new or 'none yet'}"


def _machine(one: dict[str, Any]) -> tuple[Any, ...]:
    reason = "; ".join(part for part in (one["reason"], "old spec" if one.get("outdated") else "") if part)
    address = f"{one['address']}:{one['port']}" if one["address"] else None
    head = (one["id"], one["pool"], one["node"], one["status"], one["market"], address)
    return (*head, f"{one['usd_per_hour']:.4f}", len(one["tasks"]), age(one["created_at"]), reason)


def _task(one: dict[str, Any]) -> tuple[Any, ...]:
    spent = one["duration"]
    if spent is None and one["started_at"] is not None:
        spent = max(0.0, time.time() - one["started_at"])
    if one["ended_at"] is not None and one["instance_id"] is None:
        spent = None  # it never ran
    code = signalled(one["signal"]) if one["signal"] is not None else one["exit_code"]
    status = one["status"] if one["result"] is None else outcome(one["result"])
    head = (one["id"], one["name"], one["pool"], status, code, one["node"], one["attempt"])
    ago = age(one["queued_at"])
    return (*head, None if spent is None else took(spent), ago, _why(one))


def _why(one: dict[str, Any]) -> str:
    """What STATUS and CODE do not say."""
    if one["result"] == "success":
        return ""
    error = one["error"] or one["reason"] or ""
    said = (f"exit code {one['exit_code']}", f"ended by {signalled(one['signal'] or 0)}")
    if error.startswith((*said, f"{one['result']}: ")):
        error = one["reason"] or ""
    return _REASONS.get(error, error)


_REASONS = {
    "user": "a user stopped it",
    "timeout": "it ran longer than its timeout",
    "oom": "out of memory",
    "preempted": "its machine was taken",
    "unreachable": "its machine could not be reached any more",
    "gone": "its machine was gone",
}


async def logs(
    session: Session,
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK", help="The task's id. [default: list the newest]", autocompletion=task_ids
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the task is over.")] = False,
    stream: Annotated[
        Literal["stdout", "stderr"] | None, typer.Option("--stream", help="Only this one.")
    ] = None,
    attempt: Annotated[int | None, typer.Option("--attempt", min=1, help="Only of this attempt.")] = None,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="Only the last so many lines.")] = None,
) -> None:
    """Print what a task wrote, over all its attempts.

    Its stdout goes to stdout, its stderr to stderr.
    """
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
    session.table(found, _TASKS, rows=[_task(one) for one in found], empty=none)


def write_line(line: LogLine) -> None:
    """Print a line as the task wrote it. What is missing is said on stderr."""
    if line.lost_bytes or line.lost_lines:
        amounts = ((line.lost_lines, "line"), (line.lost_bytes, "byte"))
        lost = " and ".join(count(number, unit) for number, unit in amounts if number)
        sys.stderr.write(f"everpool: {lost} lost with the machine\n")
        if not line.text:
            return
    file = sys.stderr if line.stream == "stderr" else sys.stdout
    end = "\r" if line.overwrite else "\n"
    file.buffer.write((line.text + end).encode("utf-8", "replace"))
    file.flush()
    if line.dropped:
        sys.stderr.write(f"everpool: {count(line.dropped, 'line')} dropped by the task's log quota\n")
