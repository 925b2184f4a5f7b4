"""Times, money and lists in words, for people."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

_KEY = re.compile(r"\blaunch [^\s/]+/[^\s/]+/\d+/\d+/\d+: ")  # which launch an adapter speaks of
_UNITS = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
SHOWN_MAX = 8  # names in one sentence


def lasting(seconds: float) -> str:
    """A duration, in one or two units: 14s, 4m, 1h5m."""
    left = max(0, round(seconds))
    if left < 1:
        return "0s"
    for place, (unit, size) in enumerate(_UNITS):
        if left >= size:
            whole, rest = divmod(left, size)
            text = f"{whole}{unit}"
            if place + 1 < len(_UNITS):
                below, below_size = _UNITS[place + 1]
                text += f"{rest // below_size}{below}" if rest >= below_size else ""
            return text
    return "0s"


def took(seconds: float) -> str:
    """A duration that was measured: as `lasting`, but finer below ten seconds: 5ms, 1.2s."""
    if seconds <= 0:
        return "0s"
    if seconds < 0.0005:
        return "<1ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    return f"{seconds:.1f}s" if seconds < 9.95 else lasting(seconds)


def hourly(rate: float) -> str:
    """How often something happens in an hour; two digits behind the point, as placement says it."""
    return "<0.01" if 0 < rate < 0.005 else f"{rate:.2f}"


def clock(at: float, now: float) -> str:
    """A time, UTC; with its date when that is another than of `now`."""
    moment = datetime.fromtimestamp(at, UTC)
    today = moment.date() == datetime.fromtimestamp(now, UTC).date()
    return moment.strftime("%H:%M:%S UTC" if today else "%Y-%m-%d %H:%M:%S UTC")


def when(at: float, now: float) -> str:
    """A time to come: in 4m (14:03:10 UTC)."""
    return f"in {lasting(at - now)} ({clock(at, now)})" if at > now else "now"


def ago(at: float, now: float) -> str:
    """A time that was: 4m ago (14:03:10 UTC)."""
    return f"{lasting(now - at)} ago ({clock(at, now)})"


def count(number: int, one: str, many: str | None = None) -> str:
    """1 node, 2 nodes."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def be(number: int) -> str:
    """is or are."""
    return "is" if number == 1 else "are"


def unkeyed(text: str) -> str:
    """A provider's words without the key of the launch they were said to, which may be another pool's."""
    return _KEY.sub("", text)


def sentence(text: str) -> str:
    """A text with one mark at its end, a full stop if it has none."""
    found = text.rstrip()
    return found if found.endswith(("!", "?")) else f"{found.rstrip('.')}."


def listed(names: Sequence[object], most: int = SHOWN_MAX) -> str:
    """a, b, c; with a count of those that are not shown."""
    shown = ", ".join(str(name) for name in names[:most])
    more = len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown


def ranks(numbers: Sequence[int], most: int = SHOWN_MAX) -> str:
    """Numbers as ranges: 0-3, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return listed([str(first) if first == last else f"{first}-{last}" for first, last in runs], most)
