"""The key of the vault: where it is read from, and when."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from controller.secrets.errors import NoKey
from controller.secrets.vault import Key, Vault, new_key
from providers.errors import ProviderError
from providers.secret import SECRET_BYTES_MAX, SecretSource

HOW = (
    "make a key with `everpool secrets keygen /etc/everpool/secrets.key`, name it in the config as "
    '[daemon] secrets_key = { file = "/etc/everpool/secrets.key" }, and run `everpool reload`'
)


def read_key(source: SecretSource) -> Key:
    """The key at a source, which may be bytes that are no text. Raises NoKey."""
    try:
        path = source.path()
        content = source.read().encode() if path is None else _content(path)
        return Key.parse(content)
    except ProviderError as error:
        raise NoKey(error.detail) from error
    except ValueError as error:
        raise NoKey(f"{_named(source)} {error}; {HOW}") from error


def _named(source: SecretSource) -> str:
    return str(source.file or source.credential or f"${source.env}")


def _content(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise NoKey(f"{path} is not a file")
        with path.open("rb") as file:
            content = file.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise NoKey(f"{path} can't be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o007:
        raise NoKey(f"{path} may be read by everybody: chmod 600 {path}")
    if len(content) > SECRET_BYTES_MAX:
        raise NoKey(f"{path} has more than {SECRET_BYTES_MAX} bytes: that is no key")
    return content


def write_new_key(path: Path) -> None:
    """Make a key in a file of its own, 0600. Raises FileExistsError, or another OSError."""
    with open(path, "x", opener=_private) as file:
        file.write(new_key() + "\n")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


Sources = tuple[SecretSource | None, SecretSource | None]  # of the key, and of the one before


class KeyRing:
    """The keys that the config names, read when they are first needed and kept while it names the same.

    A key that can't be read is looked for again the next time, so that it can be put there without a restart;
    until then the one that was read before goes on.

    Attributes:
        problem: why what the config names is not what is used; None: it is, or was not read yet.
    """

    def __init__(self, sources: Callable[[], Sources]) -> None:
        self._sources = sources
        self._read: tuple[Sources, Vault] | None = None
        self.problem: str | None = None

    @property
    def is_configured(self) -> bool:
        """Whether the config names a key."""
        return self._sources()[0] is not None

    def vault(self) -> Vault:
        """What seals and opens. Raises NoKey."""
        if self._read is not None and self._read[0] == self._sources():
            return self._read[1]
        try:
            return self.reread()
        except NoKey:
            if self._read is None or not self.is_configured:
                raise
            return self._read[1]

    def reread(self) -> Vault:
        """The same from what is there now. Raises NoKey, and keeps what it had."""
        sources = source, old = self._sources()
        self.problem = None
        if source is None:
            raise NoKey(f"there is no key to keep secrets with: {HOW}")
        try:
            vault = Vault([read_key(source), *([] if old is None else [read_key(old)])])
        except NoKey as error:
            self.problem = str(error)
            raise
        self._read = (sources, vault)
        return vault
