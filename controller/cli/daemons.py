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
from controller.cli.completing import pool_names, provider_names
from controller.client import EverpoolError, NotRunning
from controller.config import Config, ConfigError, find, load
from controller.config_schema import schema as config_schema
from controller.config_secrets import examine
from controller.doctor import Line, UnknownProvider, diagnose_machine, diagnose_providers, line
from controller.journal.backup import back_up, back_up_keys
from controller.journal.errors import JournalError
from controller.journal.lock import StateDirectory
from controller.reload import NOT_APPLIED
from controller.telling import count, lasting

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="[default: $EVERPOOL_CONFIG, /etc/everpool/config.toml, ~/.config/everpool/config.toml]",
    ),
]

File = Annotated[Path | None, typer.Argument(metavar="FILE", help="The config, as with --config.")]


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


def _one_of(file: Path | None, config: Path | None) -> Path | None:
    """The file, whichever way it was named. Raises CliError when two were."""
    if file is not None and config is not None:
        raise CliError(USAGE, f"{file} and --config {config}: say one of them")
    return file or config


def serve(session: Session, file: File = None, config: ConfigFile = None) -> int:
    """Run the daemon in the foreground until SIGTERM or Ctrl-C. Machines and tasks go on after it."""
    named = _one_of(file, config)
    path = named.absolute() if named is not None else find()
    # Imported here because it takes half a second, and no other command needs it.
    run: Callable[[Config, Path | None], int] = import_module("controller.daemon").run
    return run(runnable(path), path)


def check(
    session: Session,
    file: File = None,
    config: ConfigFile = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the config's JSON schema, for editors, and check nothing.")
    ] = False,
) -> int:
    """Check a config file: say all that is wrong, with its line.

    The files of secrets are looked at as well, as far as this user may.
    """
    if schema:
        write_json(config_schema())
        return OK
    path = _one_of(file, config) or find()
    try:
        found, wrong, doubts = examine(path)
    except ConfigError as error:
        raise _wrong(error.problems) from error
    if wrong:
        raise _wrong(wrong)
    named = str(path) if path is not None else "no config file: defaults"
    value = {
        "file": None if path is None else str(path),
        "ok": True,
        "providers": sorted(found.providers),
        "pools": sorted(found.pools),
        "warnings": list(doubts),
    }
    for text in doubts:
        session.say(f"warning: {text}")
    counts = f"{count(len(found.providers), 'provider')}, {count(len(found.pools), 'pool')}"
    session.show(value, f"{named}: ok ({counts})")
    return OK


async def reload(
    session: Session,
    plan: Annotated[bool, typer.Option("--plan", help="Only show what would change.")] = False,
) -> int:
    """Have the daemon read its config again, and show what changes.

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
    pool: Annotated[
        str | None, typer.Argument(metavar="POOL", help="Only this pool.", autocompletion=pool_names)
    ] = None,
) -> None:
    """Let machines live for so long without the daemon.

    For a maintenance of its host: a machine that hears nothing for longer than its
    pool's `lease_s` ends itself.

    \b
    everpool hold 8h
    """
    lasts_s = specs.seconds(duration)
    async with session.client() as client:
        held = await client.hold(lasts_s, pool)
    names = ", ".join(held.get("pools", ())) or "none"
    session.show(held, f"held for {lasting(lasts_s)}: {names}")


async def adopt(session: Session) -> None:
    """Lead machines again after a restored backup.

    A daemon whose state is older than what its machines know only observes until it is told to lead them.
    """
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
    """Copy the journal to PATH, and the keys to PATH.keys.tar.

    The daemon goes on meanwhile; with --state-dir none has to run.
    """
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
        typer.Argument(
            metavar="PROVIDER", help="Names from the config. [default: all]", autocompletion=provider_names
        ),
    ] = None,
    config: ConfigFile = None,
) -> int:
    """Look for what tends to be wrong, and say how to mend it.

    That is Python, the state directory, the daemon, its journal, its certificate, providers.

    Each provider says how it is with credentials, permissions, quota and clock, with a daemon or without.
    """
    names = provider or []
    try:
        async with session.client() as client:
            lines: list[Line] = [line("daemon", True, "answers"), *await client.doctor(*names)]
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
