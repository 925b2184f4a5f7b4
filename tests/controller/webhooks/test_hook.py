"""What one webhook is sent, in which order, how often, and what is told of it."""

import anyio
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from actors.events import Error, PoolReady, TaskQueued, WebhookFailing, WebhookRecovered
from controller.records_state import WebhookRecord
from controller.webhooks.sending import Tried
from tests.controller.webhooks.house import BROKEN, CONFIG, NAME, OK, UNWANTED, House

pytestmark = pytest.mark.anyio
DAY_S = 86_400.0


async def quiet() -> None:
    """Long enough for all that is owed at once, short enough that no failure is tried again a day later."""
    await anyio.sleep(5)


async def test_a_new_one_begins_with_what_happens_next() -> None:
    house = House()
    house.happen()

    async def during() -> None:
        await quiet()
        house.happen()
        await quiet()

    await house.live(during)
    assert house.taken == [2]
    assert house.records[NAME] == WebhookRecord(
        cursor=2, delivered=1, last_status=204, delivered_at=house.records[NAME].delivered_at
    )


async def test_only_what_is_chosen_is_sent() -> None:
    house = House()

    async def during() -> None:
        await quiet()
        house.happen(TaskQueued(task_id="t", attempt=1))
        house.happen(pool="other")
        house.happen(pool="main")
        await quiet()

    await house.live(during, pools=("ma*",))
    assert house.taken == [3]


async def test_the_end_of_a_request_is_sent_whatever_is_chosen_and_once() -> None:
    house = House()

    async def during() -> None:
        await quiet()
        house.hook.replies |= {"mine", "mine-too"}
        house.happen(Error(request_id="x", message="x"), ends=("foreign",), pool="other")
        house.happen(Error(request_id="mine", message="x"), ends=("mine", "mine-too"), pool="other")
        house.happen(PoolReady(pool="other", nodes=1), ends=(), pool="other")
        await quiet()

    await house.live(during, events=(), pools=("main",))
    assert house.taken == [2]
    assert house.hook.replies == set()


async def test_a_failure_is_told_once_and_so_is_its_end_and_not_to_itself() -> None:
    house = House([BROKEN] * 5)

    async def during() -> None:
        await quiet()
        house.happen()
        await anyio.sleep(100)

    await house.live(during)
    assert house.facts == [
        WebhookFailing(webhook=NAME, error="answered 500"),
        WebhookRecovered(webhook=NAME, dropped=0),
    ]
    assert [seq for _, seq in house.got] == [1] * 6  # neither fact is sent to it
    waits = [b - a for (a, _), (b, _) in zip(house.got, house.got[1:], strict=False)]
    assert waits == sorted(waits)
    assert all(0.5 * 2**n <= wait <= 2.0**n for n, wait in enumerate(waits))


async def test_another_ones_failure_is_sent() -> None:
    house = House()

    async def during() -> None:
        await quiet()
        house.happen(WebhookFailing(webhook="another", error="x"), pool="")
        await quiet()

    await house.live(during)
    assert house.taken == [1]


async def test_what_the_receiver_asks_to_wait_is_waited() -> None:
    house = House([Tried(503, "answered 503", retry_after_s=600.0)])

    async def during() -> None:
        await quiet()
        house.happen()
        await anyio.sleep(599)
        assert house.hook.next_try_at is not None
        assert len(house.got) == 1
        await anyio.sleep(10)

    await house.live(during)
    assert house.got[1][0] - house.got[0][0] == pytest.approx(600)


async def test_a_user_has_it_tried_at_once() -> None:
    house = House([Tried(503, "answered 503", retry_after_s=600.0)])

    async def during() -> None:
        await quiet()
        house.happen()
        await anyio.sleep(10)
        house.hook.retry()
        await quiet()

    await house.live(during)
    assert house.taken == [1]


async def test_an_event_that_is_not_wanted_is_dropped_and_the_next_is_sent() -> None:
    house = House([UNWANTED])

    async def during() -> None:
        await quiet()
        house.happen()
        house.happen()
        await quiet()

    await house.live(during)
    assert house.taken == [2]
    assert (house.records[NAME].dropped, house.records[NAME].failing_since) == (1, None)
    assert house.facts == []


async def test_what_is_too_old_is_dropped_counted_and_told() -> None:
    house = House([BROKEN] * 400)

    async def during() -> None:
        await quiet()
        house.happen()
        house.happen()
        await anyio.sleep(DAY_S + 1000)
        house._outcomes.clear()
        house.happen()
        await anyio.sleep(1000)

    await house.live(during)
    assert house.taken == [4]  # behind those two and the fact that it fails
    assert house.facts[-1] == WebhookRecovered(webhook=NAME, dropped=2)
    assert house.records[NAME].dropped == 2


async def test_another_config_goes_on_from_the_same_place() -> None:
    house = House([BROKEN])

    async def during() -> None:
        await quiet()
        house.happen(TaskQueued(task_id="t", attempt=1))
        house.happen()
        house.happen()
        await anyio.sleep(0.2)
        house.hook.configure(CONFIG.model_copy(update={"events": ("task_queued", "pool_ready")}))
        house.happen(TaskQueued(task_id="t", attempt=2))
        await quiet()

    await house.live(during)
    assert house.taken == [2, 3, 5]  # 4: it fails; 1 was passed before anybody wanted it


async def test_its_place_is_written_seldom() -> None:
    house = House()

    async def during() -> None:
        await quiet()
        for _ in range(1000):
            house.happen()
            await anyio.sleep(0.01)
        await anyio.sleep(2)
        at_rest = house.writes
        for _ in range(100):
            house.happen(TaskQueued(task_id="t", attempt=1))
            await anyio.sleep(1)
        assert at_rest <= 15
        assert house.writes <= at_rest + 2

    await house.live(during)
    assert house.taken == list(range(1, 1001))
    assert house.records[NAME].cursor == house.seq


async def test_what_the_journal_forgets_is_counted() -> None:
    house = House([BROKEN] * 400)

    async def during() -> None:
        await quiet()
        for _ in range(500):
            house.happen()
        house.happen(TaskQueued(task_id="t", attempt=1))
        await quiet()
        read = house.hook._read_to
        await house.hook.let_go(502, 0.0)
        assert 0 < read < 500
        assert house.hook.record.dropped == 500 - read
        house._outcomes.clear()
        await anyio.sleep(1000)
        assert house.taken == list(range(1, read + 1))  # those were in memory

    await house.live(during)


OUTCOMES = st.sampled_from(
    [OK, BROKEN, BROKEN, UNWANTED, Tried(error="no connection"), Tried(503, "x", 30.0)]
)
PART = st.tuples(
    st.lists(OUTCOMES, max_size=6),
    st.lists(st.floats(0, 400), max_size=6),  # pauses before events
    st.booleans(),  # killed in the end
)


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(PART, min_size=1, max_size=4), retry_for_s=st.sampled_from([50.0, 1000.0, DAY_S]))
def test_every_chosen_event_comes_at_least_once_and_in_order(
    parts: list[tuple[list[Tried], list[float], bool]], retry_for_s: float
) -> None:
    """Whatever fails, and whenever the daemon dies; unless it was unwanted, or too old."""

    async def story() -> None:
        house = House()
        events: list[int] = []
        await house.live(quiet, retry_for_s=retry_for_s)  # it is known
        unwanted: set[int] = set()
        post = house.post

        async def noted(name: str, config: object, seq: int, body: bytes, at: float) -> Tried:
            tried = await post(name, config, seq, body, at)  # type: ignore[arg-type]
            if tried.unwanted:
                unwanted.add(seq)
            return tried

        house.post = noted  # type: ignore[method-assign]
        for outcomes, pauses, killed in parts:
            house._outcomes = list(outcomes)

            async def during() -> None:
                for pause in pauses:  # noqa: B023
                    await anyio.sleep(pause)
                    events.append(house.happen())

            await house.live(during, killed=killed, retry_for_s=retry_for_s)
        house._outcomes = []

        async def calm() -> None:
            await anyio.sleep(2000)

        await house.live(calm, retry_for_s=retry_for_s)
        at = {one.seq: one.at for one in house.events}
        firsts = list(dict.fromkeys(house.taken))
        assert firsts == sorted(firsts)
        for seq in events:
            if seq not in house.taken and seq not in unwanted:
                assert house.clock.now() >= at[seq] + retry_for_s
                later = [when for when, one in house.got if one > seq]
                assert all(when >= at[seq] + retry_for_s for when in later[:1])
        if retry_for_s == DAY_S:
            assert set(events) <= set(house.taken) | unwanted
            if not any(killed for *_, killed in parts):
                assert len(house.taken) == len(set(house.taken))

    trio.run(story, clock=MockClock(autojump_threshold=0))
