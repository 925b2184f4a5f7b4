"""One replay: a pool of some nodes, under one policy, on the traces of one scenario, in virtual time.

It is the daemon's own actors on the simulated provider, as `everpool simulate` runs them: launches take as
long as calls take, losses are found as the daemon finds them. A policy sees nothing of the traces but that.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actors.buying import Buying
from actors.spec import Image, Nodes, PoolSpec, Step
from controller.simulation.assumptions import Given, Unclear, traced
from controller.simulation.trial import Report, Scenario, Trial
from providers.simulated.config import Delay, SimulatedConfig, SimulatedOffer
from providers.simulated.series import Trace
from tests.bench.oracle import Sold, least_cost

DAY_S = 86_400.0
ON_DEMAND_USD = 3.0  # an hour; only what is relative to it is told
BOOT_SHARE = 2 / 3  # of a cold start; the rest is set-up
LEASE_S = 30 * DAY_S  # nothing here outlives its daemon, and renewing takes a tenth of all time
POOL, PROVIDER = "replayed", "traced"
SPOT_ONLY = frozenset({"round-robin", "eager-next-region", "even-spread"})  # as they were published


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is assumed in every replay.

    Attributes:
        cold_start_s: from a launch until the machine works.
        notice_s: lead time of a notice; None: none.
        spot_share: price of spot, as a share of on demand.
        type_prices: how dear a type is, on demand and spot, against those that are not named.
        days_max: traces are cut there; None: not.
    """

    cold_start_s: float = 180.0
    notice_s: float | None = None
    spot_share: float = 1 / 3
    type_prices: Mapping[str, float] = field(default_factory=dict)
    days_max: float | None = None


@dataclass(frozen=True, slots=True)
class Traces:
    """One scenario: what is sold, and for how long all of its traces are known."""

    name: str
    offers: tuple[SimulatedOffer, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Variant:
    """A policy with its settings. `extra_nodes`: as many machines beyond the desired ones as these."""

    label: str
    buying: Buying
    extra_nodes: bool = False

    def of(self, nodes: int) -> Buying:
        """The settings for a pool of so many nodes."""
        return self.buying.model_copy(update={"extra": nodes}) if self.extra_nodes else self.buying


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What came of one replay. Costs are shares of as many machines on demand all the time."""

    policy: str
    scenario: str
    nodes: int
    days: float
    availability: float
    mean_ready: float
    cost: float
    oracle: float
    launches: int
    losses: int
    refused: int
    spot_share: float  # of machine hours
    bugs: tuple[str, ...]
    journal_sha256: str

    @property
    def cost_over_oracle(self) -> float:
        """Cost against that of who knows the traces."""
        return self.cost / self.oracle


def scenarios_in(folder: Path, terms: Terms) -> list[Traces]:
    """Every scenario of a folder: each folder in it that holds traces, and itself if it does.

    Raises:
        Unclear: with all that is wrong.
    """
    if not folder.is_dir():
        raise Unclear(f"{folder}: is no folder")
    try:
        places = [folder, *sorted(one for one in folder.iterdir() if one.is_dir())]
        with_traces = [one for one in places if any(path.suffix == ".json" for path in one.iterdir())]
    except OSError as error:
        raise Unclear(f"{folder}: can't be read: {error.strerror}") from error
    if not with_traces:
        raise Unclear(f"{folder}: neither it nor a folder in it holds a trace named zone_type_count.json")
    found: list[Traces] = []
    problems: list[str] = []
    for place in with_traces:
        try:
            found.append(_scenario(place, terms))
        except Unclear as error:
            problems += error.problems
    kinds = {offer.instance_type for one in found for offer in one.offers}
    problems += [
        f"no trace is of the type {name}" for name in terms.type_prices if name not in kinds and found
    ]
    if problems:
        raise Unclear(*problems)
    return found


def _scenario(folder: Path, terms: Terms) -> Traces:
    given = Given(traces=folder, spot_price=ON_DEMAND_USD * terms.spot_share, on_demand_price=ON_DEMAND_USD)
    offers, _ = traced(folder, given, [])
    priced = []
    for offer in offers:
        factor = terms.type_prices.get(offer.instance_type, 1.0)
        prices = {"spot": ON_DEMAND_USD * terms.spot_share * factor, "on_demand": ON_DEMAND_USD * factor}
        priced.append(offer.model_copy(update=prices))
    seconds = min(trace.gap_s * len(trace.samples) for trace in map(_trace, offers))
    if terms.days_max is not None:
        seconds = min(seconds, terms.days_max * DAY_S)
    if seconds <= terms.cold_start_s:
        raise Unclear(f"{folder}: {seconds:g} s are not longer than a cold start")
    return Traces(folder.resolve().name, tuple(priced), seconds)


def _trace(offer: SimulatedOffer) -> Trace:
    assert isinstance(offer.capacity, Trace)
    return offer.capacity


def oracle_share(traces: Traces, nodes: int, terms: Terms) -> float:
    """What who knows the traces would pay, as a share of as many machines on demand."""
    spot = [Sold(_price(offer.spot), _steps(_trace(offer))) for offer in traces.offers]
    on_demand = min(_price(offer.on_demand) for offer in traces.offers)
    least = least_cost(spot, on_demand, nodes=nodes, cold_start_s=terms.cold_start_s, seconds=traces.seconds)
    return least / (nodes * on_demand * traces.seconds / 3600)


def _price(price: object) -> float:
    assert isinstance(price, float)
    return price


def _steps(trace: Trace) -> tuple[tuple[float, float], ...]:
    rooms = [float("inf") if trace.unlimited and sample > 0 else sample for sample in trace.samples]
    changes = [i for i, room in enumerate(rooms) if i == 0 or room != rooms[i - 1]]
    return tuple((i * trace.gap_s, rooms[i]) for i in changes)


def scenario_of(traces: Traces, nodes: int, buying: Buying, terms: Terms) -> Scenario:
    """What the daemon is put before."""
    boot_s = terms.cold_start_s * BOOT_SHARE
    setup_s = terms.cold_start_s - boot_s
    step = Step(phase="set-up", run=f"sim-sleep {setup_s:g}", timeout_s=2 * setup_s + 300)
    spec = PoolSpec(
        provider=(PROVIDER,),
        nodes=Nodes(desired=nodes),
        image=Image(steps=(step,)),
        allocation="spot" if buying.policy in SPOT_ONLY else "spot-if-available",
        buying=buying,
        provision_timeout=2 * boot_s + 300,
        bootstrap_timeout=2 * setup_s + 900,
        lease_s=LEASE_S,
    )
    config = SimulatedConfig(
        offers=traces.offers, boot_delay=Delay(least_s=boot_s, most_s=boot_s), notice_s=terms.notice_s
    )
    return Scenario(
        pools={POOL: spec},
        providers={PROVIDER: config},
        seconds=traces.seconds,
        counted_from_s=terms.cold_start_s,
    )


def replayed(
    variant: Variant,
    traces: Traces,
    nodes: int,
    terms: Terms,
    oracle: float,
    progress: Callable[[float], None] = lambda seconds: None,
) -> Run:
    """Run one replay. Never call it within an event loop."""
    report: Report = Trial(scenario_of(traces, nodes, variant.of(nodes), terms), progress).run()
    figures = report.pools[0]
    assert figures.availability is not None and figures.ready_share is not None
    assert figures.on_demand_micro_usd is not None
    hours = figures.machine_hours_spot + figures.machine_hours_on_demand
    return Run(
        policy=variant.label,
        scenario=traces.name,
        nodes=nodes,
        days=traces.seconds / DAY_S,
        availability=figures.availability,
        mean_ready=figures.ready_share,
        cost=figures.cost_micro_usd / figures.on_demand_micro_usd,
        oracle=oracle,
        launches=figures.launches,
        losses=figures.preemptions,
        refused=figures.launches_refused,
        spot_share=figures.machine_hours_spot / hours if hours else 0.0,
        bugs=report.bugs,
        journal_sha256=report.journal_sha256,
    )


def mean(values: Sequence[float]) -> float:
    """Of one or more values, added up in their order."""
    return sum(values) / len(values)
