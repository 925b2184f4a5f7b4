"""Where the machines of a roll are bought, and what it waits for."""

from collections.abc import Callable

import pytest

from actors.buying import Buying, OnDemand
from actors.effects import Launch
from actors.events import PoolPauseRequested
from actors.node.state import Filled, Replacing
from actors.pool import rolling
from actors.spec import Nodes
from providers.errors import Fault
from tests.actors.model import offer
from tests.actors.pool.test_rolling import NEW, machines, rolled
from tests.actors.pool.test_rules import Pool, ready
from tests.actors.turns import POOL

SPOT, DEAR = offer("a"), offer("a", dollars=0.5, spot=False)
PATIENT = Buying(patience_s=600)


def refuse(pool: Pool, fault: Fault, which: Callable[[Launch], bool]) -> int:
    """Launches of a kind are refused, and how many there were."""
    count = 0
    while found := [i for i, (_, it) in enumerate(pool.calls) if isinstance(it, Launch) and which(it)]:
        pool.answer(found[0], fault, False, 1)
        count += 1
    return count


def on_demand(pool: Pool) -> set[str]:
    """Machines on demand."""
    there = pool.turns.index.instances.values()
    return {one.id for one in there if one.offer.lifecycle == "on_demand"}


def says(pool: Pool) -> str:
    """Why no other machine is replaced just now."""
    return rolling.waits(pool.state, pool.turns.index, pool.turns.now)


@pytest.mark.parametrize("spread", ["together", None])
@pytest.mark.parametrize("allocation", ["on-demand", "spot-if-available"])
def test_what_is_on_demand_is_renewed_on_demand_without_patience(spread: str | None, allocation: str) -> None:
    pool = Pool(3, offers=(DEAR,), spread=spread, allocation=allocation, buying=PATIENT)
    pool.until(pool.whole)
    began = pool.turns.now
    pool.update("image", image=NEW)
    pool.until(lambda: rolled(pool))
    assert pool.turns.now - began < PATIENT.patience_s


@pytest.mark.parametrize("paused", [True, False])
@pytest.mark.parametrize("spread", ["together", None])
def test_a_working_spot_machine_is_renewed_on_demand_only_when_spot_was_refused_for_so_long(
    spread: str | None, paused: bool
) -> None:
    pool = Pool(2, offers=(SPOT, DEAR), spread=spread, allocation="spot-if-available", buying=PATIENT)
    pool.until(pool.whole)
    pool.update("image", image=NEW)
    if paused:
        pool.turns.ask(PoolPauseRequested(request_id="pause", pool=POOL))
        pool.turns.now += 7200
        pool.turns.ask(PoolPauseRequested(request_id="resume", pool=POOL, paused=False))
    first = None
    for _ in range(600):
        if refuse(pool, Fault.CAPACITY, lambda it: it.offer.lifecycle == "spot") and first is None:
            first = pool.turns.now
        if on_demand(pool):
            break
        pool.fair_step()
    assert first is not None and on_demand(pool)
    assert PATIENT.patience_s <= pool.turns.now - first < 2 * PATIENT.patience_s


def test_a_pause_does_not_count_as_patience() -> None:
    pool = Pool(2, offers=(SPOT, DEAR), allocation="spot-if-available", buying=PATIENT)
    pool.until(pool.whole)
    pool.update("image", image=NEW)
    is_spot = "spot".__eq__
    assert refuse(pool, Fault.CAPACITY, lambda it: is_spot(it.offer.lifecycle))
    pool.turns.ask(PoolPauseRequested(request_id="pause", pool=POOL))
    pool.turns.now += 7200
    pool.turns.ask(PoolPauseRequested(request_id="resume", pool=POOL, paused=False))
    resumed = pool.turns.now
    while not on_demand(pool):
        refuse(pool, Fault.CAPACITY, lambda it: is_spot(it.offer.lifecycle))
        pool.fair_step()
    assert pool.turns.now - resumed >= PATIENT.patience_s


def test_a_node_that_no_market_can_fill_does_not_hold_up_the_others() -> None:
    floor, for_ever = OnDemand(floor=5), Buying(patience_s=1e6)
    pool = Pool(6, offers=(SPOT, DEAR), allocation="spot-if-available", on_demand=floor, buying=for_ever)

    pool.until(pool.whole)
    spot = next(one for one in pool.turns.index.instances.values() if one.offer.lifecycle == "spot")
    pool.machines[spot.key].state = "stopped"
    pool.listing()
    pool.update("image", image=NEW)
    for _ in range(600):
        refuse(pool, Fault.CAPACITY, lambda it: it.offer.lifecycle == "spot")
        if not pool.turns.index.outdated:
            break
        pool.fair_step()
    assert not pool.turns.index.outdated, says(pool)
    assert len(machines(pool)) == 5 and set(machines(pool).values()) <= on_demand(pool)


def test_a_machine_that_boots_for_long_holds_up_its_share_only() -> None:
    pool = ready(9)
    pool.update("grow", nodes=Nodes(desired=10))
    pool.spec = pool.state.spec
    pool.until(lambda: any(it.node == 9 for it in pool.calls_of(Launch)))
    slow = [call for call in pool.calls if isinstance(call[1], Launch)]
    before = machines(pool)
    pool.update("image", image=NEW)
    pool.turns.put(("pool", POOL), pool.state.model_copy(update={"proven": True}))
    for _ in range(200):
        pool.calls[:] = [call for call in pool.calls if call not in slow]
        pool.fair_step()
        if not pool.turns.index.outdated:
            break
    assert not set(before.values()) & set(machines(pool).values()), says(pool)


def test_a_machine_that_comes_for_a_missing_node_takes_of_the_room() -> None:
    pool = ready(3)
    before = machines(pool)
    pool.update("grow", nodes=Nodes(desired=4), image=NEW)
    assert [it.node for it in pool.calls_of(Launch)] == [3]
    for _ in range(3):
        pool.turns.now += 16
        pool.turns.due()
    assert machines(pool) == before and "filled first" in says(pool)
    pool.until(lambda: rolled(pool))


def test_a_spare_that_is_being_renewed_stands_in() -> None:
    pool = ready(3, buying=Buying(spares=1))
    pool.update("image", image=NEW)
    pool.until(lambda: isinstance(pool.turns.index.nodes[3], Replacing))
    before, launches = machines(pool), len(pool.keys)
    lost = pool.turns.index.instances[before[0]]
    pool.machines[lost.key].state = "stopped"
    pool.listing()
    assert machines(pool) == {0: before[3], 1: before[1], 2: before[2]}
    assert isinstance(pool.turns.index.nodes[0], Filled)
    pool.until(lambda: rolled(pool) and pool.whole() and len(machines(pool)) == 4)
    assert len(pool.keys) - launches <= 4  # the one that was coming filled the spare's place


def test_a_full_quota_is_told_with_what_helps() -> None:
    pool = ready(2)
    before = machines(pool)
    pool.update("image", image=NEW)
    said = set()
    for _ in range(30):
        refuse(pool, Fault.QUOTA, lambda it: True)
        said.add(says(pool))
        pool.fair_step()
    assert machines(pool) == before
    assert any("drain" in one and "quota" in one for one in said), said
