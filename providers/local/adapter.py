"""The local provider: machines that are process trees of this computer. See `providers/contract.py`."""

import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import anyio.to_thread

from providers.agent.attach import attach_over
from providers.contract import AgentChannel
from providers.errors import Fault, HostError, ProviderError
from providers.host.ssh import connect
from providers.local.config import LocalConfig
from providers.local.notices import EVERY_S, Script, withdraw_notice, write_notice
from providers.local.wire import NoticeFile, Record, ref_of, sighting
from providers.local.yard import SSH_USER, Death, Found, Yard
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
    SightingState,
)
from providers.priced import offers_of

STARTS_AT_ONCE = 4
ENDS_AT_ONCE = 16
CONNECT_WITHIN_S = 20.0
T = TypeVar("T")


class LocalProvider:
    """A `Provider` whose machines live under `directory` and go on without us.

    Args:
        name: what the config calls this provider.
        config: its offers and scripted misfortunes.
        directory: where it keeps its machines; made when it is not there.
        agent_source: the agent's program.
        now: wall time, seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        config: LocalConfig,
        directory: Path,
        agent_source: bytes,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        leads = [script.within_s for script in config.notices if script.within_s is not None]
        self.capabilities = Capabilities(
            spot=True,
            notice_s=min(leads, default=None),
            launch_batch_max=16,
            dead_man_switch=True,
            tags=True,
            billing_unit="second",
            visible_within_s=1,
            machines_max=config.machines_max,
            look_again_s=0.05,
            agent_python=sys.executable,
        )
        self._offers = offers_of(config.offers, name)
        self._scripted = bool(config.notices)
        self._agent_source = agent_source
        self._now = now
        self._yard = Yard(directory, name, config, now)
        self._script = Script(self._yard, config, now)
        self._starting = anyio.CapacityLimiter(STARTS_AT_ONCE)
        self._ending = anyio.CapacityLimiter(ENDS_AT_ONCE)
        self._pruned = False

    async def offers(self) -> Sequence[Offer]:
        """Every market of the config, full or not. See `Provider.offers`."""
        return self._offers

    async def open_cluster(self, order: ClusterOrder) -> ClusterHandle:
        """Nothing is needed around local machines. See `Provider.open_cluster`."""
        return ClusterHandle(
            cluster_id=order.cluster_id, provider=self.name, region=order.region, ssh_user=SSH_USER
        )

    async def close_cluster(self, cluster: ClusterHandle) -> None:
        """Nothing is there to remove. See `Provider.close_cluster`."""

    async def launch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
        """Start a machine per order; returns before their ssh servers answer. See `Provider.launch`."""
        self._act_out()
        outcomes: dict[int, Handle | ProviderError] = {}

        async def one(index: int, order: Order) -> None:
            try:
                record = await _aside(partial(self._yard.launch, order), self._starting)
                outcomes[index] = self._handle(record)
            except ProviderError as error:
                outcomes[index] = error

        async with anyio.create_task_group() as launching:
            for index, order in enumerate(orders):
                launching.start_soon(one, index, order)
        return [outcomes[index] for index in range(len(orders))]

    async def find(self, key: str) -> Sighting | None:
        """See `Provider.find`."""
        found = await _aside(partial(self._yard.look, ref_of(key)))
        if found is None or found.record.key != key:
            return None
        return self._sighting(found)

    async def observe(self, owner: str) -> Listing:
        """See `Provider.observe`. One that died is cleared away here, and its cause told for a while."""
        self._act_out()
        at = self._now()
        everything = await _aside(self._scan)
        ours = [self._sighting(found) for found in everything if found.record.owner == owner]
        dead = [self._dead(death) for death in self._yard.deaths() if death.record.owner == owner]
        at = max(at, *(one.ended_at or at for one in dead), at)
        return Listing(at=at, sightings=(*ours, *dead), complete=True)

    async def notices(self) -> AsyncIterator[tuple[str, Notice | None]]:
        """Notices as their files come and go, of all owners; first those that are there already."""
        known: dict[str, Notice] = {}
        while True:
            self._act_out()
            there = await _aside(self._noticed)
            for key, notice in there.items():
                if known.get(key) != notice:
                    yield key, notice
            for key in known.keys() - there.keys():
                if await self.find(key) is not None:  # of a machine that is gone nothing is taken back
                    yield key, None
            known = there
            await anyio.sleep(EVERY_S)

    async def terminate(self, handles: Sequence[Handle]) -> Sequence[ProviderError | None]:
        """Kill machines and remove their directories. See `Provider.terminate`."""
        outcomes: dict[int, ProviderError | None] = {}

        async def one(index: int, handle: Handle) -> None:
            try:
                outcomes[index] = None
                await _aside(partial(self._yard.terminate, handle.ref), self._ending)
            except FileNotFoundError:  # another call was faster
                return
            except ProviderError as error:
                outcomes[index] = error
            except OSError as error:
                outcomes[index] = ProviderError(Fault.UNKNOWN, f"terminate {handle.ref}: {error}")

        async with anyio.create_task_group() as ending:
            for index, handle in enumerate(handles):
                ending.start_soon(one, index, handle)
        return [outcomes[index] for index in range(len(handles))]

    @asynccontextmanager
    async def attach(self, machine: Machine) -> AsyncGenerator[AgentChannel]:
        """See `Provider.attach`. Also raises HostError(gone) when the machine's parent is dead."""
        ref = machine.handle.ref
        found = await _aside(partial(self._yard.look, ref))
        record = None if found is None else found.alive
        if record is None:
            raise HostError(Fault.GONE, f"{machine.instance_id}: machine {ref} is dead")
        directory = self._yard.directory(ref)
        # Ends this machine and no other: `init` is its parent as the agent sees it. Never `shutdown`.
        options = (
            "--notice-file",
            str(directory / "notice.json"),
            "--end-command",
            f"kill -TERM {record.init}",
        )
        async with (
            connect(machine, timeout_s=CONNECT_WITHIN_S) as host,
            attach_over(
                host,
                directory=str(directory / "agent"),
                agent_source=self._agent_source,
                python=(self.capabilities.agent_python, "-I", "-S"),
                options=options,
            ) as channel,
        ):
            yield channel

    async def preempt(
        self, key: str, *, within_s: float | None, reason: str = "preempted", kill: bool = True
    ) -> None:
        """Give a machine its notice now, and kill it at the deadline (at once when `within_s` is None)."""
        now = self._now()
        deadline_at = None if within_s is None else now + within_s
        notice = NoticeFile(
            reason=reason,
            deadline_at=deadline_at,
            within_s=within_s,
            kill_at=(now if deadline_at is None else deadline_at) if kill else None,
        )
        await _aside(partial(write_notice, self._yard, ref_of(key), notice))
        self._script.start()

    async def withdraw(self, key: str) -> None:
        """Take a notice back that `preempt` gave."""
        await _aside(partial(withdraw_notice, self._yard, ref_of(key)))

    async def leftovers(self, owner: str) -> Leftovers:
        """There is nothing but machines here. See `Provider.leftovers`."""
        return Leftovers()

    async def remove(self, leftover: Leftover) -> None:
        """There is nothing to remove. See `Provider.remove`."""

    async def check(self, owner: str) -> Sequence[Check]:
        """See `Provider.check`."""
        listing = await self.observe(owner)
        machines = sum(one.ended_at is None for one in listing.sightings)
        most = self.capabilities.machines_max
        detail = f"{machines} of at most {most} machines"
        return (
            Check(what="room", ok=machines < most, detail=detail, mend="end some, or raise machines_max"),
        )

    async def aclose(self) -> None:
        """End our own thread. Machines live on."""
        await _aside(self._script.stop)

    def _act_out(self) -> None:
        if self._scripted:
            self._script.start()

    def _scan(self) -> list[Found]:
        if not self._pruned:  # once per life: nothing else makes work for it
            self._pruned = True
            self._yard.prune()
            self._yard.empty_trash()
        return self._yard.scan()

    def _noticed(self) -> dict[str, Notice]:
        return {
            found.record.key: found.notice.to_notice()
            for found in self._yard.scan()
            if found.notice is not None
        }

    def _handle(self, record: Record) -> Handle:
        return Handle(provider=self.name, ref=ref_of(record.key), region=record.region, zone=record.zone)

    def _sighting(self, found: Found) -> Sighting:
        state: SightingState = "running" if found.port is not None else "pending"
        notice = None if found.notice is None else found.notice.to_notice()
        state = "stopping" if found.ending else state
        return sighting(self.name, found.record, state, found.port, notice)

    def _dead(self, death: Death) -> Sighting:
        seen = sighting(self.name, death.record, "stopped", None, None)
        return seen.model_copy(update={"ended_at": death.at, "detail": f"its process died: {death.words}"})


async def _aside(work: Callable[[], T], limiter: anyio.CapacityLimiter | None = None) -> T:
    """Do blocking work in a thread. When we are cancelled it ends by itself: it is bounded."""
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
