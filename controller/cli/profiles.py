"""The command `profile`: list, add, use, rm, show."""

import getpass
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from controller.cli.addressing import environment
from controller.cli.codes import CONFLICT, NOT_FOUND, USAGE, CliError
from controller.cli.command import Session, command
from controller.cli.completing import pool_names, profile_names
from controller.cli.profiles_file import Profile, added, problems_of, read, removed, without_default

NAME = Annotated[str, typer.Argument(metavar="NAME", help="The profile.", autocompletion=profile_names)]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(
        help="Name daemons, and choose one with -p NAME.", no_args_is_help=True, rich_markup_mode=None
    )
    command(group, name="list")(list_)
    for function in (add, use, rm, show):
        command(group)(function)
    app.add_typer(group, name="profile")


def list_(session: Session) -> None:
    """List profiles; the default one has a star."""
    known = read(make=True)
    told = [{**one.shown(), "default": one.name == known.default} for one in known.profiles.values()]
    rows = [
        ("*" if one.name == known.default else " ", one.name, one.address, _key(one), one.pool)
        for _, one in sorted(known.profiles.items())
    ]
    empty = f"no profiles in {known.path}: make one with `everpool profile add NAME --url URL`"
    session.table(told, ("", "NAME", "DAEMON", "TOKEN", "POOL"), rows, empty)


def _key(one: Profile) -> str | None:
    return one.token_file or ("in the file" if one.token else None)


def add(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is to be called.")],
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Ask for the token, or read it from a pipe, and keep it.")
    ] = False,
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool", metavar="POOL", help="What `.` stands for as a pool.", autocompletion=pool_names
        ),
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="Use it when no other is named.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Even if there is one of that name.")] = False,
) -> None:
    """Keep a daemon under a name: say --socket, or --url with --token-file.

    Instead of --token-file there is --token-stdin; --ca-file says whom to trust. The first profile becomes
    the default, and all commands go there from then on; `everpool profile use --none` undoes that.

    \b
    everpool profile add lab --url https://lab.example:7070 --token-file ~/lab.token
    everpool -p lab ps
    """
    known = read(make=True)
    if name in known.profiles and not replace:
        raise CliError(CONFLICT, f"profile {name!r} is there already: --replace it, or take another name")
    said = {
        key: getattr(session.where, key) or getattr(session.before, key)
        for key in ("socket", "url", "token_file", "ca_file")
    }
    values = {
        key: value if key == "url" else str(value.expanduser().absolute())
        for key, value in said.items()
        if value is not None
    }
    if pool is not None:
        values["pool"] = pool
    if token_stdin:
        values["token"] = _token()
    if problems := problems_of(name, values):
        raise CliError(USAGE, f"profile {name!r}: {problems[0]}", problems[1:])
    kept = added(known, Profile(name=name, **values), is_default=default)
    kept.keep()
    more = ", the default one" if kept.default == name else f": use it with -p {name}"
    session.show(kept.profiles[name].shown(), f"profile {name} kept in {kept.path}{more}")
    if kept.default == name and known.default != name and not default:
        text = f"it is the first, so all commands go to {kept.profiles[name].address} from now on"
        session.say(f"{text}, unless they name another daemon; `everpool profile use --none` undoes that")
    for text in _doubts(values):
        session.say(f"warning: {text}")


def _doubts(values: Mapping[str, str]) -> list[str]:
    """What will not work with a profile as it is now, though it may later."""
    doubts = []
    for key, flag in (("token_file", "--token-file"), ("ca_file", "--ca-file")):
        if key in values and not os.access(values[key], os.R_OK):
            is_there = Path(values[key]).exists()
            why = "can't be read by you" if is_there else "is not there"
            doubts.append(f"{flag} {values[key]} {why}: nothing works until it is")
    if "url" in values and not {"token", "token_file"} & set(values):
        doubts.append("a URL needs a token: none is kept with it, so set $EVERPOOL_TOKEN or add --token-file")
    if "socket" in values and not Path(values["socket"]).exists():
        doubts.append(f"nothing is at {values['socket']} now")
    return doubts


def _token() -> str:
    text = getpass.getpass("token: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not text.strip():
        raise CliError(USAGE, "no token came on stdin")
    return text.strip()


def use(
    session: Session,
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The profile.", autocompletion=profile_names)
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="Have no default: the daemon on this host.")] = False,
) -> None:
    """Make a profile the default one, or with --none, none of them."""
    if none == (name is not None):
        raise CliError(USAGE, "say which profile is to be the default: NAME, or --none for no default")
    known = read(make=True)
    if name is None:
        without_default(known).keep()
        text = "no profile is the default now: commands go to the daemon on this host"
        session.show({"default": None}, f"{text}, unless -p names a profile")
        return
    one = known.get(name)
    added(known, one, is_default=True).keep()
    session.show(one.shown(), f"{name} is the default now: {one.address}")


def rm(session: Session, name: NAME) -> None:
    """Forget a profile."""
    known = read(make=True)
    removed(known, name).keep()
    more = "; it was the default, and there is none now" if known.default == name else ""
    session.show({"name": name}, f"profile {name} is forgotten{more}")


def show(
    session: Session,
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="[default: the one that counts]", autocompletion=profile_names),
    ] = None,
) -> None:
    """Show a profile; its token is never shown."""
    known = read(make=True)
    chosen = name or next((one.profile for one in (session.where, session.before) if one.profile), None)
    chosen = chosen or environment().profile or known.default
    if chosen is None:
        raise CliError(NOT_FOUND, "no profile is the default one: name one, or `everpool profile use NAME`")
    told = known.get(chosen).shown()
    session.show(told, "\n".join(f"{key:<11}{value}" for key, value in told.items()))
