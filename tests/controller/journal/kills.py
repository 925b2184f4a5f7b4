"""kill -9 at random moments: `python -m tests.controller.journal.kills --kills N --seed S --planted WHAT`.

A recorded day is written by one process after the other, each killed at a moment of its own. After each the
journal is opened as a daemon opens it, and what it says must be what the recording says of some prefix of
the day that has all that was acknowledged. The next process goes on from there.
"""

import argparse
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Literal

import anyio

from actors.ports import Accepted, Submission
from controller.journal.journal import SqliteJournal
from controller.journal.lock import StateDirectory
from controller.recovery import Recovered, recover
from tests.controller.journal import planted
from tests.controller.journal.contents import Contents, Model, contents, difference
from tests.controller.journal.decisions import first_turns
from tests.controller.journal.recording import Step, apply, record
from tests.controller.journal.victim import (
    EVENTS_KEPT,
    IN_FLIGHT_MAX,
    REPORT,
    WORDS,
    Manner,
    Victim,
    Word,
    backup_of,
    forked,
)

Aim = Literal["opening", "a commit", "a checkpoint", "pruning", "backing up"]
MANNERS = (
    Manner(),
    Manner(prune_every=150),
    Manner(backup_every=60, uvloop=True),
    Manner(prune_every=100, backup_every=150),
)
KILLS_A_PASS = 60
MEMORY = "/dev/shm"  # kill -9 does not need a disk, and a busy one takes longer than all the rest
KILLS_ON_DISK, STEPS_ON_DISK = 20, 500
REPEATS_MAX = 40  # requests that are sent again after each kill
LATER_S = (0.0, 1.0, 60.0, 3600.0)  # after the last event, when the next daemon starts
CHECKPOINTS_EVERY = 16  # kills; a day has only a few of them
LOOKED_MOST = 300_000  # times that a file is looked at before another moment will do


class Broken(Exception):
    """What was recovered is not what was made durable."""


@dataclass(frozen=True, slots=True)
class Moment:
    """When one process is killed.

    Attributes:
        at: the step up to which it must have come before.
        aim: what it should be at.
        after_s: seconds after that.
    """

    at: int
    aim: Aim
    after_s: float


@dataclass(slots=True)
class Tally:
    """What came of the kills, for whoever wants figures."""

    kills: int = 0
    counts: Counter[str] = field(default_factory=Counter)


class Pass:
    """One state directory, from the first step of the day to the last.

    Args:
        folder: where it is.
        steps: the day.
        manner: what goes on besides commits.
        dice: of all that is random.
        tally: where figures go.
    """

    def __init__(
        self, folder: Path, steps: Sequence[Step], manner: Manner, dice: Random, tally: Tally
    ) -> None:
        self._folder = folder
        self._steps = steps
        self._manner = manner
        self._dice = dice
        self._tally = tally
        self._model = Model()
        self._copied = Model()  # what the newest backup holds
        self._copied_to = 0
        self._durable = 0  # steps
        self._epoch = 0
        self._at = 0.0  # of the newest event

    def run(self, kills: int) -> None:
        """Kill so many processes, then let one come to the end."""
        for moment in self._moments(kills):
            self._life(moment)
            if self._durable == len(self._steps):
                return
        self._life(None)
        if self._durable != len(self._steps):
            raise Broken(f"the end was not reached: {self._durable} of {len(self._steps)} steps")

    def _moments(self, kills: int) -> Iterator[Moment]:
        aims: list[Aim] = ["opening", "a commit", "a commit", "a commit"]
        aims += ["pruning"] if self._manner.prune_every else []
        aims += ["backing up"] if self._manner.backup_every else []
        places = sorted(int(self._dice.random() * len(self._steps) * 0.98) for _ in range(kills))
        for number, at in enumerate(places):
            aim = "a checkpoint" if number % CHECKPOINTS_EVERY == 5 else self._dice.choice(aims)
            yield Moment(at, aim, self._dice.random() * (0.02 if aim == "opening" else 0.003))

    # --- one process ------------------------------------------------------------------------------

    def _life(self, moment: Moment | None) -> None:
        victim: Callable[[int], None] = lambda pipe: Victim(  # noqa: E731
            self._folder, self._steps, self._durable, self._manner, pipe
        ).live()
        pid, pipe = forked(victim)
        reports: list[tuple[Word, int]] = []
        if moment is not None:
            self._wait_for(moment, pipe, reports)
            os.kill(pid, signal.SIGKILL)
        while some := _read(pipe):
            reports += some
        os.close(pipe)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status) and ("over", len(self._steps)) not in reports:
            raise Broken("the writer failed by itself")
        if moment is not None and os.WIFSIGNALED(status):
            self._tally.kills += 1
            self._tally.counts[f"at {moment.aim}"] += 1
        self._look(pid, reports)

    def _wait_for(self, moment: Moment, pipe: int, reports: list[tuple[Word, int]]) -> None:
        """Return at the moment to kill, or when it can't come any more."""
        if moment.aim != "opening":
            wanted: set[Word] = {"done"} if moment.aim in ("a commit", "a checkpoint") else {moment.aim}  # type: ignore[arg-type]
            while not any(word in wanted and number >= moment.at for word, number in reports):
                if not (some := _read(pipe)):
                    return
                reports += some
        if moment.aim == "a checkpoint":
            path = StateDirectory(self._folder).journal
            before = path.stat().st_mtime_ns
            for _ in range(LOOKED_MOST):
                if path.stat().st_mtime_ns != before:
                    self._tally.counts["in a checkpoint"] += 1
                    break
        until = time.perf_counter() + moment.after_s
        while time.perf_counter() < until:
            pass

    # --- what is left of it -----------------------------------------------------------------------

    def _look(self, pid: int, reports: list[tuple[Word, int]]) -> None:
        """Recover as the next daemon does, and compare."""
        wrong = [number for word, number in reports if word == "wrong"]
        if wrong:
            raise Broken(f"step {wrong[0]} was answered otherwise")
        if self._dice.random() < 0.5 or not self._folder.exists():
            self._recover(self._folder, reports)
        else:  # the next process finds the files as the last one left them
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name) / "state"
                shutil.copytree(self._folder, folder, ignore=shutil.ignore_patterns("backup-*", ".backup-*"))
                epoch = self._epoch
                self._recover(folder, reports)
                self._epoch = max(epoch, self._epoch - 1)  # the take-over was the copy's
        for word, number in reports:
            if word == "backed up":
                self._look_at_backup(backup_of(self._folder, number, pid))
        for left in (*self._folder.glob("backup-*"), *self._folder.glob(".backup-*")):
            left.unlink()

    def _recover(self, folder: Path, reports: list[tuple[Word, int]]) -> None:
        led = next((number for word, number in reports if word == "opened"), None)
        wal = StateDirectory(folder).journal.with_name("journal.sqlite3-wal")
        self._tally.counts["with a WAL"] += wal.exists() and wal.stat().st_size > 0
        with StateDirectory.take(folder) as taken:
            journal = SqliteJournal(taken.journal)
            try:
                if led is not None and journal.epoch != led + 1 or journal.epoch <= self._epoch:
                    raise Broken(f"epoch {journal.epoch} after {led}, and {self._epoch} before it")
                self._epoch = journal.epoch
                unsure = self._catch_up(taken.journal, reports)
                self._compare_decisions(journal)
                if folder != self._folder:
                    anyio.run(self._send_again, journal, unsure)
            finally:
                journal.close()

    def _catch_up(self, path: Path, reports: list[tuple[Word, int]]) -> list[Submission]:
        """Move the model on to where the file is; the requests that are durable and were not answered."""
        done = {number for word, number in reports if word == "done"}
        least = max(done, default=self._durable - 1) + 1
        while self._durable < least:
            self._advance()
        self._tally.counts["acknowledged"] += len(done)
        seen = contents(path)
        while self._difference(seen) is not None:
            if self._durable >= min(least + IN_FLIGHT_MAX, len(self._steps)):
                text = self._first_difference(seen, least)
                raise Broken(f"after step {least}, which was acknowledged: {text}")
            self._advance()
        self._tally.counts["durable, not acknowledged"] += self._durable - least
        first = min(done, default=self._durable)
        unanswered = [self._steps[i].what for i in range(first, self._durable) if i not in done]
        return [what for what in unanswered if isinstance(what, Submission)]

    def _first_difference(self, seen: Contents, least: int) -> str:
        model = Model()
        for step in self._steps[:least]:
            apply(model, step)
        self._model = model
        return str(self._difference(seen))

    def _advance(self) -> None:
        step = self._steps[self._durable]
        apply(self._model, step)
        self._durable += 1
        if not isinstance(step.what, Submission):
            self._at = max([self._at, *(envelope.at for envelope in step.what.envelopes)])

    def _difference(self, seen: Contents) -> str | None:
        """What is not as the model says; None when nothing is."""
        prunes = self._manner.prune_every is not None
        return difference(seen, self._model, self._is_prunable if prunes else None)

    def _is_prunable(self, key: object) -> bool:
        """Whether this may be missing, since what is over is pruned."""
        if isinstance(key, int):
            rows = self._model.requests.values()
            kept = {row[0] for row in rows if row[3] != "ended"} | {row[4] for row in rows}
            return key <= max(self._model.events) - EVENTS_KEPT and key not in kept
        return isinstance(key, tuple) and self._model.states[key][2]

    # --- what the next daemon makes of it ---------------------------------------------------------

    def _compare_decisions(self, journal: SqliteJournal) -> None:
        found = recover(journal.load_states(living_only=True), journal.open_requests())
        wanted = self._model.recovered()
        if found != wanted:
            raise Broken(f"recovered is not what was committed: {_unequal(found, wanted)}")
        if journal.reserve(1) <= max(self._model.events, default=0):
            raise Broken("a seq would be given twice")
        now = self._at + self._dice.choice(LATER_S)
        theirs, ours = (first_turns(one, journal.epoch, now) for one in (found, wanted))
        for pool in ours.keys() | theirs.keys():
            if ours.get(pool) != theirs.get(pool):
                raise Broken(f"{pool} would decide otherwise: {theirs.get(pool)} instead of {ours.get(pool)}")
            if ours[pool].bugs:
                raise Broken(f"{pool}: {ours[pool].bugs}")
            self._tally.counts["effects owed"] += len(ours[pool].owed)
            self._tally.counts["states decided anew"] += len(ours[pool].changed)
        self._tally.counts["pools recovered"] += len(ours)
        self._tally.counts["requests handed out again"] += len(found.requests)

    async def _send_again(self, journal: SqliteJournal, unsure: Sequence[Submission]) -> None:
        """Requests that nobody answered, and some that were, are known: sent again they change nothing."""
        known = [step.what for step in self._steps[: self._durable] if isinstance(step.what, Submission)]
        some = [*unsure, *self._dice.sample(known, min(REPEATS_MAX, len(known)))]
        for submission, answer in zip(some, await journal.accept(some), strict=True):
            wanted = self._model.accept(submission, 0)
            if isinstance(wanted, Accepted) and self._manner.prune_every is not None:
                # its event may be pruned: then it is answered under the time at which it was sent again
                again = wanted.envelope.model_copy(update={"at": submission.at})
                wanted = answer if answer == replace(wanted, envelope=again) else wanted
            if not isinstance(answer, Accepted) or answer != wanted:
                raise Broken(f"{submission.request.request_id} sent again: {answer} instead of {wanted}")
        self._tally.counts["requests sent again"] += len(some)
        self._tally.counts["of them never answered"] += len(unsure)

    def _look_at_backup(self, path: Path) -> None:
        """A finished backup is the journal of one moment, no earlier than the backup before it."""
        if self._manner.prune_every is not None:
            return
        seen = contents(path)
        while (text := difference(seen, self._copied)) is not None:
            if self._copied_to == self._durable:
                raise Broken(f"{path.name} is of no moment: {text}")
            apply(self._copied, self._steps[self._copied_to])
            self._copied_to += 1
        self._tally.counts["backups"] += 1


def _unequal(found: Recovered, wanted: Recovered) -> str:
    """What was recovered and what should have been, where they differ."""
    theirs, ours = _flat(found), _flat(wanted)
    for key in theirs.keys() | ours.keys():
        if theirs.get(key) != ours.get(key):
            return f"{key}: {theirs.get(key)!r} instead of {ours.get(key)!r}"
    return "the order"


def _flat(one: Recovered) -> dict[object, object]:
    flat: dict[object, object] = {}
    for pool, states in one.pools.items():
        flat |= {(pool, address): state for address, state in states.items()}
    return flat | dict(one.markets) | dict(one.quarantine) | dict(enumerate(one.requests))


def _read(pipe: int) -> list[tuple[Word, int]]:
    """What was reported meanwhile; nothing when the process is over."""
    data = os.read(pipe, 1024 * REPORT.size)
    return [(WORDS[word], number) for word, number in REPORT.iter_unpack(data)]


def kill_many(kills: int, seed: int, folder: Path, quick: Path, tally: Tally) -> None:
    """Kill so many processes in all.

    Args:
        kills: how many.
        seed: of the day, and of the moments.
        folder: on a disk; every fourth pass, a short one, is made there.
        quick: in memory, where there is such a thing; the others are made there.
        tally: where figures go.

    Raises:
        Broken: something was not recovered as it should be.
    """
    dice = Random(seed)
    steps = record(seed)
    for number in range(10 * kills):
        left = kills - tally.kills
        if left <= 0:
            return
        manner = MANNERS[number % len(MANNERS)]
        on_disk = number % len(MANNERS) == 0
        state = (folder if on_disk else quick) / f"state-{number}"
        some = steps[:STEPS_ON_DISK] if on_disk else steps
        Pass(state, some, manner, dice, tally).run(min(left, KILLS_ON_DISK if on_disk else KILLS_A_PASS))
        shutil.rmtree(state)


def main() -> int:
    """Kill, compare, and say how it went; 1 when something was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--planted", choices=planted.FAULTS, help="break the journal in this way first")
    options = parser.parse_args()
    if options.planted:
        planted.plant(options.planted)
    began, tally = time.perf_counter(), Tally()
    broken: Broken | None = None
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir=memory) as quick:
        try:
            kill_many(options.kills, options.seed, Path(folder), Path(quick), tally)
        except Broken as error:
            broken = error
    figures = ", ".join(f"{what} {count}" for what, count in sorted(tally.counts.items()))
    print(f"{figures}; {time.perf_counter() - began:.1f} s")  # noqa: T201
    if broken is not None:
        print(f"seed {options.seed} kill {tally.kills} BROKEN: {broken}")  # noqa: T201
        return 1
    print(f"seed {options.seed} kills {tally.kills} ok")  # noqa: T201
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
