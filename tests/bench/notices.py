"""From a preemption notice to the launch call of the replacement.

`python -m tests.bench.notices NODES SINGLE` prints the milliseconds of each single notice, and the seconds
that all launch calls took when all nodes had their notice at once.
"""

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio

from actors.events import PoolRequested
from actors.spec import Nodes, PoolSpec
from controller.daemon import Daemon
from providers.simulated.cloud import Machine
from tests.bench.inside import POOL, ask, live, ready, tapped, until
from tests.bench.report import Figures, Say
from tests.bench.runs import answer_of

LEAD_S = 120.0
APART_S = 0.08  # each notice makes two calls, and the account allows 50 a second
REFILL_S = 8.0  # until the account's burst of calls is there again


def measure(figures: Figures, say: Say, *, quick: bool) -> None:
    """One at a time, then all at once."""
    nodes, single = (200, 50) if quick else (1_000, 300)
    say(f"notices: {single} one at a time in a pool of {nodes} simulated nodes, then {nodes} at once")
    answer = answer_of("tests.bench.notices", str(nodes), str(single))
    waits = sorted(answer["single_ms"])
    figures.put("notice_to_launch_p50_ms", waits[len(waits) // 2])
    figures.put("notice_to_launch_p99_ms", waits[math.ceil(len(waits) * 0.99) - 1])
    figures.put("burst_notices_s", answer["burst_s"])
    figures.put("nodes_up_cpu_ms", answer["up_cpu_s"] * 1000 / nodes)
    say(f"  p50 {figures.get('notice_to_launch_p50_ms')} ms, p99 {figures.get('notice_to_launch_p99_ms')} ms")
    say(f"  all at once: {answer['burst_s']:.3f} s")


def _node(machine: Machine) -> int:
    return int(machine.key.split("/")[2])


async def _run(daemon: Daemon, nodes: int, single: int) -> dict[str, Any]:
    provider = tapped(daemon)
    cloud, launches = provider.cloud, provider.launches()
    used = time.process_time()
    await ask(daemon, PoolRequested(pool=POOL, spec=PoolSpec(provider=("sim",), nodes=Nodes(desired=nodes))))
    await until(lambda: ready(daemon) == nodes)
    up_cpu_s = time.process_time() - used
    await anyio.sleep(REFILL_S)
    waits = []
    for machine in list(cloud.living.values())[:single]:
        node, began = _node(machine), time.perf_counter()
        launches.pop(node, None)
        cloud.preempt(machine, LEAD_S)
        await until(lambda: node in launches, 0.0005)  # noqa: B023
        waits.append((launches[node] - began) * 1000)
        await anyio.sleep(APART_S)
    await until(lambda: len(cloud.living) == nodes and ready(daemon) == nodes)
    await anyio.sleep(REFILL_S)
    launches.clear()
    began = time.perf_counter()
    for machine in list(cloud.living.values()):
        cloud.preempt(machine, LEAD_S)
    await until(lambda: len(launches) == nodes, 0.005)
    return {"single_ms": waits, "burst_s": max(launches.values()) - began, "up_cpu_s": up_cpu_s}


def main() -> None:
    """Run it in this process."""
    nodes, single = int(sys.argv[1]), int(sys.argv[2])

    async def then(daemon: Daemon) -> None:
        sys.stdout.write(f"{json.dumps(await _run(daemon, nodes, single))}\n")

    with tempfile.TemporaryDirectory(prefix="everpool-bench-") as directory:
        live(Path(directory) / "state", lambda _: None, then)


if __name__ == "__main__":
    main()
