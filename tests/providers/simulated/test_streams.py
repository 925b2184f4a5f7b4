"""Streams that stall and are cut, machines that can't be talked to, and addresses that are another's now."""

import anyio
import pytest
from pydantic_core import to_json

from providers.agent.wire import Hello
from providers.errors import Fault, HostError
from providers.simulated.channel import SimulatedChannel, SimulatedWire
from providers.simulated.config import Faults
from tests.contract.harness import OWNER
from tests.providers.simulated.harness import QUICK, SimulatedHarness, Talk, cloud_of

pytestmark = pytest.mark.anyio


def line(*texts: str) -> bytes:
    return to_json([{"t": text} for text in texts]) + b"\n"


def wired() -> tuple[SimulatedChannel, list[bytes], list[str]]:
    """A channel, what its agent hears, and how often it ended."""
    heard: list[bytes] = []
    ends: list[str] = []
    return SimulatedChannel(SimulatedWire(heard.append, lambda: ends.append("end")), "1"), heard, ends


# --- the wire -----------------------------------------------------------------------------------


async def test_lines_go_both_ways() -> None:
    channel, heard, ends = wired()
    await channel.send([{"t": "a"}, {"t": "b"}])
    assert heard == [line("a", "b")]
    channel.deliver([{"t": "c"}])
    channel.deliver([{"t": "d"}])
    assert [one["t"] for one in await channel.receive()] == ["c", "d"]
    channel.close()
    channel.close()
    assert ends == ["end"]


async def test_a_stalled_stream_is_only_late_when_it_is_released() -> None:
    channel, heard, _ = wired()
    channel.wire.stall()
    await channel.send([{"t": "a"}])
    channel.deliver([{"t": "b"}])
    with anyio.move_on_after(10) as patience:
        await channel.receive()
    assert patience.cancelled_caught
    assert heard == []
    channel.wire.release()
    await channel.send([{"t": "c"}])
    assert heard == [line("a"), line("c")]
    assert [one["t"] for one in await channel.receive()] == ["b"]


@pytest.mark.parametrize("draw", [0.0, 0.1, 0.4, 0.5, 0.7, 0.99])
async def test_of_a_stream_that_is_cut_a_part_arrives_and_the_last_line_never_whole(draw: float) -> None:
    channel, heard, ends = wired()
    channel.wire.stall()
    lines = [line(f"number-{number}") for number in range(4)]
    for one in lines:
        channel.wire.deliver(one)
        await channel.wire.send(one)
    channel.wire.tear(draw)
    assert ends == ["end"]
    cut = int(draw * sum(map(len, lines)))
    whole = cut // len(lines[0])
    assert heard == lines[:whole]
    talk = Talk(channel)
    error = await talk.until_over()
    assert [one["t"] for one in talk.heard] == [f"number-{number}" for number in range(whole)]
    held = cut - whole * len(lines[0])
    assert (f"within a line of {held} bytes" in error.detail) == (held > 0)
    with pytest.raises(HostError):
        await channel.send([{"t": "too late"}])


async def test_what_was_not_read_when_a_stream_ends_is_lost() -> None:
    channel, _, _ = wired()
    channel.deliver([{"t": "a"}])
    channel.close()
    with pytest.raises(HostError):
        await channel.receive()


# --- cuts ---------------------------------------------------------------------------------------


async def test_a_stream_that_is_cut_loses_nothing_that_the_agent_keeps() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        cuts, codes = 0, list[object]()
        for number in range(30):
            name = f"t-{number}"
            async with here.talk(machine) as talk:
                if number % 2:
                    here.cloud.cut_streams(1.0)  # what is said now may not arrive either
                await talk.start(name, "sim-sleep", "3", str(number), "3")
                here.cloud.cut_streams(1.0)
                error = await talk.until_over()
                cuts += "within a line" in error.detail
            async with here.talk(machine) as talk:
                await talk.start(name, "sim-sleep", "3", str(number), "3")  # if it was not heard
                codes.append((await talk.until("ended", task=name)).get("code", 0))
        assert codes == list(range(30))
        assert cuts > 3
        assert sum(text.startswith("began") for text in here.witness.seen) == 30
        assert here.witness.texts[0] == "sim: 1 of 1 streams are cut"


async def test_open_streams_are_cut_by_seed() -> None:
    config = QUICK.model_copy(update={"faults": Faults(cuts_per_hour=60)})
    async with cloud_of(config) as here:
        [machine] = await here.launched()
        errors: list[str] = []
        for _ in range(20):
            async with here.talk(machine) as talk:
                errors.append((await talk.until_over()).detail)
        assert 300 < anyio.current_time() < 3600
        here.cloud.luck.calm = True
        async with here.talk(machine, lease_s=86_400) as talk:
            with anyio.move_on_after(36_000) as patience:
                await talk.until_over()
            assert patience.cancelled_caught


# --- silence ------------------------------------------------------------------------------------


async def test_a_short_silence_delays_and_a_long_one_ends_the_stream() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            here.cloud.silence(machine, 20)
            await talk.start("t", "sim-sleep", "1")
            await talk.until("ended", task="t")
            assert 20 < anyio.current_time() < 30
            began = anyio.current_time()
            here.cloud.silence(machine, 100)
            await talk.until_over()
            assert anyio.current_time() == began + 30
        with pytest.raises(HostError, match="no login at .* in time") as caught:
            async with here.talk(machine):
                raise AssertionError("nobody is to be reached")
        assert caught.value.fault is Fault.NOT_SENT
        assert anyio.current_time() == began + 50
        await anyio.sleep(51)
        async with here.talk(machine):
            assert machine.ref in await here.listed()


async def test_a_machine_that_is_isolated_is_listed_and_never_heard_again() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            here.cloud.isolate(machine)
            await talk.until_over()
        await anyio.sleep(86_400 * 30)
        assert here.witness.texts == [f"sim: {machine.key} can't be reached any more"]
        assert here.witness.seen[-1] == f"ended {machine.ref} lease"  # its agent hears nobody either


async def test_a_machine_may_boot_without_ever_being_reached_or_never_boot() -> None:
    async with cloud_of(QUICK.model_copy(update={"faults": Faults(boot_unreachable=1)})) as here:
        [machine] = await here.launched()
        assert (await here.listed())[machine.ref].state == "running"
        with pytest.raises(HostError, match="no login"):
            async with here.talk(machine):
                raise AssertionError("nobody is to be reached")
    async with cloud_of(QUICK.model_copy(update={"faults": Faults(boot_never=1)})) as here:
        [machine] = await here.launched()
        await anyio.sleep(86_400)
        assert (await here.listed())[machine.ref].state == "pending"
        assert await here.provider.terminate([here.cloud.handle(machine)]) == [None]
        await anyio.sleep(60)
        assert await here.listed() == {}


# --- addresses ----------------------------------------------------------------------------------

REUSED = QUICK.model_copy(update={"addresses_reused": True})


async def attached(here: SimulatedHarness, machine: object, instance: str) -> str:
    """How an attach to a machine's address goes."""
    try:
        async with here.provider.attach(machine) as channel:  # type: ignore[arg-type]
            fields = {"owner": OWNER, "instance": instance, "epoch": 1, "lease_s": 60, "slots": 1}
            await channel.send([Hello.model_validate(fields | {"metrics_every_s": 0}).model_dump()])
            return str((await channel.receive())[0]["boot"])
    except HostError as error:
        return f"{error.fault}: {error.detail}"


async def test_an_address_that_is_another_machines_now_shows_another_host_key() -> None:
    async with cloud_of(REUSED) as here:
        [old] = await here.launched()
        way = here.way_into(old, "instance-a")
        assert await attached(here, way, "a") == f"boot-{old.ref}"
        here.cloud.preempt(old, None)
        assert (await attached(here, way, "a")).startswith("gone: ")
        [new] = await here.launched()
        assert new.address == way.address
        answer = await attached(here, way, "a")
        assert answer.startswith("rejected: instance-a at ")
        assert "has another host key than is pinned" in answer
        assert await attached(here, here.way_into(new, "instance-b"), "b") == f"boot-{new.ref}"


async def test_who_was_never_met_is_pinned_at_the_first_meeting_whoever_it_is() -> None:
    async with cloud_of(REUSED) as here:
        [old] = await here.launched()
        way = here.way_into(old, "instance-a")
        here.cloud.preempt(old, None)
        [new] = await here.launched()
        assert await attached(here, way, "a") == f"boot-{new.ref}"  # as ssh does without a key to compare


async def test_a_key_that_we_handed_in_is_known_before_the_first_meeting() -> None:
    async with cloud_of(REUSED) as here:
        order = here.order(0, await here.spot()).model_copy(update={"host_key": "secret"})
        await here.provider.launch([order])
        await anyio.sleep(1)
        [machine] = here.cloud.of_key(order.key)
        assert "another host key" in await attached(here, here.way_into(machine, "other"), "other")
        assert await attached(here, here.way_into(machine, order.instance_id), "a") == f"boot-{machine.ref}"


async def test_addresses_are_not_reused_unless_it_is_asked_for() -> None:
    async with cloud_of() as here:
        [old] = await here.launched()
        address = old.address
        here.cloud.preempt(old, None)
        [new] = await here.launched()
        assert new.address != address


async def test_no_two_machines_have_one_address_whatever_stops_and_runs_again() -> None:
    async with cloud_of(REUSED) as here:
        for _ in range(30):
            machines = [one for one in here.cloud.living.values() if one.state == "running"]
            for machine in here.cloud.luck.pick(machines, len(machines) // 2):
                here.cloud.stop(machine, 10 * here.cloud.luck.random())
            for machine in here.cloud.luck.pick(machines, len(machines) // 4):
                here.cloud.preempt(machine, None)
            await here.launched(2)
            await anyio.sleep(3)
            found = [one.address for one in here.cloud.living.values() if one.address is not None]
            assert len(set(map(str, found))) == len(found)
        await anyio.sleep(20)
        for machine in here.cloud.living.values():
            assert machine.address is not None
            assert here.cloud.at_address(machine.address.host) is machine
