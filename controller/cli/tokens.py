"""The commands `token` and `whoami`."""

import os
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from controller import client_tokens as calls
from controller.cli.codes import CONFLICT, FAILED, CliError
from controller.cli.command import Session, command
from controller.cli.shows import span
from controller.cli.specs import seconds

Name = Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, or what for.")]
_COLUMNS = ("TOKEN", "SCOPE", "POOLS", "BEGINS", "MADE BY", "MADE", "EXPIRES", "LAST USED")


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(
        help="Let others in: programs, people, Prometheus.", no_args_is_help=True, rich_markup_mode=None
    )
    command(group)(create)
    command(group, "list")(list_)
    command(group)(revoke)
    app.add_typer(group, name="token")
    command(app)(whoami)


async def create(
    session: Session,
    name: Name,
    scope: Annotated[
        Literal["read", "submit", "admin"],
        typer.Option("--scope", help="read looks; submit also sends Requests; admin does everything."),
    ] = "read",
    pool: Annotated[
        list[str] | None,
        typer.Option("--pool", metavar="PATTERN", help="Only for these pools, such as 'ci-*'. Repeatable."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="DURATION", help="Such as 12h or 30d. [default: never]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write it there, for its user only, and not here."),
    ] = None,
) -> None:
    """Make a token, and show it this once."""
    lives_s = None if expires is None else seconds(expires)
    place = None if out is None else out.expanduser()
    descriptor, written = None if place is None else _made(place), False
    try:
        async with session.client() as client:
            made = await client.ask(calls.create(name, scope=scope, pools=pool or (), expires_in_s=lives_s))
        token = str(made["token"])
        if place is None or descriptor is None:
            session.say("the token, shown this once:")
            session.show(made, token)
            return
        os.write(descriptor, f"{token}\n".encode())
        written = True
    finally:
        if descriptor is not None:
            os.close(descriptor)
        if place is not None and not written:
            place.unlink(missing_ok=True)
    del made["token"]
    session.show({**made, "file": str(place)}, f"token {name!r} of scope {scope} is in {place}")


def _made(place: Path) -> int:
    """A new empty file, for its user only: made before the token, which else might be lost."""
    try:
        return os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise CliError(CONFLICT, f"{place} is there already: remove it, or choose another file") from error
    except OSError as error:
        raise CliError(FAILED, f"{place} can't be written: {error.strerror}") from error


async def list_(session: Session) -> None:
    """List tokens: for what, by whom, until when. None of them is shown."""
    async with session.client() as client:
        found = await client.ask(calls.tokens())
    empty = "no tokens: `everpool token create NAME` makes one"
    session.table(found, _COLUMNS, [_row(one) for one in found], empty)


def _row(one: dict[str, Any]) -> tuple[Any, ...]:
    now, ends, used = time.time(), one["expires_at"], one["last_used"]
    expires = "never" if ends is None else "expired" if one["expired"] else f"in {span(ends - now)}"
    last = "not since the daemon's start" if used is None else f"{span(now - used)} ago"
    pools = ", ".join(one["pools"]) or "all"
    made = f"{span(now - one['made_at'])} ago"
    return (one["name"], one["scope"], pools, f"{one['hint']}...", one["made_by"], made, expires, last)


async def revoke(session: Session, name: Name) -> None:
    """Let nobody in with a token any more, and cut what goes on for its holders."""
    async with session.client() as client:
        done = await client.ask(calls.revoke(name))
    session.show(done, f"token {name!r} is revoked")


async def whoami(session: Session) -> None:
    """Say who you are for the daemon, and what you may."""
    async with session.client() as client:
        who = await client.ask(calls.whoami())
    pools = ", ".join(who["pools"]) or "all"
    session.show(who, f"{who['name']}: scope {who['scope']}, pools: {pools}")
