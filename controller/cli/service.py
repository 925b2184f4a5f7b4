"""Commands about the service of systemd: install, uninstall, status; and ready, for any service."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from actors.spec import checked_name
from controller.cli import specs
from controller.cli.codes import CONFLICT, FAILED, OK, UNREACHABLE, USAGE, CliError
from controller.cli.command import Session, command
from controller.client import EverpoolError
from controller.service.files import GROUP, UNIT, is_edited
from controller.service.setup import Service, SetupError

Force = Annotated[bool, typer.Option("--force", help="Overwrite a unit that was edited.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(
        name="service",
        help="Install everpool as a service of systemd.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for function in (install, uninstall, status, ready):
        command(group)(function)
    app.add_typer(group)


def _service(session: Session) -> Service:
    """The service of this environment. Raises CliError without systemd."""
    if not Path("/run/systemd/system").is_dir():
        text = "systemd does not run here: have `everpool serve` started by what starts services"
        raise CliError(USAGE, text)
    return Service(Path(sys.executable).with_name("everpool"), say=session.say)


def _as_root() -> None:
    if os.geteuid() != 0:
        raise CliError(USAGE, f"needs root: sudo {Path(sys.executable).with_name('everpool')} service ...")


def _failed(error: SetupError) -> CliError:
    return CliError(CONFLICT if error.wrong else FAILED, str(error), error.detail)


def install(
    session: Session,
    local: Annotated[
        bool, typer.Option("--local", help="Begin with the provider local: machines on this computer.")
    ] = False,
    container: Annotated[
        bool, typer.Option("--container", help="Begin with the provider container: docker or podman.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Begin with this config.")
    ] = None,
    pool: Annotated[str | None, typer.Option("--pool", help="Begin with a pool of this name.")] = None,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Nodes of that pool.")] = 1,
    within: Annotated[
        str, typer.Option("--within", metavar="DURATION", help="How long to wait for the pool.")
    ] = "2m",
    force: Force = False,
) -> None:
    """Write the unit, start the daemon, and wait until it is ready.

    It may be run again, after an upgrade too. A config that is there is never changed; without one, say what
    to begin with.
    """
    _as_root()
    kinds = [kind for kind, wanted in (("local", local), ("container", container)) if wanted]
    if kinds and config is not None:
        raise CliError(USAGE, "--config has its own providers: leave out --local and --container")
    if pool is not None:
        try:
            checked_name(pool)
        except ValueError as error:
            raise CliError(USAGE, str(error)) from error
    service = _service(session)
    try:
        done = service.install(
            providers=kinds,
            source=config,
            pool=pool,
            nodes=nodes,
            force=force,
            within_s=specs.seconds(within),
        )
    except SetupError as error:
        raise _failed(error) from error
    except OSError as error:
        raise CliError(FAILED, f"{error.filename}: {error.strerror}") from error
    name = "NAME" if pool is None else pool
    lines = ["everpool runs" + ("" if pool is None else f", and pool {pool} is whole: {nodes} nodes")]
    lines.append(
        f"next: everpool {'up' if pool is None else 'run'} {name}{'' if pool is None else ' -- hostname'}"
    )
    lines.append(f"config: {done['config']}, then systemctl reload everpool; log: journalctl -u everpool")
    lines.append(f"who else may use it: usermod --append --groups {GROUP} USER")
    session.show(done, "\n".join(lines))


def uninstall(
    session: Session,
    purge: Annotated[
        bool, typer.Option("--purge", help="Remove the state too, and the service's user.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Even while machines live: they go on.")] = False,
) -> None:
    """Stop the daemon and remove its unit. The config stays, and without --purge the state."""
    _as_root()
    try:
        done = _service(session).uninstall(force=force, purge=purge)
    except SetupError as error:
        raise _failed(error) from error
    text = "everpool is no service any more"
    if done["living"]:
        text += (
            f"; {done['living']} machines run on until their dead-man leases are over, or a daemon leads them"
        )
    session.show(done, text)


async def status(session: Session) -> int:
    """Say whether the service is installed, runs, and can do its work."""
    service = _service(session)
    shown, unit = service.show(), service.layout.unit
    reasons: list[str] = []
    pools: Sequence[Mapping[str, Any]] = ()
    try:
        async with session.client() as client:
            health, pools = await client.ready(), await client.pools()
        ready, reasons = bool(health["ready"]), list(health["reasons"])
    except EverpoolError as error:
        ready, reasons = False, [str(error)]
    value = {
        "installed": unit.exists(),
        "edited": unit.exists() and is_edited(unit),
        "enabled": shown.get("UnitFileState", ""),
        "active": shown.get("ActiveState", ""),
        "pid": int(shown.get("MainPID") or 0),
        "restarts": int(shown.get("NRestarts") or 0),
        "says": shown.get("StatusText", ""),
        "ready": ready,
        "reasons": reasons,
        "pools": {one["name"]: {key: one[key] for key in ("status", "ready", "desired")} for one in pools},
    }
    if not unit.exists():
        session.show(value, f"{UNIT} is not installed: everpool service install")
        return UNREACHABLE
    how = "ready" if ready else "not ready: " + "; ".join(reasons)
    edited = ", edited" if value["edited"] else ""
    lines = [
        f"unit      {unit} ({value['enabled']}{edited})",
        f"process   {value['active']}, pid {value['pid']}, {value['restarts']} restarts",
        f"daemon    {how}",
    ]
    lines += [
        f"pool      {one['name']}: {one['status']}, {one['ready']} of {one['desired']} nodes ready"
        for one in pools
    ]
    session.show(value, "\n".join(lines))
    return OK if ready else FAILED


async def ready(session: Session) -> int:
    """Say whether the daemon can do its work, by its exit code too.

    It is meant for health checks, such as those of containers.
    """
    async with session.client() as client:
        health = await client.ready()
    session.show(health, "ready" if health["ready"] else "not ready: " + "; ".join(health["reasons"]))
    return OK if health["ready"] else FAILED
