"""What comes of a simulated run: the figures of a pool, and its course over time to be drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

from providers.model import Value


class TimesToWhole(Value):
    """How long a pool lacked nodes, in seconds, each time that it had been whole before.

    `median_s`, `p95_s` and `max_s` are times that occurred, and None when there was none.
    """

    count: int = 0
    median_s: float | None = None
    p95_s: float | None = None
    max_s: float | None = None


class TaskFigures(Value):
    """What became of the load. `all_done_after_s` None: some task was not over at the end."""

    asked: int
    done: int
    failed: int
    attempts_lost: int
    all_done_after_s: float | None


class PoolFigures(Value):
    """One pool. Shares are of the time that was simulated, from the moment the pool was asked for, or as
    the scenario says.

    Attributes:
        nodes_desired: by its spec; what is said below of desired nodes is of those at each time.
        availability: share of time with all desired nodes ready; None when none is ever desired.
        ready_share: mean share of the desired nodes that were ready.
        below_min_share: share of time with fewer ready than the pool's `min`.
        cost_micro_usd: what all its machines cost, billed as their provider bills.
        on_demand_micro_usd: the desired nodes, all the time, at the price of the cheapest fitting on-demand
            offer at the start; None when nobody sells one.
        preemptions: machines taken back, or announced to be, or lost without a word.
        launches: machines that were made; `launches_per_loss` counts those beyond the first ones, and is
            None without a loss.
        launches_refused: orders that ended without a machine.
        whole_first_after_s: None when it never was.
        why_short: what the pool says it waits for, when it is not whole at the end.
    """

    pool: str
    nodes_desired: int
    nodes_min: int
    availability: float | None
    ready_share: float | None
    below_min_share: float | None
    cost_micro_usd: int
    cost_usd: float
    on_demand_micro_usd: int | None
    on_demand_usd: float | None
    cost_percent_of_on_demand: float | None
    machine_hours_spot: float
    machine_hours_on_demand: float
    preemptions: int
    launches: int
    launches_refused: int
    launches_per_loss: float | None
    whole_first_after_s: float | None
    whole_again: TimesToWhole
    is_whole_at_end: bool
    why_short: str | None
    tasks: TaskFigures | None


@dataclass(frozen=True, slots=True)
class Course:
    """How a pool went over time, to be drawn. Times are seconds since the start.

    Attributes:
        ready: (time, nodes ready from then on).
        usd_per_hour: (time, what its machines cost an hour from then on).
        preempted: when machines were taken.
        on_demand_usd_per_hour: what the desired nodes would cost on demand; None: unknown.
    """

    seconds: float
    desired: int
    ready: Sequence[tuple[float, int]]
    usd_per_hour: Sequence[tuple[float, float]]
    preempted: Sequence[float]
    on_demand_usd_per_hour: float | None
