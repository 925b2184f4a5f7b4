"""Records over a real journal that can't be written: who is told so, and who waits."""

from pathlib import Path

import anyio
import pytest

from actors.events import Administered, SecretsRemoved
from controller.journal.errors import JournalFailing
from controller.journal.journal import SqliteJournal
from controller.records import Records
from controller.records_state import TokenRecord
from controller.recovery import recover
from tests.controller.journal.samples import until
from tests.controller.security.test_tokens import World

pytestmark = pytest.mark.anyio
RECORD = TokenRecord(digest="d", hint="h", scope="read", made_at=1.0, made_by="me")
FACT = SecretsRemoved(group="g")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_what_cannot_be_written_is_refused_and_not_kept(tmp_path: Path) -> None:
    async with SqliteJournal(tmp_path / "journal.sqlite3") as journal:
        world = World()
        records = Records(journal, world, world, {})
        journal._writer._connection.execute("PRAGMA query_only = ON")
        with anyio.fail_after(20):
            for _ in range(2):  # it is found out with the first; the second is refused at once
                with pytest.raises(JournalFailing, match="readonly"):
                    await records.keep("token", "t", RECORD, [FACT])
                with pytest.raises(JournalFailing):
                    await records.tell(FACT)
                await records.note(Administered(action="hold"), "me")
        assert records.of("token") == {} and world.told == []
        journal._writer._connection.execute("PRAGMA query_only = OFF")
        await until(lambda: journal.failing_since is None)
        await records.keep("token", "t", RECORD, [FACT])
        assert len(world.told) == 1 == len(await journal.events(0, 100))
        assert recover(journal.load_states(living_only=True), ()).records == {("token", "t"): RECORD}


async def test_who_wants_to_wait_does(tmp_path: Path) -> None:
    async with SqliteJournal(tmp_path / "journal.sqlite3") as journal:
        world = World()
        records = Records(journal, world, world, {})
        journal._writer._connection.execute("PRAGMA query_only = ON")
        with pytest.raises(JournalFailing):
            await records.tell(FACT)

        async def wait() -> None:
            await records.keep("token", "t", RECORD, wait=True)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await until(lambda: journal.stats().waiting > 0)
                assert "t" not in records.of("token")
                journal._writer._connection.execute("PRAGMA query_only = OFF")
        assert records.of("token") == {"t": RECORD}
