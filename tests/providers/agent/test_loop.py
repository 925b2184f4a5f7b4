"""The agent as it is: real processes through `attach`."""

import base64
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.providers.agent.rig import AGENT, Rig, alive, marked, put, start, until

pytestmark = pytest.mark.real


def test_output_comes_line_by_line_with_both_streams_apart(rig: Rig) -> None:
    stream = rig.attach()
    stream.say(start("t", "sh", "-c", r"echo one; echo two >&2; printf '10%%\r20%%\r\nend'; exit 7"))
    ended = stream.ended("t")
    assert (ended["code"], ended.get("why", "")) == (7, "")
    assert [line for m in stream.of("log", "t") for line in m["lines"] if m["stream"] == "stdout"] == [
        ["one", 0],
        ["10%", 1],
        ["20%", 0],
        ["end", 0],
    ]
    assert stream.text("t", "stderr") == ["two"]
    assert stream.heard[-1] is ended


def test_output_is_heard_while_the_task_runs(rig: Rig) -> None:
    stream = rig.attach()
    stream.say(start("t", "sh", "-c", "echo now; exec sleep 100"))
    stream.until(lambda m: m["t"] == "log" and m["lines"] == [["now", 0]])
    assert not stream.of("ended")


def test_the_environment_and_directory_of_a_task(rig: Rig) -> None:
    stream = rig.attach()
    script = "pwd; echo $EVERPOOL_TASK_ID $EVERPOOL_ATTEMPT $EVERPOOL_INSTANCE $EVERPOOL_METRICS_FILE $MINE"
    stream.say(start("a/../b c", "sh", "-c", script, attempt=3, env={"MINE": "é", "EVERPOOL_TASK_ID": "x"}))
    stream.ended("a/../b c")
    directory, words = stream.text("a/../b c")
    assert directory.endswith("/work")
    assert directory.startswith(f"{rig.dir}/tasks/")
    assert words == f"a/../b c 3 i-1 {directory[:-5]}/metrics é"


@pytest.mark.parametrize(
    ("fields", "code", "error"),
    [
        ({"argv": ["no-such-program"]}, 127, "not found: 'no-such-program'"),
        ({"argv": ["/no/such"]}, 127, "not found: '/no/such'"),
        ({"argv": ["./plain"]}, 126, "not executable: './plain'"),
        ({"argv": ["/etc"]}, 126, "not a program: '/etc'"),
        (
            {"argv": ["true"], "cwd": "/no/where"},
            126,
            "working directory '/no/where': No such file or directory",
        ),
        ({"argv": ["./script"]}, 127, "not found: interpreter of './script'"),
        ({"argv": ["./data"]}, 126, "'./data': Exec format error"),
        ({"argv": ["true", "x" * 3_000_000]}, 126, "'true': Argument list too long"),
    ],
)
def test_what_cannot_be_started_says_why(rig: Rig, fields: dict[str, object], code: int, error: str) -> None:
    stream = rig.attach()
    stream.say(put("t", "script", b"#!/no/interpreter\n", mode=0o755), put("t", "data", b"\0\1", mode=0o755))
    stream.say(put("t", "plain", b"#!/bin/sh\n"), {**start("t"), **fields})
    ended = stream.ended("t")
    assert (ended["started"], ended["why"], ended["code"]) == (False, "spawn", code)
    assert ended["error"].startswith(error)
    assert "\n" not in ended["error"]
    stream.say(start("u", "true"))
    assert stream.ended("u")["code"] == 0


def test_signals_are_as_a_shell_would_leave_them(rig: Rig) -> None:
    stream = rig.attach()
    script = "import signal as s; print(*[s.getsignal(x).name for x in (s.SIGHUP, s.SIGTERM, s.SIGCHLD)])"
    stream.say(start("t", sys.executable, "-c", script), start("p", "sh", "-c", "kill -PIPE $$"))
    assert stream.ended("p")["signal"] == 13
    stream.ended("t")
    assert stream.text("t") == ["SIG_DFL SIG_DFL SIG_DFL"]


def test_timeout_and_stop_end_the_whole_group(rig: Rig) -> None:
    stream = rig.attach()
    deaf = "trap '' TERM; echo deaf; sleep 100 & while :; do sleep 0.05; done"
    stream.say(start("slow", "sleep", "100", timeout_s=0.2), start("deaf", "sh", "-c", deaf, grace_s=0.3))
    stream.until(lambda m: m["t"] == "log" and m["task"] == "deaf")
    stream.say({"t": "stop", "epoch": 1, "task": "deaf", "attempt": 1, "grace_s": 0.3})
    ended = stream.ended("slow")
    assert (ended["why"], ended["signal"]) == ("timeout", 15)
    ended = stream.ended("deaf")
    assert (ended["why"], ended["signal"], ended.get("oom", False)) == ("stop", 9, False)
    assert not list(marked(str(rig.dir)))


@pytest.mark.parametrize(
    "leaves",
    [
        "sleep 100 &",
        "setsid sleep 100 &",
        "setsid sh -c 'sleep 100 & sleep 100' &",
        "(setsid sh -c 'trap \"\" TERM; while :; do sleep 0.05; done' &)",
    ],
)
def test_nothing_that_a_task_left_behind_outlives_its_end(rig: Rig, leaves: str) -> None:
    stream = rig.attach()
    stream.say(start("t", "sh", "-c", f"{leaves}\necho done", fetch=["x"]))
    assert stream.ended("t")["code"] == 0
    assert not list(marked(str(rig.dir)))
    assert stream.text("t") == ["done"]


def test_what_a_bootstrap_step_left_behind_lives_on(rig: Rig) -> None:
    stream = rig.attach()
    run = "sleep 100 >/dev/null 2>&1 & echo $!"
    step = {"phase": "services", "run": run, "timeout_s": 20}
    stream.say({"t": "bootstrap", "epoch": 1, "run_id": "r", "env": {}, "steps": [step]})
    stream.until(lambda m: m["t"] == "bootstrap_ended")
    service = int(stream.of("console")[0]["content"])
    stream.say(start("t", "setsid", "true"))
    stream.ended("t")
    try:
        assert alive(service)
    finally:
        os.kill(service, 9)


def test_a_line_of_50_mb_is_cut_by_the_quota_and_fills_no_disk(rig: Rig) -> None:
    stream = rig.attach()
    script = "head -c 50000000 /dev/zero | tr '\\0' x; echo; echo last"
    stream.say(start("t", "sh", "-c", script, log_bytes_max=1 << 20))
    while not stream.of("ended"):
        stream.hear(30)
        stream.ack()
    lines = [line for m in stream.of("log", "t") for line in m["lines"]]
    assert {kind for _, kind in lines} == {2}
    assert 900_000 < sum(len(text) for text, _ in lines) <= 1 << 20
    assert stream.ended("t")["lines_dropped"] == 2
    assert stream.of("log", "t")[-1]["next_offset"] == 50_000_006


def test_the_disk_is_released_while_a_task_talks(rig: Rig) -> None:
    stream = rig.attach()
    script = "head -c 30000000 /dev/zero | tr '\\0' '\\n'; echo done >&2; exec sleep 100"
    stream.say(start("t", "sh", "-c", script, log_bytes_max=100_000))
    stream.until(lambda m: m["t"] == "log" and m["stream"] == "stderr" or m.get("dropped", 0) > 0)
    output = next(rig.dir.glob("tasks/*/stdout"))
    until(lambda: output.stat().st_size == 30_000_000 and output.stat().st_blocks * 512 < 3_000_000)


def test_bytes_that_are_not_utf8(rig: Rig) -> None:
    stream = rig.attach()
    stream.say(start("t", "printf", r"ok\n\377\376 bad\n\303\251\n\303"))
    stream.ended("t")
    assert stream.text("t") == ["ok", "\ufffd\ufffd bad", "é", "\ufffd"]


def test_put_and_fetch(rig: Rig) -> None:
    stream = rig.attach()
    data = os.urandom(300_000)
    half = {**put("t", "in/data", data[:200_000]), "last": False}
    rest = {**put("t", "in/data", data[200_000:], mode=0o640), "offset": 200_000}
    script = "stat -c %a in/data; cp in/data out; mkdir d"
    wanted: dict[str, Any] = {"fetch": ["out", "none", "d", "../stdout"], "fetch_bytes_max": 1 << 20}
    stream.say(half, rest, start("t", "sh", "-c", script, **wanted))
    ended = stream.ended("t")
    assert ended["code"] == 0
    assert stream.text("t") == ["640"]
    pieces = [m for m in stream.of("file") if m["path"] == "out"]
    assert b"".join(base64.b64decode(m["data"]) for m in pieces) == data
    errors = {m["path"]: m["error"] for m in stream.of("file") if m.get("error")}
    assert errors == {"none": "No such file or directory", "d": "not a regular file"}
    stream.ack()
    until(lambda: not [p for p in rig.dir.glob("tasks/*") if not p.name.startswith(".spare")])


def test_a_directory_that_was_touched_is_not_given_to_the_next_task(rig: Rig) -> None:
    stream = rig.attach(slots=1)
    for number, script in enumerate(
        ("true", "touch x", "ls -A", "echo y >../z", "ls -A . ..", "true", "ls -A . ..")
    ):
        stream.say(start(f"t{number}", "sh", "-c", script))
        stream.ended(f"t{number}")
        stream.ack()
    assert stream.text("t2") == []
    for task in ("t4", "t6"):
        assert stream.text(task) == [".:", "", "..:", "stderr", "stdout", "work"]


def test_task_metrics_and_machine_metrics(rig: Rig) -> None:
    stream = rig.attach(metrics_every_s=0.2)
    script = (
        "printf 'loss 0.5 100\\nstep 1 100\\nloss 0.4 101\\nbad\\nx nan\\nhalf 1' >$EVERPOOL_METRICS_FILE"
    )
    stream.say(start("t", "sh", "-c", script))
    stream.ended("t")
    assert [(m["at"], m["values"]) for m in stream.of("metrics", "t")] == [
        (100, {"loss": 0.5, "step": 1}),
        (101, {"loss": 0.4}),
    ]
    machine = stream.until(lambda m: m["t"] == "metrics" and "cpu_percent" in m["values"])["values"]
    assert set(machine) == {
        "cpu_percent", "memory_used_bytes", "memory_total_bytes", "disk_used_bytes", "disk_total_bytes",
        "network_rx_bytes", "network_tx_bytes", "load1",
    }  # fmt: skip
    assert 0 < machine["memory_used_bytes"] < machine["memory_total_bytes"]


def test_health_check_that_fails_or_hangs(rig: Rig) -> None:
    health = {"run": "echo hm; echo broken >&2; exit 3", "every_s": 0.05, "timeout_s": 5, "failures": 2}
    stream = rig.attach(health=health)
    unhealthy = stream.until(lambda m: m["t"] == "unhealthy")
    assert unhealthy["reason"] == "health check: exit code 3: broken"
    stream = rig.attach(health={"run": "sleep 100", "every_s": 0.05, "timeout_s": 0.1, "failures": 1})
    unhealthy = stream.until(lambda m: m["t"] == "unhealthy" and "timed" in m["reason"])
    assert unhealthy["reason"] == "health check: timed out"


def test_a_notice_reaches_tasks_and_is_withdrawn(rig: Rig) -> None:
    stream = rig.attach()
    hook = (
        "echo hook $EVERPOOL_NOTICE_SECONDS $EVERPOOL_NOTICE_REASON; "
        "kill -USR1 $EVERPOOL_TASK_PID; sleep 0.3; echo saved"
    )
    saves = "trap 'echo got it; exit 0' USR1; echo ready; while :; do sleep 0.05; done"
    stream.say(start("plain", "sleep", "100"), start("saves", "sh", "-c", saves, on_notice=hook))
    stream.until(lambda m: m["t"] == "log" and m["task"] == "saves")
    rig.notice.write_text(json.dumps({"reason": "spot", "within_s": 30}))
    notice = stream.until(lambda m: m["t"] == "notice")
    assert notice["reason"] == "spot"
    assert 25 < notice["within_s"] <= 30
    ended = stream.ended("plain")
    assert (ended["why"], ended["signal"]) == ("notice", 15)
    ended = stream.ended("saves")
    assert (ended["why"], ended["code"]) == ("notice", 0)
    lines = stream.text("saves")
    assert sorted(lines) == sorted(["ready", lines[1], "got it", "saved"])
    seconds, reason = lines[1].split()[1:]
    assert 20 < int(seconds) <= 28
    assert reason == "spot"
    rig.notice.write_text("{}")
    stream.until(lambda m: m["t"] == "notice_gone")
    stream.say(start("again", "true"))
    assert stream.ended("again")["code"] == 0
    rig.notice.unlink()
    deadline = time.time() + 100
    rig.notice.write_text(json.dumps({"reason": "other", "deadline_at": deadline}))
    notice = stream.until(lambda m: m["t"] == "notice" and m["reason"] == "other")
    assert 90 < notice["within_s"] <= 100


def test_without_word_from_a_daemon_tasks_stop_and_the_end_command_runs(rig: Rig, tmp_path: Path) -> None:
    over = tmp_path / "over"
    rig.options += ["--end-command", f"echo over >{over}"]
    stream = rig.attach(lease_s=0.5)
    stream.say(start("t", "sleep", "100"))
    ended = stream.ended("t")
    assert (ended["why"], ended["signal"]) == ("lease", 15)
    until(over.exists)


def test_bootstrap_that_fails(rig: Rig) -> None:
    stream = rig.attach()
    steps = [
        {"phase": "one", "run": "printf '1%%\\r2%%\\r\\n'; echo $A >&2", "timeout_s": 20},
        {"phase": "two", "run": "echo E: broken; exit 100", "timeout_s": 20},
        {"phase": "three", "run": "echo never", "timeout_s": 20},
    ]
    stream.say({"t": "bootstrap", "epoch": 1, "run_id": "r", "env": {"A": "b"}, "steps": steps})
    ended = stream.until(lambda m: m["t"] == "bootstrap_ended")
    assert (ended["phase"], ended["error"]) == ("two", "exit code 100: E: broken")
    console = [(m["stream"], m["content"], m.get("overwrite", False)) for m in stream.of("console")]
    assert console == [
        ("stdout", "1%", True),
        ("stdout", "2%", False),
        ("stderr", "b", False),
        ("stdout", "E: broken", False),
    ]
    events = [(m["event"], m["phase"]) for m in stream.of("phase")]
    assert events == [("started", "one"), ("completed", "one"), ("started", "two"), ("failed", "two")]
    assert [m["command"] for m in stream.of("command")] == [step["run"] for step in steps[:2]]


def test_bootstrap_step_that_hangs(rig: Rig) -> None:
    stream = rig.attach()
    step = {"phase": "one", "run": "echo waiting; sleep 100", "timeout_s": 0.3}
    stream.say({"t": "bootstrap", "epoch": 1, "run_id": "r", "env": {}, "steps": [step]})
    ended = stream.until(lambda m: m["t"] == "bootstrap_ended")
    assert ended["error"] == "timed out after 0.3 s: waiting"


def test_lines_that_are_not_json_close_the_stream_only(rig: Rig) -> None:
    stream = rig.attach()
    stream.say(start("t", "sleep", "100"))
    stream.until(lambda m: m["t"] == "started")
    stream.say_raw(b"{]\n")
    stream.process.wait(10)
    again = rig.attach()
    assert again.of("hello")[0]["tasks"] == [["t", 1, "running"]]


def test_version_is_the_hash_of_the_file(rig: Rig) -> None:
    said = subprocess.run([sys.executable, str(AGENT), "version"], capture_output=True, text=True, check=True)
    assert rig.attach().of("hello")[0]["agent"] == said.stdout.strip()
    assert len(said.stdout.strip()) == 16
