"""What can be wrong with a secret. No text has a value in it.

SecretsError
├── NoKey         there is no key, or it can't be read
├── Sealed        the key is another one, or what is kept was changed
├── Missing       nothing of that name is kept
├── InUse         it can't be removed, since something living needs it
└── TooMuch       a limit
"""


class SecretsError(Exception):
    """The text says what to do."""


class NoKey(SecretsError):
    """There is no key to encrypt with, or it can't be read."""


class Sealed(SecretsError):
    """It was encrypted with a key that we do not have, or is not what was written."""


class Missing(SecretsError):
    """Nothing of that name is kept."""


class InUse(SecretsError):
    """Something that lives needs it. `users`: what, one line each, not all when they are many."""

    def __init__(self, text: str, users: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.users = users


class TooMuch(SecretsError):
    """More than is kept."""
