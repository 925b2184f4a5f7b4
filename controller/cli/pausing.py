"""Commands that keep a pool from launching and starting anything for a while: pause, resume."""

import typer

from actors.events import PoolPauseRequested
from controller.cli import specs
from controller.cli.command import Session, command
from controller.cli.pools import Pool, Wait, Within, named, within
from controller.cli.waiting import see_through


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for function in (pause, resume):
        command(app)(function)


async def pause(session: Session, pool: Pool, wait: Wait = True, within_text: Within = None) -> int:
    """Launch nothing and start no task in a pool until `resume`.

    What runs goes on.
    """
    return await _ask(session, pool, paused=True, wait=wait, within_s=within(within_text))


async def resume(session: Session, pool: Pool, wait: Wait = True, within_text: Within = None) -> int:
    """End a pause: machines are launched and tasks started again."""
    return await _ask(session, pool, paused=False, wait=wait, within_s=within(within_text))


async def _ask(session: Session, pool: str, *, paused: bool, wait: bool, within_s: float | None) -> int:
    request = specs.validated(PoolPauseRequested, {"pool": named(pool), "paused": paused})
    async with session.client() as client:
        return await see_through(session, client, request, pool, wait=wait, within_s=within_s)
