"""What pools cost: now, today, by day, market, kind and task; what is left, and when it will be gone."""

from collections.abc import Sequence
from datetime import UTC, datetime

from actors.instance.state import InstanceState
from actors.policy import budget as policy
from actors.policy.billing import Meter, due
from actors.pool.money import wasted_micro_usd
from actors.pool.state import Active, Parked, PoolState
from actors.purse import metered
from actors.task.state import Stopped
from controller.telemetry.costs import Costs
from controller.views import Json, dollars

LAST_TASKS = 10
TASKS_MAX = 10_000  # ended tasks that a mean is taken of
HOUR_S = 3600


def day_name(day: int) -> str:
    """A day, counted from the epoch, as YYYY-MM-DD."""
    return datetime.fromtimestamp(day * policy.DAY_S, UTC).strftime("%Y-%m-%d")


class Sum:
    """One pool's account at one moment.

    Attributes:
        rate: micro-dollars an hour now.
        today, total: micro-dollars.
        days: earlier days and what each cost, oldest first.
        forecast: what today will have cost at its end.
        limits: of its budget.
    """

    def __init__(self, state: PoolState, machines: Sequence[InstanceState], now: float) -> None:
        meters: list[Meter] = []
        for machine in machines:
            there, its = metered(machine)
            if there and its is not None:
                meters.append(its)
        self.state, self.now = state, now
        self.spend = policy.closed(state.spend, now, lambda until: due(meters, until))
        self.rate = sum(one.rate for one in meters)
        self.total = self.spend.gone + due(meters, now)
        self.today = self.total - self.spend.before_day
        self.days = self.spend.days
        self.limits = policy.limits(self.spend, state.spec.budget, now)
        self.forecast = self._forecast()

    def _forecast(self) -> int:
        rest_s = policy.midnight_after(self.now) - self.now
        wanted = self.today + round(self.rate * rest_s / HOUR_S)
        if self.state.spec.budget.then != "drain" or not isinstance(self.state, Active | Parked):
            return wanted
        left = [max(0, one.level - self.total) for one in self.limits]
        return min([wanted, *(self.today + more for more in left)])

    def reached_at(self, limit: policy.Limit) -> float | None:
        """When the limit will be reached at this rate; None: not before it is free again, or never."""
        left = limit.level - self.total
        if left <= 0:
            return self.now
        if not self.rate:
            return None
        at = self.now + left * HOUR_S / self.rate
        return at if limit.until is None or at < limit.until else None


def brief(found: Sum, status: str) -> Json:
    """One pool's account in a line."""
    return {
        "pool": found.state.name,
        "status": status,
        "usd_per_hour": dollars(found.rate),
        "today_usd": dollars(found.today),
        "forecast_usd": dollars(found.forecast),
        "total_usd": dollars(found.total),
        "budget": _budget(found),
    }


def _budget(found: Sum) -> Json | None:
    if not found.limits:
        return None
    spend, budget = found.spend, found.state.spec.budget
    held = spend.budget == budget and spend.day == found.state.spend.day  # else the pool has yet to look
    return {
        "then": budget.then,
        "warn_at": budget.warn_at,
        "periods": [
            {
                "period": limit.period,
                "limit_usd": dollars(limit.micro_usd),
                "spent_usd": dollars(found.total - limit.base),
                "left_usd": dollars(max(0, limit.level - found.total)),
                "reached": held and spend.reached == limit.period,
                "until": limit.until,
                "reached_at": found.reached_at(limit),
            }
            for limit in found.limits
        ],
    }


def whole(
    found: Sum, status: str, machines: Sequence[InstanceState], ended: Sequence[Stopped], costs: Costs
) -> Json:
    """All that is known of one pool's money."""
    name = found.state.name
    costs.read()
    return {
        **brief(found, status),
        "days": [{"day": day_name(day), "usd": dollars(cost)} for day, cost in found.days],
        "day": day_name(policy.day_of(found.now)),
        "wasted_hour_usd": dollars(wasted_micro_usd(found.state, found.now)),
        "since": costs.since,
        "by_market": _markets(machines, costs, name),
        "by_kind": {kind: dollars(cost) for kind, cost in costs.by_kind(name).items()},
        "wasted_usd": dollars(costs.wasted(name)),
        "tasks": _tasks(ended),
    }


def _markets(machines: Sequence[InstanceState], costs: Costs, pool: str) -> list[Json]:
    counts: dict[str, int] = {}
    rates: dict[str, int] = {}
    for machine in machines:
        there, its = metered(machine)
        if there and its is not None:
            market = str(machine.offer.market)
            counts[market] = counts.get(market, 0) + 1
            rates[market] = rates.get(market, 0) + its.rate
    spent = costs.by_market(pool)
    return [
        {
            "market": market,
            "machines": counts.get(market, 0),
            "usd_per_hour": dollars(rates.get(market, 0)),
            "usd": dollars(spent.get(market, 0)),
        }
        for market in sorted(counts.keys() | spent.keys(), key=lambda one: (-spent.get(one, 0), one))
    ]


def _tasks(ended: Sequence[Stopped]) -> Json:
    """What tasks cost: the mean of those that ended and are remembered, and the last of them."""
    cost = sum(one.cost_micro_usd for one in ended)
    return {
        "ended": len(ended),
        "since": min((one.ended_at for one in ended), default=None),
        "usd": dollars(cost),
        "mean_usd": dollars(round(cost / len(ended))) if ended else None,
        "last": [
            {
                "id": one.id,
                "name": one.spec.title,
                "result": one.result,
                "cost_usd": dollars(one.cost_micro_usd),
                "duration": one.duration,
                "ended_at": one.ended_at,
            }
            for one in ended[:LAST_TASKS]
        ],
    }


def together(pools: Sequence[Json], costs: Costs) -> Json:
    """All pools in a line each, and what they come to."""
    costs.read()
    unknown = costs.unknown()
    return {
        "pools": list(pools),
        **{
            name: round(sum(one[name] for one in pools), 6)
            for name in ("usd_per_hour", "today_usd", "forecast_usd", "total_usd")
        },
        "since": costs.since,
        "unknown_usd": dollars(sum(unknown.values())),
        "unknown": [{"pool": pool, "usd": dollars(cost)} for pool, cost in unknown.items()],
    }
