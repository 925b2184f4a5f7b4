"""The journal against its model: commits, requests, pruning, backups, restarts and crashes in any order."""

import asyncio
import copy
import shutil
import sqlite3
import tempfile
from collections.abc import Coroutine, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.events import Envelope, PoolResizeRequested, TaskCompleted, TaskQueued, TaskRequested
from actors.ports import Accepted, Commit, Conflict, JournalClosed, StateRow, Submission
from actors.spec import TaskSpec
from controller.journal.journal import SqliteJournal
from tests.controller.journal.contents import Contents, Key, Model, contents, difference
from tests.controller.journal.samples import Sample

POOLS = ("a", "b", "c-3")
T = TypeVar("T")

# which actor (None: an event of no state), what becomes of it
changes = st.lists(
    st.tuples(st.sampled_from("xyz"), st.sampled_from(["put", "put", "over", "gone", "twice"])), max_size=4
)
turns = st.fixed_dictionaries(
    {
        "pool": st.sampled_from(POOLS),
        "changes": changes,
        "events": st.integers(0, 3),
        "taken": st.integers(0, 2),
        "ended": st.integers(0, 2),
        "sends": st.booleans(),
    }
)
sent = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(["true", "true", "false"]), st.sampled_from(POOLS)),
    min_size=1,
    max_size=6,
)


class JournalModel(RuleBasedStateMachine):
    """Whatever happens, what was acknowledged is there, once, and nothing else is."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.lives = 0
        self.model = Model()
        self.clock = 1000.0
        self.number = 0
        self.backups: list[tuple[Path, Model]] = []
        self.loop = asyncio.Runner()
        self.path = self.folder / "0" / "journal.sqlite3"
        self.path.parent.mkdir()
        self.epoch = 0
        self.journal = self.opened(self.path)

    def opened(self, path: Path) -> SqliteJournal:
        """The journal as a daemon opens it: under a newer epoch, behind all that is durable."""
        journal = SqliteJournal(path, now=self.now)
        assert journal.epoch > self.epoch
        self.epoch = journal.epoch
        assert journal.reserve(0) > max(self.model.events, default=0)
        return journal

    def now(self) -> float:
        """Later each time."""
        self.clock += 1.0
        return self.clock

    def run(self, what: Coroutine[Any, Any, T]) -> T:
        """Let the journal's event loop run until something is done."""
        return self.loop.run(what)

    # --- commits ----------------------------------------------------------------------------------

    @rule(some=st.lists(turns, min_size=1, max_size=5))
    def turn(self, some: list[dict[str, Any]]) -> None:
        """Several pools commit at once."""
        self.run(self.commit_all([self.commit(**one) for one in some]))

    async def commit_all(self, commits: list[Commit]) -> None:
        """Hand all over, then wait for all."""
        await asyncio.gather(*(self.journal.commit(commit) for commit in commits))
        for commit in commits:
            self.model.commit(commit)

    def commit(
        self, pool: str, changes: list[tuple[str, str]], events: int, taken: int, ended: int, sends: bool
    ) -> Commit:
        """One turn's commit."""
        rows: list[StateRow] = []
        for name, what in changes:
            self.number += 1
            state = None if what == "gone" else Sample(number=self.number, text="ü" * (self.number % 50))
            rows.append(StateRow("sample", name, 1 + self.number % 3, state, terminal=what == "over"))
            if what == "twice":
                rows.append(StateRow("sample", name, 2, Sample(number=-self.number)))
        open_ones = [name for name, row in self.model.requests.items() if row[3] != "ended"]
        taken_ones = open_ones[:taken]
        ends = [name for name in open_ones[-ended:] if ended] if events else []
        envelopes = [self.event(pool, i, ends if i == 0 else []) for i in range(events)]
        if sends:
            envelopes.append(self.request_of_an_actor(pool))
        return Commit(pool, rows, envelopes, taken_ones)

    def event(self, pool: str, i: int, ends: list[str]) -> Envelope:
        """A fact, which may end requests."""
        fact: Any = TaskQueued(task_id=str(self.number), attempt=i + 1)
        if ends:
            fact = TaskCompleted(task_id=ends[0], instance=None, duration=1, success=True, result="success")
        seq = self.reserve()
        request = ends[0] if ends else None
        return Envelope(
            seq=seq,
            at=self.clock,
            pool=pool,
            request_id=request,
            ends=tuple(ends),
            event=fact,
            caused_by=None,
        )

    def request_of_an_actor(self, pool: str) -> Envelope:
        """A request that an actor sends another."""
        self.number += 1
        request = PoolResizeRequested(request_id=f"own-{self.number}", pool=pool, nodes=self.number)
        seq = self.reserve()
        return Envelope(seq=seq, at=self.clock, pool=pool, request_id=request.request_id, event=request)

    def reserve(self) -> int:
        """Take a seq: newer than any before."""
        seq = self.journal.reserve(1)
        assert seq > max(self.model.events, default=0)
        return seq

    # --- requests ---------------------------------------------------------------------------------

    @rule(lists=st.lists(sent, min_size=1, max_size=3))
    def submit(self, lists: list[list[tuple[int, str, str]]]) -> None:
        """Users send requests, some of them again, some with another body."""
        self.run(self.accept_all([[self.submission(*one) for one in some] for some in lists]))

    def submission(self, number: int, argv: str, pool: str) -> Submission:
        """One request; its id says nothing of its body."""
        request = TaskRequested(request_id=f"r{number}", pool=pool, task=TaskSpec(argv=(argv,)))
        return Submission(pool, request, "somebody", self.clock)

    async def accept_all(self, lists: list[list[Submission]]) -> None:
        """Hand all over at once, and compare the answers with the model's."""
        first = self.journal.reserve(0)
        answers = await asyncio.gather(*(self.journal.accept(some) for some in lists))
        for some, answered in zip(lists, answers, strict=True):
            for i, (submission, answer) in enumerate(zip(some, answered, strict=True)):
                name = submission.request.request_id
                known = self.model.requests.get(name)
                wanted = self.model.accept(submission, first + i)
                if known is not None and isinstance(wanted, Accepted) and known[0] not in self.model.events:
                    assert isinstance(answer, Accepted)  # its event is pruned: its time was that of the first
                    assert (answer.envelope.seq, answer.ended_by) == (known[0], known[4])
                elif known is not None and isinstance(wanted, Accepted):
                    assert isinstance(answer, Accepted)
                    assert (answer.new, answer.ended_by) == (False, wanted.ended_by)
                    assert answer.envelope.seq == wanted.envelope.seq
                else:
                    assert answer == wanted
                if isinstance(wanted, Conflict):
                    assert known is not None
            first += len(some)

    # --- retention --------------------------------------------------------------------------------

    @rule(
        age=st.sampled_from([0, 5, 50, 10_000]),
        events_max=st.sampled_from([0, 3, 20, 1000]),
        requests_max=st.sampled_from([0, 3, 1000]),
        states_max=st.sampled_from([0, 1, 1000]),
    )
    def prune(self, age: int, events_max: int, requests_max: int, states_max: int) -> None:
        """What is over is forgotten, the oldest first; what lives is not."""
        older_than = self.clock - age
        updated, ended_at = times(self.path)
        pruned = self.run(
            self.journal.prune(
                older_than, events_max=events_max, requests_max=requests_max, states_max=states_max
            )
        )
        seen = contents(self.path)
        waiting = {row[0] for row in self.model.requests.values() if row[3] != "ended"}
        waiting |= {row[4] for name, row in self.model.requests.items() if name in seen.requests and row[4]}
        events = self.model.events.keys() - seen.events.keys()
        newest = max(self.model.events, default=0)
        for seq, body in self.model.events.items():
            at = Envelope.model_validate_json(body).at
            assert (seq in events) == ((seq <= newest - events_max or at < older_than) and seq not in waiting)
        states = self.model.states.keys() - seen.states.keys()
        requests = self.model.requests.keys() - seen.requests.keys()
        oldest_went(updated, states, older_than, states_max)
        oldest_went(ended_at, requests, older_than, requests_max)
        assert (pruned.events, pruned.requests) == (len(events), len(requests))
        assert sorted(pruned.states) == sorted(states)
        for seq in events:
            del self.model.events[seq]
        for key in states:
            del self.model.states[key], self.model.values[key]
        for name in requests:
            del self.model.requests[name]
            self.model.bodies.pop(name, None)

    @rule()
    def back_up(self) -> None:
        """A copy is kept."""
        target = self.folder / f"backup-{len(self.backups)}"
        assert self.run(self.journal.backup(target)) == target.stat().st_size
        assert difference(contents(target), self.model) is None
        self.backups.append((target, copy.deepcopy(self.model)))

    # --- restarts ---------------------------------------------------------------------------------

    @rule()
    def close_and_open(self) -> None:
        """A daemon is stopped and started."""
        self.journal.close()
        self.journal = self.opened(self.path)

    @rule(with_shm=st.booleans())
    def crash(self, with_shm: bool) -> None:
        """The next daemon finds the files as they lie there now."""
        self.lives += 1
        path = self.folder / str(self.lives) / self.path.name
        path.parent.mkdir()
        for suffix in ("", "-wal", "-shm") if with_shm else ("", "-wal"):
            shutil.copy(f"{self.path}{suffix}", f"{path}{suffix}")
        self.journal.close()
        self.path = path
        self.journal = self.opened(path)

    @precondition(lambda self: self.backups)
    @rule(which=st.integers(0, 5))
    def restore(self, which: int) -> None:
        """A backup is put in the journal's place."""
        target, model = self.backups[which % len(self.backups)]
        self.lives += 1
        path = self.folder / str(self.lives) / self.path.name
        path.parent.mkdir()
        shutil.copy(target, path)
        self.journal.close()
        self.model, self.path, self.epoch = copy.deepcopy(model), path, 0
        self.journal = self.opened(path)

    @rule()
    def another_leads(self) -> None:
        """What a second daemon does that the lock did not stop: the first can write nothing any more."""
        first, self.journal = self.journal, self.opened(self.path)
        late = Commit("a", [StateRow("sample", "late", 1, Sample(number=0))])
        with pytest.raises(JournalClosed, match="another daemon leads"):
            self.run(first.commit(late))
        with pytest.raises(JournalClosed, match="another daemon leads"):
            self.run(first.accept([self.submission(99, "true", "a")]))
        first.close()

    @rule(beyond=st.integers(0, 10))
    def lead_beyond(self, beyond: int) -> None:
        """A newer epoch was seen on a machine."""
        self.epoch = self.run(self.journal.advance_epoch(self.epoch + beyond))

    # --- what holds -------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        """A new journal is empty."""
        assert contents(self.path) == Contents({}, {}, {})

    @invariant()
    def it_holds_what_was_acknowledged(self) -> None:
        assert difference(contents(self.path), self.model) is None
        assert self.journal.last_seq >= max(self.model.events, default=0)
        assert self.journal.failing_since is None
        assert self.journal.closed_reason is None
        assert self.journal.stats().waiting == 0

    @invariant()
    def it_is_read_as_it_was_written(self) -> None:
        assert list(self.journal.load_states()) == self.model.rows
        living = [row for row in self.model.rows if not row.terminal]
        assert list(self.journal.load_states(living_only=True)) == living
        assert self.journal.open_requests() == self.model.open_requests

    @rule(after=st.integers(0, 60), limit=st.integers(0, 40), pool=st.sampled_from([None, *POOLS]))
    def read_on(self, after: int, limit: int, pool: str | None) -> None:
        """Events behind a cursor."""
        found = self.run(self.journal.events(after, limit, pool=pool))
        fits = {seq: body for seq, body in self.model.events.items() if seq > after}
        wanted = [
            (seq, body)
            for seq, body in sorted(fits.items())
            if pool is None or Envelope.model_validate_json(body).pool == pool
        ]
        assert found == wanted[:limit]

    @rule(number=st.integers(0, 30), name=st.sampled_from("xyz"), pool=st.sampled_from(POOLS))
    def look_up(self, number: int, name: str, pool: str) -> None:
        """One request and one state."""
        row = self.run(self.journal.request(f"r{number}"))
        found = None if row is None else (row.seq, row.pool, row.kind, row.status, row.ended_by)
        assert found == self.model.requests.get(f"r{number}")
        state = self.run(self.journal.state(pool, "sample", name))
        seen = None if state is None else (state.version, state.body, state.terminal)
        assert seen == self.model.states.get((pool, "sample", name))

    def teardown(self) -> None:
        """Nothing is left behind."""
        self.journal.close()
        self.loop.close()
        shutil.rmtree(self.folder)


def times(path: Path) -> tuple[dict[Key, float], dict[str, float]]:
    """When the states and the requests that are over came to be so."""
    with closing(sqlite3.connect(path)) as file:
        states = file.execute("SELECT pool, kind, id, updated_at FROM states WHERE terminal").fetchall()
        requests = file.execute("SELECT request_id, ended_at FROM requests WHERE status = 'ended'").fetchall()
    return {(pool, kind, name): at for pool, kind, name, at in states}, dict(requests)


def oldest_went(over: Mapping[Any, float], went: set[Any], older_than: float, most: int) -> None:
    """What went was over before all that stays, and it is as much as it should be."""
    assert went <= over.keys()
    stays = [over[one] for one in over.keys() - went]
    due = sum(at < older_than for at in over.values())
    assert len(went) == max(due, len(over) - most, 0)
    if went and stays:
        assert max(over[one] for one in went) <= min(stays)


TestJournalModel = JournalModel.TestCase
TestJournalModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
