"""The daemon's own life: stopped, told to read its config, restored, away for long, and asked a lot."""

import os
import re
import shutil
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from actors.events import (
    InstanceAdopted,
    InstancePreempted,
    InstanceQuarantined,
    InstanceReaped,
    PoolRequested,
    PoolResizeRequested,
    PoolUpdateRequested,
    ShutdownRequested,
    TaskRequested,
)
from actors.spec import TaskSpec
from controller.client import EverpoolError
from tests.real.rig import REPOSITORY, Rig, pool_spec, tasks_of, until

pytestmark = pytest.mark.real

# Writes a line each tenth of a second, until a file says that it may end.
PATIENT = (
    'i=0; while [ ! -e "$GO" ]; do i=$((i + 1)); echo $i; echo $i >> "$DIARY"; sleep 0.1; done; echo done'
)


def patient(rig: Rig, name: str, pool: str = "main", **spec: Any) -> str:
    """A task that waits for `go`; returns when it runs."""
    env = {"GO": str(rig.root / f"{name}.go"), "DIARY": str(rig.root / f"{name}.diary")}
    task = rig.task(PATIENT, pool=pool, env=env, **spec)
    rig.until_running(task)
    until(lambda: diary(rig, name), "it writes")
    return task


def diary(rig: Rig, name: str) -> list[str]:
    """What such a task wrote into a file of its own."""
    path = rig.root / f"{name}.diary"
    return path.read_text().split() if path.exists() else []


def go(rig: Rig, name: str) -> None:
    """Let it end."""
    (rig.root / f"{name}.go").touch()


def until_more(rig: Rig, name: str) -> None:
    """Wait until it has written more."""
    have = len(diary(rig, name))
    until(lambda: len(diary(rig, name)) > have, "it goes on")


# --- stopping and starting ----------------------------------------------------------------------------


def test_a_stopped_daemon_leaves_tasks_running_and_the_next_adopts_them(rig: Rig) -> None:
    rig.start()
    rig.up(nodes=2)
    task = patient(rig, "one")
    machines = set(rig.records())
    waiting = [rig.task("echo waited", node=node) for node in (0, 1)]
    assert rig.stop() == 0
    assert not (rig.state / "api.sock").exists()
    assert set(rig.records()) == machines
    until_more(rig, "one")
    rig.start()
    until(lambda: len(rig.events("instance_adopted")) == 2, "machines are adopted")
    adopted = rig.events("instance_adopted")
    assert {one.event.instance_id for one in adopted if isinstance(one.event, InstanceAdopted)} == machines
    until_more(rig, "one")
    go(rig, "one")
    done = rig.done(task)
    assert done.success and done.attempts == 1
    assert rig.text(task) == [*diary(rig, "one"), "done"]
    assert rig.check_log(task)
    for other in waiting:
        assert rig.done(other).success
    rig.check_tasks([task, *waiting])
    rig.down()
    rig.check_ends()


def test_config_pools_belong_to_the_config(rig: Rig) -> None:
    rig.configure(rest='[pools.fixed]\nprovider = "local"\nnodes = [1, 3]\n')
    rig.start()
    rig.until_event("pool_ready")
    rig.up("mine", nodes=1)
    (asked,) = [
        one
        for one in rig.events("pool_requested")
        if isinstance(one.event, PoolRequested) and one.event.pool == "fixed"
    ]
    assert asked.principal == "config"
    refusals = (
        PoolUpdateRequested(pool="fixed", spec=pool_spec(2)),
        ShutdownRequested(cluster_id="fixed"),
    )
    for request in refusals:
        with pytest.raises(EverpoolError, match="belongs to the config") as refused:
            rig.client.submit(request)
        assert refused.value.status == 409
    with pytest.raises(
        EverpoolError, match=r"4 nodes are above the max of 3 .* under \[pools.fixed\]"
    ) as refused:
        rig.client.submit(PoolResizeRequested(pool="fixed", nodes=4))
    assert refused.value.status == 409

    rig.configure(rest='[pools.fixed]\nprovider = "local"\nnodez = 1\n')
    with pytest.raises(EverpoolError, match="nodes"):
        rig.client.reload()
    rig.configure(
        rest='[pools.fixed]\nprovider = "local"\nnodes = 2\n\n[pools.more]\nprovider = "local"\nnodes = 1\n'
    )
    assert rig.daemon is not None
    rig.daemon.send_signal(signal.SIGHUP)
    until(
        lambda: statuses(rig) == {"fixed": ("ready", 2), "more": ("ready", 1), "mine": ("ready", 1)},
        "reloaded",
    )

    rig.configure()  # not named any more
    left = rig.client.reload()["pools"]
    assert set(left) == {"fixed", "more"} and all(what.startswith("left alone") for what in left.values())
    rig.configure(rest="[pools.fixed]\nremove = true\n\n[pools.more]\nremove = true\n")
    assert rig.client.reload()["pools"] == {"fixed": "removed", "more": "removed"}
    until(lambda: set(statuses(rig)) == {"mine"}, "removed")
    rig.restart()
    assert set(statuses(rig)) == {"mine"}
    rig.down("mine")
    rig.check_ends()


def statuses(rig: Rig) -> dict[str, tuple[str, int]]:
    """Pools, how they are, and how many nodes they should have."""
    return {one["name"]: (one["status"], one["desired"]) for one in rig.client.pools()}


# --- backups ------------------------------------------------------------------------------------------


def unpack_keys(backup: Path, state: Path) -> None:
    """What the backup packed beside the journal, as the docs say."""
    subprocess.run(["tar", "-xf", f"{backup}.keys.tar", "-C", str(state)], check=True)


def restore(rig: Rig, backup: Path) -> None:
    """Put an older journal into the place of the newer, as the docs say."""
    for path in rig.state.glob("journal.sqlite3*"):
        path.unlink()
    shutil.copy(backup, rig.state / "journal.sqlite3")
    unpack_keys(backup, rig.state)


@pytest.mark.parametrize("more", [True, False], ids=["machines launched since", "only agents know"])
def test_an_older_backup_only_observes_until_adopt(rig: Rig, more: bool) -> None:
    rig.configure(daemon="quarantine_s = 1")
    rig.start()
    rig.up(nodes=1, worker={"concurrency": 2})
    known = patient(rig, "known")
    backup = rig.root / "backup.sqlite3"
    rig.client.backup(backup)
    unknown = patient(rig, "unknown")
    if more:
        assert rig.up("later", nodes=1).status == "success"
    machines = set(rig.records())
    rig.kill()
    restore(rig, backup)
    rig.start(wait=False)
    until(lambda: rig.health().get("observing_only"), "it only observes")
    assert not rig.health()["ready"]
    with pytest.raises(EverpoolError, match="observing only") as refused:
        rig.task("true")
    assert refused.value.status == 503
    time.sleep(3)  # long enough for a sweep and a reap, if it were (wrongly) done
    assert set(rig.records()) == machines
    for name in ("known", "unknown"):
        until_more(rig, name)
    assert not rig.events("instance_quarantined", "instance_launched", after=rig.events()[-1].seq)
    rig.restart_observing()
    assert set(rig.records()) == machines

    assert rig.client.adopt()["adopted"]
    until(lambda: rig.health().get("ready"), "it leads")
    if more:
        quarantined = rig.until_event("instance_quarantined").event
        assert isinstance(quarantined, InstanceQuarantined) and "/later/" in quarantined.key
        reaped = rig.until_event("instance_reaped").event
        assert isinstance(reaped, InstanceReaped) and reaped.key == quarantined.key
    until(lambda: set(rig.records()) == {one for one in machines if one.startswith("main")}, "reaped")
    go(rig, "known")
    done = rig.done(known)
    assert done.success and done.attempts == 1
    until(
        lambda: not [about for about in rig.processes().values() if "unknown" in about], "unknown task ended"
    )
    with pytest.raises(EverpoolError) as gone:
        rig.client.task(unknown)
    assert gone.value.status == 404
    assert rig.run("echo new").success
    rig.down()
    until(lambda: not rig.processes(), "no process is left", 10)


def test_a_backup_into_a_fresh_directory_starts(rig: Rig) -> None:
    rig.start()
    rig.up(nodes=1)
    done = rig.run("echo kept")
    backup = rig.root / "backup.sqlite3"
    said = rig.client.backup(backup)
    assert said["bytes"] == backup.stat().st_size
    with pytest.raises(EverpoolError) as refused:
        rig.client.backup(backup)
    assert refused.value.status == 422
    rig.down()
    rig.stop()
    rig.state.rename(rig.root / "old")
    rig.state.mkdir(mode=0o700)
    shutil.copy(backup, rig.state / "journal.sqlite3")
    unpack_keys(backup, rig.state)
    rig.start()
    assert rig.client.task(done.task_id)["result"] == "success"
    until(lambda: rig.events("instance_replaced"), "the machine that is gone is replaced")
    assert rig.run("echo again").success
    rig.down()
    until(lambda: not rig.processes(), "no process is left", 10)


# --- the dead-man lease -------------------------------------------------------------------------------


def test_machines_end_themselves_when_the_daemon_is_away_too_long(rig: Rig) -> None:
    rig.start()
    rig.up("short", nodes=1, lease_s=3)
    rig.up("held", nodes=1, lease_s=3)
    rig.client.hold(60, "held")
    tasks = {name: patient(rig, name, pool=name, grace_s=1) for name in ("short", "held")}
    time.sleep(4)
    until_more(rig, "short")
    assert not rig.events("instance_preempted"), "nothing happens while we lead"
    rig.kill()
    until(lambda: all("held" in one for one in rig.records()), "the short lease ends", 20)
    assert len(rig.records()) == 1
    ended = len(diary(rig, "short"))
    until_more(rig, "held")
    assert len(diary(rig, "short")) == ended
    rig.start()
    until_more(rig, "short")
    for name, attempts in (("short", 2), ("held", 1)):
        go(rig, name)
        done = rig.done(tasks[name])
        assert done.success and done.attempts == attempts, done
    for name in tasks:
        rig.down(name)
    rig.check_ends()


# --- the agent ----------------------------------------------------------------------------------------


def test_what_a_machine_died_of_is_told(rig: Rig) -> None:
    rig.start()
    rig.up()
    old = rig.machine_of()
    with open(rig.directory(old) / "console.log", "a") as console:
        console.write("RuntimeError: Could not determine home directory\n")
    rig.kill_machine(old)
    rig.until_event("instance_replaced")
    (taken,) = (one.event for one in rig.events("instance_preempted"))
    assert isinstance(taken, InstancePreempted)
    assert taken.reason == "gone: its process died: RuntimeError: Could not determine home directory"
    assert taken.reason in " ".join(rig.client.explain_instance("main", old)["story"])


def agent_pids(rig: Rig) -> list[int]:
    """The processes of agents."""
    return [pid for pid, about in rig.processes().items() if re.search(r"agent-\w+\.py run ", about)]


def test_a_killed_agent_is_started_again_and_its_task_watched(rig: Rig) -> None:
    rig.start()
    rig.up(nodes=1)
    task = patient(rig, "one", retries_infrastructure=1)
    (pid,) = agent_pids(rig)
    os.kill(pid, signal.SIGKILL)
    (again,) = until(lambda: [one for one in agent_pids(rig) if one != pid], "another agent runs")
    until_more(rig, "one")
    view = rig.client.task(task)
    assert (view["status"], view["attempt"]) == ("running", 1)
    assert rig.client.instance(rig.machine_of())["status"] == "ready"
    numbers = diary(rig, "one")
    assert numbers == [str(i) for i in range(1, len(numbers) + 1)], "one process, never two"
    until(lambda: rig.text(task)[-1:] == diary(rig, "one")[-1:], "its output is read on")
    go(rig, "one")
    done = rig.done(task)  # nobody saw how it ended, so it is run again, once
    assert done.success and done.attempts == 2
    assert rig.text(task)[-1] == "done" and len(agent_pids(rig)) == 1
    assert again in agent_pids(rig)
    rig.down()
    rig.check_ends()


def test_an_agent_is_upgraded_under_its_task(rig: Rig) -> None:
    rig.start()
    rig.up(nodes=1)
    task = patient(rig, "one")
    (pid,) = agent_pids(rig)
    before = rig.processes()[pid]
    rig.kill()
    newer = rig.root / "newer"
    for package in ("actors", "controller", "providers"):
        shutil.copytree(REPOSITORY / package, newer / package, ignore=shutil.ignore_patterns("__pycache__"))
    with (newer / "providers/agent/agent.py").open("a") as agent:
        agent.write("\n# a newer version\n")
    rig.sources = newer
    rig.start()
    until(lambda: rig.processes().get(pid, before) != before, "the agent's process runs the newer program")
    assert agent_pids(rig) == [pid]
    until_more(rig, "one")
    go(rig, "one")
    done = rig.done(task)
    assert done.success and done.attempts == 1, done
    assert rig.text(task) == [*diary(rig, "one"), "done"]
    rig.down()
    rig.check_ends()


# --- load ---------------------------------------------------------------------------------------------


def test_a_thousand_queued_tasks_leave_the_api_answering(
    rig: Rig, capsys: pytest.CaptureFixture[str]
) -> None:
    rig.start()
    rig.up(nodes=2, worker={"concurrency": 2})
    tasks = tasks_of("main", [{"argv": ["true"]}] * 1000)
    times: list[float] = []

    def asked() -> bool:
        began = time.perf_counter()
        rig.client.pools()
        times.append(time.perf_counter() - began)
        ended: dict[str, int] = rig.client.pool("main")["results"]
        return sum(ended.values()) >= len(tasks)

    began = time.monotonic()
    assert all(one.taken for one in rig.client.submit(tasks))
    submitted = time.monotonic() - began
    until(asked, "all tasks are over", 120)
    total = time.monotonic() - began
    ends = rig.check_tasks(one.request_id for one in tasks)
    assert all(end.success for end in ends.values())
    times.sort()
    with capsys.disabled():
        print(  # noqa: T201
            f"\nGET /v1/pools while 1,000 tasks run: median {statistics.median(times) * 1000:.1f} ms,"
            f" 99 % {times[int(len(times) * 0.99)] * 1000:.1f} ms, max {times[-1] * 1000:.1f} ms"
            f" of {len(times)};"
            f" submitted in {submitted:.2f} s, done in {total:.1f} s"
        )
    assert statistics.median(times) < 0.5
    rig.down()
    rig.check_ends()


def test_requests_taken_right_before_a_kill_are_not_lost(rig: Rig) -> None:
    rig.start()
    rig.up(nodes=1)
    taken: list[str] = []
    for batch in range(5):
        tasks = [
            TaskRequested(request_id=f"k-{batch}-{i}", pool="main", task=TaskSpec(argv=("true",)))
            for i in range(20)
        ]
        taken += [one.request_id for one in rig.client.submit(tasks) if one.taken]
        rig.kill()
        rig.start()
        assert {one.status for one in rig.client.submit(tasks)} == {"duplicate"}
    assert len(taken) == 100
    for one in taken:
        assert rig.done(one).success
    rig.check_tasks(taken)
    rig.down()
    rig.check_ends()
