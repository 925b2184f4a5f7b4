"""Keys and passwords: read late, changed without a restart, and told to nobody."""

import json
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from werkzeug.wrappers import Response

from providers.errors import Fault, ProviderError
from providers.secret import SecretSource
from tests.contract.harness import OWNER
from tests.contract.vastai import VastaiHarness
from tests.fakes.vastai.fake import API_KEY
from tests.providers.vastai.test_launch import launched, offer_in, refused

pytestmark = pytest.mark.anyio
PASSWORD = "registry-password-1234"  # of nothing


@pytest.fixture
def password(tmp_path: Path) -> SecretSource:
    file = tmp_path / "registry"
    file.write_text(PASSWORD)
    file.chmod(0o600)
    return SecretSource(file=file)


async def test_a_changed_key_is_taken_without_a_restart(rig: VastaiHarness, tmp_path: Path) -> None:
    await rig.provider.observe(OWNER)
    (tmp_path / "api-key").write_text("revoked-key-0000")
    with pytest.raises(ProviderError) as caught:
        await rig.provider.observe(OWNER)
    assert caught.value.fault is Fault.CREDENTIALS
    (tmp_path / "api-key").write_text(API_KEY)
    await rig.provider.observe(OWNER)


async def test_an_answer_nobody_knows_is_logged_without_secrets(
    tmp_path: Path, password: SecretSource
) -> None:
    registry = {"username": "bob", "password": password, "server": "ghcr.io"}
    async with VastaiHarness.open(tmp_path, guests=False, registry=registry) as rig:
        order = rig.order(0, await offer_in(rig))
        said = {
            "success": False,
            "error": "brand_new_word",
            "msg": f"you sent Bearer {API_KEY} and -p {PASSWORD}",
            "instance_api_key": "instance-key-of-it",
        }
        rig.fake.says_next["create"] = Response(json.dumps(said), 400, mimetype="application/json")
        with structlog.testing.capture_logs() as logs:
            error = await refused(rig, order)
        assert error.fault is Fault.UNKNOWN
        [line] = logs
        assert line["code"] == "brand_new_word"
        everything = f"{logs} {error} {error.detail} {rig.provider.__dict__} {error.__cause__!r}"
        for secret in (API_KEY, PASSWORD, "instance-key-of-it"):
            assert secret not in everything
        await launched(rig, order)
        assert rig.fake.bodies[-1]["image_login"] == f"-u bob -p {PASSWORD} ghcr.io"


async def test_what_is_written_down_holds_no_secret(rig: VastaiHarness, tmp_path: Path) -> None:
    handle = await launched(rig, rig.order(0, await offer_in(rig)))
    instance_key = rig.fake.contract(handle.ref).key
    kept = [path for path in (tmp_path / "provider").rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        assert API_KEY not in path.read_text()
        assert instance_key not in path.read_text()
    [seen] = (await rig.provider.observe(OWNER)).sightings
    assert instance_key not in f"{handle} {seen}"


@pytest.mark.parametrize("call", ["offers", "observe", "launch", "terminate", "find"])
async def test_every_call_says_that_the_key_is_not_taken(
    rig: VastaiHarness, tmp_path: Path, call: str
) -> None:
    order = rig.order(0, await offer_in(rig))
    handle = await launched(rig, order)
    fresh = rig.order(1, order.offer)
    (tmp_path / "api-key").write_text("revoked-key-0000")
    outcome: Any = None
    try:
        match call:
            case "offers":
                await rig.provider.offers()
            case "observe":
                await rig.provider.observe(OWNER)
            case "find":
                await rig.provider.find(order.key)
            case "launch":
                [outcome] = await rig.provider.launch([fresh])
            case _:
                [outcome] = await rig.provider.terminate([handle])
    except ProviderError as error:
        outcome = error
    assert isinstance(outcome, ProviderError)
    assert outcome.fault is Fault.CREDENTIALS
    (tmp_path / "api-key").write_text(API_KEY)
