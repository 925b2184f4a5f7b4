"""Where a secret is read from: a file, a systemd credential or the environment. Never from the config itself.

A secret is read when it is needed and again when a vendor refuses it, so that it can be changed without a
restart.
"""

import os
import stat
from pathlib import Path
from typing import Self

from pydantic import model_validator

from providers.errors import Fault, ProviderError
from providers.model import Value

SECRET_BYTES_MAX = 64 * 1024


class SecretSource(Value):
    """Exactly one of: `file` (a path), `credential` (of the unit's LoadCredential=), `env` (a variable)."""

    file: Path | None = None
    credential: str | None = None
    env: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("file", "credential", "env") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError('give one of file, credential or env, such as { file = "/etc/everpool/key" }')
        if self.credential is not None and ("/" in self.credential or self.credential in ("", ".", "..")):
            raise ValueError("a credential is named without a path")
        return self

    def path(self) -> Path | None:
        """The file that holds it; None for a variable of the environment.

        Raises:
            ProviderError: credentials; systemd did not hand us any.
        """
        if self.file is not None:
            return self.file.expanduser()
        if self.credential is not None:
            directory = os.environ.get("CREDENTIALS_DIRECTORY")
            if not directory:
                load = f"LoadCredential={self.credential}:PATH"
                text = f"credential {self.credential!r}: not run by systemd with {load}"
                raise ProviderError(Fault.CREDENTIALS, text)
            return Path(directory) / self.credential
        return None

    def read(self) -> str:
        """The secret, without white space around it. Small and local, so it may be read on the event loop.

        Raises:
            ProviderError: credentials; it is not there, empty, or a file that everybody may read.
        """
        path = self.path()
        if path is None:
            text = os.environ.get(self.env or "", "").strip()
            if not text:
                raise ProviderError(Fault.CREDENTIALS, f"${self.env} is not set")
            return text
        try:
            mode = path.stat().st_mode
            text = path.read_bytes()[:SECRET_BYTES_MAX].decode().strip()
        except OSError as error:
            raise ProviderError(Fault.CREDENTIALS, f"{path} can't be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ProviderError(Fault.CREDENTIALS, f"{path} is not text") from error
        if stat.S_IMODE(mode) & 0o007:
            raise ProviderError(Fault.CREDENTIALS, f"{path} may be read by everybody: chmod 600 {path}")
        if not text:
            raise ProviderError(Fault.CREDENTIALS, f"{path} is empty")
        return text
