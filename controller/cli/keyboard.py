"""Single keys from a terminal, as names."""

import os
import sys
import termios
import tty
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import anyio

READ_BYTES = 64
_SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[Z": "back-tab",
    b"\t": "tab",
    b"\x1b": "escape",
}


@contextmanager
def single_keys() -> Iterator[None]:
    """Keys come one by one and are not shown; afterwards the terminal is as it was."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


async def keys() -> AsyncGenerator[str, None]:
    """Keys as they are pressed, until there is no terminal any more."""
    fd = sys.stdin.fileno()
    while True:
        await anyio.wait_readable(fd)
        data = os.read(fd, READ_BYTES)
        if not data:
            return
        for key in named(data):
            yield key


def named(data: bytes) -> list[str]:
    """What was pressed; several keys may come at once. Sequences that are not known are passed over."""
    found: list[str] = []
    while data:
        known = next((raw for raw in _SEQUENCES if len(raw) > 1 and data.startswith(raw)), None)
        if known is None and data.startswith(b"\x1b") and len(data) > 1:
            return found
        known = known or data[:1]
        found.append(_SEQUENCES.get(known, known.decode("latin-1")))
        data = data[len(known) :]
    return found
