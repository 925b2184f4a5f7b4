"""The sweep in the whole daemon: what nobody knows is reaped and paid, what is known is left alone."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from actors.events import InstanceDestroyed, InstanceReaped, ShutdownRequested
from actors.spec import Nodes, PoolSpec
from controller.simulation.house import GUARD_S, OWNER
from providers.simulated.config import Delay
from providers.simulated.machine import Machine
from tests.actors.house import CONFIG, POOL, House, house

pytestmark = pytest.mark.anyio
SPEC = PoolSpec(provider=("sim",), nodes=Nodes(desired=1), allocation="on-demand", metrics_every_s=86_400)
TOLD = CONFIG.model_copy(update={"shows_ended_s": 3600.0, "end_delay": Delay(least_s=7.3, most_s=7.3)})
SILENT = TOLD.model_copy(update={"shows_ended_s": 0.0, "lists_stopped": False})


@pytest.fixture
def anyio_backend() -> Any:
    """A virtual clock: guards take minutes."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


async def _until(holds: Callable[[], bool], within_s: float = 3600) -> None:
    with anyio.fail_after(within_s):
        while not holds():  # noqa: ASYNC110 - the clock is virtual
            await anyio.sleep(1)


def _machine(here: House) -> Machine:
    (machine,) = (one for one in here.cloud.living.values() if one.owner == OWNER)
    return machine


def _paid(here: House, ref: str) -> int:
    """What facts say that a machine has cost; one of ours is named by its instance."""
    total = 0
    for envelope in here.envelopes:
        match envelope.event:
            case InstanceReaped(ref=reaped, cost_micro_usd=cost) if reaped == ref:
                total += cost
            case InstanceDestroyed(instance_id=name, cost_micro_usd=cost):
                row = here.ledger.row(POOL, "instance", name)
                total += cost if row is not None and getattr(row.state, "ref", "") == ref else 0
            case _:
                continue
    return total


async def test_a_twin_under_a_key_that_is_in_use_is_reaped_and_the_known_one_works_on() -> None:
    async with house(TOLD, lawful=False) as here:  # two machines under one key
        await here.pool(SPEC)
        known = _machine(here)
        twin = here.cloud.plant(known.key, OWNER, known.offer, cluster_id=known.cluster_id)
        await _until(lambda: bool(here.facts("instance_reaped")))
        (quarantined,) = here.facts("instance_quarantined")
        assert quarantined.event.ref == twin.ref  # type: ignore[union-attr]
        assert twin.ended_at is not None and twin.ended_at - twin.launched_at >= GUARD_S
        assert known.ended_at is None and len(here.ready) == 1
        assert not here.facts("instance_preempted")
        assert _paid(here, twin.ref) == twin.billed_micro_usd(here.clock.now())


async def test_an_end_is_paid_to_the_second_where_the_vendor_tells_it() -> None:
    async with house(TOLD) as here:
        await here.pool(SPEC)
        machine = _machine(here)
        await anyio.sleep(1234.5)
        await here.ask(ShutdownRequested(request_id="end", cluster_id=POOL))
        await here.until(lambda: here.ended("end"))
        assert _paid(here, machine.ref) == machine.billed_micro_usd(here.clock.now()) > 0


async def test_an_end_that_is_only_seen_is_paid_until_it_was_missing_first() -> None:
    async with house(SILENT) as here:
        await here.pool(SPEC)
        machine = _machine(here)
        await anyio.sleep(1234.5)
        await here.ask(ShutdownRequested(request_id="end", cluster_id=POOL))
        with anyio.fail_after(600):
            while not here.ended("end"):  # noqa: ASYNC110 - the clock is virtual
                await anyio.sleep(1)
        billed = machine.billed_micro_usd(here.clock.now())
        minute = machine.offer.micro_usd_per_hour // 60
        assert billed <= _paid(here, machine.ref) <= billed + minute


async def test_one_that_comes_back_after_its_end_is_paid_once_for_each_time() -> None:
    async with house(SILENT, lawful=False) as here:  # a machine lives that was seen to be gone
        await here.pool(SPEC)
        machine = _machine(here)
        here.cloud.stop(machine, 1800)
        await _until(lambda: bool(here.facts("instance_reaped")), within_s=7200)
        assert machine.ended_at is not None
        billed = machine.billed_micro_usd(here.clock.now())
        assert billed <= _paid(here, machine.ref) <= billed + 2 * machine.offer.micro_usd_per_hour // 60
        assert len(here.ready) == 1


async def test_a_machine_whose_key_is_another_owners_is_never_touched() -> None:
    async with house(TOLD) as here:
        await here.pool(SPEC)
        offer = _machine(here).offer
        here.referee.foreign.add("somebody/pool/0/1.1/1")
        other = here.cloud.plant(
            "somebody/pool/0/1.1/1", OWNER, offer, has_agent=False
        )  # marked as ours by mistake
        await anyio.sleep(GUARD_S * 10)
        assert other.ended_at is None and other.state == "running"
        assert not here.facts("instance_quarantined")
