"""Values inside a loop that are made for every message: immutable by mypy's word, cheap while it runs.

`dataclass(frozen=True)` makes each field by a call of its own, so that to make a value takes more than twice
as long; that was a twentieth of what a task costs in all.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool, slots: bool) -> Callable[[type[T]], type[T]]:
        """`dataclasses.dataclass`, where mypy alone sees to it that nobody changes a frozen value."""
        return dataclasses.dataclass(slots=slots, unsafe_hash=frozen)
