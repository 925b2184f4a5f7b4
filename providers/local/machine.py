"""A local machine: a process tree under one parent, and what can be asked about it from outside.

    python -I -S machine.py DIRECTORY LOCK_FD

starts one from DIRECTORY/order.json and returns when its parent lives and DIRECTORY/machine.json
says so. Where the system allows, the parent is PID 1 of a pid namespace with a /proc of its own:
whoever kills it, the kernel ends all the others with it. Elsewhere it is a subreaper under a watcher
that outlives it by as long as it takes to kill the whole tree.

The parent only reaps and waits, so it stays small: the ssh server is another program. LOCK_FD is the
locked directory; the lock is let go when the parent is written down, or when there is none.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MARK = "EVERPOOL_MACHINE"  # environment variable on every process of a machine
CHECK_EVERY_S = 2.0  # whether the directory is still there

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID = 0x00020000, 0x10000000, 0x20000000
MS_PRIVATE_ALL = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE
MS_PROC = 0x2 | 0x4 | 0x8  # MS_NOSUID | MS_NODEV | MS_NOEXEC
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

# --- questions about processes --------------------------------------------------------------------


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since the system did; None when it does not live.

    A dead process that nobody has reaped yet does not live.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in b"ZX" else int(fields[19])


def boot_id() -> str:
    """Names this boot of the system: a pid and its start time mean nothing after the next."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def marked(mark: str) -> Iterator[int]:
    """Every living process of ours with this mark in its environment."""
    wanted = f"{MARK}={mark}".encode()
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = file.read().split(b"\0")
        except OSError:  # gone by now, or another user's
            continue
        if wanted in environment and start_time(pid) is not None:
            yield pid


def kill_marked(mark: str, *, within_s: float) -> bool:
    """Kill every process with this mark until there is none; False when some are left after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        pids = list(marked(mark))
        if not pids:
            return True
        if time.monotonic() > deadline:
            return False
        for pid in pids:
            _kill(pid)
        time.sleep(0.01)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


# --- starting one ---------------------------------------------------------------------------------


def main(directory: Path, lock_fd: int) -> int:
    """Start the machine of `directory`; 0 when its parent lives."""
    isolate: bool = json.loads((directory / "order.json").read_bytes())["isolate"]
    for start in (_start_isolated, _start_watched) if isolate else (_start_watched,):
        heard, said = os.pipe()
        child = os.fork()
        if not child:
            os.close(heard)
            try:
                start(directory, lock_fd, said)
            finally:
                os._exit(1)
        os.close(said)
        answer = os.read(heard, 16)
        os.close(heard)
        if start is _start_isolated or not answer:
            os.waitpid(child, 0)
        if answer:
            return 0
    return 1


def _start_isolated(directory: Path, lock_fd: int, said: int) -> None:
    """Make the namespaces and their PID 1, then go; return when the system does not let us."""
    if not _unshare(CLONE_NEWPID | CLONE_NEWNS):
        uid, gid = os.geteuid(), os.getegid()
        if not _unshare(CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS):
            return
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    if os.fork():
        os._exit(0)
    pid = int(os.readlink("/proc/self"))  # as the outside sees us: this is still its /proc
    started = start_time(pid)
    os.setsid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(None, b"/", None, MS_PRIVATE_ALL, None) or libc.mount(
        b"proc", b"/proc", b"proc", MS_PROC, None
    ):
        return  # some containers mask parts of /proc, and then no new one may be mounted
    _be_parent(directory, lock_fd, said, {"pid": pid, "start_time": started, "isolated": True, "init": 1})


def _start_watched(directory: Path, lock_fd: int, said: int) -> None:
    """Watch over the machine's parent, and end what it leaves behind."""
    os.setsid()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    watcher = os.getpid()
    parent = os.fork()
    if parent:
        os.close(lock_fd)
        os.close(said)
        _silence(directory)
        _reap_all(parent)
        os._exit(0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != watcher:
        return
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    pid = os.getpid()
    about = {"pid": pid, "start_time": start_time(pid), "isolated": False, "init": pid}
    _be_parent(directory, lock_fd, said, {**about, "watcher": watcher})


def _unshare(flags: int) -> bool:
    return not ctypes.CDLL(None, use_errno=True).unshare(flags)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _silence(directory: Path) -> None:
    """Let go of the launcher's outputs; complaints go to the machine's console."""
    null = os.open(os.devnull, os.O_RDWR)
    console = os.open(directory / "console.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(console, 2)
    os.close(null)
    os.close(console)


# --- being its parent -----------------------------------------------------------------------------


def _be_parent(directory: Path, lock_fd: int, said: int, about: dict[str, object]) -> None:
    """Write down who we are, start the ssh server, wait for the end."""
    _silence(directory)
    signals = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # waited for; and a blocked one reaches PID 1 too
    order: dict[str, object] = json.loads((directory / "order.json").read_bytes())
    record = directory / "machine.json"
    draft = directory / ".machine.json"
    draft.write_text(json.dumps({**order, **about, "boot_id": boot_id()}))
    draft.rename(record)
    os.close(lock_fd)
    os.write(said, b"ok")
    os.close(said)
    os.chdir(directory)
    _wait(directory, record, time.monotonic() + float(str(order["launch_delay_s"])), signals)
    os._exit(0)


def _wait(directory: Path, record: Path, start_at: float, signals: set[signal.Signals]) -> None:
    """Return when the machine is over: told to end, its server or its directory gone."""
    server = 0
    while True:
        if not server and time.monotonic() >= start_at:
            server = _start_server(directory)
        pause = CHECK_EVERY_S if server else max(0.0, min(CHECK_EVERY_S, start_at - time.monotonic()))
        heard = signal.sigtimedwait(signals, pause)
        if heard is not None and heard.si_signo in (signal.SIGTERM, signal.SIGINT):
            return
        if server in _reap() or not record.exists():
            return


def _start_server(directory: Path) -> int:
    program = Path(__file__).with_name("sshd.py")
    argv = [sys.executable, "-P", str(program), str(directory)]
    # Its ssh library looks for a home even where no config is read; users need not have one in passwd.
    environment = {**os.environ, "HOME": str(directory / "home"), MARK: str(directory)}
    return os.posix_spawn(sys.executable, argv, environment, setsid=True, setsigmask=[])


def _reap() -> list[int]:
    """Bury every child that is dead; return their pids."""
    buried: list[int] = []
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return buried
        if not pid:
            return buried
        buried.append(pid)


def _reap_all(parent: int) -> None:
    """Wait for the parent's death, then kill and bury whatever comes to us until nothing is left."""
    pid = 0
    while pid != parent:
        pid, _ = os.waitpid(-1, 0)
    while True:
        for child in _descendants(os.getpid()):
            _kill(child)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(pid)
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
