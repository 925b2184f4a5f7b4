"""From the config's providers to adapters, and what is wrong when one can't be had."""

from collections.abc import Mapping
from pathlib import Path

from controller.config import Config, ConfigError, ProviderConfig
from providers import registry
from providers.contract import Provider
from providers.errors import ProviderError
from providers.logins import Logins
from providers.registry import MissingExtra

AGENT = Path(registry.__file__).parent / "agent" / "agent.py"


def missing_extras(providers: Mapping[str, ProviderConfig]) -> list[str]:
    """A line for each provider whose library is not installed, which says how to install it."""
    lines = []
    for name, one in providers.items():
        try:
            registry.require(one.type)
        except MissingExtra as error:
            lines.append(_line(name, error))
    return lines


def build(
    name: str, one: ProviderConfig, directory: Path, agent_source: bytes, logins: Logins | None = None
) -> Provider:
    """One provider, as the config calls it; it may keep files in `directory`.

    Raises:
        ConfigError: its library is missing, or the adapter can't work with what the config says.
    """
    try:
        return registry.build(one.type, name, one.settings, directory, agent_source, logins)
    except (MissingExtra, ProviderError, ValueError) as error:
        raise ConfigError([_line(name, error)]) from error
    except OSError as error:
        raise ConfigError([f"[providers.{name}] {error.filename}: {error.strerror}"]) from error


def build_all(config: Config, directory: Path, logins: Logins | None = None) -> dict[str, Provider]:
    """Every provider of the config, by name; each keeps its files in a folder of its name.

    `logins` are those that the daemon keeps.

    Raises:
        ConfigError: with all that is wrong, one line each.
    """
    agent_source, built, problems = AGENT.read_bytes(), dict[str, Provider](), list[str]()
    for name, one in config.providers.items():
        try:
            built[name] = build(name, one, directory / name, agent_source, logins)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return built


def _line(name: str, error: Exception) -> str:
    return f"[providers.{name}] {' '.join(str(error).split())}"
