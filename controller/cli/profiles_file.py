"""The client's profiles: named daemons in `~/.config/everpool/profiles.toml`, readable by nobody else."""

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from controller.cli.codes import FAILED, USAGE, CliError
from controller.client_reach import wrong_url

ENV = "EVERPOOL_PROFILES"  # another file
PLACE = "~/.config/everpool/profiles.toml"
BYTES_MAX = 2**20
KEYS = ("socket", "url", "token_file", "token", "ca_file", "pool")
DEFAULT = "default-profile"
HEAD = """\
# Daemons that `everpool -p NAME` talks to; see `everpool profile --help`.
# Each [profile.NAME] has `socket`, or `url` with `token_file` (or `token`) and perhaps `ca_file`; and perhaps
# `pool`, which "." then stands for. Keep this file to yourself: chmod 600.
"""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One daemon, and how to get in.

    Attributes:
        socket: its unix socket; None: it has a URL.
        url: its URL.
        token_file, token: where the token is, or the token itself.
        ca_file: certificates to trust instead of the system's.
        pool: what "." stands for where a command takes a pool.
    """

    name: str
    socket: str | None = None
    url: str | None = None
    token_file: str | None = None
    token: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    pool: str | None = None

    @property
    def address(self) -> str:
        """Where the daemon is."""
        return self.socket or self.url or ""

    def shown(self) -> dict[str, Any]:
        """For showing: all but the token."""
        told = {key: getattr(self, key) for key in KEYS if key != "token" and getattr(self, key) is not None}
        return {"name": self.name, **told, **({"token": "set, not shown"} if self.token else {})}


@dataclass(frozen=True, slots=True)
class Profiles:
    """What the file says."""

    path: Path
    default: str | None = None
    profiles: Mapping[str, Profile] = field(default_factory=dict)

    def get(self, name: str) -> Profile:
        """A profile. Raises CliError with the nearest name."""
        found = self.profiles.get(name)
        if found is not None:
            return found
        near = get_close_matches(name, self.profiles, 1)
        if near:
            hint = f"did you mean {near[0]!r}?"
        elif self.profiles:
            hint = f"there are {', '.join(sorted(self.profiles))}"
        else:
            hint = f"there are none in {self.path}: make one with `everpool profile add {name} --url URL`"
        raise CliError(USAGE, f"no profile {name!r}: {hint}")

    def text(self) -> str:
        """The file."""
        lines = [HEAD]
        if self.default is not None:
            lines.append(f"{DEFAULT} = {json.dumps(self.default)}\n")
        for name, one in sorted(self.profiles.items()):
            lines.append(f"[profile.{json.dumps(name)}]")
            lines += [
                f"{key} = {json.dumps(value)}" for key in KEYS if (value := getattr(one, key)) is not None
            ]
            lines.append("")
        return "\n".join(lines)

    def keep(self) -> None:
        """Write the file whole or not at all, for its owner only. Raises CliError."""
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(self.text())
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                draft.unlink()
            raise CliError(FAILED, f"{self.path} can't be written: {error.strerror}") from error


def place() -> Path:
    """Where the file is, or will be."""
    return Path(os.environ.get(ENV) or PLACE).expanduser()


def read(*, make: bool = False) -> Profiles:
    """What the file says; without a file there are no profiles, and with `make` there is one afterwards.

    Raises:
        CliError: it is wrong, or has a token and others may read it.
    """
    path = place()
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            raw = file.read(BYTES_MAX + 1)
    except FileNotFoundError:
        empty = Profiles(path)
        if make:
            empty.keep()
        return empty
    except OSError as error:
        raise CliError(USAGE, f"{path} can't be read: {error.strerror}") from error
    found = _parsed(path, raw)
    if mode & 0o077 and any(one.token for one in found.profiles.values()):
        text = f"{path} has a token and others may read it (mode {mode:03o}): chmod 600 {path}"
        raise CliError(USAGE, text)
    return found


def _parsed(path: Path, raw: bytes) -> Profiles:
    try:
        if len(raw) > BYTES_MAX:
            raise ValueError(f"is larger than {BYTES_MAX} bytes")
        table = tomllib.loads(raw.decode())
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML; its message has no values of ours
        raise CliError(USAGE, f"{path}: {error}") from error
    problems = [f"key {key!r} is not known" + _near(key, (DEFAULT, "profile")) for key in table]
    problems = [text for text, key in zip(problems, table, strict=True) if key not in (DEFAULT, "profile")]
    tables, default = table.get("profile", {}), table.get(DEFAULT)
    if not isinstance(tables, dict):
        problems.append("profile: has to be tables, [profile.NAME]")
        tables = {}
    found: dict[str, Profile] = {}
    for name, values in tables.items():
        wrong = problems_of(name, values)
        problems += [f"[profile.{name}] {text}" for text in wrong]
        if not wrong:
            found[name] = Profile(name=name, **values)
    if default is not None and default not in tables:
        problems.append(f"{DEFAULT}: no profile {default!r}{_near(str(default), tuple(tables))}")
    if problems:
        raise CliError(USAGE, f"{path} is wrong: {problems[0]}", problems[1:])
    return Profiles(path, default, found)


def problems_of(name: str, values: object) -> list[str]:
    """What is wrong with one profile; values of `token` are never shown."""
    if not _NAME.fullmatch(name):
        return ["is no name: letters, digits, '.', '_' and '-', at most 63"]
    if not isinstance(values, dict):
        return ["has to be a table"]
    problems = [f"key {key!r} is not known{_near(key, KEYS)}" for key in values if key not in KEYS]
    problems += [
        f"{key} has to be text that is not empty"
        for key in KEYS
        if key in values and (not isinstance(values[key], str) or not values[key])
    ]
    if problems:
        return problems
    if ("socket" in values) == ("url" in values):
        problems.append("say either `socket` (a path) or `url`")
    if "url" in values and (wrong := wrong_url(values["url"])):
        problems.append(f"url {wrong}")
    if "token" in values and "token_file" in values:
        problems.append("say either `token` or `token_file`")
    if "socket" in values and any(key in values for key in ("token", "token_file", "ca_file")):
        problems.append("a socket needs no token and no ca_file")
    return problems


def added(known: Profiles, profile: Profile, *, is_default: bool) -> Profiles:
    """The same with one more, or another; the first becomes the default."""
    default = profile.name if is_default or not known.profiles else known.default
    return replace(known, profiles={**known.profiles, profile.name: profile}, default=default)


def without_default(known: Profiles) -> Profiles:
    """The same with no default: commands that name no daemon go to the one on this host."""
    return replace(known, default=None)


def removed(known: Profiles, name: str) -> Profiles:
    """The same without one. Raises CliError."""
    known.get(name)
    rest = {other: one for other, one in known.profiles.items() if other != name}
    return replace(known, profiles=rest, default=None if known.default == name else known.default)


def _near(word: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(word, known, 1)
    return f": did you mean {near[0]!r}?" if near else ""
