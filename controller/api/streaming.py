"""Answers that go on until there is no more, the client leaves, or the daemon stops."""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from controller.api.answers import Problem
from controller.principal import Principal

KEEP_ALIVE_S = 15.0
FOLLOWERS_MAX = 1_000  # answers that go on at once: of all tokens, and as many on the unix socket
SHARE_MAX = 200  # of one token
PRINCIPAL = "everpool.principal"  # in the scope of a request of somebody who is known
STREAMED = "everpool.streamed"  # in the scope of such an answer


class Closing:
    """Tells answers that go on that the server stops, and counts them."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._followers = Counter[str]()  # by principal; of the unix socket all as one

    @contextmanager
    def followed_by(self, who: Principal) -> Iterator[None]:
        """Count an answer that goes on while it does.

        One token takes no more than its share, and all together nothing of the unix socket's.

        Raises:
            Problem: 429, there are too many.
        """
        unix = who.name.partition(":")[0] == "unix"
        name = "unix" if unix else who.name
        count = self._followers[name]
        if not unix and count >= SHARE_MAX:
            raise Problem(429, f"{who.name} follows {SHARE_MAX} things already", retry_after_s=10)
        if (count if unix else self._followers.total() - self._followers["unix"]) >= FOLLOWERS_MAX:
            raise Problem(429, f"{FOLLOWERS_MAX} follow already", retry_after_s=10)
        self._followers[name] += 1
        try:
            yield
        finally:
            self._followers[name] -= 1
            if not self._followers[name]:
                del self._followers[name]

    def set(self) -> None:
        """The server stops."""
        self._event.set()

    async def wait(self) -> None:
        """Return when the server stops."""
        await self._event.wait()

    async def or_done(self, doing: Awaitable[object]) -> None:
        """Wait for something, but not longer than the server lives."""

        async def watch() -> None:
            await self.wait()
            group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await doing
            group.cancel_scope.cancel()


class Stream(Response):
    """Sends what a generator gives, as it comes; `idle` is sent when nothing came for a while.

    The generator lives and ends in the task that sends, so it may hold whatever it wants.
    """

    def __init__(
        self,
        parts: Callable[[], AsyncGenerator[bytes, None]],
        media_type: str,
        closing: Closing,
        *,
        idle: bytes = b"\n",
        first: bytes = b"",
    ) -> None:
        super().__init__(
            media_type=media_type, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        )
        del self.headers["content-length"]
        self._parts = parts
        self._closing = closing
        self._idle = idle
        self._first = first
        self._sent_at = 0.0
        self._gone = False
        self._lock = anyio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer. Raises Problem: too many follow."""
        with self._closing.followed_by(scope[PRINCIPAL]):
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[STREAMED] = True
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await self._write(send, self._first)
        async with anyio.create_task_group() as group:

            async def end_with(waited_for: Callable[[], Awaitable[object]]) -> None:
                await waited_for()
                group.cancel_scope.cancel()

            group.start_soon(end_with, lambda: self._left(receive))
            group.start_soon(end_with, self._closing.wait)
            group.start_soon(self._keep_alive, send)
            async with aclosing(self._parts()) as parts:
                async for part in parts:
                    await self._write(send, part)
            group.cancel_scope.cancel()
        if not self._gone:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write(self, send: Send, part: bytes) -> None:
        async with self._lock:
            await send({"type": "http.response.body", "body": part, "more_body": True})
            self._sent_at = time.monotonic()

    async def _keep_alive(self, send: Send) -> None:
        while True:
            left = self._sent_at + KEEP_ALIVE_S - time.monotonic()
            if left > 0:
                await anyio.sleep(left)
            else:
                await self._write(send, self._idle)

    async def _left(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = True
