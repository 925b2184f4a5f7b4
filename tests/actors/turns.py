"""One pool's actors driven by hand: turn by turn, without tasks, with a journal that a crash goes back to."""

from collections import deque
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from pydantic import TypeAdapter

from actors.address import Address, Kind
from actors.decision import Decision, Published, View, World
from actors.effects import Call, CloseCluster, Effect, Find, Launch, OpenCluster, Terminate, Word
from actors.events import Envelope, Request
from actors.index import Index
from actors.instance import rules as instance_rules
from actors.instance import state as instance_state
from actors.messages import Due, Message, RequestHeard
from actors.node import rules as node_rules
from actors.node import state as node_state
from actors.pool import money, scale, settle
from actors.pool import rules as pool_rules
from actors.pool import state as pool_state
from actors.ports import Commit, StateRow
from actors.task import rules as task_rules
from actors.task import state as task_state
from providers.model import Value
from tests.simulation.referee import Referee

POOL = "pool"
OWNER = "owner"
START = 1_700_000_000.0
TELLS_MAX = 10_000  # in one turn; more is a storm
JSON: dict[Kind, TypeAdapter[Any]] = {
    "pool": pool_state.PoolJson,
    "node": node_state.NodeJson,
    "instance": instance_state.InstanceJson,
    "task": task_state.TaskJson,
}
RULES: dict[Kind, Any] = {
    "pool": pool_rules,
    "node": node_rules,
    "instance": instance_rules,
    "task": task_rules,
}
CONDEMN: dict[Kind, Any] = RULES | {"pool": settle}
_OVER = (instance_state.Destroyed, task_state.Stopped)
_CALLS = (Launch, Find, Terminate, OpenCluster, CloseCluster)
Letter = tuple[Address, Message]


class Turns:
    """States of one pool and the turns they take.

    Args:
        deciding: kinds whose rules are run; what others are told is kept in `told`.
        perform: hears every effect of a turn after its commit.
    """

    def __init__(
        self, deciding: tuple[Kind, ...], perform: Callable[[Address, Call | Word], None] | None = None
    ) -> None:
        self.deciding = deciding
        self.perform = perform or (lambda address, effect: None)
        self.now = START
        self.epoch = 1
        self.world = World()
        self.states: dict[Address, Value] = {}
        self.index = Index()
        self.referee = Referee(lambda: self.now)
        self.events: list[Envelope] = []
        self.told: list[Letter] = []
        self.taken: set[str] = set()
        self.heard: list[Envelope] = []  # requests as they were journaled
        self._dice = Random(7)
        self._changed: dict[Address, Value | None] = {}
        self._facts: list[Published] = []
        self._effects: list[tuple[Address, Effect]] = []
        self._newly_taken: list[str] = []

    def view(self) -> View:
        """What rules look at now."""
        return View(self.now, START, self._dice.random(), OWNER, self.epoch, self.world, self.index)

    def put(self, address: Address, state: Value | None) -> None:
        """Set a state, as if a turn had."""
        old = self.states.get(address)
        if state is old:
            return
        if state is None:
            self.states.pop(address, None)
        else:
            self.states[address] = state
        self.index.apply(address, old, state)
        self._changed[address] = state

    # --- turns ------------------------------------------------------------------------------------

    def hear(self, *letters: Letter) -> None:
        """One turn: all letters are decided, what they lead to is committed, then performed."""
        for letter in letters:
            self._deliver([letter])
        if "pool" in self.deciding:
            self._settle()
        self._commit()

    def ask(self, request: Request) -> None:
        """A user's request: journaled, then heard by the pool."""
        self.journal(request)
        self.hear((("pool", POOL), RequestHeard(self.heard[-1])))

    def journal(self, request: Request) -> None:
        """Make a request durable."""
        envelope = self._envelope(Published(request, request.request_id), principal="user")
        self.heard.append(envelope)
        self.referee.journaled(envelope)
        self.verdict()

    def due(self) -> None:
        """Fire every timer whose time has come, in one turn."""
        late = [address for address, at in self.timers() if at <= self.now]
        self.hear(*((address, Due()) for address in late))

    def timers(self) -> Iterable[tuple[Address, float]]:
        """Who waits for what time."""
        for address, state in self.states.items():
            at = getattr(state, "due_at", None)
            if at is not None and address[0] in self.deciding:
                yield address, at

    def condemn(self, address: Address) -> None:
        """The actor's budget of bugs is spent."""
        decision = CONDEMN[address[0]].condemn(self.states[address], self.view())
        self._deliver(self._take(address, decision))
        if "pool" in self.deciding:
            self._settle()
        self._commit()

    def restart(self) -> None:
        """A new daemon: it knows the states as they were written, and what they owe."""
        self.epoch += 1
        kept = {a: JSON[a[0]].validate_json(JSON[a[0]].dump_json(s)) for a, s in self.states.items()}
        self.index = Index()
        self.states = {}
        for address, state in sorted(kept.items()):
            self.put(address, state)
        self._changed.clear()
        for address, state in list(self.states.items()):
            if address[0] in self.deciding:
                for effect in RULES[address[0]].resume(state, self.view()):
                    self.perform(address, effect)
        for envelope in self.heard:  # what no state has taken over is handed out again
            if envelope.request_id not in self.taken | self.ended:
                self.hear((("pool", POOL), RequestHeard(envelope)))

    # --- inside a turn ----------------------------------------------------------------------------

    def _deliver(self, letters: Iterable[Letter]) -> None:
        queue = deque(letters)
        for _ in range(TELLS_MAX):
            if not queue:
                return
            address, message = queue.popleft()
            if address[0] not in self.deciding:
                self.told.append((address, message))
                continue
            queue.extend(self._take(address, self._decide(address, message)))
        raise AssertionError("tells without end")

    def _decide(self, address: Address, message: Message) -> Decision:
        rules, state = RULES[address[0]], self.states.get(address)
        if address[0] == "node" and state is None:
            pool = self.index.pool
            assert pool is not None
            state = node_rules.vacant(pool.name, pool.generation, int(address[1]), self.now)
        decision = rules.decide(state, message, self.view())
        assert isinstance(decision, Decision)
        if decision.state is not None:
            rules.check(decision.state)
        return decision

    def _take(self, address: Address, decision: Decision) -> tuple[Letter, ...]:
        self.put(address, decision.state)
        self._facts += decision.facts
        self._effects += [(address, effect) for effect in decision.effects]
        self._newly_taken += decision.taken
        return decision.tells

    def _settle(self) -> None:
        address: Address = ("pool", POOL)
        if not isinstance(self.index.pool, pool_state.Active | pool_state.Parked | pool_state.Draining):
            return
        steps = (
            *(money.account, scale.scale, settle.steer, settle.promote, settle.place),
            *(None, settle.conclude),
        )
        for step in steps:
            if step is not None:
                self._deliver(self._take(address, step(self.states[address], self.view())))  # type: ignore[arg-type]
                continue
            while tells := settle.schedule(self.states[address], self.view()):  # type: ignore[arg-type]
                self._deliver(tells)
        if isinstance(self.index.pool, pool_state.Destroyed):
            for node in list(self.index.nodes):
                self.put(("node", str(node)), None)

    def _envelope(self, published: Published, principal: str = "") -> Envelope:
        envelope = Envelope(
            seq=len(self.events) + 1,
            at=self.now,
            pool=POOL,
            request_id=published.request_id,
            ends=published.ends,
            principal=principal,
            event=published.event,
        )
        self.events.append(envelope)
        return envelope

    def _commit(self) -> None:
        rows = [StateRow(kind, name, 1, state) for (kind, name), state in self._changed.items()]
        envelopes = [self._envelope(published) for published in self._facts]
        effects, self._effects, self._facts = self._effects, [], []
        self.taken |= set(self._newly_taken)
        self._newly_taken = []
        for envelope in envelopes:
            self.referee.journaled(envelope)
        self.referee.stored(Commit(POOL, rows))
        for address, state in self._changed.items():
            if isinstance(state, _OVER):
                self.states.pop(address, None)
                self.index.forget(address[1])
        self._changed.clear()
        self.verdict()
        for address, effect in effects:
            self.perform(address, effect)
        self.verdict()

    # --- what holds -------------------------------------------------------------------------------

    @property
    def ended(self) -> set[str]:
        """Requests that have their terminal Fact."""
        return {request for envelope in self.events for request in envelope.ends}

    def ending(self, request: str) -> Any:
        """The terminal Fact of a request, None while there is none."""
        return next((one.event for one in self.events if request in one.ends), None)

    def facts(self, kind: str) -> list[Any]:
        """Events of one kind."""
        return [one.event for one in self.events if one.event.kind == kind]

    def verdict(self) -> None:
        """Fail when a rule of the house was broken."""
        assert self.referee.broken is None, "\n".join([str(self.referee.broken), *self.referee.tail])
