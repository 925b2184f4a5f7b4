"""The numbers of a pool's nodes: the lowest so many that were not taken out. Pure arithmetic.

`removed` is the numbers that were taken out, ascending; those above all that are wanted mean nothing.
"""

from bisect import bisect_left
from collections.abc import Iterable

Removed = tuple[int, ...]


def numbers(count: int, removed: Removed) -> list[int]:
    """The lowest `count` numbers that were not taken out, ascending."""
    out = {number for number in removed if number < count + len(removed)}
    if not out:
        return list(range(count))
    return [number for number in range(count + len(out)) if number not in out][:count]


def is_number(number: int, count: int, removed: Removed) -> bool:
    """Whether it is one of `numbers(count, removed)`. Cheap."""
    lower = bisect_left(removed, number)
    taken_out = lower < len(removed) and removed[lower] == number
    return not taken_out and 0 <= number < count + lower


def following(count: int, removed: Removed, more: int) -> list[int]:
    """The next `more` numbers after the lowest `count`, ascending: `numbers(count + more)` without those."""
    out = set(removed)
    number = count
    for taken in removed:
        if taken > number:
            break
        number += 1
    found: list[int] = []
    while len(found) < more:
        if number not in out:
            found.append(number)
        number += 1
    return found


def grown(count: int, removed: Removed, by: int, include: Iterable[int] = ()) -> Removed:
    """What is taken out when there are `by` more: the lowest come back first, after those in `include`.

    No number that was wanted ceases to be so.
    """
    wanted = set(numbers(count, removed))
    more = [number for number in sorted(set(include)) if number not in wanted][:by]
    wanted.update(more)
    number = 0
    while len(wanted) < count + by:
        wanted.add(number)
        number += 1
    return _gaps(wanted)


def without(count: int, removed: Removed, nodes: Iterable[int]) -> Removed:
    """What is taken out when exactly these of the wanted numbers go."""
    return _gaps(set(numbers(count, removed)) - set(nodes))


def _gaps(wanted: set[int]) -> Removed:
    most = max(wanted, default=-1)
    return () if most + 1 == len(wanted) else tuple(number for number in range(most) if number not in wanted)
