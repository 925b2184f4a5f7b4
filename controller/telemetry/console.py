"""What set-up steps print, per instance: logs/<pool>/_instances/<instance>/console.jsonl and older parts."""

from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path

import anyio.lowlevel

from controller.telemetry.appending import AppendFile, OpenFiles, numbered, repair
from controller.telemetry.folders import INSTANCES, Kept, folder
from controller.telemetry.lines import LogLine, Position, clean_at, encode
from controller.telemetry.reading import LineReader, Page, last_line
from controller.telemetry.watch import Watches
from providers.agent.wire import Console

_LINES_MAX = 10_000
_READ_BYTES_MAX = 8 * 2**20


class ConsoleStore:
    """Console output of all instances; of each at most `files_max` times `file_bytes`.

    Both streams are in one file, in the order in which they came. A cursor is a line number as text.
    """

    def __init__(
        self,
        root: Path,
        *,
        file_bytes: int = 2**20,
        files_max: int = 4,
        total_bytes_max: int = 2**30,
        open_max: int = 64,
    ) -> None:
        self._root = str(root)
        self._file_bytes = file_bytes
        self._files_max = files_max
        self._files = OpenFiles(open_max)
        self._watches = Watches()
        self.kept = Kept(root, total_bytes_max, below=INSTANCES)

    def append(self, pool: str, instance_id: str, report: Console, boot: str) -> list[LogLine]:
        """Keep a report that is new, and return its lines.

        Raises:
            OSError: nothing was written (disk full). Do not acknowledge, try later.
        """
        key = self._key(pool, instance_id)
        file = self._files.get(self._base(key))
        at = file.position
        if boot == at.boot and report.id <= at.id:
            return []
        content = report.content.removesuffix("\n")
        now = clean_at(report.at)
        lines = [
            LogLine(instance_id, 0, report.stream, at.n + i, now, text, report.overwrite)
            for i, text in enumerate(content.split("\n"), 1)
        ]
        position = Position(lines[-1].n, 0, boot, report.id, 0)
        records = [encode(line, stream=line.stream) for line in lines[:-1]]
        records.append(encode(lines[-1], position=position, source=instance_id, stream=report.stream))
        data = "".join(records).encode("utf-8", "replace")
        if file.size and file.size + len(data) > self._file_bytes:
            self._rotate(key, file)
        file.append(data, position)
        self.kept.add(key, len(data))
        for gone in self.kept.evict(spare=key):
            self._files.close(self._base(gone))
        self._watches.wake(key)
        return lines

    def _rotate(self, key: str, file: AppendFile) -> None:
        file.rotate()
        while len(numbered(file.base)) >= self._files_max:
            freed = file.delete_oldest()
            if not freed:
                break
            self.kept.shrink(key, freed)

    def finish(self, pool: str, instance_id: str) -> None:
        """The instance is gone: followers end when they have read all; its lines may go for room."""
        key = self._key(pool, instance_id)
        self._files.close(self._base(key))
        self.kept.finish(key)
        self._watches.finish(key)

    def remove(self, pool: str, instance_id: str) -> bool:
        """Delete what an instance said. False when that failed."""
        key = self._key(pool, instance_id)
        self._files.close(self._base(key))
        return self.kept.forget(key)

    async def load(self, live: Iterable[tuple[str, str]]) -> None:
        """Take in what an earlier process left; `live` are (pool, instance id) that are not gone yet."""
        keys = {self._key(pool, instance_id) for pool, instance_id in live}
        await self.kept.load(keys.__contains__)

    def close(self) -> None:
        """Let go of all files."""
        self._files.close_all()

    def read(
        self, pool: str, instance_id: str, *, after: str = "", limit: int = 1000, raw: bool = False
    ) -> Page:
        """Lines after a cursor. Raises ValueError when it is none."""
        reader = self._reader(pool, instance_id, after)
        try:
            return _take(reader, max(1, min(limit, _LINES_MAX)), raw)
        finally:
            reader.close()

    def tail(self, pool: str, instance_id: str, count: int, *, raw: bool = False) -> Page:
        """The last `count` lines, some fewer where lines were overwritten."""
        count = max(0, min(count, _LINES_MAX))
        end = last_line(self._whole(self._key(pool, instance_id)))
        return self.read(pool, instance_id, after=str(max(0, end - count)), limit=count or 1, raw=raw)

    async def follow(
        self,
        pool: str,
        instance_id: str,
        *,
        after: str = "",
        raw: bool = False,
        is_over: Callable[[], bool] = lambda: False,
    ) -> AsyncGenerator[Page, None]:
        """Lines after a cursor as they come, until the instance is gone. Close it when leaving early."""
        key = self._key(pool, instance_id)
        reader = self._reader(pool, instance_id, after)
        watch = self._watches.enter(key)
        try:
            while True:
                over = watch.over or self.kept.is_over(key) or is_over()
                page = _take(reader, None, raw)
                if page.lines:
                    yield page
                elif page.more:
                    await anyio.lowlevel.checkpoint()
                elif over:
                    return
                else:
                    await watch.wait()
        finally:
            reader.close()
            self._watches.leave(key)

    def _reader(self, pool: str, instance_id: str, after: str) -> LineReader:
        if after and not (after.isascii() and after.isdecimal() and len(after) < 18):
            raise ValueError(f"not a console cursor: {after[:100]!r}")
        base = self._whole(self._key(pool, instance_id))
        return LineReader(base, instance_id, 0, "stdout", int(after or 0))

    def _whole(self, key: str) -> str:
        base = self._base(key)
        if base not in self._files:
            repair(base)
        return base

    def _base(self, key: str) -> str:
        return f"{self._root}/{key}/console.jsonl"

    def _key(self, pool: str, instance_id: str) -> str:
        return f"{folder(pool)}/{INSTANCES}/{folder(instance_id)}"


def _take(reader: LineReader, limit: int | None, raw: bool) -> Page:
    """What a reader has; one that is to go on has no limit, for it reads ahead."""
    reader.budget_bytes = _READ_BYTES_MAX
    lines: list[LogLine] = []
    for line in reader.lines(raw=raw, over=False):
        if limit is not None and len(lines) >= limit:
            return Page(lines, str(lines[-1].n), True)
        lines.append(line)
    return Page(lines, str(reader.finished), reader.budget_bytes <= 0)
