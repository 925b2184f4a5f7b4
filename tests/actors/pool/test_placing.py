"""What a pool does with what placement decides, told by a placement that decides as the test says."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from actors.address import Address
from actors.buying import Budget, Buying, Scaling
from actors.decision import World
from actors.effects import Launch, OpenCluster, TellMarket
from actors.events import DrainRequested, InstanceReplaced, TaskRequested
from actors.market.state import MarketState
from actors.messages import (
    AbsenceObserved,
    HoldingTold,
    MachineBilled,
    MarketsChanged,
    SetUpEnded,
    TaskOver,
    VendorNotice,
)
from actors.node.state import Filled, Filling, Replacing
from actors.policy import placement
from actors.policy.situation import Choice, Considered, Moved, Passed, Plan, Situation
from actors.pool import rules as pool_rules
from actors.pool.state import Parked
from actors.spec import Nodes, TaskSpec
from providers.errors import Fault
from providers.model import Notice, Offer
from tests.actors.model import CAPABILITIES, offer
from tests.actors.pool.test_rules import Pool
from tests.actors.turns import POOL

CHEAP, OTHER, STEADY = offer("a"), offer("b", dollars=0.2), offer("a", dollars=0.5, spot=False)
OFFERS = (CHEAP, OTHER, STEADY)


class Planner:
    """Placement as a test wants it: `offers` for all that ask, where machines can be set up, and the rest."""

    def __init__(self) -> None:
        self.offers: tuple[Offer, ...] = OFFERS
        self.rest: dict[str, Any] = {}
        self.seen: list[Situation] = []
        self.moves: Callable[[Situation], tuple[Moved, ...]] = lambda situation: ()

    def __call__(self, situation: Situation) -> Plan:
        """Decide."""
        self.seen.append(situation)
        most, failures = situation.spec.bootstrap_failures_max, situation.failures
        offers = [one for one in self.offers if failures.get(str(one.market), 0) < most]
        choices = {
            one.node: Choice(tuple(o for o in offers if str(o.market) not in one.refused), "as told")
            for one in situation.asking
        }
        plan = Plan(
            choices={node: choice for node, choice in choices.items() if choice.offers},
            moves=self.moves(situation),
            spares=situation.spares,
            surplus=(),
            considered=tuple(Considered(str(o.market), o.micro_usd_per_hour, None, "") for o in self.offers),
            passed=(),
            retry_at=situation.now + 15,
            look_at=None,
            hopeless=False,
            refresh=(),
        )
        return replace(plan, **self.rest)


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> Planner:
    """Placement for this test."""
    made = Planner()
    monkeypatch.setattr(placement, "place", made)
    return made


def whole(nodes: int, planner: Planner, **rest: Any) -> Pool:
    """A pool that is whole, spares too."""
    planner.rest = rest
    pool = Pool(nodes, offers=OFFERS)
    count = nodes + rest.get("spares", 0)
    pool.until(lambda: pool.statuses == ["filled"] * count and pool.whole())
    return pool


def look(pool: Pool) -> None:
    """News come, and a while later they are looked at."""
    pool.turns.hear((("pool", POOL), MarketsChanged()))
    pool.turns.now += 5
    pool.turns.due()


def machines(pool: Pool) -> dict[int, str]:
    """Which machine fills which node."""
    nodes = sorted(pool.turns.index.nodes.items())
    return {number: node.instance_id for number, node in nodes if isinstance(node, Filled)}


def test_news_are_looked_at_soon_and_not_one_by_one(planner: Planner) -> None:
    pool = whole(2, planner)
    pool.turns.now += 100
    pool.turns.due()
    seen = len(planner.seen)
    for _ in range(20):
        pool.turns.now += 0.2
        pool.turns.hear((("pool", POOL), MarketsChanged()))
        pool.turns.due()
    assert len(planner.seen) == seen
    pool.turns.now += 2
    pool.turns.due()
    assert len(planner.seen) == seen + 1
    pool.turns.now += 1000
    pool.turns.due()
    assert len(planner.seen) == seen + 1, "nothing happened since"


def test_who_waits_hears_of_markets_that_fit_first(planner: Planner) -> None:
    never = [Passed(f"sim/r/x{i}/small/spot", "has 2 vcpus") for i in range(5)]
    full = Passed(str(OFFERS[0].market), "had none at 12:00:00 UTC: all taken")
    planner.rest = {"choices": {}, "passed": (*never, full)}
    pool = Pool(1, offers=OFFERS)
    pool.turns.due()
    node = pool.turns.index.nodes[0]
    assert isinstance(node, Filling)
    assert node.why_waiting == f"{full.market}: {full.reason}"


def test_what_placement_sees_is_what_is_there_to_stay(planner: Planner) -> None:
    pool = Pool(3, offers=OFFERS)
    pool.until(pool.whole)
    notice = VendorNotice(Notice(reason="spot", deadline_at=pool.turns.now + 300))
    pool.turns.hear((("instance", machines(pool)[1]), notice))
    situation = planner.seen[-1]
    assert [one.node for one in situation.held] == [0, 2]
    assert all(one.ready and one.movable and one.busy == 0 for one in situation.held)
    assert [(one.node, one.since) for one in situation.asking] == [(1, None)]
    look(pool)
    assert [(one.node, one.ready) for one in planner.seen[-1].held] == [(0, True), (1, False), (2, True)]


def test_a_node_moves_to_the_better_machine_that_placement_names(planner: Planner) -> None:
    pool = whole(2, planner)
    old = machines(pool)[1]
    planner.moves = lambda situation: (Moved(1, STEADY, "spot is dear"),)
    look(pool)
    [launch] = pool.calls_of(Launch)
    assert launch.offer == STEADY
    node = pool.turns.index.nodes[1]
    assert isinstance(node, Replacing)
    assert node.moving
    assert pool.whole(), "the old one fills it still"
    planner.moves = lambda situation: ()
    pool.until(lambda: len(pool.machines) == 2 and pool.statuses == ["filled", "filled"])
    assert machines(pool)[1] != old
    assert [one.why for one in pool.turns.facts("instance_launched")][-1] == "spot is dear"


def test_a_move_that_is_refused_leaves_everything_as_it_was(planner: Planner) -> None:
    pool = whole(2, planner)
    before = machines(pool)
    planner.moves = lambda situation: (Moved(1, STEADY, "better"),)
    look(pool)
    planner.moves = lambda situation: ()
    pool.answer(0, Fault.CAPACITY, False, 0)
    assert machines(pool) == before
    assert pool.whole()
    assert not pool.turns.index.asking and not pool.turns.index.paused


def test_spares_are_bought_beyond_the_desired_nodes(planner: Planner) -> None:
    pool = whole(2, planner, spares=2)
    assert (pool.state.desired, pool.state.spares) == (2, 2)
    assert len(pool.machines) == 4
    pool.resize("none", 0)
    pool.until(lambda: not pool.machines)
    assert pool.statuses == ["retired"] * 4


def test_a_spare_fills_a_lost_rank_in_the_turn_of_the_loss(planner: Planner) -> None:
    pool = whole(2, planner, spares=1)
    before = machines(pool)
    gone = pool.turns.index.instances[before[0]]
    pool.vanish(gone.key)
    pool.turns.now += 100
    planner.offers = ()
    pool.until(lambda: machines(pool).get(0) != before[0])
    assert machines(pool) == {0: before[2], 1: before[1]}
    assert isinstance(pool.turns.index.nodes[2], Filling)
    assert pool.turns.index.instances[before[2]].node == 0
    assert pool.whole(), "what is desired is there"
    [replaced] = pool.turns.facts("instance_replaced")
    assert isinstance(replaced, InstanceReplaced)
    assert (replaced.old_id, replaced.new.instance.id, replaced.new.node) == (before[0], before[2], 0)
    turn = [one.event.kind for one in pool.turns.events]
    lost = turn.index("instance_preempted")
    assert "instance_replaced" in turn[lost : lost + 5]
    pool.turns.restart()
    assert machines(pool) == {0: before[2], 1: before[1]}
    planner.offers = OFFERS
    pool.until(lambda: pool.statuses == ["filled"] * 3)


def test_a_spare_leaves_a_node_alone_that_has_ordered_a_machine(planner: Planner) -> None:
    pool = whole(1, planner)
    pool.vanish(pool.turns.index.instances[machines(pool)[0]].key)
    pool.turns.now += 100
    pool.until(lambda: bool(pool.calls_of(Launch)))
    pool.answer(0, Fault.UNKNOWN, False, 0)  # it is looked for, which takes a while
    planner.rest = {"spares": 1}
    look(pool)
    pool.until(lambda: 1 in machines(pool))
    assert isinstance(pool.turns.index.nodes[0], Filling)
    pool.until(lambda: sorted(machines(pool)) == [0, 1])
    assert len(pool.machines) == 2


def test_fewer_spares_let_the_unwanted_machines_go_and_keep_the_numbers_low(planner: Planner) -> None:
    pool = whole(2, planner, spares=2)
    before = machines(pool)
    planner.rest = {"spares": 1, "surplus": (0,)}
    look(pool)
    assert pool.state.spares == 1
    assert machines(pool) == {0: before[3], 1: before[1], 2: before[2]}
    pool.until(lambda: before[0] not in pool.turns.index.instances)
    assert len(pool.machines) == 3
    assert pool.whole()
    turn = pool.turns
    assert {one.reason for one in turn.facts("instance_destroyed")} == {"scale_in"}


def test_a_spare_that_works_goes_only_when_all_that_stay_do(planner: Planner) -> None:
    pool = whole(2, planner, spares=2)
    before = machines(pool)
    planner.offers = ()
    gone = pool.turns.index.instances[before[2]]
    pool.vanish(gone.key)
    pool.turns.now += 100
    pool.until(lambda: 2 not in machines(pool))
    planner.rest = {"spares": 1, "surplus": ()}
    look(pool)
    assert before[3] in machines(pool).values(), "node 2 stays, and had none"
    planner.offers = OFFERS
    pool.until(lambda: len(pool.machines) == 3 and pool.statuses[:3] == ["filled"] * 3)
    assert pool.statuses[3] == "retired"


def test_a_spare_without_a_machine_goes_at_once(planner: Planner) -> None:
    pool = whole(1, planner)
    planner.offers = ()
    planner.rest = {"spares": 1}
    look(pool)
    assert pool.statuses == ["filled", "filling"]
    pool.turns.now += 10
    planner.rest = {"spares": 0}
    look(pool)
    assert pool.statuses == ["filled", "retired"]


def test_the_number_of_spares_does_not_flap(planner: Planner) -> None:
    pool = whole(1, planner)
    launched = len(pool.keys)
    for i in range(100):
        planner.rest = {"spares": i % 2}
        pool.turns.now += 0.1
        pool.turns.due()
    assert len(pool.keys) + len(pool.calls_of(Launch)) <= launched + 2


def test_regions_are_got_ready_when_they_are_needed_and_the_best_ahead_of_that(planner: Planner) -> None:
    regions = [offer("a").model_copy(update={"region": f"r{i}"}) for i in range(9)]
    planner.offers = tuple(regions)
    pool = Pool(1, offers=tuple(regions))
    assert sorted(call.region for call in pool.calls_of(OpenCluster)) == ["r0", "r1", "r2", "r3"]
    pool.until(pool.whole)
    planner.moves = lambda situation: (Moved(0, regions[7], "better"),)
    look(pool)
    assert [call.region for call in pool.calls_of(OpenCluster)] == ["r7"]
    pool.answer(0, None, True, 0)
    [launch] = pool.calls_of(Launch)
    assert launch.offer.region == "r7", "it moves as soon as that is open"


def test_a_region_that_can_not_be_got_ready_is_passed_over(planner: Planner) -> None:
    regions = [offer("a").model_copy(update={"region": f"r{i}"}) for i in range(2)]
    planner.offers = tuple(regions)
    pool = Pool(1, offers=tuple(regions))
    places = [call.region for call in pool.calls_of(OpenCluster)]
    pool.answer(places.index("r0"), Fault.QUOTA, False, 0)
    pool.answer(0, None, True, 0)
    [launch] = pool.calls_of(Launch)
    assert launch.offer.region == "r1"


@pytest.mark.parametrize("is_mended", [True, False])
def test_while_no_machine_could_be_set_up_a_few_are_tried_elsewhere(
    planner: Planner, is_mended: bool
) -> None:
    pool = Pool(6, offers=OFFERS)
    planner.offers = (CHEAP, OTHER)
    pool.steps_are_broken = True
    pool.until(lambda: len(pool.keys) > 6)
    pool.steps_are_broken = not is_mended
    few = pool.spec.bootstrap_failures_max
    assert len(pool.keys) + len(pool.calls_of(Launch)) == 6 + few
    if is_mended:
        pool.until(pool.whole)
        assert pool.state.proven
    else:
        pool.until(lambda: isinstance(pool.state, Parked))
        assert len(pool.keys) == 6 + few


def test_broken_steps_end_the_machines_that_are_not_set_up(planner: Planner) -> None:
    pool = Pool(5, offers=OFFERS)
    while pool.calls:
        pool.answer(0, None, True, 0)
    for market in (CHEAP, OTHER):
        for _ in range(pool.spec.bootstrap_failures_max):
            pool.turns.hear((("pool", POOL), SetUpEnded(market, "p: exit 1", 60, 1)))
    first = pool.turns.index.instances["pool-0-1.1.1"]
    pool.vanish(first.key)
    pool.turns.now += 100
    pool.turns.hear((("instance", first.id), AbsenceObserved()))
    pool.turns.now += 400
    pool.turns.due()
    assert isinstance(pool.state, Parked)
    assert {one.status for one in pool.turns.index.instances.values()} == {"destroying"}
    for _ in range(10):
        pool.fair_step()
    assert not pool.machines


def test_the_planner_is_asked_about_the_pool_as_it_is(planner: Planner) -> None:
    pool = Pool(1, offers=OFFERS, buying=Buying(spares=0))
    situation = planner.seen[0]
    assert (situation.nodes, situation.spares, situation.boot_s) == (1, 0, None)
    assert situation.offers == World({"sim": OFFERS}, {"sim": CAPABILITIES}).offers
    pool.until(pool.whole)
    look(pool)
    assert planner.seen[-1].boot_s is not None


def test_a_spent_budget_empties_the_nodes_and_the_tasks_of_those_wait(planner: Planner) -> None:
    pool = whole(2, planner)
    pinned = TaskRequested(request_id="t-0", pool=POOL, task=TaskSpec(argv=("x",), node=1))
    spent = pool.state.spend.model_copy(update={"reached": "total"})
    pool.update("small", budget=Budget(total=1e-6))
    pool.turns.put(("pool", POOL), pool.state.model_copy(update={"spend": spent}))
    pool.turns.hear()
    pool.submit(pinned)
    pool.until(lambda: not pool.turns.index.instances)
    assert pool.statuses == ["retired", "retired"]
    assert {one.reason for one in pool.turns.facts("instance_destroyed")} == {"budget"}
    assert pool.turns.ending("t-0") is None
    pool.update("large", budget=Budget(total=1000.0))
    pool.until(lambda: pool.turns.ending("t-0") is not None)
    assert pool.turns.ending("t-0").result == "success"
    assert pool.whole()


def test_what_machines_and_tasks_take_and_cost_outlasts_parking(planner: Planner) -> None:
    pool = whole(
        1,
        planner,
    )
    pool.update("follow", scaling=Scaling(), nodes=Nodes(desired=1, min=1, max=1))
    me: Address = ("pool", POOL)
    pool.turns.hear((me, TaskOver("t-0", 50.0)), (me, MachineBilled(7_000, False, "failed")))
    pool.turns.hear((me, SetUpEnded(CHEAP, None, 100.0, 1)), (me, TaskOver("t-1", 150.0)))
    known = pool.state
    assert known.habits.task_s == pytest.approx(80)
    assert known.habits.boot_s is not None
    assert known.spend.gone == 7_000
    pool.turns.condemn(me)
    parked = pool.state
    assert isinstance(parked, Parked)
    [told] = pool.turns.facts("pool_parked")
    assert told.wasted_micro_usd == 7_000
    pool.resize("wake", 1)
    for state in (parked, pool.state):
        assert (state.habits, state.spend.gone) == (known.habits, 7_000)
        assert state.waste.ended == known.waste.ended


def test_a_restart_tells_the_markets_what_is_held_there(planner: Planner) -> None:
    pool = whole(2, planner)
    here, gone = str(CHEAP.market), str(OTHER.market)
    pool.markets[gone] = MarketState(market=OTHER.market, holders={POOL: 3, "another": 1})
    told = [one for one in pool_rules.resume(pool.state, pool.turns.view()) if isinstance(one, TellMarket)]
    assert [(str(one.news.market), one.news) for one in told] == [
        (here, HoldingTold(CHEAP.market, POOL, 2)),
        (gone, HoldingTold(OTHER.market, POOL, 0)),
    ]


def test_a_drain_whose_replacement_the_budget_forbids_is_refused_or_given_up(planner: Planner) -> None:
    pool = whole(2, planner)
    pool.update("small", budget=Budget(total=1000.0, then="stop-launching"))
    planner.offers = ()
    pool.turns.ask(DrainRequested(request_id="early", pool=POOL, node=0))
    assert pool.turns.ending("early") is None
    spent = pool.state.spend.model_copy(update={"reached": "total"})
    pool.turns.put(("pool", POOL), pool.state.model_copy(update={"spend": spent}))
    pool.turns.ask(DrainRequested(request_id="late", pool=POOL, node=1))
    assert "budget" in pool.turns.ending("late").message
    pool.turns.now += 20
    pool.turns.due()
    assert "budget" in pool.turns.ending("early").message
    assert pool.statuses == ["filling", "filled"]
