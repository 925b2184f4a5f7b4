"""A line of output: what readers get, how it stands in a file, and which part of a report is new."""

import json
import math
from json.encoder import encode_basestring
from typing import Any, Literal, NamedTuple

from providers.agent.wire import LogLines

WHOLE, OVERWRITE, PIECE = 0, 1, 2  # kinds of a line in a report
LINE_BYTES_MAX = 2**20  # a longer line is split, and says so
_REPLACEMENT = "\ufffd"

Stream = Literal["stdout", "stderr"]
STREAMS: tuple[Stream, ...] = ("stdout", "stderr")


class LogLine(NamedTuple):
    """One line of output.

    Attributes:
        n: number in (task, attempt, stream), from 1.
        at: the machine's clock, seconds since the epoch.
        overwrite: the next line takes this one's place (a progress bar).
        part: a piece of a line; the next record of the same number goes on. Readers never see one.
        cut: the line was too long or its end was lost; what follows, if anything, is the next line.
        dropped: so many lines after this one were not kept, because of the task's quota.
        lost_bytes: so many bytes right before this line never arrived.
        lost_lines: so many lines died with the machine, where that is known.
    """

    task: str
    attempt: int
    stream: str
    n: int
    at: float
    text: str
    overwrite: bool = False
    part: bool = False
    cut: bool = False
    dropped: int = 0
    lost_bytes: int = 0
    lost_lines: int = 0


class Position(NamedTuple):
    """Where a file stands: written with the last record of each append, and read back from there.

    Attributes:
        n: number of the last line.
        open: bytes that an unfinished last line has so far; 0 when it is finished.
        boot: the life of the agent's spool that the last report came from.
        id: that report's id.
        next_offset: how much of the task's output is in the file.
        marker: the last record is `lost`, so that telling the same loss again changes nothing.
    """

    n: int = 0
    open: int = 0
    boot: str = ""
    id: int = 0
    next_offset: int = 0
    marker: tuple[int, int] | None = None


def clean_at(at: float) -> float:
    """A machine's clock may say anything; JSON and readers want a finite number."""
    return at if math.isfinite(at) and 0 <= at < 1e12 else 0.0


def encode(line: LogLine, *, position: Position | None = None, source: str = "", stream: str = "") -> str:
    """One record with its newline. `position` and `source` (an instance id) go into the last of an append."""
    parts = [f'{{"n":{line.n},"at":{line.at:.3f},"text":{encode_basestring(line.text)}']
    if stream:
        parts.append(f',"stream":"{stream}"')
    if line.overwrite:
        parts.append(',"overwrite":true')
    if line.part:
        parts.append(',"part":true')
    if line.dropped:
        parts.append(f',"dropped":{line.dropped}')
    if line.lost_bytes:
        parts.append(f',"lost_bytes":{line.lost_bytes}')
    if line.lost_lines:
        parts.append(f',"lost_lines":{line.lost_lines}')
    if position is not None:
        parts.append(f',"open":{position.open}' if position.open else "")
        parts.append(',"marker":true' if position.marker is not None else "")
        parts.append(f',"boot":{encode_basestring(position.boot)},"id":{position.id}')
        parts.append(f',"next_offset":{position.next_offset},"instance":{encode_basestring(source)}')
    parts.append("}\n")
    return "".join(parts)


def decode(raw: bytes) -> dict[str, Any] | None:
    """The record in one line of a file; None for what is none (a disk may lie after power loss)."""
    try:
        record = json.loads(raw)
    except ValueError:
        return None
    if isinstance(record, dict) and isinstance(record.get("n"), int) and isinstance(record.get("text"), str):
        return record
    return None


def position_in(record: dict[str, Any]) -> Position | None:
    """The position that a record carries, None when it is not the last of its append."""
    if "next_offset" not in record:
        return None
    marker = (record.get("lost_lines", 0), record.get("lost_bytes", 0)) if record.get("marker") else None
    return Position(
        record["n"],
        record.get("open", 0),
        record.get("boot", ""),
        record.get("id", 0),
        record["next_offset"],
        marker,
    )


def to_line(record: dict[str, Any], task: str, attempt: int, stream: str) -> LogLine:
    """The line in a record."""
    get = record.get
    return LogLine(
        task,
        attempt,
        get("stream", stream),
        record["n"],
        get("at", 0.0),
        record["text"],
        get("overwrite", False),
        get("part", False),
        False,
        get("dropped", 0),
        get("lost_bytes", 0),
        get("lost_lines", 0),
    )


def past(report: LogLines, have: int) -> tuple[list[tuple[str, int]], int]:
    """What of `report` lies past byte `have`, and how many bytes are missing before it.

    An agent cuts its output at the same places again when it sends it again, so that the
    first two cases are all there is, as a rule. After its own death it may cut elsewhere.
    """
    if report.offset >= have:
        return list(report.lines), report.offset - have
    if report.next_offset <= have:
        return [], 0
    fresh: list[tuple[str, int]] = []
    width, unended = _widths(report)
    at: float = report.offset
    last = len(report.lines) - 1
    for i, (text, kind) in enumerate(report.lines):
        start = at
        at += len(_utf8(text)) - (3 - width) * text.count(_REPLACEMENT)
        content_end = at
        at += 0 if kind == PIECE or (unended and i == last) else 1
        if start >= have:
            fresh.append((text, kind))
        elif content_end > have:
            fresh.append((_after(text, have - start, width), kind))
        elif at > have:  # all but the end of the line is there already
            fresh.append(("", kind))
    return fresh, 0


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _widths(report: LogLines) -> tuple[float, bool]:
    """How many bytes each U+FFFD stood for, and whether the last line came without its end.

    Bytes that are not UTF-8 become one U+FFFD for 1 to 3 of them, and a real one has 3; the
    report's own length says which it was, at least on average.
    """
    total = report.next_offset - report.offset
    known, replaced = 0, 0
    for text, kind in report.lines:
        count = text.count(_REPLACEMENT)
        known += len(_utf8(text)) - 3 * count + (kind != PIECE)
        replaced += count
    rest = total - known
    may_be_unended = bool(report.lines) and report.lines[-1][1] != PIECE
    if replaced == 0:
        return 3.0, may_be_unended and rest == -1
    if may_be_unended and rest + 1 in (replaced, 3 * replaced) and rest not in (replaced, 3 * replaced):
        return (rest + 1) / replaced, True
    return max(1.0, min(3.0, rest / replaced)), False


def _after(text: str, skip: float, width: float) -> str:
    """`text` without its first `skip` bytes; a character that is cut through is gone with them."""
    if text.isascii():
        return text[int(skip) :]
    at = 0.0
    for i, c in enumerate(text):
        if at >= skip:
            return text[i:]
        at += width if c == _REPLACEMENT else len(_utf8(c))
    return ""
