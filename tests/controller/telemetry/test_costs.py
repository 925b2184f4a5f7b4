"""What machines cost, by what they do: the kinds add up to the bill."""

import math
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.registry import CollectorRegistry

from actors.buying import Budget
from actors.instance import parts
from actors.instance import state as instances
from actors.policy.adoption import Quarantined, Reaped
from actors.policy.budget import Spend
from actors.pool import state as pools
from actors.ports import Commit, StateRow
from actors.spec import PoolSpec, TaskSpec
from actors.task import state as tasks
from controller.cost import together
from controller.telemetry.costs import KINDS, LEAK_AFTER_S, Costs
from providers.model import MICRO, BillingUnit, ClusterHandle, Handle, InstanceType, Offer, Value

START = 1_700_000_000.0
HOUR = 3600.0


class House:
    """A pool's commits, by hand; a machine costs a dollar an hour."""

    def __init__(self, unit: BillingUnit = "second", budget: Budget | None = None) -> None:
        self.now = START
        self.leftovers: list[tuple[str, str, int, int]] = []
        self.costs = Costs(now=lambda: self.now, leftovers=lambda: self.leftovers)
        self.registry = CollectorRegistry()
        self.registry.register(self.costs)
        self.unit = unit
        self.states: dict[str, Any] = {}
        self.ended: dict[str, instances.Destroyed] = {}
        self.tasks: dict[str, str] = {}
        spec = PoolSpec(provider=("sim",), budget=budget or Budget())
        self.pool = pools.Active(name="a", generation=1, spec=spec, desired=1, since=START)
        self.commit("pool", "a", self.pool)

    def commit(self, kind: str, name: str, state: Value | None, *, terminal: bool = False) -> None:
        self.costs.committed(Commit("a", [StateRow(kind, name, 1, state, terminal)]))

    def _fields(self, name: str) -> dict[str, Any]:
        offer = Offer(
            id="o",
            instance_type=InstanceType(name="small", vcpus=1, memory_gb=1),
            provider="sim",
            billing_unit=self.unit,
            micro_usd_per_hour=MICRO,
        )
        cluster = ClusterHandle(cluster_id="c", provider="sim", region="", ssh_user="u")
        return {
            "id": name,
            "key": f"o/a/0/{name}/1",
            "pool": "a",
            "node": 0,
            "request_id": "r",
            "offer": offer,
            "cluster": cluster,
            "created_at": self.now,
            "since": self.now,
        }

    def put(self, name: str, kind: type, **fields: Any) -> None:
        """The machine is in this state from now on."""
        before = self.states.get(name)
        common = {"handle": Handle(provider="sim", ref=name), "launched_at": self.now}
        if before is not None:
            common = {"handle": before.handle, "launched_at": before.launched_at}
        state = kind(**(self._fields(name) | common | fields))
        self.states[name] = state
        self.commit("instance", name, state)

    def launch(self, name: str) -> None:
        self.put(name, instances.Provisioning, deadline=self.now + 1e6)

    def ready(self, name: str, **fields: Any) -> None:
        self.put(name, instances.Ready, **fields)

    def end(self, name: str, reason: str, after: float = 0.0) -> None:
        """Gone; its vendor says that it ended so long ago."""
        state = self.states.pop(name)
        at = max(state.launched_at, self.now - after)
        cost = parts.cost(state, at)
        over = instances.Destroyed(
            **(
                self._fields(name)
                | {"reason": reason, "launched": True, "ended_at": at, "cost_micro_usd": cost}
            )
        )
        self.ended[name] = over
        self.commit("instance", name, over, terminal=True)

    def run(self, task: str, machine: str | None) -> None:
        """A task is on the machine; None: it is over."""
        fields = {"id": task, "pool": "a", "spec": TaskSpec(argv=("x",)), "seq": 1}
        if machine is None:
            self.commit("task", task, tasks.Pending(**fields))
        else:
            self.commit("task", task, tasks.Assigned(**fields, instance_id=machine, node=0))

    def kinds(self, pool: str = "a") -> dict[str, float]:
        """Hours by kind, without zeros."""
        self.costs.read()
        return {kind: micro / MICRO for kind, micro in self.costs.by_kind(pool).items() if micro}

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def test_a_machines_day() -> None:
    house = House()
    house.launch("i")
    house.now += 0.25 * HOUR
    assert house.kinds() == {}, "what it comes to is known when it works"
    house.ready("i")
    house.now += 0.5 * HOUR
    house.run("t", "i")
    house.now += 2 * HOUR
    house.run("t", None)
    house.now += 0.5 * HOUR
    house.ready("i", link_up=False, gone_at=1e12)
    house.now += 0.25 * HOUR
    house.ready("i")
    house.put("i", instances.Destroying, reason="scale_in")
    house.now += 0.125 * HOUR
    house.end("i", "scale_in")
    assert house.kinds() == {
        "starting": 0.25,
        "idle": 1.0,
        "working": 2.0,
        "unreachable": 0.25,
        "leaving": 0.125,
    }
    assert house.value("everpool_pool_cost_usd_total", pool="a", kind="working") == 2.0
    assert house.value("everpool_pool_cost_usd_total", pool="a", kind="leaked") == 0.0
    assert house.value("everpool_pool_wasted_usd_total", pool="a") == 0.0


@pytest.mark.parametrize(
    ("reason", "kind"), [("preempted", "preempted"), ("gone", "preempted"), ("failed", "starting")]
)
def test_a_machine_that_never_worked_is_wasted(reason: str, kind: str) -> None:
    house = House()
    house.launch("i")
    house.now += 0.5 * HOUR
    if reason != "gone":
        house.put("i", instances.Destroying, reason=reason)
    house.end("i", reason)
    assert house.kinds() == {kind: 0.5}
    assert house.value("everpool_pool_wasted_usd_total", pool="a") == 0.5


def test_time_from_a_notice_to_the_end_is_preempted_but_for_work() -> None:
    house = House()
    house.ready("i")
    house.run("t", "i")
    house.put("i", instances.Draining, reason="preempted", deadline=1e12, noticed=True)
    house.now += 0.25 * HOUR
    house.run("t", None)
    house.now += 0.5 * HOUR
    house.end("i", "preempted")
    assert house.kinds() == {"working": 0.25, "preempted": 0.5}


def test_a_machine_that_is_not_seen_to_end_is_leaked() -> None:
    house = House()
    house.ready("i")
    house.put("i", instances.Destroying, reason="user")
    house.now += LEAK_AFTER_S + HOUR
    assert house.kinds() == {"leaving": LEAK_AFTER_S / HOUR, "leaked": 1.0}
    house.now += HOUR
    house.end("i", "user")
    assert house.kinds() == {"leaving": LEAK_AFTER_S / HOUR, "leaked": 2.0}


def test_what_nobody_knows_is_leaked() -> None:
    house = House()
    machine = Quarantined(
        key="k",
        handle=Handle(provider="sim", ref="9"),
        micro_usd_per_hour=MICRO,
        seen_at=START,
        reap_at=START,
    )
    house.commit("quarantine", machine.id, machine)
    house.leftovers = [("sim", "disk", 2, MICRO // 2)]
    house.costs.read()
    house.now += HOUR
    assert house.kinds("") == {"leaked": 1.5}
    house.commit("quarantine", machine.id, Reaped(key="k", ended_at=house.now), terminal=True)
    house.leftovers = []
    house.now += HOUR
    assert house.kinds("") == {"leaked": 1.5}


def test_a_machine_in_quarantine_is_leaked_by_the_pool_that_its_key_names() -> None:
    house = House(budget=Budget(per_day=10))
    house.commit("pool", "a", house.pool)
    for ref, key in (("8", "owner/a/0/1.1/1"), ("9", "owner/old/3/1.1/1")):
        machine = Quarantined(
            key=key,
            handle=Handle(provider="sim", ref=ref),
            micro_usd_per_hour=MICRO,
            seen_at=START,
            reap_at=START,
        )
        house.commit("quarantine", machine.id, machine)
    house.leftovers = [("sim", "disk", 2, MICRO // 2)]
    house.costs.read()
    house.now += HOUR
    assert house.value("everpool_pool_cost_usd_total", pool="a", kind="leaked") == 1
    assert house.value("everpool_pool_cost_usd_total", pool="old", kind="leaked") == 1
    assert house.value("everpool_pool_cost_usd_total", pool="", kind="leaked") == 0.5
    # that is no part of the pool's account
    assert house.value("everpool_pool_spent_usd", pool="a", period="day") == 0
    assert house.value("everpool_pool_usd_per_hour", pool="a") == 0
    told = together([], house.costs)
    assert told["unknown_usd"] == 2.5
    assert told["unknown"] == [{"pool": "", "usd": 0.5}, {"pool": "a", "usd": 1}, {"pool": "old", "usd": 1}]
    house.costs.forget("old")
    assert together([], house.costs)["unknown_usd"] == 2.5


def test_what_was_billed_before_the_daemon_began_is_not_counted() -> None:
    house = House()
    house.ready("i")
    house.now += 5 * HOUR
    fresh = Costs(now=lambda: house.now)
    task = tasks.Assigned(id="t", pool="a", spec=TaskSpec(argv=("x",)), seq=1, instance_id="i", node=0)
    rows = [StateRow("instance", "i", 1, house.states["i"]), StateRow("task", "t", 1, task)]
    fresh.load("a", [*rows, StateRow("pool", "a", 1, house.pool)])
    fresh.read()
    assert sum(fresh.by_kind("a").values()) == 0
    house.now += HOUR
    fresh.read()
    assert {kind: micro for kind, micro in fresh.by_kind("a").items() if micro} == {"working": MICRO}


def test_budgets_and_what_is_spent() -> None:
    house = House(budget=Budget(per_day=10, total=100))
    midnight = (START // 86_400 + 1) * 86_400
    house.now = midnight - HOUR
    house.ready("i")
    house.now = midnight + 2 * HOUR
    spend = Spend(gone=20 * MICRO, day=int(START // 86_400), before_day=15 * MICRO)
    house.commit("pool", "a", house.pool.model_copy(update={"spend": spend}))
    assert house.value("everpool_pool_budget_usd", pool="a", period="day") == 10
    assert house.value("everpool_pool_budget_usd", pool="a", period="total") == 100
    assert house.value("everpool_pool_spent_usd", pool="a", period="day") == pytest.approx(2.0, abs=0.001)
    assert house.value("everpool_pool_spent_usd", pool="a", period="total") == pytest.approx(23.0, abs=0.001)
    assert house.value("everpool_pool_usd_per_hour", pool="a") == 1.0
    house.commit("pool", "a", None)
    assert house.value("everpool_pool_budget_usd", pool="a", period="day") is None


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 10**6), unit=st.sampled_from(["second", "minute", "hour"]))
def test_the_kinds_add_up_to_what_was_billed(seed: int, unit: BillingUnit) -> None:
    house, dice, made, shown = House(unit), Random(seed), 0, dict.fromkeys(KINDS, 0)
    for _ in range(60):
        house.now += dice.expovariate(1 / 400)
        name = dice.choice([*house.states, "new"])
        if name == "new":
            made += 1
            house.launch(f"i{made}")
            continue
        match dice.randrange(6):
            case 0:
                house.ready(name)
            case 1:
                house.ready(name, link_up=False, gone_at=1e12)
            case 2:
                house.run(f"t{name}", name if dice.random() < 0.6 else None)
            case 3:
                reason = dice.choice(["preempted", "moved"])
                house.put(name, instances.Draining, reason=reason, deadline=1e12)
            case 4:
                house.put(name, instances.Destroying, reason=dice.choice(["failed", "gone", "unreachable"]))
            case _:
                house.end(name, house.states[name].status, after=dice.choice([0, 0, 5]))
        house.costs.read()
        told = dict(house.costs.by_kind("a"))
        assert all(told[kind] >= shown[kind] for kind in KINDS), "a counter went back"
        shown = told
    for name in list(house.states):
        house.end(name, "failed")
    house.costs.read()
    billed = sum(one.cost_micro_usd for one in house.ended.values())
    counted = sum(house.costs.by_kind("a").values())
    late = sum(math.ceil(5 / 3600 * MICRO) + (MICRO if unit == "hour" else MICRO / 60) for _ in house.ended)
    assert billed <= counted <= billed + late
    assert counted == sum(house.costs.by_market("a").values())
