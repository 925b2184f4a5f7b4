"""JSON lines both ways, over a stream in memory and over a real machine."""

import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import ByteStream

from providers.agent.attach import LINE_BYTES_MAX, StreamChannel, Upgradable, attach_over
from providers.contract import Wire
from providers.errors import Fault, HostError
from providers.host.base import Ran
from providers.host.ssh import connect
from tests.contract.fake_agent import AGENT, AGENT_SHA
from tests.providers.host.conftest import There

pytestmark = pytest.mark.anyio


class Tape(ByteStream):
    """Plays what was recorded, then ends; keeps what was sent."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = deque(chunks)
        self.sent: list[bytes] = []

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self.chunks:
            raise anyio.EndOfStream
        return self.chunks.popleft()

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()
        self.sent.append(item)

    async def send_eof(self) -> None:
        raise AssertionError("nobody ends the conversation so")

    async def aclose(self) -> None:
        self.chunks.clear()


class Shelf:
    """A host that keeps files and plays a tape for every command."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.files: dict[str, bytes] = {}
        self.opened: list[Sequence[str]] = []

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30) -> Ran:
        assert argv[:2] == ("test", "-f")
        return Ran(exit_code=0 if argv[2] in self.files else 1, stdout=b"", stderr=b"")

    @asynccontextmanager
    async def open(self, argv: Sequence[str]) -> AsyncIterator[ByteStream]:
        self.opened.append(argv)
        yield self.tape

    async def put(self, path: str, data: bytes, *, mode: int = 0o644) -> None:
        assert path not in self.files
        self.files[path] = data


def channel_of(*chunks: bytes) -> StreamChannel:
    return StreamChannel(Tape(*chunks), ours="0" * 16, path="/d/agent-0.py")


async def all_of(channel: StreamChannel) -> list[Sequence[Wire]]:
    batches = []
    try:
        while True:
            batches.append(await channel.receive())
    except HostError:
        return batches


async def test_every_complete_line_at_hand_is_one_batch() -> None:
    channel = channel_of(
        b'[{"t":"a"},{"t":"b"}]\n[{"t":"c"}]\n[{"t"', b':"d"}]', b"\n", b"[]\n\n", b'[{"t":"e"}]\n'
    )
    assert await all_of(channel) == [
        [{"t": "a"}, {"t": "b"}, {"t": "c"}],
        [{"t": "d"}],
        [{"t": "e"}],
    ]


async def test_any_cut_of_the_bytes_gives_the_same_messages() -> None:
    text = b"".join(json.dumps([{"t": "x", "n": n, "s": "\u00e9\n" * n}]).encode() + b"\n" for n in range(5))
    for size in range(1, len(text)):
        chunks = [text[start : start + size] for start in range(0, len(text), size)]
        heard = [message for batch in await all_of(channel_of(*chunks)) for message in batch]
        assert [message["n"] for message in heard] == [0, 1, 2, 3, 4]


async def test_a_cut_within_a_line_is_an_error_and_the_line_is_not_heard() -> None:
    channel = channel_of(b'[{"t":"a"}]\n[{"t":"b"}]')
    assert await channel.receive() == [{"t": "a"}]
    with pytest.raises(HostError, match="within a line"):
        await channel.receive()


@pytest.mark.parametrize(
    "line", [b"Welcome!\n", b'{"t":"a"}\n', b"[1]\n", b"\xff\xfe[]\n", b"[" * 100_000 + b"\n"]
)
async def test_what_is_no_protocol_is_rejected(line: bytes) -> None:
    with pytest.raises(HostError) as caught:
        await channel_of(line).receive()
    assert caught.value.fault is Fault.REJECTED


async def test_a_line_without_end_is_bounded() -> None:
    endless = [b"x" * 2**20] * (LINE_BYTES_MAX // 2**20 + 1)
    with pytest.raises(HostError) as caught:
        await channel_of(*endless).receive()
    assert caught.value.fault is Fault.REJECTED


async def test_each_sending_is_one_whole_line() -> None:
    tape = Tape()
    channel = StreamChannel(tape, ours="0" * 16, path="/d/agent-0.py")
    async with anyio.create_task_group() as tasks:
        for n in range(10):
            tasks.start_soon(channel.send, [{"t": "x", "n": n}, {"t": "y", "n": n}])
    await channel.send([])
    assert [json.loads(line) for line in tape.sent] == [
        [{"t": "x", "n": n}, {"t": "y", "n": n}] for n in range(10)
    ]
    assert all(line.count(b"\n") == 1 for line in tape.sent)


async def test_the_agent_is_put_there_once_and_an_older_one_is_told_to_upgrade() -> None:
    shelf = Shelf(Tape(b'[{"t":"hello","agent":"0123456789abcdef"}]\n'))
    async with attach_over(
        shelf, directory="/d", agent_source=AGENT, options=("--notice-file", "/n")
    ) as channel:
        path = f"/d/agent-{AGENT_SHA}.py"
        assert shelf.files == {path: AGENT}
        assert shelf.opened == [("python3", path, "attach", "--dir", "/d", "--notice-file", "/n")]
        assert isinstance(channel, Upgradable)
        await channel.receive()
        assert [channel.ours, channel.theirs] == [AGENT_SHA, "0123456789abcdef"]
        await channel.upgrade(7)
    assert [json.loads(line) for line in shelf.tape.sent] == [[{"t": "upgrade", "epoch": 7, "path": path}]]
    async with attach_over(shelf, directory="/d", agent_source=AGENT):
        assert len(shelf.files) == 1


@pytest.mark.real
async def test_a_conversation_with_a_real_process(there: There) -> None:
    directory = str(there.directory / "agent")
    big = "x" * 3_000_000
    async with connect(there.machine) as host:
        async with attach_over(host, directory=directory, agent_source=AGENT) as channel:
            await channel.send([{"t": "hello", "epoch": 1}])
            [hello] = await channel.receive()
            assert hello["agent"] == AGENT_SHA
            await channel.send([{"t": "a", "data": big}])
            [answer] = await channel.receive()
            assert answer["got"] == {"t": "a", "data": big}
            await channel.send([{"no": "type"}])
            with pytest.raises(HostError, match="KeyError"):
                await channel.receive()
