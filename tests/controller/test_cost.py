"""What `everpool cost` and /v1/cost tell of a pool's money."""

import io
from typing import Any

import pytest
from rich.console import Console

from actors.buying import Budget
from actors.instance.state import Provisioning
from actors.policy import waste as wastes
from actors.ports import Commit, StateRow
from actors.spec import TaskSpec
from actors.task.state import Stopped
from controller.cli import costs as cli
from controller.cli.addressing import Where
from controller.cli.command import Session
from controller.cost import Sum, brief, day_name, together, whole
from controller.telemetry.costs import Costs
from providers.model import MICRO
from tests.actors.pool.account import NOON, Account, on_sale, pool

DAY = int(NOON // 86_400)
MIDNIGHT = (DAY + 1) * 86_400.0


def spending(budget: Budget, machines: int = 2, hours: float = 3, dollars: float = 1.0) -> Account:
    """A pool that has had so many machines for some hours since noon."""
    account = Account(pool(budget, machines), offers=(on_sale(dollars, "second"),))
    account.turn()
    for _ in range(machines):
        account.launch(account.offers[0])
    account.now += hours * 3600
    account.turn()
    return account


def summed(account: Account) -> Sum:
    return Sum(account.state, list(account.index.instances.values()), account.now)


def test_today_in_all_and_the_forecast() -> None:
    account = spending(Budget())
    told = brief(summed(account), "ready")
    assert told == {
        "pool": "pool",
        "status": "ready",
        "usd_per_hour": 2.0,
        "today_usd": 6.0,
        "forecast_usd": 24.0,
        "total_usd": 6.0,
        "budget": None,
    }
    account.now = MIDNIGHT + 3600  # before the pool itself has closed the day
    told = brief(summed(account), "ready")
    assert (told["today_usd"], told["total_usd"]) == (2.0, 26.0)
    assert summed(account).days == ((DAY, 24 * MICRO),)


@pytest.mark.parametrize(("then", "forecast"), [("drain", 10.0), ("stop-launching", 24.0), ("warn", 24.0)])
def test_a_budget_that_drains_bounds_the_forecast(then: Any, forecast: float) -> None:
    told = brief(summed(spending(Budget(per_day=10, total=100, then=then))), "ready")
    assert told["forecast_usd"] == forecast
    day, total = told["budget"]["periods"]
    assert (day["limit_usd"], day["spent_usd"], day["left_usd"], day["reached"]) == (10, 6, 4, False)
    assert day["reached_at"] == NOON + 5 * 3600
    assert (day["until"], total["until"]) == (MIDNIGHT, None)
    assert total["reached_at"] == NOON + 50 * 3600


def test_a_pool_of_an_older_journal_is_charged_nothing_for_days_before() -> None:
    account = Account(pool(Budget(per_day=30)), now=NOON - 30 * 86_400)
    account.launch(on_sale(1.0, "second"))
    account.now = NOON
    assert account.state.account_at is None
    found = summed(account)
    assert (found.today, found.total, found.days) == (12 * MICRO, (30 * 24) * MICRO, ())


def test_a_clock_that_came_back_does_not_hide_today() -> None:
    account = spending(Budget(per_day=30))
    now, account.now = account.now, account.now + 400 * 86_400
    account.turn()
    account.now = now
    found = summed(account)
    assert (found.today, found.total, found.limits[0].until) == (6 * MICRO, 6 * MICRO, MIDNIGHT)


def test_a_limit_beyond_the_day_is_not_reached() -> None:
    [day] = brief(summed(spending(Budget(per_day=100))), "ready")["budget"]["periods"]
    assert day["reached_at"] is None


def test_a_limit_that_was_reached() -> None:
    account = spending(Budget(per_day=6.05))
    [day] = brief(summed(account), "degraded")["budget"]["periods"]
    assert day["reached"], "the drain must begin before the last dollar is gone"
    spec = account.state.spec.model_copy(update={"budget": Budget(per_day=50)})
    account.put(account.state.model_copy(update={"spec": spec}))
    [day] = brief(summed(account), "degraded")["budget"]["periods"]
    assert not day["reached"]
    account.now = MIDNIGHT + 1
    assert not brief(summed(account), "degraded")["budget"]["periods"][0]["reached"]


def counted(account: Account) -> Costs:
    """The daemon's counters, which began with the pool."""
    now = account.now
    costs = Costs(now=lambda: now)
    costs.since = NOON
    rows = [StateRow("pool", "pool", 1, account.state)]
    rows += [StateRow("instance", name, 1, one) for name, one in account.index.instances.items()]
    costs.committed(Commit("pool", rows))
    return costs


def ended(name: str, cost: int, at: float) -> Stopped:
    return Stopped(
        id=name,
        pool="pool",
        spec=TaskSpec(argv=("train.sh",)),
        seq=1,
        cost_micro_usd=cost,
        result="success",
        reason="",
        duration=90,
        ended_at=at,
    )


def everything(account: Account) -> Any:
    machines = list(account.index.instances.values())
    tasks = [ended(f"t{i}", 2000 * i, NOON - i) for i in range(12)]
    return whole(summed(account), "ready", machines, tasks, counted(account))


def test_all_about_a_pool() -> None:
    account = spending(Budget(per_day=10))
    told = everything(account)
    assert told["by_market"] == [
        {"market": "sim/r/a/small/spot", "machines": 2, "usd_per_hour": 2.0, "usd": 0.0}
    ], "what is being started is counted when it works"
    assert told["day"] == day_name(DAY) == "2024-10-04"
    assert (told["tasks"]["ended"], told["tasks"]["mean_usd"]) == (12, 0.011)
    assert [one["id"] for one in told["tasks"]["last"]] == [f"t{i}" for i in range(10)]
    assert set(told["by_kind"]) > {"working", "idle", "leaked"}


def lines(told: Any) -> str:
    return "\n".join(cli._lines(told))


def test_a_pool_as_text() -> None:
    account = spending(Budget(per_day=10, total=6.05))
    account.put(
        account.state.model_copy(
            update={"waste": wastes.wasted(wastes.Waste(), account.now, MICRO, "failed")}
        )
    )
    text = lines(everything(account))
    for line in (
        "pool is ready",
        "  an hour  $2.0000",
        "  today    $6.00, $6.05 by its end (00:00 UTC) at this rate",
        "  budget   $4.00 left of $10.00 a day, then drain; reached at this rate at 2024-10-04 17:00:00 UTC",
        "  budget   $0.05 left of $6.05 in all, then drain; reached, raise it to go on",
        "  tasks    12 ended since 2024-10-04 11:59:49 UTC, $0.13, $0.01 each",
        "  wasted   $1.00 within the hour, on machines that never worked",
        "  2024-10-04, so far  $6.00",
        "  sim/r/a/small/spot  2 machines now  $2.0000/h  $0.00",
        "  t0  train.sh  success  1m30s  $0.00",
    ):
        assert line in text.splitlines(), text


class Answers:
    """A client that knows one answer."""

    def __init__(self, told: Any) -> None:
        self.told = told

    async def __aenter__(self) -> "Answers":
        return self

    async def __aexit__(self, *raised: object) -> None:
        """Nothing is open."""

    async def cost(self, pool: str | None = None) -> Any:
        del pool
        return self.told


@pytest.mark.anyio
async def test_all_pools_as_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = spending(Budget(per_day=10))
    two = Account(pool(Budget(), 1).model_copy(update={"name": "other"}), now=one.now)
    told = together([brief(summed(one), "ready"), brief(summed(two), "requesting")], counted(one))
    assert (told["usd_per_hour"], told["today_usd"], told["total_usd"]) == (2.0, 6.0, 6.0)
    assert (told["unknown_usd"], told["unknown"]) == (0, [])
    told |= {"unknown_usd": 2.5, "unknown": [{"pool": "", "usd": 0.5}, {"pool": "other", "usd": 2.0}]}
    session = Session(Where(), False)
    out = io.StringIO()
    session._out = Console(file=out, width=200, highlight=False)
    monkeypatch.setattr(session.__class__, "client", lambda self: Answers(told))
    await cli.cost(session)
    text = capsys.readouterr().out + out.getvalue()
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["POOL", "STATUS", "USD/H", "TODAY", "FORECAST", "TOTAL", "LEFT", "BUDGET"]
    assert rows[1] == [
        "pool",
        "ready",
        "2.0000",
        "$6.00",
        "$10.00",
        "$6.00",
        "$4.00",
        *"$10.00 a day, then drain".split(),
    ]
    assert rows[2][:3] == ["other", "requesting", "0.0000"]
    assert rows[3][0] == "all"
    assert "and $2.50 since " in text
    assert "that no pool owns: $2.00 of machines that pool other lost sight of" in text


def test_a_machine_without_a_bill_is_reckoned_by_its_offer() -> None:
    account = spending(Budget())
    assert all(isinstance(one, Provisioning) and one.bill is None for one in account.index.instances.values())
    assert summed(account).total == 6 * MICRO
