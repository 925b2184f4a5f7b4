"""The inside of one guest: namespaces of its own, an init, and a real ssh server.

    python -I -S guest.py enter LIFE SOCKET     reads a `Plan` (JSON) from stdin, answers with its init's pid
    python -P guest.py serve SOCKET             run by the init, inside

A guest shares the kernel, the network and a read-only view of the files with whoever runs the tests. Its
own are: /home, /root, /tmp, /var/tmp, /run and /dev/shm, all processes, and the host name. What ends a
machine (shutdown, reboot, systemctl ...) ends the guest, by whatever path it is called: each such program
is covered by a script. Below that, the system call itself reaches no further than the pid namespace, and
the capability for it is dropped too.

The init ends, and the kernel then ends all that is in the guest, when the server is over, at SIGTERM, and
when LIFE, a pipe whose other end the tests hold, is closed.
"""

import ctypes
import json
import os
import select
import signal
import socket
import sys
from pathlib import Path

PRIVATE = ("/home", "/root", "/tmp", "/var/tmp", "/run", "/dev/shm")
BIN = "/run/guest/bin"
ORDER = "/run/guest/order.json"
ENDERS = ("shutdown", "poweroff", "halt", "reboot", "systemctl", "init", "telinit", "runlevel", "kexec")
COVERED = ("/proc/sysrq-trigger", "/proc/kcore", "/proc/mem", "/dev/initctl")
FOLDERS = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/lib/systemd")
END = "#!/bin/sh\nkill -TERM 1\nsleep 10\n"
SUDO = """#!/bin/sh
while [ $# -gt 0 ]; do
    case "$1" in
        -u|-g|-p) shift 2 ;;
        --) shift; break ;;
        -*) shift ;;
        *) break ;;
    esac
done
exec /usr/bin/env "$@"
"""
CAPABILITIES = (16, 17, 21, 22, 25, 27)  # SYS_MODULE, SYS_RAWIO, SYS_ADMIN, SYS_BOOT, SYS_TIME, MKNOD

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID = 0x10000000, 0x20000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 0x1, 0x2, 0x4, 0x8, 0x20, 0x1000
MS_PRIVATE_ALL = 0x4000 | 0x40000  # MS_REC | MS_PRIVATE
PR_SET_PDEATHSIG, PR_CAPBSET_DROP = 1, 24

_libc = ctypes.CDLL(None, use_errno=True)


def main(argv: list[str]) -> int:
    """Run one of the two parts."""
    if argv[0] == "enter":
        return enter(int(argv[1]), int(argv[2]))
    serve(int(argv[1]))
    return 0


# --- namespaces -----------------------------------------------------------------------------------


def enter(life: int, listening: int) -> int:
    """Make the guest's namespaces and its init; returns when the guest is over."""
    plan = json.loads(sys.stdin.buffer.read())
    os.setsid()
    spaces = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC
    if _libc.unshare(spaces):
        uid, gid = os.geteuid(), os.getegid()
        _check(_libc.unshare(spaces | CLONE_NEWUSER), "unshare")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    init = os.fork()
    if not init:
        try:
            _be_init(plan, life, listening)
        except Exception as error:  # noqa: BLE001  # the only way out of a forked child is _exit
            os.write(2, f"guest {plan['ref']}: {error!r}\n".encode())
        finally:
            os._exit(1)
    for fd in (life, listening, 1):
        os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(init, 0)[1])


def _be_init(plan: dict[str, object], life: int, listening: int) -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    pid = os.readlink("/proc/self")  # as those outside see us: this is still their /proc
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    over: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: over.append(1))
    _furnish(plan)
    for capability in CAPABILITIES:
        _libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.set_inheritable(life, False)
    os.chdir("/")
    os.write(1, f"{pid}\n".encode())
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    argv = [str(plan["python"]), "-P", __file__, "serve", str(listening)]
    server = os.posix_spawn(argv[0], argv, {"PATH": str(plan["path"])}, setsid=True)
    os.close(listening)
    while not over:
        ready = select.select([life, woken.fileno()], [], [])[0]
        if woken.fileno() in ready:
            woken.recv(4096)
        if life in ready or server in _reaped():
            break
    os._exit(0)


def _reaped() -> list[int]:
    pids = []
    try:
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            pids.append(pid)
    except ChildProcessError:
        pass
    return pids


# --- its view of the files ------------------------------------------------------------------------


def _furnish(plan: dict[str, object]) -> None:
    """Cover what a guest must not touch or see; called in a mount namespace of its own."""
    kept = [(str(path), os.open(str(path), os.O_PATH)) for path in _strings(plan["kept"])]
    shared = [(str(path), os.open(str(path), os.O_PATH)) for path in _strings(plan["shared"])]
    directory = str(plan["directory"])
    _mount(None, "/", None, MS_PRIVATE_ALL)
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    sources = [os.open(f"{directory}/{path.strip('/').replace('/', '-')}", os.O_PATH) for path in PRIVATE]
    for path, source in zip(PRIVATE, sources, strict=True):
        if os.path.isdir(path) and not os.path.islink(path):
            _mount(f"/proc/self/fd/{source}", path, None, MS_BIND)
    for path, source in kept:
        if _is_private(path):
            os.makedirs(path, exist_ok=True)
            _mount(f"/proc/self/fd/{source}", path, None, MS_BIND)
            _mount(None, path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | _flags_of(path))
    for path, source in shared:
        if _is_private(path):
            os.makedirs(path, exist_ok=True)
        _mount(f"/proc/self/fd/{source}", path, None, MS_BIND)
    for fd in (*sources, *(source for _, source in kept + shared)):
        os.close(fd)
    os.makedirs(BIN, mode=0o755)
    for name in ENDERS:
        _write_program(f"{BIN}/{name}", END)
    _write_program(f"{BIN}/sudo", SUDO)
    os.symlink(str(plan["base_python"]), f"{BIN}/python3")
    enders = {os.path.realpath(f"{folder}/{name}") for folder in FOLDERS for name in (*ENDERS, "systemd")}
    sudos = {os.path.realpath(f"{folder}/sudo") for folder in FOLDERS}
    for paths, by in ((enders, f"{BIN}/shutdown"), (sudos, f"{BIN}/sudo"), (COVERED, "/dev/null")):
        for path in paths:
            if os.path.exists(path):
                _mount(by, path, None, MS_BIND)
    _libc.sethostname(str(plan["ref"]).encode()[:64], min(len(str(plan["ref"]).encode()), 64))
    Path(ORDER).write_text(json.dumps(plan))
    os.makedirs(str(plan["home"]), mode=0o700, exist_ok=True)
    for path in ("/", "/sys"):  # last: a bind would take it over
        if os.path.ismount(path):
            _mount(None, path, None, MS_REMOUNT | MS_BIND | MS_RDONLY | _flags_of(path))


def _is_private(path: str) -> bool:
    return path.startswith(tuple(f"{private}/" for private in PRIVATE))


def _strings(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(one) for one in value]


def _write_program(path: str, text: str) -> None:
    Path(path).write_text(text)
    os.chmod(path, 0o755)


def _flags_of(path: str) -> int:
    """Flags of a mount that a remount within a user namespace must not take away."""
    found = os.statvfs(path).f_flag
    pairs = ((os.ST_NOSUID, MS_NOSUID), (os.ST_NODEV, MS_NODEV), (os.ST_NOEXEC, MS_NOEXEC))
    relatime = 0x200000 if found & os.ST_RELATIME else 0x400 if found & os.ST_NOATIME else 0
    return sum(flag for bit, flag in pairs if found & bit) | relatime


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind)]
    _check(_libc.mount(*words, ctypes.c_ulong(flags), None), f"mount {target}")


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


# --- its ssh server -------------------------------------------------------------------------------


def serve(listening: int) -> None:
    """Be the ssh server on a socket that listens already."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    import asyncio

    from tests.fakes.guest_server import run

    order = json.loads(Path(ORDER).read_bytes())
    os.unlink(ORDER)  # it has the host key
    asyncio.run(run(order, socket.socket(fileno=listening), path=BIN))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
