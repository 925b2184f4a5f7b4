"""deploy/Containerfile, built and run by a real engine that reaches nothing outside."""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.real.booted import block, root_file_system, wheelhouse
from tests.real.engines import RealEngine, engine
from tests.real.images import cache
from tests.real.rig import REPOSITORY, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

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


def context(directory: Path) -> None:
    """A checkout, with the wheels beside it, and a config."""
    system = root_file_system()
    version = next((system / "usr/lib").glob("python3.*")).name.removeprefix("python")
    shutil.copytree(wheelhouse(version), directory / "wheels")
    shutil.copytree(REPOSITORY / "deploy", directory / "deploy", symlinks=True)
    (directory / "config.toml").write_text(CONFIG)


def podman(directory: Path, docker: RealEngine) -> Path:
    """A directory with a `podman` that is our engine's own command, and reaches nothing outside."""
    build = f"--network none --build-arg BASE={BASE} --build-arg PIP_ARGS=--no-index"
    command = directory / "bin" / "podman"
    command.parent.mkdir()
    command.write_text(
        f"""#!/bin/sh
verb=$1; shift
case $verb in build) set -- {build} "$@";; run) set -- --network none "$@";; esac
export DOCKER_BUILDKIT=0
exec docker --host unix://{docker.socket} "$verb" "$@"
"""
    )
    command.chmod(0o755)
    return command.parent


def run(docker: RealEngine, *words: str) -> "subprocess.CompletedProcess[str]":
    """The engine's own command."""
    command = ["docker", "--host", f"unix://{docker.socket}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_container_file_makes_a_daemon(tmp_path: Path) -> None:
    docker = engine("docker")
    base(docker)
    source = tmp_path / "source"
    source.mkdir()
    context(source)
    path = {"PATH": f"{podman(tmp_path, docker)}:{os.environ['PATH']}"}

    def shell(command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            shell=True,
            cwd=source,
            env=os.environ | path,
            capture_output=True,
            text=True,
            timeout=200,
        )

    build, start, look = block("image")
    for command in (build, start):
        done = shell(command)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def whole() -> bool:
        return "ready" in shell(look).stdout

    def inspected() -> dict[str, str]:
        found = docker.inspect("everpool")
        assert found is not None
        return {"user": found["Config"]["User"], "status": found["State"]["Status"]}

    until(whole, f"the pool is whole: {run(docker, 'logs', 'daemon').stderr[-2000:]}", 60)
    assert inspected() == {"user": "1000:1000", "status": "running"}
    ready = run(docker, "exec", "everpool", "everpool", "service", "ready")
    assert (ready.returncode, ready.stdout) == (0, "ready\n"), ready
    assert run(docker, "stop", "--time", "20", "everpool").returncode == 0
    found = docker.inspect("everpool")
    assert found is not None and found["State"]["ExitCode"] == 0  # SIGTERM was heard, nothing was killed
    assert run(docker, "start", "everpool").returncode == 0  # the state is in the volume
    until(
        lambda: run(docker, "exec", "everpool", "everpool", "service", "ready").returncode == 0,
        "it is ready again",
    )
    events = run(docker, "exec", "everpool", "everpool", "--json", "events").stdout
    assert events.count('"pool_requested"') == 1
    docker.clear()
