"""Streams as the clients read them: where each stands, and how it goes on after a break."""

from collections.abc import Iterator
from typing import Generic, TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from actors.events import ConsoleOutput, Envelope, EventJson, Log, Metric
from controller.client_core import Call
from controller.client_wire import Json, LogLine, Params, clean

Measured = TypeVar("Measured", Log, ConsoleOutput, Metric)


class Lines:
    """Cuts a stream into lines, at line feeds and nowhere else."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Whole lines, without empty ones."""
        *whole, self._rest = (self._rest + chunk).split(b"\n")
        return [line for line in whole if line]


class EventFeed:
    """Where a follower of events stands."""

    path = "/v1/events"

    def __init__(self, after: int, wanted: Params) -> None:
        self.after = after
        self.follow = True
        self.over: Call[bool] | None = None
        self._wanted = wanted
        self._lines = Lines()

    def begin(self) -> dict[str, str]:
        """Parameters of the next connection."""
        self._lines = Lines()
        return clean({"after": self.after, "follow": self.follow, **self._wanted})

    def feed(self, chunk: bytes) -> Iterator[Envelope]:
        """Events in a chunk. One that this version does not know is passed over."""
        for line in self._lines.feed(chunk):
            try:
                envelope = Envelope.model_validate_json(line)
            except ValidationError:
                self.after = max(self.after, int(from_json(line)["seq"]))
                continue
            self.after = envelope.seq
            yield envelope


class LogFeed:
    """Where a reader of a log stands. Lines are given when the cursor behind them is known."""

    def __init__(
        self,
        path: str,
        wanted: Params,
        *,
        after: str,
        tail: int | None,
        follow: bool,
        over: Call[bool],
    ) -> None:
        self.path = path
        self.after = after
        self.follow = follow
        self.over: Call[bool] | None = over
        self._tail = tail
        self._wanted = wanted
        self._lines = Lines()
        self._held: list[LogLine] = []

    def begin(self) -> dict[str, str]:
        """Parameters of the next connection."""
        self._lines, self._held = Lines(), []
        return clean({"after": self.after, "tail": self._tail, "follow": self.follow, **self._wanted})

    def feed(self, chunk: bytes) -> Iterator[LogLine]:
        """Lines in a chunk."""
        for raw in self._lines.feed(chunk):
            line = LogLine.model_validate_json(raw)
            self._held.append(line)
            if line.cursor is not None:
                self.after, self._tail = line.cursor, None
                held, self._held = self._held, []
                yield from held


class TelemetryFeed(Generic[Measured]):
    """Where a reader of telemetry stands. The events of a page are given when all of it has come."""

    def __init__(
        self,
        path: str,
        kind: type[Measured],
        wanted: Params,
        *,
        after: str,
        follow: bool,
        over: Call[bool],
    ) -> None:
        self.path = path
        self.after = after
        self.follow = follow
        self.over: Call[bool] | None = over
        self._kind: type[Measured] = kind
        self._wanted = wanted
        self._lines = Lines()
        self._held: list[Measured] = []

    def begin(self) -> dict[str, str]:
        """Parameters of the next connection."""
        self._lines, self._held = Lines(), []
        return clean({"after": self.after or None, "follow": self.follow, **self._wanted})

    def feed(self, chunk: bytes) -> Iterator[Measured]:
        """Events in a chunk."""
        for raw in self._lines.feed(chunk):
            line: Json = from_json(raw)
            event = EventJson.validate_python(line["event"])
            if isinstance(event, self._kind):
                self._held.append(event)
            if not line.get("more", False):
                self.after = line["cursor"]
                held, self._held = self._held, []
                yield from held
