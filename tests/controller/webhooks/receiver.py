"""Somebody else's server that takes webhooks: real HTTP, and as bad as a test wants it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import SocketStream
from pydantic_core import from_json

SECRET = "a-secret-of-the-receiver"


@dataclass(slots=True)
class Got:
    """One POST."""

    headers: dict[str, str]
    body: bytes

    @property
    def envelope(self) -> Any:
        """What was sent."""
        return from_json(self.body)


@dataclass(slots=True)
class Receiver:
    """What it got, and what it answers next: head and body as bytes, None to hang up, seconds to be slow."""

    port: int = 0
    got: list[Got] = field(default_factory=list)
    answers: list[bytes | float | None] = field(default_factory=list)
    heard: Callable[[Got], None] = lambda got: None

    @property
    def url(self) -> str:
        """Where it is, with something that must not be shown."""
        return f"http://127.0.0.1:{self.port}/in?key=hidden"

    @property
    def kinds(self) -> list[str]:
        """Of what came, in order."""
        return [one.envelope["event"]["kind"] for one in self.got]

    async def serve(self, stream: SocketStream) -> None:
        """Answer one connection."""
        async with stream:
            buffer = b""
            while True:
                while b"\r\n\r\n" not in buffer:
                    try:
                        buffer += await stream.receive()
                    except (anyio.EndOfStream, anyio.BrokenResourceError):
                        return
                head, _, buffer = buffer.partition(b"\r\n\r\n")
                lines = head.decode().split("\r\n")
                headers = {
                    name.lower(): value for name, _, value in (one.partition(": ") for one in lines[1:])
                }
                while len(buffer) < int(headers["content-length"]):
                    buffer += await stream.receive()
                body, buffer = (
                    buffer[: int(headers["content-length"])],
                    buffer[int(headers["content-length"]) :],
                )
                got = Got(headers, body)
                self.got.append(got)
                self.heard(got)
                answer = self.answers.pop(0) if self.answers else b""
                if answer is None:
                    return
                if isinstance(answer, float):
                    await anyio.sleep(answer)
                    return
                await stream.send(answer or b"HTTP/1.1 204 No Content\r\n\r\n")


def said(status: int, body: bytes = b"", *more: str) -> bytes:
    """An answer."""
    lines = [f"HTTP/1.1 {status} So", f"Content-Length: {len(body)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """One that listens on loopback."""
    receiver = Receiver()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    receiver.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, receiver.serve)
        yield receiver
        tasks.cancel_scope.cancel()
