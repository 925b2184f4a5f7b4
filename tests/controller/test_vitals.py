"""Whether the daemon makes progress: what feeds the watchdog, and what does not."""

import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

from controller.journal.writer import Stats
from controller.vitals import Vitals

STATS = Stats(
    waiting=0,
    oldest_waiting_s=0.0,
    last_commit_s=0.0,
    commits=0,
    jobs=0,
    rows=0,
    retries=0,
    failing_since=None,
    failing_reason="",
)


class Now:
    """A clock that is turned by hand."""

    at = 1000.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Ledger:
    """A journal as far as it is looked at."""

    now: Stats = STATS
    closed_reason: str | None = None

    def stats(self) -> Stats:
        return self.now


def made() -> tuple[Vitals, Ledger, dict[str, int], Now]:
    ledger, mailboxes, now = Ledger(), dict[str, int](), Now()
    return Vitals(ledger, mailboxes.items, now=now), ledger, mailboxes, now


def turn(vitals: Vitals, pool: str) -> None:
    vitals.turn_ended(pool, messages=1, seconds=0.1, waiting=0)


def test_a_pool_that_takes_no_turn_while_letters_wait_is_stuck() -> None:
    vitals, _, mailboxes, now = made()
    mailboxes |= {"a": 0, "b": 3}
    assert vitals.stuck(30) == ()
    now.at += 31
    assert vitals.stuck(30) == ("pool b: no turn for 31 s, and 3 letters wait",)
    turn(vitals, "b")
    assert vitals.stuck(30) == ()


def test_turns_of_others_do_not_count_and_idleness_is_no_fault() -> None:
    vitals, _, mailboxes, now = made()
    mailboxes |= {"a": 0, "b": 0}
    for _ in range(100):
        assert vitals.stuck(30) == ()
        now.at += 10
    mailboxes["b"] = 1
    for _ in range(5):
        turn(vitals, "a")
        now.at += 10
        found = vitals.stuck(30)
    assert [line.split(":")[0] for line in found] == ["pool b"]


def test_a_pool_that_is_gone_or_down_is_forgotten() -> None:
    vitals, _, mailboxes, now = made()
    mailboxes["a"] = 1
    assert vitals.stuck(30) == ()
    del mailboxes["a"]
    now.at += 100
    assert vitals.stuck(30) == ()
    mailboxes["a"] = 1  # another of that name
    now.at += 100
    assert vitals.stuck(30) == ()


def test_a_commit_that_waits_too_long_is_stuck_but_a_full_disk_is_not() -> None:
    vitals, ledger, mailboxes, now = made()
    mailboxes["a"] = 5
    ledger.now = replace(STATS, waiting=1, oldest_waiting_s=31.0)
    assert vitals.stuck(30) == ("a commit waits for 31 s",)
    ledger.now = replace(ledger.now, failing_since=1.0, failing_reason="disk full")
    now.at += 3600
    assert vitals.stuck(30) == ()  # the pool waits for its commit as well
    ledger.now = STATS
    now.at += 20
    assert vitals.stuck(30) == ()  # there is room again, and the pool has time anew


def test_a_closed_journal_is_the_end() -> None:
    vitals, ledger, _, _ = made()
    ledger.closed_reason = "leadership lost"
    assert vitals.stuck(30) == ("the journal is closed: leadership lost",)


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where systemd would listen."""
    with (
        tempfile.TemporaryDirectory() as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard,
    ):
        path = str(Path(directory, "notify"))
        heard.bind(path)
        heard.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "1200000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        yield heard


def heard(systemd: socket.socket) -> list[str]:
    """What was said since the last time."""
    found: list[str] = []
    try:
        while True:
            found += systemd.recv(4096).decode().splitlines()
    except BlockingIOError:
        return found


async def until(wanted: Callable[[], bool]) -> None:
    """Bounded polling."""
    with anyio.fail_after(20):
        while True:
            await anyio.sleep(0.01)
            if wanted():
                return


@pytest.mark.anyio
async def test_the_watchdog_is_fed_while_all_is_well_and_not_when_stuck(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.vitals.EVERY_S", 0.01)
    monkeypatch.setattr("controller.vitals.STATUS_EVERY_S", 0.01)
    ledger = Ledger()
    vitals = Vitals(ledger, lambda: (), lambda: "2 pools")
    said: list[str] = []

    def says(line: str) -> bool:
        said.extend(heard(systemd))
        return line in said

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(vitals.run)
        await until(lambda: says("WATCHDOG=1") and says("STATUS=2 pools"))
        ledger.now = replace(STATS, waiting=1, oldest_waiting_s=9.0)
        await until(lambda: says("STATUS=2 pools; a commit waits for 9 s"))
        said.clear()
        heard(systemd)
        turns = vitals.measured
        await until(lambda: vitals.measured > turns + 50)  # more than once per feeding
        assert not says("WATCHDOG=1")
        ledger.now = STATS
        await until(lambda: says("WATCHDOG=1") and says("STATUS=2 pools"))
        tasks.cancel_scope.cancel()


def test_lag_is_the_largest_of_the_last_minute() -> None:
    vitals, _, _, now = made()
    assert vitals.lag_max_s == 0
    for at, lag in ((1000.0, 2.0), (1040.0, 0.5)):
        now.at = at
        vitals.note_lag(lag)
    assert (vitals.lag_s, vitals.lag_max_s) == (0.5, 2.0)
    now.at = 1061.0
    assert vitals.lag_max_s == 0.5
