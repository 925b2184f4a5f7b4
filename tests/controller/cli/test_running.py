"""The commands, against a real daemon with real machines."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from actors.events import TaskStopRequested
from controller.client import Client
from tests.controller.cli.running import EVERPOOL, Face, Typed, until

pytestmark = pytest.mark.real


# --- run --------------------------------------------------------------------------------------------


def test_run_keeps_streams_apart_and_exits_with_the_tasks_code(house: Face) -> None:
    done = house("run", "web", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    # Which of the last line and the word of the end comes first is not promised: two streams tell them.
    said = sorted(done.err.splitlines())
    told = "everpool: attempt 1 ended: failure, exit code 7"
    assert (done.code, done.out, said) == (7, "out\n", ["err", told])


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("exit 0", 0),
        ("exit 255", 255),
        ("kill -TERM $$", 143),
        ("kill -KILL $$", 137),
        ("kill -USR1 $$", 128 + signal.SIGUSR1),
    ],
)
def test_exit_codes_of_tasks(house: Face, line: str, code: int) -> None:
    assert house("run", "web", "--shell", "--", line).code == code


def test_a_program_that_is_not_there(house: Face) -> None:
    done = house("run", "web", "--", "no-such-program-here")
    assert done.code == 127
    assert "no-such-program-here" in done.err


def test_run_takes_environment_files_and_brings_files_back(house: Face) -> None:
    inputs = house.directory / "inputs"
    inputs.mkdir()
    (inputs / "a.txt").write_text("a\n")
    (inputs / "b.sh").write_text("#!/bin/sh\necho $WHO\n")
    (inputs / "b.sh").chmod(0o755)
    result = house.directory / "out" / "result.txt"
    line = "cat in/a.txt > result; in/b.sh >> result; cat ~/greeting >> result"
    settings = ("--env", "WHO=me", "--put", f"{inputs}:in", "--fetch", f"result:{result}")
    done = house("run", "web", *settings, "--shell", "--", line)
    assert done.code == 0, done.err
    assert result.read_text() == "a\nme\nhi\n"


def test_a_file_that_can_not_be_fetched_is_said(house: Face) -> None:
    done = house("run", "web", "--fetch", "nothing", "--", "true")
    assert (done.code, "--fetch nothing" in done.err) == (123, True)
    assert house("run", "web", "--fetch", "nothing", "--", "false").code == 1  # its own code counts more


def test_run_as_json(house: Face) -> None:
    done = house("run", "web", "--json", "--", "echo", "hi")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["kind"] for line in lines] == ["log", "end"]
    assert lines[0]["text"] == "hi"
    assert (lines[1]["code"], lines[1]["event"]["result"]) == (0, "success")


def test_a_retried_task_says_so_and_ends_with_its_last_code(house: Face) -> None:
    marker = house.directory / "tried"
    line = f"if [ -e {marker} ]; then echo again; else touch {marker}; exit 3; fi"
    done = house("run", "web", "--retries", "1", "--shell", "--", line)
    assert (done.code, done.out) == (0, "again\n")
    assert "attempt 1 ended: failure" in done.err
    assert "attempt 2 runs on node" in done.err


def test_output_that_is_no_text_comes_through(house: Face) -> None:
    done = house("run", "web", "--", "printf", "ä\\n\\n  two spaces\\nno end")
    assert done.out == "ä\n\n  two spaces\nno end\n"


def test_ctrl_c_detaches_and_the_task_goes_on(house: Face) -> None:
    running = house.start("run", "web", "--", "sh", "-c", "echo begun; sleep 300")
    assert running.stdout is not None and running.stdout.readline() == "begun\n"
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Traceback" not in err
    task = err.split("everpool stop ")[1].split()[0]
    view = next(one for one in house("ps", "tasks", "--json").json if one["id"] == task)
    assert view["status"] == "running"
    assert house("stop", task, "--grace", "5s").code == 0


# --- tasks that are not waited for -------------------------------------------------------------------


def test_detach_follow_and_stop(house: Face) -> None:
    line = "trap 'echo bye; exit 0' TERM; echo one; while :; do sleep 0.1; done"
    task = house("run", "web", "--detach", "--name", "loop", "--shell", "--", line).out.strip()
    following = house.start("logs", task, "--follow")
    assert following.stdout is not None and following.stdout.readline() == "one\n"
    stopped = house("stop", task, "--grace", "20s", "--json")
    assert stopped.code == 0, stopped.err
    assert stopped.json["event"]["result"] == "terminated"
    out, _ = following.communicate(timeout=30)
    assert (following.returncode, out) == (0, "bye\n")
    assert house("logs", task, "--stream", "stdout", "--tail", "1").out == "bye\n"
    assert house("logs", task, "--stream", "stderr").out == ""
    again = house("stop", task)
    assert (again.code, again.err) == (0, f"task {task} is over already: terminated\n")


def test_output_may_be_cut_off_by_its_reader(house: Face) -> None:
    task = house("run", "web", "--detach", "--", "seq", "200000").out.strip()
    reader = house.start("logs", task, "--follow")
    assert reader.stdout is not None and reader.stdout.readline() == "1\n"
    reader.stdout.close()
    assert reader.stderr is not None
    err = reader.stderr.read()
    assert (reader.wait(30), err) == (141, "")
    reader.stderr.close()


# --- looking ----------------------------------------------------------------------------------------


def test_ps(house: Face) -> None:
    pool = house("ps", "--json").json[0]
    assert (pool["name"], pool["status"], pool["ready"]) == ("web", "ready", 2)
    assert [one["node"] for one in house("ps", "nodes", "--pool", "web", "--json").json] == [0, 1]
    table = house("ps", "instances").out
    addresses = [one["address"] for one in house("ps", "instances", "--json").json]
    assert "INSTANCE" in table and all(address in table for address in addresses)
    assert all(len(line) < 400 for line in table.splitlines())
    assert house("ps", "tasks", "--limit", "1").code == 0
    assert house("ps", "dogs").code == 2


def test_events(house: Face) -> None:
    ready = [json.loads(line) for line in house("events", "--json", "--kind", "pool_ready").out.splitlines()]
    assert [one["event"]["pool"] for one in ready] == ["web"]
    after = house("events", "--after", str(ready[0]["seq"] - 1), "--limit", "1").out
    assert after.endswith(f"pool_ready #{ready[0]['seq']}\n")
    follower = house.start("events", "--follow", "--kind", "task_completed", "--limit", "1", "--after", "1")
    house("run", "web", "--", "true")
    out, _ = follower.communicate(timeout=30)
    assert follower.returncode == 0 and " task_completed " in out


def test_doctor_hold_adopt_reload(house: Face) -> None:
    doctor = house("doctor", "--json")
    assert doctor.code == 0, doctor.out
    assert {"daemon", "python", "journal", "provider local"} <= {line["what"] for line in doctor.json}
    assert house("hold", "1h30m", "web", "--json").json["pools"] == ["web"]
    assert house("hold", "1h", "nope").code == 4
    assert house("adopt", "--json").json["adopted"] is False
    assert house("reload").out == "nothing changed\n"


def test_backup_from_a_daemon_and_from_a_directory(house: Face) -> None:
    one, two = house.directory / "one.sqlite3", house.directory / "two.sqlite3"
    assert house("backup", str(one)).code == 0
    assert house("backup", str(two), "--state-dir", str(house.socket.parent)).code == 0
    assert one.stat().st_size > 0 and two.stat().st_size > 0
    again = house("backup", str(two), "--state-dir", str(house.socket.parent))
    assert again.code == 1 and "exists" in again.err
    assert house("backup", str(one)).code == 2


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh client here")
def test_exec_verifies_the_host_and_passes_words_on(house: Face) -> None:
    done = house("exec", "web/1", "--", "sh", "-c", 'printf "%s|" "$@"; exit 4', "x", "a b", "$HOME")
    assert (done.code, done.out) == (4, "a b|$HOME|"), done.err
    name = house("ps", "nodes", "--json").json[0]["instance_id"]
    assert house("exec", name, "--", "cat", "greeting").out == "hi\n"
    assert house("ssh", "web/0", "--", "-o", "BatchMode=yes", "-T").code == 0


def test_on_a_terminal_a_task_is_run_and_a_pool_resized(house: Face) -> None:
    for arguments, shows in (
        (("run", "web", "--", "echo", "hi"), "hi"),
        (("resize", "web", "2"), "2 of 2 ready"),
    ):
        ours, theirs = os.openpty()
        process = subprocess.Popen(
            [*EVERPOOL, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=house.env,
            cwd=house.directory,
        )
        os.close(theirs)
        said = b""
        with suppress(OSError):  # so a terminal says that the other side is closed
            while piece := os.read(ours, 65_536):
                said += piece
        os.close(ours)
        assert process.wait(30) == 0, said
        assert shows.encode() in said and b"Traceback" not in said


def test_logs_and_top_without_a_name(house: Face) -> None:
    task = house("run", "web", "--detach", "--", "true").out.strip()
    listed = house("logs")
    assert task in listed.out and "say which" in listed.err
    screen = house("top").out
    assert "nodes of web" in screen and "ready     2/2" in screen
    assert [one["name"] for one in house("top", "--json").json["pools"]] == ["web"]


def test_the_newest_events_and_those_since(house: Face) -> None:
    everything = [json.loads(line)["seq"] for line in house("events", "--json").out.splitlines()]
    newest = [json.loads(line)["seq"] for line in house("events", "--json", "--limit", "3").out.splitlines()]
    assert newest == everything[-3:]
    since = [json.loads(line)["seq"] for line in house("events", "--json", "--since", "1h").out.splitlines()]
    assert since == everything
    task = house("run", "web", "--detach", "--", "true").out.strip()
    until(lambda: house("ps", "tasks", "--json").json[0]["status"] == "stopped")
    lines = house("events", "--task", task, "--since", "1h").out.splitlines()
    assert len(lines) >= 4 and all(task in line for line in lines)
    assert house("events", "--since", "0s").out == ""
    nobody = house("events", "--pool", "nope")
    assert (nobody.code, nobody.out) == (0, "") and "no pool 'nope'" in nobody.err and "web" in nobody.err
    assert "no task 't-nope'" in house("events", "--task", "t-nope").err
    assert house("events", "--pool", "web", "--kind", "pool_parked").err == ""
    assert house("events", "--since", "1h", "--after", "1").code == 2


def test_run_says_what_it_waits_for(house: Face) -> None:
    assert house("up", "empty", "--nodes", "0").code == 0
    waiting = house.start("run", "empty", "--", "true")
    assert waiting.stderr is not None
    said = waiting.stderr.readline()
    assert "explain empty --task t-" in said
    waiting.send_signal(signal.SIGINT)
    waiting.communicate(timeout=30)
    assert waiting.returncode == 130
    assert house("down", "empty", "--quiet").err == ""


def with_program(house: Face) -> dict[str, str]:
    """The environment with `everpool` as a program on the PATH."""
    programs = house.directory / "bin"
    programs.mkdir(exist_ok=True)
    program = programs / "everpool"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m controller "$@"\n')
    program.chmod(0o755)
    return house.env | {"PATH": f"{programs}:{house.env['PATH']}"}


COMPLETED: tuple[tuple[str, list[str]], ...] = (  # what is typed, and what comes of it
    ("everpool down w", ["web"]),
    ("everpool ssh web/", ["web/0", "web/1"]),
    ("everpool --socket /nowhere down w", []),
    ("everpool --url http://127.0.0.1:1 events --kind pool_rea", ["pool_ready"]),
    ("everpool token revoke tab-", ["tab-token"]),
    ("everpool up x --provider lo", ["local"]),
    ("everpool prof", ["profile"]),
    ("everpool check pool-", ["pool-file.toml"]),
)


@pytest.fixture
def to_complete(house: Face) -> Iterator[Face]:
    """With a token and a file whose names can be completed."""
    assert house("token", "create", "tab-token").code == 0
    (house.directory / "pool-file.toml").touch()
    yield house
    assert house("token", "revoke", "tab-token").code == 0


def test_bash_completes_names_of_the_daemon(to_complete: Face) -> None:
    script = """
    eval "$(everpool completion bash)"
    tried() {
        COMP_LINE="$1" COMP_POINT=${#1} COMPREPLY=()
        _everpool_completion everpool
        echo "${COMPREPLY[*]}"
    }
    """
    # Files are bash's own affair (`-o default`), when we have nothing to say.
    script += "".join(f"tried '{line}'\n" for line, _ in COMPLETED)
    done = subprocess.run(
        ["bash", "-c", script], env=with_program(to_complete), capture_output=True, text=True, timeout=60
    )
    wanted = [" ".join(names) if "check" not in line else "" for line, names in COMPLETED]
    assert (done.stdout.splitlines(), done.stderr) == (wanted, "")


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish here")
def test_fish_completes_names_of_the_daemon(to_complete: Face) -> None:
    script = "everpool completion fish | source\n"
    script += "".join(f"complete -C '{line}'; echo == next\n" for line, _ in COMPLETED)
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        env=with_program(to_complete),
        cwd=to_complete.directory,
        capture_output=True,
        text=True,
        timeout=60,
    )
    offered = [
        [line.partition("\t")[0] for line in part.split("\n") if line]
        for part in done.stdout.split("== next\n")
    ]
    assert (offered[:-1], done.stderr) == ([names for _, names in COMPLETED], "")


@pytest.mark.skipif(shutil.which("zsh") is None, reason="no zsh here")
def test_zsh_completes_names_of_the_daemon(to_complete: Face) -> None:
    env = with_program(to_complete) | {"TERM": "dumb", "PS1": "READY> "}
    with Typed(["zsh", "-f", "-i"], env, to_complete.directory) as zsh:
        zsh.types('eval "$(everpool completion zsh)"; echo o"k"\n', "\nok")
        for line, (name, *more) in ((line, names) for line, names in COMPLETED if names):
            zsh.types("\x15", "")
            zsh.types(f"{line}\t", more[-1] if more else f"{line.rpartition(' ')[0]} {name} ")


def test_scripts_of_shells_name_our_variable(house: Face) -> None:
    for shell in ("bash", "zsh", "fish"):
        script = house("completion", shell).out
        assert "_EVERPOOL_COMPLETE" in script
        if shutil.which(shell) is not None:
            done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, timeout=30)
            assert (done.returncode, done.stderr) == (0, "")


def test_a_stop_that_comes_too_late_is_no_error_of_the_daemon(house: Face) -> None:
    task = house("run", "web", "--detach", "--", "true").out.strip()
    until(lambda: house("ps", "tasks", "--json").json[0]["status"] == "stopped")
    said = house("stop", task)
    assert said.code == 0 and "is over already" in said.err
    with Client(house.socket) as everpool:
        asked = everpool.submit(TaskStopRequested(request_id="late", pool="web", task_id=task))
        end = everpool.wait(asked.request_id, 30)
    assert end.error is not None and end.error.startswith("already done")
    log = (house.directory / "daemon.log").read_text()
    assert [line for line in log.splitlines() if "request_id=late" in line and " error " in line] == []


def test_the_pages_url_lets_in_who_has_it_and_only_then(house: Face) -> None:
    page = house.start("dashboard", "--json")
    assert page.stdout is not None
    base, _, token = json.loads(page.stdout.readline())["url"].partition("#token=")

    def status(path: str, **headers: str) -> int:
        try:
            with urlopen(Request(base + path, headers=headers), timeout=30) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code

    shows = {"Authorization": f"Bearer {token}"}
    assert [status("v1/pools"), status("v1/pools", **shows), status("v1/tokens", **shows)] == [401, 200, 403]
    page.send_signal(signal.SIGINT)
    page.communicate(timeout=30)
    assert page.returncode == 130
    assert house("token", "list", "--json").json == []


# --- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("up", "web"), 5, "pool 'web' exists, with 2 of 2 nodes ready"),
        (("up", "Web!"), 2, "is not a name"),
        (("up", "x", "--provider", "lokal"), 4, "no provider 'lokal' in the config: did you mean 'local'?"),
        (("up", "x", "--set", "nodez=3"), 2, "did you mean 'nodes'?"),
        (("up", "x", "--spec", "/nowhere.toml"), 2, "can't be read"),
        (("resize", "nope", "3"), 4, "there are web"),
        (("resize", "web", "-3"), 2, ""),
        (("down", "nope"), 4, "nope"),
        (("drain", "web", "77"), 4, "no node 77: its nodes are: 0, 1"),
        (("exec", "web/77", "--", "true"), 4, "no node 77: its nodes are: 0, 1"),
        (("update", "web", "--set", "vcpus=64"), 2, "vcpus (64) removed all of them"),
        (("run", "nope", "--", "true"), 4, "there are web"),
        (("run", "web"), 2, ""),
        (("run", "web", "--env", "=1", "--", "true"), 2, "is not a name"),
        (("run", "web", "--put", "/nowhere", "--", "true"), 2, "can't be read"),
        (("run", "web", "--timeout", "soon", "--", "true"), 2, "no duration"),
        (("stop", "t-nope"), 4, "no task 't-nope'"),
        (("logs", "t-nope"), 4, "no task 't-nope'"),
        (("ssh", "web/9"), 4, "no node 9"),
        (("ssh", "i-nope"), 4, "no instance 'i-nope'"),
        (("events", "--kind", "pool_redy"), 2, "did you mean pool_ready"),
        (("--url", "http://127.0.0.1:1", "ps"), 3, "no daemon answers"),
        (("--url", "127.0.0.1:1", "ps"), 2, "write http://127.0.0.1:1"),
        (("--socket", "/dev/null", "ps"), 3, "not a daemon's socket"),
        (("exec", "web/0", "ls", "-l"), 2, "stands behind `--`"),
        (("token", "create", "none", "--expires", "0"), 2, "it would let nobody in"),
        (("profile", "use"), 2, "--none"),
        (("frobnicate",), 2, "frobnicate"),
        (("ssh", "web"), 4, "such as web/0"),
        (("ssh", "0"), 2, "no profile is used"),
        (("run", ".", "--", "true"), 2, "no profile is used"),
        (("-p", "lab", "ps"), 2, "everpool profile add lab"),
        (("--url", "https://127.0.0.1:1", "--ca-file", "/nowhere", "ps"), 2, "--ca-file"),
        (("--url", "http://127.0.0.1:1", "--token-file", "/nowhere", "ps"), 2, "--token-file"),
        (("top", "nope"), 4, "nope"),
        (("explain", "nope"), 4, "no pool 'nope'"),
        (("events", "--since", "soon"), 2, "no duration"),
        (("completion", "tcsh"), 2, "tcsh"),
        (("drain", "nope", "0"), 4, "nope"),
        (("update", "nope", "--slots", "2"), 4, "nope"),
        (("cost", "nope"), 4, "nope"),
        (("dashboard", "--for", "0s"), 2, "--for"),
    ],
)
def test_what_is_refused(house: Face, arguments: tuple[str, ...], code: int, says: str) -> None:
    done = house(*arguments)
    assert done.code == code, done.err
    assert says in done.err


def test_errors_as_json(house: Face) -> None:
    done = house("logs", "t-nope", "--json")
    assert done.json["code"] == done.code == 4
    assert "t-nope" in done.json["error"]


@pytest.mark.parametrize(
    "words",
    [("ps", "--bogus"), ("resize", "web"), ("frobnicate",), ("ps", "neither"), ("up", "--nodes", "x")],
)
def test_usage_errors_are_json_on_stderr_when_that_is_wanted(house: Face, words: tuple[str, ...]) -> None:
    for line in (("--json", *words), (*words, "--json")):
        done = house(*line)
        said = json.loads(done.err)
        assert (done.code, done.out, said["code"]) == (2, "", 2)
        assert said["error"] and said["usage"].startswith("everpool ")
    assert house(*words).err.startswith("Usage: ")


def test_the_version(house: Face) -> None:
    assert re.fullmatch(r"everpool \S+ \(Python [\d.]+\)\n", house("--version").out)


def test_a_token_says_what_it_is_and_that_a_bare_number_is_seconds(house: Face) -> None:
    made = house("token", "create", "short", "--scope", "submit", "--pool", "a-*", "--expires", "90")
    assert "'short' of scope submit, for pools a-*, expires in 1m" in made.err
    assert "--expires 90 means 1m30s: write 90d for days" in made.err
    assert made.out.startswith("evp_") and house("token", "revoke", "short").code == 0


# --- pools come and go -------------------------------------------------------------------------------


def test_a_pool_from_a_file_changes_and_goes(house: Face) -> None:
    spec = house.directory / "pool.toml"
    spec.write_text('provider = "local"\nnodes = 1\nlease_s = 900\n[worker]\nconcurrency = 2\n')
    made = house("up", "other", "--spec", str(spec), "--set", "image.env.LEVEL=low", "--json")
    assert made.code == 0, made.err
    assert made.json["event"]["kind"] == "pool_ready"
    assert "node 0  ready" in made.err
    updated = house("update", "other", "--set", "lease_s=600", "--buffer", "1", "--json")
    assert sorted(updated.json["event"]["changed"]) == ["lease_s", "worker"]
    old = house("ps", "nodes", "--pool", "other", "--json").json[0]["instance_id"]
    drained = house("drain", "other", "0", "--json").json["event"]
    assert (drained["kind"], drained["old_id"], drained["new"]["node"]) == ("instance_replaced", old, 0)
    assert house("resize", "other", "2").out == "pool resized: other, 2 nodes\n"
    assert house("drain", "other", "1", "--remove").code == 0
    pool = house("ps", "--pool", "other", "--json").json[0]
    assert (pool["desired"], pool["spec"]["worker"]["buffer"]) == (1, 1)
    assert house("down", "other").out == "pool other is gone\n"
    assert [one["name"] for one in house("ps", "--json").json] == ["web"]


def test_an_update_that_rolls_is_waited_for(house: Face) -> None:
    assert house("up", "rolls", "--set", "bootstrap_failures_max=1", "--set", "image.env.A=a").code == 0
    rolled = house("update", "rolls", "--set", "image.env.A=b", "--json")
    assert rolled.code == 0, rolled.err
    assert (rolled.json["event"]["outdated"], rolled.json["rolled"]["renewed"]) == (1, 1)
    assert house("ps", "--pool", "rolls", "--json").json[0]["outdated"] == 0
    assert re.search(r"node 0  replaced \(1 of 1\)", rolled.err), rolled.err
    broken = house("update", "rolls", "--step", "wait=exit 9")
    assert (broken.code, "then parked" in broken.err) == (1, True), broken.err
    assert house("ps", "--pool", "rolls", "--json").json[0]["ready"] == 1  # the old machine works on
    following = house.start("update", "rolls", "--step", "wait=sleep 300")
    assert following.stderr is not None
    until(lambda: "updated" in following.stderr.readline())  # type: ignore[union-attr]
    following.send_signal(signal.SIGINT)
    _, err = following.communicate(timeout=30)
    assert following.returncode == 130 and "its machines are replaced" in err
    until(lambda: "ready -> " in house("ps", "nodes", "--pool", "rolls").out)
    [machine] = [one for one in house("ps", "instances", "--pool", "rolls", "--json").json if one["outdated"]]
    assert machine["status"] == "ready" and "old spec" in house("ps", "instances", "--pool", "rolls").out
    told = house("explain", "rolls").out
    assert "Missing:" not in told and "Being replaced:" in told, told
    assert house("down", "rolls").code == 0


def test_waiting_has_an_end_and_the_request_goes_on(house: Face) -> None:
    slow = house("up", "slow", "--step", "wait=sleep 3", "--within", "0.2s")
    assert slow.code == 6, slow.err
    assert "goes on" in slow.err
    until(lambda: house("ps", "--pool", "slow", "--json").json[0]["status"] == "ready")
    accepted = house("down", "slow", "--no-wait", "--json")
    assert accepted.json["status"] == "accepted"
    until(lambda: "slow" not in house("ps").out)


def test_a_set_up_that_fails_ends_in_exit_code_1(house: Face) -> None:
    one_market = ("--set", "zone=local-a", "--set", "allocation=spot")
    broken = house("up", "broken", "--step", "bad=exit 9", *one_market, "--set", "bootstrap_failures_max=1")
    assert broken.code == 1, broken.err
    assert "set-up step 'bad' failed" in broken.err
    until(lambda: "failed in step 'bad'" in house("explain", "broken").out)
    assert "`everpool explain broken --instance broken-0-" in house("explain", "broken").out
    assert house("down", "broken").code == 0


def test_ctrl_c_while_a_pool_comes_up(house: Face) -> None:
    making = house.start("up", "later", "--step", "wait=sleep 4")
    assert making.stderr is not None and "asked" in making.stderr.readline()
    time.sleep(0.1)
    making.send_signal(signal.SIGINT)
    _, err = making.communicate(timeout=30)
    assert making.returncode == 130 and "goes on" in err
    assert house("down", "later").code == 0


def test_a_config_that_is_wrong_is_said_to_be_so_by_every_command(face: Face) -> None:
    config = face.directory / "c.toml"
    config.write_text("[daemon]\nbogus = 1\n")
    del face.env["EVERPOOL_SOCKET"]
    face.env["EVERPOOL_CONFIG"] = str(config)
    done = face("ps")
    assert done.code == 2
    assert "key 'daemon.bogus' is not known" in done.err and "--socket" in done.err
