"""Carrying out effects: what the loops decided, done through gateways and links.

Everything that happens outside passes here, and comes back as letters to the actor that is concerned.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, assert_never

from actors.decision import World
from actors.effects import (
    Acknowledge,
    Call,
    CloseCluster,
    Connect,
    Disconnect,
    Find,
    Launch,
    Look,
    News,
    OpenCluster,
    RefreshOffers,
    Say,
    StartSetUp,
    StartTask,
    TaskFilesDone,
    TellMarket,
    Terminate,
    Unwatch,
    Watch,
    Word,
)
from actors.env_groups import EnvGroups, GroupsUnavailable, NoGroups, set_up_with_groups, with_groups
from actors.events import InstanceId
from actors.instance.state import Alive
from actors.links import Links
from actors.loop import Letter, Loop
from actors.market.state import MarketState
from actors.messages import (
    AbsenceObserved,
    AgentReported,
    AgentSaid,
    ClusterClosed,
    ClusterCloseFailed,
    ClusterOpened,
    ClusterOpenFailed,
    Due,
    FindFailed,
    Found,
    HoldingTold,
    LaunchFailed,
    LaunchSucceeded,
    Message,
    NothingFound,
    TerminateFailed,
    TerminateSucceeded,
    VendorNotice,
)
from actors.spec import FilePut
from actors.supervisor import attempt_call
from providers.agent.wire import BootstrapEnded, Command, Ended, Put
from providers.errors import Fault, ProviderError
from providers.gateway import Gateway
from providers.model import Capabilities, ClusterOrder, Handle, Listing, Notice, Offer, Order, Sighting

PUT_BYTES = 192 * 1024  # of a file in one message to an agent
BEHIND_ALL = 2**62  # the id of a report that no agent made: of theirs none is so large


class Keys(Protocol):
    """Where key pairs are made and kept. Called in the event loop's thread; small files only."""

    def cluster_public_key(self, cluster_id: str) -> str:
        """The public key of a cluster's pair, made when there is none."""
        ...

    def host_private_key(self, cluster_id: str, instance_id: InstanceId) -> str:
        """The host key for a machine, made once per instance and pinned."""
        ...


class Files(Protocol):
    """Task files: inputs kept by their sha256, and what is over."""

    def pieces(self, file: FilePut, size: int) -> list[str]:
        """The file's content in base64 pieces of `size` bytes each; at least one. Raises OSError."""
        ...

    def task_done(self, pool: str, task_id: str) -> None:
        """The task is over: its followers may end."""
        ...


@dataclass(frozen=True, slots=True)
class _Watcher:
    pool: str
    instance: InstanceId
    provider: str


class _OffersAt(Mapping[str, float]):
    """When each provider's offers were told, newest: they are told again though they are as before."""

    def __init__(self, gateways: Mapping[str, Gateway]) -> None:
        self._gateways = gateways

    def __getitem__(self, provider: str) -> float:
        at = self._gateways[provider].offers_at
        if at is None:
            raise KeyError(provider)
        return at

    def __iter__(self) -> Iterator[str]:
        return (name for name, gateway in self._gateways.items() if gateway.offers_at is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Acting:
    """What loops, gateways and links know of each other."""

    def __init__(
        self,
        *,
        owner: str,
        epoch: int,
        gateways: Mapping[str, Gateway],
        links: Links,
        keys: Keys,
        files: Files,
        env_groups: EnvGroups | None = None,
        on_listing: Callable[[str, Listing], None],
        on_trouble: Callable[[str, BaseException], None],
        on_offers: Callable[[str], None] = lambda provider: None,
    ) -> None:
        self.loops: dict[str, Loop] = {}
        self.markets: Loop | None = None
        self._owner = owner
        self._epoch = epoch
        self._gateways = gateways
        self._links = links
        self._keys = keys
        self._files = files
        self._env_groups = NoGroups() if env_groups is None else env_groups
        self._late: list[tuple[str, Letter]] = []  # found a mailbox full: tried again with the next word
        self._on_listing = on_listing
        self._on_trouble = on_trouble
        self._on_offers = on_offers
        self._watchers: dict[str, _Watcher] = {}
        self._worlds = World()
        self._stale = True
        self._market_memory: dict[str, MarketState] = {}
        self._offers_at = _OffersAt(gateways)

    def lead(self, epoch: int) -> None:
        """Order machines under a newer epoch of ours from now on."""
        self._epoch = epoch

    # --- the world, as rules see it ---------------------------------------------------------------

    def world(self) -> World:
        """Offers, capabilities and market memory, newest."""
        if self._stale:
            offers: dict[str, tuple[Offer, ...]] = {}
            capabilities: dict[str, Capabilities] = {}
            for name, gateway in self._gateways.items():
                capabilities[name] = gateway.capabilities
                if gateway.offers is not None:
                    offers[name] = gateway.offers
            down = {name: one.trouble for name, one in self._gateways.items() if one.trouble is not None}
            self._worlds = World(offers, capabilities, self._market_memory, down, self._offers_at)
            self._stale = False
        return self._worlds

    def market_committed(self, name: str, state: MarketState | None) -> None:
        """A market's memory changed, durably."""
        if state is None:
            self._market_memory.pop(name, None)
        else:
            self._market_memory[name] = state

    def markets_changed(self) -> None:
        """Pools that wait for news of markets, or will look at them again, hear that there are some."""
        for pool in self.loops.values():
            if pool.index.paused or getattr(pool.index.pool, "look_at", None) is not None:
                pool.markets_changed()

    def may_again(self, provider: str) -> None:
        """What the provider refused for want of a login may be granted now: its markets are tried at once."""
        if (gateway := self._gateways.get(provider)) is not None:
            gateway.forgive()
        for name, memory in self._market_memory.items():
            if memory.market.provider == provider and memory.last_fault is Fault.CREDENTIALS:
                if self.markets is not None:
                    self.markets.post_nowait(Letter(("market", name), Due()))

    def tell_holdings(self) -> None:
        """Put right what markets believe of the machines held there: news were lost when a daemon died."""
        held: dict[str, Counter[str]] = {}
        for name, loop in self.loops.items():
            mine = held[name] = Counter[str]()
            for instance in loop.index.instances.values():
                if not isinstance(instance, Alive):
                    continue
                market = instance.offer.market
                mine[str(market)] += 1
                memory = self._market_memory.get(str(market))
                if mine[str(market)] == 1 and (memory is None or name not in memory.holders):
                    self._tell(HoldingTold(market, name, 1))
        for memory in list(self._market_memory.values()):
            for name in memory.holders:
                if not held.get(name, Counter())[str(memory.market)]:
                    self._tell(HoldingTold(memory.market, name, 0))

    def _tell(self, news: News) -> None:
        if self.markets is not None:
            self.markets.post_nowait(Letter(("market", str(news.market)), news))

    # --- what gateways tell (Listener) ------------------------------------------------------------

    def seen(self, sighting: Sighting, at: float, lacked_at: float | None) -> None:
        """A watched machine is new or changed."""
        self._to_watcher(sighting.key, Found(sighting, at, lacked_at))

    def absent(self, key: str, at: float, told: Sighting | None) -> None:
        """A watched machine is gone."""
        self._to_watcher(key, AbsenceObserved(at, told))

    def noticed(self, key: str, notice: Notice | None) -> None:
        """The vendor pushed a notice, or withdrew it."""
        self._to_watcher(key, VendorNotice(notice))

    def listed(self, provider: str, listing: Listing) -> None:
        """A listing came in: for the sweep."""
        self._on_listing(provider, listing)

    def offers_changed(self, provider: str) -> None:
        """Offers, prices or whether anything can be bought there are not what they were."""
        self._stale = True
        self._on_offers(provider)
        self.markets_changed()

    def _to_watcher(self, key: str, message: Message) -> None:
        watcher = self._watchers.get(key)
        loop = self.loops.get(watcher.pool) if watcher else None
        if watcher is None or loop is None:
            return
        if not loop.post_nowait(Letter(("instance", watcher.instance), message)):
            gateway = self._gateways.get(watcher.provider)
            if gateway is not None:  # its mailbox is full: the next listing says it again
                gateway.tell_again(key)

    # --- calls ------------------------------------------------------------------------------------

    async def call(self, pool: str, call: Call) -> Message:
        """Carry out one call; every failure, a bug included, comes back as a message."""

        def otherwise(error: Exception) -> Message:
            self._on_trouble(type(call).__name__, error)
            return _failed(call, ProviderError(Fault.UNKNOWN, f"bug: {type(error).__name__}"))

        async def carried() -> Message:
            try:
                return await self._carry_out(pool, call)
            except ProviderError as error:
                return _failed(call, error)
            except OSError as error:  # keys can't be written
                return _failed(call, ProviderError(Fault.NOT_SENT, f"keys: {error.strerror}"))

        return await attempt_call(carried, otherwise)

    def _gateway(self, name: str) -> Gateway:
        gateway = self._gateways.get(name)
        if gateway is None:
            raise ProviderError(Fault.NOT_SENT, f"provider {name!r} is not in the config")
        return gateway

    async def _carry_out(self, pool: str, call: Call) -> Message:
        match call:
            case Launch():
                return LaunchSucceeded(await self._launch(pool, call))
            case Find(provider=provider, key=key):
                sighting = await self._gateway(provider).find(key)
                return NothingFound() if sighting is None else Found(sighting)
            case Terminate(handle=handle):
                await self._gateway(handle.provider).terminate(handle)
                return TerminateSucceeded()
            case OpenCluster(cluster_id=cluster_id, provider=provider, region=region):
                order = ClusterOrder(
                    cluster_id=cluster_id,
                    owner=self._owner,
                    pool=pool,
                    region=region,
                    public_key=self._keys.cluster_public_key(cluster_id),
                )
                return ClusterOpened(await self._gateway(provider).open_cluster(order))
            case CloseCluster(cluster=cluster):
                await self._gateway(cluster.provider).close_cluster(cluster)
                return ClusterClosed(cluster.cluster_id)
            case _:
                assert_never(call)

    async def _launch(self, pool: str, call: Launch) -> Handle:
        cluster_id = call.cluster.cluster_id
        gateway = self._gateway(call.offer.provider)
        host_key = ""
        if gateway.capabilities.host_keys:
            host_key = self._keys.host_private_key(cluster_id, call.instance_id)
        order = Order(
            key=call.key,
            owner=self._owner,
            epoch=self._epoch,
            pool=pool,
            node=call.node,
            instance_id=call.instance_id,
            offer=call.offer,
            cluster=call.cluster,
            public_key=self._keys.cluster_public_key(cluster_id),
            host_key=host_key,
            image=call.image,
            disk_gb=call.disk_gb,
            age_max_s=call.age_max_s,
            micro_usd_per_hour_max=call.micro_usd_per_hour_max,
        )
        return await gateway.launch(order)

    # --- words ------------------------------------------------------------------------------------

    def word(self, pool: str, word: Word) -> None:
        """Pass a word on."""
        if self._late:
            late, self._late = self._late, []
            for name, letter in late:
                self._tell_pool(name, letter)
        match word:
            case Watch(provider=provider, key=key, ref=ref, instance_id=instance, launched_at=at):
                self._watchers[key] = _Watcher(pool, instance, provider)
                if (gateway := self._gateways.get(provider)) is not None:
                    gateway.watch(key, ref, at, word.region, word.zone)
            case Unwatch(provider=provider, key=key):
                self._watchers.pop(key, None)
                if (gateway := self._gateways.get(provider)) is not None:
                    gateway.unwatch(key)
            case Look(provider=provider):
                if (gateway := self._gateways.get(provider)) is not None:
                    gateway.look()
            case Connect():
                self._links.connect(pool, word)
            case Disconnect(instance_id=instance):
                self._links.disconnect(instance)
            case Say(instance_id=instance, command=command):
                self._links.say(instance, [command])
            case StartSetUp():
                self._set_up(pool, word)
            case StartTask():
                self._start(pool, word)
            case Acknowledge(instance_id=instance, boot=boot, last_id=last_id):
                self._links.acknowledge(instance, boot, last_id)
            case TellMarket(news=news):
                self._tell(news)
            case RefreshOffers(provider=provider):
                if (gateway := self._gateways.get(provider)) is not None:
                    gateway.refresh_offers()
            case TaskFilesDone(task_id=task):
                self._files.task_done(pool, task)
            case _:
                assert_never(word)

    def _set_up(self, pool: str, word: StartSetUp) -> None:
        """Send the word to set up, with its secrets. One that can't be had fails it, as if a step had."""
        run, instance = word.command.run_id, word.instance_id
        try:
            found = self._env_groups.values(pool, run, 0, word.env_groups)
        except GroupsUnavailable as error:
            ended = BootstrapEnded(id=BEHIND_ALL, run_id=run, phase="secrets", error=error.why)
            self._tell_pool(pool, Letter(("instance", instance), AgentSaid(word.boot, 0, (ended,))))
            return
        self._links.say(instance, [set_up_with_groups(word.command, found)])

    def _start(self, pool: str, word: StartTask) -> None:
        """Send the task's files, then the word to start. A file or secret that was lost fails the attempt."""
        start = word.command
        if word.env_groups:
            try:
                found = self._env_groups.values(pool, start.task, start.attempt, word.env_groups)
            except GroupsUnavailable as error:
                self._unstarted(pool, word, "secrets", str(error))
                return
            start = with_groups(start, word.over or {}, found)
        commands: list[Command] = []
        for file in word.files:
            try:
                pieces = self._files.pieces(file, PUT_BYTES)
            except OSError as error:
                self._unstarted(pool, word, "spawn", f"input file {file.path!r}: {error.strerror}")
                return
            for i, piece in enumerate(pieces):
                put = Put(
                    epoch=start.epoch,
                    task=start.task,
                    attempt=start.attempt,
                    path=file.path,
                    mode=file.mode,
                    offset=i * PUT_BYTES,
                    data=piece,
                    last=i == len(pieces) - 1,
                )
                commands.append(put)
        self._links.say(word.instance_id, [*commands, start])

    def _unstarted(self, pool: str, word: StartTask, why: Literal["spawn", "secrets"], error: str) -> None:
        start = word.command
        code = 126 if why == "spawn" else None  # what a shell says, had it tried
        ended = Ended(
            id=0, task=start.task, attempt=start.attempt, started=False, why=why, code=code, error=error
        )
        self._tell_pool(pool, Letter(("task", start.task), AgentReported(word.instance_id, ended)))

    def _tell_pool(self, pool: str, letter: Letter) -> None:
        loop = self.loops.get(pool)
        if loop is not None and not loop.post_nowait(letter):
            self._late.append((pool, letter))


def _failed(call: Call, error: ProviderError) -> Message:
    fault, detail, after = error.fault, error.detail, error.retry_after_s
    match call:
        case Launch():
            return LaunchFailed(fault, detail, after, error.paced)
        case Find():
            return FindFailed(fault)
        case Terminate():
            return TerminateFailed(fault, detail, after)
        case OpenCluster():
            return ClusterOpenFailed(call.cluster_id, fault, detail, after)
        case CloseCluster():
            if fault is Fault.GONE:
                return ClusterClosed(call.cluster.cluster_id)
            return ClusterCloseFailed(call.cluster.cluster_id, fault, detail)
        case _:
            assert_never(call)
