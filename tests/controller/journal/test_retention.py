"""Pruning, backups, and states of older versions."""

import sqlite3
import stat
from pathlib import Path

import anyio
import pytest

from actors.events import Envelope
from actors.ports import Commit, StateRow
from controller.journal.backup import back_up
from controller.journal.errors import BackupFailed, JournalDamaged, StateUnreadable
from controller.journal.journal import SqliteJournal
from controller.journal.upcasters import Body, Upcasters
from tests.controller.journal.samples import Sample, completed, numbered, queued, submission


class Hand:
    """A clock that is set by hand."""

    at = 100.0

    def __call__(self) -> float:
        return self.at


@pytest.mark.anyio
async def test_what_is_over_goes_by_age_and_what_lives_stays(path: Path) -> None:
    clock = Hand()
    journal = SqliteJournal(path, now=clock)
    await journal.accept([submission("living"), submission("taken"), submission("over"), submission("fresh")])
    rows = [
        StateRow("sample", name, 1, Sample(number=1), terminal=name == "dead") for name in ("alive", "dead")
    ]
    await journal.commit(Commit("main", rows, [completed(journal, "over", at=100.0)], taken=["taken"]))
    clock.at = 200.0
    rows = [StateRow("sample", "just dead", 1, Sample(number=1), terminal=True)]
    await journal.commit(Commit("main", rows, [completed(journal, "fresh", at=200.0)]))

    pruned = await journal.prune(older_than=150.0, events_max=1000)

    assert (pruned.events, pruned.requests) == (3, 1)
    assert pruned.states == (("main", "sample", "dead"),)
    assert [state.id for state in journal.load_states()] == ["alive", "just dead"]
    assert [seq for seq, _ in await journal.events(0, 10)] == [1, 2, 6]
    assert [envelope.request_id for envelope in journal.open_requests()] == ["living"]
    assert await journal.request("over") is None
    assert await journal.request("fresh") is not None
    journal.close()


@pytest.mark.anyio
async def test_what_is_over_goes_by_count(journal: SqliteJournal) -> None:
    await journal.accept([submission(f"r{number}") for number in range(10)])
    ends = [completed(journal, f"r{number}") for number in range(9)]
    rows = [
        StateRow("sample", str(number), 1, Sample(number=number), terminal=True) for number in range(2500)
    ]
    events = [queued(journal, str(number)) for number in range(5000)]
    await journal.commit(Commit("main", rows, ends + events))

    pruned = await journal.prune(0.0, events_max=700, requests_max=4, states_max=100)

    # the event of r9, which lives, stays, and those that ended the four requests that are kept
    assert pruned.events == 10 + 9 + 5000 - 700 - 1 - 4
    assert pruned.requests == 5
    assert len(set(pruned.states)) == 2400
    assert len(list(journal.load_states())) == 100
    assert [envelope.request_id for envelope in journal.open_requests()] == ["r9"]


@pytest.mark.anyio
async def test_only_what_was_warned_of_goes(journal: SqliteJournal) -> None:
    for number in range(10):
        await journal.commit(numbered(journal, number))
    warned: list[tuple[int, float]] = []

    async def warn(upto: int, before: float) -> None:
        warned.append((upto, before))
        for number in range(5):  # a webhook that is far behind takes its time
            await journal.commit(numbered(journal, number))

    await journal.prune(0.0, events_max=4, warn=warn)
    assert warned == [(6, 0.0)]
    assert [seq for seq, _ in await journal.events(0, 100)] == list(range(7, 16))


@pytest.mark.anyio
async def test_seqs_are_never_given_twice_even_if_all_events_are_gone(path: Path) -> None:
    journal = SqliteJournal(path)
    for number in range(3):
        await journal.commit(numbered(journal, number))
    assert (await journal.prune(1e12, events_max=0)).events == 3
    journal.close()
    again = SqliteJournal(path)
    assert again.reserve(1) == 4
    again.close()


@pytest.mark.anyio
async def test_a_request_whose_event_is_pruned_is_still_known(journal: SqliteJournal) -> None:
    await journal.accept([submission("r1")])
    fact = completed(journal, "r1")
    await journal.commit(Commit("main", envelopes=[fact]))
    await journal.prune(0.0, events_max=0)
    assert [seq for seq, _ in await journal.events(0, 10)] == [fact.seq]  # how it ended is known as well
    [answer] = await journal.accept([submission("r1")])
    assert not hasattr(answer, "request_id")
    assert getattr(answer, "ended_by", None) == fact.seq
    await journal.prune(0.0, events_max=0, requests_max=0)
    assert (await journal.request("r1"), await journal.events(0, 10)) == (None, [])


@pytest.mark.anyio
async def test_a_backup_is_one_moment_of_a_journal_being_written(
    journal: SqliteJournal, tmp_path: Path
) -> None:
    stop = anyio.Event()

    async def write() -> None:
        number = 0
        while not stop.is_set():
            await journal.commit(numbered(journal, number))
            number += 1

    async with anyio.create_task_group() as group:
        group.start_soon(write)
        for number in range(5):
            target = tmp_path / f"backup{number}"
            assert await journal.backup(target) == target.stat().st_size
        stop.set()
    check_backups(tmp_path, journal.owner)


def check_backups(folder: Path, owner: str) -> None:
    """Each is a journal of one moment, and each moment is later than the one before."""
    sizes = []
    for number in range(5):
        target = folder / f"backup{number}"
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        copy = SqliteJournal(target)  # a backup is a journal
        states = [int(state.id) for state in copy.load_states()]
        assert sorted(states) == list(range(len(states)))
        assert copy.last_seq == len(states)
        assert copy.owner == owner
        sizes.append(len(states))
        copy.close()
    assert sizes == sorted(sizes)
    assert not list(folder.glob(".*partial"))


def test_a_backup_overwrites_nothing_and_needs_a_journal(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    with pytest.raises(BackupFailed, match="no journal"):
        back_up(path, target)
    SqliteJournal(path).close()
    with pytest.raises(BackupFailed, match="can't write"):
        back_up(path, tmp_path / "none" / "backup")
    target.write_text("mine")
    with pytest.raises(BackupFailed, match="exists"):
        back_up(path, target)
    assert target.read_text() == "mine"
    path.write_text("garbage" * 1000)
    with pytest.raises(JournalDamaged):
        back_up(path, tmp_path / "other")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["backup", "journal.sqlite3"]


def test_older_states_are_lifted_step_by_step() -> None:
    upcasters = Upcasters()

    @upcasters.register("node", 1)
    def _named(body: Body) -> Body:
        return {**body, "name": "unnamed"}

    @upcasters.register("node", 2)
    def _counted(body: Body) -> Body:
        return {**body, "count": len(body["name"])}

    assert upcasters.upcast("node", 1, {}, 3) == {"name": "unnamed", "count": 7}
    assert upcasters.upcast("node", 2, {"name": "a"}, 3) == {"name": "a", "count": 1}
    assert upcasters.upcast("node", 3, {"a": 1}, 3) == {"a": 1}
    with pytest.raises(StateUnreadable, match="version 4, and this everpool knows up to 3"):
        upcasters.upcast("node", 4, {}, 3)
    with pytest.raises(StateUnreadable, match="too old"):
        upcasters.upcast("pool", 1, {}, 2)
    with pytest.raises(ValueError, match="two upcasters"):
        upcasters.register("node", 1)(_named)


FIXTURES = sorted((Path(__file__).parents[2] / "fixtures" / "journals").glob("*.sqlite3"))


def test_there_are_fixtures() -> None:
    assert FIXTURES


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda file: file.stem)
def test_the_journal_of_every_release_opens(fixture: Path, path: Path) -> None:
    path.write_bytes(fixture.read_bytes())
    with sqlite3.connect(path) as connection:
        (epoch,) = connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()
    connection.close()
    anyio.run(check_fixture, SqliteJournal(path), epoch)


async def check_fixture(journal: SqliteJournal, epoch: int) -> None:
    """Everything in it can be read, and it can be written."""
    assert journal.epoch == epoch + 1
    assert len(list(journal.load_states())) >= 3
    assert [envelope.request_id for envelope in journal.open_requests()] == ["waiting"]
    for seq, body in await journal.events(0, 1000):
        assert Envelope.model_validate_json(body).seq == seq
    ended = await journal.request("ended")
    assert ended is not None
    assert ended.status == "ended"
    await journal.commit(numbered(journal, 1))
    journal.close()
