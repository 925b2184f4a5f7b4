"""Makes the journal that is kept of a release: `python -m tests.controller.journal.make_fixture`.

It is made once for each schema version and kept for ever: the test opens all of them.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from actors.ports import Commit, StateRow
from controller.journal.backup import back_up
from controller.journal.journal import SqliteJournal
from controller.journal.schema import SCHEMA_VERSION
from tests.controller.journal.samples import Sample, completed, numbered, submission

FOLDER = Path(__file__).parents[2] / "fixtures" / "journals"


async def fill(path: Path) -> None:
    """Write some of everything."""
    async with SqliteJournal(path, now=lambda: 1_700_000_000.0) as journal:
        await journal.accept([submission("waiting"), submission("taken"), submission("ended")])
        await journal.commit(Commit("main", taken=["taken"]))
        rows = [StateRow("sample", "over", 1, Sample(number=0, text="over"), terminal=True)]
        await journal.commit(Commit("main", rows, [completed(journal, "ended")]))
        for number in range(1, 4):
            await journal.commit(numbered(journal, number, text="größer"))


def main() -> None:
    """Make the fixture of this schema version, unless there is one."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite3"
        anyio.run(fill, path)
        back_up(path, FOLDER / f"v{SCHEMA_VERSION}.sqlite3")


if __name__ == "__main__":
    main()
