"""What a pool has cost, what it may spend, and when it is stopped."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.buying import Budget
from actors.events import BudgetFreed, BudgetReached, BudgetWarned
from actors.instance import parts
from actors.instance.state import Draining, Provisioning
from actors.messages import LeaveWanted, Retire
from actors.node.state import Filled
from actors.policy import budget as policy
from actors.policy import waste as wastes
from actors.pool import money
from actors.pool.state import Active, Parked, kept
from actors.spec import PoolSpec
from providers.model import MICRO, BillingUnit, Offer
from tests.actors.pool.account import NOON, UNITS, Account, on_sale, pool, storm

DAY = int(NOON // 86_400)
MIDNIGHT = (DAY + 1) * 86_400.0
many = settings(max_examples=60, deadline=None, database=None, derandomize=True)
units = st.sampled_from(["second", "minute", "hour"])
dollars = st.floats(0.01, 4)


def priced(*pairs: tuple[float, BillingUnit]) -> tuple[Offer, ...]:
    return tuple(on_sale(price, unit) for price, unit in pairs)


@many
@given(
    seed=st.integers(0, 10**6),
    limit=st.floats(0.5, 60),
    wanted=st.integers(1, 8),
    drain_s=st.sampled_from([5.0, 120.0, 900.0]),
    offers=st.lists(st.tuples(dollars, units), min_size=1, max_size=3),
)
def test_no_storm_passes_a_days_budget(
    seed: int, limit: float, wanted: int, drain_s: float, offers: list[tuple[float, BillingUnit]]
) -> None:
    account = Account(pool(Budget(per_day=limit), wanted, drain_s), offers=priced(*offers))
    storm(account, seed, 2.6, wanted)
    for day in range(DAY, DAY + 4):
        assert account.billed_on(day) <= limit * MICRO + len(account.rented), "a day's budget was passed"
    told = [one for one in account.news if not isinstance(one, BudgetWarned)]
    untils = [one.until for one in told if isinstance(one, BudgetReached)]
    assert len(untils) == len(set(untils)), "it was told twice in a day"
    for before, after in pairwise([None, *told]):
        assert not isinstance(after, BudgetFreed) or isinstance(before, BudgetReached)


@many
@given(
    seed=st.integers(0, 10**6),
    limit=st.floats(0.5, 60),
    wanted=st.integers(1, 8),
    offers=st.lists(st.tuples(dollars, units), min_size=1, max_size=3),
)
def test_no_storm_passes_the_whole_budget(
    seed: int, limit: float, wanted: int, offers: list[tuple[float, BillingUnit]]
) -> None:
    account = Account(pool(Budget(total=limit), wanted), offers=priced(*offers))
    storm(account, seed, 2.6, wanted)
    assert account.billed(account.now) <= limit * MICRO + len(account.rented)
    assert [type(one) for one in account.news] in (
        [],
        [BudgetWarned],
        [BudgetWarned, BudgetReached],
        [BudgetReached],
    )


@many
@given(seed=st.integers(0, 10**6), wanted=st.integers(1, 6), unit=units, limited=st.booleans())
def test_days_are_closed_at_midnight_and_add_up(
    seed: int, wanted: int, unit: BillingUnit, limited: bool
) -> None:
    budget = Budget(per_day=9) if limited else Budget()
    account = Account(pool(budget, wanted), offers=priced((0.31, unit)))
    storm(account, seed, 5.3, wanted)
    account.turn()
    spend, total = account.state.spend, money.spent(account.state.spend, account.view())
    assert total == account.billed(account.now)
    assert sum(cost for _, cost in spend.days) == spend.before_day
    assert [day for day, _ in spend.days] == list(range(DAY, policy.day_of(account.now)))
    for day, cost in spend.days:
        assert cost == account.billed_on(day)


def test_a_pool_without_a_budget_is_looked_at_once_a_day() -> None:
    account = Account(pool(Budget(), 1000), offers=priced((1.0, "second")))
    for i in range(200):
        account.launch(account.offers[0])
        if i % 3 == 0:
            account.lose(account.living[0])
        account.now += 1
        account.turn()
    assert account.looks == 1
    assert account.state.account_at == MIDNIGHT


def test_far_from_its_limit_a_pool_is_hardly_looked_at() -> None:
    account = Account(pool(Budget(per_day=10_000), 1000), offers=priced((1.0, "hour")))
    for _ in range(200):
        account.launch(account.offers[0])
        account.now += 1
        account.turn()
    assert account.looks <= 2


def test_a_day_that_nobody_saw_end_is_closed_after_a_restart() -> None:
    account = Account(pool(Budget()), offers=priced((1.0, "second")))
    account.turn()
    name = account.launch(account.offers[0])
    account.restart()
    account.now = MIDNIGHT + 2 * 86_400 + 3600
    account.turn()
    assert account.state.spend.days == ((DAY, 12 * MICRO), (DAY + 1, 24 * MICRO), (DAY + 2, 24 * MICRO))
    # the vendor says now that it had ended on the first day
    machine = account.index.instances[name]
    assert isinstance(machine, Provisioning)
    cost = parts.cost(machine, NOON + 6 * 3600)
    account.index.apply(("instance", name), machine, None)
    account.put(account.state.model_copy(update={"spend": policy.gone(account.state.spend, cost)}))
    account.now += 86_400
    account.turn()
    assert [cost for _, cost in account.state.spend.days] == [6 * MICRO, 0, 0, 0]


def test_only_the_last_days_are_kept() -> None:
    account = Account(pool(Budget()), offers=priced((1.0, "second")))
    account.launch(account.offers[0])
    account.turn()
    account.now += 100 * 86_400
    account.turn()
    days = account.state.spend.days
    assert len(days) == policy.DAYS_MAX
    assert days[-1][0] == DAY + 99
    assert money.spent(account.state.spend, account.view()) == 2400 * MICRO


# --- limits ---------------------------------------------------------------------------------------


def run(account: Account, until: float, step: float = 60) -> None:
    """Turns by the account's own timer, and every so often."""
    while account.now < until:
        account.now = min(until, account.now + step, account.state.account_at or until)
        account.turn()


def test_a_warning_then_the_limit_then_a_new_day() -> None:
    account = Account(pool(Budget(per_day=2, then="stop-launching")), offers=priced((1.0, "second")))
    account.launch(account.offers[0])
    run(account, NOON + 1.59 * 3600)
    assert account.news == []
    run(account, NOON + 1.61 * 3600)
    [warned] = account.news
    assert isinstance(warned, BudgetWarned)
    assert warned.limit_micro_usd == 2 * MICRO
    assert warned.spent_micro_usd == pytest.approx(1.6 * MICRO, rel=0.01)
    run(account, NOON + 2.1 * 3600)
    assert isinstance(account.news[1], BudgetReached)
    assert (account.news[1].until, account.news[1].then) == (MIDNIGHT, "stop-launching")
    assert money.may_keep_machines(account.state)
    assert money.allowance(account.state, account.view()).micro_usd == 0
    run(account, MIDNIGHT + 60)
    assert isinstance(account.news[2], BudgetFreed)
    assert len(account.news) == 3
    left = money.allowance(account.state, account.view())
    assert left.micro_usd is not None and left.micro_usd > 1.9 * MICRO


def test_a_drain_begins_early_enough() -> None:
    account = Account(pool(Budget(per_day=2), drain_s=600), offers=priced((1.0, "second")))
    account.launch(account.offers[0])
    run(account, NOON + 3 * 3600)
    reached = account.news[-1]
    assert isinstance(reached, BudgetReached)
    assert not money.may_keep_machines(account.state)
    lead_usd = policy.lead_s(account.state.spec) / 3600
    assert 2 - lead_usd - 0.01 <= reached.spent_micro_usd / MICRO <= 2 - lead_usd + 0.002
    assert 2 <= (reached.spent_micro_usd + reached.needed_micro_usd) / MICRO <= 2.01, "both are told"


@pytest.mark.parametrize("then", ["warn", "stop-launching", "drain"])
def test_more_budget_frees_a_pool_at_once(then: str) -> None:
    account = Account(pool(Budget(total=1, then=then)), offers=priced((1.0, "second")))
    account.launch(account.offers[0])
    run(account, NOON + 2 * 3600)
    assert isinstance(account.news[-1], BudgetReached)
    assert account.news[-1].until is None
    told = len(account.news)
    run(account, MIDNIGHT + 7200)
    assert len(account.news) == told, "another day changes nothing of the whole"
    spec = account.state.spec.model_copy(update={"budget": Budget(total=100, then=then)})
    account.put(account.state.model_copy(update={"spec": spec}))
    assert [type(one) for one in account.turn()] == [BudgetFreed]
    assert account.turn() == []


def test_a_pool_that_can_not_buy_even_one_machine_says_so() -> None:
    account = Account(pool(Budget(per_day=1)), offers=priced((1.0, "hour")))
    name = account.launch(account.offers[0])
    account.turn()
    assert account.news[-1:] == [] or isinstance(account.news[-1], BudgetWarned)
    account.now += 60
    account.lose(name)
    account.want(short=True)
    [reached] = account.turn()
    assert isinstance(reached, BudgetReached)
    told = money.allowance(account.state, account.view())
    assert (told.micro_usd, told.until) == (0, MIDNIGHT)
    assert told.why == "the day's budget of $1.00: $1.00 spent; again at 00:00:00 UTC"


def test_what_machines_will_still_need_is_not_given_twice() -> None:
    account = Account(pool(Budget(per_day=10), 4), offers=priced((2.0, "hour")))
    for _ in range(3):
        account.launch(account.offers[0])
    account.turn()
    account.now += 3600 - 60  # the drain would reach into the next hour
    account.turn()
    told = money.allowance(account.state, account.view())
    assert told.micro_usd == 0
    assert told.why == ("the day's budget of $10.00: $6.00 spent, $6.00 committed; again at 00:00:00 UTC")


def test_warn_only_stops_nothing() -> None:
    account = Account(pool(Budget(per_day=1, then="warn")), offers=priced((1.0, "second")))
    account.launch(account.offers[0])
    run(account, NOON + 2 * 3600)
    assert [type(one) for one in account.news] == [BudgetWarned, BudgetReached]
    assert money.allowance(account.state, account.view()).micro_usd is None
    assert money.may_keep_machines(account.state)


def test_a_drain_hurries_machines_that_would_leave_in_hours() -> None:
    account = Account(pool(Budget(total=1), drain_s=60), offers=priced((1.0, "second")))
    name = account.launch(account.offers[0])
    machine = account.index.instances[name]
    fields = machine.model_dump(include=set(Draining.model_fields) - {"status"})
    leaving = Draining.model_validate(fields | {"reason": "moved", "deadline": account.now + 20_000})
    account.index.apply(("instance", name), machine, leaving)
    account.turn()
    account.now += 3590
    tells = money.account(account.state, account.view()).tells
    assert tells == ((("instance", name), LeaveWanted("budget", 60)),)


def test_a_parked_pool_is_drained_as_well() -> None:
    account = Account(pool(Budget(per_day=1), drain_s=60), offers=priced((1.0, "second")))
    name = account.launch(account.offers[0])
    account.turn()
    filled = Filled(pool="pool", generation=1, node=0, since=NOON, instance_id=name)
    account.index.apply(("node", "0"), None, filled)
    parked = Parked(**kept(account.state.model_copy(update={"steered": (1, ())})), reason="broken")
    decision = money.account(parked, replace(account.view(), now=NOON + 3500))
    assert decision.tells == ((("node", "0"), Retire("budget", 60)),)
    assert isinstance(decision.state, Parked)
    assert decision.state.steered == (0, ())
    assert not money.may_keep_machines(decision.state)


def test_a_pool_of_an_older_journal_is_not_drained_for_what_it_cost_before() -> None:
    account = Account(pool(Budget(per_day=30)), offers=(on_sale(1.0, "second"),), now=NOON - 30 * 86_400)
    account.launch(account.offers[0])
    account.now = NOON
    assert account.turn() == []
    assert money.may_keep_machines(account.state)
    left = money.allowance(account.state, account.view()).micro_usd
    assert left is not None and left == pytest.approx(18 * MICRO, rel=0.01)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("days", [400, -400, 0.6, -3])
def test_a_clock_that_leaps_and_comes_back_changes_nothing_of_a_days_budget(
    days: float, restarts: bool
) -> None:
    account = Account(pool(Budget(per_day=10)), offers=(on_sale(1.0, "second"),))
    account.launch(account.offers[0])
    account.turn()
    account.now += 3 * 3600
    account.turn()
    now, account.now = account.now, account.now + days * 86_400
    account.turn()
    if restarts:
        account.restart()
    account.now = now + 5
    account.put(account.state.model_copy(update={"look_at": account.now + 300 * 86_400}))
    account.turn()
    looks = account.looks
    assert money.spent(account.state.spend, account.view()) - account.state.spend.before_day == (
        account.billed_on(DAY)
    )
    assert money.may_keep_machines(account.state)
    assert days < 0 or account.state.look_at == account.now, "placement waits for another clock's time"
    for _ in range(20):
        account.now += 1
        account.turn()
    assert account.looks == looks, "every machine is looked at in every turn"
    run(account, MIDNIGHT - 1, step=600)
    assert not money.may_keep_machines(account.state)  # 12 hours at a dollar


# --- the breaker ----------------------------------------------------------------------------------


def waste(account: Account, times: int, usd: float, why: str, every: float = 30) -> None:
    """Machines that never worked end one after the other."""
    for _ in range(times):
        account.now += every
        wasted = wastes.wasted(account.state.waste, account.now, round(usd * MICRO), why)
        account.put(account.state.model_copy(update={"waste": wasted}))
        account.turn()


def test_machines_that_never_work_stop_the_pool() -> None:
    account = Account(pool(Budget(), 10), offers=(on_sale(1.0, "second", spot=False),))
    waste(account, 9, 0.5, "failed: pip: exit 1")
    assert money.burns(account.state) is None
    waste(account, 2, 0.5, "failed: pip: exit 1")
    why = money.burns(account.state)
    assert why is not None
    assert why.startswith("11 machines that never worked cost $5.50 within an hour, more than the $5.00")
    assert "failed: pip: exit 1" in why
    # a user changes the pool: it may try again
    account.now += 1
    account.put(account.state.model_copy(update={"since": account.now}))
    assert money.burns(account.state) is None
    waste(account, 1, 0.5, "failed: pip: exit 1")
    assert money.burns(account.state) is None


def test_what_was_wasted_long_ago_does_not_count() -> None:
    account = Account(pool(Budget(waste_per_hour=2)), offers=(on_sale(1.0, "second", spot=False),))
    waste(account, 30, 0.5, "timeout", every=1000)
    assert money.burns(account.state) is None
    assert len(account.state.waste.ended) <= 4


def test_a_market_that_takes_machines_before_they_work_parks_no_pool_that_works() -> None:
    account = Account(pool(Budget(waste_per_hour=2)), offers=(on_sale(1.0, "second", spot=False),))
    for _ in range(50):
        account.put(
            account.state.model_copy(update={"waste": wastes.worked(account.state.waste, account.now)})
        )
        waste(account, 3, 0.5, "preempted", every=60)
        assert money.burns(account.state) is None
    assert money.wasted_micro_usd(account.state, account.now) > 20 * MICRO


def test_a_market_that_lets_nothing_work_for_half_an_hour_does() -> None:
    account = Account(pool(Budget(waste_per_hour=2)), offers=(on_sale(1.0, "second", spot=False),))
    waste(account, 29, 0.5, "preempted", every=60)
    assert money.burns(account.state) is None
    waste(account, 5, 0.5, "preempted", every=60)
    assert money.burns(account.state) is not None


def test_a_few_failures_park_nothing_whatever_they_cost() -> None:
    account = Account(pool(Budget()), offers=(on_sale(1.0, "hour"),))
    waste(account, 3, 1.0, "failed", every=120)
    assert money.burns(account.state) is None
    waste(account, 1, 1.0, "failed", every=120)
    assert money.burns(account.state) is not None


def test_a_dearer_offer_does_not_let_a_pool_burn_longer() -> None:
    account = Account(pool(Budget(), 4), offers=(on_sale(3.0, "second", spot=False), on_sale(1.0, "second")))
    waste(account, 20, 0.1, "failed", every=120)
    assert money.burns(account.state) is None
    waste(account, 1, 0.1, "failed", every=120)
    assert money.burns(account.state) is not None


def test_without_any_offer_nothing_is_judged_until_there_is_one() -> None:
    account = Account(pool(Budget()))
    waste(account, 9, 1.0, "failed")
    assert money.burns(account.state) is None
    account.offers = (on_sale(1.0, "second"),)
    account.turn()
    assert money.burns(account.state) is not None


def test_offers_of_which_none_fits_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    account, tried, told_at = Account(pool(Budget())), list[Offer](), NOON
    account.offers = (on_sale(1.0, "second"),)

    def unfit(spec: PoolSpec, offer: Offer) -> str:
        tried.append(offer)
        return "too small"

    def turn() -> None:
        view = account.view()
        world = replace(view.world, offers_at={"sim": told_at})
        decision = money.account(account.state, replace(view, world=world))
        assert isinstance(decision.state, Active)
        account.put(decision.state)

    monkeypatch.setattr(money, "mismatch", unfit)
    wasted = wastes.wasted(account.state.waste, NOON, MICRO, "failed")
    account.put(account.state.model_copy(update={"waste": wasted}))
    for _ in range(10):
        turn()
    assert len(tried) == 1
    told_at += 60  # offers were told again
    turn()
    turn()
    assert len(tried) == 2
    wasted = wastes.wasted(account.state.waste, NOON, MICRO, "failed")
    account.put(account.state.model_copy(update={"waste": wasted}))
    turn()
    turn()
    assert len(tried) == 3


def test_an_alarm_of_a_clock_that_was_ahead_holds_no_pool_that_a_user_mended() -> None:
    account = Account(pool(Budget(waste_per_hour=2)), offers=(on_sale(1.0, "second"),))
    account.now += 400 * 86_400
    waste(account, 9, 0.5, "failed")
    assert money.burns(account.state) is not None
    account.now = NOON + 60
    account.put(account.state.model_copy(update={"since": account.now}))
    account.turn()
    assert money.burns(account.state) is None
    assert money.wasted_micro_usd(account.state, account.now) == 0
    waste(account, 3, 0.5, "failed")
    assert money.burns(account.state) is None
    waste(account, 3, 0.5, "failed")
    assert money.burns(account.state) is not None


@many
@given(st.lists(st.tuples(st.floats(0, 400), st.integers(0, 10**6), st.booleans()), max_size=300))
def test_the_record_of_waste_is_short_and_true(ends: list[tuple[float, int, bool]]) -> None:
    now, told, record = NOON, list[tuple[float, int]](), wastes.Waste()
    for wait, cost, blamed in ends:
        now += wait
        told.append((now, cost))
        record = wastes.wasted(record, now, cost, "failed" if blamed else "preempted")
    assert len(record.ended) <= 62
    counted = sum(one.micro_usd for one in wastes.recent(record, 0, now))
    hour = sum(cost for at, cost in told if at > now - wastes.WASTE_WINDOW_S)
    sure = sum(cost for at, cost in told if at > now - wastes.WASTE_WINDOW_S + wastes.WASTE_MERGE_S)
    assert sure <= counted <= hour


# --- meters ---------------------------------------------------------------------------------------


@many
@given(
    machines=st.lists(st.tuples(dollars, units, st.floats(0, 9000)), max_size=12),
    after=st.floats(0, 20_000),
    gone=st.sets(st.integers(0, 11)),
)
def test_meters_come_to_what_each_machine_costs(
    machines: list[tuple[float, BillingUnit, float]], after: float, gone: set[int]
) -> None:
    account = Account(pool(Budget()))
    for price, unit, wait in machines:
        account.now += wait
        account.launch(on_sale(price, unit))
    for i in sorted(gone):
        if i < len(machines):
            account.lose(f"m{i}")
    until, purse = account.now + after, account.index.purse
    costs = [parts.cost(one, until) for one in account.index.instances.values()]  # type: ignore[arg-type]
    unit_costs = [
        UNITS[account.rented[name].offer.billing_unit] * account.rented[name].offer.micro_usd_per_hour / 3600
        for name in account.living
    ]
    assert purse.living(until) == purse.committed(until) == sum(costs)
    assert sum(costs) <= purse.at_most(until) <= sum(costs) + sum(unit_costs) + 2 * len(costs) + 1
    assert purse.rate == sum(account.rented[name].offer.micro_usd_per_hour for name in account.living)
    account.restart()
    assert account.index.purse.reading == purse.reading
