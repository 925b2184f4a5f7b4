"""The conversation with an agent over any `Host`: JSON lines both ways, every line an array.

The agent's program is one file, put beside its spool under the name of its own hash. A machine that
runs an older agent keeps it until it is told to `upgrade`: the newer file is there by then, and its
`attach` speaks for the old agent too, since it only passes bytes on.
"""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, runtime_checkable

import anyio
from anyio.abc import ByteStream
from pydantic_core import from_json, to_json

from providers.agent.wire import Upgrade
from providers.contract import AgentChannel, Wire
from providers.errors import Fault, HostError
from providers.host.base import Host

LINE_BYTES_MAX = 8 * 2**20
READ_BYTES = 256 * 1024
SHA_CHARS = 16


@runtime_checkable
class Upgradable(Protocol):
    """A channel whose agent can be older than the program we have.

    Attributes:
        ours: hash of our agent, as an agent gives its own in `hello.agent`.
        theirs: hash of the agent at the other end, None until its hello was received.
    """

    ours: str
    theirs: str | None

    async def upgrade(self, epoch: int) -> None:
        """Tell the agent to become our version, keeping tasks and spool; the channel may end by it."""
        ...


def agent_sha(source: bytes) -> str:
    """The hash by which agents call themselves."""
    return hashlib.sha256(source).hexdigest()[:SHA_CHARS]


def agent_path(directory: str, source: bytes) -> str:
    """Where this version of the agent is on a machine whose agent lives in `directory`."""
    return f"{directory}/agent-{agent_sha(source)}.py"


async def put_agent(host: Host, *, directory: str, agent_source: bytes) -> str:
    """Put the agent's program onto the machine unless it is there; return its path. Starts nothing."""
    path = agent_path(directory, agent_source)
    # Files appear whole or not at all, and the name has the content's hash: being there is enough.
    if (await host.run(("test", "-f", path))).exit_code != 0:
        await host.put(path, agent_source)
    return path


@asynccontextmanager
async def attach_over(
    host: Host,
    *,
    directory: str,
    agent_source: bytes,
    python: str | Sequence[str] = "python3",
    options: Sequence[str] = (),
) -> AsyncGenerator[AgentChannel]:
    """Talk to the agent in `directory`, which is put there and started when it is not there yet.

    `options` go to the agent's `attach` command, for an agent that is started by it. The channel is
    a `StreamChannel`; leaving the context ends the conversation, never the agent.
    """
    path = await put_agent(host, directory=directory, agent_source=agent_source)
    interpreter = (python,) if isinstance(python, str) else tuple(python)
    async with host.open((*interpreter, path, "attach", "--dir", directory, *options)) as stream:
        yield StreamChannel(stream, ours=agent_sha(agent_source), path=path)


class StreamChannel:
    """An `AgentChannel` on a byte stream."""

    def __init__(self, stream: ByteStream, *, ours: str, path: str) -> None:
        self.ours = ours
        self.theirs: str | None = None
        self.path = path
        self._stream = stream
        self._sending = anyio.Lock()  # a line of one sender must not be cut by another's
        self._pieces: list[bytes] = []  # of the line that is not complete yet
        self._held = 0  # bytes in them

    async def send(self, messages: Sequence[Wire]) -> None:
        """Hand over messages, as one line. Raises HostError when the channel is over."""
        if not messages:
            return
        line = to_json(messages) + b"\n"
        try:
            async with self._sending:
                await self._stream.send(line)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            raise HostError(Fault.UNKNOWN, "the agent's stream is closed") from error

    async def receive(self) -> Sequence[Wire]:
        """Wait for at least one message and return those of every complete line at hand.

        Raises:
            HostError: the stream ended, was cut within a line, or said what is no protocol.
        """
        messages: list[Wire] = []
        while not messages:
            for line in self._lines(await self._read()):
                messages += _parsed(line)
        if self.theirs is None:
            self._note_hello(messages)
        return messages

    async def upgrade(self, epoch: int) -> None:
        """Tell the agent to become our version, which was put there before this channel was opened."""
        await self.send([Upgrade(epoch=epoch, path=self.path).model_dump(mode="json")])

    async def _read(self) -> bytes:
        try:
            return await self._stream.receive(READ_BYTES)
        except anyio.EndOfStream as error:
            where = f" within a line of {self._held} bytes so far" if self._held else ""
            raise HostError(Fault.UNKNOWN, f"the agent's stream ended{where}") from error
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
            raise HostError(Fault.UNKNOWN, "the agent's stream is closed") from error

    def _lines(self, data: bytes) -> list[bytes]:
        """Every line that is complete with `data`; the rest is kept."""
        end = data.rfind(b"\n")
        if end < 0:
            self._keep(data)
            return []
        whole = b"".join((*self._pieces, data[:end])) if self._pieces else data[:end]
        self._pieces, self._held = [], 0
        self._keep(data[end + 1 :])
        return whole.split(b"\n")

    def _keep(self, data: bytes) -> None:
        if not data:
            return
        self._pieces.append(data)
        self._held += len(data)
        if self._held > LINE_BYTES_MAX:
            raise HostError(Fault.REJECTED, f"the agent sent a line of more than {LINE_BYTES_MAX} bytes")

    def _note_hello(self, messages: Sequence[Wire]) -> None:
        for message in messages:
            if message.get("t") == "hello":
                self.theirs = str(message.get("agent", ""))
                return


def _parsed(line: bytes) -> list[Wire]:
    if not line:
        return []
    try:
        messages = from_json(line)
    except ValueError as error:
        raise HostError(Fault.REJECTED, f"the agent said what is no JSON: {line[:80]!r}") from error
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise HostError(Fault.REJECTED, f"the agent said what is no list of messages: {line[:80]!r}")
    return messages
