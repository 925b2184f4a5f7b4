"""Logins to registries of images that whoever hosts the adapters keeps, besides those of a config."""

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are to one registry."""

    server: str
    username: str
    password: str = field(repr=False)


class Logins(Protocol):
    """Asked before each pull, so that a login that is stored or changed later counts at once."""

    def login(self, server: str) -> Login | None:
        """The login for a registry, by the name that stands before an image's; None: none is kept.

        Raises:
            ProviderError: credentials; one is kept, and can't be read.
        """
        ...


class NoLogins:
    """Nobody keeps any."""

    def login(self, server: str) -> Login | None:
        """None."""
        del server
        return None
