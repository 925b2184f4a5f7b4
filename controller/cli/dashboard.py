"""The command `dashboard`: the page's URL, with a token of its own in the fragment."""

import secrets
import signal
import tempfile
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from html import escape
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import anyio
import typer
from anyio.abc import SocketAttribute

from controller.cli import specs
from controller.cli.codes import FAILED, OK, USAGE, CliError
from controller.cli.command import Session, command
from controller.cli.completing import pool_names
from controller.cli.forwarder import Forwarder
from controller.client import AsyncClient, EverpoolError

LASTS = "12h"
READ_WITHIN_S = 15.0  # so long a browser has to read the page that leads to the URL
Scope = Literal["read", "submit"]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app)(dashboard)


async def dashboard(
    session: Session,
    scope: Annotated[
        Scope, typer.Option("--scope", help="submit: the page can also ask for things.")
    ] = "read",
    pool: Annotated[
        list[str] | None,
        typer.Option(
            "--pool",
            metavar="PATTERN",
            help="Only these pools. Repeatable. [default: all]",
            autocompletion=pool_names,
        ),
    ] = None,
    lasts: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="How long the token is good.")
    ] = LASTS,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in this host's browser.")] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="On loopback, for a daemon on a socket. 0: any.")
    ] = 0,
) -> int:
    """Print the page's URL, with a token that can only read.

    The token lasts 12 hours.

    A daemon on a unix socket has no URL: then a port on 127.0.0.1 leads there until Ctrl-C. It lets nobody in
    without the token, which is revoked when it closes.
    """
    seconds = specs.seconds(lasts)
    if seconds <= 0:
        raise CliError(USAGE, f"--for {lasts!r}: the token has to last a while")
    address = session.found.address
    name = f"dashboard-{secrets.token_hex(4)}"
    async with session.client() as client:
        token = await _token(client, name, scope, pool or [], seconds)
        if address.startswith(("http://", "https://")):
            url = _show(session, f"{address.rstrip('/')}/", token, name)
            if open_it:
                with leading_to(url) as page:
                    if _opened(session, page):
                        await anyio.sleep(READ_WITHIN_S)
            return OK
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(_end_with, group.cancel_scope)
                await _forward(session, address, token, name, port, seconds, open_it=open_it)
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(5):
                await _revoke(client, name)
    return OK


async def _end_with(scope: anyio.CancelScope) -> None:
    """Let go in order when the session or the system ends us, too: the token must not outlive the port."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async for _ in signals:
            scope.cancel()
            return


async def _token(client: AsyncClient, name: str, scope: Scope, pools: list[str], lasts_s: float) -> str:
    try:
        made = await client.create_token(name, scope=scope, pools=pools, expires_in_s=lasts_s)
    except EverpoolError as error:
        if error.status == 403:
            text = "only an admin may make the page's token: use the daemon's socket, or an admin's token"
            raise CliError(USAGE, text) from error
        raise
    return str(made["token"])


async def _revoke(client: AsyncClient, name: str) -> None:
    try:
        await client.revoke_token(name)
    except EverpoolError:  # the daemon is gone; it ends by itself in time
        return


def _show(session: Session, base: str, token: str, name: str) -> str:
    url = f"{base}#token={quote(token, safe='')}"
    session.show({"url": url, "token": name}, url)
    return url


@contextmanager
def leading_to(url: str) -> Iterator[str]:
    """The URL of a file that leads to a URL; it is gone when it is left.

    Only we can read it; the command line that a browser is started with can be read by everybody here.
    """
    with tempfile.TemporaryDirectory(prefix="everpool-") as directory:  # of mode 0700
        page = Path(directory) / "dashboard.html"
        page.touch(0o600)
        there = escape(url)
        page.write_text(
            f'<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">'
            f'<meta http-equiv="refresh" content="0; url={there}"><a href="{there}">everpool</a>\n'
        )
        yield page.as_uri()


def _opened(session: Session, page: str) -> bool:
    found = webbrowser.open(page)
    if not found:
        session.say("no browser opens here: open the URL by hand")
    return found


async def _forward(
    session: Session, socket: str, token: str, name: str, port: int, seconds: float, *, open_it: bool
) -> None:
    try:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=port)
    except OSError as error:
        raise CliError(
            FAILED, f"port {port} of 127.0.0.1 can't be had: {error.strerror}: take another"
        ) from error
    async with listener:
        number = listener.extra(SocketAttribute.local_port)
        base = f"http://127.0.0.1:{number}/"
        url = _show(session, base, token, name)
        session.say("the URL works until Ctrl-C; whoever has it is let in: keep it to yourself")
        session.on_detach = "the page's port is closed, and its token revoked"
        with leading_to(url) if open_it else nullcontext() as page, anyio.move_on_after(seconds):
            if page is not None:
                _opened(session, page)
            await listener.serve(Forwarder(socket, token, (f"127.0.0.1:{number}", f"localhost:{number}")))
