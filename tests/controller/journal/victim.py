"""A process that writes a recorded day into a journal as the daemon does, to be killed at any moment."""

import gc
import os
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anyio
from anyio.abc import TaskGroup, TaskStatus

from actors.ports import Accepted, Commit, Conflict
from controller.journal.journal import SqliteJournal
from controller.journal.lock import StateDirectory
from tests.controller.journal.recording import Step

IN_FLIGHT_MAX = 32
EVENTS_KEPT, STATES_KEPT = 200, 20  # when it prunes

Word = Literal["opened", "done", "wrong", "pruning", "backing up", "backed up", "over"]
WORDS: tuple[Word, ...] = ("opened", "done", "wrong", "pruning", "backing up", "backed up", "over")
REPORT = struct.Struct("<BI")  # which word, and the number of the step or the backup


@dataclass(frozen=True, slots=True)
class Manner:
    """What goes on besides commits.

    Attributes:
        prune_every: steps between two prunings; None for none.
        backup_every: steps between two backups; None for none.
        uvloop: the event loop that the daemon has, or asyncio's own.
    """

    prune_every: int | None = None
    backup_every: int | None = None
    uvloop: bool = False


class Victim:
    """Writes `steps` from `start` on, and says on `pipe` what was acknowledged.

    Args:
        folder: the state directory.
        steps: all of the recording.
        start: the first that is not durable yet.
        manner: what goes on besides.
        pipe: where reports go, a few bytes each, never in part.
    """

    def __init__(self, folder: Path, steps: Sequence[Step], start: int, manner: Manner, pipe: int) -> None:
        self._folder = folder
        self._steps = steps
        self._start = start
        self._manner = manner
        self._pipe = pipe
        self._under_way: dict[int, anyio.Event] = {}
        self._pruning = self._backing_up = False

    def live(self) -> None:
        """Take the state directory, and write to the end, unless something comes in between."""
        sys.setswitchinterval(0.0005)  # as the daemon does
        gc.freeze()
        with StateDirectory.take(self._folder) as taken:
            anyio.run(self._write, taken.journal, backend_options={"use_uvloop": self._manner.uvloop})

    def _say(self, word: Word, number: int) -> None:
        os.write(self._pipe, REPORT.pack(WORDS.index(word), number))

    async def _write(self, path: Path) -> None:
        async with SqliteJournal(path) as journal:
            self._say("opened", journal.epoch)
            async with anyio.create_task_group() as tasks:
                for number in range(self._start, len(self._steps)):
                    for earlier in self._steps[number].needs:
                        await self._acknowledged(earlier)
                    if len(self._under_way) >= IN_FLIGHT_MAX:
                        await self._acknowledged(min(self._under_way))
                    # as in the daemon, whatever can go on does: order is the order of these calls
                    await tasks.start(self._one, journal, number)
                    self._besides(tasks, journal, number)
        self._say("over", len(self._steps))

    async def _acknowledged(self, number: int) -> None:
        if (done := self._under_way.get(number)) is not None:
            await done.wait()

    async def _one(self, journal: SqliteJournal, number: int, *, task_status: TaskStatus[None]) -> None:
        step, done = self._steps[number], anyio.Event()
        self._under_way[number] = done
        task_status.started()  # no await between here and the journal's queue
        if isinstance(step.what, Commit):
            if step.what.envelopes:
                _move_to(journal, step.what.envelopes[-1].seq + 1)
            await journal.commit(step.what)
        else:
            _move_to(journal, step.seq)
            [answer] = await journal.accept([step.what])
            if not _is_right(answer, step):
                self._say("wrong", number)
        self._say("done", number)
        del self._under_way[number]
        done.set()

    # --- besides ----------------------------------------------------------------------------------

    def _besides(self, tasks: TaskGroup, journal: SqliteJournal, number: int) -> None:
        prune, backup = self._manner.prune_every, self._manner.backup_every
        if prune is not None and number % prune == 0 and not self._pruning:
            self._pruning = True
            tasks.start_soon(self._prune, journal, number)
        if backup is not None and number % backup == 0 and not self._backing_up:
            self._backing_up = True
            tasks.start_soon(self._back_up, journal, number)

    async def _prune(self, journal: SqliteJournal, number: int) -> None:
        self._say("pruning", number)
        await journal.prune(0.0, events_max=EVENTS_KEPT, states_max=STATES_KEPT)
        self._pruning = False

    async def _back_up(self, journal: SqliteJournal, number: int) -> None:
        self._say("backing up", number)
        await journal.backup(backup_of(self._folder, number, os.getpid()))
        self._say("backed up", number)
        self._backing_up = False


def backup_of(folder: Path, number: int, pid: int) -> Path:
    """Where the backup that a process began at a step goes."""
    return folder / f"backup-{number}-{pid}"


def _move_to(journal: SqliteJournal, seq: int) -> None:
    """Let the journal give `seq` next, as it did when this was recorded."""
    ahead = seq - journal.reserve(0)
    if ahead > 0:
        journal.reserve(ahead)


def _is_right(answer: Accepted | Conflict, step: Step) -> bool:
    """Whether a request got the seq, or the answer, that it got when this was recorded."""
    return isinstance(answer, Accepted) and answer.envelope.seq == step.seq


def forked(live: Callable[[int], None]) -> tuple[int, int]:
    """Run `live` in a copy of this process; its pid, and the pipe to read its reports from.

    This process must have no threads.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    os.close(reading)
    status = 1
    try:
        live(writing)
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)
