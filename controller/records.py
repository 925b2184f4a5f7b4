"""What the daemon itself keeps in the journal besides pools: tokens, secrets, webhooks' cursors.

A record is one row (kind, name) that belongs to no pool. It is written with the facts that tell of it, in one
commit, before anybody may rely on it; so a backup has it, and a restart finds it.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import structlog

from actors.events import Envelope, Fact
from actors.ports import Clock, Commit, Observer, StateRow
from controller.journal.errors import JournalFailing
from providers.model import Value

NOBODYS = ""  # the pool of what belongs to no pool

log = structlog.get_logger()


class Writing(Protocol):
    """As much of the journal as is needed here."""

    def reserve(self, count: int) -> int:
        """Take consecutive seqs; used without an await in between."""
        ...

    async def commit(self, commit: Commit, *, wait: bool = True) -> None:
        """Return when it is durable. Raises JournalClosed, and without `wait` JournalFailing."""
        ...


class Records:
    """All records, in memory as they are durable. Built from what recovery found."""

    def __init__(
        self, journal: Writing, observer: Observer, clock: Clock, found: Mapping[tuple[str, str], Value]
    ) -> None:
        self._journal = journal
        self._observer = observer
        self._clock = clock
        self._kinds: dict[str, dict[str, Value]] = {}
        for (kind, name), value in found.items():
            self._kinds.setdefault(kind, {})[name] = value

    def of(self, kind: str) -> Mapping[str, Value]:
        """Every record of a kind, by name: a view that follows what is kept later."""
        return MappingProxyType(self._kinds.setdefault(kind, {}))

    async def keep(
        self,
        kind: str,
        name: str,
        value: Value | None,
        facts: Sequence[Fact] = (),
        *,
        version: int = 1,
        principal: str = "",
        wait: bool = False,
    ) -> Sequence[Envelope]:
        """Write one record (None removes it) and facts; returns the facts as published, when durable.

        With `wait`, while nothing can be written (a full disk), it waits for as long as that lasts.

        Raises:
            JournalFailing: without `wait`: nothing can be written just now, and nothing was kept.
            JournalClosed: nothing was kept, and never will be.
        """
        rows = [StateRow(kind, name, version, value)]
        envelopes = await self._commit(rows, facts, principal, wait)
        if value is None:
            self._kinds.setdefault(kind, {}).pop(name, None)
        else:
            self._kinds.setdefault(kind, {})[name] = value
        return envelopes

    async def tell(self, *facts: Fact, principal: str = "") -> Sequence[Envelope]:
        """Publish facts that change no record, when they are durable.

        Raises:
            JournalFailing, JournalClosed: nothing was told.
        """
        return await self._commit((), facts, principal, wait=False)

    async def note(self, fact: Fact, principal: str) -> None:
        """Tell of what was done; only the log while the journal can't be written. Raises JournalClosed."""
        try:
            await self.tell(fact, principal=principal)
        except JournalFailing as error:
            said = fact.model_dump(mode="json")
            log.warning("done, and not in the journal", what=said, principal=principal, why=str(error))

    async def _commit(
        self, rows: Sequence[StateRow], facts: Sequence[Fact], principal: str, wait: bool
    ) -> Sequence[Envelope]:
        at = self._clock.now()
        first = self._journal.reserve(len(facts)) if facts else 0
        envelopes = [
            Envelope(seq=first + place, at=at, pool=NOBODYS, principal=principal, event=fact)
            for place, fact in enumerate(facts)
        ]
        commit = Commit(NOBODYS, rows, envelopes)
        await self._journal.commit(commit, wait=wait)
        self._observer.committed(commit)
        return envelopes
