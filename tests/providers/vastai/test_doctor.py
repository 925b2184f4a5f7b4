"""What `everpool doctor` says about an account."""

import time
from pathlib import Path

import pytest

from providers.model import Check
from providers.vastai import doctor
from providers.vastai.adapter import VastaiProvider
from providers.vastai.wire import key_of, owner_of
from tests.contract.harness import OWNER
from tests.contract.vastai import VastaiHarness, config_for
from tests.fakes.serving import served
from tests.fakes.vastai.fake import FakeVastai
from tests.providers.vastai.test_launch import launched, offer_in, with_config

pytestmark = pytest.mark.anyio


async def bad_lines(rig: VastaiHarness) -> dict[str, Check]:
    lines = await rig.provider.check(OWNER)
    assert all(line.mend for line in lines if not line.ok)
    return {line.what: line for line in lines if not line.ok}


async def test_all_is_well_and_nothing_was_made(rig: VastaiHarness) -> None:
    rig.fake.orphan(f"{OWNER}/pool/0/1/1")
    rig.fake.foreign("mine")
    lines = {line.what: line for line in await rig.provider.check(OWNER)}
    assert [line for line in lines.values() if not line.ok] == []
    assert lines["list machines"].detail == "1 of ours, of at most 100; 2 in the account"
    assert len(rig.fake.alive()) == 2


async def test_a_key_that_is_not_taken_is_one_line(rig: VastaiHarness, tmp_path: Path) -> None:
    (tmp_path / "api-key").write_text("another-key")
    [line] = (await bad_lines(rig)).values()
    assert line.what == "credentials"
    assert "Invalid user key" in line.detail


async def test_a_key_that_is_not_there_is_one_line(rig: VastaiHarness, tmp_path: Path) -> None:
    (tmp_path / "api-key").unlink()
    [line] = (await bad_lines(rig)).values()
    assert line.what == "credentials"
    assert "api-key" in line.detail


@pytest.mark.parametrize(
    ("call", "what", "permission"),
    [
        ("search", "search", "misc"),
        ("list", "list machines", "instance_read"),
        ("create", "rent machines", "instance_write"),
        ("destroy", "destroy machines", "instance_write"),
    ],
)
async def test_each_missing_permission_is_named(
    rig: VastaiHarness, call: str, what: str, permission: str
) -> None:
    rig.fake.forbidden = {call}
    bad = await bad_lines(rig)
    assert set(bad) == {what}
    assert permission in bad[what].mend


@pytest.mark.parametrize("refused", [False, True])
async def test_what_the_doctor_rents_by_mistake_is_marked_and_destroyed(
    rig: VastaiHarness, refused: bool
) -> None:
    rig.fake.any_ask, rig.fake.leave_contracts = True, int(refused)
    lines = {line.what: line for line in await rig.provider.check(OWNER)}
    assert lines["rent machines"].ok
    assert "was destroyed" in lines["rent machines"].detail
    [body] = rig.fake.bodies
    key = key_of(body["label"], rig.provider.name)
    assert key is not None
    assert owner_of(key) == OWNER
    assert rig.fake.resources() == []


async def test_what_the_doctor_can_not_destroy_is_said_and_seen_by_the_sweep(rig: VastaiHarness) -> None:
    rig.fake.any_ask, rig.fake.forbidden = True, {"destroy"}
    bad = await bad_lines(rig)
    [ref] = rig.fake.alive()
    assert ref in bad["rent machines"].detail
    assert ref in bad["rent machines"].mend
    assert [one.handle.ref for one in (await rig.provider.observe(OWNER)).sightings] == [ref]


@with_config(create_every_s=3600, destroy_every_s=3600)
async def test_a_doctor_does_not_wait_behind_launches(
    rig: VastaiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.provider.terminate([await launched(rig, rig.order(0, await offer_in(rig)))])
    monkeypatch.setattr(doctor, "TURN_WITHIN_S", 0.05)
    bad = await bad_lines(rig)
    assert set(bad) == {"rent machines", "destroy machines"}
    assert all("busy" in line.mend for line in bad.values())


async def test_no_credit_left(rig: VastaiHarness) -> None:
    rig.fake.credit = -0.5
    bad = await bad_lines(rig)
    assert set(bad) == {"credit"}
    assert bad["credit"].detail == "-0.50 dollars"


async def test_a_vendor_that_is_down_now_is_no_missing_permission(rig: VastaiHarness) -> None:
    for call in ("search", "list", "create", "destroy"):
        rig.fake.controls.fail_before(call, 3)
    bad = await bad_lines(rig)
    assert {line.mend for line in bad.values()} == {"try again"}
    assert len(bad) == 4


@with_config(gpu_names=["B300"])
async def test_nothing_on_offer(rig: VastaiHarness) -> None:
    assert "filters" in (await bad_lines(rig))["search"].mend


@with_config(machines_max=1)
async def test_too_many_machines(rig: VastaiHarness) -> None:
    rig.fake.orphan(f"{OWNER}/pool/0/1/1")
    assert "machines_max" in (await bad_lines(rig))["list machines"].mend


async def test_a_clock_that_is_off(tmp_path: Path) -> None:
    fake = FakeVastai()
    with served(fake) as url:
        late = VastaiProvider(
            "vastai", config_for(url, tmp_path), tmp_path, b"", now=lambda: time.time() + 600
        )
        bad = [line for line in await late.check(OWNER) if not line.ok]
        await late.aclose()
    assert [line.what for line in bad] == ["clock"]
    assert "clock" in bad[0].mend


async def test_nobody_there(tmp_path: Path) -> None:
    provider = VastaiProvider("vastai", config_for("http://127.0.0.1:9", tmp_path), tmp_path, b"")
    [line] = await provider.check(OWNER)
    assert not line.ok
    assert line.what == "api"
    await provider.aclose()
