"""A real daemon rents at vendors: their fakes on real ports, with real ssh servers behind each machine.

The container vendor is a real engine, with a socket in front that can answer wrongly.
"""

from collections import Counter
from collections.abc import Iterator

import pytest

from actors.events import InstanceLaunched, InstanceReaped, PoolRequested
from controller.client import Operation
from tests.real.rig import Rig, pool_spec, tasks_of, until
from tests.real.vendors import MADE, Vendor, opened

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

UP_WITHIN_S = 90.0
SOON = {"unreachable_timeout": 5, "lease_s": 10, "drain_timeout": 5, "provision_timeout": 20}


@pytest.fixture(params=list(MADE))
def vendor(request: pytest.FixtureRequest, rig: Rig) -> Iterator[Vendor]:
    """One vendor, with nothing rented there."""
    with opened(request.param, rig) as vendor:
        yield vendor
        assert vendor.violations() == []


def ask(rig: Rig, nodes: int, *providers: str, **spec: object) -> str:
    """Ask for a pool; the request's id."""
    request = PoolRequested(
        pool="main", spec=pool_spec(nodes, provider=providers, **spec), ready_within_s=UP_WITHIN_S
    )
    return rig.client.submit(request).request_id


def whole(operation: Operation) -> None:
    """A pool's request ended well."""
    assert operation.status == "success", operation


def ready(rig: Rig) -> dict[int, str]:
    """The provider of each node that is ready, or has machines that are."""
    return {one["node"]: one["provider"] for one in rig.client.instances("main") if one["status"] == "ready"}


def launched(rig: Rig) -> list[str]:
    """The machines whose launch was accepted, as events tell."""
    found = [one.event for one in rig.events("instance_launched")]
    return [event.instance_id for event in found if isinstance(event, InstanceLaunched)]


def gone(rig: Rig, *vendors: Vendor) -> None:
    """End the pool; nothing is left anywhere."""
    rig.down(within_s=UP_WITHIN_S)
    for vendor in vendors:
        until(lambda vendor=vendor: not vendor.resources(), f"{vendor.name} has {vendor.resources()}", 30)  # type: ignore[misc]


def test_a_pool_lives_works_and_leaves_nothing(rig: Rig, vendor: Vendor) -> None:
    rig.configure(rest=vendor.toml)
    rig.start()
    whole(rig.end_of(ask(rig, 2, vendor.name), UP_WITHIN_S))
    assert len(vendor.alive()) == 2
    done = [rig.run("echo hello from $EVERPOOL_NODE", node=node) for node in (0, 1)]
    assert [rig.text(one.task_id) for one in done] == [["hello from 0"], ["hello from 1"]]
    gone(rig, vendor)
    assert vendor.alive() == []
    rig.check_ends()


@pytest.mark.parametrize("when", ["after the answer", "during the call"])
def test_a_create_that_worked_and_failed_makes_one_machine(rig: Rig, vendor: Vendor, when: str) -> None:
    rig.configure(daemon="quarantine_s = 3600", rest=vendor.toml)
    rig.start()
    until(lambda: rig.client.offers(), "there are offers")
    if when == "during the call":
        vendor.hold_creates(2.0)
    vendor.fail_after_create()
    asked = ask(rig, 2, vendor.name)
    until(lambda: vendor.creates() > 0, "a machine is asked for")
    if when == "after the answer":
        until(vendor.alive, "the vendor did what it was asked")
    rig.kill()
    until(vendor.alive, "the vendor does what it was asked, whoever hears the answer", 10)
    vendor.hold_creates(0.0)
    rig.start()
    whole(rig.end_of(asked, UP_WITHIN_S))
    assert len(vendor.alive()) == 2, "none was made twice"
    assert len(set(launched(rig))) == len(launched(rig)) == 2
    assert sorted(vendor.alive()) == sorted(one["ref"] for one in rig.client.instances("main"))
    assert rig.run("true").success
    gone(rig, vendor)
    rig.check_ends()


def test_an_orphan_is_reaped_and_a_foreign_machine_lives(rig: Rig, vendor: Vendor) -> None:
    rig.configure(daemon="quarantine_s = 3", rest=vendor.toml)
    rig.start()
    whole(rig.end_of(ask(rig, 1, vendor.name), UP_WITHIN_S))
    (own,) = vendor.alive()
    owner = str(rig.health()["owner"])
    foreign, orphan = vendor.foreign(owner), vendor.orphan(owner)
    assert sorted(vendor.alive()) == sorted([own, foreign, orphan])
    quarantined = rig.until_event("instance_quarantined")
    reaped = rig.until_event("instance_reaped")
    assert isinstance(reaped.event, InstanceReaped) and reaped.event.ref == orphan
    assert reaped.at - quarantined.at >= 3, "the age guard"
    assert sorted(vendor.alive()) == sorted([own, foreign])
    assert rig.run("true").success
    rig.down(within_s=UP_WITHIN_S)
    assert vendor.alive() == [foreign]
    assert len(rig.events("instance_quarantined")) == 1


def test_a_pool_over_three_providers_loses_one_and_becomes_whole(rig: Rig) -> None:
    with (
        opened("container", rig) as near,
        opened("aws", rig) as lost,
        opened("gcp", rig) as far,
    ):
        vendors = (near, lost, far)
        for vendor in vendors:
            vendor.limit(2)
        rig.configure(rest="\n".join(vendor.toml for vendor in vendors))
        rig.start()
        names = [vendor.name for vendor in vendors]
        whole(rig.end_of(ask(rig, 6, *names, worker={"concurrency": 2}, **SOON), UP_WITHIN_S))
        assert Counter(ready(rig).values()) == {name: 2 for name in names}
        # Else nobody could tell for lease_s and a minute more whether the old attempts have ended.
        tasks = tasks_of("main", [{"shell": "sleep 2; echo done", "at_least_once": True}] * 40)
        assert all(one.taken for one in rig.client.submit(tasks))
        until(lambda: rig.events("task_started"), "work has begun")

        far.limit(6)
        lost.shut()
        for ref in lost.alive():
            lost.kill(ref)

        def is_whole() -> bool:
            by_node = ready(rig)
            return len(by_node) == 6 and lost.name not in by_node.values()

        until(is_whole, "six nodes are ready, none of them there", 150)
        ends = [rig.done(one.request_id, 90) for one in tasks]
        assert {end.result for end in ends} == {"success"}
        assert sum(end.attempts for end in ends) > len(ends), "some were run again"
        lost.open()
        gone(rig, *vendors)
        assert all(vendor.violations() == [] for vendor in vendors)
