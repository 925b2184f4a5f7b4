"""Prices from the catalog's SKUs."""

import pytest

from providers.gcp.offers import accelerator_of
from providers.gcp.prices import Shape, parts_of, price_of
from tests.fakes.gcp.skus import SKUS, sku

PARTS = parts_of(SKUS)


def test_a_machine_costs_its_parts() -> None:
    shape = Shape("e2-standard-2", 2, 8)
    assert price_of(PARTS, shape, "us-central1", "on_demand") == round((2 * 0.02 + 8 * 0.003) * 1e6)
    assert price_of(PARTS, shape, "us-central1", "spot") == round((2 * 0.006 + 8 * 0.001) * 1e6)


def test_a_shared_core_costs_its_share() -> None:
    price = price_of(PARTS, Shape("e2-micro", 2, 1), "us-central1", "on_demand")
    assert price == round((0.25 * 0.02 + 0.003) * 1e6)


def test_accelerators_are_paid_too() -> None:
    shape = Shape("g2-standard-4", 4, 16, (("nvidia-l4", 1),))
    assert price_of(PARTS, shape, "us-central1", "spot") == round((4 * 0.01 + 16 * 0.001 + 0.22) * 1e6)
    unknown = Shape("g2-standard-4", 4, 16, (("nvidia-l5", 1),))
    assert price_of(PARTS, unknown, "us-central1", "spot") is None


@pytest.mark.parametrize(
    ("name", "region", "lifecycle"),
    [
        ("n2-standard-2", "us-central1", "spot"),  # only on demand is listed
        ("e2-standard-2", "mars-north1", "spot"),
        ("c9-standard-4", "us-central1", "on_demand"),
        ("e2-standard-2-lssd", "us-central1", "on_demand"),
        ("f1-micro", "us-central1", "on_demand"),
    ],
)
def test_what_is_not_wholly_known_has_no_price(name: str, region: str, lifecycle: str) -> None:
    kind = "spot" if lifecycle == "spot" else "on_demand"
    assert price_of(PARTS, Shape(name, 2, 8), region, kind) is None  # type: ignore[arg-type]


DESCRIPTIONS = {
    "N1 Predefined Instance Core running in Americas": "n1 core",
    "N2D AMD Instance Ram running in Virginia": "n2d ram",
    "Compute optimized Core running in Americas": "c2 core",
    "Spot Preemptible Compute optimized Ram running in Americas": "c2 ram",
    "Preemptible N1 Predefined Instance Core running in Iowa": "n1 core",
    "C4A Arm Instance Core running in Paris": "c4a core",
    "Nvidia Tesla T4 GPU running in Americas": "gpu t4",
    "Nvidia Tesla A100 80GB GPU running in Iowa": "gpu a100 80gb",
    "Nvidia H100 80GB GPU attached to Spot Preemptible VMs running in Iowa": "gpu h100 80gb",
    "N1 Custom Instance Core running in Americas": None,
    "N2 Sole Tenancy Instance Ram running in Americas": None,
    "DWS Defined Duration A3 Instance Core running in Iowa": None,
    "Licensing Fee for Windows Server on N1 (CPU cost)": None,
    "Storage PD Capacity": None,
}


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_what_a_sku_is_is_in_its_description(description: str) -> None:
    unit = "GiBy.h" if " Ram " in description else "h"
    found = {part for _, _, part in parts_of([sku(1, description, "OnDemand", 0.5, unit)])}
    expected = DESCRIPTIONS[description]
    assert found == ({expected} if expected else set())


def test_a_price_in_another_unit_is_none_of_ours() -> None:
    assert parts_of([sku(1, "E2 Instance Core running in Americas", "OnDemand", 0.5, "GiBy.mo")]) == {}
    assert parts_of([{"description": "E2 Instance Core running in Americas"}]) == {}


@pytest.mark.parametrize(
    ("vendor_name", "name", "memory"),
    [
        ("nvidia-l4", "L4", "24GB"),
        ("nvidia-tesla-t4", "T4", "16GB"),
        ("nvidia-tesla-a100", "A100", "40GB"),
        ("nvidia-a100-80gb", "A100-80GB", "80GB"),
        ("nvidia-h100-80gb", "H100", "80GB"),
        ("nvidia-h100-mega-80gb", "H100-MEGA-80GB", "80GB"),
    ],
)
def test_accelerators_have_the_names_people_use(vendor_name: str, name: str, memory: str) -> None:
    found = accelerator_of([{"guestAcceleratorType": vendor_name, "guestAcceleratorCount": 8}])
    assert found is not None
    assert (found.name, found.memory, found.count) == (name, memory, 8)
