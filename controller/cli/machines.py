"""Commands that go into a machine: ssh, exec.

Both become the system's `ssh`; into a container its engine lets us.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any, NoReturn

import typer

from controller.cli.codes import CONFLICT, FAILED, NOT_FOUND, USAGE, CliError
from controller.cli.command import Session, command
from controller.cli.completing import targets
from controller.client import AsyncClient, EverpoolError

Target = Annotated[
    str,
    typer.Argument(
        metavar="NODE",
        help="POOL/NUMBER (of the profile's pool: NUMBER), or an instance's id.",
        autocompletion=targets,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    command(app)(ssh)
    command(app, name="exec")(execute)


async def ssh(
    session: Session,
    target: Target,
    rest: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- [OPTIONS] [COMMAND]]", help="As behind `ssh HOST`: OpenSSH's options, a command."
        ),
    ] = None,
    forward: Annotated[
        list[str] | None,
        typer.Option("--forward", "-L", metavar="PORT:HOST:PORT", help="As ssh's -L. Repeatable."),
    ] = None,
) -> int:
    """Log in to a node's machine, its key verified; or a container.

    \b
    everpool ssh web/0
    everpool ssh web/0 -- uptime
    everpool ssh -L 8080:localhost:80 web/0 -- -N
    """
    machine = await _machine(session, target)
    forwards = [word for one in forward or () for word in ("-L", one)]
    if machine["container"] is None:
        become(machine, [*forwards, *(rest or ())])
    if forwards or (rest and rest[0].startswith("-")):
        text = (
            f"{machine['instance_id']} is a container and has no ssh server: it takes a command, no options"
        )
        at = machine["address"].get("private_host")
        raise CliError(USAGE, text, [f"its own address is {at}"] if forwards and at else ())
    # ssh hands words to a shell on the other side; so do we.
    return await _entered(machine, ["/bin/sh", "-c", " ".join(rest)] if rest else None)


async def execute(
    session: Session,
    target: Target,
    line: Annotated[list[str], typer.Argument(metavar="-- COMMAND", help="What to run there.")],
) -> int:
    """Run a command on a machine beside its tasks.

    It exits with the command's exit code; 255: no connection.

    \b
    everpool exec web/0 -- df -h
    """
    machine = await _machine(session, target)
    if machine["container"] is None:
        become(machine, [], line)
    return await _entered(machine, line)


async def _machine(session: Session, target: str) -> dict[str, Any]:
    async with session.client() as client:
        try:
            machine = await client.ssh(await instance_of(client, target, session.pool))
        except EverpoolError as error:
            pool = target if error.status == 404 and "/" not in target else ""
            if pool and pool in {one["name"] for one in await client.pools()}:
                raise CliError(NOT_FOUND, f"{pool} is a pool: say which node, such as {pool}/0") from error
            raise
    return {"container": None, **machine}


async def _entered(machine: dict[str, Any], line: list[str] | None) -> int:
    # Imported here because the engine's client takes a tenth of the time that other commands take in all.
    enter: Any = import_module("controller.cli.containers").enter
    return int(await enter(machine, line))


async def instance_of(
    client: AsyncClient, target: str, pool_of: Callable[[str], str] = lambda name: name
) -> str:
    """The id of the instance that POOL/NODE, a NODE of the profile's pool, or an id names; else CliError."""
    pool, slash, node = target.rpartition("/")
    if not slash and not target.isdecimal():
        return target
    pool = pool_of(pool or ".")
    if not node.isdecimal():
        raise CliError(USAGE, f"{target!r}: write POOL/NODE, such as demo/0, or an instance's id")
    nodes = await client.nodes(pool)
    there = {one["node"]: one for one in nodes}
    found = there.get(int(node))
    if found is None:
        names = ", ".join(str(number) for number in sorted(there)[:20]) or "none"
        raise CliError(NOT_FOUND, f"pool {pool!r} has no node {node}: its nodes are: {names}")
    instance = found["instance_id"] or found["old_instance_id"]
    if instance is None:
        why = f" ({found['why_waiting']})" if found["why_waiting"] else ""
        raise CliError(CONFLICT, f"node {target} has no machine now{why}")
    return str(instance)


def command_line(machine: dict[str, Any], rest: list[str], line: list[str] | None = None) -> list[str]:
    """The ssh command for a machine: our key, and the host key that was pinned for it, nothing else.

    Args:
        machine: as /v1/instances/{id}/ssh tells it.
        rest: what a user typed: options of ssh, then perhaps a command for a shell there.
        line: a command whose words are kept apart, instead.
    """
    # Imported here because asyncssh comes with it, a quarter of the time that other commands take in all.
    alias: str = import_module("providers.host.keys").file_name(machine["instance_id"])
    address = machine["address"]
    settings = {
        "IdentityFile": machine["private_key_path"],
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": machine["known_hosts_path"],
        "GlobalKnownHostsFile": "/dev/null",
        "HostKeyAlias": alias,
        "StrictHostKeyChecking": "yes",
        "PasswordAuthentication": "no",
        "LogLevel": "ERROR",
    }
    arguments = ["ssh", "-F", "/dev/null", "-p", str(address["port"]), "-l", machine["ssh_user"]]
    for name, value in settings.items():
        quoted = f'"{value}"' if " " in value else value
        arguments += ["-o", f"{name}={quoted}"]
    if line is not None:  # sshd joins words with spaces for a shell: quote them
        return [*arguments, *rest, address["host"], "--", shlex.join(line)]
    return [*arguments, address["host"], *rest]  # options may stand behind the host too


def become(machine: dict[str, Any], rest: list[str], line: list[str] | None = None) -> NoReturn:
    """Replace this process by ssh. Raises CliError when that can't work."""
    program = shutil.which("ssh")
    if program is None:
        raise CliError(FAILED, "there is no ssh client here: install one, such as Debian's openssh-client")
    if not os.access(machine["private_key_path"], os.R_OK):
        text = "run this on the daemon's host, as its user"
        raise CliError(FAILED, f"the key {machine['private_key_path']} can't be read here: {text}")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(program, command_line(machine, rest, line))
