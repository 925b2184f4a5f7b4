"""The agent's death and upgrade, and machines that stop and run again: the real core over its own records."""

from contextlib import suppress
from typing import Any

import anyio
import pytest

from providers.agent import agent
from providers.agent.attach import Upgradable
from providers.errors import HostError
from providers.simulated.cloud import Machine
from providers.simulated.host import SimulatedHost
from tests.contract.harness import OWNER
from tests.providers.simulated.harness import QUICK, Talk, cloud_of

pytestmark = pytest.mark.anyio


def host_of(machine: Machine) -> SimulatedHost:
    assert machine.host is not None
    return machine.host


def kill(machine: Machine) -> None:
    host_of(machine).agent_dies()


def began(seen: list[str], task: str) -> int:
    return sum(text == f"began {task}/1" for text in seen)


# --- death --------------------------------------------------------------------------------------


async def test_what_was_not_acknowledged_is_said_again_under_the_same_ids() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            await talk.start("t", "sim-sleep", "5", "3", "2")
            ended = await talk.until("ended", task="t")
            before = [one for one in talk.heard if "id" in one]
            kill(machine)
            await talk.until_over()
        async with here.talk(machine) as talk:
            assert talk.hello["boot"] == f"boot-{machine.ref}"
            assert talk.hello["tasks"] == [["t", 1, "ended"]]
            assert await talk.until("ended", task="t") == ended
            assert [one for one in talk.heard if "id" in one] == before
            lines = await talk.until("log", task="t")
            assert lines["lines"] == [["line 1 of t", 0], ["line 2 of t", 0]]
            assert ended["code"] == 3


async def test_what_was_acknowledged_is_forgotten_also_by_the_next_agent() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            await talk.start("t", "sim-sleep", "5")
            ended = await talk.until("ended", task="t")
            await talk.say({"t": "ack", "boot": talk.hello["boot"], "id": ended["id"]})
            kill(machine)
        async with here.talk(machine) as talk:
            assert talk.hello["tasks"] == []
            assert talk.hello["next_id"] == int(str(ended["id"])) + 1
            await talk.start("t", "sim-sleep", "5")  # heard before: it is not run again
            again = await talk.until("ended", task="t")
            assert again["code"] == 0
        assert began(here.witness.seen, "t") == 1


async def test_a_task_that_outlives_its_agent_is_watched_and_its_exit_code_is_lost() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            await talk.start("t", "sim-sleep", "100", "3", "1")
            started = await talk.until("started", task="t")
            kill(machine)
        await anyio.sleep(50)
        async with here.talk(machine) as talk:
            assert talk.hello["tasks"] == [["t", 1, "running"]]
            ended = await talk.until("ended", task="t")
            assert anyio.current_time() > 99
            assert ended["why"] == "lost"
            assert "code" not in ended
            assert (await talk.until("log", task="t"))["lines"] == [["line 1 of t", 0]]
            assert (await talk.until("started", task="t"))["pid"] == started["pid"]
        assert began(here.witness.seen, "t") == 1


async def test_a_task_that_ends_while_no_agent_lives_is_lost_too_and_nothing_is_run_again() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            await talk.start("t", "sim-sleep", "10", "0", "2")
            await talk.until("started", task="t")
            kill(machine)
        await anyio.sleep(60)
        assert here.witness.seen[-1] == "over t/1"
        async with here.talk(machine) as talk:
            ended = await talk.until("ended", task="t")
            assert ended["why"] == "lost"
            assert len((await talk.until("log", task="t"))["lines"]) == 2  # type: ignore[arg-type]
        assert began(here.witness.seen, "t") == 1


async def test_a_stranger_can_still_be_stopped() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            await talk.start("t", "sim-sleep", "1000", "0", "0", "stubborn")
            await talk.until("started", task="t")
            kill(machine)
        async with here.talk(machine) as talk:
            await talk.say({"t": "stop", "epoch": 3, "task": "t", "attempt": 1, "grace_s": 5})
            assert (await talk.until("ended", task="t"))["why"] == "stop"
        assert anyio.current_time() < 20


async def test_what_was_decided_and_not_written_never_happened() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            await talk.start("one", "sim-sleep", "1000")
            await talk.until("started", task="one")
            host_of(machine).agent_dies(1)  # at the first thing that is decided from now on
            await talk.start("two", "sim-sleep", "1000")
            await talk.until_over()
        async with here.talk(machine) as talk:
            assert talk.hello["tasks"] == [["one", 1, "running"]]
            await talk.start("two", "sim-sleep", "1000")
            await talk.until("started", task="two")
        assert began(here.witness.seen, "two") == 1


@pytest.mark.parametrize("actions", range(1, 12))
async def test_death_at_any_point_runs_nothing_twice_and_loses_no_end(actions: int) -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            host_of(machine).agent_dies(actions)
            with suppress(HostError):
                await talk.start("t", "sim-sleep", "5", "0", "1")
                await talk.until("ended", task="t")
                await talk.say({"t": "ack", "boot": talk.hello["boot"], "id": 2})
            kill(machine)  # if it has not done so much
        async with here.talk(machine) as talk:
            await talk.start("t", "sim-sleep", "5", "0", "1")
            await talk.until("ended", task="t")
            ids = [one["id"] for one in talk.heard if "id" in one]
            assert ids == sorted(set(map(int, map(str, ids))))
        assert began(here.witness.seen, "t") <= 1


async def test_a_death_between_the_word_and_the_deed_is_a_task_that_is_lost() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            host_of(machine).agent_dies(3)  # the task, that it goes, and then its process
            await talk.start("t", "sim-sleep", "5")
            await talk.until_over()
        assert began(here.witness.seen, "t") == 0
        async with here.talk(machine) as talk:
            assert (await talk.until("ended", task="t"))["why"] == "lost"


async def test_a_set_up_that_was_under_way_has_failed() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        step = {"phase": "packages", "run": "sim-sleep 50", "timeout_s": 600}
        run = {"t": "bootstrap", "epoch": 3, "run_id": "r", "env": {}, "steps": [step, step]}
        async with here.talk(machine) as talk:
            await talk.say(run)
            await talk.until("phase", event="started")
            kill(machine)
        async with here.talk(machine) as talk:
            ended = await talk.until("bootstrap_ended")
            assert ended["phase"] == "packages"
            assert str(ended["error"]).startswith("the agent ended while this step ran")
            await anyio.sleep(200)
            await talk.say({**run, "run_id": "again"})
            assert (await talk.until("bootstrap_ended", run_id="again"))["error"] is None


async def test_a_notice_is_seen_again_by_the_next_agent_and_its_end_too() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            here.cloud.preempt(machine, 1000, kill=False)
            await talk.until("notice", reason="spot")
            kill(machine)
        async with here.talk(machine) as talk:
            await talk.start("t", "sim-sleep", "5")
            assert (await talk.until("ended", task="t"))["why"] == "notice"
            assert sum(one["t"] == "notice" for one in talk.heard) == 1  # said again, not told again
            kill(machine)
        here.cloud.withdraw(machine)
        async with here.talk(machine) as talk:
            await talk.until("notice_gone")


async def test_a_hook_that_outlives_its_task_and_its_agent() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            await talk.start("t", "sim-sleep", "0.5", "0", on_notice="save")
            here.cloud.preempt(machine, 1000, kill=False)
            await anyio.sleep(0.7)
            assert here.witness.seen[-1] == "over t/1"
            assert not any(one["t"] == "ended" for one in talk.heard)
            kill(machine)
        async with here.talk(machine) as talk:
            ended = await talk.until("ended", task="t")
            assert ended["why"] == "notice"
            assert ended["code"] == 0


async def test_an_agent_that_is_dead_ends_no_machine_and_the_next_has_the_old_lease() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine, lease_s=100):
            kill(machine)
        await anyio.sleep(500)
        assert machine.ended_at is None
        wire = host_of(machine).connect("1")
        assert wire is not None
        await anyio.sleep(1)
        assert here.witness.seen[-1] == f"ended {machine.ref} lease"


async def test_the_cloud_kills_agents_at_once_or_in_the_middle_of_their_work() -> None:
    async with cloud_of() as here:
        machines = await here.launched(20)
        for machine in machines:
            here.cloud.kill_agent(machine)
        assert here.witness.texts[0] == f"sim: the agent of {machines[0].key} dies"
        dead = [one for one in machines if not host_of(one).lives]
        assert 3 < len(dead) < 17
        await anyio.sleep(61)
        assert not any(host_of(one).lives for one in machines)
        here.cloud.kill_agent(machines[0])  # nothing is left to kill
        assert len(here.witness.texts) == 20


# --- the spool ----------------------------------------------------------------------------------


async def test_a_spool_that_grows_is_replaced_by_what_matters() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine, slots=1) as talk:
            for number in range(200):
                await talk.start(f"t-{number}", "sim-sleep", "1", "0", "1")
                ended = await talk.until("ended", task=f"t-{number}")
                await talk.say({"t": "ack", "boot": talk.hello["boot"], "id": ended["id"]})
            await talk.start("last", "sim-sleep", "100")
            await talk.start("next", "sim-sleep", "100")
            await talk.until("started", task="last")
            kill(machine)
        spool = host_of(machine)._spool
        assert len(spool._written) < 200
        async with here.talk(machine) as talk:
            assert talk.hello["tasks"] == [["last", 1, "running"], ["next", 1, "waiting"]]
            await talk.start("t-199", "sim-sleep", "1")
            assert (await talk.until("ended", task="t-199"))["code"] == 0
        assert began(here.witness.seen, "t-199") == 1


async def test_a_new_core_knows_what_the_old_one_knew() -> None:
    """Whatever was done, replaying what is on disk gives the state of the core that wrote it."""
    async with cloud_of() as here:
        [machine] = await here.launched()
        host = host_of(machine)
        async with here.talk(machine, slots=2) as talk:
            for number in range(6):
                await talk.start(f"t-{number}", "sim-sleep", str(number + 1), "0", "2")
            ended = await talk.until("ended", task="t-1")
            await talk.say({"t": "ack", "boot": talk.hello["boot"], "id": ended["id"]})
            await talk.until("ended", task="t-3")
            again = agent.Core(host.core.boot, agent="1", lease_s=0)
            again.now = host.core.now
            host._spool.replay(again)
            assert _known(again) == _known(host.core)


def _known(core: agent.Core) -> list[Any]:
    tasks = [(one.task, one.attempt, one.state, one.pid, one.why) for one in core.tasks.values()]
    return [core.next_id, core.epoch, core.lease_at, list(core.outbox), tasks, core.done]


# --- upgrades -----------------------------------------------------------------------------------


async def upgraded(talk: Talk) -> HostError:
    assert isinstance(talk.channel, Upgradable)
    await talk.channel.upgrade(3)
    return await talk.until_over()


async def test_an_agent_keeps_its_version_until_it_is_told_to_upgrade() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        newer = here.another_daemon(agent_version="2")
        async with newer.talk(machine) as talk:
            assert isinstance(talk.channel, Upgradable)
            assert (talk.channel.ours, talk.channel.theirs) == ("2", "1")
            await talk.start("t", "sim-sleep", "100", "3", "1")
            await talk.until("started", task="t")
            await upgraded(talk)
        async with newer.talk(machine) as talk:
            assert isinstance(talk.channel, Upgradable)
            assert (talk.channel.ours, talk.channel.theirs) == ("2", "2")
            assert talk.hello["tasks"] == [["t", 1, "running"]]
            ended = await talk.until("ended", task="t")
            assert ended["code"] == 3  # its child still, unlike after a death
        assert began(here.witness.seen, "t") == 1
        async with here.talk(machine) as talk:  # an older daemon: nothing is downgraded by talking
            assert talk.hello["agent"] == "2"
        assert host_of(machine).version == "2"


async def test_an_agent_that_died_is_started_as_the_version_of_who_attaches() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        kill(machine)
        assert host_of(machine).version is None
        async with here.another_daemon(agent_version="2").talk(machine) as talk:
            assert talk.hello["agent"] == "2"


async def test_a_machine_begins_with_the_version_of_who_launched_it() -> None:
    async with cloud_of() as here:
        [machine] = await here.another_daemon(agent_version="7").launched()
        async with here.talk(machine) as talk:
            assert talk.hello["agent"] == "7"


async def test_an_upgrade_to_what_is_not_there_is_refused() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            await talk.say({"t": "upgrade", "epoch": 3, "path": "/agent-9.py"})
            refused = await talk.until("refused", command="upgrade")
            assert "no such file" in str(refused["reason"])
        assert host_of(machine).version == "1"


# --- machines that stop -------------------------------------------------------------------------


async def test_a_machine_that_is_outbid_runs_again_with_its_disk_and_nothing_on_it() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        async with here.talk(machine) as talk:
            await talk.start("done", "sim-sleep", "1", "4", "1")
            await talk.until("ended", task="done")
            await talk.start("t", "sim-sleep", "100", "3", "1")
            await talk.until("started", task="t")
            began_at = (await here.listed())[machine.ref].launched_at
            here.cloud.stop(machine, 600)
            await talk.until_over()
        shown = (await here.listed())[machine.ref]
        assert (shown.state, shown.address) == ("stopped", None)
        assert here.witness.seen[-2:] == ["over t/1", f"ended {machine.ref} stopped"]
        cost = here.cloud.billed_micro_usd()
        await anyio.sleep(599)
        assert here.cloud.billed_micro_usd() == cost
        await anyio.sleep(2)
        assert here.witness.seen[-1] == f"resumed {machine.ref}"
        shown = (await here.listed())[machine.ref]
        assert shown.state == "running"
        assert shown.launched_at > began_at + 600
        assert here.cloud.billed_micro_usd() >= cost
        async with here.talk(machine) as talk:
            assert talk.hello["boot"] == f"boot-{machine.ref}"
            assert (await talk.until("ended", task="t"))["why"] == "lost"
            assert (await talk.until("ended", task="done"))["code"] == 4
        assert began(here.witness.seen, "t") == 1


async def test_a_stopped_machine_may_be_hidden_and_ended() -> None:
    async with cloud_of(QUICK.model_copy(update={"lists_stopped": False, "shows_ended_s": 60.0})) as here:
        lost, back, ended = await here.launched(3)
        here.cloud.stop(lost, None)
        here.cloud.stop(back, 100)
        here.cloud.stop(ended, 100)
        assert lost.ended_at is not None  # never to come back, never to be seen
        assert {one.ended_at is None for one in (await here.listed()).values()} == {False}
        assert await here.provider.find(back.key) is None
        await here.provider.terminate([here.cloud.handle(ended)])
        await anyio.sleep(101)
        assert [ref for ref, one in (await here.listed(OWNER)).items() if one.ended_at is None] == [back.ref]
        assert here.witness.seen.count(f"ended {ended.ref} stopped") == 1
        assert not any(text.startswith(f"ended {ended.ref} term") for text in here.witness.seen)
        assert not any(text == f"resumed {ended.ref}" for text in here.witness.seen)
        here.cloud.preempt(back, None)
        assert back.ended_at is not None


async def test_a_machine_that_runs_again_is_billed_for_each_time() -> None:
    async with cloud_of(QUICK.model_copy(update={"shows_ended_s": 3600.0})) as here:
        [machine] = await here.launched()
        here.cloud.stop(machine, 1000)
        first = here.cloud.billed_micro_usd()
        price = machine.offer.micro_usd_per_hour
        assert first == price * 1 // 3600
        await anyio.sleep(1100)
        here.cloud.preempt(machine, None)
        assert here.cloud.billed_micro_usd() == first + price * 100 // 3600
        shown = (await here.listed())[machine.ref]
        assert shown.ended_at is not None
        assert shown.ended_at - shown.launched_at == pytest.approx(100)


async def test_nothing_befalls_a_machine_that_has_ended() -> None:
    async with cloud_of() as here:
        [machine] = await here.launched()
        here.cloud.preempt(machine, None)
        cloud, seen = here.cloud, list(here.witness.seen)
        cloud.preempt(machine, 10)
        cloud.withdraw(machine)
        cloud.silence(machine, 10)
        cloud.isolate(machine)
        cloud.unlist(machine, 10)
        cloud.stop(machine, 10)
        cloud.kill_agent(machine)
        cloud.repeat_notice(machine)
        cloud.misdirect_notice(machine)
        cloud.cut_stream(machine)
        cloud.terminate(machine.ref)
        cloud.end(machine, "again")
        await anyio.sleep(1000)
        assert here.witness.seen == seen
        assert here.witness.texts == []
