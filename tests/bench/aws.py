"""200 machines of aws: which calls are made and how long it takes, against one call per machine and step.

    python -m tests.bench.aws [--machines N] [--json]

The vendor is moto in this process, so that most of the time is moto's: it is the calls that count. What the
vendor's own limit of two launches a second would make of them is reckoned beside it.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio

from providers.aws.adapter import AwsProvider
from providers.model import Handle, Sighting
from tests.providers.aws.account import OWNER, Account, account, offer_of

BURST, PER_S = 5, 2.0  # RunInstances: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html


async def run(number: int, launch_batch: int, fleet: bool) -> dict[str, Any]:
    """Launch, see all running, end, see all gone."""
    with tempfile.TemporaryDirectory() as directory, account(Path(directory)) as there:
        result = await _measured(there, number, launch_batch, fleet)
        for made in there.made:
            await made.aclose()
        assert there.fake.alive() == []
    return result


async def _measured(there: Account, number: int, launch_batch: int, fleet: bool) -> dict[str, Any]:
    fleets = [{"name": "mixed", "types": ["t3.small", "t3.medium"]}] if fleet else []
    provider = there.provider(
        launch_batch=launch_batch, fleets=fleets, instance_types=("t3.small", "t3.medium")
    )
    offers = await provider.offers()
    offer = offer_of(offers, kind="fleet:mixed", zone="any") if fleet else offer_of(offers)
    cluster = await there.cluster(provider)
    alone = provider.capabilities.host_keys
    orders = [there.order(node, offer, cluster, host_key=alone) for node in range(number)]
    calls = there.fake.controls.calls
    calls.clear()
    begun = time.perf_counter()
    handles: list[Handle] = []
    size = provider.capabilities.launch_batch_max
    for start in range(0, number, size):
        outcomes = await provider.launch(orders[start : start + size])
        handles += [one for one in outcomes if isinstance(one, Handle)]
    launched_s = time.perf_counter() - begun
    assert len({handle.ref for handle in handles}) == number
    await _until(provider, lambda seen: sum(one.state == "running" for one in seen) == number)
    size = provider.capabilities.terminate_batch_max
    for start in range(0, number, size):
        assert set(await provider.terminate(handles[start : start + size])) == {None}
    await _until(provider, lambda seen: all(one.ended_at is not None for one in seen))
    launches = calls["RunInstances"] + calls["CreateFleet"]
    return {
        "machines": number,
        "launch_batch": launch_batch,
        "fleet": fleet,
        "calls": dict(sorted(calls.items())),
        "calls_in_all": sum(calls.values()),
        "one_by_one": number * 4,  # launch it, see it running, end it, see it gone: each at the first look
        "launch_s": round(launched_s, 2),
        "wall_s": round(time.perf_counter() - begun, 2),
        "launches_by_the_vendors_limit_s": max(0.0, (launches - BURST) / PER_S),
    }


async def _until(provider: AwsProvider, true: Callable[[Sequence[Sighting]], bool]) -> None:
    """List until it is so."""
    with anyio.fail_after(120):
        while True:
            if true((await provider.observe(OWNER)).sightings):
                return
            await anyio.sleep(0.05)


def main() -> None:
    """Measure each way to launch and print it."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.aws")
    parser.add_argument("--machines", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    ways = ((1, False), (50, False), (100, False), (100, True))
    results = [anyio.run(run, args.machines, batch, fleet) for batch, fleet in ways]
    if args.json:
        json.dump(results, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    for one in results:
        way = f"{'fleet' if one['fleet'] else 'run'}, {one['launch_batch']} a call"
        calls = ", ".join(f"{name} {times}" for name, times in one["calls"].items())
        sys.stdout.write(
            f"{way}: {one['calls_in_all']} calls ({one['one_by_one']} one by one), "
            f"launched in {one['launch_s']} s, all in {one['wall_s']} s; "
            f"the vendor's limit adds {one['launches_by_the_vendors_limit_s']:g} s: {calls}\n"
        )


if __name__ == "__main__":
    main()
