"""A follower that stops reading: it costs little, others go on, and it resumes without a gap."""

import json
import socket
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from actors.events import TaskRequested
from actors.spec import TaskSpec
from controller.api import connections
from controller.client import AsyncClient
from tests.controller.api.desk import SmallDesk
from tests.controller.journal.samples import until

pytestmark = pytest.mark.anyio
LETTERS = 20_000


def large(number: int) -> TaskRequested:
    spec = TaskSpec(argv=("echo", "x" * LETTERS))
    return TaskRequested(request_id=f"large-{number}", pool="main", task=spec)


async def test_a_stuck_reader_is_cut_off_and_resumes(
    desk: SmallDesk, path: Path, everpool: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "UNTAKEN_WITHIN_S", 0.5)
    desk.followers.buffered_max = 50
    seen: list[int] = []
    with socket.socket(socket.AF_UNIX) as stuck:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect(str(path))
        stuck.sendall(b"GET /v1/events?follow=true HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: desk.followers.count == 1)
        async with anyio.create_task_group() as group:

            async def follow() -> None:
                async with aclosing(everpool.follow(0)) as events:
                    async for envelope in events:
                        seen.append(envelope.seq)
                        if envelope.event.kind == "task_queued" and envelope.request_id == "large-499":
                            return

            group.start_soon(follow)
            await until(lambda: desk.followers.count == 2)
            for start in range(0, 500, 20):
                await desk.submit([large(number) for number in range(start, start + 20)], "me")
                held = [live.buffered_bytes for live in desk.followers._live]
                assert sum(held) <= 2 * 50 * (LETTERS + 1000), "no more is kept than was said"
        everything = [one.seq for one in await everpool.events(limit=10_000)]
        assert seen == everything[: len(seen)] and len(seen) >= 1000
        await until(lambda: desk.followers.count == 0)  # it was cut off, though it never read
        stuck.settimeout(5)
        got = await anyio.to_thread.run_sync(_rest, stuck)
    whole = [
        json.loads(line)["seq"] for line in got.split(b"\n") if line.startswith(b'{"seq"') and _is_whole(line)
    ]
    assert whole == everything[: len(whole)] and len(whole) < len(everything)
    resumed = [one.seq for one in await everpool.events(whole[-1] if whole else 0, limit=10_000)]
    assert whole + resumed == everything


def _rest(stuck: socket.socket) -> bytes:
    got = b""
    try:
        while part := stuck.recv(65_536):
            got += part
    except ConnectionResetError:
        pass
    return got


def _is_whole(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
