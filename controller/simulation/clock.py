"""Time for lives on a virtual clock."""

import anyio


class VirtualClock:
    """UTC as the run has it: an instant plus virtual time.

    Args:
        start: UTC seconds when the run begins.
    """

    def __init__(self, start: float) -> None:
        self._start = start

    def now(self) -> float:
        """UTC seconds."""
        return self._start + anyio.current_time()
