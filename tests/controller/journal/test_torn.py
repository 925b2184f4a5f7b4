"""Bytes that were lost or changed: a WAL gives what was committed before them, a file says it is damaged."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.ports import Commit, JournalClosed, StateRow
from controller.journal.errors import JournalDamaged, JournalError, StateUnreadable
from controller.journal.journal import SqliteJournal
from controller.journal.lock import StateDirectory
from tests.controller.journal.contents import Model, contents, difference
from tests.controller.journal.samples import Sample, completed, numbered, queued, submission
from tests.controller.journal.test_files import contents as files

IN_THE_FILE, IN_ALL = 15, 30  # commits
FRAME_BYTES, WAL_HEADER_BYTES = 4096 + 24, 32

# where, as a share of the file; what is done there; how many bytes it concerns
places = st.floats(0, 1, exclude_max=True)
damages = st.lists(
    st.tuples(places, st.sampled_from(["flip", "zeros", "cut", "frame again", "frames swapped"]), places),
    min_size=1,
    max_size=3,
)


class Image:
    """A journal's files as kill -9 leaves them, and what they say after each of their commits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models: list[Model] = []

    async def make(self, path: Path) -> None:
        """Half of the commits in the file itself, half only in its WAL."""
        model = Model()
        for first, last in ((0, IN_THE_FILE), (IN_THE_FILE, IN_ALL)):
            async with SqliteJournal(path) as journal:
                for number in range(first, last):
                    asked = submission(f"r{number}")
                    [answer] = await journal.accept([asked])
                    model.accept(asked, answer.envelope.seq)  # type: ignore[union-attr]
                    self.keep(model)
                    commit = self.commit(journal, number)
                    await journal.commit(commit)
                    model.commit(commit)
                    self.keep(model)
                for suffix in ("", "-wal"):
                    shutil.copy(f"{path}{suffix}", self.folder)

    def commit(self, journal: SqliteJournal, number: int) -> Commit:
        """States, events, a request taken and one that ends: half of it would be seen."""
        rows = [StateRow("sample", name, 1, Sample(number=number, text="x" * 99)) for name in "abc"]
        rows.append(StateRow("sample", str(number), 1, Sample(number=number), terminal=True))
        ended = [completed(journal, f"r{number - 1}")] if number else []
        events = [queued(journal, "t"), *ended, queued(journal, "u")]
        return Commit("main", rows, events, [f"r{number}"])

    def keep(self, model: Model) -> None:
        """Remember what there is now."""
        self.models.append(
            Model(
                dict(model.states),
                dict(model.values),
                dict(model.events),
                dict(model.requests),
                dict(model.bodies),
                dict(model.envelopes),
            )
        )

    @contextmanager
    def copied(self, damage: Callable[[bytearray], None], suffix: str) -> Iterator[Path]:
        """The files in a folder of their own, one of them damaged."""
        with tempfile.TemporaryDirectory() as name:
            path = Path(shutil.copytree(self.folder, name, dirs_exist_ok=True)) / "journal.sqlite3"
            data = bytearray(Path(f"{path}{suffix}").read_bytes())
            damage(data)
            Path(f"{path}{suffix}").write_bytes(data)
            yield path


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """One for all: it is only copied."""
    made = Image(tmp_path_factory.mktemp("image"))
    anyio.run(made.make, tmp_path_factory.mktemp("original") / "journal.sqlite3")
    return made


def damaged_by(some: list[tuple[float, str, float]]) -> Callable[[bytearray], None]:
    """Carries damages out, one after the other."""

    def damage(data: bytearray) -> None:
        for where, what, much in some:
            if not data:
                return
            at = int(where * len(data))
            frame = WAL_HEADER_BYTES + (at - WAL_HEADER_BYTES) // FRAME_BYTES * FRAME_BYTES
            frames = max(0, (len(data) - WAL_HEADER_BYTES) // FRAME_BYTES)
            other = WAL_HEADER_BYTES + int(much * frames) * FRAME_BYTES
            match what:
                case "flip":
                    data[at] ^= 1 + int(much * 255)
                case "zeros":
                    data[at : at + int(much * 5000)] = bytes(len(data[at : at + int(much * 5000)]))
                case "cut":
                    del data[at:]
                case "frame again" if frame > 0:
                    data[frame:frame] = data[frame : frame + FRAME_BYTES]
                case "frames swapped" if frame > 0:
                    one, two = data[frame : frame + FRAME_BYTES], data[other : other + FRAME_BYTES]
                    if len(one) == len(two) == FRAME_BYTES:
                        data[frame : frame + FRAME_BYTES], data[other : other + FRAME_BYTES] = two, one
                case _:
                    continue

    return damage


def which(path: Path, models: list[Model]) -> int | None:
    """After how many of the commits the file is as it is; None when it never was."""
    seen = contents(path)
    return next((i for i, model in enumerate(models) if difference(seen, model) is None), None)


@settings(max_examples=150, deadline=None)
@given(some=damages)
def test_a_damaged_wal_gives_what_was_committed_before(
    image: Image, some: list[tuple[float, str, float]]
) -> None:
    with image.copied(damaged_by(some), "-wal") as path:
        journal = SqliteJournal(path)
        found = which(path, image.models)
        assert found is not None, "half a commit"
        assert found + 1 >= 2 * IN_THE_FILE
        model = image.models[found]
        assert list(journal.load_states()) == model.rows
        assert journal.open_requests() == model.open_requests
        assert journal.reserve(0) == max(model.events) + 1
        journal.close()
        anyio.run(go_on, path, model)


async def go_on(path: Path, model: Model) -> None:
    """The next daemon writes on, and its commits are durable."""
    async with SqliteJournal(path) as journal:
        commit = numbered(journal, 1000)
        await journal.commit(commit)
    model = Model(dict(model.states), {}, dict(model.events), dict(model.requests))
    model.commit(commit)
    assert difference(contents(path), model) is None


@settings(max_examples=150, deadline=None)
@given(some=damages, keeps_wal=st.booleans())
def test_a_damaged_file_is_told_of_or_read_as_far_as_it_can_be(
    image: Image, some: list[tuple[float, str, float]], keeps_wal: bool
) -> None:
    with image.copied(damaged_by(some), "") as path:
        if not keeps_wal:
            path.with_name(path.name + "-wal").unlink()
        before = files(path.parent)
        refusal: JournalError | None = None
        try:
            journal = SqliteJournal(path)
        except JournalError as error:
            refusal = error
        if refusal is None:
            anyio.run(use, journal)
        else:
            assert "Nothing was changed" in str(refusal)
            assert not isinstance(refusal, JournalDamaged) or "backup" in str(refusal)
            assert files(path.parent) == before


async def use(journal: SqliteJournal) -> None:
    """Read and write everything: what goes wrong, goes wrong with an error of the journal's own."""
    with suppress(JournalError, JournalClosed):
        list(journal.load_states())
        journal.open_requests()
        await journal.events(0, 1000)
        await journal.accept([submission(f"r{number}") for number in range(IN_ALL + 1)])
        await journal.commit(numbered(journal, 1000))
        await journal.prune(0.0, events_max=3, requests_max=3, states_max=3)
    await journal.aclose()


def test_a_request_that_cannot_be_read_is_told_of(image: Image) -> None:
    """It came under a newer release, say, whose requests are others."""

    def damage(data: bytearray) -> None:
        return

    with image.copied(damage, "") as path, StateDirectory.take(path.parent) as taken:
        journal = SqliteJournal(taken.journal)
        anyio.run(journal.accept, [submission("later")])
        journal._writer._connection.execute(
            "UPDATE events SET body = replace(body, 'task_requested', 'volume_requested') "
            "WHERE request_id = 'later'"
        )
        with pytest.raises(StateUnreadable, match="newer everpool"):
            journal.open_requests()
        journal.close()
