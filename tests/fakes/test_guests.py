"""Guests: real machines to get into, which can't reach beyond themselves."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import asyncssh
import pytest

from providers.agent.attach import attach_over
from providers.agent.wire import Hello
from providers.contract import AgentChannel
from providers.host.ssh import connect
from providers.model import Address, Handle, Machine
from tests.contract.harness import until
from tests.fakes.guests import Boot
from tests.fakes.metadata import GceMetadata, Imds, MetadataServers
from tests.fakes.sshd import ProcessGuests, need_guests

pytestmark = [pytest.mark.anyio, pytest.mark.real]
AGENT_SOURCE = Path("providers/agent/agent.py").read_bytes()
MAKER = """
import time
import tests.fakes.guests
import tests.fakes.sshd

guests = tests.fakes.sshd.ProcessGuests()
one = tests.fakes.guests.Boot(ref="i", host="127.0.0.1", user="root", authorized_keys=())
print(guests.boot(one), flush=True)
time.sleep(1000)
"""
KEY = asyncssh.generate_private_key("ssh-ed25519")


@pytest.fixture
def guests(tmp_path: Path) -> Iterator[ProcessGuests]:
    need_guests()
    it = ProcessGuests(tmp_path / "guests")
    yield it
    it.close()


def boot(ref: str = "i-1", user: str = "ubuntu", host: str = "127.0.0.1", **more: object) -> Boot:
    line = KEY.export_public_key().decode()
    return Boot(ref=ref, host=host, user=user, authorized_keys=(line,), **more)  # type: ignore[arg-type]


@asynccontextmanager
async def inside(port: int, user: str = "ubuntu") -> AsyncIterator[asyncssh.SSHClientConnection]:
    async with asyncssh.connect(
        "127.0.0.1", port, username=user, client_keys=[KEY], known_hosts=None, config=None
    ) as connection:
        yield connection


async def said(connection: asyncssh.SSHClientConnection, command: str) -> str:
    ran = await connection.run(command)
    return str(ran.stdout).strip()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return not probe.connect_ex(("127.0.0.1", port))


async def test_a_guest_is_a_machine_of_its_own(guests: ProcessGuests) -> None:
    one = guests.boot(boot("i-1", env={"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1"}))
    two = guests.boot(boot("i-2", user="root"))
    async with inside(one) as first, inside(two, "root") as second:
        assert await said(first, "echo $HOME $USER $(hostname) $AWS_EC2_METADATA_SERVICE_ENDPOINT") == (
            "/home/ubuntu ubuntu i-1 http://127.0.0.1:1"
        )
        assert await said(second, "echo $HOME $(hostname)") == "/root i-2"
        for place in ("~", "/home", "/root", "/tmp", "/var/tmp", "/run", "/dev/shm"):
            await said(first, f"echo here > {place}/left-by-first")
            assert await said(second, f"cat {place}/left-by-first 2>/dev/null") == ""
        pids = await said(first, "sleep 100 & ps -A -o args=")
        assert "sleep 100" in pids
        assert "pytest" not in pids
        assert "sleep 100" not in await said(second, "ps -A -o args=")
        assert await said(first, "python3 -c 'print(6 * 7)'") == "42"
    assert not os.path.exists("/tmp/left-by-first")  # noqa: ASYNC240
    assert (guests.files("i-1") / "tmp" / "left-by-first").read_text() == "here\n"


async def test_a_guest_can_not_write_beyond_itself(guests: ProcessGuests) -> None:
    port = guests.boot(boot())
    async with inside(port) as connection:
        for path in ("/etc/left", "/usr/left", "/left", f"{sys.prefix}/left", f"{__file__}.left"):
            assert (await connection.run(f"touch {path}")).exit_status == 1, path
            assert not os.path.exists(path)  # noqa: ASYNC240
        await said(connection, "echo 1 > /proc/sysrq-trigger")
        undo = "umount /sbin/shutdown || umount /home || mount -o remount,rw / || mknod /tmp/disk b 1 1"
        assert (await connection.run(undo)).exit_status != 0


@pytest.mark.parametrize(
    "command",
    [
        "sudo -n shutdown -h now",
        "shutdown -h now",
        "/sbin/shutdown -P now",
        "env -i /usr/sbin/poweroff",
        "sudo systemctl poweroff",
        "/sbin/reboot -f",
        "kill -TERM 1",
        # what shutdown comes down to in the end: reboot(2)
        "python3 -c 'import ctypes; ctypes.CDLL(None).reboot(0x4321fedc)'; kill -TERM 1",
    ],
)
async def test_what_ends_a_machine_ends_the_guest_alone(guests: ProcessGuests, command: str) -> None:
    other = guests.boot(boot("i-2"))
    port = guests.boot(boot("i-1"))
    async with inside(other) as bystander:
        async with inside(port) as connection:
            await connection.create_process("setsid sleep 1000 & setsid sleep 1000 & sleep 1000")
            with anyio.move_on_after(5):
                await connection.run(command)
        await until(lambda: not guests.runs("i-1"))
        assert await said(bystander, "echo well") == "well"
    assert not answers(port)


async def test_kill_takes_everything_along(guests: ProcessGuests, tmp_path: Path) -> None:
    port = guests.boot(boot())
    async with inside(port) as connection:
        await connection.create_process("trap '' TERM HUP; setsid sleep 54321 & setsid sleep 54321")
        await until(lambda: len(_running("54321")) == 2)
        guests.kill("i-1")
    assert _running("54321") == []
    assert not guests.runs("i-1")
    guests.kill("i-1")  # nothing there any more


def _running(mark: str) -> list[str]:
    listed = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True)
    return [line for line in listed.stdout.splitlines() if line == f"sleep {mark}"]


async def test_only_its_user_and_its_keys_get_in(guests: ProcessGuests) -> None:
    port = guests.boot(boot())
    with pytest.raises(asyncssh.PermissionDenied):
        async with inside(port, user="root"):
            pass
    stranger = asyncssh.generate_private_key("ssh-ed25519")
    with pytest.raises(asyncssh.PermissionDenied):
        await asyncssh.connect(
            "127.0.0.1", port, username="ubuntu", client_keys=[stranger], known_hosts=None, config=None
        )


async def test_a_machine_boots_once_and_a_taken_port_is_told(guests: ProcessGuests) -> None:
    port = guests.boot(boot())
    with pytest.raises(ValueError, match="booted before"):
        guests.boot(boot())
    with pytest.raises(OSError, match="in use"):
        guests.boot(boot("i-2", port=port))
    assert guests.boot(boot("i-3", port=port, host="127.0.0.77")) == port


def test_guests_end_with_whoever_made_them(tmp_path: Path) -> None:
    need_guests()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, env=environment) as maker:
        assert maker.stdout is not None
        port = int(maker.stdout.readline())
        assert answers(port)
        maker.kill()
    deadline = time.monotonic() + 10
    while answers(port):
        assert time.monotonic() < deadline, "the guest lives on"
        time.sleep(0.01)


def machine(tmp_path: Path, port: int, user: str) -> Machine:
    key_path = tmp_path / "key"
    key_path.write_bytes(KEY.export_private_key())
    key_path.chmod(0o600)
    return Machine(
        instance_id="i-1",
        address=Address(host="127.0.0.1", port=port),
        ssh_user=user,
        private_key_path=str(key_path),
        known_hosts_path=str(tmp_path / "known_hosts"),
        handle=Handle(provider="fake", ref="i-1"),
    )


@asynccontextmanager
async def agent(there: Machine, *options: str, lease_s: float = 60) -> AsyncIterator[AgentChannel]:
    """The agent, where adapters put it, after its hello."""
    home = "/root" if there.ssh_user == "root" else f"/home/{there.ssh_user}"
    hello = Hello(owner="o", instance="i-1", epoch=1, lease_s=lease_s, slots=1, metrics_every_s=0)
    async with (
        connect(there) as ssh,
        attach_over(
            ssh, directory=f"{home}/.everpool/agent", agent_source=AGENT_SOURCE, options=options
        ) as channel,
    ):
        await channel.send([hello.model_dump(mode="json")])
        with anyio.fail_after(20):
            assert (await channel.receive())[0]["accepted"]
        yield channel


@pytest.mark.parametrize("user", ["root", "ubuntu"])
async def test_an_agent_is_put_there_over_a_verified_connection(
    guests: ProcessGuests, tmp_path: Path, user: str
) -> None:
    host_key = asyncssh.generate_private_key("ssh-ed25519")
    port = guests.boot(boot(user=user, host_key=host_key.export_private_key().decode()))
    async with agent(machine(tmp_path, port, user)):
        pass
    known = (tmp_path / "known_hosts").read_text()
    assert host_key.export_public_key().decode().split()[1] in known
    home = guests.files("i-1") / ("root" if user == "root" else f"home/{user}")
    assert (home / ".everpool" / "agent" / "spool").is_file()


async def test_an_agent_without_a_daemon_ends_its_guest(guests: ProcessGuests, tmp_path: Path) -> None:
    there = machine(tmp_path, guests.boot(boot()), "ubuntu")
    async with agent(there, "--end-command", "sudo -n shutdown -h now", lease_s=0.3):
        await until(lambda: not guests.runs("i-1"))


@pytest.mark.parametrize("kind", ["aws", "gcp"])
async def test_an_agent_hears_of_the_end_from_its_machines_own_metadata(
    guests: ProcessGuests, tmp_path: Path, kind: str
) -> None:
    servers = MetadataServers()
    try:
        app: Imds | GceMetadata = Imds() if kind == "aws" else GceMetadata()
        url = servers.start("i-1", app)
        env = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": url, "GCE_METADATA_HOST": url.removeprefix("http://")}
        there = machine(tmp_path, guests.boot(boot(env=env)), "ubuntu")
        async with agent(there, "--metadata", kind) as channel:
            app.notice()
            with anyio.fail_after(20):
                [report] = await channel.receive()
            assert report["t"] == "notice"
    finally:
        servers.close()
