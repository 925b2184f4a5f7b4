"""Preemptions of machines, as the operations of the project tell them."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import anyio
import structlog

from providers.errors import Fault, ProviderError
from providers.gcp import wire
from providers.gcp.api import Api, Page, last
from providers.model import Notice

NOTICE_S = 30.0  # from the soft-off to the end, at best
PREEMPTED = "compute.instances.preempted"
CALL = "globalOperations.aggregatedList"
PREEMPTED_MAX = 10_000  # remembered
OLD_NEWS_S = 300.0  # a preemption that began so long ago is no news any more
PAGES_MAX = 4  # of one look, newest first
PAUSE_MAX_S = 120.0  # between looks that fail
_FIELDS = wire.aggregated("operations", "id,name,insertTime,endTime,status,targetLink,zone,statusMessage")
# A time said of this zone is before any of the vendor's for the same moment, also when texts are compared.
_BEHIND = timezone(timedelta(hours=-12))
_log = structlog.get_logger("providers.gcp")


def query_of(since: float | None) -> dict[str, str]:
    """What is asked for; `since` a time of the vendor, None: of whatever age."""
    selected = f'operationType = "{PREEMPTED}"'
    if since is not None:
        bound = datetime.fromtimestamp(since, UTC).astimezone(_BEHIND).isoformat(timespec="milliseconds")
        selected = f'({selected}) (insertTime > "{bound}")'
    return {"filter": selected, "orderBy": "creationTimestamp desc", "fields": _FIELDS}


class Preemptions:
    """What one project tells of preemptions.

    Args:
        name: of the provider, for the log.
        every_s: how long after a look the next one follows.
        key_of: the launch key of a machine by name and zone; None when it is not one of ours.
        now: wall time, seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        api: Api,
        every_s: float,
        key_of: Callable[[str, str], Awaitable[str | None]],
        now: Callable[[], float],
    ) -> None:
        self._name, self._api, self._every_s = name, api, every_s
        self._key_of, self._now = key_of, now
        self._told: dict[str, Notice] = {}  # by the machine's name
        self.ended: dict[str, float] = {}  # when preemptions of late were over, by the machine's name
        self._known: set[str] = set()  # the operations that were there at the last look
        self._looked_at: float | None = None  # in the vendor's time
        self._bounded = True  # the vendor takes a filter on times

    def of(self, name: str) -> Notice | None:
        """The notice of the machine of that name."""
        return self._told.get(name)

    async def notices(self) -> AsyncIterator[tuple[str, Notice | None]]:
        """See `Provider.notices`. A look that fails is followed by another, later and later."""
        pause_s, trouble = self._every_s, ""
        self._known.clear()
        while True:
            told, error = await self._look()
            said = "" if error is None else f"{error.fault}: {error.detail.partition(':')[0]}"
            if error is not None and said != trouble:
                _log.warning(
                    "preemptions can't be seen: only the machines themselves tell of theirs",
                    provider=self._name,
                    fault=error.fault,
                    detail=error.detail,
                )
            elif trouble and error is None:
                _log.info("preemptions are seen again", provider=self._name)
            trouble = said
            for one in told:
                yield one
            if error is None or told:
                pause_s = self._every_s
            else:
                pause_s = min(pause_s * 2, max(PAUSE_MAX_S, self._every_s))
            await anyio.sleep(max(pause_s, (error and error.retry_after_s) or 0.0))

    async def _look(self) -> tuple[list[tuple[str, Notice]], ProviderError | None]:
        """Those of our machines that are new, and what could not be read."""
        found, there, ended = list[tuple[str, Notice]](), set[str](), dict[str, float]()
        try:
            pages, broken = await self._pages()
        except ProviderError as error:
            return [], error
        for page in pages:
            for scope in (page.json.get("items") or {}).values():
                for operation in scope.get("operations") or ():
                    number = str(operation.get("id") or operation.get("name"))
                    there.add(number)
                    if not self._is_news(operation, page.at):
                        continue
                    if operation.get("status") == "DONE" and (over := operation.get("endTime")):
                        ended[last(operation.get("targetLink"))] = wire.seconds(over)
                    if number not in self._known:
                        told = await self._tell(operation, page.at)
                        found += [] if told is None else [told]
        if pages[0].at is not None:
            self._looked_at = pages[0].at
        # What the vendor forgets is forgotten.
        self._known = there if broken is None else self._known | there
        self.ended = ended if broken is None else self.ended | ended
        return found, broken

    async def _pages(self) -> tuple[list[Page], ProviderError | None]:
        path = f"{self._api.project}/aggregated/operations"
        if self._bounded and self._looked_at is not None:
            bounded = query_of(self._looked_at - OLD_NEWS_S)
            try:
                return await self._api.readable_pages(CALL, path, bounded, pages_max=PAGES_MAX)
            except ProviderError as error:
                if error.fault is not Fault.REJECTED:
                    raise
                self._bounded = False
        return await self._api.readable_pages(CALL, path, query_of(None), pages_max=PAGES_MAX)

    def _is_news(self, operation: Mapping[str, Any], at: float | None) -> bool:
        began = operation.get("insertTime")
        return began is None or wire.seconds(began) > (at or self._now()) - OLD_NEWS_S

    async def _tell(self, operation: Mapping[str, Any], at: float | None) -> tuple[str, Notice] | None:
        """Whose preemption it is, when it is one of ours."""
        name, zone = last(operation.get("targetLink")), last(operation.get("zone"))
        key = await self._key_of(name, zone)
        if key is None:
            return None
        began, now = operation.get("insertTime"), self._now()
        # The vendor promises no time, only that it pulls the plug so long after the soft-off, if not before.
        ends_at = (
            None if began is None else wire.seconds(began) + NOTICE_S + now - (now if at is None else at)
        )
        notice = Notice(reason=operation.get("statusMessage") or "preempted", deadline_at=ends_at)
        if len(self._told) >= PREEMPTED_MAX:
            del self._told[next(iter(self._told))]
        self._told[name] = notice
        return key, notice
