"""The read model: what it shows of states, and that its upkeep agrees with a count from nothing."""

import random
from typing import Any, get_args

import pytest

from actors.instance import state as instances
from actors.instance.state import InstanceState
from actors.node.state import Filled, Filling, NodeState, Replacing, Retired, Vacant
from actors.policy.built import Build, Unmarked
from actors.pool import state as pools
from actors.pool.rolling import foreseen
from actors.pool.state import ClusterState
from actors.ports import Commit, StateRow
from actors.spec import Image, Nodes, PoolSpec, TaskSpec
from actors.task import state as tasks
from actors.task.state import TaskState
from controller.status import Status
from controller.telling import count
from controller.views import cluster_code, instance_code, node_code, pool_reason, pool_status, task_code
from providers.model import MICRO, Address, ClusterHandle, Handle, InstanceType, Offer, Value

OFFER = Offer(
    id="o",
    instance_type=InstanceType(name="small", vcpus=1, memory_gb=1),
    provider="local",
    region="r",
    zone="z",
    lifecycle="spot",
    micro_usd_per_hour=MICRO // 4,
)
CLUSTER = ClusterHandle(cluster_id="c", provider="local", region="r", ssh_user="me")
HANDLE = Handle(provider="local", ref="1")
WAITING = pools.Waiting(request_id="w", ends_in="pool_ready", nodes=3, deadline=100)
SPEC = PoolSpec(provider=("local",), nodes=Nodes(desired=3, min=2))


def active(desired: int = 3, *, waiting: bool = False, name: str = "p") -> pools.Active:
    return pools.Active(
        name=name, generation=1, spec=SPEC, desired=desired, waiting=(WAITING,) if waiting else ()
    )


def instance(status: str, name: str = "i", **more: Any) -> InstanceState:
    base: dict[str, Any] = {
        "id": name,
        "key": "k",
        "pool": "p",
        "node": 0,
        "request_id": "r",
        "offer": OFFER,
        "cluster": CLUSTER,
        "created_at": 10,
        "since": 20,
        "status": status,
    }
    alive = {"handle": HANDLE, "launched_at": 11}
    extra: dict[str, dict[str, Any]] = {
        "requested": {"asked_at": 10},
        "provisioning": alive | {"deadline": 50},
        "bootstrapping": alive
        | {"deadline": 50, "run_id": "x", "bootstrap_request": "b", "address": Address(host="h")},
        "ready": alive | {"address": Address(host="h", port=2222)},
        "draining": alive | {"reason": "preempted", "deadline": 60},
        "destroying": alive | {"reason": "user"},
        "destroyed": {"reason": "user", "launched": True},
    }
    made: InstanceState = instances.InstanceJson.validate_python(base | extra[status] | more)
    return made


def node(status: str, number: int = 0, **more: Any) -> NodeState:
    base: dict[str, Any] = {"pool": "p", "generation": 1, "node": number}
    match status:
        case "vacant":
            return Vacant(**base, **more)
        case "filling":
            return Filling(**base, request_id="r", **more)
        case "filled":
            return Filled(**base, instance_id=more.pop("instance_id", "i"), **more)
        case "replacing":
            return Replacing(**base, request_id="r", old_id=more.pop("old_id", "i"), **more)
        case _:
            return Retired(**base, reason="scale_in", **more)


def a_task(status: str, name: str, seq: int, **more: Any) -> TaskState:
    placed = {"instance_id": "i", "node": 0}
    extra: dict[str, dict[str, Any]] = {
        "pending": {},
        "assigned": placed,
        "created": placed,
        "running": placed | {"pid": 1, "started_at": 5},
        "stopping": placed | {"reason": "user", "grace_s": 1, "started_at": 5, "next_at": 9},
        "invalid": placed | {"reason": "odd", "next_at": 9},
        "stopped": placed
        | {"result": "success", "reason": "", "exit_code": 0, "duration": 2, "ended_at": 30 + seq},
    }
    base = {"id": name, "pool": "p", "spec": TaskSpec(argv=("x",)), "seq": seq, "status": status}
    made: TaskState = tasks.TaskJson.validate_python(base | extra[status] | more)
    return made


def commit(status: Status, *rows: tuple[str, str, Value | None], pool: str = "p") -> None:
    status.committed(Commit(pool, [StateRow(kind, name, 1, state) for kind, name, state in rows]))


def test_codes_are_total() -> None:
    codes = [instance_code(instance(name)) for name in _statuses(InstanceState)]
    assert codes == [0, 2, 3, 4, 6, 8, 9]
    assert [node_code(node(name)) for name in _statuses(NodeState)] == [0, 2, 4, 4, 9]
    assert [task_code(a_task(name, "t", 1)) for name in _statuses(TaskState)] == [0, 2, 3, 4, 6, 6, 7]
    fields: dict[str, Any] = {"cluster_id": "c", "provider": "local", "region": "r"}
    made: list[ClusterState] = [
        pools.OpeningCluster(**fields, request_id="r"),
        pools.OpenCluster(**fields, handle=CLUSTER),
        pools.ClosingCluster(**fields, handle=CLUSTER),
    ]
    assert [cluster_code(one) for one in made] == [2, 4, 8]


def _statuses(union: Any) -> list[str]:
    return [one.model_fields["status"].default for one in get_args(union)]


@pytest.mark.parametrize(
    ("waiting", "ready", "ordered", "unplaced", "word"),
    [
        (True, 0, 0, 3, "requesting"),
        (True, 0, 1, 2, "provisioning"),
        (True, 1, 1, 2, "provisioning"),
        (True, 2, 3, 0, "degraded"),
        (False, 3, 3, 0, "ready"),
        (True, 3, 3, 0, "ready"),
        (False, 2, 3, 0, "degraded"),
        (False, 1, 3, 0, "unhealthy"),
        (False, 1, 1, 2, "short"),
        (False, 0, 0, 3, "short"),
    ],
)
def test_pool_words(waiting: bool, ready: int, ordered: int, unplaced: int, word: str) -> None:
    assert pool_status(active(waiting=waiting), ready=ready, ordered=ordered, unplaced=unplaced) == word


def test_a_pool_comes_and_goes() -> None:
    status = Status()
    commit(status, ("pool", "p", active(waiting=True)), ("node", "0", node("filling", why_waiting="none")))
    assert status.pools()[0]["status"] == "requesting"
    assert status.why("p")[0]["why"] == "none"
    commit(status, ("instance", "i", instance("requested")), ("node", "0", node("filling", instance_id="i")))
    assert status.pools()[0]["usd_per_hour"] == 0
    assert "is being ordered" in status.why("p")[0]["why"]
    commit(status, ("instance", "i", instance("provisioning")))
    assert status.why("p")[0]["next_at"] == 50
    commit(status, ("instance", "i", instance("ready")), ("node", "0", node("filled")))
    view = status.pools()[0]
    assert (view["usd_per_hour"], view["ready"], view["nodes"]) == (0.25, 1, {"filled": 1})
    assert status.why("p") == []
    shown = status.instance("i", 25)
    assert shown is not None
    assert (shown["address"], shown["port"], shown["age_s"], shown["link_up"]) == ("h", 2222, 15, True)
    assert status.nodes("p")[0]["instance_status"] == "ready"
    commit(status, ("instance", "i", instance("destroyed")), ("node", "0", node("retired")))
    assert status.instances(30) == [] and [one["id"] for one in status.instances(30, ended=True)] == ["i"]
    gone = pools.Destroyed(name="p", generation=1, spec=SPEC, desired=0)
    commit(status, ("pool", "p", gone), ("node", "0", None))
    assert status.pools() == [] and status.nodes() == []
    remembered = status.pool("p")
    assert remembered is not None and remembered["status_code"] == 9
    commit(status, ("pool", "p", active()))
    assert status.pools()[0]["results"] == {} and status.pool_status("p") == "unhealthy"


def test_tasks_on_machines() -> None:
    status = Status()
    commit(status, ("pool", "p", active()), ("instance", "i", instance("ready")))
    commit(status, ("task", "a", a_task("running", "a", 1)), ("task", "b", a_task("pending", "b", 2)))
    shown = status.instance("i", 0)
    assert shown is not None and shown["tasks"] == ["a"]
    running = status.task("a")
    assert running is not None and running["started_at"] == 5 and running["result"] is None
    commit(status, ("task", "a", a_task("stopped", "a", 1)))
    stopped = status.task("a")
    assert stopped is not None and (stopped["started_at"], stopped["ended_at"]) == (29, 31)
    view = status.pools()[0]
    assert (view["tasks"], view["results"], view["queue"]) == ({"pending": 1}, {"success": 1}, 1)
    assert status.living_tasks() == [("p", "b")]


def test_what_is_over_is_bounded() -> None:
    status = Status(tasks_ended_max=10, instances_ended_max=5)
    commit(status, ("pool", "p", active()))
    for i in range(3000):
        commit(status, ("task", f"t{i}", a_task("pending", f"t{i}", i)))
        commit(status, ("task", f"t{i}", a_task("stopped", f"t{i}", i)))
        commit(status, ("instance", f"i{i}", instance("requested", f"i{i}")))
        commit(status, ("instance", f"i{i}", instance("destroyed", f"i{i}")))
    assert [it.id for it in status.task_page(limit=50).tasks] == [f"t{i}" for i in range(2999, 2989, -1)]
    assert status.task("t5") is None and status.tasks_forgotten == 2990
    assert len(status.instance_ids()) == 5
    assert status.pools()[0]["results"] == {"success": 10}


def test_pages_are_stable_while_tasks_come_and_end() -> None:
    status, dice = Status(tasks_ended_max=10_000), random.Random(5)
    commit(status, ("pool", "p", active()))
    order = list(range(500))
    dice.shuffle(order)  # recovery hands requests out again in any order
    for seq in order:
        commit(status, ("task", f"t{seq}", a_task("pending", f"t{seq}", seq)))
    found: list[int] = []
    before = None
    while True:
        page = status.task_page("p", None, 7, before)
        found += [it.seq for it in page.tasks]
        new = 1000 + len(found)
        commit(status, ("task", f"n{new}", a_task("pending", f"n{new}", new)))
        commit(status, ("task", f"t{found[-1]}", a_task("stopped", f"t{found[-1]}", found[-1])))
        if page.cursor is None:
            break
        before = page.cursor
    assert found == sorted(range(500), reverse=True)


def test_machines_of_an_older_spec_are_counted_by_commits_and_a_read_looks_at_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    specs = [SPEC.model_copy(update={"image": Image(env={"A": letter})}) for letter in "ab"]
    marks = ["", *(Build.of(spec, None).mark for spec in specs)]
    old = Unmarked(image=marks[1], disk_gb=None)
    dice, kept, shown = random.Random(3), Status(), set[tuple[int, bool]]()
    lacks, looks = Build.lacks, 0

    def counting(*args: Any) -> str | None:
        nonlocal looks
        looks += 1
        return lacks(*args)

    monkeypatch.setattr(Build, "lacks", counting)
    state = active()
    commit(kept, ("pool", "p", state))
    for _ in range(1500):
        if dice.random() < 0.15:
            update = {"spec": dice.choice(specs), "unmarked": dice.choice([None, old])}
            rolls = {"roll": dice.choice([None, pools.Roll(since=1)])}
            state = state.model_copy(update=update | rolls if dice.random() < 0.5 else rolls)
            commit(kept, ("pool", "p", state))
        name, status = f"i{dice.randrange(9)}", dice.choice(_statuses(InstanceState))
        leave = {"leave": "user"} if status == "requested" and dice.random() < 0.3 else {}
        machine = instance(status, name, image=dice.choice(marks), **leave)
        commit(kept, ("instance", name, None if dice.random() < 0.1 else machine))
        before = looks
        [view] = kept.pools()
        assert looks == before
        found = foreseen(state, state.spec, kept.machines("p"))
        told = f"{count(found.outdated, 'machine')} of an older spec"
        assert view["outdated"] == (0 if state.roll is None else found.outdated)
        assert (told in view["reason"]) == bool(view["outdated"]), view["reason"]
        old_ones = [one["id"] for one in kept.instances(1.0) if one["outdated"]]
        assert len(old_ones) == view["outdated"]
        shown.add((view["outdated"], state.roll is None))
    assert len(shown) > 4
    commit(kept, ("pool", "p", None))


@pytest.mark.parametrize(
    ("roll", "paused", "told"),
    [
        ({}, None, "2 machines of an older spec, being replaced a few at a time"),
        (
            {"fails": 1, "why": "prep: exit code 3"},
            None,
            "2 machines of an older spec, not replaced yet: tried again soon: prep: exit code 3",
        ),
        ({"why": "no offer"}, None, "2 machines of an older spec, not replaced yet: no offer"),
        (
            {},
            pools.Paused(by="ann", since=0),
            "paused by ann since 1970-01-01 00:00:00 UTC; "
            "2 machines of an older spec, not replaced yet: they stay while the pool is paused",
        ),
    ],
)
def test_the_reason_says_what_keeps_machines_from_being_replaced(
    roll: dict[str, Any], paused: pools.Paused | None, told: str
) -> None:
    state = active().model_copy(update={"roll": pools.Roll(since=1, **roll), "paused": paused})
    assert pool_reason(state, 2) == told


def test_loading_is_as_committing() -> None:
    """Any order of commits leaves what a load of the newest states shows."""
    dice = random.Random(7)
    kept = Status(tasks_ended_max=20)
    states: dict[tuple[Any, str], Value] = {}
    statuses = _statuses(TaskState)
    commit(kept, ("pool", "p", active()))
    states["pool", "p"] = active()
    for _ in range(2000):
        number = dice.randrange(60)
        name = f"t{number}"
        before = states.get(("task", name))
        if isinstance(before, tasks.Stopped):
            continue
        state = a_task(dice.choice(statuses), name, number)
        states["task", name] = state
        commit(kept, ("task", name, state))
        place = str(dice.randrange(5))
        there = node(dice.choice(_statuses(NodeState)), int(place))
        states["node", place] = there
        commit(kept, ("node", place, there))
        machine = f"i{dice.randrange(4)}"
        it = instance(dice.choice(_statuses(InstanceState)[:-1]), machine)
        states["instance", machine] = it
        commit(kept, ("instance", machine, it))
    loaded = Status(tasks_ended_max=20)
    loaded.load("p", states)
    for key in ("nodes", "instances", "tasks", "queue", "usd_per_hour", "status"):
        assert kept.pools()[0][key] == loaded.pools()[0][key]
    assert kept.nodes() == loaded.nodes()
    assert sum(kept.pools()[0]["results"].values()) == sum(loaded.pools()[0]["results"].values())
