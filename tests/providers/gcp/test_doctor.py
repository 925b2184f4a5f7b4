"""What doctor says."""

from pathlib import Path
from typing import Any

import pytest

from providers.model import Check
from tests.contract.gcp import GcpHarness
from tests.contract.harness import OWNER

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def lines(gcp: GcpHarness) -> dict[str, Check]:
    return {line.what: line for line in await gcp.provider.check(OWNER)}


def broken(said: dict[str, Check]) -> list[str]:
    return [what for what, line in said.items() if not line.ok]


async def test_all_is_well(gcp: GcpHarness) -> None:
    before = gcp.fake.resources()
    said = await lines(gcp)
    assert broken(said) == []
    assert {"credentials", "project", "clock", "permissions", "zones", "quota us-central1"} <= said.keys()
    assert {"image x86_64", "image arm64", "network", "offers"} <= said.keys()
    assert "CPUS 0 of 1000" in said["quota us-central1"].detail
    assert gcp.fake.resources() == before


async def test_credentials_that_are_refused(gcp: GcpHarness) -> None:
    gcp.fake.key_refused = True
    fresh = gcp.again()
    [line] = await fresh.check(OWNER)
    assert (line.what, line.ok) == ("credentials", False)
    assert line.mend


async def test_each_permission_that_lacks_is_a_line(gcp: GcpHarness) -> None:
    gcp.fake.denied = {"compute.instances.create", "compute.firewalls.create"}
    said = await lines(gcp)
    assert broken(said) == ["permission compute.instances.create", "permission compute.firewalls.create"]
    assert "compute.instances.create" in said["permission compute.instances.create"].mend


async def test_preemptions_that_can_t_be_seen(gcp: GcpHarness) -> None:
    gcp.fake.denied = {"compute.globalOperations.list"}
    said = await lines(gcp)
    assert broken(said) == ["permission compute.globalOperations.list", "preemptions"]
    assert "grant" in said["preemptions"].mend


async def test_permissions_that_can_t_be_asked_for(gcp: GcpHarness) -> None:
    gcp.fake.project_api = False
    said = await lines(gcp)
    assert broken(said) == ["permissions"]
    assert "enable the API" in said["permissions"].mend


async def test_a_quota_that_is_used_up(gcp: GcpHarness) -> None:
    gcp.fake.world.quotas["us-central1"]["CPUS"] = 0
    said = await lines(gcp)
    assert broken(said) == ["quota us-central1"]
    assert said["quota us-central1"].mend == "ask for more CPUS in us-central1"


async def test_a_clock_that_is_wrong(gcp: GcpHarness) -> None:
    behind = gcp.again()
    behind._doctor._now = lambda: 1_000_000.0
    said = {line.what: line for line in await behind.check(OWNER)}
    assert broken(said) == ["clock"]


async def test_what_the_config_names_and_is_not_there(gcp: GcpHarness, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    settings: dict[str, Any] = {
        "zones": ("us-central1-z",),
        "regions": ("moon-1", "us-central1"),
        "source_image": {"x86_64": "projects/debian-cloud/global/images/family/debian-99"},
        "machine_types": ("c9-*",),
        "subnetwork": None,
    }
    async with GcpHarness.open(tmp_path / "x", with_guests=False, **settings) as other:
        said = await lines(other)
    assert broken(said) == ["zones", "image x86_64", "offers"]
    assert "us-central1-z, moon-1" in said["zones"].detail
    assert "c9-standard-4" in said["offers"].detail


async def test_things_may_be_named_by_whole_urls(gcp: GcpHarness, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    root = "https://www.googleapis.com/compute/v1/projects"
    settings: dict[str, Any] = {
        "source_image": {"x86_64": f"{root}/ml-images/global/images/cuda"},
        "network": f"{root}/fake-project/global/networks/default",
    }
    async with GcpHarness.open(tmp_path / "x", with_guests=False, **settings) as other:
        assert broken(await lines(other)) == []


async def test_a_vendor_that_does_not_answer_is_said(gcp: GcpHarness) -> None:
    gcp.fake.controls.fail_before("projects.get", 3)
    said = await lines(gcp)
    assert broken(said) == ["project"]


async def test_a_project_that_is_not_ours_to_read(gcp: GcpHarness) -> None:
    gcp.fake.denied = {"compute.projects.get", "compute.regions.list"}
    said = await lines(gcp)
    assert {"project", "quotas", "offers"} <= set(broken(said))
    assert "grant" in said["project"].mend
