"""deploy/Containerfile, built and run by a real engine that reaches nothing outside."""

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

from tests.real.booted import root_file_system, wheelhouse
from tests.real.engines import RealEngine, engine
from tests.real.images import cache
from tests.real.rig import REPOSITORY, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

IMAGE = "localhost/everpool-daemon:test"
BASE = "localhost/everpool-test:debian"
CONFIG = '[providers.sim]\ntype = "simulated"\n\n[pools.first]\nprovider = "sim"\nnodes = 1\n'


def base(docker: RealEngine) -> None:
    """A base image: the Debian of debootstrap."""
    root = root_file_system()
    packed = cache() / f"{root.name}.tar"
    if not packed.exists():
        draft = packed.with_suffix(f".{os.getpid()}")
        with tarfile.open(draft, "w") as tar:
            tar.add(root, arcname=".")
        draft.rename(packed)
    repository, _, tag = BASE.rpartition(":")
    docker.ask("POST", "/images/create", query={"fromSrc": "-", "repo": repository, "tag": tag}, file=packed)


def context(directory: Path) -> Path:
    """A checkout, with the wheels beside it."""
    system = root_file_system()
    version = next((system / "usr/lib").glob("python3.*")).name.removeprefix("python")
    shutil.copytree(wheelhouse(version), directory / "wheels")
    shutil.copytree(REPOSITORY / "deploy", directory / "deploy", symlinks=True)
    packed = directory.with_suffix(".tar")
    with tarfile.open(packed, "w") as tar:
        tar.add(directory, arcname=".")
    return packed


def run(docker: RealEngine, *words: str) -> "subprocess.CompletedProcess[str]":
    """The engine's own command."""
    command = ["docker", "--host", f"unix://{docker.socket}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_container_file_makes_a_daemon(tmp_path: Path) -> None:
    docker = engine("docker")
    base(docker)
    with tempfile.TemporaryDirectory() as directory:
        (source := Path(directory, "source")).mkdir()
        arguments = {"BASE": BASE, "PIP_ARGS": "--no-index"}
        query = {"dockerfile": "deploy/Containerfile", "t": IMAGE, "networkmode": "none", "forcerm": "1"}
        said = docker.ask(
            "POST", "/build", query=query | {"buildargs": json.dumps(arguments)}, file=context(source)
        )
    assert b"Successfully tagged" in said, said[-3000:]
    config = tmp_path / "config.toml"
    config.write_text(CONFIG)
    mounts = ("-v", "everpool-test-state:/var/lib/everpool", "-v", f"{config}:/etc/everpool/config.toml:ro")
    started = run(docker, "run", "-d", "--name", "daemon", "--network", "none", *mounts, IMAGE)
    assert started.returncode == 0, started.stderr

    def whole() -> bool:
        return "ready" in run(docker, "exec", "daemon", "everpool", "--json", "ps", "nodes").stdout

    def inspected() -> dict[str, str]:
        found = docker.inspect("daemon")
        assert found is not None
        return {"user": found["Config"]["User"], "status": found["State"]["Status"]}

    until(whole, f"the pool is whole: {run(docker, 'logs', 'daemon').stderr[-2000:]}", 60)
    assert inspected() == {"user": "1000:1000", "status": "running"}
    ready = run(docker, "exec", "daemon", "everpool", "service", "ready")
    assert (ready.returncode, ready.stdout) == (0, "ready\n"), ready
    assert run(docker, "stop", "--time", "20", "daemon").returncode == 0
    found = docker.inspect("daemon")
    assert found is not None and found["State"]["ExitCode"] == 0  # SIGTERM was heard, nothing was killed
    assert run(docker, "start", "daemon").returncode == 0  # the state is in the volume
    until(
        lambda: run(docker, "exec", "daemon", "everpool", "service", "ready").returncode == 0,
        "it is ready again",
    )
    events = run(docker, "exec", "daemon", "everpool", "--json", "events").stdout
    assert events.count('"pool_requested"') == 1
    docker.clear()
