"""Real engines pull from a registry that asks who we are; the password can be seen nowhere."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
import structlog

from providers.container import images
from providers.container.config import ContainerConfig
from providers.container.engine import Engine
from providers.errors import Fault, ProviderError
from providers.http import Answer
from providers.logins import NoLogins
from providers.model import Handle
from tests.contract.container import ContainerHarness, PodmanHarness
from tests.fakes.serving import served
from tests.providers.container.registry import Registry
from tests.real.engines import RealEngine
from tests.real.images import image_file

pytestmark = [pytest.mark.anyio, pytest.mark.real]
PASSWORD = "a-password-that-is-nowhere-to-be-seen"


@pytest.fixture
def registry(real: RealEngine) -> Iterator[Registry]:
    made = Registry(image_file("python"), "boxer", PASSWORD)
    host, _, port = real.registry.partition(":")
    with served(made, host, int(port)):
        yield made
    for name in (f"{real.registry}/{made.name}:1", f"{real.registry}/{made.name}:none"):
        real.raw("DELETE", f"/images/{name}", query={"force": "true"})


def keys_of(real: RealEngine, directory: Path, password: str = PASSWORD) -> dict[str, Any]:
    secret = directory / "password"
    secret.write_text(password + "\n")
    secret.chmod(0o600)
    known = {"server": real.registry, "username": "boxer", "password": {"file": str(secret)}}
    image = f"{real.registry}/boxes/python:1"
    return {"image": image, "pull": "missing", "registries": [known]}


def kind_of(real: RealEngine) -> type[ContainerHarness]:
    return ContainerHarness if real.kind == "docker" else PodmanHarness


async def launched(harness: ContainerHarness, node: int = 0, **more: Any) -> Handle | ProviderError:
    offer = (await harness.provider.offers())[0]
    return (await harness.provider.launch([harness.order(node, offer, **more)]))[0]


class Watch:
    """Looks for secrets in the command lines of all processes, as long as it is entered."""

    def __init__(self, secrets: list[bytes]) -> None:
        self.found: set[str] = set()
        self.looks = 0
        self._secrets, self._over = secrets, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    said = path.read_bytes()
                except OSError:
                    continue
                self.found |= {f"{path}: {said!r}" for secret in self._secrets if secret in said}
            self.looks += 1

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def kept_below(directory: Path) -> list[str]:
    """All that was written there, the password's own file apart."""
    paths = [path for path in directory.rglob("*") if path.is_file() and path.name != "password"]
    return [path.read_text(errors="replace") for path in paths]


async def test_an_image_is_pulled_with_credentials_that_nobody_sees(
    real: RealEngine, registry: Registry, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    basic = base64.b64encode(f"boxer:{PASSWORD}".encode())
    with structlog.testing.capture_logs() as logs, Watch([PASSWORD.encode(), basic]) as watch:
        async with kind_of(real).open(tmp_path, **keys_of(real, tmp_path)) as harness:
            handle = await launched(harness)
            assert isinstance(handle, Handle), handle
            told = json.dumps([real.inspect(handle.ref), real.containers(), real.ask("GET", "/info")])
            listing = await harness.provider.observe("owner-1")
            lines = await harness.provider.check("owner-1")
            said = [repr(listing), repr(lines), repr(harness.provider._config), told]
            said.append(harness.provider._config.model_dump_json())
    assert registry.seen == {f"Basic {basic.decode()}"}
    assert watch.looks > 3 and watch.found == set()
    said += [repr(logs), *capfd.readouterr(), real.log.read_text(errors="replace")]
    for text in [*said, *kept_below(tmp_path)]:
        assert PASSWORD not in text and basic.decode() not in text


@pytest.mark.parametrize(
    ("wrong", "refusal", "fault"),
    [
        ("not-the-password-at-all", None, Fault.CREDENTIALS),
        (PASSWORD, (429, "TOOMANYREQUESTS"), Fault.THROTTLED),
    ],
)
async def test_a_registry_that_refuses_is_said_without_the_password(
    real: RealEngine,
    registry: Registry,
    tmp_path: Path,
    wrong: str,
    refusal: tuple[int, str] | None,
    fault: Fault,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(images, "WAIT_S", 3.0)  # podman tries for long before it says that it was throttled
    registry.refusal = refusal
    with structlog.testing.capture_logs() as logs:
        async with kind_of(real).open(tmp_path, **keys_of(real, tmp_path, wrong)) as harness:
            outcome = await launched(harness)
    assert isinstance(outcome, ProviderError)
    assert outcome.fault is fault, outcome
    assert wrong not in outcome.detail and wrong not in repr(logs)
    assert "\n" not in outcome.detail
    assert real.containers() == []


async def test_an_image_that_no_registry_has_is_rejected(
    real: RealEngine, registry: Registry, tmp_path: Path
) -> None:
    async with kind_of(real).open(tmp_path, **keys_of(real, tmp_path)) as harness:
        outcome = await launched(harness, image=f"{real.registry}/{registry.name}:none")
        assert isinstance(outcome, ProviderError)
        assert outcome.fault is Fault.REJECTED, outcome
        away = await launched(harness, 1, image="127.0.0.1:9/boxes/python:1")
        assert isinstance(away, ProviderError)
        assert away.fault is Fault.NOT_SENT, away


async def test_credentials_go_to_their_own_registry_only(
    real: RealEngine, registry: Registry, tmp_path: Path
) -> None:
    keys = keys_of(real, tmp_path)
    keys["registries"][0]["server"] = "registry.example"
    async with kind_of(real).open(tmp_path, **keys) as harness:
        outcome = await launched(harness)
    assert isinstance(outcome, ProviderError)
    assert outcome.fault is Fault.CREDENTIALS
    basic = base64.b64encode(f"boxer:{PASSWORD}".encode()).decode()
    assert f"Basic {basic}" not in registry.seen


async def test_a_long_pull_goes_on_while_launches_are_put_off(
    real: RealEngine, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "WAIT_S", 0.2)
    registry.slow_s = 1.5
    async with kind_of(real).open(tmp_path, **keys_of(real, tmp_path)) as harness:
        outcome = await launched(harness)
        assert isinstance(outcome, ProviderError)
        assert (outcome.fault, outcome.retry_after_s) == (Fault.THROTTLED, images.AGAIN_S)
        assert "still being pulled" in outcome.detail
        deadline = time.monotonic() + 30
        while isinstance(outcome, ProviderError) and outcome.fault is Fault.THROTTLED:
            assert time.monotonic() < deadline
            assert sum(thread.name == "everpool-pull" for thread in threading.enumerate()) <= 1
            outcome = await launched(harness)
        assert isinstance(outcome, Handle), outcome


async def test_a_pull_that_takes_too_long_is_given_up(
    real: RealEngine, registry: Registry, tmp_path: Path
) -> None:
    registry.slow_s = 3
    keys = keys_of(real, tmp_path) | {"pull_timeout_s": 1}
    async with kind_of(real).open(tmp_path, **keys) as harness:
        outcome = await launched(harness)
    assert isinstance(outcome, ProviderError)
    assert (outcome.fault, "not pulled in 1 s" in outcome.detail) == (Fault.THROTTLED, True)


async def test_pull_always_asks_the_registry_again(
    real: RealEngine, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kind_of(real).open(tmp_path, **keys_of(real, tmp_path) | {"pull": "always"}) as harness:
        assert isinstance(await launched(harness), Handle)
        with anyio.fail_after(20):
            while registry.seen:  # what the engine still asks of the first pull
                registry.seen.clear()
                await anyio.sleep(0.5)
        assert isinstance(await launched(harness, 1), Handle)
        assert registry.seen == set()  # it was just asked
        monkeypatch.setattr(images, "FRESH_S", 0.0)
        assert isinstance(await launched(harness, 2), Handle)
        assert registry.seen != set()


class Nowhere(Engine):
    """An engine without images."""

    async def call(self, *args: Any, **more: Any) -> Answer:
        return Answer(404, {}, b"{}")


async def pull_waits(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[], object], times: int = 1
) -> list[Fault]:
    """What so many launches hear that wait for an image whose pull does `work`."""

    async def pull(*_: Any) -> None:
        work()

    monkeypatch.setattr(images.Images, "_pull", pull)
    found = images.Images("box", ContainerConfig(), Nowhere("box", "auto", None), NoLogins())
    faults: list[Fault] = []

    async def wait() -> None:
        with pytest.raises(ProviderError) as caught:
            await found.ready("python:3")
        faults.append(caught.value.fault)

    async with anyio.create_task_group() as tasks:
        for _ in range(times):
            tasks.start_soon(wait)
    for thread in threading.enumerate():
        if thread.name == "everpool-pull":
            thread.join(20)
    return faults


async def test_waiting_for_a_pull_takes_nobodys_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    go, borrowed = threading.Event(), list[int]()
    limiter = anyio.to_thread.current_default_thread_limiter()

    async def look() -> None:
        with anyio.fail_after(20):
            await anyio.sleep(0.1)
            borrowed.append(limiter.borrowed_tokens)
            await anyio.to_thread.run_sync(go.set)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        faults = await pull_waits(monkeypatch, lambda: go.wait(20), times=60)
    assert (borrowed, faults) == ([0], [Fault.REJECTED] * 60)  # pulled, and still not there


@pytest.mark.parametrize(
    ("error", "fault"), [(OSError(24, "too many"), Fault.NOT_SENT), (ValueError("ours"), Fault.UNKNOWN)]
)
async def test_a_pull_that_breaks_off_is_not_the_images_fault(
    monkeypatch: pytest.MonkeyPatch, error: Exception, fault: Fault
) -> None:
    def work() -> None:
        raise error

    untold: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda told: untold.append(told.exc_value))
    assert await pull_waits(monkeypatch, work) == [fault]
    assert untold == ([] if isinstance(error, OSError) else [error])


def test_a_registrys_password_is_in_no_repr(tmp_path: Path) -> None:
    source = {"file": str(tmp_path / "password")}
    config = ContainerConfig.model_validate(
        {"registries": [{"server": "r.example", "username": "u", "password": source}]}
    )
    assert "password" not in repr(config.registries[0]) or str(tmp_path) not in repr(config.registries[0])
