"""A copy of the journal as it is at one moment, made while it is written."""

import errno
import os
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

from controller.journal.errors import BackupFailed, NoRoom
from controller.journal.schema import connect, explained


def back_up(source: Path, target: Path, *, busy_s: float = 5.0) -> int:
    """Copy the journal `source` to `target`, check the copy, and return its size in bytes.

    The copy is one file, mode 0600, there whole or not at all. `source` may belong to a running daemon.

    Raises:
        BackupFailed: `target` exists, its folder can't be written, or the copy is not sound.
        JournalError: `source` can't be read.
    """
    if not source.is_file():
        raise BackupFailed(f"there is no journal at {source}")
    if target.exists() or target.is_symlink():
        raise BackupFailed(f"{target} exists: choose another name, or move it away first")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            _copy(source, partial, busy_s)
            _sync(partial)
            size = partial.stat().st_size
            _place(partial, target)
            _sync(target.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritten(target, error) from error
    return size


def back_up_keys(keys: Path, target: Path) -> Path:
    """Pack the keys directory beside a backup, as TARGET.keys.tar (mode 0600), and return its path.

    Without them a restored journal knows its machines but can't log in to them. Packed after the journal,
    so that no cluster of the copy is without its key.

    Raises:
        BackupFailed: the file exists, or can't be written.
    """
    packed = target.with_name(f"{target.name}.keys.tar")
    partial = target.with_name(f".{packed.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                with tarfile.open(fileobj=file, mode="w") as tar:
                    if keys.is_dir():
                        tar.add(keys, arcname="keys")
                file.flush()
                os.fsync(file.fileno())
            _place(partial, packed)
            _sync(target.parent)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritten(packed, error) from error
    return packed


def _copy(source: Path, partial: Path, busy_s: float) -> None:
    with explained(source), closing(connect(source, read_only=True, busy_s=busy_s)) as reading:
        reading.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # is it one at all
        try:
            with closing(sqlite3.connect(partial, isolation_level=None)) as writing:
                writing.execute("PRAGMA synchronous = OFF")  # synced as a whole, once it is complete
                # in one step: in several, each commit meanwhile would make it begin again
                reading.backup(writing)
                writing.execute("PRAGMA journal_mode = DELETE")  # one file, without -wal
                (found,) = writing.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as error:
            kind = NoRoom if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL else BackupFailed
            raise kind(f"can't write the backup into {partial.parent}: {error}") from error
    if found != "ok":
        raise BackupFailed(f"the copy is not sound, so {source} may be damaged: {found}")


def _unwritten(path: Path, error: OSError) -> BackupFailed:
    kind = NoRoom if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else BackupFailed
    return kind(f"can't write {path}: {error.strerror}")


def _place(partial: Path, target: Path) -> None:
    """Give the finished copy its name, unless another has taken it."""
    try:
        os.link(partial, target)
    except FileExistsError as error:
        raise BackupFailed(f"{target} exists: choose another name, or move it away first") from error
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        partial.rename(target)  # a file system without links


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
