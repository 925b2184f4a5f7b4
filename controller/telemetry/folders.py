"""Names of pools, tasks and instances as names of directories, and what is kept in those."""

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread

INSTANCES = "_instances"  # beside tasks; no task's folder can begin with "_"
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_EVICT_AT_ONCE_MAX = 16  # so that no append ever waits for long


def folder(name: str) -> str:
    """A directory name for `name`, another one for each: users choose task ids, and may choose '../..'."""
    if _PLAIN.fullmatch(name):
        return name
    return "~" + hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:40]


class _Measured(NamedTuple):
    changed_at: float
    key: str  # pool folder/task folder
    bytes: int


def measure(path: Path) -> tuple[int, float]:
    """Bytes in all files below `path`, and when the newest was changed."""
    total, newest = 0, 0.0
    for directory, _, files in os.walk(path):
        for name in files:
            try:
                found = os.lstat(os.path.join(directory, name))
            except FileNotFoundError:
                continue
            total += found.st_size
            newest = max(newest, found.st_mtime)
    return total, newest


class Kept:
    """How much every task keeps below one root, and which goes first when it is too much.

    Attributes:
        bytes: of all tasks together, as far as known (see `load`).
        evicted_tasks: whose files were deleted because of the maximum, since start.
        evicted_bytes: of these and of single files.
        failures: deletions that failed.
    """

    def __init__(self, root: Path, total_bytes_max: int, *, below: str = "") -> None:
        self._root = root
        self._below = below  # instead of tasks: what is in this folder of each pool
        self.total_bytes_max = total_bytes_max
        self.bytes = 0
        self.evicted_tasks = 0
        self.evicted_bytes = 0
        self.failures = 0
        self._of: dict[str, int] = {}
        self._over: dict[str, None] = {}  # tasks that are over, oldest first
        self._loaded = False

    def add(self, key: str, count: int) -> None:
        """Task `key` keeps `count` more bytes."""
        self._of[key] = self._of.get(key, 0) + count
        self.bytes += count

    def is_over(self, key: str) -> bool:
        """Whether the task was told to be over, and keeps something."""
        return key in self._over

    def finish(self, key: str) -> None:
        """The task is over: from now on its files may go."""
        if key in self._of or not self._loaded:  # an earlier process may have kept something for it
            self._over[key] = None

    def forget(self, key: str) -> bool:
        """Delete all of a task's files. False when some could not be deleted."""
        self.bytes -= self._of.pop(key, 0)
        self._over.pop(key, None)
        try:
            shutil.rmtree(self._root / key)
        except FileNotFoundError:
            return True
        except OSError:
            self.failures += 1
            return False
        return True

    def shrink(self, key: str, count: int) -> None:
        """One of the task's files, of `count` bytes, was deleted because of the maximum."""
        self.add(key, -count)
        self.evicted_bytes += count

    @property
    def too_much(self) -> bool:
        """Whether more is kept than may be."""
        return self.bytes > self.total_bytes_max

    def evict(self, spare: str = "", need: int = 0) -> list[str]:
        """Delete the oldest that are over until `need` more bytes fit, a few at a time; never `spare`."""
        gone: list[str] = []
        while self.bytes + need > self.total_bytes_max and len(gone) < _EVICT_AT_ONCE_MAX:
            key = next((key for key in self._over if key != spare), None)
            if key is None:
                break
            self.evicted_tasks += 1
            self.evicted_bytes += self._of[key]
            self.forget(key)
            gone.append(key)
        return gone

    async def load(self, is_live: Callable[[str], bool]) -> None:
        """Take in what an earlier process left; `is_live(key)` tells whose task is not over.

        Looks at every directory, in a thread; until it is done only what was written since counts.
        """
        found = sorted(await anyio.to_thread.run_sync(self._scan))
        for one in found:
            count = one.bytes
            if one.key in self._of:  # it was written to meanwhile
                count, _ = measure(self._root / one.key)
            self.add(one.key, count - self._of.get(one.key, 0))
        over = dict.fromkeys(one.key for one in found if one.key in self._over or not is_live(one.key))
        over.update(self._over)
        self._over = {key: None for key in over if key in self._of}
        self._loaded = True
        self.evict()

    def _scan(self) -> list[_Measured]:
        found: list[_Measured] = []
        if not self._root.is_dir():
            return found
        for pool in self._root.iterdir():
            place = pool / self._below
            if not place.is_dir():
                continue
            for one in place.iterdir():
                if one.name != INSTANCES and one.is_dir():
                    size, changed_at = measure(one)
                    found.append(_Measured(changed_at, one.relative_to(self._root).as_posix(), size))
        return found
