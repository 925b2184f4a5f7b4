"""What placement is told of the pool: what was lost, where nothing can be made ready, how long tasks take."""

import pytest

from actors.buying import Scaling
from actors.effects import Launch, OpenCluster
from actors.messages import AbsenceObserved, TaskOver, VendorNotice
from actors.pool.state import PoolJson
from providers.errors import Fault
from providers.model import Notice
from tests.actors.model import offer
from tests.actors.pool.test_placing import CHEAP, OFFERS, Planner, look, machines, planner, whole
from tests.actors.pool.test_rules import Pool
from tests.actors.turns import POOL

__all__ = ["planner"]


def asking(planner: Planner, since: int) -> list[str | None]:
    """Where those that asked since then lost their machines, in that order."""
    return [one.lost_in for situation in planner.seen[since:] for one in situation.asking]


@pytest.mark.parametrize("how", ["notice", "gone", "unready"])
def test_the_market_that_took_a_machine_is_named_in_that_turn_and_not_later(
    planner: Planner, how: str
) -> None:
    pool = whole(1, planner)
    name = machines(pool)[0]
    if how == "unready":
        pool.resize("more", 2)
        pool.until(lambda: 1 in pool.turns.index.nodes and len(pool.machines) == 2)
        [name] = [one for one in pool.turns.index.instances if one != name]
    planner.offers = ()
    seen = len(planner.seen)
    if how == "gone":
        pool.vanish(pool.turns.index.instances[name].key)
        pool.turns.now += 100
        pool.until(lambda: bool(asking(planner, seen)))
    else:
        notice = VendorNotice(Notice(reason="spot", deadline_at=pool.turns.now + 300))
        pool.turns.hear((("instance", name), notice))
    assert asking(planner, seen)[:1] == [str(CHEAP.market)]
    assert not remembered(pool)
    pool.turns.now += 60
    pool.turns.due()
    look(pool)
    assert set(asking(planner, seen)[1:]) == {None}, "its memory knows by now"


def remembered(pool: Pool) -> list[str]:
    """Markets that nodes remember to have lost a machine in."""
    return [lost_in for one in pool.turns.index.nodes.values() if (lost_in := getattr(one, "lost_in", None))]


@pytest.mark.parametrize("how", ["due", "hurried"])
def test_a_node_that_waits_after_losses_forgets_where_they_were(planner: Planner, how: str) -> None:
    pool = Pool(1, offers=OFFERS)
    for _ in range(2):
        pool.until(lambda: bool(pool.machines))
        [name] = pool.turns.index.instances
        pool.vanish(next(iter(pool.machines)))
        pool.turns.hear((("instance", name), AbsenceObserved()))
    assert remembered(pool) == [str(CHEAP.market)]
    assert pool.turns.index.paused
    seen = len(planner.seen)
    if how == "due":
        pool.turns.now += 20
        pool.turns.due()
    else:
        pool.resize("hurry", 1)
    assert asking(planner, seen) == [None]


def test_an_order_that_is_refused_knows_of_no_loss(planner: Planner) -> None:
    pool = whole(1, planner)
    seen = len(planner.seen)
    notice = VendorNotice(Notice(reason="spot", deadline_at=pool.turns.now + 300))
    pool.turns.hear((("instance", machines(pool)[0]), notice))
    assert not remembered(pool)
    pool.answer(0, Fault.CAPACITY, False, 0)
    assert asking(planner, seen) == [str(CHEAP.market), None]


def test_a_region_that_can_not_be_got_ready_is_named_with_its_error(planner: Planner) -> None:
    regions = [offer("a").model_copy(update={"region": f"r{i}"}) for i in range(2)]
    planner.offers = (regions[0],)
    pool = Pool(1, offers=tuple(regions))
    assert not planner.seen[-1].blocked
    [call] = pool.calls_of(OpenCluster)
    assert call.region == "r0"
    planner.offers = tuple(regions)
    pool.answer(0, Fault.QUOTA, False, 0)
    blocked = planner.seen[-1].blocked
    assert list(blocked) == [("sim", "r0")]
    why, retry_at = blocked["sim", "r0"]
    assert why.startswith("quota")
    assert retry_at > pool.turns.now
    assert [one.region for one in pool.calls_of(OpenCluster)] == ["r1"], "it is not waited for"
    pool.answer(0, None, True, 0)
    [launch] = pool.calls_of(Launch)
    assert launch.offer.region == "r1"
    pool.turns.now = retry_at
    pool.turns.due()
    look(pool)
    assert ("sim", "r0") in planner.seen[-1].blocked, "it is tried again, and not known to be better"
    [opening] = [one for one in pool.state.clusters.values() if one.region == "r0"]
    assert opening.detail == why
    assert PoolJson.validate_json(PoolJson.dump_json(pool.state)) == pool.state
    place = [one.region if isinstance(one, OpenCluster) else "" for _, one in pool.calls].index("r0")
    pool.answer(place, None, True, 0)
    look(pool)
    assert not planner.seen[-1].blocked


def test_how_long_tasks_take_is_learnt_without_a_change_at_every_task(planner: Planner) -> None:
    pool = whole(1, planner)
    pool.turns.hear((("pool", POOL), TaskOver("t-0", 100.0)))
    look(pool)
    assert planner.seen[-1].task_s == 100.0
    known = pool.state.habits
    for took in (150.0, 60.0, 100.5):
        pool.turns.hear((("pool", POOL), TaskOver("t", took)))
        assert pool.state.habits is known
    pool.turns.hear((("pool", POOL), TaskOver("t", 400.0)))
    assert pool.state.habits.task_s == pytest.approx(190)


def test_tasks_that_take_no_time_change_nothing(planner: Planner) -> None:
    pool = whole(1, planner)
    for took in (0.05, 0.2, 0.01, 0.9):
        pool.turns.hear((("pool", POOL), TaskOver("t", took)))
        assert pool.state.habits.task_s == 0.05


def test_scaling_learns_more_exactly(planner: Planner) -> None:
    pool = whole(1, planner)
    pool.update("follow", scaling=Scaling(), nodes=pool.spec.nodes.model_copy(update={"min": 1, "max": 1}))
    for took in (100.0, 110.0):
        pool.turns.hear((("pool", POOL), TaskOver("t", took)))
    assert pool.state.habits.task_s == pytest.approx(103)
