"""What is sent, by the vendor's own document, and what its listings show."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from providers.gcp import names, wire
from providers.gcp.config import GcpConfig
from providers.model import Accelerator, ClusterHandle, InstanceType, Lifecycle, Offer, Order
from tests.fakes.gcp.discovery import document
from tests.fakes.gcp.partial import selected, selector
from tests.fakes.gcp.world import host_key_in

CONFIG = GcpConfig(project="my-project", regions=("us-central1",))
PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAA{}\nBBB=\n-----END OPENSSH PRIVATE KEY-----\n"
DEBIAN = "projects/debian-cloud/global/images/family/debian-12"
GPU = Accelerator(name="L4")


def order(number: int = 0, **more: Any) -> Order:
    offer = Offer(
        id="1",
        instance_type=InstanceType(
            name=more.pop("instance_type", "e2-standard-2"),
            vcpus=2,
            memory_gb=8,
            accelerator=more.pop("accelerator", None),
            architecture=more.pop("architecture", "x86_64"),
        ),
        provider="gcp",
        region="us-central1",
        zone="us-central1-a",
        lifecycle=more.pop("lifecycle", "spot"),
        micro_usd_per_hour=20_000,
    )
    cluster = ClusterHandle(cluster_id="c/1", provider="gcp", region="us-central1", ssh_user="everpool")
    given = {
        "key": f"Own er/pool/{number}/1/1",
        "owner": "Own er",
        "epoch": 3,
        "pool": "pool",
        "node": number,
        "instance_id": f"pool-{number}-1",
        "offer": offer,
        "cluster": cluster,
        "public_key": "ssh-ed25519 AAAA c",
        "host_key": PEM.format(number),
    }
    return Order.model_validate(given | more)


def metadata(made: dict[str, Any]) -> dict[str, str]:
    return {item["key"]: item["value"] for item in made["metadata"]["items"]}


def body(given: Order, config: GcpConfig = CONFIG) -> dict[str, Any]:
    made = wire.instance(config, given, region="us-central1", tag="t")
    assert document("compute.v1").wrong("Instance", made, sending=True) == []
    return made


@pytest.mark.parametrize("lifecycle", ["spot", "on_demand"])
@pytest.mark.parametrize("age_max_s", [None, 3600.4])
@pytest.mark.parametrize("accelerator", [None, GPU])
def test_a_machine_is_deleted_in_the_end_and_never_started_again(
    lifecycle: Lifecycle, age_max_s: float | None, accelerator: Accelerator | None
) -> None:
    given = order(lifecycle=lifecycle, age_max_s=age_max_s, accelerator=accelerator)
    scheduling = body(given)["scheduling"]
    is_spot = lifecycle == "spot"
    assert scheduling["automaticRestart"] is False
    assert scheduling["provisioningModel"] == ("SPOT" if is_spot else "STANDARD")
    moved = not is_spot and accelerator is None
    assert scheduling["onHostMaintenance"] == ("MIGRATE" if moved else "TERMINATE")
    ends = is_spot or age_max_s is not None
    assert scheduling.get("instanceTerminationAction") == ("DELETE" if ends else None)
    assert scheduling.get("maxRunDuration") == ({"seconds": "3600"} if age_max_s else None)


def test_an_early_notice_is_asked_for_spot_machines_only() -> None:
    config = CONFIG.model_copy(update={"preemption_notice_s": 120})
    assert body(order(), config)["scheduling"]["preemptionNoticeDuration"] == {"seconds": "120"}
    assert "preemptionNoticeDuration" not in body(order(lifecycle="on_demand"), config)["scheduling"]


def test_machine_and_disk_carry_all_marks_from_the_start() -> None:
    made = body(order())
    labels = made["labels"]
    assert labels[names.OWNER] == names.label("Own er")
    assert labels[names.CLUSTER] == names.label("c/1")
    assert (labels[names.POOL], labels[names.EPOCH], labels[names.PRICE]) == ("pool", "3", "20000")
    disk = made["disks"][0]
    assert disk["autoDelete"] is True
    assert disk["initializeParams"]["labels"] == labels
    marks = names.Marks(owner="Own er", cluster="c/1", key="Own er/pool/0/1/1")
    assert names.marks_of(disk["initializeParams"]["description"]) == marks
    assert made["description"] == disk["initializeParams"]["description"]
    held = metadata(made)
    assert held["ssh-keys"] == "everpool:ssh-ed25519 AAAA c"
    assert (held["enable-oslogin"], held["block-project-ssh-keys"]) == ("FALSE", "TRUE")


@pytest.mark.parametrize(
    ("more", "settings", "image", "size", "disk_type"),
    [
        ({}, {}, DEBIAN, "20", "pd-balanced"),
        ({"disk_gb": 50.2}, {}, DEBIAN, "51", "pd-balanced"),
        ({"disk_gb": 5}, {"disk_gb": 30}, None, "30", "pd-balanced"),
        ({"image": "projects/x/global/images/y"}, {}, "projects/x/global/images/y", "20", "pd-balanced"),
        ({"image": "mine"}, {}, "projects/my-project/global/images/mine", "20", "pd-balanced"),
        ({"architecture": "arm64"}, {}, f"{DEBIAN}-arm64", "20", None),
        ({"instance_type": "c4-standard-2"}, {}, None, "20", "hyperdisk-balanced"),
        ({"instance_type": "c4-standard-2"}, {"disk_type": "pd-ssd"}, None, "20", "pd-ssd"),
    ],
)  # fmt: skip
def test_the_disk_is_what_order_and_config_want(
    more: dict[str, Any], settings: dict[str, Any], image: str | None, size: str, disk_type: str | None
) -> None:
    config = GcpConfig.model_validate(CONFIG.model_dump() | settings)
    given = body(order(**more), config)["disks"][0]["initializeParams"]
    assert image in (None, given["sourceImage"])
    assert given["diskSizeGb"] == size
    assert disk_type is None or given["diskType"] == f"zones/us-central1-a/diskTypes/{disk_type}"


def test_network_accounts_and_labels_are_as_configured() -> None:
    config = GcpConfig.model_validate(
        CONFIG.model_dump()
        | {
            "network": "mine",
            "subnetwork": "sub",
            "external_ip": False,
            "service_account": "a@b",
            "labels": {"team": "x"},
            "network_tags": ("y",),
        }
    )
    made = body(order(), config)
    [interface] = made["networkInterfaces"]
    assert interface == {
        "network": "global/networks/mine",
        "subnetwork": "regions/us-central1/subnetworks/sub",
    }
    assert made["serviceAccounts"][0]["email"] == "a@b"
    assert made["labels"]["team"] == "x"
    assert made["tags"]["items"] == ["t", "y"]
    assert "serviceAccounts" not in body(order())


def test_the_same_order_gives_the_same_body() -> None:
    assert body(order()) == body(order())


def test_machines_of_a_bulk_have_their_own_names_and_keys() -> None:
    orders = [order(number) for number in range(50)]
    made = wire.bulk(CONFIG, orders, region="us-central1", tag="t")
    assert document("compute.v1").wrong("BulkInsertInstanceResource", made, sending=True) == []
    common = made["instanceProperties"]
    assert len(common["description"]) < 1000
    for one in orders:
        name = names.machine_name(one.key)
        assert name in made["perInstanceProperties"]
        shown = {
            **common, "name": name, "status": "RUNNING", "creationTimestamp": "2026-11-22T02:00:00.000-08:00",
        }  # fmt: skip
        seen = wire.sighting("gcp", shown, region="r", ssh_port=22, external_ip=True)
        assert seen is not None
        assert (seen.key, seen.epoch, wire.owner_of(shown)) == (one.key, 3, "Own er")
    shown = {**common, "name": "everpool-other", "status": "RUNNING"}
    assert wire.sighting("gcp", shown, region="r", ssh_port=22, external_ip=True) is None


def test_no_machine_of_a_bulk_can_read_a_host_key() -> None:
    orders = [order(number) for number in range(3)]
    said = str(wire.bulk(CONFIG, orders, region="us-central1", tag="t"))
    assert "PRIVATE KEY" not in said
    assert "startup-script" not in said
    assert host_key_in(metadata(body(orders[0]))["startup-script"]) == orders[0].host_key


def test_what_is_listed_of_a_machine_has_no_host_key_in_it() -> None:
    given = order()
    shown = {
        **body(given),
        "status": "RUNNING",
        "creationTimestamp": "2026-11-22T02:00:00.000-08:00",
        "zone": "zones/us-central1-a",
    }
    listed = selected(shown, selector(wire.MACHINE))
    whole = wire.sighting("gcp", shown, region="r", ssh_port=22, external_ip=True)
    assert whole is not None
    assert wire.sighting("gcp", listed, region="r", ssh_port=22, external_ip=True) == whole
    assert "PRIVATE KEY" not in str(listed)
    assert len(json.dumps(listed)) < 1000 < len(json.dumps(shown))


SHOWN: dict[str, Any] = {
    "name": "everpool-x",
    "status": "RUNNING",
    "creationTimestamp": "2026-11-22T02:00:00.250-08:00",
    "zone": "https://www.googleapis.com/compute/v1/projects/p/zones/us-central1-a",
    "machineType": "https://www.googleapis.com/compute/v1/projects/p/zones/us-central1-a/machineTypes/e2-medium",
    "labels": {names.PRICE: "1234", names.EPOCH: "7"},
    "description": names.Marks(owner="o", key="o/p/0/1/1").text(),
    "scheduling": {"provisioningModel": "SPOT"},
    "networkInterfaces": [{"networkIP": "10.0.0.2", "accessConfigs": [{"natIP": "203.0.113.9"}]}],
}


def test_a_listed_machine_is_seen_as_it_is() -> None:
    seen = wire.sighting("gcp", SHOWN, region="us-central1", ssh_port=2222, external_ip=True)
    assert seen is not None
    assert (seen.key, seen.epoch, seen.state, seen.lifecycle) == ("o/p/0/1/1", 7, "running", "spot")
    assert (seen.handle.ref, seen.handle.zone) == ("everpool-x", "us-central1-a")
    assert seen.launched_at == 1795341600.25
    assert (seen.micro_usd_per_hour, seen.instance_type) == (1234, "e2-medium")
    assert seen.address is not None
    assert (seen.address.host, seen.address.port, seen.address.private_host) == (
        "203.0.113.9",
        2222,
        "10.0.0.2",
    )


def test_without_a_public_address_the_private_one_is_the_way_in() -> None:
    seen = wire.sighting("gcp", SHOWN, region="r", ssh_port=22, external_ip=False)
    assert seen is not None and seen.address is not None
    assert seen.address.host == "10.0.0.2"


@pytest.mark.parametrize("description", [None, "mine", names.Marks(owner="o").text()])
def test_a_machine_without_our_marks_is_not_ours(description: str | None) -> None:
    shown = SHOWN | {"description": description}
    assert wire.sighting("gcp", shown, region="r", ssh_port=22, external_ip=True) is None


def test_every_state_of_the_vendor_s_document_has_a_meaning() -> None:
    states = document("compute.v1").enum("Instance", "status")
    seen = {}
    for status in states:
        shown = SHOWN | {"status": status}
        one = wire.sighting("gcp", shown, region="r", ssh_port=22, external_ip=True)
        assert one is not None
        seen[status] = one.state
    assert set(seen) == set(wire.STATES)
    assert {seen[one] for one in ("STOPPED", "TERMINATED", "SUSPENDED")} == {"stopped"}
    assert seen["STOPPING"] == "stopping"


def test_a_machine_that_runs_and_has_no_address_yet_is_pending() -> None:
    shown = SHOWN | {"networkInterfaces": [{"networkIP": "10.0.0.2"}]}
    seen = wire.sighting("gcp", shown, region="r", ssh_port=22, external_ip=True)
    assert seen is not None
    assert (seen.state, seen.address) == ("pending", None)


def test_the_start_up_script_installs_the_host_key_once(tmp_path: Path) -> None:
    private = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", private], check=True)
    etc, tools = tmp_path / "ssh", tmp_path / "tools"
    etc.mkdir()
    tools.mkdir()
    for old in ("ssh_host_rsa_key", "ssh_host_ed25519_key"):
        (etc / old).write_text("old")
        (etc / f"{old}.pub").write_text("old")
    (tools / "systemctl").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/restarts\n')
    (tools / "systemctl").chmod(0o755)
    script = wire.startup_script(private.read_text()).replace("/etc/ssh", str(etc))
    for _ in range(2):
        ran = subprocess.run(["sh", "-e", "-c", script], env={"PATH": f"{tools}:/usr/bin:/bin"}, check=False)
        assert ran.returncode == 0
        assert (etc / "ssh_host_ed25519_key").read_text() == private.read_text()
        assert (etc / "ssh_host_ed25519_key").stat().st_mode & 0o777 == 0o600
        public = (tmp_path / "key.pub").read_text().split()[:2]
        assert (etc / "ssh_host_ed25519_key.pub").read_text().split()[:2] == public
        assert sorted(one.name for one in etc.iterdir()) == [
            "ssh_host_ed25519_key",
            "ssh_host_ed25519_key.pub",
        ]
    assert (tmp_path / "restarts").read_text() == "restart ssh\n"
