"""An account's days: when it begins, what machines give back, and what a clock that leaps does to it."""

from bisect import bisect_right

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.buying import Budget
from actors.policy.budget import DAYS_MAX, LEAP_S, Spend, closed, day_of, gone, limits
from providers.model import MICRO
from tests.actors.pool.account import NOON

DAY_S = 86_400
HOUR_S = 3600.0
DAY = int(NOON // DAY_S)


class Rent:
    """Machines at a dollar an hour."""

    def __init__(self, starts: list[float]) -> None:
        self.starts = sorted(starts)

    def __call__(self, until: float) -> int:
        """What they have cost until then."""
        there = self.starts[: bisect_right(self.starts, until)]
        return sum(int(until - start) * MICRO // 3600 for start in there)


def today(spend: Spend, now: float, rent: Rent) -> int:
    """What is counted to this day's budget."""
    [limit] = limits(spend, Budget(per_day=10), now)
    assert limit.until == (day_of(now) + 1) * DAY_S
    return spend.gone + rent(now) - limit.base


def test_an_account_that_was_never_looked_at_begins_today() -> None:
    rent = Rent([NOON - 30 * DAY_S])
    spend = closed(Spend(gone=5 * MICRO), NOON, rent)
    assert (spend.day, spend.days) == (DAY, ())
    assert today(spend, NOON, rent) == 12 * MICRO
    assert closed(spend, NOON, rent) is spend
    fresh = closed(Spend(), NOON, Rent([NOON - HOUR_S]))
    assert today(fresh, NOON, Rent([NOON - HOUR_S])) == MICRO


def test_days_that_nobody_remembers_give_back_as_well() -> None:
    rent = Rent([NOON])
    spend = closed(closed(Spend(), NOON, rent), NOON + 100 * DAY_S, rent)
    assert len(spend.days) == DAYS_MAX
    # the vendor says that it had ended on the first day
    spend = closed(gone(spend, 6 * MICRO), NOON + 100 * DAY_S, Rent([]))
    assert {cost for _, cost in spend.days} == {0}
    assert spend.before_day == 6 * MICRO
    later = gone(spend, 2 * MICRO)
    assert today(closed(later, NOON + 100 * DAY_S, Rent([])), NOON + 100 * DAY_S, Rent([])) == 2 * MICRO


def test_a_clock_centuries_ahead_closes_no_more_days_than_are_kept() -> None:
    asked = list[float]()

    def living(until: float) -> int:
        asked.append(until)
        return int(until - NOON)

    spend = closed(closed(Spend(), NOON, living), NOON, living)
    asked.clear()
    spend = closed(spend, NOON + 100_000 * DAY_S, living)
    assert len(asked) <= DAYS_MAX + 2
    assert [day for day, _ in spend.days] == list(range(DAY + 100_000 - DAYS_MAX, DAY + 100_000))


def test_a_clock_that_was_ahead_from_the_first_does_not_freeze_the_day() -> None:
    rent, ahead = Rent([]), NOON + 400 * DAY_S
    spend = gone(closed(Spend(), ahead, rent), 6 * MICRO)
    spend = gone(closed(spend, ahead + DAY_S, rent), MICRO)  # it saw midnights
    spend = closed(spend, NOON, rent)
    assert (spend.day, today(spend, NOON, rent)) == (DAY, MICRO)
    for i in range(1, 5):
        spend = gone(closed(spend, NOON + i * DAY_S, rent), 6 * MICRO)
        assert today(spend, NOON + i * DAY_S, rent) == 6 * MICRO
    assert [day for day, _ in spend.days] == list(range(DAY, DAY + 4))


def test_a_second_back_over_midnight_is_not_the_day_before_once_more() -> None:
    rent, midnight = Rent([NOON]), (DAY + 1.0) * DAY_S
    spend = closed(closed(Spend(), NOON, rent), midnight + 1, rent)
    back = closed(spend, midnight - 1, rent)
    assert today(back, midnight - 1, rent) <= 0
    again = closed(back, midnight + 5, rent)
    assert (again.day, again.before_day, again.days) == (spend.day, spend.before_day, spend.days)


def test_days_that_the_daemon_slept_through_are_not_charged_to_a_day_that_a_slow_clock_shows() -> None:
    rent = Rent([NOON])
    spend = closed(closed(Spend(), NOON, rent), NOON + 3 * DAY_S, rent)
    spend = closed(spend, (DAY + 4.0) * DAY_S + 1, rent)  # a midnight as it should be
    slow = closed(spend, NOON + 2 * DAY_S, rent)
    assert today(slow, NOON + 2 * DAY_S, rent) <= 0
    back = closed(slow, (DAY + 4.0) * DAY_S + 60, rent)
    assert (back.day, back.before_day, back.days) == (spend.day, spend.before_day, spend.days)


@settings(max_examples=300, deadline=None, database=None, derandomize=True)
@given(
    steps=st.lists(st.tuples(st.floats(1, 40_000), st.integers(0, 3)), min_size=1, max_size=25),
    leaps=st.lists(
        st.tuples(st.integers(0, 24), st.floats(-400 * DAY_S, 400 * DAY_S), st.integers(1, 3)), max_size=6
    ),
)
def test_the_days_spend_is_exact_whatever_the_clock_did(
    steps: list[tuple[float, int]], leaps: list[tuple[int, float, int]]
) -> None:
    """Machines live on or end while the clock shows another time for a moment; then it is right again."""
    now, living = NOON, Rent([NOON])
    spend = closed(Spend(), now, living)
    over = list[tuple[float, float, int]]()

    def cost_at(at: float) -> int:
        return sum(
            min(cost, int(max(0.0, min(at, end) - start)) * MICRO // 3600) for start, end, cost in over
        )

    for i, (wait, what) in enumerate(steps):
        now += wait
        midnight = float((day_of(now - wait) + 1) * DAY_S)
        if midnight <= now:
            spend = closed(spend, midnight, living)
        spend = closed(spend, now, living)
        if what == 1:
            living.starts.append(now)
        elif what == 2 and living.starts:
            start = living.starts.pop(0)
            cost = int(now - start) * MICRO // 3600
            over.append((start, now, cost))
            spend = gone(spend, cost)
        for at, by, times in leaps:
            if at == i and abs(by) > LEAP_S:
                for j in range(times):
                    spend = Spend.model_validate_json(closed(spend, now + by + j, living).model_dump_json())
                spend = closed(spend, now, living)
        begin = float(day_of(now) * DAY_S)
        assert spend.day == day_of(now)
        assert today(spend, now, living) == spend.gone + living(now) - cost_at(begin) - living(begin)
        assert sum(cost for _, cost in spend.days) == spend.before_day
        assert [day for day, _ in spend.days] == list(range(DAY, spend.day))
