"""How `--help` looks: a command's own options before those of all commands, and commands by their purpose."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from typer.core import TyperCommand, TyperGroup

SHARED = ("json_wanted", "quiet", "profile", "socket", "url", "token_file", "ca_file")
SECTIONS: Mapping[str, Sequence[str]] = {
    "Pools": ("up", "down", "resize", "update", "drain", "pause", "resume"),
    "Tasks and machines": ("run", "stop", "logs", "ssh", "exec"),
    "Look": ("ps", "top", "explain", "events", "cost", "offers", "dashboard"),
    "The daemon": ("serve", "check", "reload", "doctor", "service", "webhook", "hold", "backup", "adopt"),
    "Who may": ("token", "whoami", "secrets", "credential", "profile"),
    "Try": ("demo", "simulate", "completion"),
}
_OF_TYPER = ("install_completion", "show_completion")


def _write(parameters: Iterable[Any], ctx: Any, formatter: Any) -> None:
    """Arguments, options of its own, then those of all commands."""
    found: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], "Options of all commands": []}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is None:
            continue
        if parameter.param_type_name == "argument":
            found["Arguments"].append(record)
        else:
            found["Options of all commands" if parameter.name in SHARED else "Options"].append(record)
    for title, records in found.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)


class Command(TyperCommand):
    """A command."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Its parameters."""
        _write(self.get_params(ctx), ctx, formatter)


class Commands(TyperGroup):
    """All commands together."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Options without typer's own for completion: there is a command for that, whose scripts are ours."""
        return [one for one in super().get_params(ctx) if one.name not in _OF_TYPER]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """The commands, then the options that may stand before them."""
        self.format_commands(ctx, formatter)
        _write(self.get_params(ctx), ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A section for each purpose; what has none comes last."""
        known = self.list_commands(ctx)
        width = formatter.width - 6 - max(len(name) for name in known)
        placed = {name for names in SECTIONS.values() for name in names}
        other = [name for name in known if name not in placed]
        for title, names in (*SECTIONS.items(), ("Other", other)):
            found = [(name, self.get_command(ctx, name)) for name in names if name in known]
            if found:
                with formatter.section(title):
                    formatter.write_dl([(name, one.get_short_help_str(width)) for name, one in found if one])
