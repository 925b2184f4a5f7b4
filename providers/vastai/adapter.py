"""The vast.ai provider: contracts of one account. See `providers/contract.py`, and `wire` for what a mark is.

The vendor knows no idempotency: a launch key is the label of its machine. It is looked up before anything is
rented under a key that this adapter does not know to be fresh, and a create call is never repeated.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from math import ceil
from pathlib import Path
from typing import Any

import anyio

from providers.agent.attach import attach_over
from providers.contract import AgentChannel
from providers.errors import Fault, HostError, ProviderError
from providers.host.ssh import connect
from providers.model import (
    Capabilities,
    Check,
    ClusterHandle,
    ClusterOrder,
    Handle,
    Leftover,
    Leftovers,
    Listing,
    Machine,
    Notice,
    Offer,
    Order,
    Sighting,
)
from providers.vastai.api import PAGE_MAX, Api, Incomplete, Page, Refused
from providers.vastai.config import VastaiConfig
from providers.vastai.doctor import checks
from providers.vastai.end import end_command
from providers.vastai.keys import Keys, Sent
from providers.vastai.market import Board
from providers.vastai.renting import Renting, unsent
from providers.vastai.wire import (
    Condition,
    condition_of,
    handle_of,
    key_of,
    label_of,
    owner_of,
    sighting_of,
)

SSH_USER = "root"
AGENT_DIRECTORY = "/root/.everpool/agent"
CONNECT_WITHIN_S = 30.0
LAUNCH_BATCH_MAX = 8  # at 5 s a call, what one batch's time allows with room for others
EMPTY_LOOKS = 2  # in a row, before a key that was sent is rented for again
LABELS_MAX = 25  # in one lookup: as many as a page has
Row = dict[str, Any]


class VastaiProvider:
    """A `Provider` of one vast.ai account.

    Args:
        name: what the config calls this provider.
        config: the account, what to search for, how fast to ask.
        directory: where it writes down which keys were sent.
        agent_source: the agent's program.
        now: wall time, seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        config: VastaiConfig,
        directory: Path,
        agent_source: bytes,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.capabilities = Capabilities(
            spot="spot" in config.lifecycles,
            notice_s=None,
            launch_batch_max=LAUNCH_BATCH_MAX,
            dead_man_switch=True,
            tags=True,
            billing_unit="second",
            visible_within_s=config.visible_within_s,
            machines_max=config.machines_max,
            # Half of the turns are left to those that look for one machine.
            observe_every_s=2 * config.list_every_s * ceil(config.machines_max / PAGE_MAX),
            look_again_s=max(1.0, config.list_every_s),
            host_keys=False,
            tokens=False,
            agent_python=config.python,
        )
        self._config, self._agent_source, self._now = config, agent_source, now
        self._api = Api(name, config)
        self._board = Board(name, config, self._api, now)
        self._keys = Keys(directory / "keys.jsonl", now)
        self._renting = Renting(name, config, self._api, self._board, self._keys)
        self._launching: dict[str, tuple[anyio.Lock, int]] = {}  # by key: its lock, and how many use it
        self._offline: dict[str, float] = {}  # by ref: when its host was first seen to be offline

    # --- offers and clusters ----------------------------------------------------------------------

    async def offers(self) -> Sequence[Offer]:
        """One offer per place, shape and lifecycle, priced as its cheapest ask. See `Provider.offers`."""
        return await self._board.offers()

    async def open_cluster(self, order: ClusterOrder) -> ClusterHandle:
        """Nothing is made: its public key comes with each order. See `Provider.open_cluster`."""
        return ClusterHandle(
            cluster_id=order.cluster_id, provider=self.name, region=order.region, ssh_user=SSH_USER
        )

    async def close_cluster(self, cluster: ClusterHandle) -> None:
        """Nothing is there to remove. See `Provider.close_cluster`."""

    async def leftovers(self, owner: str) -> Leftovers:
        """A disk goes with its contract, and nothing else is made: all of ours is machines.

        See `Provider.leftovers`.
        """
        return Leftovers()

    async def remove(self, leftover: Leftover) -> None:
        """There is nothing to remove. See `Provider.remove`."""

    # --- launching --------------------------------------------------------------------------------

    async def launch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
        """Rent an ask per order, at the pace of create calls. See `Provider.launch`."""
        outcomes: dict[int, Handle | ProviderError] = {}
        fresh = {order.key for order in orders if self._keys.get(order.key) is None}
        try:
            seen = await self._look_up(fresh)
        except ProviderError as error:  # without it nobody knows whether these keys have a machine
            outcomes = {i: unsent(error) for i, order in enumerate(orders) if order.key in fresh}
            seen = {}

        async def one(index: int, order: Order) -> None:
            try:
                outcomes[index] = await self._launch(order, seen.get(order.key))
            except ProviderError as error:
                outcomes[index] = error

        async with anyio.create_task_group() as launching:
            for index, order in enumerate(orders):
                if index not in outcomes:
                    launching.start_soon(one, index, order)
        return [outcomes[index] for index in range(len(orders))]

    async def _launch(self, order: Order, seen: Row | None) -> Handle:
        if owner_of(order.key) != order.owner or not order.owner:
            raise ProviderError(Fault.REJECTED, f"key {order.key!r} does not begin with its owner")
        async with self._alone(order.key):
            known = self._keys.get(order.key)
            if known is not None:
                found = await self._made_before(order, known)
            else:
                found = None if seen is None else self._handle(order.key, seen)
            return found if found is not None else await self._renting.rent(order)

    async def _made_before(self, order: Order, known: Sent) -> Handle | None:
        """The machine of a key that was sent; None when nothing came of it. Raises ProviderError(gone)."""
        empty = 0  # look-ups without it, begun when it would have been listed
        while True:
            asked_at = self._now()
            row = (await self._look_up([order.key])).get(order.key)
            if row is not None:
                return self._handle(order.key, row)
            known = self._keys.get(order.key) or known
            if asked_at >= known.at + self._config.visible_within_s:
                empty += 1
                if empty == EMPTY_LOOKS:
                    break
            elif known.ref is not None:  # too new to be listed
                offer = order.offer
                return Handle(provider=self.name, ref=known.ref, region=offer.region, zone=offer.zone)
            await anyio.sleep(max(0.05, self._config.list_every_s))
        if known.ref is not None:
            raise ProviderError(Fault.GONE, f"{order.key}: its machine, {known.ref}, has ended")
        return None

    @asynccontextmanager
    async def _alone(self, key: str) -> AsyncGenerator[None]:
        """One launch of a key at a time."""
        lock, users = self._launching.get(key, (anyio.Lock(), 0))
        self._launching[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._launching.pop(key)
            if users > 1:
                self._launching[key] = (lock, users - 1)

    # --- looking ----------------------------------------------------------------------------------

    async def find(self, key: str) -> Sighting | None:
        """See `Provider.find`."""
        rows, at = await self._with_labels([key])
        row = self._first(key, rows)
        return None if row is None else self._sighting(key, row, at)

    async def observe(self, owner: str) -> Listing:
        """All pages of the account; what has another label, or none, is not ours. See `Provider.observe`."""
        rows: list[Row] = []
        at: float | None = None
        pages = 0
        unreachable: tuple[str, ...] = ()
        try:
            async for page in self._api.contracts():
                at, pages = self._at(page) if at is None else at, pages + 1
                rows += page.rows
        except ProviderError as error:
            if not pages:
                raise
            unreachable = (f"page {pages + 1}: {error.detail}",)
        ours = [(key, row) for row in rows if (key := self._key(row)) and owner_of(key) == owner]
        # What it lists was there when it was asked, however coarse the clock of its Date header is.
        at = max([at if at is not None else self._now(), *(_start(row) or 0.0 for _, row in ours)])
        sightings = tuple(self._sighting(key, row, at) for key, row in ours)
        if not unreachable:
            refs = {str(row.get("id")) for row in rows}
            self._offline = {ref: since for ref, since in self._offline.items() if ref in refs}
        return Listing(at=at, sightings=sightings, complete=not unreachable, unreachable=unreachable)

    async def notices(self) -> AsyncIterator[tuple[str, Notice | None]]:
        """Never yields: the vendor takes machines back without a word. See `Provider.notices`."""
        await anyio.sleep_forever()
        yield "", None

    async def _look_up(self, keys: Iterable[str]) -> dict[str, Row]:
        """The machines of some keys, as far as they are listed."""
        wanted = sorted(set(keys))
        if not wanted:
            return {}
        rows: list[Row] = []
        for start in range(0, len(wanted), LABELS_MAX):
            rows += (await self._with_labels(wanted[start : start + LABELS_MAX]))[0]
        found = {key: self._first(key, rows) for key in wanted}
        return {key: row for key, row in found.items() if row is not None}

    async def _with_labels(self, keys: Sequence[str]) -> tuple[list[Row], float]:
        """Contracts that may have one of these keys, and the vendor's time."""
        labels: list[str] | None = [label_of(key, self.name) for key in keys]
        while True:
            rows: list[Row] = []
            at: float | None = None
            try:
                async for page in self._api.contracts(labels):
                    rows += page.rows
                    at = self._at(page) if at is None else at
                return rows, self._now() if at is None else at
            except (Refused, Incomplete) as error:
                useless = isinstance(error, Incomplete) or error.fault is Fault.REJECTED
                if labels is None or not useless:
                    raise
                labels = None  # labels can't be searched for: take all, and look here

    def _first(self, key: str, rows: Iterable[Row]) -> Row | None:
        """The machine of a key; should there be two, the one we know, else the older."""
        label = label_of(key, self.name)
        named = sorted((row for row in rows if row.get("label") == label), key=lambda row: int(row["id"]))
        known = self._keys.get(key)
        ours = [row for row in named if known is not None and str(row["id"]) == known.ref]
        return next(iter([*ours, *named]), None)

    def _key(self, row: Row) -> str | None:
        """Of a machine of this provider's; another one may have the same account, and the same owner."""
        return key_of(row.get("label"), self.name)

    def _handle(self, key: str, row: Row) -> Handle:
        self._keys.made(key, str(row["id"]))
        return handle_of(self.name, row)

    def _sighting(self, key: str, row: Row, at: float) -> Sighting:
        ref = str(row["id"])
        self._keys.made(key, ref)
        return sighting_of(
            self.name,
            row,
            key,
            self._patient(ref, condition_of(row)),
            direct=self._config.direct_ssh,
            launched_at=_start(row) or at,
        )

    def _patient(self, ref: str, condition: Condition) -> Condition:
        """A host that is offline may come back soon; when it does not, its machine is lost."""
        if not condition.offline:
            self._offline.pop(ref, None)
            return condition
        since = self._offline.setdefault(ref, self._now())
        if self._now() - since < self._config.offline_after_s:
            return condition
        return Condition("stopped", f"{condition.detail}: taken for lost", offline=True)

    def _at(self, page: Page) -> float:
        return self._now() if page.date is None else page.date

    # --- ending, and the way in -------------------------------------------------------------------

    async def terminate(self, handles: Sequence[Handle]) -> Sequence[ProviderError | None]:
        """Destroy contracts with their disks, at the pace of such calls. See `Provider.terminate`."""
        outcomes: dict[int, ProviderError | None] = {}

        async def one(index: int, ref: str) -> None:
            outcomes[index] = None
            try:
                await self._api.destroy(ref)
            except ProviderError as error:
                outcomes[index] = error

        async with anyio.create_task_group() as ending:
            for index, handle in enumerate(handles):
                if handle.ref.isdecimal():
                    ending.start_soon(one, index, handle.ref)
        return [outcomes.get(index) for index in range(len(handles))]

    async def check(self, owner: str) -> Sequence[Check]:
        """See `Provider.check`."""
        return await checks(self.name, self._api, self._board, self._config, owner, self._now)

    @asynccontextmanager
    async def attach(self, machine: Machine) -> AsyncGenerator[AgentChannel]:
        """See `Provider.attach`. Also raises HostError(rejected) when the image has no python."""
        python = self._config.python
        async with connect(machine, timeout_s=CONNECT_WITHIN_S) as host:
            ran = await host.run(("/bin/sh", "-c", 'command -v "$1" >/dev/null', "sh", python))
            if ran.exit_code not in (0, None):
                text = f"{machine.instance_id}: its image has no {python}: name another image, or `python`"
                raise HostError(Fault.REJECTED, text)
            async with attach_over(
                host,
                directory=AGENT_DIRECTORY,
                agent_source=self._agent_source,
                python=python,
                options=("--end-command", end_command(self._config.base_url, python)),
            ) as channel:
                yield channel

    async def aclose(self) -> None:
        """Close connections. Machines live on."""
        await self._api.aclose()


def _start(row: Row) -> float | None:
    """When a contract began, in the vendor's time."""
    told = row.get("start_date")
    return float(told) if isinstance(told, int | float) and not isinstance(told, bool) and told > 0 else None
