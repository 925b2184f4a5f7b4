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
    key = " ".join(public.split()[:2])
    make_private(known_hosts.parent)
    with _locked(known_hosts):
        have = pinned(known_hosts, alias)
        if key in have:
            return
        if have:
            raise PinMismatch(f"{alias} has another host key")
        old = known_hosts.read_bytes() if known_hosts.exists() else b""
        # In brackets too: so the name reads in tools that look for "[host]".
        write_private(known_hosts, old + f"{alias},[{alias}] {key}\n".encode())


class KeyStore:
    """The keys directory of one daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root

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
        pin_in(self.known_hosts_path(cluster_id), file_name(instance_id), public)

    def forget(self, cluster_id: str, instance_id: str | None = None) -> None:
        """Remove an instance's host key and pin, or all of a cluster. What is not there is a success."""
        folder = self.root / file_name(cluster_id)
        if instance_id is None:
            for path in (*folder.glob("hosts/*"), *folder.glob("*"), *folder.glob(".*")):
                if path.is_file():
                    path.unlink(missing_ok=True)
            for empty in (folder / "hosts", folder):
                if empty.is_dir():
                    empty.rmdir()
            return
        self._host_key_path(cluster_id, instance_id).unlink(missing_ok=True)
        known_hosts, alias = self.known_hosts_path(cluster_id), file_name(instance_id)
        if not known_hosts.exists():
            return
        with _locked(known_hosts):
            lines = known_hosts.read_text().splitlines(keepends=True)
            kept = [line for line in lines if alias not in _parsed(line)[0]]
            if kept != lines:
                write_private(known_hosts, "".join(kept).encode())

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
