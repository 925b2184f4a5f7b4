"""Exit codes, and the error that ends a command with one."""

from collections.abc import Sequence

OK = 0
FAILED = 1  # what was asked for did not come to be
USAGE = 2  # options, a spec or the config are wrong
UNREACHABLE = 3  # no daemon answers
NOT_FOUND = 4
CONFLICT = 5  # it exists already, or is in a state in which this can't be done
TIMEOUT = 6  # we stopped waiting; what was asked for goes on
NOT_FETCHED = 123  # `run`: the task ended well, but a file of --fetch could not be brought back
NOT_STARTED = 125  # `run`: the task has no exit code of its own
DETACHED = 130  # Ctrl-C; what was asked for goes on
PIPE_CLOSED = 141  # nobody reads our output any more

SIGNALLED = 128  # `run`: plus the signal's number


class CliError(Exception):
    """A command ends here: one line for the user, and an exit code.

    Attributes:
        code: exit code.
        detail: more lines.
    """

    def __init__(self, code: int, message: str, detail: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.detail = tuple(detail)
