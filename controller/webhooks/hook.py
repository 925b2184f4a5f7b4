"""One webhook: how far it is in the journal, what it is sent, and how often that is tried.

It goes through the journal from its own cursor, one event at a time and in order. The cursor is written down
at most about once a second and when it stops: what was sent since comes again after a kill -9.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Protocol

import anyio
import structlog
from pydantic_core import from_json

from actors.events import KINDS, Envelope, Fact, WebhookFailing, WebhookRecovered, WebhookTested
from actors.policy.backoff import retry_delay_s
from actors.ports import Clock, Dice, JournalClosed
from controller.config_sections import WebhookConfig
from controller.records_state import WebhookRecord
from controller.webhooks.sending import Sender, Tried

PAGE = 200  # events read at once
PAUSE_S = 0.05  # so that many events that come together are read together
KEEP_S = 1.0  # a cursor behind which something was sent is written down within this
KEEP_PASSED_S = 60.0  # one that only passed what is not wanted
FIRST_S, MOST_S = 1.0, 300.0  # until a failed try is repeated
STOP_WITHIN_S = 2.0
KIND = "webhook"  # of its record

log = structlog.get_logger()
Row = tuple[int, bytes]


class Source(Protocol):
    """Where events are read."""

    @property
    def last_seq(self) -> int:
        """The newest durable seq."""
        ...

    async def chosen(
        self, after: int, upto: int, limit: int, kinds: Sequence[str], *, ends: bool
    ) -> list[Row]:
        """The first (seq, envelope as JSON) in (`after`, `upto`] of these kinds, with `ends` also those that
        end requests."""
        ...


class Keeping(Protocol):
    """Where its record is written."""

    def of(self, kind: str) -> Mapping[str, Any]:
        """Every record of a kind, by name."""
        ...

    async def keep(
        self, kind: str, name: str, value: Any, facts: Sequence[Fact] = (), *, wait: bool = False
    ) -> object:
        """Write a record and facts; with `wait`, when that is possible again. Raises JournalClosed."""
        ...

    async def note(self, fact: Fact, principal: str) -> None:
        """Tell of what was done, if that can be written. Raises JournalClosed."""
        ...


class Posting(Protocol):
    """Who sends."""

    async def post(self, name: str, config: WebhookConfig, seq: int, body: bytes, at: float) -> Tried:
        """Try once; never raises."""
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


@dataclass(frozen=True, slots=True)
class Tools:
    """What all webhooks share. `records`: asked for each time, as the daemon makes them late."""

    source: Source
    records: Callable[[], Keeping]
    clock: Clock
    dice: Dice
    sender: Callable[[], Posting] = Sender


class Hook:
    """A webhook of the config.

    Attributes:
        record: how far it is; in memory ahead of what is written.
        replies: ids of open requests whose end it is sent.
        next_try_at: UTC seconds; None: it does not wait after a failure.
    """

    def __init__(self, name: str, config: WebhookConfig, tools: Tools) -> None:
        self.name = name
        self.replies: set[str] = set()
        self.next_try_at: float | None = None
        self.config = config
        self._tools = tools
        self._kinds = _kinds(config)
        known = tools.records().of(KIND).get(name)
        self.is_new = not isinstance(known, WebhookRecord)
        self.record = (
            known if isinstance(known, WebhookRecord) else WebhookRecord(cursor=tools.source.last_seq)
        )
        self._kept, self._kept_at = self.record, tools.clock.now()
        self._buffer: deque[Row] = deque()
        self._read_to = self.record.cursor
        self._sending = 0  # seq of what is tried now
        self._more = False  # than was read with the last page
        self._reading = anyio.Lock()
        self._news = anyio.Event()
        self._now = anyio.Event()  # try again without waiting

    # --- told from outside ------------------------------------------------------------------------

    def configure(self, config: WebhookConfig) -> None:
        """Go on by another config, from where it is; what waits is tried at once."""
        if config != self.config:
            self.config, self._kinds = config, _kinds(config)
            self._buffer.clear()
            self._read_to = max(self.record.cursor, self._sending)
            self.retry()

    def wake(self) -> None:
        """Something may have become durable."""
        self._news.set()

    def retry(self) -> None:
        """Try what waits now."""
        self._now.set()
        self._news.set()

    @property
    def behind(self) -> int:
        """How many seqs of the journal it has not come past."""
        return max(0, self._tools.source.last_seq - self.record.cursor)

    async def unsent(self, most: int | None = None) -> int:
        """How many events it chose that it was not sent yet; counts up to `most`."""
        count, after, upto = 0, self.record.cursor, self._tools.source.last_seq
        while self._kinds and (most is None or count < most):
            rows = await self._tools.source.chosen(after, upto, PAGE, self._kinds, ends=False)
            count += sum(self._chooses(from_json(body)) for _, body in rows)
            if len(rows) < PAGE:
                break
            after = rows[-1][0]
        return count if most is None else min(count, most)

    async def test(self, principal: str) -> Tried:
        """Send something that says it is a test. It is told in the journal as well, with what came of it."""
        at = self._tools.clock.now()
        fact = WebhookTested(webhook=self.name)
        body = Envelope(seq=0, at=at, pool="", principal=principal, event=fact).model_dump_json().encode()
        sender = self._tools.sender()
        try:
            return await sender.post(self.name, self.config, 0, body, at)
        finally:
            await sender.aclose()

    # --- life -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Send what is chosen until cancelled. Raises JournalClosed."""
        self._buffer.clear()
        self._read_to, self._sending = self.record.cursor, 0
        sender = self._tools.sender()
        try:
            if self.is_new:
                await self._keep()
                self.is_new = False
            while True:
                await self._read()
                while self._buffer:
                    row = self._buffer.popleft()
                    self._sending = row[0]
                    await self._deliver(sender, row)
                    await self._keep_when_due()
                self._sending = 0
                if self._read_to > self.record.cursor:
                    self.record = self.record.model_copy(update={"cursor": self._read_to})
                await self._keep_when_due()
                await self._rest()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(STOP_WITHIN_S):
                await sender.aclose()
                with suppress(JournalClosed):
                    await self._keep()

    async def _read(self) -> None:
        """Fill the buffer with what comes next."""
        self._news = anyio.Event()
        ends = bool(self.replies)  # before last_seq: who asks is known here before the answer can be durable
        async with self._reading:
            upto = self._tools.source.last_seq
            self._more = False
            if upto <= self._read_to:
                return
            rows: list[Row] = []
            if self._kinds or ends:
                rows = await self._tools.source.chosen(self._read_to, upto, PAGE, self._kinds, ends=ends)
            self._buffer.extend(row for row in rows if row[0] > self._read_to and self._wants(row))
            self._more = len(rows) >= PAGE
            self._read_to = rows[-1][0] if self._more else max(self._read_to, upto)

    def _wants(self, row: Row) -> bool:
        envelope = from_json(row[1])
        return not self.replies.isdisjoint(envelope["ends"]) or self._chooses(envelope)

    def _chooses(self, envelope: Mapping[str, Any]) -> bool:
        """Whether the config's patterns choose it."""
        event = envelope["event"]
        if event["kind"] not in self._kinds:
            return False
        if event["kind"] in ("webhook_failing", "webhook_recovered") and event["webhook"] == self.name:
            return False  # it would be told of each failure to tell it
        pools = self.config.pools
        return not pools or any(fnmatchcase(envelope["pool"], pattern) for pattern in pools)

    async def _rest(self) -> None:
        """Until there may be more, or it is time to write down how far it is."""
        if self._more:
            return
        if self._tools.source.last_seq <= self._read_to:
            due_at = self._keep_at()
            with anyio.move_on_after(None if due_at is None else max(0.0, due_at - self._tools.clock.now())):
                await self._news.wait()
        await anyio.sleep(PAUSE_S)

    def _keep_at(self) -> float | None:
        """When the record should be written; None: it is as written."""
        if self.record == self._kept:
            return None
        passed = self._kept.model_copy(update={"cursor": self.record.cursor})
        return self._kept_at + (KEEP_PASSED_S if self.record == passed else KEEP_S)

    async def _keep_when_due(self) -> None:
        due_at = self._keep_at()
        if due_at is not None and due_at <= self._tools.clock.now():
            await self._keep()

    async def _keep(self, *facts: Fact) -> None:
        record = self.record
        if record == self._kept and not facts and not self.is_new:
            return
        await self._tools.records().keep(KIND, self.name, record, facts, wait=True)
        self._kept, self._kept_at = record, self._tools.clock.now()

    # --- one event --------------------------------------------------------------------------------

    async def _deliver(self, sender: Posting, row: Row) -> None:
        """Try until it is taken, unwanted, or too old to be tried again."""
        seq, body = row
        envelope = from_json(body)
        while True:
            now = self._tools.clock.now()
            is_late = now >= envelope["at"] + self.config.retry_for_s
            if is_late and self.record.failing_since is not None:
                self._pass(seq, envelope, dropped=1)
                return
            self._now = anyio.Event()
            tried = await sender.post(self.name, self.config, seq, body, now)
            if tried.taken:
                self._pass(seq, envelope, status=tried.status)
                await self._recovered()
                return
            if tried.unwanted:
                self._pass(seq, envelope, dropped=1, status=tried.status)
                return
            await self._failed(tried)

    def _pass(
        self, seq: int, envelope: Mapping[str, Any], *, dropped: int = 0, status: int | None = None
    ) -> None:
        """Go on behind an event, that was taken or is given up."""
        self.replies.difference_update(envelope["ends"])
        record = self.record
        update: dict[str, Any] = {"cursor": seq, "tries": 0, "dropped": record.dropped + dropped}
        if status is not None:
            update["last_status"] = status
        if not dropped:
            update |= {"delivered": record.delivered + 1, "delivered_at": self._tools.clock.now()}
        elif record.failing_since is not None:
            update["dropped_failing"] = record.dropped_failing + dropped
        self.record = record.model_copy(update=update)

    async def _failed(self, tried: Tried) -> None:
        """Note it, tell it when it is the first time in a row, and wait."""
        record, now = self.record, self._tools.clock.now()
        update: dict[str, Any] = {
            "tries": record.tries + 1,
            "last_error": tried.error,
            "last_status": tried.status,
        }
        is_first = record.failing_since is None
        if is_first:
            update |= {"failing_since": now, "dropped_failing": 0}
        self.record = record.model_copy(update=update)
        draw = self._tools.dice.random()
        wait_s = retry_delay_s(self.record.tries, draw, first_s=FIRST_S, most_s=MOST_S)
        wait_s = max(wait_s, tried.retry_after_s or 0.0)
        self.next_try_at = now + wait_s
        if is_first:
            log.warning("webhook failing", webhook=self.name, error=tried.error)
            await self._keep(WebhookFailing(webhook=self.name, error=tried.error))
        with anyio.move_on_after(wait_s):
            await self._now.wait()
        self.next_try_at = None

    async def _recovered(self) -> None:
        if self.record.failing_since is None:
            return
        dropped = self.record.dropped_failing
        update = {"failing_since": None, "dropped_failing": 0, "last_error": ""}
        self.record = self.record.model_copy(update=update)
        log.info("webhook recovered", webhook=self.name, dropped=dropped)
        await self._keep(WebhookRecovered(webhook=self.name, dropped=dropped))

    # --- what the journal forgets -----------------------------------------------------------------

    async def let_go(self, upto: int, before: float) -> None:
        """Count as dropped what will be pruned and was not read yet: to seq `upto`, and before a time."""
        dropped = 0
        async with self._reading:
            while True:
                ends = bool(self.replies)
                last = self._tools.source.last_seq
                rows: list[Row] = []
                if self._kinds or ends:
                    rows = await self._tools.source.chosen(self._read_to, last, PAGE, self._kinds, ends=ends)
                gone = [row for row in rows if row[0] <= upto or from_json(row[1])["at"] < before]
                for row in gone:
                    dropped += self._wants(row)
                    self.replies.difference_update(from_json(row[1])["ends"])
                if gone:
                    self._read_to = gone[-1][0]
                if len(gone) < PAGE:
                    break
        if dropped:
            log.error(
                "a webhook is too far behind: events are pruned unsent", webhook=self.name, count=dropped
            )
            counts = {"dropped": self.record.dropped + dropped}
            if self.record.failing_since is not None:
                counts["dropped_failing"] = self.record.dropped_failing + dropped
            self.record = self.record.model_copy(update=counts)


def _kinds(config: WebhookConfig) -> tuple[str, ...]:
    """The kinds of events that its patterns choose."""
    return tuple(kind for kind in KINDS if any(fnmatchcase(kind, pattern) for pattern in config.events))
