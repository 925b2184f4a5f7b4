"""Tokens: named, with a scope, perhaps for some pools only, perhaps for some time only.

A token is shown once, when it is made. What is kept is its SHA-256: it has 256 random bits, so nothing slower
is needed. Which answers go on for whom is known here too, so that they can be cut when a token is not good
any more.
"""

import hmac
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from typing import Any, Literal

import anyio

from actors.events import TokenCreated, TokenRevoked
from actors.spec import checked_name
from controller.principal import Principal, Scope
from controller.records import Records
from controller.records_state import TokenRecord

KIND = "token"
PREFIX = "evp_"
TOKENS_MAX = 1_000
PATTERNS_MAX = 100
LIFE_S_MAX = 100 * 365 * 86_400.0
OWN = "token"  # the principal of the token in token_file
SCOPES: dict[str, Scope] = {scope.name.lower(): scope for scope in Scope}
WATCH_EVERY_S = 2.0  # how long an answer may go on behind its token's end

ScopeName = Literal["read", "submit", "admin"]

_HINT = len(PREFIX) + 4
_PATTERN = re.compile(r"[A-Za-z0-9._*?!\[\]-]{1,100}")
_NOBODY = "0" * 64  # compared with when there is nothing to compare with


class Unwelcome(Exception):
    """A token that does not let in. The text tells only its holder more than that."""


class TokenExists(Exception):
    """There is a token of that name."""


class TooManyTokens(Exception):
    """There are as many tokens as there may be."""


@dataclass(frozen=True, slots=True)
class Known:
    """Somebody who was let in.

    Attributes:
        principal: who, and what they may.
        digest: of the token that they showed; empty: none was needed.
        expires_at: of that token, UTC seconds.
    """

    principal: Principal
    digest: str = ""
    expires_at: float | None = None


@dataclass(slots=True)
class _Stay:
    known: Known
    over: anyio.Event = field(default_factory=anyio.Event)


class TokenStore:
    """All tokens. Who shows one of them is known by it."""

    def __init__(self, records: Records, now: Callable[[], float]) -> None:
        self._records = records
        self._now = now
        self._own = _NOBODY
        self._names = {one.digest: name for name, one in self._all().items()}
        self._used: dict[str, float] = {}
        self._stays: dict[int, _Stay] = {}
        self._numbers = count()
        self._lock = anyio.Lock()

    def _all(self) -> Mapping[str, TokenRecord]:
        found = self._records.of(KIND)
        return {name: one for name, one in found.items() if isinstance(one, TokenRecord)}

    def own(self, token: str | None) -> None:
        """Set the token of token_file: of scope admin, in no list; None: there is none."""
        before, self._own = self._own, _digest(token.encode()) if token else _NOBODY
        if before != self._own:
            self._cut(lambda known: known.digest == before)

    def who(self, shown: bytes) -> Known:
        """Who shows this token. Takes as long for one that is known as for one that is not.

        Raises:
            Unwelcome: nobody, or not any more.
        """
        digest = _digest(shown)
        if hmac.compare_digest(digest, self._own):
            return Known(Principal(OWN, Scope.ADMIN), digest)
        name = self._names.get(digest, "")
        record = self._records.of(KIND).get(name)
        kept = record.digest if isinstance(record, TokenRecord) else _NOBODY
        if not hmac.compare_digest(digest, kept) or not isinstance(record, TokenRecord):
            raise Unwelcome("this token is not known here: it is wrong, or was revoked")
        now = self._now()
        if record.expires_at is not None and record.expires_at <= now:
            raise Unwelcome(f"token {name!r} has expired")
        self._used[name] = now
        principal = Principal(f"{KIND}:{name}", SCOPES[record.scope], record.pools)
        return Known(principal, digest, record.expires_at)

    async def create(
        self, name: str, scope: ScopeName, pools: tuple[str, ...], expires_in_s: float | None, by: str
    ) -> str:
        """Make a token; it is in nobody's hands but the caller's.

        Raises:
            ValueError: a name or pattern that can't be one.
            TokenExists, TooManyTokens: nothing was made.
            JournalFailing, JournalClosed: nothing was made.
        """
        checked_name(name)
        checked_patterns(pools)
        async with self._lock:
            there = self._all()
            if name in there:
                raise TokenExists(
                    f"there is a token {name!r} already: revoke it first, or choose another name"
                )
            if len(there) >= TOKENS_MAX:
                raise TooManyTokens(f"there are {TOKENS_MAX} tokens already: revoke some (see expired ones)")
            token = PREFIX + secrets.token_urlsafe(32)
            now = self._now()
            record = TokenRecord(
                digest=_digest(token.encode()),
                hint=token[:_HINT],
                scope=scope,
                pools=pools,
                made_at=now,
                made_by=by,
                expires_at=None if expires_in_s is None else now + expires_in_s,
            )
            fact = TokenCreated(name=name, scope=scope, pools=pools, expires_at=record.expires_at)
            await self._records.keep(KIND, name, record, [fact], principal=by)
            self._names[record.digest] = name
            return token

    async def revoke(self, name: str, by: str) -> None:
        """Let nobody in with it any more, and cut what goes on for its holders.

        Raises:
            KeyError: there is none of that name.
            JournalFailing, JournalClosed: it was not revoked.
        """
        async with self._lock:
            record = self._all()[name]
            await self._records.keep(KIND, name, None, [TokenRevoked(name=name)], principal=by)
            self._names.pop(record.digest, None)
            self._used.pop(name, None)
        self._cut(lambda known: known.digest == record.digest)

    def names(self) -> list[str]:
        """Of all tokens, expired ones too."""
        return sorted(self._all())

    def listed(self) -> list[dict[str, Any]]:
        """All tokens, as they are shown: nothing here lets anybody in."""
        return [self.shown(name) for name in self.names()]

    def shown(self, name: str) -> dict[str, Any]:
        """One token. Raises KeyError."""
        one = self._all()[name]
        return {
            "name": name,
            "scope": one.scope,
            "pools": one.pools,
            "hint": one.hint,
            "made_at": one.made_at,
            "made_by": one.made_by,
            "expires_at": one.expires_at,
            "expired": one.expires_at is not None and one.expires_at <= self._now(),
            "last_used": self._used.get(name),
        }

    def expiries(self) -> dict[str, float]:
        """When each token expires that does, UTC seconds, by name. For metrics."""
        return {name: one.expires_at for name, one in self._all().items() if one.expires_at is not None}

    # --- answers that go on ---------------------------------------------------------------------------

    @contextmanager
    def staying(self, known: Known) -> Iterator[anyio.Event]:
        """While an answer goes on: the event is set when who gets it is not welcome any more."""
        number, stay = next(self._numbers), _Stay(known)
        self._stays[number] = stay
        try:
            yield stay.over
        finally:
            del self._stays[number]

    async def watch(self) -> None:
        """Cut answers whose tokens expire, for ever."""
        while True:
            await anyio.sleep(WATCH_EVERY_S)
            now = self._now()
            self._cut(lambda known: known.expires_at is not None and known.expires_at <= now)  # noqa: B023

    def _cut(self, unwelcome: Callable[[Known], bool]) -> None:
        for stay in self._stays.values():
            if unwelcome(stay.known):
                stay.over.set()


def checked_patterns(pools: tuple[str, ...]) -> None:
    """Raise ValueError for what can't be patterns of pools' names. No pool needs to be there."""
    if len(pools) > PATTERNS_MAX:
        raise ValueError(f"up to {PATTERNS_MAX} patterns of pools: use '*' and '?'")
    for one in pools:
        if not _PATTERN.fullmatch(one):
            raise ValueError(f"{one!r} is no pattern of pools' names: use their letters, '*' and '?'")


def _digest(token: bytes) -> str:
    return sha256(token).hexdigest()
