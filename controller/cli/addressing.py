"""Which daemon a command talks to: what flags say counts more than the environment, that more than a profile,
and a profile more than the config."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from controller.cli.codes import USAGE, CliError
from controller.cli.profiles_file import Profile, read
from controller.client import default_address
from controller.client_reach import wrong_url
from controller.config import ConfigError, find, load


@dataclass(frozen=True, slots=True)
class Where:
    """What options, or the environment, say of the daemon."""

    socket: Path | None = None
    url: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    profile: str | None = None
    json: bool = False
    quiet: bool = False

    @property
    def names_one(self) -> bool:
        """Whether it says which daemon."""
        return self.socket is not None or self.url is not None or self.profile is not None


@dataclass(frozen=True, slots=True)
class Found:
    """The daemon that counts. Without `url` it is `socket`; without that where it is by default.

    Attributes:
        profile: the profile that led there, or that names a pool.
        flags: options that lead to the same daemon, for commands that we suggest.
    """

    socket: str | None = None
    url: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: str | None = None
    ca_file: str | None = None
    profile: Profile | None = None
    flags: str = ""

    @property
    def address(self) -> str:
        """A URL, or a socket's path. Raises CliError when the config that has it is wrong."""
        return self.url or self.socket or default_socket()

    def shown_token(self) -> str | None:
        """The token to show; None: that of the environment, if any. Raises CliError."""
        if self.token_file is None:
            return self.token
        try:
            return Path(self.token_file).expanduser().read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            text = f"the token file {self.token_file} can't be read: {why}: name another with --token-file"
            raise CliError(USAGE, text) from error


def environment() -> Where:
    """What the environment says. EVERPOOL_ADDRESS, which other programs' clients read too, counts least."""

    def said(name: str) -> str | None:
        return os.environ.get(f"EVERPOOL_{name}") or None

    def path(name: str) -> Path | None:
        value = said(name)
        return None if value is None else Path(value)

    url, socket, address = said("URL"), path("SOCKET"), said("ADDRESS")
    if url is None and socket is None and address is not None:
        if address.startswith(("http://", "https://")):
            url = address
        else:
            socket = Path(address.removeprefix("unix:"))
    return Where(socket, url, path("TOKEN_FILE"), path("CA_FILE"), said("PROFILE"))


def resolved(layers: Sequence[Where]) -> Found:
    """The daemon that counts.

    Args:
        layers: what was said, the most important first; the last is the environment.

    Raises:
        CliError: a profile that is not there, the file of profiles is wrong, or a URL is none.
    """
    files: dict[str, str] = {}  # they go with the address of their own layer, or of a lower one
    for place, layer in enumerate(layers):
        for key, value in (("token_file", layer.token_file), ("ca_file", layer.ca_file)):
            if value is not None:
                files.setdefault(key, str(value))
        if not layer.names_one:
            continue
        is_env = place == len(layers) - 1
        if layer.url is not None and (problem := wrong_url(layer.url)):
            raise CliError(USAGE, f"{'EVERPOOL_URL' if is_env else '--url'} {problem}")
        name = next((one.profile for one in layers[: place + 1] if one.profile is not None), None)
        profile = None if name is None else read(make=True).get(name)
        if profile is not None and layer.url is None and layer.socket is None:
            return _of_profile(profile, files, "" if is_env else f" -p {shlex.quote(profile.name)}")
        socket = None if layer.url is not None else str(layer.socket)
        found = Found(socket, layer.url, None, files.get("token_file"), files.get("ca_file"), profile)
        return found if is_env else _flagged(found)  # who reads our suggestion has the same environment
    known = read()
    if known.default is not None:
        return _of_profile(known.get(known.default), files, "")
    return _flagged(Found(token_file=files.get("token_file"), ca_file=files.get("ca_file")))


def _of_profile(profile: Profile, files: Mapping[str, str], flags: str) -> Found:
    token_file = files.get("token_file") or profile.token_file
    ca_file = files.get("ca_file") or profile.ca_file
    token = os.environ.get("EVERPOOL_TOKEN") or profile.token
    more = "".join(f" --{key.replace('_', '-')} {shlex.quote(value)}" for key, value in files.items())
    return Found(
        profile.socket and str(Path(profile.socket).expanduser()),
        profile.url,
        None if files.get("token_file") else token,
        None if token and not files.get("token_file") else token_file,
        ca_file,
        profile,
        flags + more,
    )


def _flagged(found: Found) -> Found:
    said = {
        "--socket": found.socket,
        "--url": found.url,
        "--token-file": found.token_file,
        "--ca-file": found.ca_file,
    }
    flags = "".join(f" {flag} {shlex.quote(value)}" for flag, value in said.items() if value is not None)
    return replace(found, flags=flags)


def default_socket() -> str:
    """Where the daemon listens when nobody says: as the config that counts says, if there is one.

    Raises:
        CliError: that config is wrong.
    """
    path = find()
    if path is not None:
        try:
            return str(load(path).daemon.socket_path)
        except ConfigError as error:
            if path.exists() and not os.access(path, os.R_OK):  # the daemon's own, and not for us
                return default_address()
            more = f"; and {len(error.problems) - 1} more" if len(error.problems) > 1 else ""
            text = f"{error.problems[0]}{more}: mend it, or say where the daemon is with --socket"
            raise CliError(USAGE, text) from error
    return default_address()
