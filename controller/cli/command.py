"""What all commands share: where the daemon is, output, errors and exit codes."""

import functools
import inspect
import json
import os
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer
from rich.console import Console
from rich.text import Text

from controller.cli.addressing import Found, Where, environment, resolved
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
from controller.cli.completing import profile_names
from controller.cli.helping import Command
from controller.cli.tables import Column, broken, fitted
from controller.client import AsyncClient, EverpoolError, NotRunning, TimedOut

SOCKET_HELP = "The daemon's unix socket. [default: api.sock in the default state directory]"
URL_HELP = "The daemon's address instead, such as http://127.0.0.1:7070."
TOKEN_HELP = "File with the token that --url needs."
CA_HELP = "File with certificates (PEM) to trust for --url, instead of the system's."
JSON_HELP = "Print JSON on stdout."
QUIET_HELP = "Don't show how it goes; errors and results only."
PROFILE: Mapping[str, Any] = {
    "metavar": "NAME",
    "help": "A daemon by its name in the profiles; see `everpool profile`.",
    "autocompletion": profile_names,
}


@dataclass(slots=True)
class Session:
    """One run of one command.

    Attributes:
        where: what options say of the daemon, those behind the command before those that stand before it.
        json: the user wants JSON.
        on_detach: what is said after Ctrl-C.
        before: options before the command, where `where` has none.
    """

    where: Where
    json: bool
    on_detach: str = ""
    before: Where = field(default_factory=Where)
    _out: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    err: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, soft_wrap=True))
    _found: Found | None = None

    @property
    def found(self) -> Found:
        """The daemon that counts. Raises CliError when a profile can't be had."""
        if self._found is None:
            self._found = resolved((self.where, self.before, environment()))
        return self._found

    @property
    def quiet(self) -> bool:
        """The user does not want to see how it goes."""
        return self.where.quiet or self.before.quiet

    @property
    def out(self) -> Console:
        """stdout, for lines in colour."""
        return self._out

    def client(self, timeout_s: float = 30) -> AsyncClient:
        """A client for the daemon. Raises CliError when the token or the certificates can't be read."""
        found = self.found
        address = found.address
        if not address.startswith(("http://", "https://")):
            return AsyncClient(address, timeout_s=timeout_s)
        if found.ca_file is None:
            return AsyncClient(address, token=found.shown_token(), timeout_s=timeout_s)
        return AsyncClient(
            address, token=found.shown_token(), timeout_s=timeout_s, ca_file=checked_ca(found.ca_file)
        )

    @property
    def flags(self) -> str:
        """The options that lead to the same daemon, for commands that we suggest."""
        return self.found.flags

    def pool(self, name: str) -> str:
        """A pool's name; "." is the profile's. Raises CliError when that has none."""
        if name != ".":
            return name
        profile = self.found.profile
        if profile is None or profile.pool is None:
            which = (
                f"profile {profile.name!r} has" if profile is not None else "no profile is used, so there is"
            )
            text = f"'.' is the profile's pool, and {which} none: `everpool profile add NAME --pool POOL …`"
            raise CliError(USAGE, text)
        return profile.pool

    def say(self, text: str) -> None:
        """Tell the user how it goes, on stderr."""
        self.err.print(text, markup=False)

    def show(self, value: Any, text: str = "") -> None:
        """Print the result: `value` with --json, else `text`."""
        if self.json:
            write_json(value)
        elif text:
            self._out.print(text, markup=False)

    def table(
        self, value: Any, columns: Sequence[Column | str], rows: Iterable[Sequence[Any]], empty: str
    ) -> None:
        """Print a table; `value` with --json, `empty` on stderr when there is no row.

        On a terminal it is made to fit; a pipe gets everything, one line a row.
        """
        if self.json:
            write_json(value)
            return
        found = list(rows)
        if not found:
            self.say(empty)
            return
        shown = fitted(columns, found, self._out.width if self._out.is_terminal else None)
        for number, line in enumerate(shown.lines):
            self._out.print(Text(line, style="bold" if number < shown.heads else ""))
        if shown.hidden:
            text = f"not shown: {', '.join(shown.hidden)} (wider terminal, or --json)"
            for line in broken(text, self._out.width):
                self._out.print(Text(line, style="dim"))


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
            before = ctx.find_root().obj
            said = {name: values.pop(name) for name in ("socket", "url", "token_file", "ca_file", "profile")}
            before = before if isinstance(before, Where) else Where()
            where = Where(**said, json=values.pop("json_wanted"), quiet=values.pop("quiet"))
            session = Session(where, where.json or before.json, before=before)
            raise typer.Exit(guarded(session, functools.partial(_call, function, session, values)))

        parameters = [_CONTEXT, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own), *_SHARED]
        shown = signature.replace(parameters=parameters, return_annotation=None)
        run.__signature__ = shown  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        app.command(name, cls=Command, **settings)(run)
        return function

    return decorate


def _option(name: str, kind: Any, default: Any, *flags: str, **settings: Any) -> inspect.Parameter:
    annotation = Annotated[kind, typer.Option(*flags, **settings)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


_CONTEXT = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
_SHARED = (
    _option("json_wanted", bool, False, "--json", help=JSON_HELP),
    _option("quiet", bool, False, "--quiet", "-q", help=QUIET_HELP),
    _option("profile", str | None, None, "--profile", "-p", **PROFILE),
    _option("socket", Path | None, None, "--socket", help=SOCKET_HELP, show_default=False),
    _option("url", str | None, None, "--url", help=URL_HELP),
    _option("token_file", Path | None, None, "--token-file", help=TOKEN_HELP),
    _option("ca_file", Path | None, None, "--ca-file", help=CA_HELP),
)


def _call(function: Callable[..., Any], session: Session, values: dict[str, Any]) -> Any:
    """Call a command's function; "." as a pool is the profile's."""
    if values.get("pool") == ".":
        values["pool"] = session.pool(".")
    return function(session, **values)


def checked_ca(path: str) -> str:
    """A file of certificates that can be used. Raises CliError."""
    place = str(Path(path).expanduser())
    try:
        ssl.create_default_context(cafile=place)
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or "it has no certificate in PEM form"
        raise CliError(USAGE, f"the certificates in {path} can't be used: {why}: see --ca-file") from error
    return place


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
        return told(session, _explained(session, error))
    except ExceptionGroup as group:
        expected = group.subgroup((CliError, EverpoolError, BrokenPipeError))
        if expected is None or len(_leaves(expected)) != len(_leaves(group)):
            raise
        first = _leaves(expected)[0]
        if isinstance(first, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return PIPE_CLOSED
        return told(session, _explained(session, first))


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


def _explained(session: Session, error: Exception) -> CliError:
    """The same, with what a token has to do with it."""
    found = as_cli_error(error)
    if not isinstance(error, EverpoolError) or error.status != 401:
        return found
    place = session.found
    if place.shown_token() or any(os.environ.get(name) for name in ("EVERPOOL_TOKEN", "EVERPOOL_TOKEN_FILE")):
        shown = place.token_file or "the profile or the environment"
        more = f"the token is that of {shown}: `everpool token list` on the daemon's host says which are good"
        return CliError(found.code, str(error), (*error.detail, more))
    text = f"{place.address} lets nobody in without a token: name a file that has one with --token-file"
    make = "on the daemon's host `everpool token create NAME --out FILE` makes one"
    keep = f"to name it only once: everpool profile add NAME --url {place.address} --token-file FILE"
    return CliError(found.code, text, (make, keep))


def told(session: Session, error: CliError) -> int:
    """Say an error: on stderr, and with --json as an object on stdout too."""
    session.say(f"everpool: {error}")
    for line in error.detail:
        session.say(f"  {line}")
    if session.json:
        value: Mapping[str, Any] = {"error": str(error), "code": error.code}
        write_json({**value, "detail": list(error.detail)} if error.detail else value)
    return error.code
