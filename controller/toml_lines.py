"""On which line of a TOML text a key is."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

Path = tuple[str | int, ...]

_STATEMENT_LINES_MAX = 500  # a value that is longer is taken for its first line only
_HEADER = re.compile(r"\s*(\[\[?)\s*(.+?)\s*\]\]?\s*(?:#.*)?$")


def line_of(text: str, key: Path) -> int:
    """Return the line (from 1) where `key` or else the nearest table around it is; `text` is valid TOML."""
    lines = _lines(text)
    for length in range(len(key), 0, -1):
        if key[:length] in lines:
            return lines[key[:length]]
    return 1


@lru_cache(maxsize=1)  # one text has many problems
def _lines(text: str) -> dict[Path, int]:
    found: dict[Path, int] = {}
    table: Path = ()
    seen: dict[Path, int] = {}  # [[array of tables]] -> how many so far
    for number, statement in _statements(text):
        header = _HEADER.match(statement)
        if header:
            table = next(_paths(tomllib.loads(f"{header[2]} = 0")))
            if header[1] == "[[":
                seen[table] = seen.get(table, -1) + 1
                found.setdefault(table, number)
                table = (*table, seen[table])
            elif table[:-1] in seen:  # [array.key] belongs to the newest [[array]]
                table = (*table[:-1], seen[table[:-1]], table[-1])
            found.setdefault(table, number)
            continue
        for path in _paths(tomllib.loads(statement)):
            for length in range(1, len(path) + 1):
                found.setdefault((*table, *path[:length]), number)
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each header and each `key = value`, however many lines it takes."""
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        for end in range(number + 1, min(number + _STATEMENT_LINES_MAX, len(lines)) + 1):
            statement = "\n".join(lines[number:end])
            try:
                tomllib.loads(statement)
            except tomllib.TOMLDecodeError:
                continue
            yield number + 1, statement
            number = end
            break
        else:
            number += 1


def _paths(value: Mapping[str, Any]) -> Iterator[Path]:
    for key, below in value.items():
        if isinstance(below, dict) and below:
            for path in _paths(below):
                yield (key, *path)
        else:
            yield (key,)
