"""The loop of one pool, and its turn: decide, commit, act.

One anyio task, one memory channel. A turn takes what is waiting, lets every addressee decide (pure), delivers
their tells until none is left, commits all changed states and all facts in one transaction, and only
then publishes the facts and starts the effects. A call is a task in the loop's group; its answer comes
back as a letter. Timers are derived from states (`due_at`) and kept in one heap.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass as changeable
from typing import Any, Protocol

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from actors.address import Address, Kind
from actors.decision import Decision, Published, View, World
from actors.effects import (
    Call,
    CloseCluster,
    Connect,
    Disconnect,
    Effect,
    Find,
    Launch,
    OpenCluster,
    Terminate,
    Word,
)
from actors.events import BugCaught, Envelope
from actors.index import Index
from actors.instance import rules as instance_rules
from actors.instance import state as instance_state
from actors.market import rules as market_rules
from actors.market import state as market_state
from actors.messages import (
    AgentSaid,
    ClusterClosed,
    ClusterCloseFailed,
    ClusterOpened,
    ClusterOpenFailed,
    Due,
    FindFailed,
    Found,
    LaunchFailed,
    LaunchSucceeded,
    MarketsChanged,
    Message,
    NothingFound,
    RequestHeard,
    TerminateFailed,
    TerminateSucceeded,
)
from actors.node import rules as node_rules
from actors.node import state as node_state
from actors.pool import money, scale, settle
from actors.pool import rules as pool_rules
from actors.pool import state as pool_state
from actors.ports import Clock, Commit, Dice, Journal, Observer, StateRow
from actors.quick import dataclass
from actors.supervisor import Bug, Supervisor, attempt
from actors.task import rules as task_rules
from actors.task import state as task_state
from providers.errors import Fault
from providers.model import Value, at_rest, made

MAILBOX_MAX = 20_000  # letters waiting; senders wait when it is full, the API refuses earlier
BATCH_MAX = 2_000  # letters taken into one turn
UNSETTLED_FIRST_S, UNSETTLED_MOST_S = (
    0.5,
    60.0,
)  # until a turn that a bug kept from being settled is made up for
DECISIONS_MAX = 500_000  # in one turn; more is a bug, not work
VERSIONS: dict[Kind, int] = {
    "pool": pool_state.VERSION,
    "node": node_state.VERSION,
    "instance": instance_state.VERSION,
    "task": task_state.VERSION,
    "market": market_state.VERSION,
}
_TERMINAL = frozenset({pool_state.Destroyed, instance_state.Destroyed, task_state.Stopped})
_FORGOTTEN = (instance_state.Destroyed, task_state.Stopped)


@dataclass(frozen=True, slots=True)
class Letter:
    """A message on its way to an actor; `cause` is the seq of the event that led to it."""

    address: Address
    message: Message
    cause: int | None = None


class Outside(Protocol):
    """Who carries effects out."""

    async def call(self, pool: str, call: Call) -> Message:
        """Carry out a call; every one ends in a message."""
        ...

    def word(self, pool: str, word: Word) -> None:
        """Pass a word on; never blocks and never raises."""
        ...


@changeable(slots=True)
class Identity:
    """Who we are on machines and in launch keys. The epoch grows when a backup is taken or adopted."""

    owner: str
    epoch: int


class Draft:
    """The changes of one turn: applied as they come, undone if a rule fails."""

    def __init__(self, states: dict[Address, Value], index: Index) -> None:
        self.states = states
        self.index = index
        self.settled = True  # False: a bug met what the pool does at the end of the turn
        self.spoiled: list[Letter] = []  # bugs met them, and nothing is left of them
        self.changed: dict[Address, Value | None] = {}
        self.facts: list[tuple[Published, int | None]] = []
        self.effects: list[tuple[Effect, Address, int | None]] = []
        self.taken: list[str] = []
        self.causes: dict[Address, int] = {}  # the last fact about an actor, in this turn
        self._undo: list[tuple[Address, Value | None]] = []

    def put(self, address: Address, new: Value | None) -> None:
        """Make `new` the state of an actor."""
        old = self.states.get(address)
        if new is old:
            return
        self._undo.append((address, old))
        self._set(address, old, new)
        self.changed[address] = new

    def _set(self, address: Address, old: Value | None, new: Value | None) -> None:
        if new is None:
            self.states.pop(address, None)
        else:
            self.states[address] = new
        self.index.apply(address, old, new)

    def undo(self) -> None:
        """Take everything back."""
        for address, old in reversed(self._undo):
            self._set(address, self.states.get(address), old)
        self._undo.clear()


class Loop:
    """One pool's actors, or the market memory, and their turns."""

    def __init__(
        self,
        name: str,
        *,
        identity: Identity,
        journal: Journal,
        observer: Observer,
        clock: Clock,
        dice: Dice,
        world: Callable[[], World],
        outside: Outside,
        states: Mapping[Address, Value] | None = None,
        checking: bool = False,
    ) -> None:
        self.name = name
        self.index = Index()
        self._identity = identity
        self._journal = journal
        self._observer = observer
        self._clock = clock
        self._dice = dice
        self._world = world
        self._outside = outside
        self._checking = checking
        self._states: dict[Address, Value] = {}
        self._supervisor = Supervisor()
        self._timers: list[tuple[float, int, Address]] = []
        self._due: dict[Address, float] = {}
        self._timer_count = 0
        self._began = clock.now()
        self._nudged = False  # MarketsChanged is in the mailbox
        self._unsettled = 0  # turns in a row that a bug kept from being settled
        self._spoiled: dict[tuple[Address, type[Message]], int] = {}  # times in a row
        self._was_asked = False  # something was sent to the pool, which may not exist
        self._last_fact: dict[Address, int] = {}  # what led to what comes next, unless a message says more
        send, receive = anyio.create_memory_object_stream[Letter](MAILBOX_MAX)
        self._send: MemoryObjectSendStream[Letter] = send
        self._receive: MemoryObjectReceiveStream[Letter] = receive
        for address, state in (states or {}).items():
            self._states[address] = at_rest(state)
            self.index.apply(address, None, state)

    # --- from outside -----------------------------------------------------------------------------

    async def post(self, letter: Letter) -> bool:
        """Put a letter into the mailbox; waits while it is full. False after the loop's end: not taken."""
        try:
            await self._send.send(letter)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False
        return True

    def post_nowait(self, letter: Letter) -> bool:
        """Put a letter into the mailbox unless it is full or closed; whether it went in."""
        try:
            self._send.send_nowait(letter)
        except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False
        return True

    def markets_changed(self) -> None:
        """Let the pool hear MarketsChanged, unless that waits in the mailbox already, or it is full."""
        if not self._nudged:
            self._nudged = self.post_nowait(Letter(("pool", self.name), MarketsChanged()))

    @property
    def waiting(self) -> int:
        """Letters in the mailbox."""
        return self._receive.statistics().current_buffer_used

    # --- life -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live until the pool is destroyed, or the journal closes.

        Raises:
            JournalClosed: nothing can be committed any more.
        """
        with self._send, self._receive:
            async with anyio.create_task_group() as calls:
                for address, state in list(self._states.items()):
                    self._arm(address, state)
                for effect, address in self._owed():
                    self._perform(calls, effect, address, None)
                batch: list[Letter] = []
                while True:
                    await self._turn(calls, batch)
                    if self._is_over() and not self.waiting:  # a request that came last is answered too
                        break
                    batch.clear()  # or its letters would be kept until the next comes
                    batch = await self._gather()
                self._send.close()  # whoever posts from now on hears that it was not taken
                calls.cancel_scope.cancel()

    def _is_over(self) -> bool:
        pool = self.index.pool
        return isinstance(pool, pool_state.Destroyed) or (pool is None and self._was_asked)

    def _owed(self) -> Iterable[tuple[Effect, Address]]:
        view = self._view(self._clock.now())
        for address, state in list(self._states.items()):
            effects: tuple[Effect, ...]
            match address[0]:
                case "pool":
                    effects = pool_rules.resume(state, view)  # type: ignore[arg-type]
                case "node":
                    effects = node_rules.resume(state, view)  # type: ignore[arg-type]
                case "instance":
                    effects = instance_rules.resume(state, view)  # type: ignore[arg-type]
                case "task":
                    effects = task_rules.resume(state, view)  # type: ignore[arg-type]
                case "market":
                    effects = market_rules.resume(state)  # type: ignore[arg-type]
            for effect in effects:
                yield effect, address

    def _view(self, now: float) -> View:
        identity = self._identity
        draw = self._dice.random()
        return View(now, self._began, draw, identity.owner, identity.epoch, self._world(), self.index)

    # --- the mailbox and the timers ---------------------------------------------------------------

    async def _gather(self) -> list[Letter]:
        """Wait for letters or timers; everything that is there goes into one turn."""
        batch: list[Letter] = []
        try:
            batch.append(self._receive.receive_nowait())
        except anyio.WouldBlock:
            with anyio.move_on_after(self._patience()):
                batch.append(await self._receive.receive())
        try:
            while len(batch) < BATCH_MAX:
                batch.append(self._receive.receive_nowait())
        except anyio.WouldBlock:
            pass
        if self._nudged and any(isinstance(letter.message, MarketsChanged) for letter in batch):
            self._nudged = False
        now = self._clock.now()
        while self._timers and self._timers[0][0] <= now:
            due, _, address = heapq.heappop(self._timers)
            if self._due.get(address) == due:
                del self._due[address]
                batch.append(Letter(address, Due()))
        return batch

    def _patience(self) -> float | None:
        while self._timers and self._due.get(self._timers[0][2]) != self._timers[0][0]:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        return max(0.0, self._timers[0][0] - self._clock.now())

    def _arm(self, address: Address, state: Value | None, *, not_before: float = 0.0) -> None:
        due: float | None = None if type(state) in _TERMINAL else getattr(state, "due_at", None)
        if due is None:
            self._due.pop(address, None)
            return
        due = max(due, not_before)
        if self._due.get(address) != due:
            self._due[address] = due
            self._timer_count += 1
            heapq.heappush(self._timers, (due, self._timer_count, address))

    def _settle_later(self, now: float, *, settled: bool) -> None:
        """When a bug kept the pool from placing and scheduling, see to it that another turn comes."""
        self._unsettled = 0 if settled else self._unsettled + 1
        if not settled:
            address: Address = ("pool", self.name)
            wait = min(UNSETTLED_FIRST_S * 2.0 ** min(self._unsettled - 1, 16), UNSETTLED_MOST_S)
            known = self._due.get(address)  # what is over already is what was not settled: it waits as well
            due = now + wait if known is None or known <= now else min(known, now + wait)
            self._due[address] = due
            self._timer_count += 1
            heapq.heappush(self._timers, (due, self._timer_count, address))

    def _make_up(self, calls: Any, batch: list[Letter], spoiled: list[Letter], now: float) -> None:
        """What comes again by itself comes later each time that a bug meets it, or bugs fill the journal."""
        again = dict.fromkeys((letter.address, type(letter.message)) for letter in spoiled)
        for letter in batch:
            if self._spoiled and (letter.address, type(letter.message)) not in again:
                self._spoiled.pop((letter.address, type(letter.message)), None)
        for address, kind in again:
            state = self._states.get(address)
            if kind not in (Due, AgentSaid) or state is None:
                continue
            times = self._spoiled.get((address, kind), 0)
            self._spoiled[address, kind] = times + 1
            wait = min(UNSETTLED_FIRST_S * 2.0 ** min(times, 16), UNSETTLED_MOST_S)
            if kind is Due:
                self._due.pop(address, None)
                self._arm(address, state, not_before=now + wait)
            else:
                calls.start_soon(self._reconnect, address, wait)

    async def _reconnect(self, address: Address, wait: float) -> None:
        """Open the agent's stream anew: it tells again what was not acknowledged, and what it holds."""
        await anyio.sleep(wait)
        state = self._states.get(address)
        if state is None:
            return
        owed = instance_rules.resume(state, self._view(self._clock.now()))  # type: ignore[arg-type]
        streams = [effect for effect in owed if isinstance(effect, Connect)]
        words: list[Word] = [Disconnect(address[1]), *streams] if streams else []
        for word in words:
            self._outside.word(self.name, word)

    # --- the turn ---------------------------------------------------------------------------------

    async def _turn(self, calls: Any, batch: list[Letter]) -> None:
        started, now = self._clock.now(), self._clock.now()
        if self.index.pool is None:
            self._was_asked = self._was_asked or any(letter.address[0] == "pool" for letter in batch)
        bugs: list[Bug] = []
        draft = self._decided(batch, now, bugs)
        for bug in bugs:
            self._observer.bug("/".join(bug.address), bug.message, bug.error)
        if draft.changed or draft.facts or draft.taken:
            commit = self._commit_of(draft, now)
            await self._journal.commit(commit)
            base = commit.envelopes[0].seq if commit.envelopes else 0
            self._observer.committed(commit)
            self._settle_memory(draft, batch, now, base)
        else:
            base = 0
            await anyio.lowlevel.checkpoint()
            self._rearm(batch, now)
        self._settle_later(now, settled=draft.settled)
        self._make_up(calls, batch, draft.spoiled, now)
        for effect, address, cause in draft.effects:
            self._perform(calls, effect, address, _resolved(cause, base))
        self._observer.turn_ended(
            self.name,
            messages=len(batch),
            seconds=self._clock.now() - started,
            waiting=self.waiting,
        )

    def _decided(self, batch: list[Letter], now: float, bugs: list[Bug]) -> Draft:
        """Decide a batch; the letter that met a bug is taken out and the rest decided anew."""
        letters, settling = list(batch), True
        condemned: list[Address] = []
        spoiled: list[Letter] = []
        lost: list[str] = []  # requests whose letter was taken out: nothing else will end them
        while True:
            draft = Draft(self._states, self.index)
            for address in condemned:
                self._condemn(draft, address, now)
            failure = self._run(draft, letters, now, settling=settling)
            if failure is None:
                for bug in bugs:
                    fact = BugCaught(
                        address="/".join(bug.address), message=bug.message, error=type(bug.error).__name__
                    )
                    draft.facts.append((Published(fact), None))
                for request in lost:
                    draft.facts.append((pool_rules.error(request, "a bug met it, nothing was done"), None))
                draft.settled = settling
                draft.spoiled = spoiled
                return draft
            draft.undo()
            root, bug = failure
            bugs.append(bug)
            if root is None:
                settling = False
            else:
                message = letters[root].message
                if isinstance(message, RequestHeard):
                    lost.append(message.envelope.request_id or "")
                left = _smaller(letters[root])
                if not left:
                    spoiled.append(letters[root])
                letters[root : root + 1] = left
            ended = self._climb(bug.address, now)
            condemned += ended
            # letters of their own: a bug that one of them meets must not undo the end of whoever says it
            letters[:0] = [Letter(to, message) for one in ended for to, message in self._last_words(one, now)]

    def _climb(self, address: Address, now: float) -> list[Address]:
        """Whom a bug condemns: the actor when its budget is spent, and then it counts one level up."""
        condemned: list[Address] = []
        here: Address | None = address
        while here is not None and self._supervisor.failed(here, now):
            condemned.append(here)
            state = self._states.get(here)
            if here[0] == "instance" and state is not None:
                here = ("node", str(state.node))  # type: ignore[attr-defined]
            elif here[0] in ("node", "task"):
                here = ("pool", self.name)
            else:
                here = None
        return condemned

    def _condemn(self, draft: Draft, address: Address, now: float) -> None:
        decision = self._condemned(address, now)
        if decision is not None:
            self._take(draft, address, decision, None, deque())

    def _last_words(self, address: Address, now: float) -> tuple[tuple[Address, Message], ...]:
        decision = self._condemned(address, now)
        return () if decision is None else decision.tells

    def _condemned(self, address: Address, now: float) -> Decision | None:
        state = self._states.get(address)
        if state is None:
            return None
        view = self._view(now)
        decision: Decision
        match address[0]:
            case "instance":
                decision = instance_rules.condemn(state, view)  # type: ignore[arg-type]
            case "node":
                decision = node_rules.condemn(state, view)  # type: ignore[arg-type]
            case "task":
                decision = task_rules.condemn(state, view)  # type: ignore[arg-type]
            case "pool":
                decision = settle.condemn(state, view)  # type: ignore[arg-type]
            case "market":
                decision = Decision(None)
        return decision

    def _run(
        self, draft: Draft, letters: list[Letter], now: float, *, settling: bool
    ) -> tuple[int | None, Bug] | None:
        """Decide all letters and their tells, then settle. Answers the bug that stopped it."""
        queue: deque[tuple[Address, Message, int | None]] = deque()
        decisions = 0
        for root, letter in enumerate(letters):
            queue.append((letter.address, letter.message, letter.cause))
            decisions, bug = self._drain(draft, queue, now, decisions)
            if bug is not None:
                return root, bug
        if settling and isinstance(
            self.index.pool, pool_state.Active | pool_state.Parked | pool_state.Draining
        ):
            bug = self._settle(draft, queue, now, decisions)
            if bug is not None:
                return None, bug
        return None

    def _drain(
        self, draft: Draft, queue: deque[tuple[Address, Message, int | None]], now: float, decisions: int
    ) -> tuple[int, Bug | None]:
        while queue:
            address, message, cause = queue.popleft()
            decisions += 1
            if decisions > DECISIONS_MAX:
                return decisions, Bug(address, type(message).__name__, RuntimeError("tells without end"))
            state = self._states.get(address)
            view = self._view(now)
            decision = attempt(address, type(message).__name__, self._decide, address, state, message, view)
            if isinstance(decision, Bug):
                return decisions, decision
            self._take(draft, address, decision, cause, queue)
        return decisions, None

    def _decide(self, address: Address, state: Any, message: Any, view: View) -> Decision:
        decision: Decision
        match address[0]:
            case "task":
                decision = task_rules.decide(state, message, view)
                if self._checking and decision.state is not None:
                    task_rules.check(decision.state)  # type: ignore[arg-type]
            case "instance":
                decision = instance_rules.decide(state, message, view)
                if self._checking and decision.state is not None:
                    instance_rules.check(decision.state)  # type: ignore[arg-type]
            case "node":
                if state is None:
                    pool = self.index.pool
                    assert pool is not None
                    state = node_rules.vacant(pool.name, pool.generation, int(address[1]), view.now)
                decision = node_rules.decide(state, message, view)
                if self._checking and decision.state is not None:
                    node_rules.check(decision.state)  # type: ignore[arg-type]
            case "pool":
                decision = pool_rules.decide(state, message, view)
                if self._checking and decision.state is not None:
                    pool_rules.check(decision.state)  # type: ignore[arg-type]
            case "market":
                decision = market_rules.decide(state, message, view)
        return decision

    def _take(
        self,
        draft: Draft,
        address: Address,
        decision: Decision,
        cause: int | None,
        queue: deque[tuple[Address, Message, int | None]],
    ) -> None:
        draft.put(address, decision.state)
        if cause is None:
            cause = draft.causes.get(address, self._last_fact.get(address))
        for published in decision.facts:
            draft.facts.append((published, cause))
            cause = -len(draft.facts)  # resolved to its seq when the turn is committed
        if cause is not None:
            draft.causes[address] = cause
        for to, message in decision.tells:
            queue.append((to, message, cause))
        for effect in decision.effects:
            draft.effects.append((effect, address, cause))
        draft.taken.extend(decision.taken)

    def _settle(
        self, draft: Draft, queue: deque[tuple[Address, Message, int | None]], now: float, decisions: int
    ) -> Bug | None:
        address: Address = ("pool", self.name)
        for step in (
            money.account,
            scale.scale,
            settle.steer,
            settle.promote,
            settle.place,
            None,
            settle.conclude,
        ):
            if step is None:
                bug = self._schedule(draft, queue, now, decisions)
            else:
                decision = attempt(
                    address,
                    step.__name__,
                    step,  # type: ignore[arg-type]
                    self._states[address],
                    self._view(now),
                )
                if isinstance(decision, Bug):
                    return decision
                self._take(draft, address, decision, None, queue)
                if step is settle.place:  # why a node asks is its own last fact, not the pool's
                    queue = deque((to, message, None) for to, message, _ in queue)
                decisions, bug = self._drain(draft, queue, now, decisions)
            if bug is not None:
                return bug
        if isinstance(self.index.pool, pool_state.Destroyed):
            for node in list(self.index.nodes):
                draft.put(("node", str(node)), None)
        return None

    def _schedule(
        self, draft: Draft, queue: deque[tuple[Address, Message, int | None]], now: float, decisions: int
    ) -> Bug | None:
        address: Address = ("pool", self.name)
        view = self._view(now)
        for _ in range(settle.ASSIGNMENTS_A_TURN):
            tells = attempt(
                address,
                "schedule",
                settle.schedule,  # type: ignore[arg-type]
                self._states[address],
                view,
            )
            if isinstance(tells, Bug):
                return tells
            if not tells:
                return None
            queue.extend((to, message, None) for to, message in tells)
            decisions, bug = self._drain(draft, queue, now, decisions)
            if bug is not None:
                return bug
        return None

    # --- after the decision -----------------------------------------------------------------------

    def _commit_of(self, draft: Draft, now: float) -> Commit:
        base = self._journal.reserve(len(draft.facts)) if draft.facts else 0
        envelopes = [
            made(
                Envelope,
                seq=base + i,
                at=now,
                pool=self.name,
                caused_by=_resolved(cause, base),
                request_id=published.request_id,
                ends=published.ends,
                event=published.event,
            )
            for i, (published, cause) in enumerate(draft.facts)
        ]
        rows = [
            StateRow(kind, name, VERSIONS[kind], state, type(state) in _TERMINAL)
            for (kind, name), state in draft.changed.items()
        ]
        return Commit(self.name, rows, envelopes, draft.taken)

    def _settle_memory(self, draft: Draft, letters: list[Letter], now: float, base: int) -> None:
        """After the commit: forget what is over, remember causes, arm timers."""
        for address, cause in draft.causes.items():
            if (seq := _resolved(cause, base)) is not None:
                self._last_fact[address] = seq
        for address, state in draft.changed.items():
            if isinstance(state, _FORGOTTEN):
                self._states.pop(address, None)
                self._last_fact.pop(address, None)
                if address[0] == "instance":
                    self.index.forget(address[1])
            elif state is not None:
                at_rest(state)
        for address in draft.changed:
            self._arm(address, self._states.get(address))
        self._rearm(letters, now)

    def _rearm(self, letters: list[Letter], now: float) -> None:
        """A timer that fired and changed nothing fires again, but not at once."""
        for letter in letters:
            if isinstance(letter.message, Due) and letter.address not in self._due:
                self._arm(letter.address, self._states.get(letter.address), not_before=now + 1.0)

    def _perform(self, calls: Any, effect: Effect, address: Address, cause: int | None) -> None:
        if isinstance(effect, Launch | Find | Terminate | OpenCluster | CloseCluster):
            calls.start_soon(self._call, effect, address, cause)
        else:
            self._outside.word(self.name, effect)

    async def _call(self, call: Call, address: Address, cause: int | None) -> None:
        message = await self._outside.call(self.name, call)
        await self.post(Letter(address, message, cause))


def _resolved(cause: int | None, base: int) -> int | None:
    """A cause within the turn is counted from -1; its seq is known once seqs were reserved."""
    return base - cause - 1 if cause is not None and cause < 0 else cause


def _smaller(letter: Letter) -> list[Letter]:
    """What is left of a letter that met a bug.

    A batch of reports is tried one by one. Who asked for a call waits for its answer, so one comes: the
    outcome is not known, as if the bug had been in the call.
    """
    message = letter.message
    if isinstance(message, AgentSaid) and len(message.reports) > 1:
        return [
            Letter(letter.address, AgentSaid(message.boot, report.id, (report,)), letter.cause)
            for report in message.reports
        ]
    unknown = _as_unknown(message)
    return [] if unknown is None else [Letter(letter.address, unknown, letter.cause)]


def _as_unknown(message: Message) -> Message | None:
    """The answer of the same call if its outcome were not known; None for what is no answer, or says so."""
    text = "a bug met the answer"
    match message:
        case LaunchSucceeded():
            return LaunchFailed(Fault.UNKNOWN, text)
        case LaunchFailed(fault=fault) if fault is not Fault.UNKNOWN:
            return LaunchFailed(Fault.UNKNOWN, text)
        case Found() | NothingFound():
            return FindFailed(Fault.UNKNOWN)
        case TerminateSucceeded():
            return TerminateFailed(Fault.UNKNOWN, text)
        case ClusterOpened(cluster=cluster):
            return ClusterOpenFailed(cluster.cluster_id, Fault.UNKNOWN, text)
        case ClusterClosed(cluster_id=cluster_id):
            return ClusterCloseFailed(cluster_id, Fault.UNKNOWN, text)
        case _:
            return None
