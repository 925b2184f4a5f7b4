"""What runs behind a machine of a fake vendor: a real ssh server, so that the agent is really put there."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Boot:
    """What a vendor gives a machine to start with.

    Attributes:
        ref: the machine's id.
        host, port: where its ssh server has to answer; port 0: any, told by `Guests.boot`.
        user: who may log in.
        authorized_keys: of that user, one line each.
        host_key: private host key that its user data brings (OpenSSH PEM); "": it makes one of its own.
        env: in the environment of all that runs there, such as the metadata service's address.
    """

    ref: str
    host: str
    user: str
    authorized_keys: tuple[str, ...]
    port: int = 0
    host_key: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


class Guests(Protocol):
    """Starts and ends what runs behind machines. May be called from any thread."""

    def boot(self, boot: Boot) -> int:
        """Start a machine; returns the port of its ssh server, which may answer a little later."""
        ...

    def kill(self, ref: str) -> None:
        """End it without a word, with all that runs in it; nothing happens when there is none."""
        ...

    def close(self) -> None:
        """End all."""
        ...
