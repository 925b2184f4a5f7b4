"""From a vendor's notice to its replacement's launch call arriving there, with a real daemon.

`python -m tests.bench.vendor_replacement [--json] [--quick]`

The daemon is a process of its own; the vendors are the tests' fakes in this process, over HTTP on loopback;
behind each machine is a real ssh server in which the agent runs. A sample begins when the fake sets the
notice, and ends when the fake hears the call that makes a machine. What the vendor itself takes to tell is
not in it, nor are waits for the vendor's rate limits, which are set out of reach. By metadata of aws, what is
waited for is mostly the agent's next look, every 2 s as aws advises; queue and metadata of gcp are waited at.
"""

import argparse
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from actors.events import PoolRequested
from tests.real.rig import Rig, pool_spec, until
from tests.real.vendors import AwsVendor, GcpVendor

WITHIN_S = 60.0
LEAD_S = 120.0
LOOK_S = 0.001  # how often it is seen whether the call has come; in each sample


@dataclass(frozen=True, slots=True)
class Way:
    """One way in which a notice comes."""

    name: str
    vendor: Callable[[ExitStack, Path], AwsVendor | GcpVendor]
    spread_s: float  # each notice is set at a random moment of so long


def _queue(stack: ExitStack, root: Path) -> AwsVendor:
    return AwsVendor(stack, root, imds=False)


def _imds(stack: ExitStack, root: Path) -> AwsVendor:
    return AwsVendor(stack, root, queue=False)


def _gcp(stack: ExitStack, root: Path) -> GcpVendor:
    vendor = GcpVendor(stack, root)
    vendor.fake.controls.lose_push = True  # the list of preempted operations
    return vendor


WAYS = (
    Way("aws_sqs", _queue, 2.0),
    Way("aws_imds", _imds, 2.0),
    Way("gcp_metadata", _gcp, 2.0),
)


def measure(way: Way, nodes: int, rounds: int, say: Callable[[str], None]) -> list[float]:
    """Seconds from each notice to the launch call, one at a time; every node is taken once a round."""
    dice, waits = random.Random(1), list[float]()
    with tempfile.TemporaryDirectory(prefix="everpool-", ignore_cleanup_errors=True) as directory:
        rig = Rig(Path(directory))
        with ExitStack() as stack:
            stack.callback(rig.end)
            vendor = way.vendor(stack, rig.root)
            rig.configure(rest=vendor.toml)
            rig.start()
            spec = pool_spec(nodes, provider=vendor.name, drain_timeout=5)
            asked = rig.client.submit(PoolRequested(pool="main", spec=spec)).request_id
            rig.end_of(asked, WITHIN_S)
            for number in range(rounds):
                refs = _whole(rig, nodes)
                time.sleep(2.5)  # agents look at once when they start, and calls were used up
                for ref in refs:
                    time.sleep(dice.random() * way.spread_s)
                    waits.append(_one(vendor, ref))
                say(f"  {way.name}, round {number + 1}: {_shown(waits)}")
            rig.down(within_s=WITHIN_S)
    return waits


def _whole(rig: Rig, nodes: int) -> list[str]:
    """The machines, once every node is filled, and those that were taken are gone."""

    def ready() -> list[str] | None:
        there = rig.client.instances("main")
        refs = [str(one["ref"]) for one in there if one["status"] == "ready"]
        return refs if len(refs) == len(there) == nodes else None

    return until(ready, "the pool is whole", WITHIN_S)


def _one(vendor: AwsVendor | GcpVendor, ref: str) -> float:
    calls, began = vendor.creates(), time.perf_counter()
    vendor.fake.preempt(ref, LEAD_S)
    while vendor.creates() == calls:
        waited_s = time.perf_counter() - began
        if waited_s > WITHIN_S:
            raise TimeoutError(f"no launch call within {WITHIN_S:g} s of the notice to {ref}")
        time.sleep(LOOK_S)
    return time.perf_counter() - began


def _at(waits: Sequence[float], share: float) -> float:
    return sorted(waits)[math.ceil(len(waits) * share) - 1]


def _shown(waits: Sequence[float]) -> str:
    p50, p99 = _at(waits, 0.5) * 1000, _at(waits, 0.99) * 1000
    return f"n {len(waits)}, p50 {p50:.0f} ms, p99 {p99:.0f} ms, max {max(waits) * 1000:.0f} ms"


def main() -> int:
    """Measure all ways, then print lines or one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.vendor_replacement", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, all else on stderr")
    parser.add_argument("--quick", action="store_true", help="few samples, to see that it works")
    parser.add_argument("--only", choices=[way.name for way in WAYS], action="append")
    options = parser.parse_args()

    def say(text: str) -> None:
        stream = sys.stderr if options.json else sys.stdout
        stream.write(f"{text}\n")
        stream.flush()

    nodes, rounds = (3, 1) if options.quick else (10, 4)
    figures: dict[str, float] = {}
    for way in WAYS:
        if options.only and way.name not in options.only:
            continue
        waits = measure(way, nodes, rounds, say)
        say(f"{way.name:14} notice to launch call: {_shown(waits)}")
        figures |= {
            f"{way.name}_n": len(waits),
            f"{way.name}_p50_ms": round(_at(waits, 0.5) * 1000, 1),
            f"{way.name}_p99_ms": round(_at(waits, 0.99) * 1000, 1),
            f"{way.name}_max_ms": round(max(waits) * 1000, 1),
        }
    if options.json:
        sys.stdout.write(f"{json.dumps(figures)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
