"""Streams to agents: what is resumed, what is acknowledged and when, and who stays alive."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import actors.links
from actors.effects import Connect
from actors.links import LEASES_A_PERIOD, OUTBOX_MAX, STORE_AGAIN_S, Link, Links
from actors.loop import Letter
from actors.messages import AgentSaid, LinkDown, LinkUp
from actors.spec import PoolSpec
from providers.agent.wire import Stop
from providers.contract import AgentChannel, Wire
from providers.errors import Fault, HostError
from providers.model import Address, Handle, Machine
from tests.actors.model import CAPABILITIES, cluster_handle

NAME, POOL, EPOCH = "pool-0-1.1.1", "pool", 4
SPEC = PoolSpec(provider=("sim",), lease_s=300, metrics_every_s=86_400)

pytestmark = pytest.mark.anyio
virtual = pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)  # long waits, exact times


class Line:
    """One stream to an agent that says what the test wants said."""

    def __init__(self) -> None:
        self.heard: list[Wire] = []
        self.times: list[float] = []  # when
        self.goes_out = anyio.Event()  # unset: what is sent does not
        self.goes_out.set()
        self._said: list[Wire] = []
        self._ended = False
        self._news = anyio.Event()

    async def send(self, messages: Sequence[Wire]) -> None:
        await anyio.lowlevel.checkpoint()
        await self.goes_out.wait()
        if self._ended:
            raise HostError(Fault.UNKNOWN, "the stream ended")
        self.heard += messages
        self.times += [anyio.current_time()] * len(messages)

    async def receive(self) -> Sequence[Wire]:
        while not self._said:
            if self._ended:
                raise HostError(Fault.UNKNOWN, "the stream ended")
            await self._news.wait()
            self._news = anyio.Event()
        said, self._said = self._said, []
        return said

    def say(self, *messages: Wire) -> None:
        """The agent says something, in one piece."""
        self._said += messages
        self._news.set()

    def end(self) -> None:
        """The stream breaks."""
        self._ended = True
        self._news.set()
        self.goes_out.set()

    def of(self, kind: str) -> list[Any]:
        """What the agent heard of one type."""
        return [message for message in self.heard if message["t"] == kind]


class House:
    """Links, and all around them: the provider, telemetry, the pool's mailbox, the clock and the dice."""

    name = "sim"
    capabilities = CAPABILITIES

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.unreachable = False
        self.letters: list[Any] = []
        self.stored: list[tuple[str, int]] = []
        self.disk_full = False
        self.newer: list[int] = []
        self.instance = ""
        self.epoch = EPOCH
        self.boot = "boot-1"
        self.accepted = True
        self.silent = False  # the agent does not say hello
        self.changed = anyio.Event()
        self.links = Links(
            providers={"sim": self},  # type: ignore[dict-item]
            paths=self,
            telemetry=self,
            post=self.post,
            clock=self,
            dice=self,
            owner="owner",
            epoch=EPOCH,
            on_newer=self.newer.append,
        )

    # --- the provider, the clock, the dice, the paths ---------------------------------------------

    def now(self) -> float:
        return anyio.current_time()

    def random(self) -> float:
        return 0.5

    def machine(self, connect: Connect) -> Machine:
        return Machine(
            instance_id=connect.instance_id,
            handle=connect.handle,
            address=connect.address,
            ssh_user="u",
            private_key_path="/k",
            known_hosts_path="/h",
        )

    @asynccontextmanager
    async def attach(self, machine: Machine) -> AsyncIterator[AgentChannel]:
        await anyio.lowlevel.checkpoint()
        if self.unreachable:
            raise HostError(Fault.NOT_SENT, "nobody there")
        line = Line()
        self.lines.append(line)
        if not self.silent:
            line.say(self.hello())
        self.notify()
        try:
            yield line
        finally:
            line.end()

    def hello(self) -> Wire:
        """What the agent says first."""
        return {
            "t": "hello",
            "protocol": 1,
            "agent": "a",
            "boot": self.boot,
            "instance": self.instance,
            "next_id": 1,
            "epoch": self.epoch,
            "accepted": self.accepted,
            "tasks": [["t", 1, "running"]],
        }

    # --- telemetry and the mailbox ----------------------------------------------------------------

    def _store(self, what: str, report: Any) -> None:
        if self.disk_full:
            raise OSError(28, "No space left on device")
        self.stored.append((what, report.id))
        self.notify()

    def log(self, pool: str, instance: str, boot: str, report: Any) -> None:
        self._store("log", report)

    def console(self, pool: str, instance: str, report: Any) -> None:
        self._store("console", report)

    def file(self, pool: str, instance: str, report: Any) -> None:
        self._store("file", report)

    def metrics(self, pool: str, instance: str, report: Any) -> None:
        self._store("metrics", report)

    async def post(self, pool: str, letter: Letter) -> None:
        assert (pool, letter.address) == (POOL, ("instance", NAME))
        self.letters.append(letter.message)
        self.notify()

    # --- what a test does -------------------------------------------------------------------------

    def notify(self) -> None:
        """Something happened."""
        self.changed.set()

    async def until(self, holds: Callable[[], Any]) -> None:
        """Wait until something holds."""
        with anyio.fail_after(100):
            while not holds():
                self.changed = anyio.Event()
                with anyio.move_on_after(0.01):
                    await self.changed.wait()

    def connect(self, boot: str | None = None, acked: int = 0, spec: PoolSpec = SPEC) -> None:
        """Wish for a stream."""
        wish = Connect(
            instance_id=NAME,
            handle=Handle(provider="sim", ref="m"),
            address=Address(host="h"),
            cluster=cluster_handle(),
            spec=spec,
            boot=boot,
            acked=acked,
        )
        self.links.connect(POOL, wish)

    @property
    def link(self) -> Link:
        """The only link."""
        return self.links.links[NAME]

    async def up(self, **more: Any) -> Line:
        """Wish for a stream and wait for it."""
        self.connect(**more)
        await self.until(lambda: self.lines and self.link.up)
        return self.lines[-1]

    def heard(self, kind: type[Any]) -> list[Any]:
        """What the pool heard of one type."""
        return [letter for letter in self.letters if isinstance(letter, kind)]

    @property
    def acks(self) -> list[int]:
        """Ids that agents were told to forget."""
        return [ack["id"] for line in self.lines for ack in line.of("ack")]


@asynccontextmanager
async def opened() -> AsyncIterator[House]:
    """A house whose links run."""
    house = House()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(house.links.run)
        await anyio.lowlevel.checkpoint()
        try:
            yield house
        finally:
            tasks.cancel_scope.cancel()


def started(i: int) -> Wire:
    """A report for the pool."""
    return {"t": "started", "id": i, "task": "t", "attempt": 1, "pid": 1}


def log(i: int) -> Wire:
    """A report for telemetry."""
    return {
        "t": "log",
        "id": i,
        "task": "t",
        "attempt": 1,
        "stream": "stdout",
        "offset": i,
        "next_offset": i + 1,
        "lines": [["x", 0]],
    }


def metrics(i: int) -> Wire:
    """Another."""
    return {"t": "metrics", "id": i, "values": {"cpu": 1.0}}


# --- opening and resuming -------------------------------------------------------------------------


async def test_a_stream_opens_with_what_is_journaled_and_the_pool_hears_what_the_agent_holds() -> None:
    async with opened() as house:
        line = await house.up(boot="boot-1", acked=7)
        [hello] = line.of("hello")
        assert (hello["boot"], hello["acked"], hello["epoch"]) == ("boot-1", 7, EPOCH)
        assert (hello["lease_s"], hello["slots"]) == (300, 1)
        await house.until(lambda: house.heard(LinkUp))
        assert house.heard(LinkUp) == [LinkUp("boot-1", True, (("t", 1, "running"),))]


async def test_a_broken_stream_is_opened_again_after_what_was_acknowledged() -> None:
    async with opened() as house:
        line = await house.up()
        line.say(started(1), started(2))
        await house.until(lambda: house.heard(AgentSaid))
        house.links.acknowledge(NAME, "boot-1", 1)  # of the two only the first is committed
        line.end()
        await house.until(lambda: len(house.lines) == 2 and house.link.up)
        [hello] = house.lines[1].of("hello")
        assert (hello["boot"], hello["acked"]) == ("boot-1", 1)
        assert len(house.heard(LinkDown)) == 1
        house.lines[1].say(started(2), started(3))
        await house.until(lambda: len(house.heard(AgentSaid)) == 2)
        assert [report.id for report in house.heard(AgentSaid)[1].reports] == [2, 3]


async def test_what_is_told_again_is_passed_over() -> None:
    async with opened() as house:
        line = await house.up(boot="boot-1", acked=5)
        line.say(log(4), started(5), log(6), started(7))
        await house.until(lambda: house.heard(AgentSaid))
        assert house.stored == [("log", 6)]
        assert [report.id for report in house.heard(AgentSaid)[0].reports] == [7]


async def test_another_life_of_the_spool_begins_from_nothing() -> None:
    async with opened() as house:
        house.boot = "boot-2"
        line = await house.up(boot="boot-1", acked=50)
        line.say(log(1))
        await house.until(lambda: house.acks)
        assert house.stored == [("log", 1)]
        assert house.acks == [1]
        house.links.acknowledge(NAME, "boot-1", 60)  # a late word about the former life
        assert house.link.acked == 1


@virtual
async def test_a_machine_that_does_not_answer_is_tried_again_less_and_less_often() -> None:
    async with opened() as house:
        house.unreachable = True
        house.connect()
        times: list[float] = []
        while len(times) < 12:
            seen = len(house.heard(LinkDown))
            await house.until(lambda: len(house.heard(LinkDown)) > seen)  # noqa: B023
            times.append(anyio.current_time())
        waits = [times[i + 1] - times[i] for i in range(11)]
        assert waits[0] < 1
        assert 5 < waits[-1] <= actors.links.RECONNECT_MOST_S + 0.1
        house.unreachable = False
        await house.until(lambda: house.heard(LinkUp))
        assert house.link.failures == 0


@virtual
async def test_an_agent_that_says_nothing_is_left() -> None:
    async with opened() as house:
        house.silent = True
        house.connect()
        await house.until(lambda: house.heard(LinkDown))
        assert not house.heard(LinkUp)
        assert "hello" in house.link.detail


async def test_an_agent_that_obeys_a_newer_daemon_is_not_talked_to() -> None:
    async with opened() as house:
        house.accepted, house.epoch = False, EPOCH + 1
        house.connect()
        await house.until(lambda: house.newer)
        assert house.newer[0] == EPOCH + 1
        await house.until(lambda: house.heard(LinkDown))
        assert not house.heard(LinkUp)


async def test_the_agent_of_another_machine_is_not_talked_to() -> None:
    async with opened() as house:
        house.instance, house.accepted = "other", False
        house.connect()
        await house.until(lambda: house.heard(LinkDown))
        assert not house.heard(LinkUp) and not house.newer
        assert "other" in house.link.detail


async def test_what_the_protocol_does_not_have_ends_the_stream() -> None:
    async with opened() as house:
        line = await house.up()
        line.say({"t": "gossip", "id": 1})
        await house.until(lambda: house.heard(LinkDown))
        assert not house.acks


async def test_a_wish_made_before_the_links_run_is_taken_up() -> None:
    house = House()
    house.connect()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(house.links.run)
        await house.until(lambda: house.heard(LinkUp))
        tasks.cancel_scope.cancel()


async def test_a_new_wish_opens_another_stream_and_a_disconnect_ends_it() -> None:
    async with opened() as house:
        await house.up()
        house.connect(boot="boot-1", spec=SPEC.model_copy(update={"lease_s": 60.0}))
        await house.until(lambda: len(house.lines) == 2 and house.link.up)
        assert house.lines[1].of("hello")[0]["lease_s"] == 60
        with pytest.raises(HostError):
            await house.lines[0].send([])
        house.links.disconnect(NAME)
        assert not house.links.links
        house.links.disconnect(NAME)
        house.links.acknowledge(NAME, "boot-1", 9)
        house.links.say(NAME, [Stop(epoch=1, task="t", attempt=1, grace_s=0)])


# --- acknowledging --------------------------------------------------------------------------------


async def test_nothing_is_acknowledged_before_the_pool_committed_it() -> None:
    async with opened() as house:
        line = await house.up()
        line.say(log(1), started(2), log(3))
        await house.until(lambda: house.heard(AgentSaid))
        line.say(metrics(4))
        await house.until(lambda: ("metrics", 4) in house.stored)
        assert not house.acks, "2 is not committed, so nothing after it may be forgotten"
        assert house.heard(AgentSaid)[0].last_id == 2
        house.links.acknowledge(NAME, "boot-1", 2)
        await house.until(lambda: house.acks)
        assert house.acks == [4], "with 2 committed, all that telemetry stored is durable"


async def test_a_commit_of_the_first_of_two_acknowledges_only_so_far() -> None:
    async with opened() as house:
        line = await house.up()
        line.say(started(1))
        await house.until(lambda: len(house.heard(AgentSaid)) == 1)
        line.say(log(2), started(3))
        await house.until(lambda: len(house.heard(AgentSaid)) == 2)
        house.links.acknowledge(NAME, "boot-1", 1)
        await house.until(lambda: house.acks)
        house.links.acknowledge(NAME, "boot-1", 3)
        await house.until(lambda: len(house.acks) == 2)
        assert house.acks == [1, 3]


async def test_telemetry_alone_is_acknowledged_when_it_is_written() -> None:
    async with opened() as house:
        line = await house.up()
        for kind in (
            log(1),
            metrics(2),
            {"t": "console", "id": 3, "run_id": "r", "stream": "stdout", "content": "x"},
            {"t": "file", "id": 4, "task": "t", "attempt": 1, "path": "x", "offset": 0},
        ):
            line.say(kind)
        await house.until(lambda: 4 in house.acks)
        assert [what for what, _ in house.stored] == ["log", "metrics", "console", "file"]
        assert not house.heard(AgentSaid)


@virtual
async def test_a_full_disk_holds_everything_back_and_loses_nothing() -> None:
    async with opened() as house:
        line = await house.up()
        house.disk_full = True
        line.say(started(1), log(2), started(3), log(4))
        await anyio.sleep(STORE_AGAIN_S * 20)
        assert not house.acks
        assert not house.heard(AgentSaid), "what came after it must not overtake it"
        assert "No space left" in house.link.detail
        assert house.link.up
        house.disk_full = False
        await house.until(lambda: house.heard(AgentSaid))
        assert house.stored == [("log", 2), ("log", 4)]
        house.links.acknowledge(NAME, "boot-1", 3)
        await house.until(lambda: house.acks)
        assert house.acks == [4]


# --- saying ---------------------------------------------------------------------------------------


async def test_commands_go_out_in_order_and_are_lost_while_the_stream_is_down() -> None:
    async with opened() as house:
        stops = [Stop(epoch=1, task=str(i), attempt=1, grace_s=0) for i in range(300)]
        house.links.say(NAME, stops)
        line = await house.up()
        for stop in stops[1:]:
            house.links.say(NAME, [stop])
        await house.until(lambda: len(line.of("stop")) == 299)
        assert [stop["task"] for stop in line.of("stop")] == [str(i) for i in range(1, 300)]


@virtual
async def test_an_agent_that_takes_no_commands_gets_another_stream() -> None:
    async with opened() as house:
        line = await house.up()
        line.say(started(1))
        await house.until(lambda: house.heard(AgentSaid))
        house.links.acknowledge(NAME, "boot-1", 1)
        await house.until(lambda: house.acks)
        line.goes_out = anyio.Event()
        stop = Stop(epoch=1, task="t", attempt=1, grace_s=0)
        house.links.say(NAME, [stop])
        await anyio.wait_all_tasks_blocked()
        house.links.say(NAME, [stop] * OUTBOX_MAX)
        assert len(house.lines) == 1
        house.links.say(NAME, [stop])
        await house.until(lambda: len(house.lines) == 2 and house.link.up)
        assert (house.lines[1].of("hello")[0]["boot"], house.lines[1].of("hello")[0]["acked"]) == (
            "boot-1",
            1,
        )
        assert not house.lines[1].of("stop")


# --- leases ---------------------------------------------------------------------------------------


@virtual
@pytest.mark.parametrize("lease_s", [300.0, 9.0])
async def test_leases_are_renewed_long_before_they_end(lease_s: float) -> None:
    async with opened() as house:
        line = await house.up(spec=SPEC.model_copy(update={"lease_s": lease_s}))
        await anyio.sleep(lease_s * 10)
        times = [at for at, message in zip(line.times, line.heard, strict=True) if message["t"] == "lease"]
        assert 2 * 10 <= len(times) <= LEASES_A_PERIOD * 10
        waits = [times[i + 1] - times[i] for i in range(len(times) - 1)]
        assert max(waits) < lease_s / 2
        assert {(one["lease_s"], one["epoch"]) for one in line.of("lease")} == {(lease_s, EPOCH)}


@virtual
async def test_a_lease_is_not_renewed_while_the_stream_is_down() -> None:
    async with opened() as house:
        line = await house.up()
        until = house.link.lease_until
        house.unreachable = True
        line.end()
        await anyio.sleep(1000)
        assert house.link.lease_until == until
        assert not line.of("lease")


@virtual
async def test_a_hold_gives_every_machine_of_the_pool_longer_at_once() -> None:
    async with opened() as house:
        line = await house.up()
        house.links.hold(POOL, anyio.current_time() + 8 * 3600)
        await house.until(lambda: line.of("lease"))
        assert 8 * 3600 - 1 < line.of("lease")[0]["lease_s"] <= 8 * 3600
        assert list(house.links.holds(anyio.current_time())) == [POOL]
        await anyio.sleep(8 * 3600 + 301)
        assert not house.links.holds(anyio.current_time())
        assert line.of("lease")[-1]["lease_s"] == 300


@virtual
async def test_a_newer_epoch_is_told_at_once() -> None:
    async with opened() as house:
        line = await house.up()
        house.links.lead(EPOCH + 1)
        await house.until(lambda: line.of("lease"))
        assert line.of("lease")[0]["epoch"] == EPOCH + 1


async def test_a_machine_of_a_provider_that_left_the_config_is_reported() -> None:
    async with opened() as house:
        wish = Connect(
            instance_id=NAME,
            handle=Handle(provider="gone", ref="m"),
            address=Address(host="h"),
            cluster=cluster_handle(),
            spec=SPEC,
            boot=None,
            acked=0,
        )
        house.links.connect(POOL, wish)
        await house.until(lambda: house.heard(LinkDown))
        assert "gone" in house.heard(LinkDown)[0].detail
