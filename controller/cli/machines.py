"""Commands that go into a machine: ssh, exec. Both become the system's `ssh`, where the machine has one."""

import os
import shlex
import shutil
import sys
from importlib import import_module
from typing import Annotated, Any

import typer

from controller.cli.codes import CONFLICT, FAILED, NOT_FOUND, USAGE, CliError
from controller.cli.command import Session, command
from controller.client import AsyncClient

Target = Annotated[str, typer.Argument(metavar="TARGET", help="POOL/NODE, or an instance's id.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    command(app)(ssh)
    command(app, name="exec")(execute)


async def ssh(
    session: Session,
    target: Target,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OPTIONS...]", help="Options for ssh, such as -L.")
    ] = None,
) -> None:
    """Log in to a machine, its host key verified."""
    become(await _arguments(session, target), options or [])


async def execute(
    session: Session,
    target: Target,
    line: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="What to run there.")],
) -> None:
    """Run a command on a machine beside its tasks, and exit with its exit code (255: no connection)."""
    become(await _arguments(session, target), [], line)


async def _arguments(session: Session, target: str) -> dict[str, Any]:
    async with session.client() as client:
        return await client.ssh(await instance_of(client, target))


async def instance_of(client: AsyncClient, target: str) -> str:
    """The id of the instance that POOL/NODE or an id names. Raises CliError."""
    pool, slash, node = target.rpartition("/")
    if not slash:
        return target
    if not node.isdecimal():
        raise CliError(USAGE, f"{target!r}: write POOL/NODE, such as demo/0, or an instance's id")
    nodes = await client.nodes(pool)
    there = {one["node"]: one for one in nodes}
    found = there.get(int(node))
    if found is None:
        names = ", ".join(str(number) for number in sorted(there)[:20]) or "none"
        raise CliError(NOT_FOUND, f"pool {pool!r} has no node {node}: there are {names}")
    instance = found["instance_id"] or found["old_instance_id"]
    if instance is None:
        why = f" ({found['why_waiting']})" if found["why_waiting"] else ""
        raise CliError(CONFLICT, f"node {target} has no machine now{why}")
    return str(instance)


def command_line(machine: dict[str, Any], options: list[str], line: list[str] | None = None) -> list[str]:
    """The ssh command for a machine: our key, and the host key that was pinned for it, nothing else."""
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
        return [*arguments, *options, address["host"], "--", shlex.join(line)]
    return [*arguments, *options, address["host"]]


def no_ssh(machine: dict[str, Any], line: list[str] | None = None) -> str:
    """What to do instead with a machine that has no ssh server, which is a container; one line."""
    name, command = machine["address"]["host"], "sh" if line is None else shlex.join(line)
    return (
        f"{machine['instance_id']} is a container and has no ssh server; on its engine's host say "
        f"`docker exec -it {name} {command}` (or `podman exec …`)"
    )


def become(machine: dict[str, Any], options: list[str], line: list[str] | None = None) -> None:
    """Replace this process by ssh. Raises CliError when that can't work."""
    if machine["address"]["port"] == 0:
        raise CliError(FAILED, no_ssh(machine, line))
    program = shutil.which("ssh")
    if program is None:
        raise CliError(FAILED, "there is no ssh client here: install one, such as Debian's openssh-client")
    if not os.access(machine["private_key_path"], os.R_OK):
        text = "run this on the daemon's host, as its user"
        raise CliError(FAILED, f"the key {machine['private_key_path']} can't be read here: {text}")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(program, command_line(machine, options, line))
