"""Lists in pages: filters by name, opaque cursors, and the header that tells where to go on."""

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Annotated, TypeVar

from fastapi import Query
from pydantic_core import from_json, to_json

from controller.api.answers import Problem, unknown
from controller.patterns import fitting, is_pattern

CURSOR = "X-Everpool-Cursor"
LIST_MAX = 10_000  # of one answer; also what is answered when no limit is given
NAMES_MAX = 256
NAME_CHARS_MAX = 128
PATTERNS_CHARS_MAX = 2_048  # of those with * and ? in one filter: each is made a program of

Key = tuple[str | int | float, ...]
T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=LIST_MAX)]
After = Annotated[str, Query(max_length=2000, description="the X-Everpool-Cursor of the page before")]
Names = Annotated[
    list[str] | None,
    Query(max_length=NAMES_MAX, description="may be repeated, or joined by ','; has * and ?"),
]


def split(given: Sequence[str] | None) -> tuple[str, ...] | None:
    """All that a parameter names that may be repeated, or joined by commas; None: it was not given.

    Raises:
        Problem: 422, as `checked`.
    """
    return checked(tuple(one for some in given or () for one in some.split(",") if one)) or None


def checked(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a filter, when they are neither too many nor too long. Raises Problem, 422."""
    if len(names) > NAMES_MAX:
        raise Problem(422, f"more than {NAMES_MAX} names in one filter")
    if any(len(name) > NAME_CHARS_MAX for name in names):
        raise Problem(422, f"a name of more than {NAME_CHARS_MAX} characters in a filter")
    if sum(len(name) for name in names if is_pattern(name)) > PATTERNS_CHARS_MAX:
        raise Problem(422, f"patterns of more than {PATTERNS_CHARS_MAX} characters together in one filter")
    return names


def fits(name: str, wanted: tuple[str, ...] | None) -> bool:
    """Whether a name is one of those wanted, which may have * and ?; None: all are."""
    return wanted is None or bool(_fitting(wanted)(name))


@lru_cache(64)  # lists ask with the same filter again and again, a few of them at once
def _fitting(wanted: tuple[str, ...]) -> Callable[[str], object]:
    return fitting(wanted)


def chosen(what: str, given: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...] | None:
    """The words of a closed set that a filter names, patterns included. Raises Problem, 422."""
    names = split(given)
    if names is None:
        return None
    for name in names:
        if not is_pattern(name) and name not in known:
            raise Problem(422, unknown(what, name, known).message)
    return tuple(one for one in known if fits(one, names))


def page(
    items: Iterable[T], key: Callable[[T], Key], after: str, limit: int
) -> tuple[list[T], dict[str, str]]:
    """The next `limit` items in the order of their keys, and the header with the cursor when there are more.

    Raises:
        Problem: 422, the cursor is of no such list.
    """
    begin = decoded(after) if after else None
    try:
        ordered = sorted(
            ((key(one), place, one) for place, one in enumerate(items) if begin is None or key(one) > begin),
            key=lambda entry: entry[:2],
        )
    except TypeError as error:
        raise _not_a_cursor(after) from error
    found = [one for _, _, one in ordered[:limit]]
    more = len(ordered) > limit
    return found, {CURSOR: encoded(ordered[limit - 1][0])} if more else {}


def encoded(key: Key) -> str:
    """A key as a cursor."""
    return base64.urlsafe_b64encode(to_json(key)).decode().rstrip("=")


def decoded(cursor: str) -> Key:
    """The key in a cursor. Raises Problem."""
    try:
        key = from_json(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars="-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise _not_a_cursor(cursor) from error
    if not isinstance(key, list) or not key or not all(type(one) in (str, int, float) for one in key):
        raise _not_a_cursor(cursor)
    return tuple(key)


def _not_a_cursor(cursor: str) -> Problem:
    shown = cursor if len(cursor) <= 40 else cursor[:40] + "…"
    return Problem(422, f"after: {shown!r} is no cursor of this list: take it from the header {CURSOR}")
