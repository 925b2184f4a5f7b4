"""What a local machine is: one tree that ends as a whole, whichever way it is held together."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio
import asyncssh
import pytest

from providers.host.base import Host
from providers.host.ssh import connect
from providers.local.config import LocalConfig
from providers.local.machine import start_time
from providers.local.wire import Record
from providers.model import Machine, Order
from tests.contract.harness import LocalHarness, until, until_absent, until_running

pytestmark = [pytest.mark.anyio, pytest.mark.real]

# Does what it can to get away: a session of its own, a parent that is gone, no mark, no signals.
RUNAWAY = """
import os, signal, sys, time
for _ in range(2):
    if os.fork():
        os._exit(0)
    os.setsid()
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if sys.argv[1] == "go":
    os.execve(sys.executable, [sys.executable, __file__, "stay"], {})
with open("runaway", "w") as file:
    file.write("here")
while True:
    time.sleep(60)
"""


@dataclass(frozen=True)
class Running:
    """A machine, and what is known of it."""

    harness: LocalHarness
    order: Order
    machine: Machine
    directory: Path

    @property
    def record(self) -> Record:
        return self.harness.record(self.order)


@pytest.fixture(params=[True, False], ids=["isolated", "watched"])
async def running(
    request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: str
) -> AsyncIterator[Running]:
    async with LocalHarness.open(tmp_path, config=LocalConfig(isolate=request.param)) as harness:
        order = harness.order(0, (await harness.provider.offers())[0])
        await harness.provider.launch([order])
        machine = harness.machine(order, await until_running(harness, order))
        yield Running(harness, order, machine, harness.directory(order))
    assert pids_in(tmp_path) == []


def pids_in(directory: Path) -> list[int]:
    """Every living process that works below `directory`: no process can hide that."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal() and start_time(int(name)) is not None:
            try:
                cwd = os.readlink(f"/proc/{name}/cwd")
            except OSError:
                continue
            if Path(cwd.removesuffix(" (deleted)")).is_relative_to(directory):
                found.append(int(name))
    return found


def children(parent: int) -> list[str]:
    """The programs of a process's children, dead ones as ""."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        try:
            stat = Path(f"/proc/{name}/stat").read_text()
            argv = Path(f"/proc/{name}/cmdline").read_text().split("\0")
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[1] == str(parent):
            found.append(Path(argv[2]).name if len(argv) > 2 else "")
    return found


async def until_empty(running: Running) -> None:
    await until(lambda: not pids_in(running.directory))


async def run_away(running: Running, host: Host) -> None:
    """Start what tries to outlive the machine."""
    home = running.directory / "home"
    (home / "runaway.py").write_text(RUNAWAY)
    python = running.harness.provider.capabilities.agent_python
    assert (await host.run((python, "runaway.py", "go"))).exit_code == 0
    await until((home / "runaway").exists)


async def test_the_parent_is_written_down_with_its_start(running: Running) -> None:
    record = running.record
    assert start_time(record.pid) == record.start_time
    async with connect(running.machine) as host:
        seen = await host.run(("cat", f"/proc/{record.init}/cmdline"))
        assert str(running.directory).encode() in seen.stdout
        ran = await host.run(("sh", "-c", "echo $HOME; pwd; echo $USER $EVERPOOL_MACHINE; ls -A"))
    home = running.directory / "home"
    assert ran.stdout.decode().split() == [str(home), str(home), "everpool", str(running.directory)]


HOMELESS = """
import os, pwd, sys
from pathlib import Path
import anyio
from providers.host.ssh import connect
from tests.contract.harness import LocalHarness, until_running
assert "HOME" not in os.environ
assert os.getuid() not in [one.pw_uid for one in pwd.getpwall()]
async def main():
    async with LocalHarness.open(Path(sys.argv[1])) as harness:
        order = harness.order(0, (await harness.provider.offers())[0])
        await harness.provider.launch([order])
        async with connect(harness.machine(order, await until_running(harness, order))) as host:
            ran = await host.run(("sh", "-c", "id -u"))
            print(ran.stdout.decode().strip())
anyio.run(main)
"""


def test_a_user_without_a_passwd_entry_has_machines(tmp_path: Path) -> None:
    somebody = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]  # ourselves, called otherwise
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[3])
    if shutil.which("unshare") is None or subprocess.run([*somebody, "true"], check=False).returncode:
        pytest.skip("the system lets us make no user namespace")
    argv = [*somebody, sys.executable, "-c", HOMELESS, str(tmp_path)]
    ran = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "54321\n"), ran.stderr


async def test_killing_the_parent_takes_everything_along(running: Running) -> None:
    async with connect(running.machine) as host:
        await run_away(running, host)
        assert len(pids_in(running.directory)) >= 3
        os.kill(running.record.pid, signal.SIGKILL)
        await until_empty(running)
    await until_absent(running.harness, running.order)
    assert not running.directory.exists()


async def test_terminate_takes_everything_along(running: Running) -> None:
    async with connect(running.machine) as host:
        await run_away(running, host)
        assert await running.harness.provider.terminate([running.machine.handle]) == [None]
        await until_empty(running)
    assert not running.directory.exists()


async def test_a_machine_can_end_itself(running: Running) -> None:
    async with connect(running.machine) as host:
        await run_away(running, host)
        await host.run(("sh", "-c", f"kill -TERM {running.record.init}"))
        await until_empty(running)
    await until_absent(running.harness, running.order)


async def test_a_machine_without_a_directory_ends(running: Running) -> None:
    pid, started = running.record.pid, running.record.start_time
    shutil.rmtree(running.directory)
    await until(lambda: start_time(pid) != started and not pids_in(running.directory.parents[2]))


async def test_orphans_are_reaped(running: Running) -> None:
    async with connect(running.machine) as host:
        await host.run(("sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.01 &) ; done"))
        init = running.record.pid
        await until(lambda: children(init) == ["sshd.py"])


async def test_a_shell_on_a_terminal(running: Running) -> None:
    async with (
        asyncssh.connect(
            "127.0.0.1",
            running.machine.address.port,
            username="everpool",
            client_keys=[running.machine.private_key_path],
            known_hosts=asyncssh.read_known_hosts(running.machine.known_hosts_path),
            host_key_alias=running.machine.instance_id,
            config=None,
            agent_path=None,
        ) as connection,
        connection.create_process(term_type="xterm", term_size=(101, 37)) as shell,
    ):
        shell.stdin.write("stty size; tty; echo $TERM; exit 5\n")
        with anyio.fail_after(20):
            done = await shell.wait()
        said = str(done.stdout)
        assert "37 101" in said
        assert "/dev/pts/" in said
        assert "xterm" in said
        assert done.exit_status == 5


async def test_nothing_is_forwarded_and_nobody_else_let_in(running: Running) -> None:
    machine = running.machine
    options = {"config": None, "agent_path": None, "known_hosts": None, "username": "everpool"}
    async with asyncssh.connect(
        "127.0.0.1", machine.address.port, client_keys=[machine.private_key_path], **options
    ) as connection:
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_connection("127.0.0.1", machine.address.port)
        with pytest.raises((asyncssh.ChannelOpenError, asyncssh.Error)):
            await connection.start_sftp_client()
    with pytest.raises(asyncssh.PermissionDenied):
        await asyncssh.connect(
            "127.0.0.1", machine.address.port, client_keys=None, password="everpool", **options
        )


async def test_what_a_command_leaves_behind_does_not_hold_it_open(running: Running) -> None:
    async with connect(running.machine) as host:
        ran = await host.run(("sh", "-c", "sleep 60 & echo done; exit 4"), timeout_s=20)
    assert (ran.exit_code, ran.stdout) == (4, b"done\n")
