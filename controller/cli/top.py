"""The command `top`: pools, nodes, tasks, money and events, live."""

import sys
import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Any

import anyio
import typer
from anyio.abc import TaskGroup
from rich.console import Console
from rich.live import Live

from controller.cli.codes import OK, UNREACHABLE, CliError
from controller.cli.command import Session, command
from controller.cli.completing import pool_names
from controller.cli.happenings import Chosen
from controller.cli.keyboard import keys, single_keys
from controller.cli.top_view import VIEWS, Known, frame
from controller.client import AsyncClient, EverpoolError

POOLS_EVERY_S = 2.0  # and at once when something happens, but no more often than POOLS_LEAST_S
POOLS_LEAST_S = 0.5
COST_EVERY_S = 10.0
ROWS_LEAST_S = 1.0
ROWS_S_PER_NODE = 0.004  # lists of large pools are asked for less often: of 10,000 nodes every 40 s
TASKS_SHOWN = 100
EVENTS_FIRST = 40  # chatter among them is not shown
PIPE_SIZE = (120, 60)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app)(top)


async def top(
    session: Session,
    pool: Annotated[
        str | None,
        typer.Argument(metavar="POOL", help="Begin with this pool.", autocompletion=pool_names),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one screen and end, as into a pipe.")] = False,
) -> int:
    """Watch pools, nodes, tasks, dollars an hour and events, live. Keys: ? says them, q ends."""
    profile = session.found.profile
    known = Known(chosen=pool or (profile.pool if profile is not None else None) or "")
    async with session.client() as client:
        screen = Screen(session, client, known)
        if pool is not None:
            await client.pool(pool)  # one that is not there is said at once
        if session.json:
            await screen.look()
            session.show({"pools": list(known.pools), "cost": known.cost, "rows": list(known.rows)})
            return OK
        if once or not session.out.is_terminal or session.out.is_dumb_terminal or not sys.stdin.isatty():
            await screen.look()
            await screen.first_events()
            width, height = PIPE_SIZE if not session.out.is_terminal else session.out.size
            Console(width=width, highlight=False).print(
                frame(known, width, height, once=True), soft_wrap=False
            )
            return OK
        await screen.look()
        await screen.live()
    return OK


class Screen:
    """Keeps what is shown fresh, with few and small questions."""

    def __init__(self, session: Session, client: AsyncClient, known: Known) -> None:
        self.known = known
        self._session, self._client = session, client
        self._happened = anyio.Event()
        self._rows_wanted = anyio.Event()
        self._rows_at = self._cost_at = float("-inf")
        self._live: Live | None = None
        self._events = Chosen(client, None, (), None, missed=self._missed)

    def _missed(self, why: str) -> None:
        self.known.missed = why

    async def look(self) -> None:
        """Ask for everything once. Raises EverpoolError."""
        self.known.took_pools(await self._client.pools())
        self.known.cost = await self._client.cost()
        await self._rows()

    async def first_events(self) -> int:
        """The newest events; the seq of the last."""
        newest = await self._events.newest(EVENTS_FIRST)
        self.known.events.extend(newest)
        return newest[-1].seq if newest else 0

    async def live(self) -> None:
        """Show, until somebody quits."""
        known, console = self.known, self._session.out
        after = await self.first_events()
        with single_keys(), Live(console=console, screen=True, auto_refresh=False) as self._live:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._follow, after)
                tasks.start_soon(self._keep_pools)
                tasks.start_soon(self._keep_rows)
                tasks.start_soon(self._tick)
                tasks.start_soon(self._hear_keys, tasks)
        if known.lost:
            raise CliError(UNREACHABLE, known.lost)

    def _show(self) -> None:
        if self._live is not None:
            size = self._session.out.size
            self._live.update(frame(self.known, size.width, size.height), refresh=True)

    async def _tick(self) -> None:
        while True:
            self._show()
            await anyio.sleep(1)

    async def _follow(self, after: int) -> None:
        try:
            async with aclosing(self._events.following(after)) as found:
                async for envelope in found:
                    self.known.events.append(envelope)
                    self._happened.set()
        except EverpoolError as error:  # refused; while the daemon is away it goes on by itself
            self.known.lost = str(error)

    async def _keep_pools(self) -> None:
        while True:
            began = time.monotonic()
            with anyio.move_on_after(POOLS_EVERY_S):
                await self._happened.wait()
            await anyio.sleep(max(0.0, POOLS_LEAST_S - (time.monotonic() - began)))
            self._happened = anyio.Event()
            if self.known.is_still:
                continue
            try:
                self.known.took_pools(await self._client.pools())
                if time.monotonic() - self._cost_at >= COST_EVERY_S:
                    self._cost_at = time.monotonic()
                    self.known.cost = await self._client.cost()
                self.known.lost = ""
            except EverpoolError as error:
                self.known.lost = str(error)
            self._show()

    async def _keep_rows(self) -> None:
        while True:
            with anyio.move_on_after(self._rows_pause_s()):
                await self._rows_wanted.wait()
            self._rows_wanted = anyio.Event()
            if self.known.is_still and self.known.rows_of == (self.known.chosen, self.known.view):
                continue
            try:
                await self._rows()
            except EverpoolError:  # the pool is gone, or the daemon: the pools' look tells which
                pass
            self._show()

    def _rows_pause_s(self) -> float:
        pool = next((one for one in self.known.pools if one["name"] == self.known.chosen), None)
        number = 0 if pool is None or self.known.view == "tasks" else int(pool["desired"])
        return max(ROWS_LEAST_S, ROWS_S_PER_NODE * number)

    async def _rows(self) -> None:
        known = self.known
        wanted = (known.chosen, known.view)
        if not known.chosen:
            known.rows, known.rows_of, known.more = (), wanted, 0
            return
        if known.older_of != known.chosen:  # else a quiet pool beside a busy one has none to show
            only = Chosen(self._client, known.chosen, (), None, missed=self._missed)
            known.older, known.older_of = await only.newest(EVENTS_FIRST), wanted[0]
        more = 0
        rows: Sequence[Any]
        match known.view:
            case "nodes":
                rows = await self._client.nodes(known.chosen)
            case "machines":
                rows = await self._client.instances(known.chosen)
            case "tasks":
                status = "living"
                rows = (await self._client.tasks(known.chosen, status=status, limit=TASKS_SHOWN)).tasks
                pool = next((one for one in known.pools if one["name"] == known.chosen), None)
                more = max(0, sum(pool["tasks"].values()) - len(rows)) if pool is not None else 0
        known.rows, known.rows_of, known.more = rows, wanted, more

    async def _hear_keys(self, tasks: TaskGroup) -> None:
        async with aclosing(keys()) as pressed:
            async for key in pressed:
                if key == "q":
                    break
                self._pressed(key)
                self._show()
        tasks.cancel_scope.cancel()

    def _pressed(self, key: str) -> None:
        known = self.known
        before = known.chosen, known.view
        known.missed = ""
        match key:
            case "up" | "k":
                known.choose(-1)
            case "down" | "j":
                known.choose(1)
            case "tab":
                known.view = VIEWS[(VIEWS.index(known.view) + 1) % len(VIEWS)]
            case "back-tab":
                known.view = VIEWS[(VIEWS.index(known.view) - 1) % len(VIEWS)]
            case "1" | "2" | "3":
                known.view = VIEWS[int(key) - 1]
            case "?" | "h":
                known.is_help = not known.is_help
            case "escape":
                known.is_help = False
            case " ":
                known.is_still = not known.is_still
            case "r":
                self._happened.set()
                self._rows_wanted.set()
            case _:
                return
        if before != (known.chosen, known.view):
            self._rows_wanted.set()
