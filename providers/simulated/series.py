"""Values that change over time: read from a trace, or a seeded random walk.

A trace is a JSON file, `{"metadata": {"gap_seconds": s}, "data": [n, n, ...]}`: a sample holds until the
next, and after the last one it starts over.
"""

import json
import math
import random
from pathlib import Path
from typing import Annotated, Any, Protocol, Self

from pydantic import Field, PrivateAttr, model_validator

from providers.model import Value

TRACE_BYTES_MAX = 64 * 2**20
CLOSE_S = 1e-6  # a moment is reached so much early: times are floats of large numbers
_Seconds = Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)]
_Level = Annotated[float, Field(ge=0, le=1_000_000_000, allow_inf_nan=False)]


class Trace(Value):
    """A series read from a file, when the config is read.

    Attributes:
        path: the file; a relative one is looked for where the daemon runs.
        scale: what samples are multiplied by.
        from_s: where in the trace the cloud begins, in seconds after its first sample.
        unlimited: of a capacity: any sample above 0 means as many as you like.
    """

    path: Path
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    from_s: _Seconds = 0
    unlimited: bool = False

    _gap_s: float = PrivateAttr(0.0)
    _samples: tuple[float, ...] = PrivateAttr(())

    @model_validator(mode="after")
    def _read(self) -> Self:
        self._gap_s, self._samples = _read_trace(self.path)
        return self

    @property
    def gap_s(self) -> float:
        """Seconds between two samples."""
        return self._gap_s

    @property
    def samples(self) -> tuple[float, ...]:
        """What the file holds, not scaled."""
        return self._samples


class Walk(Value):
    """A random walk between two bounds; it begins anywhere between them, by the provider's seed.

    Attributes:
        least, most: the bounds.
        every_s: seconds between two steps.
        step: the longest step, up or down.
    """

    least: _Level
    most: _Level
    every_s: Annotated[float, Field(ge=1, le=31_536_000, allow_inf_nan=False)]
    step: _Level

    @model_validator(mode="after")
    def _bounds_agree(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least={self.least:g} exceeds most={self.most:g}")
        return self


Series = Trace | Walk


class Course(Protocol):
    """A series as it goes. Ages are seconds since the cloud began, and are asked for in growing order."""

    def at(self, age_s: float) -> float:
        """The value at that age."""
        ...

    def next_change_s(self, age_s: float) -> float | None:
        """The age after this one at which the value may be another; None: never."""
        ...


def course_of(series: Series | float, seed: str) -> Course:
    """The course of a series; `seed` is what a walk is drawn from."""
    if isinstance(series, Trace):
        return _TraceCourse(series)
    if isinstance(series, Walk):
        return _WalkCourse(series, seed)
    return _Constant(series)


class _Constant:
    def __init__(self, value: float) -> None:
        self._value = value

    def at(self, age_s: float) -> float:
        return self._value

    def next_change_s(self, age_s: float) -> float | None:
        return None


class _TraceCourse:
    def __init__(self, trace: Trace) -> None:
        self._samples = trace.samples
        self._gap_s = trace.gap_s
        self._from_s = trace.from_s
        self._scale = trace.scale

    def _index(self, age_s: float) -> int:
        return math.floor((age_s + self._from_s + CLOSE_S) / self._gap_s)

    def at(self, age_s: float) -> float:
        return self._samples[self._index(age_s) % len(self._samples)] * self._scale

    def next_change_s(self, age_s: float) -> float | None:
        index, count = self._index(age_s), len(self._samples)
        value = self._samples[index % count]
        for later in range(index + 1, index + count):
            if self._samples[later % count] != value:
                return later * self._gap_s - self._from_s
        return None


class _WalkCourse:
    def __init__(self, walk: Walk, seed: str) -> None:
        self._walk = walk
        self._random = random.Random(seed)
        self._index = 0
        self._value = walk.least + (walk.most - walk.least) * self._random.random()

    def at(self, age_s: float) -> float:
        walk, index = self._walk, math.floor((age_s + CLOSE_S) / self._walk.every_s)
        while self._index < index:
            self._index += 1
            self._value += (2 * self._random.random() - 1) * walk.step
            self._value = min(max(self._value, walk.least), walk.most)
        return self._value

    def next_change_s(self, age_s: float) -> float | None:
        if self._walk.step == 0 or self._walk.least == self._walk.most:
            return None
        return (math.floor((age_s + CLOSE_S) / self._walk.every_s) + 1) * self._walk.every_s


def _read_trace(path: Path) -> tuple[float, tuple[float, ...]]:
    """Seconds between samples, and the samples. Raises ValueError that says what is wrong."""
    try:
        with path.open("rb") as file:
            text = file.read(TRACE_BYTES_MAX + 1)
    except OSError as error:
        raise ValueError(f"trace {path} can't be read: {error.strerror}") from error
    if len(text) > TRACE_BYTES_MAX:
        raise ValueError(f"trace {path} has more than {TRACE_BYTES_MAX} bytes")
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"trace {path} is no JSON") from error
    metadata = content.get("metadata") if isinstance(content, dict) else None
    gap_s = metadata.get("gap_seconds") if isinstance(metadata, dict) else None
    if gap_s is None or not _is_number(gap_s) or gap_s <= 0:
        raise ValueError(f"trace {path} lacks metadata.gap_seconds, a number above 0")
    data = content.get("data")
    if not isinstance(data, list) or not data:
        raise ValueError(f"trace {path} lacks data, a list of one or more numbers")
    for place, sample in enumerate(data):
        if not _is_number(sample) or sample < 0:
            raise ValueError(f"trace {path}: data[{place}] is no number of 0 or more")
    return float(gap_s), tuple(float(sample) for sample in data)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
