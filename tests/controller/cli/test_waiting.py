"""Waiting for the end of a request whose older events are forgotten meanwhile."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from actors.events import ClusterDestroyed, Envelope, Event, PoolParked, PoolReady, PoolRolled, PoolUpdated
from controller.cli.addressing import Where
from controller.cli.codes import CliError
from controller.cli.command import Session
from controller.cli.rolls import roll_ended, rolls, wait_for_roll
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

    async def operation(self, request_id: str, *, wait_s: float = 0, after: int = 0) -> Operation:
        told = {"request_id": request_id, "kind": "pool_requested", "pool": "web", "seq": 1, "at": 0.0}
        return Operation.model_validate({**told, "status": self.status})


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


class Rolling(AsyncClient):
    """Tells events, and the pool as it is once events are forgotten."""

    def __init__(self, *events: Event, pruned: bool = False, **pool: object) -> None:
        super().__init__("/nowhere")
        self.happened, self.pruned, self.view = events, pruned, pool

    async def follow(
        self,
        after: int = 0,
        *,
        pool: str | None = None,
        kinds: Sequence[str] = (),
        task: str | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Envelope, None]:
        if self.pruned and after < 9:
            error = EventsPruned(410, "forgotten")
            error.cursor = 9
            raise error
        for seq, event in enumerate(self.happened, start=10):
            yield Envelope(seq=seq, at=0, pool="web", event=event)

    async def pool(self, name: str) -> Any:
        return self.view


ROLLED, PARKED = PoolRolled(pool="web", renewed=2), PoolParked(pool="web", reason="bad image")
GONE = ClusterDestroyed(cluster_id="web")


@pytest.mark.anyio
@pytest.mark.parametrize("end", [ROLLED, PARKED, GONE])
async def test_a_roll_is_waited_for_until_it_is_over(end: Event) -> None:
    others = (PoolReady(pool="web", nodes=1), ClusterDestroyed(cluster_id="web-local"))
    heard: list[Envelope] = []
    async with Rolling(*others, end, PoolReady(pool="web", nodes=1)) as client:
        assert await wait_for_roll(client, "web", 3, 60, heard.append) == end
    assert [one.seq for one in heard] == [10, 11, 12]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "outdated", "end"),
    [
        ("ready", 0, PoolRolled(pool="web", renewed=0)),
        ("parked", 3, PARKED),
        ("destroyed", 0, GONE),
        ("ready", 2, ROLLED),
    ],
)
async def test_when_events_are_forgotten_the_pool_says_whether_it_is_over(
    status: str, outdated: int, end: Event
) -> None:
    view = {"status": status, "outdated": outdated, "reason": "bad image"}
    async with Rolling(ROLLED, pruned=True, **view) as client:
        assert await wait_for_roll(client, "web", 3, 60, lambda _: None) == end


def test_an_update_in_place_is_not_waited_for() -> None:
    changed = PoolUpdated(pool="web", changed=("lease_s",))
    assert not rolls(changed) and rolls(changed.model_copy(update={"outdated": 1}))


@pytest.mark.parametrize(
    ("over", "code", "said"),
    [
        (ROLLED, 0, "every machine is of the new spec, 2 machines replaced"),
        (PARKED, 1, "then parked: bad image; its machines of the old spec work on"),
        (GONE, 1, "ended before its machines were replaced"),
    ],
)
def test_what_the_end_of_a_roll_means(
    over: Event, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    event = PoolUpdated(pool="web", changed=("image",), outdated=2)
    updated = Envelope(seq=9, at=0, pool="web", event=event, ends=("r-1",))
    assert roll_ended(Session(Where(), json=False), "r-1", updated, over, None) == code
    shown = capsys.readouterr()
    assert said in (shown.err if code else shown.out)
    with pytest.raises(CliError, match="not rolled after 30s"):
        roll_ended(Session(Where(), json=False), "r-1", updated, None, 30.0)
