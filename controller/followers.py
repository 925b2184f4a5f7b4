"""Events for those who follow, from any seq on, in order, without a gap or a double.

The journal is the source: what is durable has its place in the order, and so has a Request, which no loop
publishes. One read serves all followers that are up to date; one that falls behind costs no memory but
reads its own pages until it has caught up. There is no task of our own: whoever waits for events first
fetches them for all.
"""

import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import anyio
from pydantic_core import from_json

from actors.events import RequestId
from actors.ports import Commit
from controller.patterns import fitting

PAGE = 500  # events read at once
BATCH_MAX = 2_000  # events handed to a follower at once
PAUSE_S = 0.02  # between two reads for those who are up to date

BUFFERED_BYTES_MAX = 16 * 2**20  # of events kept for one follower that does not look

Row = tuple[int, bytes]
OneOrMore = str | tuple[str, ...]


class EventsPruned(Exception):
    """Some events behind a follower's cursor are forgotten.

    Attributes:
        cursor: from here on nothing is missing.
    """

    def __init__(self, after: int, cursor: int) -> None:
        super().__init__(
            f"events up to seq {cursor} are not all kept any more, and you have those up to {after}: look at "
            f"what there is now, then go on with after={cursor}; after=0 begins with the oldest that is kept"
        )
        self.cursor = cursor


class Ended(Protocol):
    """What of a stored request is looked at here."""

    @property
    def ended_by(self) -> int | None:
        """Seq of its terminal Fact."""
        ...


class EventSource(Protocol):
    """Where durable events are read."""

    @property
    def last_seq(self) -> int:
        """The newest durable seq; all that is older is durable too, or never will be."""
        ...

    @property
    def pruned_seq(self) -> int:
        """Of the events up to this seq some are forgotten."""
        ...

    async def events(
        self,
        after: int,
        limit: int,
        pool: OneOrMore | None = None,
        kinds: Sequence[str] | None = None,
        request_id: OneOrMore | None = None,
        within: Sequence[str] = (),
    ) -> list[Row]:
        """The first `limit` (seq, envelope as JSON) behind `after` that fit, of the pools `within` patterns.

        Of one request id those fit that name it; of several also the Facts that end them.
        """
        ...

    async def request(self, request_id: str) -> Ended | None:
        """What is known of a request."""
        ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events a follower wants; None: all.

    Attributes:
        pool: one or more, with * and ?.
        kinds: kinds of events.
        request_id: one or more, with * and ?; a task's id is its request's.
        may_see: the pools that whoever follows may look at.
        within: the same as patterns, for the journal: what may not be seen must not move a cursor either.
    """

    pool: OneOrMore | None = None
    kinds: tuple[str, ...] | None = None
    request_id: OneOrMore | None = None
    may_see: Callable[[str], bool] | None = None
    within: tuple[str, ...] = ()
    _pool_fits: Callable[[str], object] = field(init=False, repr=False, compare=False)
    _request_fits: Callable[[str], object] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pool_fits", _fitting(self.pool))
        object.__setattr__(self, "_request_fits", _fitting(self.request_id))

    @property
    def everything(self) -> bool:
        """Whether nothing is left out."""
        return self == _ALL

    def fits(self, envelope: dict[str, Any]) -> bool:
        """Whether an envelope, as parsed JSON, is wanted."""
        if self.may_see is not None and not self.may_see(envelope["pool"]):
            return False
        if self.pool is not None and not self._pool_fits(envelope["pool"]):
            return False
        if self.kinds is not None and envelope["event"]["kind"] not in self.kinds:
            return False
        if self.request_id is None:
            return True
        named = (envelope["request_id"] or "", *envelope["ends"])
        return any(map(self._request_fits, named))


def _fitting(wanted: OneOrMore | None) -> Callable[[str], object]:
    return fitting((wanted,) if isinstance(wanted, str) else wanted or ())


_ALL = Wanted()


class Events(NamedTuple):
    """Some events in order. `cursor` is the seq up to which nothing is missing: go on after it."""

    rows: list[Row]
    cursor: int


@dataclass(eq=False, slots=True)
class _Live:
    """A follower that is up to date."""

    wanted: Wanted
    cursor: int
    buffer: deque[Row] = field(default_factory=deque)
    buffered_bytes: int = 0
    lagging: bool = False  # too much came while it did not look: it reads its own pages again


class Followers:
    """Implements `actors.ports.Observer`. All methods belong to the event loop's thread.

    Attributes:
        buffered_max: events kept for one follower that does not look.
        count: followers now.
        lagged: how often one fell behind, since start.
    """

    def __init__(self, source: EventSource, *, buffered_max: int = 10_000) -> None:
        self.buffered_max = buffered_max
        self.count = 0
        self.lagged = 0
        self._source = source
        self._live: dict[_Live, None] = {}
        self._at = 0  # all up to here was handed to those who are up to date
        self._lock = anyio.Lock()
        self._read_at = 0.0
        self._news = anyio.Event()
        self._ends: dict[RequestId, dict[anyio.Event, None]] = {}

    # --- Observer -----------------------------------------------------------------------------

    def committed(self, commit: Commit) -> None:
        """Wake whoever waits for these events, or for the end of a request that they end."""
        if not commit.envelopes:
            return
        self.wake()
        if not self._ends:
            return
        for envelope in commit.envelopes:
            for request_id in envelope.ends:
                for event in self._ends.get(request_id, ()):
                    event.set()

    def turn_ended(self, pool: str, *, messages: int, seconds: float, waiting: int) -> None:
        """Nothing here is about turns."""

    def bug(self, address: str, message: str, error: BaseException) -> None:
        """Bugs are journaled as events of their own."""

    def wake(self) -> None:
        """Something may have become durable besides a commit: a Request was accepted."""
        if self.count:
            self._news.set()
            self._news = anyio.Event()

    # --- the end of a request -----------------------------------------------------------------

    async def ended(self, request_id: RequestId, timeout_s: float) -> bool:
        """Wait until a known request has ended; False when it has not in time."""
        over = anyio.Event()
        self._ends.setdefault(request_id, {})[over] = None
        try:
            with anyio.move_on_after(timeout_s):
                known = await self._source.request(
                    request_id
                )  # after we listen, so that no end slips through
                if known is None or known.ended_by is not None:
                    return True
                await over.wait()
            return over.is_set()
        finally:
            waiting = self._ends[request_id]
            del waiting[over]
            if not waiting:
                del self._ends[request_id]

    # --- reading ------------------------------------------------------------------------------

    async def page(self, after: int, limit: int, wanted: Wanted) -> Events:
        """The first `limit` wanted events behind `after`, from the journal.

        Raises:
            EventsPruned: some of them are forgotten. `after` 0 is no cursor: it begins with what is kept.
        """
        last = self._source.last_seq
        kinds = list(wanted.kinds) if wanted.kinds is not None else None
        ended_by = await self._ended_by(wanted)  # before the rows: then those contain all that came before it
        rows = await self._source.events(
            after, limit, wanted.pool, kinds, wanted.request_id, within=wanted.within
        )
        if ended_by is not None:
            rows = await self._with_end(rows, after, limit, wanted, ended_by)
        if 0 < after < self._source.pruned_seq:  # asked behind the read: it may have been pruned meanwhile
            raise EventsPruned(after, self._source.pruned_seq)
        full = len(rows) >= limit
        newest = rows[-1][0] if rows else after
        if wanted.may_see is not None:
            rows = [row for row in rows if wanted.fits(from_json(row[1]))]
        return Events(rows, newest if full else max(newest, last, after))

    async def _ended_by(self, wanted: Wanted) -> int | None:
        if not isinstance(wanted.request_id, str):
            return None
        known = await self._source.request(wanted.request_id)
        return known.ended_by if known is not None else None

    async def _with_end(
        self, rows: list[Row], after: int, limit: int, wanted: Wanted, ended_by: int
    ) -> list[Row]:
        """One Fact may end several requests and names one: add it where the others are asked for."""
        if ended_by <= after or any(seq == ended_by for seq, _ in rows):
            return rows
        if len(rows) >= limit and rows[-1][0] < ended_by:
            return rows
        found = await self._source.events(ended_by - 1, 1)
        fitting = [row for row in found if row[0] == ended_by and wanted.fits(from_json(row[1]))]
        return sorted(rows + fitting)[:limit]

    async def follow(self, after: int, wanted: Wanted) -> AsyncGenerator[Events, None]:
        """Wanted events behind `after`, then those to come, for ever.

        Close the iterator (`contextlib.aclosing`) when leaving it. Some pages are empty: their cursor
        says that nothing wanted came up to there.
        """
        cursor = after
        with self._counted():
            while True:
                page = await self.page(cursor, PAGE, wanted)
                cursor = page.cursor
                if page.rows:
                    yield page
                live = self._join(cursor, wanted)
                if live is None:
                    continue
                try:
                    async with aclosing(self._while_live(live)) as pages:
                        async for page in pages:
                            cursor = page.cursor
                            yield page
                finally:
                    self._live.pop(live, None)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1

    def _join(self, cursor: int, wanted: Wanted) -> _Live | None:
        """Count a follower among those who are up to date, if it is."""
        if not self._live:
            self._at = cursor
        elif cursor < self._at:
            return None
        live = _Live(wanted, cursor)
        self._live[live] = None
        return live

    async def _while_live(self, live: _Live) -> AsyncGenerator[Events, None]:
        while not live.lagging:
            news = self._news
            if live.buffer:
                rows = [live.buffer.popleft() for _ in range(min(len(live.buffer), BATCH_MAX))]
                live.buffered_bytes -= sum(len(body) for _, body in rows)
                yield Events(rows, rows[-1][0] if live.buffer else live.cursor)
            elif self._source.last_seq > self._at:
                await self._fetch()
            else:
                await news.wait()
        rows, live.buffer = list(live.buffer), deque()
        if rows:
            yield Events(rows, rows[-1][0])

    async def _fetch(self) -> None:
        """Read what is new, once for all who are up to date."""
        async with self._lock:
            last = self._source.last_seq
            if last <= self._at:
                return  # another follower did
            pause = self._read_at + PAUSE_S - time.monotonic()
            if pause > 0:
                await anyio.sleep(pause)
                last = self._source.last_seq
            before = self._at
            rows = await self._source.events(before, PAGE)
            if self._at != before:
                return  # all had left, and others began elsewhere
            self._read_at = time.monotonic()
            newest = rows[-1][0] if rows else before
            self._at = newest if len(rows) >= PAGE else max(newest, last)
            self._hand_out(rows)

    def _hand_out(self, rows: list[Row]) -> None:
        parsed: list[dict[str, Any]] | None = None
        for live in list(self._live):
            fresh = rows
            if not live.wanted.everything:
                parsed = parsed if parsed is not None else [from_json(body) for _, body in rows]
                pairs = zip(rows, parsed, strict=True)
                fresh = [row for row, envelope in pairs if live.wanted.fits(envelope)]
            fresh = [row for row in fresh if row[0] > live.cursor]
            size = live.buffered_bytes + sum(len(body) for _, body in fresh)
            if len(live.buffer) + len(fresh) > self.buffered_max or size > BUFFERED_BYTES_MAX:
                live.lagging = True  # what it has it may still read; the rest comes from the journal
                self.lagged += 1
                del self._live[live]
                continue
            live.buffer.extend(fresh)
            live.buffered_bytes = size
            live.cursor = max(live.cursor, self._at)
