"""Running a program on a virtual clock, the same way each time."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio
import trio.testing
from trio._core import _run

T = TypeVar("T")


def run_virtual(main: Callable[[], Awaitable[T]], seed: int) -> T:
    """Run `main` on trio, where time jumps to whatever is waited for next. It starts at 0.

    The same program with the same seed takes the same course on every Python and in every process.
    Nothing in it may use a thread: time would run away while the thread works.
    """
    # Trio shuffles what is ready, on purpose. These two make it do so in the same way every time.
    _run._r.seed(seed)
    setattr(_run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # noqa: B010 - it is declared Final
    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
