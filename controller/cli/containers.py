"""Getting into a container: by its engine's exec API, with stdin, stdout, stderr and the exit code.

In a terminal keys go through raw and the window's size follows ours. The engine has to be on this host.
"""

import errno
import os
import signal
import stat
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio

from controller.cli.codes import FAILED, CliError
from providers.container.engine import Engine
from providers.errors import HostError, ProviderError
from providers.host.exec import STDERR, ExecHost, Session
from providers.model import ContainerDoor, Machine

READ_BYTES = 65_536
LOST = 255  # as ssh says it
# A login shell where there is one, in the home directory.
SHELL = 'cd 2>/dev/null; s=$(command -v bash) || s=/bin/sh; exec "$s" -l'
STDIN, STDOUT_FD, STDERR_FD = 0, 1, 2


async def enter(raw: dict[str, Any], line: Sequence[str] | None) -> int:
    """Run a command in a container, or a shell; its exit code, 255 when the connection broke.

    Args:
        raw: the machine, as /v1/instances/{id}/ssh tells it.
        line: the command; None: a shell.

    Raises:
        CliError: there is no way in from here.
    """
    machine = Machine.model_validate(raw)
    door = machine.container
    assert door is not None
    engine = reachable(machine, door)
    is_tty = line is None and all(os.isatty(fd) for fd in (STDIN, STDOUT_FD))
    argv = ("/bin/sh", "-c", SHELL) if line is None else tuple(line)
    host = ExecHost(engine, door.id, machine.instance_id, python=door.python)
    try:
        async with host.session(argv, tty=is_tty) as session:
            return await _talk(session, is_tty=is_tty)
    except (HostError, ProviderError) as error:
        raise CliError(LOST, f"{error.detail}", [_by_hand(door)]) from error
    finally:
        await engine.aclose()


def reachable(machine: Machine, door: ContainerDoor) -> Engine:
    """The engine of a container. Raises CliError when its socket can't be used from here."""
    place = Path(door.socket) if door.socket else None
    name = machine.instance_id
    if place is None:
        text = f"{name} is a container, and the daemon finds no engine's socket: see `everpool doctor`"
        raise CliError(FAILED, text)
    if not place.exists():
        text = f"{name} is a container of the engine at {place}, and there is no such socket here"
        raise CliError(FAILED, text, ["run this on the daemon's host", _by_hand(door)])
    if not os.access(place, os.W_OK):
        text = f"{name} is a container, and the engine's socket {place} may not be used by you"
        raise CliError(FAILED, text, ["run this as the daemon's user, or as one of the socket's group"])
    return Engine(machine.handle.provider, door.engine, place)


def _by_hand(door: ContainerDoor) -> str:
    program = "podman" if door.engine == "podman" else "docker"
    return f"by hand, on the engine's host: {program} exec -it {door.id[:12]} sh"


async def _talk(session: Session, *, is_tty: bool) -> int:
    async with anyio.create_task_group() as tasks:
        with _raw(is_tty):
            if is_tty:
                await _fit(session)
                tasks.start_soon(_keep_fitting, session)
            tasks.start_soon(_feed, session)
            try:
                while (piece := await session.read()) is not None:
                    _write(STDERR_FD if piece[0] == STDERR else STDOUT_FD, piece[1])
            finally:
                tasks.cancel_scope.cancel()
    code = await session.exit_code()
    if code is None:
        raise CliError(LOST, "the container ended")
    return code


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(fd, left) :]
        except BlockingIOError:  # somebody made our terminal so; it is read by a person, or soon
            continue
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise BrokenPipeError from error
            raise


async def _feed(session: Session) -> None:
    """Our stdin, as it comes, to the command's."""
    kind = os.fstat(STDIN).st_mode
    waits = os.isatty(STDIN) or stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind)  # a file never makes one wait
    try:
        while True:
            if waits:
                await anyio.wait_readable(STDIN)
            data = os.read(STDIN, READ_BYTES)
            if not data:
                break
            await session.send(data)
        await session.send_eof()
    except HostError:  # it does not read any more; how it ended is told elsewhere
        return
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EIO):  # no stdin, or the terminal is gone
            raise


@contextmanager
def _raw(is_tty: bool) -> Iterator[None]:
    """Every key goes through, Ctrl-C too; afterwards the terminal is as it was."""
    if not is_tty:
        yield
        return
    before = termios.tcgetattr(STDIN)
    tty.setraw(STDIN)
    try:
        yield
    finally:
        termios.tcsetattr(STDIN, termios.TCSADRAIN, before)
        sys.stdout.flush()


async def _fit(session: Session) -> None:
    size = os.get_terminal_size(STDOUT_FD)
    await session.resize(size.lines, size.columns)


async def _keep_fitting(session: Session) -> None:
    with anyio.open_signal_receiver(signal.SIGWINCH) as signals:
        async for _ in signals:
            await _fit(session)
