"""The way into a machine, against a real ssh server."""

import hashlib
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import anyio
import asyncssh
import pytest

from providers.errors import Fault, HostError
from providers.host.base import Host
from providers.host.keys import pinned
from providers.host.ssh import OUTPUT_BYTES_MAX, connect
from providers.model import Address, Machine
from tests.contract.harness import until
from tests.providers.host.conftest import There

pytestmark = [pytest.mark.anyio, pytest.mark.real]


async def fault_of(machine: Machine, *, timeout_s: float = 10) -> Fault:
    with pytest.raises(HostError) as caught:
        async with connect(machine, timeout_s=timeout_s):
            pass
    assert "\n" not in caught.value.detail
    return caught.value.fault


async def test_run_gives_status_and_both_outputs(there: There) -> None:
    async with connect(there.machine) as host:
        ran = await host.run(("sh", "-c", 'cat; echo "$1" >&2; exit 3', "sh", "it's $HOME"), stdin=b"\0\xff")
        assert (ran.exit_code, ran.stdout, ran.stderr) == (3, b"\0\xff", b"it's $HOME\n")
        assert (await host.run(("sh", "-c", "kill -9 $$"))).exit_code == 137
        assert (await host.run(("/no/such/program",))).exit_code == 127


async def test_run_keeps_the_first_mebibyte_of_each_output(there: There) -> None:
    async with connect(there.machine) as host:
        ran = await host.run(("sh", "-c", "head -c 5000000 /dev/zero | tee /dev/stderr"))
    assert len(ran.stdout) == len(ran.stderr) == OUTPUT_BYTES_MAX
    assert ran.exit_code == 0


async def test_a_command_that_takes_too_long_is_ended_and_unknown(there: There) -> None:
    pid = there.directory / "home" / "pid"
    async with connect(there.machine) as host:
        with pytest.raises(HostError) as caught:
            await host.run(("sh", "-c", "echo $$ > pid; exec sleep 60"), timeout_s=0.3)
        assert caught.value.fault is Fault.UNKNOWN
        await until_ended(host, pid.read_text())


async def test_the_outcome_of_a_run_whose_machine_died_is_unknown(there: There) -> None:
    begun = there.directory / "home" / "begun"
    async with connect(there.machine) as host, anyio.create_task_group() as tasks:

        async def kill() -> None:
            await until(begun.exists)
            os.kill(there.pid, signal.SIGKILL)

        tasks.start_soon(kill)
        ran = await host.run(("sh", "-c", ": > begun; sleep 60"))
        assert ran.exit_code is None
        with pytest.raises(HostError):
            await host.run(("true",))


async def test_put_writes_whole_files_only(there: There) -> None:
    home = there.directory / "home"
    data = os.urandom(3_000_000)
    async with connect(there.machine) as host:
        await host.put("new folder/it's a file", data, mode=0o640)
        written = home / "new folder" / "it's a file"
        assert written.read_bytes() == data
        assert written.stat().st_mode & 0o777 == 0o640
        await host.put(str(written), b"shorter")
        assert written.read_bytes() == b"shorter"
        (home / "file").write_bytes(b"")
        with pytest.raises(HostError) as caught:
            await host.put("file/below", b"x")
        assert caught.value.fault is Fault.REJECTED
    assert sorted(path.name for path in home.rglob("*")) == ["file", "it's a file", "new folder"]


async def test_a_stream_carries_bytes_both_ways(there: There) -> None:
    data = os.urandom(20_000_000)
    heard = hashlib.sha256()
    async with connect(there.machine) as host, host.open(("cat",)) as stream:

        async def send() -> None:
            for start in range(0, len(data), 700_000):
                await stream.send(data[start : start + 700_000])
            await stream.send_eof()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            async for chunk in stream:
                heard.update(chunk)
    assert heard.digest() == hashlib.sha256(data).digest()


async def test_a_reader_that_does_not_read_holds_the_command_back(there: There) -> None:
    count = there.directory / "home" / "count"
    script = "head -c 40000000 /dev/zero; : > count"
    async with connect(there.machine) as host, host.open(("sh", "-c", script)) as stream:
        await stream.receive()
        for _ in range(20):  # a command that were not held back would be done by far
            await host.run(("true",))
        assert not count.exists()
        async for _ in stream:
            pass
        assert count.exists()


async def test_the_error_of_a_stream_has_what_the_command_complained(there: There) -> None:
    async with connect(there.machine) as host:
        async with host.open(("sh", "-c", "echo out; echo why >&2; exit 9")) as stream:
            assert await stream.receive() == b"out\n"
            with pytest.raises(HostError, match=r"exit status 9: why"):
                await stream.receive()
        async with host.open(("true",)) as stream:
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()


async def test_leaving_a_stream_ends_its_command(there: There) -> None:
    async with connect(there.machine) as host:
        async with host.open(("sh", "-c", "echo $$; exec sleep 60")) as stream:
            pid = await stream.receive()
        await until_ended(host, pid.decode())


async def test_a_host_key_is_pinned_at_first_use_and_another_is_refused(there: There) -> None:
    known_hosts = anyio.Path(there.machine.known_hosts_path)
    await known_hosts.unlink()
    async with connect(there.machine):
        pass
    assert len(pinned(Path(known_hosts), "pool-0-1")) == 1
    assert (await known_hosts.stat()).st_mode & 0o777 == 0o600
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    await known_hosts.write_text(f"pool-0-1 {other}")
    assert await fault_of(there.machine) is Fault.REJECTED
    older = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_public_key().decode()
    await known_hosts.write_text(f"pool-0-1 {older}")
    assert await fault_of(there.machine) is Fault.REJECTED


async def test_a_server_that_refuses_us_pins_nothing(there: There) -> None:
    known_hosts = anyio.Path(there.machine.known_hosts_path)
    await known_hosts.unlink()
    other = there.harness.keys.cluster_key("c2")[0]
    stranger = there.machine.model_copy(update={"private_key_path": str(other)})
    assert await fault_of(stranger) is Fault.CREDENTIALS
    assert await fault_of(there.machine.model_copy(update={"ssh_user": "root"})) is Fault.CREDENTIALS
    assert not await known_hosts.exists()


async def test_a_key_that_is_not_there_or_no_key_is_our_credentials(there: There, tmp_path: Path) -> None:
    machine = there.machine
    gone = machine.model_copy(update={"private_key_path": str(tmp_path / "none")})
    assert await fault_of(gone) is Fault.CREDENTIALS
    (tmp_path / "junk").write_text("junk")
    junk = machine.model_copy(update={"private_key_path": str(tmp_path / "junk")})
    assert await fault_of(junk) is Fault.CREDENTIALS


@pytest.fixture
def silent_port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


async def test_a_server_that_says_nothing_is_not_waited_for(there: There, silent_port: int) -> None:
    address = Address(host="127.0.0.1", port=silent_port)
    machine = there.machine.model_copy(update={"address": address})
    assert await fault_of(machine, timeout_s=0.3) is Fault.NOT_SENT


async def test_nobody_listening_is_not_sent(there: There, silent_port: int) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    machine = there.machine.model_copy(update={"address": Address(host="127.0.0.1", port=port)})
    assert await fault_of(machine) is Fault.NOT_SENT


async def test_a_connection_costs_little_memory(there: There) -> None:
    async with AsyncExitStack() as stack:

        async def more(count: int) -> None:
            for _ in range(count):
                host: Host = await stack.enter_async_context(connect(there.machine))
                stream = await stack.enter_async_context(host.open(("cat",)))
                await stream.send(b"x")
                await stream.receive()

        await more(20)  # what the first ones bring into memory is not theirs alone
        before = resident_kib()
        await more(60)
        assert (resident_kib() - before) / 60 <= 200


def resident_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


async def until_ended(host: Host, pid: str) -> None:
    with anyio.fail_after(20):
        while True:
            if (await host.run(("test", "-d", f"/proc/{pid.strip()}"))).exit_code != 0:
                return
            await anyio.sleep(0.02)
