"""The files of a service: the unit and its drop-ins as they ship, and a first config."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

UNIT = "everpool.service"
USER = "everpool"
GROUP = "everpool-operators"
SHIPPED_PROGRAM = "/opt/everpool/bin/everpool"
DROP_INS = {"local": "local.conf", "container": "container.conf"}  # by the type of provider that needs it
_MARK = "# everpool service install wrote this; edits go into a drop-in (systemctl edit everpool). sha256="

Put = Literal["new", "same", "changed", "edited"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are. `root` is another directory than / in tests only."""

    root: Path = Path("/")

    @property
    def unit(self) -> Path:
        """The unit."""
        return self.root / "etc/systemd/system" / UNIT

    @property
    def drop_ins(self) -> Path:
        """The directory of its drop-ins."""
        return self.root / "etc/systemd/system" / f"{UNIT}.d"

    @property
    def config(self) -> Path:
        """The config."""
        return self.root / "etc/everpool/config.toml"

    @property
    def credentials(self) -> Path:
        """Files that systemd hands to the daemon as credentials `everpool_<name>`."""
        return self.root / "etc/everpool/credentials"

    @property
    def state(self) -> tuple[Path, Path]:
        """The state directory, as systemd makes it with DynamicUser= and without."""
        return self.root / "var/lib/private/everpool", self.root / "var/lib/everpool"

    @property
    def link(self) -> Path:
        """The command, where a shell finds it."""
        return self.root / "usr/local/bin/everpool"

    @property
    def socket(self) -> Path:
        """The API's socket, in a first config."""
        return self.root / "run/everpool/api.sock"


def shipped(name: str) -> str:
    """A file of this package."""
    return resources.files(__package__).joinpath(name).read_text()


def unit(program: Path) -> str:
    """The unit, with this command in place of the one that the shipped file names."""
    return shipped(UNIT).replace(SHIPPED_PROGRAM, str(program))


def first_config(socket: Path, providers: Iterable[str]) -> str:
    """A config to begin with: the socket where the group finds it, and one provider per type."""
    text = (
        "# Every key, with what it is without being named: config.example.toml, and `everpool check`.\n"
        "# After a change: systemctl reload everpool\n\n"
        f'[daemon]\nsocket = "{socket}"\nsocket_mode = "0660"  # for the group {GROUP}\n'
    )
    for name in sorted(providers):
        text += f'\n[providers.{name}]\ntype = "{name}"\n'
    return text


def put(path: Path, text: str, *, force: bool = False) -> Put:
    """Write a file that is ours, with a mark by which edits are seen; one that was edited stays as it is.

    Raises:
        OSError: it can't be written.
    """
    marked = f"{_MARK}{_digest(text)}\n{text}"
    try:
        there = path.read_text()
    except FileNotFoundError:
        there = None
    if there == marked:
        return "same"
    if there is not None and not force and is_edited(path):
        return "edited"
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(marked)
    draft.chmod(0o644)
    os.replace(draft, path)
    return "new" if there is None else "changed"


def is_edited(path: Path) -> bool:
    """Whether a file that is there is not as `put` wrote it."""
    first, _, rest = path.read_text().partition("\n")
    return first != f"{_MARK}{_digest(rest)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
