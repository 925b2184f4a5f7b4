"""One life of the daemon without a process around it: the real loops, links, gateways and sweep.

It is what `everpool simulate` and the tests of the whole daemon run on a virtual clock.
"""

import random
from collections.abc import Callable, Mapping

import anyio
from anyio.abc import TaskGroup

from actors.acting import Acting
from actors.address import Address
from actors.effects import Connect
from actors.events import Envelope, Request
from actors.links import Links
from actors.loop import Identity, Letter, Loop
from actors.market.state import MarketState
from actors.messages import RequestHeard
from actors.ports import Accepted, Clock, Commit, Submission
from actors.spec import FilePut
from controller.clock import TRUSTED, Start
from controller.leftovers import LeftoverSweep
from controller.recovery import MARKETS, Sweep, recover
from controller.simulation.ledger import Ledger, MemoryJournal
from providers.agent.wire import Console, FetchedFile, LogLines, Metrics
from providers.gateway import CALL_TIMEOUT_S, Gateway
from providers.model import Listing, Machine, Value
from providers.simulated.adapter import SimulatedProvider

OWNER = "sim-owner"
OBSERVE_EVERY_S = 120.0
GUARD_S = 120.0
LEFTOVERS_EVERY_S = 600.0


class Watcher:
    """Who hears of what one life does besides commits; this one does not care."""

    def bug(self, text: str) -> None:
        """A rule raised, or a call did what nobody expected."""

    def lines(self, report: LogLines) -> None:
        """Lines of a task's output came in, to be kept once."""

    def listed(self, provider: str, listing: Listing) -> None:
        """A listing came in, whole or not."""


class _Keys:
    def cluster_public_key(self, cluster_id: str) -> str:
        return f"ssh-ed25519 {cluster_id}"

    def host_private_key(self, cluster_id: str, instance_id: str) -> str:
        return f"key of {cluster_id} {instance_id}"


class _Files:
    def pieces(self, file: FilePut, size: int) -> list[str]:
        return [file.data]

    def task_done(self, pool: str, task_id: str) -> None:
        return


class _Paths:
    def machine(self, connect: Connect) -> Machine:
        return Machine(
            instance_id=connect.instance_id,
            handle=connect.handle,
            address=connect.address,
            ssh_user=connect.cluster.ssh_user,
            private_key_path="/keys/id",
            known_hosts_path="/keys/known_hosts",
        )


class _Telemetry:
    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher

    def log(self, pool: str, instance: str, boot: str, report: LogLines) -> None:
        self._watcher.lines(report)

    def console(self, pool: str, instance: str, report: Console) -> None:
        return

    def file(self, pool: str, instance: str, report: FetchedFile) -> None:
        return

    def metrics(self, pool: str, instance: str, report: Metrics) -> None:
        return


class _Observer:
    def __init__(self, acting: Callable[[], Acting], watcher: Watcher) -> None:
        self._acting = acting
        self._watcher = watcher

    def committed(self, commit: Commit) -> None:
        told = False
        for row in commit.states:
            if row.kind == "market":
                assert row.state is None or isinstance(row.state, MarketState)
                self._acting().market_committed(row.id, row.state)
                told = True
        if told:
            self._acting().markets_changed()

    def turn_ended(self, pool: str, *, messages: int, seconds: float, waiting: int) -> None:
        return

    def bug(self, address: str, message: str, error: BaseException) -> None:
        self._watcher.bug(f"at {address}, {message}: {error!r}")


class Life:
    """One incarnation: made of what the ledger holds, gone at `crash`.

    Args:
        ledger: what is durable.
        journal: this incarnation's way to it.
        providers: cut together with the journal.
        watcher: who hears of lines and bugs.
        clock: this incarnation's idea of UTC.
        dice: this incarnation's randomness.
        began: when this life begins by its clock, and how far that can be trusted.
        checking: whether every turn is checked against what always holds.
        observe_every_s: seconds between two listings of a provider.
        observe_timeout_s: how long one may take.
    """

    def __init__(
        self,
        ledger: Ledger,
        journal: MemoryJournal,
        providers: Mapping[str, SimulatedProvider],
        watcher: Watcher,
        clock: Clock,
        dice: random.Random,
        *,
        began: Start = TRUSTED,
        checking: bool = True,
        observe_every_s: float = OBSERVE_EVERY_S,
        observe_timeout_s: float = CALL_TIMEOUT_S,
    ) -> None:
        self.up = False
        self.loops: dict[str, Loop] = {}
        journal.now = clock.now
        self._journal = journal
        self._providers = providers
        self._clock = clock
        self._dice = dice
        self._checking = checking
        self._tasks: TaskGroup | None = None
        self._watcher = watcher
        recovered = recover(ledger.living(), ledger.open_requests(), began)
        self._requests = recovered.requests
        gateways: dict[str, Gateway] = {}
        self.links = Links(
            providers=dict(providers),
            paths=_Paths(),
            telemetry=_Telemetry(watcher),
            post=self._post,
            clock=clock,
            dice=dice,
            owner=OWNER,
            epoch=journal.epoch,
        )
        self._observer = _Observer(lambda: self.acting, watcher)
        self.sweep = Sweep(
            owner=OWNER,
            journal=journal,
            observer=self._observer,
            clock=clock,
            dice=dice,
            gateways=gateways,
            loops=self.loops,
            guard_s=GUARD_S,
            quarantine=recovered.quarantine,
            recovered=[
                name for states in recovered.pools.values() for kind, name in states if kind == "instance"
            ],
        )
        self.acting = Acting(
            owner=OWNER,
            epoch=journal.epoch,
            gateways=gateways,
            links=self.links,
            keys=_Keys(),
            files=_Files(),
            on_listing=self._listing,
            on_trouble=lambda what, error: watcher.bug(f"in {what}: {error!r}"),
        )
        self._identity = Identity(OWNER, journal.epoch)
        for name, provider in providers.items():
            gateways[name] = Gateway(
                provider,
                owner=OWNER,
                listener=self.acting,
                now=clock.now,
                observe_every_s=observe_every_s,
                observe_timeout_s=observe_timeout_s,
            )
        self._gateways = gateways
        self.leftovers = LeftoverSweep(
            owner=OWNER,
            journal=journal,
            observer=self._observer,
            clock=clock,
            dice=dice,
            machines=self.sweep,
            gateways=gateways,
            loops=self.loops,
            guard_s=GUARD_S,
            every_s=LEFTOVERS_EVERY_S,
        )
        self.acting.markets = self._loop(MARKETS, recovered.markets)
        for (_, name), state in recovered.markets.items():
            assert isinstance(state, MarketState)
            self.acting.market_committed(name, state)
        for pool, states in recovered.pools.items():
            self.loops[pool] = self._loop(pool, states)
        self.acting.loops = self.loops
        self.acting.tell_holdings()

    def _loop(self, name: str, states: Mapping[Address, Value]) -> Loop:
        return Loop(
            name,
            identity=self._identity,
            journal=self._journal,
            observer=self._observer,
            clock=self._clock,
            dice=self._dice,
            world=self.acting.world,
            outside=self.acting,
            states=states,
            checking=self._checking,
        )

    def _listing(self, provider: str, listing: Listing) -> None:
        self._watcher.listed(provider, listing)
        self.sweep.listing(provider, listing)

    async def run(self) -> None:
        """Live until cancelled."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            assert self.acting.markets is not None
            tasks.start_soon(self.acting.markets.run)
            for loop in list(self.loops.values()):
                tasks.start_soon(self._run_loop, loop)
            tasks.start_soon(self.links.run)
            tasks.start_soon(self.sweep.run)
            for gateway in self._gateways.values():
                tasks.start_soon(gateway.run)
                tasks.start_soon(self.leftovers.watch, gateway.name)
            for envelope in self._requests:
                await self._hand_over(envelope)
            self.up = True
            await anyio.sleep_forever()

    async def _run_loop(self, loop: Loop) -> None:
        await loop.run()
        if self.loops.get(loop.name) is loop:
            del self.loops[loop.name]

    def cut(self) -> None:
        """Let nothing through any more, in or out."""
        self.up = False
        self._journal.cut()
        for provider in self._providers.values():
            provider.cut()

    async def submit(self, pool: str, request: Request, principal: str = "user") -> Accepted:
        """Accept a request, durably, and hand it over."""
        submission = Submission(pool, request, principal, self._clock.now())
        answer = (await self._journal.accept([submission]))[0]
        assert isinstance(answer, Accepted)
        if answer.new:
            await self._hand_over(answer.envelope)
        return answer

    async def _hand_over(self, envelope: Envelope) -> None:
        pool = envelope.pool
        letter = Letter(("pool", pool), RequestHeard(envelope), envelope.seq)
        loop = self.loops.get(pool) or self._open(pool)
        while not await loop.post(letter):
            loop = self._open(pool)

    def _open(self, pool: str) -> Loop:
        loop = self.loops[pool] = self._loop(pool, {})
        assert self._tasks is not None
        self._tasks.start_soon(self._run_loop, loop)
        return loop

    async def _post(self, pool: str, letter: Letter) -> None:
        loop = self.loops.get(pool)
        if loop is not None:
            await loop.post(letter)
