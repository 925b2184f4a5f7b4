"""Keys that were used, and how their machines ended: an engine forgets a container once it is removed.

One small file per key, in the provider's own directory. Small and local, so written on the event loop. What
can't be written is held in memory and written with the next note that can be: no machine's life hangs on it.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from providers.model import Sighting

KEPT_S = 30 * 86_400.0  # a key is not launched again so long after
TOLD_FOR_S = 600.0  # an end is told once by each daemon that is up so soon after it
_log = structlog.get_logger("providers")


def name_of(key: str) -> str:
    """What a key is called where its characters are not allowed; also the end of its container's name."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")  # a later version may have written more

    key: str
    ended: Sighting | None = None


class Ledger:
    """Used keys below `directory`.

    Args:
        directory: made when something is written.
        now: wall time, seconds since the epoch.
    """

    def __init__(self, directory: Path, now: Callable[[], float]) -> None:
        self._directory, self._now = directory, now
        self._untold: dict[str, Sighting] = {}
        self._is_read = False  # what an earlier daemon may not have told
        self._unwritten: dict[str, _Entry] = {}  # by key
        self._has_complained = False

    def note_made(self, key: str) -> None:
        """A machine of that key is there."""
        try:
            is_known = self.is_used(key)
        except OSError:
            is_known = False
        if not is_known:
            self._note(_Entry(key=key))

    def is_used(self, key: str) -> bool:
        """Whether a machine of that key ever was. Raises OSError when that can't be read."""
        if key in self._unwritten:
            return True
        try:
            os.stat(self._path(key))
        except FileNotFoundError:
            return False
        return True

    def note_ended(self, tombstone: Sighting) -> None:
        """That key's machine is gone; the first word of it holds."""
        if not self.has_ended(tombstone.key):
            self._note(_Entry(key=tombstone.key, ended=tombstone))
            self._untold[tombstone.handle.ref] = tombstone

    def has_ended(self, key: str) -> bool:
        """Whether it was noted how that key's machine ended, as far as that can be read."""
        known = self._unwritten.get(key)
        if known is None or known.ended is None:
            try:
                known = _read(self._path(key))
            except OSError:
                known = None
        return known is not None and known.ended is not None

    def tell(self, is_wanted: Callable[[Sighting], bool]) -> list[Sighting]:
        """Ends that were not told yet, each once; at first those too that an earlier daemon may have left."""
        if not self._is_read:
            try:
                self._recall()
                self._is_read = True
            except OSError as error:
                self._complain(error)
        found = [one for one in self._untold.values() if is_wanted(one)]
        for one in found:
            del self._untold[one.handle.ref]
        return found

    def _recall(self) -> None:
        now = self._now()
        try:
            paths = [path for path in self._directory.iterdir() if path.suffix == ".json"]
        except FileNotFoundError:  # nothing was ever written
            return
        for path in paths:
            if now - path.stat().st_mtime > KEPT_S or (entry := _read(path)) is None:
                path.unlink(missing_ok=True)
            elif entry.ended is not None and now - (entry.ended.ended_at or 0) < TOLD_FOR_S:
                self._untold.setdefault(entry.ended.handle.ref, entry.ended)

    def _path(self, key: str) -> Path:
        return self._directory / f"{name_of(key)}.json"

    def _note(self, entry: _Entry) -> None:
        self._unwritten[entry.key] = entry
        try:
            for one in list(self._unwritten.values()):
                self._write(one)
                del self._unwritten[one.key]
        except OSError as error:
            self._complain(error)
        else:
            self._has_complained = False

    def _complain(self, error: OSError) -> None:
        if not self._has_complained:
            self._has_complained = True
            _log.warning("used keys can't be noted, they are held in memory", why=str(error))

    def _write(self, entry: _Entry) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(entry.key)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(entry.model_dump_json())
        draft.replace(path)


def _read(path: Path) -> _Entry | None:
    """One entry; None when there is none, or what is there is none. Raises OSError."""
    try:
        return _Entry.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None
