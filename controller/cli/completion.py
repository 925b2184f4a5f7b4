"""The command `completion`."""

from typing import Annotated

import typer

from controller.cli.command import Session, command
from controller.cli.completing import SCRIPTS, Shell


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app)(completion)


def completion(
    session: Session,
    shell: Annotated[Shell, typer.Argument(help="The shell.")],
) -> None:
    """Print the script with which a shell completes on Tab.

    It completes commands, options, and names: of pools, nodes, tasks, instances, tokens, profiles and more.

    \b
    bash: eval "$(everpool completion bash)"                                   in ~/.bashrc
    zsh:  eval "$(everpool completion zsh)"                                    in ~/.zshrc
    fish: everpool completion fish > ~/.config/fish/completions/everpool.fish
    """
    session.show({"shell": shell, "script": SCRIPTS[shell]}, SCRIPTS[shell].rstrip("\n"))
