"""The commands `secrets` and `credential`: what tasks and registries need to be told, and nobody else.

A value is never an argument of a command: those are seen by everybody in `ps`, and kept by shells.
"""

import getpass
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from controller.cli.codes import CONFLICT, FAILED, OK, USAGE, CliError
from controller.cli.command import Session, command
from controller.cli.completing import credential_names, group_names, pool_names
from controller.secrets.keys import write_new_key

FILE_BYTES_MAX = 1024 * 1024
ON_ARGV = (
    "{key}: a value on the command line can be seen by everybody in `ps`, and your shell keeps it: "
    "write {key}=- to be asked for it (or to pipe it in), {key}=@FILE, or use --env-file"
)
Group = Annotated[str, typer.Argument(metavar="GROUP", help="Name of the group.", autocompletion=group_names)]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="What the login is called.", autocompletion=credential_names)
]
Force = Annotated[bool, typer.Option("--force", help="Though something that lives needs it.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    secrets = typer.Typer(
        help="Environment variables that tasks get and nobody sees.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    command(secrets, "set")(set_group)
    command(secrets, "list")(list_groups)
    command(secrets, "rm")(remove_group)
    command(secrets)(keygen)
    command(secrets)(rotate)
    app.add_typer(secrets, name="secrets")
    credential = typer.Typer(
        help="Logins to registries of images.", no_args_is_help=True, rich_markup_mode=None
    )
    command(credential, "set")(set_credential)
    command(credential, "list")(list_credentials)
    command(credential, "rm")(remove_credential)
    app.add_typer(credential, name="credential")


# --- groups ---------------------------------------------------------------------------------------


async def set_group(
    session: Session,
    group: Group,
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=-...", help="KEY=- asks, or reads a line of a pipe; KEY=@FILE reads a file."
        ),
    ] = None,
    env_file: Annotated[
        Path | None, typer.Option("--env-file", metavar="FILE", help="Lines of KEY=VALUE.")
    ] = None,
    from_stdin: Annotated[bool, typer.Option("--from-stdin", help="The same, from stdin.")] = False,
    unset: Annotated[
        list[str] | None, typer.Option("--unset", metavar="KEY", help="Remove a variable. Repeatable.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Forget variables that are not named.")] = False,
    pool: Annotated[
        list[str] | None,
        typer.Option(
            "--pool",
            metavar="PATTERN",
            help="Only for tasks of these pools. Repeatable; '*': all.",
            autocompletion=pool_names,
        ),
    ] = None,
) -> int:
    """Set variables of a group, the others stay.

    Tasks that start from now on with --env-group get them.

    \b
    everpool secrets set db PASSWORD=- TLS_KEY=@key.pem
    everpool run web --env-group db -- ./job
    """
    if from_stdin and any(_split(entry)[1] == "-" for entry in keys or ()):
        raise CliError(
            USAGE, "--from-stdin and KEY=- can't both read stdin: name the key in what you pipe in"
        )
    if replace and unset:
        raise CliError(USAGE, "--replace forgets all that is not named: --unset has nothing to do")
    values: dict[str, str | None] = dict.fromkeys(unset or ())
    if env_file is not None:
        values |= _variables(str(env_file), _text(env_file))
    if from_stdin:
        values |= _variables("stdin", sys.stdin.read(FILE_BYTES_MAX))
    for entry in keys or ():
        key, where = _split(entry)
        values[key] = asked(f"{key}: ") if where == "-" else _text(Path(where[1:])).removesuffix("\n")
    if not values and pool is None and not replace:
        raise CliError(USAGE, "nothing to set: give KEY=-, KEY=@FILE, --env-file FILE or --from-stdin")
    pools = None if pool is None else [] if "*" in pool else pool
    async with session.client() as client:
        if replace:
            plain = {key: value for key, value in values.items() if value is not None}
            done = await client.put_secret_group(group, plain, pools=pools)
        else:
            done = await client.merge_secret_group(group, values, pools=pools)
    session.show(
        done, f"{done['group']} is at revision {done['revision']}: {', '.join(done['keys']) or 'empty'}"
    )
    return OK


def _split(entry: str) -> tuple[str, str]:
    """A key, and where its value is. Raises CliError for a value."""
    key, equals, where = entry.partition("=")
    if not equals:
        raise CliError(USAGE, f"{key}: write {key}=- to be asked for its value, or {key}=@FILE")
    if where != "-" and (not where.startswith("@") or len(where) == 1):
        raise CliError(USAGE, ON_ARGV.format(key=key))
    return key, where


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise CliError(USAGE, f"{path} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CliError(USAGE, f"{path} is not text in UTF-8") from error
    if len(text) > FILE_BYTES_MAX:
        raise CliError(USAGE, f"{path} has more than {FILE_BYTES_MAX} characters")
    return text


def _variables(name: str, text: str) -> dict[str, str | None]:
    """Lines of KEY=VALUE; empty ones and comments don't count. Raises CliError, without a value in it."""
    found: dict[str, str | None] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip().removeprefix("export ").lstrip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.partition("=")
        key, value = key.strip(), value.strip()
        if not equals or not key.isidentifier():
            raise CliError(USAGE, f"{name}:{number}: write KEY=VALUE, a line each")
        if value[:1] in ("'", '"'):
            if len(value) < 2 or value[-1] != value[0]:
                text = "the quote does not end on its line: for a value of many lines use KEY=@FILE"
                raise CliError(USAGE, f"{name}:{number}: {key}: {text}")
            value = value[1:-1]
        found[key] = value
    if not found:
        raise CliError(USAGE, f"{name} has no line KEY=VALUE")
    return found


def asked(prompt: str) -> str:
    """A secret from the terminal, not shown, or a line of a pipe. Raises CliError when none comes."""
    if sys.stdin.isatty():
        said = getpass.getpass(prompt)
    else:
        line = sys.stdin.readline(FILE_BYTES_MAX)
        if not line:
            raise CliError(USAGE, f"{prompt.rstrip(': ')}: nothing came on stdin")
        said = line.rstrip("\r\n")
    if not said:
        raise CliError(USAGE, f"{prompt.rstrip(': ')}: an empty one is not taken")
    return said


async def list_groups(
    session: Session,
    group: Annotated[
        str | None, typer.Argument(metavar="GROUP", help="Its revisions.", autocompletion=group_names)
    ] = None,
) -> int:
    """List groups and their variables, or the revisions of one.

    Values are never shown.
    """
    async with session.client() as client:
        if group is not None:
            one = await client.secret_group(group)
            rows = [_row(each["revision"], each["keys"], each) for each in one["revisions"]]
            session.table(one, ("REVISION", "KEYS", "AT", "BY"), rows, "none")
            return OK
        found = await client.secret_groups()
    rows = [
        (each["group"], *_row(each["revision"], each["keys"], each), ", ".join(each["pools"]), _well(each))
        for each in found
    ]
    columns = ("GROUP", "REVISION", "KEYS", "AT", "BY", "POOLS", "KEY")
    session.table(found, columns, rows, "no secrets are kept: everpool secrets set GROUP KEY=-")
    return OK


def _row(revision: int, keys: Sequence[str], each: dict[str, Any]) -> tuple[Any, ...]:
    return (revision, ", ".join(keys), _time(each["at"]), each["by"])


def _time(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def _well(each: dict[str, Any]) -> str:
    return "ok" if each["readable"] else "another key's"


async def remove_group(session: Session, group: Group, force: Force = False) -> int:
    """Forget a group with all its revisions. Refused while a task that lives names it."""
    async with session.client() as client:
        done = await client.remove_secret_group(group, force=force)
    session.show(done, f"{group} is removed")
    return OK


# --- the key --------------------------------------------------------------------------------------


def keygen(
    session: Session,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Must not be there yet.")],
) -> int:
    """Make a key for [daemon] secrets_key. Keep a copy elsewhere: backups do not have it."""
    try:
        write_new_key(file)
    except FileExistsError as error:
        text = f"{file} is there already: what it encrypted would be lost; give another name"
        raise CliError(CONFLICT, text) from error
    except OSError as error:
        raise CliError(FAILED, f"{file} can't be written: {error.strerror}") from error
    line = f'secrets_key = {{ file = "{file.absolute()}" }}'
    session.show({"file": str(file.absolute())}, f"made; now put below [daemon] in the config: {line}")
    session.say("keep a copy of it where no backup of the journal is: without it secrets can't be read again")
    return OK


async def rotate(session: Session) -> int:
    """Encrypt with the newest key what an older one encrypted.

    The key is secrets_key of [daemon], the one before it secrets_key_old.
    """
    async with session.client() as client:
        done = await client.rotate_secrets()
    session.show(done, f"{done['changed']} encrypted anew with key {done['key']}")
    if done["unreadable"]:
        session.say(f"can't be read with any key at hand: {', '.join(done['unreadable'])}")
        return FAILED
    return OK


# --- credentials ----------------------------------------------------------------------------------


async def set_credential(
    session: Session,
    name: Name,
    hostname: Annotated[
        str, typer.Option("--hostname", metavar="H", help="As it stands at the start of an image's name.")
    ],
    user: Annotated[str, typer.Option("--user", metavar="U")],
    password_file: Annotated[
        Path | None,
        typer.Option("--password-file", metavar="FILE", help="[default: asked for, or a line of a pipe]"),
    ] = None,
) -> int:
    """Keep a login to a registry, or change it. The next pull of an image from there uses it."""
    password = asked("password: ") if password_file is None else _text(password_file).strip()
    async with session.client() as client:
        done = await client.put_credential(name, hostname=hostname, user=user, password=password)
    session.show(done, f"{name}: {hostname} as {user}")
    return OK


async def list_credentials(session: Session) -> int:
    """List logins to registries, without passwords."""
    async with session.client() as client:
        found = await client.credentials()
    rows: Iterable[tuple[Any, ...]] = [
        (one["name"], one["hostname"], one["user"], _time(one["at"]), one["by"], _well(one)) for one in found
    ]
    columns = ("NAME", "HOSTNAME", "USER", "AT", "BY", "KEY")
    session.table(
        found, columns, rows, "no logins are kept: everpool credential set NAME --hostname H --user U"
    )
    return OK


async def remove_credential(session: Session, name: Name, force: Force = False) -> int:
    """Forget a login. Refused while the image of a living pool is from its registry."""
    async with session.client() as client:
        done = await client.remove_credential(name, force=force)
    session.show(done, f"{name} is removed")
    return OK
