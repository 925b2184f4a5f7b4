"""A small HTTP client on a unix socket, cheap enough not to be what is measured."""

import json
import selectors
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TIMEOUT_S = 60.0


class Refused(Exception):
    """The daemon answered with an error."""


class Connection:
    """One keep-alive connection."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT_S)
        self.socket.connect(str(path))
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()

    def get(self, path: str) -> Any:
        """Read a resource. Raises Refused."""
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: everpool\r\n\r\n".encode())
        return self._answer()

    def post(self, message: object) -> Any:
        """Send one message, or a list of them. Raises Refused when one of them is."""
        self.socket.sendall(posting(message))
        return self._answer()

    def feed(self) -> bytes | None:
        """Take in what has arrived; the answer's head and body once it is whole."""
        part = self.socket.recv(1 << 18)
        if not part:
            raise Refused("the daemon closed the connection")
        self._buffer += part
        return self._whole()

    def _whole(self) -> bytes | None:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = self._buffer[:end].lower()
        at = head.index(b"content-length:") + 15
        length = int(head[at:].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + length:
            return None
        whole, self._buffer = self._buffer[: end + 4 + length], self._buffer[end + 4 + length :]
        return whole

    def _answer(self) -> Any:
        whole = self._whole()
        while whole is None:
            whole = self.feed()
        return body_of(whole)


def posting(message: object) -> bytes:
    """The bytes of one POST /v1/messages."""
    body = json.dumps(message, separators=(",", ":")).encode()
    head = (
        "POST /v1/messages HTTP/1.1\r\nHost: everpool\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def body_of(whole: bytes) -> Any:
    """What an answer says. Raises Refused."""
    head, _, body = whole.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 2"):
        raise Refused(f"{head.splitlines()[0].decode()}: {body[:500].decode(errors='replace')}")
    said = json.loads(body)
    for answer in said if isinstance(said, list) else ():
        if isinstance(answer, dict) and answer.get("code", 202) != 202:
            raise Refused(str(answer))
    return said


def push(path: Path, requests: Sequence[bytes], connections: int) -> float:
    """Send requests over so many connections, each waiting for its answer; seconds it took.

    Raises:
        Refused: one of them was.
    """
    waiting = list(reversed(requests))
    answers: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        opened = [Connection(path) for _ in range(connections)]
        began = time.perf_counter()
        for connection in opened:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            if waiting:
                connection.socket.sendall(waiting.pop())
        while len(answers) < len(requests):
            for key, _ in selector.select(TIMEOUT_S):
                whole = key.data.feed()
                if whole is None:
                    continue
                answers.append(whole)
                if waiting:
                    key.data.socket.sendall(waiting.pop())
        seconds = time.perf_counter() - began
        for connection in opened:
            connection.socket.close()
    for answer in answers:
        body_of(answer)
    return seconds
