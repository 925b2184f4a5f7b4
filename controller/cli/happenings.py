"""The command `events`: what happened, one sentence each."""

import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated

import typer
from rich.text import Text

from actors.events import Envelope
from controller.cli import specs
from controller.cli.codes import USAGE, CliError
from controller.cli.command import Session, command
from controller.cli.completing import event_kinds, pool_names, task_ids
from controller.client import AsyncClient, EventsPruned, EverpoolError
from controller.sentences import Level, told

PAGE = 1000
TAIL_MAX = 10_000  # the newest events that the daemon finds at once
FOLLOWED_LAST = 10  # events shown before those to come, when nobody says how many
STYLES: dict[Level, str] = {
    "DEBUG": "dim",
    "INFO": "",
    "SUCCESS": "green",
    "WARNING": "yellow",
    "ERROR": "bold red",
}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app)(events)


async def events(
    session: Session,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on for ever, after the newest 10 (or --limit) events.")
    ] = False,
    after: Annotated[
        int | None, typer.Option("--after", min=0, help="Begin behind this seq. 0: with the first.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DURATION", help="Only those of the last such as 10m.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option("--pool", help="Only of this pool.", autocompletion=pool_names)
    ] = None,
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="ID", help="Only of this task.", autocompletion=task_ids),
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help="Only of this kind, such as instance_replaced. Repeatable.",
            autocompletion=event_kinds,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", "-n", min=1, help="The newest so many; with --after the first so many."),
    ] = None,
) -> None:
    """Print what happened, in order, and with --follow what happens.

    A line is: time, pool, what happened, and in the end its kind and seq (a narrow terminal does without).
    With --json: an envelope a line. Where events are forgotten already, it says so once and goes on behind.
    """
    if after is not None and since is not None:
        raise CliError(USAGE, "--after and --since: say one of them")
    since_s = None if since is None else specs.seconds(since)
    ends_at_limit = after is not None  # else those to come are wanted besides
    async with session.client() as client:
        chosen = Chosen(client, pool, kind or (), task, missed=session.say)
        newest: Sequence[Envelope] = ()
        for doubt in await _doubts(client, pool, task, follow=follow):
            session.say(f"everpool: {doubt}")
        if since_s is not None:
            after = await chosen.seq_before(time.time() - since_s)
        if limit is not None and not ends_at_limit:
            newest = await chosen.newest(limit, behind=after or 0)
        elif follow and after is None:
            newest = await chosen.newest(FOLLOWED_LAST)
        show = shown(session)
        for envelope in newest:
            show(envelope)
        if newest:
            after = newest[-1].seq
        if limit is not None and not ends_at_limit and not follow:
            return
        if follow and after is None:
            after = await chosen.last_seq()
        left = limit if ends_at_limit else None
        async with aclosing(chosen.following(after or 0) if follow else chosen.pages(after or 0)) as found:
            async for envelope in found:
                show(envelope)
                left = None if left is None else left - 1
                if left == 0:
                    return


async def _doubts(client: AsyncClient, pool: str | None, task: str | None, *, follow: bool) -> list[str]:
    """Why there is nothing to be shown: a pool or task that is not known, and of which nothing is kept."""
    doubts = []
    for what, name in (("pool", pool), ("task", task)):
        if name is None:
            continue
        try:
            await (client.pool(name) if what == "pool" else client.task(name))
        except EverpoolError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                continue
            known = await client.events(
                tail=1, limit=1, pool=name if what == "pool" else None, task=name if what == "task" else None
            )
            if not known:
                goes_on = "; waiting for its first" if follow else ""
                doubts.append(f"{error}; no event of such a {what} is kept either{goes_on}")
    return doubts


class Chosen:
    """The events that somebody wants to see. `missed` is told, once, when some of them can't be had."""

    def __init__(
        self,
        client: AsyncClient,
        pool: str | None,
        kinds: Sequence[str],
        task: str | None,
        *,
        missed: Callable[[str], None],
    ) -> None:
        self._client, self._pool, self._kinds, self._task = client, pool, kinds, task
        self._missed: Callable[[str], None] | None = missed

    async def following(self, after: int) -> AsyncGenerator[Envelope, None]:
        """Those behind a seq, then those to come."""
        while True:
            try:
                found = self._client.follow(after, pool=self._pool, kinds=self._kinds, task=self._task)
                async with aclosing(found):
                    async for envelope in found:
                        after = envelope.seq
                        yield envelope
            except EventsPruned as pruned:
                after = self._gone_on(pruned, after)

    async def pages(self, after: int) -> AsyncGenerator[Envelope, None]:
        """Those behind a seq that are there now."""
        while True:
            try:
                page = await self._client.events(
                    after, limit=PAGE, pool=self._pool, kinds=self._kinds, task=self._task
                )
            except EventsPruned as pruned:
                after = self._gone_on(pruned, after)
                continue
            for envelope in page:
                yield envelope
            if not page:
                return
            after = page[-1].seq

    def _gone_on(self, pruned: EventsPruned, after: int) -> int:
        """Where to go on. Raises EventsPruned when that is where we were: then it would never end."""
        if pruned.cursor == after:
            raise pruned
        if self._missed is not None:
            if after < pruned.cursor:
                why = f"events up to seq {pruned.cursor} are not all kept any more"
            else:
                why = f"the newest event is {pruned.cursor}: the daemon's journal is another, or a backup's"
            self._missed(f"{why}; going on behind seq {pruned.cursor}")
            self._missed = None
        return pruned.cursor

    async def last_seq(self) -> int:
        """The seq of the newest event of all; 0 when there is none."""
        found = await self._client.events(tail=1, limit=1)
        return found[-1].seq if found else 0

    async def seq_before(self, at: float) -> int:
        """A seq behind which are the events since a time."""
        first = await self._first_behind(0)
        if first is None or first.at >= at:
            return 0
        low, high = first.seq, await self.last_seq()
        while low < high:  # the event of `low` is too old
            middle = (low + high) // 2
            try:
                there = await self._first_behind(middle)
            except EventsPruned as pruned:  # just now, and what is kept begins there
                low = min(pruned.cursor, high)
                continue
            if there is None or there.seq > high or there.at >= at:
                high = middle
            else:
                low = there.seq
        return low

    async def _first_behind(self, seq: int) -> Envelope | None:
        found = await self._client.events(seq, limit=1)
        return found[0] if found else None

    async def newest(self, number: int, *, behind: int = 0) -> list[Envelope]:
        """The newest so many behind a seq, oldest first."""
        if number <= TAIL_MAX:
            found = await self._client.events(
                tail=number, limit=number, pool=self._pool, kinds=self._kinds, task=self._task
            )
            return [envelope for envelope in found if envelope.seq > behind]
        first, last, window = await self._first_behind(0), await self.last_seq(), 2 * number
        behind = max(behind, first.seq - 1 if first is not None else 0)
        while True:
            start = max(behind, last - window)
            kept: deque[Envelope] = deque(maxlen=number)
            async for envelope in self.pages(start):
                kept.append(envelope)
            if len(kept) >= number or start <= behind:
                return list(kept)
            window *= 8


def shown(session: Session) -> Callable[[Envelope], None]:
    """How an event is printed: as JSON, or as a line, in colour on a terminal."""

    def as_json(envelope: Envelope) -> None:
        sys.stdout.write(envelope.model_dump_json() + "\n")
        sys.stdout.flush()

    def as_line(envelope: Envelope) -> None:
        text = line(envelope)
        if session.out.is_terminal and text.cell_len > session.out.width:
            text = line(envelope, kind=False)  # the sentence is what counts; --json and pipes have all
        session.out.print(text)

    return as_json if session.json else as_line


def line(envelope: Envelope, *, kind: bool = True, pool: bool = True) -> Text:
    """An event as one line: nothing is cut off. `kind`, `pool`: say them too."""
    level, words = told(envelope)
    moment = time.localtime(envelope.at)
    today = time.localtime()[:3] == moment[:3]
    clock = time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", moment)
    text = Text(clock, style="dim")
    if pool:
        text.append(f"  {envelope.pool or '-':<12}", style="bold not dim" if level != "DEBUG" else "dim")
    text.append("  ")
    text.append(words, style=f"not dim {STYLES[level]}" if level != "DEBUG" else "dim")
    if kind:
        text.append(f"  {envelope.event.kind} #{envelope.seq}", style="dim")
    return text
