"""The command `everpool`: all commands together."""

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast

import typer

from controller.cli import (
    completion,
    costs,
    daemons,
    dashboard,
    demo,
    explaining,
    happenings,
    machines,
    pausing,
    pools,
    profiles,
    secrets,
    service,
    shows,
    simulate,
    tasks,
    tokens,
    top,
    webhooks,
)
from controller.cli.addressing import Where
from controller.cli.codes import DETACHED
from controller.cli.command import CA_HELP, JSON_HELP, PROFILE, QUIET_HELP, SOCKET_HELP, TOKEN_HELP, URL_HELP
from controller.cli.completing import profile_names
from controller.cli.helping import Commands
from controller.version import own_version

app = typer.Typer(
    name="everpool",
    help="Keeps pools of machines whole.",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# What is wrong with words on the command line, and how it is shown: the parent of what typer lets us raise.
UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__mro__[1])

WITH_COMMAND = ("run", "exec", "ssh")  # they take a command line of somebody else's


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"everpool {own_version()} (Python {platform.python_version()})")
        raise typer.Exit


@app.callback(epilog="`everpool COMMAND --help` says more of each. `everpool demo` shows it all in a minute.")
def everpool(
    ctx: typer.Context,
    socket: Annotated[Path | None, typer.Option("--socket", help=f"{SOCKET_HELP} $EVERPOOL_SOCKET")] = None,
    url: Annotated[str | None, typer.Option("--url", help=f"{URL_HELP} $EVERPOOL_URL")] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help=f"{TOKEN_HELP} $EVERPOOL_TOKEN_FILE")
    ] = None,
    ca_file: Annotated[Path | None, typer.Option("--ca-file", help=f"{CA_HELP} $EVERPOOL_CA_FILE")] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            "-p",
            metavar="NAME",
            help=f"{PROFILE['help']} $EVERPOOL_PROFILE",
            autocompletion=profile_names,
        ),
    ] = None,
    json_wanted: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help=QUIET_HELP)] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Keep pools of machines whole.

    Options that stand before the command may stand after it as well. What they say counts more than the
    environment, that more than a profile, and a profile more than the config.
    """
    ctx.obj = Where(socket, url, token_file, ca_file, profile, json_wanted, quiet)


for module in (
    daemons,
    pools,
    pausing,
    tasks,
    tokens,
    secrets,
    shows,
    top,
    dashboard,
    happenings,
    explaining,
    costs,
    machines,
    simulate,
    demo,
    profiles,
    completion,
    webhooks,
    service,
):
    module.register(app)


def main() -> None:
    """Run one command and exit."""
    words = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    try:
        sys.exit(app(prog_name="everpool", standalone_mode=False))
    except UsageError as error:
        sys.exit(_told(error, words))
    except typer.Abort:
        sys.exit(DETACHED)


def _told(error: typer.BadParameter, words: Sequence[str]) -> int:
    """Say what is wrong with the words typed; with --json as JSON on stderr, for stdout is for results."""
    context = error.ctx
    hint = ""
    if context is not None and context.info_name in WITH_COMMAND and "--" not in sys.argv:
        hint = "what is to be run there stands behind `--`, with its own options"
    if "--json" not in words or not error.format_message():  # without words at all, help is shown
        error.show()
        if hint:
            sys.stderr.write(f"{hint}\n")
        return error.exit_code
    usage = context.get_usage().removeprefix("Usage: ") if context is not None else ""
    value = {"error": error.format_message(), "code": error.exit_code, "usage": " ".join(usage.split())}
    sys.stderr.write(json.dumps({**value, "detail": [hint]} if hint else value, ensure_ascii=False) + "\n")
    return error.exit_code
