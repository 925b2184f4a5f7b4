"""Files that are only appended to, in whole records, and that know after a crash where they stand."""

import errno
import os
from collections import OrderedDict

from controller.telemetry.lines import Position, decode, position_in

_TAIL_BYTES = 65_536
MODE = 0o600


def numbered(base: str) -> list[tuple[int, str]]:
    """The rotated files of `base`, oldest first: base.1, base.2 and so on, some perhaps deleted."""
    directory, name = os.path.split(base)
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    prefix = name + "."
    found = [
        (int(n[len(prefix) :]), n) for n in names if n.startswith(prefix) and n[len(prefix) :].isdecimal()
    ]
    return [(number, os.path.join(directory, n)) for number, n in sorted(found)]


def find_end(fd: int, size: int) -> tuple[int, Position | None]:
    """Where the last whole append ends, and the position written there; (0, None) when there is none.

    An append that a crash cut short has no position at its end, and goes: it was never acknowledged.
    """
    window = _TAIL_BYTES
    while size:
        start = max(0, size - window)
        data = _pread(fd, size - start, start)
        cut = 0 if start == 0 else data.find(b"\n") + 1  # the first line may have begun before
        end = data.rfind(b"\n") + 1
        while end > cut:
            begin = max(cut, data.rfind(b"\n", cut, end - 1) + 1)
            record = decode(data[begin : end - 1])
            position = position_in(record) if record is not None else None
            if position is not None:
                return start + end, position
            end = begin
        if start == 0:
            break
        window *= 4
    return 0, None


def _pread(fd: int, count: int, offset: int) -> bytes:
    parts: list[bytes] = []
    while count > 0:
        part = os.pread(fd, count, offset)
        if not part:
            break
        parts.append(part)
        count -= len(part)
        offset += len(part)
    return b"".join(parts)


class AppendFile:
    """One file under its current name `base`; older parts of it are base.1, base.2 …

    Attributes:
        position: what the last record written says.
        size: bytes under the current name.
    """

    def __init__(self, base: str) -> None:
        self.base = base
        self.position = Position()
        self.size = 0
        self._fd = -1
        self._open()

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._fd = os.open(self.base, flags, MODE)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self.base), mode=0o700, exist_ok=True)
            self._fd = os.open(self.base, flags, MODE)
        try:
            self._recover()
        except OSError:
            self.close()
            raise

    def _recover(self) -> None:
        size = os.fstat(self._fd).st_size
        end, position = find_end(self._fd, size)
        if end != size:
            os.ftruncate(self._fd, end)
        self.size = end
        if position is None:
            position = self._rotated_position()
        self.position = position

    def _rotated_position(self) -> Position:
        for _, path in reversed(numbered(self.base)):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _, position = find_end(fd, os.fstat(fd).st_size)
            finally:
                os.close(fd)
            if position is not None:
                return position
        return Position()

    def append(self, data: bytes, position: Position) -> None:
        """Write whole records, the last of which carries `position`: all of it or nothing.

        Raises:
            OSError: nothing was written (disk full); the file is as it was.
        """
        if self._fd < 0:
            self._open()
        try:
            written = os.write(self._fd, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.base)
        except OSError:
            try:
                os.ftruncate(self._fd, self.size)
            except OSError:
                self.close()  # the next append opens it again, and cuts what is torn
            raise
        self.size += written
        self.position = position

    def rotate(self) -> str:
        """Give the file so far its number; the next append begins a new one. Returns its new path."""
        parts = numbered(self.base)
        path = f"{self.base}.{parts[-1][0] + 1 if parts else 1}"
        os.rename(self.base, path)
        self.close()
        self.size = 0
        return path

    def delete_oldest(self) -> int:
        """Delete the oldest numbered part and return its size; 0 when there is none to spare.

        The newest part stays while nothing was written after it: it alone says where we stand.
        """
        parts = numbered(self.base)
        if len(parts) < (1 if self.size else 2):
            return 0
        size = os.stat(parts[0][1]).st_size
        os.unlink(parts[0][1])
        return size

    def close(self) -> None:
        """Let go of the descriptor. Appending opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class OpenFiles:
    """The files written to last, at most `files_max` of them."""

    def __init__(self, files_max: int) -> None:
        self._files_max = files_max
        self._files: OrderedDict[str, AppendFile] = OrderedDict()

    def get(self, base: str) -> AppendFile:
        """The file, opened and repaired where that was not done yet."""
        file = self._files.get(base)
        if file is not None:
            self._files.move_to_end(base)
            return file
        if len(self._files) >= self._files_max:
            self._files.popitem(last=False)[1].close()
        file = self._files[base] = AppendFile(base)
        return file

    def __contains__(self, base: str) -> bool:
        """Whether the file is open and whole."""
        return base in self._files

    def close(self, base: str) -> None:
        """Let go of a file."""
        file = self._files.pop(base, None)
        if file is not None:
            file.close()

    def close_all(self) -> None:
        """Let go of all."""
        for file in self._files.values():
            file.close()
        self._files.clear()


def repair(base: str) -> None:
    """Cut off what a crash left unfinished at the end of a file that is only going to be read."""
    try:
        fd = os.open(base, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        size = os.fstat(fd).st_size
        end, _ = find_end(fd, size)
        if end != size:
            os.ftruncate(fd, end)
    finally:
        os.close(fd)
