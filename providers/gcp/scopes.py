"""Which zones an aggregated list has shown whole. Pure."""

from collections.abc import Callable, Mapping
from typing import Any

from providers.gcp.api import last

_NOT_WHOLE = ("UNREACHABLE", "PARTIAL_SUCCESS")


class Scopes:
    """What the pages of one aggregated list say of its scopes, which it names all, also those with nothing.

    Attributes:
        hidden: what could not be read: zones and regions by name, and others in words.
    """

    def __init__(self) -> None:
        self.hidden: set[str] = set()
        self._named: set[str] = set()
        self._lost = False  # something is missing, and nobody knows where

    def read(self, page: Mapping[str, Any]) -> None:
        """One page."""
        hidden = {last(one) for one in page.get("unreachables") or ()}
        for scope, held in (page.get("items") or {}).items():
            self._named.add(last(scope))
            if (held.get("warning") or {}).get("code") in _NOT_WHOLE:
                hidden.add(last(scope))
        self.hidden |= hidden
        if (page.get("warning") or {}).get("code") in _NOT_WHOLE and not hidden:
            self.lose("some scope")

    def lose(self, what: str) -> None:
        """Something could not be read that may be of any scope."""
        self.hidden.add(what)
        self._lost = True

    def whole(self, region_of: Callable[[str], str]) -> tuple[str, ...]:
        """The zones that were read whole; empty when all were, or when it is not known which.

        A scope that no page names is none of them: whether it was read, nobody said.
        """
        if self._lost or not self.hidden:
            return ()
        return tuple(sorted(one for one in self._named if not self.hidden & {one, region_of(one)}))

    def whole_regions(self, region_of: Callable[[str], str]) -> tuple[str, ...]:
        """The regions that have nothing hidden in them; none when something was lost anywhere."""
        if self._lost:
            return ()
        hidden = self.hidden | {region_of(one) for one in self.hidden}
        return tuple(sorted({region_of(one) for one in self._named} - hidden))
