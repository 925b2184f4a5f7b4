"""All that is wrong with a config and the secrets it names, for `everpool check`. None is kept or shown."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel

from controller.building import missing_extras
from controller.config import Config, parse, read_through_all, text_of, warnings
from controller.config_errors import Problem, dotted, sorted_lines
from controller.secrets.errors import NoKey
from controller.secrets.keys import read_key
from controller.webhook_signature import SECRET_CHARS_MIN
from providers.errors import ProviderError
from providers.secret import SecretSource

KEYS = ("secrets_key", "secrets_key_old")  # of [daemon]: may be bytes that are no text
CERTIFICATE = ("daemon", "tls", "certificate")
Location = tuple[str | int, ...]


class Looked(NamedTuple):
    """What is to be said of one secret; `wrong`: the daemon would not get it either."""

    location: Location
    text: str
    wrong: bool

    def __str__(self) -> str:
        return f"{dotted(self.location)}: {self.text}"


class Examined(NamedTuple):
    """A config file that was read through.

    Attributes:
        config: as much of it as could be read.
        wrong: all that is wrong, a line each.
        doubts: what may be wrong, or surprise, when nothing is; a line each.
    """

    config: Config
    wrong: Sequence[str]
    doubts: Sequence[str]


def examine(path: Path | None) -> Examined:
    """Read a config file through, and look at the secrets that it names; None: the defaults.

    Raises:
        ConfigError: it can't be read at all.
    """
    if path is None:
        config = parse("", "defaults")
        return Examined(config, missing_extras(config.providers), warnings(config))
    text, name = text_of(path), str(path)
    config, problems = read_through_all(text, name)
    looked = look(config)
    problems += [Problem(one.location, one.text) for one in looked if one.wrong]
    wrong = [
        *sorted_lines(name, text, problems),
        *config.unfillable.values(),
        *missing_extras(config.providers),
    ]
    if wrong:
        return Examined(config, wrong, ())
    seen = sorted_lines(name, text, [Problem(one.location, one.text) for one in looked])
    return Examined(config, (), [*warnings(config), *seen])


def look(config: Config) -> list[Looked]:
    """What can be said from here of every secret that the config names; nothing where all is well.

    What only the daemon will see, such as a credential of its unit, or a file that this user may not read,
    is not wrong.
    """
    found: list[Looked] = []
    for location, source in _all(config):
        if source.credential is not None and not _sees_credentials():
            text = f"credential {source.credential!r} is seen by the service only: not looked at"
            found.append(Looked(location, text, False))
        elif source.env is not None and not os.environ.get(source.env):
            found.append(Looked(location, f"${source.env} is not set here: the daemon needs it", False))
        elif source.file is not None and _forbidden(source.file):
            found.append(
                Looked(location, f"{source.file} may not be read by this user: not looked at", False)
            )
        elif source.file is not None and location == CERTIFICATE:  # is no secret: everybody may read it
            if not source.file.expanduser().is_file():
                found.append(Looked(location, f"{source.file} is no file", True))
        else:
            try:
                if location[-1] in KEYS:
                    read_key(source)
                elif len(source.read()) < SECRET_CHARS_MIN and location[0] == "webhooks":
                    text = f"the secret has less than {SECRET_CHARS_MIN} characters: make a longer one"
                    found.append(Looked(location, text, True))
            except (ProviderError, NoKey) as error:
                found.append(Looked(location, str(error), True))
    return found


def _all(config: Config) -> Iterator[tuple[Location, SecretSource]]:
    yield from _within(config.daemon, ("daemon",))
    for name, provider in config.providers.items():
        yield from _within(provider.settings, ("providers", name))
    for name, webhook in config.webhooks.items():
        yield from _within(webhook, ("webhooks", name))


def _within(value: object, location: Location) -> Iterator[tuple[Location, SecretSource]]:
    if isinstance(value, SecretSource):
        yield location, value
    elif isinstance(value, BaseModel):
        for key in type(value).model_fields:
            yield from _within(getattr(value, key), (*location, key))
    elif isinstance(value, tuple | list):
        for place, one in enumerate(value):
            yield from _within(one, (*location, place))


def _sees_credentials() -> bool:
    """Whether this is the service itself: systemd hides them from what its ExecReload= runs."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(directory) and os.access(str(directory), os.R_OK | os.X_OK)


def _forbidden(path: Path) -> bool:
    try:
        path.expanduser().open("rb").close()
    except PermissionError:
        return True
    except (OSError, RuntimeError):
        return False
    return False
