"""Bad input, and what it gets: a clear error in one line, and nothing lost."""

import http.client
import json
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from actors.events import (
    BootstrapRequested,
    DrainRequested,
    Instance,
    NodeInstance,
    PoolRequested,
    PoolResizeRequested,
    ShutdownRequested,
    TaskRequested,
    TaskStopRequested,
)
from actors.spec import TaskSpec
from controller.client import EverpoolError, file_put
from providers.local.config import LocalConfig
from providers.priced import offers_of
from tests.real.rig import Rig, pool_spec, tasks_of, until

pytestmark = pytest.mark.real


class _UnixConnection(http.client.HTTPConnection):
    """HTTP as it is, over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("everpool", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


def ask(
    rig: Rig, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
) -> tuple[int, Any]:
    """Send what a program may send; status and JSON."""
    connection = _UnixConnection(rig.state / "api.sock")
    try:
        headers = {"Content-Type": kind} if body is not None else {}
        with suppress(BrokenPipeError):  # it need not hear all of a body to refuse it
            connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def pool(house: Rig) -> Iterator[Rig]:
    """A daemon with a pool `main` of one node with two slots."""
    assert house.up(nodes=1, worker={"concurrency": 2}).status == "success"
    yield house
    house.down()
    house.check_ends()


# --- names that are not there -------------------------------------------------------------------------

UNKNOWN_PATHS = [
    ("/v1/pools/mian", "no pool 'mian': did you mean main?"),
    ("/v1/nodes?pool=other", "no pool 'other': there is main"),
    ("/v1/instances/main-7-1.1.1", "no instance 'main-7-1.1.1': did you mean main-0-"),
    ("/v1/explain/other", "no pool 'other': there is main"),
    ("/v1/tasks?pool=other", "no pool 'other': there is main"),
    ("/v1/tasks/no-such-task", "no task 'no-such-task'"),
    ("/v1/tasks/no-such-task/log", "no task 'no-such-task'"),
    ("/v1/operations/no-such-request", "no request 'no-such-request'"),
    ("/v1/nothing", "nothing is at '/v1/nothing'"),
]


@pytest.mark.parametrize(("path", "error"), UNKNOWN_PATHS)
def test_what_is_unknown_is_404_with_what_exists(pool: Rig, path: str, error: str) -> None:
    status, said = ask(pool, "GET", path)
    assert status == 404 and said["error"].startswith(error), said


def unknown_requests() -> list[tuple[Any, str]]:
    offer = offers_of(LocalConfig().offers, "local")[0]
    ghost = NodeInstance(
        instance=Instance(id="ghost", status="ready", offer=offer),
        node=0,
        provider="local",
        ssh_user="",
        ssh_key_path="",
    )
    return [
        (TaskRequested(pool="mian", task=TaskSpec(shell="true")), "main"),
        (TaskRequested(pool="main", task=TaskSpec(shell="true", node=5)), "there is 0"),
        (TaskStopRequested(pool="main", task_id="no-such-task"), "no-such-task"),
        (PoolResizeRequested(pool="other", nodes=1), "main"),
        (DrainRequested(pool="main", node=9), "there is 0"),
        (ShutdownRequested(cluster_id="other"), "main"),
        (BootstrapRequested(instance=ghost, cluster_id="x"), "ghost"),
        (PoolRequested(pool="new", spec=pool_spec(provider="aws")), "there are local"),
    ]


@pytest.mark.parametrize(
    ("request_", "named"), unknown_requests(), ids=lambda one: getattr(one, "kind", None)
)
def test_requests_that_name_what_is_not_there(pool: Rig, request_: Any, named: str) -> None:
    with pytest.raises(EverpoolError) as refused:
        pool.client.submit(request_)
    assert refused.value.status == 404
    assert named.removeprefix("there are ").removeprefix("there is ") in refused.value.message


# --- bodies -------------------------------------------------------------------------------------------


def test_a_known_request_id_with_another_body_is_a_conflict(pool: Rig) -> None:
    task = TaskRequested(request_id=f"r-{secrets.token_hex(4)}", pool="main", task=TaskSpec(shell="echo 1"))
    assert pool.client.submit(task).status == "accepted"
    assert pool.client.submit(task).status == "duplicate"
    other = task.model_copy(update={"task": TaskSpec(shell="echo 2")})
    with pytest.raises(EverpoolError, match="known with another body") as refused:
        pool.client.submit(other)
    assert refused.value.status == 409
    pool.done(task.request_id)
    assert pool.client.submit(task).status == "duplicate"
    assert pool.text(task.request_id) == ["1"]
    pool.check_tasks([task.request_id])


BODIES = [
    (b"not json", 422, "not JSON"),
    (b'{"kind": "task_requested"', 422, "not JSON"),
    (b"", 422, "empty"),
    (b"null", 422, ""),
    (b"[1, 2]", 200, ""),
    (b"\xff\xfe{}", 422, "not JSON"),
    (b"[" * 100_000 + b"]" * 100_000, 422, "deep"),
    (b'{"a":' * 500 + b"1" + b"}" * 500, 422, "deep"),
    (b'"' + b"x" * (64 * 2**20) + b'"', 413, "larger"),
    (b'{"kind": "task_requestet"}', 422, "did you mean task_requested?"),
    (b'{"kind": "task_requested", "pool": "main", "task": {"shell": "x", "enw": {}}}', 422, "enw"),
    (b'{"kind": "task_requested", "pool": "main", "task": {"shell": "x", "argv": ["x"]}}', 422, "either"),
    (b'{"kind": "task_requested", "pool": "main", "task": {"shell": "x", "timeout_s": NaN}}', 422, ""),
    (b'{"kind": "pool_requested", "pool": "Bad Name", "spec": {"provider": "local"}}', 422, "name"),
    (
        b'{"kind": "pool_requested", "pool": "p", "spec": {"provider": "local", "nodes": [3, 2]}}',
        422,
        "exceeds",
    ),
    (b'{"kind": "pool_requested", "pool": "p", "spec": {"provider": "local", "nodes": 99999999}}', 422, ""),
    (b'{"kind": "instance_requested", "provider": "local", "cluster_id": "c", "node_id": 0}', 422, "daemon"),
    (b'{"kind": "task_completed", "task_id": "x"}', 422, "unknown kind"),
]


@pytest.mark.parametrize(("body", "status", "error"), BODIES, ids=range(len(BODIES)))
def test_a_wrong_body_gets_one_line(pool: Rig, body: bytes, status: int, error: str) -> None:
    code, said = ask(pool, "POST", "/v1/messages", body)
    assert code == status, said
    for one in said if isinstance(said, list) else [said]:
        assert error in one["error"] and "\n" not in one["error"] and "Traceback" not in one["error"]
        assert len(one["error"]) < 1100


def test_a_body_of_another_type_is_refused(pool: Rig) -> None:
    code, said = ask(pool, "POST", "/v1/messages", b"kind=task", "application/x-www-form-urlencoded")
    assert code == 415 and "application/json" in said["error"]


def test_a_list_is_answered_one_by_one(pool: Rig) -> None:
    good = {"kind": "task_requested", "pool": "main", "task": {"shell": "echo fine"}}
    body = json.dumps([good, {"kind": "nope"}, good | {"pool": "nope"}, 7, good]).encode()
    code, said = ask(pool, "POST", "/v1/messages", body)
    assert code == 200
    assert [one["code"] for one in said] == [202, 422, 404, 422, 202]
    for one in (said[0], said[4]):
        assert pool.done(one["request_id"]).success


# --- commands and their output ------------------------------------------------------------------------


def test_a_command_that_can_not_start(pool: Rig, tmp_path: Path) -> None:
    plain, strange = tmp_path / "plain", tmp_path / "strange"
    plain.write_text("no program\n")
    plain.chmod(0o644)
    strange.write_text("no program\n")
    strange.chmod(0o755)
    for argv, why in (
        (["/no/such/program"], "not found"),
        (["no-such-program-here"], "not found"),
        ([str(tmp_path)], "not a program"),
        ([str(plain)], "not executable"),
        ([str(strange)], "Exec format error"),
    ):
        done = pool.run(argv=argv)
        assert (done.result, done.reason) == ("startup_failure", "spawn")
        assert done.error is not None and argv[0] in done.error and why in done.error, done.error
    gone = pool.run("true", cwd="/no/such/directory")
    assert gone.result == "startup_failure"
    assert gone.error is not None and "/no/such/directory" in gone.error


def test_a_line_of_50_mb_and_bytes_that_are_no_utf8(house: Rig) -> None:
    house.up("lines", nodes=1, log_bytes_max=64 * 2**20)
    size = 50 * 2**20
    done = house.run(f"head -c {size} /dev/zero | tr '\\0' x; echo; echo after", pool="lines")
    assert done.success, done
    text, after, pieces = 0, [], 0
    for line in house.client.task_log(done.task_id):
        if set(line.text) <= {"x"}:
            text += len(line.text)
            pieces += 1
        else:
            after.append(line.text)
    assert (text, after) == (size, ["after"])
    assert pieces >= 2, "in pieces that everybody can hold"
    bad = house.run(r"printf 'a\377\376b\n\303\n\000\n\342\202\n\033[1mx\n'", pool="lines")
    assert house.text(bad.task_id) == ["a\ufffd\ufffdb", "\ufffd", "\0", "\ufffd", "\x1b[1mx"]
    house.down("lines")


RUNAWAY = r"""
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid()
os.execve("/bin/sleep", ["runaway-of-ours", "1000"], {})
"""


def test_children_that_are_left_behind_are_gone_after_the_task(pool: Rig) -> None:
    files = [file_put("runaway.py", RUNAWAY.encode()).model_dump()]
    done = pool.run("python3 runaway.py; sleep 0.3; ps -A -o args | grep -c '[r]unaway-of-ours'", files=files)
    assert done.success and pool.text(done.task_id) == ["1"], "it got away, for as long as the task lived"
    assert [about for about in pool.processes().values() if "runaway" in about] == []


# --- the state directory, its disk, the sockets -------------------------------------------------------


def second(rig: Rig, config: str) -> tuple[int, str]:
    """Start another daemon; its exit code and what it said."""
    other = rig.root / "other.toml"
    other.write_text(config)
    said = len(rig.log.read_bytes()) if rig.log.exists() else 0
    process = rig.spawn(other)
    try:
        code = process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    return code, rig.log.read_bytes()[said:].decode()


def test_a_second_daemon_on_the_same_state_says_who_holds_it(house: Rig) -> None:
    assert house.daemon is not None
    code, said = second(house, house.config.read_text())
    assert code == 1
    assert str(house.state) in said and f"pid {house.daemon.pid}" in said
    assert len(said.strip().splitlines()) == 1, said
    assert house.health()["ready"]


def test_a_socket_that_is_taken_is_named(house: Rig) -> None:
    base = f'[daemon]\nstate_dir = "{house.root / "elsewhere"}"\n'
    code, said = second(house, base + f'socket = "{house.state / "api.sock"}"\n')
    assert code == 1 and str(house.state / "api.sock") in said and "listens" in said
    code, said = second(house, base + f'socket = "{house.config}"\n')
    assert code == 1 and "no socket" in said
    token = house.root / "token"
    token.touch(mode=0o600)
    token.write_text("0123456789abcdef")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, said = second(house, base + f'listen = "127.0.0.1:{port}"\ntoken_file = "{token}"\n')
    assert code == 1 and str(port) in said and "taken" in said
    assert house.health()["ready"] and house.config.exists()


def test_a_misspelt_config_says_all_that_is_wrong(house: Rig) -> None:
    config = (
        f'[daemon]\nstate_dri = "{house.root / "x"}"\nlisten = "0.0.0.0:80"\n'
        '[providers.local]\ntype = "local"\nlaunch_delay = 3\n'
        '[pools.p]\nprovider = "local"\nnodes = { desired = 3, max = 2 }\n'
        '[pools.q]\nprovider = "lokal"\n'
    )
    code, said = second(house, config)
    assert code == 2
    for word in ("state_dir", "loopback", "launch_delay_s", "'local'", "exceeds"):
        assert word in said, (word, said)
    assert "Traceback" not in said
    assert not (house.root / "x").exists()


@pytest.fixture
def small_disk(rig: Rig) -> Iterator[Rig]:
    """A state directory on a disk of 40 MB; machines are on another."""
    if os.geteuid():
        pytest.skip("only root may mount a small disk")
    rig.state.mkdir(mode=0o700)
    options = ["mount", "-t", "tmpfs", "-o", "size=40m,mode=0700", "everpool-test", str(rig.state)]
    mounted = subprocess.run(options, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"can't mount a small disk: {mounted.stderr.decode()}")
    try:
        (rig.root / "machines").mkdir(mode=0o700)
        (rig.state / "providers").symlink_to(rig.root / "machines")
        yield rig
    finally:
        rig.kill()
        subprocess.run(["umount", "-l", str(rig.state)], check=True)


def fill(path: Path) -> None:
    """Take all space that is left."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue


def test_a_full_disk_stops_decisions_and_loses_nothing(small_disk: Rig) -> None:
    rig = small_disk
    rig.start()
    assert rig.up(nodes=2).status == "success"
    tasks = tasks_of("main", [{"shell": f"sleep 1; seq 1 200; echo {i} >&2"} for i in range(6)])
    assert all(one.taken for one in rig.client.submit(tasks))
    rig.until_running(tasks[0].request_id)
    ballast = rig.state / "ballast"
    fill(ballast)
    refused = until(lambda: refusal(rig), "requests are refused", 20)
    assert refused.status == 503 and "full" in refused.message.lower()
    until(lambda: not rig.health()["ready"], "it is not ready")
    assert any("journal" in reason for reason in rig.health()["reasons"])
    assert rig.client.pools()[0]["name"] == "main", "reads go on"
    before = len(rig.records())
    newest = rig.events()[-1].seq
    rig.kill_machine(sorted(rig.records())[0])
    time.sleep(3)  # long enough for a launch, if it were (wrongly) made
    assert rig.events()[-1].seq == newest, "nothing is published"
    assert len(rig.records()) == before - 1, "nothing is performed"

    ballast.unlink()
    until(lambda: rig.health().get("ready"), "it is ready again", 30)
    for one in tasks:
        assert rig.done(one.request_id).success
        texts = rig.check_log(one.request_id)
        last = max(attempt for attempt, _ in texts)
        assert texts[last, "stdout"] == [str(i) for i in range(1, 201)]
    rig.check_tasks(one.request_id for one in tasks)
    rig.down()
    rig.check_ends()


def refusal(rig: Rig) -> EverpoolError | None:
    """How a request is refused, if it is."""
    try:
        rig.client.submit(TaskRequested(pool="main", task=TaskSpec(shell="true")))
    except EverpoolError as error:
        return error
    return None


def test_a_daemon_does_not_start_on_a_full_disk_and_breaks_nothing(small_disk: Rig) -> None:
    rig = small_disk
    rig.start()
    assert rig.up(nodes=1).status == "success"
    task = rig.task("sleep 3; echo done")
    rig.until_running(task)
    rig.kill()
    ballast = rig.state / "ballast"
    fill(ballast)
    rig.start(wait=False)
    assert rig.daemon is not None
    deadline = time.monotonic() + 6
    while rig.daemon.poll() is None and time.monotonic() < deadline:
        assert not rig.health().get("ready")
        time.sleep(0.1)
    said = rig.log_tail(5)
    assert "full" in said.lower() or "space" in said.lower(), said
    ballast.unlink()
    if rig.daemon.poll() is not None:
        assert rig.daemon.returncode == 1
        rig.start()
    assert rig.done(task).success and rig.text(task) == ["done"]
    rig.check_tasks([task])
    rig.down()
    rig.check_ends()
