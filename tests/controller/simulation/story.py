"""What a story is told with: clouds without chance, and a look at the daemon at given moments."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from actors.address import Address
from actors.instance.state import InstanceState, Ready
from actors.node.state import Filled, NodeState, Replacing
from actors.pool.ranks import numbers
from actors.pool.state import Active
from actors.spec import PoolSpec
from controller.explain import Picture, explained
from controller.simulation.house import Life
from controller.simulation.results import PoolFigures
from controller.simulation.trial import START, Report, Scenario, Trial
from controller.status import Status
from providers.model import Value
from providers.simulated.config import Delay, SimulatedConfig, SimulatedOffer
from providers.simulated.series import Trace

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86_400.0
BOOT_S = 60.0
SOON_S = 2 * BOOT_S  # a loss is found, a machine launched and set up within
POOL = "p"


def cloud(*offers: SimulatedOffer, **keys: object) -> SimulatedConfig:
    """A cloud without chance: calls take no time, a boot a minute, and nobody gives notice."""
    settings = {
        "offers": offers,
        "call_delay": Delay(most_s=0),
        "boot_delay": Delay(least_s=BOOT_S, most_s=BOOT_S),
        "end_delay": Delay(most_s=0),
        "visible_within_s": 0,
        "notice_s": None,
    }
    return SimulatedConfig.model_validate(settings | keys)


def sold(
    zone: str, spot: Any = None, on_demand: Any = None, capacity: Trace | int | None = None
) -> SimulatedOffer:
    """One kind of machine in a zone; its region is the zone without its last letter."""
    return SimulatedOffer(zone=zone, region=zone[:-1], spot=spot, on_demand=on_demand, capacity=capacity)


class Series:
    """Writes traces: a value for each hour, or for each `gap_s`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, values: Sequence[float], gap_s: float = HOUR_S, *, unlimited: bool = False) -> Trace:
        file = self._folder / f"{len(list(self._folder.iterdir()))}.json"
        file.write_text(json.dumps({"metadata": {"gap_seconds": gap_s}, "data": list(values)}))
        return Trace(path=file, unlimited=unlimited)

    def open(self, values: Sequence[float], gap_s: float = HOUR_S) -> Trace:
        """A capacity: as many as you like where a value is above 0."""
        return self(values, gap_s, unlimited=True)


@dataclass(frozen=True)
class Look:
    """The pool at one moment."""

    at: float
    pool: Active
    nodes: Mapping[int, NodeState]
    living: Mapping[str, InstanceState]
    told: Mapping[str, Any]  # as explain tells it

    @property
    def at_work(self) -> list[Ready]:
        """Machines that fill the desired nodes and work, by node."""
        named = {}
        for node, state in self.nodes.items():
            if isinstance(state, Filled | Replacing):
                named[node] = state.instance_id if isinstance(state, Filled) else state.old_id
        wanted = numbers(self.pool.desired, self.pool.removed)
        found = [self.living.get(named.get(node) or "") for node in wanted]
        return [one for one in found if isinstance(one, Ready)]

    @property
    def ready(self) -> int:
        """How many of the desired nodes work."""
        return len(self.at_work)

    @property
    def where(self) -> Counter[str]:
        """How many of them in each zone, and how: zone/lifecycle."""
        return Counter(f"{one.offer.zone}/{one.offer.lifecycle}" for one in self.at_work)

    @property
    def zones(self) -> Counter[str]:
        """How many of them in each zone."""
        return Counter(one.offer.zone for one in self.at_work)

    @property
    def on_demand(self) -> int:
        """How many of them are on demand."""
        return sum(one.offer.lifecycle == "on_demand" for one in self.at_work)

    @property
    def story(self) -> str:
        """What people are told."""
        return "\n".join(self.told["story"])

    def market(self, name: str) -> Mapping[str, Any]:
        """What is told of a market whose name has that in it. Raises StopIteration."""
        row: Mapping[str, Any] = next(one for one in self.told["markets"] if name in one["market"])
        return row


@dataclass
class Told:
    """How a story went."""

    report: Report
    looks: dict[float, Look] = field(default_factory=dict)

    @property
    def figures(self) -> PoolFigures:
        """What it came to."""
        return self.report.pools[0]

    def at(self, seconds: float) -> Look:
        """A look that was asked for."""
        return self.looks[seconds]


def tell(
    pool: Mapping[str, Any],
    clouds: Mapping[str, SimulatedConfig],
    seconds: float,
    looks: Sequence[float] = (),
    **keys: Any,
) -> Told:
    """Run a pool's story, looking at it at some moments."""
    spec = PoolSpec.model_validate({"provider": tuple(clouds)} | dict(pool))
    seen: dict[float, Look] = {}

    async def look(at: float, life: Life) -> None:
        seen[at] = _look(at, life)

    moments = {at: partial(look, at) for at in looks}
    scenario = Scenario(pools={POOL: spec}, providers=clouds, seconds=seconds, **keys)
    report = Trial(scenario, moments=moments).run()
    assert report.bugs == ()
    return Told(report, seen)


def _look(at: float, life: Life) -> Look:
    index = life.loops[POOL].index
    assert isinstance(index.pool, Active), index.pool
    states: dict[Address, Value] = {("pool", POOL): index.pool}
    states |= {("node", str(node)): state for node, state in index.nodes.items()}
    states |= {("instance", name): state for name, state in index.instances.items()}
    status = Status()
    status.load(POOL, states)
    snapshot = status.snapshot(POOL)
    assert snapshot is not None
    told = explained(Picture(snapshot, life.acting.world(), START + anyio.current_time()))
    return Look(at, index.pool, dict(index.nodes), dict(index.instances), told)
