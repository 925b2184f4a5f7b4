"""Tasks on real machines: how they are started, what they find, how they end."""

import base64
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.events import TaskAttemptEnded, TaskStopRequested
from actors.spec import FilePut
from controller.client import EverpoolError, file_put
from tests.real.rig import Rig, tasks_of, until

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def pool(house: Rig) -> Iterator[Rig]:
    """A daemon with a pool `main` of two nodes with four slots each."""
    image = {"env": {"FROM_IMAGE": "yes", "BOTH": "image"}}
    ended = house.up(nodes=2, worker={"concurrency": 4}, image=image, log_bytes_max=4096)
    assert ended.status == "success", ended
    yield house
    house.down()
    house.check_ends()


# --- how they are started -----------------------------------------------------------------------------


def test_argv_is_taken_as_it_is(pool: Rig) -> None:
    args = ["a b", "$HOME", "*", "", "über", 'quote"', "line\nbreak"]
    done = pool.run(argv=["printf", "[%s]", *args])
    assert done.success and done.function_name == "printf"
    assert "\n".join(pool.text(done.task_id)) == "".join(f"[{arg}]" for arg in args)


def test_shell_is_one_string_for_sh(pool: Rig) -> None:
    done = pool.run("for i in 1 2 3; do echo $((i * i)); done | tac", name="squares")
    assert done.success and done.function_name == "squares"
    assert pool.text(done.task_id) == ["9", "4", "1"]


def test_environment_comes_from_image_task_and_daemon(pool: Rig) -> None:
    done = pool.run("env", env={"BOTH": "task", "OWN": "x=y z"})
    env = dict(line.split("=", 1) for line in pool.text(done.task_id))
    assert (env["FROM_IMAGE"], env["BOTH"], env["OWN"]) == ("yes", "task", "x=y z")
    assert (env["EVERPOOL_TASK_ID"], env["EVERPOOL_ATTEMPT"], env["EVERPOOL_POOL"]) == (
        done.task_id,
        "1",
        "main",
    )
    assert done.instance is not None
    assert env["EVERPOOL_INSTANCE"] == done.instance.instance.id
    assert env["EVERPOOL_NODE"] == str(done.instance.node)
    assert "SSH_CONNECTION" not in env and "EVERPOOL_MACHINE" not in env


def test_working_directory_is_its_own_unless_named(pool: Rig) -> None:
    first, second = (pool.run("pwd; touch mine; ls") for _ in range(2))
    places = [pool.text(one.task_id)[0] for one in (first, second)]
    assert places[0] != places[1]
    assert pool.text(first.task_id)[1:] == ["mine"]
    named = pool.run("pwd", cwd="/usr")
    assert pool.text(named.task_id) == ["/usr"]


def test_files_are_put_first_and_fetched_after(pool: Rig, tmp_path: Path) -> None:
    large = secrets.token_bytes(700_000)  # more than one message to the agent
    (tmp_path / "large").write_bytes(large)
    files = [
        file_put("run.sh", b"#!/bin/sh\nrev < in/text > out/text\n", mode=0o755),
        file_put("in/text", b"abc\n"),
        file_put("in/large", tmp_path / "large"),
        FilePut(path="empty"),
    ]
    done = pool.run(
        "mkdir out && ./run.sh && cp in/large out/ && test -f empty && test ! -s empty",
        files=[file.model_dump() for file in files],
        fetch=["out/text", "out/large", "out/missing"],
    )
    assert done.result == "success", done
    assert pool.client.file(done.task_id, "out/text") == b"cba\n"
    assert pool.client.file(done.task_id, "out/large") == large
    kept = {one["path"]: one["error"] for one in pool.client.files(done.task_id)}
    assert kept["out/text"] is None and kept["out/missing"]
    with pytest.raises(EverpoolError) as refused:
        pool.client.file(done.task_id, "out/missing")
    assert refused.value.status == 404


def test_a_file_that_is_no_base64_is_refused(pool: Rig) -> None:
    with pytest.raises(EverpoolError) as refused:
        pool.task("true", files=[{"path": "x", "data": "!"}])
    assert refused.value.status == 422


def test_fetched_files_are_there_after_a_failure_too(pool: Rig) -> None:
    done = pool.run("echo partial > result; exit 3", fetch=["result"])
    assert done.exit_code == 3
    assert pool.client.file(done.task_id, "result") == b"partial\n"


# --- slots, order, places -----------------------------------------------------------------------------


def test_slots_are_never_overbooked_and_all_used(house: Rig, tmp_path: Path) -> None:
    house.up("slots", nodes=1, worker={"concurrency": 3, "buffer": 2})
    diary = tmp_path / "diary"
    shell = f"echo + >> {diary}; sleep 0.15; echo - >> {diary}"
    tasks = tasks_of("slots", [{"shell": shell}] * 12)
    house.client.submit(tasks)
    for one in tasks:
        assert house.done(one.request_id).success
    running = highest = 0
    for word in diary.read_text().split():
        running += 1 if word == "+" else -1
        highest = max(highest, running)
    assert highest == 3
    house.down("slots")


def test_higher_priority_goes_first_then_order_of_arrival(house: Rig, tmp_path: Path) -> None:
    house.up("order", nodes=1)
    diary = tmp_path / "diary"
    blocker = house.task("sleep 1", pool="order")
    house.until_running(blocker)
    wanted = [("low", -5), ("first", 0), ("second", 0), ("high", 7), ("third", 0)]
    tasks = tasks_of("order", [{"shell": f"echo {name} >> {diary}", "priority": p} for name, p in wanted])
    house.client.submit(tasks)
    for one in tasks:
        assert house.done(one.request_id).success
    assert diary.read_text().split() == ["high", "first", "second", "third", "low"]
    house.down("order")


def test_a_pinned_task_runs_on_its_node(pool: Rig) -> None:
    for node in (1, 0, 1):
        done = pool.run("echo $EVERPOOL_NODE", node=node)
        assert done.instance is not None and done.instance.node == node
        assert pool.text(done.task_id) == [str(node)]
    with pytest.raises(EverpoolError, match="no node 2: its nodes are: 0, 1") as refused:
        pool.task("true", node=2)
    assert refused.value.status == 404


# --- how they end -------------------------------------------------------------------------------------

ENDS = [
    ("exit 0", "success", 0, None),
    ("exit 1", "failure", 1, None),
    ("exit 2", "failure", 2, None),
    ("exit 7", "failure", 7, None),
    ("exit 42", "failure", 42, None),
    ("exit 126", "failure", 126, None),
    ("exit 127", "failure", 127, None),
    ("exit 137", "killed", 137, None),
    ("kill -9 $$", "killed", None, 9),
    ("exit 143", "terminated", 143, None),
    ("kill -15 $$", "terminated", None, 15),
    ("kill -ABRT $$", "failure", None, 6),
]


@pytest.mark.parametrize(("shell", "result", "code", "signal"), ENDS, ids=[one[0] for one in ENDS])
def test_result_follows_from_the_end(
    pool: Rig, shell: str, result: str, code: int | None, signal: int | None
) -> None:
    done = pool.run(shell)
    assert (done.result, done.exit_code, done.success) == (result, code, result == "success")
    ends = [one.event for one in pool.events("task_attempt_ended")]
    (attempt,) = [one for one in ends if isinstance(one, TaskAttemptEnded) and one.task_id == done.task_id]
    assert (attempt.result, attempt.exit_code, attempt.signal) == (result, code, signal)


@pytest.mark.parametrize("argv", [["/no/such/program"], ["no-such-program"], ["/etc/passwd"], ["/usr"]])
def test_what_can_not_be_executed_is_a_startup_failure(pool: Rig, argv: list[str]) -> None:
    done = pool.run(argv=argv, retries=0)
    assert done.result == "startup_failure" and done.error is not None and argv[0] in done.error, done
    assert done.attempts == 1


def test_a_timeout_ends_a_task_with_term_then_kill(pool: Rig) -> None:
    polite = pool.run("trap 'echo bye; exit 5' TERM; sleep 30 & wait", timeout_s=0.3)
    assert (polite.reason, polite.exit_code, polite.success) == ("timeout", 5, False)
    assert pool.text(polite.task_id) == ["bye"]
    deaf = pool.run("trap '' TERM; while :; do sleep 1; done", timeout_s=0.3, grace_s=0.3)
    assert (deaf.result, deaf.reason) == ("killed", "timeout")
    assert deaf.duration < 10


def test_stop_is_term_then_kill_after_the_grace(pool: Rig) -> None:
    polite = pool.task("trap 'echo bye; exit 0' TERM; echo up; sleep 30 & wait")
    deaf = pool.task("trap '' TERM; echo up; while :; do sleep 0.1; done", grace_s=30)
    for task in (polite, deaf):
        until(lambda task=task: pool.text(task) == ["up"], "it is set up")  # type: ignore[misc]
    stops = [
        TaskStopRequested(pool="main", task_id=polite),
        TaskStopRequested(pool="main", task_id=deaf, grace_s=0.3),
    ]
    for stop in stops:
        ended = pool.end_of(pool.client.submit(stop).request_id)
        assert ended.status == "success" and ended.end is not None and ended.end["task_id"] == stop.task_id
    done = pool.done(polite)
    assert (done.result, done.reason, done.exit_code) == ("terminated", "user", 0)
    assert pool.text(polite) == ["up", "bye"]
    killed = pool.done(deaf)
    assert (killed.result, killed.reason) == ("killed", "user")


def test_a_program_reads_what_a_task_a_machine_and_its_set_up_tell(house: Rig) -> None:
    image = {"steps": [{"phase": "greet", "run": "echo from the step"}]}
    assert house.up("told", nodes=1, image=image, metrics_every_s=1).status == "success"
    task = house.task("for i in 1 2 3; do echo $i; sleep 0.2; done; echo wrong >&2", pool="told")
    lines = list(house.client.logs_told(task, follow=True))  # until the task is over
    assert sorted((one.stream, one.line) for one in lines) == [
        ("stderr", "wrong"),
        *(("stdout", str(i)) for i in (1, 2, 3)),
    ]
    [machine] = {one.instance.instance.id for one in lines}
    steps = [one.content for one in house.client.console_told(machine)]
    assert "from the step" in steps
    until(lambda: any(one.name == "load1" for one in house.client.measured(machine)), "the machine measures")
    house.down("told")
    # it is gone: there is an end
    assert [one.content for one in house.client.console_told(machine, follow=True)] == steps
    assert list(house.client.measured(machine, follow=True)) == []


def test_a_stopped_task_is_not_retried_and_a_pending_one_never_runs(house: Rig) -> None:
    house.up("one", nodes=1)
    running = house.task("sleep 60", pool="one", retries=5)
    waiting = house.task("echo never", pool="one", retries=5)
    house.until_running(running)
    for task in (waiting, running):
        stop = TaskStopRequested(pool="one", task_id=task, grace_s=1)
        house.end_of(house.client.submit(stop).request_id)
    assert house.done(running).attempts == 1
    never = house.done(waiting)
    assert (never.result, never.reason, never.attempts) == ("terminated", "user", 0)
    assert house.text(waiting) == []
    late = TaskStopRequested(pool="one", task_id=running)
    ended = house.end_of(house.client.submit(late).request_id)
    assert ended.status == "failed" and "over" in (ended.error or "")
    house.down("one")


def test_own_failures_are_retried_as_often_as_allowed(pool: Rig, tmp_path: Path) -> None:
    third = pool.run(f"echo x >> {tmp_path}/a; test $(wc -l < {tmp_path}/a) -ge 3", retries=2)
    assert third.success and third.attempts == 3
    never = pool.run("exit 9", retries=1)
    assert (never.attempts, never.exit_code, never.result) == (2, 9, "failure")
    assert set(pool.check_log(never.task_id)) == set()


def test_lost_machines_have_a_budget_of_their_own(house: Rig, tmp_path: Path) -> None:
    house.up("lost", nodes=1)
    shell = f"echo $EVERPOOL_ATTEMPT >> {tmp_path}/attempts; sleep 60"
    task = house.task(shell, pool="lost", retries=0, retries_infrastructure=1)
    for attempt in (1, 2):
        until(
            lambda attempt=attempt: (
                house.client.task(task)["attempt"] == attempt  # type: ignore[misc]
                and house.client.task(task)["status"] == "running"
            ),
            f"attempt {attempt} runs",
        )
        house.kill_machine(house.client.task(task)["instance_id"])
    done = house.done(task)
    assert (done.result, done.attempts, done.success) == ("resource_failure", 2, False)
    assert (tmp_path / "attempts").read_text().split() == ["1", "2"]
    house.down("lost")


def test_a_killed_process_is_no_lost_machine(pool: Rig) -> None:
    done = pool.run("kill -9 $$", retries=0, retries_infrastructure=5)
    assert (done.result, done.attempts) == ("killed", 1)


def test_nothing_a_task_forked_outlives_it(pool: Rig) -> None:
    shell = (
        "sleep 1000 & (setsid sleep 1001 &) ; (trap '' TERM; setsid sleep 1002 >/dev/null 2>&1 &) ; exit 0"
    )
    done = pool.run(shell)
    assert done.success
    left = [about for about in pool.processes().values() if "sleep 100" in about]
    assert left == []


# --- notices ------------------------------------------------------------------------------------------


def test_on_notice_runs_with_the_time_left_else_term_is_sent(house: Rig, tmp_path: Path) -> None:
    house.up("notice", nodes=1, worker={"concurrency": 2})
    hook = f'echo "$EVERPOOL_NOTICE_SECONDS" > {tmp_path}/seconds; kill -USR1 $EVERPOOL_TASK_PID'
    body = (
        f"test -e {tmp_path}/saved && {{ echo resumed; exit 0; }};"
        f" trap 'echo saved; touch {tmp_path}/saved; exit 0' USR1; trap 'echo term; exit 1' TERM;"
        " echo up; while :; do sleep 0.05; done"
    )
    hooked = house.task(body, pool="notice", on_notice=hook)
    plain = house.task(
        "trap 'echo term; exit 1' TERM; echo up $EVERPOOL_ATTEMPT;"
        " test $EVERPOOL_ATTEMPT = 2 && exit 0; while :; do sleep 0.05; done",
        pool="notice",
    )
    for task in (hooked, plain):
        until(lambda task=task: house.text(task)[:1], "it is set up")  # type: ignore[misc]
    house.give_notice(house.machine_of("notice"), within_s=8)
    done = house.done(hooked)
    assert done.success and done.attempts == 2
    assert house.text(hooked) == ["up", "saved", "resumed"]
    assert 0 <= int((tmp_path / "seconds").read_text()) <= 8
    again = house.done(plain)
    assert again.success and again.attempts == 2
    assert house.text(plain) == ["up 1", "term", "up 2"]
    house.down("notice")


# --- output -------------------------------------------------------------------------------------------


def test_stdout_and_stderr_are_apart(pool: Rig) -> None:
    done = pool.run("echo out 1; echo err 1 >&2; echo out 2; printf 'no end' >&2")
    assert pool.text(done.task_id) == ["out 1", "out 2"]
    assert pool.text(done.task_id, "stderr") == ["err 1", "no end"]
    only = list(pool.client.task_log(done.task_id, stream="stderr"))
    assert [line.text for line in only] == ["err 1", "no end"]


def test_a_progress_bar_overwrites(pool: Rig) -> None:
    done = pool.run(r"for i in 10 50; do printf $i%%\\r; sleep 0.5; done; printf '100%%\n'; echo over")
    lines = [(line.text, line.overwrite) for line in pool.lines(done.task_id)]
    assert lines[-2:] == [("100%", False), ("over", False)]  # what was overwritten need not be kept
    assert all(overwrite for _, overwrite in lines[:-2])


def test_output_beyond_the_quota_is_dropped_and_counted(pool: Rig) -> None:
    done = pool.run("seq 1 5000; echo last >&2")
    assert done.success
    kept = [line for line in pool.lines(done.task_id) if line.stream == "stdout"]
    assert [line.text for line in kept] == [str(i) for i in range(1, len(kept) + 1)]
    assert sum(len(line.text) + 1 for line in kept) <= 4096
    view = pool.client.task(done.task_id)
    assert view["lines_dropped"] >= 5000 - len(kept)
    more = pool.run("seq 1 5000", log_bytes_max=10**6)
    assert len(pool.text(more.task_id)) == 5000


def test_a_log_can_be_followed_from_anywhere(pool: Rig) -> None:
    task = pool.task("for i in 1 2 3 4 5 6; do echo $i; sleep 0.1; done")
    followed = [line.text for line in pool.client.task_log(task, follow=True)]
    assert followed == ["1", "2", "3", "4", "5", "6"]
    page = pool.lines(task)
    cursor = next(line.cursor for line in page if line.cursor)
    assert list(pool.client.task_log(task, after=cursor or "")) == []
    assert [line.text for line in pool.client.task_log(task, tail=2)] == ["5", "6"]
    assert [line.text for line in pool.client.task_log(task, after="4")] == ["5", "6"]


def test_what_a_task_measures_is_seen(pool: Rig) -> None:
    task = pool.task('echo "loss 0.25" > "$EVERPOOL_METRICS_FILE"; sleep 3')
    until(lambda: "loss" in pool.client.metrics(instances=True), "its own metric is there")
    assert pool.done(task).success
    assert "cpu" in pool.client.metrics(instances=True)


def test_base64_of_what_is_fetched_is_binary_safe(pool: Rig) -> None:
    data = bytes(range(256)) + os.urandom(1000)
    text = base64.b64encode(data).decode()
    done = pool.run(f"echo {text} | base64 -d > 'odd name %20'", fetch=["odd name %20"])
    assert pool.client.file(done.task_id, "odd name %20") == data
