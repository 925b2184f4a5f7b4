"""How long one decision of placement takes, and what memory it needs over a virtual month.

    python -m tests.bench.placement [--nodes N] [--markets N] [--policy NAME]… [--json] [--quick]

Placement is asked as a pool would ask it: once for a pool that has nothing and asks for everything, then for
one that has nearly everything while ten nodes ask, every few minutes for a virtual month in which prices and
memories of markets move. Times are of the processor, so that others on the machine do not count.
"""

import argparse
import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import get_args

from actors.buying import Buying, PolicyName
from actors.market.state import MarketState
from actors.policy.budget import NO_LIMIT
from actors.policy.placement import place
from actors.policy.situation import Asking, Held, Plan, Situation, market_name
from actors.spec import Nodes, PoolSpec
from providers.model import MICRO, Capabilities, InstanceType, Lifecycle, Offer

GATE_MS = 50.0
START = 1_700_000_000.0
MONTH_S = 30 * 86_400.0
BOOT_S = 180.0
TURNS_FIRST = 30  # decisions in which everything asks
TURNS_QUICK = 200
EVERY_S = 300.0  # between decisions of the month
ASKING = 10
CAPABILITIES = Capabilities(
    spot=True,
    notice_s=None,
    launch_batch_max=100,
    dead_man_switch=True,
    tags=True,
    billing_unit="second",
    visible_within_s=60,
    machines_max=100_000,
)


@dataclass(slots=True)
class World:
    """What a situation is made of."""

    dice: Random
    offers: list[Offer]
    markets: dict[str, MarketState]
    nodes: int
    policy: PolicyName

    def situation(self, now: float, asking: tuple[Asking, ...], held: tuple[Held, ...]) -> Situation:
        """A pool's situation at one moment."""
        return Situation(
            spec=PoolSpec(
                provider=("cloud",), nodes=Nodes(desired=self.nodes), buying=Buying(policy=self.policy)
            ),
            nodes=self.nodes,
            spares=0,
            asking=asking,
            held=held,
            offers={"cloud": tuple(self.offers)},
            offers_at={"cloud": now},
            capabilities={"cloud": CAPABILITIES},
            markets=self.markets,
            failures={},
            rejections={},
            down={},
            boot_s=BOOT_S,
            allowance=NO_LIMIT,
            now=now,
        )

    def move_on(self, now: float) -> None:
        """Some prices change, some markets close or open."""
        for _ in range(5):
            index = self.dice.randrange(len(self.offers))
            offer = self.offers[index]
            price = round(offer.micro_usd_per_hour * self.dice.uniform(0.9, 1.1))
            self.offers[index] = offer.model_copy(update={"micro_usd_per_hour": price})
            offer = self.dice.choice(self.offers)
            self.markets[market_name(offer)] = memory(offer, self.dice, now)


def world(nodes: int, markets: int, policy: PolicyName, seed: int = 1) -> World:
    """A pool of so many nodes, over so many markets with memories."""
    dice = Random(seed)
    offers: list[Offer] = []
    for index in range(markets):
        lifecycle: Lifecycle = "on_demand" if index % 5 == 0 else "spot"
        kind = InstanceType(name=f"type-{index % 10}", vcpus=8, memory_gb=32)
        dollars = dice.uniform(0.2, 0.6) * (3 if lifecycle == "on_demand" else 1)
        offers.append(
            Offer(
                id=f"offer-{index}",
                instance_type=kind,
                provider="cloud",
                region=f"region-{index // 50}",
                zone=f"region-{index // 50}-{index // 10 % 5}",
                lifecycle=lifecycle,
                micro_usd_per_hour=round(dollars * MICRO),
            )
        )
    known = {market_name(offer): memory(offer, dice, START) for offer in offers}
    return World(dice, offers, known, nodes, policy)


def memory(offer: Offer, dice: Random, now: float) -> MarketState:
    """A market that is open, or closed, for some time."""
    closed = dice.random() < 0.3
    bad_at = now - dice.uniform(10, 20_000)
    return MarketState(
        market=offer.market,
        launches=dice.randrange(100),
        losses=dice.randrange(30),
        last_launch_at=now - dice.uniform(20_000, 50_000),
        last_refusal_at=bad_at if closed else None,
        good_at=now - dice.uniform(0, 20_000),
        bad_at=bad_at if closed else None,
        closed_since=bad_at - dice.uniform(0, 5_000) if closed else None,
        up_since=now - dice.uniform(0, 200_000),
        events=dice.uniform(0, 10),
        expected=dice.uniform(0, 10),
        decayed_at=now,
    )


def asking(nodes: range, now: float) -> tuple[Asking, ...]:
    """These nodes want a machine, and have none."""
    return tuple(Asking(node, now, ()) for node in nodes)


def held(world_: World, nodes: range, now: float) -> tuple[Held, ...]:
    """These nodes have one, in some of the markets."""
    some = world_.dice.sample(world_.offers, min(60, len(world_.offers)))
    return tuple(
        Held(
            node=node,
            instance_id=f"i-{node}",
            offer=world_.dice.choice(some),
            launched_at=now - world_.dice.uniform(0, 100_000),
            ready=True,
            movable=True,
            busy=node % 2,
        )
        for node in nodes
    )


def timed(situation: Situation) -> tuple[float, Plan]:
    """Milliseconds of processor time of one decision, and the plan."""
    began = time.process_time()
    plan = place(situation)
    return (time.process_time() - began) * 1000, plan


def rss_mb() -> float:
    """Memory of this process now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def measured(
    nodes: int, markets: int, policy: PolicyName, *, quick: bool, say: Callable[[str], None]
) -> Mapping[str, float]:
    """Figures of one policy."""
    here = world(nodes, markets, policy)
    first: list[float] = []
    for turn in range(TURNS_FIRST):
        took, plan = timed(here.situation(START + turn, asking(range(nodes), START), ()))
        first.append(took)
        assert plan.choices
    figures = {"all_ask_median_ms": statistics.median(first), "all_ask_p99_ms": max(first)}
    there = held(here, range(nodes - ASKING), START)
    turns = TURNS_QUICK if quick else int(MONTH_S / EVERY_S)
    later: list[float] = []
    gc.collect()
    before = 0.0
    for turn in range(turns):
        now = START + turn * EVERY_S
        here.move_on(now)
        took, plan = timed(here.situation(now, asking(range(nodes - ASKING, nodes), now), there))
        later.append(took)
        del plan
        if turn == turns // 10:
            gc.collect()
            before = rss_mb()
    gc.collect()
    figures |= {
        "ten_ask_median_ms": statistics.median(later),
        "ten_ask_p99_ms": statistics.quantiles(later, n=100)[98],
        "memory_mb": rss_mb(),
        "memory_grew_mb": rss_mb() - before,
        "decisions": float(turns),
    }
    slowest = max(figures["all_ask_median_ms"], figures["ten_ask_median_ms"])
    verdict = "held" if slowest <= GATE_MS else "MISSED"
    first_ms, first_worst = figures["all_ask_median_ms"], figures["all_ask_p99_ms"]
    later_ms, later_worst = figures["ten_ask_median_ms"], figures["ten_ask_p99_ms"]
    say(
        f"{policy:18} {nodes} ask: {first_ms:6.1f} ms (p99 {first_worst:.1f})"
        f"   {ASKING} ask, rest held: {later_ms:6.1f} ms (p99 {later_worst:.1f})"
        f"   {figures['memory_mb']:.0f} MB, grew {figures['memory_grew_mb']:+.1f} MB"
        f" over {turns} decisions   gate of {GATE_MS:g} ms {verdict}"
    )
    return figures


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.placement", description=__doc__)
    parser.add_argument("--nodes", type=int, default=10_000)
    parser.add_argument("--markets", type=int, default=500)
    parser.add_argument("--policy", choices=get_args(PolicyName), action="append")
    parser.add_argument("--quick", action="store_true", help="a few hundred decisions instead of a month")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, all else on stderr")
    options = parser.parse_args()
    stream = sys.stderr if options.json else sys.stdout

    def say(text: str) -> None:
        stream.write(text + "\n")
        stream.flush()

    gc.set_threshold(50_000, 20, 100)  # as controller.daemon.run does
    policies: Sequence[PolicyName] = options.policy or ("hazard",)
    found = {
        policy: measured(options.nodes, options.markets, policy, quick=options.quick, say=say)
        for policy in policies
    }
    if options.json:
        sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
