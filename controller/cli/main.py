"""The command `everpool`: all commands together."""

from pathlib import Path
from typing import Annotated

import typer

from controller.cli import costs, daemons, demo, explaining, machines, pools, shows, simulate, tasks
from controller.cli.command import JSON_HELP, SOCKET_HELP, TOKEN_HELP, URL_HELP, Where

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
    socket: Annotated[
        Path | None, typer.Option("--socket", envvar="EVERPOOL_SOCKET", help=SOCKET_HELP)
    ] = None,
    url: Annotated[str | None, typer.Option("--url", envvar="EVERPOOL_URL", help=URL_HELP)] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", envvar="EVERPOOL_TOKEN_FILE", help=TOKEN_HELP)
    ] = None,
    json_wanted: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Keep pools of machines whole.

    Options that stand before the command may stand after it as well.
    """
    ctx.obj = Where(socket, url, token_file, json_wanted)


for module in (daemons, pools, tasks, shows, explaining, costs, machines, simulate, demo):
    module.register(app)


def main() -> None:
    """Run one command and exit."""
    app(prog_name="everpool")
