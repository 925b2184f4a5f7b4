"""What all commands share: where the daemon is, output, errors and exit codes."""

import functools
import inspect
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.table import Table

from controller.cli.codes import (
    CONFLICT,
    DETACHED,
    FAILED,
    NOT_FOUND,
    PIPE_CLOSED,
    TIMEOUT,
    UNREACHABLE,
    USAGE,
    CliError,
)
from controller.client import AsyncClient, EverpoolError, NotRunning, TimedOut, default_address
from controller.config import ConfigError, find, load

SOCKET_HELP = "The daemon's unix socket. [default: api.sock in the default state directory]"
URL_HELP = "The daemon's address instead, such as http://127.0.0.1:7070."
TOKEN_HELP = "File with the token that --url needs."
TABLE_WIDTH = 400  # cells are never cut short: a terminal wraps, a pipe gets whole lines
JSON_HELP = "Print JSON on stdout."


@dataclass(frozen=True, slots=True)
class Where:
    """Where the daemon is, as far as options before the command, or the environment, say."""

    socket: Path | None = None
    url: str | None = None
    token_file: Path | None = None
    json: bool = False


@dataclass(slots=True)
class Session:
    """One run of one command.

    Attributes:
        where: the daemon.
        json: the user wants JSON.
        on_detach: what is said after Ctrl-C.
    """

    where: Where
    json: bool
    on_detach: str = ""
    _out: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))

    def client(self) -> AsyncClient:
        """A client for the daemon. Raises CliError when the token can't be read."""
        if self.where.url is None:
            return AsyncClient(self.where.socket or default_socket())
        token = None
        if self.where.token_file is not None:
            try:
                token = self.where.token_file.read_text().strip()
            except OSError as error:
                text = f"{self.where.token_file} can't be read: {error.strerror}"
                raise CliError(USAGE, text) from error
        return AsyncClient(self.where.url, token=token)

    @property
    def flags(self) -> str:
        """The options that lead to the same daemon, for commands that we suggest."""
        flags = {
            "--socket": self.where.socket,
            "--url": self.where.url,
            "--token-file": self.where.token_file,
        }
        return "".join(f" {flag} {value}" for flag, value in flags.items() if value is not None)

    def say(self, text: str) -> None:
        """Tell the user how it goes, on stderr."""
        self.err.print(text, markup=False)

    def show(self, value: Any, text: str = "") -> None:
        """Print the result: `value` with --json, else `text`."""
        if self.json:
            write_json(value)
        elif text:
            self._out.print(text, markup=False)

    def table(self, value: Any, columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
        """Print a table; `value` with --json, `empty` on stderr when there is no row."""
        if self.json:
            write_json(value)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, no_wrap=True)
        for row in rows:
            table.add_row(*(_cell(cell) for cell in row))
        if table.row_count:
            wide = Console(highlight=False, soft_wrap=True, width=max(self._out.width, TABLE_WIDTH))
            wide.print(table, crop=False)
        else:
            self.say(empty)


def default_socket() -> str:
    """Where the daemon listens when nobody says: as the config that counts says, if there is one."""
    path = None if os.environ.get("EVERPOOL_ADDRESS") else find()
    if path is not None:
        try:
            return str(load(path).daemon.socket_path)
        except ConfigError as error:
            if path.exists() and not os.access(path, os.R_OK):  # the daemon's own, and not for us
                return default_address()
            more = f"; and {len(error.problems) - 1} more" if len(error.problems) > 1 else ""
            text = f"{error.problems[0]}{more}: mend it, or say where the daemon is with --socket"
            raise CliError(USAGE, text) from error
    return default_address()


def _cell(value: Any) -> str:
    text = "-" if value is None or value == "" else str(value)
    return text.replace("[", r"\[")


def write_json(value: Any) -> None:
    """One JSON document on a line of its own."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def command(app: typer.Typer, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
    """Make a function a command of `app`.

    The function's first parameter is the Session; it returns an exit code or None and may be async.
    Options that all commands have are added, expected errors become one line and an exit code.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function, eval_str=True)
        own = list(signature.parameters.values())[1:]

        @functools.wraps(function)
        def run(ctx: typer.Context, **values: Any) -> None:
            given = ctx.obj if isinstance(ctx.obj, Where) else Where()
            socket, url, token_file = (values.pop(option) for option in ("socket", "url", "token_file"))
            json_wanted = values.pop("json_wanted") or given.json
            where = Where(socket or given.socket, url or given.url, token_file or given.token_file)
            if socket is not None and url is None:
                where = Where(socket, None, None)  # said here, so it counts more than what was said before
            session = Session(where, json_wanted)
            raise typer.Exit(guarded(session, functools.partial(function, session, **values)))

        parameters = [_CONTEXT, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own), *_SHARED]
        shown = signature.replace(parameters=parameters, return_annotation=None)
        run.__signature__ = shown  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        app.command(name, **settings)(run)
        return function

    return decorate


def _option(name: str, kind: Any, default: Any, *flags: str, **settings: Any) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(*flags, **settings)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_CONTEXT = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
_SHARED = (
    _option("json_wanted", bool, False, "--json", help=JSON_HELP),
    _option("socket", Path | None, None, "--socket", help=SOCKET_HELP, show_default=False),
    _option("url", str | None, None, "--url", help=URL_HELP),
    _option("token_file", Path | None, None, "--token-file", help=TOKEN_HELP),
)


# --- errors ---------------------------------------------------------------------------------------


def guarded(session: Session, call: Callable[[], Any]) -> int:
    """Run a command; what it returns, or what its error means, as an exit code."""

    async def awaited() -> int | None:
        code: int | None = await result
        return code

    try:
        result = call()
        if isinstance(result, Awaitable):
            result = anyio.run(awaited)
        sys.stdout.flush()
        return int(result or 0)
    except KeyboardInterrupt:
        session.say(f"\n{session.on_detach}" if session.on_detach else "")
        return DETACHED
    except BrokenPipeError:  # such as `everpool logs t | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except (CliError, EverpoolError) as error:
        return told(session, as_cli_error(error))
    except ExceptionGroup as group:
        expected = group.subgroup((CliError, EverpoolError, BrokenPipeError))
        if expected is None or len(_leaves(expected)) != len(_leaves(group)):
            raise
        first = _leaves(expected)[0]
        if isinstance(first, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return PIPE_CLOSED
        return told(session, as_cli_error(first))


def _leaves(group: ExceptionGroup[Exception]) -> list[Exception]:
    found: list[Exception] = []
    for one in group.exceptions:
        found += _leaves(one) if isinstance(one, ExceptionGroup) else [one]
    return found


_CODES = {
    401: USAGE,
    403: USAGE,
    404: NOT_FOUND,
    409: CONFLICT,
    413: USAGE,
    415: USAGE,
    422: USAGE,
}


def as_cli_error(error: Exception) -> CliError:
    """What an expected error means for the exit code."""
    match error:
        case CliError():
            return error
        case NotRunning():
            return CliError(UNREACHABLE, str(error))
        case TimedOut():
            return CliError(TIMEOUT, str(error))
        case EverpoolError(status=status):
            return CliError(_CODES.get(status, FAILED), str(error), error.detail)
        case _:
            return CliError(FAILED, str(error))


def told(session: Session, error: CliError) -> int:
    """Say an error: on stderr, and with --json as an object on stdout too."""
    session.say(f"everpool: {error}")
    for line in error.detail:
        session.say(f"  {line}")
    if session.json:
        value: Mapping[str, Any] = {"error": str(error), "code": error.code}
        write_json({**value, "detail": list(error.detail)} if error.detail else value)
    return error.code
