"""The way into a container, on real engines."""

import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from providers.container.engine import Engine
from providers.errors import Fault, HostError
from providers.host.exec import OUTPUT_BYTES_MAX, ExecHost
from tests.real.engines import BARE_IMAGE, IMAGE, EngineKind, RealEngine, engine

pytestmark = [pytest.mark.anyio, pytest.mark.real]


@dataclass(frozen=True)
class There:
    """A container that runs, and a way in."""

    host: ExecHost
    engine: Engine
    real: RealEngine
    container: str

    async def processes(self) -> list[str]:
        """Command lines of all that lives in it, but its first process and who asks."""
        script = (
            "import os\n"
            "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
            "    try:\n"
            "        line = open('/proc/%s/cmdline' % pid, 'rb').read()\n"
            "    except OSError:\n"
            "        continue\n"
            "    if pid != '1' and int(pid) != os.getpid() and line:\n"
            "        print(line.replace(b'\\0', b' ').decode())\n"
        )
        ran = await self.host.run(("python3", "-c", script))
        return ran.stdout.decode().splitlines()

    async def until_lives(self, line: str) -> None:
        """Wait until such a command runs in it."""
        with anyio.fail_after(20):
            while True:
                if line in " ".join(await self.processes()):
                    return
                await anyio.sleep(0.02)

    async def until_quiet(self) -> None:
        """Wait until nothing but its first process lives in it."""
        with anyio.fail_after(20):
            while True:
                if not await self.processes():
                    return
                await anyio.sleep(0.02)


def started(real: RealEngine, image: str, command: list[str]) -> str:
    host = {"NetworkMode": "none", "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 4096}]}
    host["Ulimits"] = [*host["Ulimits"], {"Name": "nproc", "Soft": 4096, "Hard": 4096}]
    body: dict[str, Any] = {"Image": image, "Cmd": command, "HostConfig": host}
    made = real.ask("POST", "/containers/create", query={"name": f"t-{secrets.token_hex(4)}"}, body=body)
    real.ask("POST", f"/containers/{made['Id']}/start")
    return str(made["Id"])


@pytest.fixture(params=[("docker", "asyncio"), ("podman", "asyncio"), ("docker", "trio")], ids="-".join)
def where(request: pytest.FixtureRequest) -> tuple[EngineKind, str]:
    """Which engine, and which event loop."""
    found: tuple[EngineKind, str] = request.param
    return found


@pytest.fixture
def anyio_backend(where: tuple[EngineKind, str]) -> str:
    return where[1]


@pytest.fixture
def real(where: tuple[EngineKind, str]) -> RealEngine:
    return engine(where[0])


@pytest.fixture
async def there(real: RealEngine, anyio_backend: str) -> AsyncIterator[There]:
    container = started(real, IMAGE, ["sleep", "600"])
    api = Engine("box", real.kind, real.socket)
    yield There(ExecHost(api, container, "pool-0-1"), api, real, container)
    await api.aclose()
    real.clear()


async def test_run_gives_status_and_both_outputs(there: There) -> None:
    host = there.host
    ran = await host.run(("sh", "-c", 'cat; echo "$1" >&2; exit 3', "sh", "it's $HOME"), stdin=b"\0\xff")
    assert (ran.exit_code, ran.stdout, ran.stderr) == (3, b"\0\xff", b"it's $HOME\n")
    assert (await host.run(("sh", "-c", "kill -9 $$"))).exit_code == 137
    assert (await host.run(("/no/such/program",))).exit_code == 127
    assert (await host.run(("/etc/passwd",))).exit_code == 126
    assert (await host.run(("true",), stdin=os.urandom(3_000_000))).exit_code == 0  # it reads nothing of it


async def test_run_keeps_the_first_mebibyte_of_each_output(there: There) -> None:
    ran = await there.host.run(("sh", "-c", "head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2"))
    assert len(ran.stdout) == len(ran.stderr) == OUTPUT_BYTES_MAX
    assert ran.exit_code == 0


async def test_a_command_that_takes_too_long_is_ended_and_unknown(there: There) -> None:
    script = "trap '' HUP; sleep 600 & sleep 600"
    with pytest.raises(HostError) as caught:
        await there.host.run(("sh", "-c", script), timeout_s=1)
    assert caught.value.fault is Fault.UNKNOWN
    await there.until_quiet()


async def test_a_command_that_is_cancelled_is_ended_at_any_moment(there: There) -> None:
    for seconds in (0, 0.005, 0.02, 0.05, 0.1, 0.2):
        with anyio.move_on_after(seconds):
            await there.host.run(("sleep", "600"))
        with anyio.move_on_after(seconds):
            async with there.host.open(("sleep", "600")) as stream:
                await stream.receive()
    await there.until_quiet()


async def test_the_outcome_of_a_run_whose_container_died_is_unknown(there: There) -> None:
    async with anyio.create_task_group() as tasks:

        async def kill() -> None:
            await there.until_lives("sleep 300")
            there.real.kill(there.container)

        tasks.start_soon(kill)
        ran = await there.host.run(("sleep", "300"))
        assert ran.exit_code is None
    with pytest.raises(HostError) as caught:
        await there.host.run(("true",))
    assert caught.value.fault is Fault.GONE
    there.real.clear()
    with pytest.raises(HostError) as caught:
        async with there.host.open(("true",)):
            pass
    assert caught.value.fault is Fault.GONE


async def test_put_writes_whole_files_only(there: There) -> None:
    host, data = there.host, os.urandom(3_000_000)
    await host.put("/tmp/new folder/it's a file", data, mode=0o640)
    ran = await host.run(("stat", "-c", "%a %s", "/tmp/new folder/it's a file"))
    assert ran.stdout == b"640 3000000\n"
    script = "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"
    ran = await host.run(("python3", "-c", script, "/tmp/new folder/it's a file"))
    assert ran.stdout.decode().strip() == hashlib.sha256(data).hexdigest()
    await host.put("/tmp/new folder/it's a file", b"shorter")
    assert (await host.run(("cat", "/tmp/new folder/it's a file"))).stdout == b"shorter"
    with pytest.raises(HostError) as caught:
        await host.put("/etc/passwd/below", b"x")
    assert caught.value.fault is Fault.REJECTED
    with anyio.move_on_after(0.1):
        await host.put("/tmp/new folder/cut", os.urandom(200_000_000))
    await there.until_quiet()
    assert (await host.run(("ls", "/tmp/new folder"))).stdout == b"it's a file\n"


async def test_a_stream_carries_bytes_both_ways(there: There) -> None:
    data = os.urandom(20_000_000)
    heard = hashlib.sha256()
    async with there.host.open(("cat",)) as stream:

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
    script = "head -c 40000000 /dev/zero; : > /tmp/count"
    async with there.host.open(("sh", "-c", script)) as stream:
        await stream.receive()
        for _ in range(5):  # a command that were not held back would be done by far
            assert (await there.host.run(("test", "-f", "/tmp/count"))).exit_code == 1
        async for _ in stream:
            pass
    assert (await there.host.run(("test", "-f", "/tmp/count"))).exit_code == 0


async def test_the_error_of_a_stream_has_what_the_command_complained(there: There) -> None:
    async with there.host.open(("sh", "-c", "echo out; echo why >&2; exit 9")) as stream:
        assert await stream.receive() == b"out\n"
        for _ in range(2):  # it stays so
            with pytest.raises(HostError, match=r"exit status 9: why"):
                await stream.receive()
        with pytest.raises(HostError):
            await stream.send(b"x")
    async with there.host.open(("true",)) as stream:
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()


async def test_leaving_a_stream_ends_its_command_and_what_it_started(there: There) -> None:
    async with there.host.open(
        ("sh", "-c", "trap '' TERM; sleep 600 & echo on; sleep 600; sleep 600")
    ) as stream:
        assert await stream.receive() == b"on\n"
        assert len(await there.processes()) == 3
    await there.until_quiet()


async def test_orphans_are_not_ours_to_end(there: There) -> None:
    detach = (
        "import os, time; os.fork() and os._exit(0); os.setsid(); os.close(1); os.close(2); time.sleep(600)"
    )
    async with there.host.open(("python3", "-c", detach)) as stream:
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
    assert any("sleep(600)" in line for line in await there.processes())


async def test_a_container_without_python_is_said_to_be(there: There) -> None:
    bare = started(there.real, BARE_IMAGE, ["sleep", "600"])
    with pytest.raises(HostError, match="python3 can't be run there") as caught:
        await ExecHost(there.engine, bare, "pool-0-2").run(("true",))
    assert caught.value.fault is Fault.REJECTED
    assert "\n" not in caught.value.detail


async def test_an_engine_that_is_away_is_not_sent(there: There) -> None:
    away = Engine("box", "auto", there.real.root / "nowhere")
    with pytest.raises(HostError) as caught:
        await ExecHost(away, there.container, "pool-0-1").run(("true",))
    assert caught.value.fault is Fault.NOT_SENT
