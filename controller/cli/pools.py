"""Commands about pools: up, down, resize, update, drain."""

from pathlib import Path
from typing import Annotated, Any

import typer

from actors.events import (
    DrainRequested,
    PoolRequested,
    PoolResizeRequested,
    PoolUpdateRequested,
    ShutdownRequested,
)
from actors.spec import checked_name
from controller.cli import specs
from controller.cli.codes import CONFLICT, USAGE, CliError
from controller.cli.command import Session, command
from controller.cli.completing import node_numbers, pool_names, provider_names
from controller.cli.waiting import see_through
from controller.client import AsyncClient, EverpoolError

Pool = Annotated[
    str,
    typer.Argument(
        metavar="POOL", help="The pool's name; `.` is the profile's pool.", autocompletion=pool_names
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end of the request.")]
Within = Annotated[
    str | None, typer.Option("--within", metavar="DURATION", help="Wait no longer than this (exit code 6).")
]
SpecFile = Annotated[
    Path | None, typer.Option("--spec", metavar="FILE", help="The pool's spec, as TOML or as .json.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One key of the spec, such as lease_s=600. Repeatable."),
]
Providers = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="Where machines come from, as the config names it. Repeatable. [default: local]",
        autocompletion=provider_names,
    ),
]
OtherProviders = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="Where machines come from. Repeatable. [default: as before]",
        autocompletion=provider_names,
    ),
]
Slots = Annotated[int | None, typer.Option("--slots", min=1, help="Tasks that run at once on a node.")]
Buffer = Annotated[int | None, typer.Option("--buffer", min=0, help="Tasks that wait on a node for a slot.")]
Steps = Annotated[
    list[str] | None,
    typer.Option("--step", metavar="NAME=COMMAND", help="A set-up step, run by /bin/sh. Repeatable."),
]


def within(text: str | None) -> float | None:
    """The seconds of an option that may be missing."""
    return None if text is None else specs.seconds(text)


def named(pool: str) -> str:
    """A pool's name. Raises CliError when it can't be one."""
    try:
        return checked_name(pool)
    except ValueError as error:
        raise CliError(USAGE, str(error)) from error


async def living(client: AsyncClient, pool: str) -> dict[str, Any] | None:
    """A pool that is not destroyed, if there is one of that name."""
    try:
        view = await client.pool(pool)
    except EverpoolError as error:
        if error.status == 404:
            return None
        raise
    return None if view["status"] == "destroyed" else view


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for function in (up, down, resize, update, drain):
        command(app)(function)


async def up(
    session: Session,
    pool: Pool,
    nodes: Annotated[
        int | None, typer.Option("--nodes", "-n", min=0, help="How many nodes. [default: 1]")
    ] = None,
    provider: Providers = None,
    spec: SpecFile = None,
    sets: Sets = None,
    slots: Slots = None,
    buffer: Buffer = None,
    step: Steps = None,
    ready_within: Annotated[
        str, typer.Option("--ready-within", metavar="DURATION", help="The daemon gives up after this.")
    ] = "1h",
    wait: Wait = True,
    within_text: Within = None,
) -> int:
    """Make a pool, and wait until all its nodes are ready.

    \b
    everpool up web --nodes 3 --step 'tools=apt-get install -y git'
    everpool up web --spec web.toml --set nodes.max=10
    """
    wanted = specs.pool_spec(
        specs.read_spec(spec) if spec is not None else {},
        providers=provider or (),
        nodes=nodes,
        slots=slots,
        buffer=buffer,
        steps=step or (),
        sets=sets or (),
    )
    request = specs.validated(
        PoolRequested,
        {"pool": named(pool), "spec": wanted.model_dump(), "ready_within_s": specs.seconds(ready_within)},
    )
    async with session.client() as client:
        there = await living(client, pool)
        if there is not None:
            text = (
                f"pool {pool!r} exists, with {there['ready']} of {there['desired']} nodes ready: "
                f"change its size with `everpool resize {pool} N`, its spec with `everpool update {pool} …`"
            )
            raise CliError(CONFLICT, text)
        return await see_through(session, client, request, pool, wait=wait, within_s=within(within_text))


async def down(session: Session, pool: Pool, wait: Wait = True, within_text: Within = None) -> int:
    """End a pool: its tasks, machines, and what is around them."""
    request = ShutdownRequested(cluster_id=pool)
    async with session.client() as client:
        return await see_through(session, client, request, pool, wait=wait, within_s=within(within_text))


async def resize(
    session: Session,
    pool: Pool,
    nodes: Annotated[int, typer.Argument(metavar="N", min=0, help="How many nodes.")],
    wait: Wait = True,
    within_text: Within = None,
) -> int:
    """Keep another number of nodes. Fewer: the highest ranks go first, idle ones before others."""
    request = specs.validated(PoolResizeRequested, {"pool": named(pool), "nodes": nodes})
    async with session.client() as client:
        return await see_through(session, client, request, pool, wait=wait, within_s=within(within_text))


async def update(
    session: Session,
    pool: Pool,
    provider: OtherProviders = None,
    spec: SpecFile = None,
    sets: Sets = None,
    slots: Slots = None,
    buffer: Buffer = None,
    step: Steps = None,
    wait: Wait = True,
    within_text: Within = None,
) -> int:
    """Change a pool's spec: all of it with --spec, or single keys.

    Where that asks for other machines, wait until all are replaced, a few at a time. Ctrl-C or --no-wait:
    they are replaced all the same.

    \b
    everpool update web --set lease_s=600
    """
    async with session.client() as client:
        there = await client.pool(pool)
        given = specs.read_spec(spec) if spec is not None else there["spec"]
        if spec is not None:
            given.setdefault("nodes", there["spec"]["nodes"])
        wanted = specs.pool_spec(
            given, providers=provider or (), slots=slots, buffer=buffer, steps=step or (), sets=sets or ()
        )
        request = PoolUpdateRequested(pool=pool, spec=wanted)
        return await see_through(session, client, request, pool, wait=wait, within_s=within(within_text))


async def drain(
    session: Session,
    pool: Pool,
    node: Annotated[
        int, typer.Argument(metavar="NODE", min=0, help="The node's number.", autocompletion=node_numbers)
    ],
    remove: Annotated[
        bool, typer.Option("--remove", help="Shrink the pool instead of replacing it.")
    ] = False,
    tasks_get: Annotated[
        str | None,
        typer.Option(
            "--grace", metavar="DURATION", help="Time for its tasks. [default: the pool's drain_timeout]"
        ),
    ] = None,
    wait: Wait = True,
    within_text: Within = None,
) -> int:
    """Empty a node, and replace its machine."""
    fields = {"pool": named(pool), "node": node, "then": "remove" if remove else "replace"}
    request = specs.validated(DrainRequested, {**fields, "within_s": within(tasks_get)})
    async with session.client() as client:
        return await see_through(session, client, request, pool, wait=wait, within_s=within(within_text))
