"""A reload of a whole daemon that is built and not run: what each key does, what is refused, who asked."""

import logging
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
import structlog

from actors.events import Envelope, PoolRequested, TokenRevoked
from actors.loop import Loop
from controller.config import ConfigError, load
from controller.daemon import Daemon
from controller.journal.journal import SqliteJournal
from controller.journal.lock import StateDirectory
from controller.recovery import Sweep
from controller.reload import LIVE
from controller.secrets.keys import write_new_key
from tests.controller.security.pki import Authority

pytestmark = pytest.mark.anyio
KEYS = """\
token_file = "{root}/token"
observe_every_s = 77
quarantine_s = 78
retention_days = 1e-9
events_max = 1000
log_level = "debug"
secrets_key = {{ file = "{root}/new.key" }}
secrets_key_old = {{ file = "{root}/old.key" }}
limits = {{ burst = 79 }}
tls = {{ certificate = {{ file = "{root}/tls.crt" }}, key = {{ file = "{root}/tls.key" }} }}
"""
SECRET = {"A": "hunter2-correct-horse"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    structlog.reset_defaults()


class House:
    """Where a daemon lives, and its config."""

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / "everpool.toml"
        for name in ("old", "new"):
            write_new_key(root / f"{name}.key")
        token = root / "token"
        token.touch(0o600)
        token.write_text("a-token-that-is-long-enough")
        Authority(root).issue()

    def configure(self, daemon: str = "", rest: str = "") -> None:
        text = f'[daemon]\nstate_dir = "{self.root}/state"\n{daemon.format(root=self.root)}\n'
        self.path.write_text(f'{text}[providers.sim]\ntype = "simulated"\n{rest}')


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.fixture
async def daemon(house: House) -> AsyncIterator[Daemon]:
    """Built with the config that the house has, or an empty one."""
    if not house.path.exists():
        house.configure()
    config = load(house.path)
    with StateDirectory.take(config.daemon.state_dir) as directory:
        async with SqliteJournal(directory.journal) as journal:
            daemon = Daemon(config, house.path, directory, journal)
            yield daemon
            streams: list[Sweep | Loop] = [daemon.sweep, *daemon.acting.loops.values()]
            for one in streams:  # nobody ran that would have closed them
                one._send.close()
                one._receive.close()


@contextmanager
def unwritable(journal: SqliteJournal) -> Iterator[None]:
    """What the journal is told on a disk that takes nothing."""
    connection = journal._writer._connection
    connection.execute("PRAGMA query_only = ON")
    try:
        yield
    finally:
        connection.execute("PRAGMA query_only = OFF")


async def told(daemon: Daemon) -> list[Envelope]:
    return [Envelope.model_validate_json(body) for _, body in await daemon.journal.events(0, 10_000)]


# --- each key that holds at once ----------------------------------------------------------------------


async def _limits(daemon: Daemon) -> bool:
    return daemon.guard.limits.burst == 79


async def _tls(daemon: Daemon) -> bool:
    return daemon.guard.certificate is not None


async def _token_file(daemon: Daemon) -> bool:
    return daemon.guard.tokens.who(b"a-token-that-is-long-enough").principal.name == "token"


async def _secrets_key(daemon: Daemon) -> bool:
    await daemon.secrets.put("db", SECRET, "me")
    return daemon.secrets.warnings() == []


async def _secrets_key_old(daemon: Daemon) -> bool:
    return daemon.secrets.values("main", "t", 1, ["before"]).env == SECRET


async def _observe_every_s(daemon: Daemon) -> bool:
    return daemon.gateways["sim"]._observe_every_s == 77


async def _quarantine_s(daemon: Daemon) -> bool:
    return daemon.sweep.guard_s == daemon.leftovers.guard_s == 78


async def _kept(daemon: Daemon) -> int:
    with closing(sqlite3.connect(daemon.journal.path)) as file:
        (count,) = file.execute("SELECT count(*) FROM events").fetchone()
    return int(count)


async def _retention_days(daemon: Daemon) -> bool:
    await daemon.prune()
    return await _kept(daemon) < 100


async def _events_max(daemon: Daemon) -> bool:
    longer = daemon.config.daemon.model_copy(update={"retention_days": 7})
    daemon.config = replace(daemon.config, daemon=longer)
    await daemon.prune()
    return 900 < await _kept(daemon) <= 1000


async def _log_level(daemon: Daemon) -> bool:
    return structlog.get_logger().is_enabled_for(logging.DEBUG) and daemon.reloading._loud._level == 10


EFFECTS = {
    "limits": _limits,
    "tls": _tls,
    "token_file": _token_file,
    "secrets_key": _secrets_key,
    "secrets_key_old": _secrets_key_old,
    "observe_every_s": _observe_every_s,
    "quarantine_s": _quarantine_s,
    "retention_days": _retention_days,
    "events_max": _events_max,
    "log_level": _log_level,
}


def test_every_key_that_holds_at_once_is_shown_to() -> None:
    assert set(EFFECTS) == LIVE
    assert all(f"{key} =" in KEYS for key in LIVE)


@pytest.fixture
def with_old_key(house: House) -> House:
    house.configure('secrets_key = {{ file = "{root}/old.key" }}')
    return house


@pytest.mark.parametrize("key", sorted(LIVE))
async def test_a_key_that_holds_at_once_does(with_old_key: House, daemon: Daemon, key: str) -> None:
    await daemon.secrets.put("before", SECRET, "me")
    await daemon.records.tell(*(TokenRevoked(name=f"n-{i}") for i in range(1200)))
    with_old_key.configure(KEYS)
    done = await daemon.reload()
    assert done["needs_restart"] == [] and not any("refused" in line for line in done["plan"])
    assert await EFFECTS[key](daemon)


async def test_what_is_as_loud_as_the_level_is_written_down(
    house: House, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    log = structlog.get_logger()
    for level, loud in (("error", False), ("debug", True), ("warning", False)):
        house.configure(f'log_level = "{level}"')
        await daemon.reload()
        capsys.readouterr()
        log.info("said")
        assert ("said" in capsys.readouterr().out) is loud


# --- what is refused ----------------------------------------------------------------------------------


@pytest.fixture
def open_to_all(house: House) -> House:
    tls = KEYS.splitlines()[-1]
    house.configure(f'listen = "0.0.0.0:7070"\ntoken_file = "{{root}}/token"\n{tls}')
    return house


async def test_tls_does_not_go_while_others_can_reach_the_socket(open_to_all: House, daemon: Daemon) -> None:
    await daemon.reload()
    assert daemon.guard.certificate is not None
    open_to_all.configure('listen = "127.0.0.1:7070"\ntoken_file = "{root}/token"')
    done = await daemon.reload()
    assert done["needs_restart"] == ["daemon.tls", "daemon.listen"]
    assert all(line.startswith("at the next start: ") for line in done["plan"])
    assert daemon.guard.certificate is not None and daemon.config.daemon.tls is not None
    assert (await daemon.reload(dry_run=True))["needs_restart"] == done["needs_restart"]


async def test_a_key_that_cannot_be_read_is_told_and_the_old_goes_on(
    with_old_key: House, daemon: Daemon
) -> None:
    await daemon.secrets.put("db", SECRET, "me")
    with_old_key.configure('secrets_key = {{ file = "{root}/no.key" }}')
    done = await daemon.reload()
    (refused,) = (line for line in done["plan"] if line.startswith("refused: "))
    assert "daemon.secrets_key" in refused and "no.key" in refused
    assert daemon.secrets.values("main", "t", 1, ["db"]).env == SECRET
    await daemon.secrets.put("db", SECRET, "me")
    (warning,) = daemon.desk.health()["warnings"]
    assert warning.startswith("secrets: ") and "no.key" in warning and "goes on" in warning
    lines = await daemon.desk.doctor(())
    assert [one["ok"] for one in lines if one["what"] == "secrets"] == [False]
    write_new_key(with_old_key.root / "no.key")
    done = await daemon.reload()
    assert not any("refused" in line for line in done["plan"])
    (warning,) = daemon.desk.health()["warnings"]
    assert warning.startswith("secrets: 1 can't be decrypted") and "hunter" not in warning


async def test_a_config_that_is_wrong_changes_nothing(house: House, daemon: Daemon) -> None:
    before = daemon.config
    house.configure("observe_every_s = -1")
    with pytest.raises(ConfigError):
        await daemon.reload()
    assert daemon.config is before


# --- one at a time, who asked, a disk that is full ------------------------------------------------------


async def test_two_reloads_at_once_ask_for_each_pool_once(house: House, daemon: Daemon) -> None:
    house.configure(rest='[pools.n]\nprovider = "sim"\nnodes = 1\n')
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(daemon.reload)
        tasks.start_soon(daemon.reload)
        tasks.start_soon(daemon.reloading.apply_pools)
    asked = [one.event for one in await told(daemon) if isinstance(one.event, PoolRequested)]
    assert [one.pool for one in asked] == ["n"]


async def test_who_asked_is_told(house: House, daemon: Daemon) -> None:
    house.configure("observe_every_s = 9")
    await daemon.reload(principal="token:ops")
    await daemon.reloading.by_signal()
    events = await told(daemon)
    by = [(one.event.kind, one.principal) for one in events]
    assert by == [
        ("config_reloaded", "token:ops"),
        ("config_reloaded", "signal"),
        ("administered", "signal"),
    ]


async def test_many_signals_are_few_reloads(daemon: Daemon) -> None:
    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(daemon.reloading.by_signal)
    assert len(await told(daemon)) in (2, 4)  # one that was under way, and one for all that came meanwhile


async def test_a_reload_ends_though_nothing_can_be_written(house: House, daemon: Daemon) -> None:
    house.configure("observe_every_s = 9")
    with unwritable(daemon.journal), anyio.fail_after(20):
        done = await daemon.reload()
        await daemon.reloading.by_signal()
    assert done["applied"] and daemon.config.daemon.observe_every_s == 9
