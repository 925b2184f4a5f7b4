"""Streams that break, agents that are killed, replaced or run by an old Python."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.providers.agent.rig import AGENT, Message, Rig, Stream, alive, start, until

pytestmark = pytest.mark.real


def resume(rig: Rig, before: Stream, **hello: object) -> Stream:
    """Attach again from what `before` acknowledged."""
    boot = before.of("hello")[0]["boot"]
    return rig.attach(boot=boot, **hello)


def test_output_goes_on_without_a_daemon_and_is_resumed(rig: Rig, tmp_path: Path) -> None:
    stream = rig.attach()
    flag = tmp_path / "go"
    count = "i=0; while [ $i -lt 10000 ]; do echo $1 $i; i=$((i+1)); done"
    wait = f"touch {flag}.1; while [ ! -e {flag} ]; do sleep 0.02; done"
    script = f"set a; {count}; {wait}; set b; {count}; touch {flag}.2"
    stream.say(start("t", "sh", "-c", script, log_bytes_max=1 << 30))
    stream.until(lambda m: m["t"] == "log")
    acked = stream.ack()
    lines = [line for m in stream.of("log") if m["id"] <= acked for line, _ in m["lines"]]
    until(Path(f"{flag}.1").exists)
    stream.close()
    flag.touch()
    until(Path(f"{flag}.2").exists)
    again = resume(rig, stream, acked=acked)
    again.ended("t")
    lines += again.text("t")
    assert lines == [f"{part} {n}" for part in "ab" for n in range(10_000)]
    ids = [m["id"] for m in again.heard if "id" in m]
    assert ids == list(range(acked + 1, ids[-1] + 1))


def test_what_was_not_acknowledged_comes_again_the_same(rig: Rig) -> None:
    stream = rig.attach()
    stream.say(
        start("t", "sh", "-c", r"printf 'a\nb\rc\377\r\nd'; exit 3", fetch=["../stdout"], fetch_bytes_max=99)
    )
    stream.ended("t")
    said = [m for m in stream.heard if "id" in m]
    stream.close()
    again = resume(rig, stream)
    again.ended("t")
    assert [m for m in again.heard if "id" in m] == said
    rig.kill_agent()
    third = resume(rig, stream)
    third.ended("t")
    assert [m for m in third.heard if "id" in m] == said
    assert third.of("hello")[0]["boot"] == stream.of("hello")[0]["boot"]


def test_a_newer_stream_replaces_the_older(rig: Rig) -> None:
    old = rig.attach()
    new = rig.attach()
    old.process.wait(10)
    new.say(start("t", "true"))
    assert new.ended("t")["code"] == 0


def test_two_streams_at_once_start_one_agent(rig: Rig) -> None:
    first = rig.attach()
    pid = rig.agent_pid()
    rig.attach()
    assert rig.agent_pid() == pid
    assert first.of("hello")


def test_a_killed_agent_loses_no_task_and_runs_none_twice(rig: Rig, tmp_path: Path) -> None:
    stream = rig.attach(slots=1)
    note = tmp_path / "note"
    script = f"echo $$ >>{note}; echo before; while [ ! -e {note}.go ]; do sleep 0.02; done; echo after"
    stream.say(start("long", "sh", "-c", script), start("next", "sh", "-c", f"echo next >>{note}"))
    stream.until(lambda m: m["t"] == "log")
    rig.kill_agent()
    stream.process.wait(10)
    again = resume(rig, stream, slots=1)
    assert again.of("hello")[0]["tasks"] == [["long", 1, "running"], ["next", 1, "waiting"]]
    assert alive(int(note.read_text()))
    Path(f"{note}.go").touch()
    ended = again.ended("long")
    assert (ended.get("code"), ended["why"]) == (None, "lost")
    assert again.ended("next")["code"] == 0
    assert again.text("long") == ["before", "after"]
    assert len(note.read_text().split()) == 2


def test_a_task_that_ended_while_there_was_no_agent(rig: Rig) -> None:
    stream = rig.attach()
    stream.say(start("t", "sh", "-c", "echo begin; sleep 0.3; (setsid sleep 100 &) ; echo end"))
    pid = stream.until(lambda m: m["t"] == "started")["pid"]
    rig.kill_agent()
    until(lambda: not alive(pid))
    again = resume(rig, stream)
    assert again.ended("t")["why"] == "lost"
    assert again.text("t") == ["begin", "end"]
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if _is(p, str(rig.dir), "sleep")]


def _is(cmdline: Path, directory: str, program: str) -> bool:
    try:
        environ = (cmdline.parent / "environ").read_bytes()
        return program.encode() in cmdline.read_bytes() and directory.encode() in environ
    except OSError:
        return False


def test_a_stop_reaches_a_task_of_a_killed_agent(rig: Rig) -> None:
    stream = rig.attach()
    stream.say(start("t", "sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"))
    stream.until(lambda m: m["t"] == "started")
    rig.kill_agent()
    again = resume(rig, stream)
    again.say({"t": "stop", "epoch": 1, "task": "t", "attempt": 1, "grace_s": 0.2})
    assert again.ended("t")["why"] == "stop"


def test_many_tasks_and_an_agent_that_is_killed_again_and_again(rig: Rig, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    stream = rig.attach(slots=3)
    names = [f"t{n}" for n in range(60)]
    stream.say(*(start(t, "sh", "-c", f"echo {t} >>{ran}; echo out {t}; sleep 0.02") for t in names))
    durable, kept = 0, list[Message]()
    for count in range(5, 60, 9):
        ends = 0
        while ends < count:
            stream.hear(10)
            ends = len(stream.of("ended")) + sum(m["t"] == "ended" for m in kept)
        if count % 2:
            durable = stream.ack()
            kept += [m for m in stream.heard if 0 < m.get("id", 0) <= durable and m not in kept]
        rig.kill_agent()
        stream = resume(rig, stream, acked=durable, slots=3)
    while len({m["task"] for m in [*kept, *stream.heard] if m["t"] == "ended"}) < len(names):
        stream.hear(10)
    kept += [m for m in stream.heard if m.get("id", 0) > durable]
    ended = [m["task"] for m in kept if m["t"] == "ended"]
    assert sorted(ended) == sorted(names)
    lines = ran.read_text().split()
    assert len(set(lines)) == len(lines), "a task ran twice"
    outs = [line for m in kept if m["t"] == "log" for line, _ in m["lines"]]
    assert sorted(outs) == sorted(f"out {t}" for t in lines)


def test_an_upgrade_keeps_children_and_sees_them_end(rig: Rig, tmp_path: Path) -> None:
    stream = rig.attach()
    stream.say(start("t", "sh", "-c", f"while [ ! -e {tmp_path}/go ]; do sleep 0.02; done; exit 5"))
    stream.until(lambda m: m["t"] == "started")
    pid = rig.agent_pid()
    newer = tmp_path / "newer.py"
    newer.write_text(AGENT.read_text() + "\n# newer\n")
    broken = tmp_path / "broken.py"
    broken.write_text("def:")
    stream.say({"t": "upgrade", "epoch": 1, "path": str(broken)})
    stream.until(lambda m: m["t"] == "refused" and "broken.py" in m["reason"])
    stream.say({"t": "upgrade", "epoch": 1, "path": str(newer)})
    stream.process.wait(10)
    rig.command_file = newer
    again = resume(rig, stream)
    assert rig.agent_pid() == pid
    assert again.of("hello")[0]["agent"] != stream.of("hello")[0]["agent"]
    (tmp_path / "go").touch()
    ended = again.ended("t")
    assert (ended["code"], ended.get("why", "")) == (5, "")


def test_a_torn_spool_is_read_as_far_as_it_goes(rig: Rig) -> None:
    stream = rig.attach()
    stream.say(start("t", "true"))
    stream.ended("t")
    rig.kill_agent()
    with (rig.dir / "spool").open("ab") as spool:
        spool.write(b'["r",{"t":"st')
    again = resume(rig, stream)
    assert again.ended("t")["code"] == 0
    again.say(start("u", "true"))
    again.ended("u")
    rig.kill_agent()
    third = resume(rig, stream)
    assert third.ended("u")["code"] == 0


def test_an_agent_told_to_end_leaves_tasks_alone(rig: Rig) -> None:
    stream = rig.attach()
    stream.say(start("t", "sleep", "100"))
    pid = stream.until(lambda m: m["t"] == "started")["pid"]
    agent = rig.agent_pid()
    os.kill(agent, signal.SIGTERM)
    until(lambda: not alive(agent))
    assert alive(pid)
    assert resume(rig, stream).of("hello")[0]["tasks"] == [["t", 1, "running"]]


def oldest_python() -> str:
    """Python 3.8 when there is one, else the one that runs this."""
    for candidate in (
        *sorted(Path.home().glob(".pyenv/versions/3.8.*/bin/python3")),
        shutil.which("python3.8"),
    ):
        if candidate and not subprocess.run([candidate, "--version"], capture_output=True).returncode:
            return str(candidate)
    return sys.executable


def test_the_oldest_python_runs_it(rig: Rig, tmp_path: Path) -> None:
    rig.python = oldest_python()
    stream = rig.attach()
    version = subprocess.run([rig.python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    assert stream.of("hello")[0]["python"] == version
    note = tmp_path / "go"
    stream.say(
        start("t", "sh", "-c", "echo hi; exit 4"),
        start("u", "nope"),
        start("v", "sh", "-c", f"while [ ! -e {note} ]; do sleep 0.02; done"),
    )
    assert stream.ended("t")["code"] == 4
    assert stream.text("t") == ["hi"]
    assert stream.ended("u")["code"] == 127
    rig.kill_agent()
    again = resume(rig, stream)
    note.touch()
    assert again.ended("v")["why"] == "lost"
