"""The stream between a daemon and a simulated agent: the bytes of real lines, which can stall and be cut.

The daemon's end is the `StreamChannel` that real machines have; here is the wire under it.
"""

from collections.abc import Callable

import anyio
from anyio.abc import ByteStream
from pydantic_core import to_json

from providers.agent.attach import StreamChannel
from providers.contract import Wire


def path_of(version: str) -> str:
    """Where an agent of some version is on a simulated machine."""
    return f"/agent-{version}.py"


class SimulatedWire(ByteStream):
    """A byte stream in memory.

    Args:
        said: called with every line of the daemon.
        closed: called once, when the stream is over.
    """

    def __init__(self, said: Callable[[bytes], None], closed: Callable[[], None]) -> None:
        self._said = said
        self._closed = closed
        self._arrived: list[bytes] = []  # for the daemon
        self._down: list[bytes] = []  # on the wire while it is stalled
        self._up: list[bytes] = []
        self._stalled = False
        self._changed = anyio.Event()
        self.over = False

    # --- the daemon's end -------------------------------------------------------------------------

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Wait for bytes. Raises EndOfStream when there will be no more."""
        while not self._arrived:
            if self.over:
                raise anyio.EndOfStream
            self._changed = anyio.Event()
            await self._changed.wait()
        data = b"".join(self._arrived)
        self._arrived = [data[max_bytes:]] if len(data) > max_bytes else []
        return data[:max_bytes]

    async def send(self, item: bytes) -> None:
        """Hand bytes over. Raises BrokenResourceError when the stream is over."""
        if self.over:
            raise anyio.BrokenResourceError
        if self._stalled:
            self._up.append(item)
        else:
            self._said(item)

    async def send_eof(self) -> None:
        """Nothing hangs on it here."""

    async def aclose(self) -> None:
        """Hang up."""
        self.end()

    # --- the agent's end, and the weather ---------------------------------------------------------

    def deliver(self, line: bytes) -> None:
        """The agent says something."""
        if self.over:
            return
        if self._stalled:
            self._down.append(line)
            return
        self._arrived.append(line)
        self._changed.set()

    def stall(self) -> None:
        """From now on nothing arrives, at either end."""
        self._stalled = True

    def release(self) -> None:
        """What was on the wire arrives, and what follows too."""
        if self.over or not self._stalled:
            return
        self._stalled = False
        up, self._up = self._up, []
        self._arrived += self._down
        self._down.clear()
        self._changed.set()
        for line in up:
            self._said(line)

    def tear(self, draw: float) -> None:
        """The stream breaks: of what is on the wire a part arrives, in each direction, the last line cut.

        `draw` from [0, 1) says which part.
        """
        if self.over:
            return
        down, up = b"".join(self._down), b"".join(self._up)
        if down:
            self._arrived.append(down[: int(draw * len(down))])
        heard = up[: int(draw * len(up))]
        for line in heard[: heard.rfind(b"\n") + 1].splitlines(keepends=True):
            self._said(line)  # half a line is nothing to the agent
        self._end()

    def end(self) -> None:
        """The stream is over: what was not read is lost, and both sides notice."""
        if self.over:
            return
        self._arrived.clear()
        self._end()

    def _end(self) -> None:
        self.over = True
        self._down.clear()
        self._up.clear()
        self._changed.set()
        self._closed()


class SimulatedChannel(StreamChannel):
    """An `AgentChannel` to a simulated machine, also `Upgradable`.

    Args:
        wire: what is under it.
        version: of the agent that the daemon carries.
    """

    def __init__(self, wire: SimulatedWire, version: str) -> None:
        super().__init__(wire, ours=version, path=path_of(version))
        self.wire = wire

    def deliver(self, messages: list[Wire]) -> None:
        """The agent's side: let the daemon hear messages."""
        self.wire.deliver(to_json(messages) + b"\n")

    def close(self) -> None:
        """End the conversation."""
        self.wire.end()
