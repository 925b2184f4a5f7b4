"""Calls on an engine's socket that get into each other's way."""

from pathlib import Path

import anyio
import pytest
import structlog

from providers.container import engine as module
from providers.container.adapter import ContainerProvider
from providers.container.config import ContainerConfig
from providers.container.engine import Engine
from providers.container.wire import CLUSTER, KEY, OWNER, PROVIDER
from providers.errors import Fault, ProviderError
from providers.model import ClusterHandle
from tests.providers.container.scripted import scripted

pytestmark = pytest.mark.anyio


class Slow:
    """Answers to POST wait until they may go on.

    Args:
        expected: how many of them; `full` is set when so many wait.
    """

    def __init__(self, expected: int) -> None:
        self.go, self.full = anyio.Event(), anyio.Event()
        self.asked, self.answered = 0, 0
        self._expected = expected

    async def say(self, method: str, path: str) -> tuple[int, object]:
        if method == "POST":
            self.asked += 1
            if self.asked == self._expected:
                self.full.set()
            await self.go.wait()
        return 200, {}

    async def ask(self, engine: Engine) -> None:
        await engine.call("start", "POST", "/containers/x/start")
        self.answered += 1


async def test_many_slow_calls_do_not_break_each_other(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS_MAX", 2)
    monkeypatch.setattr(module, "TURN_WITHIN_S", 0.1)
    slow = Slow(2)
    engine = Engine("box", "auto", short / "sock")
    async with scripted(short / "sock", slow.say):
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(slow.ask, engine)
            await slow.full.wait()
            with pytest.raises(ProviderError, match="2 other calls are under way") as caught:
                await engine.call("start", "POST", "/containers/y/start")
            assert caught.value.fault is Fault.NOT_SENT
            slow.go.set()
        assert (slow.answered, slow.asked) == (2, 2)
        await engine.look("/info")
        await engine.aclose()


async def test_a_call_under_way_outlives_one_that_finds_no_engine(short: Path) -> None:
    slow = Slow(1)
    engine = Engine("box", "auto", short / "sock")
    async with scripted(short / "sock", slow.say):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slow.ask, engine)
            await slow.full.wait()
            (short / "sock").rename(short / "away")
            with pytest.raises(ProviderError) as caught:
                await engine.look("/info")
            assert caught.value.fault is Fault.NOT_SENT
            (short / "away").rename(short / "sock")
            await engine.look("/info")
            slow.go.set()
        assert slow.answered == 1
        await engine.aclose()


def test_what_the_config_hides_is_hidden_in_errors_and_logs(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2-hunter2\n")
    (tmp_path / "password").chmod(0o600)
    source = {"file": str(tmp_path / "password")}
    keys = {
        "env": {"HF_NAME": "plain-looking"},
        "registries": [
            {"server": "r.example", "username": "u", "password": source},
            {"server": "s.example", "username": "u", "password": {"env": "EVERPOOL_NO_SUCH_VARIABLE"}},
        ],
    }
    provider = ContainerProvider("box", ContainerConfig.model_validate(keys), tmp_path, b"")
    said = "x" * 490 + " it was plain-looking and hunter2-hunter2, and dTpodW50ZXIyLWh1bnRlcjI="
    with structlog.testing.capture_logs() as logs:
        error = provider._engine.failure("create", "POST /containers/create", 599, said.encode())
    assert error.fault is Fault.UNKNOWN and len(logs) == 1
    for text in (error.detail, repr(logs)):
        assert "it was" in text
        for secret in ("plain-loo", "hunter2", "dTpodW50"):
            assert secret not in text


async def test_what_was_never_started_is_not_removed_by_force(short: Path, tmp_path: Path) -> None:
    """Somebody may have started it since it was listed."""
    specific = {"name": "everpool-x", "owner": "o", "network": "everpool-x"}
    cluster = ClusterHandle(
        cluster_id="c1", provider="box", region="local", ssh_user="root", specific=specific
    )
    marks = {OWNER: "o", PROVIDER: "box", CLUSTER: "c1", KEY: "o/p/0/1/1"}
    removed: list[str] = []

    async def say(method: str, path: str) -> tuple[int, object]:
        if method == "DELETE":
            removed.append(path)
            return 200, {}
        if path.startswith("/containers/json"):  # and an engine that takes no notice of filters
            rows = {"a": marks, "b": marks | {OWNER: "other"}, "c": marks | {CLUSTER: "c11"}}
            return 200, [{"Id": ref, "Labels": labels, "State": "created"} for ref, labels in rows.items()]
        return 404, {"message": "no"}

    config = ContainerConfig(socket=short / "sock", network="cluster")
    provider = ContainerProvider("box", config, tmp_path, b"")
    async with scripted(short / "sock", say):
        await provider.close_cluster(cluster)
        await provider.aclose()
    assert removed == ["/containers/a?v=true"]
