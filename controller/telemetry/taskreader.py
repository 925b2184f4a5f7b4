"""One reader's way through all attempts of a task."""

import heapq
import os
import re
import sys

from controller.telemetry.appending import OpenFiles, repair
from controller.telemetry.lines import STREAMS, LogLine, Stream
from controller.telemetry.reading import Cursor, LineReader, Page, last_line

# Of one file in one call, so that no reader holds up the daemon; more than the longest line can take.
_READ_BYTES_MAX = 8 * 2**20
_ATTEMPTS_OPEN_MAX = 3  # an older attempt that was read to its end is not looked at again
_WINDOW_GROWTH = 8
_WINDOW_LINES_MAX = 100_000
_NAME = re.compile(r"(\d{1,9})\.(stdout|stderr)\.jsonl(?:\.\d+)?")


def attempts_in(directory: str) -> list[int]:
    """Attempts that have log files in a task's directory, in order."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted({int(found[1]) for name in names if (found := _NAME.fullmatch(name))})


class TaskReader:
    """Lines of one task after a cursor; of one attempt or stream only, if wanted. Close it.

    Attributes:
        attempt_left: the one attempt that is read is not the newest any more.
    """

    def __init__(
        self,
        directory: str,
        task: str,
        attempt: int | None,
        stream: Stream | None,
        cursor: Cursor,
        files: OpenFiles,
    ) -> None:
        self._directory = directory
        self._task = task
        self._attempt = attempt
        self._streams = STREAMS if stream is None else (stream,)
        self._cursor = cursor
        self._files = files  # what is written to now needs no repair
        self._readers: dict[tuple[int, str], LineReader] = {}
        self._from = 0
        self.attempt_left = False

    def close(self) -> None:
        """Let go of all files."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def take(self, limit: int, *, raw: bool, over: bool) -> Page:
        """Lines that are there now. `over`: nothing more will come, unfinished lines count as well."""
        attempts = attempts_in(self._directory)
        newest = attempts[-1] if attempts else 0
        self.attempt_left = self._attempt is not None and self._attempt < newest
        lines: list[LogLine] = []
        for place, attempt in enumerate(attempts, 1):
            if attempt < self._from or not self._wants(attempt):
                continue
            if not self._take_attempt(attempt, lines, limit, raw=raw, over=over or attempt < newest):
                self.close()  # what was read ahead is read again, from the cursor
                return Page(lines, str(self._cursor), True)
            if place <= len(attempts) - _ATTEMPTS_OPEN_MAX:
                self._from = attempt + 1
                for stream in self._streams:
                    self._readers.pop((attempt, stream)).close()
        return Page(lines, str(self._cursor), False)

    def _wants(self, attempt: int) -> bool:
        return self._cursor.wants(attempt) if self._attempt is None else attempt == self._attempt

    def _take_attempt(self, attempt: int, lines: list[LogLine], limit: int, *, raw: bool, over: bool) -> bool:
        """Add lines of one attempt; False when there are more than `limit` of them, or too many bytes."""
        readers = [self._reader(attempt, stream) for stream in self._streams]
        for reader in readers:
            reader.budget_bytes = _READ_BYTES_MAX
        for line in heapq.merge(*(r.lines(raw=raw, over=over) for r in readers), key=lambda line: line.at):
            if len(lines) >= limit:
                return False
            lines.append(line)
            self._cursor.read(line)
        for reader, stream in zip(readers, self._streams, strict=True):
            self._cursor.set(attempt, stream, max(self._cursor.after(attempt, stream), reader.finished))
        return all(reader.budget_bytes > 0 for reader in readers)

    def _reader(self, attempt: int, stream: Stream) -> LineReader:
        reader = self._readers.get((attempt, stream))
        if reader is None:
            base = self._base(attempt, stream)
            after = self._cursor.after(attempt, stream)
            reader = self._readers[attempt, stream] = LineReader(base, self._task, attempt, stream, after)
        return reader

    def _base(self, attempt: int, stream: Stream) -> str:
        base = f"{self._directory}/{attempt}.{stream}.jsonl"
        if base not in self._files:
            repair(base)
        return base

    def tail(self, count: int, *, raw: bool, over: bool) -> Page:
        """The last `count` lines."""
        attempts = [a for a in attempts_in(self._directory) if self._wants(a)]
        lines: list[LogLine] = []
        ends = Cursor({(a, s): last_line(self._base(a, s)) for a in attempts[-8:] for s in self._streams})
        for attempt in reversed(attempts):
            need = count - len(lines)
            if need <= 0:
                break
            finished = over or attempt < attempts[-1]
            found = self._tail_of(attempt, need, raw=raw, over=finished)
            for line in found:
                ends.set(attempt, line.stream, max(line.n, ends.after(attempt, line.stream)))
            lines[:0] = found
        return Page(lines, str(ends), False)

    def _tail_of(self, attempt: int, count: int, *, raw: bool, over: bool) -> list[LogLine]:
        """The last lines of one attempt: a window that grows, for overwritten lines do not count."""
        last = {stream: last_line(self._base(attempt, stream)) for stream in self._streams}
        window = count
        while True:
            self.close()
            self._cursor = Cursor({(attempt, stream): max(0, n - window) for stream, n in last.items()})
            lines: list[LogLine] = []
            while not self._take_attempt(attempt, lines, sys.maxsize, raw=raw, over=over):
                pass  # too many bytes for one call: go on where it stopped
            if len(lines) >= count or window >= min(max(last.values()), _WINDOW_LINES_MAX):
                return lines[-count:]
            window *= _WINDOW_GROWTH
