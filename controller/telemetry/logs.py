"""What tasks write, kept in files: each line once and in order, whatever is sent again or cut short.

`logs/<pool>/<task>/<attempt>.<stream>.jsonl` has one record a line (see `lines.py`); the last record of
each append says where the agent's output stands, in the same write. There is no fsync: what a
power cut takes from the page cache is cut off at a record's end, and what the agent still has
it sends again.
"""

from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path

import anyio.lowlevel

from controller.telemetry.appending import AppendFile, OpenFiles
from controller.telemetry.folders import Kept, folder
from controller.telemetry.lines import (
    LINE_BYTES_MAX,
    OVERWRITE,
    PIECE,
    STREAMS,
    LogLine,
    Position,
    Stream,
    clean_at,
    encode,
    past,
)
from controller.telemetry.reading import Cursor, Page
from controller.telemetry.taskreader import TaskReader, attempts_in
from controller.telemetry.watch import Watches
from providers.agent.wire import LogLines

_FILE_BYTES_MIN = 65_536  # a file this small is never given up for the total
LINES_MAX = 10_000  # in one answer


class LogStore:
    """The output of all tasks.

    Attributes:
        kept: bytes kept, and what was deleted because of the maximum.
        lines: log lines written since start.
        dropped: lines that agents did not keep, because of a task's quota.
        lost_lines, lost_bytes: what died unsent with a machine, where that is known.
    """

    def __init__(
        self,
        root: Path,
        *,
        file_bytes: int = 16 * 2**20,
        total_bytes_max: int = 10 * 2**30,
        files_max: int = 256,
    ) -> None:
        self._root = str(root)
        self._file_bytes = file_bytes
        self._files = OpenFiles(files_max)
        self._bases: dict[str, dict[str, None]] = {}  # task -> its files that may be open
        self._watches = Watches()
        self.kept = Kept(root, total_bytes_max)
        self.lines = 0
        self.dropped = 0
        self.lost_lines = 0
        self.lost_bytes = 0

    # --- writing ------------------------------------------------------------------------------

    def append(self, pool: str, report: LogLines, boot: str, instance_id: str) -> list[LogLine]:
        """Keep what of `report` is new, and return it.

        Raises:
            OSError: it could not be written (disk full). Nothing of it was: do not acknowledge, try later.
        """
        if not 0 <= report.attempt < 10**9:
            return []  # no attempt of ours
        key = self._key(pool, report.task)
        file = self._file(key, report.attempt, report.stream)
        at = file.position
        if report.id <= at.id and boot == at.boot:
            return []
        fresh, lost = past(report, at.next_offset)
        if not fresh and not report.dropped and report.next_offset <= at.next_offset:
            return []
        lines, opened = self._numbered(report, fresh, lost, at)
        position = Position(lines[-1].n, opened, boot, report.id, max(at.next_offset, report.next_offset))
        self._write(key, file, lines, position, instance_id)
        self.lines += len(lines)
        self.dropped += report.dropped
        self.lost_bytes += lost
        return lines

    def _numbered(
        self, report: LogLines, fresh: list[tuple[str, int]], lost: int, at: Position
    ) -> tuple[list[LogLine], int]:
        """Lines as records, and how many bytes the last one has when it is unfinished."""
        task, attempt, stream, now = report.task, report.attempt, report.stream, clean_at(report.at)
        n, opened = at.n, 0 if lost else at.open
        lines: list[LogLine] = []
        for text, kind in fresh:
            size = len(text) if kind != PIECE or text.isascii() else len(text.encode("utf-8", "replace"))
            if not opened or opened + size > LINE_BYTES_MAX:
                n, opened = n + 1, 0
            opened = opened + (size or 1) if kind == PIECE else 0
            lines.append(LogLine(task, attempt, stream, n, now, text, kind == OVERWRITE, kind == PIECE))
        if not lines:  # only a count of what was dropped
            lines.append(LogLine(task, attempt, stream, n + 1, now, ""))
            opened = 0
        if lost:
            lines[0] = lines[0]._replace(lost_bytes=lost)
        if report.dropped:
            lines[-1] = lines[-1]._replace(dropped=report.dropped)
        return lines, opened

    def lost(
        self, pool: str, task_id: str, attempt: int, *, lines: int = 0, bytes: int = 0, at: float = 0.0
    ) -> None:
        """Note in the attempt's log that so much of it died unsent. Said twice in a row it counts once.

        Raises:
            OSError: as `append`.
        """
        key = self._key(pool, task_id)
        file = self._file(key, attempt, "stderr")
        marker = (lines, bytes)
        if not any(marker) or file.position.marker == marker:
            return
        n = file.position.n + 1
        line = LogLine(task_id, attempt, "stderr", n, clean_at(at), "", lost_lines=lines, lost_bytes=bytes)
        position = file.position._replace(n=n, open=0, marker=marker)
        self._write(key, file, [line], position, "")
        self.lost_lines += lines
        self.lost_bytes += bytes

    def _write(
        self, key: str, file: AppendFile, lines: list[LogLine], position: Position, source: str
    ) -> None:
        records = [encode(line) for line in lines[:-1]]
        records.append(encode(lines[-1], position=position, source=source))
        data = "".join(records).encode("utf-8", "replace")
        if file.size and file.size + len(data) > self._file_bytes and not file.position.open:
            file.rotate()
        file.append(data, position)
        self.kept.add(key, len(data))
        if self.kept.too_much:
            self._make_room(key, file)
        self._watches.wake(key)

    def _make_room(self, key: str, file: AppendFile) -> None:
        """Tasks that are over give way first; then whoever writes gives up its own oldest lines."""
        for gone in self.kept.evict(spare=key):
            self._close(gone)
        if not self.kept.too_much:
            return
        freed = file.delete_oldest()
        if not freed and file.size > _FILE_BYTES_MIN and not file.position.open:
            file.rotate()  # to be given up once something was written after it
        if freed:
            self.kept.shrink(key, freed)

    def finish(self, pool: str, task_id: str) -> None:
        """The task is over: followers end when they have read all; its logs may be deleted for room."""
        key = self._key(pool, task_id)
        self.kept.finish(key)
        self._close(key)
        self._watches.finish(key)

    def remove(self, pool: str, task_id: str) -> bool:
        """Delete all logs of a task. False when some could not be deleted (counted in `kept.failures`)."""
        key = self._key(pool, task_id)
        self._close(key)
        return self.kept.forget(key)

    def close(self) -> None:
        """Let go of all files. Nothing is unwritten."""
        self._files.close_all()
        self._bases.clear()

    async def load(self, live: Iterable[tuple[str, str]]) -> None:
        """Take in, in the background, what an earlier process left; `live` are (pool, task) not over yet."""
        keys = {self._key(pool, task_id) for pool, task_id in live}
        await self.kept.load(keys.__contains__)

    def _key(self, pool: str, task_id: str) -> str:
        return f"{folder(pool)}/{folder(task_id)}"

    def _file(self, key: str, attempt: int, stream: str) -> AppendFile:
        base = f"{self._root}/{key}/{attempt}.{stream}.jsonl"
        file = self._files.get(base)
        self._bases.setdefault(key, {})[base] = None
        return file

    def _close(self, key: str) -> None:
        for base in self._bases.pop(key, ()):
            self._files.close(base)

    # --- reading ------------------------------------------------------------------------------

    def attempts(self, pool: str, task_id: str) -> list[int]:
        """Attempts that have written something, in order."""
        return attempts_in(f"{self._root}/{self._key(pool, task_id)}")

    def read(
        self,
        pool: str,
        task_id: str,
        *,
        attempt: int | None = None,
        stream: Stream | None = None,
        after: str | int = "",
        limit: int = 1000,
        raw: bool = False,
    ) -> Page:
        """Lines after a cursor, attempt by attempt, both streams of one merged by time.

        `after` as a number means lines after that number, in each stream of `attempt` (or of the first).
        Lines that were overwritten are left out unless `raw`. A line that is not finished yet is not shown.

        Raises:
            ValueError: `after` is no cursor.
        """
        key = self._key(pool, task_id)
        reader = self._reader(key, task_id, attempt, stream, after)
        try:
            return reader.take(max(1, min(limit, LINES_MAX)), raw=raw, over=self.kept.is_over(key))
        finally:
            reader.close()

    def tail(
        self,
        pool: str,
        task_id: str,
        count: int,
        *,
        attempt: int | None = None,
        stream: Stream | None = None,
        raw: bool = False,
    ) -> Page:
        """The last `count` lines, with the cursor that goes on after them."""
        key = self._key(pool, task_id)
        reader = self._reader(key, task_id, attempt, stream, "")
        try:
            return reader.tail(max(0, min(count, LINES_MAX)), raw=raw, over=self.kept.is_over(key))
        finally:
            reader.close()

    async def follow(
        self,
        pool: str,
        task_id: str,
        *,
        attempt: int | None = None,
        stream: Stream | None = None,
        after: str | int = "",
        raw: bool = False,
        limit: int = 1000,
        is_over: Callable[[], bool] = lambda: False,
    ) -> AsyncGenerator[Page, None]:
        """Lines after a cursor as they come, over all attempts, until the task is over and all is read.

        `is_over` tells of tasks that ended before this store heard of them. Close the iterator
        (`contextlib.aclosing`) when leaving it early. Raises as `read`.
        """
        key = self._key(pool, task_id)
        reader = self._reader(key, task_id, attempt, stream, after)
        watch = self._watches.enter(key)
        try:
            while True:
                over = watch.over or self.kept.is_over(key) or is_over()
                page = reader.take(max(1, min(limit, LINES_MAX)), raw=raw, over=over)
                if page.lines:
                    yield page
                elif page.more:
                    await anyio.lowlevel.checkpoint()
                elif over or reader.attempt_left:
                    return
                else:
                    await watch.wait()
        finally:
            reader.close()
            self._watches.leave(key)

    def _reader(
        self, key: str, task_id: str, attempt: int | None, stream: Stream | None, after: str | int
    ) -> TaskReader:
        if isinstance(after, str):
            cursor = Cursor.parse(after)
        else:
            chosen = attempt if attempt is not None else next(iter(attempts_in(f"{self._root}/{key}")), 1)
            cursor = Cursor({(chosen, name): after for name in STREAMS})
        return TaskReader(f"{self._root}/{key}", task_id, attempt, stream, cursor, self._files)
