"""The numbers of nodes: the lowest that were not taken out, and none that is wanted is lost by growing."""

from hypothesis import given
from hypothesis import strategies as st

from actors.pool.ranks import following, grown, is_number, numbers, without

counts = st.integers(0, 12)
removed_ = st.sets(st.integers(0, 20), max_size=8).map(lambda them: tuple(sorted(them)))


@given(count=counts, removed=removed_)
def test_the_lowest_that_were_not_taken_out(count: int, removed: tuple[int, ...]) -> None:
    left = [number for number in range(100) if number not in removed]
    assert numbers(count, removed) == left[:count]
    for number in range(-1, 40):
        assert is_number(number, count, removed) == (number in left[:count])


@given(count=counts, removed=removed_, more=counts)
def test_those_that_follow(count: int, removed: tuple[int, ...], more: int) -> None:
    assert numbers(count, removed) + following(count, removed, more) == numbers(count + more, removed)


@given(count=counts, removed=removed_, by=counts, include=st.sets(st.integers(0, 30), max_size=3))
def test_growing_takes_no_number_away_and_gives_the_lowest_back_first(
    count: int, removed: tuple[int, ...], by: int, include: set[int]
) -> None:
    before, after = set(numbers(count, removed)), set(numbers(count + by, grown(count, removed, by, include)))
    assert before < after or by == 0
    assert len(after) == count + by
    new = sorted(include - before)[:by]
    assert set(new) <= after
    others = sorted(after - before - set(new))
    assert others == [number for number in range(100) if number not in before | set(new)][: len(others)]


@given(count=counts, removed=removed_, picks=st.sets(st.integers(0, 11)))
def test_exactly_those_go_that_were_picked(count: int, removed: tuple[int, ...], picks: set[int]) -> None:
    before = numbers(count, removed)
    gone = {before[i] for i in picks if i < count}
    left = without(count, removed, gone)
    assert numbers(count - len(gone), left) == sorted(set(before) - gone)
