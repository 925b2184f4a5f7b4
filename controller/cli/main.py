"""The command `everpool`: all commands together."""

from pathlib import Path
from typing import Annotated

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
from controller.cli.command import CA_HELP, JSON_HELP, PROFILE, QUIET_HELP, SOCKET_HELP, TOKEN_HELP, URL_HELP
from controller.cli.completing import profile_names

app = typer.Typer(
    name="everpool",
    help="Keeps pools of machines whole.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
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
    app(prog_name="everpool")
