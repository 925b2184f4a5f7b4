"""What is told of a pool, a task, an instance: the true reason, in sentences and as values."""

import json
from dataclasses import replace
from typing import Any

import pytest

from actors.buying import Budget, Scaling
from actors.events import (
    BootstrapFailed,
    Envelope,
    InstanceDestroyed,
    InstancePreempted,
    InstanceReplaced,
    LaunchRefused,
    TaskAttemptEnded,
)
from actors.instance.facts import node_instance
from actors.instance.state import InstanceState
from actors.node.state import NodeState
from actors.policy.budget import Spend
from actors.policy.built import Build
from actors.policy.situation import Rejection
from actors.pool import state as pools
from actors.pool.state import PoolState, Waiting
from actors.spec import Image, Nodes, PoolSpec, TaskSpec, Worker
from actors.task.state import Pending
from controller.explain import explained
from controller.explain_one import Around, ahead_of, instance_explained, task_explained
from controller.explain_parts import Picture, SetupFailed, forbidden
from tests.controller.pictures import (
    DEAR,
    NOW,
    SPEC,
    SPOT_A,
    SPOT_B,
    ZETA,
    active,
    filled,
    machine,
    market,
    missing,
    offer,
    picture,
    world,
)
from tests.controller.test_status import a_task, node

THREE, MACHINES = [filled(rank) for rank in range(3)], [machine(rank) for rank in range(3)]


def a_wait() -> Waiting:
    return Waiting(request_id="grow", ends_in="pool_resized", nodes=5, deadline=NOW + 60)


def story(told: dict[str, Any]) -> str:
    json.dumps(told, allow_nan=False)  # it goes over the wire
    return "\n".join(told["story"])


# --- pools ----------------------------------------------------------------------------------------


def test_three_of_five_because_a_market_is_full() -> None:
    words = "InsufficientInstanceCapacity"
    full = market(
        SPOT_A, last_fault="capacity", last_detail=words, last_refusal_at=NOW - 120, bad_at=NOW - 120
    )
    waits = [missing(rank, "acme/east/a/small/spot had no machines") for rank in (3, 4)]
    spec = SPEC.model_copy(update={"provider": ("acme",)})
    told = explained(
        picture(
            active(spec, short_since=NOW - 720),
            [*THREE, *waits],
            MACHINES,
            around=world(SPOT_A, markets=[full]),
        )
    )
    assert (told["ready"], told["desired"], told["status"]) == (3, 5, "short")
    assert told["there"] == {
        "ready": 3,
        "spares": 0,
        "starting": 0,
        "leaving": 0,
        "spot": 3,
        "on_demand": 0,
    }
    [group] = told["missing_groups"]
    assert (group["count"], group["nodes"], group["next_at"]) == (2, [3, 4], NOW + 14)
    assert [one["node"] for one in told["missing"]] == [3, 4]
    [row] = told["markets"]
    assert (row["tried"], row["held"], row["memory"]["last_detail"]) == (True, 3, words)
    text = story(told)
    assert "p is short: 3 of 5 nodes are ready, short for 12m." in text
    assert "Nodes 3-4 have waited 12m for a machine: acme/east/a/small/spot had no machines" in text
    assert "in 14s (15:00:14 UTC)" in text
    assert f"acme/east/a/small/spot refused 2m ago (14:58:00 UTC), capacity: {words}." in text
    assert told["next"][0] == {"at": NOW + 14, "what": "nodes 3-4 ask for a machine again"}
    assert [one["why"] for one in told["machines"]] == ["cheapest of 2 markets"] * 3


def test_one_provider_is_throttled() -> None:
    slow = market(
        ZETA,
        last_fault="throttled",
        last_detail="Too many requests",
        last_refusal_at=NOW - 5,
        cool_until=NOW + 240,
    )
    told = explained(
        picture(
            active(),
            [*THREE, filled(3), missing(4, "all rest")],
            [*MACHINES, machine(3, sold=SPOT_B)],
            around=world(SPOT_A, ZETA, markets=[slow]),
        )
    )
    assert told["cooling"] == [
        {
            "market": "zeta/east/z/small/spot",
            "until": NOW + 240,
            "fault": "throttled",
            "detail": "Too many requests",
        }
    ]
    [row] = [one for one in told["markets"] if not one["allowed"]]
    assert row["market"].startswith("zeta/") and "throttled" in row["why"]
    text = "zeta/east/z/small/spot rests until 15:04:00 UTC: refused (throttled), saying 'Too many requests'."
    assert text in told["story"]
    assert {"at": NOW + 240, "what": "zeta/east/z/small/spot may be tried again"} in told["next"]


def test_a_provider_is_passed_over_as_a_whole() -> None:
    around = world(SPOT_A, ZETA, down={"zeta": "does not list its machines: 503"})
    told = explained(picture(active(), [*THREE, missing(3), missing(4)], MACHINES, around=around))
    assert "zeta is passed over: does not list its machines: 503." in told["story"]
    assert [one["down"] for one in told["providers"]] == [None, "does not list its machines: 503"]


def test_the_days_budget_is_reached() -> None:
    spec = PoolSpec(provider=("acme",), nodes=Nodes(desired=2), budget=Budget(per_day=10))
    day = int(NOW // 86_400)
    spend = Spend(gone=12_000_000, day=day, before_day=2_000_000, reached="day", budget=spec.budget)
    retired = [node("retired", rank, since=NOW - 60) for rank in (0, 1)]
    told = explained(picture(active(spec, spend=spend, short_since=NOW - 60), retired))
    cash = told["money"]
    assert (cash["usd_today"], cash["usd_total"], cash["reached"]) == (10.0, 12.0, "day")
    assert (cash["allowance_usd"], cash["until"]) == (0.0, 1_795_392_000.0)
    assert cash["forbids"].startswith("the day's budget of $10.00")
    text = story(told)
    assert "Nodes 0-1 have waited 1m for a machine: the day's budget of $10.00: $10.00 spent" in text
    assert "Spent $10.00 of $10.00 today: the day's budget is reached, and its machines are ended" in text
    assert "until 2026-11-23 00:00:00 UTC." in text
    assert {"at": 1_795_392_000.0, "what": "a new day begins, and its budget"} in told["next"]


def test_a_budget_that_is_not_reached_forbids_nothing() -> None:
    spec = PoolSpec(provider=("acme",), nodes=Nodes(desired=2), budget=Budget(total=100))
    told = explained(picture(active(spec), [filled(0), missing(1, "sold out")], [machine(0)]))
    cash = told["money"]
    assert (cash["forbids"], cash["reached"], cash["total"]) == ("", None, 100.0)
    assert 99 < cash["allowance_usd"] < 100
    assert "Spent $0.25 of $100.00 in all." in told["story"]


def test_no_offer_matches() -> None:
    spec = SPEC.model_copy(update={"vcpus": 64.0, "region": "east"})
    told = explained(picture(active(spec), [missing(rank, "no provider has an offer") for rank in range(5)]))
    assert told["markets"] == []
    assert told["funnel"] == [
        {"name": "all", "removed": 0, "left": 4},
        {"name": "vcpus", "removed": 4, "left": 0},
    ]
    text = "No offer fits: of 4 offers of acme, zeta, vcpus (64) removed all of them (has 2 vcpus)."
    assert text in told["story"]


def test_a_parked_pool() -> None:
    why = "machines could not be set up: mend the image's steps, then update the pool"
    state = pools.Parked(name="p", generation=1, spec=SPEC, desired=5, reason=why, since=NOW - 600)
    told = explained(picture(state, [*THREE, missing(3, "parked"), missing(4, "parked")], MACHINES))
    assert (told["status"], told["reason"], told["ready"]) == ("parked", why, 3)
    assert f"It was parked 10m ago (14:50:00 UTC): {why}." in told["story"]
    assert "It launches nothing until it is updated or resized; machines that work stay." in told["story"]
    assert all(row["why"] == "the pool is parked" and not row["allowed"] for row in told["markets"])


def test_a_paused_pool() -> None:
    paused = pools.Paused(by="unix:7", since=NOW - 600)
    state = active(paused=paused, look_at=NOW + 5, scale_at=NOW + 5)
    why = "the pool is paused by unix:7"
    told = explained(picture(state, [*THREE, missing(3, why), missing(4, "sold out")], MACHINES))
    assert (told["status"], told["ready"]) == ("paused", 3)
    assert told["reason"].startswith("paused by unix:7 since ")
    assert told["paused"] == {"by": "unix:7", "since": NOW - 600}
    assert "It was paused by unix:7 10m ago (14:50:00 UTC): nothing is launched" in story(told)
    assert "`everpool resume p`" in story(told)
    assert [(one["why"], one["next_at"]) for one in told["missing_groups"]] == [(why, None)]
    assert all(row["why"] == "the pool is paused" and not row["allowed"] for row in told["markets"])


def test_the_step_that_failed_is_told_and_what_to_do_with_a_pool_of_the_config() -> None:
    failed = SetupFailed("i-9", "bad", "oh no")
    given: dict[str, Any] = {"name": "p", "generation": 1, "spec": SPEC, "desired": 5, "since": NOW}
    state = pools.Parked(**given, reason="broken steps", made_by="config")
    told = explained(replace(picture(state, THREE, MACHINES), failed=failed))
    step = "The set-up of i-9 failed in step 'bad': oh no. `everpool explain p --instance i-9` says more."
    assert step in told["story"]
    assert "changed in the config (then `everpool reload`)" in story(told)
    trying = active(failures={str(SPOT_A.market): 1})
    assert step in explained(replace(picture(trying, [missing(0, "x")]), failed=failed))["story"]


def test_the_budget_is_told_to_who_waits_for_it() -> None:
    spec = PoolSpec(provider=("acme",), nodes=Nodes(desired=1), budget=Budget(total=2))
    spend = Spend(gone=2_000_000, day=int(NOW // 86_400), reached="total", budget=spec.budget)
    waits = picture(active(spec, spend=spend), [missing(0, "the whole budget of $2.00: $2.00 spent")])
    told = explained(waits)
    assert told["story"][0].endswith("; its budget is reached.")
    [group] = told["missing_groups"]
    assert group["next_at"] is None
    forbids = forbidden(waits)
    assert "raise it to go on" in forbids
    for nodes in (missing(0, "x"), node("retired", 0, since=NOW - 60)):
        there = Around(active(spec), {0: nodes}, {}, {}, NOW, forbids)
        text = story(task_explained(pending(), there, (0, 1), ()))
        assert f"The budget lets no machine be launched: {forbids}." in text
        assert "asks again" not in text


def test_a_node_waits_since_it_was_wanted_again() -> None:
    gone = node("retired", 0, since=NOW - 9000)
    told = explained(picture(active(short_since=NOW - 60), [gone]))
    assert [one["since"] for one in told["missing"] if one["node"] == 0] == [NOW - 60]


def test_a_budget_of_no_machine_is_told_so() -> None:
    spec = PoolSpec(provider=("acme",), nodes=Nodes(desired=1), budget=Budget(per_day=0.01))
    spend = Spend(day=int(NOW // 86_400), budget=spec.budget)
    told = explained(picture(active(spec, spend=spend), [missing(0, "the day's budget")]))
    assert "an hour needs" in told["money"]["forbids"] and "is $0.01 a day" in story(told)


def test_words_of_a_refusal_do_not_name_launches_of_others() -> None:
    words = "launch owner-1/other/3/1/1: all taken"
    full = market(SPOT_A, last_fault="capacity", last_detail=words, last_refusal_at=NOW - 20)
    told = explained(
        picture(active(), [missing(0, f"capacity: {words}")], around=world(SPOT_A, markets=[full]))
    )
    assert "other/3" not in json.dumps(told)
    assert "capacity: all taken" in story(told)


def test_what_is_next_is_not_that_placement_looks_again() -> None:
    state = active(look_at=NOW + 3, waiting=(a_wait(),))
    told = explained(picture(state, [*THREE, filled(3), filled(4)], MACHINES))
    assert told["next"][0]["what"].startswith("placement looks again")
    assert told["story"][-1].startswith("Next, in 1m (15:01:00 UTC): request grow ends in an Error")


def test_a_node_that_pauses_after_failures() -> None:
    paused = missing(3, "waits after a failure", backing_off=True, losses=3, next_at=NOW + 200)
    told = explained(picture(active(), [*THREE, paused, filled(4)], [*MACHINES, machine(4)]))
    [one] = told["missing"]
    assert (one["failures_in_a_row"], one["next_at"]) == (3, NOW + 200)
    text = story(told)
    assert "Node 3 has waited 12m for a machine: waits after a failure: 3 machines in a row" in text
    assert "looked at again in 3m20s (15:03:20 UTC)" in text


def test_a_node_whose_machine_works_on_while_it_is_replaced_lacks_nothing() -> None:
    spec = SPEC.model_copy(update={"nodes": Nodes(desired=4), "image": Image(env={"A": "b"})})
    mark = Build.of(spec, None).mark
    renewed = node("replacing", 3, old_id="i-3", instance_id="i-3b", moving=True, since=NOW - 20)
    machines = [*(machine(rank, image=mark) for rank in range(3)), machine(3, image="older")]
    coming = machine(3, "bootstrapping", name="i-3b", deadline=NOW + 300, image=mark)
    state = active(spec, roll=pools.Roll(since=NOW - 60))
    told = explained(picture(state, [*THREE, renewed], [*machines, coming]))
    assert (told["ready"], told["missing"], told["missing_groups"]) == (4, [], [])
    [one] = told["replacing"]
    assert (one["node"], one["old_instance_id"], one["instance_id"]) == (3, "i-3", "i-3b")
    assert [one["id"] for one in told["machines"] if one["outdated"]] == ["i-3"]
    text = story(told)
    assert "Node 3 is being replaced by i-3b, its machine works on: the machine is being set up" in text
    assert "has waited" not in text and "its own is going" not in text
    assert "1 machine of an older spec, being replaced a few at a time." in text  # as many as may be
    asking = renewed.model_copy(update={"instance_id": None, "why_waiting": "all rest"})
    told = explained(picture(state, [*THREE, asking], machines))
    assert "Node 3 is to be replaced, its machine works on: all rest." in story(told)


def test_a_machine_on_its_way_a_replacement_and_a_spare() -> None:
    spec = SPEC.model_copy(update={"scaling": Scaling(), "nodes": Nodes(desired=5, min=1, max=9)})
    state = active(
        spec,
        spares=1,
        scaled=pools.Scaled(grew_at=NOW - 60, why="12 tasks wait for 3 nodes"),
        scale_at=NOW + 10,
        look_at=NOW + 600,
    )
    nodes = [
        *THREE,
        node("filling", 3, instance_id="i-3", since=NOW - 20),
        node("replacing", 4, old_id="i-4", instance_id="i-4b", since=NOW - 20),
        filled(5),
    ]
    machines = [
        *MACHINES,
        machine(3, "bootstrapping", deadline=NOW + 300),
        machine(4, "draining", reason="preempted", deadline=NOW + 90),
        machine(4, "requested", name="i-4b"),
        machine(5),
    ]
    told = explained(picture(state, nodes, machines))
    assert (told["ready"], told["status"]) == (4, "degraded")  # the spare is no desired node
    assert (told["there"]["spares"], told["there"]["starting"], told["there"]["leaving"]) == (1, 2, 1)
    assert [one["id"] for one in told["machines"] if one["spare"]] == ["i-5"]
    assert [one["at"] - NOW for one in told["next"]] == [10, 90, 300, 600]
    text = story(told)
    assert "(2 starting, 1 leaving, 1 of 1 spare)" in text
    assert (
        "Node 4 has waited 20s for another machine, its own is going: is being ordered at acme/east/a" in text
    )
    assert (
        "Node 3 has waited 20s for a machine: the machine is being set up" in text
        and "given up in 5m" in text
    )
    assert "It grew 1m ago (14:59:00 UTC): 12 tasks wait for 3 nodes." in text


def test_why_a_pool_does_not_grow_yet() -> None:
    spec = SPEC.model_copy(update={"scaling": Scaling(), "nodes": Nodes(desired=3, min=1, max=3)})
    waiting = [pending(f"t-{number}", number) for number in range(7)]
    other = [pending("elsewhere", 99, pool="q")]
    here = picture(active(spec), THREE, MACHINES)
    told = explained(Picture(here.pool, here.world, NOW, [*waiting, *other]))
    assert "7 tasks wait" in told["scaling"]["waits_for"]
    assert any("as many nodes as nodes.max=3 allows" in line for line in told["story"])
    assert explained(here)["scaling"]["waits_for"] == ""


def test_what_the_provider_refuses_of_this_pools_wishes() -> None:
    rejection = Rejection(times=2, until=NOW + 30, detail="no such image")
    state = active(rejections={str(SPOT_A.market): rejection})
    around = world(SPOT_A)
    told = explained(picture(state, [*THREE, missing(3), missing(4)], MACHINES, around=around))
    assert (
        "acme/east/a/small/spot rests until 15:00:30 UTC: refused (rejected), saying 'no such image'."
        in (told["story"])
    )
    assert told["markets"][0]["rejected"]["times"] == 2


def test_a_whole_pool_and_one_of_no_nodes() -> None:
    spec = SPEC.model_copy(update={"nodes": Nodes(desired=3)})
    told = explained(picture(active(spec), THREE, MACHINES))
    assert told["story"][0] == "p is ready: 3 nodes of 3."
    assert told["missing"] == []
    none = explained(picture(active(spec, desired=0)))
    assert none["story"] == ["p is ready: it wants no nodes."]


def test_many_nodes_are_told_in_groups_and_within_bounds() -> None:
    spec = SPEC.model_copy(update={"nodes": Nodes(desired=2000)})
    nodes = [missing(rank, f"reason {rank % 3}") for rank in range(2000)]
    told = explained(picture(active(spec), nodes))
    assert told["missing_count"] == 2000
    assert len(told["missing"]) == 200
    assert [group["count"] for group in told["missing_groups"]] == [667, 667, 666]
    assert len(told["story"]) < 12


# --- tasks ----------------------------------------------------------------------------------------


def around(
    *nodes: NodeState,
    machines: tuple[InstanceState, ...] = (),
    on: dict[str, tuple[str, ...]] | None = None,
    pool: PoolState | None = None,
) -> Around:
    there = {one.node: one for one in nodes}
    return Around(pool or active(), there, {one.id: one for one in machines}, on or {}, NOW)


def pending(name: str = "t", seq: int = 7, **more: Any) -> Pending:
    spec = {key: more.pop(key) for key in ("priority", "node", "retries") if key in more}
    given = {"spec": TaskSpec(argv=("x",), **spec), "queued_at": NOW - 240} | more
    made = a_task("pending", name, seq, **given)
    assert isinstance(made, Pending)
    return made


def test_a_pending_task_knows_its_place() -> None:
    tasks = [
        pending("mine", 7),
        pending("early", 3),
        pending("urgent", 9, priority=5),
        pending("later", 8),
        pending("held", 1, not_before=NOW + 5),
        pending("pinned", 2, node=0),
        a_task("running", "r", 1),
    ]
    assert ahead_of(tasks[0], tasks) == (2, 4)  # type: ignore[arg-type]
    busy = active(SPEC.model_copy(update={"worker": Worker(concurrency=2)}))
    its = around(*THREE, missing(3, "no capacity"), machines=(machine(0),), on={"i-0": ("r", "s")}, pool=busy)
    told = task_explained(pending("mine"), its, (2, 4), ())
    assert told["queue"] == {"ahead": 2, "waiting": 4, "slots": 2, "slots_used": 2, "nodes_ready": 1}
    text = story(told)
    assert "Task mine (x) has been pending for 4m, before attempt 1." in text
    assert "2 tasks go before it of 4 in the queue (priority 0)." in text
    assert "All 2 slots are taken: 1 machine of 2 slots." in text
    assert "Node 3 has no machine for 12m: no capacity; it asks again in 14s (15:00:14 UTC)." in text


def test_a_task_that_is_pinned_to_a_node_without_a_machine() -> None:
    its = around(missing(2, "sold out"))
    told = task_explained(pending(node=2), its, None, ())
    text = (
        "It runs only on node 2, which has no machine for 12m: sold out; it asks again in 14s (15:00:14 UTC)."
    )
    assert text in told["story"]
    assert told["next_at"] == NOW + 14
    gone = task_explained(pending(node=9), its, None, ())
    assert "It runs only on node 9, which does not exist." in gone["story"]


def test_a_task_that_is_pinned_to_a_busy_or_silent_node() -> None:
    busy = around(filled(0), machines=(machine(0),), on={"i-0": ("other",)})
    told = task_explained(pending(node=0), busy, None, ())
    assert "Its only slot is taken, by other." in told["story"]
    silent = machine(0, link_up=False, silent_since=NOW - 60)
    told = task_explained(pending(node=0), around(filled(0), machines=(silent,)), None, ())
    assert "That machine has been silent for 1m, and takes no task now." in told["story"]


def test_a_task_that_is_held_back_after_interruptions() -> None:
    task = pending(not_before=NOW + 8, failures=1, interruptions=2, retries=3, attempt=4)
    ended = TaskAttemptEnded(
        task_id="t", attempt=3, instance_id="i-1", result="resource_failure", reason="preempted"
    )
    log = [Envelope(seq=1, at=NOW - 2, pool="p", event=ended)]
    told = task_explained(task, around(*THREE), None, log)
    text = story(told)
    assert "Of its retries 1 of 3 were used by failures of its own, 2 of 10 by lost machines." in text
    assert "it may be placed in 8s (15:00:08 UTC)" in text
    assert "Attempt 3 ended 2s ago (14:59:58 UTC) on i-1: resource failure (preempted)." in text


def test_a_task_in_a_paused_pool() -> None:
    state = active(paused=pools.Paused(by="unix:7", since=NOW - 600))
    told = task_explained(pending(), around(pool=state), (0, 1), ())
    text = "The pool was paused by unix:7 10m ago (14:50:00 UTC): no task starts until `everpool resume p`."
    assert text in told["story"]


def test_a_task_in_a_parked_pool() -> None:
    state = pools.Parked(name="p", generation=1, spec=SPEC, desired=5, reason="broken steps", since=NOW)
    told = task_explained(pending(), around(pool=state), (0, 1), ())
    assert "The pool is parked: broken steps. Only machines that are there take tasks." in told["story"]
    assert "It is the next of 1 in the queue (priority 0)." in told["story"]


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("unreachable", "it was given up: it could not be reached any more."),
        ("gone", "it was seen to be gone: gone."),
        ("unhealthy: no disk", "it was given up: unhealthy: no disk."),
    ],
)
def test_whether_a_machine_was_told_to_go(reason: str, said: str) -> None:
    gone = machine(0, "destroyed", since=NOW - 40, reason="preempted", ended_at=NOW - 42)
    log = heard(InstancePreempted(instance=node_instance(machine(0)), reason=reason))
    assert said in story(instance_explained(gone, around(), None, log))


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ("assigned", "was given to i on node 0"),
        ("created", "waits on node 0 (i) for a free slot"),
        ("running", "has been running on node 0 (i)"),
        ("stopping", "is being stopped on node 0 (user)"),
        ("invalid", "reports what does not fit (odd)"),
        ("stopped", "success, attempt 1."),
    ],
)
def test_what_a_task_is_at_otherwise(status: str, text: str) -> None:
    told = task_explained(a_task(status, "t", 1), around(), None, ())
    assert text in told["story"][0]


# --- instances ------------------------------------------------------------------------------------


def heard(*events: Any) -> list[Envelope]:
    return [Envelope(seq=i, at=NOW - 100 + i, pool="p", event=one) for i, one in enumerate(events)]


def test_an_instance_that_was_preempted() -> None:
    lived = machine(0)
    gone = machine(
        0, "destroyed", since=NOW - 40, reason="preempted", ended_at=NOW - 42, cost_micro_usd=250_000
    )
    log = heard(
        InstancePreempted(instance=node_instance(lived), reason="spot interruption in 120 s"),
        InstanceReplaced(request_id="r", old_id="i-0", new=node_instance(machine(0, name="i-0b", sold=DEAR))),
        InstanceDestroyed(instance_id="i-0", reason="preempted", cost_micro_usd=250_000),
    )
    told = instance_explained(gone, around(), "i-0b", log)
    text = story(told)
    assert "i-0 was ordered 1h ago (14:00:00 UTC) for node 0 of p: acme/east/a/small/spot, $0.25" in text
    assert "Why there: cheapest of 2 markets." in text
    assert "At 14:58:20 UTC it was told to go: spot interruption in 120 s." in text
    assert "At 14:58:21 UTC i-0b filled node 0 in its place." in text
    assert "It has been gone for 40s (since 14:59:20 UTC), preempted: the market took it back." in text
    assert "It lived 59m18s and cost $0.25." in text
    assert told["usd"] == 0.25


def test_an_instance_that_was_refused_and_one_that_failed() -> None:
    never = machine(0, "destroyed", reason="not launched", launched=False)
    refused = LaunchRefused(
        instance_id="i-0", market="acme/east/a/small/spot", fault="quota", detail="limit of 4"
    )
    told = instance_explained(never, around(), None, heard(refused))
    assert "At 14:58:20 UTC the launch was refused (quota): limit of 4." in told["story"]
    assert "It never became a machine (not launched: the launch was refused)." in (told["story"])
    failed = BootstrapFailed(instance=node_instance(machine(1)), phase="packages", error="exit 100")
    told = instance_explained(machine(1, "destroying", reason="failed"), around(), None, heard(failed))
    assert "At 14:58:20 UTC its set-up failed in 'packages': exit 100." in told["story"]


@pytest.mark.parametrize(
    ("status", "more", "text"),
    [
        ("requested", {}, "It is being ordered at acme/east/a/small/spot, for 50m."),
        ("provisioning", {"deadline": NOW + 60}, "given up in 1m (15:01:00 UTC) if not."),
        ("bootstrapping", {"deadline": NOW + 60}, "given up in 1m (15:01:00 UTC) if not."),
        ("ready", {}, "It has been ready for 50m with 1 task (t); it has cost $0.25."),
        ("ready", {"silent_since": NOW - 30, "gone_at": NOW + 30}, "and silent for 30s: given up in 30s"),
        (
            "draining",
            {"deadline": NOW + 60},
            "It is leaving (preempted: the market took it back) with 1 task",
        ),
        ("destroying", {"tries": 3, "last_fault": "unknown"}, "3 tries, the last one refused: unknown."),
    ],
)
def test_where_an_instance_is(status: str, more: dict[str, Any], text: str) -> None:
    told = instance_explained(machine(0, status, **more), around(on={"i-0": ("t",)}), None, ())
    assert text in story(told)


def test_offers_that_the_pool_never_asked_for_are_not_its_markets() -> None:
    odd = offer("q", provider="other")
    told = explained(picture(active(), [*THREE, missing(3), missing(4)], MACHINES, around=world(SPOT_A, odd)))
    assert [row["market"] for row in told["markets"]] == ["acme/east/a/small/spot"]
    assert told["funnel"][1] == {"name": "provider", "removed": 1, "left": 1}
    assert [one["offers"] for one in told["providers"]] == [1, None]


def test_the_reason_of_a_pool_that_fails_at_set_up() -> None:
    def reason(short_since: float | None) -> str:
        state = active(failures={str(SPOT_A.market): 2}, short_since=short_since)
        return str(explained(picture(state, [missing(0)]))["reason"])

    assert reason(NOW - 60) == "2 machines could not be set up: everpool explain p"
    assert reason(None) == ""  # it is whole again: old failures are no news
