"""The commands `token` and `whoami`."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from controller.cli.codes import CONFLICT, FAILED, USAGE, CliError
from controller.cli.command import Session, command
from controller.cli.completing import pool_names, token_names
from controller.cli.specs import seconds
from controller.telling import lasting, when

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
        typer.Option(
            "--pool",
            metavar="PATTERN",
            help="Only for these pools, such as 'ci-*'. Repeatable. [default: all]",
            autocompletion=pool_names,
        ),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(
            "--expires",
            metavar="DURATION",
            help="Such as 12h or 30d; a bare number is seconds. [default: never]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write it there, for its user only, and not here."),
    ] = None,
) -> None:
    """Make a token, and show it this once.

    \b
    everpool token create ci --scope submit --pool 'ci-*' --expires 30d --out ci.token
    """
    lives_s = None if expires is None else seconds(expires)
    if lives_s == 0:
        raise CliError(USAGE, f"--expires {expires}: it would let nobody in; write such as 12h or 30d")
    place = None if out is None else out.expanduser()
    descriptor, written = None if place is None else _made(place), False
    try:
        async with session.client() as client:
            made = await client.create_token(name, scope=scope, pools=pool or (), expires_in_s=lives_s)
        token = str(made["token"])
        if place is None or descriptor is None:
            session.say(f"token {_described(made)}; it is shown this once:")
            session.show(made, token)
            _warn(session, expires, lives_s)
            return
        os.write(descriptor, f"{token}\n".encode())
        written = True
    finally:
        if descriptor is not None:
            os.close(descriptor)
        if place is not None and not written:
            place.unlink(missing_ok=True)
    del made["token"]
    session.show({**made, "file": str(place)}, f"token {_described(made)}; it is in {place}")
    _warn(session, expires, lives_s)


def _described(made: Mapping[str, Any]) -> str:
    """A token in words: what it may, where, and until when."""
    pools = ", ".join(made["pools"])
    where = f"pools {pools}" if pools else "all pools"
    ends, now = made["expires_at"], time.time()
    until = "never expires" if ends is None else f"expires {when(ends, now)}"
    return f"{made['name']!r} of scope {made['scope']}, for {where}, {until}"


def _warn(session: Session, expires: str | None, lives_s: float | None) -> None:
    """Who wrote 90 may have meant days."""
    if expires is not None and lives_s is not None and expires.strip().isdecimal():
        bare = expires.strip()
        text = f"note: --expires {bare} means {lasting(lives_s)}: write {bare}d for days"
        session.say(f"{text}, {bare}h for hours")


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
        found = await client.tokens()
    empty = "no tokens: `everpool token create NAME` makes one"
    session.table(found, _COLUMNS, [_row(one) for one in found], empty)


def _row(one: dict[str, Any]) -> tuple[Any, ...]:
    now, ends, used = time.time(), one["expires_at"], one["last_used"]
    expires = "never" if ends is None else "expired" if one["expired"] else f"in {lasting(ends - now)}"
    last = "not since the daemon's start" if used is None else f"{lasting(now - used)} ago"
    pools = ", ".join(one["pools"]) or "all"
    made = f"{lasting(now - one['made_at'])} ago"
    return (one["name"], one["scope"], pools, f"{one['hint']}...", one["made_by"], made, expires, last)


async def revoke(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As `token list` names it.", autocompletion=token_names)
    ],
) -> None:
    """Let nobody in with a token any more.

    What goes on for its holders is cut.
    """
    async with session.client() as client:
        done = await client.revoke_token(name)
    session.show(done, f"token {name!r} is revoked")


async def whoami(session: Session) -> None:
    """Say who you are for the daemon, and what you may."""
    async with session.client() as client:
        who = await client.whoami()
    pools = ", ".join(who["pools"]) or "all"
    session.show(who, f"{who['name']}: scope {who['scope']}, pools: {pools}")
