"""What can go wrong with the state directory and the journal in it; every text is meant for a user.

JournalError
├── StateDirectoryUnusable   not ours, not writable, not a directory
├── StateDirectoryHeld       another daemon holds it
├── JournalTooNew            written by a newer everpool
├── JournalDamaged           torn or not a journal at all; nothing was changed
├── JournalLocked            another process holds SQLite's lock
├── JournalUnusable          can't be opened or created: permissions, disk full
├── JournalFailing           can't write just now; the API answers 503
│   └── JournalBusy          too much waits to be written; try again later
├── CommitRefused            this one commit can never be written (a bug in its sender)
├── StateUnreadable          a state or request of another version than can be read
└── BackupFailed             no backup was made
    └── NoRoom               for want of room, where it should go
"""


class JournalError(Exception):
    """Base of all errors of the journal, `actors.ports.JournalClosed` apart."""


class StateDirectoryUnusable(JournalError):
    """The state directory isn't ours, or can't be written."""


class StateDirectoryHeld(JournalError):
    """Another daemon holds the state directory.

    Attributes:
        pid: its process id; None when it has not written it yet.
        host: the host it runs on.
        since: when it took the directory, ISO 8601, UTC.
    """

    def __init__(self, message: str, pid: int | None, host: str, since: str) -> None:
        super().__init__(message)
        self.pid = pid
        self.host = host
        self.since = since


class JournalTooNew(JournalError):
    """The journal was written by a newer everpool. Nothing was written."""


class JournalDamaged(JournalError):
    """The journal's file is torn, or something else. Nothing was written."""


class JournalLocked(JournalError):
    """Another process holds the lock of the journal's file."""


class JournalUnusable(JournalError):
    """The journal can't be opened or created."""


class JournalFailing(JournalError):
    """Nothing can be made durable just now; the writer goes on trying."""


class JournalBusy(JournalFailing):
    """More requests wait to be written than are taken in at once."""


class CommitRefused(JournalError):
    """This commit can't be written, now or ever; others go on. Always a bug of the sender."""


class StateUnreadable(JournalError):
    """A state's version is newer than this program, or older than what it can still read; or a request is."""


class BackupFailed(JournalError):
    """The backup was not made; what was at its place before is as it was."""


class NoRoom(BackupFailed):
    """There is no room for the backup at its place."""
