"""Which launch keys were sent, and what came of it: the vendor knows no tokens, and forgets what has ended.

Written down as it happens, so that the next daemon knows it too. Lines of one file; the oldest are forgotten.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic_core import from_json, to_json

from providers.errors import Fault, ProviderError

KEYS_MAX = 10_000
_log = structlog.get_logger("providers.vastai")


@dataclass(frozen=True, slots=True)
class Sent:
    """A create call that left. `ref`: the contract it made; None: nobody knows yet.

    `at`: in our own time, when it left, or later when it became unknown what came of it: until then it may
    have made something.
    """

    at: float
    ref: str | None = None


class Keys:
    """The keys that were sent, newest last.

    Args:
        path: of the file; its directory is made when there is something to write.
        now: wall time.
    """

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self._path, self._now = path, now
        self._sent: dict[str, Sent] = {}
        self._lines = 0
        self._read()

    def get(self, key: str) -> Sent | None:
        """What is known of a key; None: it was never sent, or surely made nothing."""
        return self._sent.get(key)

    def sending(self, key: str) -> None:
        """A create call is about to leave.

        Raises:
            ProviderError: not_sent; it can't be written down, so it must not leave.
        """
        try:
            self._put(key, Sent(self._now()))
        except OSError as error:
            self._sent.pop(key, None)
            text = f"{self._path} can't be written: {error.strerror}"
            raise ProviderError(Fault.NOT_SENT, text) from error

    def unheard(self, key: str) -> None:
        """Its call was given up, or answered with nothing that tells: it may have worked until now."""
        known = self._sent.get(key)
        if known is not None and known.ref is None:
            with self._told_when_full():
                self._put(key, Sent(self._now()))

    def made(self, key: str, ref: str) -> None:
        """A machine of this key was made, or seen."""
        known = self._sent.get(key)
        if known is None or known.ref is None:
            with self._told_when_full():
                self._put(key, Sent(self._now() if known is None else known.at, ref))

    def nothing_made(self, key: str) -> None:
        """The call surely made nothing: the key is free again."""
        if self._sent.pop(key, None) is not None:
            with self._told_when_full():
                self._write([key, None, 0])

    @contextmanager
    def _told_when_full(self) -> Iterator[None]:
        """What can't be written is known in memory still, and listings show what lives."""
        try:
            yield
        except OSError as error:
            _log.error("launch keys can't be written down", path=str(self._path), error=str(error))

    def _put(self, key: str, sent: Sent) -> None:
        self._sent.pop(key, None)
        self._sent[key] = sent
        while len(self._sent) > KEYS_MAX:
            self._sent.pop(next(iter(self._sent)))
        self._write([key, sent.ref, sent.at])

    def _write(self, line: list[object]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lines += 1
        if self._lines > 4 * KEYS_MAX:
            self._rewrite()
            return
        # Small and local, and before the call it speaks of: not worth a thread of its own.
        with self._path.open("ab") as file:
            file.write(to_json(line) + b"\n")

    def _rewrite(self) -> None:
        whole = b"".join(to_json([key, sent.ref, sent.at]) + b"\n" for key, sent in self._sent.items())
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(whole)
        fresh.replace(self._path)
        self._lines = len(self._sent)

    def _read(self) -> None:
        try:
            lines = self._path.read_bytes().splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return
        for line in lines:
            try:
                key, ref, at = from_json(line)
            except (ValueError, TypeError):  # cut off by a crash
                continue
            self._sent.pop(key, None)
            if at:  # one without a ref may have been on its way until that daemon ended
                self._sent[key] = Sent(self._now() if ref is None else at, ref)
        self._lines = len(lines)
