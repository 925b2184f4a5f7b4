"""What is wrong with a config, in lines that a user can act on."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Self, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from controller.toml_lines import Path, line_of

# What options of the command line are called in a config: a key of the same table, and how it is written.
CALLED_OTHERWISE = {
    "slots": ("worker", "worker = { concurrency = N }"),
    "concurrency": ("worker", "worker = { concurrency = N }"),
    "buffer": ("worker", "worker = { buffer = N }"),
    "step": ("image", 'image = { steps = [{ phase = "NAME", run = "COMMAND" }] }'),
    "steps": ("image", 'image = { steps = [{ phase = "NAME", run = "COMMAND" }] }'),
}
_BRANCH = re.compile(r"constrained-(int|float|str)|literal\[.*\]")  # what pydantic calls branches of a union


class ConfigError(Exception):
    """The config is wrong.

    Attributes:
        problems: one line each, in the order of the file, with its line where there is one.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with the key at `location`."""

    location: Path
    text: str
    whole: bool = False  # `text` names the key itself

    @classmethod
    def unknown(
        cls, location: Path, known: Iterable[str], what: str | None = None, name: str | None = None
    ) -> Self:
        """A key, or what it names, that does not exist; says the nearest that does, or all."""
        what = what or f"key {dotted(location)!r}"
        names = list(known)
        given = name or str(location[-1])
        key, written = CALLED_OTHERWISE.get(given, ("", ""))
        near = get_close_matches(given, names, 1)
        if key in names:
            hint = f"write {written}"
        elif near:
            hint = f"did you mean {near[0]!r}?"
        else:
            hint = f"there are {', '.join(names)}" if names else "there is none"
        return cls(location, f"{what} is not known; {hint}", whole=True)


def dotted(location: Path) -> str:
    """Write a key as a user would: pools.a.image.steps[0].run."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def sorted_lines(path: str, text: str, problems: Iterable[Problem]) -> list[str]:
    """Return the problems as lines, in the order of the file."""
    placed = {(line_of(text, problem.location), problem) for problem in problems}
    lines = []
    for line, problem in sorted(placed, key=lambda pair: (pair[0], dotted(pair[1].location), pair[1].text)):
        what = problem.text if problem.whole else f"{dotted(problem.location)}: {problem.text}"
        lines.append(f"{path}:{line}: {what}")
    return lines


def problems_of(
    error: ValidationError, model: type[BaseModel], location: Path, extra: Sequence[str] = ()
) -> list[Problem]:
    """Turn pydantic's findings into ours; `extra` are keys that the table may have besides the model's."""
    found: list[Problem] = []
    for detail in error.errors(include_url=False):
        inner = detail["loc"]
        if len(inner) > 1 and _BRANCH.fullmatch(str(inner[-1])):
            inner = inner[:-1]
        where: Path = (*location, *inner)
        if found and found[-1].location == where and detail["type"] != "extra_forbidden":
            found[-1] = Problem(
                where, f"{found[-1].text}, or {_plain(detail['msg'])}"
            )  # the branches of a union
            continue
        if detail["type"] == "extra_forbidden":
            known = keys_at(model, inner[:-1])
            found.append(Problem.unknown(where, [*known, *(extra if len(inner) == 1 else ())]))
        elif detail["type"] == "missing":
            found.append(Problem(where, "is missing"))
        else:
            found.append(Problem(where, _plain(detail["msg"]) + nearest(detail)))
    return found


def nearest(detail: ErrorDetails) -> str:
    """Which of the words that are allowed is nearly the one given, as the end of a line; else nothing."""
    given = detail["input"]
    if detail["type"] != "literal_error" or not isinstance(given, str):
        return ""
    near = get_close_matches(given, re.findall(r"'([^']*)'", str(detail.get("ctx", {}).get("expected"))), 1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _plain(message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Input ")
    return f"{text[:1].lower()}{text[1:]}" if message.startswith("Input ") else text


def keys_at(model: type[BaseModel], location: Path) -> list[str]:
    """The keys of the table at `location` in `model`."""
    here: Any = model
    for part in location:
        if isinstance(part, str):
            for candidate in _models(here):
                if part in candidate.model_fields:
                    here = candidate.model_fields[part].annotation
    return sorted({key for candidate in _models(here) for key in candidate.model_fields})


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models within an annotation such as tuple[Step, ...] or HealthCheck | None."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]
