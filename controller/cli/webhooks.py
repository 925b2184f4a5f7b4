"""The command `webhook`: list, test, retry."""

import time
from typing import Annotated, Any

import typer

from controller.cli.codes import FAILED, OK
from controller.cli.command import Session, command
from controller.cli.completing import webhook_names
from controller.cli.shows import age
from controller.cli.tables import Column
from controller.telling import be, count, lasting, took

NAME = Annotated[
    str,
    typer.Argument(metavar="NAME", help="The webhook, as the config names it.", autocompletion=webhook_names),
]
_COLUMNS = (
    "WEBHOOK",
    "STATUS",
    "BEHIND",
    Column("DELIVERED", drop=2),
    "DROPPED",
    Column("NEXT TRY", drop=3),
    Column("URL", drop=1),
    Column("LAST ERROR", words=True),
)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(
        help="See where events are sent, and try it.", no_args_is_help=True, rich_markup_mode=None
    )
    command(group, name="list")(list_)
    for function in (test, retry):
        command(group)(function)
    app.add_typer(group, name="webhook")


async def list_(session: Session) -> None:
    """List the config's webhooks, how far and how well each is."""
    async with session.client() as client:
        found = await client.webhooks()
    empty = "no webhooks: name one in the config, [webhooks.NAME] with url and secret, then `everpool reload`"
    session.table(found, _COLUMNS, [_row(one) for one in found], empty)


def _row(one: dict[str, Any]) -> tuple[Any, ...]:
    since, next_at = one["failing_since"], one["next_try_at"]
    status = "ok" if since is None else f"failing for {age(since)}"
    again = None if next_at is None else f"in {lasting(next_at - time.time())}"
    head = (one["name"], status, one["behind"], one["delivered"], one["dropped"], again, one["url"])
    return (*head, one["last_error"])


async def test(session: Session, name: NAME) -> int:
    """Send a signed test event now, and say what came back."""
    async with session.client() as client:
        said = await client.webhook_test(name)
    after = took(said["took_s"])
    if said["taken"]:
        session.show(said, f"{name} took the test in {after}: {said['status']}")
        return OK
    session.say(f"everpool: {name} did not take the test: {said['error']} ({after})")
    session.show(said)
    return FAILED


async def retry(session: Session, name: NAME) -> None:
    """Try now what waits after a failure."""
    async with session.client() as client:
        said = await client.webhook_retry(name)
    behind = said["behind"]
    session.show(said, f"{name} is tried now; {count(behind, 'event')} of the journal {be(behind)} before it")
