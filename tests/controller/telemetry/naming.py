"""Which series there are, and which an expression names."""

import re
from functools import cache
from pathlib import Path

LISTED = Path(__file__).with_name("series.txt")
PROCESS = {
    "process_cpu_seconds": "counter",
    "process_max_fds": "gauge",
    "process_open_fds": "gauge",
    "process_resident_memory_bytes": "gauge",
    "process_start_time_seconds": "gauge",
    "process_virtual_memory_bytes": "gauge",
}
_SUFFIXES = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_count", "_sum"),
}


@cache
def listed() -> dict[str, str]:
    """The committed list: name of a family to its type and labels, as one string."""
    lines = [line.split(maxsplit=1) for line in LISTED.read_text().splitlines() if line[:1] != "#"]
    return {name: of for name, of in lines}


@cache
def exported_names() -> frozenset[str]:
    """Names of samples on /metrics."""
    types = {name: of.split()[0] for name, of in listed().items()} | PROCESS
    return frozenset(f"{name}{suffix}" for name, kind in types.items() for suffix in _SUFFIXES[kind])


def series_in(expression: str) -> set[str]:
    """Names of series in an expression; those of ours and of the process."""
    bare = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\b(?:everpool|process)_[a-z0-9_]+|\bup\b", bare))
