"""schemathesis over the fake Compute Engine, by Google's own discovery document."""

import json
from importlib.util import find_spec
from pathlib import Path

from tests.fakes.gcp.fake import PROJECT, FakeGcp
from tests.judges.fuzzing import fuzzed
from tests.judges.openapi import from_discovery

METHODS = (
    "projects.get", "regions.get", "regions.list", "networks.get", "images.get", "images.getFromFamily",
    "machineTypes.list", "instances.get", "instances.list", "instances.aggregatedList", "instances.insert",
    "instances.bulkInsert", "instances.delete", "disks.get", "disks.aggregatedList", "disks.delete",
    "firewalls.get", "firewalls.list", "firewalls.insert", "firewalls.delete", "zoneOperations.get",
    "zoneOperations.list", "globalOperations.get", "globalOperations.aggregatedList",
)  # fmt: skip
VALUES = {"project": (PROJECT,), "zone": ("us-central1-a", "europe-west4-a"), "region": ("us-central1",)}


def test_what_the_document_allows_is_answered_and_the_rest_refused(tmp_path: Path) -> None:
    package = find_spec("googleapiclient")
    assert package is not None and package.origin is not None
    path = Path(package.origin).parent / "discovery_cache/documents/compute.v1.json"
    document = json.loads(path.read_bytes())
    schema = tmp_path / "compute.json"
    methods = [f"compute.{name}" for name in METHODS]
    schema.write_text(json.dumps(from_discovery(document, methods, VALUES)))
    fake = FakeGcp()
    with fake.serving() as url:
        headers = {"Authorization": f"Bearer {fake.token()}", "X-Goog-Api-Version": "2026-11-01"}
        told = fuzzed(schema, f"{url}/compute/v1", headers, examples=15)
    assert told["operations"]["tested"] == len(METHODS), told
