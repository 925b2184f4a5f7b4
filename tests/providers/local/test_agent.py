"""The real agent on a real local machine, through the provider."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import anyio
import pytest

from providers.agent.wire import Ack, Bootstrap, BootstrapStep, Command, Hello, Start
from providers.contract import AgentChannel, Wire
from providers.errors import HostError
from providers.local.config import LocalConfig
from providers.local.machine import start_time
from tests.contract.harness import OWNER, LocalHarness, until, until_absent, until_running
from tests.providers.local.test_machine import Running, pids_in

pytestmark = [pytest.mark.anyio, pytest.mark.real]


@pytest.fixture(params=[True, False], ids=["isolated", "watched"])
async def running(
    request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[Running]:
    async with LocalHarness.open(tmp_path, config=LocalConfig(isolate=request.param)) as harness:
        order = harness.order(0, (await harness.provider.offers())[0])
        await harness.provider.launch([order])
        machine = harness.machine(order, await until_running(harness, order))
        yield Running(harness, order, machine, harness.directory(order))
    assert pids_in(tmp_path) == []


def hello(*, lease_s: float = 600) -> Hello:
    return Hello(owner=OWNER, instance="pool-0-1", epoch=3, lease_s=lease_s, slots=2, metrics_every_s=3600)


def task(name: str, *argv: str) -> Start:
    return Start(epoch=3, task=name, attempt=1, argv=argv, log_bytes_max=10**9, grace_s=1)


async def say(channel: AgentChannel, *commands: Command) -> None:
    await channel.send([command.model_dump() for command in commands])


async def heard(channel: AgentChannel, wanted: Callable[[Wire], bool]) -> list[Wire]:
    """All messages up to and with the wanted one."""
    messages: list[Wire] = []
    with anyio.fail_after(20):
        while not any(wanted(message) for message in messages):
            messages += await channel.receive()
    return messages


def is_end(message: Wire) -> bool:
    return message["t"] == "ended"


async def test_a_task_runs_and_its_output_comes_back(running: Running) -> None:
    async with running.harness.provider.attach(running.machine) as channel:
        await say(channel, hello(), task("t1", "sh", "-c", "echo out; echo err >&2; exit 7"))
        messages = await heard(channel, is_end)
    [end] = filter(is_end, messages)
    assert end["code"] == 7
    logs = {message["stream"]: message["lines"] for message in messages if message["t"] == "log"}
    assert logs == {"stdout": [["out", 0]], "stderr": [["err", 0]]}


async def test_a_task_goes_on_between_two_streams_and_what_it_said_is_kept(running: Running) -> None:
    async with running.harness.provider.attach(running.machine) as channel:
        await say(channel, hello(), task("t1", "sh", "-c", "echo begun; sleep 0.5; echo over"))
        first = await heard(channel, lambda message: message["t"] == "started")
    boot = first[0]["boot"]
    async with running.harness.provider.attach(running.machine) as channel:
        await say(channel, hello().model_copy(update={"boot": boot, "acked": 0}))
        second = await heard(channel, is_end)
        assert second[0]["boot"] == boot
        lines = [line for message in second if message["t"] == "log" for line in _lines(message)]
        assert lines == ["begun", "over"]
        await say(channel, Ack(boot=str(boot), id=int(str(second[-1]["id"]))))


def _lines(message: Wire) -> list[str]:
    lines = message["lines"]
    assert isinstance(lines, list)
    return [line[0] for line in lines]


async def test_killing_the_machine_takes_agent_and_tasks_along(running: Running) -> None:
    async with running.harness.provider.attach(running.machine) as channel:
        await say(channel, hello(), task("t1", "sh", "-c", "trap '' TERM HUP; while :; do sleep 1; done"))
        await heard(channel, lambda message: message["t"] == "started")
        await running.harness.kill(running.order)
        with anyio.fail_after(20), pytest.raises(HostError):
            await heard(channel, is_end)
    await until(lambda: not pids_in(running.directory))
    await until_absent(running.harness, running.order)


async def test_a_notice_reaches_the_agent_and_is_taken_back(running: Running) -> None:
    async with running.harness.provider.attach(running.machine) as channel:
        await say(channel, hello())
        await running.harness.provider.preempt(running.order.key, within_s=300, kill=False)
        messages = await heard(channel, lambda message: message["t"] == "notice")
        [notice] = [message for message in messages if message["t"] == "notice"]
        assert notice["reason"] == "preempted"
        assert 200 < float(str(notice["within_s"])) <= 300
        await running.harness.provider.withdraw(running.order.key)
        await heard(channel, lambda message: message["t"] == "notice_gone")


async def test_a_machine_whose_lease_runs_out_ends_itself(running: Running) -> None:
    pid, started = running.record.pid, running.record.start_time
    async with running.harness.provider.attach(running.machine) as channel:
        await say(channel, hello(lease_s=0.5), task("t1", "sleep", "60"))
        await heard(channel, lambda message: message["t"] == "started")
    await until(lambda: start_time(pid) != started)
    await until_absent(running.harness, running.order)


async def test_a_set_up_runs_in_the_machine(running: Running) -> None:
    step = BootstrapStep(phase="mark", run="echo $HOME; echo $WHO > mark", timeout_s=10)
    async with running.harness.provider.attach(running.machine) as channel:
        await say(channel, hello(), Bootstrap(epoch=3, run_id="r1", env={"WHO": "me"}, steps=(step,)))
        messages = await heard(channel, lambda message: message["t"] == "bootstrap_ended")
    [end] = [message for message in messages if message["t"] == "bootstrap_ended"]
    assert end["phase"] is None
    said = "".join(str(message["content"]) for message in messages if message["t"] == "console")
    assert str(running.directory / "home") in said
