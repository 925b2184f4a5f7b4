"""Taking turns, in a time that passes only while everybody waits."""

from typing import Any

import anyio
import pytest
import trio.testing

from providers.errors import Fault, ProviderError
from providers.vastai.turns import FORGOTTEN_S, Turns

pytestmark = pytest.mark.anyio
EVERY_S, WITHIN_S = 3.5, 40.0


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": trio.testing.MockClock(autojump_threshold=0)}


async def refused(turns: Turns, who: str) -> float:
    """For how long it is told to stay away."""
    with pytest.raises(ProviderError) as caught:
        await turns.take(who, WITHIN_S)
    assert caught.value.fault is Fault.THROTTLED
    assert caught.value.retry_after_s is not None
    return caught.value.retry_after_s


@pytest.mark.parametrize("many", [1, 12, 100])
async def test_however_many_come_the_pace_is_kept_up(many: int) -> None:
    turns = Turns("destroy", EVERY_S, anyio.current_time)
    begun, served, waits, refusals = anyio.current_time(), list[float](), list[float](), list[int]()

    async def one(who: str) -> None:
        for tries in range(1000):
            came = anyio.current_time()
            try:
                await turns.take(who, WITHIN_S)
            except ProviderError as error:
                waits.append(anyio.current_time() - came)
                await anyio.sleep(error.retry_after_s or 0)
                continue
            waits.append(anyio.current_time() - came)
            served.append(anyio.current_time() - begun)
            refusals.append(tries)
            return

    async with anyio.create_task_group() as tasks:
        for number in range(many):
            tasks.start_soon(one, str(number))
    assert len(served) == many
    assert max(served) == pytest.approx((many - 1) * EVERY_S, abs=2 * EVERY_S)  # idle at no time
    assert max(waits) <= WITHIN_S
    assert max(refusals) <= 2  # told well, nobody comes much too soon


async def test_who_comes_again_too_soon_has_kept_its_place() -> None:
    turns = Turns("destroy", EVERY_S, anyio.current_time)
    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(turns.take, str(number), WITHIN_S)
        await anyio.sleep(0.001)
        told = [await refused(turns, who) for who in ("a", "b", "c")]
        assert told == sorted(set(told))
        assert [await refused(turns, who) for who in ("c", "b", "a")] == told[::-1]
        tasks.cancel_scope.cancel()


async def test_who_never_comes_again_is_forgotten() -> None:
    turns = Turns("destroy", EVERY_S, anyio.current_time)

    async def told() -> float:
        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(turns.take, f"of {number}", 10_000)
            await anyio.sleep(0.001)
            after = await refused(turns, "new")
            tasks.cancel_scope.cancel()
        return after

    alone = await told()
    async with anyio.create_task_group() as tasks:
        for number in range(30):
            tasks.start_soon(turns.take, str(number), 10_000)
        await anyio.sleep(0.001)
        for number in range(50):
            await refused(turns, f"lost {number}")
        tasks.cancel_scope.cancel()
    assert await told() > alone
    await anyio.sleep(100 * EVERY_S + FORGOTTEN_S)
    assert await told() == pytest.approx(alone, abs=EVERY_S)


async def test_one_call_in_a_long_time_is_made_none_the_less() -> None:
    turns = Turns("destroy", 100.0, anyio.current_time)
    await turns.take("a", WITHIN_S)
    assert await refused(turns, "b") == 100.0
    await anyio.sleep(100.0)
    await turns.take("b", WITHIN_S)
