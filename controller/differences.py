"""What differs between two configs, or two specs, key by key, for people to read. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel
from pydantic_core import to_json

SHOWN_MAX = 60  # letters of a value
HIDDEN_UNDER = frozenset({"env"})  # tables whose values are the user's own: their names are enough
HIDDEN = "(a value)"
_NOTHING = object()


@dataclass(frozen=True, slots=True)
class Difference:
    """One key that differs. `before` and `after` are as JSON would say them, cut short; "" when not there."""

    key: str
    before: str
    after: str

    def __str__(self) -> str:
        if not self.before:
            return f"{self.key}: {self.after} (new)"
        if not self.after:
            return f"{self.key}: {self.before} (taken away)"
        return f"{self.key}: {self.before} -> {self.after}"


def differences(before: BaseModel, after: BaseModel, prefix: str = "") -> list[Difference]:
    """Every key whose value differs, by its dotted name under `prefix`, in the order of the models' keys."""
    return list(
        _between(
            before.model_dump(mode="json", exclude_none=True),
            after.model_dump(mode="json", exclude_none=True),
            prefix,
        )
    )


def _between(before: Any, after: Any, key: str) -> Iterator[Difference]:
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*before, *(name for name in after if name not in before)]:
            below = f"{key}.{name}" if key else str(name)
            yield from _between(before.get(name, _NOTHING), after.get(name, _NOTHING), below)
        return
    if _tables(before) and _tables(after) and len(before) == len(after):
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _between(old, new, f"{key}[{place}]")
        return
    hidden = not HIDDEN_UNDER.isdisjoint(key.split("."))
    yield Difference(key, _shown(before, hidden), _shown(after, hidden))


def _tables(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _shown(value: Any, hidden: bool) -> str:
    if value is _NOTHING:
        return ""
    if hidden:
        return HIDDEN
    text = to_json(_without_secrets(value), inf_nan_mode="constants").decode()
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 1]}…"


def _without_secrets(value: Any) -> Any:
    """The same without the user's own values, at any depth; of a URL only where it goes to."""
    if isinstance(value, Mapping):
        return {
            name: HIDDEN if name in HIDDEN_UNDER else _without_secrets(one) for name, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_without_secrets(one) for one in value]
    return _host_of(value) if isinstance(value, str) and "://" in value else value


def _host_of(url: str) -> str:
    """Scheme and host: a path or a query may be what lets in."""
    try:
        parts = urlsplit(url)
        there = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    except ValueError:
        return HIDDEN
    return there if url.rstrip("/") == there else f"{there}/…"
