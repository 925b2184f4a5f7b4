"""The directory in which a local provider keeps its machines. Everything here blocks: call it in a thread.

    lock              held while a key is claimed, so that capacity is counted right
    launched          how many machines were ever made
    machines/<ref>/   one machine; the directory itself is locked while its parent is being started
    ended/<ref>       tombstone of a key: written before its machine is killed
    trash/            what is being deleted

One key has one `ref`, so one directory, and its lock goes to the starting process and is let go when
machine.json is written or nobody is left who could write it. So a free lock without machine.json
means that nothing runs, after a crash at any point.
"""

import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from providers.errors import Fault, ProviderError
from providers.host.keys import make_private, public_line, write_private
from providers.local.config import LocalConfig
from providers.local.machine import boot_id, kill_marked, start_time
from providers.local.wire import Ended, NoticeFile, Ordered, Record, checked_ref, is_ref, read, ref_of
from providers.model import Order
from providers.priced import offers_of

SSH_USER = "everpool"
LOCK_WITHIN_S = 20.0
START_WITHIN_S = 30.0
DEAD_WITHIN_S = 10.0
UNSTARTED_KEPT_S = 60.0  # a claimed directory in which nothing runs
TOMBSTONES_KEPT_S = 30 * 86_400.0
DEATHS_TOLD_S = 60.0
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH")


@dataclass(frozen=True, slots=True)
class Found:
    """A machine whose parent lives, or one that is just being started (`record` is no Record then)."""

    ref: str
    record: Ordered
    port: int | None
    notice: NoticeFile | None
    ending: bool

    @property
    def alive(self) -> Record | None:
        """The record, when there is a process."""
        return self.record if isinstance(self.record, Record) else None


@dataclass(frozen=True, slots=True)
class Death:
    """A machine that died by itself, when that was noticed, and what it said last."""

    record: Record
    at: float
    words: str


class Yard:
    """All machines of one local provider."""

    def __init__(self, root: Path, name: str, config: LocalConfig, now: Callable[[], float]) -> None:
        self.root = root.absolute()
        self._name = name
        self._config = config
        self._now = now
        self._markets = {offer.market: offer for offer in offers_of(config.offers, name)}
        self._capacity = {(offer.zone, offer.instance_type): offer.capacity for offer in config.offers}
        self._boot = boot_id()
        self._claimed: dict[str, Ordered] = {}  # ref -> what was claimed here, and is not started yet
        self._records: dict[str, tuple[int, Record]] = {}  # ref -> (inode of machine.json, its content)
        self._ports: dict[str, tuple[int, int]] = {}  # ref -> (pid, port)
        self._deaths: dict[str, Death] = {}  # ref -> one whose cause is told for a while
        for folder in ("machines", "ended", "trash"):
            make_private(self.root / folder)

    def directory(self, ref: str) -> Path:
        """Where a machine lives."""
        return self.root / "machines" / checked_ref(ref)

    # --- making one

    def launch(self, order: Order) -> Record:
        """Start the order's machine, or return the one that has its key. Raises ProviderError."""
        ref = ref_of(order.key)
        try:
            self._claim(ref, order)
            with self._held(ref) as lock:
                return self._started(ref, order, lock)
        except OSError as error:  # disk full, no more processes
            raise ProviderError(Fault.NOT_SENT, f"launch {order.key}: {error}") from error
        finally:
            self._claimed.pop(ref, None)

    def _claim(self, ref: str, order: Order) -> None:
        with _locked_file(self.root / "lock"):
            self._refuse_ended(ref, order.key)
            directory = self.directory(ref)
            earlier = read(Ordered, directory / "order.json")
            if self._record(ref) is None:
                self._check_room(ref, order)
            if earlier is not None:
                self._claimed[ref] = earlier
                return
            private = _host_key(order)
            directory.mkdir(mode=0o700, exist_ok=True)
            write_private(directory / "host_key", private.encode())
            write_private(directory / "authorized_key", order.public_key.encode())
            for folder in ("home", "agent"):
                (directory / folder).mkdir(mode=0o700, exist_ok=True)
            ordered = self._ordered(order, public_line(private))
            write_private(directory / "order.json", ordered.model_dump_json().encode())
            self._claimed[ref] = ordered

    def _refuse_ended(self, ref: str, key: str) -> None:
        if (self.root / "ended" / ref).exists():
            raise ProviderError(Fault.GONE, f"launch {key}: its machine has ended")

    def _check_room(self, ref: str, order: Order) -> None:
        market = order.offer.market
        if market not in self._markets:
            raise ProviderError(Fault.REJECTED, f"launch {order.key}: {market} is not on offer")
        # First those whose launch is under way in another thread: what is started meanwhile is scanned.
        known = dict(self._claimed) | {found.ref: found.record for found in self.scan()}
        there = [record for one, record in known.items() if one != ref]
        if len(there) >= self._config.machines_max:
            detail = f"launch {order.key}: {len(there)} local machines live, machines_max is that many"
            raise ProviderError(Fault.QUOTA, detail)
        capacity = self._capacity[market.zone, market.instance_type]
        place = (market.zone, market.instance_type, market.lifecycle)
        taken = sum((one.zone, one.instance_type, one.lifecycle) == place for one in there)
        if capacity is not None and taken >= capacity:
            raise ProviderError(Fault.CAPACITY, f"launch {order.key}: {market} has {capacity}, all taken")

    def _ordered(self, order: Order, host_public_key: str) -> Ordered:
        market = order.offer.market
        counter = self.root / "launched"
        number = 1 + (int(counter.read_text()) if counter.exists() else 0)
        write_private(counter, str(number).encode())
        return Ordered(
            key=order.key,
            owner=order.owner,
            epoch=order.epoch,
            instance_id=order.instance_id,
            ssh_user=order.cluster.ssh_user,
            region=market.region,
            zone=market.zone,
            instance_type=market.instance_type,
            lifecycle=market.lifecycle,
            micro_usd_per_hour=self._markets[market].micro_usd_per_hour,
            launched_at=self._now(),
            launch_delay_s=self._config.launch_delay_s,
            number=number,
            host_public_key=host_public_key,
            isolate=self._config.isolate,
        )

    def _started(self, ref: str, order: Order, lock: int) -> Record:
        self._refuse_ended(ref, order.key)  # ended while we waited for the lock
        record = self._record(ref)
        if record is None:
            self._start(ref, order, lock)
            record = self._record(ref)
            if record is None:
                raise ProviderError(Fault.UNKNOWN, f"launch {order.key}: started, and gone at once")
        elif not self._lives(record):
            self._delete_aside(self._bury(ref, record, "died"))
            raise ProviderError(Fault.GONE, f"launch {order.key}: its machine has died")
        if record.key != order.key:
            raise ProviderError(Fault.CONFLICT, f"launch {order.key}: {ref} has another key")
        return record

    def _start(self, ref: str, order: Order, lock: int) -> None:
        directory = self.directory(ref)
        program = Path(__file__).with_name("machine.py")
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        with open(directory / "console.log", "ab", opener=_private) as console:
            launcher = subprocess.Popen(
                [sys.executable, "-I", "-S", str(program), str(directory), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=console,
                cwd="/",
                env=environment,
                pass_fds=(lock,),
                start_new_session=True,
            )
        try:
            code = launcher.wait(START_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            launcher.kill()
            launcher.wait()
            raise ProviderError(Fault.UNKNOWN, f"launch {order.key}: no answer of its start") from error
        if code:
            raise ProviderError(Fault.NOT_SENT, f"launch {order.key}: {self._last_words(ref)}")

    # --- looking

    def scan(self) -> list[Found]:
        """Every machine that lives or is being started; what is dead is buried on the way."""
        found = []
        for entry in sorted(os.listdir(self.root / "machines")):
            one = self.look(entry) if is_ref(entry) else None
            if one is not None:
                found.append(one)
        return found

    def deaths(self) -> list[Death]:
        """Machines that died lately and said why, each for DEATHS_TOLD_S."""
        horizon = self._now() - DEATHS_TOLD_S
        for ref, death in list(self._deaths.items()):
            if death.at < horizon:
                self._deaths.pop(ref, None)
        return list(self._deaths.values())

    def look(self, ref: str) -> Found | None:
        """One machine; None, and no trace is left of it, when it is over."""
        directory = self.directory(ref)
        record = self._record(ref)
        if record is None:
            return self._unstarted(ref)
        ended = (self.root / "ended" / ref).exists()
        if not self._lives(record):
            if self._bury_if_free(ref, record) or record.isolated or record.boot_id != self._boot:
                return None
            ended = True  # its parent is dead, but perhaps not all that was in it
        notice = read(NoticeFile, directory / "notice.json")
        return Found(ref=ref, record=record, port=self._port(ref, record), notice=notice, ending=ended)

    def _unstarted(self, ref: str) -> Found | None:
        directory = self.directory(ref)
        ordered = read(Ordered, directory / "order.json")
        try:
            with self._held(ref, wait_s=0):
                if self._record(ref) is None and self._now() - directory.stat().st_mtime > UNSTARTED_KEPT_S:
                    self._delete_aside(self._throw_away(ref))
            return None
        except (ProviderError, FileNotFoundError):  # held: its parent is being started right now
            if ordered is None:
                return None
            return Found(ref=ref, record=ordered, port=None, notice=None, ending=False)

    def _record(self, ref: str) -> Record | None:
        path = self.directory(ref) / "machine.json"
        try:
            inode = path.stat().st_ino
        except FileNotFoundError:
            self._records.pop(ref, None)
            return None
        cached = self._records.get(ref)
        if cached is not None and cached[0] == inode:
            return cached[1]
        record = read(Record, path)
        if record is not None:
            self._records[ref] = (inode, record)
        return record

    def _port(self, ref: str, record: Record) -> int | None:
        cached = self._ports.get(ref)
        if cached is not None and cached[0] == record.pid:
            return cached[1]
        try:
            port = int((self.directory(ref) / "port").read_text())
        except (OSError, ValueError):
            return None
        self._ports[ref] = (record.pid, port)
        return port

    def _lives(self, record: Record) -> bool:
        return record.boot_id == self._boot and start_time(record.pid) == record.start_time

    # --- ending one

    def terminate(self, ref: str) -> None:
        """End a machine and all that is in it; one that is not there is a success. Raises ProviderError."""
        ordered = read(Ordered, self.directory(ref) / "order.json")
        if ordered is None:
            return
        self._entomb(ref, ordered.key, "terminated")
        with self._held(ref):
            grave = self._bury(ref, self._record(ref), "terminated")
        if grave is not None:
            _delete(grave)

    def kill(self, record: Record, *, within_s: float = 0) -> bool:
        """Kill a machine's parent, which takes the rest along; True when it is dead `within_s` from now."""
        try:
            process = os.pidfd_open(record.pid)
        except ProcessLookupError:
            return True
        try:
            if not self._lives(record):  # asked after the pid was pinned: it can't be another's any more
                return True
            signal.pidfd_send_signal(process, signal.SIGKILL)
            if not within_s:
                return True
            return bool(select.select([process], [], [], within_s)[0])
        except ProcessLookupError:
            return True
        finally:
            os.close(process)

    def _bury_if_free(self, ref: str, record: Record) -> bool:
        try:
            with self._held(ref, wait_s=0):
                words, was_ended = self._last_words(ref), (self.root / "ended" / ref).exists()
                self._delete_aside(self._bury(ref, record, f"died: {words}"))
                if words and not was_ended and record.boot_id == self._boot:
                    self._deaths[ref] = Death(record, max(self._now(), record.launched_at), words)
        except FileNotFoundError:
            return True
        except ProviderError:  # somebody else is at it, or some of it does not die
            return False
        return True

    def _bury(self, ref: str, record: Record | None, detail: str) -> Path | None:
        """Kill what is left of a machine, write its tombstone, take its directory away. Needs its lock."""
        if record is not None:
            self._entomb(ref, record.key, detail)
            dead = self.kill(record, within_s=DEAD_WITHIN_S)
            if not record.isolated and record.boot_id == self._boot:
                dead = kill_marked(str(self.directory(ref)), within_s=DEAD_WITHIN_S) and dead
            if not dead:
                raise ProviderError(Fault.UNKNOWN, f"machine {ref} does not die")
        return self._throw_away(ref)

    def _entomb(self, ref: str, key: str, detail: str) -> None:
        stone = self.root / "ended" / ref
        if not stone.exists():
            ended = Ended(key=key, ended_at=self._now(), detail=detail)
            write_private(stone, ended.model_dump_json().encode())

    def _throw_away(self, ref: str) -> Path | None:
        """Move a directory to the trash, so that it is gone at once; return where it is now."""
        self._records.pop(ref, None)
        self._ports.pop(ref, None)
        grave = self.root / "trash" / f"{ref}.{time.monotonic_ns()}"
        try:
            self.directory(ref).rename(grave)
        except FileNotFoundError:
            return None
        return grave

    def _delete_aside(self, grave: Path | None) -> None:
        """Delete what may be large while nobody waits for it."""
        if grave is not None:
            threading.Thread(target=_delete, args=(grave,), name="empty-trash", daemon=True).start()

    def empty_trash(self) -> None:
        """Delete what an earlier life of the daemon left in the trash."""
        for grave in (self.root / "trash").iterdir():
            self._delete_aside(grave)

    def prune(self) -> None:
        """Forget tombstones that are older than any request for their key can be."""
        horizon = self._now() - TOMBSTONES_KEPT_S
        for stone in (self.root / "ended").iterdir():
            ended = read(Ended, stone)
            if ended is not None and ended.ended_at < horizon:
                stone.unlink(missing_ok=True)

    def _last_words(self, ref: str) -> str:
        try:
            said = (self.directory(ref) / "console.log").read_bytes()[-2000:]
        except OSError:
            return ""
        lines = said.decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""

    # --- locks

    @contextmanager
    def _held(self, ref: str, *, wait_s: float = LOCK_WITHIN_S) -> Iterator[int]:
        """Hold a machine's directory. Raises ProviderError when it is busy, FileNotFoundError."""
        lock = os.open(self.directory(ref), os.O_RDONLY | os.O_DIRECTORY)
        try:
            deadline = time.monotonic() + wait_s
            while not _try_lock(lock):
                if time.monotonic() >= deadline:
                    raise ProviderError(Fault.UNKNOWN, f"machine {ref} is being started or ended")
                time.sleep(0.01)
            if os.stat(self.directory(ref)).st_ino != os.fstat(lock).st_ino:
                # What we waited for was removed, and another is in its place, with a lock of its own.
                raise ProviderError(Fault.UNKNOWN, f"machine {ref} has been replaced just now")
            yield lock
        finally:
            os.close(lock)


def _host_key(order: Order) -> str:
    """The private host key of the order, or a new one. Raises ProviderError when a key is no key."""
    try:
        asyncssh.import_public_key(order.public_key)
        if not order.host_key:
            return asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
        asyncssh.import_private_key(order.host_key)
    except asyncssh.KeyImportError as error:
        raise ProviderError(Fault.REJECTED, f"launch {order.key}: {error}") from error
    return order.host_key


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _locked_file(path: Path) -> Iterator[None]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _delete(grave: Path) -> None:
    if sys.version_info >= (3, 12):
        shutil.rmtree(grave, onexc=_forced)
    else:
        shutil.rmtree(grave, onerror=_forced)


def _forced(function: Callable[[str], object], path: str, _: object) -> None:
    """Try again after taking away what the machine's tasks may have set against us."""
    try:
        os.chmod(Path(path).parent, 0o700)
        if os.path.isdir(path) and not os.path.islink(path):
            os.chmod(path, 0o700)
            shutil.rmtree(path, ignore_errors=True)
        else:
            function(path)
    except OSError:
        return  # it stays in the trash; the next time it is tried again
