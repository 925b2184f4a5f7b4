"""From the journal and the listings back to a running house: recovery at the start, the sweep for ever.

Recovery costs what lives, not what happened. The sweep looks at each listing, then at what is known: a known
machine belongs to its instance, an unknown one with our mark is quarantined for an age guard and then
reaped, one without our mark is never listed and never touched. A machine is its vendor's ref: a second one
under a key that is in use is as unknown as any.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple, Protocol

import anyio
from pydantic import Field, TypeAdapter

from actors.address import Address, Kind
from actors.events import Envelope, Fact, InstanceAdopted, InstanceQuarantined, InstanceReaped
from actors.instance.parts import instance_id
from actors.instance.state import Alive, Destroyed, Destroying, InstanceJson, Linked, Requested
from actors.loop import VERSIONS, Loop
from actors.market.state import MarketJson
from actors.node.state import NodeJson
from actors.policy import billing
from actors.policy.adoption import VERSION as QUARANTINE_VERSION
from actors.policy.adoption import (
    Found,
    Quarantined,
    QuarantineState,
    Reaped,
    judge,
    quarantine_id,
)
from actors.policy.backoff import retry_delay_s
from actors.pool.state import PoolJson
from actors.ports import Clock, Commit, Dice, Journal, Observer, StateRow
from actors.task.state import TaskJson
from controller.clock import TRUSTED, Start
from controller.journal.errors import StateUnreadable
from controller.journal.reader import StoredState
from controller.journal.upcasters import upcast
from controller.records_state import RECORD_VERSION, RECORDS
from providers.errors import ProviderError
from providers.gateway import Gateway
from providers.model import Listing, Sighting, Value

MARKETS = "@markets"  # the loop of the market memory; '@' can't be in a pool's name
SWEEP = "@sweep"

_JSON: dict[str, TypeAdapter[Any]] = {
    "pool": PoolJson,
    "node": NodeJson,
    "instance": InstanceJson,
    "task": TaskJson,
    "market": MarketJson,
    "quarantine": TypeAdapter(Annotated[QuarantineState, Field(discriminator="status")]),
}
_VERSIONS: dict[str, int] = {str(kind): version for kind, version in VERSIONS.items()}
_VERSIONS["quarantine"] = QUARANTINE_VERSION
_JSON |= {kind: TypeAdapter(model) for kind, model in RECORDS.items()}
_VERSIONS |= dict.fromkeys(RECORDS, RECORD_VERSION)


@dataclass(slots=True)
class Recovered:
    """What lived when the journal was last written."""

    pools: dict[str, dict[Address, Value]] = field(default_factory=dict)
    markets: dict[Address, Value] = field(default_factory=dict)
    quarantine: dict[str, Quarantined] = field(default_factory=dict)  # by id
    requests: list[Envelope] = field(default_factory=list)
    records: dict[tuple[str, str], Value] = field(default_factory=dict)  # by kind and name: see records.py


def decoded(kind: str, version: int, body: bytes) -> Value:
    """A stored state as a value, brought up to this version's form. Raises StateUnreadable."""
    current = _VERSIONS.get(kind)
    if current is None:
        raise StateUnreadable(f"the journal has a state of kind {kind!r}: install the everpool that wrote it")
    state: Value
    try:
        if version == current:
            state = _JSON[kind].validate_json(body)
        else:
            state = _JSON[kind].validate_python(upcast(kind, version, json.loads(body), current))
    except ValueError as error:  # pydantic's and json's
        raise StateUnreadable(
            f"a {kind} state of the journal can't be read: restore a backup, or install what wrote it"
        ) from error
    return state


def recover(stored: Iterable[StoredState], requests: Iterable[Envelope], began: Start = TRUSTED) -> Recovered:
    """Sort what lives by whose it is; `began` tells whether its times can be trusted."""
    recovered = Recovered(requests=list(requests))
    for row in stored:
        if row.terminal:
            continue
        state = decoded(row.kind, row.version, row.body)
        if row.kind == "quarantine":
            if isinstance(state, Quarantined):
                recovered.quarantine[state.id] = state
        elif row.kind in RECORDS:
            recovered.records[row.kind, row.id] = state
        elif row.pool == MARKETS:
            recovered.markets[_address(row)] = state
        else:
            recovered.pools.setdefault(row.pool, {})[_address(row)] = _in_time(state, began)
    return recovered


def _in_time(state: Value, began: Start) -> Value:
    """Move the times that guard against a second machine or a second run, after the clock jumped."""
    jumped, update = began.jumped_s, dict[str, float]()
    if jumped <= 0.0:
        return state
    if isinstance(state, Linked | Destroying) and state.tasks_over_at is not None:
        update["tasks_over_at"] = state.tasks_over_at + jumped
    if isinstance(state, Alive | Destroying):
        update["launched_at"] = min(began.at, state.launched_at + jumped)
    elif isinstance(state, Requested):
        update["asked_at"] = min(began.at, state.asked_at + jumped)
    return state.model_copy(update=update) if update else state


def _address(row: StoredState) -> Address:
    kinds: Mapping[str, Kind] = {kind: kind for kind in VERSIONS}
    return kinds[row.kind], row.id


def _seen_again(one: Quarantined, sighting: Sighting, at: float) -> Quarantined:
    bill = one.bill
    if bill is not None:
        bill = billing.seen(bill, sighting, bill.unit, at, one.missing_at)
    if bill is one.bill and not one.missing:
        return one
    return one.model_copy(update={"missing": 0, "missing_at": None, "bill": bill})


class Counted(NamedTuple):
    """What facts said of a machine's dollars: up to a time of the vendor's, or else how many."""

    until: float
    micro_usd: int


class SweepJournal(Journal, Protocol):
    """A journal that also remembers what is over."""

    async def state(self, pool: str, kind: str, name: str) -> StoredState | None:
        """The newest state of one actor, over or not; None when it never was, or is forgotten."""
        ...


class Sweep:
    """Compares listings with what is known, and ends what nobody wants."""

    def __init__(
        self,
        *,
        owner: str,
        journal: SweepJournal,
        observer: Observer,
        clock: Clock,
        dice: Dice,
        gateways: Mapping[str, Gateway],
        loops: Mapping[str, Loop],
        guard_s: float,
        quarantine: dict[str, Quarantined],
        recovered: Iterable[str] = (),
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        self.quarantine = quarantine
        self.newest_epoch = 0  # seen on any machine
        self.listed: set[str] = set()  # providers that were listed since the start, in some scope at least
        self._owner = owner
        self._journal = journal
        self._observer = observer
        self._clock = clock
        self._dice = dice
        self._gateways = gateways
        self._loops = loops
        self.guard_s = guard_s
        self._settled: dict[str, str] = {}  # refs that are shown as ended, and paid; their provider
        self._to_adopt = set(recovered)  # instances of the last daemon not seen again yet
        self._may_act = may_act
        send, receive = anyio.create_memory_object_stream[tuple[str, Listing]](64)
        self._send, self._receive = send, receive

    def listing(self, provider: str, listing: Listing) -> None:
        """Take a listing in. When too many wait this one is passed over: the next says the same."""
        epochs = [sighting.epoch for sighting in listing.sightings]
        self.newest_epoch = max(self.newest_epoch, *epochs, 0) if epochs else self.newest_epoch
        if listing.complete or listing.scopes:
            self.listed.add(provider)
        try:
            self._send.send_nowait((provider, listing))
        except anyio.WouldBlock:
            return

    async def run(self) -> None:
        """Work listings off until cancelled."""
        try:
            while True:
                provider, listing = await self._receive.receive()
                await self._one(provider, listing)
        except anyio.get_cancelled_exc_class():
            self._send.close()
            self._receive.close()
            raise

    def _is_ours(self, sighting: Sighting) -> bool:
        """Whether the launch key says so too: a machine of somebody else is never touched."""
        return sighting.key.startswith(f"{self._owner}/")

    def _known(self, sighting: Sighting) -> str | None:
        """The living instance that a machine is, or may be while nobody knows which one is its."""
        parts = sighting.key.split("/")
        if len(parts) != 5 or parts[1] not in self._loops:
            return None
        name = instance_id(sighting.key)
        instance = self._loops[parts[1]].index.instances.get(name)
        if instance is None or instance.key != sighting.key:
            return None
        handle = getattr(instance, "handle", None)
        return name if handle is None or handle.ref == sighting.handle.ref else None

    async def _one(self, provider: str, listing: Listing) -> None:
        there: set[str] = set()
        shown_ended: set[str] = set()
        for sighting in listing.sightings:
            if not self._is_ours(sighting):  # whatever the adapter took for our mark
                continue
            quarantined = self.quarantine.get(quarantine_id(sighting.handle))
            if sighting.ended_at is not None:
                if quarantined is not None:
                    await self._reaped(quarantined, sighting.ended_at)
                    self._settled[sighting.handle.ref] = provider
                elif sighting.handle.ref not in self._settled and self._known(sighting) is None:
                    await self._settle(provider, sighting, sighting.ended_at)
                shown_ended.add(sighting.handle.ref)
                continue
            name = self._known(sighting)
            if name is not None:
                await self._adopted(name, sighting)
                continue
            if quarantined is not None:
                there.add(quarantined.id)
                quarantined = self.quarantine[quarantined.id] = _seen_again(quarantined, sighting, listing.at)
            match judge(Found(False, quarantined), self._clock.now()):
                case "quarantine" if self._may_act():
                    await self._take_in(provider, sighting, listing.at)
                    there.add(quarantine_id(sighting.handle))
                case "reap" if self._may_act() and quarantined is not None:
                    await self._reap(quarantined)
                case _:
                    continue
        for one in list(self.quarantine.values()):
            handle = one.handle
            if handle.provider != provider or one.id in there:
                continue
            if listing.covers(handle.region, handle.zone):
                await self._missing(one, listing.at)
        if listing.complete:
            gone = [ref for ref, of in self._settled.items() if of == provider and ref not in shown_ended]
            for ref in gone:  # not shown any more
                del self._settled[ref]

    async def _adopted(self, name: str, sighting: Sighting) -> None:
        if name not in self._to_adopt:
            return
        self._to_adopt.discard(name)
        fact = InstanceAdopted(instance_id=name, ref=sighting.handle.ref)
        await self._commit(sighting.key.split("/")[1], fact, ())

    async def _take_in(self, provider: str, sighting: Sighting, at: float) -> None:
        counted = await self._counted(sighting)
        if counted.until >= at:
            return  # this listing is older than the end that is known
        one = self._quarantined(provider, sighting, counted, at)
        fact = InstanceQuarantined(
            key=one.key,
            ref=one.handle.ref,
            provider=provider,
            micro_usd_per_hour=one.micro_usd_per_hour,
            reap_at=one.reap_at,
        )
        await self._commit("", fact, (self._row(one),))
        self.quarantine[one.id] = one

    def _quarantined(self, provider: str, sighting: Sighting, counted: Counted, at: float) -> Quarantined:
        now = self._clock.now()
        gateway = self._gateways.get(provider)
        unit = gateway.capabilities.billing_unit if gateway is not None else "second"
        bill = billing.seen(None, sighting, unit, at)
        if counted.until > bill.since:  # what is stopped had stopped by then
            stopped_at = None if bill.stopped_at is None else counted.until
            bill = bill.model_copy(update={"since": counted.until, "stopped_at": stopped_at})
        elif counted.micro_usd:
            bill = bill.model_copy(update={"spent_micro_usd": -counted.micro_usd})
        return Quarantined(
            key=sighting.key,
            handle=sighting.handle,
            micro_usd_per_hour=sighting.micro_usd_per_hour,
            bill=bill,
            seen_at=now,
            reap_at=now + self.guard_s,
        )

    async def _settle(self, provider: str, sighting: Sighting, ended_at: float) -> None:
        """Count the dollars of a machine that ended before it was quarantined.

        It lived on after it was thought gone, or a late call made it and nobody ever knew it.
        """
        if not self._may_act():
            return
        counted = await self._counted(sighting)
        self._settled[sighting.handle.ref] = provider
        if ended_at > max(sighting.launched_at, counted.until):
            await self._reaped(self._quarantined(provider, sighting, counted, ended_at), ended_at)

    async def _counted(self, sighting: Sighting) -> Counted:
        """What facts have counted already of a machine that is there again."""
        await self._journal.commit(Commit(SWEEP))  # what its pool decided of it just now is durable then
        parts = sighting.key.split("/")
        until, micro_usd = 0.0, 0
        if len(parts) == 5:
            row = await self._journal.state(parts[1], "instance", instance_id(sighting.key))
            state = None if row is None else decoded(row.kind, row.version, row.body)
            if isinstance(state, Destroyed) and state.ref == sighting.handle.ref:
                if state.bill is None:  # never shown, so it was counted by our own clock
                    micro_usd = state.cost_micro_usd
                else:
                    until = state.ended_at or 0.0
        row = await self._journal.state(SWEEP, "quarantine", quarantine_id(sighting.handle))
        state = None if row is None else decoded(row.kind, row.version, row.body)
        if isinstance(state, Reaped):
            return Counted(max(until, state.ended_at), 0)
        return Counted(until, micro_usd)

    async def _reap(self, one: Quarantined) -> None:
        wait = retry_delay_s(one.tries + 1, self._dice.random(), first_s=5, most_s=300)
        again = one.model_copy(update={"tries": one.tries + 1, "next_at": self._clock.now() + wait})
        self.quarantine[one.id] = again
        await self._commit("", None, (self._row(again),))
        gateway = self._gateways.get(one.handle.provider)
        if gateway is None:
            return
        try:
            await gateway.terminate(one.handle)
        except ProviderError as error:  # it stays in quarantine, its dollars in a metric, and is tried again
            later = self._clock.now() + (error.retry_after_s or 0.0)
            if one.id in self.quarantine and (again.next_at or 0.0) < later:
                self.quarantine[one.id] = again.model_copy(update={"next_at": later})
            return
        gateway.look()

    async def _missing(self, one: Quarantined, at: float) -> None:
        if one.missing == 0:
            self.quarantine[one.id] = one.model_copy(update={"missing": 1, "missing_at": at})
            return
        await self._reaped(one, at if one.missing_at is None else one.missing_at)

    async def _reaped(self, one: Quarantined, ended_at: float) -> None:
        cost = 0 if one.bill is None else max(0, billing.total(one.bill, ended_at))
        fact = InstanceReaped(
            key=one.key, ref=one.handle.ref, provider=one.handle.provider, cost_micro_usd=cost
        )
        over = StateRow(
            "quarantine", one.id, QUARANTINE_VERSION, Reaped(key=one.key, ended_at=ended_at), terminal=True
        )
        by_key = StateRow("quarantine", one.key, QUARANTINE_VERSION, None)  # named so by the first release
        await self._commit("", fact, (over, by_key))
        self.quarantine.pop(one.id, None)

    def _row(self, one: Quarantined) -> StateRow:
        return StateRow("quarantine", one.id, QUARANTINE_VERSION, one)

    async def _commit(self, pool: str, fact: Fact | None, rows: tuple[StateRow, ...]) -> None:
        envelopes = []
        if fact is not None:
            seq = self._journal.reserve(1)
            envelopes.append(Envelope(seq=seq, at=self._clock.now(), pool=pool, event=fact))
        commit = Commit(pool if not rows else SWEEP, rows, envelopes)
        await self._journal.commit(commit)
        self._observer.committed(commit)
