"""Who watches what really happens in a simulated cloud."""

from typing import Protocol


class Spectator(Protocol):
    """Who watches what really happens in the cloud, as nobody inside can. For tests and reports."""

    def machine_made(self, provider: str, key: str, ref: str, late: bool) -> None:
        """A machine begins to cost money; `late`: by a call whose daemon had died before."""

    def machine_ended(self, provider: str, key: str, ref: str, reason: str) -> None:
        """A machine is gone, and costs no more; with reason "stopped" it may come back."""

    def machine_resumed(self, provider: str, key: str, ref: str) -> None:
        """A machine that had ended is there again, and costs again."""

    def happened(self, text: str) -> None:
        """Something went wrong on purpose."""

    def process_began(self, ref: str, task: str, attempt: int) -> None:
        """An attempt's process runs."""

    def process_ended(self, ref: str, task: str, attempt: int) -> None:
        """An attempt's process is over."""
