"""A journal in memory, records that may be cut off, a receiver by script: for hooks on a virtual clock."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
from pydantic_core import from_json

from actors.events import Envelope, Event, Fact, PoolReady
from actors.ports import JournalClosed
from controller.config_sections import WebhookConfig
from controller.records_state import WebhookRecord
from controller.webhooks.hook import Hook, Tools
from controller.webhooks.sending import Tried

NAME = "pager"
OK, BROKEN, UNWANTED = Tried(204), Tried(500, "answered 500"), Tried(410, "answered 410")
CONFIG = WebhookConfig.model_validate(
    {"url": "https://hooks.example/x", "secret": {"env": "NOWHERE"}, "events": ["pool_*", "webhook_*"]}
)


class Clock:
    """The loop's virtual time, as UTC."""

    def now(self) -> float:
        """UTC seconds."""
        return 1_700_000_000.0 + anyio.current_time()


class House:
    """What outlives a daemon, and what it is made of.

    Attributes:
        facts: told by hooks, in order.
        writes: how often a record was written.
        got: (time, seq) of everything that the receiver was sent, taken or not.
        taken: seqs that it took, in order.
    """

    def __init__(self, outcomes: Iterable[Tried] = (), takes_s: float = 0.0) -> None:
        self.clock = Clock()
        self.events: list[Envelope] = []
        self.records: dict[str, WebhookRecord] = {}
        self.facts: list[Fact] = []
        self.writes = 0
        self.got: list[tuple[float, int]] = []
        self.taken: list[int] = []
        self.cut = False  # the daemon was killed: nothing it does counts
        self.seq = 0
        self._outcomes, self._takes_s = list(outcomes), takes_s
        self.hook: Hook

    # --- the journal ------------------------------------------------------------------------------

    @property
    def last_seq(self) -> int:
        return self.seq

    def happen(self, event: Event | None = None, *, pool: str = "main", ends: tuple[str, ...] = ()) -> int:
        """Something becomes durable; answers its seq."""
        self.seq += 1
        told = event if event is not None else PoolReady(pool=pool, nodes=1)
        self.events.append(Envelope(seq=self.seq, at=self.clock.now(), pool=pool, ends=ends, event=told))
        if hasattr(self, "hook"):
            self.hook.wake()
        return self.seq

    async def chosen(
        self, after: int, upto: int, limit: int, kinds: Sequence[str], *, ends: bool
    ) -> list[tuple[int, bytes]]:
        await anyio.lowlevel.checkpoint()
        found = [
            one
            for one in self.events
            if after < one.seq <= upto and (one.event.kind in kinds or (ends and one.ends))
        ]
        return [(one.seq, one.model_dump_json().encode()) for one in found[:limit]]

    # --- the records ------------------------------------------------------------------------------

    def of(self, kind: str) -> Mapping[str, Any]:
        assert kind == "webhook"
        return self.records

    async def keep(
        self, kind: str, name: str, value: Any, facts: Sequence[Fact] = (), *, wait: bool = False
    ) -> None:
        await anyio.lowlevel.checkpoint()
        if self.cut:
            raise JournalClosed
        self.writes += 1
        self.records[name] = value
        await self.tell(*facts)

    async def note(self, fact: Fact, principal: str) -> None:
        await self.tell(fact, principal=principal)

    async def tell(self, *facts: Fact, principal: str = "") -> None:
        for fact in facts:
            self.facts.append(fact)
            self.happen(fact, pool="")

    # --- the receiver -----------------------------------------------------------------------------

    async def post(self, name: str, config: WebhookConfig, seq: int, body: bytes, at: float) -> Tried:
        assert from_json(body)["seq"] == seq
        await anyio.sleep(self._takes_s)
        tried = self._outcomes.pop(0) if self._outcomes else OK
        self.got.append((self.clock.now(), seq))
        if tried.taken:
            self.taken.append(seq)
        return tried

    async def aclose(self) -> None:
        """Nothing to close."""

    # --- lives ------------------------------------------------------------------------------------

    def tools(self) -> Tools:
        return Tools(self, lambda: self, self.clock, random.Random(1), lambda: self)

    async def live(self, during: Callable[[], Any], *, killed: bool = False, **config: Any) -> None:
        """A daemon lives while something happens; killed, its last words are not written."""
        self.cut = False
        self.hook = Hook(NAME, CONFIG.model_copy(update=config), self.tools())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._run)
            await during()
            self.cut = killed
            tasks.cancel_scope.cancel()

    async def _run(self) -> None:
        with suppress(JournalClosed):
            await self.hook.run()
