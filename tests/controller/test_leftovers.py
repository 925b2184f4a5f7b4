"""The sweep of what is no machine: what nobody claims is removed, what is the living's is left alone."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from actors.events import LeftoverFound, LeftoverRemoved, PoolRequested, ShutdownRequested
from actors.spec import Nodes, PoolSpec
from controller.leftovers import AGAIN_S, EVERY_S, FAILING_MOST_S, LeftoverSweep
from controller.recovery import Sweep
from controller.simulation.house import GUARD_S, LEFTOVERS_EVERY_S, OBSERVE_EVERY_S, OWNER
from providers.errors import Fault, ProviderError
from providers.gateway import Gateway
from providers.model import ClusterOrder, Handle, Leftover, LeftoverKind, Leftovers
from providers.simulated.adapter import SimulatedProvider
from providers.simulated.config import Delay
from providers.simulated.faults import Trouble
from tests.actors.house import CONFIG, POOL, House, house

pytestmark = pytest.mark.anyio
SPEC = PoolSpec(provider=("sim",), nodes=Nodes(desired=1), allocation="on-demand", metrics_every_s=86_400)
SLOW = CONFIG.model_copy(update={"call_delay": Delay(least_s=20, most_s=20)})
SOON_S = 2 * LEFTOVERS_EVERY_S + GUARD_S  # until a leftover is gone, and seen to be


@pytest.fixture
def anyio_backend() -> Any:
    """A virtual clock: guards take minutes."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def until(holds: Callable[[], bool], within_s: float = 3600) -> None:
    """Wait for something in the world."""
    with anyio.fail_after(within_s):
        while not holds():  # noqa: ASYNC110 - the clock is virtual
            await anyio.sleep(1)


def open_behind_our_back(here: House, name: str, owner: str = OWNER) -> None:
    """A cluster that no pool knows of."""
    order = ClusterOrder(cluster_id=name, owner=owner, pool="ghost", region="sim", public_key="k")
    here.cloud.open_cluster(order)


# --- clusters, in the whole daemon ----------------------------------------------------------------


async def test_a_cluster_of_nobody_is_removed_after_the_guard_and_one_of_another_owner_lives() -> None:
    async with house(lawful=False) as here:
        await here.pool(SPEC)
        (known,) = here.cloud.clusters
        open_behind_our_back(here, "ghost-7-sim-sim")
        open_behind_our_back(here, "ghost-8-sim-sim", owner="somebody")
        began = here.clock.now()
        await until(lambda: bool(here.facts("leftover_removed")))
        assert set(here.cloud.clusters) == {known, "ghost-8-sim-sim"}
        (found,), (removed,) = here.facts("leftover_found"), here.facts("leftover_removed")
        assert isinstance(found.event, LeftoverFound) and isinstance(removed.event, LeftoverRemoved)
        assert (found.event.leftover, found.event.ref) == ("group", "ghost-7-sim-sim")
        assert (removed.event.provider, removed.event.cluster_id) == ("sim", "ghost-7-sim-sim")
        assert began + GUARD_S <= removed.at <= began + SOON_S + 3 * AGAIN_S
        await anyio.sleep(SOON_S)
        assert len(here.facts("leftover_found")) == 1 and len(here.ready) == 1


async def test_a_call_of_a_dead_daemon_that_makes_a_cluster_after_its_pool_has_gone_is_undone() -> None:
    async with house(SLOW) as here:
        await here.ask(PoolRequested(request_id="make", pool=POOL, spec=SPEC))
        await until(lambda: bool(here.facts("cluster_requested")))
        for provider in here.daemon._providers.values():
            provider.cut(late_share=1.0)  # what it asked for is on its way
        here.crash()
        await here.start()
        await here.ask(ShutdownRequested(request_id="end", cluster_id=POOL))
        await until(lambda: here.ended("end"))
        await until(lambda: bool(here.cloud.clusters))  # there it is, and nobody knows it
        await until(lambda: bool(here.facts("leftover_removed")))
        assert not here.cloud.clusters


async def test_a_cluster_with_a_machine_in_it_is_left_until_it_is_free_for_as_long_as_the_guard() -> None:
    async with house(lawful=False) as here:
        await here.pool(SPEC)
        open_behind_our_back(here, "ghost-7-sim-sim")
        here.referee.foreign.add("somebody/pool/0/1.1/1")
        (machine,) = here.cloud.living.values()
        guest = here.cloud.plant(
            "somebody/pool/0/1.1/1",
            "somebody",
            machine.offer,
            cluster_id="ghost-7-sim-sim",
            has_agent=False,
        )
        await anyio.sleep(4 * SOON_S)
        assert "ghost-7-sim-sim" in here.cloud.clusters
        here.cloud.end(guest, "over")
        freed = here.clock.now()
        await until(lambda: "ghost-7-sim-sim" not in here.cloud.clusters)
        assert here.clock.now() - freed >= GUARD_S


# --- one provider's shelf -------------------------------------------------------------------------


class Shelf(SimulatedProvider):
    """An account whose leftovers are what the test says."""

    things: list[Leftover] | None  # None: what the simulated cloud has
    complete: bool
    scopes: tuple[str, ...] = ()
    failure: ProviderError | None
    refusals: list[ProviderError]  # of the next removals
    asked: list[float]  # when they were listed
    removed: list[tuple[float, str]]  # when which removal was asked for

    async def leftovers(self, owner: str) -> Leftovers:
        assert owner == OWNER
        self.asked.append(anyio.current_time())
        if self.failure is not None:
            raise self.failure
        if self.things is None:
            return await super().leftovers(owner)
        unreachable = () if self.complete else ("eu",)
        return Leftovers(
            found=tuple(self.things), complete=self.complete, unreachable=unreachable, scopes=self.scopes
        )

    async def remove(self, leftover: Leftover) -> None:
        self.removed.append((anyio.current_time(), leftover.handle.ref))
        if self.refusals:
            raise self.refusals.pop(0)
        if self.things is None:
            await super().remove(leftover)
        else:
            self.things = [one for one in self.things if one.handle != leftover.handle]


def thing(ref: str, kind: LeftoverKind = "disk", **more: Any) -> Leftover:
    """A disk, say."""
    return Leftover(kind=kind, handle=Handle(provider="sim", ref=ref, region="r"), **more)


@asynccontextmanager
async def shelf(here: House, *things: Leftover, **more: Any) -> AsyncIterator[tuple[Shelf, LeftoverSweep]]:
    """A sweep of its own for a shelf, beside a daemon's loops and machines."""
    account = Shelf("sim", CONFIG, clock=here.clock.now, cloud=here.cloud)
    account.things, account.complete, account.failure = list(things), True, None
    account.refusals, account.asked, account.removed = [], [], []
    daemon = here.daemon
    gateway = Gateway(account, owner=OWNER, listener=daemon.acting, now=here.clock.now)
    settings: dict[str, Any] = {"machines": daemon.sweep, "guard_s": GUARD_S, "may_act": lambda: True} | more
    sweep = LeftoverSweep(
        owner=OWNER,
        journal=daemon._journal,
        observer=daemon._observer,
        clock=here.clock,
        dice=Random(1),
        gateways={"sim": gateway},
        loops=daemon.loops,
        **settings,
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sweep.watch, "sim")
        yield account, sweep
        tasks.cancel_scope.cancel()


async def test_a_cluster_that_is_opened_or_used_or_closed_by_its_pool_is_no_leftover() -> None:
    eager: dict[str, Any] = {"guard_s": 0.0, "every_s": 5.0}  # each call takes longer, acts in its middle
    async with house(SLOW) as here:
        async with shelf(here, **eager) as (account, _):
            account.things = None
            await here.ask(PoolRequested(request_id="make", pool=POOL, spec=SPEC, ready_within_s=86_400))
            await until(lambda: here.daemon.loops[POOL].index.pool is not None)
            here.cloud.luck.next_others.extend([Trouble.THROTTLED, Trouble.THROTTLED])
            await until(lambda: bool(here.cloud.clusters))
            assert not here.facts("cluster_provisioned")  # it is there, and the answer is on its way
            await anyio.sleep(5)
            here.crash()
        await here.start()
        async with shelf(here, **eager) as (account, _):
            account.things = None
            await until(lambda: here.ended("make"))
            await anyio.sleep(SOON_S)
            assert len(here.cloud.clusters) == 1 and len(here.ready) == 1
            await here.ask(ShutdownRequested(request_id="end", cluster_id=POOL))
            await until(lambda: here.ended("end"))
            assert not here.cloud.clusters and not account.removed
        assert not here.facts("leftover_found")


async def test_a_disk_is_its_machines_from_the_order_to_the_observed_end_and_then_nobodys() -> None:
    async with house(SLOW) as here:
        await here.ask(PoolRequested(request_id="make", pool=POOL, spec=SPEC))

        def instances() -> list[Any]:
            return list(here.daemon.loops[POOL].index.instances.values())

        await until(lambda: bool(instances()))  # ordered, and nobody has seen it yet
        (instance,) = instances()
        assert instance.status == "requested"
        disk = thing("d", key=instance.key, cluster_id="long gone", micro_usd_per_hour=70)
        async with shelf(here, disk) as (account, sweep):
            await until(lambda: here.ended("make"))
            await anyio.sleep(10 * EVERY_S + GUARD_S)
            assert not list(sweep.of("sim"))
            await here.ask(ShutdownRequested(request_id="end", cluster_id=POOL))
            await until(lambda: here.ended("end"))
            assert not account.removed
            gone = anyio.current_time()
            await until(lambda: bool(here.facts("leftover_removed")))
        ((at, ref),) = account.removed
        assert ref == "d" and at >= gone  # the machine ended a little before its pool did
        (found,) = here.facts("leftover_found")
        assert isinstance(found.event, LeftoverFound) and found.event.micro_usd_per_hour == 70


async def test_a_disk_of_an_earlier_try_goes_while_the_instance_lives_on() -> None:
    async with house() as here:
        await here.pool(SPEC)
        (machine,) = here.cloud.living.values()
        assert machine.key.endswith("/1")
        earlier = machine.key.removesuffix("/1") + "/0"
        async with shelf(here, thing("d", key=earlier), thing("e", key=machine.key)) as (account, _):
            await anyio.sleep(20 * EVERY_S)
        assert [ref for _, ref in account.removed] == ["d"]


async def test_a_disk_of_a_machine_in_quarantine_is_that_machines() -> None:
    async with house(lawful=False) as here:  # a machine that nobody launched
        await here.pool(SPEC)
        (machine,) = here.cloud.living.values()
        key = f"{OWNER}/ghost/0/1.1/1"
        ghost = here.cloud.plant(key, OWNER, machine.offer)
        guard_s = OBSERVE_EVERY_S + 30  # by then it is in quarantine, and there is another guard to wait for
        async with shelf(here, thing("d", key=key), guard_s=guard_s) as (account, _):
            await until(lambda: bool(account.removed))
            assert ghost.ended_at is not None and here.facts("instance_reaped")


async def test_what_is_another_owners_by_its_key_is_never_touched() -> None:
    async with house() as here, shelf(here, thing("d", key="somebody/pool/0/1.1/1")) as (account, sweep):
        await anyio.sleep(20 * EVERY_S)
        assert not account.removed and not list(sweep.of("sim"))


async def test_the_guard_begins_anew_when_something_takes_hold_of_it() -> None:
    async with house() as here, shelf(here, thing("d")) as (account, _):
        await anyio.sleep(GUARD_S - 10)
        account.things = [thing("d", in_use=True)]
        await anyio.sleep(10 * GUARD_S)
        assert not account.removed
        account.things = [thing("d")]
        free = anyio.current_time()
        await until(lambda: bool(account.removed))
        assert account.removed[0][0] - free >= GUARD_S - EVERY_S


async def test_a_removal_that_is_refused_is_tried_again_ever_less_often_and_says_why() -> None:
    async with house() as here, shelf(here, thing("d"), thing("e")) as (account, sweep):
        account.refusals = [ProviderError(Fault.CONFLICT, "held by vpc-1") for _ in range(12)]
        await until(lambda: len(account.removed) == 4)
        assert {one.refusal for one in sweep.of("sim")} == {"conflict: held by vpc-1"}
        await until(lambda: not account.things)
        times = [at for at, ref in account.removed if ref == "d"]
        waits = [after - before for before, after in pairwise(times)]
        assert len(waits) >= 5 and waits[0] < waits[-1] <= 400
        await until(lambda: len(here.facts("leftover_removed")) == 2)


async def test_one_fault_of_the_account_spares_the_rest_their_calls() -> None:
    things = [thing(f"d{i}") for i in range(5)]
    async with house() as here, shelf(here, *things) as (account, _):
        account.refusals = [ProviderError(Fault.THROTTLED, "later", retry_after_s=500)]
        await until(lambda: bool(account.removed))
        first = anyio.current_time()
        assert len(account.removed) == 1
        await until(lambda: not account.things)
        again = [at for at, ref in account.removed if ref == account.removed[0][1]]
        assert again[1] - first >= 499


async def test_an_absence_counts_in_a_whole_listing_only() -> None:
    async with house() as here, shelf(here, thing("d"), guard_s=86_400.0) as (account, sweep):
        await until(lambda: bool(here.facts("leftover_found")))
        account.things, account.complete = [], False
        await anyio.sleep(5 * EVERY_S)
        assert len(list(sweep.of("sim"))) == 1 and sweep.errors == {"sim": "unreachable: eu"}
        account.complete = True
        await until(lambda: bool(here.facts("leftover_removed")) and not list(sweep.of("sim")))
        assert not account.removed and not sweep.errors


async def test_what_is_found_is_removed_though_another_region_can_not_be_read() -> None:
    async with house() as here, shelf(here, thing("d")) as (account, sweep):
        account.complete = False
        await until(lambda: bool(account.removed))
        assert sweep.errors == {"sim": "unreachable: eu"}


async def test_an_absence_counts_where_the_listing_was_whole() -> None:
    async with house() as here, shelf(here, thing("d"), guard_s=86_400.0) as (account, sweep):
        await until(lambda: bool(here.facts("leftover_found")))
        (one,) = sweep.of("sim")
        account.things, account.complete, account.scopes = [], False, ("elsewhere/disk",)
        await anyio.sleep(5 * EVERY_S)
        assert len(list(sweep.of("sim"))) == 1
        account.scopes = (f"{one.leftover.handle.region}/{one.leftover.kind}",)
        await until(lambda: bool(here.facts("leftover_removed")) and not list(sweep.of("sim")))


async def test_what_is_held_and_belongs_to_nobody_is_shown() -> None:
    async with house() as here, shelf(here, thing("d", in_use=True)) as (account, sweep):
        await until(lambda: bool(here.facts("leftover_found")))
        await anyio.sleep(10 * GUARD_S)
        assert not account.removed
        assert sweep.summary("sim")["refusal"] == "something holds it"


async def test_nothing_is_removed_before_the_machines_were_listed() -> None:
    async with house() as here:
        daemon = here.daemon
        machines = Sweep(
            owner=OWNER,
            journal=daemon._journal,
            observer=daemon._observer,
            clock=here.clock,
            dice=Random(1),
            gateways={},
            loops=daemon.loops,
            guard_s=GUARD_S,
            quarantine={},
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(machines.run)
            async with shelf(here, thing("d"), guard_s=0.0, machines=machines) as (account, _):
                await anyio.sleep(20 * EVERY_S)
                assert not account.removed
                machines.listed.add("sim")
                await until(lambda: bool(account.removed))
            tasks.cancel_scope.cancel()


async def test_a_daemon_that_does_not_lead_only_looks() -> None:
    leads = False
    async with house() as here, shelf(here, thing("d"), may_act=lambda: leads) as (account, sweep):
        await anyio.sleep(20 * EVERY_S)
        assert not account.removed and not here.facts("leftover_found")
        assert ("sim", "disk", 1, 0) in list(sweep.counted())
        leads = True
        await until(lambda: bool(here.facts("leftover_removed")))


async def test_a_restart_begins_the_guard_anew() -> None:
    async with house() as here:
        async with shelf(here, thing("d")) as (account, _):
            await anyio.sleep(GUARD_S - 5)
            assert not account.removed
        async with shelf(here, thing("d")) as (account, _):
            again = anyio.current_time()
            await until(lambda: bool(account.removed))
            assert account.removed[0][0] - again >= GUARD_S


async def test_a_provider_that_fails_is_asked_ever_less_often_until_it_answers() -> None:
    async with house() as here, shelf(here) as (account, sweep):
        account.failure = ProviderError(Fault.CREDENTIALS, "who are you")
        await until(lambda: len(account.asked) == 7, within_s=20_000)
        waits = [after - before for before, after in pairwise(account.asked)]
        assert waits[0] == 2 * EVERY_S and waits[-1] == FAILING_MOST_S and waits == sorted(waits)
        assert sweep.errors == {"sim": "credentials: who are you"}
        account.failure = ProviderError(Fault.THROTTLED, "later", retry_after_s=3000)
        await until(lambda: len(account.asked) == 9, within_s=20_000)
        assert account.asked[-1] - account.asked[-2] == 3000
        account.failure = None
        await until(lambda: len(account.asked) == 11, within_s=20_000)
        assert account.asked[-1] - account.asked[-2] == EVERY_S and not sweep.errors


async def test_what_is_counted_has_its_zeros_and_its_dollars() -> None:
    things = [thing("d", micro_usd_per_hour=5), thing("e", micro_usd_per_hour=7), thing("k", kind="key")]
    async with house() as here, shelf(here, *things) as (_, sweep):
        await anyio.sleep(EVERY_S)
        counted = {
            kind: (count, cost) for provider, kind, count, cost in sweep.counted() if provider == "sim"
        }
        assert counted.pop("disk") == (2, 12) and counted.pop("key") == (1, 0)
        assert counted and set(counted.values()) == {(0, 0)}
        assert sweep.summary("sim") == {
            "kinds": {"disk": 2, "key": 1},
            "usd_per_hour": 12e-6,
            "refusal": None,
            "error": None,
        }
