"""The daemon's time over restarts: it never goes back, and a jump never lets a wait look over."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.instance.state import Destroying, Requested
from actors.policy.adoption import Reaped
from actors.ports import Commit, StateRow
from controller import clock
from controller.clock import Start
from controller.journal.journal import SqliteJournal
from controller.journal.reader import StoredState
from controller.recovery import recover
from providers.model import ClusterHandle, Handle, InstanceType, Offer, Value

OFFER = Offer(id="o", instance_type=InstanceType(name="i", vcpus=1, memory_gb=1), provider="p")
CLUSTER = ClusterHandle(cluster_id="c", provider="p", region="r", ssh_user="u")
TIMES = st.floats(min_value=1, max_value=4e9, allow_nan=False)


@given(wall=TIMES, last_at=TIMES, expected=st.none() | TIMES)
def test_a_start_is_never_before_what_is_journaled(
    wall: float, last_at: float, expected: float | None
) -> None:
    began = clock.start(wall, last_at, expected)
    assert began.at >= last_at and began.at >= wall
    assert began.jumped_s >= 0
    if expected is not None and expected >= max(wall, last_at):
        assert began == Start(expected, 0.0)  # set back: ours goes on as if nothing had happened


def test_the_clock_goes_on_within_one_boot(tmp_path: Path) -> None:
    assert clock.expected(tmp_path) is None
    clock.keep(tmp_path, 5_000_000_000.0)  # far from the system's clock
    there = clock.expected(tmp_path)
    assert there is not None and there >= 5_000_000_000.0


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"boot": "x", "offset": "y"}', '{"boot": "x", "offset": 1}']
)
def test_an_anchor_of_another_boot_or_none_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / clock.ANCHOR_FILE).write_text(text)
    assert clock.expected(tmp_path) is None


def _stored(state: Value) -> StoredState:
    return StoredState("pool", "instance", "pool-0-1.1", 1, state.model_dump_json().encode(), False)


def _fields() -> dict[str, object]:
    return {
        "id": "pool-0-1.1",
        "key": "o/pool/0/1/1",
        "pool": "pool",
        "node": 0,
        "request_id": "r",
        "offer": OFFER,
        "cluster": CLUSTER,
        "created_at": 1000.0,
        "since": 1000.0,
    }


def test_a_jump_does_not_end_the_wait_for_a_lease() -> None:
    handle = Handle(provider="p", ref="m")
    state = Destroying.model_validate(
        _fields() | {"handle": handle, "launched_at": 900.0, "reason": "unreachable", "tasks_over_at": 1800.0}
    )
    began = clock.start(wall=9000.0, last_at=1000.0, expected=1100.0)  # set forward by 7,900 s
    recovered = recover([_stored(state)], [], began).pools["pool"]["instance", "pool-0-1.1"]
    assert isinstance(recovered, Destroying)
    assert recovered.tasks_over_at == 1800.0 + 7900.0
    assert recovered.launched_at == 900.0 + 7900.0


def test_a_launch_that_is_looked_for_is_as_young_as_it_was() -> None:
    state = Requested.model_validate(_fields() | {"asked_at": 990.0, "looking": True})
    rebooted = clock.start(wall=5000.0, last_at=1000.0, expected=None)
    recovered = recover([_stored(state)], [], rebooted).pools["pool"]["instance", "pool-0-1.1"]
    assert isinstance(recovered, Requested)
    assert recovered.asked_at == 4990.0


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_was_written_without_an_event_counts_too(tmp_path: Path) -> None:
    async with SqliteJournal(tmp_path / "journal.sqlite3") as journal:
        assert journal.last_at() == 0.0
        journal.keep_time(lambda: 7_000_000_000.0)
        await journal.commit(Commit("pool", (StateRow("quarantine", "q", 1, Reaped(key="k", ended_at=1.0)),)))
        assert journal.last_at() == 7_000_000_000.0
