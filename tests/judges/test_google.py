"""google-cloud-compute drives the fake, and reads what our adapter sends to it."""

import json
from pathlib import Path

import anyio

from providers.gcp.adapter import GcpProvider
from providers.host.keys import KeyStore
from providers.model import ClusterOrder, Handle, Order
from tests.contract.gcp import config_of
from tests.contract.harness import AGENT_SOURCE, OWNER
from tests.fakes.gcp.fake import FakeGcp
from tests.judges.judging import judged


async def launch(fake: FakeGcp, url: str, directory: Path, *, bulk: int | None) -> None:
    """Three machines in each market, one by one or by one call."""
    config = config_of(url, directory, fake, bulk=bulk, zones=("us-central1-a",), preemption_notice_s=60)
    provider = GcpProvider("gcp", config, directory / "p", AGENT_SOURCE)
    keys = KeyStore(directory / "keys")
    public = keys.cluster_key("c1")[1]
    cluster = await provider.open_cluster(
        ClusterOrder(cluster_id="c1", owner=OWNER, pool="pool", region="us-central1", public_key=public)
    )
    for number, offer in enumerate(await provider.offers()):
        orders = [
            Order(
                key=f"{OWNER}/pool/{node}/1/{number}-{bulk}",
                owner=OWNER,
                epoch=3,
                pool="pool",
                node=node,
                instance_id=f"pool-{node}-{number}-{bulk}",
                offer=offer,
                cluster=cluster,
                public_key=public,
                host_key=keys.host_key("c1", f"pool-{node}-{number}-{bulk}"),
                age_max_s=3600,
                disk_gb=30,
            )
            for node in range(3)
        ]
        handles = await provider.launch(orders)
        assert all(isinstance(one, Handle) for one in handles), handles
    await provider.aclose()


def test_google_cloud_compute_drives_the_fake_and_reads_our_bodies(tmp_path: Path) -> None:
    fake = FakeGcp()
    with fake.serving() as url:
        for bulk in (None, 3):
            anyio.run(lambda bulk=bulk: launch(fake, url, tmp_path, bulk=bulk))  # type: ignore[misc]
        methods = {"firewalls.insert", "instances.insert", "instances.bulkInsert"}
        assert {method for method, _ in fake.bodies} == methods
        bodies = tmp_path / "bodies.json"
        bodies.write_text(json.dumps(fake.bodies))
        verdict = judged("google_compute.py", url, fake.token(), str(bodies))
    assert verdict.failed == ()
    assert verdict.checks >= 25 + len(json.loads(bodies.read_text()))
    assert fake.controls.violations == []
