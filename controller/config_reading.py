"""Reading a table though parts of it are wrong, so that all that is wrong can be told at once."""

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError, create_model
from pydantic_core import ErrorDetails

from controller.config_errors import Problem, keys_at, problems_of
from controller.toml_lines import Path

M = TypeVar("M", bound=BaseModel)
ROUNDS_MAX = 10  # what is wrong is taken out, and what is left is read again


@dataclass(slots=True)
class Reading(Generic[M]):
    """What a table says.

    Attributes:
        value: with defaults for what is wrong, and `()` for what is missing; None: it is no table.
        problems: all that is wrong with it.
        doubtful: its own keys whose value is not what the user meant.
    """

    value: M | None = None
    problems: list[Problem] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)


def read_through(model: type[M], raw: object, location: Path, extra: Sequence[str] = ()) -> Reading[M]:
    """Read a table, and go on without what is wrong; `extra` are keys it may have besides the model's."""
    found: Reading[M] = Reading()
    reads, left = model, deepcopy(raw)
    harmed: set[Path] = set()  # tables that may seem wrong for want of what was taken out of them
    for number in range(ROUNDS_MAX):
        try:
            found.value = reads.model_validate(left)
            break
        except ValidationError as error:
            details = error.errors(include_url=False)
            if number == 0:
                found.problems = problems_of(error, model, location, extra)
            else:
                found.problems += _hidden_before(details, location, harmed)
            missing = {str(one["loc"][0]): (Any, ()) for one in details if one["type"] == "missing"}
            missing = {key: value for key, value in missing.items() if (key,) in _places(details)}
            taken = _take_out(left, _places(details))
            if not taken and not missing:
                break
            found.doubtful |= missing.keys() | {_meant(model, path[0]) for path in taken}
            harmed |= {path[:length] for path in _harmful(model, details) for length in range(len(path))}
            if missing:
                reads = create_model(model.__name__, __base__=reads, **missing)  # type: ignore[call-overload]
    return found


def _places(details: Iterable[ErrorDetails]) -> list[Path]:
    return [one["loc"] for one in details]


def _hidden_before(details: Iterable[ErrorDetails], location: Path, harmed: set[Path]) -> list[Problem]:
    """What a table as a whole has wrong, which is not looked for while one of its keys is unknown."""
    return [
        Problem((*location, *one["loc"]), one["msg"].removeprefix("Value error, "))
        for one in details
        if one["type"] == "value_error"
        and one["loc"] not in harmed
        and not any(isinstance(part, int) for part in one["loc"])  # places move when others are taken out
    ]


def _harmful(model: type[BaseModel], details: Iterable[ErrorDetails]) -> list[Path]:
    """Where something was taken out that could have meant something: not keys like none that there is."""
    return [
        one["loc"]
        for one in details
        if one["type"] != "extra_forbidden"
        or get_close_matches(str(one["loc"][-1]), keys_at(model, one["loc"][:-1]), 1)
    ]


def _take_out(raw: Any, places: Iterable[Path]) -> list[Path]:
    """Take what is at these places, or else what is around it, out of nested tables; answers what was."""
    there = {found for place in places if (found := _within(raw, place))}
    # what comes later in a list goes first, and what is within something before it
    taken = sorted(there, key=lambda path: [(isinstance(part, int), part) for part in path], reverse=True)
    for path in taken:
        parent = raw
        for part in path[:-1]:
            parent = parent[part]
        del parent[path[-1]]
    return taken


def _within(raw: Any, place: Path) -> Path:
    """As much of a place as there is: pydantic also names branches of unions, and keys that are missing."""
    reached: list[str | int] = []
    for part in place:
        if isinstance(raw, dict) and part in raw:
            raw = raw[part]
        elif isinstance(raw, list) and isinstance(part, int) and part < len(raw):
            raw = raw[part]
        else:
            break
        reached.append(part)
    return tuple(reached)


def _meant(model: type[BaseModel], key: str | int) -> str:
    """The key of the model that the user meant, as far as one can tell."""
    near = get_close_matches(str(key), model.model_fields, 1)
    return near[0] if near else str(key)
