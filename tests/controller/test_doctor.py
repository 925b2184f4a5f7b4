"""What `everpool doctor` says of providers, with a daemon and without."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from controller.config import Config, parse
from controller.doctor import OWNER_UNKNOWN, UnknownProvider, ask, diagnose, diagnose_providers
from controller.journal.journal import SqliteJournal
from controller.journal.lock import StateDirectory
from providers import registry
from providers.errors import Fault, ProviderError
from providers.model import Check
from tests.controller.lab import ADAPTER, LACKING

pytestmark = pytest.mark.anyio
FINE = (Check(what="clock", ok=True, detail="0.1 s off", mend="set it"),)


@pytest.fixture
def anyio_backend() -> Any:
    """A virtual clock: silence takes half a minute."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def fine() -> Sequence[Check]:
    """A vendor with whom all is well."""
    return FINE


async def silent() -> Sequence[Check]:
    """One that never answers."""
    await anyio.sleep_forever()
    return ()


async def refusing() -> Sequence[Check]:
    """One that fails, where it should have said so in a line."""
    raise ProviderError(Fault.CREDENTIALS, "who are you")


async def broken() -> Sequence[Check]:
    """A bug in an adapter."""
    raise KeyError("Reservations")


async def test_each_provider_has_its_lines_whatever_becomes_of_the_others() -> None:
    began = anyio.current_time()
    lines = await ask(
        {"a": silent, "b": fine, "c": refusing, "d": broken, "e": silent, "f": fine}, within_s=30
    )
    assert anyio.current_time() - began == 30  # all at once
    assert [(one["what"], one["ok"], one["detail"]) for one in lines] == [
        ("a", False, "no answer in 30 s"),
        ("b: clock", True, "0.1 s off"),
        ("c", False, "credentials: who are you"),
        ("d", False, "bug: KeyError"),
        ("e", False, "no answer in 30 s"),
        ("f: clock", True, "0.1 s off"),
    ]
    assert all(bool(one["mend"]) != one["ok"] for one in lines)


# --- with a daemon --------------------------------------------------------------------------------


def shown(**more: Any) -> dict[str, Any]:
    """A provider in the daemon's health."""
    return {
        "observed_at": 1.0,
        "offers": 3,
        "error": None,
        "notices_error": None,
        "leftovers": left(),
    } | more


def left(refusal: str | None = None, error: str | None = None, **kinds: int) -> dict[str, Any]:
    """What is left behind there."""
    return {"kinds": kinds, "usd_per_hour": 0.05 * len(kinds), "refusal": refusal, "error": error}


def desk(**providers: dict[str, Any]) -> Any:
    """A desk of a daemon that knows these."""
    health = {
        "journal": {"failing_since": None},
        "epoch": 4,
        "observing_only": False,
        "warnings": ["certificate: it expires in 3.0 days: put a new pair into its files"],
        "providers": providers,
    }
    gateways = {name: SimpleNamespace(check=fine) for name in providers}
    return SimpleNamespace(health=lambda: health, gateways=gateways)


async def test_those_that_are_named_are_asked_and_else_all(tmp_path: Path) -> None:
    house = desk(near=shown(), far=shown(error="throttled: later"))
    everything = {one["what"]: one for one in await diagnose(tmp_path, house)}
    assert {"journal", "leadership", "provider near", "near: clock", "provider far"} <= set(everything)
    assert everything["provider far"] == {
        "what": "provider far",
        "ok": False,
        "detail": "throttled: later",
        "mend": "look at [providers.far]",
    }
    named = {one["what"] for one in await diagnose(tmp_path, house, ["near", "near"])}
    assert named == set(everything) - {"provider far", "far: clock"}
    with pytest.raises(UnknownProvider, match="no provider 'nera' in the config: did you mean 'near'"):
        await diagnose(tmp_path, house, ["far", "nera"])


async def test_leftovers_are_shown_and_wrong_only_when_they_can_not_be_removed(tmp_path: Path) -> None:
    house = desk(
        tidy=shown(),
        soon=shown(leftovers=left(disk=2)),
        stuck=shown(leftovers=left("credentials: not allowed to delete", disk=1, group=3)),
        blind=shown(leftovers=left(error="credentials: no")),
    )
    lines = {
        one["what"]: (one["ok"], one["detail"])
        for one in await diagnose(tmp_path, house)
        if one["what"].startswith("leftovers")
    }
    assert lines == {
        "leftovers of soon": (True, "2 of kind disk that nobody knows at $0.050 an hour, to be removed"),
        "leftovers of stuck": (
            False,
            "1 of kind disk, 3 of kind group that nobody knows at $0.100 an hour, "
            "not removed: credentials: not allowed to delete",
        ),
        "leftovers of blind": (False, "can't be listed: credentials: no"),
    }


# --- without one ----------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Two providers that work and two that can't be had, for a state directory that is not there yet."""
    monkeypatch.setitem(registry.ADAPTERS, "lab", ADAPTER)
    monkeypatch.setitem(registry.ADAPTERS, "lacking", LACKING)
    return parse(
        f"""
        [daemon]
        state_dir = "{tmp_path / "state"}"
        [providers.one]
        type = "lab"
        [providers.two]
        type = "lab"
        [providers.old]
        type = "lacking"
        [providers.off]
        type = "lab"
        wrong = "secret"
        """,
        "c.toml",
    )


def by_name(lines: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Lines by what they are about."""
    return {line["what"]: line for line in lines}


async def test_without_a_daemon_the_configs_providers_are_asked_and_nothing_is_left(config: Config) -> None:
    lines = by_name(await diagnose_providers(config))
    assert lines["one: owner"]["detail"] == OWNER_UNKNOWN
    assert lines["two: quota"] == {
        "what": "two: quota",
        "ok": False,
        "detail": "0 of 8 vCPUs",
        "mend": "raise it",
    }
    assert lines["provider old"] == {
        "what": "provider old",
        "ok": False,
        "detail": "providers of type lacking need no_such_vendor_library",
        "mend": "pip install 'everpool[aws]'",
    }
    assert lines["provider off"]["detail"] == "credentials: /etc/key can't be read"
    assert not config.daemon.state_dir.exists()
    assert not Path(lines["one: directory"]["detail"]).parent.exists()


async def test_without_a_daemon_it_is_the_owner_whose_state_directory_this_is(config: Config) -> None:
    with StateDirectory.take(config.daemon.state_dir) as directory:
        async with SqliteJournal(directory.journal) as journal:
            owner = journal.owner
        (directory.providers / "one").mkdir(parents=True)
    lines = by_name(await diagnose_providers(config, ["one"]))
    assert lines["one: owner"]["detail"] == owner
    assert lines["one: directory"]["detail"] == str(directory.providers / "one")
    assert not any(what.startswith("two") for what in lines)
    directory.journal.write_bytes(b"garbled")
    lines = by_name(await diagnose_providers(config, ["one"]))
    assert lines["one: owner"]["detail"] == OWNER_UNKNOWN


async def test_a_name_that_the_config_lacks_is_refused_with_the_nearest(config: Config) -> None:
    with pytest.raises(UnknownProvider, match="did you mean 'two'"):
        await diagnose_providers(config, ["one", "tow"])
    with pytest.raises(UnknownProvider, match="there are one, two, old, off"):
        await diagnose_providers(config, ["everything"])
