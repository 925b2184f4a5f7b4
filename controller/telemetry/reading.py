"""Reading files of records from any line, whole or as they grow.

Everything here runs in the thread that writes, so a file never changes between two statements.
"""

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from controller.telemetry.appending import find_end, numbered
from controller.telemetry.lines import LogLine, decode, to_line

_CHUNK_BYTES = 131_072
_ATTEMPTS_IN_CURSOR_MAX = 8


class Page(NamedTuple):
    """Some lines. `cursor` goes on after them; `more` tells that more are there already."""

    lines: list[LogLine]
    cursor: str
    more: bool


class Cursor:
    """How far a reader has come in each stream of each attempt of one task.

    As text: attempt.stdout.stderr of the newest attempts, joined by '-'. What is older was read.
    """

    def __init__(self, lines: dict[tuple[int, str], int] | None = None) -> None:
        self._lines = dict(lines or {})
        self._begins_at = min((attempt for attempt, _ in self._lines), default=0)

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises ValueError when `text` is no cursor. Empty: the beginning."""
        lines: dict[tuple[int, str], int] = {}
        if len(text) > 1000:
            raise ValueError("not a log cursor: too long")
        for part in text.split("-") if text else ():
            numbers = part.split(".")
            if len(numbers) != 3 or not all(n.isascii() and n.isdecimal() for n in numbers):
                raise ValueError(f"not a log cursor: {text[:100]!r}")
            attempt, out, err = map(int, numbers)
            lines[attempt, "stdout"], lines[attempt, "stderr"] = out, err
        return cls(lines)

    def wants(self, attempt: int) -> bool:
        """Whether lines of the attempt may still be unread."""
        return attempt >= self._begins_at

    def after(self, attempt: int, stream: str) -> int:
        """Number of the last line that was read."""
        return self._lines.get((attempt, stream), 0)

    def read(self, line: LogLine) -> None:
        """Note that a line was read."""
        self.set(line.attempt, line.stream, line.n)

    def set(self, attempt: int, stream: str, n: int) -> None:
        """Note that all up to line `n` was read."""
        self._lines[attempt, stream] = n

    def __str__(self) -> str:
        attempts = sorted({attempt for attempt, _ in self._lines})[-_ATTEMPTS_IN_CURSOR_MAX:]
        return "-".join(f"{a}.{self.after(a, 'stdout')}.{self.after(a, 'stderr')}" for a in attempts)


def last_line(base: str) -> int:
    """Number of the last finished line of a file, 0 when there is none."""
    for path in [base, *(path for _, path in reversed(numbered(base)))]:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            _, position = find_end(fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)
        if position is not None:
            return position.n - 1 if position.open else position.n
    return 0


def _first_number(path: str) -> int | None:
    try:
        with open(path, "rb") as file:
            record = decode(file.readline())
    except FileNotFoundError:
        return None
    return record["n"] if record is not None else None


class LineReader:
    """Lines of one growing file after line `after`, over its numbered parts. Close it.

    Attributes:
        finished: number of the last finished line, given out or overwritten.
        budget_bytes: how much may be read until it is set again.
    """

    def __init__(self, base: str, task: str, attempt: int, stream: str, after: int) -> None:
        self._base = base
        self._whose = (task, attempt, stream)
        self._seen = after  # the last record looked at
        self._fd = -1
        self._at = 0
        self._inode = 0
        self._pieces: list[LogLine] = []
        self._held: LogLine | None = None
        self.finished = after
        self.budget_bytes = 0

    def close(self) -> None:
        """Let go of the open file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def lines(self, *, raw: bool, over: bool) -> Iterator[LogLine]:
        """The finished lines that are there now; overwritten ones only if `raw`.

        `over`: nothing more will come, so an unfinished last line counts as well. A line that may
        yet be overwritten is given when it is the last for now.
        """
        for line in self._joined(over):
            if raw or not line.overwrite:
                self._held = None
                yield line
            else:
                self._held = line
        if self._held is not None:
            held, self._held = self._held, None
            yield held

    def _joined(self, over: bool) -> Iterator[LogLine]:
        for record in self._records():
            line = to_line(record, *self._whose)
            if self._pieces and self._pieces[0].n != line.n:
                yield self._join(cut=True)
            self._pieces.append(line)
            if not line.part:
                yield self._join(cut=False)
        if over and self._pieces and self.budget_bytes > 0:  # else the rest of the line was not read yet
            yield self._join(cut=False)

    def _join(self, *, cut: bool) -> LogLine:
        pieces, self._pieces = self._pieces, []
        self.finished = pieces[0].n
        if len(pieces) == 1:
            return pieces[0]._replace(cut=cut, part=False) if pieces[0].part else pieces[0]
        return pieces[-1]._replace(
            text="".join(piece.text for piece in pieces), cut=cut, part=False, lost_bytes=pieces[0].lost_bytes
        )

    def _records(self) -> Iterator[dict[str, Any]]:
        while self.budget_bytes > 0:
            if self._fd < 0 and not self._enter_wanted():
                return
            size = _CHUNK_BYTES
            chunk = os.pread(self._fd, size, self._at)
            while b"\n" not in chunk and len(chunk) == size:
                size *= 4  # one record longer than the chunk
                chunk = os.pread(self._fd, size, self._at)
            whole = chunk[: chunk.rfind(b"\n") + 1]
            if not whole and not self._enter_next():
                return
            self.budget_bytes -= len(whole)
            for raw in whole.split(b"\n")[:-1]:
                self._at += len(raw) + 1
                record = decode(raw)
                if (
                    record is None
                    or record["n"] < self._seen
                    or (record["n"] == self._seen and not self._pieces)
                ):
                    continue
                self._seen = record["n"]
                yield record

    def _enter_next(self) -> bool:
        """At the end of the open file: go to the one after it. False when it is the newest."""
        try:
            if os.stat(self._base).st_ino == self._inode:
                return False
        except FileNotFoundError:
            pass  # renamed, and nothing written since
        paths = self._paths()
        inodes = [os.stat(path).st_ino for path in paths]
        if self._inode not in inodes:  # deleted under us, perhaps with some after it
            return bool(paths) and self._enter_wanted()
        following = paths[inodes.index(self._inode) + 1 :]
        if following:
            self._enter(following[0])
        return bool(following)

    def _enter_wanted(self) -> bool:
        """Open the file that has the next line, at that line or shortly before it."""
        wanted, chosen = self._seen + 1, None
        for path in self._paths():
            first = _first_number(path)
            if first is not None and (chosen is None or first <= wanted):
                chosen = path
        if chosen is None:
            return False
        self._enter(chosen)
        self._at = _seek(self._fd, os.fstat(self._fd).st_size, wanted)
        return True

    def _enter(self, path: str) -> None:
        self.close()
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._inode, self._at = os.fstat(self._fd).st_ino, 0

    def _paths(self) -> list[str]:
        paths = [path for _, path in numbered(self._base)]
        return [*paths, self._base] if os.path.exists(self._base) else paths


def _seek(fd: int, size: int, wanted: int) -> int:
    """An offset at the start of a record, at or before the first one of line `wanted`; by bisection."""
    low, high = 0, size
    while high - low > _CHUNK_BYTES:
        middle = (low + high) // 2
        start = _next_record(fd, middle, high)
        if start is None:
            high = middle
            continue
        offset, n = start
        if n < wanted:
            low = offset
        else:
            high = middle
    return low


def _next_record(fd: int, offset: int, high: int) -> tuple[int, int] | None:
    """(offset, line number) of the first good record that begins after `offset` and before `high`."""
    size = 4096
    while True:
        data = os.pread(fd, size, offset)
        begin = data.find(b"\n") + 1
        while begin and offset + begin < high:
            end = data.find(b"\n", begin)
            if end < 0:
                break
            record = decode(data[begin:end])
            if record is not None:
                return offset + begin, record["n"]
            begin = end + 1
        if begin and offset + begin >= high:
            return None
        if len(data) < size:
            return None
        size *= 4
