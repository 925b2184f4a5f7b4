"""The vendor's JSON as our values, and back."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.model import Address
from providers.secret import SecretSource
from providers.vastai.asks import ask_of, bid_of, offer_of, search_body
from providers.vastai.config import VastaiConfig
from providers.vastai.wire import (
    MARKS,
    Marks,
    address_of,
    condition_of,
    key_of,
    label_of,
    marks_of,
    onstart_of,
    owner_of,
    place_of,
    written,
)

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB everpool"
ROW: dict[str, Any] = {
    "id": 7,
    "gpu_name": "RTX 4090",
    "num_gpus": 2,
    "gpu_ram": 24564,
    "cpu_cores": 64,
    "cpu_cores_effective": 12.8,
    "cpu_ram": 257_000,
    "dph_total": 0.51,
    "storage_total_cost": 0.01,
    "min_bid": 0.2,
    "disk_space": 300.0,
    "geolocation": "California, US",
}
RUNNING = {"actual_status": "running", "intended_status": "running", "cur_state": "running"}
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def config(**more: Any) -> VastaiConfig:
    return VastaiConfig(**({"api_key": SecretSource(env="NOWHERE"), "disk_gb": 10} | more))


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60))
def test_a_label_gives_its_key_back(key: str) -> None:
    label = label_of(key, "vast.1")
    assert key_of(label, "vast.1") == key
    assert key_of(label, "vast.2") is None
    assert "\n" not in label


@pytest.mark.parametrize(
    "label",
    [
        None,
        "",
        7,
        "everpool key= provider=v",
        "everpool key=o/p/0/1/1",
        "everpool key=o/p/0/1/1 provider=",
        "everpool key=o/p/0/1/1 provider=vv",
        "my everpool key=o/p/0/1/1 provider=v",
        "everpool key=o/p/0/1/1 provider=v (copy)",
        "everpool key=o/p/0/1/1 provider=v\n",
        "Everpool key=o/p/0/1/1 provider=v",
        "everpool key=o%2Fp/0/1/1 provider=v",  # not as we write it
    ],
)
def test_a_label_that_is_only_like_ours_is_not_ours(label: object) -> None:
    assert key_of(label, "v") is None


def test_an_owner_is_all_of_the_first_part() -> None:
    assert owner_of("owner-1/pool/0/1/1") == "owner-1"
    assert owner_of("owner-10/pool/0/1/1") != "owner-1"


@given(
    st.builds(
        Marks,
        cluster=texts,
        pool=texts,
        epoch=st.integers(0, 10**6),
        micro_usd_per_hour=st.none() | st.integers(0, 10**9),
        instance_type=texts,
        region=texts,
        zone=texts,
    )
)
def test_marks_are_read_as_they_were_written(marks: Marks) -> None:
    assert marks_of({"extra_env": [["A", "1"], [MARKS, written(marks)]]}) == marks
    assert marks_of({"extra_env": {MARKS: written(marks)}}) == marks


@pytest.mark.parametrize("env", [None, [], "text", [["A"]], [["EVERPOOL_MARKS", "epoch=x price=-1 =="]]])
def test_marks_that_can_not_be_read_are_empty(env: object) -> None:
    assert marks_of({"extra_env": env}) == Marks()


@pytest.mark.parametrize(
    ("row", "state", "word"),
    [
        ({"actual_status": None, "intended_status": "running"}, "pending", "scheduling"),
        ({"actual_status": "loading", "intended_status": "running"}, "pending", "loading"),
        ({"actual_status": "created", "intended_status": "running"}, "pending", "created"),
        ({"actual_status": "rebooting", "intended_status": "running"}, "pending", "rebooting"),
        (RUNNING, "running", ""),
        # dstack: when outbid all three are stopped
        (
            {"actual_status": "running", "is_bid": True}
            | dict.fromkeys(("cur_state", "next_state", "intended_status"), "stopped"),
            "stopped",
            "outbid",
        ),
        # another adapter: what is intended stays
        ({"actual_status": "stopped", "intended_status": "running", "is_bid": True}, "stopped", "outbid"),
        ({"actual_status": "exited", "intended_status": "running", "is_bid": True}, "stopped", "exited"),
        ({"actual_status": "stopped", "intended_status": "stopped", "is_bid": False}, "stopped", "unasked"),
        ({"actual_status": "frozen", "intended_status": "frozen"}, "stopped", "frozen"),
        ({"actual_status": "offline", "intended_status": "running"}, "running", "offline"),
        ({"actual_status": "unknown", "intended_status": "running"}, "running", "unknown"),
        ({"actual_status": "brand new", "intended_status": "running"}, "pending", "brand new"),
    ],
)
def test_states(row: dict[str, Any], state: str, word: str) -> None:
    condition = condition_of(row)
    assert condition.state == state
    assert word in condition.detail
    assert condition.offline == (row["actual_status"] in ("offline", "unknown"))


@pytest.mark.parametrize(
    ("row", "direct", "address"),
    [
        ({"public_ipaddr": "1.2.3.4 ", "ports": {"22/tcp": [{"HostPort": "2022"}]}}, True, ("1.2.3.4", 2022)),
        ({"public_ipaddr": "1.2.3.4", "ports": {"22/tcp": [{"HostPort": "2022"}]}}, False, ("proxy", 10)),
        ({"public_ipaddr": "1.2.3.4", "ports": None}, True, ("proxy", 10)),
        ({"public_ipaddr": "1.2.3.4", "ports": {"22/tcp": []}}, True, ("proxy", 10)),
        ({"public_ipaddr": None, "ports": {"22/tcp": [{"HostPort": "2022"}]}}, True, ("proxy", 10)),
        ({"ports": {"22/tcp": [{"HostPort": "x"}]}, "ssh_host": ""}, True, None),
    ],
)
def test_the_way_in_is_direct_where_there_is_one(
    row: dict[str, Any], direct: bool, address: tuple[str, int] | None
) -> None:
    found = address_of({"ssh_host": "proxy", "ssh_port": 10} | row, direct=direct)
    assert found == (None if address is None else Address(host=address[0], port=address[1]))


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ("California, US", ("US", "California")),
        ("Frankfurt am Main, Hesse, DE", ("DE", "Frankfurt am Main, Hesse")),
        (", SE", ("SE", "SE")),
        ("SE", ("SE", "SE")),
        (None, ("unknown", "unknown")),
        ("", ("unknown", "unknown")),
        ("A/B, US", ("US", "A-B")),
    ],
)
def test_places(said: object, place: tuple[str, str]) -> None:
    assert place_of(said) == place


def test_an_ask_says_what_it_surely_has() -> None:
    ask = ask_of(ROW, "on_demand", config())
    assert ask is not None
    shape = ask.shape
    # 12.8 of 64 cores, and so a fifth of the memory; rounded down to powers of two
    assert (shape.name, shape.vcpus, shape.memory_gb) == ("2x_RTX_4090_24GB-8c-32g", 8, 32)
    assert shape.accelerator is not None
    assert (shape.accelerator.name, shape.accelerator.count, shape.accelerator.memory) == (
        "RTX_4090",
        2,
        "24GB",
    )
    assert ask.micro_usd(10) == 510_000
    assert ask.micro_usd(30) == 530_000
    offer = offer_of("vast", [ask], config())
    assert (offer.micro_usd_per_hour, offer.on_demand_price, offer.spot_price) == (510_000, 0.51, None)
    assert offer.disk_gb == 300


@pytest.mark.parametrize(
    ("lowest", "most", "bid"),
    [
        (0.2, None, 0.22),
        (0.2, 0.215, 0.205),
        (0.0001, None, 0.001),
        (0.12345, None, 0.1358),
        (127, None, 128),
    ],
)
def test_a_bid_is_above_the_lowest_and_within_the_limit(
    lowest: float, most: float | None, bid: float
) -> None:
    assert bid_of(lowest, 0.01, config(max_price=most)) == bid


def test_a_spot_ask_costs_its_bid_and_its_disk() -> None:
    ask = ask_of(ROW, "spot", config())
    assert ask is not None
    assert (ask.bid, ask.micro_usd(10)) == (0.22, 230_000)
    assert ask_of(ROW, "spot", config(max_price=0.2)) is None  # the lowest bid is more than may be paid


@pytest.mark.parametrize(
    "missing", ["id", "gpu_name", "num_gpus", "gpu_ram", "cpu_ram", "cpu_cores", "dph_total", "min_bid"]
)
def test_an_ask_that_lacks_what_must_be_known_is_none(missing: str) -> None:
    for nothing in ({missing: None}, {}):
        row = {name: value for name, value in ROW.items() if name != missing} | nothing
        assert ask_of(row, "spot", config()) is None


def test_filters_are_in_the_units_of_the_api() -> None:
    body = search_body(
        config(
            gpu_names=["RTX_4090", "H100 SXM"],
            num_gpus=[1, 2],
            min_vram_gb=24,
            min_memory_gb=64,
            min_vcpus=8,
            min_inet_mbps=200,
            min_reliability=0.99,
            min_days=2,
            cuda_min=12.4,
            datacenter=True,
            countries=["US"],
            not_countries=["TW"],
            max_price=1.5,
            offers_max=50,
        ),
        "spot",
    )
    assert body["gpu_name"] == {"in": ["RTX 4090", "H100 SXM"]}
    assert body["gpu_ram"] == {"gte": 24_000}
    assert body["cpu_ram"] == {"gte": 64_000}
    assert body["duration"] == {"gte": 172_800}
    assert body["geolocation"] == {"in": ["US"], "notin": ["TW"]}
    assert body["inet_down"] == body["inet_up"] == {"gte": 200}
    assert (body["type"], body["limit"], body["allocated_storage"]) == ("bid", 50, 10)
    assert "verified" not in search_body(config(verified=False), "on_demand")


def test_the_start_script_lets_the_cluster_in_once(tmp_path: Path) -> None:
    script = onstart_of(KEY, "echo extra > /root/extra\n").replace("/root", str(tmp_path))
    keys = tmp_path / ".ssh" / "authorized_keys"
    keys.parent.mkdir()
    keys.write_text("ssh-ed25519 OTHER somebody")  # without an end of line
    for _ in range(2):
        subprocess.run(["/bin/sh", "-c", script], check=True)
    assert [line for line in keys.read_text().splitlines() if line] == ["ssh-ed25519 OTHER somebody", KEY]
    assert keys.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "extra").read_text() == "extra\n"
