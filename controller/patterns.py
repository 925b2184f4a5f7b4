"""Names with * and ?, as filters have them."""

import re
from collections.abc import Callable, Sequence
from fnmatch import translate


def is_pattern(name: str) -> bool:
    """Whether a name stands for several."""
    return "*" in name or "?" in name


def fitting(wanted: Sequence[str]) -> Callable[[str], object]:
    """What tells whether a name is one of those wanted, or fits a pattern of them; brackets are plain.

    To be made once and asked often: unlike fnmatch, which keeps 32,768 patterns for good, however long.
    """
    exact = frozenset(wanted)
    patterns = [translate(one.replace("[", "[[]")) for one in wanted if is_pattern(one)]
    if not patterns:
        return exact.__contains__
    fits = re.compile("|".join(patterns)).match
    return lambda name: name in exact or fits(name) is not None
