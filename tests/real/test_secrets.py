"""A secret reaches the task that names it, and no file, log, command line or answer."""

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from actors.events import BootstrapFailed, PoolRequested, TaskAttemptEnded, TaskStarted
from actors.spec import Image
from controller.client import EverpoolError
from controller.secrets.keys import write_new_key
from tests.real.engines import ENGINES, IMAGE, EngineKind, RealEngine, engine
from tests.real.rig import REPOSITORY, Rig, pool_spec, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(180)]

SECRET, CHANGED = "planted-hunter2-correct-horse", "planted-second-battery-staple"
READ = (
    "/v1/pools", "/v1/nodes", "/v1/instances", "/v1/tasks", "/v1/events", "/v1/secrets", "/v1/secrets/db",
    "/v1/credentials", "/v1/offers", "/v1/explain/main", "/v1/doctor", "/v1/cost",
    "/metrics", "/metrics/instances", "/healthz", "/readyz", "/openapi.json",
)  # fmt: skip


def everpool(rig: Rig, *arguments: str, said: str = "") -> "subprocess.CompletedProcess[str]":
    """The command as a user runs it, with something piped in."""
    return subprocess.run(
        [sys.executable, "-m", "controller", *arguments, "--socket", str(rig.state / "api.sock")],
        input=said,
        text=True,
        capture_output=True,
        cwd=REPOSITORY,
        timeout=60,
    )


def digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def files_with(root: Path, *values: str) -> list[Path]:
    """Files below a directory that have one of these in them, also as base64."""
    wanted = [value.encode() for value in values]
    wanted += [base64.b64encode(value.encode())[:-4] for value in values]
    found = []
    for path in root.rglob("*"):
        try:
            if path.is_file() and any(one in path.read_bytes() for one in wanted):
                found.append(path)
        except OSError:
            continue  # it went meanwhile
    return found


def processes_with(what: str, *values: str) -> list[int]:
    """Processes that have one of these in their `cmdline` or `environ`."""
    found = []
    for path in Path("/proc").glob(f"[0-9]*/{what}"):
        try:
            said = path.read_bytes()
        except OSError:
            continue
        if any(value.encode() in said for value in values):
            found.append(int(path.parent.name))
    return found


def answers(rig: Rig, task: str) -> str:
    """What the API says of everything."""
    said = ""
    transport = httpx.HTTPTransport(uds=str(rig.state / "api.sock"))
    with httpx.Client(base_url="http://x", transport=transport, timeout=30) as http:
        own = (f"/v1/tasks/{task}", f"/v1/tasks/{task}/log", f"/v1/explain/main/tasks/{task}")
        for path in (*READ, *own, f"/v1/operations/{task}"):
            answer = http.get(path)
            assert answer.status_code in (200, 404), (path, answer.text)
            said += answer.text
    return said


def nowhere(rig: Rig, task: str) -> None:
    """Neither value is anywhere but in the environment of what the task started."""
    assert files_with(rig.root, SECRET, CHANGED) == []
    assert processes_with("cmdline", SECRET, CHANGED) == []
    said = answers(rig, task)
    assert SECRET not in said and CHANGED not in said


def agent_of(rig: Rig, instance: str) -> int:
    """The pid of a machine's agent."""
    mark = os.fsencode(rig.directory(instance))
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            argv = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"run" in argv and any(mark in one for one in argv) and any(b"agent" in one for one in argv):
            return int(path.parent.name)
    raise AssertionError("no agent")


def keyed(rig: Rig, name: str = "secrets.key", **more: str) -> None:
    """Have a key, and a config that names it."""
    path = rig.root.with_name(f"{rig.root.name}-{name}")  # not where everything is looked through
    if not path.exists():
        write_new_key(path)
    rig.configure(daemon=f'log_level = "debug"\nsecrets_key = {{ file = "{path}" }}', **more)


@pytest.fixture(autouse=True)
def no_keys_left(rig: Rig) -> Iterator[None]:
    yield
    for path in rig.root.parent.glob(f"{rig.root.name}-*"):
        path.unlink()


def started(rig: Rig, task: str) -> list[tuple[int, dict[str, int]]]:
    """Attempts of a task that ran, and what they were given."""
    told = [one.event for one in rig.events("task_started")]
    return [
        (one.attempt, one.env_groups) for one in told if isinstance(one, TaskStarted) and one.task_id == task
    ]


def test_a_secret_is_where_it_is_needed_and_nowhere_else(rig: Rig) -> None:
    keyed(rig)
    rig.start()
    assert rig.up(nodes=1, worker={"concurrency": 1, "buffer": 2}).status == "success"
    refused = everpool(rig, "secrets", "set", "db", f"TOKEN={SECRET}")
    assert refused.returncode == 2 and "ps" in refused.stderr and SECRET not in refused.stderr
    made = everpool(rig, "secrets", "set", "db", "TOKEN=-", said=f"{SECRET}\n")
    assert made.returncode == 0, made.stderr
    with pytest.raises(EverpoolError, match="did you mean 'db'") as unknown:
        rig.task("true", env_groups=["dbs"])
    assert unknown.value.status == 422

    flag = rig.root / "go"
    script = f'while [ ! -e {flag} ]; do sleep 0.05; done; printf %s "$TOKEN$OWN" | sha256sum'
    runs = rig.task(script, env_groups=["db"], env={"OWN": "+"})
    rig.until_running(runs)
    waits = rig.task(script, env_groups=["db"])
    owns = rig.task(script, env_groups=["db"], env={"TOKEN": "own"})
    placed = ("assigned", "created")
    until(lambda: all(rig.client.task(one)["status"] in placed for one in (waits, owns)), "both wait there")
    instance = rig.machine_of()
    has_it = processes_with("environ", SECRET)
    assert has_it and agent_of(rig, instance) not in has_it
    assert rig.daemon is not None and rig.daemon.pid not in has_it
    nowhere(rig, runs)
    os.kill(agent_of(rig, instance), signal.SIGKILL)  # what waits there is said again, what runs goes on
    assert everpool(rig, "secrets", "set", "db", "TOKEN=-", said=f"{CHANGED}\n").returncode == 0
    flag.touch()
    assert all(rig.done(one).success for one in (runs, waits, owns))
    # Nobody saw with which code it ended without an agent, so it ran again, with what is newest then.
    assert rig.text(runs) == [f"{digest(SECRET + '+')}  -", f"{digest(CHANGED + '+')}  -"]
    assert started(rig, runs) == [(1, {"db": 1}), (2, {"db": 2})]
    assert rig.text(waits) == [f"{digest(SECRET)}  -"]  # said again: as it was said first
    assert rig.text(owns) == [f"{digest('own')}  -"]
    assert started(rig, waits) == [(1, {"db": 1})]
    nowhere(rig, runs)

    rig.restart()
    again = rig.task(script, env_groups=["db"])
    assert rig.done(again).success
    assert rig.text(again) == [f"{digest(CHANGED)}  -"]
    assert started(rig, again) == [(1, {"db": 2})]
    nowhere(rig, again)

    rig.client.remove_secret_group("db")
    rig.down()
    nowhere(rig, again)


def test_steps_of_a_set_up_have_the_secrets_that_the_image_names(rig: Rig) -> None:
    keyed(rig)
    rig.start()
    assert everpool(rig, "secrets", "set", "db", "TOKEN=-", said=f"{SECRET}\n").returncode == 0
    saw = rig.root / "saw"
    run = f'printf %s "$TOKEN" | sha256sum > {saw}; echo "with $PLAIN"'
    image = Image.model_validate(
        {"env": {"PLAIN": "plain"}, "env_groups": ["db"], "steps": [{"phase": "login", "run": run}]}
    )
    assert rig.up(nodes=1, image=image).status == "success"
    assert saw.read_text().split()[0] == digest(SECRET)
    task = rig.task('echo "${TOKEN-none} $PLAIN"')
    assert rig.done(task).success
    assert rig.text(task) == ["none plain"]  # tasks name their own
    nowhere(rig, task)

    refused = everpool(rig, "secrets", "rm", "db")
    assert refused.returncode != 0 and "pool main: its image" in refused.stderr
    rig.client.remove_secret_group("db", force=True)
    assert everpool(rig, "resize", "main", "2", "--no-wait").returncode == 0
    until(lambda: bool(rig.events("bootstrap_failed")), "a set-up failed")
    failed = rig.events("bootstrap_failed")[0].event
    assert isinstance(failed, BootstrapFailed)
    assert (failed.phase, failed.error) == ("secrets", "no group 'db' of secrets")
    assert "no group 'db' of secrets" in everpool(rig, "explain", "main").stdout
    rig.down()


def test_secrets_survive_a_restored_backup_with_their_key_only(rig: Rig) -> None:
    keyed(rig)
    rig.start()
    assert everpool(rig, "secrets", "set", "db", "--from-stdin", said=f"TOKEN='{SECRET}'\n").returncode == 0
    backup = rig.root / "backup.sqlite3"
    rig.client.backup(backup)
    rig.stop()
    rig.state.rename(rig.root / "old")
    rig.state.mkdir(mode=0o700)
    shutil.copy(backup, rig.state / "journal.sqlite3")
    key = rig.root.with_name(f"{rig.root.name}-secrets.key").read_text().strip()
    assert files_with(rig.root, key, SECRET) == []

    keyed(rig, "another.key")
    rig.start()
    assert [one["readable"] for one in rig.client.secret_groups()] == [False]
    assert "encrypted with a key that is not ours" in rig.log.read_text()
    assert rig.up(nodes=1).status == "success"
    done = rig.run('printf %s "$TOKEN" | sha256sum', env_groups=["db"])
    assert (done.result, done.reason) == ("startup_failure", "secrets")
    assert str(done.error).startswith("secrets: group 'db' was encrypted with key")
    [ended] = [one.event for one in rig.events("task_attempt_ended")]
    assert isinstance(ended, TaskAttemptEnded) and ended.reason == "secrets"

    keyed(rig)
    rig.restart()
    task = rig.task('printf %s "$TOKEN" | sha256sum', env_groups=["db"])
    assert rig.done(task).success
    assert rig.text(task) == [f"{digest(SECRET)}  -"]
    rig.down()


# --- credentials ----------------------------------------------------------------------------------

USER, PASSWORD = "boxer", "registry-hunter2-battery"
HTPASSWD = f"{USER}:$2b$04$A.TgCJLWr1vPzeSFHl.cjOTbk3CcBYfOFj0RPIi3TUYstUyIgT5R6\n"  # bcrypt of it
NAME = "private/python"


@pytest.fixture(params=ENGINES)
def real(request: pytest.FixtureRequest) -> Iterator[RealEngine]:
    kind: EngineKind = request.param
    found = engine(kind)
    yield found
    found.clear()


@contextmanager
def registry(real: RealEngine, directory: Path) -> Iterator[str]:
    """Debian's docker-registry with one image behind a login; the image's name."""
    program = shutil.which("docker-registry") or ""
    if not program:
        text = "there is no docker-registry"
        pytest.fail(text) if os.environ.get("CI") == "true" else pytest.skip(text)
    directory.mkdir()
    (directory / "htpasswd").write_text(HTPASSWD)
    config: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
        "http": {"addr": real.registry},
        "auth": {"htpasswd": {"realm": "boxes", "path": str(directory / "htpasswd")}},
    }
    (directory / "config.yml").write_text(json.dumps(config))  # which is YAML too
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "serve", str(directory / "config.yml")],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        until(lambda: _answers(real.registry), "the registry answers")
        image = f"{real.registry}/{NAME}"
        real.ask("POST", f"/images/{IMAGE}/tag", query={"repo": image, "tag": "1"})
        login = {"username": USER, "password": PASSWORD, "serveraddress": real.registry}
        shown = {"X-Registry-Auth": base64.urlsafe_b64encode(json.dumps(login).encode()).decode()}
        status, said = real.raw("POST", f"/images/{image}/push", query={"tag": "1"}, headers=shown)
        assert status == 200 and "errorDetail" not in str(said), said
        real.ask("DELETE", f"/images/{image}:1", query={"force": "true"})
        yield f"{image}:1"
        real.raw("DELETE", f"/images/{image}:1", query={"force": "true"})
    finally:
        process.terminate()
        process.wait(10)


def _answers(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/v2/").status_code == 401
    except httpx.TransportError:
        return False


def test_an_image_is_pulled_with_the_login_that_is_kept(real: RealEngine, rig: Rig, tmp_path: Path) -> None:
    offers = [{"on_demand": 0.01, "vcpus": 1, "memory_gb": 0.25}]
    keyed(rig, rest=real.toml("box", offers=offers, pull="missing"))
    rig.start()
    with registry(real, tmp_path / "registry") as image:
        spec = pool_spec(1, provider="box", image=Image(base=image))
        asked = rig.client.submit(PoolRequested(pool="boxes", spec=spec)).request_id
        refused = rig.until_event("launch_refused")
        assert "credentials" in refused.model_dump_json(), refused
        made = everpool(
            rig, "credential", "set", "boxes", "--hostname", real.registry, "--user", USER,
            said=f"{PASSWORD}\n",
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        assert rig.end_of(asked).status == "success"
        assert rig.run("echo here", pool="boxes").success
        with pytest.raises(EverpoolError, match="images of 1 living pool") as used:
            rig.client.remove_credential("boxes")
        assert used.value.status == 409
        assert [one["user"] for one in rig.client.credentials()] == [USER]
        shown = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        assert files_with(rig.root, PASSWORD, shown) == []
        assert processes_with("cmdline", PASSWORD, shown) == []
        assert processes_with("environ", PASSWORD, shown) == []
        assert PASSWORD not in answers(rig, asked)
        for one in real.containers():
            assert PASSWORD not in json.dumps(real.inspect(one["Id"]))
        rig.down("boxes")
        rig.client.remove_credential("boxes")
