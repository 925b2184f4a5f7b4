"""Providers made from a config, and each way in which one can't be."""

from pathlib import Path

import pytest

from controller.building import build_all, missing_extras
from controller.config import Config, ConfigError, parse
from providers import registry
from providers.registry import MissingExtra, UnknownProviderType
from tests.controller.lab import ADAPTER, LACKING, Lab


@pytest.fixture(autouse=True)
def types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two more types of provider."""
    monkeypatch.setitem(registry.ADAPTERS, "lab", ADAPTER)
    monkeypatch.setitem(registry.ADAPTERS, "lacking", LACKING)


def config(*tables: str) -> Config:
    """Providers called a, b and so on."""
    named = zip("abcd", tables, strict=False)
    return parse("\n".join(f"[providers.{name}]\n{keys}" for name, keys in named), "c.toml")


def test_a_library_that_is_missing_is_named_with_what_installs_it(tmp_path: Path) -> None:
    wanted = config('type = "lacking"', 'type = "lab"', 'type = "lacking"')
    text = "providers of type lacking need no_such_vendor_library: pip install 'everpool[aws]'"
    lines = [f"[providers.a] {text}", f"[providers.c] {text}"]
    assert missing_extras(wanted.providers) == lines
    with pytest.raises(ConfigError) as refused:
        build_all(wanted, tmp_path)
    assert list(refused.value.problems) == lines


def test_what_needs_nothing_besides_is_not_even_imported() -> None:
    registry.require("vastai")
    with pytest.raises(UnknownProviderType, match="did you mean 'local'"):
        registry.require("lokal")
    with pytest.raises(MissingExtra):
        registry.require("lacking")


def test_a_fault_in_an_adapter_of_ours_is_no_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = registry.Adapter("providers.nothing.config:X", "providers.nothing.adapter:X", extra="aws")
    monkeypatch.setitem(registry.ADAPTERS, "nothing", ours)
    with pytest.raises(ModuleNotFoundError):
        registry.require("nothing")


def test_each_provider_that_can_not_be_built_is_told_in_a_line(tmp_path: Path) -> None:
    wrong = ("", "value", "secret", "file")
    wanted = config(*(f'type = "lab"\nwrong = "{one}"' for one in wrong))
    with pytest.raises(ConfigError) as refused:
        build_all(wanted, tmp_path)
    assert list(refused.value.problems) == [
        "[providers.b] no such place: nowhere",
        "[providers.c] credentials: /etc/key can't be read",
        f"[providers.d] {tmp_path / 'd' / 'x' / 'y'}: No such file or directory",
    ]


def test_each_has_a_name_and_a_folder_of_its_own(tmp_path: Path) -> None:
    built = build_all(config('type = "lab"', 'type = "lab"'), tmp_path)
    for name, provider in built.items():
        assert isinstance(provider, Lab)
        assert (provider.name, provider.directory) == (name, tmp_path / name)
    assert list(built) == ["a", "b"]
