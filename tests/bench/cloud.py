"""What the simulated cloud itself holds: machines, their agents, and the streams to them.

`python -m tests.bench.cloud COUNT` prints, as JSON, the KiB of a machine whose agent was greeted just now, of
one whose simulated disk is half full of records, and of one that has ended: a cloud never forgets a key.
"""

import gc
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from controller.simulation.clock import VirtualClock
from controller.simulation.virtual import run_virtual
from providers.agent.wire import Hello, Lease
from providers.contract import AgentChannel
from providers.model import ClusterOrder, Machine
from providers.simulated.adapter import SimulatedProvider
from providers.simulated.cloud import Cloud
from providers.simulated.config import Delay, SimulatedConfig
from tests.bench.house import memory_kib

OWNER, POOL, CLUSTER = "owner", "pool", "cluster"
LONG_S = 86_400.0
BOOTED_S = 600.0
LEASES = 32  # a spool is replaced by a snapshot after twice as many records


@asynccontextmanager
async def _greeted(provider: SimulatedProvider, machine: Machine) -> AsyncGenerator[AgentChannel]:
    async with provider.attach(machine) as channel:
        hello = Hello(
            owner=OWNER,
            instance=machine.instance_id,
            epoch=1,
            boot=None,
            acked=0,
            lease_s=LONG_S,
            slots=1,
            metrics_every_s=LONG_S,
        )
        await channel.send([hello.model_dump(mode="json")])
        await channel.receive()
        yield channel


async def _measure(count: int) -> dict[str, float]:
    clock, config = VirtualClock(0.0), SimulatedConfig(call_delay=Delay(least_s=0))
    cloud = Cloud("sim", config, clock.now)
    provider = SimulatedProvider("sim", config, clock=clock.now, cloud=cloud)
    cloud.open_cluster(ClusterOrder(cluster_id=CLUSTER, owner=OWNER, pool=POOL, region="sim", public_key=""))
    channels: list[AgentChannel] = []
    gc.collect()
    before = memory_kib(os.getpid())
    async with AsyncExitStack() as streams, anyio.create_task_group() as tasks:
        tasks.start_soon(cloud.run)
        for number in range(count):
            key = f"{OWNER}/{POOL}/{number}/1.1/1"
            cloud.plant(key, OWNER, cloud.offers[0], epoch=1, cluster_id=CLUSTER)
        await anyio.sleep(BOOTED_S)
        for machine in list(cloud.living.values()):
            assert machine.address is not None
            there = Machine(
                instance_id=machine.ref,
                handle=machine.handle("sim"),
                address=machine.address,
                ssh_user="sim",
                private_key_path="/keys/id",
                known_hosts_path="/keys/known_hosts",
            )
            channels.append(await streams.enter_async_context(_greeted(provider, there)))
        gc.collect()
        living = (memory_kib(os.getpid()) - before) / count
        lease = Lease(epoch=1, lease_s=LONG_S).model_dump(mode="json")
        for channel in channels:
            for _ in range(LEASES):
                await channel.send([lease])
        gc.collect()
        aged = (memory_kib(os.getpid()) - before) / count
        for number in range(count):
            key = f"{OWNER}/{POOL}/{number}/1.2/1"
            cloud.end(cloud.plant(key, OWNER, cloud.offers[0], epoch=1, cluster_id=CLUSTER), "over")
        await anyio.sleep(BOOTED_S)  # what was planned for them is over as well
        gc.collect()
        ended = (memory_kib(os.getpid()) - before) / count - aged
        tasks.cancel_scope.cancel()
    return {"living_kib": living, "aged_kib": aged, "ended_kib": ended}


if __name__ == "__main__":
    sys.stdout.write(f"{json.dumps(run_virtual(lambda: _measure(int(sys.argv[1])), 0))}\n")
