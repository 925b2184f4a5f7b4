"""The vendor's SDK and our adapter say the same to vast.ai."""

import json
from pathlib import Path
from typing import Any

import anyio

from providers.host.keys import KeyStore
from providers.model import ClusterHandle, Handle, Offer, Order
from providers.secret import SecretSource
from providers.vastai.adapter import VastaiProvider
from providers.vastai.config import RegistryLogin
from tests.contract.harness import OWNER
from tests.contract.vastai import config_for
from tests.fakes.serving import served
from tests.fakes.vastai.fake import API_KEY, FakeVastai
from tests.judges.judging import judged
from tests.judges.vastai_sdk import CONFIG, REGISTRY


async def our_requests(url: str, directory: Path, fake: FakeVastai) -> dict[str, Any]:
    """What our adapter sends for the judge's intent, by what it is."""
    user, password, server = REGISTRY
    file = directory / "registry"
    file.write_text(password)
    file.chmod(0o600)
    registry = RegistryLogin(username=user, password=SecretSource(file=file), server=server)
    config = config_for(url, directory, registry=registry, **CONFIG)
    provider = VastaiProvider("vastai", config, directory / "p", b"")
    offers: dict[str, Offer] = {offer.lifecycle: offer for offer in await provider.offers()}
    public = KeyStore(directory / "keys").cluster_key("c1")[1]
    cluster = ClusterHandle(cluster_id="c1", provider="vastai", region="US", ssh_user="root")
    orders = [
        Order(
            key=f"{OWNER}/pool/{node}/1/1",
            owner=OWNER,
            epoch=3,
            pool="pool",
            node=node,
            instance_id=f"pool-{node}",
            offer=offers[lifecycle],
            cluster=cluster,
            public_key=public,
        )
        for node, lifecycle in enumerate(("on_demand", "spot"))
    ]
    handles = [one for order in orders for one in await provider.launch([order]) if isinstance(one, Handle)]
    await provider.observe(OWNER)
    listed = fake.requests[-1]
    await provider.terminate(handles)
    destroyed = fake.requests[-1]
    await provider.check(OWNER)
    await provider.aclose()
    by_name: dict[str, list[Any]] = {}
    for one in fake.requests:
        by_name.setdefault(one["name"], []).append(one)
    return {
        "search": by_name["search"][0],
        "search_bids": by_name["search"][1],
        "create": by_name["create"][0],
        "bid": by_name["create"][1],
        "list": listed,
        "destroy": destroyed,
        "user": by_name["user"][0],
    }


def test_the_sdk_sends_what_we_send_and_reads_what_the_fake_says(tmp_path: Path) -> None:
    fake = FakeVastai()
    with served(fake) as url:
        ours = anyio.run(our_requests, url, tmp_path, fake)
        verdict = judged("vastai_sdk.py", url, API_KEY, stdin=json.dumps(ours))
    assert verdict.failed == ()
    assert verdict.checks > 50
    assert fake.controls.violations == []
    assert fake.alive() == []
