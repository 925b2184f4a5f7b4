"""One node among a pool that wishes and machines that come and go as they may."""

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.address import Address
from actors.decision import Published
from actors.events import (
    DrainRequested,
    Error,
    Event,
    InstanceBootstrapped,
    InstanceDestroyed,
    InstanceLaunched,
    InstanceReplaced,
    InstanceRequested,
    LaunchRefused,
)
from actors.instance.facts import node_instance
from actors.instance.state import Ready
from actors.messages import (
    DrainAsked,
    Due,
    Fill,
    InstanceEnded,
    InstanceFailed,
    InstanceLeaving,
    InstanceNotLaunched,
    InstanceReady,
    InstanceStays,
    LaunchWanted,
    LeaveWanted,
    Move,
    NodeMessage,
    NotPlaced,
    Placed,
    Renumbered,
    Retire,
    TakeOver,
)
from actors.node.state import Filled, Filling, NodeState, Replacing, Retired, Vacant
from actors.pool.state import Active
from actors.spec import Nodes, PoolSpec
from providers.errors import Fault
from providers.model import Address as HostAddress
from providers.model import Handle
from tests.actors.model import cluster_handle, offer
from tests.actors.turns import POOL, START, Turns

SPEC = PoolSpec(provider=("sim",), nodes=Nodes(desired=1))
RANK = 3
ME: Address = ("node", str(RANK))

LATE: list[NodeMessage] = [  # of machines that were forgotten long ago
    InstanceReady("late"),
    InstanceLeaving("late", "gone", works=True),
    InstanceStays("late"),
    InstanceFailed("late", "x"),
    InstanceEnded("late", "x"),
]


@dataclass(slots=True)
class Machine:
    """An instance as the node sees it: what it may still say follows from its stage."""

    name: str
    wanted: LaunchWanted
    stage: str = "ordered"  # then launched, ready, leaving, ending
    leave: str | None = None  # the node wants it gone


class NodeRules(RuleBasedStateMachine):
    """Wishes, refusals, losses, crashes in any order; at the end every request has ended, once."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns(("node",))
        self.machines: dict[str, Machine] = {}
        self.keys: set[str] = set()
        self.drains = 0
        self.others = 0  # machines that were another node's
        self.turns.put(("pool", POOL), Active(name=POOL, generation=1, spec=SPEC, desired=4, since=START))

    @initialize()
    def begin(self) -> None:
        self.hear(Fill())

    @property
    def state(self) -> NodeState:
        """The node's state."""
        state = self.turns.index.nodes[RANK]
        assert state is self.turns.states[ME]
        return state

    def hear(self, *messages: NodeMessage) -> None:
        """One turn, and the machines hear what they were told."""
        self.turns.hear(*((ME, message) for message in messages))
        told, self.turns.told = self.turns.told, []
        for (kind, name), message in told:
            match message:
                case LaunchWanted(key=key):
                    assert key not in self.keys, f"a key was given twice: {key}"
                    self.keys.add(key)
                    self.machines[name] = Machine(name, message)
                case LeaveWanted(reason=reason) if (machine := self.machines.get(name)) is not None:
                    machine.leave = machine.leave or reason
                case _:
                    assert kind in ("pool", "instance"), message

    def fact(self, event: Event, machine: Machine, *ends: str) -> None:
        """What the instance's own rules would publish."""
        request = machine.wanted.request_id
        envelope = self.turns._envelope(Published(event, request, ends))
        self.turns.referee.journaled(envelope)
        self.turns.verdict()

    def at(self, i: int, *stages: str) -> Machine | None:
        """Some machine in one of these stages."""
        some = [machine for machine in self.machines.values() if machine.stage in stages]
        return some[i % len(some)] if some else None

    # --- the pool ---------------------------------------------------------------------------------

    @precondition(lambda self: self.state.status in ("filling", "replacing") and self.state.wants_place)
    @rule(zone=st.sampled_from("abc"))
    def placed(self, zone: str) -> None:
        self.hear(Placed(offer(zone), cluster_handle(), "cheapest"))

    @precondition(lambda self: self.state.status == "filled")
    @rule(zone=st.sampled_from("abc"))
    def moved(self, zone: str) -> None:
        self.hear(Move(offer(zone), cluster_handle(), "better"))

    @precondition(lambda self: self.is_bare or self.state.status == "filled")
    @rule()
    def takes_over(self) -> None:
        """Another node's machine fills this one; that one gets this one's machine, if there is any."""
        given = self.state.instance_id if isinstance(self.state, Filled) else None
        other = self.elsewhere()
        self.turns.told.clear()
        self.turns.hear((ME, TakeOver(other.name)))
        told = [message for (_, name), message in self.turns.told if name == other.name]
        assert told == [Renumbered(RANK)]
        self.hear()
        if given is not None:
            del self.machines[given]

    @precondition(lambda self: self.state.status == "filled")
    @rule()
    def gives_away(self) -> None:
        """Another node takes over this one's machine, and had none."""
        assert isinstance(self.state, Filled)
        given = self.state.instance_id
        self.hear(TakeOver(None))
        del self.machines[given]

    @property
    def is_bare(self) -> bool:
        """Whether the node has no machine and has ordered none."""
        return isinstance(self.state, Filling) and self.state.instance_id is None

    def elsewhere(self) -> Machine:
        """A machine that is ready on another node."""
        self.others += 1
        key = f"owner/{POOL}/9/1.{self.others}/1"
        request = f"instance:{POOL}-9-1.{self.others}"
        wanted = LaunchWanted(key, 9, request, None, offer(), cluster_handle(), "")
        machine = Machine(f"{POOL}-9-1.{self.others}.1", wanted, "ready")
        self.machines[machine.name] = machine
        self.turns.referee._stage[machine.name] = 4
        self.turns.index.apply(("instance", machine.name), None, self.as_state(machine))
        return machine

    @precondition(lambda self: self.state.status in ("filling", "replacing") and self.state.wants_place)
    @rule()
    def not_placed(self) -> None:
        self.hear(NotPlaced("none", self.turns.now + 10))

    @rule(what=st.sampled_from(["fill", "early", "retire", "replace", "remove"]))
    def wished(self, what: str) -> None:
        match what:
            case "fill":
                self.hear(Fill())
            case "early":
                self.hear(Due())
            case "retire":
                self.hear(Retire("scale_in", 60))
            case _:
                self.drain(what == "remove")

    def drain(self, remove: bool) -> None:
        """A user's request."""
        self.drains += 1
        request = f"drain-{self.drains}"
        asked = DrainRequested(
            request_id=request, pool=POOL, node=RANK, then="remove" if remove else "replace"
        )
        self.turns.journal(asked)
        self.hear(DrainAsked(request, remove, 60))

    def advance(self, seconds: float) -> None:
        """Time passes."""
        self.turns.now += seconds
        if self.state.due_at is not None and self.state.due_at <= self.turns.now:
            self.hear(Due())

    @rule(steps=st.integers(1, 4))
    def goes_well(self, steps: int) -> None:
        """The node gets what it waits for."""
        for _ in range(steps):
            if isinstance(self.state, Filling | Replacing) and self.state.wants_place:
                self.hear(Placed(offer(), cluster_handle(), "cheapest"))
            elif self.state.due_at is not None:
                self.advance(max(0.0, self.state.due_at - self.turns.now))
            elif isinstance(self.state, Vacant):
                self.hear(Fill())
            else:
                self.launched(0, ready=True)

    # --- machines ---------------------------------------------------------------------------------

    @precondition(lambda self: self.at(0, "ordered"))
    @rule(i=st.integers(0, 5), fault=st.sampled_from(Fault))
    def refused(self, i: int, fault: Fault) -> None:
        if (machine := self.at(i, "ordered")) is not None:
            del self.machines[machine.name]
            self.fact(LaunchRefused(instance_id=machine.name, market="m", fault=fault.value), machine)
            self.hear(InstanceNotLaunched(machine.name, str(machine.wanted.offer.market), fault, ""))

    @precondition(lambda self: self.at(0, "ordered"))
    @rule(i=st.integers(0, 5), ready=st.booleans())
    def launched(self, i: int, ready: bool) -> None:
        if (machine := self.at(i, "ordered")) is not None:
            wanted = machine.wanted
            launched = InstanceLaunched(
                request_id=wanted.request_id,
                cluster_id="c",
                node_id=RANK,
                provider="sim",
                instance_id=machine.name,
            )
            self.fact(launched, machine)
            machine.stage = "launched"
            if machine.leave is not None:
                self.fails(machine, machine.leave)
            elif ready:
                self.gets_ready(machine)

    def fails(self, machine: Machine, reason: str) -> None:
        """It ends before it was ready; its request with it."""
        machine.stage = "ending"
        request = machine.wanted.request_id
        self.fact(Error(request_id=request, message=reason, fatal=True), machine, request)
        self.hear(InstanceFailed(machine.name, reason))

    def gets_ready(self, machine: Machine) -> None:
        """It is set up."""
        machine.stage = "ready"
        wanted = machine.wanted
        value = node_instance(self.as_state(machine))
        self.turns.referee._stage[machine.name] = 3
        if wanted.replacing is None:
            self.fact(InstanceBootstrapped(instance=value), machine, wanted.request_id)
        else:
            drains = self.turns.index.replacement_requests(RANK, wanted.replacing)
            self.turns.referee._stage[machine.name] = 4
            replaced = InstanceReplaced(request_id=wanted.request_id, old_id=wanted.replacing, new=value)
            self.fact(replaced, machine, wanted.request_id, *drains)
        self.hear(InstanceReady(machine.name))

    def as_state(self, machine: Machine) -> Ready:
        """The state its own rules would have."""
        wanted = machine.wanted
        return Ready(
            id=machine.name,
            key=wanted.key,
            pool=POOL,
            node=RANK,
            request_id=wanted.request_id,
            offer=wanted.offer,
            cluster=wanted.cluster,
            created_at=0,
            since=0,
            handle=Handle(provider="sim", ref=machine.name),
            launched_at=0,
            address=HostAddress(host="h"),
        )

    @precondition(lambda self: self.at(0, "launched"))
    @rule(i=st.integers(0, 5), reason=st.sampled_from(["preempted", "gone", "timeout"]))
    def never_ready(self, i: int, reason: str) -> None:
        if (machine := self.at(i, "launched")) is not None:
            self.fails(machine, machine.leave or reason)

    @precondition(lambda self: self.at(0, "launched"))
    @rule(i=st.integers(0, 5))
    def ready(self, i: int) -> None:
        if (machine := self.at(i, "launched")) is not None and machine.leave is None:
            self.gets_ready(machine)

    @precondition(lambda self: self.at(0, "ready"))
    @rule(i=st.integers(0, 5), works=st.sampled_from([True, True, False]))
    def leaving(self, i: int, works: bool) -> None:
        if (machine := self.at(i, "ready")) is not None and machine.leave is None:
            machine.stage = "leaving" if works else "ending"
            self.hear(InstanceLeaving(machine.name, "preempted", works))

    @precondition(lambda self: self.at(0, "leaving"))
    @rule(i=st.integers(0, 5))
    def stays(self, i: int) -> None:
        if (machine := self.at(i, "leaving")) is not None and machine.leave is None:
            machine.stage = "ready"
            self.hear(InstanceStays(machine.name))

    @precondition(lambda self: self.at(0, "ready", "leaving", "ending"))
    @rule(i=st.integers(0, 5))
    def ended(self, i: int) -> None:
        if (machine := self.at(i, "ready", "leaving", "ending")) is None:
            return
        if machine.stage == "ready" and machine.leave is None:
            self.hear(InstanceLeaving(machine.name, "gone", works=False))
        drains = self.turns.index.removal_requests(RANK, machine.name)
        del self.machines[machine.name]
        self.turns.referee._key_of[machine.name] = machine.wanted.key
        self.turns.referee._made[machine.wanted.key] = machine.name
        self.fact(InstanceDestroyed(instance_id=machine.name), machine, *drains)
        self.hear(InstanceEnded(machine.name, "gone"))

    # --- the daemon -------------------------------------------------------------------------------

    @rule(what=st.sampled_from(["crash", "condemn", "soon", "later", "late"]), message=st.sampled_from(LATE))
    def happens(self, what: str, message: NodeMessage) -> None:
        match what:
            case "crash":
                self.turns.restart()
            case "condemn":
                self.condemn()
            case "soon":
                self.advance(1)
            case "later":
                self.advance(400)
            case _:
                before = self.state
                self.hear(message)
                assert self.state == before

    def condemn(self) -> None:
        """Its budget of bugs is spent; machines hear what it told them."""
        self.turns.condemn(ME)
        self.hear()

    # --- what holds -------------------------------------------------------------------------------

    @invariant()
    def the_rank_stays(self) -> None:
        if ME in self.turns.states:
            assert self.state.node == RANK
            assert self.state.generation == 1

    @invariant()
    def nobody_is_left_alone(self) -> None:
        """A machine that the node does not count with was told to leave."""
        if ME not in self.turns.states:
            return
        state = self.state
        counted: set[str | None] = set()
        if isinstance(state, Filled | Filling | Replacing):
            counted.add(state.instance_id)
        if isinstance(state, Replacing):
            counted.add(state.old_id)
        for machine in self.machines.values():
            if machine.stage in ("ordered", "launched", "ready") and machine.leave is None:
                assert machine.name in counted, machine

    @invariant()
    def a_request_per_incarnation(self) -> None:
        asked = [one for one in self.turns.facts("instance_requested")]
        assert all(isinstance(one, InstanceRequested) for one in asked)
        assert len({one.request_id for one in asked}) == len(asked)

    def teardown(self) -> None:
        """The node is retired and its machines end: nothing is left open."""
        if ME not in self.turns.states:
            return
        self.hear(Retire("user", 0))
        for _ in range(1 + len(self.machines)):
            self.refused(0, Fault.CAPACITY)
        for machine in list(self.machines.values()):
            if machine.stage == "launched":
                self.fails(machine, "user")
        while self.machines:
            self.ended(0)
        assert isinstance(self.state, Retired)
        assert not self.state.leaving
        assert not self.turns.referee.unended()
