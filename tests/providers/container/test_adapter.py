"""The provider on real engines: faults, limits, ends, what is left over, what is not ours."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import anyio
import pytest
import structlog

from providers.container import adapter, ends, wire
from providers.container.adapter import ContainerProvider
from providers.container.wire import END_COMMAND, OWNER, PROVIDER, container_name
from providers.errors import Fault, ProviderError
from providers.host.base import Ran
from providers.host.exec import ExecHost
from providers.model import ClusterOrder, Handle, Leftover, Offer, Order, Sighting
from tests.contract.container import OFFERS
from tests.contract.harness import OWNER as US
from tests.contract.harness import until_absent, until_running
from tests.providers.container.conftest import World
from tests.real.engines import IMAGE, ULIMITS, RealEngine

pytestmark = [pytest.mark.anyio, pytest.mark.real]


HOG = "bytearray(2**30)[::4096] = b'x' * 2**18"


async def offer_of(world: World) -> Offer:
    return (await world.harness.provider.offers())[0]


async def launched(world: World, node: int = 0) -> tuple[Order, Handle]:
    order = world.harness.order(node, await offer_of(world))
    return order, handle_of((await world.harness.provider.launch([order]))[0])


def handle_of(outcome: Handle | ProviderError) -> Handle:
    assert isinstance(outcome, Handle), outcome
    return outcome


def fault_of(outcome: Handle | ProviderError | None) -> Fault:
    assert isinstance(outcome, ProviderError), outcome
    return outcome.fault


def way_in(world: World, ref: str) -> ExecHost:
    return ExecHost(world.harness.provider._engine, ref, "inside")


async def tombstone_of(world: World, order: Order) -> Sighting:
    """What a listing tells of the order's machine, once it has ended."""
    with anyio.fail_after(20):
        while True:
            listing = await world.harness.provider.observe(order.owner)
            told = [one for one in listing.sightings if one.key == order.key]
            if told and told[0].ended_at is not None:
                return told[0]
            await anyio.sleep(0.02)


# --- calls that fail ----------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", ["fail_after", "cut_after"])
async def test_a_create_that_worked_unheard_is_found_and_made_whole_once(world: World, failure: str) -> None:
    order = world.harness.order(0, await offer_of(world))
    getattr(world.controls, failure)("create")
    assert fault_of((await world.harness.provider.launch([order]))[0]) is Fault.UNKNOWN
    # Nobody would start it: it is no machine yet, but what a sweep may remove or a launch go on with.
    assert await world.harness.provider.find(order.key) is None
    [unstarted] = (await world.harness.provider.leftovers(US)).found
    assert (unstarted.kind, unstarted.key) == ("container", order.key)
    handle = handle_of((await world.harness.again().launch([order]))[0])
    assert handle == unstarted.handle
    assert [one["Id"] for one in world.real.containers()] == [handle.ref]
    assert (await until_running(world.harness, order)).handle == handle


@pytest.mark.parametrize("keys", [{"volumes": [{"target": "/x", "source": "own", "scope": "cluster"}]}])
async def test_what_was_never_started_is_swept_and_holds_nothing_back(world: World) -> None:
    orders = [world.harness.order(node, await offer_of(world)) for node in range(2)]
    world.controls.fail_after("create", 2)
    for outcome in await world.harness.provider.launch(orders):
        assert fault_of(outcome) is Fault.UNKNOWN
    left = (await world.harness.provider.leftovers(US)).found
    await world.harness.provider.remove(next(one for one in left if one.key == orders[0].key))
    assert len(world.real.containers()) == 1
    await world.harness.provider.close_cluster(world.harness.cluster)
    assert (world.real.containers(), world.real.volumes()) == ([], [])


@pytest.mark.parametrize("keys", [{"machines_max": 1}])
async def test_what_was_never_started_takes_no_room_until_it_is_launched_again(world: World) -> None:
    provider = world.harness.provider
    first = world.harness.order(0, await offer_of(world))
    world.controls.fail_after("create")
    assert fault_of((await provider.launch([first]))[0]) is Fault.UNKNOWN
    _, second = await launched(world, 1)
    assert fault_of((await provider.launch([first]))[0]) is Fault.QUOTA
    assert await provider.terminate([second]) == [None]
    handle_of((await provider.launch([first]))[0])


@pytest.mark.parametrize("failure", ["fail_before", "cut_before"])
async def test_a_create_that_failed_leaves_nothing(world: World, failure: str) -> None:
    order = world.harness.order(0, await offer_of(world))
    getattr(world.controls, failure)("create")
    assert fault_of((await world.harness.provider.launch([order]))[0]) is Fault.UNKNOWN
    assert await world.harness.provider.find(order.key) is None
    assert world.real.containers() == []
    handle_of((await world.harness.provider.launch([order]))[0])


async def test_a_start_that_worked_unheard_is_the_same_machine(world: World) -> None:
    order = world.harness.order(0, await offer_of(world))
    world.controls.fail_after("start")
    assert fault_of((await world.harness.provider.launch([order]))[0]) is Fault.UNKNOWN
    found = await world.harness.provider.find(order.key)
    assert found is not None
    assert found.state == "running"
    assert handle_of((await world.harness.provider.launch([order]))[0]) == found.handle
    assert len(world.real.containers()) == 1


async def test_an_engine_that_is_busy_is_asked_again_later(world: World) -> None:
    order = world.harness.order(0, await offer_of(world))
    world.controls.throttle("create")
    assert fault_of((await world.harness.provider.launch([order]))[0]) is Fault.THROTTLED
    world.controls.throttle("list")
    with pytest.raises(ProviderError) as caught:
        await world.harness.provider.observe(US)
    assert caught.value.fault is Fault.THROTTLED
    handle_of((await world.harness.provider.launch([order]))[0])


async def test_a_remove_that_worked_unheard_is_a_success_when_tried_again(world: World) -> None:
    order, handle = await launched(world)
    world.controls.fail_after("remove")
    assert fault_of((await world.harness.provider.terminate([handle]))[0]) is Fault.UNKNOWN
    assert await world.harness.provider.terminate([handle]) == [None]
    await until_absent(world.harness, order)


@pytest.mark.parametrize(("hangs", "said"), [("remove", "exited 137"), ("inspect", "exited")])
async def test_a_removal_that_hangs_holds_no_listing_up(
    world: World, monkeypatch: pytest.MonkeyPatch, hangs: str, said: str
) -> None:
    monkeypatch.setattr(ends, "INQUIRE_WITHIN_S", 0.5)
    monkeypatch.setattr(ends, "BURY_WITHIN_S", 0.5)
    (first, _), (second, _) = await launched(world, 0), await launched(world, 1)
    for order in (first, second):
        await world.harness.kill(order)
    provider = world.harness.provider
    world.controls.hold(hangs, 60)
    with anyio.fail_after(20):
        listing = await provider.observe(US)
        assert {one.key: one.detail for one in listing.sightings} == {first.key: said, second.key: said}
        removals = world.controls.calls["remove"]
        assert (await provider.observe(US)).sightings == ()
    assert world.controls.calls["remove"] == removals  # it is not hammered
    world.controls.hold(hangs, 0)
    if hangs == "remove":
        left = (await provider.leftovers(US)).found
        assert {(one.kind, one.key) for one in left} == {("container", o.key) for o in (first, second)}
        for one in left:
            await provider.remove(one)
    assert world.real.containers() == []


async def test_a_ledger_that_fails_holds_no_end_up(tmp_path: Path, world: World) -> None:
    (first, _), (second, handle) = await launched(world, 0), await launched(world, 1)
    (tmp_path / "file").write_text("no directory can be here")
    provider = ContainerProvider("box", world.harness.provider._config, tmp_path / "file", b"")
    with structlog.testing.capture_logs() as logs:
        assert handle_of((await provider.launch([second]))[0]) == handle
        await world.harness.kill(first)
        told = {one.key: one.detail for one in (await provider.observe(US)).sightings}
        assert told == {first.key: "exited 137", second.key: "running"}
        assert await provider.terminate([handle]) == [None]
        assert [one.key for one in (await provider.observe(US)).sightings] == [second.key]
        assert fault_of((await provider.launch([second]))[0]) is Fault.GONE
        # Nobody knows whether this one was launched before.
        third = world.harness.order(2, await offer_of(world))
        assert fault_of((await provider.launch([third]))[0]) is Fault.NOT_SENT
    assert world.real.containers() == []
    assert len(logs) == 1
    await provider.aclose()


async def test_no_engine_at_all_is_not_sent(tmp_path: Path, world: World) -> None:
    keys = world.real.keys(socket=str(tmp_path / "none"), offers=OFFERS)
    config = type(world.harness.provider._config).model_validate(keys)
    provider = ContainerProvider("box", config, tmp_path, b"")
    order = world.harness.order(0, await offer_of(world))
    assert fault_of((await provider.launch([order]))[0]) is Fault.NOT_SENT
    [line] = await provider.check(US)
    assert (line.what, line.ok) == ("socket", False)
    assert "podman.socket" in line.mend
    await provider.aclose()


# --- machines -----------------------------------------------------------------------------------------


async def test_limits_are_really_applied(world: World) -> None:
    _, handle = await launched(world)
    about = world.real.inspect(handle.ref)
    assert about is not None
    assert about["HostConfig"]["Memory"] == about["HostConfig"]["MemorySwap"] == 2**28
    assert about["HostConfig"]["NanoCpus"] == 10**9
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max"
    ran = await way_in(world, handle.ref).run(("sh", "-c", script))
    assert int(ran.stdout.split()[0]) == 2**28
    script = "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us || cat /sys/fs/cgroup/cpu.max"
    ran = await way_in(world, handle.ref).run(("sh", "-c", script))
    assert int(ran.stdout.split()[0]) == 100_000  # of each 100 ms: one cpu
    ran = await way_in(world, handle.ref).run(("sh", "-c", "ulimit -n"))
    assert int(ran.stdout) in ULIMITS["nofile"].values()


async def test_the_first_process_reaps_what_is_orphaned_and_ends_at_once_when_told(world: World) -> None:
    order, handle = await launched(world)
    host = way_in(world, handle.ref)
    orphan = "import os, time\nif os.fork() == 0:\n    time.sleep(0.2)\n    os._exit(0)\n"
    for _ in range(3):
        await host.run(("python3", "-c", orphan))
    count = "cat /proc/[0-9]*/stat 2>/dev/null | { while read a b c d; do echo $c; done; }"
    with anyio.fail_after(20):
        while True:
            states = (await host.run(("sh", "-c", count))).stdout.split()
            if len(states) <= 4:  # the first, sh, its pipe
                break
            await anyio.sleep(0.05)
    assert b"Z" not in states
    with anyio.move_on_after(5):
        await host.run(("sh", "-c", END_COMMAND))
    told = await tombstone_of(world, order)
    assert told.detail == "exited 143"


async def test_a_killed_container_is_told_once_and_removed_with_its_volumes(world: World) -> None:
    order, handle = await launched(world)
    await world.harness.kill(order)
    listing = await world.harness.provider.observe(US)
    [told] = listing.sightings
    assert (told.key, told.handle, told.detail) == (order.key, handle, "exited 137")
    assert told.ended_at is not None
    assert told.launched_at <= told.ended_at <= listing.at + 1
    assert world.real.containers() == []
    assert (await world.harness.provider.observe(US)).sightings == ()
    assert [one.key for one in (await world.harness.again().observe(US)).sightings] == [order.key]


async def test_the_kernels_kill_for_memory_is_told_apart(world: World) -> None:
    order, handle = await launched(world)
    victim = "open('/proc/1/oom_score_adj', 'w').write('1000')\n"
    ran = await way_in(world, handle.ref).run(("python3", "-c", f"{victim}{HOG}"))
    assert ran.exit_code is None  # its container is dead
    told = await tombstone_of(world, order)
    # Podman keeps no account of what was killed for memory when.
    assert told.detail == ("exited 137" if world.real.kind == "podman" else "out of memory, exited 137")


async def test_a_task_that_is_killed_for_memory_leaves_its_container_alive(world: World) -> None:
    order, handle = await launched(world)
    ran = await way_in(world, handle.ref).run(("python3", "-c", HOG))
    assert ran.exit_code == 137
    found = await world.harness.provider.find(order.key)
    assert found is not None
    assert found.state == "running"


async def test_a_task_killed_for_memory_is_not_what_its_container_ends_of_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "OOM_BEFORE_S", 0.1)
    order, handle = await launched(world)
    assert (await way_in(world, handle.ref).run(("python3", "-c", HOG))).exit_code == 137
    await anyio.sleep(0.3)
    await world.harness.kill(order)
    assert (await tombstone_of(world, order)).detail == "exited 137"


class Meddled(ExecHost):
    """Something happens to a command: `meddle` is told the container, and may say how the command ended."""

    meddle: ClassVar[Callable[[str], Ran | None]]

    async def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 30) -> Ran:
        told = type(self).meddle(self._container)
        return told or await super().run(argv, stdin=stdin, timeout_s=timeout_s)


async def test_an_image_is_not_blamed_for_a_container_that_is_killed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(container: str) -> None:
        world.real.kill(container)
        while (about := world.real.inspect(container)) is not None and about["State"]["Running"]:
            time.sleep(0.01)

    monkeypatch.setattr(adapter, "ExecHost", Meddled)
    monkeypatch.setattr(Meddled, "meddle", staticmethod(killed), raising=False)
    order = world.harness.order(0, await offer_of(world))
    [outcome] = await world.harness.provider.launch([order])
    assert isinstance(outcome, ProviderError)
    assert (outcome.fault, "exited 137" in outcome.detail) == (Fault.GONE, True), outcome
    assert (await tombstone_of(world, order)).detail == "exited 137"


@pytest.mark.parametrize(
    ("code", "fault"),
    [(137, Fault.UNKNOWN), (None, Fault.UNKNOWN), (126, Fault.REJECTED), (127, Fault.REJECTED)],
)
async def test_an_image_is_blamed_for_a_python_that_is_not_there_only(
    world: World, monkeypatch: pytest.MonkeyPatch, code: int | None, fault: Fault
) -> None:
    ran = Ran(exit_code=code, stdout=b"", stderr=b"so it is")
    monkeypatch.setattr(adapter, "ExecHost", Meddled)
    monkeypatch.setattr(Meddled, "meddle", staticmethod(lambda _: ran), raising=False)
    order = world.harness.order(0, await offer_of(world))
    [outcome] = await world.harness.provider.launch([order])
    assert fault_of(outcome) is fault
    assert len(world.real.containers()) == (fault is Fault.UNKNOWN)
    monkeypatch.undo()
    if fault is Fault.UNKNOWN:  # the same again finds out
        handle_of((await world.harness.provider.launch([order]))[0])


async def test_capacity_and_room_are_kept_when_many_ask_at_once(world: World) -> None:
    offers = await world.harness.provider.offers()
    small = next(one for one in offers if one.zone == "small")
    orders = [world.harness.order(node, small) for node in range(5)]
    outcomes = await world.harness.provider.launch(orders)
    assert sum(isinstance(one, Handle) for one in outcomes) == 2
    assert {fault_of(one) for one in outcomes if not isinstance(one, Handle)} == {Fault.CAPACITY}
    assert len(world.real.containers()) == 2


@pytest.mark.parametrize("keys", [{"machines_max": 1}])
async def test_no_more_machines_than_are_allowed(world: World) -> None:
    await launched(world)
    [outcome] = await world.harness.provider.launch([world.harness.order(1, await offer_of(world))])
    assert fault_of(outcome) is Fault.QUOTA


@pytest.mark.parametrize("keys", [{"user": "nobody"}])
async def test_a_user_of_the_image_may_run_it_all(world: World) -> None:
    order, handle = await launched(world)
    ran = await way_in(world, handle.ref).run(("id", "-un"))
    assert ran.stdout == b"nobody\n"
    machine = world.harness.machine(order, await until_running(world.harness, order))
    async with world.harness.provider.attach(machine):
        pass
    await way_in(world, handle.ref).run(("sh", "-c", END_COMMAND))
    assert (await tombstone_of(world, order)).detail == "exited 143"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"user": "who"}, "who"),
        ({"volumes": [{"target": "/x", "source": "/no/such/path"}]}, "/no/such/path"),
        ({"volumes": [{"target": "/x", "source": "nosuchvolume"}]}, "nosuchvolume"),
        ({"network": "nosuchnetwork"}, "nosuchnetwork"),
        ({"python": "python9"}, "no python9"),
        ({"image": "localhost/everpool-test:none"}, "is not there"),
    ],
)
async def test_what_can_never_be_is_rejected_with_the_reason_and_leaves_nothing(
    world: World, said: str
) -> None:
    if said.startswith("/") and world.real.kind == "podman":
        pytest.skip("podman makes a directory that is not there")
    order = world.harness.order(0, await offer_of(world))
    [outcome] = await world.harness.provider.launch([order])
    assert isinstance(outcome, ProviderError)
    assert (outcome.fault, said in outcome.detail) == (Fault.REJECTED, True), outcome
    assert "\n" not in outcome.detail
    assert world.real.containers() == []
    assert world.real.volumes() == []


async def test_the_pools_own_image_wins(world: World) -> None:
    order = world.harness.order(0, await offer_of(world), image="localhost/everpool-test:none")
    [outcome] = await world.harness.provider.launch([order])
    assert fault_of(outcome) is Fault.REJECTED
    order = world.harness.order(1, await offer_of(world), image=IMAGE)
    handle_of((await world.harness.provider.launch([order]))[0])


# --- what is not ours ---------------------------------------------------------------------------------


def foreign(real: RealEngine, name: str, labels: dict[str, str]) -> str:
    """A container that somebody else made."""
    ulimits = [{"Name": key, "Soft": one["soft"], "Hard": one["hard"]} for key, one in ULIMITS.items()]
    host = {"NetworkMode": "none", "Ulimits": ulimits}
    body = {"Image": IMAGE, "Cmd": ["sleep", "600"], "Labels": labels, "HostConfig": host}
    made = real.ask("POST", "/containers/create", query={"name": name}, body=body)
    real.ask("POST", f"/containers/{made['Id']}/start")
    return str(made["Id"])


async def test_a_name_like_ours_is_no_mark(world: World) -> None:
    order = world.harness.order(0, await offer_of(world))
    theirs = foreign(world.real, container_name(order.key), {})
    others = foreign(world.real, "everpool-x", {OWNER: f"{US}-2", PROVIDER: "box"})
    provider = world.harness.provider
    assert fault_of((await provider.launch([order]))[0]) is Fault.REJECTED
    assert (await provider.observe(US)).sightings == ()
    assert await provider.find(order.key) is None
    for ref in (theirs, others):
        assert fault_of((await provider.terminate([Handle(provider="box", ref=ref)]))[0]) is Fault.REJECTED
        leftover = Leftover(kind="container", handle=Handle(provider="box", ref=ref))
        with pytest.raises(ProviderError):
            await provider.remove(leftover)
    assert (await provider.leftovers(US)).found == ()
    assert {one["State"] for one in world.real.containers()} == {"running"}


async def test_machines_of_another_provider_on_the_same_engine_are_its_own(world: World) -> None:
    order, handle = await launched(world)
    config = world.harness.provider._config
    other = ContainerProvider("other", config, Path(os.devnull).parent / "none", b"")
    assert (await other.observe(US)).sightings == ()
    assert await other.find(order.key) is None
    assert fault_of((await other.terminate([handle]))[0]) is Fault.REJECTED
    assert (await other.leftovers(US)).found == ()
    await other.aclose()


# --- networks, volumes, leftovers -----------------------------------------------------------------------

SHARED = {
    "network": "cluster",
    "volumes": [{"target": "/shared", "source": "shared", "scope": "cluster"}, {"target": "/scratch"}],
}


def cluster_order(name: str) -> ClusterOrder:
    return ClusterOrder(cluster_id=name, owner=US, pool="pool", region="local", public_key="")


@pytest.mark.parametrize("keys", [SHARED])
async def test_what_a_cluster_has_is_shared_by_its_machines_and_goes_with_it(world: World) -> None:
    (_, first), (_, second) = await launched(world, 0), await launched(world, 1)
    await way_in(world, first.ref).put("/shared/word", b"heard")
    assert (await way_in(world, second.ref).run(("cat", "/shared/word"))).stdout == b"heard"
    provider, cluster = world.harness.provider, world.harness.cluster
    left = await provider.leftovers(US)
    assert {(one.kind, one.cluster_id, one.in_use) for one in left.found} >= {
        ("network", "c1", True),
        ("volume", "c1", True),
    }
    with pytest.raises(ProviderError) as caught:
        await provider.close_cluster(cluster)
    assert caught.value.fault is Fault.CONFLICT
    await provider.terminate([first])
    world.real.kill(second.ref)
    await provider.close_cluster(cluster)
    await provider.close_cluster(cluster)
    assert (world.real.networks(), world.real.volumes(), world.real.containers()) == ([], [], [])


@pytest.mark.parametrize("keys", [SHARED])
async def test_a_cluster_of_another_owner_with_the_same_id_is_not_touched(world: World) -> None:
    provider, ours = world.harness.provider, world.harness.cluster
    theirs = await provider.open_cluster(cluster_order("c1").model_copy(update={"owner": "ci"}))
    assert ours.specific["network"] != theirs.specific["network"]
    orders = [
        world.harness.order(node, await offer_of(world), owner="ci").model_copy(update={"cluster": theirs})
        for node in range(2)
    ]
    handle_of((await provider.launch(orders[:1]))[0])
    await world.harness.kill(orders[0])
    world.controls.fail_after("create")
    assert fault_of((await provider.launch(orders[1:]))[0]) is Fault.UNKNOWN
    there = (world.real.containers(), world.real.networks(), world.real.volumes())
    nobodys = theirs.model_copy(
        update={"specific": {key: one for key, one in theirs.specific.items() if key != "owner"}}
    )
    await provider.close_cluster(nobodys)
    assert (world.real.networks(), world.real.volumes()) == there[1:]
    await provider.close_cluster(ours)
    assert [one["Id"] for one in world.real.containers()] == [one["Id"] for one in there[0]]
    assert theirs.specific["network"] in world.real.networks()
    assert f"{theirs.specific['name']}-shared" in world.real.volumes()
    await provider.close_cluster(theirs)
    assert (world.real.networks(), world.real.volumes(), world.real.containers()) == ([], [], [])


@pytest.mark.parametrize("keys", [SHARED])
async def test_leftovers_are_found_by_their_marks_and_removed(world: World) -> None:
    provider = world.harness.provider
    await provider.open_cluster(cluster_order("lost"))
    order, handle = await launched(world)
    name = world.harness.cluster.specific["network"]
    world.real.ask("POST", "/networks/create", body={"Name": f"{name}-x", "Labels": {OWNER: f"{US}-2"}})
    world.real.ask("POST", "/volumes/create", body={"Name": f"{name}-x"})
    found = (await provider.leftovers(US)).found
    lost = [one for one in found if one.cluster_id == "lost"]
    assert sorted(one.kind for one in lost) == ["network", "volume"]
    assert all(one.created_at and not one.in_use for one in lost)
    held = next(one for one in found if one.cluster_id == "c1" and one.kind == "network")
    with pytest.raises(ProviderError) as caught:
        await provider.remove(held)
    assert caught.value.fault is Fault.CONFLICT
    for one in [*lost, *lost]:
        await provider.remove(one)
    for kind in ("network", "volume"):
        strange = lost[0].model_copy(
            update={"kind": kind, "handle": Handle(provider="box", ref=f"{name}-x"), "cluster_id": ""}
        )
        with pytest.raises(ProviderError) as caught:
            await provider.remove(strange)
        assert caught.value.fault is Fault.REJECTED
    assert await provider.terminate([handle]) == [None]
    await until_absent(world.harness, order)
    for one in (await provider.leftovers(US)).found:
        await provider.remove(one)
    assert (world.real.networks(), world.real.volumes()) == ([f"{name}-x"], [f"{name}-x"])


async def test_a_dead_container_is_a_leftover_until_it_is_listed(world: World) -> None:
    order, handle = await launched(world)
    await world.harness.kill(order)
    [dead] = (await world.harness.provider.leftovers(US)).found
    assert (dead.kind, dead.key, dead.handle, dead.cluster_id) == ("container", order.key, handle, "c1")
    await world.harness.provider.remove(dead)
    assert world.real.containers() == []


# --- the doctor -----------------------------------------------------------------------------------------


async def test_the_doctor_says_what_is_well(world: World) -> None:
    lines = {line.what: line for line in await world.harness.provider.check(US)}
    assert {"engine", "limits", "image"} <= lines.keys()
    assert all(line.ok for line in lines.values()), lines
    assert world.real.kind in lines["engine"].detail
    assert world.real.containers() == []


@pytest.mark.parametrize(
    "keys",
    [
        {
            "image": "localhost/everpool-test:none",
            "network": "nosuchnetwork",
            "volumes": [{"target": "/x", "source": "nosuchvolume"}],
            "registries": [
                {"server": "r", "username": "u", "password": {"env": "EVERPOOL_NO_SUCH_VARIABLE"}}
            ],
            "offers": [{"spot": 1, "vcpus": 4000}],
        }
    ],
)
async def test_the_doctor_names_what_is_missing_and_how_to_mend_it(world: World) -> None:
    lines = [line for line in await world.harness.provider.check(US) if not line.ok]
    assert {line.what for line in lines} == {"image", "network", "volume", "registry", "offer"}
    assert all(line.mend and "\n" not in line.detail for line in lines), lines


async def test_an_engine_of_another_kind_is_refused(world: World, tmp_path: Path) -> None:
    other = "podman" if world.real.kind == "docker" else "docker"
    keys: dict[str, Any] = world.real.keys(engine=other, offers=OFFERS)
    config = type(world.harness.provider._config).model_validate(keys)
    provider = ContainerProvider("box", config, tmp_path, b"")
    [line] = await provider.check(US)
    assert (line.ok, world.real.kind in line.detail) == (False, True)
    await provider.aclose()
