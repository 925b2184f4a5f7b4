"""The desk: all that a border (HTTP, signals, the config) may ask of the daemon.

A Request is completed (id, pool, files), made durable, and only then handed to the pool it is for.
"""

import hashlib
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any

from anyio import to_thread

from actors.acting import Acting
from actors.events import (
    BootstrapRequested,
    ClusterRequested,
    DrainRequested,
    Envelope,
    InstanceRequested,
    PoolRequested,
    PoolResizeRequested,
    PoolUpdateRequested,
    Request,
    ShutdownRequested,
    TaskRequested,
    TaskStopRequested,
)
from actors.links import Links
from actors.loop import MAILBOX_MAX, Letter, Loop
from actors.messages import RequestHeard
from actors.pool.rules import wanted_ranks
from actors.ports import Accepted, Clock, Conflict, Submission
from actors.spec import FilePut, PoolSpec
from controller.backing_up import backed_up
from controller.blobs import Blobs
from controller.config import Config
from controller.config_pools import unfillable
from controller.entering import with_door
from controller.followers import Followers
from controller.funnel import Sieve
from controller.journal.journal import SqliteJournal
from controller.leftovers import LeftoverSweep
from controller.records import Records
from controller.recovery import Sweep
from controller.secrets.store import SecretStore
from controller.security.guard import Guard
from controller.status import Status
from controller.telemetry.console import ConsoleStore
from controller.telemetry.files import FileStore
from controller.telemetry.logs import LogStore
from controller.telemetry.metrics_store import MetricsStore
from controller.telemetry.series import Series
from controller.webhooks.webhooks import Webhooks
from providers.gateway import Gateway
from providers.model import Machine

CONFIG = "config"  # the principal of pools that the config names
BUSY_LETTERS = MAILBOX_MAX // 2  # a pool with more letters waiting takes no new requests


@dataclass(frozen=True, slots=True)
class Refused:
    """A Request that is not taken, and why; `status` in HTTP's words. `no_task`: its pool has none such."""

    status: int
    message: str
    retry_after_s: float | None = None
    detail: tuple[str, ...] = ()
    no_task: bool = False


Answer = Accepted | Conflict | Refused
_OPENING = (PoolRequested, ClusterRequested)
_OF_CONFIG = (PoolUpdateRequested, ShutdownRequested)


@dataclass(slots=True)
class _Sender:
    """Who sends a list of Requests; `opening` are the pools that those before this one open.

    How full mailboxes are is looked at once for a list: none of it is in them before all are judged.
    """

    principal: str
    may_see: Callable[[str], bool] | None
    opening: set[str] = field(default_factory=set)
    busy: dict[str, bool] = field(default_factory=dict)

    @property
    def limited(self) -> bool:
        """Whether they are limited to some pools: what belongs to none is not for them either."""
        return self.may_see is not None and not self.may_see("")

    def is_busy(self, loop: Loop) -> bool:
        """Whether a pool takes no new requests."""
        known = self.busy.get(loop.name)
        if known is None:
            known = self.busy[loop.name] = loop.waiting > BUSY_LETTERS
        return known


@dataclass(slots=True, kw_only=True)
class Desk:
    """What the daemon's parts offer to its borders."""

    config: Config
    config_path: Path | None
    state_dir: Path
    clock: Clock
    journal: SqliteJournal
    status: Status
    followers: Followers
    logs: LogStore
    files: FileStore
    console: ConsoleStore
    metrics: MetricsStore
    series: Series
    blobs: Blobs
    gateways: Mapping[str, Gateway]
    links: Links
    acting: Acting
    sweep: Sweep
    leftovers: LeftoverSweep
    records: Records
    webhooks: Webhooks
    guard: Guard
    secrets: SecretStore
    open_pool: Callable[[str], Loop]
    reload: Callable[..., Awaitable[dict[str, Any]]]
    adopt: Callable[[], Awaitable[dict[str, Any]]]
    doctor: Callable[[Sequence[str]], Awaitable[list[dict[str, Any]]]]
    lead: Callable[[int], None]
    hold_saved: Callable[[Mapping[str, float]], None]
    machine: Callable[[str], Machine | None]
    down: set[str] = field(default_factory=set)  # pools whose loop broke and does not run just now
    observing_only: bool = False
    stopping: bool = False

    # --- requests ---------------------------------------------------------------------------------

    async def submit(
        self, requests: Sequence[Request], principal: str, may_see: Callable[[str], bool] | None = None
    ) -> Sequence[Answer]:
        """Take Requests in, in order; an answer for each, which names only pools that `may_see` allows.

        Raises:
            JournalFailing, JournalClosed: nothing was taken.
        """
        answers: list[Answer | None] = [None] * len(requests)
        places: list[int] = []
        submissions: list[Submission] = []
        now = self.clock.now()
        sender = _Sender(principal, may_see)
        for i, request in enumerate(requests):
            completed = request if _is_complete(request) else await self._completed(request)
            if isinstance(completed, Refused):
                answers[i] = completed
                continue
            pool = self._pool_of(completed, sender.opening)
            refusal = self._refusal(completed, pool, sender)
            if refusal is not None and not await self._known(request, pool, refusal):
                answers[i] = refusal
                continue
            assert pool is not None
            if isinstance(completed, _OPENING):
                sender.opening.add(pool)
            places.append(i)
            submissions.append(Submission(pool, completed, principal, now))
        if submissions:
            accepted = await self.journal.accept(submissions)
            self.followers.wake()
            self.webhooks.wake()
            for i, answer in zip(places, accepted, strict=True):
                answers[i] = answer
                if isinstance(answer, Accepted) and answer.new:
                    self.webhooks.accepted(answer.envelope)  # before anything can end it
                    if not self._handed_over(answer.envelope):
                        await self.hand_over(answer)
        return [answer if answer is not None else Refused(500, "not answered") for answer in answers]

    async def hand_over(self, accepted: Accepted) -> None:
        """Give a durable Request to its pool's loop."""
        envelope = accepted.envelope
        if self._handed_over(envelope):
            return
        loop = self.acting.loops.get(envelope.pool) or self.open_pool(envelope.pool)
        while not await loop.post(_letter(envelope)):  # it came to its end just now; another answers
            loop = self.open_pool(envelope.pool)

    def _handed_over(self, envelope: Envelope) -> bool:
        """Give it to the loop if there is room: without a wait, so that a long list is one turn."""
        loop = self.acting.loops.get(envelope.pool) or self.open_pool(envelope.pool)
        return loop.post_nowait(_letter(envelope))

    async def _known(self, request: Request, pool: str | None, refusal: Refused) -> bool:
        """Whether what seems wrong is in the journal: a repetition, or a stop right behind its task."""
        if refusal.status not in (404, 409, 422) or pool is None:
            return False
        if request.request_id and await self.journal.request(request.request_id) is not None:
            return True
        if not isinstance(request, TaskStopRequested) or not refusal.no_task:
            return False
        task = await self.journal.request(request.task_id)
        return task is not None and task.kind == "task_requested" and task.pool == pool

    async def _completed(self, request: Request) -> Request | Refused:
        update: dict[str, Any] = {}
        if not request.request_id:
            update["request_id"] = f"r-{secrets.token_hex(8)}"
        if isinstance(request, ClusterRequested) and not request.pool:
            named = hashlib.sha256((request.request_id or secrets.token_hex(8)).encode()).hexdigest()
            update["pool"] = f"{request.provider[:40]}-{named[:6]}"  # the same for a repetition
        if isinstance(request, TaskRequested) and request.task.files:
            try:
                stored = await to_thread.run_sync(self._stored, request.task.files)
            except ValueError as error:
                return Refused(422, str(error))
            except OSError as error:
                return Refused(503, f"input files can't be kept: {error.strerror}", 5.0)
            update["task"] = request.task.model_copy(update={"files": stored})
        completed: Request = request.model_copy(update=update) if update else request
        return completed

    def _stored(self, files: Sequence[FilePut]) -> tuple[FilePut, ...]:
        return tuple(self.blobs.stored(file) for file in files)

    def pool_of(self, request: Request) -> str | None:
        """The pool that a Request is for; "" when it names none, None when there is not what it names."""
        return self._pool_of(request, set())

    def _pool_of(self, request: Request, opening: set[str]) -> str | None:
        match request:
            case TaskRequested(pool=pool):  # there are most of them
                return pool
            case ShutdownRequested(cluster_id=cluster):
                if cluster in self.acting.loops or cluster in opening:
                    return cluster
                for name, loop in self.acting.loops.items():
                    if loop.index.pool is not None and cluster in loop.index.pool.clusters:
                        return name
                return None
            case BootstrapRequested(instance=instance):
                state = self.status.instance_state(instance.instance.id)
                return state.pool if state is not None else None
            case InstanceRequested():
                return None
            case _:
                return request.pool

    def _refusal(
        self,
        request: Request,
        pool: str | None,
        sender: _Sender,
    ) -> Refused | None:
        if self.observing_only:
            return Refused(503, "observing only: a newer daemon led these machines; see `everpool adopt`")
        if self.stopping:
            return Refused(503, "the daemon is stopping: try again", 5.0)
        if pool in self.down:
            return Refused(503, f"pool {pool!r} is down after a bug, and starts again: try again", 5.0)
        if isinstance(request, InstanceRequested):
            return Refused(422, "only nodes ask for instances: resize the pool")
        reply_to = getattr(request, "reply_to", None)
        if reply_to is not None and reply_to not in self.config.webhooks:
            text = f"reply_to: no webhook {reply_to!r} in the config"
            there = ", ".join(sorted(self.config.webhooks)) or "none"
            return Refused(422, text if sender.limited else f"{text}: there are {there}")
        if isinstance(request, TaskRequested) and request.task.env_groups:
            missing = self.secrets.refusal(request.pool, request.task.env_groups, limited=sender.limited)
            if missing is not None:
                return Refused(422, f"env_groups: {missing}")
        if isinstance(request, _OPENING):
            unkept = self._unkept(request, sender)
            return unkept or self._unknown_provider(request) or self._unfillable(request, None)
        loop = self.acting.loops.get(pool) if pool is not None else None
        if loop is None and (pool is None or pool not in sender.opening):
            return Refused(404, self._no_such(request, pool, sender.may_see))
        if loop is None:
            return None
        if sender.is_busy(loop):
            return Refused(429, f"pool {pool!r} is busy ({loop.waiting} messages wait): try again", 1.0)
        if isinstance(request, TaskRequested):
            return None if request.task.node is None else self._unknown_node(loop, request.task.node)
        owned = loop.index.pool is not None and loop.index.pool.made_by == CONFIG
        if owned and sender.principal != CONFIG and isinstance(request, _OF_CONFIG):
            how = (
                f"set 'remove = true' under [pools.{pool}]"
                if isinstance(request, ShutdownRequested)
                else "change it"
            )
            return Refused(409, f"pool {pool!r} belongs to the config: {how} there, then reload")
        match request:
            case PoolUpdateRequested():
                now = loop.index.pool.spec if loop.index.pool is not None else None
                unkept = self._unkept(request, sender)
                return unkept or self._unknown_provider(request) or self._unfillable(request, now)
            case PoolResizeRequested(nodes=nodes) if owned and sender.principal != CONFIG:
                return _outside_of_config(loop, nodes)
            case DrainRequested(node=node):
                return self._unknown_node(loop, node)
            case TaskStopRequested(task_id=task_id):
                return self._unknown_task(loop, task_id)
            case _:
                return None

    def _unknown_task(self, loop: Loop, task_id: str) -> Refused | None:
        """A task of another pool is none of this one."""
        state = self.status.task_state(task_id)
        if state is not None and state.pool == loop.name:
            return None
        living = list(islice(loop.index.tasks, 5))
        there = ", ".join(living) + (", ..." if len(loop.index.tasks) > 5 else "")
        text = f"pool {loop.name!r} has no task {task_id!r}: there are {there or 'none'}"
        return Refused(404, text, no_task=True)

    def _unknown_node(self, loop: Loop, node: int) -> Refused | None:
        if loop.index.pool is None or node in wanted_ranks(loop.index.pool):
            return None
        there = ", ".join(str(rank) for rank in list(wanted_ranks(loop.index.pool))[:20]) or "none"
        return Refused(404, f"pool {loop.name!r} has no node {node}: its nodes are: {there}")

    def _unkept(
        self, request: PoolRequested | ClusterRequested | PoolUpdateRequested, sender: _Sender
    ) -> Refused | None:
        """Refuse an image that names secrets which are not there, or are not for its pool."""
        named = request.spec.image.env_groups
        missing = self.secrets.refusal(request.pool, named, limited=sender.limited) if named else None
        return None if missing is None else Refused(422, f"image.env_groups: {missing}")

    def _unknown_provider(
        self, request: PoolRequested | ClusterRequested | PoolUpdateRequested
    ) -> Refused | None:
        names = (request.provider,) if isinstance(request, ClusterRequested) else request.spec.provider
        for name in names:
            if name not in self.gateways:
                near = get_close_matches(name, self.gateways, 1)
                there = f"there are {', '.join(sorted(self.gateways)) or 'none'}"
                hint = f"did you mean {near[0]!r}?" if near else there
                return Refused(404, f"no provider {name!r} in the config: {hint}")
        return None

    def _unfillable(
        self, request: PoolRequested | ClusterRequested | PoolUpdateRequested, before: PoolSpec | None
    ) -> Refused | None:
        """Refuse what no offer can match, when all its providers have told theirs.

        A pool that could not be filled before the update either may be updated: the update is not to blame.
        """
        spec, world = request.spec, self.acting.world()
        if isinstance(request, ClusterRequested):
            spec = spec.model_copy(update={"provider": (request.provider,)})
        sieve = Sieve.of(spec, world)
        why = self._lacking(spec, sieve)
        if why is None:
            return None
        if before is not None:
            was = Sieve.of(before, world)
            if not was.fitting or self._lacking(before, was) is not None:
                return None
        return Refused(422, why, detail=tuple(sieve.lines()))

    def _lacking(self, spec: PoolSpec, sieve: Sieve) -> str | None:
        """Why it can't be filled: by what is told, or by what the config alone says of fixed prices."""
        lack = sieve.refusal()
        if lack is not None:
            return lack.text
        settings = {name: one.settings for name, one in self.config.providers.items()}
        found = unfillable(spec, settings)
        return None if found is None else str(found.text)

    def _no_such(self, request: Request, pool: str | None, may_see: Callable[[str], bool] | None) -> str:
        pools = ", ".join(sorted(filter(may_see, self.acting.loops))) or "none"
        if isinstance(request, BootstrapRequested):
            return f"no instance {request.instance.instance.id!r}"
        if isinstance(request, ShutdownRequested):
            return f"no cluster or pool {request.cluster_id!r}: pools are {pools}"
        return f"no pool {pool!r}: there are {pools}"

    # --- operations of the daemon -----------------------------------------------------------------

    async def hold(self, pool: str | None, seconds: float) -> dict[str, Any]:
        """Give machines a longer lease, so that the daemon may be away for as long.

        Raises:
            KeyError: no such pool.
        """
        names = sorted(self.acting.loops) if pool is None else [pool]
        until = self.clock.now() + seconds
        for name in names:
            if name not in self.acting.loops:
                raise KeyError(name)
            self.links.hold(name, until)
        self.hold_saved(self.links.holds(self.clock.now()))
        return {"pools": names, "until": until}

    async def backup(self, path: Path) -> dict[str, Any]:
        """See `backed_up`."""
        return await backed_up(self.journal, self.state_dir / "keys", path, self.lead)

    def health(self) -> dict[str, Any]:
        """Whether the daemon lives and can do its work, and if not, why."""
        reasons: list[str] = []
        if self.journal.closed_reason is not None:
            reasons.append(f"journal closed: {self.journal.closed_reason}")
        if self.journal.failing_since is not None:
            reasons.append(f"journal can't be written: {self.journal.failing_reason}")
        if self.observing_only:
            reasons.append("observing only: machines were led by a newer daemon; run `everpool adopt`")
        reasons += [f"pool {name} is down after a bug: see the log" for name in sorted(self.down)]
        providers: dict[str, Any] = {}
        for name, gateway in self.gateways.items():
            providers[name] = {
                "observed_at": gateway.observed_at,
                "offers_at": gateway.offers_at,
                "offers": len(gateway.offers or ()),
                "error": gateway.last_error,
                "trouble": gateway.trouble,
                "notices_error": gateway.notices_error,
                "leftovers": self.leftovers.summary(name),
            }
            if gateway.observed_at is None:
                reasons.append(f"provider {name}: not observed yet{_because(gateway.last_error)}")
        lost = Counter(
            one.offer.provider
            for loop in self.acting.loops.values()
            for one in loop.index.instances.values()
            if one.offer.provider not in self.gateways
        )
        reasons += [
            f"provider {name!r} is not in the config, and has {count} of our machines: put it back"
            for name, count in sorted(lost.items())
        ]
        if self.stopping:
            reasons.append("stopping")
        return {
            "live": self.journal.closed_reason is None,
            "ready": not reasons,
            "reasons": reasons,
            "warnings": [*self.guard.warnings(), *self.secrets.warnings()],
            "owner": self.journal.owner,
            "epoch": self.journal.epoch,
            "journal": {"failing_since": self.journal.failing_since, "waiting": self.journal.stats().waiting},
            "providers": providers,
            "lease": {"least_left_s": self._least_lease()},
            "quarantine": len(self.sweep.quarantine),
            "observing_only": self.observing_only,
        }

    def _least_lease(self) -> float | None:
        now = self.clock.now()
        left = [link.lease_until - now for link in self.links.links.values() if link.lease_until is not None]
        return min(left, default=None)

    def ssh_target(self, instance_id: str) -> Machine | None:
        """Where a machine is and which keys open it."""
        machine = self.machine(instance_id)
        return None if machine is None else with_door(machine, self.config.providers)


def _is_complete(request: Request) -> bool:
    """Whether nothing has to be filled in or stored before a Request is journaled."""
    if not request.request_id:
        return False
    if isinstance(request, TaskRequested):
        return not request.task.files
    return not isinstance(request, ClusterRequested) or bool(request.pool)


def _letter(envelope: Envelope) -> Letter:
    return Letter(("pool", envelope.pool), RequestHeard(envelope), envelope.seq)


def _outside_of_config(loop: Loop, nodes: int) -> Refused | None:
    """Refuse a size outside of the bounds that the config has for a pool: only there they can be changed."""
    state = loop.index.pool
    if state is None:
        return None
    bounds = state.spec.nodes
    for word, key, bound, is_outside in (
        ("above", "max", bounds.max, bounds.max is not None and nodes > bounds.max),
        ("below", "min", bounds.min, bounds.min is not None and nodes < bounds.min),
    ):
        if is_outside:
            text = f"{nodes} nodes are {word} the {key} of {bound} that the config has for pool {loop.name!r}"
            return Refused(409, f"{text}: change `nodes` under [pools.{loop.name}] there, then reload")
    return None


def _because(error: str | None) -> str:
    return f" ({error})" if error else ""
