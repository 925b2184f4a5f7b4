"""Tables as lines of text that fit a terminal. Pure.

Into a pipe nothing is cut or left out. On a terminal that is too narrow, first columns without a value go,
then what is said in words is broken, or goes on below its row, then columns go as the table states.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.cells import cell_len, chop_cells

GAP = 2
BELOW = 4  # how far in words stand that are below their row
WORDS_LEAST = 36  # cells that words need beside their row, else they go below it


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        title: its head.
        drop: 1 is left out first when there is no room, then 2 and so on; 0: never.
        words: sentences, which may be broken over lines.
    """

    title: str
    drop: int = 0
    words: bool = False


@dataclass(frozen=True, slots=True)
class Shown:
    """A table as lines without blanks at their ends; the first `heads` of them are its head.

    `hidden`: titles of columns that hold something and had no room.
    """

    lines: tuple[str, ...]
    heads: int
    hidden: tuple[str, ...] = ()


def plain(value: Any) -> str:
    """A cell as one line that does nothing to a terminal; "-": nothing."""
    text = "-" if value is None or value == "" else str(value)
    return "".join(letter if letter.isprintable() else " " for letter in text)


def fitted(columns: Sequence[Column | str], rows: Sequence[Sequence[Any]], width: int | None) -> Shown:
    """A table as lines of at most `width` cells where that can be; None: of any width."""
    heads = [one if isinstance(one, Column) else Column(one) for one in columns]
    cells = [[plain(cell) for cell in row] for row in rows]
    chosen = list(range(len(heads)))
    if width is None:
        return _drawn(heads, cells, chosen, [])
    if _width(heads, cells, chosen) > width:
        empty = {at for at in chosen if all(row[at] == "-" for row in cells)}
        chosen = [at for at in chosen if at not in empty or not (heads[at].drop or heads[at].words)]
    beside = [at for at in chosen if heads[at].words]
    fixed = [at for at in chosen if not heads[at].words]
    if _width(heads, cells, chosen) <= width:
        return _drawn(heads, cells, chosen, [])
    if len(beside) == 1 and beside[0] == chosen[-1]:
        room = width - _width(heads, cells, fixed) - GAP
        if room >= WORDS_LEAST:
            return _drawn(heads, cells, chosen, [], room)
    kept = fixed
    for drop in sorted({heads[at].drop for at in fixed} - {0}):
        if _width(heads, cells, kept) <= width:
            break
        kept = [at for at in kept if heads[at].drop != drop]
    hidden = tuple(heads[at].title for at in fixed if at not in kept)
    return replace(_drawn(heads, cells, kept, beside, width - BELOW), hidden=hidden)


def _longest(heads: Sequence[Column], cells: Sequence[Sequence[str]], at: int) -> int:
    return max(cell_len(heads[at].title), *(cell_len(row[at]) for row in cells), 0)


def _width(heads: Sequence[Column], cells: Sequence[Sequence[str]], chosen: Sequence[int]) -> int:
    return sum(_longest(heads, cells, at) for at in chosen) + GAP * max(0, len(chosen) - 1)


def _drawn(
    heads: Sequence[Column],
    cells: Sequence[Sequence[str]],
    chosen: Sequence[int],
    below: Sequence[int],
    room: int | None = None,
) -> Shown:
    """The lines: `chosen` columns side by side, the last broken at `room`, or those `below` at that."""
    titles = [one.title for one in heads]
    widths = [_longest(heads, cells, at) for at in chosen]
    if room is not None and not below:
        widths[-1] = min(widths[-1], room)
    lines = _row(titles, chosen, below, widths, room, is_head=True)
    number = len(lines)
    for row in cells:
        lines += _row(row, chosen, below, widths, room)
    return Shown(tuple(lines), number)


def _row(
    row: Sequence[str],
    chosen: Sequence[int],
    below: Sequence[int],
    widths: Sequence[int],
    room: int | None,
    *,
    is_head: bool = False,
) -> list[str]:
    parts = [[row[at]] for at in chosen]
    if room is not None and not below and parts:
        parts[-1] = broken(row[chosen[-1]], room)
    lines = []
    for number in range(max((len(part) for part in parts), default=0)):
        found = [part[number] if number < len(part) else "" for part in parts]
        padded = (text + " " * (size - cell_len(text)) for text, size in zip(found, widths, strict=True))
        lines.append((" " * GAP).join(padded).rstrip())
    said = [row[at] for at in below if row[at] != "-"]
    if below and is_head:
        said = [" · ".join(said)]
    for text in said:
        lines += [" " * BELOW + line for line in broken(text, room or 0)]
    return lines


def broken(text: str, width: int) -> list[str]:
    """A text as lines of at most `width` cells, broken between words where that can be."""
    size = max(2, width)  # the widest letters take two cells
    lines: list[str] = []
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if cell_len(joined) <= size:
            line = joined
            continue
        if line:
            lines.append(line)
        *whole, line = chop_cells(word, size)
        lines += whole
    return [*lines, line]
