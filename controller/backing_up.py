"""A backup of the state directory while the daemon runs: the journal, the keys, and a newer epoch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from anyio import to_thread

from controller.journal.backup import back_up_keys
from controller.journal.errors import JournalFailing
from controller.journal.journal import SqliteJournal


async def backed_up(
    journal: SqliteJournal, keys: Path, target: Path, lead: Callable[[int], None]
) -> dict[str, Any]:
    """Copy the journal to `target` while it is written, and the directory of keys beside it.

    Afterwards we lead under an epoch that a daemon started from the copy would not reach by itself: agents
    then tell it that they obey a newer one, and it only observes until it is told to adopt. A copy without
    that would lead beside us, so there is none when the epoch can't be written.

    Args:
        journal: that is copied.
        keys: the directory of keys.
        target: where to, an absolute path.
        lead: hears the newer epoch.

    Raises:
        BackupFailed, JournalError: no backup was made, and nothing is left of it.
        JournalClosed: the same; the daemon is at its end.
    """
    if journal.failing_since is not None:  # before all is copied for nothing
        raise JournalFailing(f"no backup was made: {journal.failing_reason}")
    made: list[Path] = []
    try:
        size = await journal.backup(target)
        made.append(target)
        packed = await to_thread.run_sync(back_up_keys, keys, target)
        made.append(packed)
        epoch = journal.epoch
        lead(await journal.advance_epoch(epoch + 1))
    except BaseException:
        for path in made:
            path.unlink(missing_ok=True)
        raise
    return {
        "path": str(target),
        "keys": str(packed),
        "bytes": size,
        "owner": journal.owner,
        "epoch": epoch,
    }
