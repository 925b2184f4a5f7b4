"""What happened, kept for the one who asks why a rule was broken: most of it is never turned into text."""

import re
from collections import deque
from collections.abc import Iterable

from actors.events import Envelope, Instance, NodeInstance

KEPT = 20_000  # entries; a day has some 5,000
TAIL_ABOUT, TAIL_ALL = 40, 10
_NAMES = re.compile(r"[\w@./:-]+")


class Log:
    """The newest events and happenings."""

    def __init__(self) -> None:
        self._entries: deque[Envelope | tuple[float, tuple[object, ...]]] = deque(maxlen=KEPT)

    def event(self, envelope: Envelope) -> None:
        """Keep an event."""
        self._entries.append(envelope)

    def happened(self, at: float, *words: object) -> None:
        """Keep what happened outside of the journal."""
        self._entries.append((at, words))

    def tail(self, about: Iterable[str] = ()) -> list[str]:
        """The last lines that name one of `about`, then the last of all."""
        entries = list(self._entries)
        names, found = {name for name in about if name}, list[str]()
        if names:
            for entry in reversed(entries):
                line = shown(entry)
                if not names.isdisjoint(_NAMES.findall(line)):
                    found.append(line)
                    if len(found) == TAIL_ABOUT:
                        break
        found.reverse()
        last = [shown(entry) for entry in entries[-TAIL_ALL:]]
        return [*found, *(["... and of everything:"] if found else []), *last]


def shown(entry: Envelope | tuple[float, tuple[object, ...]]) -> str:
    """One entry in a line: what names things, not what describes them."""
    if not isinstance(entry, Envelope):
        at, said = entry
        return f"- {at:.3f} {' '.join(str(word) for word in said)}"
    event, words = entry.event, list[str]()
    for name in type(event).model_fields:
        value = getattr(event, name)
        if isinstance(value, NodeInstance):
            words.append(f"{name} {value.instance.id}")
        elif isinstance(value, Instance):
            words.append(f"{name} {value.id}")
        elif name != "kind" and isinstance(value, str | int | float) and value != "":
            words.append(f"{name} {value}")
    ends = f" ends {' '.join(entry.ends)}" if entry.ends else ""
    return f"{entry.seq} {entry.at:.3f} {entry.pool} {event.kind} {' '.join(words)}{ends}"
