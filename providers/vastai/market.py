"""What is on offer: asks, each for one machine and for whoever comes first, gathered into markets.

An offer of ours stands for all asks of one place, shape and lifecycle, and has the price of the cheapest. The
asks behind it are kept here; they are searched again when they run out or are not known, as after a restart.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import structlog

from providers.errors import Fault, ProviderError
from providers.model import MICRO, Lifecycle, Offer
from providers.vastai.api import Api, Refused
from providers.vastai.asks import Ask, ask_of, market_id, offer_of, search_body
from providers.vastai.config import VastaiConfig

_log = structlog.get_logger("providers.vastai")


class Board:
    """The asks of one account's searches.

    Args:
        now: wall time; the quota for searches ends at midnight UTC.
    """

    def __init__(self, name: str, config: VastaiConfig, api: Api, now: Callable[[], float]) -> None:
        self._name, self._config, self._api, self._now = name, config, api, now
        self._asks: dict[str, list[Ask]] = {}  # by market, cheapest first
        self._offers: tuple[Offer, ...] = ()
        self._searched_at: float | None = None
        self._again_at: dict[str, float] = {}  # when a market may be searched again
        self._quota_until = 0.0
        self._searching = anyio.Lock()

    @property
    def quota_until(self) -> float | None:
        """When the day's quota for searches is there again; None while it is not used up."""
        return self._quota_until if self._now() < self._quota_until else None

    async def offers(self) -> tuple[Offer, ...]:
        """All markets, as of a search that is no older than the config's search_every_s.

        While the day's quota is used up the last ones stand.

        Raises:
            ProviderError: quota, when none were ever told; else what the search failed with.
        """
        async with self._searching:
            now = self._now()
            at = self._searched_at
            if at is not None and (now < at + self._config.search_every_s or self.quota_until is not None):
                return self._offers
            self._raise_if_used_up()
            found: dict[str, list[Ask]] = {}
            try:
                for lifecycle in self._config.lifecycles:
                    _gather(found, await self._search(lifecycle))
            except Refused as refused:
                if at is None or refused.fault is not Fault.QUOTA:
                    raise
                return self._offers
            self._asks, self._searched_at = found, now
            self._again_at.clear()
            self._offers = tuple(
                offer_of(self._name, found[market], self._config) for market in sorted(found)
            )
            return self._offers

    async def claim(self, offer: Offer, disk_gb: float, most: int | None = None) -> Ask:
        """Take the cheapest ask behind an offer, for nobody else to try.

        Args:
            most: micro-dollars an hour that it may cost with its disk; None: as the config has it.

        Raises:
            ProviderError: rejected (no offer of ours), capacity (none left, or only dearer ones), and what a
                search fails with.
        """
        market = market_id(offer)
        narrow = _narrow(offer)
        if offer.provider != self._name or offer.id != market or narrow is None:
            raise ProviderError(Fault.REJECTED, f"{market} is no offer of {self._name}")
        taken = self._take(market, offer, disk_gb, most)
        if taken is None and await self._searched_again(market, offer.lifecycle, narrow):
            taken = self._take(market, offer, disk_gb, most)
        if taken is None:
            left = len(self._asks.get(market, ()))
            text = f"{market}: no ask left" + (f" near the offer's price, {left} dearer" if left else "")
            raise ProviderError(Fault.CAPACITY, text)
        return taken

    def gone(self, ask: Ask) -> None:
        """The ask was rented, by us or others: it is not to be had in the other lifecycle either."""
        for asks in self._asks.values():
            asks[:] = [one for one in asks if one.id != ask.id]

    def give_back(self, ask: Ask) -> None:
        """The ask was not rented, and may be there still."""
        asks = self._asks.setdefault(ask.market_id, [])
        asks.append(ask)
        asks.sort(key=self._order)

    async def probe(self) -> int:
        """Search once for the doctor; returns how many asks there are, at most one."""
        self._raise_if_used_up()
        body = search_body(self._config, self._config.lifecycles[0]) | {"limit": 1}
        return len(await self._ask(body))

    def _raise_if_used_up(self) -> None:
        if self.quota_until is not None:
            raise ProviderError(Fault.QUOTA, f"the day's searches are used up until {self._until()}")

    def _until(self) -> str:
        return datetime.fromtimestamp(self._quota_until, UTC).strftime("%Y-%m-%d %H:%M UTC")

    def _take(self, market: str, offer: Offer, disk_gb: float, most: int | None) -> Ask | None:
        asks = self._asks.get(market, [])
        for index, ask in enumerate(asks):
            told = offer.micro_usd_per_hour + ask.disk_micro_usd * max(0.0, disk_gb - self._config.disk_gb)
            near = told * (1 + self._config.price_slack)
            if self._config.max_price is not None:
                near = min(near, self._config.max_price * MICRO)
            price = ask.micro_usd(disk_gb)
            if ask.disk_max_gb >= disk_gb and price <= near + 1 and (most is None or price <= most):
                return asks.pop(index)
        return None

    async def _searched_again(self, market: str, lifecycle: Lifecycle, narrow: Mapping[str, Any]) -> bool:
        """Search one market; False when that was done lately, or the day's searches are used up."""
        async with self._searching:
            if self._asks.get(market):  # another launch searched while we waited
                return True
            now = self._now()
            if self.quota_until is not None or now < self._again_at.get(market, 0.0):
                return False
            try:
                asks = await self._search(lifecycle, narrow)
            except Refused as refused:
                if refused.fault is Fault.QUOTA:
                    return False
                raise
            self._again_at[market] = now + self._config.search_again_s
            found: dict[str, list[Ask]] = {}
            _gather(found, asks)
            self._asks[market] = found.get(market, [])
            return True

    async def _search(self, lifecycle: Lifecycle, narrow: Mapping[str, Any] | None = None) -> list[Ask]:
        rows = await self._ask(search_body(self._config, lifecycle, narrowed_to=narrow))
        asks = [ask for row in rows if (ask := ask_of(row, lifecycle, self._config)) is not None]
        return sorted(asks, key=self._order)

    async def _ask(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        try:
            return await self._api.search(body)
        except Refused as refused:
            if refused.fault is Fault.QUOTA:
                self._quota_until = _midnight_after(self._now())
                _log.warning(
                    "the day's searches are used up: known offers stand",
                    provider=self._name,
                    until=self._until(),
                )
            raise

    def _order(self, ask: Ask) -> tuple[int, int]:
        return ask.micro_usd(self._config.disk_gb), ask.id


def _gather(found: dict[str, list[Ask]], asks: Iterable[Ask]) -> None:
    for ask in asks:
        found.setdefault(ask.market_id, []).append(ask)


def _narrow(offer: Offer) -> dict[str, Any] | None:
    """What else to search for to find an offer's market; None when it is no offer of ours."""
    told = offer.specific or {}
    gpu_name, num_gpus = told.get("gpu_name"), told.get("num_gpus")
    if not isinstance(gpu_name, str) or not isinstance(num_gpus, int):
        return None
    return {"gpu_name": {"eq": gpu_name}, "num_gpus": {"eq": num_gpus}}


def _midnight_after(now: float) -> float:
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return (day + timedelta(days=1)).timestamp()
