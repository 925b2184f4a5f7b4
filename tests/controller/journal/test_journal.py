"""What is acknowledged is kept, in order, once."""

import sqlite3
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from actors.events import Envelope, TaskRequested
from actors.ports import Accepted, Commit, Conflict, JournalClosed, StateRow, Submission
from actors.spec import TaskSpec
from controller.journal.errors import CommitRefused
from controller.journal.jobs import body_hash, canonical_hash
from controller.journal.journal import SqliteJournal
from tests.controller.journal.samples import Sample, completed, numbered, queued, submission, until

pytestmark = pytest.mark.anyio


async def test_states_and_events_come_back_as_they_were_committed(journal: SqliteJournal) -> None:
    await journal.commit(numbered(journal, 1))
    await journal.commit(Commit("main", states=[StateRow("sample", "1", 2, Sample(number=7), terminal=True)]))
    assert [tuple(state) for state in journal.load_states()] == [
        ("main", "sample", "1", 2, b'{"number":7,"text":""}', True)
    ]
    [(seq, body)] = await journal.events(0, 10)
    assert seq == journal.last_seq == 1
    assert Envelope.model_validate_json(body) == queued(journal, "1").model_copy(update={"seq": 1})


async def test_a_state_without_value_is_removed(journal: SqliteJournal) -> None:
    await journal.commit(numbered(journal, 1))
    await journal.commit(Commit("main", states=[StateRow("sample", "1", 1, None)]))
    assert list(journal.load_states()) == []


async def test_many_callers_share_transactions_and_seqs_keep_their_order(journal: SqliteJournal) -> None:
    pools = [f"p{number}" for number in range(30)]

    async def one_pool(pool: str) -> None:
        for number in range(40):
            await journal.commit(numbered(journal, number, pool))
            assert journal.last_seq > 0

    async with anyio.create_task_group() as group:
        for pool in pools:
            group.start_soon(one_pool, pool)
    stats = journal.stats()
    assert stats.jobs == 1200
    assert stats.commits < 1200
    assert stats.waiting == 0
    for pool in pools:
        events = await journal.events(0, 10_000, pool=pool)
        ids = [Envelope.model_validate_json(body).event.model_dump()["task_id"] for _, body in events]
        assert ids == [str(number) for number in range(40)]


async def test_the_last_state_in_a_group_counts(journal: SqliteJournal) -> None:
    states = [StateRow("sample", "x", 1, Sample(number=number)) for number in range(200)]
    async with anyio.create_task_group() as group:
        for state in states:
            group.start_soon(journal.commit, Commit("main", states=[state]))
    assert [state.body for state in journal.load_states()] == [b'{"number":199,"text":""}']


async def test_a_cancelled_commit_is_still_written_in_its_turn(journal: SqliteJournal) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await journal.commit(numbered(journal, 1))
    await journal.commit(numbered(journal, 2))
    assert scope.cancelled_caught
    assert [seq for seq, _ in await journal.events(0, 10)] == [1, 2]


async def test_seqs_go_on_after_a_restart(path: Path) -> None:
    first = SqliteJournal(path)
    await first.commit(numbered(first, 1))
    assert (first.reserve(5), first.reserve(1)) == (2, 7)
    first.close()
    second = SqliteJournal(path)
    assert second.reserve(1) == 2  # what was reserved and not committed was never seen by anybody
    assert (second.owner, second.epoch) == (first.owner, first.epoch + 1)
    second.close()


async def test_a_request_is_accepted_once(journal: SqliteJournal) -> None:
    [accepted] = await journal.accept([submission("r1")])
    assert isinstance(accepted, Accepted)
    assert accepted.new
    assert accepted.envelope.request_id == "r1"
    assert accepted.envelope.principal == "somebody"
    assert await journal.accept([submission("r1")]) == [Accepted(accepted.envelope, new=False)]
    assert await journal.accept([submission("r1", "false")]) == [Conflict("r1")]
    assert journal.open_requests() == [accepted.envelope]
    assert len(await journal.events(0, 10)) == 1


async def test_one_id_twice_in_one_list_and_in_one_group(journal: SqliteJournal) -> None:
    answers = await journal.accept([submission("r1"), submission("r1"), submission("r1", "false")])
    assert [answer.new if isinstance(answer, Accepted) else None for answer in answers] == [True, False, None]
    new = []

    async def one() -> None:
        [answer] = await journal.accept([submission("r2")])
        assert isinstance(answer, Accepted)
        new.append(answer.new)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(one)
    assert sorted(new) == [False] * 19 + [True]


async def test_the_order_of_a_table_in_a_body_does_not_matter(journal: SqliteJournal) -> None:
    first = submission("r1")
    other_way_round = TaskSpec(argv=("true",), env={"B": "2", "A": "1"})
    request = TaskRequested(request_id="r1", pool="main", task=other_way_round)
    await journal.accept([first])
    [again] = await journal.accept([type(first)("main", request, "somebody", 9.0)])
    assert isinstance(again, Accepted)
    assert not again.new


def a_task(**spec: object) -> TaskRequested:
    task = TaskSpec.model_validate({"argv": ["true"], **spec})
    return TaskRequested(request_id="r1", pool="main", task=task)


HASHES = (  # of releases: what was accepted by one is known to those that come
    (
        a_task(),
        "53d561c76df05f61c844ead120df66d7028802a5a88d341f53c5ce6b73f17073",
        "d003bc304296061484730ff053ea38a2a3266a9bcaaeddb8c9b97fe290e178ec",
    ),
    (
        a_task(env={"A": "1"}, retries=2),
        "e21986cfc97c50bff469b68e687645d38002d75ffa4b67fa7675e13139ecbdbc",
        "4180751d1651dae3fa48d52946a6aa4a5ee10bfccfc8fd33837280f3f377641b",
    ),
    (
        a_task(env={"A": "1", "B": "2"}),
        "706930a963fce46ec044dc42cf18ce3cf9d927cf09cda791ac3257208dc4b3ed",
        "706930a963fce46ec044dc42cf18ce3cf9d927cf09cda791ac3257208dc4b3ed",
    ),
)


@pytest.mark.parametrize(("request_", "now", "before"), HASHES)
def test_the_hash_of_a_body_stays_the_same(request_: TaskRequested, now: str, before: str) -> None:
    assert body_hash(request_).hex() == now
    assert canonical_hash(request_).hex() == before


@pytest.mark.parametrize("spec", [{}, {"env": {"A": "1"}}, {"env": {"A": "1", "B": "2"}, "retries": 3}])
async def test_what_an_older_journal_accepted_is_known(
    journal: SqliteJournal, path: Path, spec: dict[str, object]
) -> None:
    asked, other = a_task(**spec), a_task(**spec, priority=1)
    await journal.accept([Submission("main", asked, "somebody", 1.5)])
    with closing(sqlite3.connect(path)) as file, file:  # as all releases wrote it at first
        file.execute("UPDATE requests SET body_hash = ?", (canonical_hash(asked),))
    [again, conflict] = await journal.accept(
        [Submission("main", asked, "somebody", 9.0), Submission("main", other, "somebody", 9.0)]
    )
    assert isinstance(again, Accepted)
    assert not again.new
    assert conflict == Conflict("r1")


async def test_a_request_is_taken_then_ended_and_keeps_its_first_end(journal: SqliteJournal) -> None:
    await journal.accept([submission("r1"), submission("r2")])
    await journal.commit(Commit("main", taken=["r1"]))
    assert [envelope.request_id for envelope in journal.open_requests()] == ["r2"]
    fact = completed(journal, "r1")
    await journal.commit(Commit("main", envelopes=[fact]))
    await journal.commit(Commit("main", envelopes=[completed(journal, "r1")], taken=["r1"]))
    [answer] = await journal.accept([submission("r1")])
    assert isinstance(answer, Accepted)
    assert (answer.new, answer.ended_by) == (False, fact.seq)
    row = await journal.request("r1")
    assert row is not None
    assert (row.status, row.ended_by, row.pool, row.kind) == ("ended", fact.seq, "main", "task_requested")
    assert await journal.request("r3") is None


@pytest.mark.parametrize("times", [2, 9, 20, 40, 130])
async def test_the_first_end_counts_among_many_of_one_commit(journal: SqliteJournal, times: int) -> None:
    await journal.accept([submission("r")])
    ends = [completed(journal, "r") for _ in range(times)]
    await journal.commit(Commit("main", envelopes=ends))
    known = await journal.request("r")
    assert known is not None and known.ended_by == ends[0].seq


async def test_events_are_filtered(journal: SqliteJournal) -> None:
    await journal.accept([submission("r1", pool="a")])
    await journal.commit(numbered(journal, 1, "a"))
    await journal.commit(numbered(journal, 2, "b"))
    await journal.commit(Commit("a", envelopes=[completed(journal, "r1", "a")]))
    seqs = {
        "all": [seq for seq, _ in await journal.events(0, 10)],
        "after": [seq for seq, _ in await journal.events(2, 10)],
        "limit": [seq for seq, _ in await journal.events(0, 2)],
        "pool": [seq for seq, _ in await journal.events(0, 10, pool="a")],
        "kinds": [seq for seq, _ in await journal.events(0, 10, kinds=["task_queued", "pool_ready"])],
        "request": [seq for seq, _ in await journal.events(0, 10, request_id="r1")],
        "both": [seq for seq, _ in await journal.events(0, 10, pool="a", kinds=["task_completed"])],
        "none": [seq for seq, _ in await journal.events(0, 10, kinds=[])],
    }
    assert seqs == {
        "all": [1, 2, 3, 4],
        "after": [3, 4],
        "limit": [1, 2],
        "pool": [1, 2, 4],
        "kinds": [2, 3],
        "request": [1, 4],
        "both": [4],
        "none": [],
    }


async def test_a_commit_that_cannot_be_written_fails_alone(journal: SqliteJournal) -> None:
    await journal.commit(numbered(journal, 1))
    twice = Envelope(seq=1, at=1.0, pool="main", event=queued(journal, "1").event)
    surrogate = Commit("main", states=[StateRow("sample", "9", 1, Sample(number=9, text="\ud800"))])
    failed = []

    async def bad(commit: Commit) -> None:
        with pytest.raises(CommitRefused):
            await journal.commit(commit)
        failed.append(commit)

    async with anyio.create_task_group() as group:
        group.start_soon(journal.commit, numbered(journal, 2))
        group.start_soon(bad, Commit("main", envelopes=[twice], states=numbered(journal, 8).states))
        group.start_soon(bad, surrogate)
        group.start_soon(journal.commit, numbered(journal, 3))
    assert len(failed) == 2
    assert [state.id for state in journal.load_states()] == ["1", "2", "3"]
    assert journal.failing_since is None


async def test_a_newer_epoch_ends_our_leadership(journal: SqliteJournal, path: Path) -> None:
    await journal.commit(numbered(journal, 1))
    other = SqliteJournal(path)  # what another daemon would do that the lock did not stop
    with pytest.raises(JournalClosed, match="another daemon leads"):
        await journal.commit(numbered(journal, 2))
    with pytest.raises(JournalClosed, match="another daemon leads"):
        await journal.accept([submission("r1")])
    assert "another daemon leads" in (journal.closed_reason or "")
    assert [state.id for state in other.load_states()] == ["1"]
    await other.commit(numbered(other, 2))
    await other.aclose()


async def test_an_epoch_can_be_advanced_beyond_any_seen(journal: SqliteJournal, path: Path) -> None:
    assert await journal.advance_epoch(beyond=41) == 42
    await journal.commit(numbered(journal, 1))
    assert journal.epoch == 42
    journal.close()
    later = SqliteJournal(path)
    assert later.epoch == 43
    later.close()


async def test_closing_writes_what_waits_and_then_refuses(journal: SqliteJournal, path: Path) -> None:
    done: list[int] = []

    async def one(number: int) -> None:
        await journal.commit(numbered(journal, number))
        done.append(number)

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(one, number)
        await anyio.wait_all_tasks_blocked()
        await journal.aclose()
    assert done == list(range(50))
    with pytest.raises(JournalClosed):
        await journal.commit(numbered(journal, 51))
    journal.close()
    again = SqliteJournal(path)
    assert len(list(again.load_states())) == 50
    again.close()


async def test_a_foreign_lock_is_waited_for(path: Path) -> None:
    journal = SqliteJournal(path, busy_s=0.01)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    done: list[int] = []

    async def one() -> None:
        await journal.commit(numbered(journal, 1))
        done.append(1)

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        await until(lambda: journal.failing_since is not None)
        assert done == []
        other.execute("ROLLBACK")
    other.close()
    assert done == [1]
    assert journal.failing_since is None
    journal.close()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_it_serves_trio_too(journal: SqliteJournal, anyio_backend: str) -> None:
    await journal.accept([submission("r1")])
    await journal.commit(numbered(journal, 1))
    assert len(await journal.events(0, 10)) == 2


async def test_a_query_that_is_not_taken_is_no_damage(journal: SqliteJournal) -> None:
    await journal.accept([submission("a")])
    with pytest.raises(sqlite3.OperationalError, match="too complex"):
        await journal.events(0, 1, ("*" + "x" * 50_001,))
    assert len(await journal.events(0, 1, ("*",))) == 1
