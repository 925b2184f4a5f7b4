"""Files that tasks leave behind, fetched in pieces: files/<pool>/<task>/<attempt>/<path>.

Pieces gather in `<attempt>.parts/` and the file appears under its own name when it is whole.
What could not be fetched leaves a record there instead, so that nobody waits for it.
"""

import base64
import binascii
import errno
import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from actors.spec import FETCH_BYTES_MAX, checked_relative
from controller.telemetry.folders import Kept, folder
from providers.agent.wire import FetchedFile

FILES_MAX = 4096  # of one attempt
_COUNTS_MAX = 1024
_ERROR_CHARS_MAX = 1000
_WRONG_PATH = {  # another file of the same task is in the way, or no file can have this name
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.EINVAL,
    errno.ENOTEMPTY,
    errno.ELOOP,
    errno.EILSEQ,
}

Outcome = Literal["piece", "whole", "known", "refused"]


class KeptFile(NamedTuple):
    """A file as a listing shows it; `error` tells why there is none."""

    attempt: int
    path: str
    bytes: int
    error: str | None = None


class _Refused(Exception):
    pass


class FileStore:
    """The files of all tasks.

    Attributes:
        kept: bytes kept, and what was deleted because of the maximum.
        whole: files completed since start.
        refused: files given up since start: too large, in a wrong place, not readable there.
    """

    def __init__(
        self,
        root: Path,
        *,
        file_bytes_max: int = FETCH_BYTES_MAX,
        total_bytes_max: int = 10 * 2**30,
        files_max: int = FILES_MAX,
    ) -> None:
        self._root = root
        self._file_bytes_max = file_bytes_max
        self._files_max = files_max
        self._counts: OrderedDict[tuple[str, int], int] = OrderedDict()
        self.kept = Kept(root, total_bytes_max)
        self.whole = 0
        self.refused = 0

    def put(self, pool: str, report: FetchedFile) -> Outcome:
        """Take in one piece; what is there already is left as it is.

        Raises:
            OSError: it could not be written (disk full). Do not acknowledge, send it again later.
        """
        if not 0 <= report.attempt < 10**9:
            return "refused"
        key = f"{folder(pool)}/{folder(report.task)}"
        try:
            return self._put(key, report)
        except _Refused as refusal:
            return self._refuse(key, report, str(refusal))
        except OSError as error:
            if error.errno not in _WRONG_PATH:
                raise
            return self._refuse(key, report, f"cannot be kept under this name: {error.strerror}")

    def _put(self, key: str, report: FetchedFile) -> Outcome:
        final = self._final(key, report.attempt, report.path)
        if final.is_file():
            return "known"
        part, error = self._parts(key, report.attempt, report.path)
        if error.exists():
            if report.offset or report.error is not None:
                return "known"
            error.unlink()  # it begins again
        if report.error is not None:
            raise _Refused(report.error)
        try:
            data = base64.b64decode(report.data, validate=True)
        except (binascii.Error, ValueError) as broken:
            raise _Refused("a piece is not base64") from broken
        self._check(key, report, len(data))
        have = self._write(key, part, report.offset, data)
        if not report.last or have < report.offset + len(data):
            return "piece"
        final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.rename(part, final)
        self._counts[key, report.attempt] = self._count(key, report.attempt) + 1
        self.whole += 1
        return "whole"

    def _check(self, key: str, report: FetchedFile, size: int) -> None:
        if report.offset < 0 or report.offset + size > self._file_bytes_max:
            raise _Refused(f"larger than {self._file_bytes_max} bytes")
        if self._count(key, report.attempt) >= self._files_max:
            raise _Refused(f"more than {self._files_max} files")
        self.kept.evict(spare=key, need=size)
        if self.kept.bytes + size > self.kept.total_bytes_max:
            raise _Refused("no room: the files of other tasks fill what may be kept")

    def _write(self, key: str, part: Path, offset: int, data: bytes) -> int:
        """Write what is new of a piece; returns how many bytes of the file are there."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(part, flags, 0o600)
        try:
            have = os.fstat(fd).st_size
            if offset > have:
                raise _Refused(f"{offset - have} bytes were lost with the machine's agent")
            fresh = memoryview(data)[have - offset :]
            while fresh:
                written = os.pwrite(fd, fresh, have)
                self.kept.add(key, written)
                have += written
                fresh = fresh[written:]
            return have
        finally:
            os.close(fd)

    def _refuse(self, key: str, report: FetchedFile, reason: str) -> Outcome:
        part, error = self._parts(key, report.attempt, report.path)
        if self._count(key, report.attempt) >= 2 * self._files_max:
            return "refused"  # so many records of refusals are enough
        try:
            size = part.stat().st_size
            part.unlink()
            self.kept.add(key, -size)
        except FileNotFoundError:
            pass  # refused at its first piece
        error.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        record = {"path": report.path[:4096], "error": reason[:_ERROR_CHARS_MAX]}
        written = error.with_suffix(".new")
        written.write_text(json.dumps(record), encoding="ascii")
        os.rename(written, error)
        self.kept.add(key, error.stat().st_size)
        self._counts[key, report.attempt] = self._count(key, report.attempt) + 1
        self.refused += 1
        return "refused"

    def _count(self, key: str, attempt: int) -> int:
        """Files and refusals of an attempt; looked up on disk where that is not remembered."""
        place = (key, attempt)
        if place not in self._counts:
            if len(self._counts) >= _COUNTS_MAX:
                self._counts.popitem(last=False)
            directory = self._root / key
            count = sum(len(files) for _, _, files in os.walk(directory / str(attempt)))
            self._counts[place] = count + len(list(directory.glob(f"{attempt}.parts/*.error")))
        return self._counts[place]

    def finish(self, pool: str, task_id: str) -> None:
        """The task is over: its files may be deleted when room is needed."""
        self.kept.finish(f"{folder(pool)}/{folder(task_id)}")

    def remove(self, pool: str, task_id: str) -> bool:
        """Delete all files of a task. False when some could not be deleted."""
        key = f"{folder(pool)}/{folder(task_id)}"
        for place in [place for place in self._counts if place[0] == key]:
            del self._counts[place]
        return self.kept.forget(key)

    async def load(self, live: Iterable[tuple[str, str]]) -> None:
        """Take in what an earlier process left; `live` are (pool, task) not over yet."""
        keys = {f"{folder(pool)}/{folder(task_id)}" for pool, task_id in live}
        await self.kept.load(keys.__contains__)

    def list(self, pool: str, task_id: str) -> list[KeptFile]:
        """Whole files and refusals of all attempts, in order of attempt and path."""
        directory = self._root / folder(pool) / folder(task_id)
        found: list[KeptFile] = []
        for place in directory.iterdir() if directory.is_dir() else ():
            attempt = place.name.removesuffix(".parts")
            if not attempt.isdecimal():
                continue
            if place.name != attempt:
                for error in place.glob("*.error"):
                    record = json.loads(error.read_text(encoding="ascii"))
                    found.append(KeptFile(int(attempt), record["path"], 0, record["error"]))
                continue
            for path in place.rglob("*"):
                if path.is_file():
                    name = path.relative_to(place).as_posix()
                    found.append(KeptFile(int(attempt), name, path.stat().st_size))
        return sorted(found)

    def path(self, pool: str, task_id: str, attempt: int, path: str) -> Path | None:
        """Where a whole file is, None when there is none of that name."""
        try:
            final = self._final(f"{folder(pool)}/{folder(task_id)}", attempt, path)
            return final if final.is_file() else None
        except (_Refused, OSError):  # a name that no file can have
            return None

    def open(self, pool: str, task_id: str, attempt: int, path: str) -> BinaryIO:
        """A whole file for reading. Raises FileNotFoundError when there is none of that name."""
        found = self.path(pool, task_id, attempt, path)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such file was fetched", path[:200])
        return found.open("rb")

    def _final(self, key: str, attempt: int, path: str) -> Path:
        try:
            parts = [part for part in checked_relative(path).split("/") if part not in ("", ".")]
            os.fsencode(path).decode("utf-8")
        except ValueError as wrong:
            raise _Refused("the path leaves the task's directory, or is no text") from wrong
        if not parts:
            raise _Refused("the path names no file")
        return Path(self._root, key, str(attempt), *parts)

    def _parts(self, key: str, attempt: int, path: str) -> tuple[Path, Path]:
        name = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:32]
        directory = self._root / key / f"{attempt}.parts"
        return directory / f"{name}.part", directory / f"{name}.error"
