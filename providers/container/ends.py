"""How containers ended: learned, noted, and the containers removed."""

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import anyio

from providers.container.engine import Engine, segment
from providers.container.ledger import Ledger
from providers.container.wire import Seen, may_be_oom, oom_query, sighting, tombstone
from providers.errors import Fault, ProviderError
from providers.model import Sighting

INQUIRIES_AT_ONCE = 8
BURIALS_AT_ONCE = 4
INQUIRE_WITHIN_S = 2.0  # how all that was found dead has ended, and
BURY_WITHIN_S = 3.0  # its removal: no listing waits longer
BURY_AGAIN_S = 30.0
REMOVE_WITHIN_S = 60.0


class Ends:
    """The ends of one provider's containers.

    Args:
        provider: what the config calls the provider.
        engine: the engine that runs them.
        ledger: where ends are noted.
        now: wall time, seconds since the epoch.
    """

    def __init__(self, provider: str, engine: Engine, ledger: Ledger, now: Callable[[], float]) -> None:
        self._provider, self._engine, self._ledger, self._now = provider, engine, ledger, now
        self._inquiring = anyio.CapacityLimiter(INQUIRIES_AT_ONCE)
        self._burying = anyio.CapacityLimiter(BURIALS_AT_ONCE)
        self._again_at: dict[str, float] = {}  # by id: when, of those that could not be removed

    def due(self, dead: Sequence[Seen]) -> list[Seen]:
        """Which of all dead containers to bury now: not those whose removal hung or failed just before."""
        ids = {one.id for one in dead}
        self._again_at = {ref: at for ref, at in self._again_at.items() if ref in ids}
        now = anyio.current_time()
        return [one for one in dead if self._again_at.get(one.id, now) <= now]

    async def shown(self, one: Seen) -> Sighting:
        """A container as it is, with its end if it has ended. Raises ProviderError."""
        if not one.is_dead:
            return sighting(self._provider, one)
        return await self.ended(one, await self.inspected(one.id) or {})

    async def ended(self, one: Seen, about: Mapping[str, Any]) -> Sighting:
        """How a container ended; `about` is what its inspection said."""
        return tombstone(self._provider, one, about, self._now(), is_oom=await self._was_oom(one, about))

    async def _was_oom(self, one: Seen, about: Mapping[str, Any]) -> bool:
        """Whether the kernel killed something in it for memory just when it ended. Only docker tells that."""
        state = about.get("State") or {}
        query = oom_query(one.id, state) if may_be_oom(state) else None
        if query is None:
            return False
        try:
            answer = await self._engine.call(
                "look", "GET", "/events", query=query, timeout_s=INQUIRE_WITHIN_S / 2
            )
        except ProviderError:
            return False
        return b'"oom"' in answer.body

    async def bury(self, dead: Sequence[Seen]) -> None:
        """Note how containers ended, and remove them; all of them within a few seconds.

        Of one whose end can't be learned in that time the listing's word is taken. One that can't be removed
        is tried again in later listings.
        """

        async def inquire(one: Seen) -> None:
            try:
                async with self._inquiring:
                    self._ledger.note_ended(await self.shown(one))
            except ProviderError:
                return

        async def remove(one: Seen) -> None:
            async with self._burying:
                self._again_at[one.id] = anyio.current_time() + BURY_AGAIN_S
                try:
                    await self.delete(one.id)
                except ProviderError:
                    return
                self._again_at.pop(one.id, None)

        await _side_by_side(inquire, [o for o in dead if not self._ledger.has_ended(o.key)], INQUIRE_WITHIN_S)
        for one in dead:
            self._ledger.note_ended(tombstone(self._provider, one, {}, self._now()))
        await _side_by_side(remove, dead, BURY_WITHIN_S)

    async def inspected(self, name: str) -> dict[str, Any] | None:
        """All that the engine says of a container; None when there is none. Raises ProviderError."""
        answer = await self._engine.look(f"/containers/{segment(name)}/json")
        about: dict[str, Any] | None = None if answer.status == 404 else answer.json()
        return about

    async def delete(self, ref: str, *, force: bool = True) -> None:
        """Remove a container and its own volumes; one that is gone is a success. Raises ProviderError."""
        try:
            await self._engine.call(
                "remove",
                "DELETE",
                f"/containers/{ref}",
                query={"force": "true", "v": "true"} if force else {"v": "true"},
                allow=(404,),
                timeout_s=REMOVE_WITHIN_S,
            )
        except ProviderError as error:
            if error.fault is not Fault.GONE:
                raise


async def _side_by_side(
    each: Callable[[Seen], Coroutine[Any, Any, None]], found: Iterable[Seen], within_s: float
) -> None:
    with anyio.move_on_after(within_s):
        async with anyio.create_task_group() as tasks:
            for one in found:
                tasks.start_soon(each, one)
