"""What a way into a machine promises."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from anyio.abc import ByteStream

from providers.model import Value


class Ran(Value):
    """A command that ended. `exit_code` None: the connection ended first, its outcome is unknown."""

    exit_code: int | None
    stdout: bytes
    stderr: bytes


class Host(Protocol):
    """An open, authenticated way into one machine. Raises HostError for what goes wrong."""

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30) -> Ran:
        """Run a command to its end; at most 1 MiB of each output is kept."""
        ...

    def open(self, argv: Sequence[str]) -> AbstractAsyncContextManager[ByteStream]:
        """Run a command with its stdin and stdout as a byte stream; leaving ends the command."""
        ...

    async def put(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        """Write a file whole or not at all; parent directories are made."""
        ...
