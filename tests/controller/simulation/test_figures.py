"""What is added up, against arithmetic by hand."""

from collections.abc import Sequence

import pytest

from actors.events import (
    BudgetFreed,
    BudgetReached,
    Envelope,
    Event,
    InstancePreempted,
    LaunchRefused,
    NodeInstance,
    NoticeWithdrawn,
    TaskAttemptEnded,
    TaskCompleted,
)
from actors.events import Instance as ShownInstance
from actors.instance.state import Destroyed, Ready
from actors.node.state import Filled, Filling, NodeState, Replacing
from actors.ports import Commit, StateRow
from controller.simulation.figures import Onlooker, times_to_whole
from providers.model import ClusterHandle, Handle, InstanceType, Offer, Value
from providers.simulated.cloud import Cloud
from providers.simulated.config import SimulatedConfig, SimulatedOffer

CLUSTER = ClusterHandle(cluster_id="c", provider="sim", region="sim", ssh_user="sim")
SPOT = Offer(
    id="o",
    instance_type=InstanceType(name="sim", vcpus=4, memory_gb=16),
    provider="sim",
    region="sim",
    zone="sim-a",
    lifecycle="spot",
    micro_usd_per_hour=3_600_000,
)


class Scene:
    """A pool of two nodes of which one is enough, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0
        self.onlooker = Onlooker({"p": (2, 1, 3)}, lambda: self.now)
        config = SimulatedConfig(offers=(SimulatedOffer(zone="sim-a", spot=3.6),))
        self.cloud = Cloud("sim", config, lambda: self.now, self.onlooker)
        self.onlooker.clouds["sim"] = self.cloud

    def make(self, node: int, incarnation: int = 1) -> str:
        machine = self.cloud.plant(f"owner/p/{node}/{incarnation}/1", "owner", SPOT)
        return machine.ref

    def commit(self, rows: Sequence[tuple[str, str, Value | None]] = (), *events: Event) -> None:
        for event in events:
            self.onlooker.journaled(Envelope(seq=1, at=self.now, pool="p", event=event))
        states = [StateRow(kind, name, 1, state) for kind, name, state in rows]
        self.onlooker.stored(Commit("p", states))

    def fill(self, node: int, ref: str, instance: str) -> None:
        self.commit(
            [("instance", instance, ready(instance, node, ref)), ("node", str(node), filled(node, instance))]
        )


def ready(instance: str, node: int, ref: str) -> Ready:
    return Ready(
        id=instance,
        key="k",
        pool="p",
        node=node,
        request_id="r",
        offer=SPOT,
        cluster=CLUSTER,
        created_at=0,
        since=0,
        handle=Handle(provider="sim", ref=ref),
        launched_at=0,
    )


def filled(node: int, instance: str) -> NodeState:
    return Filled(pool="p", generation=1, node=node, instance_id=instance)


def shown(instance: str) -> NodeInstance:
    inner = ShownInstance(id=instance, status="ready", offer=SPOT)
    return NodeInstance(instance=inner, node=0, provider="sim", ssh_user="sim", ssh_key_path="k")


def test_shares_of_time_are_exact() -> None:
    scene = Scene()
    first, second = scene.make(0), scene.make(1)
    scene.now = 10
    scene.fill(0, first, "a")
    scene.now = 20
    scene.fill(1, second, "b")  # whole from 20 to 50
    scene.now = 50
    scene.cloud.end(scene.cloud.living[first], "preempted")  # the daemon does not know yet
    scene.now = 55
    scene.commit([("node", "0", Filling(pool="p", generation=1, node=0, request_id="r"))])
    scene.now = 60
    third = scene.make(0, 2)
    scene.now = 80
    scene.fill(0, third, "c")  # and from 80 to the end
    scene.now = 100
    figures = scene.onlooker.figures("p", 7_200_000, lambda: scene.now)
    assert figures.availability == (30 + 20) / 100
    assert figures.ready_share == (10 + 2 * 30 + 30 + 2 * 20) / 200
    assert figures.below_min_share == 10 / 100
    assert (figures.whole_first_after_s, figures.whole_again.max_s) == (20, 30)
    assert figures.cost_micro_usd == 1000 * (50 + 100 + 40)  # 3.6 dollars an hour are 1000 a second
    assert figures.on_demand_micro_usd == 2 * 2000 * 100
    assert figures.cost_percent_of_on_demand == 47.5
    assert figures.machine_hours_spot == round(190 / 3600, 3)
    assert (figures.launches, figures.is_whole_at_end, figures.why_short) == (3, True, None)
    course = scene.onlooker.course("p", 7_200_000)
    assert course.ready == [(0, 0), (10, 1), (20, 2), (50, 1), (80, 2)]
    assert course.usd_per_hour == [(0, 7.2), (50, 3.6), (60, 7.2)]
    assert course.on_demand_usd_per_hour == 14.4


def test_a_node_that_is_replaced_works_until_its_machine_goes() -> None:
    scene = Scene()
    scene.fill(0, scene.make(0), "a")
    old = scene.make(1)
    scene.fill(1, old, "b")
    scene.now = 10
    replacing = Replacing(pool="p", generation=1, node=1, request_id="r", old_id="b")
    scene.commit([("node", "1", replacing)], InstancePreempted(instance=shown("b"), reason="spot"))
    scene.now = 30
    scene.fill(1, scene.make(1, 2), "c")
    scene.cloud.end(scene.cloud.living[old], "terminated")
    scene.commit([("instance", "b", None)])
    scene.now = 40
    figures = scene.onlooker.figures("p", None, lambda: scene.now)
    assert (figures.availability, figures.whole_again.count, figures.preemptions) == (1, 0, 1)
    assert (figures.launches_per_loss, figures.on_demand_usd, figures.cost_percent_of_on_demand) == (
        1,
        None,
        None,
    )


def test_what_is_counted() -> None:
    scene = Scene()
    preempted = InstancePreempted(instance=shown("a"), reason="spot")
    refused = LaunchRefused(instance_id="a", market="sim/a", fault="capacity")
    lost = TaskAttemptEnded(task_id="t", attempt=1, instance_id="a", result="resource_failure")
    done = TaskCompleted(task_id="t", instance=None, duration=1, success=True, result="success")
    failed = TaskCompleted(task_id="u", instance=None, duration=1, success=False, result="failure")
    other = InstancePreempted(instance=shown("b"), reason="spot")
    scene.commit((), preempted, other, NoticeWithdrawn(instance_id="a"), refused, lost)
    scene.now = 7
    scene.commit((), done, done, failed)
    scene.now = 10
    figures = scene.onlooker.figures("p", None, lambda: scene.now)
    assert (figures.preemptions, figures.launches_refused, figures.availability) == (1, 1, 0)
    assert (figures.is_whole_at_end, figures.why_short) == (False, "sim/a: capacity")
    assert figures.tasks is not None
    assert figures.tasks.model_dump() == {
        "asked": 3,
        "done": 2,
        "failed": 1,
        "attempts_lost": 1,
        "all_done_after_s": 7,
    }


def test_the_pools_own_words_are_told() -> None:
    scene = Scene()
    waits = Filling(pool="p", generation=1, node=0, request_id="r", why_waiting="waits after a failure")
    scene.commit([("node", "0", waits)], LaunchRefused(instance_id="a", market="sim/a", fault="quota"))
    figures = scene.onlooker.figures("p", None, lambda: scene.now)
    assert figures.why_short == "waits after a failure (sim/a: quota)"


def test_a_pool_that_is_short_because_of_its_budget_says_so() -> None:
    scene = Scene()
    reached = BudgetReached(
        pool="p", period="total", spent_micro_usd=4_990_000, limit_micro_usd=5_000_000, then="drain"
    )
    scene.commit([], LaunchRefused(instance_id="a", market="sim/a", fault="quota"), reached)
    figures = scene.onlooker.figures("p", None, lambda: scene.now)
    assert figures.why_short == "the whole budget of $5.00 is reached ($4.99 spent): drain"
    scene.commit([], BudgetFreed(pool="p"))
    assert scene.onlooker.figures("p", None, lambda: scene.now).why_short == "sim/a: quota"
    assert figures.availability is None  # no time has passed


def test_a_destroyed_machine_is_not_ready() -> None:
    scene = Scene()
    ref = scene.make(0)
    scene.fill(0, ref, "a")
    known = ready("a", 0, ref).model_dump(include=set(Destroyed.model_fields) - {"status"})
    scene.commit([("instance", "a", Destroyed(**known, reason="gone", launched=True))])
    scene.now = 10
    assert scene.onlooker.figures("p", None, lambda: scene.now).ready_share == 0


@pytest.mark.parametrize(
    ("spells", "wanted"),
    [
        ([], (0, None, None, None)),
        ([5_000_000], (1, 5, 5, 5)),
        ([3_000_000, 1_000_000, 2_500_000, 9_000_000], (4, 2.5, 9, 9)),
        ([n * 1_000_000 for n in range(1, 101)], (100, 50, 95, 100)),
    ],
)
def test_times_to_whole(spells: list[int], wanted: tuple[object, ...]) -> None:
    assert tuple(times_to_whole(spells).model_dump().values()) == wanted
