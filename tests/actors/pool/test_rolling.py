"""A living pool whose machines are not what its spec asks for: they are replaced, a few at a time."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.buying import Budget
from actors.effects import Find, Launch
from actors.events import (
    BootstrapRequested,
    DrainRequested,
    Error,
    PoolPauseRequested,
    PoolUpdated,
    TaskRequested,
)
from actors.instance.facts import node_instance
from actors.instance.state import Bootstrapping, Draining, Provisioning, Ready
from actors.messages import VendorNotice
from actors.node.state import Filled, Replacing
from actors.policy.built import Build
from actors.pool import rolling
from actors.pool.state import Active, Parked
from actors.spec import Image, Step, TaskSpec
from providers.errors import Fault
from providers.model import InstanceType, Notice
from tests.actors.model import offer
from tests.actors.pool.machine import OFFERS
from tests.actors.pool.test_rules import Pool, ready
from tests.actors.turns import POOL

NEW = Image(steps=(Step(phase="new", run="true"),))
BIG = offer("c", dollars=0.9).model_copy(
    update={"instance_type": InstanceType(name="big", vcpus=16, memory_gb=64)}
)
ALL = (*OFFERS, BIG)


def machines(pool: Pool) -> dict[int, str]:
    """The machine that works on each node."""
    found = {}
    for number, node in pool.turns.index.nodes.items():
        if isinstance(node, Filled | Replacing):
            found[number] = node.instance_id if isinstance(node, Filled) else node.old_id
    return found


def in_flight(pool: Pool) -> int:
    """Machines that others are coming for, and those that left and end their tasks."""
    nodes = pool.turns.index.nodes.values()
    return sum(isinstance(one, Replacing) for one in nodes) + pool.turns.index.moved_away


def rolled(pool: Pool) -> bool:
    """Whether the roll is over."""
    return bool(pool.turns.facts("pool_rolled"))


def roll(pool: Pool, most: int, nodes: int) -> None:
    """The roll goes on to its end; meanwhile no node is without a machine that works."""
    for _ in range(600):
        if rolled(pool):
            return
        assert in_flight(pool) <= most
        assert len(machines(pool)) == nodes
        pool.fair_step()
    raise AssertionError(pool.state.roll)


@pytest.mark.parametrize(("nodes", "most"), [(1, 1), (3, 1), (9, 2)])
def test_machines_of_another_image_are_replaced_a_few_at_a_time(nodes: int, most: int) -> None:
    pool = ready(nodes)
    before, whole = machines(pool), len(pool.turns.facts("pool_ready"))
    assert pool.update("image", image=NEW) == PoolUpdated(pool=POOL, changed=("image",), outdated=nodes)
    roll(pool, most, nodes)
    assert len(pool.turns.facts("pool_ready")) == whole  # it has been ready all the time
    assert not set(before.values()) & set(machines(pool).values())
    assert [one.renewed for one in pool.turns.facts("pool_rolled")] == [nodes]
    mark = Build.of(pool.state.spec, None).mark
    assert {pool.turns.index.instances[name].image for name in machines(pool).values()} == {mark}
    assert pool.state.roll is None
    pool.until(lambda: len(pool.machines) == nodes)
    assert not pool.turns.facts("task_attempt_ended")


def test_a_shape_that_the_machines_have_replaces_none() -> None:
    pool = ready(2)
    before = machines(pool)
    assert pool.update("small", vcpus=2.0) == PoolUpdated(pool=POOL, changed=("vcpus",), outdated=0)
    for _ in range(30):
        pool.fair_step()
    assert (machines(pool), rolled(pool)) == (before, False)


def test_a_shape_that_they_lack_replaces_them() -> None:
    pool = Pool(2, offers=ALL)
    pool.until(pool.whole)
    updated = pool.update("big", vcpus=8.0)
    assert updated.outdated == 2
    roll(pool, 1, 2)
    there = [pool.turns.index.instances[name].offer for name in machines(pool).values()]
    assert [one.instance_type.name for one in there] == ["big", "big"]


def test_a_disk_that_was_ordered_too_small_is_replaced() -> None:
    pool = ready(1)
    assert pool.update("disk", disk_gb=50.0).outdated == 1
    roll(pool, 1, 1)
    pool.spec = pool.state.spec
    assert pool.update("less", disk_gb=20.0).outdated == 0


def test_idle_machines_go_first_then_the_highest_numbers() -> None:
    pool = ready(4)
    pool.exit_code = None
    task = TaskSpec(argv=("x",), node=3)
    pool.turns.ask(TaskRequested(request_id="busy-0", pool=POOL, task=task))
    pool.until(lambda: pool.turns.index.tasks["busy-0"].status == "running")
    pool.update("image", image=NEW)
    order: list[int] = []
    for _ in range(600):
        moving = [number for number, it in pool.turns.index.nodes.items() if isinstance(it, Replacing)]
        order += [number for number in moving if number not in order]
        if rolled(pool):
            break
        pool.fair_step()
    assert order == [2, 1, 0, 3]
    assert pool.turns.index.tasks["busy-0"].status == "running"  # its machine ends it in its time
    [left] = [one for one in pool.turns.index.instances.values() if isinstance(one, Draining)]
    assert (left.node, left.reason) == (3, "moved")


def test_an_image_that_can_not_be_set_up_parks_the_pool_with_all_machines_alive() -> None:
    pool = ready(5)
    before = machines(pool)
    pool.steps_are_broken = True
    pool.update("broken", image=NEW)
    for _ in range(600):
        assert in_flight(pool) <= 1
        if isinstance(pool.state, Parked):
            break
        pool.fair_step()
    assert isinstance(pool.state, Parked)
    assert machines(pool) == before
    failures = len(pool.turns.facts("bootstrap_failed"))
    assert failures <= 2 * pool.state.spec.bootstrap_failures_max + 1
    assert "parked" in rolling.waits(pool.state, pool.turns.index, pool.turns.now)
    pool.steps_are_broken = False
    assert pool.update("revert").outdated == 0
    pool.until(pool.whole)
    assert machines(pool) == before
    assert [one.renewed for one in pool.turns.facts("pool_rolled")] == [0]


def test_after_a_broken_image_a_mended_one_is_rolled_out() -> None:
    pool = ready(5)
    pool.steps_are_broken = True
    pool.update("broken", image=NEW)
    pool.until(lambda: isinstance(pool.state, Parked))
    pool.steps_are_broken = False
    pool.update("mended", image=NEW.model_copy(update={"env": {"A": "b"}}))
    roll(pool, 1, 5)


@pytest.mark.parametrize("how", ["taken", "gone", "unknown"])
def test_replacements_that_come_to_nothing_are_bought_seldomer_each_time(how: str) -> None:
    pool = ready(1)
    pool.update("image", image=NEW)
    times: list[float] = []
    seen, began = set(pool.keys), pool.turns.now
    said: set[str] = set()
    while pool.turns.now < began + 3 * 3600:
        if how == "unknown":
            seen |= _lost_calls(pool, times, seen)
        pool.fair_step()
        times += [pool.turns.now for _ in pool.keys - seen]
        seen |= pool.keys
        for one in list(pool.turns.index.instances.values()):
            if not isinstance(one, Provisioning | Bootstrapping) or one.key not in pool.machines:
                continue
            if how == "taken":
                notice = Notice(reason="taken", deadline_at=pool.turns.now + 30)
                pool.turns.hear((("instance", one.id), VendorNotice(notice)))
            else:
                pool.vanish(one.key)
        said.add(rolling.waits(pool.state, pool.turns.index, pool.turns.now))
    assert 5 < len(times) < 60  # a node that has none asks so often
    assert pool.state.roll.fails > 5 and list(machines(pool)) == [0]
    assert any("tried again soon: a new machine ended before it was ready" in one for one in said)


def _lost_calls(pool: Pool, times: list[float], seen: set[str]) -> set[str]:
    """Whether anything was launched is never known; answers the keys of those that were asked for."""
    found: set[str] = set()
    while calls := [i for i, (_, call) in enumerate(pool.calls) if isinstance(call, Launch | Find)]:
        call = pool.calls[calls[0]][1]
        if isinstance(call, Launch) and call.key not in seen | found:
            found.add(call.key)
            times.append(pool.turns.now)
        pool.answer(calls[0], Fault.UNKNOWN, False, 1)
    return found


@pytest.mark.parametrize("image", [NEW, Image(base="other")], ids=["steps", "base"])
@pytest.mark.parametrize("status", ["requested", "provisioning", "bootstrapping"])
def test_a_revert_ends_what_is_on_its_way(image: Image, status: str) -> None:
    pool = ready(8)
    pool.update("image", image=image)

    def moving() -> dict[int, str]:
        nodes = pool.turns.index.nodes.items()
        return {n: it.instance_id or "" for n, it in nodes if isinstance(it, Replacing)}

    def is_far() -> bool:
        there = [pool.turns.index.instances.get(one) for one in moving().values()]
        return pool.state.proven and bool(there) and all(one and one.status == status for one in there)

    pool.until(is_far)
    before, coming = machines(pool), moving()
    pool.update("revert")
    assert machines(pool) == before and not set(moving()) & set(coming)
    roll(pool, 2, 8)
    assert {n: name for n, name in machines(pool).items() if n in coming} == {n: before[n] for n in coming}
    told = pool.turns.facts("instance_replaced")
    assert not {one.new.instance.id for one in told} & set(coming.values())
    pool.until(lambda: len(pool.machines) == 8)
    assert all(pool.turns.ending(f"instance:{one.rsplit('.', 1)[0]}") for one in coming.values())


def test_what_is_on_its_way_goes_on_when_another_update_wants_neither() -> None:
    pool = ready(1)
    pool.update("image", image=NEW)
    pool.until(lambda: in_flight(pool) == 1)
    pool.update("other", image=Image(env={"A": "b"}))
    assert in_flight(pool) == 1
    roll(pool, 1, 1)


def test_a_shape_in_which_nothing_can_be_set_up_is_tried_by_one_machine_at_a_time() -> None:
    pool = Pool(40, offers=(*ALL, BIG.model_copy(update={"zone": "d"})))
    pool.until(pool.whole)
    bought = len(pool.keys)
    pool.steps_are_broken = True
    pool.update("big", vcpus=8.0)
    for _ in range(600):
        assert in_flight(pool) <= 1
        if isinstance(pool.state, Parked):
            break
        pool.fair_step()
    assert isinstance(pool.state, Parked)
    assert len(pool.keys) - bought <= 2 * pool.state.spec.bootstrap_failures_max + 1


def test_a_shape_that_all_have_leaves_the_steps_proven() -> None:
    pool = ready(2)
    pool.update("small", vcpus=2.0)
    assert pool.state.proven


def test_updates_in_a_row_keep_the_bound_while_tasks_end() -> None:
    pool = ready(4)
    pool.exit_code = None
    for node in range(4):
        task = TaskSpec(argv=("x",), node=node)
        pool.turns.ask(TaskRequested(request_id=f"busy{node}-0", pool=POOL, task=task))
    pool.until(lambda: all(one.status == "running" for one in pool.turns.index.tasks.values()))
    for phase in "abcd":
        pool.update(phase, image=Image(steps=(Step(phase=phase, run="true"),)))
        for _ in range(40):
            pool.fair_step()
            assert in_flight(pool) <= 1


@pytest.mark.parametrize("again", [False, True])
def test_a_machine_of_an_older_everpool_that_is_set_up_now_is_not_replaced(again: bool) -> None:
    """It is marked by that, and what was ordered for it is as little known as before."""
    pool = Pool(1, disk_gb=50.0)
    coming = (Ready,) if again else (Provisioning, Bootstrapping)
    pool.until(lambda: any(isinstance(one, coming) for one in pool.turns.index.instances.values()))
    for name, one in list(pool.turns.index.instances.items()):
        pool.turns.put(("instance", name), one.model_copy(update={"image": "", "disk_gb": None}))
    pool.turns.restart()
    if again:
        [there] = pool.turns.index.instances.values()
        asked = BootstrapRequested(request_id="again-0", instance=node_instance(there), cluster_id="c")
        pool.turns.ask(asked)
    pool.until(pool.whole)
    for _ in range(30):
        pool.fair_step()
    [there] = pool.turns.index.instances.values()
    assert there.image and not pool.turns.index.outdated
    assert len(pool.keys) == 1 and not pool.turns.facts("pool_rolled")


def test_a_roll_that_a_revert_left_nothing_to_do_is_said_to_be_over() -> None:
    pool = ready(3)
    assert pool.update("image", image=NEW).outdated == 3
    assert pool.update("revert").outdated == 0
    pool.fair_step()
    assert [one.renewed for one in pool.turns.facts("pool_rolled")] == [0]


def test_a_revert_midway_keeps_what_was_not_replaced() -> None:
    pool = ready(4)
    before = machines(pool)
    pool.update("image", image=NEW)
    pool.until(lambda: pool.state.roll is not None and pool.state.roll.renewed == 1)
    reverted = pool.update("revert")
    assert 1 <= reverted.outdated <= 2  # what was replaced, and perhaps one that is on its way
    roll(pool, 1, 4)
    kept = set(before.values()) & set(machines(pool).values())
    assert len(kept) >= 2
    assert len(pool.turns.facts("pool_rolled")) == 1


def test_machines_of_an_older_everpool_are_known_again_by_a_revert() -> None:
    pool = ready(2)
    for name, one in list(pool.turns.index.instances.items()):
        pool.turns.put(("instance", name), one.model_copy(update={"image": "", "disk_gb": None}))
    assert pool.update("same", lease_s=77.0).outdated == 0
    pool.turns.ask(PoolPauseRequested(request_id="pause", pool=POOL))
    assert pool.update("image", image=NEW).outdated == 2
    pool.turns.restart()
    assert len(pool.turns.index.outdated) == 2
    assert pool.update("revert").outdated == 0
    assert not pool.turns.index.outdated


@pytest.mark.parametrize("how", ["paused", "lost", "spent"])
def test_a_roll_waits_and_says_why(how: str) -> None:
    pool = ready(3)
    match how:
        case "paused":
            pool.turns.ask(PoolPauseRequested(request_id="pause", pool=POOL))
        case "lost":
            pool.turns.world = replace(pool.turns.world, offers={"sim": ()})
            pool.vanish(pool.turns.index.instances[machines(pool)[0]].key)
            pool.until(lambda: 0 not in machines(pool))
        case _:
            spend = pool.state.spend.model_copy(update={"reached": "total"})
            pool.turns.put(("pool", POOL), pool.state.model_copy(update={"spend": spend}))
            pool.spec = pool.spec.model_copy(update={"budget": Budget(total=1e-6, then="stop-launching")})
    before = machines(pool)
    pool.update("image", image=NEW)
    for _ in range(20):
        pool.fair_step()
    assert machines(pool) == before
    said = {"paused": "paused", "lost": "no provider has an offer", "spent": "budget"}[how]
    assert said in rolling.waits(pool.state, pool.turns.index, pool.turns.now)


def test_where_nothing_can_be_had_the_old_ones_stay_and_it_is_said() -> None:
    pool = ready(2)
    before = machines(pool)
    assert pool.update("huge", vcpus=512.0).outdated == 2
    for _ in range(30):
        pool.fair_step()
    assert machines(pool) == before
    assert "vcpus" in rolling.waits(pool.state, pool.turns.index, pool.turns.now)


def test_launches_that_are_refused_come_seldomer_each_time() -> None:
    pool = ready(1)
    pool.update("image", image=NEW)
    times: list[float] = []
    for _ in range(400):
        launches = [i for i, (_, call) in enumerate(pool.calls) if isinstance(call, Launch)]
        if launches:
            times.append(pool.turns.now)
            pool.answer(launches[0], Fault.REJECTED, False, 1)
        else:
            pool.fair_step()
        assert list(machines(pool)) == [0]
    waits = [later - sooner for sooner, later in zip(times, times[1:], strict=False)]
    assert len(waits) > 3 and waits[-1] > 2 * waits[0] + 1 and max(waits) < 700


def test_what_is_not_launched_yet_is_launched_by_the_new_spec() -> None:
    pool = Pool(1, offers=ALL)
    while not pool.calls_of(Launch):
        pool.answer(0, None, True, 0)
    [place] = [i for i, (_, call) in enumerate(pool.calls) if isinstance(call, Launch)]
    pool.answer(place, Fault.NOT_SENT, False, 1)  # it is to be made again later
    assert pool.update("big", vcpus=8.0).outdated == 1
    pool.until(pool.whole)
    assert len(pool.keys) == 1
    [there] = [pool.turns.index.instances[name] for name in machines(pool).values()]
    assert there.offer.instance_type.name == "big"
    assert [one.renewed for one in pool.turns.facts("pool_rolled")] == [0]


def test_what_is_launched_already_is_ready_first_and_then_replaced() -> None:
    pool = Pool(1)
    pool.until(lambda: bool(pool.machines))
    first = set(pool.machines)
    pool.update("image", image=Image(base="other"))
    pool.until(lambda: rolled(pool))
    assert [one.renewed for one in pool.turns.facts("pool_rolled")] == [1]
    assert not first & {pool.turns.index.instances[name].key for name in machines(pool).values()}


def test_steps_that_were_not_begun_yet_are_those_of_the_new_image() -> None:
    pool = Pool(1)
    pool.until(lambda: bool(pool.machines))
    assert pool.update("image", image=NEW).outdated == 0
    pool.until(pool.whole)
    assert len(pool.keys) == 1 and not pool.turns.index.outdated


def test_a_gang_keeps_its_shape_and_its_image_may_change() -> None:
    pool = Pool(3, offers=ALL, spread="together")
    pool.until(pool.whole)
    refused = pool.update("big", vcpus=8.0)
    assert isinstance(refused, Error)
    assert "gang" in refused.message and "resize to 0" in refused.message
    assert pool.update("image", image=NEW).outdated == 3
    roll(pool, 1, 3)
    assert len({pool.turns.index.instances[name].offer.zone for name in machines(pool).values()}) == 1


def test_a_user_who_drains_a_node_that_is_being_replaced_is_answered() -> None:
    pool = ready(2)
    pool.update("image", image=NEW)
    pool.until(lambda: any(isinstance(one, Replacing) for one in pool.turns.index.nodes.values()))
    pool.turns.ask(DrainRequested(request_id="drain", pool=POOL, node=1))
    pool.until(lambda: pool.turns.ending("drain") is not None)
    pool.until(lambda: rolled(pool))


STEPS = st.lists(
    st.sampled_from("a b c broken fair fair fair lose crash resize pause resume".split()),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(nodes=st.integers(1, 9), steps=STEPS)
def test_whatever_users_ask_for_in_a_roll(nodes: int, steps: list[str]) -> None:
    """The referee watches; at the end the pool is whole, and every machine is what the spec asks for."""
    pool = ready(nodes)
    for number, step in enumerate(steps):
        _happens(pool, step, f"{step}-{number}")
    pool.steps_are_broken = False
    pool.turns.ask(PoolPauseRequested(request_id="resume", pool=POOL, paused=False))
    pool.update("last", image=Image(steps=(Step(phase="last", run="true"),)))
    for _ in range(900):
        if isinstance(pool.state, Active) and pool.whole() and not pool.turns.index.outdated:
            break
        pool.fair_step()
    assert pool.whole() and not pool.turns.index.outdated, (pool.state, pool.turns.index.nodes)
    assert pool.state.roll is None
    marks = {pool.turns.index.instances[name].image for name in machines(pool).values()}
    assert marks == {Build.of(pool.state.spec, None).mark}


def _happens(pool: Pool, step: str, request: str) -> None:
    match step:
        case "a" | "b" | "c":
            pool.update(request, image=Image(env={"X": step}, steps=(Step(phase=step, run="true"),)))
        case "broken":
            pool.steps_are_broken = not pool.steps_are_broken
        case "lose":
            there = [one for one in pool.turns.index.instances.values() if isinstance(one, Ready)]
            if there and there[0].key in pool.machines:
                pool.vanish(there[0].key)
        case "crash":
            pool.crash({}, 1.0)
        case "resize":
            pool.resize(request, 1 + len(request) % 4)
        case "pause" | "resume":
            pool.turns.ask(PoolPauseRequested(request_id=request, pool=POOL, paused=step == "pause"))
        case _:
            for _ in range(6):
                pool.fair_step()
