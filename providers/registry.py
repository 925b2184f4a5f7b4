"""Name -> adapter: the one table of what kinds of provider there are.

Adapters are imported when they are asked for, since a vendor's client library may be large, or absent.
To add a provider: write `providers/<name>/config.py` and `adapter.py`, then a line in `ADAPTERS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from providers.contract import Provider
from providers.logins import Logins, NoLogins


@dataclass(frozen=True, slots=True)
class Adapter:
    """Where an adapter's two parts are, as "module:name"."""

    config: str  # pydantic model of the type's own keys; imports nothing that may be absent
    build: str  # called with (name, config, directory, agent_source), returns a Provider
    extra: str = ""  # of our distribution, that installs what the adapter needs besides
    pulls: bool = False  # images from registries: `build` takes `logins` besides


ADAPTERS = {
    "local": Adapter("providers.local.config:LocalConfig", "providers.local.adapter:LocalProvider"),
    "container": Adapter(
        "providers.container.config:ContainerConfig",
        "providers.container.adapter:ContainerProvider",
        pulls=True,
    ),
    "aws": Adapter("providers.aws.config:AwsConfig", "providers.aws.adapter:AwsProvider", extra="aws"),
    "gcp": Adapter("providers.gcp.config:GcpConfig", "providers.gcp.adapter:GcpProvider", extra="gcp"),
    "vastai": Adapter("providers.vastai.config:VastaiConfig", "providers.vastai.adapter:VastaiProvider"),
    "simulated": Adapter(
        "providers.simulated.config:SimulatedConfig", "providers.simulated.adapter:SimulatedProvider"
    ),
}

Factory = Callable[..., Provider]  # of name, config, directory, agent_source


class UnknownProviderType(Exception):
    """There is no adapter of that type; the text says which there are."""


class MissingExtra(Exception):
    """An adapter needs a library that is not installed; the text says how to install it."""


def config_model(type_name: str) -> type[BaseModel]:
    """Return the model of the keys that a provider of this type has.

    Raises:
        UnknownProviderType: there is no such type.
    """
    model: type[BaseModel] = _load(_adapter(type_name).config)
    return model


def build(
    type_name: str,
    name: str,
    config: BaseModel,
    directory: Path,
    agent_source: bytes,
    logins: Logins | None = None,
) -> Provider:
    """Make the provider that the config calls `name`; it may keep files of its own in `directory`.

    `logins` are asked by adapters that pull images, for registries that their own config does not name.

    Raises:
        UnknownProviderType: there is no such type.
        MissingExtra: a library that it needs is not installed.
    """
    factory = adapter_class(type_name)
    if _adapter(type_name).pulls:
        return factory(name, config, directory, agent_source, logins=logins or NoLogins())
    return factory(name, config, directory, agent_source)


def adapter_class(type_name: str) -> Factory:
    """Import the adapter of a type. Raises UnknownProviderType and MissingExtra, see `build`."""
    adapter = _adapter(type_name)
    try:
        factory: Factory = _load(adapter.build)
    except ImportError as error:  # one that is there may be too old
        if not adapter.extra or (error.name or "").partition(".")[0] == "providers":
            raise
        text = f"providers of type {type_name} need {error.name}: pip install 'everpool[{adapter.extra}]'"
        raise MissingExtra(text) from error
    return factory


def require(type_name: str) -> None:
    """See that what a type needs besides is installed. Raises UnknownProviderType and MissingExtra."""
    if _adapter(type_name).extra:
        adapter_class(type_name)


def _adapter(type_name: str) -> Adapter:
    found = ADAPTERS.get(type_name)
    if found is None:
        near = get_close_matches(type_name, ADAPTERS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownProviderType(
            f"{type_name!r} is not a type of provider: there are {', '.join(ADAPTERS)}{hint}"
        )
    return found


def _load(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(import_module(module), name)
