"""How a pool follows its tasks: what it makes of its nodes, machines and tasks, turn by turn."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from actors.decision import Decision, View, World
from actors.events import PoolResized, PoolScaled
from actors.index import Index
from actors.instance.state import Provisioning, Ready
from actors.node.state import Filled, Filling, NodeState, Replacing
from actors.pins import PinSums
from actors.policy.scaling import Grow, Habits, Stay
from actors.pool import ranks
from actors.pool.scale import load_of, outlook, scale, there
from actors.pool.state import Active, Parked, Scaled, Waiting
from actors.spec import PoolSpec, TaskSpec
from actors.task.state import Pending, Running
from providers.model import Handle
from tests.actors.model import cluster_handle, offer

START = 1_700_000_000.0
POOL = "p"
SCALING = {"idle_timeout_s": 300, "up_cooldown_s": 30, "down_cooldown_s": 60}


def spec(**keys: Any) -> PoolSpec:
    usual = {"provider": "sim", "nodes": {"desired": 0, "max": 10}, "scaling": SCALING}
    return PoolSpec.model_validate(usual | keys)


class Here:
    """A pool with what is in it, and its last decision."""

    def __init__(self, nodes: int = 0, began: float = 0.0, **keys: Any) -> None:
        self.now = START
        self.began = began
        self.index = Index()
        self.tasks: dict[str, Pending | Running] = {}
        self.pool = Active(name=POOL, generation=1, spec=spec(**keys), desired=nodes)
        self.index.apply(("pool", POOL), None, self.pool)

    @property
    def view(self) -> View:
        return View(self.now, self.began, 0.5, "o", 1, World(), self.index)

    def change(self, **keys: Any) -> None:
        """Change the pool's state."""
        before, self.pool = self.pool, self.pool.model_copy(update=keys)
        self.index.apply(("pool", POOL), before, self.pool)

    def turn(self, after_s: float = 0.0) -> Decision:
        """The end of a turn, so long after the last."""
        self.now += after_s
        decision = scale(self.pool, self.view)
        assert isinstance(decision.state, Active)
        self.index.apply(("pool", POOL), self.pool, decision.state)
        self.pool = decision.state
        return decision

    @property
    def nodes(self) -> list[int]:
        return ranks.numbers(self.pool.desired, self.pool.removed)

    @property
    def all(self) -> list[int]:
        """With the spares."""
        return ranks.numbers(self.pool.desired + self.pool.spares, self.pool.removed)

    # --- what is in it ----------------------------------------------------------------------------

    def node(self, node: int, state: NodeState) -> None:
        """Put a node in."""
        self.index.apply(("node", str(node)), self.index.nodes.get(node), state)

    def works(self, *nodes: int, dollars: float = 0.1, spot: bool = True) -> None:
        """These nodes have machines that work, from now on."""
        for node in nodes:
            fields = self._machine(node) | {"offer": offer(dollars=dollars, spot=spot)}
            self.index.apply(("instance", f"i{node}"), None, Ready(**fields))
            self.node(node, Filled(pool=POOL, generation=1, node=node, instance_id=f"i{node}"))

    def starts(self, *nodes: int) -> None:
        """These nodes have machines that are being made."""
        for node in nodes:
            machine = Provisioning(**self._machine(node), deadline=START + 1e6)
            self.index.apply(("instance", f"i{node}"), None, machine)
            self.asks(node, instance_id=f"i{node}")

    def asks(self, *nodes: int, **keys: Any) -> None:
        """These nodes want a machine, and wait for a market."""
        for node in nodes:
            common = {"pool": POOL, "generation": 1, "node": node, "request_id": "r", "tries": 1}
            self.node(node, Filling(**(common | {"next_at": START + 1e6} | keys)))

    def leaves(self, node: int, **keys: Any) -> None:
        """The machine of this node goes soon, and another is wanted."""
        common = {"pool": POOL, "generation": 1, "node": node, "request_id": "r", "old_id": f"i{node}"}
        self.node(node, Replacing(**(common | keys)))

    def _machine(self, node: int) -> dict[str, Any]:
        return {
            "id": f"i{node}",
            "key": f"o/{POOL}/{node}/1.1/1",
            "pool": POOL,
            "node": node,
            "request_id": "r",
            "offer": offer(),
            "cluster": cluster_handle(),
            "created_at": self.now,
            "since": self.now,
            "handle": Handle(provider="sim", ref=f"i{node}"),
            "launched_at": self.now,
        }

    def waits(self, count: int, **keys: Any) -> None:
        """So many more tasks wait."""
        for _ in range(count):
            name = f"t{len(self.tasks)}"
            held = {"not_before": keys.pop("not_before")} if "not_before" in keys else {}
            task = Pending(
                id=name,
                pool=POOL,
                spec=TaskSpec(argv=("x",), **keys),
                seq=len(self.tasks),
                since=self.now,
                **held,
            )
            self._task(name, task)

    def runs(self, node: int, count: int = 1) -> list[str]:
        """So many more tasks run on a node; their names."""
        names = []
        for _ in range(count):
            name = f"t{len(self.tasks)}"
            task = Running(
                id=name,
                pool=POOL,
                spec=TaskSpec(argv=("x",)),
                seq=len(self.tasks),
                since=self.now,
                instance_id=f"i{node}",
                node=node,
                pid=1,
                started_at=self.now,
            )
            self._task(name, task)
            names.append(name)
        return names

    def _task(self, name: str, task: Pending | Running) -> None:
        self.index.apply(("task", name), None, task)
        self.tasks[name] = task

    def ends(self, *names: str) -> None:
        """These tasks are over now, and forgotten."""
        for name in names:
            self.index.apply(("task", name), self.tasks[name], None)


def told(decision: Decision) -> tuple[int, int] | None:
    """From how many nodes to how many the decision leads, as its fact says."""
    facts = [one.event for one in decision.facts if isinstance(one.event, PoolScaled)]
    return (facts[0].before, facts[0].nodes) if facts else None


# --- what is counted ------------------------------------------------------------------------------


def test_tasks_nodes_and_machines_are_counted() -> None:
    here = Here(nodes=6, worker={"concurrency": 2})
    here.works(0, 1)
    here.starts(2)
    here.asks(3, 4)
    here.runs(0)
    here.runs(1)
    here.waits(3)
    here.waits(2, node=1)
    here.waits(1, node=9)
    here.waits(1, not_before=START + 60)
    here.change(habits=Habits(boot_s=60, task_s=5), scaled=Scaled(grew_at=5, shrank_at=6), since=7)
    here.now += 40
    load = load_of(here.pool, here.view)
    assert (load.nodes, load.ready, load.starting, load.concurrency) == (6, 2, 1, 2)
    assert (load.waiting, load.placed, load.held_back) == (3, 2, 1)
    assert (load.pins.shapes, load.pins.missing) == ({(2, 1): 1, (1, 0): 1}, (9,))
    assert (load.pins.count, load.pins.tasks, load.pins.waiting) == (2, 3, 3)
    assert (load.least, load.most, load.waited_s) == (0, 10, 40)
    assert (load.grew_at, load.shrank_at, load.sized_at, load.habits.boot_s) == (5, 6, 7, 60)


@pytest.mark.parametrize(
    ("nodes", "bounds"),
    [
        ({"desired": 2, "max": 9}, (2, 9)),
        ({"desired": 2, "min": 0, "max": 9}, (0, 9)),
        ({"desired": 0, "max": 9}, (0, 9)),
        ([3, 5], (3, 5)),
    ],
)
def test_the_least_is_min_or_else_desired(nodes: Any, bounds: tuple[int, int]) -> None:
    here = Here()
    here.change(spec=spec(nodes=nodes))
    it = load_of(here.pool, here.view)
    assert (it.least, it.most) == bounds


def test_scaling_needs_an_upper_bound() -> None:
    with pytest.raises(ValidationError, match=r"scaling needs nodes\.max"):
        spec(nodes=3)


def test_what_could_be_given_up() -> None:
    here = Here(nodes=9, began=START + 50, on_demand={"floor": 1})
    here.works(0, 1, 5, 6, 8)
    here.works(2, dollars=0.5, spot=False)
    here.starts(3)
    here.asks(4)
    here.runs(0)
    here.runs(8)
    here.leaves(8)
    here.leaves(5)
    here.leaves(6, instance_id="i60", tries=1)
    here.now += 100
    it = there(here.pool, here.view)
    assert (it.bare, it.leaving) == ((4, 7), (5,))
    assert [(one.node, one.since, one.on_demand) for one in it.idle] == [
        (1, START + 50, False),  # this daemon did not see what was before
        (2, START + 50, True),
    ]
    assert (it.on_demand, it.wanted_on_demand.floor) == (1, 1)
    here.leaves(5, drain_request="a user waits")
    assert there(here.pool, here.view).leaving == ()
    here.waits(1, node=1, not_before=START + 500)  # it failed there just now
    assert [one.node for one in there(here.pool, here.view).idle] == [2]


def test_a_machine_is_idle_from_the_end_of_its_last_task() -> None:
    here = Here(nodes=1)
    here.works(0)
    here.now += 100
    first, second = here.runs(0, 2)
    here.now += 100
    here.ends(first)
    assert there(here.pool, here.view).idle == ()
    here.ends(second)
    assert len(there(here.pool, here.view).idle) == 1


# --- turns ----------------------------------------------------------------------------------------


def test_a_pool_without_scaling_is_as_its_user_says() -> None:
    here = Here(nodes=3, scaling=None)
    here.waits(50)
    assert here.turn().state is here.pool and outlook(here.pool, here.view) is None
    parked = Parked(name=POOL, generation=1, spec=spec(), desired=0, reason="r")
    assert scale(parked, here.view) == Decision(parked)
    with pytest.raises(ValueError, match="has no scaling"):
        load_of(here.pool, here.view)


def test_a_pool_grows_for_its_queue_and_says_why() -> None:
    here = Here()
    here.change(whole=True)
    here.waits(4)
    grown = here.turn()
    assert told(grown) == (0, 4) and here.nodes == [0, 1, 2, 3]
    fact = grown.facts[0].event
    assert isinstance(fact, PoolScaled) and "4 tasks wait" in fact.why
    assert here.pool.scaled == Scaled(grew_at=START, why=fact.why) and not here.pool.whole
    assert here.turn().state is here.pool  # one decision in flight: those nodes count
    here.waits(3)
    assert told(here.turn(10)) is None and here.pool.scale_at == START + 30
    assert told(here.turn(20)) == (4, 7) and here.pool.scale_at is None


def test_the_lowest_numbers_that_were_taken_out_come_back_first() -> None:
    here = Here(nodes=3)
    here.change(removed=(0, 1, 3, 4))
    assert here.nodes == [2, 5, 6]
    here.waits(5)
    here.turn()
    assert here.nodes == [0, 1, 2, 5, 6]
    here.waits(3)
    here.turn(30)
    assert (here.nodes, here.pool.removed) == ([*range(8)], ())


def test_a_task_for_one_node_brings_up_that_node_and_no_other() -> None:
    here = Here(nodes=1)
    here.works(0)
    here.runs(0)
    here.waits(2, node=6)
    assert told(here.turn()) == (1, 2)
    assert here.nodes == [0, 6]
    assert here.turn(1000).state is here.pool
    here.waits(1)
    here.turn(30)
    assert here.nodes == [0, 1, 6]


def test_only_idle_nodes_go_also_from_the_middle() -> None:
    here = Here(nodes=4)
    here.works(0, 1, 2, 3)
    here.runs(0)
    here.runs(2)
    assert told(here.turn(100)) is None
    assert here.pool.scale_at == START + 300  # then the first was idle for long enough
    assert told(here.turn(199)) is None
    assert told(here.turn(1)) == (4, 2)
    assert (here.nodes, here.pool.removed) == ([0, 2], (1,))
    assert here.pool.scaled.shrank_at == START + 300 and "2 nodes idle" in here.pool.scaled.why


def test_what_is_not_idle_for_long_enough_yet_goes_later() -> None:
    here = Here(nodes=2)
    here.works(0)
    here.now += 100
    here.works(1)
    assert told(here.turn(200)) == (2, 1)
    assert (here.nodes, here.pool.scale_at) == ([1], START + 360)
    assert told(here.turn(60)) is None and here.pool.scale_at == START + 400
    assert told(here.turn(40)) == (1, 0)


def test_a_task_in_between_keeps_the_node() -> None:
    here = Here(nodes=1)
    here.works(0)
    here.turn(299)
    here.waits(1)
    assert told(here.turn(1)) is None and here.nodes == [0]


def test_a_timer_that_is_over_is_not_kept() -> None:
    """A look that is due and finds nothing would be due again at once, for ever."""
    here = Here(nodes=1)
    here.works(0)
    here.turn(100)
    here.runs(0)
    here.turn(200)
    assert here.pool.scale_at is None or here.pool.scale_at > here.now
    here = Here(nodes=1)
    here.works(0)
    here.leaves(0, drain_request="a user waits")
    here.turn(400)
    assert here.pool.scale_at is None or here.pool.scale_at > here.now


def test_a_quiet_turn_changes_nothing_and_looks_at_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    here = Here(nodes=3)
    here.works(0, 1, 2)
    here.turn(100)
    monkeypatch.setattr("actors.pool.scale.there", lambda *_: pytest.fail("looked at every node"))
    before = here.pool
    for _ in range(50):
        assert here.turn(1).state is before


def test_after_a_clock_was_ahead_a_pool_grows_and_shrinks_again() -> None:
    here = Here(nodes=1, began=START + 400 * 86_400)
    here.works(0)
    here.runs(0)
    here.now += 400 * 86_400  # it grew, shrank, was sized and looked at by that clock
    here.works(1)
    late = {"since": here.now, "scaled": Scaled(grew_at=here.now, shrank_at=here.now)}
    here.change(desired=2, scale_at=here.now + 300, **late)
    here.now = START + 5
    here.waits(3)
    assert told(here.turn()) == (2, 4)
    here = Here(nodes=2, began=here.now + 400 * 86_400)
    here.works(0)
    here.runs(0)
    here.now += 400 * 86_400
    here.works(1)
    here.change(scale_at=here.now + 300, **late)
    here.now = START + 5
    assert told(here.turn()) == (2, 1) and here.nodes == [0]


def test_many_tasks_for_one_node_each_are_not_counted_anew_every_turn() -> None:
    here = Here(nodes=400)
    here.works(*range(400))
    for node in range(400):
        here.runs(node)
        here.waits(2, node=node)
    looked = list[int]()
    nodes = here.index.nodes

    class Watched(dict[int, NodeState]):
        def get(self, node: int, default: Any = None) -> Any:
            looked.append(node)
            return nodes.get(node, default)

    here.index.nodes = Watched(nodes)
    first = load_of(here.pool, here.view)
    assert (first.pins.tasks, first.pins.shapes, len(looked)) == (800, {(2, 1): 400}, 400)
    looked.clear()
    here.waits(1, node=7)
    here.runs(8)
    here.ends("t0")
    again = load_of(here.pool, here.view)
    shapes = {(2, 0): 1, (3, 1): 1, (2, 2): 1, (2, 1): 397}
    assert (again.pins.tasks, again.pins.shapes) == (801, shapes)
    assert set(looked) <= {0, 7, 8}


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5)), min_size=20, max_size=60))
def test_what_is_pinned_is_counted_as_if_counted_anew(steps: list[tuple[int, int]]) -> None:
    here, running = Here(nodes=4), list[str]()
    for what, node in steps:
        match what:
            case 0 | 1:
                here.waits(1, node=node)
            case 2 if node not in here.index.nodes:
                here.works(node)
            case 3 if f"i{node}" in here.index.instances:
                running += here.runs(node)
            case 4 if running:
                here.ends(running.pop(node % len(running)))
            case 5:
                here.asks(node)
            case 6:
                removed = tuple(sorted({*here.pool.removed} ^ {node}))
                here.change(removed=removed, desired=max(0, 4 + node - 3))
            case 7 if waits := here.index.pinned_to(node):
                here.ends(waits[0])
            case _:
                pass
        found = load_of(here.pool, here.view)
        shapes, kept = dict(found.pins.shapes), here.index.pins
        here.index.pins = PinSums()
        for number in here.index.pinned:
            here.index.pins.node_changed(number)
        expected = load_of(here.pool, here.view)
        here.index.pins = kept
        assert (shapes, found.pins.missing) == (expected.pins.shapes, expected.pins.missing)
        assert found.pins.waiting == sum(len(queue) for queue in here.index.pinned.values())
        assert found.work == expected.work


def test_an_idle_node_that_loses_its_machine_is_not_filled_again() -> None:
    here = Here(nodes=2)
    here.works(0, 1)
    here.runs(0)
    here.now += 400
    here.index.apply(("instance", "i1"), here.index.instances["i1"], None)
    here.asks(1, next_at=None)
    assert told(here.turn()) == (2, 1) and here.nodes == [0]


def test_what_a_user_sets_lasts_for_the_idle_timeout() -> None:
    here = Here(nodes=5)
    here.change(since=START)
    assert told(here.turn()) is None  # made with five nodes, and nothing to do yet
    here.works(*range(5))
    assert told(here.turn(299)) is None
    assert told(here.turn(1)) == (5, 0)


def test_a_resize_that_waits_for_more_than_is_left_is_superseded() -> None:
    here = Here(nodes=4)
    here.works(0, 1, 2, 3)
    waiting = [
        Waiting(request_id="four", ends_in="pool_resized", nodes=4, deadline=START + 1e6),
        Waiting(request_id="two", ends_in="pool_resized", nodes=2, deadline=START + 1e6),
        Waiting(request_id="made", ends_in="pool_ready", nodes=4, deadline=START + 1e6),
    ]
    here.change(waiting=tuple(waiting), spec=spec(nodes={"desired": 2, "max": 10}))
    decision = here.turn(300)
    assert told(decision) == (4, 2)
    assert [one.event for one in decision.facts if one.ends == ("four",)] == [
        PoolResized(pool=POOL, nodes=2, superseded=True)
    ]
    assert [one.request_id for one in here.pool.waiting] == ["two", "made"]


def test_spares_stay_spares() -> None:
    here = Here(nodes=3)
    here.change(spares=1)
    here.works(0, 1, 2, 3)
    here.runs(3)
    assert told(here.turn(300)) == (3, 1)
    assert here.all == [0, 3]
    here.waits(1, node=6)
    here.turn(100)
    assert here.all == [0, 3, 6]
    here.waits(1, node=3)
    here.ends("t0")
    assert load_of(here.pool, here.view).pins.missing == ()


def test_a_number_above_the_max_is_never_filled() -> None:
    """The task was given when `max` was greater."""
    here = Here()
    here.waits(1, node=10)
    assert told(here.turn()) is None


def test_the_outlook_says_what_comes_next() -> None:
    here = Here()
    here.waits(1)
    assert isinstance(outlook(here.pool, here.view), Grow)
    here.turn()
    here.waits(5)
    here.now += 10
    assert outlook(here.pool, here.view) == Stay(
        "6 tasks wait and 0 are on machines: grew within up_cooldown_s=30", START + 30
    )
