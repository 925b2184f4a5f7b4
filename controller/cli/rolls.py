"""Waiting for the end of a roll: an update's request ends at once, its machines are replaced afterwards."""

from collections.abc import Callable
from contextlib import aclosing

import anyio

from actors.events import ClusterDestroyed, Envelope, Event, PoolParked, PoolRolled, PoolUpdated
from controller.cli.codes import FAILED, OK, TIMEOUT, CliError
from controller.cli.command import Session
from controller.client import AsyncClient, EventsPruned, EverpoolError
from controller.telling import count, took

ROLLS_ON = "its machines of the old spec work on"


def rolls(event: Event) -> bool:
    """Whether machines are replaced after this end of a request."""
    return isinstance(event, PoolUpdated) and event.outdated > 0


async def wait_for_roll(
    client: AsyncClient, pool: str, after: int, within_s: float | None, heard: Callable[[Envelope], None]
) -> Event | None:
    """Follow a pool's events behind seq `after` until its roll is over; return what ended it.

    That is PoolRolled, PoolParked or ClusterDestroyed. None: it is not over within `within_s`. When events
    are forgotten meanwhile, the pool as it is says whether it is over.
    """
    with anyio.move_on_after(within_s):
        while True:
            try:
                async with aclosing(client.follow(after, pool=pool)) as events:
                    async for envelope in events:
                        after = envelope.seq
                        heard(envelope)
                        if _is_end(envelope.event, pool):
                            return envelope.event
            except EventsPruned as pruned:
                if pruned.cursor <= after:
                    raise
                after = pruned.cursor
                if (over := await _over(client, pool)) is not None:
                    return over
    return None


def _is_end(event: Event, pool: str) -> bool:
    match event:
        case PoolRolled() | PoolParked():
            return True
        case ClusterDestroyed(cluster_id=name):
            return name == pool
        case _:
            return False


async def _over(client: AsyncClient, pool: str) -> Event | None:
    """What must have ended the roll, by the pool as it is; None: it goes on. Raises EverpoolError."""
    try:
        view = await client.pool(pool)
    except EverpoolError as error:
        if error.status != 404:
            raise
        return ClusterDestroyed(cluster_id=pool)
    if view["status"] == "destroyed":
        return ClusterDestroyed(cluster_id=pool)
    if view["status"] == "parked":
        return PoolParked(pool=pool, reason=view["reason"])
    return None if view["outdated"] else PoolRolled(pool=pool, renewed=0)


def roll_ended(
    session: Session, request_id: str, updated: Envelope, over: Event | None, within_s: float | None
) -> int:
    """Show the end of an update that rolls, and return the exit code that it means. Raises CliError."""
    pool, event = updated.pool, updated.event
    if over is None:
        text = f"pool {pool} was updated, and is not rolled after {took(within_s or 0)}; that goes on"
        more = f"follow it: everpool{session.flags} events --pool {pool} --follow"
        raise CliError(TIMEOUT, text, [more])
    failure = ""
    match over:
        case PoolParked(reason=reason):
            failure = f"pool {pool} was updated, then parked: {reason}; {ROLLS_ON}"
        case ClusterDestroyed():
            failure = f"pool {pool} was updated, and ended before its machines were replaced"
        case _:
            pass
    value = {
        "request_id": request_id,
        "seq": updated.seq,
        "status": "failed" if failure else "success",
        "event": event.model_dump(mode="json"),
        "rolled": over.model_dump(mode="json"),
    }
    if failure:
        session.say(f"everpool: {failure}")
        if isinstance(over, PoolParked):
            session.say(f"  why: everpool{session.flags} explain {pool}")
        session.show({**value, "error": failure})
        return FAILED
    changed = ", ".join(getattr(event, "changed", ())) or "nothing changed"
    replaced = getattr(over, "renewed", 0)
    text = f"pool {pool} updated: {changed}; every machine is of the new spec"
    session.show(value, f"{text}, {count(replaced, 'machine')} replaced" if replaced else text)
    return OK
