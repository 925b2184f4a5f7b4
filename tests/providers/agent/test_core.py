"""The agent's pure core, in memory: what it answers, persists and does, in which order."""

import base64
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from providers.agent import agent as a
from tests.providers.agent.rig import start
from tests.providers.agent.world import Message, World


def fresh(**hello: Any) -> World:
    world = World()
    world.connect(**hello)
    return world


def test_a_task_from_start_to_end_is_reported_in_order_and_forgotten_when_acknowledged() -> None:
    world = fresh()
    world.say(start("t", "true", fetch=["out.bin", "none"], fetch_bytes_max=1 << 20))
    world.write(("t", 1), 0, b"one\ntw")
    world.grown(("t", 1))
    world.write(("t", 1), 0, b"o\nend")
    world.write(("t", 1), 1, b"oops\n")
    world.files[("t", 1, "out.bin")] = bytes(range(256)) * 2000
    world.exit(("t", 1), 3)
    daemon = world.daemon
    assert [m["t"] for m in daemon.reports] == [
        "started",
        "log",
        "log",
        "log",
        "file",
        "file",
        "file",
        "file",
        "ended",
    ]
    assert daemon.texts[("t", 1, "stdout")] == [("one", 0), ("two", 0), ("end", 0)]
    assert daemon.texts[("t", 1, "stderr")] == [("oops", 0)]
    assert daemon.files[("t", 1, "out.bin")] == world.files[("t", 1, "out.bin")]
    assert daemon.of("file")[-1]["error"] == "No such file or directory"
    assert daemon.ended()["t"]["code"] == 3
    assert not world.removed
    world.ack()
    assert world.removed == [("t", 1)]
    assert not world.core.tasks
    assert not world.core.outbox


def test_slots_run_at_once_and_the_others_wait_in_order() -> None:
    world = fresh(slots=2)
    world.say(*(start(f"t{n}", "true") for n in range(4)))
    assert [task for task, _ in world.ever_spawned] == ["t0", "t1"]
    world.exit(("t1", 1))
    world.exit(("t0", 1))
    assert [task for task, _ in world.ever_spawned] == ["t0", "t1", "t2", "t3"]
    world.disconnect()
    world.connect(slots=2)
    assert world.daemon.hellos[-1]["tasks"] == [
        ["t2", 1, "running"],
        ["t3", 1, "running"],
    ]


def test_a_start_heard_again_starts_nothing() -> None:
    world = fresh()
    world.say(start("t", "true"), start("t", "true"))
    world.exit(("t", 1))
    world.say(start("t", "true"))
    assert world.ever_spawned == [("t", 1)]
    assert len(world.daemon.of("ended")) == 1
    world.ack()
    world.say(start("t", "true"))  # whoever asks forgot: it hears the same end
    assert world.ever_spawned == [("t", 1)]
    assert [m["code"] for m in world.daemon.of("ended")] == [0, 0]


def test_a_stop_before_the_start_wins() -> None:
    world = fresh()
    world.say({"t": "stop", "epoch": 1, "task": "t", "attempt": 1, "grace_s": 1})
    world.say(start("t", "true"))
    world.ack()
    world.restart()
    world.connect()
    world.say(start("t", "true"))
    assert not world.ever_spawned
    assert {(m["started"], m["why"]) for m in world.daemon.of("ended")} == {(False, "stop")}


def test_a_waiting_task_is_stopped_at_once() -> None:
    world = fresh(slots=1)
    world.say(start("a", "true"), start("b", "true"))
    world.say({"t": "stop", "epoch": 1, "task": "b", "attempt": 1, "grace_s": 1})
    assert world.daemon.ended()["b"]["started"] is False
    world.exit(("a", 1))
    assert world.ever_spawned == [("a", 1)]


def signals(world: World) -> list[int]:
    return [act.sig for act in world.acts if isinstance(act, a.Signal)]


def test_stop_is_term_then_kill_after_the_grace() -> None:
    world = fresh()
    world.say(start("t", "true"))
    world.say({"t": "stop", "epoch": 1, "task": "t", "attempt": 1, "grace_s": 3})
    assert signals(world) == [signal.SIGTERM]
    world.advance(2.9)
    assert signals(world) == [signal.SIGTERM]
    world.advance(0.2)
    assert signals(world) == [signal.SIGTERM, signal.SIGKILL]
    world.exit(("t", 1), None, 9)
    assert world.daemon.ended()["t"] == {
        **world.daemon.ended()["t"], "signal": 9, "why": "stop"
    }  # fmt: skip


def test_timeout() -> None:
    world = fresh()
    world.say(start("t", "true", timeout_s=10, grace_s=2))
    world.advance(9)
    assert not signals(world)
    world.advance(3.5)
    assert signals(world) == [signal.SIGTERM, signal.SIGKILL]
    world.exit(("t", 1), None, 9)
    assert world.daemon.ended()["t"]["why"] == "timeout"


def test_the_end_waits_for_what_the_task_left_behind() -> None:
    world = fresh()
    world.say(start("t", "true"))
    world.exit(("t", 1), 0, left=True)
    assert signals(world) == [signal.SIGTERM]
    assert not world.daemon.of("ended")
    world.write(("t", 1), 0, b"late\n")
    world.advance(a.LEFT_GRACE_S + 0.1)
    assert signals(world) == [signal.SIGTERM, signal.SIGKILL]
    world.step(a.Gone("t", 1, out=5))
    assert world.daemon.texts[("t", 1, "stdout")] == [("late", 0)]
    assert world.daemon.ended()["t"]["code"] == 0


def test_a_task_that_cannot_start_says_why() -> None:
    world = fresh(slots=1)
    world.refuse_spawn = (127, "not found: 'x'")
    world.say(start("t", "x"))
    ended = world.daemon.ended()["t"]
    assert (ended["started"], ended["why"], ended["code"], ended["error"]) == (
        False,
        "spawn",
        127,
        "not found: 'x'",
    )
    world.refuse_spawn = None
    world.say(start("u", "true"))
    assert world.ever_spawned == [("u", 1)]


def test_old_epochs_are_refused() -> None:
    world = fresh(epoch=5)
    world.say(start("t", "true", epoch=4))
    assert world.daemon.of("refused")[0]["task"] == "t"
    assert not world.ever_spawned
    world.disconnect()
    world.connect(epoch=4)
    assert world.daemon.hellos[-1]["accepted"] is False
    world.say(start("t", "true", epoch=6))
    assert not world.ever_spawned
    world.restart()
    world.connect(epoch=4)
    assert world.daemon.hellos[-1]["accepted"] is False
    world.connect(epoch=6)
    assert world.daemon.hellos[-1]["accepted"] is True


def test_a_daemon_that_means_another_machine_is_refused_until_a_reboot() -> None:
    world = fresh()
    world.disconnect()
    world.connect(instance="other")
    assert world.daemon.hellos[-1]["accepted"] is False
    assert world.daemon.hellos[-1]["instance"] == "i"
    world.say(start("t", "true"))
    assert not world.ever_spawned
    world.restart()
    world.connect(instance="other")
    assert world.daemon.hellos[-1]["accepted"] is False
    world.connect()
    assert world.daemon.hellos[-1]["accepted"] is True
    world.restart(rebooted=True)  # its disk may be a copy by now
    world.connect(instance="other")
    assert world.daemon.hellos[-1]["accepted"] is True


@pytest.mark.parametrize(
    "nonsense",
    [
        {"t": "dance", "epoch": 1},
        {"t": "start", "epoch": 1, "task": "t"},
        {"t": "start", "epoch": 1, "task": "t", "attempt": 1, "argv": [], "log_bytes_max": 1},
        {"t": "start", "epoch": 1, "task": 7, "attempt": 1, "argv": ["x"], "log_bytes_max": 1},
        {"t": "start", "epoch": 1, "task": "t", "attempt": 1, "argv": [3], "log_bytes_max": 1},
        {"t": "bootstrap", "epoch": 1, "run_id": "r", "env": {}, "steps": [{"phase": "p"}]},
        {"t": "lease", "epoch": 1, "lease_s": "soon"},
        {"epoch": 1},
        [],
        None,
    ],
)
def test_nonsense_is_refused_and_harms_nothing(nonsense: Any) -> None:
    world = fresh()
    world.step(a.Said([nonsense, start("ok", "true")]))
    assert len(world.daemon.of("refused")) == 1
    assert world.ever_spawned == [("ok", 1)]


def test_without_hello_nothing_is_obeyed() -> None:
    world = World()
    world.connected = True
    world.step(a.Connected())
    world.say(start("t", "true"))
    assert not world.ever_spawned
    assert world.daemon.of("refused")[0]["id"] == 0


def test_the_lease_ends_tasks_then_the_machine() -> None:
    world = fresh(lease_s=60, slots=1)
    world.say(start("a", "true", grace_s=5), start("b", "true"))
    world.advance(50)
    world.say({"t": "lease", "epoch": 1, "lease_s": 60})
    world.advance(59)
    assert not signals(world)
    world.disconnect()
    world.advance(2)
    assert signals(world) == [signal.SIGTERM]
    assert not any(isinstance(act, a.EndMachine) for act in world.acts)
    world.exit(("a", 1), None, 15)
    assert sum(isinstance(act, a.EndMachine) for act in world.acts) == 1
    world.step(a.EndFailed())
    world.advance(a.END_AGAIN_S + 1)
    assert sum(isinstance(act, a.EndMachine) for act in world.acts) == 2
    world.connect()
    ends = world.daemon.ended()
    assert (ends["a"]["why"], ends["b"]["why"], ends["b"]["started"]) == ("lease", "lease", False)
    world.say(start("c", "true"))
    assert world.ever_spawned[-1] == ("c", 1)


def test_a_lease_outlives_the_agent_and_one_is_there_before_any_hello() -> None:
    world = World(lease_s=30)
    assert world.core.next_wake() == 130
    world.connect(lease_s=60)
    world.now += 20
    world.restart()
    assert world.core.next_wake() == 160


def test_a_notice_stops_tasks_and_starts_nothing_until_it_is_withdrawn() -> None:
    world = fresh(slots=2)
    world.say(start("plain", "true"), start("saves", "true", on_notice="save"), start("waits", "true"))
    world.step(a.Noticed("spot", 30))
    assert world.daemon.of("notice")[0]["within_s"] == 30
    hook = next(act for act in world.acts if isinstance(act, a.Hook))
    assert (hook.task, hook.command, hook.reason, hook.seconds) == ("saves", "save", "spot", 28)
    terms = [act.task for act in world.acts if isinstance(act, a.Signal)]
    assert terms == ["plain"]
    assert world.daemon.ended()["waits"]["why"] == "notice"
    world.advance(28.1)
    assert {act.task for act in world.acts if isinstance(act, a.Signal) and act.sig == 9} == {
        "plain",
        "saves",
    }
    world.exit(("plain", 1), None, 9)
    world.exit(("saves", 1), 0)
    assert {m["why"] for m in world.daemon.ended().values()} == {"notice"}
    world.say(start("late", "true"))
    assert world.daemon.ended()["late"] == {**world.daemon.ended()["late"], "started": False, "why": "notice"}
    world.step(a.Noticed(None))
    assert len(world.daemon.of("notice_gone")) == 1
    world.say(start("again", "true"))
    assert world.ever_spawned[-1] == ("again", 1)


def test_a_notice_is_told_once_even_by_a_new_agent() -> None:
    world = fresh()
    world.step(a.Noticed("spot", 300))
    world.restart()
    world.step(a.Noticed("spot", 300))
    world.connect()
    assert len(world.daemon.of("notice")) == 1
    world.say(start("t", "true"))
    assert not world.ever_spawned


def test_drain_is_a_notice_that_is_not_reported() -> None:
    world = fresh()
    world.say(start("t", "true"))
    world.say({"t": "drain", "epoch": 1, "within_s": 10})
    assert signals(world) == [signal.SIGTERM]
    assert not world.daemon.of("notice")
    world.exit(("t", 1), None, 15)
    assert world.daemon.ended()["t"]["why"] == "notice"
    world.say({"t": "drain", "epoch": 1, "within_s": None}, start("u", "true"))
    assert world.ever_spawned[-1] == ("u", 1)


def bootstrap(run_id: str, *phases: str) -> Message:
    steps = [{"phase": phase, "run": f"do {phase}", "timeout_s": 20} for phase in phases]
    return {"t": "bootstrap", "epoch": 1, "run_id": run_id, "env": {"A": "b"}, "steps": steps}


def test_bootstrap_steps_in_order_and_once() -> None:
    world = fresh()
    world.say(bootstrap("r1", "one", "two"))
    world.step(a.StepStarted("r1", 50, 1))
    world.step(a.StepOutput("r1", 0, [("10%", 1), ("done", 0)]))
    world.now += 2
    world.step(a.StepEnded("r1", 0))
    world.say(bootstrap("r1", "one", "two"))
    world.step(a.StepEnded("r1", 0))
    kinds = [m["t"] for m in world.daemon.reports]
    one = ["phase", "command"]
    assert kinds == [*one, "console", "console", "phase", *one, "phase", "bootstrap_ended"]
    assert world.daemon.of("console")[0]["overwrite"] is True
    assert world.daemon.of("phase")[1] == {**world.daemon.of("phase")[1], "event": "completed", "elapsed": 2}
    assert sum(isinstance(act, a.RunStep) for act in world.acts) == 2
    world.ack()
    world.say(bootstrap("r1", "one", "two"))
    assert world.daemon.reports[-1]["t"] == "bootstrap_ended"
    assert sum(isinstance(act, a.RunStep) for act in world.acts) == 2


def test_a_failed_step_ends_the_run_with_its_last_line() -> None:
    world = fresh()
    world.say(bootstrap("r1", "one", "two"))
    world.step(a.StepOutput("r1", 1, [("E: no such package", 0)]))
    world.step(a.StepEnded("r1", 100))
    ended = world.daemon.of("bootstrap_ended")[0]
    assert (ended["phase"], ended["error"]) == ("one", "exit code 100: E: no such package")
    assert world.daemon.of("phase")[-1]["event"] == "failed"


def test_a_step_times_out() -> None:
    world = fresh()
    world.say(bootstrap("r1", "one"))
    world.step(a.StepStarted("r1", 50, 1))
    world.advance(26)
    assert [act.sig for act in world.acts if isinstance(act, a.StopStep)] == [15, 9]
    world.step(a.StepEnded("r1", None, 9))
    assert world.daemon.of("bootstrap_ended")[0]["error"] == "timed out after 20 s"


def test_another_run_supersedes_the_one_under_way() -> None:
    world = fresh()
    world.say(bootstrap("r1", "one"), bootstrap("r2", "uno"))
    world.step(a.StepStarted("r1", 50, 1))
    world.step(a.StepEnded("r1", None, 15))
    world.step(a.StepEnded("r2", 0))
    ends = [(m["run_id"], m["phase"]) for m in world.daemon.of("bootstrap_ended")]
    assert ends == [("r1", "one"), ("r2", None)]


def test_a_step_that_ran_while_the_agent_died_has_failed() -> None:
    world = fresh()
    world.say(bootstrap("r1", "one", "two"))
    world.step(a.StepStarted("r1", 50, 1))
    world.step(a.StepEnded("r1", 0))
    world.step(a.StepStarted("r1", 51, 2))
    world.restart()
    assert [act.pid for act in world.acts if isinstance(act, a.StopStep)] == [51]
    world.connect()
    ended = world.daemon.of("bootstrap_ended")[0]
    assert (ended["phase"], ended["error"]) == ("two", "the agent ended while this step ran")
    world.say(bootstrap("r1", "one", "two"))
    assert len(world.daemon.of("bootstrap_ended")) == 1


def test_health_after_failures_in_a_row() -> None:
    world = fresh(health={"run": "ok", "every_s": 10, "timeout_s": 5, "failures": 2})
    for error in ("bad", None, "bad", "worse", "worse"):
        world.advance(10)
        assert isinstance(world.acts[-1], a.CheckHealth)
        world.step(a.HealthChecked(error))
    assert [m["reason"] for m in world.daemon.of("unhealthy")] == ["health check: worse"]


def test_a_full_disk_is_told_once() -> None:
    world = fresh(metrics_every_s=5)
    world.step(a.Tick())
    world.step(a.Sampled({"load1": 1.0}, 10))
    world.step(a.DiskFull())
    assert [m["reason"] for m in world.daemon.of("unhealthy")] == ["disk full"]
    assert world.daemon.of("metrics")[0]["values"] == {"load1": 1.0}


def test_the_quota_drops_and_counts_lines() -> None:
    world = fresh()
    world.say(start("t", "true", log_bytes_max=25))
    for n in range(10):
        world.write(("t", 1), n % 2, b"line %d\n" % n)
        world.grown(("t", 1))
    world.write(("t", 1), 1, b"tail")
    world.exit(("t", 1))
    kept = world.daemon.texts
    assert kept[("t", 1, "stdout")] == [("line 0", 0), ("line 2", 0)]
    assert kept[("t", 1, "stderr")] == [("line 1", 0)]
    assert world.daemon.lines_dropped[("t", 1)] == 8
    assert world.daemon.ended()["t"]["lines_dropped"] == 8
    assert world.daemon.offsets == {("t", 1, "stdout"): 35, ("t", 1, "stderr"): 39}


def test_a_flood_is_bounded_and_its_space_given_back() -> None:
    world = fresh()
    world.say(start("t", "true", log_bytes_max=1 << 20))
    for _ in range(50):
        world.write(("t", 1), 0, b"x" * (1 << 20))
        world.grown(("t", 1))
    world.exit(("t", 1))
    kept = sum(len(text) for text, _ in world.daemon.texts[("t", 1, "stdout")])
    assert (1 << 20) - 3 * a.PIECE <= kept <= 1 << 20
    released = sum(act.end - act.offset for act in world.acts if isinstance(act, a.Release))
    assert released >= 47 << 20
    assert world.daemon.ended()["t"]["lines_dropped"] == 1


def test_what_is_unacknowledged_on_the_wire_is_bounded() -> None:
    world = fresh()
    world.say(start("t", "true", log_bytes_max=1 << 30))
    world.write(("t", 1), 0, (b"y" * 1000 + b"\n") * 20_000)
    world.grown(("t", 1))
    world.exit(("t", 1))
    sent = world.daemon.offsets[("t", 1, "stdout")]
    assert sent <= a.SEND_WINDOW + a.READ_MAX
    while not world.daemon.of("ended"):
        world.ack()
    assert world.daemon.offsets[("t", 1, "stdout")] == 20_020_000


def test_a_full_spool_drops_console_and_metrics_first_and_counts_them() -> None:
    world = fresh(slots=1)
    world.say(bootstrap("r1", "one"), start("t", "true"))
    world.disconnect()
    for n in range(a.SPOOL_COUNT_MAX + 2000):
        world.step(a.StepOutput("r1", 0, [(f"line {n}", 0)]))
    world.exit(("t", 1), 4)
    assert len(world.core.outbox) <= a.SPOOL_COUNT_MAX
    world.restart()
    world.connect()
    assert world.daemon.hellos[-1]["dropped"] > 2000
    assert world.daemon.of("console")[-1]["content"] == f"line {a.SPOOL_COUNT_MAX + 1999}"
    assert world.daemon.ended()["t"]["code"] == 4


def test_put_pieces_are_written_and_a_bad_one_spoils_the_start() -> None:
    world = fresh()
    message = {"t": "put", "epoch": 1, "task": "t", "attempt": 1, "mode": 0o755, "offset": 0, "last": True}
    world.say({**message, "path": "a/b", "data": base64.b64encode(b"hey").decode()})
    assert world.acts == [a.WriteFile("t", 1, "a/b", 0o755, 0, b"hey", True)]
    for task, path, data in (("u", "../b", ""), ("v", "b", "!!!"), ("w", "/etc/x", "")):
        world.say({**message, "task": task, "path": path, "data": data}, start(task, "true"))
        assert world.daemon.ended()[task]["why"] == "spawn"
    world.step(a.PutFailed("x", 1, "file 'q': No space left on device"))
    world.say(start("x", "true"))
    assert "No space left" in world.daemon.ended()["x"]["error"]
    assert not world.ever_spawned


def test_upgrade_asks_for_exec_but_not_during_a_step() -> None:
    world = fresh()
    world.say({"t": "upgrade", "epoch": 1, "path": "/new/agent.py"})
    assert world.acts == [a.Exec("/new/agent.py")]
    world.step(a.ExecFailed("no such file"))
    world.say(bootstrap("r1", "one"), {"t": "upgrade", "epoch": 1, "path": "/new/agent.py"})
    assert [m["reason"] for m in world.daemon.of("refused")] == [
        "no such file",
        "a bootstrap step is running",
    ]


def test_an_idle_core_is_small_and_sleeps() -> None:
    core = a.Core("boot-1")
    size = sum(sys.getsizeof(getattr(core, name)) for name in a.Core.__slots__) + sys.getsizeof(core)
    assert size < 6000
    core.step(0, a.Resume())
    assert core.next_wake() is None


def test_every_input_is_heard() -> None:
    text = Path(a.__file__).read_text()
    inputs = re.findall(
        r"^class (\w+)\(NamedTuple\)", text.split("# --- inputs")[1].split("# --- actions")[0], re.M
    )
    assert [cls.__name__ for cls in a._HEAR] and set(inputs) == {cls.__name__ for cls in a._HEAR}
