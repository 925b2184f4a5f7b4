"""Log, ConsoleOutput and Metric as events: the many small Facts, each stream with a cursor of its own."""

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic_core import to_json
from starlette.responses import Response

from actors.events import ConsoleOutput, Envelope, Log, Metric, NodeInstance, TaskStarted
from actors.instance.facts import node_instance
from controller.api.answers import NDJSON, Problem
from controller.api.edge import asking
from controller.api.port import Desk
from controller.api.reading import seen_instance
from controller.api.streaming import Closing, Stream
from controller.api.tasks import find
from controller.telemetry.lines import LogLine
from controller.telemetry.metrics_store import Point
from controller.telemetry.reading import Page

LIMIT_MAX = 10_000
Events = Iterable[Log | ConsoleOutput | Metric]
Parts = Callable[[], AsyncGenerator[bytes, None]]


def routes(desk: Desk, closing: Closing) -> APIRouter:
    """The routes of telemetry as events: JSON lines of {"cursor", "event"}, with "more" within a page."""
    router = APIRouter(tags=["telemetry"], default_response_class=Response)

    @router.get("/v1/telemetry/log")
    async def log(
        request: Request,
        task: str,
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = 1000,
        follow: bool = False,
    ) -> Response:
        """What a task writes, as Log events; a cursor goes on after (attempt, stream, line)."""
        found = await find(desk, task, asking(request))
        machines = _Machines(desk, task)
        first = _checked(lambda: desk.logs.read(found.pool, task, after=after, limit=limit, raw=True))
        if not follow:
            return Response(_page(first, await machines.logs(first.lines)), media_type=NDJSON)

        async def parts() -> AsyncGenerator[bytes, None]:
            pages = desk.logs.follow(
                found.pool, task, after=after, raw=True, is_over=lambda: _is_over(desk, task)
            )
            async with aclosing(pages) as following:
                async for page in following:
                    yield _page(page, await machines.logs(page.lines))

        return Stream(parts, NDJSON, closing)

    @router.get("/v1/telemetry/console")
    async def console(
        request: Request,
        instance: str,
        after: str = "",
        limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = 1000,
        follow: bool = False,
    ) -> Response:
        """What set-up steps print, as ConsoleOutput events."""
        state = seen_instance(desk, instance, asking(request))
        first = _checked(lambda: desk.console.read(state.pool, instance, after=after, limit=limit, raw=True))
        shown = node_instance(state)
        if not follow:
            return Response(_page(first, _console(shown, first.lines)), media_type=NDJSON)

        async def parts() -> AsyncGenerator[bytes, None]:
            pages = desk.console.follow(
                state.pool, instance, after=after, raw=True, is_over=lambda: _is_gone(desk, instance)
            )
            async with aclosing(pages) as following:
                async for page in following:
                    yield _page(page, _console(shown, page.lines))

        return Stream(parts, NDJSON, closing)

    @router.get("/v1/telemetry/metrics")
    async def metrics(
        request: Request, instance: str, after: Annotated[int, Query(ge=0)] = 0, follow: bool = False
    ) -> Response:
        """What a machine and its tasks measure, as Metric events with the machine's own times."""
        shown = node_instance(seen_instance(desk, instance, asking(request)))
        if not follow:
            return Response(
                _points(shown, desk.metrics.since(after, instance_id=instance)), media_type=NDJSON
            )

        async def parts() -> AsyncGenerator[bytes, None]:
            reports = desk.metrics.follow(
                after, instance_id=instance, is_over=lambda: _is_gone(desk, instance)
            )
            async with aclosing(reports) as following:
                async for points in following:
                    yield _points(shown, points)

        return Stream(parts, NDJSON, closing)

    return router


class _Machines:
    """Which machine each attempt of a task ran on: from its TaskStarted facts."""

    def __init__(self, desk: Desk, task: str) -> None:
        self._desk = desk
        self._task = task
        self._known: dict[int, NodeInstance] = {}

    async def logs(self, lines: Iterable[LogLine]) -> list[Log]:
        shown = list(lines)
        if any(line.attempt not in self._known for line in shown):
            await self._look()
        return [
            Log(
                instance=self._known[line.attempt],
                line=line.text,
                stream=_stream(line),
                overwrite=line.overwrite,
                task_id=self._task,
                attempt=line.attempt,
                number=line.n,
            )
            for line in shown
            if line.attempt in self._known
        ]

    async def _look(self) -> None:
        rows = await self._desk.journal.events(0, LIMIT_MAX, None, ("task_started",), request_id=self._task)
        for _, body in rows:
            fact = Envelope.model_validate_json(body).event
            if isinstance(fact, TaskStarted) and fact.instance is not None:
                self._known[fact.attempt] = fact.instance
        state = self._desk.status.task_state(self._task)
        machine = self._desk.status.instance_state(getattr(state, "instance_id", None) or "")
        if state is not None and machine is not None:  # its first lines can be here before its start is told
            self._known.setdefault(state.attempt, node_instance(machine))


def _stream(line: LogLine) -> Literal["stdout", "stderr"]:
    return "stderr" if line.stream == "stderr" else "stdout"


def _console(machine: NodeInstance, lines: Iterable[LogLine]) -> list[ConsoleOutput]:
    return [
        ConsoleOutput(instance=machine, content=line.text, stream=_stream(line), overwrite=line.overwrite)
        for line in lines
    ]


def _points(machine: NodeInstance, points: Iterable[Point]) -> bytes:
    return b"".join(
        _line(
            str(point.seq),
            Metric(
                instance=machine,
                name=point.name,
                value=point.value,
                timestamp=point.at,
                task_id=point.task,
            ),
        )
        for point in points
    )


def _page(page: Page, events: Events) -> bytes:
    """Every line of a page carries the page's cursor: who stops in its middle reads the page again.

    All but the last say that more of the page follows.
    """
    some = list(events)
    return b"".join(_line(page.cursor, event, place < len(some)) for place, event in enumerate(some, 1))


def _line(cursor: str, event: Log | ConsoleOutput | Metric, more: bool = False) -> bytes:
    line = {"cursor": cursor, "event": event.model_dump(mode="json")}
    return to_json({**line, "more": True} if more else line) + b"\n"


def _checked(read: Callable[[], Page]) -> Page:
    try:
        return read()
    except ValueError as error:
        raise Problem(422, f"after: {error}") from error


def _is_over(desk: Desk, task: str) -> bool:
    state = desk.status.task_state(task)
    return state is None or state.status == "stopped"


def _is_gone(desk: Desk, instance: str) -> bool:
    state = desk.status.instance_state(instance)
    return state is None or state.status == "destroyed"
