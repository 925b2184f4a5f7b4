"""Commands about the daemon: serve, check, reload, hold, adopt, backup, doctor."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.building import missing_extras
from controller.cli import specs
from controller.cli.codes import FAILED, NOT_FOUND, OK, USAGE, CliError
from controller.cli.command import Session, command, write_json
from controller.client import EverpoolError, NotRunning
from controller.config import Config, ConfigError, find, load, warnings
from controller.config_schema import schema as config_schema
from controller.config_secrets import lines as lines_of
from controller.config_secrets import look
from controller.doctor import Line, UnknownProvider, diagnose_machine, diagnose_providers, line
from controller.journal.backup import back_up, back_up_keys
from controller.journal.errors import JournalError
from controller.journal.lock import StateDirectory
from controller.reload import NOT_APPLIED

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="[default: $EVERPOOL_CONFIG, /etc/everpool/config.toml, ~/.config/everpool/config.toml]",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for function in (serve, check, reload, hold, adopt, backup, doctor):
        command(app)(function)


def loaded(path: Path | None) -> Config:
    """The config. Raises CliError with all that is wrong."""
    try:
        return load(path)
    except ConfigError as error:
        raise _wrong(error.problems) from error


def runnable(path: Path | None) -> Config:
    """A config whose providers' libraries are installed. Raises CliError with all that is wrong."""
    config = loaded(path)
    if missing := missing_extras(config.providers):
        raise _wrong(missing)
    return config


def _wrong(problems: Sequence[str]) -> CliError:
    count = len(problems)
    return CliError(USAGE, f"the config has {count} problem{'' if count == 1 else 's'}", problems)


def serve(session: Session, config: ConfigFile = None) -> int:
    """Run the daemon in the foreground until SIGTERM or Ctrl-C. Machines and tasks go on after it."""
    path = config.absolute() if config is not None else find()
    # Imported here because it takes half a second, and no other command needs it.
    run: Callable[[Config, Path | None], int] = import_module("controller.daemon").run
    return run(runnable(path), path)


def check(
    session: Session,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="[default: where `serve` looks for it]")
    ] = None,
    config: ConfigFile = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the config's JSON schema, for editors, and check nothing.")
    ] = False,
) -> int:
    """Check a config file, and say all that is wrong at once, with its line.

    The files of secrets are looked at as well, as far as this user may.
    """
    if schema:
        write_json(config_schema())
        return OK
    if file is not None and config is not None:
        raise CliError(USAGE, f"{file} and --config {config}: say one of them")
    path = file or config or find()
    found = runnable(path)
    looked = look(found) if path is not None else []
    wrong = lines_of(path, [one for one in looked if one.wrong]) if path is not None else []
    if wrong or found.unfillable:
        raise _wrong([*found.unfillable.values(), *wrong])
    named = str(path) if path is not None else "no config file: defaults"
    doubts = warnings(found) + (lines_of(path, looked) if path is not None else [])
    value = {
        "file": None if path is None else str(path),
        "ok": True,
        "providers": sorted(found.providers),
        "pools": sorted(found.pools),
        "warnings": doubts,
    }
    for text in doubts:
        session.say(f"warning: {text}")
    counts = f"{len(found.providers)} providers, {len(found.pools)} pools"
    session.show(value, f"{named}: ok ({counts})")
    return OK


async def reload(
    session: Session,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would change.")] = False,
) -> int:
    """Have the daemon read its config again, and show what changes and how.

    Each line says what becomes of a key: `in place`, `at the next start` (no machine and no task notices a
    restart), `refused` or `left alone`.
    """
    async with session.client() as client:
        made = await client.reload(dry_run=plan)
    session.show(made, "\n".join(made.get("plan", ())) or "nothing changed")
    if made.get("needs_restart"):
        session.say("some of it holds from the next start on: restart the daemon when it suits you")
    not_applied = any(what.startswith(NOT_APPLIED) for what in made.get("pools", {}).values())
    return FAILED if not_applied else OK


async def hold(
    session: Session,
    duration: Annotated[str, typer.Argument(metavar="DURATION", help="Seconds, or such as 30m, 8h.")],
    pool: Annotated[str | None, typer.Argument(metavar="[POOL]", help="Only this pool.")] = None,
) -> None:
    """Let machines live for this long without the daemon, for a maintenance of its host."""
    async with session.client() as client:
        held = await client.hold(specs.seconds(duration), pool)
    names = ", ".join(held.get("pools", ())) or "none"
    session.show(held, f"held for {duration}: {names}")


async def adopt(session: Session) -> None:
    """Take the lead of machines that a newer daemon led, after a restored backup."""
    async with session.client() as client:
        answer = await client.adopt()
    text = (
        f"leading now, epoch {answer.get('epoch')}" if answer.get("adopted") else str(answer.get("why", ""))
    )
    session.show(answer, text)


async def backup(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The file to write; it must not exist.")],
    state_dir: Annotated[
        Path | None,
        typer.Option("--state-dir", metavar="DIR", help="Copy from this directory, no daemon needed."),
    ] = None,
) -> None:
    """Copy the journal to PATH and the keys to PATH.keys.tar, while the daemon runs or not."""
    target = path.absolute()
    if state_dir is not None:
        try:
            directory = StateDirectory(state_dir.absolute())
            size = back_up(directory.journal, target)
            keys = back_up_keys(directory.keys, target)
        except JournalError as error:
            raise CliError(FAILED, str(error)) from error
        done: dict[str, Any] = {"path": str(target), "keys": str(keys), "bytes": size}
    else:
        async with session.client() as client:
            done = await client.backup(target)
    session.show(done, f"{done['path']}: {done['bytes']} bytes; keys in {done['keys']}")


async def doctor(
    session: Session,
    provider: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PROVIDER]...", help="Names from the config. [default: all]"),
    ] = None,
    config: ConfigFile = None,
) -> int:
    """Look for what tends to be wrong: Python, state directory, daemon, journal, providers.

    Each provider says how it is with credentials, permissions, quota and clock, with a daemon or without.
    """
    names = provider or []
    try:
        async with session.client() as client:
            lines = await client.doctor(*names)
        lines.insert(0, line("daemon", True, "answers"))
    except NotRunning as error:
        # Who asks for a provider by its name may not have started a daemon yet.
        lines = [line("daemon", bool(names), "does not run" if names else str(error))]
        lines += await _without_a_daemon(names, config)
    except EverpoolError as error:
        if error.status == 404:
            raise
        lines = [line("daemon", False, str(error), "see its log"), *await _without_a_daemon(names, config)]
    width = max(len(one["what"]) for one in lines)
    text = []
    for one in lines:
        mend = f": {one['mend']}" if one["mend"] else ""
        text.append(f"{'ok  ' if one['ok'] else 'BAD '} {one['what']:<{width}}  {one['detail']}{mend}")
    session.show(lines, "\n".join(text))
    return OK if all(one["ok"] for one in lines) else FAILED


async def _without_a_daemon(names: Sequence[str], path: Path | None) -> list[Line]:
    try:
        config = loaded(path)
    except CliError as wrong:
        return [line("config", False, problem, "see `everpool check`") for problem in wrong.detail]
    try:
        lines = diagnose_machine(config.daemon.state_dir)
        return lines + await diagnose_providers(config, names)
    except UnknownProvider as error:
        raise CliError(NOT_FOUND, str(error)) from error
