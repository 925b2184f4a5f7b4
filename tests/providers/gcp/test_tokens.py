"""Access tokens, minted by google-auth at a token server that checks the signature."""

import time
from pathlib import Path

import anyio
import pytest
from google.auth.compute_engine import _metadata
from structlog.testing import capture_logs

from providers.errors import Fault, ProviderError
from providers.gcp.adapter import GcpProvider
from providers.gcp.config import GcpConfig
from providers.gcp.tokens import Tokens
from providers.secret import SecretSource
from tests.contract.gcp import GcpHarness, config_of
from tests.contract.harness import OWNER
from tests.fakes.gcp.fake import FakeGcp
from tests.fakes.metadata import GceMetadata
from tests.fakes.serving import served

pytestmark = pytest.mark.anyio


async def test_one_token_serves_many_calls(gcp: GcpHarness) -> None:
    async with anyio.create_task_group() as calling:
        for _ in range(8):
            calling.start_soon(gcp.provider.observe, OWNER)
    assert gcp.fake.controls.calls["token"] == 1


async def test_a_token_is_changed_before_it_expires(tmp_path: Path) -> None:
    fake, clock = FakeGcp(), [time.time()]
    with fake.serving() as url:
        tokens = Tokens(config_of(url, tmp_path, fake), lambda: clock[0])
        first = await tokens.get()
        clock[0] += 3200
        assert await tokens.get() == first
        clock[0] += 200  # 200 s are left
        second = await tokens.get()
        assert second != first
        fake.controls.cut_before("token", 5)
        clock[0] = time.time() + 3500
        assert await tokens.get() == second  # still good, so a token server that is down does no harm
        clock[0] += 200
        with pytest.raises(ProviderError) as caught:
            await tokens.get()
        assert caught.value.fault is Fault.NOT_SENT


async def test_a_token_that_is_refused_is_changed_once(gcp: GcpHarness) -> None:
    await gcp.provider.observe(OWNER)
    gcp.fake.revoke()
    order = gcp.order(0, (await gcp.provider.offers())[0])
    [outcome] = await gcp.provider.launch([order])
    assert not isinstance(outcome, ProviderError)
    assert gcp.fake.controls.calls["token"] == 2
    gcp.fake.token_lives_s = -1  # whatever is given is refused
    gcp.fake.revoke()
    calls = gcp.fake.controls.calls["instances.aggregatedList"]
    with pytest.raises(ProviderError) as caught:
        await gcp.provider.observe(OWNER)
    assert caught.value.fault is Fault.CREDENTIALS
    assert gcp.fake.controls.calls["instances.aggregatedList"] <= calls + 2


async def test_a_key_that_is_refused_is_told_without_the_key(gcp: GcpHarness) -> None:
    gcp.fake.key_refused = True
    gcp.fake.revoke()
    with capture_logs() as logs, pytest.raises(ProviderError) as caught:
        await gcp.provider.observe(OWNER)
    assert caught.value.fault is Fault.CREDENTIALS
    assert "Invalid JWT Signature" in caught.value.detail
    assert "PRIVATE KEY" not in caught.value.detail + str(logs)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"type": "authorized_user"}', '{"type": "service_account"}']
)
async def test_a_file_that_is_no_key_is_named_and_not_shown(tmp_path: Path, text: str) -> None:
    key = tmp_path / "secret.json"
    key.write_text(text + " ")
    key.chmod(0o600)
    config = GcpConfig(project="my-project", regions=("a",), key=SecretSource(file=key))
    with pytest.raises(ProviderError) as caught:
        await Tokens(config, time.time).get()
    assert caught.value.fault is Fault.CREDENTIALS
    assert str(key) in caught.value.detail


async def test_a_key_may_be_changed_while_running(tmp_path: Path) -> None:
    fake = FakeGcp()
    with fake.serving() as url:
        config = config_of(url, tmp_path, fake)
        key = tmp_path / "key.json"
        good = key.read_text()
        key.write_text("nothing")
        provider = GcpProvider("gcp", config, tmp_path, b"")
        with pytest.raises(ProviderError):
            await provider.observe(OWNER)
        key.write_text(good)
        assert (await provider.observe(OWNER)).complete
        fake.revoke()
        key.write_text("nothing")  # read again, since what it gave is refused
        with pytest.raises(ProviderError) as caught:
            await provider.observe(OWNER)
        assert caught.value.fault is Fault.CREDENTIALS
        key.write_text(good)
        assert (await provider.observe(OWNER)).complete
        await provider.aclose()


async def test_without_a_key_the_metadata_server_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with served(GceMetadata(token="ya29.here")) as url:
        for variable in ("GCE_METADATA_HOST", "GCE_METADATA_IP"):
            monkeypatch.setenv(variable, url.removeprefix("http://"))
        # google-auth looks at one of them when it is imported
        monkeypatch.setattr(_metadata, "_GCE_METADATA_HOST", url.removeprefix("http://"))
        config = GcpConfig(project="my-project", regions=("a",))
        assert await Tokens(config, time.time).get() == "ya29.here"
