"""What a scrape of /metrics costs a daemon with many nodes: of its loop, of its processor, and in bytes."""

import statistics
import time
from types import SimpleNamespace

import anyio

from actors.instance import state as instances
from actors.node import state as nodes
from actors.pool import state as pools
from actors.ports import Commit, StateRow
from actors.spec import PoolSpec
from controller.telemetry.series import Series, new_registry
from controller.telemetry.sources import Sources
from providers.model import MICRO, ClusterHandle, Handle, InstanceType, Offer
from tests.bench.report import Figures, Say

POOLS = 50
NODES = 10_000
RUNS = 9
OFFER = Offer(
    id="o",
    instance_type=InstanceType(name="small", vcpus=1, memory_gb=1),
    provider="sim",
    micro_usd_per_hour=MICRO,
)
CLUSTER = ClusterHandle(cluster_id="c", provider="sim", region="", ssh_user="u")


def measure(figures: Figures, say: Say, *, quick: bool) -> None:
    """All nodes are ready, each on a machine with a stream to its agent."""
    count = 1_000 if quick else NODES
    say(f"scrape: /metrics with {count} nodes in {POOLS} pools")
    now = 1_000.0
    links = SimpleNamespace(
        links={f"{i}": SimpleNamespace(up=True, lease_until=5_000.0) for i in range(count)}, reconnects=0
    )
    series = Series(
        new_registry(),
        providers=["sim"],
        now=lambda: now,
        sources=Sources(now=lambda: now, links=links),
    )
    for i in range(POOLS):
        series.committed(Commit(f"p{i}", _pool(f"p{i}", count // POOLS), []))
    collected, whole, text = list[float](), list[float](), b""
    for _ in range(RUNS):
        now += 15
        began = time.process_time()
        found = list(series.on_loop.collect())
        collected.append(time.process_time() - began)
        began = time.process_time()
        text = anyio.run(series.exposed)
        whole.append(time.process_time() - began)
        assert found
    figures.put("scrape_loop_ms", statistics.median(collected) * 1e3)
    figures.put("scrape_cpu_ms", statistics.median(whole) * 1e3)
    figures.put("scrape_kb", len(text) / 1e3)
    say(
        f"  {figures.get('scrape_loop_ms')} ms in the loop, {figures.get('scrape_cpu_ms')} ms of cpu in all, "
        f"{figures.get('scrape_kb')} kB, {text.count(bytes([10]))} lines"
    )


def _pool(name: str, count: int) -> list[StateRow]:
    spec = PoolSpec(provider=("sim",))
    rows = [StateRow("pool", name, 1, pools.Active(name=name, generation=1, spec=spec, desired=count))]
    for node in range(count):
        machine = instances.Ready(
            id=f"{name}-{node}",
            key="k",
            pool=name,
            node=node,
            request_id="r",
            offer=OFFER,
            cluster=CLUSTER,
            created_at=900.0,
            since=900.0,
            handle=Handle(provider="sim", ref=f"{name}-{node}"),
            launched_at=900.0,
        )
        filled = nodes.Filled(pool=name, generation=1, node=node, since=900.0, instance_id=machine.id)
        rows += [StateRow("instance", machine.id, 1, machine), StateRow("node", str(node), 1, filled)]
    return rows
