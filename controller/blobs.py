"""Input files of tasks, kept once by their sha256 and removed when no living task names them."""

import base64
import binascii
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from actors.spec import FilePut

KEEP_S = 3600.0  # unnamed blobs younger than this stay: their request may be on its way


class Blobs:
    """A directory of files named by the sha256 of their content."""

    def __init__(self, root: Path, on_task_done: Callable[[str, str], None]) -> None:
        self._root = root
        self._on_task_done = on_task_done
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def stored(self, file: FilePut) -> FilePut:
        """The same file with its content kept here.

        Raises:
            ValueError: the data is not base64, or the sha256 is of no file we have.
            OSError: it can't be written.
        """
        if file.sha256 and not file.data:
            try:
                os.utime(self._root / file.sha256)
            except FileNotFoundError as error:
                text = f"{file.path!r}: no file with that sha256 is here; send its data"
                raise ValueError(text) from error
            return file
        try:
            content = base64.b64decode(file.data, validate=True)
        except binascii.Error as error:
            raise ValueError(f"{file.path!r}: data is not base64") from error
        digest = hashlib.sha256(content).hexdigest()
        path = self._root / digest
        if path.exists():
            os.utime(path)
        else:
            self._write(path, content)
        return file.model_copy(update={"data": "", "sha256": digest})

    def _write(self, path: Path, content: bytes) -> None:
        descriptor, name = tempfile.mkstemp(dir=self._root, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as new:
                new.write(content)
                new.flush()
                os.fsync(new.fileno())
            os.replace(name, path)
        except OSError:
            Path(name).unlink(missing_ok=True)
            raise

    def pieces(self, file: FilePut, size: int) -> list[str]:
        """The content in base64 pieces of `size` bytes; at least one. Raises OSError."""
        content = (self._root / file.sha256).read_bytes()
        return [
            base64.b64encode(content[start : start + size]).decode()
            for start in range(0, max(1, len(content)), size)
        ]

    def task_done(self, pool: str, task_id: str) -> None:
        """The task is over: whoever follows its output may end."""
        self._on_task_done(pool, task_id)

    def collect(self, named: Iterable[str], now: float | None = None) -> int:
        """Remove blobs that no living task names; returns how many."""
        kept, removed = set(named), 0
        oldest = (time.time() if now is None else now) - KEEP_S
        for entry in list(os.scandir(self._root)):
            try:
                old = entry.name not in kept and entry.stat().st_mtime < oldest
            except FileNotFoundError:  # it was being written, and has its name now
                continue
            if old:
                Path(entry.path).unlink(missing_ok=True)
                removed += 1
        return removed
