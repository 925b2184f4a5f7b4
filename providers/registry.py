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


@dataclass(frozen=True, slots=True)
class Adapter:
    """Where an adapter's two parts are, as "module:name"."""

    config: str  # pydantic model of the type's own keys
    build: str  # called with (name, config, directory, agent_source), returns a Provider


ADAPTERS = {
    "local": Adapter("providers.local.config:LocalConfig", "providers.local.adapter:LocalProvider"),
    "simulated": Adapter(
        "providers.simulated.config:SimulatedConfig", "providers.simulated.adapter:SimulatedProvider"
    ),
}

Factory = Callable[[str, BaseModel, Path, bytes], Provider]


class UnknownProviderType(Exception):
    """There is no adapter of that type; the text says which there are."""


def config_model(type_name: str) -> type[BaseModel]:
    """Return the model of the keys that a provider of this type has.

    Raises:
        UnknownProviderType: there is no such type.
    """
    model: type[BaseModel] = _load(_adapter(type_name).config)
    return model


def build(type_name: str, name: str, config: BaseModel, directory: Path, agent_source: bytes) -> Provider:
    """Make the provider that the config calls `name`; it may keep files of its own in `directory`.

    Raises:
        UnknownProviderType: there is no such type.
    """
    factory: Factory = _load(_adapter(type_name).build)
    return factory(name, config, directory, agent_source)


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
