"""Following events: without a gap, without a double, whatever the follower does."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import anyio
import httpx2 as httpx
import pytest

from actors.events import TaskStopRequested
from actors.ports import Accepted
from controller.client import AsyncClient, EventsPruned
from controller.followers import PAGE, Followers, OneOrMore, Wanted
from controller.journal.reader import StoredRequest
from tests.controller.api.conftest import task
from tests.controller.api.desk import SmallDesk
from tests.controller.journal.samples import until

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("anyio_backend", ["asyncio", "uvloop"], indirect=True),
]


async def commit_many(desk: SmallDesk, count: int, prefix: str = "t") -> None:
    """Tasks that come, and some that go, a few at a time."""
    for start in range(0, count, 10):
        await desk.submit([task(f"{prefix}{i}") for i in range(start, min(start + 10, count))], "me")
        stop = TaskStopRequested(request_id=f"{prefix}-stop-{start}", pool="main", task_id=f"{prefix}{start}")
        await desk.submit([stop], "me")


async def all_seqs(desk: SmallDesk) -> list[int]:
    """What the journal has, once nothing happens any more."""
    seqs: list[int] = []
    while rows := await desk.journal.events(seqs[-1] if seqs else 0, 10_000):
        seqs += [seq for seq, _ in rows]
    return seqs


async def settled(desk: SmallDesk) -> int:
    """The last seq, when the loop has nothing to do any more."""
    last = -1
    while last != desk.journal.last_seq or any(loop.waiting for loop in desk.loops.values()):
        last = desk.journal.last_seq
        await anyio.sleep(0.1)
    return last


async def lines(response: httpx.Response) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in response.aiter_raw():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line


async def test_pages(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    await commit_many(desk, 20)
    await settled(desk)
    after, seqs = 0, list[int]()
    while True:
        response = await http.get("/v1/events", params={"after": after, "limit": 7})
        found = [json.loads(line)["seq"] for line in response.text.splitlines()]
        if not found:
            break
        seqs += found
        after = int(response.headers["X-Everpool-Cursor"])
    assert seqs == await all_seqs(desk)


async def test_filters(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    await commit_many(desk, 5)
    await settled(desk)

    async def kinds(**params: str) -> list[str]:
        response = await http.get("/v1/events", params=params)
        return [json.loads(line)["event"]["kind"] for line in response.text.splitlines()]

    assert set(await kinds(kind="task_queued")) == {"task_queued"}
    assert await kinds(task="t1") == ["task_requested", "task_queued"]
    assert await kinds(task="t0") == ["task_requested", "task_queued", "task_completed"]
    assert await kinds(request_id="t-stop-0") == ["task_stop_requested", "task_completed"]
    assert await kinds(pool="other") == []
    wrong = await http.get("/v1/events", params={"kind": "task_queue"})
    assert wrong.status_code == 422 and "task_queued" in wrong.json()["error"]
    assert (await http.get("/v1/events", params={"after": -1})).status_code == 422


async def test_followers_miss_nothing_while_commits_go_on(desk: SmallDesk, everpool: AsyncClient) -> None:
    """Several begin at different moments, in the middle of commits; each has all, in order."""
    seen: dict[int, list[int]] = {}
    last = 0

    async def follow(which: int) -> None:
        seen[which] = []
        async with aclosing(everpool.follow(0, pool="main" if which % 2 else None)) as events:
            async for envelope in events:
                seen[which].append(envelope.seq)
                if last and envelope.seq >= last:
                    return

    async with anyio.create_task_group() as group:
        for which in range(4):
            group.start_soon(follow, which)
            await commit_many(desk, 300, f"x{which}-")
        await settled(desk)
        last = 1
        await desk.submit([task("the-end")], "me")
    everything = await all_seqs(desk)
    for seqs in seen.values():
        assert seqs == everything[: len(seqs)] and len(everything) - len(seqs) <= 2
    assert desk.followers.count == 0


async def test_slow_follower_falls_back_and_misses_nothing(desk: SmallDesk) -> None:
    followers = Followers(desk.journal, buffered_max=100)
    fast: list[int] = []
    slow: list[int] = []

    async def run_fast() -> None:
        async with aclosing(followers.follow(0, Wanted())) as pages:
            async for page in pages:
                fast.extend(seq for seq, _ in page.rows)
                if any(b'"the-end"' in body for _, body in page.rows):
                    return

    async with anyio.create_task_group() as group:
        async with aclosing(followers.follow(0, Wanted())) as pages:
            first = await anext(pages)  # one page, so that it is up to date; then it looks no more
            slow.extend(seq for seq, _ in first.rows)
            waiting = anyio.Event()

            async def one_live() -> None:
                page = await anext(pages)
                slow.extend(seq for seq, _ in page.rows)
                waiting.set()

            group.start_soon(one_live)
            await anyio.wait_all_tasks_blocked()
            await desk.submit([task("live")], "me")
            followers.wake()
            await waiting.wait()
            group.start_soon(run_fast)
            for round in range(20):
                await commit_many(desk, 30, f"r{round}-")
                followers.wake()
                await anyio.sleep(0.03)
            await desk.submit([task("the-end")], "me")
            while not any(fast) or followers.count > 1:
                followers.wake()
                await anyio.sleep(0.01)
            assert followers.lagged >= 1
            everything = await all_seqs(desk)
            while slow[-1] < everything[-1]:
                page = await anext(pages)
                slow.extend(seq for seq, _ in page.rows)
    assert slow == everything
    assert fast == everything[: len(fast)]
    assert len(everything) > PAGE


async def test_sse_resumes_after_its_last_id(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    await commit_many(desk, 30)
    last = await settled(desk)
    everything = await all_seqs(desk)

    async def read(until: int, **headers: str) -> list[int]:
        ids: list[int] = []
        sent = {"Accept": "text/event-stream"} | {k.replace("_", "-"): v for k, v in headers.items()}
        async with http.stream("GET", "/v1/events", params={"follow": "true"}, headers=sent) as response:
            assert response.headers["Content-Type"].startswith("text/event-stream")
            async for line in lines(response):
                if line.startswith(b"id: "):
                    ids.append(int(line[4:]))
                if line.startswith(b"data: "):
                    assert json.loads(line[6:])["seq"] == ids[-1]
                    if len(ids) >= until:
                        return ids
        return ids

    first = await read(11)
    second = await read(len(everything) - 11, Last_Event_ID=str(first[-1]))
    assert first + second == everything
    assert second[-1] == last


async def test_limit_ends_a_follower(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    await commit_many(desk, 10)
    response = await http.get("/v1/events", params={"follow": "true", "limit": 3})
    assert len([line for line in response.text.splitlines() if line]) == 3


async def test_leaving_clients_are_noticed(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    async with http.stream("GET", "/v1/events", params={"follow": "true"}) as response:
        await anext(response.aiter_raw())
        assert desk.followers.count == 1
    await until(lambda: desk.followers.count == 0)


@pytest.mark.parametrize("follow", ["true", "false"])
async def test_a_cursor_ahead_of_the_journal_is_told(
    http: httpx.AsyncClient, everpool: AsyncClient, desk: SmallDesk, follow: str
) -> None:
    """A backup was restored: who waits for a seq that lies ahead would miss all until then."""
    last = await settled(desk)
    response = await http.get("/v1/events", params={"after": last + 1, "follow": follow})
    assert (response.status_code, response.headers["X-Everpool-Cursor"]) == (410, str(last))
    assert f"the newest is {last}" in response.json()["error"]
    with pytest.raises(EventsPruned) as ahead:
        async with aclosing(everpool.follow(10**6)) as events:
            await anext(events)
    assert ahead.value.cursor == last
    resumed = await http.get("/v1/events", headers={"Last-Event-ID": str(10**6)})
    assert resumed.status_code == 410


async def test_who_has_all_is_not_ahead(http: httpx.AsyncClient, desk: SmallDesk) -> None:
    """Also right behind a Request that was answered, and where seqs were reserved and not used."""
    for number in range(20):
        [taken] = await desk.submit([task(f"x{number}")], "me")
        assert isinstance(taken, Accepted)
        desk.journal.reserve(3)
        behind = await http.get("/v1/events", params={"after": taken.envelope.seq})
        assert behind.status_code == 200
        newest = behind.headers["X-Everpool-Cursor"]
        assert (await http.get("/v1/events", params={"after": newest})).status_code == 200


class EndsMeanwhile:
    """A journal in which a request ends right behind the first read of a page."""

    last_seq = 1
    pruned_seq = 0
    reads = 0

    def _there(self) -> int:
        self.reads += 1
        return 1 if self.reads == 1 else 3

    async def events(
        self,
        after: int,
        limit: int,
        pool: OneOrMore | None = None,
        kinds: Sequence[str] | None = None,
        request_id: OneOrMore | None = None,
        within: Sequence[str] = (),
    ) -> list[tuple[int, bytes]]:
        del pool, kinds, request_id, within
        seqs = range(after + 1, self._there() + 1)
        return [(seq, b'{"seq": %d, "pool": "a", "request_id": "t"}' % seq) for seq in seqs][:limit]

    async def request(self, request_id: str) -> StoredRequest | None:
        over = self._there() == 3
        return StoredRequest(
            request_id, 1, "a", "task_requested", "ended" if over else "taken", 3 if over else None, 0.0, None
        )


async def test_an_end_that_comes_while_a_page_is_read_leaves_no_gap() -> None:
    page = await Followers(EndsMeanwhile()).page(0, 10, Wanted(request_id="t"))
    assert [seq for seq, _ in page.rows] == [1, 2, 3]
