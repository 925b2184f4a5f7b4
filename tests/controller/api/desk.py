"""A small desk of real parts: loop, journal, read model, followers, stores. What it lacks is an outside."""

import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anyio.abc import TaskGroup
from prometheus_client import CollectorRegistry

from actors.decision import World
from actors.effects import Call, CloseCluster, Find, Launch, OpenCluster, Terminate, Word
from actors.events import ClusterRequested, InstanceRequested, PoolRequested, Request, ShutdownRequested
from actors.loop import Identity, Letter, Loop
from actors.messages import (
    ClusterClosed,
    ClusterOpened,
    FindFailed,
    LaunchFailed,
    Message,
    RequestHeard,
    TerminateSucceeded,
)
from actors.ports import Accepted, Commit, Conflict, Submission
from controller.backing_up import backed_up
from controller.desk import Refused
from controller.doctor import chosen, line
from controller.followers import Followers
from controller.journal.errors import JournalFailing
from controller.journal.journal import SqliteJournal
from controller.records import Records
from controller.secrets.keys import KeyRing
from controller.secrets.store import SecretStore
from controller.secrets.uses import LoopUses
from controller.security.guard import Guard
from controller.status import Status
from controller.telemetry.console import ConsoleStore
from controller.telemetry.files import FileStore
from controller.telemetry.logs import LogStore
from controller.telemetry.metrics_store import MetricsStore
from controller.telemetry.series import Series
from controller.webhooks.hook import Tools
from controller.webhooks.webhooks import Webhooks
from providers.errors import Fault
from providers.model import (
    Address,
    ClusterHandle,
    Handle,
    InstanceType,
    Machine,
    Offer,
)
from providers.secret import SecretSource

OFFER = Offer(
    id="small",
    instance_type=InstanceType(name="small", vcpus=2, memory_gb=4),
    provider="local",
    region="here",
    zone="a",
    micro_usd_per_hour=20_000,
)


class SystemClock:
    """The wall clock."""

    def now(self) -> float:
        return time.time()


class SoldOut:
    """An outside where clusters open and every machine is sold out."""

    async def call(self, pool: str, call: Call) -> Message:
        match call:
            case OpenCluster(cluster_id=name, provider=provider, region=region):
                return ClusterOpened(
                    ClusterHandle(cluster_id=name, provider=provider, region=region, ssh_user="me")
                )
            case CloseCluster(cluster=cluster):
                return ClusterClosed(cluster.cluster_id)
            case Launch():
                return LaunchFailed(Fault.CAPACITY, "sold out")
            case Find():
                return FindFailed(Fault.UNKNOWN)
            case Terminate():
                return TerminateSucceeded()

    def word(self, pool: str, word: Word) -> None:
        """Nobody is there to hear it."""

    def world(self) -> World:
        return World(offers={"local": (OFFER,)})


async def _once(what: str, run: Callable[[], Awaitable[None]]) -> None:
    """In the place of the daemon's supervision: a bug is a bug of the test."""
    await run()


class SmallDesk:
    """Implements `controller.api.port.Desk`."""

    def __init__(self, directory: Path, group: TaskGroup) -> None:
        self.journal = SqliteJournal(directory / "journal.sqlite3")
        self.status = Status()
        self.followers = Followers(self.journal)
        self.logs = LogStore(directory / "logs")
        self.files = FileStore(directory / "files")
        self.console = ConsoleStore(directory / "logs")
        self.metrics = MetricsStore()
        self.series = Series(CollectorRegistry(), providers=["local"], now=time.time)
        self.records = Records(self.journal, self, SystemClock(), {})
        tools = Tools(self.journal, lambda: self.records, SystemClock(), random.Random(1))
        self.webhooks = Webhooks(self.journal, tools, _once)
        self.guard = Guard(self.records, time.time)
        self.acting = SoldOut()
        self.loops: dict[str, Loop] = {}
        self.hidden: list[str] = []
        self.secrets_key: SecretSource | None = None
        self.secrets = SecretStore(
            records=lambda: self.records,
            ring=KeyRing(lambda: (self.secrets_key, None)),
            clock=SystemClock(),
            hide=self.hidden.append,
            uses=LoopUses(lambda: self.loops),
        )
        self.bugs: list[str] = []
        self.busy = False
        self.failing = False
        self._group = group

    def pool_of(self, request: Request) -> str | None:
        return _pool_of(request)

    async def submit(
        self, requests: Sequence[Request], principal: str, may_see: Callable[[str], bool] | None = None
    ) -> Sequence[Accepted | Conflict | Refused]:
        if self.failing:
            raise JournalFailing("the journal can't be written: disk is full")
        if self.busy:
            return [Refused(429, "pool 'main' is busy: try again", 1.2) for _ in requests]
        answers: list[Accepted | Conflict | Refused | None] = []
        places: list[int] = []
        submissions: list[Submission] = []
        known = set(self.loops)
        for place, request in enumerate(requests):
            pool = _pool_of(request)
            makes = isinstance(request, PoolRequested | ClusterRequested)
            if not makes and pool not in known:
                there = ", ".join(sorted(filter(may_see, known)))
                answers.append(Refused(404, f"no pool {pool!r}: there are {there}"))
                continue
            known.add(pool)
            named = request.request_id or f"r-{secrets.token_hex(8)}"
            filled = request.model_copy(update={"request_id": named}) if not request.request_id else request
            submissions.append(Submission(pool, filled, principal, time.time()))
            places.append(place)
            answers.append(None)
        taken = await self.journal.accept(submissions) if submissions else ()
        self.followers.wake()
        for place, answer in zip(places, taken, strict=True):
            answers[place] = answer
            if isinstance(answer, Accepted) and answer.new:
                envelope = answer.envelope
                self.webhooks.accepted(envelope)
                loop = self.loops.get(envelope.pool) or self._open(envelope.pool)
                await loop.post(Letter(("pool", envelope.pool), RequestHeard(envelope), envelope.seq))
        return [answer for answer in answers if answer is not None]

    def _open(self, name: str) -> Loop:
        loop = self.loops[name] = Loop(
            name,
            identity=Identity("owner", 1),
            journal=self.journal,
            observer=self,
            clock=SystemClock(),
            dice=random.Random(1),
            world=self.acting.world,
            outside=self.acting,
        )
        self._group.start_soon(self._life, loop)
        return loop

    async def _life(self, loop: Loop) -> None:
        await loop.run()
        self.loops.pop(loop.name, None)

    # --- observer -----------------------------------------------------------------------------

    def committed(self, commit: Commit) -> None:
        for observer in (self.status, self.series, self.followers, self.webhooks):
            observer.committed(commit)

    def turn_ended(self, pool: str, *, messages: int, seconds: float, waiting: int) -> None:
        self.series.turn_ended(pool, messages=messages, seconds=seconds, waiting=waiting)

    def bug(self, address: str, message: str, error: BaseException) -> None:
        self.bugs.append(f"{address} {message}: {error!r}")

    # --- the daemon ---------------------------------------------------------------------------

    async def adopt(self) -> Mapping[str, Any]:
        return {"adopted": False}

    async def hold(self, pool: str | None, seconds: float) -> Mapping[str, Any]:
        if pool is not None and pool not in self.loops:
            raise KeyError(pool)
        return {"pools": sorted(self.loops) if pool is None else [pool], "until": time.time() + seconds}

    async def backup(self, path: Path) -> Mapping[str, Any]:
        return await backed_up(self.journal, path.with_name("keys"), path, lambda epoch: None)

    async def reload(self, *, dry_run: bool = False, principal: str = "") -> Mapping[str, Any]:
        return {
            "applied": not dry_run,
            "pools": {},
            "providers_added": [],
            "plan": [],
            "needs_restart": [],
        }

    async def doctor(self, names: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        return [line(name, True, "answers") for name in chosen(names, ["local", "far"])]

    def health(self) -> Mapping[str, Any]:
        return {"live": True, "ready": not self.failing, "reasons": ["disk is full"] if self.failing else []}

    def ssh_target(self, instance_id: str) -> Machine | None:
        return Machine(
            instance_id=instance_id,
            handle=Handle(provider="local", ref="1"),
            address=Address(host="127.0.0.1", port=2222),
            ssh_user="me",
            private_key_path="/k",
            known_hosts_path="/h",
        )


def _pool_of(request: Request) -> str:
    match request:
        case ShutdownRequested(cluster_id=name):
            return name
        case ClusterRequested(pool=name):
            return name
        case InstanceRequested():
            return ""
        case _:
            return str(getattr(request, "pool", ""))


@contextmanager
def small_desk(directory: Path, group: TaskGroup) -> Iterator[SmallDesk]:
    """A desk whose pools live in `group`."""
    desk = SmallDesk(directory, group)
    try:
        yield desk
    finally:
        desk.journal.close()
        desk.logs.close()
        desk.console.close()
