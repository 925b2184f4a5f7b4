"""Keys that were used, and how their machines ended: an engine forgets a container once it is removed.

One small file per key, in the provider's own directory. Small and local, so written on the event loop.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from providers.model import Sighting

KEPT_S = 30 * 86_400.0  # a key is not launched again so long after
TOLD_FOR_S = 600.0  # an end is told once by each daemon that is up so soon after it


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
        self._untold: dict[str, Sighting] | None = None  # None: not read yet

    def note_made(self, key: str) -> None:
        """A machine of that key is there."""
        if not self._path(key).exists():
            self._write(_Entry(key=key))

    def is_used(self, key: str) -> bool:
        """Whether a machine of that key ever was."""
        return self._path(key).exists()

    def note_ended(self, tombstone: Sighting) -> None:
        """That key's machine is gone; the first word of it holds."""
        known = self._read(self._path(tombstone.key))
        if known is None or known.ended is None:
            self._write(_Entry(key=tombstone.key, ended=tombstone))
            self._to_tell()[tombstone.handle.ref] = tombstone

    def tell(self, is_wanted: Callable[[Sighting], bool]) -> list[Sighting]:
        """Ends that were not told yet, each once."""
        untold = self._to_tell()
        found = [one for one in untold.values() if is_wanted(one)]
        for one in found:
            del untold[one.handle.ref]
        return found

    def _to_tell(self) -> dict[str, Sighting]:
        """Ends to tell; at first those that an earlier daemon may not have told."""
        if self._untold is None:
            self._untold = {}
            now = self._now()
            for path in self._directory.glob("*.json"):
                entry = self._read(path)
                if entry is None or now - path.stat().st_mtime > KEPT_S:
                    path.unlink(missing_ok=True)
                elif entry.ended is not None and now - (entry.ended.ended_at or 0) < TOLD_FOR_S:
                    self._untold[entry.ended.handle.ref] = entry.ended
        return self._untold

    def _path(self, key: str) -> Path:
        return self._directory / f"{name_of(key)}.json"

    def _read(self, path: Path) -> _Entry | None:
        try:
            return _Entry.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            return None

    def _write(self, entry: _Entry) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._path(entry.key)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_text(entry.model_dump_json())
        draft.replace(path)
