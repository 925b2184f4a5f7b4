"""What a simulated agent keeps on its machine's disk: the records that a new process of it replays.

It is written when the real agent writes (`agent.Loop`): before a process is started and before anything
is said, so that what died unwritten was heard by nobody. And it is replaced by a snapshot when it grows.
"""

from typing import Any

from pydantic_core import from_json, to_json

from providers.agent import agent

RECORDS_MIN = 64  # a spool of so few is not worth a snapshot
Record = list[Any]


class Spool:
    """The records of one machine's agent."""

    __slots__ = ("_most", "_rebooted", "_unwritten", "_written")

    def __init__(self) -> None:
        self._rebooted = False
        self._written: list[Record] = []
        self._unwritten: list[Record] = []
        self._most = RECORDS_MIN

    def persist(self, record: Record) -> None:
        """Keep a record; it is not on disk before `write`."""
        self._unwritten.append(record)

    def write(self) -> None:
        """What was kept is on disk."""
        self._written += self._unwritten
        self._unwritten.clear()

    def lose(self) -> None:
        """The process died: what it had not written is gone."""
        self._unwritten.clear()

    def reboot(self) -> None:
        """The machine was booted again since."""
        self._rebooted = True

    def take_rebooted(self) -> bool:
        """Whether the machine was booted since this was last asked."""
        rebooted, self._rebooted = self._rebooted, False
        return rebooted

    @property
    def is_large(self) -> bool:
        """Whether it should be replaced by a snapshot."""
        return len(self._written) > self._most

    def rewrite(self, core: agent.Core) -> None:
        """Replace it by what matters now."""
        # As a real disk would give it back: nothing in it is shared with the core that wrote it.
        self._written = from_json(to_json(list(core.snapshot())))
        self._unwritten.clear()
        self._most = max(4 * len(self._written), RECORDS_MIN)

    def replay(self, core: agent.Core) -> bool:
        """Let a new core know all that was written; False: nothing was."""
        for record in from_json(to_json(self._written)):
            core.replay(record)
        return bool(self._written)
