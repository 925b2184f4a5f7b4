"""What `run` says while its task waits to be run."""

import re
import time
from types import TracebackType
from typing import Any, Self

import anyio
from rich.live import Live
from rich.spinner import Spinner

from actors.events import Envelope, TaskAttemptEnded, TaskQueued, TaskStarted
from controller.cli.command import Session
from controller.client import AsyncClient, EverpoolError
from controller.sentences import one_line
from controller.telling import lasting

WHY_AFTER_S = 2.0
WHY_EVERY_S = 5.0
_NUMBERS = re.compile(r"[0-9]+")


class Queued:
    """The phases of a task before its first output: queued, starting, running. A line on a terminal that goes
    away when the task runs; elsewhere a line for each reason to wait."""

    def __init__(self, session: Session, client: AsyncClient, pool: str, task: str) -> None:
        self._session, self._client, self._pool, self._task = session, client, pool, task
        self._began = time.monotonic()
        self._phase = "queued"
        self._why = ""
        self._said: set[str] = set()
        self._waits = anyio.Event()  # set when it does not any more
        self._spinner = Spinner("dots")
        console = session.err
        live = console.is_terminal and not console.is_dumb_terminal and not session.quiet
        self._live = (
            Live(console=console, transient=True, get_renderable=self._picture, refresh_per_second=8)
            if live
            else None
        )

    def __enter__(self) -> Self:
        """Begin to show."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the line away."""
        self.over()

    def over(self) -> None:
        """There is output, or an end: no more is said here."""
        self._waits.set()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def heard(self, envelope: Envelope) -> None:
        """Take in what happened to the task."""
        match envelope.event:
            case TaskStarted():
                self.over()
            case TaskAttemptEnded():
                self.over()  # what is said of it must not run into our line
            case TaskQueued(attempt=attempt) if attempt > 1:
                self._phase = f"queued again, for attempt {attempt}"
            case _:
                pass

    async def keep(self) -> None:
        """Look why it waits, until it does not."""
        pause_s = WHY_AFTER_S
        while not self._waits.is_set():
            with anyio.move_on_after(pause_s):
                await self._waits.wait()
                return
            pause_s = WHY_EVERY_S
            try:
                told = await self._client.explain_task(self._pool, self._task)
            except EverpoolError:  # it is over, or the daemon is away: others say so
                continue
            self._take(told)

    def _take(self, told: dict[str, Any]) -> None:
        status = told["task"]["status"]
        if status in ("running", "stopping", "stopped"):
            return
        self._phase = "queued" if status == "pending" else "starting"
        story = [one_line(text) for text in told["story"]]
        self._why = story[-1] if story else ""  # the first say that it waits, the last why
        key = _NUMBERS.sub("#", f"{status} {self._why}")
        if self._live is None and key not in self._said and not self._session.quiet:
            self._said.add(key)
            more = f"more: everpool{self._session.flags} explain {self._pool} --task {self._task}"
            self._session.say(f"everpool: {self._why or f'task {self._task} is {self._phase}'} {more}")

    def _picture(self) -> Spinner:
        why = f" · {self._why}" if self._why else ""
        text = f"{self._phase} {lasting(time.monotonic() - self._began)}{why}"
        width = max(20, self._session.err.width - 4)
        self._spinner.update(text=text if len(text) <= width else f"{text[: width - 1]}…")
        return self._spinner
