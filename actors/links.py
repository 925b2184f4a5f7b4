"""Links: one open stream to the agent of each machine that has one.

A link opens the stream, resumes after what is journaled, and sorts what comes: log lines, console output,
metrics and files go to telemetry at once; the rest goes to the pool, and is acknowledged when the pool has
committed it. What was said while the stream was down is lost on purpose: the states say it again when it
is up. One task per link, and a short-lived one while something is to be sent.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from providers.model import Machine

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
            known.scope.cancel()
        link = Link(pool, wish)
        self.links[wish.instance_id] = link
        if self._tasks is not None:
            self._tasks.start_soon(self._keep, link)

    def disconnect(self, instance: InstanceId) -> None:
        """Close the stream and forget it."""
        link = self.links.pop(instance, None)
        if link is not None:
            link.scope.cancel()

    def say(self, instance: InstanceId, commands: Sequence[Command]) -> None:
        """Send commands if the stream is up; else they are lost, and said again when it is."""
        link = self.links.get(instance)
        if link is None or link.channel is None:
            return
        if len(link.outbox) + len(commands) > OUTBOX_MAX:  # an agent that does not listen
            link.detail = "does not take commands"
            link.scope.cancel()
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
            link.renew_at = 0.0
        self._came_up.set()

    def hold(self, pool: str, until: float) -> None:
        """Give every machine of a pool a lease until then (maintenance of the daemon)."""
        self._hold_until[pool] = until
        for link in self.links.values():
            if link.pool == pool:
                link.renew_at = 0.0
        self._came_up.set()

    def holds(self, now: float) -> dict[str, float]:
        """Pools that are held, and until when."""
        return {pool: until for pool, until in self._hold_until.items() if until > now}

    # --- leases -----------------------------------------------------------------------------------

    def _lease_s(self, link: Link, now: float) -> float:
        return max(link.wish.spec.lease_s, self._hold_until.get(link.pool, 0.0) - now)

    def _renew_leases(self) -> float | None:
        """Renew what is due; answers how long until the next is."""
        now, soonest, tick = self._clock.now(), None, LEASE_TICK_S
        for link in self.links.values():
            if not link.up:
                continue
            if link.renew_at <= now:
                lease_s = self._lease_s(link, now)
                self.say(link.wish.instance_id, [Lease(epoch=self._epoch, lease_s=lease_s)])
                link.lease_until = now + lease_s
                link.renew_at = now + link.wish.spec.lease_s / LEASES_A_PERIOD
            soonest = link.renew_at if soonest is None else min(soonest, link.renew_at)
            tick = min(tick, link.wish.spec.lease_s / LEASES_A_PERIOD)  # a short lease can't wait for others
        return None if soonest is None else max(tick, soonest - now)

    # --- one link ---------------------------------------------------------------------------------

    async def _keep(self, link: Link) -> None:
        with link.scope:
            while True:
                error = await attempt_call(lambda: self._until_it_ends(link), lambda error: error)
                if not isinstance(error, ProviderError):  # a bug costs one stream
                    self._on_trouble(f"link {link.wish.instance_id}", error)
                link.detail = error.detail if isinstance(error, ProviderError) else type(error).__name__
                link.failures += 1
                was_up, link.up, link.channel = link.up, False, None
                link.outbox.clear()
                if was_up:
                    self.reconnects += 1
                if link.lease_until is None:  # the last daemon may have renewed it until just now
                    now = self._clock.now()
                    link.lease_until = now + self._lease_s(link, now)
                await self._tell(link, LinkDown(link.detail, link.lease_until))
                wait = retry_delay_s(
                    max(1, link.failures),
                    self._dice.random(),
                    first_s=RECONNECT_FIRST_S,
                    most_s=RECONNECT_MOST_S,
                )
                await anyio.sleep(wait)

    async def _tell(self, link: Link, message: Any) -> None:
        await self._post(link.pool, Letter(("instance", link.wish.instance_id), message))

    async def _until_it_ends(self, link: Link) -> Exception:
        await self._once(link)
        return HostError(Fault.UNKNOWN, "the stream ended")

    async def _once(self, link: Link) -> None:
        """One stream, from hello to its end (HostError)."""
        wish = link.wish
        provider = self._providers.get(wish.handle.provider)
        if provider is None:
            raise HostError(Fault.REJECTED, f"provider {wish.handle.provider!r} is not in the config")
        async with provider.attach(self._paths.machine(wish)) as channel:
            if link.boot is None:
                link.boot, link.acked = wish.boot, wish.acked
            await channel.send([self._hello(link).model_dump(mode="json")])
            received: list[AgentHello | Report] = []
            with anyio.move_on_after(HELLO_TIMEOUT_S):
                received = await self._received(channel)
            if not received or not isinstance(first := received[0], AgentHello):
                raise HostError(Fault.UNKNOWN, "the agent did not say hello")
            if first.boot != link.boot:
                link.boot, link.acked = first.boot, 0
            link.waiting_ids = link.stored_ids = 0
            if not first.accepted:
                self._on_newer(first.epoch)
                raise HostError(Fault.CONFLICT, f"the agent obeys a newer daemon (epoch {first.epoch})")
            link.agent = first.agent
            link.failures, link.up, link.channel, link.detail = 0, True, channel, ""
            now = self._clock.now()
            link.lease_until = now + self._lease_s(link, now)
            link.renew_at = now + wish.spec.lease_s / LEASES_A_PERIOD
            self._came_up.set()
            await self._tell(link, LinkUp(first.boot, first.accepted, first.tasks))
            if isinstance(channel, Upgradable) and channel.theirs != channel.ours:
                await channel.upgrade(self._epoch)  # the stream may end by it, and is opened again
            await self._handle(link, received[1:])
            patience_s = None
            if provider.capabilities.heartbeat:  # metrics are its sign of life
                patience_s = max(SILENCE_MIN_S, SILENT_REPORTS * wish.spec.metrics_every_s)
            while True:
                received = []
                with anyio.move_on_after(patience_s):
                    received = await self._received(channel)
                if not received:
                    raise HostError(Fault.UNKNOWN, f"the agent said nothing for {patience_s:g} s")
                await self._handle(link, received)

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

    async def _received(self, channel: AgentChannel) -> list[AgentHello | Report]:
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
