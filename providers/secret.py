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

    @model_validator(mode="before")
    @classmethod
    def _not_itself(cls, given: object) -> object:
        if isinstance(given, str):
            text = "a secret is not written down here: say where it is"
            raise ValueError(f'{text}, such as {{ file = "/etc/everpool/key" }}')
        return given

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("file", "credential", "env") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError('give one of file, credential or env, such as { file = "/etc/everpool/key" }')
        named = str(getattr(self, given[0]))
        if not named or "\0" in named:
            raise ValueError(f"{given[0]} has to name something")
        if self.credential is not None and ("/" in self.credential or self.credential in (".", "..")):
            raise ValueError("a credential is named without a path")
        return self

    def path(self) -> Path | None:
        """The file that holds it; None for a variable of the environment.

        Raises:
            ProviderError: credentials; systemd did not hand us any.
        """
        if self.file is not None:
            try:
                return self.file.expanduser()
            except RuntimeError as error:  # there is no home
                raise ProviderError(Fault.CREDENTIALS, f"{self.file}: {error}") from error
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
            if not stat.S_ISREG(mode):  # reading a pipe would wait for who writes it
                raise ProviderError(Fault.CREDENTIALS, f"{path} is not a file")
            with path.open("rb") as file:
                body = file.read(SECRET_BYTES_MAX + 1)
            text = body.decode().strip()
        except OSError as error:
            raise ProviderError(Fault.CREDENTIALS, f"{path} can't be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ProviderError(Fault.CREDENTIALS, f"{path} is not text") from error
        if stat.S_IMODE(mode) & 0o007:
            raise ProviderError(Fault.CREDENTIALS, f"{path} may be read by everybody: chmod 600 {path}")
        if not text or len(body) > SECRET_BYTES_MAX:
            text = "is empty" if not text else f"has more than {SECRET_BYTES_MAX} bytes: that is no secret"
            raise ProviderError(Fault.CREDENTIALS, f"{path} {text}")
        return text
