"""Who is asking, and what they may."""

from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase


class Scope(IntEnum):
    """What a principal may do; each includes those before it."""

    READ = 1  # look at everything but secrets
    SUBMIT = 2  # besides: send Requests
    ADMIN = 3  # besides: care for the daemon, tokens and secrets, and get into machines


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody whom the edge let in.

    Attributes:
        name: "unix:<uid>", "unix", "token" (the one of token_file), "token:<name>" or "config".
        scope: what they may do.
        pools: patterns (`*`, `?`) of the pools that they may see and ask for; empty: all.
    """

    name: str
    scope: Scope
    pools: tuple[str, ...] = ()

    @property
    def limited(self) -> bool:
        """Whether there are pools that they may not see."""
        return bool(self.pools)

    def may_see(self, pool: str) -> bool:
        """Whether a pool is theirs. What belongs to no pool ("") is not for those with limits."""
        return not self.pools or any(fnmatchcase(pool, pattern) for pattern in self.pools)
