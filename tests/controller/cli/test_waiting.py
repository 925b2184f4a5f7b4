"""Waiting for the end of a request whose older events are forgotten meanwhile."""

from collections.abc import AsyncGenerator, Sequence

import pytest

from actors.events import Envelope, PoolReady
from controller.cli.waiting import wait_for_end
from controller.client import AsyncClient, EventsPruned, Operation


class Forgetful(AsyncClient):
    """Knows the events behind a seq only, and whether the request has ended."""

    def __init__(self, *, kept_behind: int, status: str, seqs: Sequence[int]) -> None:
        super().__init__("/nowhere")
        self.kept_behind, self.status, self.seqs = kept_behind, status, seqs

    async def follow(
        self,
        after: int = 0,
        *,
        pool: str | None = None,
        kinds: Sequence[str] = (),
        task: str | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Envelope, None]:
        if after < self.kept_behind:
            error = EventsPruned(410, "forgotten")
            error.cursor = self.kept_behind
            raise error
        for seq in self.seqs:
            ends = ("r-1",) if seq == self.seqs[-1] else ()
            yield Envelope(seq=seq, at=0, pool="web", event=PoolReady(pool="web", nodes=1), ends=ends)

    async def operation(self, request_id: str, *, wait_s: float = 0) -> Operation:
        return Operation.model_validate(
            {"request_id": request_id, "kind": "pool_requested", "pool": "web", "status": self.status}
        )


async def waited(client: AsyncClient, heard: list[Envelope]) -> Envelope | None:
    async with client:
        return await wait_for_end(client, "r-1", "web", 3, 60, heard.append)


@pytest.mark.anyio
async def test_it_goes_on_where_events_are_kept() -> None:
    heard: list[Envelope] = []
    ended = await waited(Forgetful(kept_behind=7, status="running", seqs=(8, 9)), heard)
    assert ended is not None and ended.seq == 9
    assert [one.seq for one in heard] == [8, 9]


@pytest.mark.anyio
async def test_an_end_that_may_be_forgotten_is_not_waited_for() -> None:
    with pytest.raises(EventsPruned):
        await waited(Forgetful(kept_behind=7, status="success", seqs=(8, 9)), [])
