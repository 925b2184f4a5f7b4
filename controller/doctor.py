"""What is wrong here, one line each: the machine, the state directory, the daemon, and each provider.

With a daemon its providers are asked through their gateways; without one they are built from the config.
"""

import os
import platform
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from actors.supervisor import attempt_call
from controller.building import AGENT, build
from controller.config import Config, ConfigError, ProviderConfig
from controller.journal.lock import StateDirectory
from controller.journal.schema import connect
from providers.contract import Provider
from providers.errors import ProviderError
from providers.gateway import CHECK_TIMEOUT_S
from providers.model import Check

DISK_FREE_MIN = 256 * 2**20
OWNER_UNKNOWN = "everpool-doctor"  # asked for when no journal says who we are: nothing has that mark
CLOSE_WITHIN_S = 2.0

Line = dict[str, Any]  # what, ok, detail, mend
Asking = Callable[[], Awaitable[Sequence[Check]]]


class UnknownProvider(Exception):
    """The config has no provider of that name; the text says which is the nearest, or all."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        near = get_close_matches(name, known, 1)
        there = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
        super().__init__(f"no provider {name!r} in the config: {there}")


def chosen(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """The providers that were named, each once; all when none was. Raises UnknownProvider."""
    for name in names:
        if name not in known:
            raise UnknownProvider(name, known)
    return list(dict.fromkeys(names)) or list(known)


def line(what: str, ok: bool, detail: str, mend: str = "") -> Line:
    """One line; what to do is said only where something is wrong."""
    return {"what": what, "ok": ok, "detail": detail, "mend": "" if ok else mend}


def diagnose_machine(state_dir: Path) -> list[Line]:
    """What can be said without a daemon."""
    version = platform.python_version()
    lines = [
        line("python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer"),
        line("system", sys.platform == "linux", sys.platform, "the daemon runs on Linux"),
    ]
    there = state_dir if state_dir.exists() else state_dir.parent
    if not there.exists():
        lines.append(line("state directory", True, f"{state_dir} is not there yet: it will be made"))
        return lines
    free = shutil.disk_usage(there).free
    writable = os.access(there, os.W_OK)
    mend = f"give {there} to user {os.geteuid()}, or set state_dir"
    lines.append(line("state directory", writable, str(state_dir), mend))
    detail = f"{free // 2**20} MiB free"
    lines.append(line("disk", free >= DISK_FREE_MIN, detail, f"free space below {there}"))
    return lines


# --- with a daemon --------------------------------------------------------------------------------


async def diagnose(state_dir: Path, desk: Any, names: Sequence[str] = ()) -> list[Line]:
    """All that a running daemon can say of itself, and of the providers named, or else of all.

    Raises:
        UnknownProvider: there is none of a name.
    """
    health = desk.health()
    wanted = chosen(names, list(health["providers"]))
    lines = diagnose_machine(state_dir)
    failing = health["journal"]["failing_since"] is not None
    lines.append(line("journal", not failing, f"epoch {health['epoch']}", "see the log"))
    leads = not health["observing_only"]
    mend = "run `everpool adopt` when no other daemon leads these machines"
    lines.append(line("leadership", leads, "leads" if leads else "observing only", mend))
    for text in health["warnings"]:
        what, _, detail = text.partition(": ")
        lines.append(line(what, False, detail, "see the log"))
    for name in wanted:
        lines += _shown(name, health["providers"][name])
    return lines + await ask({name: desk.gateways[name].check for name in wanted})


def _shown(name: str, shown: Mapping[str, Any]) -> list[Line]:
    """What a provider's gateway, and the sweep of leftovers, know already."""
    seen = shown["observed_at"] is not None
    detail, mend = f"{shown['offers']} offers" if seen else "not observed yet", f"look at [providers.{name}]"
    lines = [line(f"provider {name}", seen and not shown["error"], shown["error"] or detail, mend)]
    if seen and not shown["offers"]:
        lines.append(line(f"offers of {name}", False, "none", mend))
    if shown["notices_error"]:
        lines.append(line(f"notices of {name}", False, shown["notices_error"], "see the log"))
    left = shown["leftovers"]
    if left["error"]:
        lines.append(line(f"leftovers of {name}", False, f"can't be listed: {left['error']}", "see the log"))
    if left["kinds"]:
        text = ", ".join(f"{count} of kind {kind}" for kind, count in left["kinds"].items())
        cost = f" at ${left['usd_per_hour']:.3f} an hour" if left["usd_per_hour"] else ""
        refusal = left["refusal"]
        what = f"not removed: {refusal}" if refusal else "to be removed"
        detail = f"{text} that nobody knows{cost}, {what}"
        lines.append(line(f"leftovers of {name}", not refusal, detail, "remove them by hand"))
    return lines


# --- without one ----------------------------------------------------------------------------------


async def diagnose_providers(config: Config, names: Sequence[str] = ()) -> list[Line]:
    """Ask the providers named, or else all, without a daemon.

    Raises:
        UnknownProvider: there is none of a name.
    """
    directory = StateDirectory(config.daemon.state_dir)
    owner = _owner(directory.journal) or OWNER_UNKNOWN
    asked, lines, built = dict[str, Asking](), list[Line](), list[Provider]()
    with ExitStack() as stack:
        for name in chosen(names, list(config.providers)):
            try:
                provider = _built(name, config.providers[name], directory.providers / name, stack)
            except ConfigError as error:
                text = error.problems[0].removeprefix(f"[providers.{name}] ")
                detail, _, extra = text.partition(": pip install ")
                mend = f"pip install {extra}" if extra else f"look at [providers.{name}]"
                lines.append(line(f"provider {name}", False, detail, mend))
                continue
            built.append(provider)
            asked[name] = partial(provider.check, owner)
        try:
            return lines + await ask(asked)
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_WITHIN_S):
                for provider in built:
                    await provider.aclose()


def _built(name: str, one: ProviderConfig, directory: Path, stack: ExitStack) -> Provider:
    """Built where it keeps its files; elsewhere when there are none yet, since a check leaves none behind."""
    if not directory.is_dir():
        elsewhere = stack.enter_context(tempfile.TemporaryDirectory(prefix="everpool-doctor-"))
        directory = Path(elsewhere) / name
    return build(name, one, directory, AGENT.read_bytes())


def _owner(journal: Path) -> str | None:
    """Who this state directory is, when it can be read."""
    try:
        with closing(connect(journal, read_only=True, busy_s=1.0)) as connection:
            row = connection.execute("SELECT value FROM meta WHERE key = 'owner'").fetchone()
    except (sqlite3.Error, OSError):
        return None
    return None if row is None else str(row[0])


# --- both -----------------------------------------------------------------------------------------


async def ask(asked: Mapping[str, Asking], within_s: float = CHECK_TIMEOUT_S) -> list[Line]:
    """What providers find at their vendors, all asked at once, each line with its provider's name."""
    found: dict[str, list[Line]] = {}

    async def one(name: str, asking: Asking) -> None:
        async def carried() -> list[Line]:
            try:
                with anyio.fail_after(within_s):
                    checks = await asking()
            except TimeoutError:
                return [line(name, False, f"no answer in {within_s:g} s", "look at the way to it")]
            except ProviderError as error:
                return [line(name, False, str(error), "see the log")]
            return [line(f"{name}: {one.what}", one.ok, one.detail, one.mend) for one in checks]

        def otherwise(error: Exception) -> list[Line]:
            return [line(name, False, f"bug: {type(error).__name__}", "tell who wrote its adapter")]

        found[name] = await attempt_call(carried, otherwise)

    async with anyio.create_task_group() as tasks:
        for name, asking in asked.items():
            tasks.start_soon(one, name, asking)
    return [each for name in asked for each in found[name]]
