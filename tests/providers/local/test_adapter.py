"""What the local provider does besides the contract: crashes, twins, scripts, limits."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest

from providers.errors import Fault, ProviderError
from providers.local.config import LocalConfig, LocalOffer, ScriptedNotice
from providers.local.wire import NoticeFile, ref_of
from providers.local.yard import DEATHS_TOLD_S, Yard
from providers.model import Handle, Order
from tests.contract.fake_agent import AGENT
from tests.contract.harness import OWNER, LocalHarness, until, until_absent, until_running
from tests.providers.local.test_machine import pids_in

pytestmark = [pytest.mark.anyio, pytest.mark.real]


async def first_order(harness: LocalHarness, node: int = 0) -> Order:
    return harness.order(node, (await harness.provider.offers())[0])


async def launched(harness: LocalHarness, node: int = 0) -> Order:
    order = await first_order(harness, node)
    [outcome] = await harness.provider.launch([order])
    assert isinstance(outcome, Handle), outcome
    return order


def yard_of(tmp_path: Path) -> Yard:
    return Yard(tmp_path / "p", "local", LocalConfig(), time.time)


LAUNCH = """
import sys, time
from pathlib import Path
from providers.local.config import LocalConfig
from providers.local.yard import DEATHS_TOLD_S, Yard
from providers.model import Order
yard = Yard(Path(sys.argv[1]), "local", LocalConfig(), time.time)
print(yard.launch(Order.model_validate_json(sys.stdin.read())).pid)
"""


def daemon_that_launches(directory: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCH, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        text=True,
    )


def stranger() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


async def test_two_daemons_that_launch_one_key_make_one_machine(tmp_path: Path) -> None:
    async with LocalHarness.open(tmp_path) as harness:
        order = await first_order(harness)
        daemons = [daemon_that_launches(tmp_path / "p") for _ in range(3)]
        with ThreadPoolExecutor(3) as threads:  # at the same time
            order_json = order.model_dump_json()
            said = set(threads.map(lambda daemon: daemon.communicate(order_json)[0], daemons))
        assert said == {f"{harness.record(order).pid}\n"}
        assert len({pid for pid in pids_in(tmp_path) if os.getsid(pid) == harness.record(order).pid}) == 1


async def test_a_crash_between_claim_and_start_leaves_nothing_that_counts(tmp_path: Path) -> None:
    async with LocalHarness.open(tmp_path) as harness:
        order = await first_order(harness)
        yard_of(tmp_path)._claim(ref_of(order.key), order)
        assert await harness.provider.find(order.key) is None
        assert (await harness.provider.observe(OWNER)).sightings == ()
        await launched(harness)
        await until_running(harness, order)


async def test_while_a_machine_is_being_started_it_is_pending_and_started_once(tmp_path: Path) -> None:
    async with LocalHarness.open(tmp_path) as harness:
        order, yard = await first_order(harness), yard_of(tmp_path)
        yard._claim(ref_of(order.key), order)
        async with anyio.create_task_group() as tasks:
            with yard._held(ref_of(order.key)):
                tasks.start_soon(harness.provider.launch, [order])
                for _ in range(20):
                    seen = await harness.provider.find(order.key)
                    assert seen is not None
                    assert (seen.state, seen.address) == ("pending", None)
                assert not (harness.directory(order) / "machine.json").exists()
        await until_running(harness, order)


async def test_machines_outlive_their_provider_and_are_found_by_the_next(tmp_path: Path) -> None:
    async with LocalHarness.open(tmp_path) as harness:
        order = await launched(harness)
        seen = await until_running(harness, order)
        pid = harness.record(order).pid
        await harness.provider.aclose()
        async with LocalHarness.open(tmp_path) as next_life:
            assert (await next_life.provider.observe(OWNER)).sightings == (seen,)
            assert await next_life.provider.launch([order]) == [seen.handle]
            assert next_life.record(order).pid == pid


async def test_what_a_machine_said_before_it_died_is_told_with_its_end(tmp_path: Path) -> None:
    async with LocalHarness.open(tmp_path) as harness:
        order, ended = await launched(harness), await launched(harness, 1)
        seen = await until_running(harness, order)
        for one in (order, ended):
            await until_running(harness, one)
            (harness.directory(one) / "console.log").write_text("Traceback\nRuntimeError: no room\n")
        await harness.provider.terminate([Handle(provider="local", ref=ref_of(ended.key))])
        await harness.kill(order)
        await until_absent(harness, order)
        listing = await harness.provider.observe(OWNER)
        [told] = listing.sightings  # nothing of the one that we have ended
        assert (told.key, told.handle, told.state) == (order.key, seen.handle, "stopped")
        assert told.detail == "its process died: RuntimeError: no room"
        assert told.ended_at is not None
        assert told.launched_at <= told.ended_at <= listing.at
        assert await harness.provider.find(order.key) is None
        [room] = await harness.provider.check(OWNER)
        assert room.detail.startswith("0 of ")


async def test_a_cause_of_death_is_told_for_a_while(tmp_path: Path) -> None:
    async with LocalHarness.open(tmp_path) as harness:
        order = await launched(harness)
        await until_running(harness, order)
        (harness.directory(order) / "console.log").write_text("no room\n")
        await harness.kill(order)
        late: list[float] = [0.0]
        yard = Yard(tmp_path / "p", "local", LocalConfig(), lambda: time.time() + late[0])
        await until(lambda: not yard.scan())
        assert [death.words for death in yard.deaths()] == ["no room"]
        late[0] = DEATHS_TOLD_S + 1
        assert yard.deaths() == []


async def test_a_pid_that_is_another_process_now_is_not_ours(tmp_path: Path) -> None:
    async with LocalHarness.open(tmp_path) as harness:
        order = await launched(harness)
        await until_running(harness, order)
        record = harness.record(order)
        file = harness.directory(order) / "machine.json"
        other = stranger()
        try:
            await harness.kill(order)
            changed = record.model_copy(update={"pid": other.pid})
            file.with_suffix(".new").write_text(changed.model_dump_json())
            file.with_suffix(".new").rename(file)
            assert await harness.provider.find(order.key) is None
            assert other.poll() is None
        finally:
            other.communicate(b"\n")


async def test_beyond_machines_max_is_a_quota(tmp_path: Path) -> None:
    async with LocalHarness.open(tmp_path, config=LocalConfig(machines_max=1)) as harness:
        await launched(harness)
        [outcome] = await harness.provider.launch([await first_order(harness, 1)])
        assert isinstance(outcome, ProviderError)
        assert outcome.fault is Fault.QUOTA
        assert "machines_max" in outcome.detail


async def test_capacity_holds_for_launches_at_one_time(tmp_path: Path) -> None:
    config = LocalConfig(offers=(LocalOffer(zone="local-a", spot=1.0, capacity=2),))
    async with LocalHarness.open(tmp_path, config=config) as harness:
        yard = Yard(tmp_path / "p", "local", config, time.time)
        orders = [await first_order(harness, node) for node in range(4)]
        for order in orders[:2]:  # two launches that have claimed, and not started anything yet
            yard._claim(ref_of(order.key), order)
        with pytest.raises(ProviderError) as refused:
            yard.launch(orders[2])
        assert refused.value.fault is Fault.CAPACITY
        for order in orders[:2]:
            yard.launch(order)
        with pytest.raises(ProviderError):
            yard.launch(orders[3])
        yard.terminate(ref_of(orders[0].key))
        yard.launch(orders[2])


@pytest.mark.parametrize("field", ["public_key", "host_key"])
async def test_a_key_that_is_none_is_rejected_and_nothing_is_made(tmp_path: Path, field: str) -> None:
    async with LocalHarness.open(tmp_path) as harness:
        order = (await first_order(harness)).model_copy(update={field: "junk"})
        [outcome] = await harness.provider.launch([order])
        assert isinstance(outcome, ProviderError)
        assert outcome.fault is Fault.REJECTED
        assert list((tmp_path / "p" / "machines").iterdir()) == []


async def test_a_launch_delay_keeps_a_machine_pending_and_terminable(tmp_path: Path) -> None:
    async with LocalHarness.open(tmp_path, config=LocalConfig(launch_delay_s=600)) as harness:
        order = await launched(harness)
        seen = await harness.provider.find(order.key)
        assert seen is not None
        assert seen.state == "pending"
        assert await harness.provider.terminate([seen.handle]) == [None]
        await until_absent(harness, order)


async def test_a_handle_that_is_a_path_is_rejected(tmp_path: Path) -> None:
    async with LocalHarness.open(tmp_path) as harness:
        [outcome] = await harness.provider.terminate([Handle(provider="local", ref="../../etc")])
        assert outcome is not None
        assert outcome.fault is Fault.REJECTED


async def test_a_strange_file_among_the_machines_is_left_alone(tmp_path: Path) -> None:
    async with LocalHarness.open(tmp_path) as harness:
        (tmp_path / "p" / "machines" / "README").write_text("mine")
        order = await launched(harness)
        assert [one.key for one in (await harness.provider.observe(OWNER)).sightings] == [order.key]


async def test_a_scripted_notice_is_given_and_made_true(tmp_path: Path) -> None:
    offers = (LocalOffer(zone="a", spot=1), LocalOffer(zone="b", spot=1))
    script = ScriptedNotice(after_s=0, within_s=1.5, zone="a", reason="rebalancing")
    config = LocalConfig(offers=offers, notices=(script,))
    async with LocalHarness.open(tmp_path, config=config) as harness:
        taken, kept = (
            harness.order(node, offer) for node, offer in enumerate(await harness.provider.offers())
        )
        await harness.provider.launch([taken, kept])
        with anyio.fail_after(20):
            key, notice = await anext(harness.provider.notices())
        assert key == taken.key
        assert notice is not None
        assert notice.reason == "rebalancing"
        written = NoticeFile.model_validate_json((harness.directory(taken) / "notice.json").read_bytes())
        assert written.within_s == 1.5
        assert written.deadline_at == harness.record(taken).launched_at + 1.5
        await until_absent(harness, taken)
        seen = await harness.provider.find(kept.key)
        assert seen is not None
        assert seen.notice is None


async def test_a_scripted_notice_is_withdrawn(tmp_path: Path) -> None:
    script = ScriptedNotice(after_s=0, within_s=600, withdraw_after_s=1)
    async with LocalHarness.open(tmp_path, config=LocalConfig(notices=(script,))) as harness:
        order = await launched(harness)
        heard = []
        with anyio.fail_after(20):
            async for key, notice in harness.provider.notices():
                heard.append((key, notice is not None))
                if len(heard) == 2:
                    break
        assert heard == [(order.key, True), (order.key, False)]
        assert await harness.provider.find(order.key) is not None


async def test_a_script_can_kill_without_a_word_and_only_certain_machines(tmp_path: Path) -> None:
    script = ScriptedNotice(after_s=0.3, within_s=0, machines=(2,))
    async with LocalHarness.open(tmp_path, config=LocalConfig(notices=(script,))) as harness:
        first, second, third = [await launched(harness, node) for node in range(3)]
        await until_absent(harness, second)
        for order in (first, third):
            assert await harness.provider.find(order.key) is not None


async def test_old_tombstones_are_forgotten_and_young_ones_kept(tmp_path: Path) -> None:
    async with LocalHarness.open(tmp_path) as harness:
        order = await launched(harness)
        await harness.kill(order)
        await until_absent(harness, order)
        Yard(tmp_path / "p", "local", LocalConfig(), lambda: time.time() + 86_400).prune()
        assert (tmp_path / "p" / "ended" / ref_of(order.key)).exists()
        Yard(tmp_path / "p", "local", LocalConfig(), lambda: time.time() + 31 * 86_400).prune()
        assert not (tmp_path / "p" / "ended" / ref_of(order.key)).exists()


async def test_what_tasks_forbid_to_delete_is_deleted(tmp_path: Path) -> None:
    async with LocalHarness.open(tmp_path) as harness:
        order = await launched(harness)
        seen = await until_running(harness, order)
        locked = harness.directory(order) / "home" / "locked"
        (locked / "below").mkdir(parents=True)
        locked.chmod(0)
        assert await harness.provider.terminate([seen.handle]) == [None]
        assert list((tmp_path / "p" / "trash").iterdir()) == []


async def test_the_agent_is_attached_with_its_notice_file_and_an_end_of_its_own(tmp_path: Path) -> None:
    async with LocalHarness.open(tmp_path, agent=AGENT) as harness:
        order = await launched(harness)
        machine = harness.machine(order, await until_running(harness, order))
        async with harness.provider.attach(machine) as channel:
            await channel.send([{"t": "hello", "epoch": 1}])
            [hello] = await channel.receive()
        options = hello["options"]
        assert isinstance(options, list)
        assert options[1:4] == ["attach", "--dir", str(harness.directory(order) / "agent")]
        assert options[4:] == [
            "--notice-file",
            str(harness.directory(order) / "notice.json"),
            "--end-command",
            f"kill -TERM {harness.record(order).init}",
        ]
