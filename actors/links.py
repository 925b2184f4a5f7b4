"""Links: one open stream to the agent of each machine that has one.

A link opens the stream, resumes after what is journaled, and sorts what comes: log lines, console output,
metrics and files go to telemetry at once; the rest goes to the pool, and is acknowledged when the pool has
committed it. What was said while the stream was down is lost on purpose: the states say it again when it
is up. One task per link, and a short-lived one while something is to be sent.
"""

import heapq
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup

from actors.effects import Connect
from actors.events import InstanceId
from actors.loop import Letter
from actors.messages import AgentSaid, LinkDown, LinkUp
from actors.policy.backoff import retry_delay_s
from actors.ports import Clock, Dice
from actors.supervisor import attempt_call
from providers.agent.attach import Upgradable
from providers.agent.wire import (
    Ack,
    AgentHello,
    Command,
    Console,
    FetchedFile,
    FromAgentJson,
    Health,
    Hello,
    Lease,
    LogLines,
    Metrics,
    Report,
)
from providers.contract import AgentChannel, Provider, Wire
from providers.errors import Fault, HostError, ProviderError
from providers.model import Machine, at_rest

RECONNECT_FIRST_S, RECONNECT_MOST_S = 0.5, 15.0
HELLO_TIMEOUT_S = 30.0
SILENCE_MIN_S, SILENT_REPORTS = 60.0, 4  # an agent that misses so many metrics reports is not heard
OUTBOX_MAX = 100_000  # commands to one agent that are not on their way yet
LEASES_A_PERIOD = 3  # how often a lease is renewed before it would be over
LEASE_TICK_S = 5.0  # renewals are said together, at most so often
STORE_AGAIN_S = 2.0  # when telemetry can't be written (disk full): nothing is acknowledged meanwhile


class Telemetry(Protocol):
    """Where the many small events go. Raises OSError when they can't be kept."""

    def log(self, pool: str, instance: InstanceId, boot: str, report: LogLines) -> None:
        """Keep lines of a task's output, each once."""

    def console(self, pool: str, instance: InstanceId, report: Console) -> None:
        """Keep output of a set-up step."""

    def file(self, pool: str, instance: InstanceId, report: FetchedFile) -> None:
        """Keep a piece of a fetched file, once."""

    def metrics(self, pool: str, instance: InstanceId, report: Metrics) -> None:
        """Keep measured values, with the machine's own times."""


class Paths(Protocol):
    """Where the keys are."""

    def machine(self, connect: Connect) -> Machine:
        """Everything needed to get into the machine."""
        ...


@dataclass(slots=True)
class Link:
    """One machine's stream, or the wish for one."""

    pool: str
    wish: Connect
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    channel: AgentChannel | None = None
    outbox: list[Wire] = field(default_factory=list)
    flushing: bool = False
    boot: str | None = None
    acked: int = 0
    waiting_ids: int = 0  # highest id handed to the pool
    stored_ids: int = 0  # highest id that came at all: once the pool has its own, all is durable
    renew_at: float = 0.0
    lease_until: float | None = None
    failures: int = 0
    up: bool = False
    agent: str = ""
    detail: str = ""


class Links:
    """All links of the daemon."""

    def __init__(
        self,
        *,
        providers: Mapping[str, Provider],
        paths: Paths,
        telemetry: Telemetry,
        post: Callable[[str, Letter], Awaitable[None]],
        clock: Clock,
        dice: Dice,
        owner: str,
        epoch: int,
        on_newer: Callable[[int], None] = lambda epoch: None,
        on_trouble: Callable[[str, BaseException], None] = lambda what, error: None,
    ) -> None:
        self.links: dict[InstanceId, Link] = {}
        self.reconnects = 0
        self._providers = providers
        self._paths = paths
        self._telemetry = telemetry
        self._post = post
        self._clock = clock
        self._dice = dice
        self._owner = owner
        self._epoch = epoch
        self._on_trouble = on_trouble
        self._on_newer = on_newer  # an agent obeys a newer daemon than us
        self._tasks: TaskGroup | None = None
        self._hold_until: dict[str, float] = {}
        self._came_up = anyio.Event()
        self._renewals: list[tuple[float, int, Link]] = []  # a heap; what is over is passed over
        self._renewal_count = 0
        self._leases_up: Counter[float] = Counter()  # links that are up, by the length of their lease

    async def run(self) -> None:
        """Keep links and leases until cancelled. Wishes made before are taken up."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for link in self.links.values():
                tasks.start_soon(self._keep, link)
            while True:
                self._came_up = anyio.Event()
                with anyio.move_on_after(self._renew_leases()):
                    await self._came_up.wait()

    # --- what effects ask -------------------------------------------------------------------------

    def connect(self, pool: str, wish: Connect) -> None:
        """Keep a stream open; a changed address or spec opens a new one."""
        known = self.links.get(wish.instance_id)
        if known is not None:
            self._end(known)
        link = Link(pool, wish)
        self.links[wish.instance_id] = link
        if self._tasks is not None:
            self._tasks.start_soon(self._keep, link)

    def disconnect(self, instance: InstanceId) -> None:
        """Close the stream and forget it."""
        link = self.links.pop(instance, None)
        if link is not None:
            self._end(link)

    def say(self, instance: InstanceId, commands: Sequence[Command]) -> None:
        """Send commands if the stream is up; else they are lost, and said again when it is."""
        link = self.links.get(instance)
        if link is None or link.channel is None:
            return
        if len(link.outbox) + len(commands) > OUTBOX_MAX:  # an agent that does not listen
            link.detail = "does not take commands"
            self.connect(link.pool, replace(link.wish, boot=link.boot, acked=link.acked))
            return
        link.outbox.extend(command.model_dump(mode="json") for command in commands)
        self._flush_soon(link)

    def acknowledge(self, instance: InstanceId, boot: str, last_id: int) -> None:
        """The pool has committed everything up to this id."""
        link = self.links.get(instance)
        if link is None or link.boot != boot:
            return
        if last_id >= link.waiting_ids:
            last_id = max(last_id, link.stored_ids)
        if last_id > link.acked:
            link.acked = last_id
            link.outbox.append(Ack(boot=boot, id=last_id).model_dump(mode="json"))
            self._flush_soon(link)

    def lead(self, epoch: int) -> None:
        """Speak under a newer epoch of ours from now on; every agent hears it at once."""
        self._epoch = epoch
        for link in self.links.values():
            self._renew(link, 0.0)
        self._came_up.set()

    def hold(self, pool: str, until: float) -> None:
        """Give every machine of a pool a lease until then (maintenance of the daemon)."""
        self._hold_until[pool] = until
        for link in self.links.values():
            if link.pool == pool:
                self._renew(link, 0.0)
        self._came_up.set()

    def holds(self, now: float) -> dict[str, float]:
        """Pools that are held, and until when."""
        return {pool: until for pool, until in self._hold_until.items() if until > now}

    # --- leases -----------------------------------------------------------------------------------

    def _lease_s(self, link: Link, now: float) -> float:
        return max(link.wish.spec.lease_s, self._hold_until.get(link.pool, 0.0) - now)

    def _renew(self, link: Link, at: float) -> None:
        """Renew a link's lease then, if it is up by then."""
        link.renew_at = at
        self._renewal_count += 1
        heapq.heappush(self._renewals, (at, self._renewal_count, link))

    def _is_due(self, at: float, link: Link) -> bool:
        return link.up and link.renew_at == at and self.links.get(link.wish.instance_id) is link

    def _renew_leases(self) -> float | None:
        """Renew what is due; answers how long until the next is."""
        now, heap = self._clock.now(), self._renewals
        while heap and (heap[0][0] <= now or not self._is_due(heap[0][0], heap[0][2])):
            at, _, link = heapq.heappop(heap)
            if self._is_due(at, link):
                lease_s = self._lease_s(link, now)
                self.say(link.wish.instance_id, [Lease(epoch=self._epoch, lease_s=lease_s)])
                link.lease_until = now + lease_s
                self._renew(link, now + link.wish.spec.lease_s / LEASES_A_PERIOD)
        if not heap:
            return None
        shortest = min(lease_s for lease_s, count in self._leases_up.items() if count)
        tick = min(LEASE_TICK_S, shortest / LEASES_A_PERIOD)  # a short lease can't wait for others
        return max(tick, heap[0][0] - now)

    # --- one link ---------------------------------------------------------------------------------

    async def _keep(self, link: Link) -> None:
        with link.scope:
            while True:
                error = await attempt_call(partial(self._once, link), _itself)
                if not isinstance(error, ProviderError):  # a bug costs one stream
                    self._on_trouble(f"link {link.wish.instance_id}", error)
                link.detail = error.detail if isinstance(error, ProviderError) else type(error).__name__
                link.failures += 1
                if link.up:
                    self.reconnects += 1
                self._mark(link, up=False)
                link.channel = None
                link.outbox.clear()
                if link.lease_until is None:  # the last daemon may have renewed it until just now
                    now = self._clock.now()
                    link.lease_until = now + self._lease_s(link, now)
                del error  # or what the last stream consisted of would be kept through the next
                await self._tell(link, LinkDown(link.detail, link.lease_until))
                wait = retry_delay_s(
                    max(1, link.failures),
                    self._dice.random(),
                    first_s=RECONNECT_FIRST_S,
                    most_s=RECONNECT_MOST_S,
                )
                await anyio.sleep(wait)

    def _end(self, link: Link) -> None:
        """Nobody wants this stream any more. What was said on it before may still be sent."""
        self._mark(link, up=False)
        link.scope.cancel()

    def _mark(self, link: Link, *, up: bool) -> None:
        if link.up != up:
            link.up = up
            self._leases_up[link.wish.spec.lease_s] += 1 if up else -1

    async def _tell(self, link: Link, message: Any) -> None:
        await self._post(link.pool, Letter(("instance", link.wish.instance_id), message))

    async def _once(self, link: Link) -> Exception:
        """One stream, from hello to its end (HostError)."""
        wish = link.wish
        provider = self._providers.get(wish.handle.provider)
        if provider is None:
            raise HostError(Fault.REJECTED, f"provider {wish.handle.provider!r} is not in the config")
        patience_s = None
        if provider.capabilities.heartbeat:  # metrics are its sign of life
            patience_s = max(SILENCE_MIN_S, SILENT_REPORTS * wish.spec.metrics_every_s)
        async with provider.attach(at_rest(self._paths.machine(wish))) as channel:
            await self._greet(link, channel)
            while True:
                received = await self._received(channel, patience_s)
                if not received:
                    raise HostError(Fault.UNKNOWN, f"the agent said nothing for {patience_s:g} s")
                await self._handle(link, received)
                del received  # or it would be kept until the next comes
        return HostError(Fault.UNKNOWN, "the stream ended")

    async def _greet(self, link: Link, channel: AgentChannel) -> None:
        """Say hello, hear it, and take in what came with it."""
        wish = link.wish
        if link.boot is None:
            link.boot, link.acked = wish.boot, wish.acked
        await channel.send([self._hello(link).model_dump(mode="json")])
        received = await self._received(channel, HELLO_TIMEOUT_S)
        if not received or not isinstance(first := received[0], AgentHello):
            raise HostError(Fault.UNKNOWN, "the agent did not say hello")
        if first.instance not in ("", wish.instance_id):
            raise HostError(Fault.REJECTED, f"at this address is the machine of {first.instance}")
        if first.boot != link.boot:
            link.boot, link.acked = first.boot, 0
        link.waiting_ids = link.stored_ids = 0
        if not first.accepted:
            self._on_newer(first.epoch)
            raise HostError(Fault.CONFLICT, f"the agent obeys a newer daemon (epoch {first.epoch})")
        link.agent = first.agent
        link.failures, link.channel, link.detail = 0, channel, ""
        if self.links.get(wish.instance_id) is link:  # else it is about to end
            self._mark(link, up=True)
        now = self._clock.now()
        link.lease_until = now + self._lease_s(link, now)
        self._renew(link, now + wish.spec.lease_s / LEASES_A_PERIOD)
        self._came_up.set()
        await self._tell(link, LinkUp(first.boot, first.accepted, first.tasks))
        if isinstance(channel, Upgradable) and channel.theirs != channel.ours:
            await channel.upgrade(self._epoch)  # the stream may end by it, and is opened again
        await self._handle(link, received[1:])

    def _hello(self, link: Link) -> Hello:
        spec = link.wish.spec
        health = None
        if spec.health is not None:
            health = Health(**spec.health.model_dump())
        return Hello(
            owner=self._owner,
            instance=link.wish.instance_id,
            epoch=self._epoch,
            boot=link.boot,
            acked=link.acked,
            lease_s=self._lease_s(link, self._clock.now()),
            slots=spec.worker.concurrency,
            metrics_every_s=spec.metrics_every_s,
            health=health,
        )

    async def _received(self, channel: AgentChannel, patience_s: float | None) -> list[AgentHello | Report]:
        """What came; nothing when nothing did for so long."""
        messages: Sequence[Wire] = ()
        if patience_s is None:  # thousands wait here: no scope for each without a need
            messages = await channel.receive()
        else:
            with anyio.move_on_after(patience_s):
                messages = await channel.receive()
        try:
            return FromAgentJson.validate_python(messages)
        except ValueError as error:
            raise HostError(Fault.UNKNOWN, "the agent said what the protocol does not have") from error

    async def _handle(self, link: Link, messages: Sequence[AgentHello | Report]) -> None:
        assert link.boot is not None
        for_pool: list[Report] = []
        last = 0
        for message in messages:
            if isinstance(message, AgentHello):
                continue
            last = message.id
            if message.id <= link.acked:
                continue
            if isinstance(message, LogLines | Console | FetchedFile | Metrics):
                await self._store(link, message)
            else:
                for_pool.append(message)
        if not last:
            return
        link.stored_ids = last
        if for_pool:
            link.waiting_ids = for_pool[-1].id
            await self._tell(link, AgentSaid(link.boot, for_pool[-1].id, tuple(for_pool)))
        elif link.waiting_ids <= link.acked:  # nothing before it waits for a commit
            self.acknowledge(link.wish.instance_id, link.boot, last)

    async def _store(self, link: Link, message: LogLines | Console | FetchedFile | Metrics) -> None:
        """Hand to telemetry; while that can't write, nothing further is read or acknowledged."""
        pool, instance = link.pool, link.wish.instance_id
        while True:
            try:
                match message:
                    case LogLines():
                        self._telemetry.log(pool, instance, link.boot or "", message)
                    case Console():
                        self._telemetry.console(pool, instance, message)
                    case FetchedFile():
                        self._telemetry.file(pool, instance, message)
                    case Metrics():
                        self._telemetry.metrics(pool, instance, message)
            except OSError as error:
                link.detail = f"logs can't be written: {error.strerror}"
                await anyio.sleep(STORE_AGAIN_S)
            else:
                return

    def _flush_soon(self, link: Link) -> None:
        if not link.flushing and link.channel is not None and self._tasks is not None:
            link.flushing = True
            self._tasks.start_soon(self._flush, link)

    async def _flush(self, link: Link) -> None:
        try:
            while link.outbox and link.channel is not None:
                batch, link.outbox = link.outbox, []
                await link.channel.send(batch)
        except HostError:
            link.outbox.clear()  # the reading side meets the same end, and reports it
        finally:
            link.flushing = False


def _itself(error: Exception) -> Exception:
    return error
