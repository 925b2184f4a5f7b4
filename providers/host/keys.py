"""Key pairs of clusters, host keys of machines, and which host key belongs to which machine.

    <root>/<cluster_id>/id_ed25519[.pub]     the pair that logs in
    <root>/<cluster_id>/known_hosts          pinned host keys, under the name of the instance
    <root>/<cluster_id>/hosts/<instance_id>  private host keys that we handed to machines

Names, not addresses, are what a host key is pinned to: vendors give an address to the next customer.
Directories are 0700 and files 0600, and each file appears whole or not at all.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import asyncssh

STALE_PINS_MAX = 256  # of forgotten machines in one known_hosts before it is written anew


class PinMismatch(Exception):
    """Another host key is pinned under that name."""


def file_name(identity: str) -> str:
    """Spell an id so that it is one path component and one plain word in known_hosts."""
    if identity in ("", ".", ".."):
        raise ValueError(f"{identity!r} can't name a file")
    return quote(identity, safe="@+:~")


def make_private(directory: Path) -> None:
    """Make a directory, and each that is missing above it, with mode 0700."""
    if not directory.is_dir():
        make_private(directory.parent)
        directory.mkdir(mode=0o700, exist_ok=True)


def write_private(path: Path, data: bytes) -> None:
    """Write a 0600 file whole or not at all; its directory (0700) is made."""
    make_private(path.parent)
    fd, draft = tempfile.mkstemp(dir=path.parent, prefix=".draft-")  # 0600 by nature
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(draft).replace(path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def public_line(private_pem: bytes | str) -> str:
    """The public half of a private key, as one line `type base64`."""
    key = asyncssh.import_private_key(private_pem)
    return key.export_public_key().decode().strip()


def pinned(known_hosts: Path, alias: str) -> list[str]:
    """Every key pinned under `alias`, as `type base64`; empty when there is none."""
    try:
        lines = known_hosts.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [key for names, key in map(_parsed, lines) if alias in names]


def pin_in(known_hosts: Path, alias: str, public: str) -> None:
    """Pin `public` under `alias`; the same key again changes nothing.

    Raises:
        PinMismatch: another key is pinned there; nothing was written.
    """
    Pins(known_hosts).pin(alias, public)


class Pins:
    """One known_hosts file. It is read once, and again when somebody else wrote it; a pin is appended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._keys: dict[str, list[str]] = {}
        self._read_at: tuple[int, int, int] | None = None  # inode, size, mtime of what was read
        self._whole = True  # the last line has its end
        self._stale: set[str] = set()  # forgotten and still in the file

    def pin(self, alias: str, public: str) -> None:
        """Pin a key. Raises PinMismatch when another one is pinned under the alias."""
        key = " ".join(public.split()[:2])
        make_private(self.path.parent)
        with _locked(self.path):
            self._read()
            have = self._keys.get(alias, [])
            if key in have and alias not in self._stale:
                return
            if have and alias not in self._stale:
                raise PinMismatch(f"{alias} has another host key")
            if alias in self._stale:
                self._write_again()
            # In brackets too: so the name reads in tools that look for "[host]".
            line = f"{alias},[{alias}] {key}\n".encode()
            self._append(line if self._whole else b"\n" + line)
            self._learn(line.decode())

    def forget(self, alias: str) -> None:
        """Drop a pin. It may stay in the file until there are many of those: no alias is used again."""
        if not self.path.exists():
            return
        with _locked(self.path):
            self._read()
            if alias not in self._keys:
                return
            self._stale.add(alias)
            if len(self._stale) > STALE_PINS_MAX or len(self._stale) * 2 >= len(self._keys):
                self._write_again()

    def _read(self) -> None:
        if self._signature() == self._read_at:
            return
        self._keys, self._whole, self._read_at = {}, True, None
        self._stale.clear()
        try:
            text = self.path.read_text()
        except FileNotFoundError:
            return
        self._whole = not text or text.endswith("\n")
        lines = text.splitlines()
        for line in lines if self._whole else lines[:-1]:  # a line cut by a power failure says nothing
            self._learn(line)
        self._read_at = self._signature()

    def _learn(self, line: str) -> None:
        names, key = _parsed(line)
        for name in names:
            self._keys.setdefault(name, []).append(key)

    def _append(self, line: bytes) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)
            os.fsync(fd)
        finally:
            os.close(fd)
        self._whole, self._read_at = True, self._signature()

    def _write_again(self) -> None:
        lines = self.path.read_text().splitlines()
        kept = [line for line in lines if not self._stale.intersection(_parsed(line)[0])]
        write_private(self.path, "".join(f"{line}\n" for line in kept).encode())
        self._read_at = None
        self._stale.clear()
        self._read()

    def _signature(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


class KeyStore:
    """The keys directory of one daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._pins: dict[str, Pins] = {}

    def _pins_of(self, cluster_id: str) -> Pins:
        pins = self._pins.get(cluster_id)
        if pins is None:
            pins = self._pins[cluster_id] = Pins(self.known_hosts_path(cluster_id))
        return pins

    def private_key_path(self, cluster_id: str) -> Path:
        """Where the cluster's private key is (once `cluster_key` was called)."""
        return self.root / file_name(cluster_id) / "id_ed25519"

    def known_hosts_path(self, cluster_id: str) -> Path:
        """Where the host keys of the cluster's machines are pinned."""
        return self.root / file_name(cluster_id) / "known_hosts"

    def cluster_key(self, cluster_id: str) -> tuple[Path, str]:
        """Make the cluster's key pair unless it is there; return (private key path, public line)."""
        path = self.private_key_path(cluster_id)
        self._generate(path, comment=f"everpool {file_name(cluster_id)}")
        public = Path(f"{path}.pub")
        if not public.exists():  # made after the private half: a crash between leaves only that
            write_private(public, f"{public_line(path.read_bytes())}\n".encode())
        return path, public.read_text().strip()

    def host_key(self, cluster_id: str, instance_id: str) -> str:
        """The instance's private host key (OpenSSH PEM), made once and pinned; a relaunch has the same."""
        path = self._host_key_path(cluster_id, instance_id)
        self._generate(path, comment=file_name(instance_id))
        private = path.read_text()
        self.pin(cluster_id, instance_id, public_line(private))
        return private

    def pin(self, cluster_id: str, instance_id: str, public: str) -> None:
        """Pin a host key `type base64 [comment]`. Raises PinMismatch when another one is pinned."""
        self._pins_of(cluster_id).pin(file_name(instance_id), public)

    def forget(self, cluster_id: str, instance_id: str | None = None) -> None:
        """Remove an instance's host key and pin, or all of a cluster. What is not there is a success."""
        folder = self.root / file_name(cluster_id)
        if instance_id is None:
            self._pins.pop(cluster_id, None)
            for path in (*folder.glob("hosts/*"), *folder.glob("*"), *folder.glob(".*")):
                if path.is_file():
                    path.unlink(missing_ok=True)
            for empty in (folder / "hosts", folder):
                if empty.is_dir():
                    empty.rmdir()
            return
        self._host_key_path(cluster_id, instance_id).unlink(missing_ok=True)
        self._pins_of(cluster_id).forget(file_name(instance_id))

    def _host_key_path(self, cluster_id: str, instance_id: str) -> Path:
        return self.root / file_name(cluster_id) / "hosts" / file_name(instance_id)

    def _generate(self, path: Path, *, comment: str) -> None:
        if path.exists():
            return
        make_private(path.parent)
        with _locked(path):  # two callers must end with the same key
            if not path.exists():
                key = asyncssh.generate_private_key("ssh-ed25519", comment=comment)
                write_private(path, key.export_private_key())


def _parsed(line: str) -> tuple[list[str], str]:
    fields = line.split()
    if len(fields) < 3 or line.startswith(("#", "@")):
        return [], ""
    return fields[0].split(","), " ".join(fields[1:3])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the directory that `path` is in, against other processes too.

    The directory itself is locked: a file that is replaced can't carry its own lock.
    """
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
