"""Calls that go wrong, listings that lie, notices that mislead, outages, and calls of daemons that died."""

from collections.abc import Sequence

import anyio
import pytest

from providers.contract import Provider
from providers.errors import Fault, ProviderError
from providers.model import Handle, Listing, Notice
from providers.simulated.config import Delay, Faults, Incident, SimulatedConfig, SimulatedOffer
from providers.simulated.faults import Trouble
from tests.contract.harness import OTHER_OWNER, OWNER
from tests.providers.simulated.harness import QUICK, START, SimulatedHarness, cloud_of, faults_of

pytestmark = pytest.mark.anyio


def config_with(faults: Faults | None = None, **fields: object) -> SimulatedConfig:
    return QUICK.model_copy(update={**fields, "faults": faults or Faults()})


async def fault_of(call: object) -> str:
    """How a call ends: "" or the fault."""
    try:
        await call  # type: ignore[misc]
    except ProviderError as error:
        return str(error.fault)
    return ""


async def launch(here: SimulatedHarness, *nodes: int) -> Sequence[Handle | ProviderError]:
    offer = await here.spot()
    return await here.provider.launch([here.order(node, offer) for node in nodes])


# --- launches and terminates --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "fault", "made"),
    [
        ("launch_capacity", "capacity", False),
        ("launch_refused_made", "capacity", True),
        ("launch_throttled", "throttled", False),
        ("launch_unknown_made", "unknown", True),
        ("launch_unknown_lost", "unknown", False),
    ],
)
async def test_how_a_launch_goes_wrong(share: str, fault: str, made: bool) -> None:
    async with cloud_of(config_with(Faults.model_validate({share: 1}))) as here:
        assert faults_of(await launch(here, 0)) == [fault]
        key = here.order(0, await here.spot()).key
        assert (await here.provider.find(key) is not None) is made
        if made:  # the key is a token: the same again is that machine
            assert faults_of(await launch(here, 0)) == [""]
        here.cloud.luck.calm = True
        assert faults_of(await launch(here, 0)) == [""]
        assert len(here.cloud.machines) == 1


async def test_of_a_batch_some_are_made_and_the_call_fails() -> None:
    made = set()
    async with cloud_of(config_with(Faults(launch_partly=1))) as here:
        for batch in range(20):
            nodes = range(batch * 5, batch * 5 + 5)
            assert await fault_of(launch(here, *nodes)) == "unknown"
            keys = [here.order(node, await here.spot()).key for node in nodes]
            there = [bool(here.cloud.of_key(key)) for key in keys]
            assert there == sorted(there, reverse=True)  # the first of them
            made.add(sum(there))
    assert made == {0, 1, 2, 3, 4}


async def test_how_a_terminate_goes_wrong() -> None:
    async with cloud_of() as here:
        luck = here.cloud.luck
        for trouble, fault, ends in (
            (Trouble.UNKNOWN_DONE, "unknown", True),
            (Trouble.IGNORED, "", False),
            (Trouble.THROTTLED, "throttled", False),
            (None, "", True),
        ):
            [machine] = await here.launched()
            luck.next_terminates.append(trouble)
            assert faults_of(await here.provider.terminate([here.cloud.handle(machine)])) == [fault]
            await anyio.sleep(1)
            assert (machine.ended_at is not None) is ends


async def test_a_terminate_is_refused_while_the_machine_is_pending() -> None:
    config = config_with(Faults(terminate_refused_pending=1), boot_delay=Delay(least_s=30))
    async with cloud_of(config) as here:
        [machine] = await here.launched()
        handle = here.cloud.handle(machine)
        assert faults_of(await here.provider.terminate([handle])) == ["conflict"]
        await anyio.sleep(30)
        assert faults_of(await here.provider.terminate([handle])) == [""]
        await anyio.sleep(1)
        assert faults_of(await here.provider.terminate([handle])) == [""]
        assert machine.ended_at is not None


async def test_without_tokens_the_same_key_makes_another_machine() -> None:
    async with cloud_of(config_with(tokens=False)) as here:
        assert here.provider.capabilities.tokens is False
        [first], [second] = [await launch(here, 0) for _ in range(2)]
        assert isinstance(first, Handle)
        assert isinstance(second, Handle)
        assert first.ref != second.ref
        key = here.order(0, await here.spot()).key
        assert set(await here.listed()) == {first.ref, second.ref}
        found = await here.provider.find(key)
        assert found is not None
        assert found.handle == first
        await here.provider.terminate([first])
        await anyio.sleep(1)
        found = await here.provider.find(key)
        assert found is not None
        assert found.handle == second
        assert [one.ref for one in here.cloud.of_key(key)] == [first.ref, second.ref]


async def test_refs_are_another_clouds_in_another_cloud() -> None:
    async with cloud_of() as here:
        assert [one.ref for one in await here.launched(2)] == ["sim-000001", "sim-000002"]


# --- listings -----------------------------------------------------------------------------------


async def test_a_listing_that_misses_says_it_is_complete_and_never_misses_one_twice_in_a_row() -> None:
    async with cloud_of(config_with(Faults(listing_misses=0.6, listing_incomplete=0.2))) as here:
        every = {one.ref for one in await here.launched(10)}
        missed, before, incomplete = 0, set[str](), 0
        for _ in range(200):
            listing = await here.provider.observe(OWNER)
            lacking = every - {one.handle.ref for one in listing.sightings}
            if listing.complete:
                assert not lacking & before
                missed += bool(lacking)
                before = lacking
            else:
                before &= lacking
                incomplete += 1
        assert missed > 50
        assert incomplete > 20


async def test_a_listing_may_be_the_one_before_and_what_is_promised_holds() -> None:
    config = config_with(Faults(listing_stale=0.7), visible_within_s=20.0)
    async with cloud_of(config) as here:
        promised_s = here.provider.capabilities.visible_within_s
        assert promised_s == 40
        stale = 0
        launched: dict[str, float] = {}
        for number in range(100):
            for one in await launch(here, number):
                assert isinstance(one, Handle)
                launched[one.ref] = anyio.current_time()
            await anyio.sleep(3)
            listing = await here.provider.observe(OWNER)
            now = anyio.current_time()
            assert listing.at == START + now
            seen = {one.handle.ref for one in listing.sightings}
            late = [at for ref, at in launched.items() if ref not in seen]
            assert all(now - at <= promised_s for at in late)
            stale += any(now - at > 20 for at in late)
        assert stale > 0


async def test_an_ended_machine_is_shown_with_its_end_for_a_while() -> None:
    async with cloud_of(config_with(shows_ended_s=60.0, preemptions_per_hour=0.0)) as here:
        [machine] = await here.launched()
        ended_at = here.cloud.timeline.now()
        here.cloud.preempt(machine, None)
        shown = (await here.listed())[machine.ref]
        assert shown.ended_at == ended_at
        assert (shown.state, shown.address, shown.notice) == ("stopped", None, None)
        assert shown.launched_at == machine.launched_at
        assert await here.provider.find(machine.key) == shown
        assert await here.listed(OTHER_OWNER) == {}
        await anyio.sleep(61)
        assert await here.listed() == {}
        assert await here.provider.find(machine.key) is None


async def test_a_machine_that_is_not_listed_lives_and_can_be_talked_to() -> None:
    async with cloud_of() as here:
        hidden, other = await here.launched(2)
        here.cloud.unlist(hidden, 100)
        listing = await here.provider.observe(OWNER)
        assert listing.complete
        assert [one.handle.ref for one in listing.sightings] == [other.ref]
        assert await here.provider.find(hidden.key) is None
        async with here.talk(hidden) as talk:
            assert talk.hello["accepted"] is True
        await anyio.sleep(101)
        assert set(await here.listed()) == {hidden.ref, other.ref}
        assert here.witness.texts == [f"sim: {hidden.key} is not listed for 100 s"]


# --- outages ------------------------------------------------------------------------------------


async def all_faults(provider: Provider, here: SimulatedHarness) -> set[str]:
    offer = here.cloud.offers[0]
    calls = (
        provider.offers(),
        provider.launch([here.order(99, offer)]),
        provider.find("nobody"),
        provider.observe(OWNER),
        provider.terminate([Handle(provider="sim", ref="sim-009999")]),
        provider.close_cluster(here.cluster.model_copy(update={"cluster_id": "c9"})),
    )
    return {await fault_of(call) for call in calls}


async def test_credentials_stop_working_for_an_hour_and_machines_live_on() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        here.cloud.lock_out(3600)
        assert await all_faults(here.provider, here) == {"credentials"}
        async with here.talk(machine, lease_s=86_400):  # ssh knows nothing of it
            await anyio.sleep(3500)
        assert await all_faults(here.provider, here) == {"credentials"}
        await anyio.sleep(101)
        assert await all_faults(here.provider, here) == {""}
        assert machine.ended_at is None


async def test_everything_is_throttled_for_a_while() -> None:
    async with cloud_of() as here:
        here.cloud.throttle(60)
        with pytest.raises(ProviderError) as caught:
            await here.provider.observe(OWNER)
        assert caught.value.fault is Fault.THROTTLED
        assert caught.value.retry_after_s is not None
        assert await all_faults(here.provider, here) == {"throttled"}
        await anyio.sleep(61)
        assert await all_faults(here.provider, here) == {""}


async def test_a_dark_zone_can_not_be_asked_had_or_talked_to_and_its_machines_run_on() -> None:
    async with cloud_of() as here:
        [dark], [lit] = await here.launched(), await here.launched(zone="small")
        async with here.talk(dark) as talk:
            await talk.start("t", "sim-sleep", "60")
            await talk.until("started", task="t")
            here.cloud.darken("sim-a", 600)
            await talk.until_over()
        listing = await here.provider.observe(OWNER)
        assert (listing.complete, listing.unreachable) == (False, ("sim-a",))
        assert [one.handle.ref for one in listing.sightings] == [lit.ref]
        assert await fault_of(here.provider.find(dark.key)) == "unknown"
        assert await fault_of(here.provider.find("who knows")) == "unknown"
        assert await here.provider.find(lit.key) is not None
        assert faults_of(await launch(here, 50)) == ["capacity"]
        handles = [here.cloud.handle(dark), here.cloud.handle(lit)]
        assert faults_of(await here.provider.terminate(handles)) == ["unknown", ""]
        assert await fault_of(attach(here, dark.ref)) == "not_sent"
        await anyio.sleep(600)
        assert "over t/1" in here.witness.seen
        listing = await here.provider.observe(OWNER)
        assert listing.complete
        assert [one.handle.ref for one in listing.sightings] == [dark.ref]
        assert await fault_of(attach(here, dark.ref)) == ""


async def attach(here: SimulatedHarness, ref: str) -> None:
    async with here.provider.attach(here.way_into(here.cloud.machines[ref])):
        pass


# --- notices ------------------------------------------------------------------------------------


async def pushed(provider: Provider, within_s: float = 1000) -> list[tuple[str, Notice | None]]:
    """Everything that is pushed in some time."""
    found: list[tuple[str, Notice | None]] = []
    with anyio.move_on_after(within_s):
        async for one in provider.notices():
            found.append(one)
    return found


async def test_a_notice_may_come_twice_late_withdrawn_or_for_another_machine() -> None:
    async with cloud_of(config_with(notice_push_delay=Delay(least_s=90))) as here:
        machine, other = await here.launched(2)
        here.cloud.preempt(machine, 120, kill=False)
        shown = (await here.listed())[machine.ref].notice
        assert shown is not None
        assert await pushed(here.provider, 89) == []
        assert await pushed(here.provider, 2) == [(machine.key, shown)]
        here.cloud.repeat_notice(machine)
        here.cloud.repeat_notice(other)
        here.cloud.misdirect_notice(other)
        [again, wrong] = await pushed(here.provider, 2)
        assert again == (machine.key, shown)
        assert wrong[0] == other.key
        assert wrong[1] is not None
        assert (await here.listed())[other.ref].notice is None
        here.cloud.withdraw(machine)
        assert (await here.listed())[machine.ref].notice is None
        assert await pushed(here.provider, 100) == [(machine.key, None)]
        assert len(here.cloud.living) == 2


async def test_notices_go_wrong_by_seed() -> None:
    async with cloud_of(config_with(Faults(notice_twice=1))) as here:
        [machine] = await here.launched()
        here.cloud.preempt(machine, 3600)
        assert [key for key, _ in await pushed(here.provider, 61)] == [machine.key] * 2
    async with cloud_of(config_with(Faults(notice_misdirected=1))) as here:
        machines = await here.launched(10)
        for machine in machines:
            here.cloud.preempt(machine, 3600)
        keys = [key for key, _ in await pushed(here.provider, 61)]
        assert len(keys) == 10
        assert keys != [machine.key for machine in machines]


async def test_a_notice_that_was_withdrawn_does_not_cut_the_next_one_short() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        here.cloud.preempt(machine, 100)
        await anyio.sleep(50)
        here.cloud.withdraw(machine)
        here.cloud.preempt(machine, 1000)
        await anyio.sleep(900)
        assert machine.ended_at is None
        await anyio.sleep(101)
        assert machine.ended_at is not None


@pytest.mark.parametrize("wrong_s", [0.0, 7200.0, -7200.0])
async def test_deadlines_are_told_in_the_daemons_time_and_all_else_in_the_vendors(wrong_s: float) -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        daemon = here.another_daemon(clock_wrong_s=wrong_s)
        here.cloud.preempt(machine, 120, kill=False)
        deadline_at = pytest.approx(START + anyio.current_time() + 120 + wrong_s, abs=0.002)
        [(_, notice)] = await pushed(daemon.provider, 1)
        assert notice is not None
        assert notice.deadline_at == deadline_at
        listing = await daemon.provider.observe(OWNER)
        assert listing.at == START + anyio.current_time()
        assert listing.sightings[0].launched_at == machine.launched_at
        assert listing.sightings[0].notice == notice
        await anyio.sleep(10.123)
        again = await daemon.provider.find(machine.key)
        assert again is not None
        assert again == listing.sightings[0]


# --- the death of a daemon ----------------------------------------------------------------------


async def dying(here: SimulatedHarness, late_share: float, *, at: float) -> list[Handle]:
    """A daemon that dies while a launch and a terminate are on their way; the handles of before."""
    offer = here.cloud.offers[0]
    old = here.cloud.plant("old", OWNER, offer)
    async with anyio.create_task_group() as tasks:
        orders = [here.order(node, offer) for node in range(3)]
        tasks.start_soon(here.provider.launch, orders)
        tasks.start_soon(here.provider.terminate, [here.cloud.handle(old)])
        tasks.start_soon(here.provider.observe, OWNER)
        await anyio.sleep(at)
        here.provider.cut(late_share)
        tasks.cancel_scope.cancel()
    return [here.cloud.handle(old)]


async def test_calls_of_a_dead_daemon_reach_nothing_or_come_late() -> None:
    config = config_with(call_delay=Delay(least_s=10, most_s=10))
    async with cloud_of(config) as here:
        await dying(here, 0.0, at=2)
        await anyio.sleep(1000)
        assert here.witness.seen == ["made sim-000001"]
    async with cloud_of(config) as here:
        await dying(here, 1.0, at=2)
        assert here.witness.seen == ["made sim-000001"]
        await anyio.sleep(1000)
        assert sorted(here.witness.seen) == [
            "ended sim-000001 terminated",
            "made sim-000001",
            "made sim-000002 late",
            "made sim-000003 late",
            "made sim-000004 late",
        ]
    async with cloud_of(config) as here:
        await dying(here, 1.0, at=7)  # they have arrived; only the answers are lost
        await anyio.sleep(1000)
        assert not any("late" in text for text in here.witness.seen)
        assert len(here.cloud.machines) == 4


async def test_a_dead_daemons_adapter_lets_nothing_through() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            here.provider.cut()
            await talk.until_over()
        assert await all_faults(here.provider, here) == {"unknown"}
        assert await fault_of(attach(here, machine.ref)) == "unknown"
        assert await fault_of(anext(here.provider.notices())) == "unknown"
        assert len(here.cloud.machines) == 1
        async with here.another_daemon().talk(machine) as talk:
            assert talk.hello["accepted"] is True


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("late_share", [0.0, 1.0])
async def test_a_daemon_may_die_right_before_or_after_a_call_takes_effect(
    when: str, late_share: float
) -> None:
    async with cloud_of() as here:
        moments: list[tuple[str, str]] = []

        def on_call(name: str, moment: str) -> None:
            moments.append((name, moment))
            if (name, moment) == ("launch", when):
                here.provider.cut(late_share)

        offer = await here.spot()
        here.provider.on_call = on_call
        assert await fault_of(here.provider.launch([here.order(0, offer)])) == "unknown"
        assert moments == [("launch", "before"), ("launch", "after")][: 1 if when == "before" else 2]
        assert len(here.cloud.machines) == (0 if when == "before" else 1)
        await anyio.sleep(301)
        assert len(here.cloud.machines) == (0 if when == "before" and not late_share else 1)


async def test_every_call_has_its_moments() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        moments: list[str] = []
        here.provider.on_call = lambda name, when: moments.append(f"{name} {when}")
        await all_faults(here.provider, here)
        await attach(here, machine.ref)
        names = ("offers", "launch", "find", "observe", "terminate", "close_cluster", "attach")
        assert moments == [f"{name} {when}" for name in names for when in ("before", "after")]


async def test_a_listing_may_be_old_when_it_arrives() -> None:
    """Half of the reads are answered before what happens while they are on their way."""
    async with cloud_of(config_with(call_delay=Delay(least_s=10))) as here:
        seen: list[int] = []

        async def look() -> None:
            listing: Listing = await here.provider.observe(OWNER)
            seen.append(len(listing.sightings))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(look)
            await anyio.sleep(5)
            here.cloud.plant("one", OWNER, here.cloud.offers[0])
        assert set(seen) == {0, 1}


# --- the script ---------------------------------------------------------------------------------


def scripted(*incidents: Incident) -> SimulatedConfig:
    return QUICK.model_copy(update={"incidents": incidents})


async def test_incidents_happen_when_they_are_to() -> None:
    config = scripted(
        Incident(at_s=100, what="credentials", for_s=50),
        Incident(at_s=200, what="dark", zone="small", for_s=50),
        Incident(at_s=300, what="dark", for_s=50),
        Incident(at_s=400, what="throttle", for_s=50),
        Incident(at_s=500, what="preempt", zone="small"),
        Incident(at_s=600, what="preempt", count=3),
    )
    async with cloud_of(config) as here:
        await here.launched(5)
        [small] = await here.launched(zone="small")

        async def at(seconds: float) -> str:
            await anyio.sleep(seconds - anyio.current_time())
            try:
                return ",".join((await here.provider.observe(OWNER)).unreachable)
            except ProviderError as error:
                return str(error.fault)

        found = [await at(seconds) for seconds in (99, 101, 149, 151, 201, 251, 301, 351, 401, 451)]
        assert found == [
            "",
            "credentials",
            "credentials",
            "",
            "small",
            "",
            "sim-a,small",
            "",
            "throttled",
            "",
        ]
        assert small.ended_at is None
        await at(621)
        assert small.ended_at is not None  # 120 s after its notice
        assert len(here.cloud.living) == 5
        await at(721)
        assert len(here.cloud.living) == 2


async def test_every_incident_befalls_machines() -> None:
    config = scripted(
        Incident(at_s=10, what="false_notice", count=1, for_s=5),
        Incident(at_s=20, what="silence", share=0.5, for_s=5),
        Incident(at_s=30, what="isolate", count=1),
        Incident(at_s=40, what="unlist", share=0.5, for_s=5),
        Incident(at_s=50, what="stop", count=1, for_s=5),
        Incident(at_s=60, what="kill_agent", count=1),
        Incident(at_s=70, what="cut"),
        Incident(at_s=80, what="misdirect_notice", count=1),
        Incident(at_s=90, what="false_notice", for_s=50),
        Incident(at_s=95, what="repeat_notice", count=1),
    )
    async with cloud_of(config) as here:
        await here.launched(4)
        await anyio.sleep(200)
        words = [text.removeprefix("sim: ") for text in here.witness.texts]
        for part, count in (
            ("an empty notice for ", 5),
            ("silence of ", 2),
            ("can't be reached any more", 1),
            ("is not listed for 5 s", 2),
            ("is outbid", 1),
            ("runs again", 1),
            ("the agent of ", 1),
            ("which is not meant", 1),
            ("notice again for ", 1),
        ):
            assert sum(part in word for word in words) == count, part
        assert len(here.cloud.living) == 4
        assert all(one.notice is None for one in here.cloud.living.values())


# --- the same seed ------------------------------------------------------------------------------


async def story(seed: int) -> list[str]:
    shares = {name: 0.1 for name in Faults.model_fields if name not in ("cuts_per_hour", "boot_never")}
    config = SimulatedConfig(
        seed=seed,
        offers=(SimulatedOffer(spot=1, capacity=20, preemptions_per_hour=1),),
        faults=Faults.model_validate(shares),
        addresses_reused=True,
        shows_ended_s=60,
    )
    told: list[str] = []
    async with cloud_of(config) as here:
        for number in range(100):
            outcome = "launched"
            try:
                outcome = str(faults_of(await launch(here, number)))
                listing = await here.provider.observe(OWNER)
                outcome += f" {len(listing.sightings)} {listing.complete}"
                refs = [one.handle for one in listing.sightings]
                outcome += f" {faults_of(await here.provider.terminate(refs[:1]))}"
            except ProviderError as error:
                outcome += f" {error.fault}"
            told.append(f"{anyio.current_time():.3f} {outcome} {here.cloud.billed_micro_usd()}")
            await anyio.sleep(20)
        return told + here.witness.seen + here.witness.texts


async def test_the_same_seed_tells_the_same_story() -> None:
    first = await story(1)
    begun = anyio.current_time()
    again = await story(1)
    assert [line.split(" ", 1)[1] for line in first] == [line.split(" ", 1)[1] for line in again]
    assert begun > 0
    assert await story(2) != first
