"""What users can ask of a pool, and how each request ends."""

from collections.abc import Callable
from typing import Any

from actors.effects import CloseCluster, Launch, OpenCluster
from actors.events import (
    DrainRequested,
    Error,
    InstanceDestroyed,
    InstanceReplaced,
    LaunchRefused,
    PoolRequested,
    PoolResized,
    PoolResizeRequested,
    PoolUpdated,
    PoolUpdateRequested,
    ShutdownRequested,
    TaskCompleted,
    TaskRequested,
)
from actors.messages import LaunchEnded
from actors.pool.state import Active, Destroyed, Parked
from actors.spec import Nodes, TaskSpec
from providers.errors import Fault
from providers.model import Offer
from tests.actors.model import Outside, offer
from tests.actors.pool.machine import OFFERS, spec
from tests.actors.turns import POOL


class Pool(Outside):
    """A pool and its outside, going well unless told otherwise."""

    def __init__(self, nodes: int, offers: tuple[Offer, ...] = OFFERS, **changes: Any) -> None:
        super().__init__(("pool", "node", "instance", "task"), offers)
        self.requests = 0
        self.spec = spec(nodes).model_copy(update=changes)
        self.turns.ask(PoolRequested(request_id="make", pool=POOL, spec=self.spec))

    def until(self, holds: Callable[[], bool]) -> None:
        """Everything goes well until something holds."""
        for _ in range(300):
            if holds():
                return
            self.fair_step()
        raise AssertionError("never")

    @property
    def state(self) -> Any:
        """The pool's state."""
        return self.turns.index.pool

    @property
    def statuses(self) -> list[str]:
        """Of the nodes, by rank."""
        return [node.status for _, node in sorted(self.turns.index.nodes.items())]

    def whole(self) -> bool:
        """Whether all that is desired is ready."""
        return isinstance(self.state, Active) and self.state.whole

    def resize(self, request: str, nodes: int) -> Any:
        """Ask for another size, and answer what ended the request, if anything did."""
        self.turns.ask(PoolResizeRequested(request_id=request, pool=POOL, nodes=nodes))
        return self.turns.ending(request)

    def update(self, request: str, **changes: Any) -> Any:
        """Ask for another spec."""
        changed = self.spec.model_copy(update=changes)
        self.turns.ask(PoolUpdateRequested(request_id=request, pool=POOL, spec=changed))
        return self.turns.ending(request)

    def calls_of(self, kind: type[Any]) -> list[Any]:
        """Calls in flight of one kind."""
        return [call for _, call in self.calls if isinstance(call, kind)]


def ready(nodes: int, **changes: Any) -> Pool:
    """A pool that is whole."""
    pool = Pool(nodes, **changes)
    pool.until(pool.whole)
    return pool


def test_a_newer_resize_overtakes_an_older_one() -> None:
    pool = ready(1)
    assert pool.resize("first", 3) is None
    assert pool.resize("second", 2) is None
    assert pool.turns.ending("first") == PoolResized(pool=POOL, nodes=2, superseded=True)
    pool.until(lambda: pool.turns.ending("second") is not None)
    assert pool.turns.ending("second") == PoolResized(pool=POOL, nodes=2)
    assert pool.statuses[:2] == ["filled", "filled"]


def test_a_resize_that_is_true_already_ends_at_once() -> None:
    pool = ready(2)
    assert pool.resize("same", 2) == PoolResized(pool=POOL, nodes=2)


def test_a_resize_out_of_bounds_is_refused() -> None:
    pool = ready(2)
    pool.update("bounds", nodes=Nodes(desired=2, min=1, max=3))
    for request, nodes in (("much", 4), ("little", 0)):
        refused = pool.resize(request, nodes)
        assert isinstance(refused, Error)
        assert refused.fatal
    assert pool.state.desired == 2


def test_a_pool_that_shrinks_takes_its_highest_ranks() -> None:
    pool = ready(3)
    pool.resize("shrink", 1)
    pool.until(lambda: len(pool.machines) == 1)
    assert pool.statuses == ["filled", "retired", "retired"]
    pool.resize("grow", 2)
    pool.until(lambda: pool.turns.ending("grow") is not None)
    assert pool.statuses == ["filled", "filled", "retired"]


def test_a_pool_that_grows_gives_the_lowest_numbers_back_and_keeps_the_nodes_it_has() -> None:
    pool = ready(4)
    for node in (0, 1):
        pool.turns.ask(DrainRequested(request_id=f"drain-{node}", pool=POOL, node=node, then="remove"))
    pool.until(lambda: len(pool.turns.index.instances) == 2)
    kept = {name for name in pool.turns.index.instances}
    pool.resize("grow", 3)
    pool.until(lambda: pool.turns.ending("grow") is not None)
    assert pool.statuses == ["filled", "retired", "filled", "filled"]
    assert kept <= set(pool.turns.index.instances)
    assert (pool.state.desired, pool.state.removed) == (3, (1,))


def test_an_update_in_place_is_told_to_every_agent() -> None:
    pool = ready(2)
    for link in pool.links.values():
        link.up = True
    assert pool.update("lease", lease_s=77.0) == PoolUpdated(pool=POOL, changed=("lease_s",))
    assert all(link.wish.spec.lease_s == 77 for link in pool.links.values())
    assert not any(link.up for link in pool.links.values())
    assert len(pool.machines) == 2
    assert pool.update("again", lease_s=77.0) == PoolUpdated(pool=POOL, changed=())


def test_what_is_refused_of_a_pools_own_wishes_is_left_alone_ever_longer_until_it_wishes_otherwise() -> None:
    pool, one = ready(1), offer()

    def refused() -> Any:
        pool.turns.hear((("pool", POOL), LaunchEnded(one, Fault.REJECTED, "it has no python3")))
        return pool.state.rejections[str(one.market)]

    began = pool.turns.now
    first = refused()
    assert (first.times, first.until, first.detail) == (1, began + 15, "it has no python3")
    assert refused() == first  # launches that were out together
    pool.turns.now = first.until
    assert refused().until == first.until + 30
    for _ in range(10):
        pool.turns.now = refused().until
    assert refused().until == pool.turns.now + 300
    pool.turns.hear((("pool", POOL), LaunchEnded(one, Fault.CAPACITY, "none left")))
    assert refused().times == 12
    pool.update("mended", lease_s=77.0)
    assert pool.state.rejections == {}


def test_a_refusal_of_one_pools_wishes_is_not_told_to_the_market() -> None:
    pool = Pool(1)
    pool.answer(0, None, True, 0)  # the cluster
    [launch] = pool.calls_of(Launch)
    market = str(launch.offer.market)
    pool.answer(0, Fault.REJECTED, False, 0)
    assert list(pool.state.rejections) == [market]
    assert market not in pool.markets
    (refusal,) = [one.event for one in pool.turns.events if one.event.kind == "launch_refused"]
    assert isinstance(refusal, LaunchRefused) and refusal.detail


def test_an_update_may_change_the_size() -> None:
    pool = ready(1)
    pool.update("more", nodes=Nodes(desired=2))
    pool.until(pool.whole)
    assert pool.statuses == ["filled", "filled"]


def test_broken_steps_park_the_pool_and_an_update_wakes_it() -> None:
    pool = Pool(2, offers=(offer("a"),))
    pool.steps_are_broken = True
    pool.until(lambda: isinstance(pool.state, Parked))
    assert isinstance(pool.state, Parked)
    ending = pool.turns.ending("make")
    assert isinstance(ending, Error)
    assert ending.fatal
    assert len(pool.turns.facts("pool_parked")) == 1
    launched = len(pool.keys)
    for _ in range(30):
        pool.fair_step()
    assert len(pool.keys) == launched, "a parked pool rents nothing"
    pool.steps_are_broken = False
    pool.update("mended")
    assert pool.calls_of(Launch), "an update places its nodes in the same turn"
    pool.until(pool.whole)


def test_a_refused_launch_goes_to_the_next_market_in_the_same_turn() -> None:
    pool = Pool(1)
    pool.answer(0, None, True, 0)  # the cluster
    [first] = pool.calls_of(Launch)
    pool.answer(0, Fault.CAPACITY, False, 0)
    [second] = pool.calls_of(Launch)
    assert (first.offer.zone, second.offer.zone) == ("a", "b")
    assert first.key != second.key
    assert [fact.fault for fact in pool.turns.facts("launch_refused")] == ["capacity"]


def test_nothing_is_placed_above_the_price_cap() -> None:
    pool = Pool(1, max_hourly_cost=0.05)
    for _ in range(20):
        pool.fair_step()
    assert not pool.keys
    assert pool.statuses == ["filling"]
    pool.update("richer", max_hourly_cost=0.15)
    pool.until(pool.whole)
    assert {key for key in pool.machines} == pool.keys


def test_a_drain_that_replaces_ends_when_the_rank_is_filled_again() -> None:
    pool = ready(2)
    pool.turns.ask(DrainRequested(request_id="drain", pool=POOL, node=1))
    pool.until(lambda: pool.turns.ending("drain") is not None)
    ending = pool.turns.ending("drain")
    assert isinstance(ending, InstanceReplaced)
    assert ending.new.node == 1
    assert ending.old_id == "pool-1-1.1.1"


def test_a_drain_that_removes_shrinks_the_pool_by_that_rank() -> None:
    pool = ready(3)
    pool.turns.ask(DrainRequested(request_id="drain", pool=POOL, node=1, then="remove"))
    pool.until(lambda: pool.turns.ending("drain") is not None)
    assert isinstance(pool.turns.ending("drain"), InstanceDestroyed)
    assert pool.statuses == ["filled", "retired", "filled"]
    assert (pool.state.desired, pool.state.removed) == (2, (1,))
    pool.resize("grow", 3)
    pool.until(pool.whole)
    assert pool.statuses == ["filled", "filled", "filled"]


def test_a_drain_of_what_is_not_there_is_refused() -> None:
    pool = ready(1)
    pool.turns.ask(DrainRequested(request_id="drain", pool=POOL, node=4))
    assert isinstance(pool.turns.ending("drain"), Error)


def test_a_full_queue_refuses_tasks() -> None:
    pool = Pool(0, queue_max=2)
    for i in range(3):
        pool.submit(TaskRequested(request_id=f"t{i}-0", pool=POOL, task=TaskSpec(argv=("x",))))
    assert [pool.turns.ending(f"t{i}-0") is None for i in range(3)] == [True, True, False]


def test_tasks_go_by_priority_then_in_the_order_they_came_never_above_the_slots() -> None:
    pool = Pool(1)
    for i, priority in enumerate((0, 0, 1, 0)):
        task = TaskSpec(argv=("x",), priority=priority)
        pool.submit(TaskRequested(request_id=f"t{i}-0", pool=POOL, task=task))
    pool.until(pool.whole)
    placed = [task.id for task in pool.turns.index.tasks.values() if task.status != "pending"]
    assert sorted(placed) == ["t0-0", "t2-0"]  # one runs, one waits in the buffer
    pool.until(lambda: not pool.turns.index.tasks)
    assert {fact.result for fact in pool.turns.facts("task_completed")} == {"success"}


def test_a_shutdown_ends_everything() -> None:
    pool = ready(2)
    for i in range(6):
        pool.submit(TaskRequested(request_id=f"t{i}-0", pool=POOL, task=TaskSpec(argv=("x",))))
    pool.resize("resize", 3)
    pool.turns.ask(ShutdownRequested(request_id="end", cluster_id=POOL))
    cancelled = pool.turns.ending("resize")
    assert isinstance(cancelled, Error)
    late = pool.resize("late", 5)
    assert isinstance(late, Error)
    pool.turns.ask(ShutdownRequested(request_id="end again", cluster_id=POOL))
    pool.until(lambda: isinstance(pool.state, Destroyed))
    assert all(isinstance(pool.turns.ending(f"t{i}-0"), TaskCompleted) for i in range(6))
    assert pool.turns.ending("end").kind == pool.turns.ending("end again").kind == "cluster_destroyed"
    pool.turns.referee.at_the_end(set())
    pool.turns.verdict()


def test_clusters_are_opened_once_each_and_closed_at_the_end() -> None:
    pool = Pool(3, offers=(offer("a"), offer("b")))
    assert len(pool.calls_of(OpenCluster)) == 1
    pool.answer(0, Fault.THROTTLED, False, 0)
    pool.until(pool.whole)
    pool.turns.ask(ShutdownRequested(request_id="end", cluster_id=POOL))
    pool.until(lambda: bool(pool.calls_of(CloseCluster)) or isinstance(pool.state, Destroyed))
    pool.until(lambda: isinstance(pool.state, Destroyed))
    assert len(pool.turns.facts("cluster_provisioned")) == 1


def test_a_shutdown_while_the_cluster_opens_leaves_none_behind() -> None:
    pool = Pool(1)
    pool.turns.ask(ShutdownRequested(request_id="end", cluster_id=POOL))
    pool.answer(0, None, True, 0)
    assert pool.calls_of(CloseCluster)
    pool.until(lambda: isinstance(pool.state, Destroyed))
    assert not pool.keys
