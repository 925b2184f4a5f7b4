"""The config file: TOML as pydantic models, and the one place with the daemon's defaults.

Everything that is wrong is said at once, each with its line. `config.example.toml` shows every key.
"""

import ipaddress
import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationInfo,
    field_validator,
)

from actors.spec import PoolSpec, Seconds, checked_name
from controller.config_errors import ConfigError, Problem, sorted_lines
from controller.config_pools import contradictions, shaded, unfillable
from controller.config_reading import Reading, read_through
from controller.config_sections import LimitsConfig, TlsConfig, WebhookConfig
from providers.model import Value
from providers.registry import ADAPTERS, UnknownProviderType, config_model
from providers.secret import SecretSource

ENV = "EVERPOOL_CONFIG"
SEARCHED = (Path("/etc/everpool/config.toml"), Path("~/.config/everpool/config.toml"))
TEXT_BYTES_MAX = 4 * 2**20
M = TypeVar("M", bound=BaseModel)
Location = tuple[str, ...]

SOCKET_NAME = "api.sock"  # in the state directory, where the config names no other
SOCKET_PATH_BYTES_MAX = 107  # the system's limit on the path of a unix socket

__all__ = [
    "Config",
    "ConfigError",
    "DaemonConfig",
    "PoolConfig",
    "ProviderConfig",
    "check",
    "find",
    "load",
    "parse",
    "warnings",
]


def default_state_dir() -> Path:
    """Where the state is when nobody says: systemd's choice, else by user."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given)
    return Path("/var/lib/everpool") if os.geteuid() == 0 else Path("~/.local/state/everpool").expanduser()


def _absolute(path: Path) -> Path:
    try:
        path = path.expanduser()
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} is relative: give an absolute path, or one that begins with ~/")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]


class DaemonConfig(Value):
    """[daemon]: where it keeps things, where it listens, how often it looks, how much it keeps."""

    state_dir: AbsolutePath = Field(default_factory=default_state_dir)
    socket: Annotated[AbsolutePath | None, Field(validate_default=True)] = None  # None: api.sock in state_dir
    socket_mode: Annotated[str, Field(pattern=r"^0?[0-7]{3}$")] = "0600"
    tls: TlsConfig | None = None  # before `listen`, which looks at it
    listen: str | None = None  # host:port
    token_file: AbsolutePath | None = None
    limits: LimitsConfig = LimitsConfig()
    secrets_key: SecretSource | None = None  # encrypts what `everpool secrets` keeps; without it nothing is
    secrets_key_old: SecretSource | None = (
        None  # the one before; what it encrypted is encrypted anew at the start
    )

    observe_every_s: Seconds = 5
    quarantine_s: Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)] = 300

    retention_days: Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)] = 7
    events_max: Annotated[int, Field(ge=1000, le=100_000_000)] = 500_000
    logs_bytes_max: Annotated[int, Field(ge=2**20)] = 8 * 2**30
    log_file_bytes: Annotated[int, Field(ge=4096, le=2**30)] = 16 * 2**20

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "text", "json", "journald"] = "auto"  # auto: the journal, where stderr is it

    @field_validator("listen")
    @classmethod
    def _is_an_address(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        host, port = split_address(value)
        loopback = is_loopback(host)
        if not 0 <= port <= 65_535:
            raise ValueError(f"{port} is not a port")
        if not loopback and info.data.get("tls", True) is None:  # not there: it is wrong, and said to be
            text = "is not a loopback address: that needs [daemon.tls] with certificate and key"
            raise ValueError(f"{host} {text}")
        return value

    @field_validator("socket")
    @classmethod
    def _can_be_bound(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        directory: Path | None = info.data.get("state_dir")  # not there: it is wrong, and said to be
        path = directory / SOCKET_NAME if value is None and directory is not None else value
        if path is not None and len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
            raise ValueError(
                f"the socket's path {path} is longer than {SOCKET_PATH_BYTES_MAX} bytes: "
                "set 'socket' to a shorter one"
            )
        return value

    @property
    def socket_path(self) -> Path:
        """The API's unix socket."""
        return self.socket or self.state_dir / SOCKET_NAME

    @property
    def socket_permissions(self) -> int:
        """The mode of the unix socket, as a number."""
        return int(self.socket_mode, 8)

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port to listen on, if any."""
        return split_address(self.listen) if self.listen is not None else None

    def token(self) -> str:
        """Read the token. Raises ValueError when the file can't be read, is empty or may be read by all."""
        if self.token_file is None:
            raise ValueError("there is no token_file")
        try:
            mode = self.token_file.stat().st_mode
            text = self.token_file.read_text().strip()
        except OSError as error:
            raise ValueError(f"{self.token_file} can't be read: {error.strerror}") from error
        if stat.S_IMODE(mode) & 0o007:
            raise ValueError(f"{self.token_file} may be read by everybody: chmod 600 {self.token_file}")
        if len(text) < 16 or not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError(f"{self.token_file} has to hold one token of 16 or more printable characters")
        return text


def is_loopback(host: str) -> bool:
    """Whether only this computer reaches it. Raises ValueError for what is no IP address or 'localhost'."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise ValueError(f"{host!r} is not an IP address or 'localhost'") from error


def split_address(text: str) -> tuple[str, int]:
    """Split "host:port" or "[host]:port". Raises ValueError when it is neither."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or (":" in host and not (host[0] == "[" and host[-1] == "]")):
        raise ValueError(f"{text!r} is not host:port, such as 127.0.0.1:7070")
    return host.strip("[]"), int(port)


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """One [providers.<name>]: `settings` is the model of its type, see `providers.registry`."""

    type: str
    settings: BaseModel


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """One [pools.<name>], as PoolSpec. With `remove` the pool is drained; then `spec` may be missing."""

    spec: PoolSpec | None
    remove: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole file.

    `unfillable`: pools for which no offer can ever match, by what the providers' settings alone tell, each
    with the line that says so. They are not made; the others are.
    """

    daemon: DaemonConfig
    providers: Mapping[str, ProviderConfig]
    pools: Mapping[str, PoolConfig]
    webhooks: Mapping[str, WebhookConfig]
    unfillable: Mapping[str, str] = field(default_factory=dict)


SECTIONS = ("daemon", "providers", "pools", "webhooks")


def find() -> Path | None:
    """Return the config file that counts: $EVERPOOL_CONFIG, else the first that exists; None: defaults."""
    given = os.environ.get(ENV)
    if given:
        return Path(given)
    return next((path for path in (path.expanduser() for path in SEARCHED) if path.is_file()), None)


def load(path: Path | None = None) -> Config:
    """Read the config from `path`, or from where `find` says.

    Raises:
        ConfigError: with all that is wrong, one line each.
    """
    path = path or find()
    return parse("", "defaults") if path is None else parse(text_of(path), str(path))


def text_of(path: Path) -> str:
    """The text of a config file. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            data = file.read(TEXT_BYTES_MAX + 1)
        if len(data) > TEXT_BYTES_MAX:
            raise ConfigError([f"{path}: larger than {TEXT_BYTES_MAX} bytes"])
        return data.decode()
    except OSError as error:
        raise ConfigError([f"{path}: can't be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError([f"{path}:{line}: not UTF-8"]) from error


def warnings(config: Config) -> list[str]:
    """What is allowed and may surprise, one line each."""
    made_up = [
        f"[providers.{name}] is of type 'simulated': its machines are made up in the daemon's memory, "
        "and are lost when it restarts"
        for name, one in sorted(config.providers.items())
        if one.type == "simulated"
    ]
    readable = [
        f"[webhooks.{name}] sends events by http to {one.url.host}: whoever is between reads them; use https"
        for name, one in sorted(config.webhooks.items())
        if one.url.scheme == "http" and not _stays_here(one.url.host or "")
    ]
    return made_up + readable


def _stays_here(host: str) -> bool:
    try:
        return is_loopback(host.strip("[]"))
    except ValueError:  # a name
        return False


def check(text: str, path: str) -> list[str]:
    """Return all that is wrong with a config, one line each; nothing when it is good."""
    try:
        return list(parse(text, path).unfillable.values())
    except ConfigError as error:
        return list(error.problems)


def parse(text: str, path: str) -> Config:
    """Read the config from `text`; `path` is what problems name.

    Raises:
        ConfigError: with all that is wrong, one line each.
    """
    config, problems = read_through_all(text, path)
    if problems:
        raise ConfigError(sorted_lines(path, text, problems))
    return config


def read_through_all(text: str, path: str) -> tuple[Config, list[Problem]]:
    """Everything that can be read of a config, and all that is wrong with it. `path` is what problems name.

    Where something is wrong the config has pools that nothing can fill among the problems, too.

    Raises:
        ConfigError: it is no TOML.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([_syntax(path, text, error)]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: nested too deeply"]) from error
    reading = _Reading()
    for key in raw.keys() - set(SECTIONS):
        reading.problems.append(Problem.unknown((key,), SECTIONS))
    config = Config(
        daemon=reading.daemon(raw.get("daemon", {})),
        providers=reading.providers(raw.get("providers", {})),
        pools=reading.pools(raw.get("pools", {})),
        webhooks=reading.webhooks(raw.get("webhooks", {})),
    )
    reading.cross_check(config, raw)
    unfillable = reading.unfillable(config)
    if reading.problems:
        return config, [*reading.problems, *unfillable.values()]
    lines = {name: sorted_lines(path, text, [problem])[0] for name, problem in unfillable.items()}
    return replace(config, unfillable=lines), []


def _syntax(path: str, text: str, error: tomllib.TOMLDecodeError) -> str:
    message, _, where = str(error).partition(" (at ")
    if where.startswith("line "):
        return f"{path}:{where.removeprefix('line ').split(',')[0]}: {message}"
    return f"{path}:{text.count(chr(10)) + 1}: {message} at the end of the file"


class _Reading:
    """Reads section by section, and goes on behind what is wrong."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._partly: set[Location] = set()  # tables of which not all could be read

    def daemon(self, raw: object) -> DaemonConfig:
        found = self._read(DaemonConfig, raw, ("daemon",)).value or DaemonConfig.model_construct()
        if found.token_file is not None:
            try:
                found.token()
            except ValueError as error:
                self.problems.append(Problem(("daemon", "token_file"), str(error)))
        return found

    def providers(self, raw: object) -> dict[str, ProviderConfig]:
        found = {}
        for name, keys in self._tables(raw, "providers"):
            location = ("providers", name)
            settings = dict(keys)
            kind = settings.pop("type", None)
            if not isinstance(kind, str):
                text = f"needs 'type', a string: there are {', '.join(ADAPTERS)}"
                self.problems.append(Problem(location, text))
                continue
            try:
                model = config_model(kind)
            except UnknownProviderType as error:
                self.problems.append(Problem((*location, "type"), str(error)))
                continue
            settled = self._read(model, settings, location, extra=("type",)).value
            if settled is not None:
                found[name] = ProviderConfig(kind, settled)
        if raw == {}:
            found["local"] = ProviderConfig("local", config_model("local")())
        return found

    def pools(self, raw: object) -> dict[str, PoolConfig]:
        found = {}
        for name, keys in self._tables(raw, "pools"):
            spec = dict(keys)
            remove = spec.pop("remove", False)
            if not isinstance(remove, bool):
                self.problems.append(Problem(("pools", name, "remove"), "has to be true or false"))
            if remove and not spec:
                found[name] = PoolConfig(None, remove=True)
                continue
            reading = self._read(PoolSpec, spec, ("pools", name), extra=("remove",))
            if reading.value is not None:
                found[name] = PoolConfig(reading.value, bool(remove))
                for one in contradictions(reading.value):
                    if one.location[0] not in shaded(reading.doubtful):
                        self.problems.append(Problem(("pools", name, *one.location), one.text))
        return found

    def webhooks(self, raw: object) -> dict[str, WebhookConfig]:
        found = {}
        for name, keys in self._tables(raw, "webhooks"):
            hook = self._read(WebhookConfig, keys, ("webhooks", name)).value
            if hook is not None:
                found[name] = hook
        return found

    def cross_check(self, config: Config, raw: Mapping[str, Any]) -> None:
        """What one section says of another. A provider that is itself wrong is named, and so exists."""
        section = raw.get("providers")
        names = set(config.providers) | set(section if isinstance(section, dict) else ())
        for pool, entry in config.pools.items():
            for provider in entry.spec.provider if entry.spec else ():
                if provider not in names:
                    place = ("pools", pool, "provider")
                    self.problems.append(
                        Problem.unknown(place, sorted(names), f"provider {provider!r}", provider)
                    )

    def unfillable(self, config: Config) -> dict[str, Problem]:
        """Pools that are sound, and for which nothing can match."""
        settings = {name: one.settings for name, one in config.providers.items()}
        found: dict[str, Problem] = {}
        for pool, entry in config.pools.items():
            if entry.spec is None or entry.remove or contradictions(entry.spec):
                continue
            if ("pools", pool) in self._partly or any(
                ("providers", p) in self._partly for p in entry.spec.provider
            ):
                continue  # it may be for that only
            wrong = unfillable(entry.spec, settings)
            if wrong is not None:
                found[pool] = Problem(("pools", pool, *wrong.location), wrong.text)
        return found

    def _tables(self, raw: object, section: str) -> Iterator[tuple[str, dict[str, Any]]]:
        if not isinstance(raw, dict):
            self.problems.append(Problem((section,), f"has to be a table, such as [{section}.name]"))
            return
        for name, keys in raw.items():
            if not isinstance(keys, dict):
                text = f"has to be a table: write [{section}.{name}] above its keys"
                self.problems.append(Problem((section, name), text))
                continue
            try:
                checked_name(name)
            except ValueError as error:
                self.problems.append(Problem((section, name), str(error)))
            yield name, keys

    def _read(
        self, model: type[M], raw: object, location: Location, extra: tuple[str, ...] = ()
    ) -> Reading[M]:
        found = read_through(model, raw, location, extra)
        if found.problems:
            self._partly.add(location)
            self.problems += found.problems
        return found
