"""What a simulated machine takes of memory by itself.

`python -m tests.bench.machines COUNT` prints the KiB of one.
"""

import gc
import os
import sys
import time

import anyio

from providers.simulated.cloud import Cloud
from providers.simulated.config import Delay, SimulatedConfig
from tests.bench.house import memory_kib

NOW = Delay(least_s=0)


async def _main(count: int) -> float:
    config = SimulatedConfig(call_delay=NOW, boot_delay=NOW, visible_within_s=0)
    cloud = Cloud("sim", config, time.time)
    gc.collect()
    before = memory_kib(os.getpid())
    for number in range(count):
        cloud.plant(f"owner/pool/{number}/1/1", "owner", cloud.offers[0])
    cloud.timeline.happen_due()
    gc.collect()
    return (memory_kib(os.getpid()) - before) / count


if __name__ == "__main__":
    sys.stdout.write(f"{anyio.run(_main, int(sys.argv[1]))}\n")
